//! What the tests of damaged files share: mutations, and a bench that counts panics, time and memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use tasks::rng::Stream;

/// The system's allocator with the bytes of each thread counted, as several parsers are tried at once.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to `System` as it came; only numbers are kept beside it, in cells that need no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.get().wrapping_add(layout.size());
        NOW.set(now);
        MOST.set(MOST.get().max(now));
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // What another thread took may be given back here.
        NOW.set(NOW.get().saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting;

const EXTREMES: [&str; 10] =
    ["0", "-1", "nan", "-inf", "1e308", "1e-308", "1000000000000", "9223372036854775807", "18446744073709551615", ""];

/// Changed bytes, words, numbers and lengths; pieces copied, put in, cut out; for text its own signs.
fn mutate(good: &[u8], s: &mut Stream) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..1 + s.below(3) {
        // Half of the changes go to the first bytes, where headers are.
        let end = if s.below(2) == 0 { bytes.len() } else { bytes.len().min(160) };
        if end == 0 {
            break;
        }
        let at = s.below(end as u64) as usize;
        match s.below(10) {
            // A number of a text becomes one that nobody means.
            9 => {
                let digit = |b: &u8| b.is_ascii_digit();
                let from = bytes[at..].iter().position(digit).map_or(bytes.len(), |i| at + i);
                let to = bytes[from..].iter().position(|b| !digit(b)).map_or(bytes.len(), |i| from + i);
                let number = EXTREMES[s.below(EXTREMES.len() as u64) as usize];
                bytes.splice(from..to, number.bytes());
            }
            0 => bytes[at] ^= 1 << s.below(8),
            1 => bytes[at] = s.bits() as u8,
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, 240][s.below(6) as usize],
            3 => {
                let n = (bytes.len() - at).min(8);
                bytes[at..at + n].copy_from_slice(&s.bits().to_le_bytes()[..n]);
            }
            4 => bytes[at] = b"\"',;\t\n\r([{}]) 019-+.eE#"[s.below(23) as usize],
            5 => {
                let n = (1 + s.below(64) as usize).min(bytes.len() - at);
                let piece = bytes[at..at + n].to_vec();
                let to = s.below(bytes.len() as u64 + 1) as usize;
                bytes.splice(to..to, piece);
            }
            6 => {
                let n = (1 + s.below(64) as usize).min(bytes.len() - at);
                bytes.drain(at..at + n);
            }
            7 => {
                let sign = b"\n,(9"[s.below(4) as usize];
                bytes.splice(at..at, std::iter::repeat_n(sign, 1 + s.below(300) as usize));
            }
            _ => bytes.truncate(at),
        }
    }
    bytes.shrink_to_fit();
    bytes
}

/// Reads a file; the words of the refusal.
type Parse = dyn Fn(&[u8]) -> Option<String> + Send;

/// A parser, and sound files for it.
pub struct Parser {
    /// For messages; it also decides the mutations.
    pub name: &'static str,
    /// It may keep what it needs.
    pub parse: Box<Parse>,
    /// Files that are not refused.
    pub sound: Vec<Vec<u8>>,
    /// Bytes that any file may take, however small: names, tables, the message.
    pub spare: usize,
    /// Words that a refusal holds: the borders of rule, finding and remedy.
    pub borders: &'static [&'static str],
}

/// Tries `rounds` mutations of sound files. No round panics or takes longer than 20 s, and none takes more than 16 times its file.
pub fn bench(parser: Parser, rounds: u64) {
    let Parser { name, parse, sound, spare, borders } = parser;
    for file in &sound {
        assert_eq!(parse(file), None, "{name}: the sound files are read");
    }
    let current = Arc::new(AtomicU64::new(0));
    let (send, receive) = sync_channel(1);
    let round = current.clone();
    std::thread::spawn(move || {
        let (mut refused, mut slowest, mut greediest, mut most_bytes) = (0u64, Duration::ZERO, 0.0f64, 0);
        for i in 0..rounds {
            round.store(i, Relaxed);
            let s = &mut Stream::new(12, name, &[i]);
            let bytes = mutate(&sound[s.below(sound.len() as u64) as usize], s);
            let (before, started) = (NOW.get() - bytes.capacity(), Instant::now());
            MOST.set(NOW.get());
            let words = parse(&bytes);
            let most = MOST.get() - before;
            assert!(
                most <= 16 * bytes.len() + spare,
                "round {i}: {most} bytes of memory for {}; {words:?}",
                bytes.len()
            );
            if let Some(words) = &words {
                assert!(borders.iter().all(|b| words.contains(b)), "round {i}: {words}");
            }
            refused += u64::from(words.is_some());
            slowest = slowest.max(started.elapsed());
            most_bytes = most_bytes.max(most);
            greediest = greediest.max(if bytes.len() > 2048 { most as f64 / bytes.len() as f64 } else { 0.0 });
            if i % 1000 == 999 && send.send(None).is_err() {
                return;
            }
        }
        let _ = send.send(Some((refused, slowest, greediest, most_bytes)));
    });
    // A thousand rounds take less than a second.
    loop {
        match receive.recv_timeout(Duration::from_secs(20)) {
            Ok(None) => {}
            Ok(Some((refused, slowest, greediest, most))) => {
                println!(
                    "{name}: {rounds} files, {refused} refused, slowest {slowest:?}, at most {most} bytes, {greediest:.1} x the file"
                );
                assert!(refused > rounds / 10 && refused < rounds, "{name}: {refused} of {rounds} refused");
                return;
            }
            Err(RecvTimeoutError::Timeout) => panic!("{name}: round {} hangs", current.load(Relaxed)),
            Err(RecvTimeoutError::Disconnected) => panic!("{name}: round {} panics", current.load(Relaxed)),
        }
    }
}
