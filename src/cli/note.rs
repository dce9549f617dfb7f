//! `pipeline note RUN TEXT`.

use engine::history::{NewNote, RunChoice, Verdict};

use super::answer::{Answer, Facts};
use super::arguments::State;
use super::failure::Failure;

/// Says something about a run, approves or rejects it; reports and `ui` show it.
#[derive(Debug, clap::Args)]
pub(super) struct Note {
    /// Run: a number or `latest`
    run: RunChoice,
    /// What there is to say
    #[arg(required_unless_present_any = ["approve", "reject"])]
    text: Option<String>,
    /// The run may be used
    #[arg(long, conflicts_with = "reject")]
    approve: bool,
    /// The run may not be used
    #[arg(long)]
    reject: bool,
    /// Who says so [default: $USER]
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    facts: Facts,
}

impl Note {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let verdict = match (self.approve, self.reject) {
            (true, _) => Some(Verdict::Approved),
            (_, true) => Some(Verdict::Rejected),
            _ => None,
        };
        let author = self.author.clone().unwrap_or_else(user);
        let note = NewNote::new(&author, verdict, self.text.as_deref().unwrap_or_default())
            .map_err(|error| Failure::wrong(error.to_string()))?;
        let history = self.state.history()?;
        let run = history.run(self.run)?.summary.id;
        let stored = history.add_note(run, &note)?;
        let what = verdict.map_or("noted", Verdict::word);
        Ok(self.facts.answer(&stored, || format!("run {run}: {what} by {}", stored.author)))
    }
}

/// Who is at work here.
pub(super) fn user() -> String {
    let named = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
    named("USER").or_else(|| named("LOGNAME")).unwrap_or_else(|| "someone".to_owned())
}
