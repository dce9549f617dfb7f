//! When each stage of a run was at work, which of them decided how long it took, and what the
//! cache saved.

use engine::history::{RunRecord, StageRecord, StageState};
use serde::Serialize;

use crate::dag;
use crate::plot::{Scale, Tick, round};
use crate::quantity::seconds;

const WIDTH: f64 = 400.0;
const LEFT: f64 = 12.0;
const RIGHT: f64 = 388.0;
const TOP: f64 = 10.0;
const ROW: f64 = 32.0;
/// Height left for ticks and title of the axis.
const AXIS: f64 = 40.0;
/// A stage of no time is still to be seen.
const MIN_WIDTH: f64 = 1.5;
/// Characters of a name that fit above its bar beside the duration.
const MAX_NAME: usize = 32;

/// Stages over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Timeline {
    pub(crate) summary: String,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) top: f64,
    pub(crate) bottom: f64,
    pub(crate) axis_title: String,
    pub(crate) ticks: Vec<Tick>,
    pub(crate) rows: Vec<Row>,
    /// The critical path in a sentence.
    pub(crate) critical: String,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) y: f64,
    pub(crate) x: f64,
    pub(crate) width: f64,
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) hover: String,
    pub(crate) state: StageState,
    pub(crate) is_critical: bool,
}

/// A stage with its times in seconds from the first start.
struct Span<'run> {
    stage: &'run StageRecord,
    start: f64,
    end: f64,
}

/// Draws the stages of `run` that started; `None` when none did or none has ended.
pub(crate) fn draw(run: &RunRecord) -> Option<Timeline> {
    let started = || run.stages.iter().filter_map(|stage| Some((stage, stage.started_at?)));
    let origin = started().map(|(_, at)| at).min()?;
    let spans: Vec<Span<'_>> = started()
        .filter_map(|(stage, at)| {
            let start = at.duration_since(origin).as_secs_f64();
            Some(Span { stage, start, end: start + stage.duration_s? })
        })
        .collect();
    let end = spans.iter().map(|span| span.end).fold(0.0, f64::max);
    if end <= 0.0 {
        return None;
    }
    let path = critical_path(&spans);
    let (factor, unit) = match end {
        _ if end >= 7200.0 => (3600.0, "hours"),
        _ if end >= 120.0 => (60.0, "minutes"),
        _ => (1.0, "seconds"),
    };
    let scale = Scale::steps([0.0, end / factor], LEFT, RIGHT);
    let row = |(index, span): (usize, &Span<'_>)| {
        let (x, right) = (scale.at(span.start / factor), scale.at(span.end / factor));
        Row {
            y: TOP + ROW * index as f64,
            x: x.min(RIGHT - MIN_WIDTH),
            width: round((right - x).max(MIN_WIDTH)),
            name: cut(&span.stage.name),
            value: dag::status(span.stage),
            hover: format!(
                "{}: {}, from {} to {}",
                span.stage.name,
                dag::status(span.stage),
                seconds(span.start),
                seconds(span.end)
            ),
            state: span.stage.state,
            is_critical: path.contains(&index),
        }
    };
    let bottom = TOP + ROW * spans.len() as f64;
    let critical = sentence(&spans, &path, end);
    Some(Timeline {
        summary: format!("When each of {} stages was at work. {critical}", spans.len()),
        width: WIDTH,
        height: bottom + AXIS,
        top: TOP,
        bottom,
        axis_title: format!("{unit} since the first stage started"),
        ticks: scale.ticks(5),
        rows: spans.iter().enumerate().map(row).collect(),
        critical,
    })
}

/// The stages that decided when the run was over, first to last: the one that ended last, the one
/// it waited for longest, and so on.
fn critical_path(spans: &[Span<'_>]) -> Vec<usize> {
    let mut path = Vec::new();
    let latest = |indices: &mut dyn Iterator<Item = usize>| {
        indices.max_by(|a, b| spans[*a].end.total_cmp(&spans[*b].end).then(b.cmp(a)))
    };
    let mut next = latest(&mut (0..spans.len()));
    while let Some(index) = next {
        path.push(index);
        // Records list stages upstream first, so this ends.
        let feeds = |earlier: &usize| {
            let name = &spans[*earlier].stage.name;
            let sources = spans[index].stage.inputs.iter().map(|edge| edge.from.split_once('.'));
            sources.flatten().any(|(stage, _)| stage == name)
        };
        next = latest(&mut (0..index).filter(feeds));
    }
    path.reverse();
    path
}

fn sentence(spans: &[Span<'_>], path: &[usize], end: f64) -> String {
    let names: Vec<&str> = path.iter().map(|index| spans[*index].stage.name.as_str()).collect();
    let work: f64 = path.iter().map(|index| spans[*index].end - spans[*index].start).sum();
    let mut text = format!(
        "Critical path: {}, {} of work in {} from the first start to the last end",
        names.join(" → "),
        seconds(work),
        seconds(end)
    );
    let waited = end - work;
    if waited > 0.01 * end {
        text.push_str(&format!("; the other {} its stages waited", seconds(waited)));
    }
    text.push('.');
    text
}

fn cut(text: &str) -> String {
    if text.chars().count() <= MAX_NAME {
        return text.to_owned();
    }
    let head: String = text.chars().take(MAX_NAME - 1).collect();
    format!("{head}…")
}

/// What the cache saved in a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Savings {
    /// Seconds of work that hits did not have to do again, as text.
    pub(crate) total: String,
    /// Stage, what its work took when it was done, and in which run that was.
    pub(crate) rows: Vec<[String; 3]>,
}

/// The hits of `run` whose work was timed; `None` without any.
pub(crate) fn savings(run: &RunRecord) -> Option<Savings> {
    let hits: Vec<(&StageRecord, f64)> = run
        .stages
        .iter()
        .filter(|stage| stage.state == StageState::Hit)
        .filter_map(|stage| Some((stage, stage.work_s?)))
        .collect();
    if hits.is_empty() {
        return None;
    }
    let row = |(stage, work): &(&StageRecord, f64)| {
        let origin = stage.origin_run.map_or_else(String::new, |run| format!("run {run}"));
        [stage.name.clone(), seconds(*work), origin]
    };
    Some(Savings {
        total: seconds(hits.iter().map(|(_, work)| work).sum()),
        rows: hits.iter().map(row).collect(),
    })
}

#[cfg(test)]
mod tests {
    use engine::history::EdgeRecord;
    use serde_json::json;

    use super::*;

    /// Stages as name, start, duration and inputs.
    fn path_of(stages: &[(&str, f64, f64, &[&str])]) -> Vec<String> {
        let records: Vec<StageRecord> = stages
            .iter()
            .map(|(name, .., inputs)| {
                let edge = |from: &&str| EdgeRecord {
                    port: "model".to_owned(),
                    from: format!("{from}.model"),
                    digest: None,
                };
                let mut stage: StageRecord = serde_json::from_value(json!({
                    "name": name, "kind": "k", "state": "ran", "reason": "", "key": null,
                    "key-document": null, "params": {}, "inputs": [], "artifacts": [],
                    "started-at": null, "duration-s": null, "work-s": null, "origin-run": null,
                    "threads": null, "attempts": [], "metrics": [], "unavailable": [],
                    "series": [], "gates": [], "log-path": null, "error": null,
                }))
                .unwrap();
                stage.inputs = inputs.iter().map(edge).collect();
                stage
            })
            .collect();
        let spans: Vec<Span<'_>> = records
            .iter()
            .zip(stages)
            .map(|(stage, (_, start, took, _))| Span { stage, start: *start, end: start + took })
            .collect();
        critical_path(&spans).iter().map(|index| spans[*index].stage.name.clone()).collect()
    }

    #[test]
    fn the_critical_path_follows_what_was_waited_for() {
        assert_eq!(path_of(&[("a", 0.0, 5.0, &[])]), ["a"]);
        // `b` and `c` go on at once; `c` is what `d` waits for.
        let diamond: [(&str, f64, f64, &[&str]); 5] = [
            ("a", 0.0, 5.0, &[]),
            ("b", 5.0, 2.0, &["a"]),
            ("c", 5.0, 9.0, &["a"]),
            ("d", 14.0, 1.0, &["b", "c"]),
            ("e", 14.0, 0.5, &["c"]),
        ];
        assert_eq!(path_of(&diamond), ["a", "c", "d"]);
    }
}
