//! Groups of runs against a baseline: what differs, and whether that is more than chance.

use std::collections::BTreeMap;

use engine::Metric;
use engine::history::RunRecord;
use serde::Serialize;

use crate::chain::{self, Model};
use crate::column::{COLUMNS, ChangeStyle, Column, ends, overlap};
use crate::groups::Group;
use crate::quantity::{ABSENT, interval, points, quantity, ratio};
use crate::statistics::{Estimate, Paired};
use crate::table::Verdict;

/// Units of what is counted and not measured: any difference is one.
const EXACT: [&str; 3] = ["count", "bytes", "FLOP"];

/// Every model of every group beside the model of that name in the baseline.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Versus {
    /// Name of the group that the others are compared with.
    pub(crate) baseline: String,
    /// Titles of the number columns.
    pub(crate) columns: Vec<String>,
    /// A row a group and model, the baseline's first.
    pub(crate) rows: Vec<VersusRow>,
    /// What to know about the groups, one sentence each.
    pub(crate) notes: Vec<String>,
}

/// A model of a group.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct VersusRow {
    pub(crate) group: String,
    pub(crate) model: String,
    /// Seeds of the group.
    pub(crate) seeds: usize,
    pub(crate) is_baseline: bool,
    pub(crate) cells: Vec<VersusCell>,
}

/// A measurement of a model and how it compares.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct VersusCell {
    /// Mean over the seeds, with its unit.
    pub(crate) text: String,
    /// 95 % interval: over the seeds, or that of the only run.
    pub(crate) interval: String,
    /// Change against the baseline, without a verdict.
    pub(crate) change: String,
    /// Interval of the change, p, and how many pairs.
    pub(crate) detail: String,
    /// What the change means; absent where nothing was compared.
    pub(crate) verdict: Option<Verdict>,
    /// The verdict in words; empty where the change says it all.
    pub(crate) word: String,
}

/// One measurement of the models of one name in a group, by seed.
type BySeed = BTreeMap<u64, Metric>;

/// Compares `groups` with the one of index `baseline`.
pub(crate) fn versus(groups: &[Group<'_>], baseline: usize) -> Versus {
    let chains: Vec<Vec<(u64, Vec<Model>)>> = groups.iter().map(read).collect();
    let all: Vec<Model> =
        chains.iter().flatten().flat_map(|(_, models)| models.iter().cloned()).collect();
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.measurement(&all)).collect();
    let mut rows = Vec::new();
    let order = std::iter::once(baseline).chain((0..groups.len()).filter(|i| *i != baseline));
    for index in order {
        for model in model_names(&chains[index]) {
            let cell = |(column, name): (&Column, &&str)| {
                let own = by_seed(&chains[index], &model, name);
                let base = by_seed(&chains[baseline], &model, name);
                cell(column, &own, (index != baseline).then_some(&base))
            };
            rows.push(VersusRow {
                group: groups[index].name.clone(),
                seeds: groups[index].runs.len(),
                is_baseline: index == baseline,
                cells: COLUMNS.iter().zip(&names).map(cell).collect(),
                model,
            });
        }
    }
    let title = |(column, name): (&Column, &&str)| match name.split_once('/') {
        Some((split, _)) => format!("{} ({split})", column.title),
        None => column.title.to_owned(),
    };
    Versus {
        baseline: groups[baseline].name.clone(),
        columns: COLUMNS.iter().zip(&names).map(title).collect(),
        rows,
        notes: groups.iter().flat_map(notes).collect(),
    }
}

fn read(group: &Group<'_>) -> Vec<(u64, Vec<Model>)> {
    let models = |run: &&RunRecord| (run.seed, chain::models(run));
    group.runs.iter().map(models).collect()
}

fn model_names(chains: &[(u64, Vec<Model>)]) -> Vec<String> {
    // Runs of a group have the same stages.
    let first = chains.first().map(|(_, models)| models.as_slice()).unwrap_or_default();
    first.iter().map(|model| model.name.clone()).collect()
}

fn by_seed(chains: &[(u64, Vec<Model>)], model: &str, measurement: &str) -> BySeed {
    let of = |(seed, models): &(u64, Vec<Model>)| {
        let model = models.iter().find(|known| known.name == model)?;
        Some((*seed, model.measurement(measurement).ok()?.clone()))
    };
    chains.iter().filter_map(of).collect()
}

fn notes(group: &Group<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if group.runs.len() > 1 {
        let seeds: Vec<String> = group.runs.iter().map(|run| run.seed.to_string()).collect();
        let runs: Vec<String> = group.runs.iter().map(|run| run.summary.id.to_string()).collect();
        notes.push(format!(
            "{} is the mean of runs {}, which differ only in their seeds {}.",
            group.name,
            runs.join(", "),
            seeds.join(", ")
        ));
    }
    if !group.repeated.is_empty() {
        let runs: Vec<String> = group.repeated.iter().map(i64::to_string).collect();
        notes.push(format!(
            "Run {} repeats a seed of {} and does not count a second time.",
            runs.join(", "),
            group.name
        ));
    }
    notes
}

fn cell(column: &Column, own: &BySeed, base: Option<&BySeed>) -> VersusCell {
    let values: Vec<f64> = own.values().map(|metric| metric.value).collect();
    let (Some(first), Some(estimate)) = (own.values().next(), Estimate::of(&values)) else {
        return VersusCell { text: ABSENT.to_owned(), ..VersusCell::default() };
    };
    let unit = &first.unit;
    let span = |(low, high): (f64, f64)| interval(low, high, unit);
    // Equal counts have an interval of no width, which says nothing.
    let shown = known_interval(own).filter(|(low, high)| low < high);
    let mut cell = VersusCell {
        text: quantity(estimate.mean, unit),
        interval: shown.map(span).unwrap_or_default(),
        ..VersusCell::default()
    };
    if let Some(base) = base {
        compare(&mut cell, column, own, base);
    }
    cell
}

/// The interval over the seeds, or the one that the only run measured.
fn known_interval(metrics: &BySeed) -> Option<(f64, f64)> {
    let values: Vec<f64> = metrics.values().map(|metric| metric.value).collect();
    match Estimate::of(&values)? {
        Estimate { half: None, .. } => metrics.values().next().and_then(ends),
        estimate => estimate.interval(),
    }
}

fn compare(cell: &mut VersusCell, column: &Column, own: &BySeed, base: &BySeed) {
    let mean = |metrics: &BySeed| {
        let values: Vec<f64> = metrics.values().map(|metric| metric.value).collect();
        Estimate::of(&values).map(|estimate| estimate.mean)
    };
    let units = own.values().chain(base.values()).map(|metric| metric.unit.as_str());
    let mut units: Vec<&str> = units.collect();
    units.dedup();
    let (Some(value), Some(base_value), [unit]) = (mean(own), mean(base), units.as_slice()) else {
        return;
    };
    let Some(told) = column.told(base_value, value) else { return };
    let pairs: Vec<(f64, f64)> = own
        .iter()
        .filter_map(|(seed, metric)| Some((metric.value, base.get(seed)?.value)))
        .collect();
    let is_constant = |metrics: &BySeed| {
        let mut values = metrics.values().map(|metric| metric.value);
        let first = values.next();
        values.all(|value| Some(value) == first)
    };
    let is_exact = EXACT.contains(unit) && is_constant(own) && is_constant(base);
    let (is_shown, detail) = if is_exact {
        (true, String::new())
    } else if let Some((paired, text)) = paired(column, &pairs) {
        (paired.is_shown(), text)
    } else {
        match overlap(known_interval(own), known_interval(base)) {
            Some(true) => (false, "intervals overlap".to_owned()),
            Some(false) => (true, "intervals do not overlap".to_owned()),
            None => (false, "not tested: no interval of one run".to_owned()),
        }
    };
    let verdict = if is_shown { told.verdict } else { Verdict::Same };
    cell.change = told.text;
    cell.detail = detail;
    cell.verdict = Some(verdict);
    // Equal counts are equal; there is no difference that more runs could show.
    if !(is_exact && verdict == Verdict::Same) {
        cell.word = verdict.word().to_owned();
    }
}

/// The paired test, and what to say of it. Ratios are compared as logarithms, so that halving and
/// doubling weigh the same.
fn paired(column: &Column, pairs: &[(f64, f64)]) -> Option<(Paired, String)> {
    let is_ratio = matches!(column.change, ChangeStyle::Ratio { .. });
    let scaled: Vec<(f64, f64)> = if is_ratio {
        pairs.iter().map(|(value, base)| (value.ln(), base.ln())).collect()
    } else {
        pairs.to_vec()
    };
    if scaled.iter().any(|(value, base)| !value.is_finite() || !base.is_finite()) {
        return None;
    }
    let test = Paired::of(&scaled)?;
    let (low, high) = test.difference.interval()?;
    let span = if is_ratio {
        format!("{} to {}", ratio(low.exp()), ratio(high.exp()))
    } else {
        format!("{} to {}", points(low), points(high))
    };
    let p = if test.p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {:.3}", test.p) };
    Some((test, format!("{span}, {p}, {} seeds", test.difference.n)))
}
