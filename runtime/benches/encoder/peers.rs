//! Other runtimes, in a process of their own that answers one turn at a time: `peers.py`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use serde::Deserialize;

use crate::settings::Settings;
use crate::table::{Contender, Precision};
use crate::{Cell, Turn};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers.py");

/// The peers that run.
pub(crate) struct Peers {
    process: Option<Process>,
    greeting: Greeting,
}

struct Process {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Greeting {
    versions: String,
    peers: BTreeMap<String, Precision>,
    /// Why a peer cannot be had here.
    missing: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    #[serde(default)]
    seconds: Vec<f64>,
    #[serde(default)]
    logits: Vec<f32>,
    error: Option<String>,
}

impl Peers {
    /// None when there is no interpreter for them.
    pub(crate) fn start(
        settings: &Settings,
        folder: &Path,
        threads: usize,
    ) -> anyhow::Result<Self> {
        let Some(python) = &settings.python else {
            return Ok(Self { process: None, greeting: Greeting::default() });
        };
        let mut command = Command::new(python);
        command.arg(SCRIPT).arg(folder).arg(threads.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let questions = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut process = Process { child, questions, answers };
        let mut greeting: Greeting = process.read()?;
        let parts = &settings.peers;
        let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part));
        greeting.peers.retain(|name, _| wanted(name));
        Ok(Self { process: Some(process), greeting })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.greeting.peers.is_empty()
    }

    /// Versions of the peers, and which cannot be had.
    pub(crate) fn describe(&self) -> String {
        let Greeting { versions, missing, .. } = &self.greeting;
        if self.process.is_none() {
            return "no peers: PYTHON is not set".to_owned();
        }
        let missing = missing.iter().map(|(name, reason)| format!("; no {name}: {reason}"));
        versions.clone() + &missing.collect::<String>()
    }

    pub(crate) fn contenders(&self) -> Vec<Contender> {
        let peers = self.greeting.peers.iter();
        peers.map(|(name, precision)| Contender::new(name, *precision)).collect()
    }

    /// A turn of a peer, or why it fails.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn run(
        &mut self,
        model: &str,
        peer: &str,
        (batch, sequence): Cell,
        seconds: f64,
    ) -> anyhow::Result<Result<Turn, String>> {
        let process = self.process.as_mut().context("the peers have no process")?;
        writeln!(process.questions, "run {model} {peer} {batch} {sequence} {seconds}")?;
        let Answer { seconds, logits, error } = process.read()?;
        Ok(error.map_or(Ok(Turn { seconds, logits }), Err))
    }

    /// Ends the process.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        let Some(Process { mut child, questions, answers }) = self.process else { return Ok(()) };
        drop((questions, answers));
        let status = child.wait()?;
        anyhow::ensure!(status.success(), "{SCRIPT} ended with {status}");
        Ok(())
    }
}

impl Process {
    fn read<A: for<'de> Deserialize<'de>>(&mut self) -> anyhow::Result<A> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "{SCRIPT} ended without an answer");
        serde_json::from_str(&line).with_context(|| line.clone())
    }
}
