//! The table: medians, ratios, and how far the answers are apart.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::peaks::Peaks;
use crate::{Cell, Turn};

/// First lines of the table; rows come as they are measured.
pub(crate) const HEAD: &str = "\
Medians; in parentheses by the least time. Gop/s: matrix products alone, by the median.

| model | batch×sequence | precision | ours, ms | peers, ms | best peer ÷ ours | gain | Gop/s | of peak |
|---|---|---|---|---|---|---|---|---|";

/// What the matrix products are computed in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Precision {
    F32,
    Int8,
    /// int8, and what is left in bf16, as peers do where tiles are.
    Int8Bf16,
    Bf16,
}

impl Precision {
    const ALL: [Self; 4] = [Self::F32, Self::Int8, Self::Int8Bf16, Self::Bf16];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
            Self::Int8Bf16 => "int8+bf16",
            Self::Bf16 => "bf16",
        }
    }

    /// What the weights are multiplied in.
    pub(crate) fn of_weights(self) -> Self {
        if self == Self::Int8Bf16 { Self::Int8 } else { self }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|precision| precision.name() == name)
    }
}

/// One way to run a model, and what its turns gave.
pub(crate) struct Contender {
    pub(crate) name: String,
    precision: Precision,
    seconds: Vec<f64>,
    logits: Vec<f32>,
    /// Why there are no more turns.
    pub(crate) failure: Option<String>,
}

/// Of all runs of a contender in one cell. Where the machine does other work, the least time says
/// more than the median.
#[derive(Clone, Copy)]
struct Time {
    median_ms: f64,
    least_ms: f64,
}

/// What was measured in one cell.
pub(crate) struct Measured {
    pub(crate) model: &'static str,
    pub(crate) cell: Cell,
    /// Operations of the matrix products.
    pub(crate) flops: f64,
    /// Ours: f32 at O0, int8 at O1, which folds constants and fuses nothing, f32, int8, int8 with the rest in bf16, bf16.
    pub(crate) ours: [Contender; 6],
    pub(crate) peers: Vec<Contender>,
}

/// Largest differences of a logit from ours in f32, by model and contender.
#[derive(Default)]
pub(crate) struct Differences(BTreeMap<(&'static str, String), Difference>);

#[derive(Default)]
struct Difference {
    largest: f32,
    /// Largest logit of ours.
    range: f32,
}

impl Contender {
    pub(crate) fn new(name: &str, precision: Precision) -> Self {
        let (seconds, logits) = (Vec::new(), Vec::new());
        Self { name: name.to_owned(), precision, seconds, logits, failure: None }
    }

    pub(crate) fn add(&mut self, turn: Turn) {
        self.seconds.extend(turn.seconds);
        self.logits = turn.logits;
    }

    /// `None` when no run ended.
    fn time(&self) -> Option<Time> {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).map(|seconds| seconds * 1e3);
        Some(Time { median_ms: at(sorted.len() / 2)?, least_ms: at(0)? })
    }
}

impl Measured {
    /// One row a precision that somebody ran.
    pub(crate) fn rows(&self, peaks: &Peaks) -> Vec<String> {
        let [unfused, unfused_integer, float, integer, mixed, bf16] = &self.ours;
        let rows = Precision::ALL.into_iter().filter_map(|precision| {
            let (ours, bases) = match precision {
                Precision::F32 => (float.time(), [None, Some(unfused)]),
                Precision::Int8 => (integer.time(), [Some(float), Some(unfused_integer)]),
                Precision::Int8Bf16 => (mixed.time(), [Some(float), Some(unfused_integer)]),
                Precision::Bf16 => (bf16.time(), [Some(float), None]),
            };
            let gains = ["f32", "unfused"].into_iter().zip(bases).filter_map(|(what, base)| {
                let ratio = Time::ratio(base?.time()?, ours?);
                Some(format!("{what} ÷ ours {ratio}"))
            });
            let gain = gains.collect::<Vec<_>>().join(", ");
            let peers = self.peers.iter().filter(|peer| peer.precision == precision.of_weights());
            let peers: Vec<&Contender> = peers.collect();
            let shown = ours.is_some() || !peers.is_empty();
            shown.then(|| {
                let speed = self.speed(precision, ours, peaks);
                let [ours, listed, ratio] = compare(ours, &peers);
                let (model, (batch, sequence)) = (self.model, self.cell);
                let precision = precision.name();
                format!(
                    "| {model} | {batch}×{sequence} | {precision} | {ours} | {listed} | {ratio} | {gain} | {speed} |"
                )
            })
        });
        rows.collect()
    }

    /// The last two columns.
    fn speed(&self, precision: Precision, ours: Option<Time>, peaks: &Peaks) -> String {
        let rate = ours.map(|ours| self.flops / ours.median_ms / 1e6);
        let share = rate.and_then(|rate| peaks.share(precision.of_weights(), rate));
        let rate = rate.map(|rate| format!("{rate:.0}"));
        format!("{} | {}", or_dash(rate), or_dash(share.map(|share| format!("{share:.0} %"))))
    }
}

/// Our time, all peers' from the fastest on, and how often ours fits into the best of them.
fn compare(ours: Option<Time>, peers: &[&Contender]) -> [String; 3] {
    let times = peers.iter().filter_map(|peer| peer.time().map(|time| (time, &peer.name)));
    let mut times: Vec<(Time, &String)> = times.collect();
    times.sort_by(|(a, _), (b, _)| a.median_ms.total_cmp(&b.median_ms));
    let failures = peers.iter().filter_map(|peer| {
        peer.failure.as_ref().map(|failure| format!("{} failed: {failure}", peer.name))
    });
    let listed = times.iter().map(|(time, name)| format!("{name} {time}")).chain(failures);
    let best = times.iter().map(|(time, _)| *time).reduce(|best, time| Time {
        median_ms: best.median_ms.min(time.median_ms),
        least_ms: best.least_ms.min(time.least_ms),
    });
    let ratio = best.zip(ours).map(|(best, ours)| Time::ratio(best, ours));
    let ours = ours.map(|ours| ours.to_string());
    [or_dash(ours), listed.collect::<Vec<_>>().join(", "), or_dash(ratio)]
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".to_owned())
}

impl Time {
    /// How often `ours` fits into `base`, by medians and by least times.
    fn ratio(base: Self, ours: Self) -> String {
        let (median, least) = (base.median_ms / ours.median_ms, base.least_ms / ours.least_ms);
        format!("{median:.2} ({least:.2})")
    }
}

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.2} ({:.2})", self.median_ms, self.least_ms)
    }
}

impl Differences {
    pub(crate) fn add(&mut self, measured: &Measured) {
        let Measured { model, ours, peers, .. } = measured;
        let [unfused, unfused_integer, float, integer, mixed, bf16] = ours;
        let range = float.logits.iter().fold(0f32, |range, x| range.max(x.abs()));
        let others = peers.iter().chain([unfused, unfused_integer, integer, mixed, bf16]);
        for other in others.filter(|other| !other.logits.is_empty()) {
            let entry = self.0.entry((model, other.name.clone())).or_default();
            entry.largest = entry.largest.max(distance(&float.logits, &other.logits));
            entry.range = entry.range.max(range);
        }
    }
}

/// Largest difference; infinite where an answer is no number or not there.
fn distance(ours: &[f32], theirs: &[f32]) -> f32 {
    if ours.len() != theirs.len() {
        return f32::INFINITY;
    }
    let differences = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    differences.map(|x| if x.is_nan() { f32::INFINITY } else { x }).fold(0.0, f32::max)
}

impl fmt::Display for Differences {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "| model | contender | largest difference of a logit from ours in f32 | largest logit |"
        )?;
        writeln!(formatter, "|---|---|---|---|")?;
        for ((model, name), Difference { largest, range }) in &self.0 {
            writeln!(formatter, "| {model} | {name} | {largest:.1e} | {range:.2} |")?;
        }
        Ok(())
    }
}
