//! The copying task: repeat symbols after a long silence.
//!
//! A sequence of L + 2 n steps: n symbols uniform in 1 to 8, L blanks (symbol 0), n times the recall cue (symbol 9). Each step
//! is one-hot over ten inputs. During recall the network names the symbols in order, so each of the last n steps has a target of
//! its own; with n = 1 that is one class for each sequence. Ten symbols are published. Source: task-rnn-long-term-dependency of the first version of the BrainTrace experiments.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::require;
use crate::rng::Stream;
use crate::task::{Batch, NO_TARGET, Split, Targets, Task, TaskSettings, check_batch};

/// Blank, eight symbols, recall cue.
pub const SYMBOLS: usize = 10;

/// The task. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Copying {
    /// L, blanks between the symbols and their recall.
    pub delay: usize,
    /// n, symbols to remember, which is also the number of steps of recall.
    pub length: usize,
}

impl Default for Copying {
    /// The published ten symbols, after a hundred blanks.
    fn default() -> Self {
        Copying { delay: 100, length: 10 }
    }
}

impl Copying {
    fn check(&self) -> Result<()> {
        require(self.delay < 1 << 30, "copying", "delay is below 2^30 steps", self.delay, "use less")?;
        let rule = "length is from 1 to 1000 symbols";
        require((1..=1000).contains(&self.length), "copying", rule, self.length, "10 is published, 1 has one target")
    }
}

impl TaskSettings for Copying {
    fn open(&self) -> Result<Arc<dyn Task>> {
        self.check()?;
        Ok(Arc::new(self.clone()))
    }
    fn targets(&self) -> Targets {
        if self.length == 1 { Targets::Class } else { Targets::Classes }
    }
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
        self.delay.saturating_add(self.length.saturating_mul(2))
    }
    fn warmup(&self) -> usize {
        self.steps() - self.length
    }

    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
        self.check()?;
        check_batch(self, batch)?;
        let mut out = Batch::empty(self.steps(), batch, SYMBOLS);
        out.real = batch;
        // Where in the targets the first one is.
        let first = match self.targets() {
            Targets::Class => 0,
            _ => {
                out.targets = vec![NO_TARGET; self.steps() * batch];
                self.warmup() * batch
            }
        };
        for b in 0..batch {
            let s = &mut Stream::new(seed, "copying", &[split as u64, epoch, step, b as u64]);
            for t in 0..self.steps() {
                let symbol = if t < self.length {
                    let symbol = 1 + s.below(8) as usize;
                    out.targets[first + t * batch + b] = symbol as i32;
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
        let task = Copying { delay: 5, length: 10 };
        assert_eq!((task.steps(), task.warmup(), task.targets()), (25, 15, Targets::Classes));
        let b = task.batch(Split::Train, 1, 0, 0, 400).unwrap();
        let mut seen = [0; SYMBOLS];
        for row in 0..400 {
            for t in 0..25 {
                let hot: Vec<usize> = (0..SYMBOLS).filter(|&i| b.at(t, row)[i] == 1).collect();
                let &[symbol] = hot.as_slice() else { panic!("one input a step: {hot:?}") };
                match t {
                    0..10 => assert_eq!(b.targets[(15 + t) * 400 + row], symbol as i32),
                    10..15 => assert_eq!(symbol, 0),
                    _ => assert_eq!(symbol, 9),
                }
                assert_eq!(b.targets[t * 400 + row] == NO_TARGET, t < 15);
                seen[symbol] += i32::from(t < 10);
            }
        }
        assert!(seen[0] == 0 && seen[9] == 0 && seen[1..9].iter().all(|n| (400..600).contains(n)), "{seen:?}");
        assert_eq!(b, task.batch(Split::Train, 1, 0, 0, 400).unwrap());
        for bad in [
            Copying { delay: usize::MAX, length: 10 },
            Copying { delay: 5, length: 0 },
            Copying { delay: 5, length: usize::MAX },
        ] {
            assert!(bad.batch(Split::Train, 0, 0, 0, 1).is_err() && bad.open().is_err(), "{bad:?}");
        }
        let one = Copying { delay: 5, length: 1 };
        assert_eq!((one.steps(), one.warmup(), one.targets()), (7, 6, Targets::Class));
        let b = one.batch(Split::Train, 1, 0, 0, 40).unwrap();
        assert!((0..40).all(|row| b.at(0, row)[b.targets[row] as usize] == 1) && b.targets.len() == 40);
    }
}
