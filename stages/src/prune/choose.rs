//! Which units go, and when.

use graph::rewrite::importance::{descending, greatest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Units of a layer are kept in multiples of this, which kernels like, where there are enough.
pub(super) const UNIT_MULTIPLE: usize = 8;

/// Whether layers compete with each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scope {
    /// Every layer keeps the same share.
    #[default]
    Layer,
    /// The least important go, wherever they are; a layer keeps at least one. Scores are compared
    /// after division by their layer's Euclidean norm (Molchanov et al. 2017, arXiv:1611.06440, §2.2).
    Global,
}

/// Share of the units that are gone after `progress` (0 to 1) of the pruning phase:
/// s·(1 − (1 − t)³) (Zhu & Gupta 2017, arXiv:1710.01878, eq. 1).
pub(super) fn cubic(final_share: f64, progress: f64) -> f64 {
    final_share * (1.0 - (1.0 - progress.clamp(0.0, 1.0)).powi(3))
}

/// Indices to keep in each layer, ascending, when a share of `keep` stays in all; with
/// [`Scope::Layer`] in multiples of `multiple`, where there are enough.
pub(super) fn kept(
    scores: &[Vec<f64>],
    keep: f64,
    scope: Scope,
    multiple: usize,
) -> Vec<Vec<usize>> {
    match scope {
        Scope::Layer => {
            scores.iter().map(|layer| greatest(layer, count(layer.len(), keep, multiple))).collect()
        }
        Scope::Global => globally(scores, keep),
    }
}

/// How many of `total` stay.
fn count(total: usize, keep: f64, multiple: usize) -> usize {
    let wanted = total as f64 * keep;
    let rounded = if wanted >= multiple as f64 {
        (wanted / multiple as f64).round() as usize * multiple
    } else {
        wanted.round() as usize
    };
    rounded.clamp(1, total.max(1))
}

fn globally(scores: &[Vec<f64>], keep: f64) -> Vec<Vec<usize>> {
    let total: usize = scores.iter().map(Vec::len).sum();
    let mut all = Vec::with_capacity(total);
    for (layer, scores) in scores.iter().enumerate() {
        let norm =
            scores.iter().map(|score| score * score).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        let best = descending(scores).first().copied();
        for (index, score) in scores.iter().enumerate() {
            // The best of each layer always stays: a layer without units is no layer.
            let score = if Some(index) == best { f64::INFINITY } else { score / norm };
            all.push((score, layer, index));
        }
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let wanted = ((total as f64 * keep).round() as usize).max(scores.len());
    let mut kept = vec![Vec::new(); scores.len()];
    for &(_, layer, index) in &all[..wanted.min(total)] {
        kept[layer].push(index);
    }
    for layer in &mut kept {
        layer.sort_unstable();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cubic_schedule_prunes_fast_then_slowly() {
        let check =
            |progress, expected: f64| assert!((cubic(0.8, progress) - expected).abs() < 1e-12);
        check(0.0, 0.0);
        check(0.5, 0.7); // 0.8 · (1 − 0.125)
        check(1.0, 0.8);
    }

    #[test]
    fn layers_keep_their_share_or_compete() {
        let scores = vec![vec![4.0, 3.0, 2.0, 1.0], vec![10.0, 0.1, 0.2, 0.3]];
        assert_eq!(kept(&scores, 0.5, Scope::Layer, 1), [vec![0, 1], vec![0, 3]]);
        assert_eq!(kept(&scores, 0.5, Scope::Global, 1), [vec![0, 1, 2], vec![0]]);
        assert_eq!(kept(&scores, 0.01, Scope::Global, 1), [vec![0], vec![0]]);
    }

    #[test]
    fn wide_layers_keep_multiples_of_eight() {
        assert_eq!(count(1536, 0.3, UNIT_MULTIPLE), 464);
        assert_eq!(count(12, 0.5, UNIT_MULTIPLE), 6);
        assert_eq!(count(4, 0.01, UNIT_MULTIPLE), 1);
        assert_eq!(count(16, 1.0, UNIT_MULTIPLE), 16);
    }
}
