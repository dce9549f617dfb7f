//! Streams of events for pages that are open: what other processes write shows up by itself.
//!
//! The database, progress files and logs are looked at twice a second, and only what changed is
//! sent.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Extract};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use engine::history::{History, LiveRun, LiveStage, RunChoice, RunState, StageState, SweepState};
use futures_util::stream;
use minijinja::{Value, context};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::failure::Failure;
use crate::link;
use crate::page::{log, runs, seconds, sweep, sweeps};
use crate::state::State;
use crate::template;

const PAUSE: Duration = Duration::from_millis(500);
/// Lines of its log that a running stage shows.
const TAIL: usize = 8;

/// What a look brought.
#[derive(Debug, Default)]
struct Seen {
    events: Vec<Event>,
    /// Whether nothing more will come.
    over: bool,
}

/// `GET /live/runs`: `rows` with the rows of the list whenever they change.
pub(crate) async fn runs(
    Extract(state): Extract<State>,
    asked: Result<Query<runs::Asked>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(asked) = asked?;
    asked.query()?;
    watch_rows(&state, move |history| runs::rows(history, &asked))
}

/// `GET /live/sweeps`: the same for the list of sweeps.
pub(crate) async fn sweeps(Extract(state): Extract<State>) -> Result<Response, Failure> {
    watch_rows(&state, sweeps::rows)
}

fn watch_rows(
    state: &State,
    read: impl Fn(&History) -> Result<String, Failure> + Send + 'static,
) -> Result<Response, Failure> {
    let mut last = None;
    watch(state, move |state| {
        let rows = state.shared.records.read(&read)?;
        let mut seen = Seen::default();
        if last.as_ref() != Some(&rows) {
            seen.events.push(event("rows", &rows));
            last = Some(rows);
        }
        Ok(seen)
    })
}

/// `GET /live/sweeps/{sweep}`: `status` with a sentence, `stages` when a trial or one of its seeds
/// got on, `over` at the end of the sweep.
pub(crate) async fn sweep(
    Extract(state): Extract<State>,
    Path(sweep): Path<String>,
) -> Result<Response, Failure> {
    let id = link::sweep(&sweep)?;
    state.ask(move |_, history| Ok(history.sweep(id)?)).await?;
    let mut last = None;
    watch(&state, move |state| {
        let record = state.shared.records.read(|history| Ok(history.sweep(id)?))?;
        let mut seen =
            Seen { over: record.summary.state != SweepState::Running, ..Seen::default() };
        let changed = last.as_ref().is_none_or(|last| *last != record.trials);
        if changed || seen.over {
            seen.events.push(event("status", &sweep::status(&record)));
        }
        if changed && last.is_some() {
            seen.events.push(event("stages", "changed"));
        }
        if seen.over {
            seen.events.push(event("over", "ended"));
        }
        last = Some(record.trials);
        Ok(seen)
    })
}

/// `GET /live/runs/{run}`: `panel` with what runs, `status` with a sentence, `stages` when a stage
/// started or ended, `over` at the end of the run.
pub(crate) async fn run(
    Extract(state): Extract<State>,
    Path(run): Path<String>,
) -> Result<Response, Failure> {
    let choice = link::run(&run)?;
    let id = state.ask(move |_, history| Ok(history.run(choice)?.summary.id)).await?;
    let (mut last_panel, mut last_status, mut last_states) = (None, None, None);
    watch(&state, move |state| {
        let live = state.shared.records.read(|history| Ok(history.live(id)?))?;
        let (panel, status) = (panel(&live)?, status(&live));
        let states: Vec<StageState> = live.stages.iter().map(|stage| stage.state).collect();
        let mut seen = Seen { over: live.summary.state != RunState::Running, ..Seen::default() };
        if last_panel.as_ref() != Some(&panel) {
            seen.events.push(event("panel", &panel));
        }
        if last_status.as_ref() != Some(&status) {
            seen.events.push(event("status", &status));
        }
        if last_states.as_ref().is_some_and(|last| *last != states) {
            seen.events.push(event("stages", "changed"));
        }
        if seen.over {
            seen.events.push(event("over", "ended"));
        }
        (last_panel, last_status, last_states) = (Some(panel), Some(status), Some(states));
        Ok(seen)
    })
}

/// Where a page's log ends.
#[derive(Debug, Deserialize)]
pub(crate) struct From {
    from: u64,
}

/// `GET /live/runs/{run}/logs/{stage}?from=BYTE`: `lines` with what was added, `over` at the end.
pub(crate) async fn log(
    Extract(state): Extract<State>,
    Path((run, stage)): Path<(String, String)>,
    asked: Result<Query<From>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(From { mut from }) = asked?;
    let choice = link::run(&run)?;
    let name = stage.clone();
    let id = state.ask(move |_, history| Ok(history.log(choice, &name)?.run)).await?;
    watch(&state, move |state| {
        let log =
            state.shared.records.read(|history| Ok(history.log(RunChoice::Id(id), &stage)?))?;
        let part = log::read(&log, Some(from))?;
        from = part.end;
        let mut seen = Seen { over: !log.grows, ..Seen::default() };
        if !part.text.is_empty() {
            seen.events.push(event("lines", &part.text));
        }
        if seen.over {
            seen.events.push(event("over", "ended"));
        }
        Ok(seen)
    })
}

/// What runs, as a piece of a page.
pub(crate) fn panel(live: &LiveRun) -> Result<String, Failure> {
    let running = live.stages.iter().filter(|stage| stage.state == StageState::Running);
    let stages: Vec<Value> = running.map(|stage| standing(live.summary.id, stage)).collect();
    Ok(template::print("live.html", context! { stages })?.0)
}

fn standing(run: i64, stage: &LiveStage) -> Value {
    let progress = stage.progress.as_ref().map(|record| &record.progress);
    let counted = progress.filter(|progress| progress.total > 0);
    let mut facts = Vec::new();
    if let Some(progress) = progress {
        facts.extend((!progress.phase.is_empty()).then(|| progress.phase.clone()));
        facts.push(match progress.total {
            0 => format!("step {}", progress.step),
            total => format!("step {} of {total}", progress.step),
        });
        facts.extend(progress.loss.map(|loss| format!("loss {loss:.4}")));
        facts.extend(progress.rate.map(|rate| format!("{rate:.0} {}/s", progress.rate_unit)));
    }
    facts.extend(stage.started_at.map(|start| {
        let going = jiff::Timestamp::now().duration_since(start).as_secs_f64();
        format!("for {}", seconds(going.floor()))
    }));
    context! {
        name => stage.name.as_str(),
        facts => facts.join(" · "),
        step => counted.map(|progress| progress.step.min(progress.total)),
        total => counted.map(|progress| progress.total),
        tail => stage.log_path.as_ref().map(|path| log::tail(path, TAIL)),
        log => link::log(run, &stage.name),
    }
}

/// What the run does, in a sentence that changes when a stage starts or ends.
fn status(live: &LiveRun) -> String {
    let running: Vec<&str> = live
        .stages
        .iter()
        .filter(|stage| stage.state == StageState::Running)
        .map(|stage| stage.name.as_str())
        .collect();
    let n_ended = live.stages.len() - running.len();
    match (live.summary.state, running.as_slice()) {
        (RunState::Running, []) => format!("{n_ended} stages ended, the next is about to start"),
        (RunState::Running, names) => {
            format!("{n_ended} stages ended, running {}", names.join(", "))
        }
        (state, _) => format!("The run has ended: {}", crate::page::word(&state)),
    }
}

/// Looks again and again, until nothing more will come or nobody listens.
fn watch(
    state: &State,
    look: impl FnMut(&State) -> Result<Seen, Failure> + Send + 'static,
) -> Result<Response, Failure> {
    let permit = state.shared.watchers.clone().try_acquire_owned().map_err(|_| {
        let message = "too many pages are open to be updated; close some and load this one again";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    let mut stopping = state.shared.stopping.subscribe();
    let (sender, receiver) = mpsc::channel(4);
    let (state, mut look) = (state.clone(), look);
    // Ends with the stream: it notices when the receiver goes.
    tokio::spawn(async move {
        let _permit = permit;
        loop {
            let asked = state.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let seen = look(&asked);
                (look, seen)
            });
            // A failure here is shown by the page when it is loaded again.
            let Ok((again, Ok(seen))) = looked.await else { return };
            look = again;
            for event in seen.events {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            if seen.over {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = sender.closed() => return,
                _ = stopping.changed() => return,
            }
        }
    });
    let events = stream::unfold(receiver, |mut receiver| async {
        let event = receiver.recv().await?;
        Some((Ok::<_, Infallible>(event), receiver))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

fn event(name: &str, text: &str) -> Event {
    debug_assert!(!text.is_empty(), "browsers drop events without data");
    // A carriage return would end a line of the protocol.
    Event::default().event(name).data(text.replace('\r', "\u{240d}"))
}
