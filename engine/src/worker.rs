//! The worker process: runs one stage as its task file says, and reports on standard output.

use std::fs::{self, File};
use std::io::{self, BufRead as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail};

use crate::protocol::{Outcome, PROTOCOL, Task, TaskResult, WorkerEvent};
use crate::stage::{AnyStage, BadInput, Interrupted, Paused, StageContext, StageTable};
use crate::store::write_atomically;

/// Set by a parent that talks through standard input: its end means that the parent is gone.
pub(crate) const ATTACHED: &str = "PIPELINE_WORKER_ATTACHED";

/// Line on standard input that asks for a checkpoint and an end.
pub(crate) const INTERRUPT: &str = "interrupt";

/// Body of the hidden verb `worker TASK`: 0 when the stage is done, 1 when it failed, 2 when what
/// it was given is wrong, 130 when it was interrupted or paused. What happened is in the task's result file.
pub fn worker_main(table: StageTable, task_path: &Path) -> ExitCode {
    let task = match read_task(task_path) {
        Ok(task) => task,
        Err(error) => {
            let _unheard = writeln!(io::stderr(), "{error:#}");
            return ExitCode::from(2);
        }
    };
    let result_path = task.result.clone();
    let result = work(table, task);
    let code = match result.outcome {
        Outcome::Done => 0,
        Outcome::Failed => 1,
        Outcome::BadInput => 2,
        Outcome::Interrupted | Outcome::Paused => 130,
    };
    let text = serde_json::to_vec_pretty(&result).expect("a result is plain JSON");
    let folder = result_path.parent().unwrap_or(Path::new("."));
    if let Err(error) = write_atomically(folder, &result_path, &text) {
        let _unheard = writeln!(io::stderr(), "{error}");
        return ExitCode::from(2);
    }
    ExitCode::from(code)
}

fn read_task(path: &Path) -> Result<Task> {
    let bytes = fs::read(path).with_context(|| format!("cannot read task {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no task of this version", path.display()))
}

fn work(table: StageTable, task: Task) -> TaskResult {
    let context = Arc::new(StageContext::new(task.clone(), print_event));
    if std::env::var_os(ATTACHED).is_some() {
        watch_parent(&context);
    }
    let outcome =
        watch_signals(&context).and_then(|()| prepare(table, &task)).and_then(|(stage, _lock)| {
            context.recall_milestones();
            run_caught(stage, &task, &context)?;
            check_outputs(stage, &context)
        });
    let (metrics, unavailable, milestones) = context.finish();
    let (outcome, causes) = match outcome {
        Ok(()) => (Outcome::Done, Vec::new()),
        Err(error) => {
            let interrupted = error.chain().any(|cause| cause.is::<Interrupted>());
            let outcome = if interrupted {
                Outcome::Interrupted
            } else if error.chain().any(|cause| cause.is::<Paused>()) {
                Outcome::Paused
            } else if error.chain().any(|cause| cause.is::<BadInput>()) {
                Outcome::BadInput
            } else {
                Outcome::Failed
            };
            (outcome, error.chain().map(ToString::to_string).collect())
        }
    };
    TaskResult { outcome, causes, metrics, unavailable, milestones }
}

/// Runs the stage; a panic is an error that names its message, the log has the rest.
fn run_caught(stage: &dyn AnyStage, task: &Task, context: &StageContext) -> Result<()> {
    let run = AssertUnwindSafe(|| stage.run(task.params.clone(), context));
    catch_unwind(run).unwrap_or_else(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        bail!("the stage panicked: {message}; its log says where")
    })
}

/// Finds the stage, makes the folders and takes the lock that keeps a worker of a killed run,
/// which may not have noticed yet, from writing the same checkpoint.
fn prepare(table: StageTable, task: &Task) -> Result<(&'static dyn AnyStage, File)> {
    if task.protocol != PROTOCOL {
        bail!("the task has protocol version {}, this worker knows {PROTOCOL}", task.protocol);
    }
    let stage = table
        .iter()
        .find(|stage| stage.kind() == task.kind)
        .with_context(|| format!("this worker has no stage kind `{}`", task.kind))?;
    if stage.version() != task.version {
        bail!(
            "the task asks for version {} of stage kind `{}`, this worker has {}; was the program replaced during the run?",
            task.version,
            task.kind,
            stage.version()
        );
    }
    for folder in [&task.outputs, &task.checkpoint] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let path = lock_path(&task.checkpoint);
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .and_then(|file| file.lock().map(|()| file))
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok((*stage, lock))
}

/// The lock that the worker using a checkpoint folder holds.
pub(crate) fn lock_path(checkpoint: &Path) -> std::path::PathBuf {
    checkpoint.with_file_name("worker.lock")
}

fn check_outputs(stage: &dyn AnyStage, context: &StageContext) -> Result<()> {
    for port in stage.outputs() {
        let path = context.output(port.name);
        if fs::symlink_metadata(&path).is_err() {
            bail!(
                "stage kind `{}` finished without writing its output `{}`",
                stage.kind(),
                port.name
            );
        }
    }
    Ok(())
}

fn print_event(event: WorkerEvent) {
    static OUT: Mutex<()> = Mutex::new(());
    let mut line = serde_json::to_vec(&event).expect("an event is plain JSON");
    line.push(b'\n');
    // One write a line, so that lines of several threads do not mix.
    let _guard = OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = io::stdout().lock();
    // Nobody listens when the parent is gone; the watcher of standard input ends the process then.
    let _unheard = out.write_all(&line).and_then(|()| out.flush());
}

/// SIGTERM and SIGINT ask for a checkpoint and an end.
fn watch_signals(context: &Arc<StageContext>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot listen for signals")?;
    let context = Arc::clone(context);
    let (terminate, interrupt) = {
        let _guard = runtime.enter();
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    };
    let mut terminate = terminate.context("cannot listen for SIGTERM")?;
    let mut interrupt = interrupt.context("cannot listen for SIGINT")?;
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                context.interrupt();
            }
        });
    });
    Ok(())
}

/// Obeys the parent, and ends the whole process group at once when the parent is gone.
fn watch_parent(context: &Arc<StageContext>) {
    let context = Arc::clone(context);
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            match line {
                Ok(line) if line == INTERRUPT => context.interrupt(),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let group = rustix::process::getpgrp();
        if group == rustix::process::getpid() {
            let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        std::process::exit(137);
    });
}
