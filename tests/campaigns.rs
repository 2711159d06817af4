//! Campaigns: many runs from one file, killed and gone on with; runs compared.
#![cfg(unix)]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

#[path = "common/runs.rs"]
#[allow(dead_code, reason = "each file of tests uses a part")]
mod common;

use common::{Folder, checkpoint, command, fails, succeeds};

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
    let folder = Folder::new("campaign-killed");
    let file = folder.join("methods.toml");
    fs::write(&file, CAMPAIGN).expect("a file");
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    let line = |out: &Path| format!("campaign {file} -q --out {}", out.display());
    let (said, _) = succeeds(&line(&whole));
    assert!(said.contains("method=bptt") && said.contains("method=d-rtrl"), "{said}");
    assert_eq!(results(&whole).len(), 5, "a heading and four runs");
    // Killed once as nobody can refuse, and once as a terminal does.
    for (signal, first) in [("-KILL", "method=bptt/seed-0"), ("-TERM", "method=d-rtrl/seed-0")] {
        let mut child = command(&line(&killed)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let begun = Instant::now();
        while !killed.join(first).join("config.toml").exists() && begun.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
        let status = child.wait().expect("it ends");
        assert!(signal == "-KILL" || status.code() == Some(143) || status.success(), "{status:?}");
    }
    succeeds(&format!("{} --at_a_time 2", line(&killed)));
    assert_eq!(results(&whole), results(&killed));
    for run in ["method=bptt/seed-0", "method=bptt/seed-1", "method=d-rtrl/seed-0", "method=d-rtrl/seed-1"] {
        assert_eq!(checkpoint(&whole.join(run), "last"), checkpoint(&killed.join(run), "last"), "{run}");
    }
    for name in ["summary.csv", "curves.svg", "curves.png"] {
        assert!(killed.join(name).is_file(), "{name}");
    }
    // Nothing is left to do, and what was done stays.
    let written = || fs::metadata(killed.join("method=bptt/seed-1/last.safetensors")).and_then(|m| m.modified());
    let before = written().expect("a checkpoint");
    succeeds(&line(&killed));
    assert_eq!(before, written().expect("a checkpoint"));
    // Another experiment under the same name is not mixed with it.
    fs::write(&file, CAMPAIGN.replace("t_delay=20", "t_delay=40")).expect("a file");
    assert!(fails(&line(&killed), 2).contains("holds another"));
}

#[test]
fn runs_are_compared_and_exported() {
    let folder = Folder::new("compared");
    let small =
        "--set settings.batch=4 --set task.t_delay=20 --set task.t_sample=100 --set task.t_test=100 --set net.n_rec=8";
    let runs = ["bptt", "d-rtrl"].map(|method| folder.join(method));
    for (run, method) in runs.iter().zip(["bptt", "d-rtrl"]) {
        succeeds(&format!("train dms-small {small} --method {method} --epochs 40 -q --out {run}"));
    }
    let (said, _) = succeeds(&format!("compare {} {} --out {}", runs[0], runs[1], folder.join("both")));
    assert!(said.contains("learner.method.name") && said.contains("d-rtrl") && said.contains("bptt"), "{said}");
    assert!(folder.path().join("both.png").is_file());

    // The event file of a run is the same each time, and its records follow one another to its end.
    let file = |name: &str| -> Vec<u8> {
        let out = folder.path().join(name);
        succeeds(&format!("export {} --tensorboard {}", runs[0], out.display()));
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
    let folder = Folder::new("campaign-fails");
    let file = folder.join("c.toml");
    // A layer that no machine holds.
    let runs = "[[runs]]\nname = 'good'\n[[runs]]\nname = 'huge'\nset = ['net.n_rec=200000']\n";
    fs::write(&file, CAMPAIGN.split("[grid]").next().expect("text").replace("[0, 1]", "[0]") + runs).expect("a file");
    let out = folder.path().join("out");
    let error = fails(&format!("campaign {file} -q --out {}", out.display()), 1);
    assert!(error.contains("1 of 2 runs failed") && error.contains("huge/seed-0: "), "{error}");
    assert!(results(&out).iter().any(|row| row.starts_with("good,0,true,40")), "{:?}", results(&out));
}
