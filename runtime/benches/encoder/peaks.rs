//! What the machine can do at most, measured in the same run by the bench `peaks` of `kernels`.

use std::collections::BTreeMap;
use std::env;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::table::Precision;

/// Operations a second by the fastest instruction of each precision, in thousand millions.
#[derive(Default)]
pub(crate) struct Peaks(BTreeMap<Precision, f64>);

impl Peaks {
    /// # Errors
    /// When cargo did not start this bench, or the other one cannot run.
    pub(crate) fn measure(threads: usize) -> anyhow::Result<Self> {
        let cargo = env::var_os("CARGO").context("not started by cargo")?;
        let mut command = Command::new(cargo);
        command.args(["bench", "--quiet", "--package", "kernels", "--bench", "peaks"]);
        command.env("RAYON_NUM_THREADS", threads.to_string()).stderr(Stdio::null());
        let output = command.output()?;
        anyhow::ensure!(output.status.success(), "{command:?} ended with {}", output.status);
        let peaks = Self::parse(&String::from_utf8(output.stdout)?);
        anyhow::ensure!(!peaks.0.is_empty(), "{command:?} named no rate");
        Ok(peaks)
    }

    /// Lines begin with the precision and end with the rate of all threads; others are skipped.
    fn parse(text: &str) -> Self {
        let mut peaks = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let precision = words.next().and_then(Precision::from_name);
            let rate = words.next_back().and_then(|word| word.parse().ok());
            if let Some((precision, rate)) = precision.zip(rate) {
                let best: &mut f64 = peaks.entry(precision).or_default();
                *best = best.max(rate);
            }
        }
        Self(peaks)
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
