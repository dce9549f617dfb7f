//! One worker process: started, listened to, stopped when it has to be.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::drive::Message;
use super::{Host, Stop};
use crate::protocol::{Outcome, Task, TaskResult, WorkerEvent};
use crate::worker::{ATTACHED, INTERRUPT};

/// Lines of a crashed worker that its error quotes.
const TAIL: usize = 12;
/// Longest wait for output once the worker has ended: a process it left behind may hold the pipe.
const DRAIN: Duration = Duration::from_secs(2);
/// A deadline that never comes.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// Outcome of an attempt whose input is wrong; no other attempt would go better.
pub(super) const BAD_INPUT: &str = "bad-input";

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum AttemptEnd {
    /// Every output is written.
    Done(TaskResult),
    /// The stage gave an error back, or ended without a result.
    Failed {
        /// Word for the database: `failed`, `crashed`, `timeout` or [`BAD_INPUT`].
        outcome: &'static str,
        error: String,
    },
    /// It stopped because the run was told to.
    Interrupted,
    /// It came to the epoch at which it was to be paused.
    Paused(TaskResult),
}

/// What an attempt needs besides its task.
pub(super) struct Attempt<'a> {
    pub(super) host: &'a Host,
    pub(super) task: &'a Task,
    pub(super) task_path: &'a Path,
    pub(super) log: &'a mut File,
    pub(super) timeout: Option<Duration>,
    pub(super) stop: watch::Receiver<Stop>,
    /// Position of the stage, for its messages.
    pub(super) index: usize,
    pub(super) messages: mpsc::Sender<Message>,
}

enum Line {
    Event(WorkerEvent),
    Text(String),
}

/// Runs the worker to its end. Events go to the run, everything readable to the log.
pub(super) async fn run(mut attempt: Attempt<'_>) -> AttemptEnd {
    let mut child = match spawn(&attempt) {
        Ok(child) => child,
        Err(error) => {
            let program = attempt.host.program.display();
            return AttemptEnd::Failed {
                outcome: "crashed",
                error: format!("cannot start {program}: {error}"),
            };
        }
    };
    let (sender, mut lines) = mpsc::channel(256);
    tokio::spawn(read_lines(child.stdout.take(), sender.clone(), parse_line));
    tokio::spawn(read_lines(child.stderr.take(), sender, Line::Text));
    let mut watched = Watched::new(&mut child, &attempt);
    let mut tail = VecDeque::new();
    let mut open = true;
    let status = loop {
        tokio::select! {
            line = lines.recv(), if open => match line {
                Some(line) => handle(&mut attempt, line, &mut tail).await,
                None => open = false,
            },
            status = child.wait() => break status,
            () = sleep_until(watched.deadline) => watched.time_is_up(attempt.host.grace),
            _ = attempt.stop.changed() => {
                let stop = *attempt.stop.borrow_and_update();
                watched.obey(stop).await;
            }
        }
    };
    let drained = Instant::now() + DRAIN;
    loop {
        match timeout_at(drained, lines.recv()).await {
            Ok(Some(line)) => handle(&mut attempt, line, &mut tail).await,
            Ok(None) => break,
            Err(_) => {
                watched.signal(rustix::process::Signal::KILL);
                break;
            }
        }
    }
    // The log is for people; a full disk shows in the result, which is synced.
    let _unflushed = attempt.log.flush().await;
    let (timed_out, stopped) = (watched.timed_out, watched.stopped);
    match (timed_out, status) {
        (true, _) => {
            let limit = attempt.timeout.unwrap_or_default();
            AttemptEnd::Failed {
                outcome: "timeout",
                error: format!("it took longer than its timeout of {limit:?}"),
            }
        }
        (false, Ok(status)) => verdict(attempt.task, status, stopped, &tail).await,
        (false, Err(error)) => AttemptEnd::Failed {
            outcome: "crashed",
            error: format!("cannot wait for the worker: {error}"),
        },
    }
}

fn spawn(attempt: &Attempt<'_>) -> std::io::Result<Child> {
    let Attempt { host, task, task_path, .. } = attempt;
    Command::new(&host.program)
        .args(&host.arguments)
        .arg(task_path)
        .env(ATTACHED, "1")
        .env("RAYON_NUM_THREADS", task.threads.to_string())
        .envs(host.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&task.root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// The worker's process group and what it has been told.
struct Watched {
    group: Option<rustix::process::Pid>,
    stdin: Option<ChildStdin>,
    deadline: Instant,
    timed_out: bool,
    stopped: bool,
}

impl Watched {
    fn new(child: &mut Child, attempt: &Attempt<'_>) -> Self {
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        Self {
            group,
            stdin: child.stdin.take(),
            deadline: Instant::now() + attempt.timeout.unwrap_or(NEVER),
            timed_out: false,
            stopped: false,
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(group) = self.group {
            // The group may have ended by itself in this moment.
            let _gone = rustix::process::kill_process_group(group, signal);
        }
    }

    fn time_is_up(&mut self, grace: Duration) {
        if self.timed_out {
            self.signal(rustix::process::Signal::KILL);
            self.deadline = Instant::now() + NEVER;
        } else {
            self.timed_out = true;
            self.signal(rustix::process::Signal::TERM);
            self.deadline = Instant::now() + grace;
        }
    }

    async fn obey(&mut self, stop: Stop) {
        match stop {
            Stop::Go | Stop::Halt => {}
            Stop::Checkpoint => {
                self.stopped = true;
                if let Some(stdin) = &mut self.stdin {
                    // A worker that has just ended reads nothing any more.
                    let _unread = stdin.write_all(format!("{INTERRUPT}\n").as_bytes()).await;
                    let _unread = stdin.flush().await;
                }
            }
            Stop::Kill => {
                self.stopped = true;
                self.signal(rustix::process::Signal::KILL);
            }
        }
    }
}

async fn read_lines(
    stream: Option<impl AsyncRead + Unpin>,
    sender: mpsc::Sender<Line>,
    make: impl Fn(String) -> Line,
) {
    let mut reader = BufReader::new(stream.expect("the worker's streams are piped"));
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match reader.read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                if sender.send(make(line)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// An event; what a library printed in between is a line of the log.
fn parse_line(line: String) -> Line {
    serde_json::from_str(&line).map_or(Line::Text(line), Line::Event)
}

async fn handle(attempt: &mut Attempt<'_>, line: Line, tail: &mut VecDeque<String>) {
    let (event, text) = match line {
        Line::Text(text) => {
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(text.clone());
            (WorkerEvent::Log(text.clone()), Some(text))
        }
        Line::Event(event) => {
            let text = match &event {
                WorkerEvent::Log(text) => Some(text.clone()),
                WorkerEvent::Metric(metric) => {
                    Some(format!("{} = {} {}", metric.name, metric.value, metric.unit))
                }
                WorkerEvent::Unavailable(metric) => {
                    Some(format!("{} unavailable: {}", metric.name, metric.reason))
                }
                WorkerEvent::Series(_) | WorkerEvent::Progress(_) => None,
            };
            (event, text)
        }
    };
    if let Some(text) = text {
        let line = format!("{:.0} {text}\n", jiff::Timestamp::now());
        // The log is for people; losing a line of it must not fail the stage.
        let _unwritten = attempt.log.write_all(line.as_bytes()).await;
    }
    // The run only stops listening when it ends with an error of its own.
    let _nobody = attempt.messages.send(Message::Worker { index: attempt.index, event }).await;
}

async fn verdict(
    task: &Task,
    status: ExitStatus,
    stopped: bool,
    tail: &VecDeque<String>,
) -> AttemptEnd {
    let result: Option<TaskResult> = tokio::fs::read(&task.result)
        .await
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let failed = |error: String| AttemptEnd::Failed { outcome: "failed", error };
    match result {
        Some(result) => match result.outcome {
            Outcome::Done => AttemptEnd::Done(result),
            Outcome::Interrupted if stopped => AttemptEnd::Interrupted,
            Outcome::Paused => AttemptEnd::Paused(result),
            Outcome::Interrupted => failed(
                "a signal from outside stopped it; what it did is in its checkpoint".to_owned(),
            ),
            Outcome::Failed => failed(result.causes.join(": ")),
            Outcome::BadInput => {
                AttemptEnd::Failed { outcome: BAD_INPUT, error: result.causes.join(": ") }
            }
        },
        None if stopped => AttemptEnd::Interrupted,
        None => {
            let mut error = format!("the worker ended without a result ({status})");
            if std::os::unix::process::ExitStatusExt::signal(&status) == Some(9) {
                error.push_str("; the system kills processes like that when memory runs out");
            }
            for line in tail {
                error.push_str("\n  ");
                error.push_str(line);
            }
            AttemptEnd::Failed { outcome: "crashed", error }
        }
    }
}
