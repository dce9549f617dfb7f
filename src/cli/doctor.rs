//! `pipeline doctor`.

use std::path::{Path, PathBuf};

use engine::history::History;
use engine::store::Store;
use serde::Serialize;

use super::answer::{Answer, Facts, columns};
use super::arguments::State;
use super::failure::Failure;
use super::quantity::bytes;

/// Free space below which a run is likely to fill the disk.
const LITTLE_SPACE: u64 = 2_000_000_000;

/// Checks what runs need from this machine; fetches nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    facts: Facts,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Finding {
    name: &'static str,
    state: Health,
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Health {
    Good,
    /// Runs work, but something is missing that some of them need.
    Limited,
    /// Runs do not work.
    Bad,
}

impl Doctor {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let home = self.state.folder();
        let findings = [
            state_folder(&home),
            free_space(&home),
            database(&self.state),
            processor(),
            gpu(),
            pip(),
            hub(),
        ];
        let bad = findings.iter().any(|finding| finding.state == Health::Bad);
        Ok(self.facts.answer(&findings, || text(&findings)).with_code(u8::from(bad)))
    }
}

fn text(findings: &[Finding]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|Finding { name, state, detail }| {
            let state = super::runs::word(state);
            [(*name).to_owned(), state, detail.clone()]
        })
        .collect();
    columns(&rows)
}

fn finding(name: &'static str, state: Health, detail: impl Into<String>) -> Finding {
    Finding { name, state, detail: detail.into() }
}

/// Nearest folder that is there, for a state folder that no run has made yet.
fn existing(home: &Path) -> &Path {
    home.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"))
}

fn state_folder(home: &Path) -> Finding {
    let shown = home.display();
    if !home.exists() {
        let parent = existing(home);
        let probe = tempfile::tempfile_in(parent);
        return match probe {
            Ok(_) => {
                finding("state folder", Health::Good, format!("{shown}, made by the first run"))
            }
            Err(error) => finding(
                "state folder",
                Health::Bad,
                format!("{shown} cannot be made: {error}; set PIPELINE_HOME to one that can"),
            ),
        };
    }
    match Store::create(home) {
        Ok(_) => finding("state folder", Health::Good, shown.to_string()),
        Err(error) => finding("state folder", Health::Bad, error.to_string()),
    }
}

fn free_space(home: &Path) -> Finding {
    match rustix::fs::statvfs(existing(home)) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let state = if free < LITTLE_SPACE { Health::Limited } else { Health::Good };
            finding("free space", state, bytes(free))
        }
        Err(error) => finding("free space", Health::Limited, format!("not known: {error}")),
    }
}

fn database(state: &State) -> Finding {
    let read = |history: History| {
        history.check()?;
        Ok((history.schema_version()?, history.runs(1)?))
    };
    match History::open(&state.folder()).and_then(read) {
        Ok((schema, runs)) => {
            let newest = match (schema, runs.first()) {
                (Some(schema), Some(run)) => format!("schema {schema}, newest run {}", run.id),
                (Some(schema), None) => format!("schema {schema}, no runs yet"),
                (None, _) => "made by the first run".to_owned(),
            };
            finding("run database", Health::Good, newest)
        }
        Err(error) => {
            let recovery = error.recovery().map_or_else(String::new, |how| format!("; {how}"));
            let message = Failure::from(error).message();
            finding("run database", Health::Bad, format!("{message}{recovery}"))
        }
    }
}

fn processor() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match kernels::Cpu::from_environment() {
        Ok(cpu) => {
            let tier = cpu.tier().name();
            finding("processor", Health::Good, format!("{cores} threads, kernels for {tier}"))
        }
        Err(error) => finding("processor", Health::Bad, error.to_string()),
    }
}

fn gpu() -> Finding {
    let driver = ["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists());
    let (state, detail) = match (cfg!(feature = "cuda"), driver) {
        (true, true) => (Health::Good, "an NVIDIA driver is loaded"),
        (true, false) => {
            (Health::Limited, "no NVIDIA driver is loaded: only device = \"cpu\" works")
        }
        (false, true) => (
            Health::Limited,
            "an NVIDIA driver is loaded, but this program was built without `--features cuda`",
        ),
        (false, false) => (Health::Good, "none; device = \"cpu\" works"),
    };
    finding("gpu", state, detail)
}

fn pip() -> Finding {
    let found = ["pip", "pip3", "python3", "python"].iter().find_map(|name| in_path(name));
    match found {
        Some(path) => finding("pip", Health::Good, path.display().to_string()),
        None => finding("pip", Health::Limited, "not found: mirrors `pypi:` do not work"),
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn hub() -> Finding {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || {
        let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")))?;
        Some(cache.join("huggingface"))
    };
    let hub = set("HF_HOME").map(PathBuf::from).or_else(home).map(|home| home.join("hub"));
    let Some(folder) = set("HF_HUB_CACHE").map(PathBuf::from).or(hub) else {
        return finding("hub cache", Health::Limited, "neither HF_HOME nor HOME is set");
    };
    let state = if folder.is_dir() { "" } else { ", not there yet" };
    finding("hub cache", Health::Good, format!("{}{state}", folder.display()))
}
