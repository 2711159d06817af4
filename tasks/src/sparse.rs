//! Binned spikes of many samples, kept compact.
//!
//! A data set is decoded once and kept as the list of its spikes: two bytes a spike (the channel), sorted by time step, and four
//! bytes a sample and step (where the step ends). The 60 000 training recordings of N-MNIST, first saccade, 100 bins, take
//! about 200 MB this way, the 65 million spikes of SHD 130 MB; dense they would be 13.9 GB and 571 MB. A batch is written out
//! when it is asked for.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use crate::order::Order;
use crate::rng::finish;
use crate::task::{At, Batch, Split, Task};
use crate::{Result, memory};

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
    /// What there is to say about the split.
    pub remarks: Vec<String>,
}

impl Decoded {
    /// A number for each sample that has spikes, equal for equal samples.
    pub fn prints(&self) -> Vec<u64> {
        self.of_class().map(|(print, _)| print).collect()
    }

    /// [`Decoded::prints`] with the class of each.
    fn of_class(&self) -> impl Iterator<Item = (u64, i64)> {
        let samples = self.labels.iter().enumerate();
        samples.filter_map(move |(i, &class)| Some((print(self.spikes.steps_of(i))?, i64::from(class))))
    }

    /// Adds remarks on samples without a spike and on samples that are the same.
    pub fn judged(mut self) -> Self {
        let (all, silent) = (self.labels.len(), self.spikes.starts.windows(2).filter(|s| s[0] == s[1]).count());
        if silent > 0 {
            self.remarks
                .push(format!("{silent} of {all} samples have no spike in any step: the network sees nothing of them"));
        }
        let copies = copies(self.of_class());
        self.remarks.extend(copies);
        self
    }
}

/// Remarks on samples of a split that are the same, worst where their classes differ.
pub(crate) fn copies(samples: impl Iterator<Item = (u64, i64)>) -> Vec<String> {
    let mut first: HashMap<u64, i64> = HashMap::new();
    let (mut same, mut other) = (0, None);
    for (print, class) in samples {
        match first.entry(print) {
            Entry::Vacant(new) => {
                new.insert(class);
            }
            Entry::Occupied(known) => {
                same += 1;
                other = other.or((*known.get() != class).then(|| (*known.get(), class)));
            }
        }
    }
    let copies = (same > 0).then(|| format!("{same} samples are copies of others in the split"));
    let classes =
        other.map(|(a, b)| format!("the same sample is there as class {a} and as class {b}: one of them is wrong"));
    copies.into_iter().chain(classes).collect()
}

/// A number for the spikes of a sample, step by step; `None` without spikes.
pub(crate) fn print<'a>(steps: impl Iterator<Item = &'a [u16]>) -> Option<u64> {
    let spikes = steps.enumerate().flat_map(|(t, now)| now.iter().map(move |&c| (t as u64) << 16 | u64::from(c)));
    spikes.fold(None, |h, word| Some(finish(h.unwrap_or_default() ^ word).wrapping_add(1)))
}

/// How many of `prints` are in `known`.
pub(crate) fn repeated(prints: &[u64], known: &[u64]) -> u64 {
    let known: HashSet<&u64> = known.iter().collect();
    prints.iter().filter(|p| known.contains(p)).count() as u64
}

/// Refuses a split whose table of steps would be larger than the memory.
pub(crate) fn check_size(task: &'static str, samples: usize, steps: usize) -> Result<()> {
    memory::fits(
        task,
        "the samples of a split fit in memory, at 4 bytes a step",
        &[samples, steps],
        4,
        "choose fewer steps",
    )
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
    fn equal_samples_have_equal_prints() {
        let mut spikes = Sparse::new(3);
        for sample in [&[(0, 1), (2, 5)][..], &[(0, 1), (1, 5)], &[], &[(0, 1), (2, 5)], &[(0, 1)], &[(1, 1)]] {
            spikes.push(sample);
        }
        let d = Decoded { spikes, labels: vec![0; 6], ..Decoded::default() }.judged();
        let p = d.prints();
        assert_eq!((p.len(), p[0] == p[2]), (5, true), "the silent one has none");
        assert_eq!(p.iter().collect::<HashSet<_>>().len(), 4);
        assert_eq!(repeated(&p[3..], &p[..3]), 0);
        assert_eq!(repeated(&p, &p[..1]), 2);
        assert_eq!(d.remarks.len(), 2);
        assert!(
            d.remarks[0].starts_with("1 of 6 samples") && d.remarks[1].starts_with("1 samples are copies"),
            "{:?}",
            d.remarks
        );
        let both = copies([(1, 3), (2, 3), (1, 7)].into_iter());
        assert!(both[1].contains("class 3 and as class 7"), "{both:?}");
    }

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
