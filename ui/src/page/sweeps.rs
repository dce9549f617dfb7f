//! The list of sweeps.

use axum::extract::State as Extract;
use engine::history::{History, SweepSummary};
use minijinja::{Value, context};

use super::{moment, seconds, word};
use crate::failure::{Failure, Page};
use crate::state::State;
use crate::template;

/// Newest sweeps that are listed.
const MOST: usize = 200;

/// `GET /sweeps`
pub(crate) async fn show(Extract(state): Extract<State>) -> Page {
    state
        .ask(|_, history| {
            let sweeps = read(history)?;
            template::print("sweeps.html", context! { title => "Sweeps", sweeps, most => MOST })
        })
        .await
}

/// The rows of the table alone, for a page that is there already.
pub(crate) fn rows(history: &History) -> Result<String, Failure> {
    Ok(template::print("sweep-rows.html", context! { sweeps => read(history)? })?.0)
}

fn read(history: &History) -> Result<Vec<Value>, Failure> {
    Ok(history.sweeps(MOST)?.iter().map(row).collect())
}

fn row(sweep: &SweepSummary) -> Value {
    context! {
        id => sweep.id,
        manifest => sweep.manifest.as_str(),
        path => sweep.manifest_path.display().to_string(),
        state => word(&sweep.state),
        started => moment(sweep.started_at),
        took => seconds(sweep.duration_s),
        sampler => sweep.sampler.as_str(),
        done => sweep.done,
        asked => sweep.asked,
        held => sweep.paused,
        failed => sweep.failed,
    }
}
