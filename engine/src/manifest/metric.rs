//! Whether a stage can report what a manifest demands of it.

use super::diagnostic::did_you_mean;
use crate::stage::AnyStage;

/// What is wrong with asking `stage` for the metric of this full name, and what helps.
pub(super) fn refuse(stage: &dyn AnyStage, name: &str) -> Option<(String, Option<String>)> {
    let known = stage.metrics();
    let is_known = known.iter().any(|pattern| covers(pattern, name));
    (!is_known).then(|| complaint(stage, name))
}

/// The same for a gate's metric, which may be given by the last part of its name.
pub(super) fn refuse_gate(stage: &dyn AnyStage, name: &str) -> Option<(String, Option<String>)> {
    let last = |pattern: &'static str| pattern.rsplit('/').next().unwrap_or(pattern);
    let known = stage.metrics();
    let is_known = known.iter().any(|pattern| covers(pattern, name) || covers(last(pattern), name));
    (!is_known).then(|| complaint(stage, name))
}

fn complaint(stage: &dyn AnyStage, name: &str) -> (String, Option<String>) {
    let known = stage.metrics();
    let message = format!("stages of kind `{}` report no `{name}`", stage.kind());
    let last = known.iter().map(|pattern| pattern.rsplit('/').next().unwrap_or(pattern));
    let close = did_you_mean(name, known.iter().copied().chain(last));
    let help = close.or_else(|| match known {
        [] => Some("they report no metrics".to_owned()),
        _ => Some(format!("they report {}", known.join(", "))),
    });
    (message, help)
}

/// Whether a name is what the pattern says, `*` standing for any part of it.
fn covers(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    name.strip_prefix(head).is_some_and(|rest| {
        let mut ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
        ends.any(|at| covers(tail, &rest[at..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_part() {
        for (pattern, name, expected) in [
            ("model/size", "model/size", true),
            ("model/size", "model/sizes", false),
            ("*", "", true),
            ("*", "a/b", true),
            ("bench/*/latency-p50", "bench/int8/latency-p50", true),
            ("bench/*/latency-p50", "bench/latency-p50", false),
            ("bench/*/throughput*", "bench/é/throughput-b8-s64", true),
            ("bench/*/throughput*", "bench/a/through", false),
            ("a*a", "a", false),
            ("a*a*", "aba", true),
        ] {
            assert_eq!(covers(pattern, name), expected, "{pattern} {name}");
        }
    }
}
