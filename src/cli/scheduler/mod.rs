//! `pipeline scheduler run | list | emit-systemd`.

mod list;
mod run;
mod systemd;

use std::path::{Path, PathBuf};

use engine::manifest::Manifest;
use engine::schedule::{Timetable, timetable};
use stages::STAGES;

use super::answer::Answer;
use super::failure::Failure;

/// Runs manifests by their `[schedule]`.
#[derive(Debug, clap::Args)]
pub(super) struct Scheduler {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Run(run::Run),
    List(list::List),
    EmitSystemd(systemd::EmitSystemd),
}

impl Scheduler {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        match &self.verb {
            Verb::Run(verb) => verb.answer(),
            Verb::List(verb) => verb.answer(),
            Verb::EmitSystemd(verb) => verb.answer(),
        }
    }
}

/// Manifests with a schedule.
#[derive(Debug, clap::Args)]
struct Manifests {
    /// Manifest files with a `[schedule]`
    #[arg(value_name = "MANIFEST", required_unless_present = "folder", value_hint = clap::ValueHint::FilePath)]
    manifests: Vec<PathBuf>,
    /// Folder whose manifests with a `[schedule]` are taken too
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    folder: Option<PathBuf>,
}

/// A manifest that has a schedule.
struct Scheduled {
    /// As named.
    manifest: PathBuf,
    /// Its one true path.
    file: PathBuf,
    timetable: Timetable,
}

impl Manifests {
    /// All of them, and the exit code to end with. Those named have to have a schedule; those of
    /// the folder that cannot be read are told and left out, manifests not without a mark.
    fn read(&self) -> Result<(Vec<Scheduled>, u8), Failure> {
        let mut scheduled = Vec::new();
        for manifest in &self.manifests {
            let one = read(manifest.clone())?;
            scheduled.push(one.ok_or_else(|| {
                let shown = manifest.display();
                Failure::wrong(format!(
                    "{shown} has no `[schedule]`; add one with a `cron`, see docs/manifest.md"
                ))
            })?);
        }
        let Some(folder) = &self.folder else { return Ok((scheduled, 0)) };
        let failed = |error| {
            let context = format!("cannot read the folder {}", folder.display());
            Failure::from(anyhow::Error::new(error).context(context))
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            found.extend(path.extension().is_some_and(|ending| ending == "toml").then_some(path));
        }
        found.sort();
        let mut code = 0;
        for manifest in found {
            match read(manifest.clone()) {
                Ok(one) => scheduled.extend(one),
                Err(failure) => {
                    failure.print();
                    // A folder holds other files too; one manifest must not stop the others.
                    if is_meant(&manifest) {
                        code = code.max(failure.code());
                    }
                }
            }
        }
        Ok((scheduled, code))
    }
}

/// Whether a file that is no manifest was to be one: it says its `schema`.
fn is_meant(file: &Path) -> bool {
    let names_schema =
        |line: &str| line.split('=').next().is_some_and(|key| key.trim() == "schema");
    std::fs::read_to_string(file).is_ok_and(|text| text.lines().any(names_schema))
}

fn read(manifest: PathBuf) -> Result<Option<Scheduled>, Failure> {
    let read = Manifest::read(&manifest, STAGES, &[]).map_err(engine::Error::from)?;
    let Some(schedule) = read.schedule else { return Ok(None) };
    let file = manifest.canonicalize().unwrap_or_else(|_| manifest.clone());
    let timetable = timetable(schedule, &file);
    Ok(Some(Scheduled { manifest, file, timetable }))
}
