//! Damaged recordings and tables end in events, lines or an error that names file and reason: no panic, no hang, no memory beyond 16 times
//! the file.
//!
//! For each parser a few thousand mutations of sound files in every run of the tests, and 10^6 in `cargo test --release -p tasks --test
//! damaged_files -- --ignored --nocapture`. HDF5 has its own bench beside this one.

#[path = "common/bench.rs"]
mod bench;

use std::path::Path;

use bench::{Parser, bench};
use tasks::events::{Disorder, Reading, aedat, aer, npy};
use tasks::gesture::labels;

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

fn all(rounds: u64) {
    type Parse = fn(&[u8]) -> Option<String>;
    let parsers: [(&str, Parse, Vec<Vec<u8>>); 6] = [
        ("npy", numpy, npy_files()),
        ("aedat", aedat_packets, vec![aedat_file()]),
        ("bs2", bs2, vec![aer_file(128)]),
        ("nmnist", nmnist, vec![aer_file(34)]),
        ("csv of gestures", csv_of_gestures, gestures_csv()),
        ("csv of clips", csv_of_clips, clips_csv()),
    ];
    for (name, parse, sound) in parsers {
        // Two pages: for tables, the messages of the first ten problems.
        let (parse, borders) = (Box::new(parse), &["mutated: ", "; "][..]);
        bench(Parser { name, parse, sound, spare: 8192, borders }, rounds);
    }
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
