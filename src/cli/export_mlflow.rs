//! `pipeline export-mlflow RUN… -o FOLDER`.

use std::path::PathBuf;

use anyhow::Context as _;
use engine::history::RunChoice;
use reports::Inspections;

use super::answer::{Answer, Facts};
use super::arguments::State;
use super::failure::Failure;

/// Writes runs as MLflow's file store: experiments, parameters, metrics, tags and artifacts.
#[derive(Debug, clap::Args)]
pub(super) struct ExportMlflow {
    /// Runs, numbers or `latest`
    #[arg(required = true)]
    runs: Vec<RunChoice>,
    /// Folder to write `mlruns` into
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    facts: Facts,
}

impl ExportMlflow {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let history = self.state.history()?;
        let records = history.records(&self.runs)?;
        let cannot = || format!("cannot write into {}", self.output.display());
        let store = std::path::absolute(self.output.join("mlruns")).with_context(cannot)?;
        let location = format!("file://{}", escaped(&store.display().to_string()));
        let files = reports::mlflow(&records, &Inspections::read(&records), &location)
            .context("cannot make the files")?;
        for (name, content) in &files {
            let path = store.join(name);
            let written = || {
                std::fs::create_dir_all(path.parent().unwrap_or(&store))?;
                std::fs::write(&path, content)
            };
            written().with_context(|| format!("cannot write {}", path.display()))?;
        }
        let about =
            serde_json::json!({ "store": store, "runs": records.len(), "files": files.len() });
        Ok(self.facts.answer(&about, || {
            format!(
                "{}: {} runs in {} files\n`MLFLOW_ALLOW_FILE_STORE=true mlflow ui \
                 --backend-store-uri {location}` shows them, `mlflow migrate-filestore --source {} \
                 --target sqlite:///mlflow.db` takes them into a database",
                store.display(),
                records.len(),
                files.len(),
                self.output.display(),
            )
        }))
    }
}

/// A path as it stands in a URI (RFC 3986, section 2.1).
fn escaped(path: &str) -> String {
    let byte = |byte: u8| match byte {
        b'/' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    path.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_become_parts_of_uris() {
        assert_eq!(super::escaped("/a b/ü#.x"), "/a%20b/%C3%BC%23.x");
    }
}
