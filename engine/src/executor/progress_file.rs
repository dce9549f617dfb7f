//! The newest progress of the running stages in a file, for other processes to look at.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::history::ProgressRecord;
use crate::protocol::Progress;

/// Least time between two versions of the file.
const PAUSE: Duration = Duration::from_millis(500);

/// A file that says where the running stages of one run stand. It is replaced as a whole and gone
/// when nothing runs; what could not be written is only missing on a page.
#[derive(Debug)]
pub(super) struct ProgressFile {
    path: PathBuf,
    stages: BTreeMap<String, ProgressRecord>,
    written: Option<Instant>,
}

impl ProgressFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, stages: BTreeMap::new(), written: None }
    }

    /// Notes where a stage stands `now`.
    pub(super) async fn hear(&mut self, stage: &str, progress: &Progress, now: Instant) {
        let record = ProgressRecord { at: jiff::Timestamp::now(), progress: progress.clone() };
        self.stages.insert(stage.to_owned(), record);
        if self.written.is_none_or(|written| now.duration_since(written) >= PAUSE) {
            self.written = Some(now);
            self.write().await;
        }
    }

    /// Forgets a stage that has ended.
    pub(super) async fn end(&mut self, stage: &str) {
        if self.stages.remove(stage).is_some() {
            self.write().await;
        }
    }

    async fn write(&self) {
        if self.stages.is_empty() {
            let _already_gone = tokio::fs::remove_file(&self.path).await;
            return;
        }
        let text = serde_json::to_vec(&self.stages).expect("progress is plain JSON");
        let next = self.path.with_extension("next");
        if tokio::fs::write(&next, text).await.is_ok() {
            let _unseen = tokio::fs::rename(&next, &self.path).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(file: &ProgressFile) -> Option<Vec<(String, u64)>> {
        let bytes = tokio::fs::read(&file.path).await.ok()?;
        let stages: BTreeMap<String, ProgressRecord> = serde_json::from_slice(&bytes).ok()?;
        Some(stages.into_iter().map(|(name, record)| (name, record.progress.step)).collect())
    }

    #[tokio::test]
    async fn it_is_written_twice_a_second_and_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = ProgressFile::new(folder.path().join("progress.json"));
        let at = |step| Progress { step, total: 9, ..Progress::default() };
        let start = Instant::now();
        file.hear("teacher", &at(1), start).await;
        file.hear("teacher", &at(2), start + PAUSE / 2).await;
        assert_eq!(read(&file).await, Some(vec![("teacher".to_owned(), 1)]));
        file.hear("student", &at(5), start + PAUSE).await;
        let both = vec![("student".to_owned(), 5), ("teacher".to_owned(), 2)];
        assert_eq!(read(&file).await, Some(both));
        file.end("teacher").await;
        file.end("student").await;
        assert!(!file.path.exists());
    }
}
