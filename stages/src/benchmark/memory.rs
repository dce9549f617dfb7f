//! The memory that serving one model takes, measured where nothing else lives: in a process that
//! loads it, answers a few times and ends.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use graph::ModelFolder;

use super::texts_of;
use crate::predict;

/// Verb of this program that is [`serve_once`].
const VERB: &str = "measure-memory";

/// This very program, also when its file has been replaced since it started.
const PROGRAM: &str = "/proc/self/exe";

/// Answers before the high-water mark is read; the first one takes the arena.
const ANSWERS: usize = 3;

/// Peak resident bytes of a process that serves `model` alone, one text of `sequence` word pieces at
/// a time.
///
/// # Errors
///
/// Says why it could not be measured.
pub(super) fn measure(model: &Path, sequence: usize, threads: usize) -> Result<u64, String> {
    let mut command = Command::new(PROGRAM);
    command.arg(VERB).arg(model).args([sequence, threads].map(|number| number.to_string()));
    // Workers are told to keep freed memory; a server is not.
    command.env_remove("MIMALLOC_PURGE_DELAY");
    let output = command.output().map_err(|error| format!("cannot start a process: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| {
        let reason = String::from_utf8_lossy(&output.stderr);
        format!("the measuring process ended with {}: {}", output.status, reason.trim())
    })
}

/// What the measuring process does; gives the peak resident bytes of this process.
///
/// # Errors
///
/// When the model cannot be read or run, or the system does not tell the peak.
pub fn serve_once(model: &Path, sequence: usize, threads: usize) -> Result<u64> {
    let model = ModelFolder::read(model)?;
    let compiled = predict::compile(&model.graph, threads)?;
    let [ids, mask] = texts_of(&model, 1, sequence)?;
    let mut session = compiled.session();
    for _ in 0..ANSWERS {
        session.run(&[("input_ids", &ids), ("attention_mask", &mask)])?;
    }
    let status = std::fs::read_to_string("/proc/self/status").context("reading the peak memory")?;
    peak(&status)
}

/// The high-water mark in the text of `/proc/self/status`, in bytes.
fn peak(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let line = line.context("the system does not tell the peak memory (no VmHWM)")?;
    let (kib, unit) = line.trim().split_once(' ').unwrap_or((line, ""));
    ensure!(unit == "kB", "expected VmHWM in kB, found `{line}`");
    Ok(kib.parse::<u64>().with_context(|| format!("expected a number, found `{line}`"))? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_in_the_status() {
        assert_eq!(peak("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\n").unwrap(), 2_097_152);
        assert!(peak("VmPeak:\t 9 kB\n").unwrap_err().to_string().contains("VmHWM"));
        assert!(peak("VmHWM:\t 2 MB\n").unwrap_err().to_string().contains("kB"));
    }
}
