//! What a verb answers, as text for people or JSON for programs, printed in one place.

use std::io::{self, Write as _};
use std::process::ExitCode;

use serde::Serialize;

/// What goes to standard output when a verb is done, and its exit code.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    text: String,
    code: u8,
}

impl Answer {
    /// An answer that is text whatever was asked for.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 0 }
    }

    /// The same with another exit code.
    pub(super) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Prints it.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub(super) fn print(&self) -> io::Result<ExitCode> {
        let mut out = io::stdout().lock();
        out.write_all(self.text.as_bytes())?;
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        out.flush()?;
        Ok(ExitCode::from(self.code))
    }
}

/// The option of every verb that prints facts.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Facts {
    /// Print JSON with stable field names
    #[arg(long)]
    pub(super) json: bool,
}

impl Facts {
    /// `value` as JSON when that was asked for, else the text.
    pub(super) fn answer(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Answer {
        Answer::text(if self.json { json(value) } else { text() })
    }
}

/// A value as JSON for people who read along.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("facts are plain JSON")
}

/// One event, one line. A reader that went away does not end what is going on.
pub(super) fn print_line(event: &impl Serialize) {
    let mut line = serde_json::to_vec(event).expect("an event is plain JSON");
    line.push(b'\n');
    let mut out = io::stdout().lock();
    let _unheard = out.write_all(&line).and_then(|()| out.flush());
}

/// Rows as aligned columns, two spaces apart; the first row is the header.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let padded = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  "));
        text.push_str(padded.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_clean() {
        let rows = [["stage", "why"], ["teacher", ""], ["int8", "forced"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "stage    why\nteacher\nint8     forced\n");
    }
}
