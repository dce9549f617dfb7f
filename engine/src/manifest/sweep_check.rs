//! What the types of `[sweep]` do not say.

use std::collections::BTreeMap;

use super::Bound;
use super::diagnostic::did_you_mean;
use super::metric;
use super::read::Reader;
use super::sections::{Draft, NO_DURATION, Place, parse_duration};
use super::spec::Gate;
use super::sweep::{EarlyStopping, SweepSpec};
use crate::stage::AnyStage;
use crate::sweep::sampler::Sampler;
use crate::sweep::space::{Dimension, Space};

/// Most combinations that are all tried.
const GRID_MAX: u64 = 1_000_000;

/// Checks a sweep against the manifest's stages.
pub(super) fn check(reader: &mut Reader<'_>, place: &Place, spec: &SweepSpec, drafts: &[Draft]) {
    let mut checker = Checker { reader, place, drafts };
    match spec.space() {
        Err((name, message)) => checker.complain("space", format!("`{name}`: {message}"), None),
        Ok(space) => checker.space(spec, &space),
    }
    checker.objectives(spec);
    checker.trials(spec);
    checker.constraints(spec);
    if let Some(stopping) = &spec.early_stopping {
        checker.early_stopping(stopping);
    }
}

struct Checker<'r, 'd> {
    reader: &'r mut Reader<'d>,
    place: &'r Place,
    drafts: &'r [Draft],
}

impl<'r> Checker<'r, '_> {
    fn complain(&mut self, key: &str, message: String, help: Option<String>) {
        self.reader.error(&self.place.entry(key), format!("sweep: {message}"), help);
    }

    fn stages(&self) -> impl Iterator<Item = &'r str> + use<'r> {
        self.drafts.iter().map(|draft| draft.name.as_str())
    }

    /// Complains unless there is such a stage.
    fn stage(&mut self, key: &str, what: &str, stage: &str) {
        if !self.stages().any(|known| known == stage) {
            let message = format!("{what}: there is no stage `{stage}`");
            let help = did_you_mean(stage, self.stages());
            self.complain(key, message, help);
        }
    }

    /// The kind of a stage, where it is known and does not vary.
    fn kind(&self, spec: &SweepSpec, stage: &str) -> Option<&'static dyn AnyStage> {
        let draft = self.drafts.iter().find(|draft| draft.name == stage)?;
        let varies = spec.space.contains_key(&format!("stages.{stage}.kind"));
        draft.stage.filter(|_| !varies)
    }

    /// Complains about a metric that a stage cannot report.
    fn unknown(&mut self, key: &str, what: &str, refused: Option<(String, Option<String>)>) {
        if let Some((message, help)) = refused {
            self.complain(key, format!("{what}: {message}"), help);
        }
    }

    fn space(&mut self, spec: &SweepSpec, space: &Space) {
        if let Err(error) = spec.sampler.check(space) {
            self.complain("space", error.to_string(), None);
        }
        let size = spec.sampler.total(space).ok().flatten().filter(|_| spec.trials.is_none());
        if let Some(size) = size.filter(|size| *size > GRID_MAX) {
            let message = format!("{size} combinations are more than {GRID_MAX}");
            let help = "make a `step` wider, or say with `trials` how many to try".to_owned();
            self.complain("space", message, Some(help));
        }
        for dimension in &space.dimensions {
            self.dimension(dimension);
        }
        for (path, value) in spec.first.iter().flatten() {
            let Some(known) = space.dimension(path) else {
                let names = space.dimensions.iter().map(|known| known.name.as_str());
                let help = did_you_mean(path, names);
                self.complain("first", format!("`first`: `{path}` is not in the space"), help);
                continue;
            };
            if known.domain.number(value).is_none() {
                let message = format!("`first`: {value} is not among the values of `{path}`");
                self.complain("first", message, None);
            }
        }
    }

    fn dimension(&mut self, dimension: &Dimension) {
        let mut path = dimension.name.split('.');
        let (section, name) = (path.next(), path.next().unwrap_or_default());
        match section {
            Some("stages") => self.stage("space", &format!("`{}`", dimension.name), name),
            Some("sweep" | "schedule" | "schema" | "name" | "seed") => {
                let message = format!("`{}` cannot vary", dimension.name);
                let help = "vary what stages do; seeds go into `sweep.seeds`".to_owned();
                self.complain("space", message, Some(help));
            }
            _ => {}
        }
    }

    fn objectives(&mut self, spec: &SweepSpec) {
        if spec.objectives.is_empty() {
            self.complain("objectives", "`objectives` is empty".to_owned(), None);
        }
        for objective in &spec.objectives {
            let what = format!("objective `{}`", objective.text());
            match objective.target() {
                Some((stage, metric)) => {
                    self.stage("objectives", &what, stage);
                    let refused =
                        self.kind(spec, stage).and_then(|kind| metric::refuse(kind, metric));
                    self.unknown("objectives", &what, refused);
                }
                None => self.complain("objectives", format!("{what} is not STAGE.METRIC"), None),
            }
        }
        if matches!(spec.sampler, Sampler::Nsga2(_)) && spec.objectives.len() < 2 {
            let message = "`nsga2` needs two objectives or more".to_owned();
            self.complain("sampler", message, Some("`tpe` is made for one".to_owned()));
        }
    }

    fn trials(&mut self, spec: &SweepSpec) {
        let ends = matches!(spec.sampler, Sampler::Grid | Sampler::Zip);
        if !ends && spec.trials.is_none() {
            let message = "`trials` is missing; only `grid` and `zip` end by themselves".to_owned();
            self.complain("trials", message, None);
        }
        if let Some(text) = &spec.budget
            && parse_duration(text).is_none()
        {
            let message = format!("`budget`: `{text}` {NO_DURATION}");
            self.complain("budget", message, None);
        }
        let mut seeds = spec.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.len() != spec.seeds.len() {
            self.complain("seeds", "a seed appears twice in `seeds`".to_owned(), None);
        }
    }

    fn constraints(&mut self, spec: &SweepSpec) {
        let mut sides: BTreeMap<(&str, String), [Option<f64>; 2]> = BTreeMap::new();
        for (key, bound) in &spec.constraints {
            let parsed = key.split_once('.');
            let parsed = parsed.and_then(|(stage, gate)| Some((stage, Gate::parse(gate, *bound)?)));
            let Some((stage, gate)) = parsed else {
                let message =
                    format!("constraint `{key}` is not STAGE.METRIC-max or STAGE.METRIC-min");
                self.complain("constraints", message, None);
                continue;
            };
            let what = format!("constraint `{key}`");
            self.stage("constraints", &what, stage);
            let refused = self.kind(spec, stage);
            let refused = refused.and_then(|kind| metric::refuse_gate(kind, &gate.metric));
            self.unknown("constraints", &what, refused);
            let side = usize::from(gate.bound == Bound::Max);
            sides.entry((stage, gate.metric)).or_default()[side] = Some(*bound);
        }
        for ((stage, metric), bounds) in sides {
            if let [Some(least), Some(most)] = bounds
                && least > most
            {
                let message = format!(
                    "constraints contradict each other: `{stage}.{metric}` has to be at least {least} and at most {most}"
                );
                self.complain("constraints", message, None);
            }
        }
    }

    fn early_stopping(&mut self, stopping: &EarlyStopping) {
        let key = "early-stopping";
        if stopping.reduction.get() < 2 {
            self.complain(key, "`reduction` of early stopping is at least 2".to_owned(), None);
        }
        if stopping.watch.is_empty() {
            self.complain(key, "early stopping has nothing to `watch`".to_owned(), None);
        }
        self.stage(key, "early stopping", &stopping.stage);
        let held = self.drafts.iter().find(|draft| draft.name == stopping.stage);
        let kind = held.and_then(|draft| draft.stage).filter(|kind| kind.epochs().is_none());
        if let Some(kind) = kind {
            let able = self.reader.table.iter().filter(|kind| kind.epochs().is_some());
            let able: Vec<_> = able.map(|kind| kind.kind()).collect();
            let message = format!(
                "early stopping: stage `{}` of kind `{}` has no epochs to be held at",
                stopping.stage,
                kind.kind()
            );
            self.complain(key, message, Some(format!("kinds that have: {}", able.join(", "))));
        }
    }
}
