//! Pattern generation: draw a curve for each output, given a clock or input spikes that are always the same.
//!
//! The target of output k in step t is a sum of [`COMPONENTS`] sinusoids of 1 to 5 whole periods in a trial, with amplitudes and phases drawn
//! once by `pattern_seed`, divided by the largest absolute value of the curve: numbers from -1 to 1 with mean 0, `[T, B, n_out]`. The
//! input says nothing of the curve. A clock marks which of `n_in` equal parts of the trial it is, one input after the other; frozen spikes
//! are drawn once, with probability `rate` for each input and step. All trials have the same target and, without jitter, the same input;
//! `jitter` is the probability that a step's spikes are left out, drawn anew for each trial. Source: the pattern generation of
//! Nicola & Clopath 2017 and of Bellec et al. 2020, without their time constants.

use std::{f64::consts::TAU, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::require;
use crate::rng::Stream;
use crate::task::{Batch, Split, Targets, Task, TaskSettings, check_batch};

/// Sinusoids in a curve.
pub const COMPONENTS: usize = 4;

/// What the network is told of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cue {
    /// One input after the other, each for an equal part of the trial.
    #[default]
    Clock,
    /// Random spikes, the same in all trials.
    Frozen,
}

/// The task. See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pattern {
    /// T, steps of a trial, each with a target.
    pub steps: usize,
    /// Inputs.
    pub n_in: usize,
    /// Outputs, each with a curve of its own.
    pub n_out: usize,
    /// What the network is told of time.
    pub cue: Cue,
    /// Probability of a spike per input and step of frozen spikes.
    pub rate: f64,
    /// Probability that an input spike is left out.
    pub jitter: f64,
    /// What draws curves and frozen spikes; the seed of a run draws neither, so that runs with other seeds learn the same.
    pub pattern_seed: u64,
}

impl Default for Pattern {
    /// One curve over 200 steps, told by a clock of 20 inputs.
    fn default() -> Self {
        Pattern { steps: 200, n_in: 20, n_out: 1, cue: Cue::Clock, rate: 0.05, jitter: 0.0, pattern_seed: 0 }
    }
}

impl Pattern {
    fn check(&self) -> Result<()> {
        let most = 1 << 20;
        let count = |n: usize, rule| require((1..=most).contains(&n), "pattern", rule, n, "choose another number");
        let rule = "steps is from 16 to 2^20, so that a curve has its periods";
        require((16..=most).contains(&self.steps), "pattern", rule, self.steps, "choose another number")?;
        count(self.n_in, "n_in is from 1 to 2^20 inputs")?;
        count(self.n_out, "n_out is from 1 to 2^20 outputs")?;
        let share = |p: f64, rule| require((0.0..=1.0).contains(&p), "pattern", rule, p, "choose another");
        share(self.rate, "rate is a probability, from 0 to 1")?;
        share(self.jitter, "jitter is a probability, from 0 to 1")?;
        Ok(())
    }

    /// The curve of each output, `[T, n_out]`.
    pub fn curves(&self) -> Vec<f32> {
        let mut curves = vec![0.0; self.steps * self.n_out];
        for k in 0..self.n_out {
            let s = &mut Stream::new(self.pattern_seed, "pattern", &[k as u64]);
            let components: Vec<(f64, f64, f64)> =
                (0..COMPONENTS).map(|_| (1.0 + s.below(5) as f64, 0.5 + s.unit(), s.unit())).collect();
            let at = |t: usize| -> f64 {
                let part = t as f64 / self.steps as f64;
                components.iter().map(|(periods, size, phase)| size * (TAU * (periods * part + phase)).sin()).sum()
            };
            let largest = (0..self.steps).map(|t| at(t).abs()).fold(1e-9, f64::max);
            (0..self.steps).for_each(|t| curves[t * self.n_out + k] = (at(t) / largest) as f32);
        }
        curves
    }

    /// Inputs that spike in each step.
    fn cue(&self) -> Vec<Vec<usize>> {
        let s = &mut Stream::new(self.pattern_seed, "pattern input", &[]);
        let frozen = |s: &mut Stream| (0..self.n_in).filter(|_| s.unit() < self.rate).collect();
        (0..self.steps)
            .map(|t| match self.cue {
                Cue::Clock => vec![t * self.n_in / self.steps],
                Cue::Frozen => frozen(s),
            })
            .collect()
    }
}

impl TaskSettings for Pattern {
    fn open(&self) -> Result<Arc<dyn Task>> {
        self.check()?;
        Ok(Arc::new(self.clone()))
    }
    fn targets(&self) -> Targets {
        Targets::Numbers
    }
}

impl Task for Pattern {
    fn name(&self) -> &str {
        "pattern"
    }
    fn n_in(&self) -> usize {
        self.n_in
    }
    fn n_out(&self) -> usize {
        self.n_out
    }
    fn steps(&self) -> usize {
        self.steps
    }

    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
        self.check()?;
        check_batch(self, batch)?;
        let mut out = Batch::empty(self.steps, batch, self.n_in);
        out.real = batch;
        out.targets = vec![0; batch];
        out.numbers = self.curves().chunks(self.n_out).flat_map(|step| step.repeat(batch)).collect();
        let cue = self.cue();
        for b in 0..batch {
            let s = &mut Stream::new(seed, "pattern jitter", &[split as u64, epoch, step, b as u64]);
            for (t, spikes) in cue.iter().enumerate() {
                let row = out.row(t, b);
                spikes.iter().for_each(|&i| row[i] = u8::from(self.jitter == 0.0 || s.unit() >= self.jitter));
            }
            out.ids[b] = step.wrapping_mul(batch as u64).wrapping_add(b as u64);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curves() {
        let task = Pattern { n_out: 3, ..Pattern::default() };
        let curves = task.curves();
        for k in 0..3 {
            let curve: Vec<f64> = (0..200).map(|t| f64::from(curves[t * 3 + k])).collect();
            let largest = curve.iter().fold(0.0f64, |most, y| most.max(y.abs()));
            assert!((largest - 1.0).abs() < 1e-6 && curve.iter().sum::<f64>().abs() < 1e-3, "output {k}");
        }
        assert_ne!(curves, Pattern { pattern_seed: 1, ..task.clone() }.curves());
        let b = task.batch(Split::Train, 1, 0, 0, 4).unwrap();
        for (t, row) in (0..200).flat_map(|t| (0..4).map(move |row| (t, row))) {
            assert_eq!(b.numbers[(t * 4 + row) * 3..][..3], curves[t * 3..][..3]);
            assert_eq!(b.at(t, row).iter().position(|&n| n == 1), Some(t / 10), "a clock");
        }
        assert_eq!(b.spikes(0), 200);
        let part = b.part(crate::Rows { first: 1, count: 2 });
        assert_eq!((part.numbers.len(), &part.numbers[3..6]), (200 * 2 * 3, &curves[..3]));
    }

    #[test]
    fn spikes_are_the_same_in_all_trials_or_left_out() {
        let frozen = Pattern { cue: Cue::Frozen, rate: 0.2, ..Pattern::default() };
        let whole = frozen.batch(Split::Train, 1, 0, 0, 2).unwrap();
        assert_eq!(whole.inputs, frozen.batch(Split::Train, 2, 0, 5, 2).unwrap().inputs);
        assert!((600..1000).contains(&whole.spikes(0)), "{}", whole.spikes(0));
        let jitter = Pattern { jitter: 0.5, ..frozen }.batch(Split::Train, 1, 0, 0, 2).unwrap();
        assert!(jitter.inputs.iter().zip(&whole.inputs).all(|(some, all)| some <= all));
        assert!(jitter.spikes(0) < whole.spikes(0) && jitter.spikes(0) != jitter.spikes(1));
        for bad in [
            Pattern { steps: 3, ..Pattern::default() },
            Pattern { n_out: 0, ..Pattern::default() },
            Pattern { rate: 1.5, ..Pattern::default() },
            Pattern { jitter: f64::NAN, ..Pattern::default() },
        ] {
            assert!(bad.open().is_err() && bad.batch(Split::Train, 0, 0, 0, 1).is_err(), "{bad:?}");
        }
    }
}
