//! Compound scaling (Tan & Le 2019, arXiv:1905.11946, §3.3): depth, width and resolution grow
//! together as powers of one number φ.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::evolution::Judge;
use super::space::{Candidate, Space};
use crate::range::Positive;

/// Steps of φ.
const STEP: f64 = 0.25;

/// Settings of the scaling: the architecture at φ = 0 and the base of each power.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Scaling {
    /// Depth is `depth^φ` times that of the smallest architecture in the space.
    depth: Positive,
    /// Hidden width, heads and feed-forward units are `width^φ` times the smallest ones.
    width: Positive,
    /// The longest text, in word pieces, is `resolution^φ` times `length`.
    resolution: Positive,
    /// Longest text at φ = 0, in word pieces.
    length: Positive,
    /// φ grows from 0 in steps of 0.25 to this, as far as the constraints allow.
    phi_max: Positive,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            depth: Positive::new(1.2),
            width: Positive::new(1.1),
            resolution: Positive::new(1.15),
            length: Positive::new(64.0),
            phi_max: Positive::new(8.0),
        }
    }
}

/// A scaled architecture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scaled {
    /// The exponent.
    pub(crate) phi: f64,
    /// Its architecture, snapped to the choices of the space.
    pub(crate) candidate: Candidate,
    /// Longest text, in word pieces.
    pub(crate) length: usize,
}

impl Scaling {
    /// The architecture at `phi`.
    fn at(&self, space: &Space, phi: f64) -> Scaled {
        let base = space.smallest();
        let (depth, width) = (self.depth.get().powf(phi), self.width.get().powf(phi));
        let layer = base.layers[0];
        let candidate = space.nearest(
            base.layers.len() as f64 * depth,
            layer.heads as f64 * width,
            layer.intermediate as f64 * width,
            base.hidden as f64 * width,
        );
        let length = (self.length.get() * self.resolution.get().powf(phi)).round() as usize;
        Scaled { phi, candidate, length }
    }

    /// The architectures from φ = 0 upwards that the constraints allow, smallest first; stops at
    /// the first that breaks one. Neighbouring φ that snap to the same sizes appear once.
    pub(crate) fn walk(
        &self,
        space: &Space,
        judge: &mut impl Judge,
    ) -> anyhow::Result<Vec<Scaled>> {
        let steps = (self.phi_max.get() / STEP).floor() as usize;
        let mut allowed: Vec<Scaled> = Vec::new();
        for step in 0..=steps {
            let scaled = self.at(space, step as f64 * STEP);
            if !judge.allows(&scaled.candidate)? {
                break;
            }
            match allowed.last_mut() {
                Some(last) if last.candidate == scaled.candidate => *last = scaled,
                _ => allowed.push(scaled),
            }
        }
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Depth(usize);
    impl Judge for Depth {
        fn allows(&mut self, candidate: &Candidate) -> anyhow::Result<bool> {
            Ok(candidate.layers.len() <= self.0)
        }
        fn fitness(&mut self, _: &Candidate) -> anyhow::Result<f64> {
            Ok(0.0)
        }
    }

    #[test]
    fn depth_width_and_length_grow_by_their_powers_until_a_constraint() {
        let choices = |range: std::ops::RangeInclusive<usize>| range.collect::<Vec<_>>();
        let space: Space = serde_json::from_value(serde_json::json!({
            "layers": choices(2..=12), "heads": [2, 3, 4], "intermediate": choices(100..=400), "hidden": choices(100..=400)
        }))
        .unwrap();
        let scaling = Scaling::default();
        let at = scaling.at(&space, 4.0);
        assert_eq!(at.candidate.layers.len(), 4); // 2 · 1.2⁴ = 4.15
        assert_eq!(at.candidate.hidden, 146); // 100 · 1.1⁴ = 146.4
        assert_eq!(at.length, 112); // 64 · 1.15⁴ = 111.9
        let walked = scaling.walk(&space, &mut Depth(4)).unwrap();
        assert!(walked.iter().all(|scaled| scaled.candidate.layers.len() <= 4));
        assert_eq!(walked[0].phi, 0.0);
        assert!(walked.windows(2).all(|pair| pair[0].candidate != pair[1].candidate));
    }
}
