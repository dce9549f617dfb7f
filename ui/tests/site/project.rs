//! A project with runs of toy stages, and its pages.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use axum::response::Response;
use engine::{Host, Project, RunOptions, SweepOptions};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;
use ui::{Promoted, Promotion, Settings, State, Token, app};

use crate::toys::TOYS;

pub(crate) const PORT: u16 = 4321;
pub(crate) const HOST: &str = "127.0.0.1:4321";

/// A project folder, its pages, and what they promoted.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    runtime: Runtime,
    state: State,
    pub(crate) token: Token,
    pub(crate) promoted: Arc<Mutex<Vec<Promotion>>>,
}

/// What a page answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) body: String,
}

impl Site {
    /// A project without runs.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".git")).unwrap();
        let promoted: Arc<Mutex<Vec<Promotion>>> = Arc::default();
        let noted = Arc::clone(&promoted);
        let settings = Settings {
            home: folder.path().join(".pipeline"),
            author: "Ann".to_owned(),
            repository: folder.path().join("repository"),
            promote: Box::new(move |promotion| {
                if promotion.service == "broken" {
                    return Err("the self-test failed; the live version stays".to_owned());
                }
                let mut noted = noted.lock().unwrap();
                noted.push(promotion.clone());
                Ok(Promoted { version: noted.len() as u64, was_live: false })
            }),
        };
        let token = Token::random().unwrap();
        let state = State::new(settings, PORT, token.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self { folder, runtime, state, token, promoted }
    }

    /// A project with a run that is done (1), one with an error (2), one of another manifest (3).
    pub(crate) fn with_runs() -> Self {
        let site = Self::new();
        site.manifest("first", "content = \"a\"");
        site.manifest("second", "content = \"b\"");
        site.run("first", &[]);
        let error = format!("stages.pack.params.error={:?}", crate::toys::SCRIPT);
        site.run("first", &[&error]);
        site.run("second", &[]);
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a manifest.
    pub(crate) fn manifest(&self, name: &str, params: &str) {
        let text = format!(
            "schema = 1\nname = \"{name}\"\nseed = 1\n[stages.pack]\nkind = \"pack\"\nparams = {{ {params} }}\n\
             [stages.service]\nkind = \"serve\"\ninputs = {{ package = \"pack.package\" }}\nparams = {{ name = \"reviews\" }}\n"
        );
        fs::write(self.path(&format!("{name}.toml")), text).unwrap();
    }

    /// Runs the sweep `tries` over two sizes and two seeds to its end.
    pub(crate) fn sweep(&self) {
        let text = format!("schema = 1\nname = \"tries\"\nseed = 1\n{SWEEP}");
        fs::write(self.path("tries.toml"), text).unwrap();
        sweep(self.folder.path(), "tries");
    }

    /// Runs a manifest to its end.
    pub(crate) fn run(&self, name: &str, set: &[&str]) {
        run(self.folder.path(), name, set);
    }

    /// Runs a manifest in a thread of its own until the file `hold` is removed.
    pub(crate) fn run_held(&self, name: &str) -> std::thread::JoinHandle<()> {
        fs::write(self.path("hold"), "").unwrap();
        let (folder, name) = (self.folder.path().to_owned(), name.to_owned());
        let running = std::thread::spawn(move || run(&folder, &name, &[]));
        while !self.path("reached").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        running
    }

    /// Asks for a page.
    pub(crate) fn get(&self, address: &str) -> Answer {
        self.ask(Request::get(address).header(header::HOST, HOST).body(Body::empty()).unwrap())
    }

    /// Asks for a page that has to be there.
    pub(crate) fn page(&self, address: &str) -> String {
        let answer = self.get(address);
        assert_eq!(answer.status, 200, "{address}: {}", answer.body);
        answer.body
    }

    /// Sends a form with the right token.
    pub(crate) fn post(&self, address: &str, form: &str) -> Answer {
        let form = format!("{form}&token={}", self.token.text());
        self.ask(self.form(address, form))
    }

    /// A form as a browser sends it.
    pub(crate) fn form(&self, address: &str, form: impl Into<String>) -> Request<Body> {
        Request::post(address)
            .header(header::HOST, HOST)
            .header(header::ORIGIN, format!("http://{HOST}"))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(form.into()))
            .unwrap()
    }

    pub(crate) fn ask(&self, request: Request<Body>) -> Answer {
        self.runtime.block_on(async {
            let response = app(self.state.clone()).oneshot(request).await.unwrap();
            Answer::of(response).await
        })
    }

    /// The events of a stream until one is called `last`.
    pub(crate) fn events(&self, address: &str, last: &str, act: impl FnOnce()) -> Vec<Event> {
        use futures_util::StreamExt as _;
        let request = Request::get(address).header(header::HOST, HOST).body(Body::empty()).unwrap();
        self.runtime.block_on(async {
            let response = app(self.state.clone()).oneshot(request).await.unwrap();
            assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
            let mut chunks = response.into_body().into_data_stream();
            let (mut text, mut act) = (String::new(), Some(act));
            let patience = Duration::from_secs(60);
            while let Ok(Some(chunk)) = tokio::time::timeout(patience, chunks.next()).await {
                text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
                if let Some(act) = act.take() {
                    act();
                }
                let events = parse(&text);
                if events.iter().any(|event| event.name == last) {
                    return events;
                }
            }
            panic!("no event `{last}` in {text}");
        })
    }
}

/// An event of a stream.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

fn parse(text: &str) -> Vec<Event> {
    let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    let field = |block: &str, name: &str| {
        let values = block.lines().filter_map(|line| line.strip_prefix(name));
        values.map(|value| value.trim_start_matches(' ')).collect::<Vec<_>>().join("\n")
    };
    let blocks = whole.split("\n\n").filter(|block| block.contains("event:"));
    blocks
        .map(|block| Event { name: field(block, "event:"), data: field(block, "data:") })
        .collect()
}

/// A sweep of four runs.
pub(crate) const SWEEP: &str = r#"
[stages.teacher]
kind = "learn"
params = { epochs = 2, weights = 1_000_000 }

[sweep]
sampler = "grid"
seeds = [1, 2]
objectives = [{ maximize = "teacher.validation/accuracy" }, { minimize = "teacher.model/weights" }]

[sweep.space]
"stages.teacher.params.weights" = { choice = [1_000_000, 2_000_000] }
"stages.teacher.params.epochs" = { choice = [2] }
"#;

/// Runs the sweep of a manifest of a folder to its end.
pub(crate) fn sweep(folder: &Path, name: &str) {
    project(folder, name).sweep(&SweepOptions::default(), &mut |_| ()).unwrap();
}

/// Runs a manifest of a folder to its end.
pub(crate) fn run(folder: &Path, name: &str, set: &[&str]) {
    let set = set.iter().map(|text| (*text).to_owned()).collect();
    project(folder, name).run(&RunOptions { set, ..RunOptions::default() }, &mut |_| ()).unwrap();
}

fn project(folder: &Path, name: &str) -> Project {
    let host = Host { backoff: Duration::from_millis(1), ..Host::this_program(false).unwrap() };
    let manifest = folder.join(format!("{name}.toml"));
    Project::open(&manifest, TOYS, host, Some(&folder.join(".pipeline")))
}

impl Answer {
    async fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            // A slash is escaped, too, which makes addresses hard to look for.
            body: String::from_utf8(bytes.to_vec()).unwrap().replace("&#x2f;", "/"),
        }
    }

    /// Where it leads.
    pub(crate) fn location(&self) -> &str {
        self.headers[header::LOCATION].to_str().unwrap()
    }
}
