//! From the parsed text to the types of a manifest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check;
use super::diagnostic::{Diagnostic, ManifestError, did_you_mean, listed};
use super::document::Document;
use super::sections::Place;
use super::spec::Header;
use super::sweep_check;
use super::{DatasetSpec, DeviceChoice, Manifest, ModelSpec, SweepSpec};
use crate::stage::{ParamsError, StageTable};

/// Reads the text; every error of it ends up in `diagnostics`.
pub(super) struct Reader<'d> {
    pub(super) document: &'d Document,
    pub(super) diagnostics: Vec<(Range<usize>, Diagnostic)>,
    pub(super) table: StageTable,
}

/// A table of the text, less what has been taken out of it.
pub(super) struct Section<'a> {
    /// Prefix of its messages, for instance "stage `teacher`: ".
    pub(super) label: String,
    pub(super) span: Range<usize>,
    pub(super) entries: DeTable<'a>,
    /// Keys with a reader of their own, named in "unknown field" messages.
    pub(super) taken: Vec<&'static str>,
}

pub(super) fn manifest(
    path: &Path,
    root: &Path,
    text: String,
    table: StageTable,
    overrides: &[String],
) -> Result<Manifest, ManifestError> {
    let document = Document::new(path, text.clone(), overrides);
    let parsed = document.parse().map_err(ManifestError::Invalid)?;
    let mut reader = Reader { document: &document, diagnostics: Vec::new(), table };
    let mut top = Section {
        label: String::new(),
        span: parsed.span(),
        entries: parsed.into_inner(),
        taken: vec!["data", "models", "schedule", "stages", "sweep"],
    };
    let data_tables = reader.tables(&mut top, "data", "data");
    let model_tables = reader.tables(&mut top, "models", "model");
    let stage_tables = reader.tables(&mut top, "stages", "stage");
    let sweep_table = reader.table(&mut top, "sweep");
    let schedule_table = reader.table(&mut top, "schedule");
    reader.header(&top);
    let header: Option<Header> = reader.typed(top);
    let data_names = data_tables.iter().map(|(name, _)| name.clone()).collect();
    let model_names = model_tables.iter().map(|(name, _)| name.clone()).collect();

    let mut data = BTreeMap::new();
    for (name, section) in data_tables {
        let place = Place::of(&section);
        if let Some(spec) = reader.typed::<DatasetSpec>(section) {
            reader.dataset(&place, &spec, root);
            data.insert(name, spec);
        }
    }
    let mut models = BTreeMap::new();
    for (name, section) in model_tables {
        let place = Place::of(&section);
        if let Some(spec) = reader.typed::<ModelSpec>(section) {
            reader.model(&place, &spec);
            models.insert(name, spec);
        }
    }
    let drafts: Vec<_> =
        stage_tables.into_iter().map(|(name, section)| reader.draft(name, section)).collect();
    let has_sweep = sweep_table.is_some();
    let sweep = sweep_table.and_then(|section| {
        let place = Place::of(&section);
        let spec = reader.typed::<SweepSpec>(section)?;
        sweep_check::check(&mut reader, &place, &spec, &drafts);
        Some(spec)
    });
    let schedule = schedule_table.and_then(|section| reader.schedule(section, &drafts, has_sweep));
    let order = check::graph(&mut reader, &drafts, &data_names, &model_names);

    let (Some(header), true) = (header, reader.diagnostics.is_empty()) else {
        return Err(reader.into_error());
    };
    let mut drafts: Vec<_> = drafts.into_iter().map(Some).collect();
    let stages = order
        .into_iter()
        .map(|index| drafts[index].take().expect("an order names each stage once").finish())
        .collect();
    Ok(Manifest {
        name: header.name,
        seed: header.seed,
        device: DeviceChoice::parse(&header.device).expect("the device was checked"),
        data,
        models,
        stages,
        sweep,
        schedule,
        path: path.to_owned(),
        root: root.to_owned(),
        text,
        overrides: overrides.to_vec(),
    })
}

impl Reader<'_> {
    /// Notes an error.
    pub(super) fn error(&mut self, span: &Range<usize>, message: String, help: Option<String>) {
        let diagnostic = Diagnostic::new(self.document, span, message).with_help(help);
        self.diagnostics.push((span.clone(), diagnostic));
    }

    fn into_error(mut self) -> ManifestError {
        self.diagnostics.sort_by_key(|(span, _)| span.start);
        ManifestError::Invalid(
            self.diagnostics.into_iter().map(|(_, diagnostic)| diagnostic).collect(),
        )
    }

    /// Takes the tables of a section such as `[stages.*]`, in the order of the file.
    fn tables<'a>(
        &mut self,
        top: &mut Section<'a>,
        section: &'static str,
        what: &str,
    ) -> Vec<(String, Section<'a>)> {
        let Some((_, value)) = top.entries.remove_entry(section) else {
            return Vec::new();
        };
        let span = value.span();
        let DeValue::Table(entries) = value.into_inner() else {
            self.error(&span, format!("`{section}` has to be tables, `[{section}.NAME]`"), None);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (key, value) in entries {
            let (key_span, name) = (key.span(), key.into_inner().into_owned());
            if !is_name(&name) || matches!(name.as_str(), "data" | "models") {
                let message = format!(
                    "`{name}` cannot name a {what}; use lower-case letters, digits and `-`, starting with a letter, but not `data` or `models`"
                );
                self.error(&key_span, message, None);
            }
            let DeValue::Table(entries) = value.into_inner() else {
                self.error(&key_span, format!("`{section}.{name}` has to be a table"), None);
                continue;
            };
            let label = format!("{what} `{name}`: ");
            tables.push((name, Section { label, span: key_span, entries, taken: Vec::new() }));
        }
        tables.sort_by_key(|(_, section)| section.span.start);
        tables
    }

    /// Takes a section that is one table, such as `[schedule]`.
    fn table<'a>(&mut self, top: &mut Section<'a>, section: &'static str) -> Option<Section<'a>> {
        let (key, value) = top.entries.remove_entry(section)?;
        let DeValue::Table(entries) = value.into_inner() else {
            self.error(&key.span(), format!("`{section}` has to be a table, `[{section}]`"), None);
            return None;
        };
        let label = format!("{section}: ");
        Some(Section { label, span: key.span(), entries, taken: Vec::new() })
    }

    /// Gives a section its type. Entries at fault are set aside until the rest fits, so that
    /// one look finds them all.
    pub(super) fn typed<T: DeserializeOwned + JsonSchema>(
        &mut self,
        section: Section<'_>,
    ) -> Option<T> {
        let required = || schemars::schema_for!(T).to_value();
        self.retried(section, required, |table| {
            T::deserialize(toml::de::ValueDeserializer::from(table)).map_err(ParamsError::Shape)
        })
    }

    /// [`Reader::typed`] for what `read` makes of a table; `schema` says which keys it needs.
    pub(super) fn retried<T>(
        &mut self,
        section: Section<'_>,
        schema: impl Fn() -> Value,
        read: impl Fn(Spanned<DeValue<'_>>) -> Result<T, ParamsError>,
    ) -> Option<T> {
        let Section { label, span, mut entries, taken } = section;
        let mut set_aside = Vec::new();
        loop {
            let table = Spanned::new(span.clone(), DeValue::Table(entries.clone()));
            let error = match read(table) {
                Ok(value) => return set_aside.is_empty().then_some(value),
                Err(ParamsError::Check(_)) if !set_aside.is_empty() => return None,
                Err(ParamsError::Check(message)) => {
                    self.error(&span, format!("{label}{message}"), None);
                    return None;
                }
                Err(ParamsError::Shape(error)) => error,
            };
            let at = error.span().unwrap_or_else(|| span.clone());
            // The whole's own place may lie inside its first key.
            let inside =
                |part: &Range<usize>| at != span && part.start <= at.start && at.end <= part.end;
            let culprit = entries
                .iter()
                .find(|(key, value)| inside(&key.span()) || inside(&value.span()))
                .map(|(key, _)| key.get_ref().to_string());
            let missing = quoted(error.message()).into_iter().next();
            let missing = missing.filter(|_| error.message().starts_with("missing field"));
            // A nested table may lack a key of the same name.
            let follows = culprit.is_none()
                && missing.as_ref().is_some_and(|field| set_aside.contains(field));
            if !follows {
                let (message, help) = explained(error.message(), &taken);
                self.error(&at, format!("{label}{message}"), help);
            }
            match culprit {
                Some(key) => {
                    entries.remove(key.as_str());
                    set_aside.push(key);
                }
                None => {
                    // Serde stops at the first key that is missing.
                    for field in required(&schema()).filter(|_| missing.is_some()) {
                        let is_told = missing.as_ref() == Some(&field);
                        let is_known =
                            set_aside.contains(&field) || entries.contains_key(field.as_str());
                        if !is_told && !is_known {
                            self.error(&span, format!("{label}missing field `{field}`"), None);
                        }
                    }
                    return None;
                }
            }
        }
    }
}

/// Keys that a table of a schema has to have.
fn required(schema: &Value) -> impl Iterator<Item = String> {
    let names = schema["required"].as_array().into_iter().flatten();
    names.filter_map(Value::as_str).map(str::to_owned)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// What stands in backticks in one of serde's messages.
fn quoted(message: &str) -> Vec<String> {
    message.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// One of serde's messages, with the keys it does not know of, and what was probably meant.
fn explained(message: &str, taken: &[&'static str]) -> (String, Option<String>) {
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let names = quoted(message);
    let Some((written, expected)) = names.split_first().filter(|_| unknown) else {
        return (message.to_owned(), None);
    };
    let candidates = || expected.iter().map(String::as_str).chain(taken.iter().copied());
    let what = if message.starts_with("unknown field") { "field" } else { "value" };
    let message = format!("unknown {what} `{written}`, expected {}", listed(candidates()));
    (message, did_you_mean(written, candidates()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, JsonSchema)]
    #[allow(dead_code, reason = "only its shape matters")]
    struct Part {
        keep: f64,
    }

    #[derive(serde::Deserialize, JsonSchema)]
    #[allow(dead_code, reason = "only its shape matters")]
    struct Whole {
        units: Part,
        heads: Part,
        keep: f64,
    }

    #[test]
    fn keys_of_one_name_that_several_tables_miss_are_all_told() {
        let text = "units = {}\nheads = {}\n".to_owned();
        let document = Document::new(Path::new("m.toml"), text, &[]);
        let parsed = document.parse().unwrap();
        let mut reader = Reader { document: &document, diagnostics: Vec::new(), table: &[] };
        let (label, span) = (String::new(), parsed.span());
        let section = Section { label, span, entries: parsed.into_inner(), taken: Vec::new() };
        assert!(reader.typed::<Whole>(section).is_none());
        let mut told: Vec<_> = reader
            .diagnostics
            .iter()
            .map(|(_, one)| (one.line, one.column, one.message.as_str()))
            .collect();
        told.sort_unstable();
        let message = "missing field `keep`";
        assert_eq!(told, [(1, 1, message), (1, 9, message), (2, 9, message)]);
    }
}
