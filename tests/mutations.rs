//! Damaged configurations, checkpoints, networks in NIR and descriptions of reference cases are read or refused: no panic, no hang, no memory beyond 16 times
//! the file. Recordings and tables have the same test in `tasks`.
//!
//! A few thousand mutations for each parser in every run of the tests, and 10^6 in
//! `cargo test --release --test mutations -- --ignored --nocapture`.

#[path = "../tasks/tests/common/bench.rs"]
mod bench;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bench::{Parser, bench};
use etrace::{
    experiment::{Experiment, NetConfig},
    net::{
        nir::{
            Scheme,
            import::{Steps, import},
        },
        reference,
    },
    settings::Listed,
    train::checkpoint::{self, Name},
};
use tasks::nir::Graph;

/// A temporary folder, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("etrace-mutations-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Configurations of all kinds.
fn configurations() -> Parser {
    let preset = |name| toml::to_string_pretty(&Experiment::published(name).expect("a preset")).expect("TOML");
    let names = ["dms-small", "ei", "shd", "gesture", "memspeed-laptop"];
    let mut graph = Experiment::published("dms-small").expect("a preset");
    graph.net = NetConfig::by_name("nir").expect("a network");
    let graph = toml::to_string_pretty(&graph).expect("TOML").into_bytes();
    let parse = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Experiment::read(text).err().map(|e| e.to_string()),
        Err(e) => Some(e.to_string()),
    };
    Parser {
        name: "configuration",
        parse: Box::new(parse),
        sound: names.map(|name| preset(name).into_bytes()).into_iter().chain([graph]).collect(),
        spare: SPARE,
        borders: &[],
    }
}

/// Memory that a description of a network takes whatever its length: its settings as a tree, three times.
const SPARE: usize = 1 << 18;

/// Checkpoints of a run. What is not refused holds what was saved.
fn checkpoints(folder: &Folder) -> Parser {
    let run = folder.0.join("run");
    let line = "dms --n_rec 4 --dt 5 --t_delay 20 --t_fixation 10 --batch_size 2 --epochs 1 -q --out";
    let status = Command::new(env!("CARGO_BIN_EXE_etrace"))
        .args(line.split_whitespace())
        .arg(&run)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("the built command starts");
    assert!(status.success());
    let saved = checkpoint::progress(&run, Name::Last).expect("a sound checkpoint");
    let sound = vec![fs::read(Name::Last.file(&run)).expect("a checkpoint")];
    let tried = folder.0.join("tried");
    fs::create_dir_all(&tried).expect("a folder");
    let parse = move |bytes: &[u8]| {
        fs::write(Name::Last.file(&tried), bytes).expect("a file");
        match checkpoint::progress(&tried, Name::Last) {
            Ok(progress) => {
                assert_eq!(progress, saved, "a checkpoint that was changed is taken for another");
                None
            }
            Err(e) => Some(e.to_string()),
        }
    };
    Parser { name: "checkpoint", parse: Box::new(parse), sound, spare: 8192, borders: &["cannot be used: ", "; "] }
}

/// Descriptions of the reference cases called `name`.
fn descriptions(name: &'static str) -> Parser {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name).with_extension("json");
    let parse = move |bytes: &[u8]| match serde_json::from_slice(bytes) {
        Ok(json) => reference::model(name, &json, 3).err().map(|e| e.to_string()),
        Err(e) => Some(e.to_string()),
    };
    let sound = vec![fs::read(path).expect("a reference case")];
    Parser { name, parse: Box::new(parse), sound, spare: 1 << 20, borders: &[] }
}

/// Networks in NIR: the file, and what its nodes say. What is not refused can be planned.
fn networks() -> Parser {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/data/nir");
    let names = ["feedforward_lif.nir", "recurrent_cubalif.nir", "nested.nir", "conv.nir"];
    let mut sound: Vec<Vec<u8>> = names.map(|name| fs::read(folder.join(name)).expect("a fixture")).to_vec();
    // The form that an export has.
    let graph = Graph::open(&folder.join("conv.nir")).expect("a fixture");
    sound.push(graph.to_bytes());
    let parse = |bytes: &[u8]| match Graph::from_bytes(bytes.to_vec(), Path::new("mutated.nir")) {
        Ok(graph) => match import(&graph, Steps { scheme: Some(Scheme::Exponential), ..Steps::default() }) {
            Ok(found) => {
                found.net.plan().expect("what is imported is a network");
                None
            }
            Err(e) => Some(e.to_string()),
        },
        Err(e) => Some(e.to_string()),
    };
    Parser { name: "network in NIR", parse: Box::new(parse), sound, spare: SPARE, borders: &[] }
}

const DESCRIBED: [&str; 4] = ["lif_delta_3layer", "gif_coba_ei", "egru", "vanilla_rnn"];

fn all(name: &str, rounds: u64) {
    let folder = Folder::new(name);
    bench(configurations(), rounds);
    bench(checkpoints(&folder), rounds);
    bench(networks(), rounds);
    DESCRIBED.iter().for_each(|name| bench(descriptions(name), rounds / DESCRIBED.len() as u64));
}

#[test]
fn mutated_files_are_refused_or_read() {
    all("few", 4000);
}

#[test]
#[ignore = "10^6 mutations of each parser take minutes"]
fn a_million_mutated_files_of_each_parser() {
    all("all", 1_000_000);
}
