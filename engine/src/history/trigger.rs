//! What started a run.

use serde::{Deserialize, Serialize};

/// What started a run; kept with it as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Trigger {
    /// Someone's command.
    #[default]
    Manual,
    /// The schedule of its manifest.
    Schedule {
        /// The time it was due, before jitter, in UTC.
        slot: jiff::Timestamp,
    },
    /// A sweep over its manifest.
    Sweep {
        /// Number of the sweep.
        sweep: i64,
        /// Number of the trial in that sweep.
        trial: i64,
        /// Seed that the trial's parameters were drawn with.
        seed: u64,
    },
}

impl std::fmt::Display for Trigger {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manual => formatter.write_str("manual"),
            Self::Schedule { slot } => write!(formatter, "schedule {slot:.0}"),
            Self::Sweep { sweep, trial, .. } => write!(formatter, "sweep {sweep}, trial {trial}"),
        }
    }
}

impl std::str::FromStr for Trigger {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("`{text}` is no trigger: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_kept_as_json_and_shown_as_words() {
        let slot = "2026-03-29T01:30:00Z".parse().unwrap();
        let cases = [
            (Trigger::Manual, "\"manual\"", "manual"),
            (
                Trigger::Schedule { slot },
                "{\"schedule\":{\"slot\":\"2026-03-29T01:30:00Z\"}}",
                "schedule 2026-03-29T01:30:00Z",
            ),
            (
                Trigger::Sweep { sweep: 2, trial: 5, seed: u64::MAX },
                "{\"sweep\":{\"sweep\":2,\"trial\":5,\"seed\":18446744073709551615}}",
                "sweep 2, trial 5",
            ),
        ];
        for (trigger, json, shown) in cases {
            assert_eq!(serde_json::to_string(&trigger).unwrap(), json);
            assert_eq!(json.parse::<Trigger>(), Ok(trigger.clone()));
            assert_eq!(trigger.to_string(), shown);
        }
        assert!("{\"moon\":{}}".parse::<Trigger>().is_err());
    }
}
