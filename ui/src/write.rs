//! What changes something: notes and promotion. Both need the token.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Path, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Redirect;
use engine::history::{History, NewNote, RunRecord, StageState, Verdict};
use serde::Deserialize;

use crate::failure::Failure;
use crate::link;
use crate::page::run::PACKAGE;
use crate::state::{Promoted, Promotion, State};

/// A note, as the form sends it.
#[derive(Debug, Deserialize)]
pub(crate) struct NoteForm {
    #[serde(default)]
    token: String,
    author: String,
    /// `approved`, `rejected` or nothing.
    #[serde(default)]
    verdict: String,
    #[serde(default)]
    text: String,
}

/// A promotion, as the form sends it.
#[derive(Debug, Deserialize)]
pub(crate) struct PromotionForm {
    #[serde(default)]
    token: String,
    author: String,
    stage: String,
    port: String,
    service: String,
}

/// `POST /runs/{run}/notes`
pub(crate) async fn note(
    Extract(state): Extract<State>,
    Path(run): Path<String>,
    headers: HeaderMap,
    form: Result<Form<NoteForm>, FormRejection>,
) -> Result<Redirect, Failure> {
    let Form(form) = form?;
    check_token(&state, &headers, &form.token)?;
    let verdict = match form.verdict.as_str() {
        "" => None,
        "approved" => Some(Verdict::Approved),
        "rejected" => Some(Verdict::Rejected),
        other => {
            let message = format!("expected `approved`, `rejected` or nothing, found `{other}`");
            return Err(Failure::wrong(message));
        }
    };
    let note = NewNote::new(&form.author, verdict, &form.text).map_err(wrong_note)?;
    let choice = link::run(&run)?;
    state
        .ask(move |_, history| {
            let id = history.run(choice)?.summary.id;
            stored(history, id, &note)
        })
        .await
}

/// `POST /runs/{run}/promote`
pub(crate) async fn promote(
    Extract(state): Extract<State>,
    Path(run): Path<String>,
    headers: HeaderMap,
    form: Result<Form<PromotionForm>, FormRejection>,
) -> Result<Redirect, Failure> {
    let Form(form) = form?;
    check_token(&state, &headers, &form.token)?;
    let choice = link::run(&run)?;
    // Fails before anything changes when nobody says who they are.
    NewNote::new(&form.author, None, "promotes").map_err(wrong_note)?;
    let _alone = state.shared.promoting.lock().await;
    state
        .ask(move |state, history| {
            let record = history.run(choice)?;
            let promotion = promotion(state, &record, &form)?;
            let Promoted { version, was_live } = (state.shared.settings.promote)(&promotion)
                .map_err(|error| Failure::new(StatusCode::CONFLICT, error))?;
            let output = format!("{}.{}", form.stage, form.port);
            let outcome = if was_live { "was live already" } else { "is live" };
            let text = format!(
                "promoted {output} to service {} in {}: version {version} {outcome}",
                promotion.service,
                promotion.repository.display()
            );
            let note = NewNote::new(&form.author, None, &text).map_err(wrong_note)?;
            stored(history, record.summary.id, &note)
        })
        .await
}

fn promotion(
    state: &State,
    record: &RunRecord,
    form: &PromotionForm,
) -> Result<Promotion, Failure> {
    let id = record.summary.id;
    let output = format!("{}.{}", form.stage, form.port);
    let stage = record.stages.iter().find(|stage| stage.name == form.stage);
    let artifact = stage.and_then(|stage| {
        let good = matches!(stage.state, StageState::Ran | StageState::Hit);
        let fits = |port: &str, kind: &str| good && port == form.port && kind == PACKAGE;
        stage.artifacts.iter().find(|artifact| fits(&artifact.port, &artifact.kind))
    });
    let artifact = artifact
        .ok_or_else(|| Failure::missing(format!("run {id} has no finished package `{output}`")))?;
    let conflict = |message: String| Failure::new(StatusCode::CONFLICT, message);
    let decided = record.notes.iter().rev().find(|note| note.verdict.is_some());
    if let Some(note) = decided.filter(|note| note.verdict == Some(Verdict::Rejected)) {
        return Err(conflict(format!(
            "{} rejected run {id}; approve it first to promote its package",
            note.author
        )));
    }
    let package = artifact.path.clone().ok_or_else(|| {
        conflict(format!(
            "`{output}` of run {id} is no longer in the store; run the manifest again"
        ))
    })?;
    Ok(Promotion {
        package,
        repository: state.shared.settings.repository.clone(),
        service: form.service.trim().to_owned(),
    })
}

fn stored(history: &History, run: i64, note: &NewNote) -> Result<Redirect, Failure> {
    let note = history.add_note(run, note)?;
    Ok(Redirect::to(&format!("/runs/{run}#note-{}", note.id)))
}

fn wrong_note(error: engine::history::NoteError) -> Failure {
    Failure::wrong(error.to_string())
}

fn check_token(state: &State, headers: &HeaderMap, in_form: &str) -> Result<(), Failure> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let in_header = header.and_then(|value| value.strip_prefix("Bearer "));
    if state.shared.token.fits(in_header.unwrap_or(in_form)) {
        return Ok(());
    }
    let message = "expected the write token, found another or none; it is part of the address that \
                   `pipeline ui` printed, and changes with every start";
    Err(Failure::new(StatusCode::FORBIDDEN, message))
}
