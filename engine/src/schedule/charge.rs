//! The manifests that a scheduler looks after.

use std::path::{Path, PathBuf};

use super::{OnRegression, Schedule, Scheduler, Timetable};
use crate::error::Error;
use crate::history::Scheduled;
use crate::project::state_folder;

/// A manifest that is looked after.
pub(super) struct Charge {
    /// As named.
    pub(super) manifest: PathBuf,
    /// Its one true path, as runs keep it.
    pub(super) file: PathBuf,
    shown: PathBuf,
    pub(super) root: PathBuf,
    pub(super) home: PathBuf,
    pub(super) timetable: Timetable,
}

impl Charge {
    pub(super) fn watch(&self) -> Option<&OnRegression> {
        self.timetable.schedule().on_regression.as_ref()
    }

    /// What the program is to do with the manifest.
    pub(super) fn verb(&self) -> &'static str {
        if self.timetable.schedule().sweep { "sweep" } else { "run" }
    }

    pub(super) fn scheduled(&self) -> Scheduled<'_> {
        Scheduled {
            manifest_file: &self.file,
            manifest_path: &self.shown,
            timetable: &self.timetable,
        }
    }
}

impl Scheduler {
    pub(super) fn charge(&self, manifest: &Path) -> Result<Option<Charge>, Error> {
        let read = crate::manifest::Manifest::read(manifest, self.table, &[])?;
        let Some(schedule) = read.schedule.clone() else { return Ok(None) };
        let absolute = std::path::absolute(manifest).unwrap_or_else(|_| manifest.to_owned());
        let file = absolute.canonicalize().unwrap_or_else(|_| absolute.clone());
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        let home = self.home.clone().unwrap_or_else(|| state_folder(folder));
        Ok(Some(Charge {
            manifest: manifest.to_owned(),
            timetable: timetable(schedule, &file),
            file,
            shown: read.shown_path(),
            root: read.root,
            home,
        }))
    }

    /// Manifests of the folder, in order of name.
    pub(super) fn found(&self) -> Result<Vec<PathBuf>, Error> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let failed = |source| Error::System { action: "read the folder of manifests", source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            found.extend(path.extension().is_some_and(|ending| ending == "toml").then_some(path));
        }
        found.sort();
        Ok(found)
    }
}

/// The timetable of the schedule in a manifest file.
pub fn timetable(schedule: Schedule, manifest_file: &Path) -> Timetable {
    Timetable::new(schedule, manifest_file.display().to_string())
}
