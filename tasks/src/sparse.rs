//! Binned spikes of many samples, kept compact.
//!
//! A data set is decoded once and kept as the list of its spikes: two bytes a spike (the channel), sorted by time step, and four
//! bytes a sample and step (where the step ends). The 60 000 training recordings of N-MNIST, first saccade, 100 bins, take
//! about 200 MB this way, the 65 million spikes of SHD 130 MB; dense they would be 13.9 GB and 571 MB. A batch is written out
//! when it is asked for.

use std::sync::{Arc, Mutex};

use crate::Result;
use crate::order::{At, Order};
use crate::task::{Batch, Split, Task};

/// Spikes of samples of `steps` steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sparse {
    pub steps: usize,
    /// Where each sample's spikes begin, and the end: samples + 1 entries.
    pub starts: Vec<u64>,
    /// `[samples, steps]`: where the spikes of each step end, from the start of the sample.
    pub ends: Vec<u32>,
    /// The channel of each spike.
    pub channels: Vec<u16>,
}

impl Sparse {
    pub fn new(steps: usize) -> Self {
        Sparse { steps, starts: vec![0], ends: Vec::new(), channels: Vec::new() }
    }

    /// Samples so far.
    #[cfg(test)]
    pub fn samples(&self) -> usize {
        self.starts.len() - 1
    }

    /// Spikes of all samples.
    #[cfg(test)]
    pub fn spikes(&self) -> u64 {
        self.channels.len() as u64
    }

    /// Adds a sample of (step, channel) pairs in any order; all steps are below `steps`.
    pub fn push(&mut self, spikes: &[(u32, u16)]) {
        let mut next = vec![0u32; self.steps];
        spikes.iter().for_each(|&(step, _)| next[step as usize] += 1);
        let mut sum = 0;
        for n in &mut next {
            (*n, sum) = (sum, sum + *n);
        }
        let base = self.channels.len();
        self.channels.resize(base + spikes.len(), 0);
        for &(step, channel) in spikes {
            let at = &mut next[step as usize];
            self.channels[base + *at as usize] = channel;
            *at += 1;
        }
        // Each `next` has moved from the start of its step to its end.
        self.ends.extend_from_slice(&next);
        self.starts.push(self.channels.len() as u64);
    }

    /// Adds the samples of another store of as many steps.
    pub fn append(&mut self, other: &Sparse) {
        debug_assert_eq!(self.steps, other.steps);
        let base = self.channels.len() as u64;
        self.starts.extend(other.starts[1..].iter().map(|s| s + base));
        self.ends.extend_from_slice(&other.ends);
        self.channels.extend_from_slice(&other.channels);
    }

    /// Gives back the memory that growing set aside.
    pub fn finish(mut self) -> Self {
        self.ends.shrink_to_fit();
        self.channels.shrink_to_fit();
        self
    }

    /// The channels of the spikes of sample `i`, step by step.
    pub fn steps_of(&self, i: usize) -> impl Iterator<Item = &[u16]> {
        let spikes = &self.channels[self.starts[i] as usize..self.starts[i + 1] as usize];
        let ends = &self.ends[i * self.steps..][..self.steps];
        let starts = [0].into_iter().chain(ends.iter().copied());
        starts.zip(ends).map(move |(start, &end)| &spikes[start as usize..end as usize])
    }

    /// Writes sample `i` into row `b` of `out`: counts that stay at 255, or with `binary` 1 for any spike.
    pub fn write(&self, i: usize, out: &mut Batch, b: usize, binary: bool) {
        for (t, now) in self.steps_of(i).enumerate() {
            let row = out.row(t, b);
            now.iter().for_each(|&channel| add(&mut row[channel as usize], binary));
        }
    }
}

/// One more spike: a count that stays at 255, or with `binary` 1.
pub(crate) fn add(cell: &mut u8, binary: bool) {
    *cell = if binary { 1 } else { cell.saturating_add(1) };
}

/// A decoded split.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decoded {
    pub spikes: Sparse,
    /// The class of each sample.
    pub labels: Vec<i32>,
    /// The speaker or user of each sample, where known.
    pub people: Vec<i64>,
}

/// Something made at its first use and then kept.
pub(crate) struct Kept<T>(Mutex<Option<Arc<T>>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept(Mutex::default())
    }
}

impl<T> Kept<T> {
    /// The thing, made by `make` if this is its first use. After an error the next call tries again.
    pub fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        // The value is set whole or not at all, so that of a poisoned lock is sound.
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(made) = &*kept {
            return Ok(made.clone());
        }
        let made = Arc::new(make()?);
        *kept = Some(made.clone());
        Ok(made)
    }
}

/// The splits of a set, each decoded at its first use and then kept.
#[derive(Default)]
pub(crate) struct Splits([Kept<Decoded>; 3]);

impl Splits {
    /// The split, decoded by `decode` if this is its first use.
    pub fn get(&self, split: Split, decode: impl FnOnce() -> Result<Decoded>) -> Result<Arc<Decoded>> {
        self.0[split as usize].get(decode)
    }
}

/// The batch of a decoded set.
pub(crate) fn batch_of(task: &dyn Task, order: &Order, d: &Decoded, binary: bool, at: At) -> Result<Batch> {
    let (chosen, mut out) = order.select(task, at, &d.labels)?;
    for (b, &i) in chosen.iter().enumerate() {
        d.spikes.write(i, &mut out, b, binary);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut s = Sparse::new(3);
        s.push(&[(2, 5), (0, 1), (2, 5), (1, 0), (0, 1)]);
        s.push(&[]);
        let mut more = Sparse::new(3);
        more.push(&[(1, 7)]);
        more.push(&vec![(0, 2); 300]);
        s.append(&more);
        let s = s.finish();
        assert_eq!((s.samples(), s.spikes()), (4, 306));
        let mut out = Batch::empty(3, 4, 8);
        (0..4).for_each(|i| s.write(i, &mut out, i, false));
        assert_eq!(out.at(0, 0), [0, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(out.at(1, 0), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(out.at(2, 0), [0, 0, 0, 0, 0, 2, 0, 0]);
        assert_eq!(out.spikes(1), 0);
        assert_eq!(out.at(1, 2), [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(out.at(0, 3)[2], 255, "300 spikes saturate");
        let mut out = Batch::empty(3, 1, 8);
        s.write(0, &mut out, 0, true);
        assert_eq!((out.at(0, 0)[1], out.at(2, 0)[5]), (1, 1));
    }
}
