//! Batches made ahead of time, on other threads, in order.
//!
//! Workers take the next position, make its batch (a pure function, so it does not matter which thread does it), and put it on
//! a shelf of at most `ahead` batches; the consumer takes them strictly in order. One lock guards the shelf. An error or a
//! panic in a worker takes the place of its batch on the shelf, so that the consumer meets it where it belongs, after all
//! the good batches before it; then the loader ends. Dropping the loader lets the workers finish the batch in hand and
//! joins them.
//!
//! ```
//! # use tasks::{Loader, LoaderSettings, RandomSpikes, Split};
//! # use std::sync::Arc;
//! let task = Arc::new(RandomSpikes { steps: 3, n_in: 20, n_out: 2, rate: 0.1 });
//! let settings = LoaderSettings { batch: 4, epoch_steps: Some(5), epochs: Some(2), ..LoaderSettings::new(Split::Train, 1) };
//! for item in Loader::new(task, settings)? {
//!     let (position, batch) = item?;
//!     println!("epoch {} step {}: {:?}", position.epoch, position.step, batch.targets);
//! }
//! # Ok::<(), tasks::Error>(())
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crate::task::{At, Batch, Rows, Split, Task};
use crate::{Error, Result};

/// Where a batch stands in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Passes completed before it.
    pub epoch: u64,
    /// Batches before it in its epoch.
    pub step: u64,
}

/// Most worker threads: more would only wait for each other.
const MOST_THREADS: usize = 256;

/// What to load.
#[derive(Clone, Copy, Debug)]
pub struct LoaderSettings {
    /// The split.
    pub split: Split,
    /// The seed of the run.
    pub seed: u64,
    /// Samples per batch.
    pub batch: usize,
    /// The rows of each batch that are loaded, where others load the rest; `None`: all.
    pub rows: Option<Rows>,
    /// The first position; resume here.
    pub start: Position,
    /// Batches in an epoch. For a set at most its own number, which is also what `None` stands for; for a generator `None`
    /// makes one endless epoch.
    pub epoch_steps: Option<u64>,
    /// End before this epoch; `None`: never.
    pub epochs: Option<u64>,
    /// Batches made ahead, at least 1. Each takes T x B x n_in bytes.
    pub ahead: usize,
    /// Worker threads, 1 to 256.
    pub threads: usize,
}

impl LoaderSettings {
    /// From the start, without end, batches of 128, two threads and four batches ahead.
    pub fn new(split: Split, seed: u64) -> Self {
        LoaderSettings {
            split,
            seed,
            batch: 128,
            rows: None,
            start: Position::default(),
            epoch_steps: None,
            epochs: None,
            ahead: 4,
            threads: 2,
        }
    }
}

struct Shelf {
    /// Batches handed out to workers so far.
    taken: u64,
    /// Batches given to the consumer so far.
    yielded: u64,
    ready: BTreeMap<u64, Result<Batch>>,
    stop: bool,
}

struct Shared {
    task: Arc<dyn Task>,
    settings: LoaderSettings,
    /// Batches per epoch, `None` if endless.
    epoch_steps: Option<u64>,
    /// Batches in all, `None` if endless.
    total: Option<u64>,
    shelf: Mutex<Shelf>,
    room: Condvar,
    arrived: Condvar,
}

/// An iterator over batches in order. See the [module](self).
pub struct Loader {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts the workers. Errors: zero batch, threads or ahead, a start beyond the end of its epoch, a split that cannot be
    /// read or gives no batch at all.
    pub fn new(task: Arc<dyn Task>, settings: LoaderSettings) -> Result<Self> {
        let s = &settings;
        let bad = |rule, got: String, next: &str| Err(Error::Setting { task: "loader", rule, got, next: next.into() });
        if s.batch == 0 || s.ahead == 0 || s.threads == 0 {
            let got = format!("batch {}, ahead {}, threads {}", s.batch, s.ahead, s.threads);
            return bad("batch, ahead and threads are at least 1", got, "use 128, 4 and 2 if in doubt");
        }
        if s.threads > MOST_THREADS {
            let got = format!("{} threads", s.threads);
            return bad("at most 256 threads make batches", got, "as many as there are processors are enough");
        }
        let epoch_steps = match (task.batches(s.split, s.batch)?, s.epoch_steps) {
            (Some(all), Some(wanted)) => Some(all.min(wanted)),
            (all, wanted) => all.or(wanted),
        };
        if epoch_steps == Some(0) {
            let got = format!("{:?} samples in the {} split, batches of {}", task.samples(s.split)?, s.split, s.batch);
            return bad("an epoch has at least one batch", got, "choose a smaller batch, or keep the last batch");
        }
        if epoch_steps.is_some_and(|n| s.start.step >= n) {
            let got = format!("step {} of {}", s.start.step, epoch_steps.unwrap_or(0));
            return bad("the run starts within an epoch", got, "start at step 0 of the next epoch");
        }
        let total = match (epoch_steps, s.epochs) {
            (Some(n), Some(epochs)) => {
                Some((epochs.saturating_sub(s.start.epoch)).saturating_mul(n).saturating_sub(s.start.step))
            }
            _ => None,
        };
        let shared = Arc::new(Shared {
            task,
            settings,
            epoch_steps,
            total,
            shelf: Mutex::new(Shelf { taken: 0, yielded: 0, ready: BTreeMap::new(), stop: false }),
            room: Condvar::new(),
            arrived: Condvar::new(),
        });
        // The workers belong to the loader from the first on, so that an error here stops those already started.
        let mut loader = Loader { shared, workers: Vec::new() };
        for i in 0..settings.threads {
            let shared = loader.shared.clone();
            let worker = std::thread::Builder::new().name(format!("loader-{i}")).spawn(move || shared.work());
            match worker {
                Ok(w) => loader.workers.push(w),
                Err(e) => {
                    return Err(Error::Loader {
                        rule: "a thread is needed for each worker",
                        got: e.to_string(),
                        next: "use fewer threads",
                    });
                }
            }
        }
        Ok(loader)
    }

    /// Batches in an epoch; `None` if endless.
    pub fn epoch_steps(&self) -> Option<u64> {
        self.shared.epoch_steps
    }

    /// Batches still to come; `None` if endless.
    pub fn remaining(&self) -> Option<u64> {
        self.shared.total.map(|t| t - self.shared.lock().yielded)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        // No code that can panic runs under the lock, so a poisoned one is whole.
        self.shelf.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn position(&self, index: u64) -> Position {
        let Position { epoch, step } = self.settings.start;
        let step = step.saturating_add(index);
        match self.epoch_steps {
            Some(n) => Position { epoch: epoch.saturating_add(step / n), step: step % n },
            None => Position { epoch, step },
        }
    }

    fn work(&self) {
        loop {
            let mut shelf = self.lock();
            while !shelf.stop && shelf.taken >= shelf.yielded + self.settings.ahead as u64 {
                shelf = self.room.wait(shelf).unwrap_or_else(|e| e.into_inner());
            }
            if shelf.stop || self.total.is_some_and(|t| shelf.taken >= t) {
                return;
            }
            let index = shelf.taken;
            shelf.taken += 1;
            drop(shelf);
            let (s, at) = (&self.settings, self.position(index));
            let whole = At::whole(s.split, s.seed, at.epoch, at.step, s.batch);
            let wanted = At { rows: s.rows.unwrap_or(whole.rows), ..whole };
            let made = catch_unwind(AssertUnwindSafe(|| self.task.part(wanted)));
            let made = made.unwrap_or_else(|panic| {
                let words = panic.downcast_ref::<String>().map(String::as_str);
                let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                Err(Error::Loader {
                    rule: "a task answers with a batch or an error",
                    got: format!("{} panicked at epoch {} step {}: {words}", self.task.name(), at.epoch, at.step),
                    next: "this is a defect of the task, please report it",
                })
            });
            self.lock().ready.insert(index, made);
            self.arrived.notify_all();
        }
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.room.notify_all();
    }
}

impl Iterator for Loader {
    type Item = Result<(Position, Batch)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut shelf = self.shared.lock();
        loop {
            let index = shelf.yielded;
            if shelf.stop {
                return None;
            }
            if let Some(made) = shelf.ready.remove(&index) {
                shelf.yielded += 1;
                drop(shelf);
                self.shared.room.notify_all();
                if made.is_err() {
                    self.shared.stop();
                }
                return Some(made.map(|batch| (self.shared.position(index), batch)));
            }
            if self.shared.total.is_some_and(|t| index >= t) {
                return None;
            }
            shelf = self.shared.arrived.wait(shelf).unwrap_or_else(|e| e.into_inner());
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of tasks; nothing is left to report here.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// A task of `samples` samples whose batch holds its position; batches of even steps are slow. Step 7 of epoch `bad` fails.
    struct Probe {
        samples: Option<u64>,
        made: AtomicUsize,
        bad: Option<(u64, bool)>,
    }

    impl Task for Probe {
        fn name(&self) -> &str {
            "probe"
        }
        fn n_in(&self) -> usize {
            1
        }
        fn n_out(&self) -> usize {
            1
        }
        fn steps(&self) -> usize {
            1
        }
        fn samples(&self, _: Split) -> Result<Option<u64>> {
            Ok(self.samples)
        }
        fn batches(&self, _: Split, batch: usize) -> Result<Option<u64>> {
            Ok(self.samples.map(|n| n / batch as u64))
        }
        fn batch(&self, _: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
            self.made.fetch_add(1, Ordering::SeqCst);
            if step.is_multiple_of(2) {
                std::thread::sleep(Duration::from_millis(3));
            }
            match self.bad {
                Some((e, false)) if (e, 7) == (epoch, step) => {
                    return Err(Error::BeyondEpoch {
                        task: "probe".into(),
                        split: Split::Train,
                        batches: 7,
                        batch,
                        step,
                    });
                }
                Some((e, true)) if (e, 7) == (epoch, step) => panic!("probe broke"),
                _ => {}
            }
            let mut b = Batch::empty(1, batch, 1);
            b.ids = vec![seed * 1_000_000 + epoch * 1000 + step; batch];
            Ok(b)
        }
    }

    fn probe(samples: Option<u64>, bad: Option<(u64, bool)>) -> Arc<Probe> {
        Arc::new(Probe { samples, made: AtomicUsize::new(0), bad })
    }

    fn settings() -> LoaderSettings {
        LoaderSettings { batch: 2, threads: 3, ahead: 4, ..LoaderSettings::new(Split::Train, 5) }
    }

    #[test]
    fn hosts_load_their_rows() {
        let task = crate::RandomSpikes { steps: 3, n_in: 20, n_out: 2, rate: 0.5 };
        let set = crate::GestureSet { train: 24, ..crate::GestureSet::default() };
        let tasks: [Arc<dyn Task>; 2] = [Arc::new(task), crate::TaskSettings::open(&set).unwrap()];
        for task in tasks {
            let load = |rows| {
                let settings = LoaderSettings { batch: 8, rows, epoch_steps: Some(2), epochs: Some(1), ..settings() };
                Loader::new(task.clone(), settings).unwrap().map(|b| b.unwrap().1).collect::<Vec<_>>()
            };
            let whole = load(None);
            assert!(whole[0].spikes(3) > 0 && whole[0].inputs != whole[1].inputs);
            for rows in [Rows { first: 0, count: 3 }, Rows { first: 3, count: 5 }] {
                let expected: Vec<Batch> = whole.iter().map(|b| b.part(rows)).collect();
                assert_eq!(load(Some(rows)), expected, "{} {rows:?}", task.name());
                assert_eq!(expected[1].at(2, 1), whole[1].at(2, rows.first + 1));
            }
        }
    }

    #[test]
    fn strictly_in_order_across_epochs() {
        let loader = Loader::new(probe(Some(21), None), LoaderSettings { epochs: Some(3), ..settings() }).unwrap();
        assert_eq!((loader.epoch_steps(), loader.remaining()), (Some(10), Some(30)));
        let got: Vec<_> = loader.map(|i| i.unwrap()).map(|(p, b)| (p.epoch, p.step, b.ids[0])).collect();
        let want: Vec<_> = (0..3).flat_map(|e| (0..10).map(move |s| (e, s, 5_000_000 + e * 1000 + s))).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn resumes_anywhere() {
        let s = LoaderSettings { epochs: Some(3), start: Position { epoch: 1, step: 8 }, ..settings() };
        let got: Vec<_> =
            Loader::new(probe(Some(20), None), s).unwrap().map(|i| i.unwrap().1.ids[0] % 1_000_000).collect();
        let want: Vec<_> = [1008, 1009].into_iter().chain(2000..2010).collect();
        assert_eq!(got, want);
        let over = LoaderSettings { start: Position { epoch: 0, step: 10 }, ..settings() };
        assert!(Loader::new(probe(Some(20), None), over).is_err());
    }

    #[test]
    fn the_queue_is_bounded_and_a_drop_ends_the_workers() {
        let task = probe(None, None);
        let mut loader = Loader::new(task.clone(), settings()).unwrap();
        assert_eq!(loader.next().unwrap().unwrap().0, Position { epoch: 0, step: 0 });
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(task.made.load(Ordering::SeqCst), 5, "1 taken and 4 ahead");
        drop(loader);
        let after = task.made.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(task.made.load(Ordering::SeqCst), after);
        assert_eq!(Arc::strong_count(&task), 1, "no worker holds the task");
    }

    #[test]
    fn errors_come_in_their_place_and_end_the_loader() {
        for panics in [false, true] {
            let mut loader = Loader::new(probe(None, Some((0, panics))), settings()).unwrap();
            for step in 0..7 {
                assert_eq!(loader.next().unwrap().unwrap().0.step, step);
            }
            let message = loader.next().unwrap().unwrap_err().to_string();
            assert!(message.contains(if panics { "probe broke" } else { "step 7" }), "{message}");
            assert!(loader.next().is_none());
        }
    }

    #[test]
    fn virtual_epochs_of_a_generator() {
        let s = LoaderSettings { epoch_steps: Some(3), epochs: Some(2), ..settings() };
        let got: Vec<_> = Loader::new(probe(None, None), s).unwrap().map(|i| i.unwrap().0).collect();
        assert_eq!(got.len(), 6);
        assert_eq!(got[5], Position { epoch: 1, step: 2 });
        assert!(Loader::new(probe(Some(1), None), settings()).is_err(), "no whole batch");
        assert!(Loader::new(probe(None, None), LoaderSettings { threads: 0, ..settings() }).is_err());
        assert!(Loader::new(probe(None, None), LoaderSettings { threads: usize::MAX, ..settings() }).is_err());
    }
}
