//! One file a page.

pub(crate) mod compare;
pub(crate) mod download;
pub(crate) mod log;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod sweep;
pub(crate) mod sweeps;

use engine::history::Verdict;
use minijinja::Value;
use minijinja::value::Serde;
use serde::Serialize;

/// An instant as people read it.
fn moment(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M").to_string()
}

/// Seconds as people read them.
pub(crate) fn seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..10 => format!("{:.1} s", seconds.max(0.0)),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A state as its word.
pub(crate) fn word(state: &impl Serialize) -> String {
    Value::from(Serde(state)).to_string()
}

fn verdict(verdict: Option<Verdict>) -> Option<&'static str> {
    verdict.map(Verdict::word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_by_people() {
        let check = |found: f64, expected: &str| assert_eq!(seconds(found), expected);
        check(-1.0, "0.0 s");
        check(3.16, "3.2 s");
        check(59.4, "59 s");
        check(75.0, "1 min 15 s");
        check(7260.0, "2 h 1 min");
    }
}
