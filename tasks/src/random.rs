//! Random spikes with random labels: the input of the memory-and-speed measurements.
//!
//! Nothing can be learned here; what counts is the size, `[T, 128, 32768]` as if of a DVS camera, and that making the batch does
//! not hide the cost of training. Each input of each step is an independent Bernoulli(p) draw (p = 0.1 in the experiments), the
//! label uniform over the classes (task-memory-and-speed-evaluation of the BrainTrace experiments).
//!
//! 64 draws come from about 8 random words ([`Stream::bernoulli64`]); a table turns 8 bits into 8 bytes.
//! Each time step has its own stream, so the steps are made on all processors.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::rng::{Probability, Stream};
use crate::task::{Batch, Split, Task, TaskSettings, check_batch};
use crate::{Result, parallel};

/// Bernoulli inputs `[T, B, n_in]`, uniform labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomSpikes {
    /// T, time steps.
    pub steps: usize,
    /// Input channels; 128 x 128 x 2 in the experiments.
    pub n_in: usize,
    /// Classes; 11 in the experiments.
    pub n_out: usize,
    /// Probability of a spike per input and step; 0.1 in the experiments.
    pub rate: f64,
}

impl Default for RandomSpikes {
    fn default() -> Self {
        RandomSpikes { steps: 200, n_in: 128 * 128 * 2, n_out: 11, rate: 0.1 }
    }
}

impl RandomSpikes {
    fn check(&self) -> Result<()> {
        let sizes = self.steps > 0 && self.n_in > 0 && self.n_out > 0 && self.n_out <= i32::MAX as usize;
        let got = format!("{}, {}, {}", self.steps, self.n_in, self.n_out);
        require(sizes, "random", "steps, n_in and n_out are at least 1", got, "give sizes above 0")?;
        let rule = "rate is a probability";
        require((0.0..=1.0).contains(&self.rate), "random", rule, self.rate, "give a number from 0 to 1")
    }
}

impl TaskSettings for RandomSpikes {
    fn open(&self) -> Result<Arc<dyn Task>> {
        self.check()?;
        Ok(Arc::new(self.clone()))
    }
}

/// Byte `i` of entry `b` is bit `i` of `b`.
static BYTES_OF_BITS: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut i = 0;
    while i < 256 * 8 {
        table[i / 8][i % 8] = ((i / 8) >> (i % 8)) as u8 & 1;
        i += 1;
    }
    table
};

fn fill(out: &mut [u8], s: &mut Stream, p: Probability) {
    let mut chunks = out.chunks_exact_mut(64);
    for chunk in &mut chunks {
        let word = s.bernoulli64(p).to_le_bytes();
        for (eight, byte) in chunk.chunks_exact_mut(8).zip(word) {
            eight.copy_from_slice(&BYTES_OF_BITS[byte as usize]);
        }
    }
    let word = s.bernoulli64(p);
    for (i, byte) in chunks.into_remainder().iter_mut().enumerate() {
        *byte = (word >> i & 1) as u8;
    }
}

impl Task for RandomSpikes {
    fn name(&self) -> &str {
        "random"
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
        let p = Probability::from(self.rate);
        parallel::chunks(&mut out.inputs, batch * self.n_in, |t, row| {
            fill(row, &mut Stream::new(seed, "random spikes", &[split as u64, epoch, step, t as u64]), p);
        });
        let mut labels = Stream::new(seed, "random labels", &[split as u64, epoch, step]);
        out.targets = (0..batch).map(|_| labels.below(self.n_out as u64) as i32).collect();
        out.ids = (0..batch as u64).map(|b| step.wrapping_mul(batch as u64).wrapping_add(b)).collect();
        out.real = batch;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_labels() {
        let task = RandomSpikes { steps: 50, n_in: 1001, n_out: 11, rate: 0.1 };
        let b = task.batch(Split::Train, 1, 0, 0, 37).unwrap();
        assert_eq!(b.inputs.len(), 50 * 37 * 1001);
        assert!(b.inputs.iter().all(|&x| x <= 1));
        let mean = b.inputs.iter().map(|&x| f64::from(x)).sum::<f64>() / b.inputs.len() as f64;
        assert!((mean - 0.1).abs() < 5.0 * (0.09 / b.inputs.len() as f64).sqrt(), "{mean}");
        let b = RandomSpikes { steps: 1, n_in: 1, n_out: 11, rate: 0.1 }.batch(Split::Train, 1, 0, 0, 11_000).unwrap();
        for class in 0..11 {
            let n = b.targets.iter().filter(|&&t| t == class).count();
            assert!((850..1150).contains(&n), "class {class}: {n}");
        }
    }

    #[test]
    fn a_batch_is_a_function_of_its_position() {
        let task = RandomSpikes { steps: 4, n_in: 100, n_out: 3, rate: 0.3 };
        let base = task.batch(Split::Train, 1, 2, 3, 5).unwrap();
        assert_eq!(base, task.batch(Split::Train, 1, 2, 3, 5).unwrap());
        for (split, seed, epoch, step) in
            [(Split::Test, 1, 2, 3), (Split::Train, 0, 2, 3), (Split::Train, 1, 0, 3), (Split::Train, 1, 2, 0)]
        {
            assert_ne!(base.inputs, task.batch(split, seed, epoch, step, 5).unwrap().inputs);
        }
        // Steps differ within a batch too.
        assert_ne!(base.at(0, 0), base.at(1, 0));
    }

    #[test]
    fn bad_settings_are_refused() {
        let good = RandomSpikes { steps: 4, n_in: 100, n_out: 3, rate: 0.3 };
        for bad in [
            RandomSpikes { rate: 1.5, ..good.clone() },
            RandomSpikes { rate: f64::NAN, ..good.clone() },
            RandomSpikes { n_out: 0, ..good.clone() },
        ] {
            assert!(bad.batch(Split::Train, 0, 0, 0, 1).is_err(), "{bad:?}");
        }
        assert!(good.batch(Split::Train, 0, 0, 0, 0).unwrap_err().to_string().contains("at least 1"));
        assert!(good.batch(Split::Train, 0, 0, 0, usize::MAX / 2).is_err());
    }
}
