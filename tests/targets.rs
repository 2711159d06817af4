//! Runs whose steps have targets of their own: classes (copying) and numbers (pattern generation).

use std::{fs, path::Path, sync::Arc};

#[path = "common/runs.rs"]
#[allow(dead_code, reason = "each file of tests uses a part")]
mod common;

use common::{Folder, checkpoint, etrace, fails};
use etrace::{
    experiment::Experiment,
    learn::{Method, Vjp, form::TraceSetting, sequence::LearnerConfig},
    settings::{Change, change},
    train::{
        evaluate::evaluate,
        history::History,
        observe::Observation,
        program::{self, EvalProgram, TrainProgram, drawn_states},
        replicas::Parts,
        score::{Measure, Score},
        session::Session,
        trainer::arrays,
    },
};
use hlo::pjrt::{ClientOptions, Device, Plugin, PluginKind};
use tasks::{Split, Task};

const COPYING: &str = "copying --set net.n_rec=16 --set settings.batch=32 --set task.delay=4";
const PATTERN: &str =
    "pattern --set net.n_rec=16 --set task.steps=40 --set task.n_out=2 --set net.n_out=2 --set settings.batch=4";

/// What a command that must succeed prints.
#[track_caller]
fn succeeds(line: &str) -> String {
    common::succeeds(line).0
}

fn last(run: &str) -> Vec<u8> {
    checkpoint(Path::new(run), "last")
}

fn session() -> Session {
    let plugin = Plugin::find(PluginKind::Cpu, None, &mut |_| {}).expect("a CPU plugin");
    Session::on(&plugin, Device::Cpu, &ClientOptions::default()).expect("a CPU")
}

/// An experiment as the command line would make it.
fn experiment(line: &str) -> Experiment {
    let mut words = line.split_whitespace();
    let preset = Experiment::published(words.next().expect("a name")).expect("a preset");
    words.filter(|word| *word != "--set").fold(preset, |all, text| {
        let one: Change = text.parse().expect("KEY=VALUE");
        change(&all, &one).unwrap_or_else(|e| panic!("{text}: {e}"))
    })
}

fn open(all: &mut Experiment) -> Arc<dyn Task> {
    let task = all.task.open().expect("settings that make sense");
    all.learner.warmup = task.warmup();
    all.fits(task.as_ref()).expect("shapes that fit");
    task
}

/// Loss and score of the first batch under every way to learn, of the evaluation of the same batch, and counted by hand are the same.
#[test]
fn every_form_says_the_same_score() {
    let session = session();
    for line in [COPYING, PATTERN] {
        let mut all = experiment(line);
        let task = open(&mut all);
        let spec = all.spec(task.steps());
        let batch = task.batch(Split::Train, 1, 0, 0, all.settings.batch).expect("a batch");
        let (inputs, target) = arrays(batch.clone()).expect("arrays");
        let (rule, drawn) = (all.optimizer.rule, drawn_states(&spec.model, Parts::ONE, 1, 0));
        let start = || program::start(&session, &spec.model, rule, 1).expect("parameters");
        let state = start();
        let seen = Observation::new(&session, &spec, &state.params, batch.clone(), 1).expect("an observation");
        let by_hand = |b: usize| match all.measure() {
            Measure::Accuracy => {
                let steps = seen.steps(b);
                assert_eq!(steps.len(), 3);
                steps.iter().filter(|(_, target, answer)| *target == *answer as i32).count() as f64 / 3.0
            }
            Measure::Nmse => seen.nmse(b),
        };
        let n = all.settings.batch;
        let want = (0..n).map(by_hand).sum::<f64>() / n as f64;
        assert!(want > 0.0, "{line}: a score that says something");

        let eval = EvalProgram::new(&session, &spec).expect("an evaluation");
        let found = eval.run(&state, &drawn, &inputs, &target).expect("an evaluation");
        let of = |all: &[f32]| all.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
        let (loss, score) = (of(&found.losses), of(&found.scores));
        assert!((score - want).abs() < 1e-5 * want.max(1.0), "{line}: evaluation {score}, by hand {want}");

        let of_method = |method| LearnerConfig { method, ..all.learner.clone() };
        let mut ways = vec![of_method(Method::BPTT)];
        ways.extend(Method::all().filter(|m| m.is_online()).map(of_method));
        ways.extend([TraceSetting::Dense, TraceSetting::Whole, TraceSetting::Recompute].map(|trace| LearnerConfig {
            trace,
            chunk: Some(3),
            ..of_method(Method::D_RTRL)
        }));
        ways.push(LearnerConfig { vjp: Vjp::MultiStep { window: 3 }, ..of_method(Method::D_RTRL) });
        for learner in ways {
            let spec = program::Spec { learner: learner.clone(), ..all.spec(task.steps()) };
            let Ok(train) = TrainProgram::new(&session, &spec) else {
                // A rule that this network does not fit is refused, and learners are tested elsewhere.
                assert!(![Method::BPTT, Method::D_RTRL].contains(&learner.method), "{learner:?}");
                continue;
            };
            let (_, report) = train.step(&session, start(), 1e-3, &drawn, &inputs, &target).expect("an update");
            let (l, s) = (f64::from(report.loss), f64::from(report.score));
            assert!((s - want).abs() < 1e-4 * want.max(1.0), "{line}, {learner:?}: score {s}, by hand {want}");
            assert!((l - loss).abs() < 1e-4 * loss.max(1.0), "{line}, {learner:?}: loss {l}, evaluation {loss}");
            assert!(report.norm > 0.0, "{line}, {learner:?} learns");
        }
        let whole = evaluate(&eval, &task, &state, Split::Train, (1, Some(2)), 1, &mut || {}).expect("an evaluation");
        assert_eq!(whole.samples, 2 * n);
        match whole.score {
            Score::Accuracy(_) => assert_eq!(whole.answers.len(), 3 * 2 * n, "an answer for each step that counts"),
            Score::Nmse(_) => assert!(whole.answers.is_empty()),
        }
    }
}

#[test]
fn runs_are_resumed_bit_for_bit_also_with_updates_inside() {
    let folder = Folder::new("targets-resume");
    for (k, line) in [
        format!("{COPYING} --method d-rtrl"),
        format!("{PATTERN} --method bptt"),
        format!("{PATTERN} --method d-rtrl --update_every 8"),
        format!("{COPYING} --method es-d-rtrl --update_every 1"),
    ]
    .iter()
    .enumerate()
    {
        let (whole, halves) = (folder.join(&format!("{k}-whole")), folder.join(&format!("{k}-halves")));
        succeeds(&format!("train {line} --epochs 6 --out {whole}"));
        succeeds(&format!("train {line} --epochs 3 --out {halves}"));
        assert_ne!(last(&whole), last(&halves), "three more updates change something");
        succeeds(&format!("train --resume {halves} --epochs 6"));
        assert_eq!(last(&whole), last(&halves), "{line}");
    }
}

#[test]
fn replicas_say_what_one_device_says() {
    let folder = Folder::new("targets-replicas");
    for (name, line) in [("copying", COPYING), ("pattern", PATTERN)] {
        // Trials that differ, so that the parts of a batch do.
        let line = if name == "pattern" { format!("{line} --set task.jitter=0.3") } else { line.to_string() };
        let of = |n: usize| {
            let run = folder.join(&format!("{name}-{n}"));
            succeeds(&format!("train {line} --method d-rtrl --epochs 3 --replicas {n} --out {run}"));
            let said = succeeds(&format!("eval {run} --replicas {n} --batches 2"));
            let score = said.lines().next().expect("a line").split("updates: ").nth(1).expect("a score").to_string();
            (History::read(Path::new(&run)).expect("metrics").updates, score)
        };
        let ((one, eval_one), (two, eval_two)) = (of(1), of(2));
        for (a, b) in one.iter().zip(&two) {
            assert!((a.score - b.score).abs() < 1e-3 * a.score.max(1.0), "{name}: {a:?} and {b:?}");
            assert!((a.loss - b.loss).abs() < 1e-3 * a.loss.max(1.0), "{name}: {a:?} and {b:?}");
        }
        assert_eq!(eval_one.split(' ').next(), eval_two.split(' ').next(), "{eval_one}, {eval_two}");
    }
}

/// An error is nowhere called an accuracy, and less of it is better.
#[test]
fn an_error_is_not_called_an_accuracy() {
    let folder = Folder::new("targets-names");
    let (run, plain) = (folder.join("run"), folder.join("plain"));
    let said = succeeds(&format!("train {PATTERN} --epochs 12 --out {run}"));
    assert!(said.contains("nmse = ") && said.contains("mean NMSE of the last 12"), "{said}");
    let metrics = fs::read_to_string(Path::new(&run).join("metrics.jsonl")).expect("metrics");
    assert!(metrics.lines().all(|line| line.contains("\"nmse\":")), "{metrics}");
    let evaluated = succeeds(&format!("eval {run} --batches 1"));
    assert!(evaluated.contains("test NMSE ") && !evaluated.contains("confusion"), "{evaluated}");
    let observed = succeeds(&format!("observe {run} --samples 1"));
    assert!(observed.contains("NMSE") && observed.contains("sample-0.svg/.png\n"), "{observed}");
    for text in [&said, &metrics, &evaluated, &observed] {
        assert!(!text.contains("acc"), "{text}");
    }
    // The best checkpoint has the smallest smoothed error.
    let least = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let least = least.map(|row| row["smoothed"].as_f64().expect("a number")).fold(f64::INFINITY, f64::min);
    let best = etrace::train::checkpoint::progress(Path::new(&run), etrace::train::checkpoint::Name::Best);
    assert_eq!(best.expect("a checkpoint").best, Some(least));
    // Training ends where the error is small enough.
    let stopped =
        succeeds(&format!("train {PATTERN} --epochs 500 --set settings.stop_at=0.9 --out {}", folder.join("stop")));
    let last = fs::read_to_string(folder.join("stop/metrics.jsonl")).expect("metrics").lines().count();
    assert!(
        stopped.contains("\nBatch    1, loss") && stopped.contains(&format!("\nBatch {last:4}, loss")),
        "{stopped}"
    );
    assert!(
        stopped.contains(&format!("NMSE reaches 0.9 at batch {last}.")),
        "batches count as the lines of the file: {stopped}"
    );

    succeeds(&format!("train {COPYING} --epochs 2 --out {plain}"));
    let both = etrace(&format!("compare {run} {plain} --out {}", folder.join("both")));
    assert!(String::from_utf8_lossy(&both.stdout).contains("accuracy or NMSE"));
    let steps = succeeds(&format!("observe {plain} --samples 1"));
    assert!(steps.contains("steps that count"), "{steps}");
}

#[test]
fn what_does_not_fit_targets_per_step_is_refused() {
    for (line, words) in [
        ("pattern --set objective.loss=cross-entropy", "set objective.loss=mse"),
        ("pattern --set objective.of_sum=always", "set objective.of_sum=never"),
        ("copying --set objective.of_sum=evaluation", "set objective.of_sum=never"),
        ("copying --set learner.warmup=5", "set learner.warmup=13"),
        ("pattern --set task.steps=3", "steps is from 16"),
        ("pattern --set task.rate=2", "probability"),
    ] {
        let error = fails(&format!("train {line} --dry-run"), 2);
        assert!(error.contains(words), "{line}: {error}");
    }
}
