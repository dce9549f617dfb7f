//! `pipeline scheduler emit-systemd`.

use std::path::Path;

use engine::schedule::{CatchUp, Overlap, Schedule};

use super::super::answer::Answer;
use super::super::arguments::State;
use super::super::failure::Failure;
use super::{Manifests, Scheduled};

/// Prints systemd units that look after schedules: a timer where systemd can say when, a service
/// that keeps running where it cannot. Manifests of one file name have to be emitted together: only
/// then do their units get names of their own.
#[derive(Debug, clap::Args)]
pub(super) struct EmitSystemd {
    #[command(flatten)]
    manifests: Manifests,
    #[command(flatten)]
    state: State,
}

impl EmitSystemd {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| anyhow::Error::new(error).context("cannot find this program"))?;
        let (scheduled, code) = self.manifests.read()?;
        // What chooses the state folder here is not there when systemd starts a unit.
        let is_set = std::env::var_os("PIPELINE_HOME").is_some_and(|home| !home.is_empty());
        let chosen = || is_set.then(|| engine::state_folder(Path::new("/")));
        let home = self.state.given().or_else(chosen);
        let stems: Vec<String> = scheduled.iter().map(|one| stem(&one.file)).collect();
        let units = scheduled.iter().zip(&stems).map(|(one, stem)| {
            let is_shared = stems.iter().filter(|other| *other == stem).count() > 1;
            let tag = if is_shared { format!("-{:08x}", tag(&one.file)) } else { String::new() };
            units(&program, one, &format!("{stem}{tag}"), home.as_deref())
        });
        Ok(Answer::text(units.collect::<Vec<_>>().join("\n")).with_code(code))
    }
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().replace(' ', "-")
}

/// Tells files of one name apart: FNV-1a (Fowler, Noll and Vo) of the path.
fn tag(file: &Path) -> u32 {
    let bytes = file.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0x811c_9dc5, |tag, byte| (tag ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn units(program: &Path, one: &Scheduled, stem: &str, home: Option<&Path>) -> String {
    let schedule = one.timetable.schedule();
    let name = format!("pipeline-{stem}");
    let folder = one.file.parent().unwrap_or(Path::new("/"));
    let quoted = |path: &Path| format!("\"{}\"", escaped(&path.display().to_string()));
    let home = home.map_or_else(String::new, |home| format!(" --home {}", quoted(home)));
    let command = format!("{} scheduler run {}{home}", quoted(program), quoted(&one.file));
    let folder = folder.display().to_string().replace('%', "%%");
    let (kind, once) =
        if calendar(schedule).is_some() { ("oneshot", " --once") } else { ("simple", "") };
    let mut text = format!(
        "# ~/.config/systemd/user/{name}.service\n\
         [Unit]\n\
         Description=Runs {stem} by its schedule\n\n\
         [Service]\n\
         Type={kind}\n\
         WorkingDirectory={folder}\n\
         ExecStart={command}{once}\n\
         # Only the scheduler is asked to stop; it lets its runs leave a checkpoint.\n\
         KillMode=mixed\n\
         KillSignal=SIGINT\n\
         TimeoutStopSec=5min\n"
    );
    match calendar(schedule) {
        Some(calendar) => {
            let persistent = schedule.catch_up != CatchUp::None;
            let lines: String =
                calendar.iter().map(|line| format!("OnCalendar={line}\n")).collect();
            text.push_str(&format!(
                "\n# ~/.config/systemd/user/{name}.timer\n\
                 # To start: {command} --once\n\
                 #           systemctl --user enable --now {name}.timer\n\
                 [Unit]\n\
                 Description=Times of {stem}\n\n\
                 [Timer]\n\
                 {lines}\
                 AccuracySec=1s\n\
                 Persistent={persistent}\n\n\
                 [Install]\n\
                 WantedBy=timers.target\n"
            ));
        }
        None => text.push_str(&format!(
            "Restart=on-failure\n\
             RestartSec=1min\n\
             # A regression ends it with 1, a wrong manifest with 2.\n\
             RestartPreventExitStatus=1 2\n\n\
             # To start: systemctl --user enable --now {name}.service\n\
             [Install]\n\
             WantedBy=default.target\n"
        )),
    }
    text
}

/// A path inside quotes of `ExecStart`.
fn escaped(path: &str) -> String {
    path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$")
}

/// `OnCalendar` lines that come due when the cron does; `None` where a timer would not do: it
/// knows no delays, and nothing looks at the clock while a run goes on.
fn calendar(schedule: &Schedule) -> Option<Vec<String>> {
    if schedule.jitter.is_some() || schedule.overlap != Overlap::Skip {
        return None;
    }
    let fields: Vec<&str> = schedule.cron.as_str().split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else { return None };
    let time = format!("{}:{}:00", numbers(hour, 0)?, numbers(minute, 0)?);
    let (month, zone) = (numbers(month, 1)?, schedule.timezone.as_str());
    let is_any = |field: &str| matches!(field, "*" | "?");
    let by_day = || Some(format!("*-{month}-{} {time} {zone}", numbers(day, 1)?));
    let by_weekday = || Some(format!("{} *-{month}-* {time} {zone}", weekdays(weekday)?));
    // Cron takes either where both are given.
    match (is_any(day), is_any(weekday)) {
        (_, true) => Some(vec![by_day()?]),
        (true, false) => Some(vec![by_weekday()?]),
        (false, false) => Some(vec![by_day()?, by_weekday()?]),
    }
}

/// A field of numbers, lists, ranges and steps.
fn numbers(field: &str, first: u32) -> Option<String> {
    let part = |part: &str| {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok()?)),
            None => (part, None),
        };
        let number = |text: &str| text.parse::<u32>().ok();
        match (range, step) {
            ("*" | "?", None) => Some("*".to_owned()),
            ("*" | "?", Some(step)) => Some(format!("{first}/{step}")),
            (range, step) => {
                let step = step.map_or_else(String::new, |step| format!("/{step}"));
                match range.split_once('-') {
                    Some((low, high)) => Some(format!("{}..{}{step}", number(low)?, number(high)?)),
                    None if step.is_empty() => Some(number(range)?.to_string()),
                    None => None,
                }
            }
        }
    };
    let parts: Option<Vec<_>> = field.split(',').map(part).collect();
    Some(parts?.join(","))
}

/// A field of weekdays.
fn weekdays(field: &str) -> Option<String> {
    const NAMES: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    let day = |text: &str| {
        let by_name = NAMES.iter().position(|name| name.eq_ignore_ascii_case(text));
        by_name.or_else(|| {
            text.parse().ok().filter(|number| *number <= 7).map(|number: usize| number % 7)
        })
    };
    let mut names = Vec::new();
    for part in field.split(',') {
        match part.split_once('-') {
            Some((low, high)) => {
                let (low, high) = (day(low)?, day(high)?);
                let high = if high < low { high + 7 } else { high };
                names.extend((low..=high).map(|index| NAMES[index % 7]));
            }
            None => names.push(NAMES[day(part)?]),
        }
    }
    Some(names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crons_become_calendars_where_systemd_has_words_for_them() {
        let check = |rest: &str, expected: Option<&[&str]>| {
            let schedule: Schedule = serde_json::from_str(rest).unwrap();
            let lines = calendar(&schedule);
            let lines = lines.as_ref().map(|lines| lines.iter().map(String::as_str).collect());
            assert_eq!(lines, expected.map(<[&str]>::to_vec), "{rest}");
        };
        check(r#"{"cron":"30 2 * * MON-FRI"}"#, Some(&["Mon,Tue,Wed,Thu,Fri *-*-* 2:30:00 UTC"]));
        check(
            r#"{"cron":"*/15 0-6/2 1,15 * *","timezone":"Europe/Berlin"}"#,
            Some(&["*-*-1,15 0..6/2:0/15:00 Europe/Berlin"]),
        );
        check(r#"{"cron":"0 4 1 */3 0"}"#, Some(&["*-1/3-1 4:0:00 UTC", "Sun *-1/3-* 4:0:00 UTC"]));
        check(r#"{"cron":"0 4 L * *"}"#, None);
        check(r#"{"cron":"0 4 * * FRI#2"}"#, None);
        check(r#"{"cron":"0 4 * * *","jitter":"5m"}"#, None);
        check(r#"{"cron":"0 4 * * *","overlap":"queue"}"#, None);
    }
}
