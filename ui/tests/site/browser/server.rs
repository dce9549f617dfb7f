//! A server of the pages of a project with runs.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use ui::{Promoted, Settings};

use super::chromium::Chromium;
use crate::project::{SWEEP, run, sweep};

const SMALL: &str = r#"
[stages.teacher]
kind = "learn"
params = { epochs = 8, weights = 22_700_000 }

[stages.pruned]
kind = "learn"
inputs = { teacher = "teacher.model" }
params = { epochs = 3, weights = 7_880_000 }

[stages.package]
kind = "pack"
inputs = { model = "pruned.model" }
params = { content = "a package" }

[stages.bench]
kind = "measure"
inputs = { teacher = "teacher.model", small = "pruned.model" }
"#;

const STRICT: &str = r#"
[stages.teacher]
kind = "learn"
params = { epochs = 2, weights = 22_700_000 }
require = { accuracy-min = 0.99 }

[stages.pruned]
kind = "learn"
inputs = { teacher = "teacher.model" }
params = { epochs = 3, weights = 7_880_000 }
"#;

/// Goes on until it is interrupted.
const LONG: &str = r#"
[stages.teacher]
kind = "learn"
params = { epochs = 1_000_000, weights = 22_700_000 }
"#;

/// A project, and the process that serves its pages.
pub(super) struct Server {
    folder: tempfile::TempDir,
    process: Child,
    pub(super) address_to_write: String,
}

/// Serves the pages of a project folder until it is interrupted, and prints where.
pub(crate) fn serve(folder: &Path) -> ExitCode {
    let settings = Settings {
        home: folder.join(".pipeline"),
        author: "Ann".to_owned(),
        repository: folder.join("model-repository"),
        promote: Box::new(|promotion| {
            let live = promotion.repository.join(&promotion.service).join("live");
            fs::create_dir_all(&live).map_err(|error| error.to_string())?;
            let file = "package.toml";
            fs::copy(promotion.package.join(file), live.join(file))
                .map_err(|error| error.to_string())?;
            Ok(Promoted { version: 1, was_live: false })
        }),
    };
    let server = ui::Server::bind(settings, 0).unwrap();
    println!("{}", server.address_to_write());
    server.run().unwrap();
    ExitCode::SUCCESS
}

impl Server {
    /// Two runs of one manifest that are done (1, 2), one of another that missed a gate (3).
    pub(super) fn with_runs() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".git")).unwrap();
        let manifests = [("small", SMALL), ("strict", STRICT), ("long", LONG), ("tries", SWEEP)];
        for (name, stages) in manifests {
            let text = format!("schema = 1\nname = \"{name}\"\nseed = 7\n{stages}");
            fs::write(folder.path().join(format!("{name}.toml")), text).unwrap();
        }
        run(folder.path(), "small", &[]);
        run(folder.path(), "small", &["stages.pruned.params.epochs=5"]);
        run(folder.path(), "strict", &[]);
        let mut process = this_program()
            .arg("serve")
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let address_to_write = lines.next().expect("a line").expect("UTF-8");
        Self { folder, process, address_to_write }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where a page is.
    pub(super) fn address(&self, path: &str) -> String {
        let (origin, _) = self.address_to_write.split_once("/#token=").expect("a token");
        format!("{origin}{path}")
    }

    /// Four runs of a sweep.
    pub(super) fn sweep(&self) {
        sweep(self.folder.path(), "tries");
    }

    /// A run in a process of its own that goes on until it is interrupted.
    pub(super) fn start_long_run(&self) -> Child {
        let mut command = this_program();
        command.arg("run").arg(self.folder.path()).arg("long");
        command.stdout(Stdio::null()).spawn().expect("it starts")
    }

    /// Ends the server like Ctrl-C; its exit code.
    pub(super) fn stop(&mut self) -> Option<i32> {
        interrupt(&self.process);
        self.process.wait().expect("it ends").code()
    }

    /// Keeps a picture of a page where `PAGE_PICTURES` names a folder.
    pub(super) fn keep(&self, browser: &mut Chromium, name: &str) {
        if let Some(folder) = std::env::var_os("PAGE_PICTURES") {
            let path = PathBuf::from(folder).join(name).with_extension("png");
            fs::write(path, from_base64(&browser.picture())).expect("a picture");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already over, unless a check failed.
        let _over = self.process.kill();
        let _over = self.process.wait();
    }
}

fn this_program() -> Command {
    Command::new(std::env::current_exe().expect("this program has a path"))
}

/// Sends what Ctrl-C sends.
pub(super) fn interrupt(process: &Child) {
    let id = i32::try_from(process.id()).expect("a process id");
    kill_process(Pid::from_raw(id).expect("not 0"), Signal::INT).expect("it runs");
}

fn from_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let bytes = digits.chunks(4).flat_map(|four| {
        let bits = four.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit));
        let bits = bits << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    });
    bytes.collect()
}
