//! Work shared out over the processors, without a thread pool.
//!
//! Threads are made per call: some tens of microseconds, against milliseconds of work. The results do not depend on how many
//! there are.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Below this many bytes one thread is quicker.
const WORTHWHILE: usize = 1 << 22;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(16)
}

/// Calls `work(i, chunk i)` for each chunk of `size` bytes (the last may be shorter).
pub(crate) fn chunks(data: &mut [u8], size: usize, work: impl Fn(usize, &mut [u8]) + Sync) {
    let size = size.max(1);
    let threads = threads();
    if data.len() < WORTHWHILE || threads == 1 {
        data.chunks_mut(size).enumerate().for_each(|(i, c)| work(i, c));
        return;
    }
    let queue = Mutex::new(data.chunks_mut(size).enumerate());
    let next = || queue.lock().unwrap_or_else(|e| e.into_inner()).next();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((i, chunk)) = next() {
                    work(i, chunk);
                }
            });
        }
    });
}

/// `[work(0), .., work(n - 1)]`, in order.
pub(crate) fn map<R: Send>(n: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(n));
    std::thread::scope(|scope| {
        for _ in 0..threads().min(n) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        return;
                    }
                    let result = work(i);
                    done.lock().unwrap_or_else(|e| e.into_inner()).push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, r)| r).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_once_in_its_place() {
        for len in [10_001, WORTHWHILE + 77] {
            let mut data = vec![0u8; len];
            chunks(&mut data, 1000, |i, c| c.iter_mut().for_each(|b| *b += 1 + i as u8 % 100));
            assert!(data.iter().enumerate().all(|(k, &b)| b == 1 + (k / 1000) as u8 % 100));
        }
    }

    #[test]
    fn map_keeps_the_order() {
        assert_eq!(map(1000, |i| i * i), (0..1000).map(|i| i * i).collect::<Vec<_>>());
        assert!(map(0, |i| i).is_empty());
    }
}
