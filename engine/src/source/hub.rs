//! Checkpoints from the Hugging Face hub: its local cache first, then the network.
//!
//! Honours `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` the way
//! the hub's own clients do.

use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Fetch;

/// Longest wait for a connection and for the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time between two reports of a download.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// Gives a folder back that holds the files, from the cache or downloaded.
pub(super) fn fetch(
    fetch: &Fetch<'_>,
    repository: &str,
    revision: &str,
) -> Result<PathBuf, String> {
    let settings = Settings::from_environment();
    fetch_with(&settings, fetch, repository, revision)
}

/// What the environment says about the hub.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) cache: Option<PathBuf>,
    pub(super) endpoint: String,
    pub(super) token: Option<String>,
    pub(super) offline: bool,
}

impl Settings {
    fn from_environment() -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let home = set("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = set("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")))?;
            Some(cache.join("huggingface"))
        });
        let stored_token = || {
            let text = fs::read_to_string(home.as_ref()?.join("token")).ok()?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        };
        Self {
            cache: set("HF_HUB_CACHE")
                .map(PathBuf::from)
                .or_else(|| Some(home.as_ref()?.join("hub"))),
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: set("HF_TOKEN").or_else(stored_token),
            offline: set("HF_HUB_OFFLINE").is_some_and(|value| {
                !matches!(value.to_ascii_lowercase().as_str(), "0" | "false" | "no")
            }),
        }
    }
}

pub(super) fn fetch_with(
    settings: &Settings,
    fetch: &Fetch<'_>,
    repository: &str,
    revision: &str,
) -> Result<PathBuf, String> {
    if let Some(folder) = snapshot(settings, fetch.files, repository, revision) {
        return Ok(folder);
    }
    if settings.offline {
        let cache =
            settings.cache.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
        return Err(format!("HF_HUB_OFFLINE is set and the cache ({cache}) does not have it"));
    }
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(ANSWER_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .build()
        .into();
    for file in fetch.files {
        let endpoint = settings.endpoint.trim_end_matches('/');
        let url = format!("{endpoint}/{repository}/resolve/{revision}/{file}");
        download(&agent, settings, fetch, &url, file)?;
    }
    Ok(fetch.folder.clone())
}

/// The folder of a revision in the local cache, when it has every file.
fn snapshot(
    settings: &Settings,
    files: &[String],
    repository: &str,
    revision: &str,
) -> Option<PathBuf> {
    let cache = settings.cache.as_ref()?.join(format!("models--{}", repository.replace('/', "--")));
    let commit = fs::read_to_string(cache.join("refs").join(revision))
        .map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
    let folder = cache.join("snapshots").join(commit);
    files.iter().all(|file| folder.join(file).is_file()).then_some(folder)
}

/// Fetches one file, going on where an earlier try stopped.
fn download(
    agent: &ureq::Agent,
    settings: &Settings,
    fetch: &Fetch<'_>,
    url: &str,
    file: &str,
) -> Result<(), String> {
    let target = fetch.folder.join(file);
    if target.is_file() {
        return Ok(());
    }
    let partial = fetch.folder.join(format!("{file}.partial"));
    if let Some(parent) = partial.parent() {
        fs::create_dir_all(parent)
            .map_err(|error| format!("cannot create {}: {error}", parent.display()))?;
    }
    let have = fs::metadata(&partial).map_or(0, |metadata| metadata.len());
    let mut request = agent.get(url);
    if let Some(token) = &settings.token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let mut response = request.call().map_err(|error| format!("{url}: {error}"))?;
    let status = response.status().as_u16();
    let start = match status {
        206 => have,
        200 => 0,
        416 => {
            // The partial file is no beginning of this file; the next try starts afresh.
            let _leftover = fs::remove_file(&partial);
            return Err(format!(
                "{url}: the server cannot continue the partial download; try again"
            ));
        }
        401 | 403 => return Err(format!("{url}: HTTP {status}; the repository may need HF_TOKEN")),
        _ => return Err(format!("{url}: HTTP {status}")),
    };
    let total = response
        .headers()
        .get("content-length")
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
        .map(|length| start + length);
    let failed = |error: std::io::Error| format!("{url}: {error}");
    let mut out = File::options()
        .write(true)
        .create(true)
        .truncate(start == 0)
        .append(start > 0)
        .open(&partial)
        .map_err(failed)?;
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 18];
    let (mut done, mut reported) = (start, Instant::now());
    loop {
        fetch.check_cancelled()?;
        let count = body.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        out.write_all(&buffer[..count])
            .map_err(|error| format!("cannot write {}: {error}", partial.display()))?;
        done += count as u64;
        if reported.elapsed() >= REPORT_INTERVAL {
            fetch.report(file, done, total);
            reported = Instant::now();
        }
    }
    fetch.report(file, done, total);
    if total.is_some_and(|total| done < total) {
        return Err(format!("{url}: the connection ended early; what came so far is kept"));
    }
    fs::rename(&partial, &target)
        .map_err(|error| format!("cannot rename {}: {error}", partial.display()))
}
