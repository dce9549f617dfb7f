//! How much memory the machine has for the process.

use std::fs;

use crate::RuntimeError;

/// What the kernel says of memory in general (proc(5)), and of this process's group (cgroups(7)).
const MEMINFO: &str = "/proc/meminfo";
const GROUP_LIMIT: &str = "/sys/fs/cgroup/memory.max";

/// A part of the machine's memory in bytes, for [`crate::CompileOptions::memory_budget`]. Of a
/// machine with a limit on the process's control group, a part of that limit.
///
/// # Errors
/// When `fraction` is not in `0.0..=1.0`, 0 excluded, or the system does not say how much there
/// is: Linux only.
pub fn memory_fraction(fraction: f64) -> Result<usize, RuntimeError> {
    if !(fraction > 0.0 && fraction <= 1.0) {
        return Err(error(format!("expected a fraction above 0 and at most 1, found {fraction}")));
    }
    let text = fs::read_to_string(MEMINFO)
        .map_err(|found| error(format!("cannot read {MEMINFO}: {found}; give bytes instead")))?;
    let all = total_bytes(&text)
        .ok_or_else(|| error(format!("expected a line `MemTotal: … kB` in {MEMINFO}")))?;
    let limit = fs::read_to_string(GROUP_LIMIT).ok().and_then(|text| text.trim().parse().ok());
    Ok(part(limit.map_or(all, |limit: usize| limit.min(all)), fraction))
}

fn error(reason: String) -> RuntimeError {
    RuntimeError::MachineMemory { reason }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive part of a usize is one"
)]
fn part(bytes: usize, fraction: f64) -> usize {
    (bytes as f64 * fraction) as usize
}

/// The total of a `/proc/meminfo`.
fn total_bytes(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read() {
        let text = "MemTotal:       16384 kB\nMemFree:            1 kB\n";
        assert_eq!(total_bytes(text), Some(16 << 20));
        for text in ["", "MemFree: 1 kB", "MemTotal: many kB", "MemTotal: 5"] {
            assert_eq!(total_bytes(text), None);
        }
    }

    #[test]
    fn a_fraction_is_checked() {
        for fraction in [0.0, -0.5, 1.5, f64::NAN, f64::INFINITY] {
            let message = memory_fraction(fraction).unwrap_err().to_string();
            assert!(message.contains("at most 1"), "{message}");
        }
        assert_eq!(part(1000, 0.25), 250);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn half_the_memory_is_less_than_all() {
        let (half, all) = (memory_fraction(0.5).unwrap(), memory_fraction(1.0).unwrap());
        assert!(0 < half && half < all && all - 2 * half < 2);
    }
}
