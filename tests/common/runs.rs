//! What tests of runs share: the command, folders, small data sets, and what a run left.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A command line of `etrace`, words parted by spaces. The variable `ETRACE_BIN` names another build than that of the tests.
pub fn command(line: &str) -> Command {
    let built = std::env::var_os("ETRACE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_etrace").into());
    let mut command = Command::new(built);
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn etrace(line: &str) -> Output {
    command(line).output().expect("the built command starts")
}

/// What a command that must succeed prints to standard output and standard error.
#[track_caller]
pub fn succeeds(line: &str) -> (String, String) {
    let output = etrace(line);
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "etrace {line}\n{out}\n{err}");
    (out, err)
}

/// The error of a command that must fail with `code`, on one line.
#[track_caller]
pub fn fails(line: &str, code: i32) -> String {
    let output = etrace(line);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "etrace {line}\n{error}");
    assert!(!error.contains("defect"), "{error}");
    error.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A folder of one test, removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("etrace-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes an N-MNIST set of `each` recordings per digit and split; a digit is a place on the sensor.
pub fn write_nmnist(dir: &Path, each: usize) {
    for (split, digit) in ["Train", "Test"].iter().flat_map(|split| (0..10).map(move |digit| (split, digit))) {
        let folder = dir.join("NMNIST").join(split).join(digit.to_string());
        fs::create_dir_all(&folder).expect("a folder");
        for sample in 0..each {
            let event = |k: usize| {
                let time = k * 3000;
                let (x, y) = (3 * digit + (k + sample) % 3, (7 * k + sample) % 34);
                [x as u8, y as u8, ((k % 2) << 7 | time >> 16) as u8, (time >> 8) as u8, time as u8]
            };
            let bytes: Vec<u8> = (0..100).flat_map(event).collect();
            fs::write(folder.join(format!("{sample:05}.bin")), bytes).expect("a recording");
        }
    }
}

/// Writes the small sample of spoken digits as both splits.
pub fn write_speech(dir: &Path) {
    fs::create_dir_all(dir).expect("a folder");
    for file in ["shd_train.h5", "shd_test.h5"] {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/data/shd_tiny.h5");
        fs::copy(sample, dir.join(file)).expect("a copied sample");
    }
}

/// A checkpoint of a run, by name.
pub fn checkpoint(run: &Path, name: &str) -> Vec<u8> {
    fs::read(run.join(format!("{name}.safetensors"))).expect("a checkpoint")
}

/// The lines of the metrics without their times, as they are written.
pub fn metrics(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let timeless = |line: &str| match line.split_once(",\"seconds\":") {
        Some((before, _)) => format!("{before}}}"),
        None => line.to_string(),
    };
    text.lines().map(timeless).collect()
}

/// The log of a run.
pub fn log(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("log.jsonl")).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}
