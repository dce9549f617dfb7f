//! Gates: bounds that a manifest puts on a stage's metrics.

use crate::history::GateRecord;
use crate::manifest::{Bound, Gate};
use crate::protocol::{Metric, Unavailable};

/// How a gate came out, and what to say when it did not hold.
pub(crate) struct Judgement {
    pub(crate) record: GateRecord,
    pub(crate) complaint: Option<String>,
}

/// Holds every gate against the metrics of a stage.
pub(crate) fn judge(
    gates: &[Gate],
    metrics: &[Metric],
    unavailable: &[Unavailable],
) -> Vec<Judgement> {
    gates.iter().map(|gate| judge_one(gate, metrics, unavailable)).collect()
}

fn judge_one(gate: &Gate, metrics: &[Metric], unavailable: &[Unavailable]) -> Judgement {
    let mut record = GateRecord {
        gate: gate.key(),
        metric: None,
        bound: gate.limit,
        value: None,
        passed: false,
    };
    let metric = match find(gate, metrics, unavailable) {
        Ok(metric) => metric,
        Err(complaint) => return Judgement { record, complaint: Some(complaint) },
    };
    let (passed, relation) = match gate.bound {
        Bound::Max => (metric.value <= gate.limit, "at most"),
        Bound::Min => (metric.value >= gate.limit, "at least"),
    };
    record.metric = Some(metric.name.clone());
    record.value = Some(metric.value);
    record.passed = passed;
    let complaint = (!passed).then(|| {
        format!(
            "gate `{}`: {} is {} {}, required is {relation} {}",
            gate.key(),
            metric.name,
            metric.value,
            metric.unit,
            gate.limit
        )
    });
    Judgement { record, complaint }
}

/// The metric a gate is about, by full name or by its last part where that is unique.
fn find<'m>(
    gate: &Gate,
    metrics: &'m [Metric],
    unavailable: &[Unavailable],
) -> Result<&'m Metric, String> {
    let named = |name: &str| name == gate.metric || last_part(name) == gate.metric;
    // A metric that is reported again counts with its last value.
    if let Some(metric) = metrics.iter().rev().find(|metric| metric.name == gate.metric) {
        return Ok(metric);
    }
    let mut names: Vec<&str> =
        metrics.iter().map(|metric| metric.name.as_str()).filter(|name| named(name)).collect();
    names.sort_unstable();
    names.dedup();
    match names[..] {
        [name] => Ok(metrics
            .iter()
            .rev()
            .find(|metric| metric.name == name)
            .expect("the name was taken from the metrics")),
        [] => match unavailable.iter().find(|metric| named(&metric.name)) {
            Some(metric) => Err(format!(
                "gate `{}`: {} could not be measured: {}",
                gate.key(),
                metric.name,
                metric.reason
            )),
            None => {
                let reported: Vec<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
                let reported =
                    if reported.is_empty() { "none".to_owned() } else { reported.join(", ") };
                Err(format!(
                    "gate `{}`: no such metric was reported; there are: {reported}",
                    gate.key()
                ))
            }
        },
        _ => Err(format!(
            "gate `{}`: the name fits several metrics: {}; write one in full",
            gate.key(),
            names.join(", ")
        )),
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, value: f64) -> Metric {
        Metric { name: name.to_owned(), value, unit: "fraction".to_owned(), ..Metric::default() }
    }

    #[test]
    fn gates_find_their_metric_and_hold_or_complain() {
        let metrics = [
            metric("validation/accuracy-drop", 0.01),
            metric("validation/f1", 0.8),
            metric("test/f1", 0.7),
        ];
        let unavailable =
            [Unavailable { name: "test/energy".to_owned(), reason: "no RAPL".to_owned() }];
        let check = |key: &str, limit: f64, expected: Option<&str>| {
            let gate = Gate::parse(key, limit).unwrap();
            let judged = judge(&[gate], &metrics, &unavailable).remove(0);
            assert_eq!(judged.record.passed, expected.is_none(), "{key}");
            assert_eq!(judged.complaint.as_deref(), expected, "{key}");
        };
        check("accuracy-drop-max", 0.02, None);
        check("accuracy-drop-max", 0.01, None);
        check(
            "accuracy-drop-max",
            0.005,
            Some(
                "gate `accuracy-drop-max`: validation/accuracy-drop is 0.01 fraction, required is at most 0.005",
            ),
        );
        check("test/f1-min", 0.7, None);
        check(
            "f1-min",
            0.5,
            Some(
                "gate `f1-min`: the name fits several metrics: test/f1, validation/f1; write one in full",
            ),
        );
        check(
            "energy-max",
            1.0,
            Some("gate `energy-max`: test/energy could not be measured: no RAPL"),
        );
        check(
            "size-max",
            1.0,
            Some(
                "gate `size-max`: no such metric was reported; there are: validation/accuracy-drop, validation/f1, test/f1",
            ),
        );
    }
}
