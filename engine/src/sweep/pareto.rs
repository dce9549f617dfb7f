//! What is better where several objectives count: domination with constraints, crowding and
//! hypervolume (Deb et al. 2002, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II").

/// What a trial came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point<'a> {
    /// Each to be minimized.
    pub objectives: &'a [f64],
    /// By how much constraints are broken; 0 where none is.
    pub violation: f64,
}

/// Whether `one` is better than `other` (Deb et al. 2002, §VI-A): it breaks constraints less, or
/// neither breaks any and it is nowhere worse and somewhere better.
#[must_use]
pub fn dominates(one: &Point<'_>, other: &Point<'_>) -> bool {
    if one.violation > 0.0 || other.violation > 0.0 {
        return one.violation < other.violation;
    }
    one.objectives != other.objectives
        && one.objectives.iter().zip(other.objectives).all(|(one, other)| one <= other)
}

/// Fronts of points, by index, ascending: the first is dominated by none, the second only by the
/// first, and so on (Deb et al. 2002, §III-A).
#[must_use]
pub fn non_dominated_sort(points: &[Point<'_>]) -> Vec<Vec<usize>> {
    let worse: Vec<Vec<usize>> = points
        .iter()
        .map(|one| (0..points.len()).filter(|other| dominates(one, &points[*other])).collect())
        .collect();
    let mut n_better = vec![0; points.len()];
    worse.iter().flatten().for_each(|index| n_better[*index] += 1);

    let mut fronts = Vec::new();
    let mut front: Vec<usize> = (0..points.len()).filter(|index| n_better[*index] == 0).collect();
    while !front.is_empty() {
        let mut next = Vec::new();
        for index in front.iter().flat_map(|index| &worse[*index]) {
            n_better[*index] -= 1;
            if n_better[*index] == 0 {
                next.push(*index);
            }
        }
        next.sort_unstable();
        fronts.push(std::mem::replace(&mut front, next));
    }
    fronts
}

/// How much room each point of one front has (Deb et al. 2002, §III-B): in every objective the
/// distance between its neighbours as a share of the front's width, together. Infinite at the ends.
#[must_use]
pub fn crowding_distance(front: &[&[f64]]) -> Vec<f64> {
    let mut distances = vec![0.0; front.len()];
    let n_objectives = front.first().map_or(0, |point| point.len());
    for objective in 0..n_objectives {
        let value = |index: usize| front[index][objective];
        let mut sorted: Vec<usize> = (0..front.len()).collect();
        sorted.sort_by(|one, other| value(*one).total_cmp(&value(*other)));
        let (first, last) = (sorted[0], sorted[sorted.len() - 1]);
        let width = value(last) - value(first);
        if width == 0.0 {
            continue;
        }
        distances[first] = f64::INFINITY;
        distances[last] = f64::INFINITY;
        for around in sorted.windows(3) {
            let gap = value(around[2]) - value(around[0]);
            // Among infinite objectives there is no room that could be measured.
            distances[around[1]] += if width.is_finite() { gap / width } else { 0.0 };
        }
    }
    distances
}

/// Volume of what `points` dominate below `reference`, by slices along the last objective
/// (While et al. 2006, "A Faster Algorithm for Calculating Hypervolume", §III).
#[must_use]
pub fn hypervolume(points: &[&[f64]], reference: &[f64]) -> f64 {
    let Some((&end, rest)) = reference.split_last() else { return 0.0 };
    let last = rest.len();
    let mut inside: Vec<&[f64]> = points
        .iter()
        .copied()
        .filter(|point| point.iter().zip(reference).all(|(value, end)| value < end))
        .collect();
    inside.sort_by(|one, other| one[last].total_cmp(&other[last]));
    if rest.is_empty() {
        return inside.first().map_or(0.0, |point| end - point[0]);
    }
    (0..inside.len())
        .map(|index| {
            let top = inside.get(index + 1).map_or(end, |point| point[last]);
            let depth = top - inside[index][last];
            if depth == 0.0 {
                return 0.0;
            }
            let slice: Vec<&[f64]> = inside[..=index].iter().map(|point| &point[..last]).collect();
            depth * hypervolume(&slice, rest)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feasible(objectives: &[f64]) -> Point<'_> {
        Point { objectives, violation: 0.0 }
    }

    #[test]
    fn domination_puts_constraints_first() {
        let broken = |violation| Point { objectives: &[0.0, 0.0], violation };
        for (one, other, expected) in [
            (feasible(&[1.0, 2.0]), feasible(&[1.0, 3.0]), true),
            (feasible(&[1.0, 2.0]), feasible(&[1.0, 2.0]), false),
            (feasible(&[0.0, 2.0]), feasible(&[1.0, 1.0]), false),
            (feasible(&[9.0, 9.0]), broken(0.1), true),
            (broken(0.1), feasible(&[9.0, 9.0]), false),
            (broken(0.1), broken(0.2), true),
            (broken(0.2), broken(0.2), false),
        ] {
            assert_eq!(dominates(&one, &other), expected, "{one:?} {other:?}");
        }
    }

    #[test]
    fn fronts_lie_behind_each_other() {
        let points = [
            feasible(&[3.0, 3.0]),
            feasible(&[1.0, 2.0]),
            Point { objectives: &[0.0, 0.0], violation: 2.0 },
            feasible(&[2.0, 1.0]),
            Point { objectives: &[0.0, 0.0], violation: 1.0 },
            feasible(&[2.0, 1.0]),
        ];
        assert_eq!(non_dominated_sort(&points), [vec![1, 3, 5], vec![0], vec![4], vec![2]]);
        assert!(non_dominated_sort(&[]).is_empty());
    }

    #[test]
    fn crowding_favours_the_ends_and_the_lonely() {
        let front: [&[f64]; 5] =
            [&[0.0, 10.0], &[1.0, 8.0], &[10.0, 0.0], &[2.0, 7.0], &[2.0, 7.0]];
        let distances = crowding_distance(&front);
        let infinite = f64::INFINITY;
        let expected = [infinite, 0.2 + 0.3, infinite, 0.1 + 0.7, 0.8 + 0.1];
        for (distance, expected) in distances.iter().zip(expected) {
            let near = (distance - expected).abs() < 1e-12;
            assert!(near || *distance == expected, "{distances:?}");
        }
        assert_eq!(crowding_distance(&[&[1.0, 1.0], &[1.0, 1.0]]), [0.0, 0.0]);
        assert!(crowding_distance(&[]).is_empty());
    }

    #[test]
    fn hypervolume_counts_overlaps_once() {
        for (points, reference, expected) in [
            (vec![], vec![1.0, 1.0], 0.0),
            (vec![vec![0.25]], vec![1.0], 0.75),
            (vec![vec![1.0, 2.0], vec![2.0, 1.0]], vec![3.0, 3.0], 3.0),
            (vec![vec![1.0, 2.0], vec![2.0, 1.0], vec![2.0, 2.0]], vec![3.0, 3.0], 3.0),
            (vec![vec![1.0, 4.0]], vec![3.0, 3.0], 0.0),
            (vec![vec![0.0, 0.0, 1.0], vec![1.0, 1.0, 0.0]], vec![2.0, 2.0, 2.0], 5.0),
        ] {
            let points: Vec<&[f64]> = points.iter().map(Vec::as_slice).collect();
            assert_eq!(hypervolume(&points, &reference), expected, "{points:?}");
        }
    }
}
