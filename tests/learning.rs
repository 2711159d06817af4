//! Networks that must learn, in seconds.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

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
                        --ff_scale 40 --rec_scale 2 --lr 3e-3 --etrace_decay 0.9 --epochs 150 --acc_th 1";
    for method in ["bptt", "d-rtrl", "es-d-rtrl"] {
        let history = train(method, &format!("{TASK} --method {method}"));
        assert_eq!(history.updates.len(), 150);
        let smoothed = history.smoothed();
        let (first, last) = (smoothed[0].1, smoothed[150 - WINDOW].1);
        println!("{method}: {first:.3} to {last:.3}; {history}");
        assert!(first < 0.75, "{method} starts near chance, at {first}");
        assert!(last >= 0.85, "{method}: mean accuracy of the last {WINDOW} batches {last}");
    }
}

const GESTURE: &str = "gesture --frame-size 32 --units 64 --rnn-type event-gru --pseudo-derivative-width 1.7";

/// Accuracy of the last evaluation of a run on gestures.
fn gesture_accuracy(name: &str, line: &str) -> f64 {
    train(name, &format!("{GESTURE} {line}")).evaluations.last().map_or(0.0, |e| e.score)
}

/// Synthetic patterns, after a few epochs: chance is 0.1.
#[test]
fn every_rule_learns_gestures() {
    for method in ["bptt", "d-rtrl", "es-d-rtrl"] {
        let line = "--dataset made --made-samples 800 200 --batch-size 32 --learning-rate 0.002 --train-epochs 4";
        let accuracy = gesture_accuracy("made", &format!("{line} --method {method}"));
        println!("{method}: patterns it has not seen, {accuracy:.2}");
        assert!(accuracy > 0.6, "{method}: accuracy {accuracy} on patterns it has not seen");
    }
}

#[test]
#[ignore = "needs recordings that are not part of the project, in ../shared"]
fn every_rule_learns_ten_real_clips() {
    let clips = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/real-samples/dvs128-gesture-slayer");
    for method in ["bptt", "d-rtrl", "es-d-rtrl"] {
        let line = format!("--data {} --batch-size 10 --learning-rate 0.003 --train-epochs 50", clips.display());
        let accuracy = gesture_accuracy("clips", &format!("{line} --method {method}"));
        assert_eq!(accuracy, 1.0, "{method} has not learned the ten clips");
    }
}
