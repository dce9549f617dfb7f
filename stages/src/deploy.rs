//! `deploy`: puts a package as a new version into a local model repository.
//!
//! ```text
//! <repository>/<name>/versions/1/…     packages, never changed once there
//! <repository>/<name>/versions/2/…
//! <repository>/<name>/live             a link to the version that is served
//! ```
//!
//! A server reads `live` and nothing else, so that replacing the link is the switch.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use engine::{Metric, Port, Stage, StageContext};
use graph::package::Package;
use runtime::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::predict;

const LIVE: &str = "live";
const VERSIONS: &str = "versions";
/// Held while a version is added.
const LOCK: &str = ".lock";

/// The stage kind.
pub(crate) struct Deploy;

/// Parameters of `deploy`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Params {
    /// Name of the service in the repository: letters, digits, `-` and `_`.
    name: String,
    /// Folder of the model repository, relative to the project root.
    #[serde(default = "default_repository")]
    repository: PathBuf,
}

fn default_repository() -> PathBuf {
    PathBuf::from("model-repository")
}

/// What was deployed, and where.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Deployment {
    name: String,
    version: u64,
    /// Digest of the package's manifest, which holds the digests of everything else.
    package: String,
}

impl Stage for Deploy {
    type Params = Params;
    const KIND: &'static str = "deploy";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "makes a package the live version of a service, after its self-test";
    const INPUTS: &'static [Port] =
        &[Port { name: "package", kind: "package", required: true, about: "what goes live" }];
    const OUTPUTS: &'static [Port] = &[Port {
        name: "deployment",
        kind: "deployment",
        required: true,
        about: "name, version and digest of what is live",
    }];
    const METRICS: &'static [&'static str] = &["deploy/version", "deploy/failed-kernel-tiers"];
    const EXTERNAL: bool = true;

    fn check(params: &Params) -> Result<(), String> {
        check_name(&params.name)
    }

    fn run(&self, params: Params, context: &StageContext) -> Result<()> {
        let repository = context.external_root().join(&params.repository);
        let Promoted { version, package, was_live } = promote_unless(
            context.input("package")?,
            &repository,
            &params.name,
            &|package| predict::load(package, "deploy", Device::Cpu, context).map(drop),
            &|| context.interrupted(),
        )?;
        let service = repository.join(&params.name);
        context.log(match was_live {
            true => format!("version {version} of `{}` is this package already", params.name),
            false => format!("version {version} is live in {}", service.display()),
        });
        let deployment = Deployment { name: params.name, version, package };
        let path = context.output("deployment");
        fs::write(&path, serde_json::to_vec_pretty(&deployment)?)
            .with_context(|| format!("writing {}", path.display()))?;
        context.metric(Metric {
            name: "deploy/version".to_owned(),
            value: version as f64,
            unit: "count".to_owned(),
            ..Metric::default()
        });
        Ok(())
    }

    fn is_current(&self, params: &Params, previous_output: &Path, root: &Path) -> bool {
        let service = root.join(&params.repository).join(&params.name);
        let recorded = fs::read(previous_output).ok();
        let recorded = recorded.and_then(|bytes| serde_json::from_slice::<Deployment>(&bytes).ok());
        match (recorded, live_version(&service)) {
            (Some(recorded), Ok(Some((version, digest)))) => {
                recorded.version == version && recorded.package == digest
            }
            _ => false,
        }
    }
}

/// A package that is live now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    /// Version of the service.
    pub version: u64,
    /// Digest of the package's manifest.
    pub package: String,
    /// Whether it was live before.
    pub was_live: bool,
}

/// Makes the package in a folder the live version of a service in a model repository, after its
/// self-test on `threads` threads; what `deploy` does, outside a run.
///
/// # Errors
/// When `name` is no name of a service, or the package is not whole or fails its self-test; the
/// live version then stays.
pub fn promote(package: &Path, repository: &Path, name: &str, threads: usize) -> Result<Promoted> {
    let load = |package: &Package| {
        let threads = std::num::NonZeroUsize::new(threads);
        let options = runtime::CompileOptions { threads, ..Default::default() };
        runtime::load(package, &options)?;
        Ok(())
    };
    promote_unless(package, repository, name, &load, &|| false)
}

/// Proves that a package runs on this machine.
type Load<'a> = &'a dyn Fn(&Package) -> Result<()>;

fn promote_unless(
    package: &Path,
    repository: &Path,
    name: &str,
    load: Load<'_>,
    interrupted: &dyn Fn() -> bool,
) -> Result<Promoted> {
    check_name(name).map_err(anyhow::Error::msg)?;
    let service = repository.join(name);
    create_folder(&service)?;
    // Two at once would give two packages one version number.
    let lock = service.join(LOCK);
    let _alone = fs::File::create(&lock)
        .and_then(|file| file.lock().map(|()| file))
        .with_context(|| format!("locking {}", lock.display()))?;
    let digest = digest(package)?;
    let (version, was_live) = match live_version(&service)? {
        Some((version, live)) if live == digest => (version, true),
        _ => (put(package, &service, load, interrupted)?, false),
    };
    Ok(Promoted { version, package: digest, was_live })
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    if name.is_empty() || !name.chars().all(fits) {
        return Err(format!("`name` = {name:?}: expected letters, digits, `-` and `_`"));
    }
    Ok(())
}

/// Copies the package in, tests it there and switches to it.
///
/// A package that fails its self-test never gets the link, so that the old version stays live.
fn put(
    source: &Path,
    service: &Path,
    load: Load<'_>,
    interrupted: &dyn Fn() -> bool,
) -> Result<u64> {
    let versions = service.join(VERSIONS);
    create_folder(&versions)?;
    let version = newest_version(&versions)? + 1;
    let incoming = tempfile::Builder::new()
        .prefix(".incoming-")
        .tempdir_in(&versions)
        .with_context(|| format!("creating a folder in {}", versions.display()))?;
    for entry in fs::read_dir(source).with_context(|| format!("reading {}", source.display()))? {
        let from = entry?.path();
        let to = incoming.path().join(from.file_name().unwrap_or_default());
        fs::copy(&from, &to)
            .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
        fs::File::open(&to)
            .and_then(|file| file.sync_all())
            .with_context(|| format!("syncing {}", to.display()))?;
    }
    let package = Package::read(incoming.path())
        .context("the package is not whole; the live version stays")?;
    load(&package).context("the package cannot run here; the live version stays")?;
    ensure!(!interrupted(), engine::Interrupted);

    let folder = versions.join(version.to_string());
    fs::rename(incoming.keep(), &folder)
        .with_context(|| format!("renaming to {}", folder.display()))?;
    let link = service.join(format!(".{LIVE}-{version}"));
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", link.display()));
        }
        _ => {}
    }
    let target = Path::new(VERSIONS).join(version.to_string());
    symlink(target, &link).with_context(|| format!("linking {}", link.display()))?;
    fs::rename(&link, service.join(LIVE))
        .with_context(|| format!("switching {} to version {version}", service.display()))?;
    Ok(version)
}

fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("creating the folder {}", path.display()))
}

/// The greatest version number in the folder; 0 when there is none.
fn newest_version(versions: &Path) -> Result<u64> {
    let mut newest = 0;
    for entry in
        fs::read_dir(versions).with_context(|| format!("reading {}", versions.display()))?
    {
        let name = entry?.file_name();
        newest = newest.max(name.to_string_lossy().parse().unwrap_or(0));
    }
    Ok(newest)
}

/// Number and digest of the version that is live, if any.
fn live_version(service: &Path) -> Result<Option<(u64, String)>> {
    let link = service.join(LIVE);
    let Ok(target) = fs::read_link(&link) else { return Ok(None) };
    let number = target.file_name().and_then(|name| name.to_string_lossy().parse().ok());
    let Some(number) = number else { return Ok(None) };
    Ok(digest(&link).ok().map(|digest| (number, digest)))
}

fn digest(package: &Path) -> Result<String> {
    let path = package.join(graph::package::MANIFEST_FILE);
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}
