//! The manifest that `pipeline auto` searches.

use anyhow::{Context as _, Result, bail};
use toml::{Table, Value};

use super::Teacher;
use super::goal::{Goal, Limit, Quantity};
use super::winner::place;
use engine::manifest::Manifest;

/// What the search adds to a teacher.
const CHAIN: &str = include_str!("chain.toml");

/// More trials than any budget has time for.
const TRIALS: i64 = 1_000;

/// The manifest that is searched: the teacher and what it needs out of `manifest` (TOML with
/// overrides applied), the stages of `chain.toml`, and a `[sweep]` over their order and strengths
/// that keeps to the goal within `budget` (for instance `2h`).
///
/// # Errors
/// When `manifest` is no manifest.
pub fn search(
    manifest: &Table,
    keep: &[String],
    teacher: &Teacher,
    goal: &Goal,
    budget: &str,
) -> Result<Table> {
    let mut table = manifest.clone();
    table.remove("sweep");
    table.remove("schedule");
    let name = table.get("name").and_then(Value::as_str).unwrap_or("model").to_owned();
    table.insert("name".to_owned(), Value::from(format!("{name}-search")));
    let stages = table.get_mut("stages").and_then(Value::as_table_mut);
    let stages = stages.context("the manifest has no stages")?;
    stages.retain(|stage, _| keep.iter().any(|kept| kept == stage));
    for (stage, entry) in &chain(teacher)? {
        let left_out = match stage.as_str() {
            "speed" => !goal.times(),
            // The winner's manifest has these.
            "package" | "bench" => true,
            _ => false,
        };
        if !left_out {
            stages.insert(stage.clone(), entry.clone());
        }
    }
    set(stages, &["search", "params", "space"], teacher.space())?;
    let weights = params_max(teacher, SHARES[0]);
    set(stages, &["search", "params", "constraints"], table_of([("params-max", weights)]))?;
    table.insert("sweep".to_owned(), Value::Table(sweep(teacher, goal, budget)));
    Ok(table)
}

/// The text of a manifest as a table, overrides (`KEY.KEY=VALUE`) laid over it.
///
/// # Errors
/// When it is no TOML; a manifest that was checked is.
pub fn table(manifest: &Manifest) -> Result<Table> {
    let mut table: Table = toml::from_str(&manifest.text).context("reading the manifest")?;
    for text in &manifest.overrides {
        let (path, value) = text.split_once('=').context("an override is KEY=VALUE")?;
        // A bare word is a string without its quotes, as for the engine.
        let value = toml::from_str::<Table>(&format!("value = {value}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| Value::from(value));
        place(&mut table, path, value)?;
    }
    Ok(table)
}

/// The text of a searched manifest.
///
/// # Errors
/// When it cannot be written as TOML.
pub fn text(searched: &Table, goal: &Goal) -> Result<String> {
    let body = toml::to_string_pretty(searched).context("writing the searched manifest")?;
    Ok(format!(
        "# Written by `pipeline auto` for {goal}: `[sweep]` says what is tried. Change it as you\n# like and go on with `pipeline sweep`.\n{body}"
    ))
}

/// The stages of `chain.toml` behind this teacher.
pub(super) fn chain(teacher: &Teacher) -> Result<Table> {
    let text = CHAIN.replace("TEACHER", &teacher.stage).replace("DATA", &teacher.dataset);
    let mut chain: Table = toml::from_str(&text).context("chain.toml")?;
    match chain.remove("stages") {
        Some(Value::Table(stages)) => Ok(stages),
        _ => bail!("chain.toml has no stages"),
    }
}

fn set(table: &mut Table, path: &[&str], value: Value) -> Result<()> {
    let (last, parents) = path.split_last().context("a path has a last part")?;
    let mut table = table;
    for key in parents {
        let entry = table.get_mut(*key).and_then(Value::as_table_mut);
        table = entry.with_context(|| format!("chain.toml has no `{key}`"))?;
    }
    table.insert((*last).to_owned(), value);
    Ok(())
}

fn table_of<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn list<T: Into<Value>>(values: impl IntoIterator<Item = T>) -> Value {
    Value::Array(values.into_iter().map(Into::into).collect())
}

/// Limits on the weights of a searched student, as shares of the teacher's without its embeddings.
/// What [`Teacher::space`] holds lies between a quarter and a bit more than half.
const SHARES: [f64; 3] = [0.35, 0.45, 0.55];

/// The embeddings, which no candidate is without, and a share of the teacher's other weights, in
/// round thousands.
fn params_max(teacher: &Teacher, share: f64) -> Value {
    let weights = teacher.embeddings + share * (teacher.weights - teacher.embeddings);
    Value::from((weights / 1e3).ceil() as i64 * 1_000)
}

impl Teacher {
    /// What architecture search may choose from: the teacher's layers or all but one, each with a
    /// part of its heads and units.
    fn space(&self) -> Value {
        let shares = |whole: usize, parts: &[(usize, usize)]| {
            let mut sizes: Vec<i64> =
                parts.iter().map(|(some, all)| (whole * some / all).max(1) as i64).collect();
            sizes.dedup();
            list(sizes)
        };
        let mut layers = vec![self.layers.saturating_sub(1).max(1) as i64, self.layers as i64];
        layers.dedup();
        table_of([
            ("layers", list(layers)),
            ("heads", shares(self.heads, &[(1, 3), (1, 2), (2, 3)])),
            ("intermediate", shares(self.intermediate, &[(1, 4), (1, 3), (1, 2)])),
            ("hidden", list([self.hidden as i64])),
        ])
    }

    /// Every so many-th layer of the teacher, `count` in all, the last one among them.
    fn spread(&self, count: usize) -> Value {
        let of = |index: usize| ((index + 1) * self.layers / count - 1) as i64;
        table_of([("layers", list((0..count).map(of)))])
    }

    /// Students made of the teacher's layers: all but one, two thirds, half.
    fn students(&self) -> Vec<Value> {
        let mut counts = [self.layers - 1, self.layers * 2 / 3, self.layers / 2]
            .map(|count| count.max(1))
            .to_vec();
        counts.dedup();
        counts.into_iter().map(|count| self.spread(count)).collect()
    }
}

fn sweep(teacher: &Teacher, goal: &Goal, budget: &str) -> Table {
    let mut sweep = Table::new();
    let mut put = |key: &str, value: Value| drop(sweep.insert(key.to_owned(), value));
    put("objectives", list([table_of([("maximize", Value::from("int8.validation/accuracy"))])]));
    put("constraints", constraints(teacher, goal));
    put("sampler", table_of([("tpe", table_of([("n-startup-trials", Value::from(6))]))]));
    put("trials", Value::from(TRIALS));
    put("budget", Value::from(budget));
    put("space", Value::Table(space(teacher)));
    put("first", first(teacher));
    sweep
}

fn constraints(teacher: &Teacher, goal: &Goal) -> Value {
    let mut constraints = Table::new();
    for bound in goal.bounds() {
        let limit = |whole: f64| match bound.limit {
            Limit::Absolute(value) => value,
            Limit::OfTeacher(share) => share * whole,
        };
        let (gate, value) = match bound.quantity {
            Quantity::AccuracyDrop => {
                ("int8.validation/accuracy-min".to_owned(), teacher.accuracy - limit(1.0))
            }
            Quantity::Accuracy => ("int8.validation/accuracy-min".to_owned(), limit(1.0)),
            Quantity::Size => ("int8.model/size-max".to_owned(), limit(teacher.size)),
            Quantity::Weights => ("int8.model/weights-max".to_owned(), limit(teacher.weights)),
            Quantity::Latency(percentile) => {
                (format!("speed.bench/int8/{percentile}-max"), limit(1.0))
            }
        };
        let stricter = match constraints.get(&gate).and_then(Value::as_float) {
            Some(other) => value.max(other),
            None => value,
        };
        constraints.insert(gate, Value::from(stricter));
    }
    Value::Table(constraints)
}

/// Where the order of stages is decided, and the condition for each way.
const LAST: &str = "stages.int8.inputs.model";
const PRUNED: &str = "stages.pruned.inputs.model";

fn space(teacher: &Teacher) -> Table {
    let model = |stage: &str| Value::from(format!("{stage}.model"));
    let choice = |values: Vec<Value>| ("choice", Value::Array(values));
    let mut space = Table::new();
    let mut put = |path: &str, domain: Value| drop(space.insert(path.to_owned(), domain));
    let when = |path: &str, value: Value| ("when", table_of([(path, Value::Array(vec![value]))]));

    put(LAST, table_of([choice(["pruned", "student", "distilled"].map(model).to_vec())]));
    put(
        PRUNED,
        table_of([
            choice(vec![model("student"), model(&teacher.stage)]),
            when(LAST, model("pruned")),
        ]),
    );
    let mut students = vec![Value::from("search")];
    students.extend(teacher.students());
    put("stages.student.params.student", table_of([choice(students)]));
    for (port, output) in [("architecture", "search.architecture"), ("supernet", "search.supernet")]
    {
        let searched = when("stages.student.params.student", Value::from("search"));
        let path = format!("stages.student.inputs.{port}");
        put(&path, table_of([choice(vec![Value::from(output)]), searched]));
    }
    let most = SHARES.map(|share| params_max(teacher, share)).to_vec();
    put(
        "stages.search.params.constraints.params-max",
        table_of([choice(most), when("stages.student.params.student", Value::from("search"))]),
    );
    let distilled = || when(LAST, model("distilled"));
    put("stages.distilled.params.student", table_of([choice(teacher.students()), distilled()]));
    put(
        "stages.distilled.params.epochs",
        table_of([choice([2, 4, 8].map(Value::from).to_vec()), distilled()]),
    );
    put("stages.student.params.epochs", table_of([choice([2, 4, 8].map(Value::from).to_vec())]));
    let rate = || ("log-uniform", list([5e-5, 5e-4]));
    put("stages.student.params.training.learning-rate", table_of([rate()]));
    put("stages.pruned.params.epochs", table_of([choice([1, 3, 6].map(Value::from).to_vec())]));
    let keep = |share: f64| table_of([("keep", Value::from(share))]);
    put(
        "stages.pruned.params.units",
        table_of([choice([1.0, 0.67, 0.5, 0.33, 0.25].map(keep).to_vec())]),
    );
    put("stages.pruned.params.heads", table_of([choice([1.0, 0.67, 0.5].map(keep).to_vec())]));

    let qat = || when("stages.int8.kind", Value::from("qat"));
    put("stages.int8.kind", table_of([choice(vec!["qat".into(), "quantize".into()])]));
    let logits = Value::from(format!("{}.logits", teacher.stage));
    put("stages.int8.inputs.logits", table_of([choice(vec![logits]), qat()]));
    put("stages.int8.params", table_of([choice([1, 2].map(trained).to_vec()), qat()]));
    space
}

/// Parameters of `qat`.
fn trained(epochs: i64) -> Value {
    table_of([
        ("epochs", Value::from(epochs)),
        ("alpha", Value::from(0.9)),
        ("sensitivity", Value::from(false)),
    ])
}

/// Roads that are worth a try whatever the data: search an architecture, then distil and prune the
/// vocabulary; prune the teacher at once; distil fewer layers, then prune.
fn first(teacher: &Teacher) -> Value {
    let keep = |share: f64| table_of([("keep", Value::from(share))]);
    let model = |stage: &str| Value::from(format!("{stage}.model"));
    let road = |last: &str, pruned: &str, student: Value, units: f64, heads: f64| {
        table_of([
            (LAST, model(last)),
            (PRUNED, model(pruned)),
            ("stages.student.params.student", student),
            ("stages.student.params.epochs", Value::from(8)),
            ("stages.student.params.training.learning-rate", Value::from(2e-4)),
            ("stages.search.params.constraints.params-max", params_max(teacher, SHARES[0])),
            ("stages.pruned.params.units", keep(units)),
            ("stages.pruned.params.heads", keep(heads)),
            ("stages.pruned.params.epochs", Value::from(if pruned == "student" { 1 } else { 6 })),
            ("stages.int8.kind", Value::from("qat")),
            ("stages.int8.params", trained(1)),
        ])
    };
    let layers = teacher.students().into_iter().next().unwrap_or_else(|| teacher.spread(1));
    list([
        road("pruned", "student", Value::from("search"), 1.0, 1.0),
        road("pruned", &teacher.stage, layers.clone(), 0.33, 0.5),
        road("pruned", "student", layers, 0.25, 1.0),
    ])
}

#[cfg(test)]
mod tests {
    use graph::bert::{self, BertConfig, BertLayer};

    use super::*;

    #[test]
    fn every_limit_on_weights_can_be_kept_and_the_least_one_binds() {
        let layer = BertLayer { heads: 12, intermediate: 192 };
        let config = BertConfig { positions: 64, ..BertConfig::uniform(900, 48, 6, layer) };
        let weights = |config: &BertConfig| {
            bert::build(config, &mut bert::initial_weights(1)).unwrap().weight_count() as f64
        };
        let teacher = Teacher {
            stage: "teacher".to_owned(),
            dataset: "reviews".to_owned(),
            accuracy: 0.8,
            size: 4.0 * weights(&config),
            weights: weights(&config),
            embeddings: ((config.vocabulary_size + config.positions) * config.hidden) as f64,
            layers: 6,
            heads: 12,
            intermediate: 192,
            hidden: 48,
        };
        let space = teacher.space();
        let sizes = |name: &str| {
            let sizes = space[name].as_array().unwrap().iter();
            let sizes: Vec<usize> = sizes.map(|x| x.as_integer().unwrap() as usize).collect();
            [sizes[0], sizes[sizes.len() - 1]]
        };
        let [smallest, largest] = [0, 1].map(|end| {
            let layer =
                BertLayer { heads: sizes("heads")[end], intermediate: sizes("intermediate")[end] };
            weights(&BertConfig { layers: vec![layer; sizes("layers")[end]], ..config.clone() })
        });
        let limits = SHARES.map(|share| params_max(&teacher, share).as_integer().unwrap() as f64);
        assert!(limits.iter().all(|&limit| limit >= smallest), "{limits:?} {smallest}");
        assert!(limits[0] < largest, "{limits:?} {largest}");
    }
}
