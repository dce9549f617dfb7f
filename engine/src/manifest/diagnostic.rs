//! Errors of a manifest, shown with line, caret and suggestion.

use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::document::{Document, OVERRIDE};

/// Why a manifest was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read manifest {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The text is wrong in one or more places.
    #[error("{}", Listing(.0))]
    Invalid(Vec<Diagnostic>),
}

/// One thing that is wrong in a manifest, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Diagnostic {
    /// Manifest file, or the `--set` override at fault.
    pub source: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, what was expected.
    pub message: String,
    /// What was probably meant, or what to do.
    pub help: Option<String>,
    /// The line itself.
    pub excerpt: String,
    /// Characters of the line that the caret marks.
    pub width: usize,
}

impl Diagnostic {
    /// Places a message at a span of the document.
    pub(super) fn new(document: &Document, span: &Range<usize>, message: String) -> Self {
        let (source, text, start) = document.locate(span.start);
        let start = start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let excerpt = text[line_start..line_end].trim_end().to_owned();
        let end = (start + span.len()).min(line_start + excerpt.len()).max(start);
        Self {
            source,
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            message,
            help: None,
            width: text.get(start..end).map_or(1, |marked| marked.chars().count()).max(1),
            excerpt,
        }
    }

    /// The same where a manifest's text names the override at fault, one of these, instead.
    pub(crate) fn placed<'a>(
        self,
        path: &Path,
        text: &str,
        mut names: impl Iterator<Item = &'a str>,
    ) -> Self {
        let key = self.excerpt.split('=').next().unwrap_or_default();
        let is_override = self.source == OVERRIDE && names.any(|name| name == key);
        let Some(at) = place(text, key).filter(|_| is_override) else { return self };
        let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
        Self {
            source: path.display().to_string(),
            line: text[..at].matches('\n').count() + 1,
            column: text[start..at].chars().count() + 1,
            message: format!("sweep: `{}`: {}", self.excerpt, self.message),
            help: self.help,
            excerpt: text[start..].lines().next().unwrap_or_default().to_owned(),
            width: key.chars().count(),
        }
    }

    /// The same with a closing line of advice.
    pub(super) fn with_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let before: String = self
            .excerpt
            .chars()
            .take(self.column - 1)
            .map(|character| if character == '\t' { '\t' } else { ' ' })
            .collect();
        if self.source == OVERRIDE {
            writeln!(formatter, "{}: {}", self.source, self.message)?;
            writeln!(formatter, "{margin} | {}", self.excerpt)?;
        } else {
            writeln!(formatter, "{}:{}:{}: {}", self.source, self.line, self.column, self.message)?;
            writeln!(formatter, "{number} | {}", self.excerpt)?;
        }
        write!(formatter, "{margin} | {before}{}", "^".repeat(self.width))?;
        if let Some(help) = &self.help {
            write!(formatter, "\n{margin} = {help}")?;
        }
        Ok(())
    }
}

/// Where a manifest's sweep names a dimension, in quotes as paths have to be.
fn place(text: &str, key: &str) -> Option<usize> {
    let sweep = text.find("\n[sweep.space]").or_else(|| text.find("\n[sweep"))?;
    let quoted = [format!("\"{key}\""), format!("'{key}'")];
    // `first` and `when` name it too, inside lines of their own.
    let by_line = quoted.iter().find_map(|key| text[sweep..].find(&format!("\n{key}")));
    let at = by_line
        .map(|at| at + 1)
        .or_else(|| quoted.iter().find_map(|key| text[sweep..].find(key.as_str())))?;
    Some(sweep + at + 1)
}

struct Listing<'a>(&'a [Diagnostic]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n\n")?;
            }
            write!(formatter, "{diagnostic}")?;
        }
        Ok(())
    }
}

/// `did you mean …?` where a candidate is close to what was written.
pub(crate) fn did_you_mean<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(written, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// `a`, `b` or `c`, each in backticks; `none` when empty.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        let joint = match index {
            0 => "",
            _ if index + 1 == names.len() => " or ",
            _ => ", ",
        };
        let _infallible = write!(text, "{joint}`{name}`");
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

/// What there is instead: `only …`, or that there is nothing.
pub(crate) fn only<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    match listed(names).as_str() {
        "none" => "nor any other".to_owned(),
        names => format!("only {names}"),
    }
}

/// `a` or `an` before a word.
pub(crate) fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_is_found_where_the_sweep_varies_it() {
        let mistake = Diagnostic {
            source: OVERRIDE.to_owned(),
            line: 1,
            column: 6,
            message: "too many".to_owned(),
            help: None,
            excerpt: "params.rows=9".to_owned(),
            width: 1,
        };
        let check = |text: &str, line: usize, column: usize| {
            let names = ["params.rows"].into_iter();
            let placed = mistake.clone().placed(Path::new("m.toml"), text, names);
            assert_eq!((placed.line, placed.column), (line, column), "{text}");
            assert_eq!(placed.source == OVERRIDE, line == 1, "{text}");
        };
        let head = "# params.rows\n\"params.rows\" = 1\n";
        let space = "\n\"params.rowsx\" = {}\n\"params.rows\" = { int = [1, 9] }\n";
        check(&format!("{head}[sweep.space]{space}"), 5, 2);
        let first = "[sweep]\nfirst = [{ \"params.rows\" = 1 }]\n[sweep.space]";
        check(&format!("{head}{first}{space}"), 7, 2);
        check(&format!("{head}[sweep]\nspace = {{ 'params.rows' = {{ int = [1, 9] }} }}\n"), 4, 12);
        check(&format!("{head}[sweep.space]\nparams.rows = {{ int = [1, 9] }}\n"), 1, 6);
        check(head, 1, 6);
    }
}
