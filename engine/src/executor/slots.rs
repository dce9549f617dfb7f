//! Resource slots: how many stages run at once, and what each may use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Slots of one run.
#[derive(Debug)]
pub(crate) struct Slots {
    jobs: Arc<Semaphore>,
    n_jobs: u32,
    threads: Arc<Semaphore>,
    n_threads: u32,
    gpus: std::sync::Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    contenders: AtomicUsize,
}

/// What one stage holds while it runs.
#[derive(Debug)]
pub(super) struct Slot {
    /// CPU threads it may use, ≥ 1.
    pub(super) threads: usize,
    _job: OwnedSemaphorePermit,
    _threads: OwnedSemaphorePermit,
    _gpu: Option<OwnedMutexGuard<()>>,
}

/// Counts a stage among those that share the threads, until dropped.
#[derive(Debug)]
pub(super) struct Contender(Arc<Slots>);

impl Drop for Contender {
    fn drop(&mut self) {
        self.0.contenders.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slots {
    pub(crate) fn new(jobs: usize, threads: usize) -> Self {
        let bounded = |count: usize| u32::try_from(count.clamp(1, 4096)).expect("at most 4096");
        let (n_jobs, n_threads) = (bounded(jobs), bounded(threads));
        Self {
            jobs: Arc::new(Semaphore::new(n_jobs as usize)),
            n_jobs,
            threads: Arc::new(Semaphore::new(n_threads as usize)),
            n_threads,
            gpus: std::sync::Mutex::default(),
            contenders: AtomicUsize::new(0),
        }
    }

    /// Counts a stage that may soon want a slot, so that the first to come leaves it some threads.
    pub(super) fn contend(self: &Arc<Self>) -> Contender {
        self.contenders.fetch_add(1, Ordering::Relaxed);
        Contender(Arc::clone(self))
    }

    /// Waits for a slot. An exclusive stage gets the machine for itself.
    pub(super) async fn acquire(&self, device: &str, exclusive: bool) -> Slot {
        let open = "the slots live as long as the run";
        let jobs = if exclusive { self.n_jobs } else { 1 };
        let job = Arc::clone(&self.jobs).acquire_many_owned(jobs).await.expect(open);
        let threads = if exclusive { self.n_threads } else { self.share() };
        let permit = Arc::clone(&self.threads).acquire_many_owned(threads).await.expect(open);
        let gpu = match self.gpu(device) {
            Some(gpu) => Some(gpu.lock_owned().await),
            None => None,
        };
        Slot { threads: threads as usize, _job: job, _threads: permit, _gpu: gpu }
    }

    /// Threads of a stage: an equal part for everyone who may run at once.
    fn share(&self) -> u32 {
        let contenders = u32::try_from(self.contenders.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        (self.n_threads / contenders.clamp(1, self.n_jobs)).max(1)
    }

    fn gpu(&self, device: &str) -> Option<Arc<Mutex<()>>> {
        if device == "cpu" {
            return None;
        }
        // `cuda` is the first GPU, the same one as `cuda:0`.
        let name = if device == "cuda" { "cuda:0" } else { device };
        let mut gpus = self.gpus.lock().expect("no panic under this lock");
        Some(Arc::clone(gpus.entry(name.to_owned()).or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn threads_are_divided_and_exclusive_stages_run_alone() {
        let slots = Arc::new(Slots::new(2, 8));
        let contenders = [slots.contend(), slots.contend(), slots.contend()];
        let first = slots.acquire("cpu", false).await;
        let second = slots.acquire("cpu", false).await;
        assert_eq!((first.threads, second.threads), (4, 4));
        drop(contenders);
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.acquire("cpu", true).await.threads }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop((first, second));
        assert_eq!(waiting.await.unwrap(), 8);
        assert_eq!(slots.acquire("cpu", false).await.threads, 8);
    }

    #[tokio::test]
    async fn one_stage_a_gpu() {
        let slots = Arc::new(Slots::new(4, 4));
        let contenders: Vec<_> = (0..4).map(|_| slots.contend()).collect();
        let first = slots.acquire("cuda", false).await;
        let _other_gpu = slots.acquire("cuda:1", false).await;
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.acquire("cuda:0", false).await.threads }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        assert_eq!(waiting.await.unwrap(), 1);
        drop(contenders);
    }
}
