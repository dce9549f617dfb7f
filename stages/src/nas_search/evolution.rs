//! Evolutionary search as Once-for-all does it (Cai et al. 2020, arXiv:1908.09791, §4): the best
//! share of a population become parents, half of the next one are mutations and half crossings,
//! and what breaks a constraint is never evaluated.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use rand::Rng;
use rand::seq::IndexedRandom as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::space::{Candidate, Space};
use crate::range::Fraction;

/// Draws for one place in a population before the place stays empty.
const ATTEMPTS: usize = 200;

/// Settings of the search.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Evolution {
    /// Architectures in a generation.
    population: NonZeroUsize,
    /// Generations after the first.
    generations: usize,
    /// Share of a generation that become parents.
    parents: Fraction,
    /// Probability with which a mutation draws a size anew.
    mutation: Fraction,
}

impl Default for Evolution {
    fn default() -> Self {
        Self {
            population: NonZeroUsize::new(20).unwrap_or(NonZeroUsize::MIN),
            generations: 10,
            parents: Fraction::new(0.25),
            mutation: Fraction::new(0.1),
        }
    }
}

/// What the search needs from outside.
pub(crate) trait Judge {
    /// Whether the constraints hold.
    fn allows(&mut self, candidate: &Candidate) -> anyhow::Result<bool>;
    /// What is to be as large as possible.
    fn fitness(&mut self, candidate: &Candidate) -> anyhow::Result<f64>;
}

/// Every architecture that was evaluated, with its fitness, best first (ties: the smaller one in
/// the candidates' order).
pub(crate) fn search(
    space: &Space,
    settings: &Evolution,
    judge: &mut impl Judge,
    rng: &mut impl Rng,
) -> anyhow::Result<Vec<(Candidate, f64)>> {
    let size = settings.population.get();
    let mut known: BTreeMap<Candidate, f64> = BTreeMap::new();
    // Where only few candidates are allowed, no draw may find one; the smallest is the likeliest.
    let smallest = space.smallest();
    let mut population = if judge.allows(&smallest)? { vec![smallest] } else { Vec::new() };
    population.extend(fill(size - population.len(), judge, |rng| space.random(rng), rng)?);
    for generation in 0..=settings.generations {
        let mut ranked = Vec::with_capacity(population.len());
        for candidate in population {
            let fitness = match known.get(&candidate) {
                Some(&fitness) => fitness,
                None => judge.fitness(&candidate)?,
            };
            known.insert(candidate.clone(), fitness);
            ranked.push((candidate, fitness));
        }
        rank(&mut ranked);
        let parents = ((size as f64 * settings.parents.get()).ceil() as usize).clamp(1, size);
        let parents: Vec<Candidate> =
            ranked.into_iter().take(parents).map(|(candidate, _)| candidate).collect();
        if generation == settings.generations || parents.is_empty() {
            break;
        }
        let rate = settings.mutation.get();
        let parent = |rng: &mut _| parents.choose(rng).expect("not empty").clone();
        let mutate = |rng: &mut _| space.mutate(&parent(rng), rate, rng);
        let mut next = fill(size.div_ceil(2), judge, mutate, rng)?;
        let cross = |rng: &mut _| space.cross(&parent(rng), &parent(rng), rng);
        next.extend(fill(size / 2, judge, cross, rng)?);
        next.extend(parents.iter().cloned());
        population = next;
    }
    let mut all: Vec<(Candidate, f64)> = known.into_iter().collect();
    rank(&mut all);
    Ok(all)
}

/// Up to `size` drawn candidates that the constraints allow.
fn fill<R: Rng>(
    size: usize,
    judge: &mut impl Judge,
    mut draw: impl FnMut(&mut R) -> Candidate,
    rng: &mut R,
) -> anyhow::Result<Vec<Candidate>> {
    let mut drawn = Vec::with_capacity(size);
    for _ in 0..size {
        for _ in 0..ATTEMPTS {
            let candidate = draw(rng);
            if judge.allows(&candidate)? {
                drawn.push(candidate);
                break;
            }
        }
    }
    Ok(drawn)
}

fn rank(scored: &mut [(Candidate, f64)]) {
    scored.sort_by(|(a, x), (b, y)| y.total_cmp(x).then_with(|| a.cmp(b)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::ChaCha8Rng;

    /// More is better, up to a limit on the sum of all units.
    struct Units {
        limit: usize,
        evaluated: usize,
    }

    fn units(candidate: &Candidate) -> usize {
        candidate.layers.iter().map(|layer| layer.intermediate * layer.heads).sum()
    }

    impl Judge for Units {
        fn allows(&mut self, candidate: &Candidate) -> anyhow::Result<bool> {
            Ok(units(candidate) <= self.limit)
        }
        fn fitness(&mut self, candidate: &Candidate) -> anyhow::Result<f64> {
            self.evaluated += 1;
            Ok(units(candidate) as f64)
        }
    }

    fn space() -> Space {
        serde_json::from_value(serde_json::json!({
            "layers": [1, 2, 3, 4], "heads": [1, 2, 3], "intermediate": [1, 2, 4, 8, 16], "hidden": [8]
        }))
        .unwrap()
    }

    #[test]
    fn finds_the_best_allowed_architecture_and_repeats_itself() {
        let run = || {
            let mut judge = Units { limit: 100, evaluated: 0 };
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            let found = search(&space(), &Evolution::default(), &mut judge, &mut rng).unwrap();
            (found, judge.evaluated)
        };
        let (found, evaluated) = run();
        assert!(found[0].1 >= 96.0 && found[0].1 <= 100.0, "{:?}", found[0]);
        assert!(found.iter().all(|(candidate, _)| units(candidate) <= 100));
        assert_eq!(found.len(), evaluated, "no architecture is evaluated twice");
        assert_eq!(run().0, found);
    }

    #[test]
    fn the_smallest_candidate_is_found_where_it_alone_is_allowed() {
        let space: Space = serde_json::from_value(serde_json::json!({
            "layers": [6], "heads": [1, 2, 3], "intermediate": [1, 2, 4, 8, 16], "hidden": [8]
        }))
        .unwrap();
        let mut judge = Units { limit: 6, evaluated: 0 };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let found = search(&space, &Evolution::default(), &mut judge, &mut rng).unwrap();
        assert_eq!(found, [(space.smallest(), 6.0)]);
    }

    #[test]
    fn an_impossible_constraint_gives_nothing() {
        let mut judge = Units { limit: 0, evaluated: 0 };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        assert!(search(&space(), &Evolution::default(), &mut judge, &mut rng).unwrap().is_empty());
    }
}
