//! A throw-away project to run toy manifests in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use engine::{Project, RunEvent, RunOptions, RunReport};
use tempfile::TempDir;

use crate::{host, program, toys};

pub(crate) struct Toy {
    pub(crate) folder: TempDir,
}

impl Toy {
    pub(crate) fn new(manifest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".pipeline")).unwrap();
        let toy = Self { folder };
        toy.write("toy.toml", &format!("schema = 1\nname = \"toy\"\n{manifest}"));
        toy
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.root().join(".pipeline")
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        fs::write(self.root().join(path), text).unwrap();
    }

    pub(crate) fn project(&self) -> Project {
        self.project_of("toy.toml")
    }

    pub(crate) fn project_of(&self, manifest: &str) -> Project {
        Project::open(&self.root().join(manifest), toys::TOYS, host(), Some(&self.home()))
    }

    pub(crate) fn run(&self, set: &[&str]) -> RunReport {
        self.run_with(&options(set)).0
    }

    pub(crate) fn run_with(&self, options: &RunOptions) -> (RunReport, Vec<RunEvent>) {
        let mut events = Vec::new();
        let report = self.project().run(options, &mut |event| events.push(event.clone()));
        (report.unwrap(), events)
    }

    /// Starts a run in a process of its own.
    pub(crate) fn spawn(&self, manifest: &str, set: &[&str]) -> Child {
        self.spawn_verb("run", manifest, set)
    }

    /// Starts a run or a sweep in a process of its own.
    pub(crate) fn spawn_verb(&self, verb: &str, manifest: &str, set: &[&str]) -> Child {
        Command::new(program())
            .arg(verb)
            .arg(self.root().join(manifest))
            .args(set)
            .env("PIPELINE_HOME", self.home())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap()
    }

    /// Names of the stages that really ran since the last look, in order of name.
    pub(crate) fn executed(&self) -> Vec<String> {
        let path = self.root().join("executions");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _absent = fs::remove_file(&path);
        let mut names: Vec<_> = text.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Changes the run database behind the engine's back.
    pub(crate) fn sql(&self, statement: &str) {
        use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options =
            sqlx::sqlite::SqliteConnectOptions::new().filename(self.home().join("runs.sqlite"));
        runtime.block_on(async {
            let mut database = options.connect().await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut database).await.unwrap();
            database.close().await.unwrap();
        });
    }

    /// Content of the newest `stage.port`.
    pub(crate) fn output(&self, output: &str) -> String {
        let artifact = self.project().artifact(output, &[]).unwrap();
        fs::read_to_string(artifact.path.unwrap()).unwrap()
    }
}

pub(crate) fn options(set: &[&str]) -> RunOptions {
    RunOptions { set: set.iter().map(|text| (*text).to_owned()).collect(), ..RunOptions::default() }
}

/// A process that had the number of one that is there, as the database names it.
pub(crate) fn earlier_process(pid: u32) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    serde_json::json!({ "pid": pid, "started": 1, "boot": boot.trim() }).to_string()
}

/// `name state` of each stage of a report.
pub(crate) fn states(report: &RunReport) -> Vec<String> {
    report
        .stages
        .iter()
        .map(|stage| format!("{} {:?}", stage.name, stage.state).to_lowercase())
        .collect()
}

/// Looks again and again until `condition` holds; fails after a minute.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed().as_secs() < 60, "waited a minute for {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
