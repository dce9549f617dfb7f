//! `[schedule]` of a manifest as types; what they accept, they can be obeyed with.

use std::collections::BTreeMap;
use std::time::Duration;

use croner::parser::{CronParser, Seconds, Year};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::{NO_DURATION, did_you_mean, parse_duration};

/// Longest accepted jitter.
const JITTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// `[schedule]`: when the manifest runs by itself, under `pipeline scheduler run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Schedule {
    /// When it is due: minute, hour, day of month, month, day of week, for instance `30 2 * * MON-FRI`. A single time of day that the clock skips in spring is due when the clock has jumped, one that comes twice in autumn is due once; patterns with several times follow the clock on the wall.
    pub cron: Cron,
    /// Whether its `[sweep]` runs instead of the manifest itself. A sweep whose data and settings are the same goes on where it was, others begin anew.
    #[serde(default)]
    pub sweep: bool,
    /// Time zone of the cron, a name of the IANA database.
    #[serde(default)]
    pub timezone: TimeZone,
    /// What becomes of times that were missed, because no scheduler was at work or the machine slept, for at most 31 days.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// What happens when it is due while its last run still goes on.
    #[serde(default)]
    pub overlap: Overlap,
    /// Longest delay after the due time, drawn for each time anew, for instance `10m`; at most `24h`.
    #[serde(default)]
    pub jitter: Option<Jitter>,
    /// What happens when a run is worse than the last good one of this schedule.
    #[serde(default)]
    pub on_regression: Option<OnRegression>,
}

/// What becomes of missed times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUp {
    /// They are left out.
    None,
    /// The newest runs, unless the next is due at once.
    #[default]
    Last,
    /// Each runs, one after the other; at most the newest 1,000.
    All,
}

/// What happens when a schedule is due while its last run still goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It waits for its turn.
    Queue,
    /// The running one is stopped as by Ctrl-C, then it runs.
    CancelRunning,
}

/// What is watched, and what happens when it gets worse: its value leaves the 95 % interval of the last good run on the bad side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OnRegression {
    /// Metrics, `STAGE/METRIC` such as `bench/test/accuracy`, and which values are better.
    pub metrics: BTreeMap<String, Better>,
    /// Program and arguments to start; it gets the facts as JSON on standard input and as `PIPELINE_…` variables.
    #[serde(default)]
    pub command: Vec<String>,
    /// Address that gets the facts as JSON by POST.
    #[serde(default)]
    pub webhook: Option<Webhook>,
    /// Whether the scheduler ends with exit code 1.
    #[serde(default)]
    pub exit: bool,
}

/// Which values of a metric are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// High ones, as of an accuracy.
    Higher,
    /// Low ones, as of a latency.
    Lower,
}

/// A cron pattern of five fields that comes due at some time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Cron {
    text: String,
    pattern: croner::Cron,
}

impl Cron {
    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first time after `after`, seen on the clock of its zone; `None` where there is none.
    pub(super) fn next(&self, after: &jiff::Zoned) -> Option<jiff::Zoned> {
        let found = self.pattern.find_next_occurrence(after, false);
        found.ok().or_else(|| {
            // The search gives up at clocks that jump over more than two hours, such as Samoa's
            // over a day in 2011; it goes on behind the jump.
            let jump = after.time_zone().following(after.timestamp()).next()?.timestamp();
            let behind = jump.to_zoned(after.time_zone().clone());
            self.pattern.find_next_occurrence(&behind, true).ok()
        })
    }
}

impl TryFrom<String> for Cron {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let pattern = parser.parse(&text).map_err(|error| {
            let said = error.to_string();
            format!(
                "`{text}` is no cron pattern: {}; expected minute, hour, day of month, month and day of week, for instance `30 2 * * MON-FRI`",
                said.trim_end_matches('.')
            )
        })?;
        let cron = Self { text, pattern };
        let start: jiff::Timestamp = "2024-01-01T00:00:00Z".parse().expect("a time");
        match cron.next(&start.to_zoned(jiff::tz::TimeZone::UTC)) {
            Some(_) => Ok(cron),
            None => Err(format!("`{}` never comes due: no date fits it", cron.text)),
        }
    }
}

impl From<Cron> for String {
    fn from(cron: Cron) -> Self {
        cron.text
    }
}

/// A time zone of the IANA database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct TimeZone {
    name: String,
    pub(super) zone: jiff::tz::TimeZone,
}

impl TimeZone {
    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl Default for TimeZone {
    fn default() -> Self {
        Self { name: "UTC".to_owned(), zone: jiff::tz::TimeZone::UTC }
    }
}

impl TryFrom<String> for TimeZone {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if name == "UTC" {
            return Ok(Self::default());
        }
        match jiff::tz::TimeZone::get(&name) {
            Ok(zone) => Ok(Self { name, zone }),
            Err(_) => {
                let known: Vec<String> =
                    jiff::tz::db().available().map(|name| name.to_string()).collect();
                let close = did_you_mean(&name, known.iter().map(String::as_str));
                let close =
                    close.unwrap_or_else(|| "write for instance `Europe/Berlin`".to_owned());
                Err(format!("`{name}` is no time zone of the IANA database; {close}"))
            }
        }
    }
}

impl From<TimeZone> for String {
    fn from(zone: TimeZone) -> Self {
        zone.name
    }
}

/// A length of time for jitter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Jitter {
    text: String,
    pub(super) longest: Duration,
}

impl TryFrom<String> for Jitter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match parse_duration(&text) {
            Some(longest) if longest <= JITTER_MAX => Ok(Self { text, longest }),
            Some(_) => Err(format!("jitter `{text}` is longer than `24h`")),
            None => Err(format!("`{text}` {NO_DURATION}")),
        }
    }
}

impl From<Jitter> for String {
    fn from(jitter: Jitter) -> Self {
        jitter.text
    }
}

/// An address for notices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Webhook(String);

impl Webhook {
    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Webhook {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        match rest {
            Some(rest) if !rest.is_empty() && !rest.contains(char::is_whitespace) => Ok(Self(text)),
            _ => Err(format!("`{text}` is no address, expected `http://…` or `https://…`")),
        }
    }
}

impl From<Webhook> for String {
    fn from(webhook: Webhook) -> Self {
        webhook.0
    }
}
