//! Simulations: schedulers, clocks and runs that are made up, second by second.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;

/// A world with one schedule; its rows stand for the database.
struct World {
    timetable: Timetable,
    seen: Seen,
    /// How often each slot ran, and how late it started.
    runs: BTreeMap<Timestamp, (u32, SignedDuration)>,
    missed: BTreeSet<Timestamp>,
    skipped: BTreeSet<Timestamp>,
    stopped: BTreeSet<Timestamp>,
    now: Timestamp,
    /// When the active run ends.
    ends: Timestamp,
    run_takes: SignedDuration,
    /// How long a run goes on after it was told to stop.
    stop_takes: SignedDuration,
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

impl World {
    fn new(toml: &str, now: &str, run_takes_s: i64) -> Self {
        let now = at(now);
        Self {
            timetable: Timetable::new(toml::from_str(toml).unwrap(), "made-up"),
            seen: Seen {
                since: now,
                recorded: BTreeSet::new(),
                orphans: BTreeSet::new(),
                queued: BTreeSet::new(),
                active: None,
            },
            runs: BTreeMap::new(),
            missed: BTreeSet::new(),
            skipped: BTreeSet::new(),
            stopped: BTreeSet::new(),
            now,
            ends: now,
            run_takes: SignedDuration::from_secs(run_takes_s),
            stop_takes: SignedDuration::from_secs(5),
        }
    }

    /// One look at the clock by a scheduler; what it decides is one transaction.
    fn look(&mut self) {
        if self.seen.active.is_some() && self.ends <= self.now {
            self.seen.active = None;
        }
        let decision = decide(&self.timetable, &self.seen, self.now);
        if !decision.changes(&self.seen) {
            return;
        }
        self.seen.since = decision.since;
        for (slot, verdict) in decision.verdicts {
            let known = self.seen.recorded.insert(slot);
            assert!(known || self.seen.orphans.remove(&slot) || self.seen.queued.contains(&slot));
            self.seen.queued.remove(&slot);
            match verdict {
                Verdict::Queued => _ = self.seen.queued.insert(slot),
                Verdict::Skipped(_) => _ = self.skipped.insert(slot),
                Verdict::Missed => _ = self.missed.insert(slot),
            }
        }
        if decision.stop_active {
            let active = self.seen.active.as_mut().expect("only an active run can be stopped");
            assert!(!active.stopping);
            active.stopping = true;
            self.stopped.insert(active.slot);
            self.ends = self.now.checked_add(self.stop_takes).unwrap();
        }
        if let Some(slot) = decision.start {
            assert!(self.seen.active.is_none() && self.seen.queued.remove(&slot), "{slot}");
            self.seen.active = Some(Active { slot, stopping: false });
            self.ends = self.now.checked_add(self.run_takes).unwrap();
            let late = self.now.duration_since(self.timetable.due(slot));
            self.runs.entry(slot).or_insert((0, late)).0 += 1;
        }
    }

    /// Lets time pass with a look every `every_s` seconds.
    fn pass(&mut self, seconds: i64, every_s: i64) {
        let end = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        while self.now < end {
            self.now = self.now.checked_add(SignedDuration::from_secs(every_s)).unwrap();
            self.look();
        }
    }

    /// Sets the clock, or lets the machine sleep.
    fn jump(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    fn ran(&self) -> Vec<String> {
        assert!(self.runs.values().all(|(times, _)| *times == 1), "{:?}", self.runs);
        self.runs.keys().map(|slot| slot.strftime("%H:%M").to_string()).collect()
    }
}

const HOURLY: &str = "cron = \"0 * * * *\"\n";

#[test]
fn a_laptop_that_slept_over_three_slots_catches_up_as_told() {
    for (policy, expected) in [
        ("none", &["10:00", "14:00"][..]),
        ("last", &["10:00", "13:00", "14:00"]),
        ("all", &["10:00", "11:00", "12:00", "13:00", "14:00"]),
    ] {
        let toml = format!("{HOURLY}catch-up = \"{policy}\"");
        let mut world = World::new(&toml, "2026-05-04T09:30:00Z", 300);
        world.pass(3600, 30);
        world.jump(3 * 3600);
        world.pass(3600, 30);
        assert_eq!(world.ran(), expected, "{policy}");
        assert_eq!(
            world.runs.len() + world.missed.len(),
            5,
            "{policy}: each slot is accounted for"
        );
    }
}

#[test]
fn waking_at_a_slot_runs_that_one_for_all_it_missed() {
    let mut world = World::new(HOURLY, "2026-05-04T09:30:00Z", 300);
    world.jump(3 * 3600 + 30 * 60 + 10);
    world.look();
    assert_eq!(world.ran(), ["13:00"]);
    assert_eq!(world.missed.len(), 3);
}

#[test]
fn a_clock_that_goes_back_runs_nothing_again() {
    let mut world = World::new(HOURLY, "2026-05-04T09:30:00Z", 300);
    world.pass(2 * 3600, 30);
    world.jump(-90 * 60);
    world.pass(3 * 3600, 30);
    assert_eq!(world.ran(), ["10:00", "11:00", "12:00", "13:00"]);
}

#[test]
fn a_clock_that_was_years_ahead_does_not_silence_a_schedule() {
    let mut world = World::new(HOURLY, "2026-05-04T09:30:00Z", 300);
    world.jump(70 * 365 * 24 * 3600);
    world.look();
    world.ends = Timestamp::MIN;
    world.jump(-70 * 365 * 24 * 3600);
    world.pass(3600, 30);
    assert!(world.ran().contains(&"10:00".to_owned()), "{:?}", world.runs);
}

#[test]
fn slots_of_every_minute_missed_for_years_are_bounded() {
    let toml = "cron = \"* * * * *\"\ncatch-up = \"all\"";
    let mut world = World::new(toml, "2020-01-01T00:00:00Z", 1);
    world.jump(6 * 365 * 24 * 3600);
    world.look();
    // A thousand that were missed, and the two of the last minute.
    assert_eq!((world.seen.queued.len() + world.runs.len(), world.missed.len()), (1002, 100));
}

#[test]
fn overlap_is_handled_as_told() {
    // Runs take an hour and a half.
    let run = |policy: &str| {
        let toml = format!("{HOURLY}overlap = \"{policy}\"");
        let mut world = World::new(&toml, "2026-05-04T09:30:00Z", 5400);
        world.pass(4 * 3600, 30);
        world
    };
    let skip = run("skip");
    assert_eq!((skip.ran(), skip.skipped.len()), (vec!["10:00".into(), "12:00".into()], 2));
    let queue = run("queue");
    assert_eq!(queue.ran(), ["10:00", "11:00", "12:00"]);
    assert_eq!(queue.seen.queued.len(), 1, "13:00 waits");
    let cancel = run("cancel-running");
    assert_eq!(cancel.ran(), ["10:00", "11:00", "12:00", "13:00"]);
    assert_eq!(cancel.stopped.len(), 3);
}

#[test]
fn a_run_that_does_not_stop_gives_way_to_the_newest_slot_only() {
    let toml = "cron = \"* * * * *\"\noverlap = \"cancel-running\"";
    let mut world = World::new(toml, "2026-05-04T09:59:30Z", 3600);
    world.stop_takes = SignedDuration::from_mins(2);
    world.pass(4 * 60, 30);
    assert_eq!(world.ran(), ["10:00", "10:03"]);
    assert_eq!(world.skipped.len(), 2);
}

#[test]
fn a_claim_without_a_run_is_decided_anew_under_the_policy() {
    for (policy, minutes_gone, expected) in
        [("none", 0, 1), ("none", 30, 0), ("last", 30, 1), ("all", 30, 1), ("last", 90, 0)]
    {
        let toml = format!("{HOURLY}catch-up = \"{policy}\"");
        let mut world = World::new(&toml, "2026-05-04T10:00:01Z", 300);
        let slot = at("2026-05-04T10:00:00Z");
        world.seen.recorded.insert(slot);
        world.seen.orphans.insert(slot);
        world.jump(minutes_gone * 60);
        world.look();
        let ran = world.runs.keys().filter(|ran| **ran == slot).count();
        assert_eq!(ran, expected, "{policy}, {minutes_gone} minutes");
        world.pass(1200, 30);
        assert!(world.seen.orphans.is_empty() && world.runs.values().all(|(times, _)| *times == 1));
    }
}

#[test]
fn delays_that_pass_the_next_slot_lose_none() {
    let toml = "cron = \"*/5 * * * *\"\njitter = \"20m\"\noverlap = \"queue\"";
    let mut world = World::new(toml, "2026-05-04T09:59:00Z", 1);
    world.pass(4 * 3600, 20);
    let due = |slot: &Timestamp| world.timetable.due(*slot) <= world.now;
    let slots: BTreeSet<_> = world
        .timetable
        .after(at("2026-05-04T09:59:00Z"))
        .take_while(|slot| *slot <= world.now)
        .filter(due)
        .collect();
    let ran: BTreeSet<_> = world.runs.keys().copied().collect();
    assert_eq!(ran, slots);
}

/// What may happen to a machine.
#[derive(Debug, Clone)]
enum Event {
    Pass(i64),
    Jump(i64),
    /// Another scheduler looks at once.
    Other,
    /// The claim of the active run is lost with its scheduler before the run began.
    Crash,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (60..7200_i64).prop_map(Event::Pass),
        2 => (-7200..20_000_i64).prop_map(Event::Jump),
        2 => Just(Event::Other),
        1 => Just(Event::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]
    #[test]
    fn whatever_happens_a_slot_runs_at_most_once_and_the_policy_holds(
        events in prop::collection::vec(event(), 1..20),
        cron in prop::sample::select(vec!["0 * * * *", "*/7 * * * *", "30 2 * * *", "0 1-3 * * *"]),
        policy in prop::sample::select(vec!["none", "last", "all"]),
        overlap in prop::sample::select(vec!["skip", "queue"]),
        jitter in prop::sample::select(vec!["", "jitter = \"15m\"\n"]),
        takes_s in prop::sample::select(vec![1_i64, 400, 5000]),
    ) {
        // The night in which clocks in Berlin go back.
        let toml = format!(
            "cron = \"{cron}\"\ntimezone = \"Europe/Berlin\"\ncatch-up = \"{policy}\"\noverlap = \"{overlap}\"\n{jitter}"
        );
        let mut world = World::new(&toml, "2026-10-24T22:10:00Z", takes_s);
        for event in events {
            match event {
                Event::Pass(seconds) => world.pass(seconds, 29),
                Event::Jump(seconds) => world.jump(seconds),
                Event::Other => { world.look(); world.look(); }
                Event::Crash => if let Some(active) = world.seen.active.take() {
                    world.seen.orphans.insert(active.slot);
                    world.runs.remove(&active.slot);
                }
            }
        }
        for (slot, (times, late)) in &world.runs {
            prop_assert_eq!(*times, 1, "{}", slot);
            // A queue may hold a slot back; without one, only catching up makes a run late.
            if policy == "none" && overlap == "skip" {
                prop_assert!(*late <= ON_TIME, "{} is {:?} late", slot, late);
            }
        }
        let both = world.missed.iter().chain(&world.skipped).find(|slot| world.runs.contains_key(slot));
        prop_assert_eq!(both, None, "a slot that was left out ran");
        if policy == "all" {
            prop_assert!(world.missed.is_empty());
        }
    }
}
