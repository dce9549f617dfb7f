//! `pipeline sweep MANIFEST`.

use std::fmt::Write as _;

use engine::history::{TrialState, Trigger};
use engine::sweep::space::Params;
use engine::{SweepEvent, SweepOptions, SweepPlan};

use super::answer::{Answer, Facts, print_line};
use super::arguments::ManifestFile;
use super::failure::Failure;
use super::progress::Progress;
use super::quantity::seconds;
use super::sweeps;

/// Tries out what the manifest's `[sweep]` asks for, or goes on with it.
#[derive(Debug, clap::Args)]
pub(super) struct Sweep {
    #[command(flatten)]
    manifest: ManifestFile,
    /// Trials there are to be, earlier ones included; more than before extends the sweep
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    trials: Option<u32>,
    /// Measure trials again that failed in an earlier session
    #[arg(long)]
    retry_failed: bool,
    /// Say what it would cost; runs and writes nothing
    #[arg(long)]
    dry_run: bool,
    /// What starts the session, as JSON; schedulers say so
    #[arg(long, value_name = "TRIGGER", hide = true, default_value = "\"manual\"")]
    trigger: Trigger,
    /// Print one JSON event a line with stable field names
    #[arg(long)]
    json: bool,
}

impl Sweep {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let mut set = self.manifest.set.clone();
        set.extend(self.trials.map(|trials| format!("sweep.trials={trials}")));
        let (retry_failed, trigger) = (self.retry_failed, self.trigger.clone());
        let options = SweepOptions { set, retry_failed, trigger };
        let project = self.manifest.project()?;
        let plan = project.plan_sweep(&options)?;
        if self.dry_run {
            return Ok(Facts { json: self.json }.answer(&plan, || planned(&plan)));
        }
        let report = if self.json {
            project.sweep(&options, &mut |event| print_line(event))?
        } else {
            let mut progress = Progress::to_stderr();
            progress.say(planned(&plan).trim_end());
            let report = project.sweep(&options, &mut |event| show(&mut progress, event));
            progress.end();
            report?
        };
        let code = report.exit_code();
        if self.json {
            return Ok(Answer::default().with_code(code));
        }
        let mut text = sweeps::text(&report.sweep);
        let _infallible = writeln!(text, "this session took {}", seconds(report.duration_s));
        Ok(Answer::text(text).with_code(code))
    }
}

fn planned(plan: &SweepPlan) -> String {
    let (trials, seeds) = (plan.trials, plan.seeds.len());
    let mut text = format!(
        "{} trials ({}) × {seeds} {}, each {}\n",
        trials,
        plan.sampler,
        if seeds == 1 { "seed" } else { "seeds" },
        plan.stages.join(" → ")
    );
    let share = 100.0 * plan.saved as f64 / plan.stage_runs.max(1) as f64;
    let about = if plan.estimated { "about " } else { "" };
    let _infallible = writeln!(
        text,
        "{} stage runs, of which {about}{} differ: {about}{} ({share:.0} %) are shared",
        plan.stage_runs, plan.needed, plan.saved
    );
    if !plan.rungs.is_empty() {
        let rungs: Vec<_> = plan.rungs.iter().map(ToString::to_string).collect();
        let _infallible = writeln!(text, "early stopping after {} epochs", rungs.join(", "));
    }
    if let Some(expected_s) = plan.expected_s {
        let _infallible = writeln!(text, "expected time: {} of work at most", seconds(expected_s));
    }
    if let Some(sweep) = plan.sweep {
        let known = plan.known;
        let _infallible = writeln!(text, "goes on with sweep {sweep}, which has {known} trials");
    }
    text
}

pub(super) fn show(progress: &mut Progress, event: &SweepEvent) {
    match event {
        SweepEvent::WaitingForRun { holder } => {
            let whom =
                holder.as_ref().map_or_else(|| "another run".to_owned(), ToString::to_string);
            progress.say(&format!("waiting for {whom}, which is at work on this manifest"));
        }
        SweepEvent::SweepStarted { sweep, manifest, known, .. } => {
            let on = if *known > 0 { " goes on" } else { "" };
            progress.say(&format!("sweep {sweep} of {manifest}{on}"));
        }
        SweepEvent::TrialStarted { trial, params, epochs } => {
            let held = epochs.map_or_else(String::new, |epochs| format!(", to epoch {epochs}"));
            progress.say(&format!("trial {trial}: {}{held}", shown(params)));
        }
        SweepEvent::TrialRun { run, .. } => progress.follow(run),
        SweepEvent::TrialStands { trial, state, rung, values, violation, error } => {
            let values: Vec<_> = values.iter().map(|value| format!("{value:.4}")).collect();
            let values = values.join(", ");
            progress.say(&match (state, rung, error) {
                (TrialState::Failed, _, error) => {
                    format!("trial {trial}: failed: {}", error.as_deref().unwrap_or("no reason"))
                }
                (TrialState::Paused, Some(rung), _) => {
                    format!("trial {trial}: held at rung {rung} with {values}")
                }
                _ => match violation.filter(|violation| *violation > 0.0) {
                    Some(violation) => format!(
                        "trial {trial}: {values}, but breaks its constraints by {:.1} %",
                        100.0 * violation
                    ),
                    None => format!("trial {trial}: {values}"),
                },
            });
        }
        SweepEvent::SweepFinished { .. } => {}
    }
}

/// Parameters without what all their paths share.
pub(super) fn shown(params: &Params) -> String {
    let parts: Vec<_> =
        params.iter().map(|(path, value)| format!("{}={value}", short(path))).collect();
    parts.join(" ")
}

/// `student.alpha` for `stages.student.params.alpha`.
pub(super) fn short(path: &str) -> String {
    path.strip_prefix("stages.").unwrap_or(path).replacen(".params.", ".", 1)
}
