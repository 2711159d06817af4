//! Damaged HDF5 files end in spikes or in an error that names file and reason: no panic, no hang, no memory beyond 16 times the file.
//!
//! 10 000 files by default, `TASKS_FUZZ` for another number: sound files with bytes changed, mostly in the structure, with the end cut
//! off, with blocks swapped, with lengths and addresses blown up. Every allocation of this program is counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

use tasks::rng::Stream;
use tasks::shd::{ShdFile, UNITS};

/// The system's allocator with its bytes counted: those in use, and the most since the last [`Counting::restart`].
struct Counting {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Counting {
    fn restart(&self) -> usize {
        let now = self.now.load(Relaxed);
        self.most.store(now, Relaxed);
        now
    }
}

// SAFETY: every call goes to `System` as it came; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = self.now.fetch_add(layout.size(), Relaxed) + layout.size();
        self.most.fetch_max(now, Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.now.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting { now: AtomicUsize::new(0), most: AtomicUsize::new(0) };

fn mutate(good: &[u8], s: &mut Stream) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..1 + s.below(8) {
        let end = if s.below(4) == 0 { bytes.len() } else { bytes.len().min(8192) };
        let at = s.below(end as u64) as usize;
        let eight = at..(at + 8).min(bytes.len());
        match s.below(7) {
            0 => bytes[at] ^= 1 << s.below(8),
            1 => bytes[at] = s.bits() as u8,
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][s.below(5) as usize],
            3 => {
                let n = eight.len();
                bytes[eight].copy_from_slice(&s.bits().to_le_bytes()[..n]);
            }
            // A piece of the structure in another place: plausible addresses and lengths that do not belong there.
            4 => {
                let from = s.below(end as u64) as usize;
                let n = (1 + s.below(16) as usize).min(end - at.max(from));
                bytes.copy_within(from..from + n, at);
            }
            5 => {
                let n = 1 + s.below(512) as usize;
                let other = s.below(end as u64) as usize;
                let (a, b) = (at.min(other), at.max(other));
                if a + n <= b && b + n <= bytes.len() {
                    let (front, back) = bytes.split_at_mut(b);
                    front[a..a + n].swap_with_slice(&mut back[..n]);
                }
            }
            // A number made huge: the next small one, of 2, 4 or 8 bytes, times a power of two.
            _ => {
                let found = bytes[at..end].iter().position(|&b| b != 0).map_or(at, |i| at + i);
                let width = [2, 4, 8][s.below(3) as usize];
                if let Some(field) = bytes.get_mut(found..found + width) {
                    let mut word = [0; 8];
                    word[..width].copy_from_slice(field);
                    let blown = u64::from_le_bytes(word) << s.below(8 * width as u64);
                    field.copy_from_slice(&blown.to_le_bytes()[..width]);
                }
            }
        }
    }
    if s.below(10) == 0 {
        bytes.truncate(s.below(bytes.len() as u64) as usize);
        // A file that is read takes no more than its length.
        bytes.shrink_to_fit();
    }
    bytes
}

/// Reads all there is; the words of the refusal.
fn read(bytes: Vec<u8>) -> Result<(), String> {
    let file = ShdFile::from_bytes(bytes, Path::new("mutated.h5")).map_err(|e| e.to_string())?;
    for i in 0..file.len() {
        file.sample(i, UNITS).map_err(|e| e.to_string())?;
    }
    Ok(())
}

struct Outcome {
    refusal: Option<String>,
    took: Duration,
    /// Bytes of the file, and the most in use while it was read, its own included.
    bytes: (usize, usize),
}

#[test]
fn mutated_files_are_refused_or_read() {
    let rounds: u64 = std::env::var("TASKS_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(10_000);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = vec![
        std::fs::read(root.join("data/shd_tiny.h5")).unwrap(),
        std::fs::read(root.join("data/shd_tiny_gzip.h5")).unwrap(),
    ];
    for name in ["shd_train.h5", "shd_test_h5py_f64_i64_latest.h5"] {
        let up = ["../shared/data", "../../shared/data"].map(|up| root.join(up).join("synthetic-fixtures/shd-like"));
        match up.iter().find_map(|dir| std::fs::read(dir.join(name)).ok()) {
            Some(bytes) => seeds.push(bytes),
            None => println!("without {name}: shared/data/synthetic-fixtures is not here"),
        }
    }
    assert!(seeds.iter().all(|s| read(s.clone()).is_ok()), "the sound files are read");
    // Panics inside the library are caught, and would be printed in their hundreds.
    std::panic::set_hook(Box::new(|_| {}));
    let (send, receive) = mpsc::sync_channel(0);
    let worker = std::thread::spawn(move || {
        for round in 0..rounds {
            let s = &mut Stream::new(11, "hdf5 fuzz", &[round]);
            let bytes = mutate(&seeds[s.below(seeds.len() as u64) as usize], s);
            let (size, started) = (bytes.len(), std::time::Instant::now());
            let before = MEMORY.restart() - bytes.capacity();
            let refusal = read(bytes).err();
            let most = MEMORY.most.load(Relaxed) - before;
            if send.send(Outcome { refusal, took: started.elapsed(), bytes: (size, most) }).is_err() {
                return;
            }
        }
    });
    let (mut refused, mut slowest, mut greediest) = (0, Duration::ZERO, 0.0f64);
    for round in 0..rounds {
        let Outcome { refusal, took, bytes: (size, most) } = match receive.recv_timeout(Duration::from_secs(20)) {
            Ok(outcome) => outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => fail(round, "it hangs"),
            Err(mpsc::RecvTimeoutError::Disconnected) => fail(round, "it panics"),
        };
        if let Some(words) = &refusal {
            let reason = words.strip_prefix("mutated.h5: ").unwrap_or_else(|| fail(round, words));
            // Rule, finding, remedy.
            if reason.split(": ").nth(1).is_none_or(|rest| rest.len() < 10) {
                fail(round, words);
            }
        }
        // A page for what any file takes: names, tables, the message.
        if most > 16 * size + 4096 {
            fail(round, &format!("{most} bytes of memory for a file of {size}; {refusal:?}"));
        }
        refused += u64::from(refusal.is_some());
        slowest = slowest.max(took);
        greediest = greediest.max(if size > 4096 { most as f64 / size as f64 } else { 0.0 });
    }
    let _ = worker.join();
    let _ = std::panic::take_hook();
    println!("{rounds} files, {refused} refused, slowest {slowest:?}, at most {greediest:.1} times the file in memory");
    assert!(refused > rounds / 4 && refused < rounds, "the mutations reach the structure, and some only the data");
}

fn fail(round: u64, message: &str) -> ! {
    let _ = std::panic::take_hook();
    panic!("round {round}: {message}; its bytes are those of mutate() with this number");
}
