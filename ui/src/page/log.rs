//! The log of a stage.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use axum::extract::{Path, State as Extract};
use axum::http::header;
use axum::response::IntoResponse;
use engine::history::StageLog;
use minijinja::context;

use crate::failure::{Failure, Page};
use crate::link;
use crate::state::State;
use crate::template;

/// Bytes of a log that a page shows, from its end.
const SHOWN: u64 = 256 * 1024;
/// Bytes that are read at once.
const MOST: u64 = 16 * 1024 * 1024;

/// A part of a log that ends with a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Whether it begins after the beginning.
    pub(crate) is_cut: bool,
    pub(crate) text: String,
    /// Bytes from the beginning of the log to the end of the part.
    pub(crate) end: u64,
}

/// `GET /runs/{run}/logs/{stage}`
pub(crate) async fn show(
    Extract(state): Extract<State>,
    Path((run, stage)): Path<(String, String)>,
) -> Page {
    let choice = link::run(&run)?;
    state
        .ask(move |_, history| {
            let log = history.log(choice, &stage)?;
            let id = log.run;
            let part = read(&log, None)?;
            let page = context! {
                title => format!("Log of {stage}, run {id}"),
                id, grows => log.grows, is_cut => part.is_cut, text => part.text,
                origin => (log.origin != id).then_some(log.origin),
                path => log.path.display().to_string(),
                whole => format!("{}/text", link::log(id, &stage)),
                live => format!("/live{}?from={}", link::log(id, &stage), part.end),
                stage,
            };
            template::print("log.html", page)
        })
        .await
}

/// `GET /runs/{run}/logs/{stage}/text`
pub(crate) async fn text(
    Extract(state): Extract<State>,
    Path((run, stage)): Path<(String, String)>,
) -> Result<impl IntoResponse, Failure> {
    let choice = link::run(&run)?;
    let text = state
        .ask(move |_, history| {
            let log = history.log(choice, &stage)?;
            std::fs::read(&log.path).map_err(|error| unreadable(&log, &error))
        })
        .await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text))
}

/// Whole lines of a log: from a byte on, else the last that a page shows.
pub(crate) fn read(log: &StageLog, from: Option<u64>) -> Result<Part, Failure> {
    part(&log.path, from, SHOWN).map_err(|error| unreadable(log, &error))
}

/// The last lines of a log, at most so many; nothing where it cannot be read.
pub(crate) fn tail(path: &std::path::Path, n_lines: usize) -> String {
    let text = part(path, None, 8 * 1024).map(|part| part.text).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n_lines)..].join("\n")
}

fn part(path: &std::path::Path, from: Option<u64>, shown: u64) -> io::Result<Part> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // A log that got shorter is another one.
    let from = from.filter(|from| *from <= length);
    let start = from.unwrap_or_else(|| length.saturating_sub(shown));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take((length - start).min(MOST)).read_to_end(&mut bytes)?;
    // A line that is being written comes the next time.
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
    let end = start + bytes.len() as u64;
    let is_cut = from.is_none() && start > 0;
    let whole = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(first) if is_cut => &bytes[first + 1..],
        _ => &bytes,
    };
    Ok(Part { is_cut, text: String::from_utf8_lossy(whole).into_owned(), end })
}

fn unreadable(log: &StageLog, error: &io::Error) -> Failure {
    Failure::missing(format!("the log {} cannot be read: {error}", log.path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\ntwö\nthree\nfou").unwrap();
        let check = |from, shown, is_cut, text: &str, end| {
            let expected = Part { is_cut, text: text.to_owned(), end };
            assert_eq!(part(file.path(), from, shown).unwrap(), expected);
        };
        check(None, 100, false, "one\ntwö\nthree\n", 15);
        check(None, 13, true, "three\n", 15);
        check(Some(4), 100, false, "twö\nthree\n", 15);
        check(Some(15), 100, false, "", 15);
        check(Some(99), 100, false, "one\ntwö\nthree\n", 15);
        assert_eq!(tail(file.path(), 2), "twö\nthree");
        assert_eq!(tail(std::path::Path::new("/nowhere"), 2), "");
    }
}
