//! `pipeline bundle RUN -o FILE` and `pipeline bundle verify FILE`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use engine::history::RunChoice;
use reports::{BundleError, Inspections, Replay, Verified};

use super::answer::{Answer, Facts};
use super::arguments::State;
use super::failure::{Failure, WRONG};

/// Most bytes of a file that is read as a bundle.
const MAX_BYTES: u64 = 512 << 20;

/// Packs a run into one file with its report, record, manifest and digests, or checks such a file.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Bundle {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Run: a number or `latest`
    #[arg(required = true)]
    run: Option<RunChoice>,
    /// File to write, for instance run.tar.zst
    #[arg(short, long, value_name = "FILE", required = true)]
    output: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Verify(Verify),
}

/// Checks every digest of a bundle and makes its report again, offline.
#[derive(Debug, clap::Args)]
struct Verify {
    /// File that `pipeline bundle` wrote
    file: PathBuf,
    #[command(flatten)]
    facts: Facts,
}

impl Bundle {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        if let Some(Verb::Verify(verb)) = &self.verb {
            return verb.answer();
        }
        let (Some(run), Some(output)) = (self.run, &self.output) else {
            return Err(Failure::wrong("expected a run and a file to write, found neither"));
        };
        let record = self.state.history()?.run(run)?;
        let inspections = Inspections::read(std::slice::from_ref(&record));
        let bytes = reports::bundle(&record, &inspections).context("cannot bundle the run")?;
        write_whole(output, &bytes)?;
        Ok(Answer::text(output.display().to_string()))
    }
}

impl Verify {
    fn answer(&self) -> Result<Answer, Failure> {
        let path = self.file.display();
        let cannot = || format!("cannot read {path}");
        let size = std::fs::metadata(&self.file).with_context(cannot)?.len();
        if size > MAX_BYTES {
            return Err(Failure::wrong(format!(
                "{path} has {size} bytes, expected a bundle of at most {MAX_BYTES}"
            )));
        }
        let bytes = std::fs::read(&self.file).with_context(cannot)?;
        let verified = reports::verify(&bytes).map_err(|error| {
            let code = if matches!(error, BundleError::Damaged { .. }) { 1 } else { WRONG };
            Failure::Other(anyhow::Error::new(error).context(path.to_string()), code)
        })?;
        Ok(self.facts.answer(&verified, || text(&verified)))
    }
}

fn text(verified: &Verified) -> String {
    let Verified { run, manifest, entries, replay } = verified;
    let replay = match replay {
        Replay::Same => "its report was made again and is the same".to_owned(),
        Replay::OtherVersion { bundled_by } => {
            format!("version {bundled_by} made it, so its report was not made again")
        }
    };
    format!("run {run} of {manifest}: all {entries} digests hold; {replay}")
}

/// Writes a file that is there as a whole or not at all.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;

    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let written = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(content)?;
        file.persist(path)?;
        std::io::Result::Ok(())
    };
    Ok(written().with_context(|| format!("cannot write {}", path.display()))?)
}
