//! Early stopping: at which rung a trial is held, and who goes on.
//!
//! Pure decisions over what is known; the driver asks after every change.

use std::num::NonZeroU64;

use super::pareto;
use crate::manifest::StoppingMethod;

/// Where a trial is headed: a rung, or its full number of epochs.
pub(crate) type Target = Option<usize>;

/// How early stopping of a sweep works.
#[derive(Debug, Clone)]
pub(crate) struct Ladder {
    pub(crate) method: StoppingMethod,
    pub(crate) min_epochs: NonZeroU64,
    pub(crate) reduction: NonZeroU64,
    /// Most epochs a trial of the space may have.
    pub(crate) max_epochs: u64,
}

/// What early stopping knows of a trial.
#[derive(Debug, Clone, Default)]
pub(crate) struct Climber {
    /// Epochs that its parameters ask for.
    pub(crate) epochs: u64,
    /// What it had reached at each rung it has passed; each value to be minimized.
    pub(crate) rungs: Vec<Option<Vec<f64>>>,
    /// Rung it is held at.
    pub(crate) held: Option<usize>,
    /// Whether it will never reach another rung: it failed, or is through.
    pub(crate) ended: bool,
}

impl Ladder {
    /// Epochs of a rung; `None` above the highest.
    pub(crate) fn epochs(&self, rung: usize) -> Option<u64> {
        let factor = self.reduction.get().checked_pow(u32::try_from(rung).ok()?)?;
        let epochs = self.min_epochs.get().checked_mul(factor)?;
        (epochs < self.max_epochs).then_some(epochs)
    }

    /// Number of rungs below the full number of epochs.
    pub(crate) fn len(&self) -> usize {
        (0..).take_while(|rung| self.epochs(*rung).is_some()).count()
    }

    /// Where a new trial is headed.
    pub(crate) fn start(&self, number: u64, epochs: u64) -> Target {
        self.at_or_above(self.bracket(number), epochs)
    }

    /// The first rung from `rung` on that lies below the trial's own epochs.
    fn at_or_above(&self, rung: usize, epochs: u64) -> Target {
        self.epochs(rung).filter(|at| *at < epochs).map(|_| rung)
    }

    /// First rung of a trial: 0, but for Hyperband, whose brackets start at different rungs. The
    /// bracket with s more rungs above it gets ⌈(s_max + 1) / (s + 1) · η^s⌉ of the trials of a
    /// round (arXiv:1603.06560, algorithm 1).
    fn bracket(&self, number: u64) -> usize {
        if self.method != StoppingMethod::Hyperband {
            return 0;
        }
        let most = self.len() as u64;
        let size = |above: u64| {
            let grown =
                self.reduction.get().saturating_pow(u32::try_from(above).unwrap_or(u32::MAX));
            ((most + 1) * grown).div_ceil(above + 1)
        };
        let round: u64 = (0..=most).map(size).sum();
        let mut place = number % round;
        for above in (0..=most).rev() {
            if place < size(above) {
                return (most - above) as usize;
            }
            place -= size(above);
        }
        0
    }

    /// A trial that is held and may go on, with where to. `complete` says that no more trials will
    /// be drawn.
    pub(crate) fn promotion(
        &self,
        climbers: &[Climber],
        complete: bool,
    ) -> Option<(usize, Target)> {
        for rung in (0..self.len()).rev() {
            let found = (0..=self.len()).find_map(|bracket| {
                if self.method != StoppingMethod::Hyperband && bracket > 0 {
                    return None;
                }
                let members: Vec<usize> = (0..climbers.len())
                    .filter(|index| self.bracket(*index as u64) == bracket)
                    .collect();
                self.promotion_at(rung, bracket, climbers, &members, complete)
            });
            if let Some(index) = found {
                return Some((index, self.at_or_above(rung + 1, climbers[index].epochs)));
            }
        }
        None
    }

    fn promotion_at(
        &self,
        rung: usize,
        bracket: usize,
        climbers: &[Climber],
        members: &[usize],
        complete: bool,
    ) -> Option<usize> {
        let value = |index: &usize| climbers[*index].rungs.get(rung).and_then(Option::as_ref);
        let here: Vec<usize> =
            members.iter().copied().filter(|index| value(index).is_some()).collect();
        // Everyone who may still come: not here yet, not ended, not held below.
        let settled = complete
            && members.iter().all(|index| {
                let climber = &climbers[*index];
                value(index).is_some()
                    || climber.ended
                    || climber.held.is_some_and(|held| held < rung)
            });
        if self.method != StoppingMethod::Asha
            && !(settled && self.below_is_done(rung, bracket, climbers, members))
        {
            return None;
        }
        let mut places = here.len() / usize::try_from(self.reduction.get()).unwrap_or(usize::MAX);
        if settled {
            // A rung that is done sends one on at least, so that a sweep ends with a result.
            places = places.max(1);
        }
        let points: Vec<&[f64]> = here.iter().filter_map(value).map(Vec::as_slice).collect();
        ranked(&points)
            .into_iter()
            .take(places)
            .map(|place| here[place])
            .find(|index| climbers[*index].held == Some(rung))
    }

    /// Whether the rung below has sent on everyone it will.
    fn below_is_done(
        &self,
        rung: usize,
        bracket: usize,
        climbers: &[Climber],
        members: &[usize],
    ) -> bool {
        match rung.checked_sub(1) {
            Some(below) if below >= bracket => {
                self.promotion_at(below, bracket, climbers, members, true).is_none()
            }
            _ => true,
        }
    }
}

/// Indices of points, best first: by front, inside a front those with most room first; ties by
/// index.
fn ranked(points: &[&[f64]]) -> Vec<usize> {
    let judged: Vec<_> =
        points.iter().map(|objectives| pareto::Point { objectives, violation: 0.0 }).collect();
    let fronts = pareto::non_dominated_sort(&judged).into_iter();
    fronts
        .flat_map(|front| {
            let members: Vec<&[f64]> = front.iter().map(|index| points[*index]).collect();
            let room = pareto::crowding_distance(&members);
            let mut order: Vec<usize> = (0..front.len()).collect();
            order.sort_by(|one, other| room[*other].total_cmp(&room[*one]));
            order.into_iter().map(|place| front[place]).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ladder(method: StoppingMethod, max_epochs: u64) -> Ladder {
        let reduction = NonZeroU64::new(3).unwrap();
        Ladder { method, min_epochs: NonZeroU64::MIN, reduction, max_epochs }
    }

    fn held(epochs: u64, values: &[f64]) -> Climber {
        Climber {
            epochs,
            rungs: values.iter().map(|value| Some(vec![*value])).collect(),
            held: Some(values.len() - 1),
            ended: false,
        }
    }

    #[test]
    fn rungs_grow_by_the_reduction_and_end_below_the_full_epochs() {
        let ladder = ladder(StoppingMethod::Asha, 10);
        assert_eq!(
            (0..4).map(|rung| ladder.epochs(rung)).collect::<Vec<_>>(),
            [Some(1), Some(3), Some(9), None]
        );
        assert_eq!(ladder.start(5, 10), Some(0));
        assert_eq!(ladder.start(5, 1), None);
    }

    #[test]
    fn asha_promotes_as_soon_as_a_third_is_known() {
        let ladder = ladder(StoppingMethod::Asha, 9);
        let mut climbers = vec![held(9, &[0.5]), held(9, &[0.3])];
        assert_eq!(ladder.promotion(&climbers, false), None);
        climbers.push(held(9, &[0.4]));
        assert_eq!(ladder.promotion(&climbers, false), Some((1, Some(1))));
        climbers[1] = held(9, &[0.3, 0.2]);
        assert_eq!(ladder.promotion(&climbers, false), None);
        // Nobody else comes: the only one at the upper rung goes to the end.
        assert_eq!(ladder.promotion(&climbers, true), Some((1, None)));
    }

    #[test]
    fn halving_waits_for_everyone() {
        let ladder = ladder(StoppingMethod::SuccessiveHalving, 9);
        let mut climbers: Vec<_> = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1].map(|at| held(9, &[at])).into();
        assert_eq!(ladder.promotion(&climbers, false), None);
        climbers[0].held = None;
        climbers[0].rungs.clear();
        assert_eq!(ladder.promotion(&climbers, true), None);
        climbers[0].ended = true;
        // Five are left, one of three goes on: the best.
        assert_eq!(ladder.promotion(&climbers, true), Some((5, Some(1))));
        climbers[5].held = None;
        assert_eq!(ladder.promotion(&climbers, true), None);
        climbers[5] = held(9, &[0.1, 0.05]);
        assert_eq!(ladder.promotion(&climbers, true), Some((5, None)));
    }

    #[test]
    fn hyperband_spreads_trials_over_brackets() {
        let ladder = ladder(StoppingMethod::Hyperband, 9);
        // Rungs of 1 and 3 epochs: brackets of ⌈3/3·9⌉, ⌈3/2·3⌉ and 3 trials.
        let starts: Vec<_> = (0..17).map(|number| ladder.start(number, 9)).collect();
        let expected: Vec<_> = [vec![Some(0); 9], vec![Some(1); 5], vec![None; 3]].concat();
        assert_eq!(starts, expected);
        assert_eq!(ladder.start(17, 9), Some(0));
    }
}
