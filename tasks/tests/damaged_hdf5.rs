//! Damaged HDF5 files end in an error or in spikes: no panic, no hang, no huge allocation.
//!
//! Each round changes a few bytes of a sound file, mostly in its first part, where the structure is, or cuts it short. 400 files by default;
//! `TASKS_FUZZ=10000` for more.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use tasks::rng::Stream;
use tasks::shd::{ShdFile, UNITS};

/// Virtual memory at its highest, in bytes, where the system tells.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmPeak:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn mutate(good: &[u8], s: &mut Stream) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..1 + s.below(8) {
        let end = if s.below(4) == 0 { bytes.len() } else { bytes.len().min(8192) };
        let at = s.below(end as u64) as usize;
        match s.below(5) {
            0 => bytes[at] ^= 1 << s.below(8),
            1 => bytes[at] = s.bits() as u8,
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][s.below(5) as usize],
            3 => {
                let n = (bytes.len() - at).min(8);
                bytes[at..at + n].copy_from_slice(&s.bits().to_le_bytes()[..n]);
            }
            // A piece of the structure in another place: plausible addresses and lengths that do not belong there.
            _ => {
                let from = s.below(end as u64) as usize;
                let n = (1 + s.below(16) as usize).min(end - at.max(from));
                bytes.copy_within(from..from + n, at);
            }
        }
    }
    if s.below(20) == 0 {
        bytes.truncate(s.below(bytes.len() as u64) as usize);
    }
    bytes
}

/// Reads all there is; whether the file was refused.
fn read(bytes: Vec<u8>) -> bool {
    let Ok(file) = ShdFile::from_bytes(bytes, Path::new("mutated.h5")) else {
        return true;
    };
    let bad = (0..file.len()).any(|i| file.sample(i, UNITS).is_err());
    file.keys().iter().for_each(|k| assert!(k.len() < 1 << 24));
    bad
}

#[test]
fn mutated_files_are_refused_or_read() {
    let rounds: u64 = std::env::var("TASKS_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(400);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = vec![std::fs::read(root.join("data/shd_tiny.h5")).unwrap()];
    for name in ["shd_test_h5py_gzip.h5", "shd_test_h5py_f64_i64_latest.h5"] {
        for up in ["../shared/data", "../../shared/data"] {
            seeds.extend(std::fs::read(root.join(up).join("synthetic-fixtures/shd-like").join(name)));
        }
    }
    assert!(seeds.iter().all(|s| !read(s.clone())), "the sound files are read");
    // Panics inside the library are caught, and would be printed in their hundreds.
    std::panic::set_hook(Box::new(|_| {}));
    let before = peak();
    let (mut refused, mut slowest) = (0, Duration::ZERO);
    let (send, receive) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        for round in 0..rounds {
            let s = &mut Stream::new(11, "hdf5 fuzz", &[round]);
            let seed = &seeds[s.below(seeds.len() as u64) as usize];
            let started = std::time::Instant::now();
            let bad = read(mutate(seed, s));
            if send.send((bad, started.elapsed())).is_err() {
                return;
            }
        }
    });
    for round in 0..rounds {
        match receive.recv_timeout(Duration::from_secs(60)) {
            Ok((bad, took)) => {
                refused += u64::from(bad);
                slowest = slowest.max(took);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => fail(&format!("round {round} hangs")),
            Err(mpsc::RecvTimeoutError::Disconnected) => fail(&format!("round {round} panics")),
        }
    }
    let _ = worker.join();
    let _ = std::panic::take_hook();
    println!("{rounds} files, {refused} refused, slowest {slowest:?}");
    assert!(refused > rounds / 4 && refused < rounds, "the mutations reach the structure, and some only the data");
    if let (Some(before), Some(after)) = (before, peak()) {
        println!("virtual memory grew by {} MiB", (after - before) >> 20);
        assert!(after - before < 512 << 20, "{} MiB for files of 100 KiB", (after - before) >> 20);
    }
}

fn fail(message: &str) -> ! {
    let _ = std::panic::take_hook();
    panic!("{message}; its bytes are those of mutate() with this number");
}
