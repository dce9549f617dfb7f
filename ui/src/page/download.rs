//! The report of a run as a file.

use axum::extract::{Path, State as Extract};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use reports::Format;

use crate::failure::Failure;
use crate::link;
use crate::state::State;

/// `GET /runs/{run}/report.html`
pub(crate) async fn html(state: Extract<State>, run: Path<String>) -> Result<Response, Failure> {
    file(state, run, Format::Html, "html", "text/html; charset=utf-8").await
}

/// `GET /runs/{run}/report.md`
pub(crate) async fn markdown(
    state: Extract<State>,
    run: Path<String>,
) -> Result<Response, Failure> {
    file(state, run, Format::Markdown, "md", "text/markdown; charset=utf-8").await
}

/// `GET /runs/{run}/report.json`
pub(crate) async fn json(state: Extract<State>, run: Path<String>) -> Result<Response, Failure> {
    file(state, run, Format::Json, "json", "application/json").await
}

async fn file(
    Extract(state): Extract<State>,
    Path(run): Path<String>,
    format: Format,
    ending: &'static str,
    content_type: &'static str,
) -> Result<Response, Failure> {
    let choice = link::run(&run)?;
    let (id, text) = state
        .ask(move |_, history| {
            let record = history.run(choice)?;
            Ok((record.summary.id, reports::render(&[record], format)?))
        })
        .await?;
    let disposition = format!("attachment; filename=\"run-{id}.{ending}\"");
    let headers =
        [(header::CONTENT_TYPE, content_type), (header::CONTENT_DISPOSITION, &disposition)];
    Ok((headers, text).into_response())
}
