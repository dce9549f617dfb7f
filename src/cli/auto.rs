//! `pipeline auto MANIFEST`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use engine::history::{SweepRecord, TrialRecord};
use engine::manifest::parse_duration;
use engine::{RunOptions, Selection, SweepOptions};
use stages::auto::{self, Goal, Teacher};

use super::answer::Answer;
use super::arguments::ManifestFile;
use super::failure::Failure;
use super::progress::Progress;
use super::quantity::seconds;
use super::{sweep, sweeps};

/// Searches how to make the manifest's teacher smaller, and writes the manifest of the best way.
///
/// The order and strength of distillation, architecture search, pruning and quantization vary, with
/// their hyper-parameters. What is searched is written beside the manifest as NAME.search.toml: a
/// manifest with a `[sweep]`, to read, change and go on with by `pipeline sweep`. One that is there
/// and says something else is kept.
#[derive(Debug, clap::Args)]
pub(super) struct Auto {
    #[command(flatten)]
    manifest: ManifestFile,
    /// What the model has to keep to, for instance "accuracy-drop<=0.01, size<=1/10,
    /// latency-p99-ms<=5"; also accuracy>=…, weights<=…
    #[arg(long)]
    goal: Goal,
    /// Longest time to search once the teacher is there, for instance 90m or 2h; a search that
    /// began earlier goes on with what is left of it
    #[arg(long, default_value = "2h", value_parser = duration)]
    budget: String,
    /// Stage that trains the teacher, where several could be it
    #[arg(long, value_name = "STAGE")]
    teacher: Option<String>,
    /// Where to write the manifest [default: NAME.auto.toml beside the manifest]
    #[arg(long, short, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
}

impl Auto {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let project = self.manifest.project()?;
        let manifest = project.check(&self.manifest.set)?;
        let stage = auto::teacher_stage(&manifest, self.teacher.as_deref())
            .map_err(|error| Failure::wrong(error.to_string()))?;
        let mut progress = Progress::to_stderr();
        let selection = Selection { until: vec![stage.name.clone()], ..Selection::default() };
        let options =
            RunOptions { selection, set: self.manifest.set.clone(), ..RunOptions::default() };
        let report = project.run(&options, &mut |event| progress.hear(event));
        let report = report.inspect_err(|_| progress.end())?;
        if report.exit_code() != 0 {
            progress.end();
            return Ok(Answer::text("the teacher is not there, nothing was searched")
                .with_code(report.exit_code()));
        }
        let model = project.artifact(&format!("{}.model", stage.name), &self.manifest.set)?;
        let model = model.path.context("the teacher's model is no longer in the store")?;
        let teacher = Teacher::of(stage, &report, &model)?;
        progress.say(&format!(
            "teacher: validation accuracy {:.4}, {:.1} MB; goal: {}",
            teacher.accuracy(),
            teacher.size() / 1e6,
            self.goal
        ));

        let base = auto::table(&manifest)?;
        let keep: Vec<_> = report.stages.iter().map(|stage| stage.name.clone()).collect();
        let searched = auto::search(&base, &keep, &teacher, &self.goal, &self.budget)?;
        let path = self.beside("search");
        write_search(&path, &searched, &self.goal)?;
        progress.say(&format!("searching {}", path.display()));
        let search = self.manifest.project_of(&path)?;
        let found = search.sweep(&SweepOptions::default(), &mut |event| {
            sweep::show(&mut progress, event);
        });
        progress.end();
        let found = found?;
        self.conclude(&searched, &found.sweep, &teacher, found.exit_code(), found.duration_s)
    }

    fn conclude(
        &self,
        searched: &auto::Table,
        found: &SweepRecord,
        teacher: &Teacher,
        code: u8,
        duration_s: f64,
    ) -> Result<Answer, Failure> {
        let mut text = sweeps::text(found);
        let best: Option<&TrialRecord> = found.trials.iter().find(|trial| trial.best);
        let Some(best) = best else {
            let _infallible = writeln!(
                text,
                "no trial kept to the goal {} in {}; a larger --budget goes on where this ended",
                self.goal,
                seconds(duration_s)
            );
            return Ok(Answer::text(text).with_code(code.max(1)));
        };
        let output = self.output.clone().unwrap_or_else(|| self.beside("auto"));
        write(&output, &auto::winner(searched, found, best, teacher, &self.goal)?)?;
        let shown = output.display();
        let _infallible = writeln!(
            text,
            "trial {} keeps to the goal {}\nmanifest: {shown}\nnext: pipeline run {shown}",
            best.number, self.goal
        );
        Ok(Answer::text(text).with_code(code))
    }

    /// `NAME.WHAT.toml` beside the manifest.
    fn beside(&self, what: &str) -> PathBuf {
        self.manifest.path().with_extension(format!("{what}.toml"))
    }
}

/// A duration as manifests have them.
fn duration(text: &str) -> Result<String, String> {
    let is_one = parse_duration(text).is_some();
    is_one.then(|| text.to_owned()).ok_or_else(|| "expected for instance `90m` or `2h`".to_owned())
}

/// Writes what is searched, unless there is something else that people may have worked on.
fn write_search(path: &Path, searched: &auto::Table, goal: &Goal) -> Result<(), Failure> {
    let but_for_budget = |table: &auto::Table| {
        let mut table = table.clone();
        if let Some(sweep) = table.get_mut("sweep").and_then(|sweep| sweep.as_table_mut()) {
            sweep.remove("budget");
        }
        table
    };
    let text = std::fs::read_to_string(path).ok();
    let there = text.map(|text| text.parse::<auto::Table>().ok().as_ref().map(but_for_budget));
    if there.is_some_and(|there| there != Some(but_for_budget(searched))) {
        let shown = path.display();
        return Err(Failure::wrong(format!(
            "{shown} is there and says something else than this search, so it is kept: go on with it \
             by `pipeline sweep {shown}`, or move it away for `auto` to write it anew"
        )));
    }
    write(path, &auto::text(searched, goal)?)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_durations() {
        assert_eq!(duration("90m"), Ok("90m".to_owned()));
        assert!(duration("foo").is_err() && duration("").is_err());
    }

    #[test]
    fn a_search_that_was_changed_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.search.toml");
        let goal: Goal = "size<=1/10".parse().expect("a goal");
        let table = |text: &str| text.parse::<auto::Table>().expect("TOML");
        let first = table("seed = 1\n[sweep]\nbudget = \"2h\"");
        write_search(&path, &first, &goal).expect("there is none");
        let longer = table("seed = 1\n[sweep]\nbudget = \"3h\"");
        write_search(&path, &longer, &goal).expect("only the budget differs");
        let changed = std::fs::read_to_string(&path).expect("it").replace("seed = 1", "seed = 2");
        std::fs::write(&path, &changed).expect("a change");
        let refused = write_search(&path, &longer, &goal).expect_err("it was changed").message();
        assert!(refused.contains("is there and says something else"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).expect("it"), changed);
    }
}
