//! Several runs side by side.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Extract};
use engine::history::RunChoice;
use minijinja::{Value, context};

use crate::failure::{Failure, Page};
use crate::link;
use crate::state::State;
use crate::template;

/// Runs that are compared at once, at most.
pub(crate) const MOST: usize = 12;

/// `GET /compare?run=1&run=2`
pub(crate) async fn show(
    Extract(state): Extract<State>,
    asked: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Page {
    let Query(asked) = asked?;
    let mut choices: Vec<RunChoice> = Vec::new();
    for (_, run) in asked.iter().filter(|(name, _)| name == "run") {
        let choice = link::run(run)?;
        if !choices.contains(&choice) {
            choices.push(choice);
        }
    }
    if !(2..=MOST).contains(&choices.len()) {
        let found = choices.len();
        return Err(Failure::wrong(format!(
            "expected 2 to {MOST} runs to compare, found {found}; choose them in the list of runs"
        )));
    }
    state
        .ask(move |_, history| {
            let records =
                choices.iter().map(|choice| history.run(*choice)).collect::<Result<Vec<_>, _>>()?;
            let report = reports::content(&records)?;
            let ids: Vec<String> = records.iter().map(|run| run.summary.id.to_string()).collect();
            let page = context! {
                title => format!("Runs {}", ids.join(", ")),
                report => Value::from_safe_string(report),
            };
            template::print("compare.html", page)
        })
        .await
}
