//! One run: what it does right now, its report, what can be said and done about it.

use axum::extract::{Path, State as Extract};
use engine::history::{RunRecord, RunState, StageRecord, StageState};
use minijinja::{Value, context};

use super::verdict;
use crate::failure::Page;
use crate::link;
use crate::live;
use crate::state::State;
use crate::template;

/// Kind of the ports whose artifacts can go live.
pub(crate) const PACKAGE: &str = "package";

/// `GET /runs/{run}`
pub(crate) async fn show(Extract(state): Extract<State>, Path(run): Path<String>) -> Page {
    let choice = link::run(&run)?;
    state
        .ask(move |state, history| {
            let record = history.run(choice)?;
            let id = record.summary.id;
            let going = record.summary.state == RunState::Running;
            let panel = if going { live::panel(&history.live(id)?)? } else { String::new() };
            let report = reports::content(std::slice::from_ref(&record))?;
            let decided = record.notes.iter().rev().find_map(|note| note.verdict);
            let page = context! {
                title => format!("{} run {id}", record.summary.manifest),
                id, going,
                panel => Value::from_safe_string(panel),
                report => Value::from_safe_string(report),
                logs => record.stages.iter().filter_map(|stage| log(id, stage)).collect::<Vec<_>>(),
                packages => packages(&record),
                verdict => verdict(decided),
                author => state.shared.settings.author.as_str(),
                repository => state.shared.settings.repository.display().to_string(),
            };
            template::print("run.html", page)
        })
        .await
}

fn log(run: i64, stage: &StageRecord) -> Option<Value> {
    let has_log = stage.log_path.is_some() || stage.origin_run.is_some();
    has_log
        .then(|| context! { stage => stage.name.as_str(), address => link::log(run, &stage.name) })
}

fn packages(record: &RunRecord) -> Vec<Value> {
    let good = record
        .stages
        .iter()
        .filter(|stage| matches!(stage.state, StageState::Ran | StageState::Hit));
    good.flat_map(|stage| stage.artifacts.iter().map(move |artifact| (stage, artifact)))
        .filter(|(_, artifact)| artifact.kind == PACKAGE)
        .map(|(stage, artifact)| {
            context! {
                stage => stage.name.as_str(),
                port => artifact.port.as_str(),
                service => service(record, &format!("{}.{}", stage.name, artifact.port)),
                is_there => artifact.path.is_some(),
            }
        })
        .collect()
}

/// The name under which the run itself put this output to use, else that of its manifest.
fn service(record: &RunRecord, output: &str) -> String {
    let users =
        record.stages.iter().filter(|stage| stage.inputs.iter().any(|edge| edge.from == output));
    let named = users.filter_map(|stage| stage.params.get("name")?.as_str());
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    let fallback = || record.summary.manifest.replace(|letter: char| !fits(letter), "-");
    named.map(str::to_owned).next().unwrap_or_else(fallback)
}
