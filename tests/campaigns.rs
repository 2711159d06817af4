//! Campaigns: many runs from one file, killed and gone on with; runs compared.
#![cfg(unix)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("etrace-campaigns-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etrace"));
    command.args(words).stdin(Stdio::null());
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

const CAMPAIGN: &str = "
base = 'dms-small'
set = ['settings.batch=4', 'settings.batches=40', 'task.t_delay=20', 'task.t_sample=100', 'task.t_test=100', 'net.n_rec=8']
seeds = [0, 1]
[grid]
'learner.method' = ['bptt', 'd-rtrl']
";

/// The rows of `runs.csv` without their times and folders.
fn results(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join("runs.csv")).expect("a table of the runs");
    let mut rows: Vec<String> = text.lines().map(|row| row.split(',').take(5).collect::<Vec<_>>().join(",")).collect();
    rows.sort();
    rows
}

#[test]
fn a_campaign_that_is_killed_goes_on() {
    let folder = Folder::new("killed");
    let file = folder.join("methods.toml");
    fs::write(&file, CAMPAIGN).expect("a file");
    let [whole, killed] = ["whole", "killed"].map(|name| folder.join(name));
    let words =
        |out: &Path| ["campaign".to_string(), text(&file).into(), "--out".into(), text(out).into(), "-q".into()];
    let run =
        |out: &Path, more: &[&str]| command(&[]).args(words(out)).args(more).output().expect("the command starts");
    let said = succeeds(&run(&whole, &[]));
    assert!(said.contains("method=bptt") && said.contains("method=d-rtrl"), "{said}");
    assert_eq!(results(&whole).len(), 5, "a heading and four runs");
    // Killed once as nobody can refuse, and once as a terminal does.
    for signal in ["-KILL", "-TERM"] {
        let mut child =
            command(&[]).args(words(&killed)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let begun = Instant::now();
        let first = if signal == "-KILL" { "method=bptt/seed-0" } else { "method=d-rtrl/seed-0" };
        while !killed.join(first).join("config.toml").exists() && begun.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
        let status = child.wait().expect("it ends");
        assert!(signal == "-KILL" || status.code() == Some(143) || status.success(), "{status:?}");
    }
    succeeds(&run(&killed, &["--at_a_time", "2"]));
    assert_eq!(results(&whole), results(&killed));
    for name in ["summary.csv", "curves.svg", "curves.png"] {
        assert!(killed.join(name).is_file(), "{name}");
    }
    // Nothing is left to do, and what was done stays.
    let before = fs::metadata(killed.join("method=bptt/seed-1/last.safetensors"))
        .expect("a checkpoint")
        .modified()
        .expect("a time");
    succeeds(&run(&killed, &[]));
    let after = fs::metadata(killed.join("method=bptt/seed-1/last.safetensors"))
        .expect("a checkpoint")
        .modified()
        .expect("a time");
    assert_eq!(before, after);
    // Another experiment under the same name is not mixed with it.
    fs::write(&file, CAMPAIGN.replace("t_delay=20", "t_delay=40")).expect("a file");
    let refused = run(&killed, &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("holds another"));
}

#[test]
fn runs_are_compared_and_exported() {
    let folder = Folder::new("compared");
    let stem = folder.join("both");
    let runs = ["bptt", "d-rtrl"].map(|method| folder.join(method));
    for (run, method) in runs.iter().zip(["bptt", "d-rtrl"]) {
        let words = ["train", "dms-small", "--method", method, "--epochs", "40", "-q", "--out", text(run)];
        let small = ["settings.batch=4", "task.t_delay=20", "task.t_sample=100", "task.t_test=100", "net.n_rec=8"];
        succeeds(&command(&words).args(small.iter().flat_map(|s| ["--set", s])).output().expect("it starts"));
    }
    let words = ["compare", text(&runs[0]), text(&runs[1]), "--out", text(&stem)];
    let said = succeeds(&command(&words).output().expect("it starts"));
    assert!(said.contains("learner.method.name") && said.contains("d-rtrl") && said.contains("bptt"), "{said}");
    assert!(folder.join("both.png").is_file());

    // The event file of a run is the same each time, and its records follow one another to its end.
    let events = folder.join("events");
    let file = |name: &str| -> Vec<u8> {
        let out = events.join(name);
        let words = ["export", text(&runs[0]), "--tensorboard", text(&out)];
        succeeds(&command(&words).output().expect("it starts"));
        let path = fs::read_dir(&out).expect("a folder").next().expect("a file").expect("an entry").path();
        assert!(path.display().to_string().contains("tfevents"), "{}", path.display());
        fs::read(path).expect("a file")
    };
    let bytes = file("a");
    assert_eq!(bytes, file("b"));
    let (mut at, mut records) = (0, 0);
    while let Some(length) = bytes.get(at..at + 8) {
        at += 16 + u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize;
        records += 1;
    }
    // A version, the settings, six scalars of each of 40 updates, and the arrays of the checkpoints.
    assert!(at == bytes.len() && records > 2 + 6 * 40, "{records} records, {at} of {} bytes", bytes.len());
    for tag in ["training/loss", "parameters/out.weight", "plots/curve", "learner.method.name"] {
        assert!(bytes.windows(tag.len()).any(|part| part == tag.as_bytes()), "{tag}");
    }
}

#[test]
fn a_run_that_fails_does_not_stop_the_others() {
    let folder = Folder::new("fails");
    let file = folder.join("c.toml");
    // A batch that no machine holds.
    let runs = "[[runs]]\nname = 'good'\n[[runs]]\nname = 'huge'\nset = ['net.n_rec=200000']\n";
    fs::write(&file, CAMPAIGN.split("[grid]").next().expect("text").replace("[0, 1]", "[0]") + runs).expect("a file");
    let out = folder.join("out");
    let output = command(&["campaign", text(&file), "--out", text(&out), "-q"]).output().expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("1 of 2 runs failed") && error.contains("huge/seed-0: "), "{error}");
    assert!(results(&out).iter().any(|row| row.starts_with("good,0,true,40")), "{:?}", results(&out));
}
