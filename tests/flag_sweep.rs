//! Every flag of every command with values that nobody means: each is accepted with sense or refused as a usage error. None aborts, panics
//! or hangs the command, and none leaves a folder behind.
//!
//! Flags come from the tree of commands, so a new one is tried without being listed here; a new command needs a row in [`BASES`].
//! Every run of the tests tries each [`SHARE`]th combination, `cargo test --release --test flag_sweep -- --ignored --nocapture` all.

use std::{
    any::TypeId,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// NaN, infinities, negative, nothing, too large for a product, for a signed and an unsigned count, and empty.
const VALUES: [&str; 9] = ["nan", "inf", "-inf", "-1", "0", "1e308", "9223372036854775808", "18446744073709551615", ""];

/// Shares no factor with the number of values, so that all of them have their turn.
const SHARE: usize = 7;

/// For every command a small piece of work that ends with 0: its words, and flags of which the one that is tried is left out. `DATA` is a
/// folder with recordings, `RUN` a run, `NIR` a network, `GRAPH` a run of it.
const BASES: &[(&str, &str, &str)] = &[
    ("train", "dms-small", "--dry-run"),
    ("memspeed", "", "--method=es-d-rtrl --n_in=8 --n_rec=8 --n_layer=1 --batch_size=2 --length=10 --dry-run"),
    ("memspeed", "", "--dataset=nmnist --data=DATA --n_rec=8 --n_layer=1 --batch_size=2 --data_length=10 --dry-run"),
    ("dms", "", "--n_rec=8 --dt=5 --t_delay=20 --t_fixation=10 --batch_size=2 --dry-run"),
    ("ei", "", "--n_rec=8 --dt=20 --batch_size=2 --dry-run"),
    ("shd", "", "--data=DATA --n_rec=8 --nb_layers=2 --data_length=10 --batch_size=2 --select=last --dry-run"),
    ("gesture", "", "--dataset=made --frames=4 --frame-size=32 --n_rec=4 --batch_size=2 --rnn-type=gru --dry-run"),
    ("campaign", "DATA/campaign.toml", "--dry-run"),
    ("compare", "RUN", "--out=compare"),
    ("eval", "RUN", "--out=out"),
    ("observe", "RUN", "--samples=1 --out=out"),
    ("import", "NIR", "--out=out"),
    ("export", "GRAPH", "--nir=exported"),
    ("export", "RUN", "--tensorboard=events"),
    ("analyze hidden-jacobian-cosine", "", ANALYSIS),
    ("analyze theorem3", "", ANALYSIS),
    ("analyze weight-gradient-cosine", "", ANALYSIS),
    ("analyze check-approx", "", "--rank=2 --out=out"),
    ("explain", "rnn", "--batch=2 --steps=5 --n_rec=4"),
    ("verify", "", ""),
    ("plugin list", "", ""),
    ("plugin install", "cpu", ""),
    ("plugin path", "", ""),
    ("data check", "DATA", ""),
    ("data convert", "DATA/NMNIST", "--out=converted"),
    ("completions", "bash", ""),
    ("man", "", "--out=man"),
];

const ANALYSIS: &str = "--models=lif-delta --n_rec=5 --n_in=8 --steps=8 --samples=2 --out=out";

/// A temporary folder, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("etrace-sweep-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    fn names(&self) -> BTreeSet<PathBuf> {
        fs::read_dir(&self.0).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Recordings of two kinds, and a run.
fn prepare(folder: &Folder) {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/data");
    let data = folder.0.join("data");
    for (from, to) in [
        ("sample_nmnist.bin", "NMNIST/Train/0/00001.bin"),
        ("sample_nmnist.bin", "NMNIST/Train/1/00002.bin"),
        ("sample_nmnist.bin", "NMNIST/Test/1/00003.bin"),
        ("shd_tiny.h5", "shd_train.h5"),
        ("shd_tiny.h5", "shd_test.h5"),
    ] {
        fs::create_dir_all(data.join(to).parent().expect("a file has a folder")).expect("a folder");
        fs::copy(samples.join(from), data.join(to)).expect("a sample");
    }
    fs::write(data.join("campaign.toml"), "base = 'dms-small'").expect("a file");
    let [data, out] = ["data", "run"].map(|name| folder.0.join(name));
    let line = "shd --n_rec=8 --nb_layers=2 --data_length=10 --batch_size=4 --select=last --epochs=1 -q";
    let places = [format!("--data={}", data.display()), format!("--out={}", out.display())];
    let words: Vec<String> = line.split(' ').map(String::from).chain(places).collect();
    assert_eq!(run(&words, folder), Ended::With(0), "etrace {}", words.join(" "));
    let words: Vec<String> = ["import", "NIR", "--out=GRAPH", "-q"].map(|word| place(word, folder)).to_vec();
    assert_eq!(run(&words, folder), Ended::With(0), "etrace {}", words.join(" "));
}

/// A word of [`BASES`] in the folder of [`prepare`].
fn place(word: &str, folder: &Folder) -> String {
    let path = |name: &str| folder.0.join(name).display().to_string();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tasks/data/nir/feedforward_lif.nir");
    word.replace("DATA", &path("data"))
        .replace("RUN", &path("run"))
        .replace("GRAPH", &path("graph"))
        .replace("NIR", file)
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    With(i32),
    BySignal,
    Never,
}

fn run(words: &[String], folder: &Folder) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_etrace"))
        .args(words)
        .current_dir(&folder.0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the built command starts");
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status.code().map_or(Ended::BySignal, Ended::With);
        }
        if started.elapsed() > Duration::from_secs(60) {
            let _ = child.kill();
            let _ = child.wait();
            return Ended::Never;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Calls `look` with the words of every command that has no others below it.
fn leaves(command: &clap::Command, words: &[String], look: &mut dyn FnMut(&clap::Command, &[String])) {
    let below: Vec<_> = command.get_subcommands().filter(|c| c.get_name() != "help").collect();
    if below.is_empty() {
        look(command, words);
    }
    for sub in below {
        leaves(sub, &[words, &[sub.get_name().to_string()]].concat(), look);
    }
}

/// Whether a flag takes a value that is not the name of a file and not one of a list.
fn takes_a_value(arg: &clap::Arg) -> bool {
    arg.get_long().is_some()
        && arg.get_action().takes_values()
        && arg.get_possible_values().is_empty()
        && arg.get_value_parser().type_id() != TypeId::of::<PathBuf>()
}

/// All command lines, with the folder of `prepare`.
fn lines(folder: &Folder) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    leaves(&etrace::cli::command(), &[], &mut |command, words| {
        let name = words.join(" ");
        let bases: Vec<_> = BASES.iter().filter(|base| base.0 == name).collect();
        assert!(!bases.is_empty(), "`{name}` needs a row in BASES");
        for (_, more, flags) in bases {
            for arg in command.get_arguments().filter(|arg| takes_a_value(arg)) {
                let flag = format!("--{}", arg.get_long().unwrap_or_default());
                let others = flags.split_whitespace().filter(|f| f.split('=').next() != Some(&flag));
                let base = words.iter().map(String::as_str).chain(more.split_whitespace()).chain(others);
                let base: Vec<String> = base.map(|word| place(word, folder)).collect();
                let count = arg.get_num_args().map_or(1, |n| n.min_values().max(1));
                for value in VALUES {
                    let first = format!("{flag}={value}");
                    let values = if count == 1 {
                        vec![first]
                    } else {
                        [vec![flag.clone()], vec![value.to_string(); count]].concat()
                    };
                    all.push([base.clone(), values].concat());
                }
            }
        }
    });
    all
}

/// Tries each `share`th line, two at a time.
fn sweep(name: &str, share: usize) {
    let shared = Folder::new(name);
    prepare(&shared);
    let lines: Vec<Vec<String>> = lines(&shared).into_iter().step_by(share).collect();
    assert!(lines.len() * share > 1500, "{} lines", lines.len());
    let (next, accepted, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let worker = |n: usize| {
        let mut wrong = Vec::new();
        let folder = Folder::new(&format!("{name}-{n}"));
        while let Some(words) = lines.get(next.fetch_add(1, Relaxed)) {
            let ended = run(words, &folder);
            let left = folder.names();
            match ended {
                Ended::With(0) => accepted.fetch_add(1, Relaxed),
                _ => refused.fetch_add(1, Relaxed),
            };
            let writes = ended == Ended::With(0) && !words.iter().any(|w| w == "--dry-run");
            if !matches!(ended, Ended::With(0 | 2)) || (!left.is_empty() && !writes) {
                wrong.push(format!("etrace {}: {ended:?}, left {left:?}", words.join(" ")));
            }
            left.iter().for_each(|path| drop(fs::remove_dir_all(path).or_else(|_| fs::remove_file(path))));
        }
        wrong
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|n| {
                scope.spawn({
                    let worker = &worker;
                    move || worker(n)
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().expect("a worker")).collect()
    });
    let [accepted, refused] = [accepted, refused].map(AtomicUsize::into_inner);
    println!("{} command lines: {accepted} accepted, {refused} refused, {} wrong", lines.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(accepted * 20 > lines.len() && refused * 4 > lines.len(), "the bases work, and ranges refuse");
}

#[test]
fn the_work_of_every_command_ends_well() {
    let folder = Folder::new("bases");
    prepare(&folder);
    for (command, more, flags) in BASES {
        let words = [command, more, flags].into_iter().flat_map(|part| part.split_whitespace());
        let words: Vec<String> = words.map(|word| place(word, &folder)).collect();
        assert_eq!(run(&words, &folder), Ended::With(0), "etrace {}", words.join(" "));
    }
}

#[test]
fn a_share_of_all_values_of_all_flags() {
    sweep("share", SHARE);
}

#[test]
#[ignore = "all values of all flags take minutes"]
fn all_values_of_all_flags() {
    sweep("all", 1);
}
