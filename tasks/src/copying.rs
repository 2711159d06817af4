//! The copying task: repeat ten symbols after a long silence.
//!
//! A sequence of L + 20 steps: ten symbols uniform in 1 to 8, L blanks (symbol 0), ten times the recall cue (symbol 9). Each step
//! is one-hot over ten inputs. During recall the network names the ten symbols in order, so each of the last ten steps has a target of
//! its own, and `Batch::targets` is `[10, B]`. Source: task-rnn-long-term-dependency of the first version of the BrainTrace experiments.

use crate::Result;
use crate::error::require;
use crate::rng::Stream;
use crate::task::{Batch, Split, Task, check_batch};

/// Symbols to remember, and steps of recall.
pub const LENGTH: usize = 10;
/// Blank, eight symbols, recall cue.
pub const SYMBOLS: usize = 10;

/// The task. See the [module](self).
#[derive(Clone, Debug)]
pub struct Copying {
    /// L, blanks between the symbols and their recall.
    pub delay: usize,
}

impl Task for Copying {
    fn name(&self) -> &str {
        "copying"
    }
    fn n_in(&self) -> usize {
        SYMBOLS
    }
    fn n_out(&self) -> usize {
        SYMBOLS
    }
    fn steps(&self) -> usize {
        self.delay.saturating_add(2 * LENGTH)
    }
    fn warmup(&self) -> usize {
        self.steps() - LENGTH
    }
    fn targets_per_sample(&self) -> usize {
        LENGTH
    }
    fn samples(&self, _: Split) -> Result<Option<u64>> {
        Ok(None)
    }
    fn batches(&self, _: Split, _: usize) -> Result<Option<u64>> {
        Ok(None)
    }

    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
        require(self.delay < 1 << 30, "copying", "delay is below 2^30 steps", self.delay, "use less")?;
        check_batch(self, batch)?;
        let mut out = Batch::empty(self.steps(), batch, SYMBOLS);
        out.real = batch;
        out.targets = vec![0; LENGTH * batch];
        for b in 0..batch {
            let s = &mut Stream::new(seed, "copying", &[split as u64, epoch, step, b as u64]);
            for t in 0..self.steps() {
                let symbol = if t < LENGTH {
                    let symbol = 1 + s.below(8) as usize;
                    out.targets[t * batch + b] = symbol as i32;
                    symbol
                } else if t < self.warmup() {
                    0
                } else {
                    SYMBOLS - 1
                };
                out.inputs[(t * batch + b) * SYMBOLS + symbol] = 1;
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
    fn the_sequence() {
        let task = Copying { delay: 5 };
        assert_eq!((task.steps(), task.warmup(), task.targets_per_sample()), (25, 15, 10));
        let b = task.batch(Split::Train, 1, 0, 0, 400).unwrap();
        let mut seen = [0; SYMBOLS];
        for row in 0..400 {
            for t in 0..25 {
                let hot: Vec<usize> = (0..SYMBOLS).filter(|&i| b.at(t, row)[i] == 1).collect();
                let &[symbol] = hot.as_slice() else { panic!("one input a step: {hot:?}") };
                match t {
                    0..10 => assert_eq!(b.targets[t * 400 + row], symbol as i32),
                    10..15 => assert_eq!(symbol, 0),
                    _ => assert_eq!(symbol, 9),
                }
                seen[symbol] += i32::from(t < 10);
            }
        }
        assert!(seen[0] == 0 && seen[9] == 0 && seen[1..9].iter().all(|n| (400..600).contains(n)), "{seen:?}");
        assert_eq!(b, task.batch(Split::Train, 1, 0, 0, 400).unwrap());
        assert!(Copying { delay: usize::MAX }.batch(Split::Train, 0, 0, 0, 1).is_err());
    }
}
