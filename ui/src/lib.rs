//! Pages about runs and sweeps, served live from the run database to a browser on the same machine.
//!
//! It shows what [`engine::history`] reads, in the pages of [`reports`], and lets people say what
//! they think of a run and put its package to use. It knows no stage kinds and starts no runs: runs
//! of other processes show up because the database, their logs and their progress file are looked
//! at again twice a second. Whoever starts it hands in how a package is promoted, so that no stage
//! is known here.
//!
//! Reading works without JavaScript; `ui.js` adds live updates, sorting and a remembered theme.
//! Only loopback is listened on, only requests for that address are answered, and what changes
//! something needs the token that was printed at the start.
//!
//! # Layout
//!
//! - [`app`]: the routes. [`Server`]: the same behind a socket.
//! - `page`: one file a page. `live`: streams of events. `write`: notes and promotion.
//! - `guard`: who is answered, and what browsers may do with the answers. `token`: who may write.
//! - `records`: blocking reads off the async threads. `failure`: errors as pages.
//!
//! Start at [`app`].

mod failure;
mod guard;
mod link;
mod live;
mod page;
mod records;
mod server;
mod state;
mod template;
mod token;
mod write;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{get, post};

pub use server::{ServeError, Server};
pub use state::{Promote, Promoted, Promotion, Settings, State};
pub use token::Token;

/// Largest request that is read: a form with a long note.
const BODY_LIMIT: usize = 256 * 1024;

/// Every page, ready to be asked.
pub fn app(state: State) -> Router {
    Router::new()
        .route("/", get(page::runs::show))
        .route("/compare", get(page::compare::show))
        .route("/runs/{run}", get(page::run::show))
        .route("/runs/{run}/report.html", get(page::download::html))
        .route("/runs/{run}/report.md", get(page::download::markdown))
        .route("/runs/{run}/report.json", get(page::download::json))
        .route("/runs/{run}/logs/{stage}", get(page::log::show))
        .route("/runs/{run}/logs/{stage}/text", get(page::log::text))
        .route("/runs/{run}/notes", post(write::note))
        .route("/runs/{run}/promote", post(write::promote))
        .route("/sweeps", get(page::sweeps::show))
        .route("/sweeps/{sweep}", get(page::sweep::show))
        .route("/sweeps/{sweep}/report.html", get(page::download::sweep_html))
        .route("/sweeps/{sweep}/report.md", get(page::download::sweep_markdown))
        .route("/sweeps/{sweep}/report.json", get(page::download::sweep_json))
        .route("/sweeps/{sweep}/report.csv", get(page::download::sweep_csv))
        .route("/live/sweeps", get(live::sweeps))
        .route("/live/sweeps/{sweep}", get(live::sweep))
        .route("/live/runs", get(live::runs))
        .route("/live/runs/{run}", get(live::run))
        .route("/live/runs/{run}/logs/{stage}", get(live::log))
        .route("/style.css", get(style))
        .route("/ui.js", get(script))
        .fallback(failure::no_page)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(state.clone(), guard::guard))
        .with_state(state)
}

async fn style() -> impl IntoResponse {
    let text = [reports::style(), include_str!("templates/ui.css")].concat();
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], text)
}

async fn script() -> impl IntoResponse {
    let text = include_str!("templates/ui.js");
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], text)
}
