//! The report of a run or a sweep as a file.

use axum::extract::{Path, State as Extract};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use reports::Format;

use crate::failure::Failure;
use crate::link;
use crate::state::State;

type File = Result<Response, Failure>;

/// `GET /runs/{run}/report.html`
pub(crate) async fn html(state: Extract<State>, run: Path<String>) -> File {
    run_file(state, run, Format::Html).await
}

/// `GET /runs/{run}/report.md`
pub(crate) async fn markdown(state: Extract<State>, run: Path<String>) -> File {
    run_file(state, run, Format::Markdown).await
}

/// `GET /runs/{run}/report.json`
pub(crate) async fn json(state: Extract<State>, run: Path<String>) -> File {
    run_file(state, run, Format::Json).await
}

/// `GET /sweeps/{sweep}/report.html`
pub(crate) async fn sweep_html(state: Extract<State>, sweep: Path<String>) -> File {
    sweep_file(state, sweep, Format::Html).await
}

/// `GET /sweeps/{sweep}/report.md`
pub(crate) async fn sweep_markdown(state: Extract<State>, sweep: Path<String>) -> File {
    sweep_file(state, sweep, Format::Markdown).await
}

/// `GET /sweeps/{sweep}/report.json`
pub(crate) async fn sweep_json(state: Extract<State>, sweep: Path<String>) -> File {
    sweep_file(state, sweep, Format::Json).await
}

/// `GET /sweeps/{sweep}/report.csv`
pub(crate) async fn sweep_csv(state: Extract<State>, sweep: Path<String>) -> File {
    sweep_file(state, sweep, Format::Csv).await
}

async fn run_file(Extract(state): Extract<State>, Path(run): Path<String>, format: Format) -> File {
    let choice = link::run(&run)?;
    let (id, text) = state
        .ask(move |_, history| {
            let record = history.run(choice)?;
            Ok((record.summary.id, reports::render(&[record], format)?))
        })
        .await?;
    Ok(file(&format!("run-{id}"), text, format))
}

async fn sweep_file(
    Extract(state): Extract<State>,
    Path(sweep): Path<String>,
    format: Format,
) -> File {
    let id = link::sweep(&sweep)?;
    let text = state
        .ask(move |_, history| Ok(reports::render_sweeps(&[history.sweep(id)?], format)?))
        .await?;
    Ok(file(&format!("sweep-{id}"), text, format))
}

fn file(name: &str, text: String, format: Format) -> Response {
    let (ending, content_type) = match format {
        Format::Html => ("html", "text/html; charset=utf-8"),
        Format::Markdown => ("md", "text/markdown; charset=utf-8"),
        Format::Json => ("json", "application/json"),
        Format::Csv => ("csv", "text/csv; charset=utf-8"),
    };
    let disposition = format!("attachment; filename=\"{name}.{ending}\"");
    let headers =
        [(header::CONTENT_TYPE, content_type), (header::CONTENT_DISPOSITION, &disposition)];
    (headers, text).into_response()
}
