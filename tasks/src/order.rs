//! The order of samples in an epoch, and what becomes of the last batch.
//!
//! The order of a shuffled epoch is a Fisher-Yates permutation drawn from a stream named by (seed, epoch): any batch of any
//! epoch can be found without making the ones before. Programs are compiled for one batch size, so an incomplete last batch
//! is by default dropped in training (the samples left out differ from epoch to epoch) and padded in evaluation (every sample
//! counts once).

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::rng::Stream;
use crate::task::{At, Batch, Split, Task, check_batch};
use crate::{Error, Result};

/// What becomes of the samples that do not fill a batch at the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tail {
    /// They are left out of this epoch.
    Drop,
    /// The batch is filled up with silent rows without target.
    Pad,
    /// The last batch is smaller.
    Short,
}

/// How a set is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passes {
    /// Shuffle the training split. The others stay in file order.
    pub shuffle: bool,
    /// The last training batch.
    pub train_tail: Tail,
    /// The last batch of the other splits.
    pub eval_tail: Tail,
}

impl Default for Passes {
    fn default() -> Self {
        Passes { shuffle: true, train_tail: Tail::Drop, eval_tail: Tail::Pad }
    }
}

impl Passes {
    fn tail(&self, split: Split) -> Tail {
        if split == Split::Train { self.train_tail } else { self.eval_tail }
    }

    /// Batches of `batch` in an epoch over `samples`.
    pub fn batches(&self, split: Split, samples: u64, batch: usize) -> u64 {
        let batch = batch.max(1) as u64;
        match self.tail(split) {
            Tail::Drop => samples / batch,
            Tail::Pad | Tail::Short => samples.div_ceil(batch),
        }
    }
}

/// The permutation of `0..samples` that epoch `epoch` follows.
pub fn permutation(seed: u64, epoch: u64, samples: u32) -> Vec<u32> {
    let mut s = Stream::new(seed, "order", &[epoch, u64::from(samples)]);
    let mut order: Vec<u32> = (0..samples).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, s.below(i as u64 + 1) as usize);
    }
    order
}

/// Seed, epoch and length of a permutation, and the permutation.
type Remembered = ((u64, u64, u32), Arc<Vec<u32>>);

/// [`Passes`] with the last permutation remembered, as all batches of an epoch share it.
#[derive(Default)]
pub(crate) struct Order {
    pub passes: Passes,
    last: Mutex<Option<Remembered>>,
}

impl Order {
    pub fn new(passes: Passes) -> Self {
        Order { passes, last: Mutex::default() }
    }

    /// The samples of a batch, and an empty batch with targets and ids filled in.
    ///
    /// `labels` has the class of each sample of the split.
    pub fn select(&self, task: &dyn Task, at: At, labels: &[i32]) -> Result<(Vec<usize>, Batch)> {
        let At { split, seed, epoch, step, batch, rows: wanted } = at;
        check_batch(task, batch)?;
        let n = labels.len() as u64;
        require(n < 1 << 32, "data set", "a split has fewer than 2^32 samples", n, "split the files")?;
        let batches = self.passes.batches(split, n, batch);
        if step >= batches {
            return Err(Error::BeyondEpoch { task: task.name().into(), split, batches, batch, step });
        }
        let first = step * batch as u64;
        let real = (n - first).min(batch as u64) as usize;
        let rows = if self.passes.tail(split) == Tail::Short { real } else { batch };
        let wanted = wanted.of(rows);
        let (first, real) = (first + wanted.start as u64, real.saturating_sub(wanted.start).min(wanted.len()));
        let chosen: Vec<usize> = if split == Split::Train && self.passes.shuffle {
            let order = self.permutation(seed, epoch, n as u32);
            order[first.min(n) as usize..][..real].iter().map(|&i| i as usize).collect()
        } else {
            (first as usize..).take(real).collect()
        };
        let mut out = Batch::empty(task.steps(), wanted.len(), task.n_in());
        out.real = real;
        for (row, &i) in chosen.iter().enumerate() {
            out.targets[row] = labels[i];
            out.ids[row] = i as u64;
        }
        Ok((chosen, out))
    }

    fn permutation(&self, seed: u64, epoch: u64, samples: u32) -> Arc<Vec<u32>> {
        let name = (seed, epoch, samples);
        // A poisoned lock holds a whole permutation or none: both are fine to go on with.
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((known, order)) = &*last
            && *known == name
        {
            return order.clone();
        }
        let order = Arc::new(permutation(seed, epoch, samples));
        *last = Some((name, order.clone()));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_has_each_sample_once_and_depends_on_seed_and_epoch() {
        let p = permutation(1, 0, 1000);
        let mut sorted = p.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(p, permutation(1, 0, 1000));
        assert_ne!(p, permutation(1, 1, 1000));
        assert_ne!(p, permutation(2, 0, 1000));
        assert!(permutation(1, 0, 0).is_empty());
    }

    #[test]
    fn all_orders_of_three_are_equally_likely() {
        let mut count = std::collections::BTreeMap::new();
        (0..6000).for_each(|e| *count.entry(permutation(9, e, 3)).or_insert(0) += 1);
        assert_eq!(count.len(), 6);
        assert!(count.values().all(|&c: &i32| (c - 1000).abs() < 150), "{count:?}");
    }

    #[test]
    fn batches_per_epoch() {
        let p = Passes::default();
        assert_eq!(p.batches(Split::Train, 10, 4), 2);
        assert_eq!(p.batches(Split::Test, 10, 4), 3);
        assert_eq!(p.batches(Split::Test, 8, 4), 2);
        assert_eq!(p.batches(Split::Train, 3, 4), 0);
    }
}
