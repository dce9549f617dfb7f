//! Checkpoints inside Python wheels, fetched by the `pip` that the user has configured.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::Fetch;

/// Ways to call pip, the most specific first.
const CLIENTS: &[&[&str]] =
    &[&["pip"], &["pip3"], &["python3", "-m", "pip"], &["python", "-m", "pip"]];

/// Gets the wheel and unpacks the wanted files of `inner` into the download folder.
pub(super) fn fetch(fetch: &Fetch<'_>, requirement: &str, inner: &str) -> Result<PathBuf, String> {
    fetch_with(CLIENTS, fetch, requirement, inner)
}

pub(super) fn fetch_with(
    clients: &[&[&str]],
    fetch: &Fetch<'_>,
    requirement: &str,
    inner: &str,
) -> Result<PathBuf, String> {
    let wheel = match downloaded(&fetch.folder) {
        Some(wheel) => wheel,
        None => {
            download(clients, fetch, requirement)?;
            downloaded(&fetch.folder).ok_or_else(|| {
                format!("pip succeeded but left no whole wheel in {}", fetch.folder.display())
            })?
        }
    };
    let target = fetch.folder.join("unpacked");
    unpack(fetch, &wheel, inner, &target)?;
    Ok(target)
}

/// A wheel that an earlier try left here whole.
fn downloaded(folder: &Path) -> Option<PathBuf> {
    let mut wheels: Vec<_> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    wheels.sort();
    wheels.into_iter().find(|path| {
        File::open(path).is_ok_and(|file| zip::ZipArchive::new(BufReader::new(file)).is_ok())
    })
}

fn download(clients: &[&[&str]], fetch: &Fetch<'_>, requirement: &str) -> Result<(), String> {
    let mut tried = Vec::new();
    for client in clients {
        let (program, leading) = client.split_first().expect("a client has a program");
        let spawned = Command::new(program)
            .args(leading)
            .args(["download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"])
            .arg("--dest")
            .arg(&fetch.folder)
            .arg(requirement)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match spawned {
            Ok(child) => return watch(fetch, child, &client.join(" ")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => tried.push(client.join(" ")),
            Err(error) => return Err(format!("cannot start {}: {error}", client.join(" "))),
        }
    }
    Err(format!("no pip found (tried {}); install Python, or use another mirror", tried.join(", ")))
}

/// Waits for pip, passing on what it says, until it ends or the run is stopped.
fn watch(fetch: &Fetch<'_>, mut child: Child, client: &str) -> Result<(), String> {
    let complaints = Mutex::new(Vec::new());
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let status = thread::scope(|scope| {
        scope.spawn(|| lines(stdout, |line| fetch.report(&line, 0, None)));
        scope.spawn(|| {
            lines(stderr, |line| complaints.lock().expect("only pushes happen here").push(line));
        });
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if fetch.check_cancelled().is_err() {
                child.kill()?;
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    let status = status.map_err(|error: io::Error| format!("cannot wait for {client}: {error}"))?;
    fetch.check_cancelled()?;
    if status.success() {
        return Ok(());
    }
    let complaints = complaints.into_inner().expect("only pushes happened here");
    let said: Vec<_> =
        complaints.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    Err(format!("{client} download failed ({status}): {}", said.join(" / ")))
}

fn lines(stream: impl Read, mut take: impl FnMut(String)) {
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else {
            return;
        };
        take(line);
    }
}

fn unpack(fetch: &Fetch<'_>, wheel: &Path, inner: &str, target: &Path) -> Result<(), String> {
    let file =
        File::open(wheel).map_err(|error| format!("cannot open {}: {error}", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(BufReader::new(file))
        .map_err(|error| format!("cannot read {}: {error}", wheel.display()))?;
    for name in fetch.files {
        fetch.check_cancelled()?;
        let path = if inner.is_empty() { name.clone() } else { format!("{inner}/{name}") };
        let mut entry = archive
            .by_name(&path)
            .map_err(|error| format!("{} has no {path}: {error}", wheel.display()))?;
        let out = target.join(name);
        let unpacked = (|| {
            if let Some(parent) = out.parent() {
                fs::create_dir_all(parent)?;
            }
            io::copy(&mut entry, &mut File::create(&out)?)
        })();
        let size = unpacked
            .map_err(|error| format!("cannot unpack {path} to {}: {error}", out.display()))?;
        fetch.report(name, size, Some(size));
    }
    Ok(())
}
