//! Readers of a manifest's sections: what each has to hold beyond its type.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{article, did_you_mean, listed, only};
use super::metric;
use super::read::{Reader, Section};
use super::schema::params_schema;
use super::spec::{Gate, StageEntry};
use super::{DatasetSpec, DeviceChoice, ModelSpec, StageSpec};
use crate::schedule::{CatchUp, Overlap, Schedule};
use crate::source::Mirror;
use crate::stage::AnyStage;

/// Highest accepted `retries`.
const RETRIES_MAX: u32 = 10;

/// A stage as far as it could be read, with the places that later checks point at.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) span: Range<usize>,
    pub(super) stage: Option<&'static dyn AnyStage>,
    pub(super) params: Option<Value>,
    /// Port, where it is written, what it is connected to, where that is written.
    pub(super) inputs: Vec<DraftInput>,
    entry: Option<StageEntry>,
    timeout: Option<Duration>,
    gates: Vec<Gate>,
}

/// One entry of a stage's `inputs`.
#[derive(Debug)]
pub(super) struct DraftInput {
    pub(super) port: String,
    pub(super) port_span: Range<usize>,
    pub(super) from: String,
    pub(super) from_span: Range<usize>,
}

/// Where a section and its entries are written, for checks made after it was read.
pub(super) struct Place {
    label: String,
    whole: Range<usize>,
    entries: BTreeMap<String, Range<usize>>,
}

impl Place {
    pub(super) fn of(section: &Section<'_>) -> Self {
        let entries = section
            .entries
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), value.span()))
            .collect();
        Self { label: section.label.clone(), whole: section.span.clone(), entries }
    }

    pub(super) fn entry(&self, key: &str) -> Range<usize> {
        self.entries.get(key).unwrap_or(&self.whole).clone()
    }
}

impl Reader<'_> {
    /// Checks the values at the top on their own, so that a missing key does not hide them.
    pub(super) fn header(&mut self, top: &Section<'_>) {
        let entry = |key: &str| top.entries.get(key).map(|value| (value.span(), value.get_ref()));
        if let Some((span, DeValue::Integer(schema))) = entry("schema")
            && schema.to_string() != "1"
        {
            let message = format!("schema {schema} is not known to this version, expected 1");
            self.error(&span, message, None);
        }
        if let Some((span, DeValue::String(name))) = entry("name")
            && name.trim().is_empty()
        {
            self.error(&span, "`name` is empty".to_owned(), None);
        }
        if let Some((span, DeValue::String(text))) = entry("device")
            && DeviceChoice::parse(text).is_none()
        {
            let message =
                format!("device `{text}` is not known, expected `cpu`, `cuda`, `cuda:N` or `auto`");
            self.error(&span, message, did_you_mean(text, ["cpu", "cuda", "auto"]));
        }
    }

    /// Reads `[schedule]`; the metrics it watches have to be of stages that there are.
    pub(super) fn schedule(
        &mut self,
        section: Section<'_>,
        drafts: &[Draft],
        has_sweep: bool,
    ) -> Option<Schedule> {
        let place = Place::of(&section);
        let schedule: Schedule = self.typed(section)?;
        if schedule.catch_up == CatchUp::All && schedule.overlap == Overlap::CancelRunning {
            let message = format!(
                "{}`catch-up = \"all\"` runs every missed time to its end, `overlap = \"cancel-running\"` stops them",
                place.label
            );
            let help = Some("take `queue` or `skip`".to_owned());
            self.error(&place.entry("overlap"), message, help);
        }
        if schedule.sweep && !has_sweep {
            let message =
                format!("{}`sweep = true`, but the manifest has no `[sweep]`", place.label);
            let help = Some("add one, or leave `sweep` out to run the manifest itself".to_owned());
            self.error(&place.entry("sweep"), message, help);
        }
        if schedule.sweep && schedule.on_regression.is_some() {
            let message = format!(
                "{}`on-regression` compares single runs, `sweep = true` makes many of them",
                place.label
            );
            let help = Some("watch a schedule that runs the winner's manifest".to_owned());
            self.error(&place.entry("on-regression"), message, help);
        }
        for name in schedule.on_regression.iter().flat_map(|watch| watch.metrics.keys()) {
            let stages = || drafts.iter().map(|draft| draft.name.as_str());
            let (stage, wanted) = name.split_once('/').unwrap_or((name, ""));
            let span = place.entry("on-regression");
            if wanted.is_empty() {
                let message = format!(
                    "{}`{name}` is no metric of a stage, expected `STAGE/METRIC` such as `bench/test/accuracy`",
                    place.label
                );
                self.error(&span, message, None);
                continue;
            }
            let Some(draft) = drafts.iter().find(|draft| draft.name == stage) else {
                let message = format!(
                    "{}metric `{name}`: there is no stage `{stage}`, {}",
                    place.label,
                    only(stages())
                );
                self.error(&span, message, did_you_mean(stage, stages()));
                continue;
            };
            let refused = draft.stage.and_then(|stage| metric::refuse(stage, wanted));
            if let Some((message, help)) = refused {
                let message = format!("{}metric `{name}`: {message}", place.label);
                self.error(&span, message, help);
            }
        }
        Some(schedule)
    }

    pub(super) fn dataset(&mut self, place: &Place, spec: &DatasetSpec, root: &Path) {
        let label = &place.label;
        let mut labels = spec.labels.clone();
        labels.sort_unstable();
        labels.dedup();
        if labels.len() < 2 || labels.len() != spec.labels.len() {
            let message = format!("{label}`labels` has to name at least two different labels");
            self.error(&place.entry("labels"), message, None);
        }
        let fractions = [("validation", Some(spec.validation)), ("test", spec.test)];
        for (key, fraction) in fractions {
            if fraction.is_some_and(|fraction| !(fraction > 0.0 && fraction < 1.0)) {
                let message =
                    format!("{label}`{key}` has to be a fraction between 0 and 1, both excluded");
                self.error(&place.entry(key), message, None);
            }
        }
        if spec.test.is_some() && spec.split.is_some() {
            let message = format!(
                "{label}`test` and `split` exclude each other; the column already says which rows are for testing"
            );
            self.error(&place.entry("test"), message, None);
        }
        if spec.test.is_none() && spec.split.is_none() {
            let message = format!("{label}nothing says which rows are for testing");
            let help = "name a column with `split`, or give a fraction with `test`".to_owned();
            self.error(&place.whole, message, Some(help));
        }
        if spec.limit == Some(0) {
            self.error(&place.entry("limit"), format!("{label}`limit` has to be at least 1"), None);
        }
        let path = root.join(&spec.path);
        if !path.is_file() {
            let message = format!("{label}there is no file {}", path.display());
            let help = "relative paths start at the project root".to_owned();
            self.error(&place.entry("path"), message, Some(help));
        }
    }

    pub(super) fn model(&mut self, place: &Place, spec: &ModelSpec) {
        let label = &place.label;
        if spec.sources.is_empty() {
            self.error(&place.entry("sources"), format!("{label}`sources` is empty"), None);
        }
        let mut all_files = true;
        for source in &spec.sources {
            match Mirror::parse(source) {
                Ok(mirror) => all_files &= matches!(mirror, Mirror::File(_)),
                Err(message) => {
                    self.error(&place.entry("sources"), format!("{label}{message}"), None)
                }
            }
        }
        if spec.weights_file().is_none() {
            let message =
                format!("{label}`files` has to hold `model.safetensors` or `pytorch_model.bin`");
            self.error(&place.entry("files"), message, None);
        }
        if let Some(file) = spec.files.iter().find(|file| !is_file_name(file)) {
            let message =
                format!("{label}`{file}` in `files` has to be a plain relative path without `..`");
            self.error(&place.entry("files"), message, None);
        }
        match &spec.sha256 {
            None if !all_files => {
                let message =
                    format!("{label}`sha256` is missing; only `file:` mirrors go without one");
                self.error(&place.whole, message, None);
            }
            Some(digest)
                if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
            {
                let message = format!(
                    "{label}`sha256` has to be 64 hexadecimal digits, found {}",
                    digest.len()
                );
                self.error(&place.entry("sha256"), message, None);
            }
            _ => {}
        }
    }

    pub(super) fn draft(&mut self, name: String, mut section: Section<'_>) -> Draft {
        let span = section.span.clone();
        let label = section.label.clone();
        section.taken = vec!["inputs", "params", "require"];
        let inputs = self.inputs(&label, section.entries.remove("inputs"));
        let require = section.entries.remove("require");
        let params = section.entries.remove("params");
        let place = Place::of(&section);
        let entry: Option<StageEntry> = self.typed(section);
        let stage = entry.as_ref().and_then(|entry| {
            let found = self.table.iter().copied().find(|stage| stage.kind() == entry.kind);
            if found.is_none() {
                let kinds: Vec<_> = self.table.iter().map(|stage| stage.kind()).collect();
                let message = format!(
                    "{label}unknown stage kind `{}`, expected {}",
                    entry.kind,
                    listed(kinds.iter().copied())
                );
                self.error(&place.entry("kind"), message, did_you_mean(&entry.kind, kinds));
            }
            found
        });
        let params = stage.and_then(|stage| self.params(&label, &span, stage, params));
        let timeout = entry.as_ref().and_then(|entry| self.limits(&place, entry));
        let gates = self.gates(&label, require, stage);
        Draft { name, span, stage, params, inputs, entry, timeout, gates }
    }

    fn params(
        &mut self,
        label: &str,
        stage_span: &Range<usize>,
        stage: &'static dyn AnyStage,
        params: Option<Spanned<DeValue<'_>>>,
    ) -> Option<Value> {
        let (span, entries) = match params.map(|params| (params.span(), params.into_inner())) {
            None => (stage_span.clone(), DeTable::new()),
            Some((span, DeValue::Table(entries))) => (span, entries),
            Some((span, other)) => {
                let message =
                    format!("{label}`params` has to be a table, found {}", a_kind(&other));
                self.error(&span, message, None);
                return None;
            }
        };
        let section = Section { label: label.to_owned(), span, entries, taken: Vec::new() };
        self.retried(section, || params_schema(stage), |table| stage.read_params(table))
    }

    fn limits(&mut self, place: &Place, entry: &StageEntry) -> Option<Duration> {
        if entry.retries > RETRIES_MAX {
            let message = format!(
                "{}`retries` is {}, at most {RETRIES_MAX} make sense",
                place.label, entry.retries
            );
            self.error(&place.entry("retries"), message, None);
        }
        let text = entry.timeout.as_ref()?;
        let timeout = parse_duration(text);
        if timeout.is_none() {
            let message = format!("{}`{text}` {NO_DURATION}", place.label);
            self.error(&place.entry("timeout"), message, None);
        }
        timeout
    }

    fn inputs(&mut self, label: &str, value: Option<Spanned<DeValue<'_>>>) -> Vec<DraftInput> {
        let mut inputs = Vec::new();
        for (port, value) in self.entries(label, "inputs", value) {
            let from_span = value.span();
            match value.into_inner() {
                DeValue::String(from) => inputs.push(DraftInput {
                    port_span: port.span(),
                    port: port.into_inner().into_owned(),
                    from: from.into_owned(),
                    from_span,
                }),
                other => {
                    let message = format!(
                        "{label}an input is a string such as \"data.reviews\" or \"teacher.model\", found {}",
                        a_kind(&other)
                    );
                    self.error(&from_span, message, None);
                }
            }
        }
        inputs
    }

    fn gates(
        &mut self,
        label: &str,
        value: Option<Spanned<DeValue<'_>>>,
        stage: Option<&'static dyn AnyStage>,
    ) -> Vec<Gate> {
        let mut gates = Vec::new();
        for (key, value) in self.entries(label, "require", value) {
            let number = match value.get_ref() {
                DeValue::Integer(number) => number.to_string().parse::<f64>().ok(),
                DeValue::Float(number) => number.to_string().parse::<f64>().ok(),
                _ => None,
            };
            let Some(limit) = number.filter(|limit| limit.is_finite()) else {
                let message =
                    format!("{label}the bound `{}` has to be a finite number", key.get_ref());
                self.error(&value.span(), message, None);
                continue;
            };
            match Gate::parse(key.get_ref(), limit) {
                Some(gate) => {
                    let refused = stage.and_then(|stage| metric::refuse_gate(stage, &gate.metric));
                    if let Some((message, help)) = refused {
                        let message = format!("{label}`{}`: {message}", key.get_ref());
                        self.error(&key.span(), message, help);
                    }
                    gates.push(gate);
                }
                None => {
                    let message = format!(
                        "{label}`{}` has to be the name of a metric followed by `-max` or `-min`",
                        key.get_ref()
                    );
                    self.error(&key.span(), message, None);
                }
            }
        }
        gates
    }

    /// Entries of a table inside a stage, in the order of the file.
    fn entries<'a>(
        &mut self,
        label: &str,
        name: &str,
        value: Option<Spanned<DeValue<'a>>>,
    ) -> Vec<(Spanned<Cow<'a, str>>, Spanned<DeValue<'a>>)> {
        let Some(value) = value else {
            return Vec::new();
        };
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(entries) => {
                let mut entries: Vec<_> = entries.into_iter().collect();
                entries.sort_by_key(|(key, _)| key.span().start);
                entries
            }
            other => {
                let message =
                    format!("{label}`{name}` has to be a table, found {}", a_kind(&other));
                self.error(&span, message, None);
                Vec::new()
            }
        }
    }
}

impl Draft {
    /// The stage; only for drafts without an error.
    pub(super) fn finish(self) -> StageSpec {
        let entry = self.entry.expect("a draft without errors has its entry");
        let inputs = self
            .inputs
            .into_iter()
            .map(|input| {
                let from = super::Reference::parse(&input.from).expect("references were checked");
                (input.port, from)
            })
            .collect();
        StageSpec {
            name: self.name,
            stage: self.stage.expect("a draft without errors has its kind"),
            params: self.params.expect("a draft without errors has its parameters"),
            inputs,
            cache: entry.cache,
            timeout: self.timeout,
            retries: entry.retries,
            gates: self.gates,
        }
    }
}

fn is_file_name(file: &str) -> bool {
    let path = Path::new(file);
    !file.is_empty()
        && path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// Longest length of time: far beyond any run, and near enough for clocks to reckon with.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What is wrong with a text that [`parse_duration`] does not read.
pub(crate) const NO_DURATION: &str =
    "is no length of time up to 100 years; write for instance `90s`, `30m` or `1h30m`";

/// `1h30m`, `90s`, `500ms`: whole numbers with units, largest first by habit, not by rule; up to
/// 100 years.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|next: char| !next.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let letters = after.find(|next: char| !next.is_ascii_alphabetic()).unwrap_or(after.len());
        total = total.checked_add(match &after[..letters] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        })?;
        rest = &after[letters..];
    }
    (!total.is_zero() && total <= DURATION_MAX).then_some(total)
}

/// A kind of TOML value with its article.
fn a_kind(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    format!("{} {kind}", article(kind))
}
