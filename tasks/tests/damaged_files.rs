//! Damaged recordings and tables end in events, lines or an error that names file and reason: no panic, no hang, no memory beyond 16 times
//! the file.
//!
//! For each parser a few thousand mutations of sound files in every run of the tests, and 10^6 in `cargo test --release -p tasks --test
//! damaged_files -- --ignored --nocapture`. HDF5 has its own bench beside this one.

#[path = "common/bench.rs"]
mod bench;

use std::path::Path;

use bench::{Parser, bench};
use tasks::events::{Disorder, Reading, Sensor, aedat, aedat4, aer, npy, prophesee, tonic};
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
/// The recordings of `data/formats`.
const SMALL: Reading = Reading { sensor: Sensor { width: 64, height: 48 }, ..SORT };

fn aedat_4(bytes: &[u8]) -> Option<String> {
    refusal(aedat4::decode(bytes, Path::new("mutated"), &SMALL))
}
fn raw(bytes: &[u8]) -> Option<String> {
    refusal(prophesee::raw::decode(bytes, Path::new("mutated"), &SMALL))
}
fn dat(bytes: &[u8]) -> Option<String> {
    refusal(prophesee::dat::decode(bytes, Path::new("mutated"), &SMALL))
}
fn cache(bytes: &[u8]) -> Option<String> {
    refusal(tonic::decode(bytes, Path::new("mutated"), &SMALL))
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

/// Files that other programs wrote.
fn genuine(names: &[&str]) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/formats");
    names.iter().map(|name| std::fs::read(folder.join(name)).expect("a sample")).collect()
}

/// Words of EVT 2.1, and of EVT 3.0 with several events in one.
fn raw_files() -> Vec<Vec<u8>> {
    let wide = (0..200u64)
        .flat_map(|i| [8 << 60 | (i * 300) << 32, 1 << 60 | (i % 32) << 43 | (i % 48) << 32 | 1 << (i % 32)]);
    let wide: Vec<u8> = wide.flat_map(|word| word.to_le_bytes()).collect();
    let vectors = (0..200u16).flat_map(|i| [0x8000 | i, 0x6000 | i, i % 48, 0x3000, 0x4000 | 1 << (i % 12), 0x5011]);
    let vectors: Vec<u8> = vectors.flat_map(|word| word.to_le_bytes()).collect();
    let head = |format: &str| format!("% format {format};height=48;width=64\n% end\n").into_bytes();
    [genuine(&["evt2.raw", "evt3.raw"]), vec![[head("EVT21"), wide].concat(), [head("EVT3"), vectors].concat()]]
        .concat()
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
    let aedat4_files = genuine(&["none.aedat4", "lz4.aedat4", "lz4_high.aedat4", "zstd.aedat4", "zstd_high.aedat4"]);
    // Room that decompression takes before the first byte, whatever the file: windows of the largest size.
    let unpacking = 20 << 20;
    // Two pages: for tables, the messages of the first ten problems.
    let pages = 8192;
    let parsers: [(&str, Parse, Vec<Vec<u8>>, usize); 10] = [
        ("npy", numpy, npy_files(), pages),
        ("aedat", aedat_packets, vec![aedat_file()], pages),
        ("bs2", bs2, vec![aer_file(128)], pages),
        ("nmnist", nmnist, vec![aer_file(34)], pages),
        ("aedat4", aedat_4, aedat4_files, unpacking),
        // A word of two bytes may have twelve events.
        ("raw", raw, raw_files(), 1 << 16),
        ("dat", dat, genuine(&["cd.dat"]), pages),
        ("cache of tonic", cache, genuine(&["cache_lzf.hdf5", "cache_plain.hdf5"]), 1 << 16),
        ("csv of gestures", csv_of_gestures, gestures_csv(), pages),
        ("csv of clips", csv_of_clips, clips_csv(), pages),
    ];
    for (name, parse, sound, spare) in parsers {
        let (parse, borders) = (Box::new(parse), &["mutated: ", "; "][..]);
        bench(Parser { name, parse, sound, spare, borders }, rounds);
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
