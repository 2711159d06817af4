//! Runs that are killed: whatever the moment, they are resumed and end as if nothing had happened.
//!
//! Each trial starts a short run, kills it at a random moment, resumes it (or starts it again, if it had not begun), kills that too,
//! and at last lets it finish. Metrics (their times left out) and both checkpoints must be those of a run that was never
//! stopped, byte for byte. The full-size trials are ignored by default:
//!
//! ```text
//! cargo test --release --test kills -- --ignored --nocapture
//!     ETRACE_TRIALS=N for so many, ETRACE_JOB=TEXT for jobs with TEXT in their names
//! ```
#![cfg(unix)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

#[path = "common/runs.rs"]
#[allow(dead_code, reason = "each file of tests uses a part")]
mod common;

use common::{Folder, checkpoint, command, etrace, metrics, succeeds, write_nmnist, write_speech};

/// A training command in a size that takes about a second, and how it is resumed.
struct Job {
    name: &'static str,
    line: String,
    resume: &'static str,
    /// What an undisturbed run leaves.
    expected: Left,
    /// How long it took.
    took: Duration,
}

#[derive(PartialEq)]
struct Left {
    metrics: Vec<String>,
    last: Vec<u8>,
    best: Vec<u8>,
}

impl Left {
    fn by(run: &Path) -> Left {
        Left { metrics: metrics(run), last: checkpoint(run, "last"), best: checkpoint(run, "best") }
    }
}

/// Every training command, and every rule.
fn jobs(folder: &Folder) -> Vec<Job> {
    write_nmnist(folder.path(), 2);
    write_speech(folder.path());
    let data = folder.join("");
    let dms = "dms --dt 5 --n_rec 16 --batch_size 8 --t_delay 20 --t_fixation 10 --A2 1 --ff_scale 40 --acc_th 1 --epochs 150";
    let ei = "ei --dt 5 --cues 2 --t_delay 50 --n_rec 10 --batch_size 4 --threshold 1 --method d-rtrl --epochs 90";
    let nmnist = format!(
        "memspeed --dataset nmnist --data {data} --n_rec 12 --n_layer 1 --data_length 12 --batch_size 4 --epochs 12"
    );
    let shd = format!("shd --data_folder {data} --nb_hiddens 8 --nb_epochs 8 --batch_size 4 --method es-d-rtrl");
    let gesture = "gesture --dataset made --made-samples 16 8 --frames 5 --frame-size 32 --rnn-type event-gru --units 6 \
                   --num-layers 1 --batch-size 8 --dropout 0.5 --train-epochs 10 --method d-rtrl";
    let lines = [
        ("dms, bptt", format!("{dms} --method bptt"), "dms"),
        ("dms, d-rtrl", format!("{dms} --method d-rtrl"), "dms"),
        ("dms, es-d-rtrl", format!("{dms} --method es-d-rtrl"), "dms"),
        ("dms, hybrid", format!("{dms} --method hybrid"), "dms"),
        ("dms, d-rtrl, 4 replicas", format!("{dms} --method d-rtrl --replicas 4"), "dms"),
        ("ei, d-rtrl", ei.into(), "ei"),
        ("memspeed, bptt", nmnist, "memspeed"),
        ("shd, es-d-rtrl", shd, "shd"),
        ("gesture, d-rtrl", gesture.into(), "gesture"),
    ];
    let job = |(name, line, resume): (&'static str, String, &'static str)| {
        let run = folder.path().join(name.replace([',', ' '], "-"));
        // The first run compiles; the second shows how long one takes.
        let _ = etrace(&format!("{line} --out {}", run.with_extension("first").display()));
        let clock = Instant::now();
        succeeds(&format!("{line} --out {}", run.display()));
        Job { name, line, resume, expected: Left::by(&run), took: clock.elapsed() }
    };
    let chosen = std::env::var("ETRACE_JOB").unwrap_or_default();
    let jobs: Vec<Job> = lines.into_iter().filter(|(name, ..)| name.contains(&chosen)).map(job).collect();
    assert!(!jobs.is_empty(), "ETRACE_JOB names a job, got {chosen}");
    jobs
}

/// Pseudo-random numbers in [0, 1), the same in every session.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// When a process is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Aim {
    /// At any moment of the run.
    Anywhere,
    /// In its first moments, when folders appear.
    Start,
    /// While a checkpoint is being written.
    Checkpoint,
}

fn start(line: &str) -> Child {
    command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the built command starts")
}

/// Waits for the moment to kill. Whether the process is still there then.
fn wait(child: &mut Child, run: &Path, aim: Aim, took: Duration, random: &mut Random) -> bool {
    let share = random.next();
    let end = Instant::now() + if aim == Aim::Start { Duration::from_secs(1) } else { took }.mul_f64(0.8 * share);
    let half_written = || ["last.safetensors.tmp", "best.safetensors.tmp"].iter().any(|name| run.join(name).exists());
    loop {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        let now = Instant::now();
        if now >= end && (aim != Aim::Checkpoint || half_written() || now >= end + took) {
            return true;
        }
        std::thread::sleep(Duration::from_micros(if aim == Aim::Checkpoint { 20 } else { 500 }));
    }
}

/// The line that goes on with a job: resumes it, or starts it where it never began.
fn next_line(job: &Job, run: &Path) -> String {
    let begun = run.exists();
    if begun {
        format!("{} --resume {}", job.resume, run.display())
    } else {
        format!("{} --out {}", job.line, run.display())
    }
}

/// What came of trials.
#[derive(Default)]
struct Counts {
    trials: usize,
    signals: usize,
    identical: usize,
    not_resumable: usize,
    wrong_code: usize,
}

/// Disturbs one run with `signal` again and again, and compares what it leaves.
fn trial(job: &Job, run: &Path, signal: &str, aim: Aim, random: &mut Random, counts: &mut Counts) {
    counts.trials += 1;
    for _ in 0..1 + (random.next() * 3.0) as usize {
        let mut child = start(&next_line(job, run));
        if !wait(&mut child, run, aim, job.took, random) {
            break;
        }
        counts.signals += 1;
        let id = child.id().to_string();
        let told = std::process::Command::new("kill").args([signal, &id]).status().expect("kill is a POSIX command");
        let status = child.wait().expect("a child");
        // Before training begins, SIGTERM ends a process as it does any other.
        use std::os::unix::process::ExitStatusExt;
        let right = signal == "-KILL" || status.success() || status.code() == Some(143) || status.signal() == Some(15);
        counts.wrong_code += usize::from(told.success() && !right);
    }
    let line = next_line(job, run);
    let output = etrace(&line);
    if !output.status.success() {
        counts.not_resumable += 1;
        println!("{}: etrace {line}: {}", job.name, String::from_utf8_lossy(&output.stderr));
        return;
    }
    let same = Left::by(run) == job.expected;
    counts.identical += usize::from(same);
    if same {
        fs::remove_dir_all(run).expect("a removed run");
    } else {
        println!("{}: {} is not as an undisturbed run", job.name, run.display());
    }
}

fn trials_wanted(full: usize) -> usize {
    std::env::var("ETRACE_TRIALS").ok().and_then(|text| text.parse().ok()).unwrap_or(full)
}

fn bench(name: &str, jobs: &[Job], folder: &Folder, trials: usize, signal: &str, aim: impl Fn(usize) -> Aim) {
    let mut random = Random(trials as u64);
    let mut counts = Counts::default();
    for k in 0..trials {
        let run: PathBuf = folder.path().join(format!("{name}-{k}"));
        trial(&jobs[k % jobs.len()], &run, signal, aim(k / jobs.len()), &mut random, &mut counts);
    }
    let Counts { trials, signals, identical, not_resumable, wrong_code } = counts;
    println!(
        "{name}: {trials} sequences, {signals} signals: {identical} identical, {not_resumable} not resumable, {wrong_code} wrong \
         exit codes"
    );
    assert!(signals * 2 > trials, "most sequences are disturbed");
    assert_eq!((identical, not_resumable, wrong_code), (trials, 0, 0));
    let left: Vec<_> = folder.path().read_dir().expect("a folder").flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().contains("starting")), "leftovers of starts: {left:?}");
}

#[test]
fn killed_runs_end_as_if_nothing_had_happened() {
    let folder = Folder::new("kills");
    let jobs = jobs(&folder);
    bench("killed", &jobs, &folder, 3 * jobs.len(), "-KILL", |round| {
        [Aim::Anywhere, Aim::Start, Aim::Checkpoint][round % 3]
    });
    bench("terminated", &jobs, &folder, jobs.len(), "-TERM", |_| Aim::Anywhere);
}

#[test]
#[ignore = "1,000 killed runs take most of an hour"]
fn a_thousand_killed_runs() {
    let folder = Folder::new("thousand-kills");
    let jobs = jobs(&folder);
    let aim = |round: usize| match round % 10 {
        0 => Aim::Start,
        1 => Aim::Checkpoint,
        _ => Aim::Anywhere,
    };
    bench("killed", &jobs, &folder, trials_wanted(1000), "-KILL", aim);
}

#[test]
#[ignore = "100 terminated runs take some minutes"]
fn a_hundred_terminated_runs() {
    let folder = Folder::new("hundred-terms");
    let jobs = jobs(&folder);
    bench("terminated", &jobs, &folder, trials_wanted(100), "-TERM", |_| Aim::Anywhere);
}

/// Two processes at once on one folder: one does the whole run, the other says why it cannot.
fn two_at_once(job: &Job, run: &Path, resumed: bool) {
    let line = if resumed {
        // A run that has begun and is not complete.
        let mut child = start(&next_line(job, run));
        while !run.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("a killed child");
        child.wait().expect("a child");
        next_line(job, run)
    } else {
        format!("{} --out {}", job.line, run.display())
    };
    let both = [start_with_errors(&line), start_with_errors(&line)].map(|c| c.wait_with_output().expect("a child"));
    let mut codes = [0, 1].map(|k| both[k].status.code());
    codes.sort_unstable();
    let errors = both.iter().map(|o| String::from_utf8_lossy(&o.stderr).into_owned()).collect::<String>();
    // The second may come when the first is done: a resumed run is complete then.
    let one_refused = codes == [Some(0), Some(2)] && (errors.contains("in use") || errors.contains("a run already"));
    assert!(one_refused || resumed && codes == [Some(0), Some(0)], "{codes:?} {errors}");
    assert!(Left::by(run) == job.expected, "{}: {} is not as an undisturbed run", job.name, run.display());
    fs::remove_dir_all(run).expect("a removed run");
}

fn start_with_errors(line: &str) -> Child {
    command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the built command starts")
}

fn two_process_trials(name: &str, trials: usize) {
    let folder = Folder::new(name);
    let jobs = jobs(&folder);
    for k in 0..trials {
        two_at_once(&jobs[k % jobs.len()], &folder.path().join(format!("two-{k}")), k / jobs.len() % 2 == 1);
    }
    println!("two processes on one folder: {trials} trials, nothing lost");
}

#[test]
fn two_processes_on_one_folder() {
    two_process_trials("two", 4);
}

#[test]
#[ignore = "100 trials take some minutes"]
fn two_processes_on_one_folder_a_hundred_times() {
    two_process_trials("two-hundred", trials_wanted(100));
}
