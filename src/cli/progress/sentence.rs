//! Events that are worth a line that stays, in words.

use std::fmt::Write as _;

use engine::RunEvent;
use engine::history::GateRecord;
use engine::store::Holder;

use crate::cli::quantity::seconds;

/// The line, or `None` for events that only move a live line.
pub(super) fn sentence(event: &RunEvent) -> Option<String> {
    Some(match event {
        RunEvent::WaitingForRun { holder } => {
            format!("waiting for {}, which is at work on this manifest", whom(holder.as_ref()))
        }
        RunEvent::WaitingForCollection { holder } => {
            let whom =
                holder.as_ref().map_or_else(|| "`pipeline gc`".to_owned(), ToString::to_string);
            format!("waiting for {whom}, which removes what nobody needs from the store")
        }
        RunEvent::RunStarted { run, manifest, device, fallback, stages } => {
            let stages = stages.join(", ");
            let mut text = format!("run {run} of {manifest} on {device}: {stages}");
            if let Some(fallback) = fallback {
                let _infallible = write!(text, " ({fallback})");
            }
            text
        }
        RunEvent::SourceReady { name, origin, .. } => format!("{name}: {origin}"),
        RunEvent::WaitingForStage { stage, holder } => {
            let whom = whom(holder.as_ref());
            format!("{stage}: waiting for {whom}, which is at work on the same result")
        }
        RunEvent::WaitingForWorker { stage } => {
            format!("{stage}: waiting for a worker of an earlier attempt, which is ending")
        }
        RunEvent::StageHit { stage, work_s, origin_run, .. } => {
            format!("{stage}: hit, done by run {origin_run} in {}", seconds(*work_s))
        }
        RunEvent::StageStarted { stage, kind, reason, expected_s, .. } => {
            let mut text = format!("{stage}: {kind} starts, {reason}");
            if let Some(expected_s) = expected_s {
                let _infallible = write!(text, "; about {}", seconds(*expected_s));
            }
            text
        }
        RunEvent::StageLog { stage, line } => format!("{stage}: {line}"),
        RunEvent::StageUnavailable { stage, name, reason } => {
            format!("{stage}: {name} is unavailable, {reason}")
        }
        RunEvent::StageRetrying { stage, attempt, delay_s, error } => {
            let pause = seconds(*delay_s);
            format!("{stage}: attempt {attempt} failed, the next one starts in {pause}: {error}")
        }
        RunEvent::StageFinished { stage, duration_s, gates } => {
            let mut text = format!("{stage}: done in {}", seconds(*duration_s));
            gates.iter().for_each(|gate| text.push_str(&held(gate)));
            text
        }
        RunEvent::StageFailed { stage, error, log_path } => {
            let mut text = format!("{stage}: failed: {error}");
            if let Some(path) = log_path {
                let _infallible = write!(text, "\n{stage}: its log is {}", path.display());
            }
            text
        }
        RunEvent::StageSkipped { stage, reason } => format!("{stage}: skipped, {reason}"),
        RunEvent::StageInterrupted { stage } => format!("{stage}: interrupted"),
        RunEvent::StagePaused { stage, epochs } => format!("{stage}: held after epoch {epochs}"),
        RunEvent::Stopping { kill: false } => {
            "stopping: stages leave a checkpoint first; interrupt again to kill them".to_owned()
        }
        RunEvent::Stopping { kill: true } => "killing the stages".to_owned(),
        RunEvent::Fetching { .. }
        | RunEvent::StageProgress { .. }
        | RunEvent::StageMetric { .. }
        | RunEvent::RunFinished { .. } => return None,
    })
}

pub(super) fn whom(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "another run".to_owned(), ToString::to_string)
}

fn held(gate: &GateRecord) -> String {
    let value = gate.value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.4}"));
    format!("; {} {}: {value}", gate.gate, gate.bound)
}
