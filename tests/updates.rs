//! A training program that has run for a while must compute what a fresh program computes from the same parameters.
//!
//! XLA's CPU backend can keep packed copies of weights that it believes constant (see `hlo::pjrt::options`): training then went on
//! with the input weights of its first batch, and every checkpoint was worth nothing.

use etrace::{
    cell::Mode,
    learn::{Method, Objective, Vjp, sequence::LearnerConfig},
    net::{GestureNet, SpeechNet},
    train::{
        optimizer::Optimizer,
        program::{self, EvalProgram, Spec, TrainProgram},
        replicas::Parts,
        session::Session,
        trainer::arrays,
    },
};
use hlo::pjrt::Device;
use tasks::{GestureSet, RandomSpikes, Split, Task};

/// Losses of the last batch after some updates: by the program that trained, by a fresh one, by evaluation.
fn losses(session: &Session, spec: &Spec, task: &dyn Task) -> [f32; 3] {
    let train = TrainProgram::new(session, spec).expect("a program");
    let mut state = program::start(session, &spec.model, spec.optimizer.rule, 0).expect("parameters");
    let batch = |step| {
        let batch = task.batch(Split::Train, 0, 0, step, spec.model.batch()).expect("a batch");
        arrays(batch).expect("arrays")
    };
    for step in 0..8 {
        let (x, y) = batch(step);
        state = train.step(session, state, 0.01, &[], &x, &y).expect("an update").0;
    }
    let (x, y) = batch(9);
    let (state, used) = train.step(session, state, 0.0, &[], &x, &y).expect("an update");
    let fresh = TrainProgram::new(session, spec).expect("a program");
    let (state, fresh) = fresh.step(session, state, 0.0, &[], &x, &y).expect("an update");
    let eval = EvalProgram::new(session, spec).expect("a program");
    let report = eval.run(&state, &[], &x, &y).expect("an evaluation");
    [used.loss, fresh.loss, report.losses.iter().sum::<f32>() / report.losses.len() as f32]
}

fn spec(model: impl Fn(Mode) -> etrace::cell::Model, method: Method, steps: usize) -> Spec {
    let mode = if method.is_online() { Mode::Online } else { Mode::Offline };
    Spec {
        model: model(mode),
        evaluation: model(Mode::Evaluation),
        objective: Objective::default(),
        learner: LearnerConfig { method, vjp: Vjp::MultiStep { window: 1 }, ..LearnerConfig::default() },
        optimizer: Optimizer { clip: 0.0, ..Optimizer::default() },
        steps,
        mean_over_time: false,
        parts: Parts::ONE,
    }
}

#[test]
fn a_program_that_has_trained_agrees_with_a_fresh_one() {
    let session = Session::open(Device::Cpu, None, &mut |_| {}).expect("a CPU device");
    let gestures = GestureSet { steps: 40, ..GestureSet::default() }.open().expect("a set");
    let speech = RandomSpikes { steps: 50, n_in: 700, n_out: 20, rate: 0.05 };
    for method in [Method::BPTT, Method::D_RTRL, Method::es_d_rtrl(0.9)] {
        let net = GestureNet {
            frame_size: 32,
            scale: 1.0,
            cnn: false,
            dropout: 0.0,
            units: 16,
            n_out: 8,
            ..GestureNet::default()
        };
        let with_gestures = spec(|mode| net.model(32, mode), method, 40);
        let net = SpeechNet { dropout: 0.0, inp_scale: 20.0, ..SpeechNet::default() };
        let with_speech = spec(|mode| net.model(32, mode), method, 50);
        let cases: [(&str, &Spec, &dyn Task); 2] =
            [("gestures", &with_gestures, &gestures), ("speech", &with_speech, &speech)];
        for (name, spec, task) in cases {
            let [used, fresh, eval] = losses(&session, spec, task);
            let same = |a: f32, b: f32| (a - b).abs() < 1e-4 * b.abs();
            assert!(same(used, fresh) && same(eval, fresh), "{name}, {}: {used} {fresh} {eval}", method.name());
        }
    }
}
