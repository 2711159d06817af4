//! A run that several processes train: here as a rehearsal, since pretended devices exchange nothing with other processes. Each computes the
//! whole batch; who records, what all agree on, how they stop and how a loss is noticed is as on several hosts.
#![cfg(unix)]

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

#[path = "common/runs.rs"]
#[allow(dead_code, reason = "each file of tests uses a part")]
mod common;

use common::{Folder, checkpoint, command, metrics, succeeds};

const SMALL: &str =
    "dms --dt 5 --n_rec 16 --batch_size 8 --t_delay 20 --t_fixation 10 --A2 1 --ff_scale 40 --acc_th 1 --method d-rtrl";

/// A lost process is to be noticed in this time.
const NOTICED: Duration = Duration::from_secs(10);

/// Two processes of one command, `{run}` of which is the folder.
struct Two {
    children: [Child; 2],
}

impl Two {
    fn start(lines: [&str; 2]) -> Two {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let start = |process: usize| {
            let line = format!("{} --coordinator 127.0.0.1:{port} --process {process} --processes 2", lines[process]);
            command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        Two { children: [start(0), start(1)] }
    }

    fn end(self) -> [Output; 2] {
        self.children.map(|child| child.wait_with_output().unwrap())
    }

    fn signal(&self, process: usize, name: &str) {
        let id = self.children[process].id().to_string();
        assert!(std::process::Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until a run has a checkpoint after its first updates.
fn trains(run: &Path) {
    let clock = Instant::now();
    while fs::metadata(run.join("previous.safetensors")).is_err() {
        assert!(clock.elapsed() < Duration::from_secs(60), "the run does not get on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_processes_train_one_run() {
    let folder = Folder::new("hosts-train");
    let alone = folder.path().join("alone");
    succeeds(&format!("{SMALL} --epochs 60 --replicas 2 --out {}", alone.display()));
    let run = folder.path().join("run");
    let other = folder.path().join("other");
    // The follower has no folder of its own; what it is told to write to is left alone.
    let line = |out: &Path| format!("{SMALL} --epochs 60 --out {}", out.display());
    let [leader, follower] = Two::start([&line(&run), &line(&other)]).end();
    assert!(
        leader.status.success() && follower.status.success(),
        "{} {}",
        said(&leader.stderr),
        said(&follower.stderr)
    );
    assert!(!other.exists());
    assert_eq!(metrics(&run), metrics(&alone));
    assert!(checkpoint(&run, "last") == checkpoint(&alone, "last"), "the same parameters");
    assert!(said(&leader.stderr).contains("as a rehearsal"));
    let said = said(&follower.stdout);
    assert!(said.contains("process 1 of 2") && said.contains("60 updates"), "{said}");
    assert!(!said.contains("Batch"), "the leader reports");
}

#[test]
fn other_settings_are_refused() {
    let folder = Folder::new("hosts-differ");
    let line = |lr: &str| format!("{SMALL} --epochs 60 --lr {lr} --out {}", folder.path().join("run").display());
    let [leader, follower] = Two::start([&line("0.001"), &line("0.002")]).end();
    let why = said(&follower.stderr);
    assert!(
        why.contains("the same configuration, got `lr = 0.002` in process 1 where process 0 has `lr = 0.001`"),
        "{why}"
    );
    assert_eq!((leader.status.code(), follower.status.code()), (Some(1), Some(2)));
    assert!(said(&leader.stderr).contains("process 1 on"), "{}", said(&leader.stderr));
}

/// A long run, undisturbed in the folder `whole`; and for each of two processes the same run, with a signal sent to that one.
fn disturbed(folder: &Folder, signal: &str, check: impl Fn(usize, &Path, [Output; 2], &Path)) {
    let line = |run: &Path| format!("{SMALL} --epochs 400 --replicas 2 --out {}", run.display());
    let whole = folder.path().join("whole");
    succeeds(&line(&whole));
    for process in [0, 1] {
        let run = folder.path().join(format!("run-{process}"));
        let two = Two::start([&line(&run), &line(&run)]);
        trains(&run);
        two.signal(process, signal);
        let clock = Instant::now();
        let ends = two.end();
        assert!(clock.elapsed() < NOTICED, "{:?}", clock.elapsed());
        check(process, &run, ends, &whole);
    }
}

#[test]
fn a_signal_to_one_stops_both() {
    let folder = Folder::new("hosts-stop");
    disturbed(&folder, "-TERM", |_, run, ends, whole| {
        assert_eq!(ends.each_ref().map(|end| end.status.code()), [Some(143); 2], "{}", said(&ends[0].stderr));
        assert!(said(&ends[0].stdout).contains("interrupted after update"));
        let on = format!("dms --resume {}", run.display());
        let ends = Two::start([&on, &on]).end();
        assert!(ends.iter().all(|end| end.status.success()), "{}", said(&ends[0].stderr));
        assert_eq!(metrics(run), metrics(whole));
        assert!(checkpoint(run, "last") == checkpoint(whole, "last"), "as if nothing had happened");
    });
}

#[test]
fn a_killed_process_ends_the_other_and_the_run_goes_on() {
    let folder = Folder::new("hosts-kill");
    disturbed(&folder, "-KILL", |killed, run, ends, whole| {
        let other = &ends[1 - killed];
        let why = said(&other.stderr);
        assert_eq!(other.status.code(), Some(1), "{why}");
        assert!(why.contains(&format!("process {killed} on")) && why.contains("--resume"), "{why}");
        // With one process, with as many replicas.
        succeeds(&format!("dms --resume {}", run.display()));
        assert!(checkpoint(run, "last") == checkpoint(whole, "last"), "as if nothing had happened");
    });
}

#[test]
fn an_evaluation_is_the_leaders() {
    let folder = Folder::new("hosts-evaluate");
    let line = |run: &Path| {
        format!(
            "gesture --dataset made --made-samples 16 8 --frames 5 --frame-size 32 --rnn-type gru --units 6 --num-layers 1 --batch-size 8 \
             --train-epochs 3 --replicas 2 --out {}",
            run.display()
        )
    };
    let (alone, run) = (folder.path().join("alone"), folder.path().join("run"));
    succeeds(&line(&alone));
    let ends = Two::start([&line(&run), &line(&run)]).end();
    assert!(ends.iter().all(|end| end.status.success()), "{}", said(&ends[0].stderr));
    assert_eq!(metrics(&run), metrics(&alone));
    assert!(checkpoint(&run, "best") == checkpoint(&alone, "best"));
    assert!(said(&ends[0].stdout).contains("test accuracy") && !said(&ends[1].stdout).contains("test accuracy"));
}

#[test]
fn flags_of_hosts_go_together() {
    for (line, why) in [
        ("dms --coordinator 127.0.0.1:1", "--process"),
        ("dms --process 1 --processes 2", "--coordinator"),
        (
            "dms --coordinator here --process 0 --processes 2",
            "--coordinator is HOST:PORT, as in 10.0.0.1:8476, got `here`",
        ),
        ("dms --coordinator 127.0.0.1:1 --process 2 --processes 2", "got process 2 of 2"),
        ("dms --coordinator 127.0.0.1:1 --process 0 --processes 2 --dry-run", "--dry-run"),
        ("memspeed --coordinator 127.0.0.1:1 --process 0 --processes 1", "--coordinator is for training"),
    ] {
        let end = command(line).output().unwrap();
        assert_eq!(end.status.code(), Some(2), "{line}: {}", said(&end.stderr));
        assert!(said(&end.stderr).contains(why), "{line}: {}", said(&end.stderr));
    }
}
