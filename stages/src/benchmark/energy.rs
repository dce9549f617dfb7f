//! Energy of the processor, where the machine lets it be read.

use std::fs;
use std::path::{Path, PathBuf};

/// The counters of Intel's and AMD's running average power limit (RAPL), one a package.
const POWERCAP: &str = "/sys/class/powercap";

/// Counters that can be read.
#[derive(Debug)]
pub(super) struct EnergyCounters(Vec<Counter>);

#[derive(Debug)]
struct Counter {
    file: PathBuf,
    /// The counter starts again from 0 after this many microjoules.
    range_uj: u64,
}

/// What the counters showed at one moment, in microjoules.
#[derive(Debug)]
pub(super) struct Reading(Vec<u64>);

impl EnergyCounters {
    /// The machine's counters.
    ///
    /// # Errors
    ///
    /// Says why there is nothing to read.
    pub(super) fn open() -> Result<Self, String> {
        Self::open_in(Path::new(POWERCAP))
    }

    fn open_in(folder: &Path) -> Result<Self, String> {
        let entries = fs::read_dir(folder)
            .map_err(|error| format!("no RAPL counters: {}: {error}", folder.display()))?;
        let mut zones: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        zones.sort();
        // `intel-rapl:0` is a package, `intel-rapl:0:1` a part of it that is counted in it already.
        zones.retain(|zone| {
            let name = zone.file_name().map(|name| name.to_string_lossy().into_owned());
            name.is_some_and(|name| {
                name.starts_with("intel-rapl:") && name.matches(':').count() == 1
            })
        });
        if zones.is_empty() {
            return Err(format!("no RAPL counters in {}", folder.display()));
        }
        let counters = zones.into_iter().map(|zone| {
            let file = zone.join("energy_uj");
            read(&file)?;
            Ok(Counter { range_uj: read(&zone.join("max_energy_range_uj"))?, file })
        });
        Ok(Self(counters.collect::<Result<_, String>>()?))
    }

    /// The counters now.
    pub(super) fn read(&self) -> Result<Reading, String> {
        Ok(Reading(self.0.iter().map(|counter| read(&counter.file)).collect::<Result<_, _>>()?))
    }

    /// Joules between two readings; each counter may have started again once.
    pub(super) fn joules(&self, before: &Reading, after: &Reading) -> f64 {
        let spent = |((counter, &before), &after): ((&Counter, &u64), &u64)| {
            let wrapped = if after < before { counter.range_uj } else { 0 };
            (after + wrapped).saturating_sub(before)
        };
        self.0.iter().zip(&before.0).zip(&after.0).map(spent).sum::<u64>() as f64 * 1e-6
    }
}

fn read(file: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    text.trim()
        .parse()
        .map_err(|_| format!("{}: expected a number, found {:?}", file.display(), text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(folder: &Path, name: &str, energy: &str) {
        let zone = folder.join(name);
        fs::create_dir_all(&zone).unwrap();
        fs::write(zone.join("energy_uj"), energy).unwrap();
        fs::write(zone.join("max_energy_range_uj"), "1000\n").unwrap();
    }

    #[test]
    fn packages_are_added_up_and_may_wrap() {
        let folder = tempfile::tempdir().unwrap();
        zone(folder.path(), "intel-rapl:0", "900\n");
        zone(folder.path(), "intel-rapl:0:0", "5\n");
        zone(folder.path(), "intel-rapl:1", "100\n");
        let counters = EnergyCounters::open_in(folder.path()).unwrap();
        let before = counters.read().unwrap();
        zone(folder.path(), "intel-rapl:0", "100\n");
        zone(folder.path(), "intel-rapl:1", "300\n");
        let joules = counters.joules(&before, &counters.read().unwrap());
        assert!((joules - 400e-6).abs() < 1e-12, "{joules}");
    }

    #[test]
    fn a_machine_without_counters_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = EnergyCounters::open_in(folder.path()).unwrap_err();
        assert!(error.starts_with("no RAPL counters in "), "{error}");
    }
}
