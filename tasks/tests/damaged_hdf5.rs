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
    // Times in another unit are refused, in sound files too; what matters here is that it ends.
    let _ = file.in_unit(None);
    Ok(())
}

/// Sound files of every form that is read.
fn seeds() -> Vec<Vec<u8>> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let of = |dir: &Path| -> Vec<Vec<u8>> {
        let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|p| {
            p.extension().is_some_and(|e| e == "h5") && !p.file_name().unwrap().to_string_lossy().starts_with("refused")
        });
        // The order of a folder is that of the file system, and the round's number picks the file.
        paths.sort();
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
    };
    let all = [of(&data), of(&data.join("hdf5_forms"))].concat();
    assert_eq!(all.len(), 17);
    all
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
    let seeds = seeds();
    assert!(seeds.iter().all(|s| read(s.clone()).is_ok()), "the sound files are read");
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
    println!("{rounds} files, {refused} refused, slowest {slowest:?}, at most {greediest:.1} times the file in memory");
    assert!(refused > rounds / 4 && refused < rounds, "the mutations reach the structure, and some only the data");
}

fn fail(round: u64, message: &str) -> ! {
    panic!("round {round}: {message}; its bytes are those of mutate() with this number");
}
