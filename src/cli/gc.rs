//! `pipeline gc`.

use std::time::Duration;

use engine::store::{CollectOptions, Store};

use super::answer::{Answer, Facts};
use super::arguments::State;
use super::failure::Failure;
use super::quantity::{bytes, parse_bytes, parse_duration};

/// Removes leftovers and content that nothing refers to, and old results where asked for.
#[derive(Debug, clap::Args)]
pub(super) struct Gc {
    /// Also results, checkpoints and models that nobody used for this long, for instance 30d
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    older_than: Option<Duration>,
    /// Also the results unused for longest, until the store is this small, for instance 20GB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_size: Option<u64>,
    /// Say what would go, remove nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    facts: Facts,
}

impl Gc {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let options = CollectOptions {
            older_than: self.older_than,
            max_bytes: self.max_size,
            dry_run: self.dry_run,
        };
        let collected = Store::at(&self.state.folder()).collect(options)?;
        Ok(self.facts.answer(&collected, || {
            let would = if self.dry_run { "would remove" } else { "removed" };
            format!(
                "{would} {} results and {} files or folders, {}; {} stay",
                collected.actions,
                collected.removed,
                bytes(collected.freed_bytes),
                bytes(collected.kept_bytes)
            )
        }))
    }
}
