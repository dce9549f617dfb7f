//! A random forest for regression (Breiman 2001, "Random Forests"), small and always the same for
//! the same rows: it only has to rank a handful of parameters over some hundred trials.

/// Trees of a forest.
const N_TREES: usize = 128;
/// Rows that a leaf keeps at least.
const MIN_LEAF: usize = 2;
/// Splits on the way to a leaf at most.
const MAX_DEPTH: usize = 12;
/// How often the values of a parameter are shuffled.
const N_SHUFFLES: usize = 4;
/// Start of the random numbers.
const SEED: u64 = 0x5eed;

/// How a column is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Below or above.
    Number,
    /// One of the values or the others.
    Category,
}

/// Rows of parameters with what they led to. A parameter that does not apply is `NaN`.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) inputs: Vec<Vec<f64>>,
    pub(crate) targets: Vec<f64>,
}

/// What a forest found out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ranking {
    /// Share of the variance that trees explain of rows they did not see; at most 1.
    pub(crate) r_squared: f64,
    /// For each column by how much the squared error on unseen rows grows when its values are
    /// shuffled, as a share of the variance; not below 0.
    pub(crate) importances: Vec<f64>,
}

/// Fits a forest and ranks the columns by permutation importance on out-of-bag rows (Breiman 2001,
/// section 10). `None` when all targets are the same.
pub(crate) fn rank(rows: &Rows) -> Option<Ranking> {
    let n = rows.targets.len();
    let mean = rows.targets.iter().sum::<f64>() / n as f64;
    let variance = rows.targets.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / n as f64;
    if n == 0 || variance <= 0.0 {
        return None;
    }
    let mut random = Random(SEED);
    let n_columns = rows.kinds.len();
    let (mut sums, mut counts) = (vec![0.0; n], vec![0usize; n]);
    let mut growth = vec![0.0; n_columns];
    let mut n_trees = 0usize;
    for _ in 0..N_TREES {
        let drawn: Vec<usize> = (0..n).map(|_| random.below(n)).collect();
        let unseen: Vec<usize> = (0..n).filter(|row| !drawn.contains(row)).collect();
        if unseen.is_empty() {
            continue;
        }
        n_trees += 1;
        let tree = Tree::grow(rows, &drawn, &mut random);
        for row in &unseen {
            sums[*row] += tree.predict(&rows.inputs[*row]);
            counts[*row] += 1;
        }
        let error = |inputs: &dyn Fn(usize) -> Vec<f64>| {
            let squares = unseen
                .iter()
                .enumerate()
                .map(|(place, row)| (tree.predict(&inputs(place)) - rows.targets[*row]).powi(2));
            squares.sum::<f64>() / unseen.len() as f64
        };
        let intact = error(&|place| rows.inputs[unseen[place]].clone());
        for (column, growth) in growth.iter_mut().enumerate() {
            for _ in 0..N_SHUFFLES {
                let shuffled = random.shuffled(&unseen);
                let mixed = error(&|place| {
                    let mut inputs = rows.inputs[unseen[place]].clone();
                    inputs[column] = rows.inputs[shuffled[place]][column];
                    inputs
                });
                *growth += (mixed - intact) / N_SHUFFLES as f64;
            }
        }
    }
    let seen: Vec<usize> = (0..n).filter(|row| counts[*row] > 0).collect();
    let residual = seen
        .iter()
        .map(|row| (sums[*row] / counts[*row] as f64 - rows.targets[*row]).powi(2))
        .sum::<f64>()
        / seen.len().max(1) as f64;
    let share = |growth: f64| (growth / n_trees.max(1) as f64 / variance).max(0.0);
    Some(Ranking {
        r_squared: 1.0 - residual / variance,
        importances: growth.into_iter().map(share).collect(),
    })
}

enum Tree {
    Leaf(f64),
    Split { column: usize, kind: Kind, at: f64, inside: Box<Tree>, outside: Box<Tree> },
}

impl Tree {
    fn grow(rows: &Rows, drawn: &[usize], random: &mut Random) -> Self {
        Self::grow_to(rows, drawn, random, MAX_DEPTH)
    }

    fn grow_to(rows: &Rows, drawn: &[usize], random: &mut Random, depth: usize) -> Self {
        let mean = drawn.iter().map(|row| rows.targets[*row]).sum::<f64>() / drawn.len() as f64;
        if depth == 0 || drawn.len() < 2 * MIN_LEAF {
            return Self::Leaf(mean);
        }
        // A third of the columns for regression (Breiman 2001, section 11), at least two.
        let n_columns = rows.kinds.len();
        let n_tried = n_columns.div_ceil(3).max(2).min(n_columns);
        let columns = random.shuffled(&(0..n_columns).collect::<Vec<_>>());
        let best = columns[..n_tried]
            .iter()
            .filter_map(|column| best_split(rows, drawn, *column))
            .min_by(|a, b| a.error.total_cmp(&b.error));
        let Some(Split { column, at, .. }) = best else { return Self::Leaf(mean) };
        let kind = rows.kinds[column];
        let (inside, outside): (Vec<usize>, Vec<usize>) =
            drawn.iter().copied().partition(|row| is_inside(kind, rows.inputs[*row][column], at));
        Self::Split {
            column,
            kind,
            at,
            inside: Box::new(Self::grow_to(rows, &inside, random, depth - 1)),
            outside: Box::new(Self::grow_to(rows, &outside, random, depth - 1)),
        }
    }

    fn predict(&self, inputs: &[f64]) -> f64 {
        match self {
            Self::Leaf(value) => *value,
            Self::Split { column, kind, at, inside, outside } => {
                let is_inside = is_inside(*kind, inputs[*column], *at);
                if is_inside { inside.predict(inputs) } else { outside.predict(inputs) }
            }
        }
    }
}

/// What does not apply is `NaN` and lies outside of every split.
fn is_inside(kind: Kind, value: f64, at: f64) -> bool {
    match kind {
        Kind::Number => value <= at,
        Kind::Category => value == at,
    }
}

struct Split {
    column: usize,
    at: f64,
    error: f64,
}

fn best_split(rows: &Rows, drawn: &[usize], column: usize) -> Option<Split> {
    let kind = rows.kinds[column];
    let mut values: Vec<f64> = drawn
        .iter()
        .map(|row| rows.inputs[*row][column])
        .filter(|value| value.is_finite())
        .collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let places: Vec<f64> = match kind {
        // Between neighbours, and above all: what applies against what does not.
        Kind::Number => values
            .windows(2)
            .map(|pair| f64::midpoint(pair[0], pair[1]))
            .chain(values.last().copied())
            .collect(),
        Kind::Category => values,
    };
    let error_at = |at: f64| {
        // Sums of a side: rows, targets, squares.
        let mut sides = [[0.0; 3]; 2];
        for row in drawn {
            let side = usize::from(is_inside(kind, rows.inputs[*row][column], at));
            let target = rows.targets[*row];
            for (sum, value) in sides[side].iter_mut().zip([1.0, target, target * target]) {
                *sum += value;
            }
        }
        let is_large = sides.iter().all(|side| side[0] >= MIN_LEAF as f64);
        let error = sides.iter().map(|[n, sum, squares]| squares - sum * sum / n).sum::<f64>();
        is_large.then_some(Split { column, at, error })
    };
    places.into_iter().filter_map(error_at).min_by(|a, b| a.error.total_cmp(&b.error))
}

/// SplitMix64 (Steele, Lea and Flood 2014): the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `n`; the bias of the remainder is far below what matters here.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn shuffled(&mut self, items: &[usize]) -> Vec<usize> {
        let mut items = items.to_vec();
        for place in (1..items.len()).rev() {
            items.swap(place, self.below(place + 1));
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows over a grid-like cloud; targets by `function`.
    fn rows(n: usize, kinds: &[Kind], function: impl Fn(&[f64]) -> f64) -> Rows {
        let mut random = Random(3);
        let mut value = |kind: &Kind| match kind {
            Kind::Number => random.below(1000) as f64 / 1000.0,
            Kind::Category => random.below(3) as f64,
        };
        let inputs: Vec<Vec<f64>> =
            (0..n).map(|_| kinds.iter().map(&mut value).collect()).collect();
        let targets = inputs.iter().map(|input| function(input)).collect();
        Rows { kinds: kinds.to_vec(), inputs, targets }
    }

    #[test]
    fn what_matters_more_ranks_higher() {
        let kinds = [Kind::Number, Kind::Number, Kind::Category, Kind::Number];
        let found = rank(&rows(80, &kinds, |x| 4.0 * x[0] + x[1] + 2.0 * f64::from(x[2] == 1.0)));
        let Ranking { r_squared, importances } = found.unwrap();
        assert!(r_squared > 0.6, "{r_squared}");
        let [first, second, third, nothing] = importances[..] else { panic!("four columns") };
        assert!(first > third && third > second, "{importances:?}");
        assert!(second > nothing && nothing < 0.05, "{importances:?}");
    }

    #[test]
    fn noise_explains_nothing() {
        let kinds = [Kind::Number, Kind::Number];
        let noise = |x: &[f64]| ((x[0] * 7919.0 + x[1] * 104_729.0) * 12.9898).sin();
        let found = rank(&rows(60, &kinds, noise)).unwrap();
        assert!(found.r_squared < 0.1, "{found:?}");
    }

    #[test]
    fn what_does_not_apply_is_a_choice_too() {
        let mut rows = rows(60, &[Kind::Number, Kind::Number], |x| x[1]);
        for (index, input) in rows.inputs.iter_mut().enumerate() {
            if index % 2 == 0 {
                input[0] = f64::NAN;
                rows.targets[index] += 5.0;
            }
        }
        let found = rank(&rows).unwrap();
        assert!(found.importances[0] > found.importances[1], "{found:?}");
    }

    #[test]
    fn equal_targets_rank_nothing() {
        assert_eq!(rank(&rows(20, &[Kind::Number], |_| 1.0)), None);
        let same = [(); 2].map(|()| rank(&rows(30, &[Kind::Number; 3], |x| x[0] * x[1])));
        assert_eq!(same[0], same[1]);
    }
}
