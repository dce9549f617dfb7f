//! Byte-pair merging with incremental counts (Sennrich et al. 2016, § 3.2, on word pieces).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;

use super::PREFIX;

/// A piece by its place in [`Merger::pieces`].
type Piece = u32;
type Pair = (Piece, Piece);

/// A word cut into pieces.
struct Word {
    pieces: Vec<Piece>,
    count: u64,
}

/// A pair's place in the queue: most frequent first, of equals the lexically first.
type Candidate = (u64, Reverse<(Rc<str>, Rc<str>)>, Pair);

struct Merger {
    pieces: Vec<Rc<str>>,
    ids: BTreeMap<Rc<str>, Piece>,
    words: Vec<Word>,
    /// Occurrences of each pair, and the words that have, or once had, it.
    pairs: BTreeMap<Pair, (u64, BTreeSet<usize>)>,
    /// May hold outdated counts; they are recognised when they come up.
    queue: BinaryHeap<Candidate>,
}

/// At most `n_merges` pieces longer than a character, in the order of their merging.
pub(super) fn merged_pieces(
    words: &BTreeMap<String, u64>,
    n_merges: usize,
    min_frequency: u64,
) -> Vec<String> {
    let mut merger = Merger::new(words);
    let mut merged = Vec::new();
    while merged.len() < n_merges {
        let Some(pair) = merger.most_frequent(min_frequency) else { break };
        let n_pieces = merger.pieces.len();
        let piece = merger.merge(pair);
        // Two different pairs can spell the same piece; it enters the vocabulary once.
        if piece as usize == n_pieces {
            merged.push(merger.pieces[n_pieces].to_string());
        }
    }
    merged
}

impl Merger {
    fn new(words: &BTreeMap<String, u64>) -> Self {
        let mut merger = Self {
            pieces: Vec::new(),
            ids: BTreeMap::new(),
            words: Vec::with_capacity(words.len()),
            pairs: BTreeMap::new(),
            queue: BinaryHeap::new(),
        };
        for (index, (word, &count)) in words.iter().enumerate() {
            let pieces: Vec<Piece> = word
                .chars()
                .enumerate()
                .map(|(place, character)| {
                    let piece = if place == 0 {
                        character.to_string()
                    } else {
                        format!("{PREFIX}{character}")
                    };
                    merger.id(&piece)
                })
                .collect();
            for pair in pairs_of(&pieces) {
                let (total, at) = merger.pairs.entry(pair).or_default();
                *total += count;
                at.insert(index);
            }
            merger.words.push(Word { pieces, count });
        }
        let all: Vec<Pair> = merger.pairs.keys().copied().collect();
        all.into_iter().for_each(|pair| merger.enqueue(pair));
        merger
    }

    fn id(&mut self, piece: &str) -> Piece {
        if let Some(&id) = self.ids.get(piece) {
            return id;
        }
        let id = Piece::try_from(self.pieces.len()).expect("fewer than 2^32 pieces fit in memory");
        let piece: Rc<str> = piece.into();
        self.pieces.push(Rc::clone(&piece));
        self.ids.insert(piece, id);
        id
    }

    fn enqueue(&mut self, pair: Pair) {
        let count = self.pairs.get(&pair).map_or(0, |(count, _)| *count);
        if count > 0 {
            let name = |piece: Piece| Rc::clone(&self.pieces[piece as usize]);
            let names = (name(pair.0), name(pair.1));
            self.queue.push((count, Reverse(names), pair));
        }
    }

    fn most_frequent(&mut self, min_frequency: u64) -> Option<Pair> {
        while let Some((count, _, pair)) = self.queue.pop() {
            let current = self.pairs.get(&pair).map_or(0, |(count, _)| *count);
            if current == count && current >= min_frequency {
                return Some(pair);
            }
            // Counts that grew were queued again when they did; those that fell are queued here.
            if current < count && current >= min_frequency {
                self.enqueue(pair);
            }
        }
        None
    }

    /// Replaces a pair by its concatenation wherever it occurs.
    fn merge(&mut self, pair: Pair) -> Piece {
        let (left, right) = (&self.pieces[pair.0 as usize], &self.pieces[pair.1 as usize]);
        let spelled = format!(
            "{left}{}",
            right.strip_prefix(PREFIX).expect("a right piece continues a word")
        );
        let merged = self.id(&spelled);
        let (_, places) = self.pairs.remove(&pair).expect("a queued pair has occurrences");
        let mut grown = BTreeSet::new();
        for index in places {
            let count = self.words[index].count;
            let before = std::mem::take(&mut self.words[index].pieces);
            let after = replaced(&before, pair, merged);
            if after.len() < before.len() {
                for old in pairs_of(&before).filter(|&old| old != pair) {
                    let (total, _) = self.pairs.get_mut(&old).expect("a pair of a word is counted");
                    *total -= count;
                }
                for new in pairs_of(&after) {
                    let (total, at) = self.pairs.entry(new).or_default();
                    *total += count;
                    at.insert(index);
                    grown.insert(new);
                }
            }
            self.words[index].pieces = after;
        }
        grown.into_iter().for_each(|pair| self.enqueue(pair));
        merged
    }
}

fn pairs_of(pieces: &[Piece]) -> impl Iterator<Item = Pair> {
    pieces.windows(2).map(|pair| (pair[0], pair[1]))
}

fn replaced(pieces: &[Piece], pair: Pair, merged: Piece) -> Vec<Piece> {
    let mut after = Vec::with_capacity(pieces.len());
    let mut rest = pieces;
    while let Some((&first, tail)) = rest.split_first() {
        if (Some(&pair.1), pair.0) == (tail.first(), first) {
            after.push(merged);
            rest = &tail[1..];
        } else {
            after.push(first);
            rest = tail;
        }
    }
    after
}
