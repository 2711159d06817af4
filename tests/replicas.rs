//! Training on several devices in step is training on one, but for rounding. The devices are those that a CPU pretends to have.

use std::{collections::HashMap, num::NonZeroUsize, path::Path, sync::Arc};

#[path = "common/runs.rs"]
#[allow(dead_code, reason = "each file of tests uses a part")]
mod common;

use common::{Folder, checkpoint, etrace, fails, log, succeeds};

use etrace::{
    experiment::Experiment,
    learn::Method,
    settings::{Change, change},
    train::{
        evaluate::evaluate,
        history::History,
        optimizer::{Optimizer, Rule},
        program::{self, EvalProgram, ProgramError, TrainProgram, drawn_states},
        replicas::Parts,
        session::Session,
        trainer::arrays,
    },
};
use hlo::pjrt::{ClientOptions, Device, Devices, Plugin, PluginKind};
use tasks::{Split, Task};

fn sessions() -> Vec<Session> {
    let plugin = Plugin::find(PluginKind::Cpu, None, &mut |_| {}).expect("a CPU plugin");
    let devices = |n| Devices::Count(NonZeroUsize::new(n).expect("a device"));
    let session =
        |n| Session::on(&plugin, Device::Cpu, &ClientOptions { devices: devices(n), ..ClientOptions::default() });
    [1, 2, 4, 8].map(|n| session(n).expect("pretended devices")).into()
}

fn set(experiment: &Experiment, changes: &str) -> Experiment {
    changes.split_whitespace().fold(experiment.clone(), |experiment, text| {
        let one: Change = text.parse().expect("KEY=VALUE");
        change(&experiment, &one).unwrap_or_else(|e| panic!("{text}: {e}"))
    })
}

/// Momentum without clipping: after one update its only array is the gradient.
fn bare() -> Optimizer {
    Optimizer { rule: Rule::Momentum, clip: 0.0, ..Optimizer::default() }
}

/// What the first update of an experiment finds.
struct Found {
    loss: f64,
    accuracy: f64,
    /// Gradients, one array for each trained parameter, and then the parameters that are tracked.
    arrays: Vec<Vec<f64>>,
}

/// The first `real` sequences of the batch have a target; the others only fill it up.
fn first_update(
    session: &Session,
    experiment: &Experiment,
    task: &Arc<dyn Task>,
    real: usize,
) -> Result<Found, ProgramError> {
    let spec = experiment.spec_of(task.steps(), Parts(session.replicas()))?;
    let program = TrainProgram::new(session, &spec)?;
    let state = program::start(session, &spec.model, spec.optimizer.rule, 1)?;
    let drawn = drawn_states(&spec.model, spec.parts, 1, 0);
    let mut batch = task.batch(Split::Train, 1, 0, 0, experiment.settings.batch).expect("a batch");
    batch.targets[real..].fill(-1);
    let (inputs, target) = arrays(batch).expect("arrays");
    let (state, report) = program.step(session, state, 1e-3, &drawn, &inputs, &target)?;
    let tracked = spec.model.tracked.iter().map(|t| &state.params[t.param]);
    let host = state.slots.iter().chain(tracked).map(|b| b.to_array().expect("an array").to_f64_vec());
    Ok(Found { loss: report.loss.into(), accuracy: report.score.into(), arrays: host.collect() })
}

/// The largest difference of two sets of arrays, as a share of the largest value of each array.
fn difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let of = |(a, b): (&Vec<f64>, &Vec<f64>)| {
        let largest = a.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let apart = a.iter().zip(b).fold(0.0, |m: f64, (x, y)| m.max((x - y).abs()));
        if apart == 0.0 { 0.0 } else { apart / largest }
    };
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(of).fold(0.0, f64::max)
}

/// Small versions of all published experiments, and what each of them has that could go wrong.
const EXPERIMENTS: [(&str, &str); 5] = [
    // Initial potentials drawn anew for each batch.
    ("dms-small", "task.t_delay=20 task.t_sample=50 task.t_test=50 net=alif-std-exp-cu net.n_rec=8 learner.warmup=16"),
    ("ei-small", "task.cues=2 task.t_delay=20 net.n_rec=10 learner.warmup=320"),
    // Dropout, and running statistics of batch norm.
    (
        "shd-radlif",
        "task=random task.steps=12 task.n_in=20 net.n_in=20 net.hidden=[8] net.dropout=0.3 net.norm={kind='batch',momentum=0.9,statistics='running'}",
    ),
    // Zoneout, and convolutions.
    (
        "gesture",
        "task=made task.steps=5 task.size=32 net.frame_size=32 net.units=6 net.layers=1 net.cell=event-gru net.n_out=8",
    ),
    ("memspeed", "task.steps=9 net.n_rec=8 net.n_in=16 task.n_in=16"),
];

#[test]
fn every_experiment_and_rule_has_the_gradients_of_one_device() {
    let sessions = sessions();
    let mut tried: HashMap<&str, usize> = HashMap::new();
    for (preset, changes) in EXPERIMENTS {
        let mut experiment = set(&Experiment::published(preset).expect("a preset"), changes);
        (experiment.settings.batch, experiment.optimizer) = (8, bare());
        let task = experiment.task.open().expect("made trials");
        experiment.fits(task.as_ref()).unwrap_or_else(|e| panic!("{preset}: {e}"));
        for method in Method::all() {
            // All rules on the first experiment; on the others those of the papers.
            if preset != "dms-small" && !["bptt", "d-rtrl", "es-d-rtrl"].contains(&method.name()) {
                continue;
            }
            experiment.learner.method = method;
            let whole = match first_update(&sessions[0], &experiment, &task, 8) {
                Ok(whole) => whole,
                Err(ProgramError::Learn(refused)) => {
                    println!("{preset}, {}: {refused}", method.name());
                    continue;
                }
                Err(other) => panic!("{preset}, {}: {other}", method.name()),
            };
            *tried.entry(preset).or_default() += 1;
            if method.name() == "uoro" {
                let refused =
                    first_update(&sessions[1], &experiment, &task, 8).err().expect("it is refused").to_string();
                assert!(refused.contains("one trace for all sequences"), "{refused}");
                continue;
            }
            agree(&sessions, &whole, &experiment, &task, 8, &format!("{preset}, {}", method.name()));
        }
    }
    assert!(
        tried["dms-small"] >= 15 && tried.len() == EXPERIMENTS.len() && tried.values().all(|n| *n >= 3),
        "{tried:?}"
    );
}

/// That several devices find what one has found.
fn agree(sessions: &[Session], whole: &Found, experiment: &Experiment, task: &Arc<dyn Task>, real: usize, what: &str) {
    assert!(whole.arrays.iter().flatten().any(|g| *g != 0.0), "{what}: the network is alive");
    for session in &sessions[1..] {
        let found = first_update(session, experiment, task, real).expect("what one device can, several can");
        let (replicas, apart) = (session.replicas(), difference(&whole.arrays, &found.arrays));
        println!("{what}, {replicas} replicas: {apart:.1e}");
        assert!(apart < 1e-6, "{what}, {replicas} replicas: {apart:e}");
        assert!((whole.loss - found.loss).abs() < 1e-6 * whole.loss.abs(), "{what}, {replicas} replicas");
        assert!((whole.accuracy - found.accuracy).abs() < 1e-6, "{what}, {replicas} replicas");
    }
}

#[test]
fn rows_that_fill_up_a_batch_and_updates_inside_a_sequence_are_as_on_one_device() {
    let sessions = sessions();
    let (preset, changes) = EXPERIMENTS[0];
    let mut experiment = set(&Experiment::published(preset).expect("a preset"), changes);
    (experiment.settings.batch, experiment.optimizer) = (8, bare());
    let task = experiment.task.open().expect("made trials");
    let check = |experiment: &Experiment, real: usize, what: &str| {
        let whole = first_update(&sessions[0], experiment, &task, real).expect("one device can");
        agree(&sessions, &whole, experiment, &task, real, what);
    };
    // Of eight parts, five have no sequence that counts.
    check(&experiment, 3, "three sequences of eight");
    // The array of momentum holds the gradients of all updates of the sequence, those of changed parameters too.
    experiment.learner.update_every = Some(3);
    check(&experiment, 8, "updates inside a sequence");
    check(&experiment, 3, "updates inside three sequences of eight");
}

#[test]
fn an_evaluation_says_the_same_of_every_sample() {
    let mut experiment = set(&Experiment::published("gesture").expect("a preset"), EXPERIMENTS[3].1);
    experiment.settings.batch = 8;
    experiment = set(&experiment, "task.train=8 task.test=11"); // Eleven samples leave a batch of three.
    let task = experiment.task.open().expect("made gestures");
    let mut first = None;
    for session in sessions() {
        let spec = experiment.spec_of(task.steps(), Parts(session.replicas())).expect("it divides");
        let state = program::start(&session, &spec.model, spec.optimizer.rule, 3).expect("parameters");
        let eval = EvalProgram::new(&session, &spec).expect("it compiles");
        let found = evaluate(&eval, &task, &state, Split::Test, (1, None), 1, &mut || {}).expect("an evaluation");
        assert_eq!(found.answers.len(), 11);
        let (answers, loss) = first.get_or_insert_with(|| (found.answers.clone(), found.loss));
        assert_eq!(*answers, found.answers, "{} replicas", session.replicas());
        assert!((*loss - found.loss).abs() < 1e-5 * loss.abs());
    }
}

const SMALL: &str =
    "train dms-small --set settings.batch=8 --set task.t_delay=20 --set task.t_sample=100 --set task.t_test=100 -q";

#[test]
fn a_run_goes_on_with_as_many_replicas_or_others() {
    let folder = Folder::new("replicas");
    let last = |run: &str| checkpoint(Path::new(run), "last");
    let [whole, halves, other] = ["whole", "halves", "other"].map(|name| folder.join(name));
    succeeds(&format!("{SMALL} --epochs 6 --replicas 4 --out {whole}"));
    succeeds(&format!("{SMALL} --epochs 3 --replicas 4 --out {halves}"));
    succeeds(&format!("{SMALL} --epochs 3 --replicas 4 --out {other}"));
    // Without the flag, as before: to the byte.
    succeeds(&format!("train --resume {halves} --epochs 6 -q"));
    assert_eq!(last(&whole), last(&halves));
    // On one device: to rounding, and the log says so.
    succeeds(&format!("train --resume {other} --epochs 6 --replicas 1 -q"));
    let losses = |run: &str| -> Vec<f64> {
        History::read(Path::new(run)).expect("a recorded run").updates.iter().map(|u| u.loss).collect()
    };
    let (a, b) = (losses(&whole), losses(&other));
    assert!(a.len() == 6 && a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4 * a.abs()), "{a:?} {b:?}");
    let said = format!("{:?}", log(Path::new(&other)));
    assert!(said.contains("the number of replicas"), "{said}");
}

fn sets(changes: &str) -> String {
    changes.split_whitespace().map(|c| format!("--set {c} ")).collect()
}

#[test]
fn what_several_devices_cannot_do_is_refused() {
    let error = fails(&format!("{SMALL} --epochs 1 --replicas 3"), 2);
    assert!(error.contains("got a batch of 8 for 3 replicas; use a batch of 6 or 9"), "{error}");
    let error = fails(&format!("{SMALL} --epochs 1 --replicas 16"), 2);
    assert!(error.contains("use a batch of 16"), "{error}");
    let error = fails(&format!("{SMALL} --epochs 1 --replicas 2 --set objective.regularizer.spike=1"), 2);
    assert!(error.contains("regulariser") && error.contains("--replicas 1"), "{error}");
    let speech = sets(EXPERIMENTS[2].1).replace("running", "batch");
    let error =
        fails(&format!("train shd-lif {speech} --set settings.batch=8 --method bptt --epochs 1 --replicas 2"), 2);
    assert!(error.contains("statistics of the batch"), "{error}");
    for wrong in ["0", "-1", "many", "4097", "1e3"] {
        let error = fails(&format!("{SMALL} --epochs 1 --replicas={wrong}"), 2);
        assert!(error.contains("--replicas"), "{error}");
    }
    let output =
        etrace("memspeed --length 8 --n_rec 8 --n_in 8 --batch_size 4 --replicas 2 --drive step --method d-rtrl");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("one device"), "{said}");
}

#[test]
fn one_exchange_outside_of_loops_holds_the_gradients() {
    for method in ["bptt", "d-rtrl", "es-d-rtrl"] {
        let line = format!(
            "memspeed --length 20 --n_rec 16 --n_in 32 --batch_size 8 --method {method} --replicas 4 --dry-run"
        );
        let (said, _) = succeeds(&line);
        // Three layers of 16 neurons, 10 outputs; loss, accuracy and the share of real sequences.
        assert!(said.contains("4 replicas of 2 sequences each"), "{said}");
        assert!(said.contains("into 1 exchange, 0 of them in loops"), "{method}: {said}");
    }
}
