//! Rows → disjoint train, validation and test sets.

use std::collections::BTreeMap;

use super::read::{Declared, Record};
use super::{DataError, Dataset, Problems, Source};

type Hash = [u8; 32];

/// Rows that have to stay together because they share a text or a group, directly or in a chain.
struct Unit {
    /// Decides the unit's turn in a draw.
    hash: Hash,
    members: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Train,
    Validation,
    Test,
    Dropped,
}

pub(super) fn divide(records: Vec<Record>, source: &Source) -> Result<Dataset, DataError> {
    let hashes: Vec<Hash> =
        records.iter().map(|record| *blake3::hash(record.row.text.as_bytes()).as_bytes()).collect();
    check_declared(&records, &hashes, source)?;
    let mut parts: Vec<Part> = records
        .iter()
        .map(
            |record| if record.declared == Some(Declared::Test) { Part::Test } else { Part::Train },
        )
        .collect();
    let mut units = units(&records, &hashes);
    units.retain(|unit| parts[unit.members[0]] == Part::Train);
    if let Some(fraction) = source.test {
        draw(&mut units, fraction, Part::Test, &mut parts);
    }
    draw(&mut units, source.validation, Part::Validation, &mut parts);
    if let Some(limit) = source.limit {
        let mut train: Vec<usize> =
            units.iter().flat_map(|unit| unit.members.iter().copied()).collect();
        train.sort_unstable_by_key(|&index| (hashes[index], index));
        train.iter().skip(limit).for_each(|&index| parts[index] = Part::Dropped);
    }
    let mut dataset = Dataset {
        train: Vec::new(),
        validation: Vec::new(),
        test: Vec::new(),
        labels: source.labels.clone(),
    };
    for (record, part) in records.into_iter().zip(parts) {
        match part {
            Part::Train => dataset.train.push(record.row),
            Part::Validation => dataset.validation.push(record.row),
            Part::Test => dataset.test.push(record.row),
            Part::Dropped => {}
        }
    }
    for (name, rows) in
        [("train", &dataset.train), ("validation", &dataset.validation), ("test", &dataset.test)]
    {
        if rows.is_empty() {
            let message = format!(
                "expected rows in every split, found none for {name}; check the fractions, the groups and the split column"
            );
            return Err(DataError::Source { path: source.path.clone(), message });
        }
    }
    Ok(dataset)
}

/// Refuses a text or a group that the file declares to be in both splits.
fn check_declared(records: &[Record], hashes: &[Hash], source: &Source) -> Result<(), DataError> {
    let mut problems = Problems::default();
    let mut texts: BTreeMap<&Hash, (Declared, usize)> = BTreeMap::new();
    let mut groups: BTreeMap<&str, (Declared, usize)> = BTreeMap::new();
    for (record, hash) in records.iter().zip(hashes) {
        let Some(declared) = record.declared else { continue };
        let here = (declared, record.line);
        let (first, line) = *texts.entry(hash).or_insert(here);
        if first != declared {
            problems.add(record.line, format!("expected a text of one split only, found the text of line {line}, which is in the other split"));
        }
        let Some(group) = record.group.as_deref() else { continue };
        let (first, line) = *groups.entry(group).or_insert(here);
        if first != declared {
            problems.add(record.line, format!("expected the group `{group}` in one split only, found line {line} of it in the other split"));
        }
    }
    problems.check(&source.path)
}

/// Units in the order of their hashes. A group's turn depends on its name, not on how many rows it
/// has; rows without a group are their text.
fn units(records: &[Record], hashes: &[Hash]) -> Vec<Unit> {
    let mut sets = DisjointSets::new(records.len());
    let mut first_of_text: BTreeMap<&Hash, usize> = BTreeMap::new();
    let mut first_of_group: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        sets.join(index, *first_of_text.entry(&hashes[index]).or_insert(index));
        if let Some(group) = record.group.as_deref() {
            sets.join(index, *first_of_group.entry(group).or_insert(index));
        }
    }
    let mut by_root: BTreeMap<usize, Unit> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        let key = match record.group.as_deref() {
            Some(group) => *blake3::hash(group.as_bytes()).as_bytes(),
            None => hashes[index],
        };
        let unit =
            by_root.entry(sets.root(index)).or_insert(Unit { hash: key, members: Vec::new() });
        unit.hash = unit.hash.min(key);
        unit.members.push(index);
    }
    let mut units: Vec<Unit> = by_root.into_values().collect();
    units.sort_by_key(|unit| unit.hash);
    units
}

/// Moves units to `part` in the order of their hashes until it has `fraction` of the rows, leaving
/// out a unit that would overshoot.
fn draw(units: &mut Vec<Unit>, fraction: f64, part: Part, parts: &mut [Part]) {
    let n_rows: usize = units.iter().map(|unit| unit.members.len()).sum();
    let mut left = (fraction * n_rows as f64).round() as usize;
    units.retain(|unit| {
        if unit.members.len() > left {
            return true;
        }
        left -= unit.members.len();
        unit.members.iter().for_each(|&index| parts[index] = part);
        false
    });
}

struct DisjointSets(Vec<usize>);

impl DisjointSets {
    fn new(size: usize) -> Self {
        Self((0..size).collect())
    }

    fn root(&mut self, mut index: usize) -> usize {
        while self.0[index] != index {
            self.0[index] = self.0[self.0[index]];
            index = self.0[index];
        }
        index
    }

    /// The lower index becomes the root, so roots do not depend on the order of joins.
    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}
