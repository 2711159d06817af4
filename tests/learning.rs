//! Networks that must learn, in seconds.

use std::{path::PathBuf, process::Command};

use etrace::train::history::{History, WINDOW};

/// Trains with a command and returns what it recorded.
fn train(name: &str, line: &str) -> History {
    let out: PathBuf = std::env::temp_dir().join(format!("etrace-learning-{}-{name}", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_etrace"));
    command.args(line.split_whitespace()).arg("--out").arg(&out);
    let output = command.output().expect("the built command starts");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    let history = History::read(&out).expect("a recorded run");
    let _ = std::fs::remove_dir_all(&out);
    history
}

/// Delayed match-to-sample in 242 steps of 5 ms: chance is 0.5. The decay of ES-D-RTRL is per step, so it is smaller here than
/// the published 0.99 at 1 ms.
#[test]
fn every_rule_learns_delayed_match_to_sample() {
    const TASK: &str = "dms --dt 5 --n_rec 100 --batch_size 64 --tau_neu 20 --tau_syn 10 --t_delay 200 --t_fixation 10 --A2 1 \
                        --ff_scale 40 --rec_scale 2 --lr 3e-3 --etrace_decay 0.9 --epochs 150 --acc_th 2";
    for method in ["bptt", "d-rtrl", "es-d-rtrl"] {
        let history = train(method, &format!("{TASK} --method {method}"));
        assert_eq!(history.updates.len(), 150);
        let smoothed = history.smoothed();
        let (first, last) = (smoothed[WINDOW - 1].1, smoothed[149].1);
        println!("{method}: {first:.3} to {last:.3}; {history}");
        assert!(first < 0.75, "{method} starts near chance, at {first}");
        assert!(last >= 0.85, "{method}: mean accuracy of the last {WINDOW} batches {last}");
    }
}
