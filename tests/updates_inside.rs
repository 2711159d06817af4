//! Updates inside a sequence (`--update_every`): the same as a stream that is updated every K steps, counted and stored as other runs are;
//! and steps without loss, which update nothing.

#[path = "common/runs.rs"]
#[allow(dead_code, reason = "each file of tests uses a part")]
mod common;

use std::{error::Error, path::Path};

use common::{Folder, checkpoint, etrace, fails, metrics, succeeds};
use etrace::{
    learn::{Method, Target, TargetKind, Vjp, signal::Ahead},
    prelude::*,
    train::{
        optimizer::Rule,
        program::{self, Spec, TrainProgram, TrainState},
        replicas::Parts,
    },
};

type Outcome = Result<(), Box<dyn Error>>;

const STEPS: usize = 17;
const WARMUP: usize = 3;
const BATCH: usize = 3;
const N_IN: usize = 4;

/// A recurrent layer of leaky neurons with a soft reset, and a leaky readout.
fn network() -> Model {
    Model::trace(BATCH, N_IN, |cx, x| {
        let v = cx.state("V", 6, StateInit::Zeros);
        let before = Surrogate::default().spike(&(&v - 1.0));
        let init = [Init::KaimingNormal(3.0), Init::KaimingNormal(1.0)];
        let new = (&v - &before) * 0.9 + cx.dense("layer", &[x, &before], 6, &Dense::new(&init));
        cx.set("V", &new);
        readout::leaky(cx, &Surrogate::default().spike(&(&new - 1.0)), 2, 10.0, 1.0)
    })
    .expect("a model")
}

fn inputs() -> Array {
    let mut random = etrace::rng::Stream::new(5, "inputs");
    let counts: Vec<u8> = (0..STEPS * BATCH * N_IN).map(|_| u8::from(random.uniform() < 0.4)).collect();
    Array::u8(counts, [STEPS, BATCH, N_IN]).expect("counts")
}

fn classes(of: [i32; BATCH]) -> Array {
    Array::s32(of, [BATCH]).expect("classes")
}

fn optimizer() -> Optimizer {
    Optimizer { lr: 0.02, ..Optimizer::default() }
}

fn values(state: &TrainState) -> Vec<f64> {
    let of = |b: &Buffer| b.to_array().expect("an array").to_f64_vec();
    state.params.iter().chain(&state.slots).chain([&state.count]).flat_map(of).collect()
}

/// Steps `from .. to` of the inputs.
fn part(all: &Array, from: usize, to: usize) -> Array {
    let row = BATCH * N_IN;
    Array::u8(&all.bytes()[from * row..to * row], [to - from, BATCH, N_IN]).expect("steps")
}

/// What a training program makes of the sequence twice over; the second report.
fn by_program(session: &Session, config: &LearnerConfig) -> Result<(TrainState, program::StepReport), Box<dyn Error>> {
    let model = network();
    let spec = Spec {
        evaluation: model.clone(),
        model,
        objective: Objective::default(),
        learner: config.clone(),
        optimizer: optimizer(),
        steps: STEPS,
        mean_over_time: false,
        parts: Parts::ONE,
    };
    let train = TrainProgram::new(session, &spec)?;
    let state = program::start(session, &spec.model, Rule::Adam, 1)?;
    let (state, _) = train.step(session, state, 0.02, &[], &inputs(), &classes([0, 1, 1]))?;
    Ok(train.step(session, state, 0.02, &[], &inputs(), &classes([0, 1, 1]))?)
}

/// What a loop of one's own makes of it: a stream, and an update after every so many steps.
fn by_stream(session: &Session, config: &LearnerConfig, every: usize) -> Result<(TrainState, f32), Box<dyn Error>> {
    let model = network();
    let config = LearnerConfig { warmup: 0, update_every: None, ..config.clone() };
    let engine = Engine::new(session, &model, &Objective::default(), &config)?;
    let length = if let Vjp::MultiStep { window } = config.vjp { window } else { 1 };
    let (mut state, mut largest) = (engine.start(Rule::Adam, 1)?, 0.0f32);
    for _ in 0..2 {
        let mut stream = engine.stream(length, engine.states(1, 0)?)?;
        largest = 0.0;
        for from in (0..STEPS).step_by(length) {
            let target = classes([0, 1, 1]);
            let counts = from >= WARMUP;
            stream.advance(&state.params, &part(&inputs(), from, from + length), counts.then_some(&target))?;
            let done = from + length - WARMUP.min(from + length);
            if counts && (done.is_multiple_of(every) || from + length == STEPS) {
                let grads = stream.gradient(&state.params)?;
                let norm;
                (state, norm) = engine.update(&optimizer(), state, &grads)?;
                largest = largest.max(norm);
            }
        }
    }
    Ok((state, largest))
}

#[test]
fn updates_inside_a_sequence_are_those_of_a_stream() -> Outcome {
    let session = Session::cpu()?;
    let single = Vjp::default();
    let mut tried = 0;
    for method in Method::all().filter(|m| m.is_online()) {
        // 4 leaves two of the 14 steps with loss for a shorter last update, 1 is an update in every step, 9 is one loop less.
        for every in if method == Method::D_RTRL { vec![1, 4, 9] } else { vec![4] } {
            let config =
                LearnerConfig { method, vjp: single, warmup: WARMUP, update_every: Some(every), ..Default::default() };
            let (got, report) = by_program(&session, &config)?;
            let (want, largest) = by_stream(&session, &config, every)?;
            let (got, want) = (values(&got), values(&want));
            let apart = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 2e-4, "{} {every}: {apart}", method.name());
            assert!((report.norm - largest).abs() < 1e-3 * largest, "{}: {} {largest}", method.name(), report.norm);
            assert_eq!(*got.last().ok_or("a count")?, 2.0 * 14usize.div_ceil(every) as f64, "updates are counted");
            let (one, _) = by_program(&session, &LearnerConfig { update_every: None, ..config })?;
            let moved = values(&one).iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(moved > 1e-3, "{}: more updates end elsewhere", method.name());
            tried += 1;
        }
    }
    assert!(tried > 14, "every online rule");
    Ok(())
}

/// Windows do not go across updates: back-propagation truncated to a window, with an update after each.
#[test]
fn windows_end_at_updates() -> Outcome {
    let session = Session::cpu()?;
    let vjp = Vjp::MultiStep { window: 7 };
    let method = Method::by_name("immediate", 0.9).ok_or("a rule")?;
    let config = LearnerConfig { method, vjp, warmup: 0, update_every: Some(7), ..Default::default() };
    let model = network();
    let spec = |steps| Spec {
        evaluation: model.clone(),
        model: model.clone(),
        objective: Objective::default(),
        learner: config.clone(),
        optimizer: optimizer(),
        steps,
        mean_over_time: false,
        parts: Parts::ONE,
    };
    let train = TrainProgram::new(&session, &spec(14))?;
    let start = program::start(&session, &model, Rule::Adam, 1)?;
    let got = train.step(&session, start, 0.02, &[], &part(&inputs(), 0, 14), &classes([0, 1, 1]))?.0;
    // By hand: BPTT of 7 steps, an update, and of the 7 that follow, from the states that the first left.
    let exact = LearnerConfig { method: Method::BPTT, ..Default::default() };
    let engine = Engine::new(&session, &model, &Objective::default(), &exact)?;
    let (mut state, mut states) = (engine.start(Rule::Adam, 1)?, engine.states(1, 0)?);
    for from in [0, 7] {
        let seen = engine.sequence(&state.params, &states, &part(&inputs(), from, from + 7), &classes([0, 1, 1]))?;
        state = engine.update(&optimizer(), state, &seen.grads)?.0;
        states = seen.states;
    }
    let apart = values(&got).iter().zip(values(&state)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-5, "{apart}");
    Ok(())
}

/// A row of class -1 carries no loss. Where no row of an update does, nothing moves; where one does, it does not matter that others do not.
#[test]
fn a_step_without_loss_does_not_advance_the_optimizer() -> Outcome {
    let (session, model) = (Session::cpu()?, network());
    for update_every in [None, Some(5)] {
        let learner = LearnerConfig { update_every, ..Default::default() };
        let spec = Spec {
            evaluation: model.clone(),
            model: model.clone(),
            objective: Objective::default(),
            learner,
            optimizer: Optimizer { weight_l2: 0.1, ..optimizer() },
            steps: STEPS,
            mean_over_time: false,
            parts: Parts::ONE,
        };
        let train = TrainProgram::new(&session, &spec)?;
        let start = program::start(&session, &model, Rule::Adam, 1)?;
        let (first, _) = train.step(&session, start, 0.02, &[], &inputs(), &classes([0, 1, 1]))?;
        let before = values(&first);
        let (masked, report) = train.step(&session, first, 0.02, &[], &inputs(), &classes([-1, -1, -1]))?;
        assert_eq!(values(&masked), before, "moments, decay, and count of updates: {update_every:?}");
        assert_eq!((report.norm, report.loss), (0.0, 0.0));
        let (some, _) = train.step(&session, masked, 0.02, &[], &inputs(), &classes([-1, 1, -1]))?;
        assert_ne!(values(&some), before, "one row is enough");
    }
    Ok(())
}

/// The same on streams, where targets are masked step by step, and in own loops over sequences. The schedule does not advance either.
#[test]
fn an_own_loop_updates_nothing_without_loss() -> Outcome {
    let (session, model) = (Session::cpu()?, network());
    let objective = Objective::new(Default::default(), Target { kind: TargetKind::Class, per_step: true });
    let engine = Engine::new(&session, &model, &objective, &LearnerConfig::default())?;
    let optimizer =
        Optimizer { schedule: etrace::train::optimizer::Schedule::Step { every: 1, gamma: 0.5 }, ..optimizer() };
    let steps = |of: [i32; BATCH]| Array::s32(of, [1, BATCH]).expect("classes of a step");
    let run = |plan: &[Option<[i32; BATCH]>]| -> Result<(TrainState, usize), Box<dyn Error>> {
        let (mut state, mut made) = (engine.start(Rule::Adam, 1)?, 0);
        let mut stream = engine.stream(1, engine.states(1, 0)?)?;
        for (t, target) in plan.iter().enumerate() {
            let target = target.map(steps);
            stream.advance(&state.params, &part(&inputs(), t, t + 1), target.as_ref())?;
            let grads = stream.gradient(&state.params)?;
            made += usize::from(grads.counted());
            assert_eq!(grads.counted(), target.is_some_and(|t| t.to_f64_vec().iter().any(|c| *c >= 0.0)));
            state = engine.update(&optimizer, state, &grads)?.0;
        }
        Ok((state, made))
    };
    let (masked, quiet) = (Some([-1; BATCH]), None);
    let (state, made) = run(&[Some([0, 1, 1]), masked, quiet, Some([-1, 0, -1]), masked])?;
    assert_eq!((made, *values(&state).last().ok_or("a count")?), (2, 2.0));
    let (before, _) = run(&[Some([0, 1, 1]), masked, quiet, Some([-1, 0, -1])])?;
    assert_eq!(values(&state), values(&before), "the last step, without loss, changed nothing");
    // A whole sequence without loss: where the last target that counts lies in the warm-up, too.
    let late = Engine::new(&session, &model, &objective, &LearnerConfig { warmup: 2, ..Default::default() })?;
    let mut targets = vec![-1; STEPS * BATCH];
    targets[..2 * BATCH].fill(1);
    let seen =
        late.sequence(&state.params, &late.states(1, 0)?, &inputs(), &Array::s32(targets.clone(), [STEPS, BATCH])?)?;
    assert!(!seen.grads.counted());
    let (same, norm) = late.update(&optimizer, state, &seen.grads)?;
    assert_eq!((values(&same), norm), (values(&before), 0.0));
    targets[2 * BATCH] = 0;
    let targets = Array::s32(targets, [STEPS, BATCH])?;
    assert!(late.sequence(&same.params, &late.states(1, 0)?, &inputs(), &targets)?.grads.counted());
    Ok(())
}

#[test]
fn what_cannot_be_updated_inside_is_refused_by_name() -> Outcome {
    let session = Session::cpu()?;
    let of = |method: &str| Method::by_name(method, 0.9).expect("a rule");
    let base = LearnerConfig { update_every: Some(4), ..Default::default() };
    for (config, says) in [
        (LearnerConfig { method: Method::BPTT, ..base.clone() }, "truncated"),
        (LearnerConfig { update_every: Some(0), ..base.clone() }, "at least 1"),
        (LearnerConfig { trace: etrace::learn::form::TraceSetting::Whole, ..base.clone() }, "--update_every"),
        (LearnerConfig { trace: etrace::learn::form::TraceSetting::FixedLag, ..base.clone() }, "--update_every"),
        (LearnerConfig { trace: etrace::learn::form::TraceSetting::Recompute, ..base.clone() }, "--update_every"),
        (LearnerConfig { signal: Ahead::Readout, ..base.clone() }, "--update_every"),
        (LearnerConfig { method: of("immediate"), vjp: Vjp::MultiStep { window: 3 }, ..base.clone() }, "whole windows"),
    ] {
        let error = by_program(&session, &config).err().ok_or("refused")?.to_string();
        assert!(error.contains(says), "{error}");
        // As long as the sequence it is no update inside, and goes with everything.
        if config.update_every == Some(4) && config.trace != etrace::learn::form::TraceSetting::FixedLag {
            by_program(&session, &LearnerConfig { update_every: Some(STEPS), ..config })?;
        }
    }
    let error = Engine::new(&session, &network(), &Objective::default(), &base).err().ok_or("refused")?.to_string();
    assert!(error.contains("Engine::update"), "{error}");
    Ok(())
}

/// 20 of the 62 steps carry loss.
const SMALL: &str =
    "dms --dt 5 --n_rec 16 --batch_size 8 --t_delay 20 --t_fixation 10 --A2 1 --ff_scale 40 --seed 3 --acc_th 1 -q";

/// Steps with loss of [`SMALL`].
fn counted(folder: &Folder) -> usize {
    let text = succeeds(&format!("{SMALL} --epochs 1 --method d-rtrl --out {}", folder.join("counted"))).0;
    let (_, rest) = text.split_once("loss in the last ").expect("a headline");
    rest.split(';').next().and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn an_update_at_the_end_is_the_one_that_was_always_there() {
    let folder = Folder::new("whole");
    let all = counted(&folder);
    for (k, rule) in
        ["d-rtrl", "es-d-rtrl", "bptt", "d-rtrl --signal readout --vjp_method single-step"].iter().enumerate()
    {
        let runs = ["without", "with"].map(|name| folder.join(&format!("{name}-{k}")));
        succeeds(&format!("{SMALL} --epochs 4 --method {rule} --out {}", runs[0]));
        succeeds(&format!("{SMALL} --epochs 4 --method {rule} --update_every {all} --out {}", runs[1]));
        let [a, b] = runs.each_ref().map(Path::new);
        assert_eq!(metrics(a), metrics(b), "{rule}");
        assert_eq!(checkpoint(a, "last"), checkpoint(b, "last"), "{rule}");
    }
}

#[test]
fn a_run_with_updates_inside_is_resumed_exactly_and_counts_batches() {
    let folder = Folder::new("resumed");
    let line = format!("{SMALL} --method d-rtrl --update_every 7");
    let [whole, halves, other] = ["whole", "halves", "other"].map(|name| folder.join(name));
    let text = succeeds(&format!("{line} --epochs 9 --out {whole}")).0;
    assert!(text.contains("an update every 7;"), "{text}");
    succeeds(&format!("{line} --epochs 4 --out {halves}"));
    succeeds(&format!("dms --resume {halves} --epochs 9 -q"));
    let [whole, halves] = [&whole, &halves].map(Path::new);
    assert_eq!(metrics(whole), metrics(halves));
    assert_eq!(metrics(whole).len(), 9, "a line for each batch, however many updates it has");
    assert_eq!(checkpoint(whole, "last"), checkpoint(halves, "last"));
    let config = std::fs::read_to_string(whole.join("config.toml")).expect("a configuration");
    assert!(config.contains("update_every = 7"), "{config}");
    succeeds(&format!("{SMALL} --method d-rtrl --epochs 9 --out {other}"));
    assert_ne!(metrics(whole), metrics(Path::new(&other)), "more updates make another run");
}

#[test]
fn the_command_refuses_what_makes_no_sense() {
    let folder = Folder::new("refused");
    let too_many = counted(&folder) + 1;
    for (flags, says) in [
        (format!("--update_every {too_many} --method d-rtrl"), "steps that carry loss"),
        ("--update_every 0 --method d-rtrl".into(), "at least 1"),
        ("--update_every 5 --method bptt".into(), "--method immediate"),
        ("--update_every 5 --method d-rtrl --trace whole".into(), "--update_every"),
    ] {
        let error = fails(&format!("{SMALL} {flags} --dry-run"), 2);
        assert!(error.contains(says), "{flags}: {error}");
    }
    let line =
        "memspeed --n_in 8 --n_rec 8 --n_layer 1 --batch_size 2 --length 12 --methods d-rtrl --repeats 1 --drive step";
    let odd = etrace(&format!("{line} --update_every 3 --chunk 2 --out {}", folder.join("odd")));
    let text = String::from_utf8_lossy(&odd.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(odd.status.code() == Some(1) && text.contains("whole chunks"), "{text}");
    succeeds(&format!("{line} --update_every 4 --chunk 2 --out {}", folder.join("even")));
}
