//! How much memory the machine has for the process.

use std::fs;
use std::path::{Path, PathBuf};

use crate::RuntimeError;

/// What the kernel says of memory in general (proc(5)), and of this process's groups (cgroups(7)).
const MEMINFO: &str = "/proc/meminfo";
const GROUPS: &str = "/proc/self/cgroup";

/// A part of the machine's memory in bytes, for [`crate::CompileOptions::memory_budget`]. On a
/// machine with a limit on the process's control group, or on one around it, a part of the least.
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
    let groups = fs::read_to_string(GROUPS).unwrap_or_default();
    // What has no limit says `max`, or has no file.
    let limit = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse().ok();
    Ok(part(limit_files(&groups).filter_map(limit).fold(all, usize::min), fraction))
}

/// The files that may hold a limit for a `/proc/self/cgroup`: of each group and those around it, of
/// both versions. A process in a container may see its own group as the root of all.
fn limit_files(groups: &str) -> impl Iterator<Item = PathBuf> {
    let of_line = |line: &str| {
        let [_, controllers, group] = line.splitn(3, ':').collect::<Vec<_>>().try_into().ok()?;
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let around = Path::new(group).ancestors();
        let file =
            |group: &Path| Path::new(root).join(group.strip_prefix("/").ok()?).join(file).into();
        Some(around.filter_map(file).collect::<Vec<PathBuf>>())
    };
    groups.lines().filter_map(of_line).flatten()
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
    fn limits_are_looked_for_in_every_group_around_the_process() {
        let files = |groups| -> Vec<String> {
            limit_files(groups).map(|file| file.display().to_string()).collect()
        };
        assert_eq!(
            files("0::/user.slice/job.scope\n"),
            [
                "/sys/fs/cgroup/user.slice/job.scope/memory.max",
                "/sys/fs/cgroup/user.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(
            files("12:cpu,cpuacct:/a\n7:memory:/a\n"),
            [
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            ]
        );
        assert!(files("nonsense").is_empty());
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
