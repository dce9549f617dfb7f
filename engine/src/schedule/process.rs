//! Processes told apart also when their numbers are used again.

use serde::{Deserialize, Serialize};

/// One process of one boot of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ProcessIdentity {
    pid: u32,
    /// Clock ticks from boot to its start; `None` where the system does not say.
    started: Option<u64>,
    /// Which boot.
    boot: Option<String>,
}

impl ProcessIdentity {
    /// The process that has this number now.
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid, started: started(pid), boot: boot() }
    }

    /// This process.
    pub(crate) fn here() -> Self {
        Self::of(std::process::id())
    }

    /// Whether it is still there.
    pub(crate) fn is_alive(&self) -> bool {
        if self.boot != boot() || self.started != started(self.pid) {
            return false;
        }
        self.raw().is_some_and(|pid| {
            rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
        })
    }

    /// Asks it to stop, as Ctrl-C would; one that has gone stays gone.
    pub(crate) fn interrupt(&self) {
        if let Some(pid) = self.raw().filter(|_| self.is_alive()) {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
    }

    fn raw(&self) -> Option<rustix::process::Pid> {
        i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw)
    }
}

fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which may hold anything, is in brackets; the state is next, the start 19 later.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    // One that has ended and only waits to be counted is gone.
    (state != "Z").then(|| fields.nth(18)?.parse().ok())?
}

fn boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let here = ProcessIdentity::here();
        assert!(here.is_alive());
        let earlier =
            ProcessIdentity { started: here.started.map(|ticks| ticks - 1), ..here.clone() };
        assert!(!earlier.is_alive());
        let before = ProcessIdentity { boot: Some("another".to_owned()), ..here };
        assert!(!before.is_alive());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = ProcessIdentity::of(child.id());
        child.wait().unwrap();
        assert!(!ended.is_alive());
    }
}
