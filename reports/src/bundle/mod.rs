//! A run as one file that can be checked and read anywhere: its report, its record, and the digest
//! of each.
//!
//! A bundle is a tar archive compressed with zstd. The same run gives the same bytes: entries are
//! sorted by name and have no times, no owners and no paths of the machine they come from.
//!
//! | entry | what it is |
//! |---|---|
//! | `digests` | blake3 of every other entry, as `b3sum` prints and checks it |
//! | `inspections/DIGEST.json` | kernels and memory maps that the report draws |
//! | `lock.json` | what the run was made of: see [`Lock`] |
//! | `manifest.toml` | the manifest as it was read |
//! | `record.json` | everything that the database says about the run |
//! | `report.html` | the report, made of the record and the inspections alone |

mod archive;
mod lock;
mod verify;

use std::collections::BTreeMap;

use engine::history::RunRecord;
use engine::protocol::Unavailable;

use crate::{Format, Inspections, Options, RenderError, render_with};

pub use lock::Lock;
pub use verify::{Replay, Verified, verify};

const DIGESTS: &str = "digests";
const INSPECTIONS: &str = "inspections/";
const LOCK: &str = "lock.json";
const MANIFEST: &str = "manifest.toml";
const RECORD: &str = "record.json";
const REPORT: &str = "report.html";

/// Version of the program that makes and checks bundles.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Entries by name.
type Entries = BTreeMap<String, Vec<u8>>;

/// Why there is no bundle, or why one does not hold.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is not what was bundled.
    #[error("the bundle is damaged: {what}; make it again or fetch it again")]
    Damaged {
        /// The entry and what is wrong with it.
        what: String,
    },
    /// It is no bundle, and was not read any further.
    #[error("this is no bundle of a run: {what}; expected a file that `pipeline bundle` wrote")]
    Refused {
        /// What was expected and what was found.
        what: String,
    },
    /// The report could not be made.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The archive could not be packed.
    #[error("the bundle could not be packed: {0}")]
    Pack(#[source] std::io::Error),
}

/// Packs a run.
///
/// # Errors
/// [`BundleError::Render`] and [`BundleError::Pack`] mean that this crate is wrong.
pub fn bundle(run: &RunRecord, inspections: &Inspections) -> Result<Vec<u8>, BundleError> {
    let record = serde_json::to_string_pretty(&portable(run)).map_err(RenderError::Json)?;
    let own = inspections.of_run(run);
    let mut entries = made_of(record.as_bytes(), &own)?;
    entries.insert(RECORD.to_owned(), record.into_bytes());
    for (digest, text) in own.texts() {
        entries.insert(format!("{INSPECTIONS}{digest}.json"), text.as_bytes().to_vec());
    }
    entries.insert(DIGESTS.to_owned(), digests(&entries).into_bytes());
    archive::pack(&entries)
}

/// The entries that follow from a record and its inspections.
fn made_of(record: &[u8], inspections: &Inspections) -> Result<Entries, BundleError> {
    // As whoever checks it reads it: a decimal may change its last digit on the way.
    let run: RunRecord = serde_json::from_slice(record)
        .map_err(|error| BundleError::Damaged { what: format!("`{RECORD}`: {error}") })?;
    let options = Options { inspections: inspections.clone(), ..Options::default() };
    let report = render_with(std::slice::from_ref(&run), &options, Format::Html)?;
    let lock = serde_json::to_string_pretty(&Lock::of(&run)).map_err(RenderError::Json)?;
    Ok(Entries::from([
        (REPORT.to_owned(), report.into_bytes()),
        (LOCK.to_owned(), format!("{lock}\n").into_bytes()),
        (MANIFEST.to_owned(), run.manifest_text.into_bytes()),
    ]))
}

/// Digests of `entries` as `b3sum` prints them.
fn digests(entries: &Entries) -> String {
    let line = |(name, content): (&String, &Vec<u8>)| {
        format!("{}  {name}\n", blake3::hash(content).to_hex())
    };
    entries.iter().map(line).collect()
}

/// A record without paths of this machine and without what JSON has no number for.
fn portable(run: &RunRecord) -> RunRecord {
    let mut run = run.clone();
    for stage in &mut run.stages {
        stage.log_path = None;
        for artifact in &mut stage.artifacts {
            artifact.path = None;
        }
        let (finite, others): (Vec<_>, Vec<_>) =
            stage.metrics.drain(..).partition(|metric| metric.value.is_finite());
        stage.metrics = finite;
        stage.unavailable.extend(others.into_iter().map(|metric| Unavailable {
            name: metric.name,
            reason: "the value was not finite".to_owned(),
        }));
        for metric in &mut stage.metrics {
            metric.low = metric.low.filter(|low| low.is_finite());
            metric.high = metric.high.filter(|high| high.is_finite());
        }
    }
    run
}
