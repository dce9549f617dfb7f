//! What becomes of the slots of a schedule: a pure function of what is recorded and the time.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{CatchUp, Overlap, Schedule, Timetable};

/// Delay after which a slot counts as missed. A scheduler looks at the clock twice as often.
const ON_TIME: SignedDuration = SignedDuration::from_secs(60);
/// Slots that were missed longer ago are past catching up.
const REACH: SignedDuration = SignedDuration::from_hours(31 * 24);
/// Most slots that `catch-up = "all"` lets run; the newest ones.
const CAUGHT_UP_MAX: usize = 1000;
/// Most missed slots that are recorded at once; the newest ones.
const MISSED_MAX: usize = 100;

/// What is recorded about a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Slots up to here have been decided, or came before the schedule as it is now.
    pub(crate) since: Timestamp,
    /// Slots with a tick.
    pub(crate) recorded: BTreeSet<Timestamp>,
    /// Slots claimed by a scheduler that died before the run began.
    pub(crate) orphans: BTreeSet<Timestamp>,
    /// Slots that wait for their turn.
    pub(crate) queued: BTreeSet<Timestamp>,
    /// The slot whose run is going on or about to start.
    pub(crate) active: Option<Active>,
}

/// A run that is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Active {
    /// Its slot.
    pub(crate) slot: Timestamp,
    /// Whether it was told to stop.
    pub(crate) stopping: bool,
}

/// What becomes of a slot that has no tick yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It runs, now or when it is its turn.
    Queued,
    /// It does not run, because of another run.
    Skipped(String),
    /// It does not run: its time passed unattended.
    Missed,
}

/// What to record and to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// The new [`Seen::since`].
    pub(crate) since: Timestamp,
    /// Slots and what becomes of them, in order; queued slots may be taken out of the queue again.
    pub(crate) verdicts: Vec<(Timestamp, Verdict)>,
    /// Slot to start now.
    pub(crate) start: Option<Timestamp>,
    /// Whether the active run has to stop.
    pub(crate) stop_active: bool,
    /// When to look again at the latest, as far as slots are concerned.
    pub(crate) wake: Option<Timestamp>,
}

impl Decision {
    /// Whether there is anything to record.
    pub(crate) fn changes(&self, seen: &Seen) -> bool {
        !self.verdicts.is_empty()
            || self.start.is_some()
            || self.stop_active
            || self.since < seen.since
    }
}

/// Decides on every slot that is due by `now`.
pub(crate) fn decide(timetable: &Timetable, seen: &Seen, now: Timestamp) -> Decision {
    // A clock that went back is believed; slots it shows again have their ticks.
    let reach = now.checked_sub(REACH).unwrap_or(Timestamp::MIN);
    let since = seen.since.min(now).max(reach);
    let fresh: BTreeSet<Timestamp> = timetable
        .after(since)
        .take_while(|slot| *slot <= now)
        .filter(|slot| !seen.recorded.contains(slot))
        .chain(seen.orphans.iter().copied())
        .collect();
    let (due, waiting): (Vec<_>, Vec<_>) =
        fresh.into_iter().partition(|slot| timetable.due(*slot) <= now);
    let (late, on_time): (Vec<_>, Vec<_>) =
        due.into_iter().partition(|slot| now.duration_since(timetable.due(*slot)) > ON_TIME);

    let mut turn = Turn { queue: seen.queued.clone(), active: seen.active, verdicts: Vec::new() };
    turn.late(&late, timetable.schedule().catch_up, !on_time.is_empty());
    let mut stop_active = false;
    for slot in on_time {
        stop_active |= turn.on_time(slot, timetable.schedule());
    }
    let start = turn.queue.first().copied().filter(|_| turn.active.is_none());
    let mut verdicts = turn.verdicts;
    verdicts.sort_by_key(|(slot, _)| *slot);
    let wake = waiting.iter().map(|slot| timetable.due(*slot)).chain(timetable.next(now)).min();
    // Slots that wait for their delay are looked at again; those before them are recorded.
    let before = |slot: &Timestamp| slot.checked_sub(Duration::from_secs(1)).unwrap_or(*slot);
    let since = waiting.first().map_or(now, before).min(now);
    Decision { since, verdicts, start, stop_active, wake }
}

struct Turn {
    queue: BTreeSet<Timestamp>,
    active: Option<Active>,
    verdicts: Vec<(Timestamp, Verdict)>,
}

impl Turn {
    fn queue(&mut self, slot: Timestamp) {
        self.queue.insert(slot);
        self.verdicts.push((slot, Verdict::Queued));
    }

    /// Slots that nobody attended to in time.
    fn late(&mut self, slots: &[Timestamp], catch_up: CatchUp, next_is_due: bool) {
        let caught_up = match catch_up {
            CatchUp::None => 0,
            CatchUp::Last => usize::from(!next_is_due),
            CatchUp::All => CAUGHT_UP_MAX,
        };
        let (missed, caught_up) = slots.split_at(slots.len().saturating_sub(caught_up));
        let recorded = missed.iter().skip(missed.len().saturating_sub(MISSED_MAX));
        self.verdicts.extend(recorded.map(|slot| (*slot, Verdict::Missed)));
        caught_up.iter().for_each(|slot| self.queue(*slot));
    }

    /// A slot whose time it is; gives back whether the active run has to stop.
    fn on_time(&mut self, slot: Timestamp, schedule: &Schedule) -> bool {
        // Where each slot runs, one that comes while others catch up is one more of them.
        let catching_up = schedule.catch_up == CatchUp::All && !self.queue.is_empty();
        let busy = self.active.map(|active| active.slot).or(self.queue.first().copied());
        match (busy, schedule.overlap) {
            (Some(other), Overlap::Skip) if !catching_up => {
                let reason = format!("the run of {other} had not ended");
                self.verdicts.push((slot, Verdict::Skipped(reason)));
                false
            }
            (Some(_), Overlap::CancelRunning) => {
                let reason = format!("the run of {slot} took its place");
                for earlier in std::mem::take(&mut self.queue) {
                    // One that was queued a moment ago is not worth two lines.
                    self.verdicts.retain(|(other, _)| *other != earlier);
                    self.verdicts.push((earlier, Verdict::Skipped(reason.clone())));
                }
                self.queue(slot);
                self.active.is_some_and(|active| !active.stopping)
            }
            _ => {
                self.queue(slot);
                false
            }
        }
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
