//! Every example runs, and ends as it says.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Once,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// An example, built if it is not (`cargo test` builds all of them, `cargo test --test examples` none): `target/PROFILE/examples/NAME`,
/// next to `deps` with this test.
fn example(name: &str) -> Command {
    static BUILT: Once = Once::new();
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps");
    BUILT.call_once(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--examples", "--target-dir"]).arg(profile.parent().expect("target"));
        build.args((!cfg!(debug_assertions)).then_some("--release")).current_dir(env!("CARGO_MANIFEST_DIR"));
        succeeds(&mut build);
    });
    Command::new(profile.join("examples").join(name))
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

/// The names are those of the files, so that no example is left out.
#[test]
fn every_example_runs() {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .expect("examples")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".rs").map(str::to_string))
        .collect();
    names.sort();
    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        let told = succeeds(&mut example(&name));
        assert!(told.lines().count() >= 2, "{name} says what it found: {told}");
    }
}

#[test]
fn own_data_says_which_line_is_wrong() {
    let file = std::env::temp_dir().join(format!("etrace-examples-{}.csv", std::process::id()));
    for (text, words) in [
        ("0,1,2\n1,3\n", "line 2: all rows have the same length"),
        ("0,1,x\n", "line 1: a sample is a number"),
        ("", "must have a row"),
    ] {
        std::fs::write(&file, text).expect("a file");
        let out = example("own_data").arg(&file).output().expect("it starts");
        assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains(words), "{text:?}: {out:?}");
    }
    std::fs::remove_file(&file).expect("the file");
}

/// Python reads what the resumable loop saves.
#[test]
#[ignore = "needs python3: cargo test --release --test examples -- --ignored"]
fn python_reads_a_checkpoint() {
    let run = std::env::temp_dir().join(format!("etrace-examples-run-{}", std::process::id()));
    assert!(succeeds(example("resume").arg(&run)).contains("updates 0 to 20"));
    assert!(succeeds(example("resume").arg(&run)).contains("updates 20 to 40"));
    let script = folder().join("read_checkpoint.py");
    let told = succeeds(Command::new("python3").arg(script).arg(run.join("last.safetensors")));
    std::fs::remove_dir_all(&run).expect("the run");
    for line in ["cell.weight      [28, 20] sum ", "cell.bias        [20] sum ", "after 40 updates"] {
        assert!(told.contains(line), "{line:?} in\n{told}");
    }
    let sums: Vec<&str> = told.lines().filter_map(|line| line.split(" sum ").nth(1)).collect();
    assert!(sums.iter().any(|sum| sum.parse::<f64>().is_ok_and(|v| v != 0.0)), "{told}");
}
