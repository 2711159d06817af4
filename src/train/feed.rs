//! Whether the data keep up with the devices.

use std::{
    fmt,
    time::{Duration, Instant},
};

use tasks::{Batch, Position};

use crate::report::bytes;

/// What was loaded while a run was trained.
#[derive(Clone, Copy, Debug, Default)]
pub struct Supply {
    /// Batches.
    pub batches: u64,
    /// Bytes of their inputs, of the rows of this process.
    pub bytes: u64,
    /// Time for which a batch was waited for. The first one is left out: nothing could load ahead of it.
    pub waited: Duration,
    /// Time for everything else.
    pub worked: Duration,
}

impl fmt::Display for Supply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |time: Duration| {
            let rate = self.bytes as f64 / time.as_secs_f64().max(1e-9);
            bytes(rate as u64)
        };
        let all = self.waited + self.worked;
        let share = 100.0 * self.waited.as_secs_f64() / all.as_secs_f64().max(1e-9);
        write!(
            f,
            "input: {} a batch; {}/s needed, {}/s delivered, {share:.1} % of the time waited for",
            bytes(self.bytes / self.batches.max(1)),
            rate(self.worked),
            rate(all)
        )
    }
}

/// An iterator over batches that takes the time.
pub(super) struct Feed<I> {
    batches: I,
    supply: Supply,
    given: Option<Instant>,
}

impl<I> Feed<I> {
    pub fn new(batches: I) -> Feed<I> {
        Feed { batches, supply: Supply::default(), given: None }
    }

    /// What was loaded so far.
    pub fn supply(&self) -> Supply {
        let since = self.given.map_or(Duration::ZERO, |given| given.elapsed());
        Supply { worked: self.supply.worked + since, ..self.supply }
    }
}

impl<I: Iterator<Item = tasks::Result<(Position, Batch)>>> Iterator for Feed<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let asked = Instant::now();
        let item = self.batches.next();
        if let Some(given) = self.given {
            self.supply.worked += asked - given;
            self.supply.waited += asked.elapsed();
        }
        if let Some(Ok((_, batch))) = &item {
            self.supply.batches += 1;
            self.supply.bytes += batch.inputs.len() as u64;
        }
        self.given = Some(Instant::now());
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_and_working_are_told_apart() {
        let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
        let batches = (0..4u64).map(|step| {
            pause(20);
            Ok((Position { epoch: 0, step }, Batch::empty(2, 3, 5)))
        });
        let mut feed = Feed::new(batches);
        for item in &mut feed {
            assert_eq!(item.unwrap().1.batch, 3);
            pause(10);
        }
        let Supply { batches, bytes, waited, worked } = feed.supply();
        assert_eq!((batches, bytes), (4, 4 * 30));
        // Three batches after the first.
        assert!(waited >= Duration::from_millis(60) && worked >= Duration::from_millis(40), "{waited:?} {worked:?}");
        let said =
            Supply { batches: 2, bytes: 4 << 20, waited: Duration::from_secs(1), worked: Duration::from_secs(3) };
        assert_eq!(
            said.to_string(),
            "input: 2.00 MiB a batch; 1.33 MiB/s needed, 1.00 MiB/s delivered, 25.0 % of the time waited for"
        );
    }
}
