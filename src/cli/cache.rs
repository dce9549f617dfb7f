//! `pipeline cache verify`.

use std::fmt::Write as _;

use engine::store::{Store, Verification};

use super::answer::{Answer, Facts};
use super::arguments::State;
use super::failure::Failure;
use super::quantity::bytes;

/// Looks after the store of results.
#[derive(Debug, clap::Args)]
pub(super) struct Cache {
    #[command(subcommand)]
    verb: CacheVerb,
}

#[derive(Debug, clap::Subcommand)]
enum CacheVerb {
    /// Reads everything back, compares digests and forgets results that are damaged
    Verify {
        #[command(flatten)]
        state: State,
        #[command(flatten)]
        facts: Facts,
    },
}

impl Cache {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let CacheVerb::Verify { state, facts } = &self.verb;
        let found = Store::at(&state.folder()).verify_all()?;
        let code = u8::from(!found.damaged.is_empty());
        Ok(facts.answer(&found, || text(&found)).with_code(code))
    }
}

fn text(found: &Verification) -> String {
    let mut text = format!("{} results, {} read back", found.actions, bytes(found.size_bytes));
    if found.damaged.is_empty() {
        text.push_str(", all as recorded\n");
        return text;
    }
    let count = found.damaged.len();
    let _infallible = writeln!(text, ", {count} damaged; the next run does their work again:");
    for damage in &found.damaged {
        let _infallible = writeln!(text, "  {damage}");
    }
    text
}
