#![allow(unsafe_code, reason = "workers borrow the caller's closure until it is done")]
//! Threads that share the work of one caller, and stay awake between its jobs.
//!
//! A model run is a hundred short jobs in a row. Sleeping and waking costs a thread more than many
//! of them take, so that a worker watches for the next job for [`AWAKE`] before it sleeps.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a worker without a job stays awake.
const AWAKE: Duration = Duration::from_micros(200);

/// Looks at the state between two looks at the clock.
const LOOKS: usize = 64;

/// Threads that run the pieces of kernels for one caller at a time.
///
/// Kernels called inside [`Team::run`] cut their work as everywhere else; the pieces run on the
/// calling thread and the workers. Each starts with a run of neighbouring pieces of its own, the same
/// one in every job: kernels number their pieces by the rows of the result, so that a thread reads
/// what it wrote in the job before, which lies in the caches of its core. Done with those, it takes
/// from the others what they have not begun.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the caller whose work is shared.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Team").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

/// The pieces of one job, borrowed from the caller's stack.
type Pieces<'a> = &'a (dyn Fn(usize) + Sync + 'a);

struct Shared {
    /// Number of the job, whether workers may join it, how many have.
    state: AtomicU64,
    /// The pieces of the job. Written while the job is closed and no worker is in it, read by workers
    /// in it.
    job: UnsafeCell<Option<Pieces<'static>>>,
    /// What each thread starts with, the caller first.
    parts: Vec<Part>,
    /// What the first piece that panicked said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Which workers sleep, or are about to.
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
}

/// Threads of a team at most: more than the largest machines run at once.
const MOST_THREADS: usize = 8192;

/// Neighbouring pieces, in a place of the cache of its own: the threads take pieces from theirs at the
/// same time.
#[derive(Default)]
#[repr(align(128))]
struct Part {
    /// The next piece.
    next: AtomicUsize,
    /// Behind the last.
    end: AtomicUsize,
}

impl Part {
    fn set(&self, pieces: Range<usize>) {
        self.next.store(pieces.start, Ordering::Relaxed);
        self.end.store(pieces.end, Ordering::Relaxed);
    }

    fn take(&self) -> Option<usize> {
        // Only looked at where nothing is left, so that those who are done leave it in its cache.
        if self.next.load(Ordering::Relaxed) >= self.end.load(Ordering::Relaxed) {
            return None;
        }
        let piece = self.next.fetch_add(1, Ordering::Relaxed);
        (piece < self.end.load(Ordering::Relaxed)).then_some(piece)
    }
}

// SAFETY: `job` is what keeps it from being `Sync`; the protocol of `state` orders its accesses.
unsafe impl Sync for Shared {}
// SAFETY: as above; the closure behind `job` may be called from any thread.
unsafe impl Send for Shared {}

/// Workers may join the job.
const OPEN: u64 = 1 << 31;
/// The workers in the job.
const JOINED: u64 = OPEN - 1;
/// One more job.
const NEXT_JOB: u64 = 1 << 32;

/// Who runs the pieces of this thread's kernels.
#[derive(Clone, Copy)]
enum Helpers {
    /// The rayon pool the thread is in.
    Rayon,
    /// A team that this thread leads; alive while this is set, see [`Team::run`].
    Team(*const Team),
    /// Nobody: the thread runs a piece itself.
    Nobody,
}

thread_local! {
    static HELPERS: Cell<Helpers> = const { Cell::new(Helpers::Rayon) };
}

/// Sets who helps this thread until it is dropped.
struct Helped(Helpers);

impl Helped {
    fn by(helpers: Helpers) -> Self {
        Self(HELPERS.replace(helpers))
    }
}

impl Drop for Helped {
    fn drop(&mut self) {
        HELPERS.set(self.0);
    }
}

/// Whether no thread helps this one, so that work need not be cut.
pub(crate) fn is_alone() -> bool {
    matches!(HELPERS.get(), Helpers::Nobody)
}

/// Threads that work where this one shares, itself among them.
pub(crate) fn threads() -> usize {
    match HELPERS.get() {
        Helpers::Rayon => rayon::current_num_threads(),
        // SAFETY: the team is borrowed by the `run` that set this and that is still on the stack.
        Helpers::Team(team) => unsafe { &*team }.threads(),
        Helpers::Nobody => 1,
    }
}

/// Runs `pieces` for every index below `count`, on the threads that help this one.
pub(crate) fn share(count: usize, pieces: impl Fn(usize) + Sync) {
    use rayon::prelude::*;
    match HELPERS.get() {
        Helpers::Rayon => (0..count).into_par_iter().for_each(&pieces),
        // SAFETY: the team is borrowed by the `run` that set this and that is still on the stack.
        Helpers::Team(team) => unsafe { &*team }.share(count, &pieces),
        Helpers::Nobody => (0..count).for_each(&pieces),
    }
}

impl Team {
    /// A team of so many threads, the caller's among them.
    ///
    /// # Errors
    /// When a thread cannot be started, or there are more than 8,192.
    pub fn new(threads: NonZeroUsize) -> io::Result<Self> {
        if threads.get() > MOST_THREADS {
            let reason = format!("expected at most {MOST_THREADS}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let workers = threads.get() - 1;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            parts: (0..threads.get()).map(|_| Part::default()).collect(),
            panic: Mutex::new(None),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
        });
        let mut team = Self { shared, workers: Vec::new(), turn: Mutex::new(()) };
        for index in 0..workers {
            let shared = team.shared.clone();
            let thread = thread::Builder::new().name(format!("kernels-{}", index + 1));
            // Those that started end when the team is dropped.
            team.workers.push(thread.spawn(move || shared.work(index))?);
        }
        Ok(team)
    }

    /// The threads that kernels outside of any team use: `RAYON_NUM_THREADS` where it is set, or as
    /// many as the process may run.
    pub fn usual_threads() -> NonZeroUsize {
        let set = std::env::var("RAYON_NUM_THREADS").ok();
        set.and_then(|threads| threads.parse().ok())
            .or_else(|| thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN)
    }

    /// Number of threads, the caller's among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work` on this thread; the team helps with the pieces of its kernels. Callers take
    /// turns, unless the team is one thread and has nothing to share.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        if self.workers.is_empty() {
            let _alone = Helped::by(Helpers::Nobody);
            return work();
        }
        if matches!(HELPERS.get(), Helpers::Team(team) if std::ptr::eq(team, self)) {
            return work();
        }
        let _turn: MutexGuard<'_, ()> = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let _helped = Helped::by(Helpers::Team(self));
        work()
    }

    /// Runs `job` for every index below `count`, on all threads.
    pub fn for_each(&self, count: usize, job: impl Fn(usize) + Sync) {
        self.run(|| share(count, job));
    }

    /// Runs all pieces, and returns when all are done. Only the thread whose turn it is calls this,
    /// and not from inside a piece: [`Helpers`] sees to both.
    fn share(&self, count: usize, pieces: Pieces<'_>) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes, and the reference is used until `Closing` is dropped,
        // which is before this function returns or unwinds.
        let pieces = unsafe { std::mem::transmute::<Pieces<'_>, Pieces<'static>>(pieces) };
        // SAFETY: no job is open and no worker is in one, since the last `Closing` waited for that;
        // and no other thread leads the team.
        unsafe { *shared.job.get() = Some(pieces) };
        let threads = shared.parts.len();
        for (thread, part) in shared.parts.iter().enumerate() {
            // Rounded up, so that the caller, who is awake, has the first of a few.
            let edge = |thread: usize| (thread * count).div_ceil(threads);
            part.set(edge(thread)..edge(thread + 1));
        }
        let number = shared.state.load(Ordering::Relaxed) & !(NEXT_JOB - 1);
        let closing = Closing(shared);
        shared.state.store(number.wrapping_add(NEXT_JOB) | OPEN, Ordering::SeqCst);
        self.wake();
        {
            let _piece = Helped::by(Helpers::Nobody);
            shared.take_pieces(pieces, 0);
        }
        drop(closing);
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Wakes the workers that sleep.
    fn wake(&self) {
        for (asleep, worker) in self.shared.asleep.iter().zip(&self.workers) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what pieces throw, so that it has nothing to report.
            let _ended = worker.join();
        }
    }
}

/// Closes the open job when it is dropped, and waits for the workers in it.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut looks = 0;
        self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        while self.0.state.load(Ordering::Acquire) & JOINED > 0 {
            looks += 1;
            // A worker that takes this long may be waiting for this very core.
            if looks % (LOOKS * LOOKS) == 0 { thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, index: usize) {
        HELPERS.set(Helpers::Nobody);
        let mut last = 0;
        while self.wait(index, last) {
            let state = self.state.load(Ordering::Relaxed);
            if !is_new(state, last) {
                continue;
            }
            // Joining orders what the leader wrote before what this thread reads.
            let joined =
                self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
            if joined.is_err() {
                continue;
            }
            last = number(state);
            // SAFETY: the job was open when this worker joined it, so the leader wrote it before
            // and leaves it alone until the worker is out again.
            if let Some(pieces) = unsafe { *self.job.get() } {
                self.take_pieces(pieces, index + 1);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Takes pieces until there are none, those of part `own` first. Never panics.
    fn take_pieces(&self, pieces: Pieces<'_>, own: usize) {
        let all = || {
            let (before, from) = self.parts.split_at(own);
            for part in from.iter().chain(before) {
                while let Some(piece) = part.take() {
                    pieces(piece);
                }
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(all)) {
            // Nobody needs the rest.
            self.parts.iter().for_each(|part| part.end.store(0, Ordering::Relaxed));
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }

    /// Waits for a job other than `last`; false when the team ends.
    fn wait(&self, index: usize, last: u64) -> bool {
        let start = Instant::now();
        while start.elapsed() < AWAKE {
            for _ in 0..LOOKS {
                if is_new(self.state.load(Ordering::Acquire), last) {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        loop {
            // The leader looks for sleepers after it opened a job, and a worker for a job after it
            // said that it sleeps: one of them sees the other.
            self.asleep[index].store(true, Ordering::SeqCst);
            let stop = self.stop.load(Ordering::SeqCst);
            let ready = is_new(self.state.load(Ordering::SeqCst), last);
            if !stop && !ready {
                thread::park();
                continue;
            }
            self.asleep[index].store(false, Ordering::SeqCst);
            return !stop;
        }
    }
}

/// Number of the job in a state, never 0.
fn number(state: u64) -> u64 {
    state / NEXT_JOB
}

/// Whether a state has an open job other than `last`.
fn is_new(state: u64, last: u64) -> bool {
    state & OPEN > 0 && number(state) != last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team(threads: usize) -> Team {
        Team::new(NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    #[test]
    fn every_piece_runs_once() {
        for threads in [1, 2, 3, 8] {
            let team = team(threads);
            assert_eq!(team.threads(), threads);
            for round in 0..300 {
                let count = round % 40;
                let runs: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                team.run(|| {
                    share(count, |piece| {
                        runs[piece].fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
                if round % 100 == 0 {
                    thread::sleep(AWAKE * 3);
                }
            }
        }
    }

    #[test]
    fn workers_take_their_part() {
        let team = team(2);
        let barrier = std::sync::Barrier::new(2);
        // Ends only when two threads are in the job at the same time.
        team.for_each(2, |_| {
            barrier.wait();
        });
        team.run(|| {
            share(2, |_| {
                barrier.wait();
                let thread = thread::current().id();
                share(3, |_| assert_eq!(thread::current().id(), thread, "pieces are not cut"));
            });
        });
    }

    #[test]
    fn callers_take_turns() {
        let team = team(2);
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        team.run(|| {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            let sum = AtomicUsize::new(0);
                            team.for_each(10, |piece| {
                                sum.fetch_add(piece, Ordering::Relaxed);
                            });
                            assert_eq!(sum.load(Ordering::Relaxed), 45);
                            inside.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = team(3);
        for failing in 0..6 {
            let run = || {
                team.run(|| share(6, |piece| assert!(piece != failing, "piece {piece} failed")));
            };
            let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            let said = panic.downcast_ref::<String>().expect("a formatted message");
            assert_eq!(*said, format!("piece {failing} failed"));
        }
        let sum = AtomicUsize::new(0);
        team.for_each(10, |piece| {
            sum.fetch_add(piece, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 45);
    }
}
