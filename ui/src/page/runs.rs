//! The list of runs: filtered, sorted, a page at a time.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Extract};
use engine::history::{History, ListedRun, RunOrder, RunQuery, RunState};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use super::{moment, seconds, verdict, word};
use crate::failure::{Failure, Page};
use crate::link;
use crate::state::State;
use crate::template;

/// Runs on a page.
const PAGE_SIZE: usize = 50;
const STATES: [&str; 4] = ["running", "done", "failed", "interrupted"];
/// Columns that can be sorted by: word in the address, title.
const ORDERS: [(&str, &str); 3] = [("id", "run"), ("manifest", "manifest"), ("duration", "took")];

/// What the address says; empty where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Asked {
    manifest: String,
    state: String,
    text: String,
    /// First day of starting, UTC.
    since: String,
    /// Last day of starting, UTC.
    until: String,
    sort: String,
    order: String,
    /// From 1.
    page: String,
}

/// `GET /`
pub(crate) async fn show(
    Extract(state): Extract<State>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Page {
    let Query(asked) = asked?;
    let query = asked.query()?;
    state
        .ask(move |_, history| {
            let list = read(history, &asked, &query)?;
            let manifests = history.manifests()?;
            let page = context! {
                title => "Runs", asked => Serde(&asked), manifests, states => STATES,
                columns => columns(&asked), list, live => format!("/live/runs{}", asked.address()),
            };
            template::print("runs.html", page)
        })
        .await
}

/// The rows of the table alone, for a page that is there already.
pub(crate) fn rows(history: &History, asked: &Asked) -> Result<String, Failure> {
    let list = read(history, asked, &asked.query()?)?;
    Ok(template::print("rows.html", context! { list })?.0)
}

fn read(history: &History, asked: &Asked, query: &RunQuery) -> Result<Value, Failure> {
    let found = history.list(query)?;
    let n_pages = found.total.div_ceil(PAGE_SIZE).max(1);
    let number = query.offset / PAGE_SIZE + 1;
    let to = |page: usize| Asked { page: page.to_string(), ..asked.clone() }.address();
    let pages = context! {
        number, n_pages,
        previous => (number > 1).then(|| to((number - 1).min(n_pages))),
        next => (number < n_pages).then(|| to(number + 1)),
        first => to(1), last => to(n_pages),
    };
    Ok(context! {
        runs => found.runs.iter().map(row).collect::<Vec<_>>(),
        total => found.total,
        from => query.offset + 1,
        to => query.offset + found.runs.len(),
        filtered => asked.is_filtered(),
        pages,
    })
}

fn row(run: &ListedRun) -> Value {
    let summary = &run.summary;
    let counts = [(summary.ran, "ran"), (summary.hits, "cached"), (summary.failed, "failed")];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    context! {
        id => summary.id,
        manifest => summary.manifest.as_str(),
        path => summary.manifest_path.display().to_string(),
        state => word(&summary.state),
        started => moment(summary.started_at),
        took => summary.duration_s.map(seconds),
        counts => counts.join(", "),
        verdict => verdict(run.verdict),
        n_notes => run.n_notes,
    }
}

/// Headings that can be clicked, each with where it leads and how the table is sorted by it.
fn columns(asked: &Asked) -> Vec<Value> {
    let sort = if asked.sort.is_empty() { "id" } else { &asked.sort };
    let ascending = asked.order == "ascending";
    let column = |(name, title): &(&str, &str)| {
        let sorted = (*name == sort).then_some(if ascending { "ascending" } else { "descending" });
        // Another click turns it round; numbers start with the greatest, names with the first.
        let order = match (sorted, *name) {
            (Some("ascending"), _) => "descending",
            (Some(_), _) | (None, "manifest") => "ascending",
            (None, _) => "descending",
        };
        let (sort, order, page) = ((*name).to_owned(), order.to_owned(), String::new());
        let address = Asked { sort, order, page, ..asked.clone() }.address();
        context! { name => *name, title => *title, sorted, address => format!("/{address}") }
    };
    ORDERS.iter().map(column).collect()
}

impl Asked {
    /// The query of an address that asks the same.
    pub(crate) fn address(&self) -> String {
        link::query([
            ("manifest", self.manifest.as_str()),
            ("state", &self.state),
            ("text", &self.text),
            ("since", &self.since),
            ("until", &self.until),
            ("sort", &self.sort),
            ("order", &self.order),
            ("page", &self.page),
        ])
    }

    fn is_filtered(&self) -> bool {
        [&self.manifest, &self.state, &self.text, &self.since, &self.until]
            .iter()
            .any(|value| !value.is_empty())
    }

    /// What the database is asked.
    pub(crate) fn query(&self) -> Result<RunQuery, Failure> {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let page: usize = match self.page.as_str() {
            "" => 1,
            text => text
                .parse()
                .ok()
                .filter(|page| (1..=usize::MAX / PAGE_SIZE).contains(page))
                .ok_or_else(|| Failure::wrong(format!("expected a page from 1, found `{text}`")))?,
        };
        let before = day(&self.until)?
            .map(|day| day.tomorrow().map_err(|_| Failure::wrong("the last day has no next")))
            .transpose()?;
        Ok(RunQuery {
            manifest: given(&self.manifest),
            state: state(&self.state)?,
            text: given(&self.text),
            since: day(&self.since)?.map(midnight).transpose()?,
            before: before.map(midnight).transpose()?,
            order: order(&self.sort)?,
            ascending: match self.order.as_str() {
                "" | "descending" => false,
                "ascending" => true,
                other => return Err(one_of("an order", &["ascending", "descending"], other)),
            },
            offset: (page - 1) * PAGE_SIZE,
            limit: PAGE_SIZE,
        })
    }
}

fn state(text: &str) -> Result<Option<RunState>, Failure> {
    Ok(match text {
        "" => None,
        "running" => Some(RunState::Running),
        "done" => Some(RunState::Done),
        "failed" => Some(RunState::Failed),
        "interrupted" => Some(RunState::Interrupted),
        other => return Err(one_of("a state", &STATES, other)),
    })
}

fn order(text: &str) -> Result<RunOrder, Failure> {
    Ok(match text {
        "" | "id" => RunOrder::Id,
        "manifest" => RunOrder::Manifest,
        "duration" => RunOrder::Duration,
        other => return Err(one_of("a column", &ORDERS.map(|(name, _)| name), other)),
    })
}

fn one_of(what: &str, expected: &[&str], found: &str) -> Failure {
    Failure::wrong(format!("expected {what} of {}, found `{found}`", expected.join(", ")))
}

fn day(text: &str) -> Result<Option<Date>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |_| Failure::wrong(format!("expected a day such as 2026-03-14, found `{text}`"));
    text.parse().map(Some).map_err(wrong)
}

fn midnight(day: Date) -> Result<jiff::Timestamp, Failure> {
    let start = day.to_zoned(TimeZone::UTC);
    start.map(|start| start.timestamp()).map_err(|error| Failure::wrong(error.to_string()))
}
