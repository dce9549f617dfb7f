//! Tokenized, labelled texts, and the batches they are trained in.

use graph::Tensor;

use crate::random::{Stream, derive};

/// Batches that are sorted by length together: larger pads less, smaller mixes better.
const POOL: usize = 50;

/// Texts as word-piece ids with their classes, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examples {
    /// Ids of each text, special tokens included, none padded, none empty.
    pub ids: Vec<Vec<u32>>,
    /// Class of each text; as many as `ids`.
    pub labels: Vec<usize>,
}

/// Texts that go through a network together, padded to the longest of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// `[rows, length]`, row-major; 0 behind the end of a text.
    pub ids: Vec<i64>,
    /// `[rows, length]`, row-major; 1 for tokens, 0 for padding.
    pub mask: Vec<i64>,
    /// Class of each row.
    pub labels: Vec<usize>,
    /// Where each row stands in the [`Examples`]: what finds a row's cached teacher logits.
    pub rows: Vec<usize>,
    /// Tokens of the longest text.
    pub length: usize,
}

/// Tensors for a graph's inputs, by name. Inputs that the graph does not have are ignored.
#[derive(Clone, Debug, Default)]
pub struct Inputs(pub Vec<(String, Tensor)>);

impl Examples {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of tokens, special ones included.
    pub fn tokens(&self) -> usize {
        self.ids.iter().map(Vec::len).sum()
    }

    /// The batch of these rows, in this order.
    ///
    /// # Panics
    ///
    /// When a row is not an example.
    pub fn batch(&self, rows: &[usize]) -> Batch {
        let length = rows.iter().map(|&row| self.ids[row].len()).max().unwrap_or(0).max(1);
        let mut ids = vec![0; rows.len() * length];
        let mut mask = vec![0; rows.len() * length];
        for (index, &row) in rows.iter().enumerate() {
            for (position, &id) in self.ids[row].iter().enumerate() {
                ids[index * length + position] = i64::from(id);
                mask[index * length + position] = 1;
            }
        }
        let labels = rows.iter().map(|&row| self.labels[row]).collect();
        Batch { ids, mask, labels, rows: rows.to_vec(), length }
    }

    /// The rows of each batch of one epoch: every example once, in an order that is a function of
    /// `seed` and `epoch`. With `bucket`, texts of a similar length share a batch, which saves most
    /// of the padding; the batches themselves stay in random order.
    pub fn epoch(
        &self,
        batch_size: usize,
        bucket: Bucket,
        seed: u64,
        epoch: usize,
    ) -> Vec<Vec<usize>> {
        let mut stream = Stream::new(derive(seed, epoch as u64));
        let mut rows: Vec<usize> = (0..self.len()).collect();
        stream.shuffle(&mut rows);
        if bucket == Bucket::ByLength {
            for pool in rows.chunks_mut(batch_size * POOL) {
                pool.sort_by_key(|&row| self.ids[row].len());
            }
        }
        let mut batches: Vec<Vec<usize>> = rows.chunks(batch_size).map(<[_]>::to_vec).collect();
        stream.shuffle(&mut batches);
        batches
    }

    /// Batches for evaluation: every example once, sorted by length.
    pub fn by_length(&self, batch_size: usize) -> Vec<Vec<usize>> {
        let mut rows: Vec<usize> = (0..self.len()).collect();
        rows.sort_by_key(|&row| self.ids[row].len());
        rows.chunks(batch_size.max(1)).map(<[_]>::to_vec).collect()
    }
}

/// How rows are put into batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// Texts of a similar length together.
    ByLength,
    /// Any texts together.
    Random,
}

impl Batch {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Number of tokens that are not padding.
    pub fn tokens(&self) -> usize {
        self.mask.iter().filter(|&&mask| mask != 0).count()
    }

    /// The mask as numbers, `[rows, length]`, as losses want it.
    pub fn float_mask(&self) -> Vec<f32> {
        self.mask.iter().map(|&mask| mask as f32).collect()
    }

    /// `input_ids` and `attention_mask`, both `i64[rows, length]`.
    pub fn inputs(&self) -> Inputs {
        let shape = [self.len(), self.length];
        let tensor = |values: &[i64]| Tensor::from_fn(&shape, |index| values[index]);
        Inputs(vec![
            ("input_ids".to_owned(), tensor(&self.ids)),
            ("attention_mask".to_owned(), tensor(&self.mask)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(count: usize) -> Examples {
        let mut stream = Stream::new(5);
        let ids: Vec<Vec<u32>> =
            (0..count).map(|row| vec![row as u32; 1 + stream.below(30)]).collect();
        Examples { labels: ids.iter().map(|ids| ids.len() % 2).collect(), ids }
    }

    #[test]
    fn a_batch_is_padded_to_its_longest() {
        let examples = Examples { ids: vec![vec![7], vec![8, 9]], labels: vec![1, 0] };
        let batch = examples.batch(&[1, 0]);
        assert_eq!((batch.length, batch.tokens()), (2, 3));
        assert_eq!(batch.ids, [8, 9, 7, 0]);
        assert_eq!(batch.mask, [1, 1, 1, 0]);
        assert_eq!(batch.labels, [0, 1]);
    }

    #[test]
    fn an_epoch_has_every_row_once_and_depends_on_seed_and_epoch_alone() {
        let examples = examples(103);
        for bucket in [Bucket::ByLength, Bucket::Random] {
            let batches = examples.epoch(8, bucket, 3, 1);
            let mut rows = batches.concat();
            rows.sort_unstable();
            assert!(rows.into_iter().eq(0..103));
            assert_eq!(batches, examples.epoch(8, bucket, 3, 1));
            assert_ne!(batches, examples.epoch(8, bucket, 3, 2));
            assert_ne!(batches, examples.epoch(8, bucket, 4, 1));
        }
    }

    #[test]
    fn buckets_save_padding() {
        let examples = examples(400);
        let padded = |bucket| -> usize {
            let batches = examples.epoch(8, bucket, 3, 0);
            batches.iter().map(|rows| examples.batch(rows).ids.len()).sum()
        };
        assert!(padded(Bucket::ByLength) < examples.tokens() * 11 / 10);
        assert!(padded(Bucket::Random) > examples.tokens() * 15 / 10);
    }
}
