//! What the machine can do at most, measured in the same run.

use std::collections::BTreeMap;

use kernels::Tier;
use kernels::peaks::{Effort, Numbers, Peaks as Measured};

use crate::table::Precision;

/// Operations a second by the fastest instruction of each precision, in thousand millions.
#[derive(Default)]
pub(crate) struct Peaks(BTreeMap<Precision, f64>);

impl Peaks {
    /// # Errors
    /// When no loop is known for this CPU.
    pub(crate) fn measure(threads: usize) -> anyhow::Result<Self> {
        let measured = Measured::measure(threads, Effort::THOROUGH);
        let measured = measured.ok_or_else(|| anyhow::anyhow!("no loop is known for this CPU"))?;
        let rate = |numbers: Numbers| {
            let precision = Precision::from_name(numbers.name())?;
            let peak = measured.fastest(numbers, Tier::Amx)?;
            (peak.numbers == numbers).then_some((precision, peak.rate))
        };
        let all = [Numbers::F32, Numbers::Bf16, Numbers::Int8];
        Ok(Self(all.into_iter().filter_map(rate).collect()))
    }

    pub(crate) fn describe(&self) -> String {
        let peaks = self.0.iter();
        let peaks = peaks.map(|(precision, rate)| format!("{} {rate:.0}", precision.name()));
        format!("peaks, Gop/s: {}", peaks.collect::<Vec<_>>().join(", "))
    }

    /// The share of the peak that this rate is, in percent.
    pub(crate) fn share(&self, precision: Precision, rate: f64) -> Option<f64> {
        self.0.get(&precision).map(|peak| 100.0 * rate / peak)
    }
}
