//! Where buffers lie in one arena, so that none overlaps another that lives at the same time.

use std::cmp::Reverse;
use std::ops::Range;

/// Alignment of everything in the arena: a cache line, and the widest vector.
pub(crate) const ALIGNMENT: usize = 64;

/// Placements that the hill climbing may try from each start.
const MOST_PLACEMENTS: usize = 1 << 16;

/// A buffer that is needed from one step to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) bytes: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Request {
    fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Bytes until the next buffer may start.
    fn padded(&self) -> usize {
        self.bytes.next_multiple_of(ALIGNMENT)
    }
}

/// Offsets for some requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) offsets: Vec<usize>,
    /// The end of the last buffer.
    pub(crate) peak: usize,
}

/// The most bytes that live at one step, padding included: no layout can do with less.
pub(crate) fn lower_bound(requests: &[Request]) -> usize {
    let steps = requests.iter().map(|request| request.last + 1).max().unwrap_or(0);
    let (mut starts, mut ends) = (vec![0; steps], vec![0; steps]);
    for request in requests {
        starts[request.first] += request.padded();
        ends[request.last] += request.padded();
    }
    let mut live = 0;
    let mut most = 0;
    for (start, end) in starts.into_iter().zip(ends) {
        live += start;
        most = most.max(live);
        live -= end;
    }
    most
}

/// Lays out all requests: the best of three greedy orders (by size, by number of conflicts, by
/// execution), each buffer at the lowest offset that is free (Pisarchyk and Lee 2020,
/// arXiv:2001.03288, §5), then hill climbing from each of them until the lower bound is met or
/// the attempts are used up. The same requests always get the same layout.
pub(crate) fn layout(requests: &[Request]) -> Layout {
    let conflicts = conflicts(requests);
    let bound = lower_bound(requests);
    let mut greedy = Greedy::new(requests, &conflicts);
    let mut starts = greedy_orders(requests, &conflicts).map(|order| {
        let found = greedy.place(&order);
        (order, found)
    });
    starts.sort_by_key(|(_, found)| found.peak);
    let mut best = starts[0].1.clone();
    for (order, found) in starts {
        if best.peak == bound {
            break;
        }
        let climbed = climb(&mut greedy, order, found, bound);
        if climbed.peak < best.peak {
            best = climbed;
        }
    }
    best
}

/// By size, by number of conflicts, by execution; ties by execution.
fn greedy_orders(requests: &[Request], conflicts: &[Vec<usize>]) -> [Vec<usize>; 3] {
    let mut by_time: Vec<usize> = (0..requests.len()).collect();
    by_time.sort_by_key(|&index| requests[index].first);
    let mut by_size = by_time.clone();
    by_size.sort_by_key(|&index| Reverse(requests[index].bytes));
    let mut by_conflicts = by_size.clone();
    by_conflicts.sort_by_key(|&index| Reverse(conflicts[index].len()));
    [by_size, by_conflicts, by_time]
}

/// Moves a buffer that reaches above the bound in the order, before one that is in its way, or
/// exchanges the two. Keeps what is no worse, so that it crosses plateaus.
fn climb(greedy: &mut Greedy<'_>, mut order: Vec<usize>, start: Layout, bound: usize) -> Layout {
    let mut random = Random(1);
    let mut current = start;
    let mut candidate = order.clone();
    for _ in 0..MOST_PLACEMENTS / order.len() {
        let Some((high, low)) = greedy.pick(&current, bound, &mut random) else { break };
        let place = |index| order.iter().position(|&other| other == index);
        let (Some(high), Some(low)) = (place(high), place(low)) else { break };
        if high == low {
            continue;
        }
        candidate.copy_from_slice(&order);
        if random.pick(2) == Some(0) {
            candidate.swap(high, low);
        } else {
            move_before(&mut candidate, high, low);
        }
        let found = greedy.place(&candidate);
        if found.peak <= current.peak {
            current = found;
            std::mem::swap(&mut order, &mut candidate);
        }
    }
    current
}

/// Moves the element at `from` to where it comes right before the one at `to`.
fn move_before(order: &mut [usize], from: usize, to: usize) {
    if from > to {
        order[to..=from].rotate_right(1);
    } else {
        order[from..to].rotate_left(1);
    }
}

/// For every request, the others that live at the same time.
fn conflicts(requests: &[Request]) -> Vec<Vec<usize>> {
    let all = |(index, request): (usize, &Request)| {
        let meets = |&other: &usize| other != index && requests[other].meets(request);
        (0..requests.len()).filter(meets).collect()
    };
    requests.iter().enumerate().map(all).collect()
}

/// Places buffers in a given order.
struct Greedy<'a> {
    requests: &'a [Request],
    conflicts: &'a [Vec<usize>],
    placed: Vec<bool>,
    busy: Vec<Range<usize>>,
}

impl<'a> Greedy<'a> {
    fn new(requests: &'a [Request], conflicts: &'a [Vec<usize>]) -> Self {
        Self { requests, conflicts, placed: vec![false; requests.len()], busy: Vec::new() }
    }

    fn place(&mut self, order: &[usize]) -> Layout {
        let mut layout = Layout { offsets: vec![0; order.len()], peak: 0 };
        self.placed.fill(false);
        for &index in order {
            let offset = self.lowest(index, &layout.offsets);
            layout.offsets[index] = offset;
            layout.peak = layout.peak.max(offset + self.requests[index].padded());
            self.placed[index] = true;
        }
        layout
    }

    /// The lowest offset at which nothing that was placed is in the way.
    fn lowest(&mut self, index: usize, offsets: &[usize]) -> usize {
        let Self { requests, conflicts, placed, busy } = self;
        busy.clear();
        let others = conflicts[index].iter().filter(|&&other| placed[other]);
        busy.extend(others.map(|&other| offsets[other]..offsets[other] + requests[other].padded()));
        busy.sort_unstable_by_key(|range| range.start);
        let mut offset = 0;
        for range in busy {
            if offset + requests[index].padded() <= range.start {
                break;
            }
            offset = offset.max(range.end);
        }
        offset
    }

    /// A buffer that reaches above the bound, and one that may be in its way; `None` when the
    /// bound is met.
    fn pick(&self, layout: &Layout, bound: usize, random: &mut Random) -> Option<(usize, usize)> {
        let end = |index: usize| layout.offsets[index] + self.requests[index].padded();
        let high = (0..self.requests.len()).filter(|&index| end(index) > bound);
        let high = random.pick(high.clone().count()).and_then(|nth| high.clone().nth(nth))?;
        let below = &self.conflicts[high];
        let low = below[random.pick(below.len())?];
        // Now and then a conflict of the conflict: what lies below is in the way indirectly.
        let further = &self.conflicts[low];
        let low = match random.pick(4)? {
            0 => further[random.pick(further.len())?],
            _ => low,
        };
        Some((high, low))
    }
}

/// SplitMix64 (Steele et al. 2014, doi:10.1145/2714064.2660195): a fixed sequence of numbers.
struct Random(u64);

impl Random {
    /// A number below `count`; `None` when there is none.
    #[allow(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
    fn pick(&mut self, count: usize) -> Option<usize> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(count as u64).map(|index| index as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Finds overlaps without the planner's help: unit by unit of the alignment, step by step.
    fn overlap(requests: &[Request], offsets: &[usize]) -> Option<(usize, usize)> {
        let steps = requests.iter().map(|request| request.last + 1).max().unwrap_or(0);
        for step in 0..steps {
            let mut owner = std::collections::BTreeMap::new();
            for (index, request) in requests.iter().enumerate() {
                if (request.first..=request.last).contains(&step) && request.bytes > 0 {
                    let first = offsets[index] / ALIGNMENT;
                    for unit in first..=(offsets[index] + request.bytes - 1) / ALIGNMENT {
                        if let Some(other) = owner.insert(unit, index) {
                            return Some((other, index));
                        }
                    }
                }
            }
        }
        None
    }

    /// The bound, the slow way.
    fn live(requests: &[Request]) -> usize {
        let steps = requests.iter().map(|request| request.last + 1).max().unwrap_or(0);
        let at = |step: usize| {
            let alive = |request: &&Request| (request.first..=request.last).contains(&step);
            requests.iter().filter(alive).map(|request| request.bytes.div_ceil(64) * 64).sum()
        };
        (0..steps).map(at).max().unwrap_or(0)
    }

    fn requests(raw: &[(usize, usize, usize)]) -> Vec<Request> {
        let request = |&(bytes, first, length)| Request { bytes, first, last: first + length };
        raw.iter().map(request).collect()
    }

    proptest! {
        #[test]
        fn nothing_overlaps(
            raw in proptest::collection::vec((0usize..2000, 0usize..30, 0usize..8), 0..40),
        ) {
            let requests = requests(&raw);
            let found = layout(&requests);
            prop_assert_eq!(overlap(&requests, &found.offsets), None);
            prop_assert!(found.offsets.iter().all(|offset| offset % ALIGNMENT == 0));
            prop_assert_eq!(lower_bound(&requests), live(&requests));
            prop_assert!(found.peak >= live(&requests));
            prop_assert_eq!(layout(&requests), found);
        }

        #[test]
        fn climbing_is_never_worse_than_any_greedy_order(
            raw in proptest::collection::vec((0usize..4000, 0usize..12, 0usize..6), 1..30),
        ) {
            let requests = requests(&raw);
            let conflicts = conflicts(&requests);
            let found = layout(&requests).peak;
            for order in greedy_orders(&requests, &conflicts) {
                prop_assert!(found <= Greedy::new(&requests, &conflicts).place(&order).peak);
            }
        }
    }

    #[test]
    fn the_checker_finds_overlaps() {
        let request = |first, last| Request { bytes: 100, first, last };
        let requests = [request(0, 2), request(1, 3), request(3, 4)];
        assert_eq!(overlap(&requests, &[0, 64, 0]), Some((0, 1)));
        assert_eq!(overlap(&requests, &[0, 128, 0]), None);
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let step = |index| Request { bytes: 640, first: index, last: index + 1 };
        let requests: Vec<_> = (0..10).map(step).collect();
        assert_eq!(layout(&requests).peak, 1280);
    }

    #[test]
    fn climbing_gets_where_greedy_does_not() {
        let requests = requests(TRICKY);
        let conflicts = conflicts(&requests);
        let greedy = |order: &[usize]| Greedy::new(&requests, &conflicts).place(order).peak;
        for order in greedy_orders(&requests, &conflicts) {
            assert!(greedy(&order) > lower_bound(&requests));
        }
        assert_eq!(layout(&requests).peak, lower_bound(&requests));
    }

    /// Bytes, first step, steps until the last.
    const TRICKY: &[(usize, usize, usize)] =
        &[(128, 3, 2), (192, 4, 0), (192, 3, 2), (128, 2, 0), (64, 2, 1), (256, 2, 0)];
}
