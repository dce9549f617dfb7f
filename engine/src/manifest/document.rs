//! The parsed text of a manifest with overrides laid over it.
//!
//! Overrides are appended to the text in thought: their spans start where the manifest ends, so
//! that one span says both which text an error is in and where.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, article, did_you_mean, only};

/// Source of errors in overrides.
pub(super) const OVERRIDE: &str = "--set";

/// The texts that spans point into.
#[derive(Debug)]
pub(super) struct Document {
    name: String,
    text: String,
    /// Start of each override in the continued text, and the override.
    overrides: Vec<(usize, String)>,
}

impl Document {
    pub(super) fn new(path: &Path, text: String, overrides: &[String]) -> Self {
        let mut start = text.len() + 1;
        let overrides = overrides
            .iter()
            .map(|text| {
                let placed = (start, text.clone());
                start += text.len() + 1;
                placed
            })
            .collect();
        Self { name: path.display().to_string(), text, overrides }
    }

    /// Name, text and offset in that text of a place in the continued text.
    pub(super) fn locate(&self, at: usize) -> (String, &str, usize) {
        match self.overrides.iter().rev().find(|(start, _)| *start <= at) {
            Some((start, text)) => (OVERRIDE.to_owned(), text, at - start),
            None => (self.name.clone(), &self.text, at),
        }
    }

    /// Parses the manifest and lays the overrides over it.
    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'_>>, Vec<Diagnostic>> {
        let (mut table, mut errors) = DeTable::parse_recoverable(&self.text);
        errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
        let mut diagnostics: Vec<_> = errors
            .iter()
            .map(|error| {
                let span = error.span().unwrap_or(0..0);
                Diagnostic::new(self, &span, format!("this is not TOML: {}", error.message()))
            })
            .collect();
        if diagnostics.is_empty() {
            for (start, text) in &self.overrides {
                diagnostics.extend(self.apply(table.get_mut(), *start, text).err());
            }
        }
        if diagnostics.is_empty() { Ok(table) } else { Err(diagnostics) }
    }

    fn apply<'a>(
        &self,
        table: &mut DeTable<'a>,
        start: usize,
        text: &'a str,
    ) -> Result<(), Diagnostic> {
        let whole = start..start + text.len();
        let (path, value) = text.split_once('=').ok_or_else(|| {
            Diagnostic::new(self, &whole, "an override is written KEY.KEY=VALUE".to_owned())
        })?;
        let value_start = start + path.len() + 1;
        // A bare word such as `cuda` or `30m` is a string without its quotes.
        let value = match DeValue::parse(value) {
            Ok(value) => shifted(value, value_start),
            Err(_) => Spanned::new(
                value_start..value_start + value.len(),
                DeValue::String(Cow::Borrowed(value)),
            ),
        };
        let keys: Vec<&str> = path.split('.').map(str::trim).collect();
        if keys.iter().any(|key| key.is_empty()) {
            let message = format!("`{path}` has an empty key; write KEY.KEY=VALUE");
            return Err(Diagnostic::new(self, &whole, message));
        }
        let span = start..start + path.len();
        self.insert(table, &keys, &span, value)
    }

    fn insert<'a>(
        &self,
        table: &mut DeTable<'a>,
        keys: &[&'a str],
        span: &Range<usize>,
        value: Spanned<DeValue<'a>>,
    ) -> Result<(), Diagnostic> {
        if let [section @ ("stages" | "data" | "models"), name, ..] = keys {
            let names = section_names(table, section);
            if !names.contains(name) {
                let message = format!(
                    "the manifest has no `{section}.{name}`, {}",
                    only(names.iter().copied())
                );
                return Err(
                    Diagnostic::new(self, span, message).with_help(did_you_mean(name, names))
                );
            }
        }
        let (last, parents) = keys.split_last().expect("split gives at least one part");
        let mut table = table;
        for key in parents {
            let entry = table
                .entry(Spanned::new(span.clone(), Cow::Borrowed(*key)))
                .or_insert_with(|| Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
            table = match entry.get_mut() {
                DeValue::Table(inner) => inner,
                other => {
                    let message = {
                        let kind = other.type_str();
                        format!("`{key}` is {} {kind}, not a table", article(kind))
                    };
                    return Err(Diagnostic::new(self, span, message));
                }
            };
        }
        // Removed first: an insert alone would keep the old key and with it its place.
        table.remove(*last);
        table.insert(Spanned::new(span.clone(), Cow::Borrowed(*last)), value);
        Ok(())
    }
}

fn section_names<'t>(table: &'t DeTable<'_>, section: &str) -> Vec<&'t str> {
    match table.get(section).map(Spanned::get_ref) {
        Some(DeValue::Table(entries)) => entries.keys().map(|key| key.get_ref().as_ref()).collect(),
        _ => Vec::new(),
    }
}

/// The same value with every span moved by `offset`.
fn shifted(value: Spanned<DeValue<'_>>, offset: usize) -> Spanned<DeValue<'_>> {
    let moved = |span: Range<usize>| span.start + offset..span.end + offset;
    let span = moved(value.span());
    let inner = match value.into_inner() {
        DeValue::Array(items) => {
            DeValue::Array(items.into_iter().map(|item| shifted(item, offset)).collect())
        }
        DeValue::Table(entries) => DeValue::Table(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let span = moved(key.span());
                    (Spanned::new(span, key.into_inner()), shifted(value, offset))
                })
                .collect(),
        ),
        scalar => scalar,
    };
    Spanned::new(span, inner)
}
