//! Which instants a schedule is due at.

use jiff::Timestamp;

use super::Schedule;

/// The slots of a schedule: instants its cron names, and how long each waits before it is due.
#[derive(Debug, Clone)]
pub struct Timetable {
    schedule: Schedule,
    /// What the delays are drawn with: differs between schedules, so that not all wait alike.
    salt: String,
}

impl Timetable {
    /// The timetable of a schedule; `salt` tells it from others, for instance its manifest's path.
    pub fn new(schedule: Schedule, salt: impl Into<String>) -> Self {
        Self { schedule, salt: salt.into() }
    }

    /// What it was made of.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// What decides the slots, as it is compared to notice an edit.
    pub(crate) fn identity(&self) -> String {
        format!("{} {}", self.schedule.timezone.as_str(), self.schedule.cron.as_str())
    }

    /// The first slot after an instant.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let local = after.to_zoned(self.schedule.timezone.zone.clone());
        let slot = self.schedule.cron.next(&local)?.timestamp();
        // Going back in time would never end; nor would staying.
        (slot > after).then_some(slot)
    }

    /// The slots after an instant, in order, without end.
    pub fn after(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
        std::iter::successors(self.next(after), |slot| self.next(*slot))
    }

    /// When a slot is due: after a delay that is the same whoever asks and whenever.
    pub fn due(&self, slot: Timestamp) -> Timestamp {
        let Some(jitter) = &self.schedule.jitter else { return slot };
        let longest_ms = u64::try_from(jitter.longest.as_millis()).unwrap_or(u64::MAX);
        let mut hasher = blake3::Hasher::new_derive_key("pipeline 2026 delay of a slot v1");
        hasher.update(self.salt.as_bytes());
        hasher.update(&slot.as_second().to_le_bytes());
        let bytes: [u8; 8] = hasher.finalize().as_bytes()[..8].try_into().expect("eight bytes");
        let delay_ms = u64::from_le_bytes(bytes) % longest_ms.saturating_add(1);
        slot.checked_add(std::time::Duration::from_millis(delay_ms)).unwrap_or(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timetable(toml: &str) -> Timetable {
        Timetable::new(toml::from_str(toml).unwrap(), "nightly.toml")
    }

    /// Slots after an instant, as clocks of the zone show them.
    fn check(toml: &str, after: &str, expected: &[&str]) {
        let timetable = timetable(toml);
        let zone = timetable.schedule.timezone.zone.clone();
        let shown: Vec<_> = timetable
            .after(after.parse().unwrap())
            .take(expected.len())
            .map(|slot| slot.to_zoned(zone.clone()).strftime("%m-%d %H:%M%:z").to_string())
            .collect();
        assert_eq!(shown, expected, "{toml}");
    }

    #[test]
    fn a_skipped_hour_delays_a_time_of_day_and_drops_the_others() {
        // On 2026-03-29 clocks in Berlin jump from 02:00 to 03:00.
        let before = "2026-03-28T12:00:00Z";
        check(
            "cron = \"30 2 * * *\"\ntimezone = \"Europe/Berlin\"",
            before,
            &["03-29 03:00+02:00", "03-30 02:30+02:00"],
        );
        check(
            "cron = \"*/30 1-3 * * *\"\ntimezone = \"Europe/Berlin\"",
            before,
            &["03-29 01:00+01:00", "03-29 01:30+01:00", "03-29 03:00+02:00", "03-29 03:30+02:00"],
        );
    }

    #[test]
    fn a_repeated_hour_repeats_patterns_but_no_time_of_day() {
        // On 2026-10-25 clocks in Berlin go back from 03:00 to 02:00.
        let before = "2026-10-24T23:40:00Z";
        check(
            "cron = \"30 2 * * *\"\ntimezone = \"Europe/Berlin\"",
            before,
            &["10-25 02:30+02:00", "10-26 02:30+01:00"],
        );
        check(
            "cron = \"0 * * * *\"\ntimezone = \"Europe/Berlin\"",
            before,
            &["10-25 02:00+02:00", "10-25 02:00+01:00", "10-25 03:00+01:00"],
        );
    }

    #[test]
    fn slots_rise_through_every_shift_of_many_zones() {
        let zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"];
        let crons = ["*/20 * * * *", "15 */3 * * *", "30 2 * * *", "0 0 * * *", "59 23 L * *"];
        for zone in zones {
            for cron in crons {
                let timetable = timetable(&format!("cron = \"{cron}\"\ntimezone = \"{zone}\""));
                // In 2011 Samoa left out a whole day.
                let start: Timestamp = "2011-12-20T00:00:00Z".parse().unwrap();
                let slots: Vec<_> = timetable.after(start).take(1500).collect();
                assert!(slots.is_sorted_by(|one, next| one < next), "{cron} {zone}");
                assert_eq!(slots.len(), 1500, "{cron} {zone}");
                // Wherever one starts to look, the slots are the same.
                for pair in slots.windows(2) {
                    let between = pair[0].checked_add(std::time::Duration::from_secs(1)).unwrap();
                    assert_eq!(timetable.next(between), Some(pair[1]), "{cron} {zone}");
                }
            }
        }
    }

    #[test]
    fn delays_are_fixed_spread_and_bounded() {
        let timetable = timetable("cron = \"* * * * *\"\njitter = \"10m\"");
        let start = "2026-01-01T00:00:00Z".parse().unwrap();
        let delays: Vec<_> = timetable
            .after(start)
            .take(200)
            .map(|slot| {
                assert_eq!(timetable.due(slot), timetable.due(slot));
                timetable.due(slot).as_second() - slot.as_second()
            })
            .collect();
        assert!(delays.iter().all(|delay| (0..=600).contains(delay)), "{delays:?}");
        assert!(delays.iter().any(|delay| *delay < 120) && delays.iter().any(|delay| *delay > 480));
        let plain = Timetable::new(toml::from_str("cron = \"* * * * *\"").unwrap(), "");
        assert_eq!(plain.due(start), start);
    }
}
