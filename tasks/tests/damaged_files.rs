//! Damaged recordings and tables end in events, lines or an error that names file and reason: no panic, no hang, no memory beyond 16 times
//! the file.
//!
//! For each parser a few thousand mutations of sound files in every run of the tests, and 10^6 in `cargo test --release -p tasks --test
//! damaged_files -- --ignored --nocapture`. HDF5 has its own bench beside this one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use tasks::events::{Disorder, Reading, aedat, aer, npy};
use tasks::gesture::labels;
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

/// A parser: whether it refused, and the words if so.
type Parser = fn(&[u8]) -> Option<String>;

fn refusal<T>(result: tasks::Result<T>) -> Option<String> {
    result.err().map(|e| e.to_string())
}

/// The first problem of a table.
fn problem<T>(result: tasks::Result<(T, Vec<tasks::Error>)>) -> Option<String> {
    match result {
        Ok((_, problems)) => problems.first().map(ToString::to_string),
        Err(e) => Some(e.to_string()),
    }
}

const SORT: Reading = Reading { disorder: Disorder::Sort, ..Reading::GESTURE };

fn numpy(bytes: &[u8]) -> Option<String> {
    refusal(npy::decode(bytes, Path::new("mutated"), &SORT))
}
fn aedat_packets(bytes: &[u8]) -> Option<String> {
    refusal(aedat::decode(bytes, Path::new("mutated"), &Reading { disorder: Disorder::Sort, ..Reading::GESTURES }))
}
fn bs2(bytes: &[u8]) -> Option<String> {
    refusal(aer::decode(bytes, Path::new("mutated"), &SORT))
}
fn nmnist(bytes: &[u8]) -> Option<String> {
    refusal(aer::decode(bytes, Path::new("mutated"), &Reading::NMNIST))
}
fn csv_of_gestures(bytes: &[u8]) -> Option<String> {
    problem(aedat::trials(bytes, Path::new("mutated")))
}
fn csv_of_clips(bytes: &[u8]) -> Option<String> {
    problem(labels(bytes, Path::new("mutated")))
}

/// 40-bit events of a gesture of 4 s.
fn aer_file(side: u32) -> Vec<u8> {
    let event = |i: u32| {
        let t = i * 20_000 * side / 128;
        [
            (i % side) as u8,
            (i * 7 % side) as u8,
            ((i % 2) << 7) as u8 | ((t >> 16) as u8 & 0x7f),
            (t >> 8) as u8,
            t as u8,
        ]
    };
    (0..200).flat_map(event).collect()
}

fn aedat_file() -> Vec<u8> {
    let mut bytes = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n".to_vec();
    for packet in 0..3u32 {
        let mut head = [0u8; 28];
        head[0] = 1;
        head[4] = 8;
        [16, 20, 24].iter().for_each(|&i| head[i] = 50);
        bytes.extend(head);
        for i in 0..50 {
            let n = packet * 50 + i;
            bytes.extend(((n % 128) << 17 | (n * 7 % 128) << 2 | (n % 2) << 1 | 1).to_le_bytes());
            bytes.extend((n * 20_000).to_le_bytes());
        }
    }
    bytes
}

fn npy_file(descr: &str, shape: &str, data: Vec<u8>) -> Vec<u8> {
    let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
    let header = format!("{header:117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    [bytes, header.into_bytes(), data].concat()
}

fn npy_files() -> Vec<Vec<u8>> {
    let event = |i: u32| [i % 128, i * 7 % 128, i % 2, i * 20];
    let plain: Vec<u8> = (0..200).flat_map(event).flat_map(|v| f64::from(v).to_le_bytes()).collect();
    let bytes: Vec<u8> = (0..200).flat_map(event).map(|v| (v % 256) as u8).collect();
    let named = (0..200).flat_map(|i| {
        let [x, y, p, t] = event(i);
        [&u64::from(t * 1000).to_le_bytes()[..], &[x as u8, 0, y as u8, 0, p as u8]].concat()
    });
    let descr = "[('t', '<i8'), ('x', '<i2'), ('y', '<i2'), ('p', '|b1')]";
    vec![
        npy_file("'<f8'", "(200, 4)", plain),
        npy_file("'|u1'", "(200, 4)", bytes),
        npy_file(descr, "(200,)", named.collect()),
    ]
}

fn gestures_csv() -> Vec<Vec<u8>> {
    let rows: String = (1..12).map(|c| format!("{c},{},{}\n", c * 1_000_000, c * 1_000_000 + 900_000)).collect();
    vec![format!("class,startTime_usec,endTime_usec\n{rows}").into_bytes(), format!("\u{feff}{rows}").into_bytes()]
}

fn clips_csv() -> Vec<Vec<u8>> {
    let rows: String = (0..11).map(|c| format!("\"clip {c}, \"\"a\"\".bs2\";{c}\r\n")).collect();
    vec![format!("file;class\r\n{rows}").into_bytes(), b"a,0\n".repeat(100)]
}

/// Changed bytes, words and lengths; pieces copied, put in, cut out; for text its own signs.
fn mutate(good: &[u8], s: &mut Stream) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..1 + s.below(3) {
        // Half of the changes go to the first bytes, where headers are.
        let end = if s.below(2) == 0 { bytes.len() } else { bytes.len().min(160) };
        if end == 0 {
            break;
        }
        let at = s.below(end as u64) as usize;
        match s.below(9) {
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

/// Tries `rounds` mutations of sound files.
fn bench(name: &'static str, parser: Parser, seeds: Vec<Vec<u8>>, rounds: u64) {
    assert!(seeds.iter().all(|s| parser(s).is_none()), "{name}: the sound files are read: {:?}", parser(&seeds[0]));
    let current = Arc::new(AtomicU64::new(0));
    let (send, receive) = sync_channel(1);
    let round = current.clone();
    std::thread::spawn(move || {
        let (mut refused, mut slowest, mut greediest) = (0u64, Duration::ZERO, 0.0f64);
        for i in 0..rounds {
            round.store(i, Relaxed);
            let s = &mut Stream::new(12, name, &[i]);
            let bytes = mutate(&seeds[s.below(seeds.len() as u64) as usize], s);
            let (before, started) = (NOW.get() - bytes.capacity(), Instant::now());
            MOST.set(NOW.get());
            let words = parser(&bytes);
            let most = MOST.get() - before;
            // Two pages for what any file takes: names, the message, for tables the first ten.
            assert!(
                most <= 16 * bytes.len() + 8192,
                "round {i}: {most} bytes of memory for {}; {words:?}",
                bytes.len()
            );
            if let Some(words) = &words {
                let reason = words.strip_prefix("mutated: ").unwrap_or_default();
                assert!(reason.contains(": ") && reason.contains("; "), "round {i}: {words}");
            }
            refused += u64::from(words.is_some());
            slowest = slowest.max(started.elapsed());
            greediest = greediest.max(if bytes.len() > 2048 { most as f64 / bytes.len() as f64 } else { 0.0 });
            if i % 1000 == 999 && send.send(None).is_err() {
                return;
            }
        }
        let _ = send.send(Some((refused, slowest, greediest)));
    });
    // A thousand rounds take some milliseconds.
    loop {
        match receive.recv_timeout(Duration::from_secs(20)) {
            Ok(None) => {}
            Ok(Some((refused, slowest, greediest))) => {
                println!(
                    "{name}: {rounds} files, {refused} refused, slowest {slowest:?}, at most {greediest:.1} x the file"
                );
                assert!(refused > rounds / 10 && refused < rounds, "{name}: {refused} of {rounds} refused");
                return;
            }
            Err(RecvTimeoutError::Timeout) => panic!("{name}: round {} hangs", current.load(Relaxed)),
            Err(RecvTimeoutError::Disconnected) => panic!("{name}: round {} panics", current.load(Relaxed)),
        }
    }
}

fn all(rounds: u64) {
    bench("npy", numpy, npy_files(), rounds);
    bench("aedat", aedat_packets, vec![aedat_file()], rounds);
    bench("bs2", bs2, vec![aer_file(128)], rounds);
    bench("nmnist", nmnist, vec![aer_file(34)], rounds);
    bench("csv of gestures", csv_of_gestures, gestures_csv(), rounds);
    bench("csv of clips", csv_of_clips, clips_csv(), rounds);
}

#[test]
fn mutated_files_are_refused_or_read() {
    all(4000);
}

#[test]
#[ignore = "10^6 mutations of each parser take minutes"]
fn a_million_mutated_files_of_each_parser() {
    all(1_000_000);
}
