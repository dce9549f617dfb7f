//! A project folder of its own for each test, and the command run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A temporary project: a manifest's folder with its own state folder, removed at the end.
pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
}

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    /// An empty project.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join(".git")).expect("a marker of the project root");
        Self { folder }
    }

    /// A path inside it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("inside the sandbox")).expect("a folder");
        fs::write(path, content).expect("a file in the sandbox");
    }

    /// The command, to be run in the project.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
        command.args(arguments).current_dir(self.folder.path());
        command.env_remove("PIPELINE_HOME").stdin(Stdio::null());
        // No test may reach the network.
        command.env("HF_HUB_OFFLINE", "1").env("PIP_NO_INDEX", "1");
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        Answer::of(&self.command(arguments).output().expect("the command starts"))
    }

    /// Runs a command that has to succeed, and gives what it printed.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        let answer = self.run(arguments);
        assert_eq!(answer.code, Some(0), "{arguments:?}: {answer:#?}");
        answer.stdout
    }

    /// Runs a command that has to succeed with `--json`, and gives what it printed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.ask(&arguments)).expect("JSON")
    }

    /// Runs a manifest with `--json`; its exit code and events.
    pub(crate) fn events(&self, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
        let all: Vec<&str> = ["run", "--json"].iter().chain(arguments).copied().collect();
        let answer = self.run(&all);
        let events = answer.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        (answer.code, events.collect())
    }

    /// Checks that stages reported no metric that their kinds do not declare.
    pub(crate) fn check_metrics(&self, run: &Value) {
        for stage in run["stages"].as_array().expect("stages") {
            let kind = stage["kind"].as_str().expect("a kind");
            let declared = self.json(&["stages", kind])["metrics"].clone();
            let declared: Vec<String> = serde_json::from_value(declared).expect("names");
            for metric in stage["metrics"].as_array().expect("metrics") {
                let name = metric["name"].as_str().expect("a name");
                let is_declared = declared.iter().any(|pattern| covers(pattern, name));
                assert!(is_declared, "`{kind}` reported `{name}`, but declares {declared:?}");
            }
        }
    }

    /// Digest of the newest artifact of an output.
    pub(crate) fn digest(&self, manifest: &str, output: &str) -> String {
        let artifact = self.json(&["path", manifest, output]);
        artifact["digest"].as_str().expect("a digest").to_owned()
    }
}

impl Answer {
    /// What a finished process said.
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// Names of the stages that events of a kind are about.
pub(crate) fn stages<'e>(events: &'e [Value], kind: &str) -> Vec<&'e str> {
    let about = events.iter().filter(|event| event["event"] == kind);
    about.filter_map(|event| event["stage"].as_str()).collect()
}

/// Whether a name is what the pattern says, `*` standing for any part of it.
fn covers(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(head) else { return false };
    (0..=rest.len()).any(|at| covers(tail, &rest[at..]))
}

/// The repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The committed reviews as `[data.reviews]`, cut to few training rows.
pub(crate) fn reviews(limit: usize) -> String {
    let path = repository().join("data/finefoods.tsv.gz");
    format!(
        "[data.reviews]\npath = {:?}\ntext = \"text\"\nlabel = \"label\"\n\
         labels = [\"other\", \"great\"]\nsplit = \"split\"\ngroup = \"product\"\nlimit = {limit}\n",
        path.display().to_string()
    )
}

/// A classifier that learns next to nothing, quickly.
pub(crate) const TEACHER: &str = "
[stages.teacher]
kind = \"train-teacher\"
inputs = { data = \"data.reviews\" }
[stages.teacher.params]
epochs = 2
max-length = 24
vocabulary-size = 400
architecture = { layers = 2, hidden = 32, heads = 2, intermediate = 64 }
training = { batch-size = 16, learning-rate = 1e-3 }
";
