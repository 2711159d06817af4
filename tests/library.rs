//! The library as a program uses it: own networks, targets, losses, loops and streams. Mistakes are errors that name what was written.

use std::error::Error;

use etrace::{
    learn::form::{Form, TraceSetting},
    prelude::*,
    train::checkpoint::{self, Name},
};

const STEPS: usize = 12;
const BATCH: usize = 3;
const N_IN: usize = 4;

type Outcome = Result<(), Box<dyn Error>>;

/// A layer of leaky neurons without a way from neuron to neuron, and a readout without memory, so that D-RTRL is exact.
fn network() -> Model {
    Model::trace(BATCH, N_IN, |cx, x| {
        let v = cx.state("V", 6, StateInit::Uniform(-0.5, 0.5));
        let drive = cx.dense("layer", &[x], 6, &Dense::new(&[Init::KaimingNormal(2.0)]));
        // What is kept differs by sequence and step, so that each weight needs traces, and is bounded, so that they may have a lag.
        let kept = x.slice_axis(1, 0, 1).sigmoid() * 0.1;
        let v = v * kept.broadcast_to(&[BATCH, 6]) + drive;
        cx.set("V", &v);
        cx.observe(Quantity::Potential, &v);
        cx.dense("out", &[&v.tanh()], 2, &Dense::new(&[Init::KaimingNormal(1.0)]))
    })
    .expect("its sizes fit")
}

fn inputs() -> Array {
    let values: Vec<f32> = (0..STEPS * BATCH * N_IN).map(|k| (k as f32 * 0.7).sin()).collect();
    Array::f32(values, [STEPS, BATCH, N_IN]).expect("as many values")
}

fn curve(dims: &[usize]) -> Array {
    let n = dims.iter().product::<usize>();
    Array::f32((0..n).map(|k| (k as f32 * 0.3).cos()).collect::<Vec<_>>(), dims).expect("as many values")
}

/// Every kind of target, with a loss for it and targets of that kind.
fn cases() -> Vec<(&'static str, Objective, Array)> {
    let classes = Array::s32((0..STEPS * BATCH).map(|k| [0, 1, 1, -1, 0][k % 5]).collect::<Vec<_>>(), [STEPS, BATCH]);
    vec![
        ("class", Objective::default(), Array::s32([0, 1, 1], [BATCH]).expect("3")),
        ("classes", Objective::new(LossKind::CrossEntropy, Target::CLASSES), classes.expect("as many")),
        ("vector", Objective::new(LossKind::CrossEntropy, Target::VECTOR), curve(&[BATCH, 2])),
        ("vectors", Objective::new(LossKind::Mse, Target::VECTORS), curve(&[STEPS, BATCH, 2])),
        (
            "closure",
            Objective::own("count", Target { kind: TargetKind::Numbers(1), per_step: true }, |out, target| {
                (out.sum(&[1]) - target.reshape(&[BATCH])).square()
            }),
            curve(&[STEPS, BATCH, 1]),
        ),
    ]
}

fn values(all: &[Buffer]) -> Result<Vec<Vec<f64>>, Box<dyn Error>> {
    Ok(all.iter().map(|b| Ok(b.to_array()?.to_f64_vec())).collect::<Result<_, hlo::pjrt::Error>>()?)
}

#[track_caller]
fn close(what: &str, got: &[Vec<f64>], want: &[Vec<f64>], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
        let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0f64, f64::max) / scale;
        assert!(worst <= tolerance, "{what}: {worst}\n{got:?}\n{want:?}");
    }
}

/// D-RTRL in every form against BPTT, for every kind of target, with and without a warm-up; BPTT against finite differences.
#[test]
fn every_kind_of_target_has_its_exact_gradient() -> Outcome {
    let (session, model, inputs) = (Session::cpu()?, network(), inputs());
    for (name, objective, targets) in cases() {
        for warmup in [0, 4] {
            let engine = |method, trace, chunk| {
                let config = LearnerConfig { method, trace, chunk, warmup, ..LearnerConfig::default() };
                Engine::new(&session, &model, &objective, &config)
            };
            let exact = engine(Method::BPTT, TraceSetting::Auto, None)?;
            let state = exact.start(Optimizer::default().rule, 3)?;
            let states = exact.states(3, 0)?;
            let (loss, grads) = exact.gradient(&state.params, &states, &inputs, &targets)?;
            let want = values(&grads)?;
            assert!(want.iter().all(|g| g.iter().any(|v| v.abs() > 1e-6)), "{name}: a gradient is zero: {want:?}");
            let evaluated = exact.evaluate(&state.params, &states, &inputs, &targets)?;
            if name != "classes" {
                // A class below 0 leaves its row out of the mean of its step.
                let mean = evaluated.losses.iter().sum::<f32>() / BATCH as f32;
                assert!((mean - loss).abs() < 1e-4 * loss.abs().max(1.0), "{name}: {mean} {loss}");
            }
            difference(&exact, &state.params, &states, [&inputs, &targets], &want)?;
            for (trace, chunk) in [
                (TraceSetting::Auto, None),
                (TraceSetting::Dense, Some(1)),
                (TraceSetting::Dense, Some(5)),
                (TraceSetting::Whole, None),
                (TraceSetting::Recompute, Some(4)),
                (TraceSetting::FixedLag, Some(4)),
            ] {
                let online = engine(Method::D_RTRL, trace, chunk)?;
                let (online_loss, grads) = online.gradient(&state.params, &states, &inputs, &targets)?;
                let what = format!("{name}, warm-up {warmup}, {trace:?} {chunk:?}");
                assert!((online_loss - loss).abs() <= 1e-4 * loss.abs().max(1.0), "{what}: {online_loss} {loss}");
                close(&what, &values(&grads)?, &want, 1e-3);
            }
        }
    }
    Ok(())
}

/// The derivative along the gradient itself.
fn difference(
    engine: &Engine<'_>,
    params: &[Buffer],
    states: &[Buffer],
    [inputs, targets]: [&Array; 2],
    grads: &[Vec<f64>],
) -> Outcome {
    let size = grads.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
    let step = 1e-2 / size;
    let loss = |sign: f64| -> Result<f64, Box<dyn Error>> {
        let moved = params.iter().zip(grads).map(|(p, g)| {
            let new =
                p.to_array()?.to_f64_vec().iter().zip(g).map(|(p, g)| (p + sign * step * g) as f32).collect::<Vec<_>>();
            p.client().upload(&Array::f32(new, p.shape().dims.clone())?)
        });
        let moved = moved.collect::<Result<Vec<_>, hlo::pjrt::Error>>()?;
        Ok(f64::from(engine.gradient(&moved, states, inputs, targets)?.0))
    };
    let slope = (loss(1.0)? - loss(-1.0)?) / (2.0 * step);
    assert!(
        (slope / (size * size) - 1.0).abs() < 0.03,
        "the slope along the gradient: {slope}, its square: {}",
        size * size
    );
    Ok(())
}

#[test]
fn bytes_are_inputs_like_numbers() -> Outcome {
    let (session, model) = (Session::cpu()?, network());
    let engine = Engine::new(&session, &model, &Objective::default(), &LearnerConfig::default())?;
    let (state, states) = (engine.start(Optimizer::default().rule, 3)?, engine.states(3, 0)?);
    let counts: Vec<u8> = (0..STEPS * BATCH * N_IN).map(|k| (k % 3) as u8).collect();
    let numbers: Vec<f32> = counts.iter().map(|c| f32::from(*c)).collect();
    let dims = [STEPS, BATCH, N_IN];
    let classes = Array::s32([0, 1, 1], [BATCH])?;
    let of_bytes = engine.gradient(&state.params, &states, &Array::u8(counts, dims)?, &classes)?;
    let of_numbers = engine.gradient(&state.params, &states, &Array::f32(numbers, dims)?, &classes)?;
    assert_eq!(of_bytes.0, of_numbers.0);
    assert_eq!(values(&of_bytes.1)?, values(&of_numbers.1)?);
    Ok(())
}

/// A stream adds up to the sequence: gradients, outputs, states; steps without a target advance as a warm-up does.
#[test]
fn a_stream_is_a_sequence_in_pieces() -> Outcome {
    let (session, model, inputs) = (Session::cpu()?, network(), inputs());
    for (name, objective, targets) in cases() {
        for (method, trace) in [
            (Method::D_RTRL, TraceSetting::Dense),
            (Method::D_RTRL, TraceSetting::FixedLag),
            (Method::es_d_rtrl(0.9), TraceSetting::Auto),
        ] {
            for (chunk, warmup) in [(1, 0), (1, 4), (4, 4)] {
                let config = LearnerConfig { method, trace, ..LearnerConfig::default() };
                let whole = Engine::new(&session, &model, &objective, &LearnerConfig { warmup, ..config.clone() })?;
                let state = whole.start(Optimizer::default().rule, 3)?;
                let want = whole.sequence(&state.params, &whole.states(3, 0)?, &inputs, &targets)?;
                let engine = Engine::new(&session, &model, &objective, &config)?;
                let mut stream = engine.stream(chunk, engine.states(3, 0)?)?;
                let rings = matches!(stream.form().form, Form::FixedLag { lag: 1..STEPS, .. });
                assert_eq!(rings, trace == TraceSetting::FixedLag);
                let (mut loss, mut out) = (0.0, vec![0.0; BATCH * 2]);
                for t in (0..STEPS).step_by(chunk) {
                    let piece = part(&inputs, t, chunk)?;
                    let own = if objective.target.per_step { part(&targets, t, chunk)? } else { targets.clone() };
                    let given = (t >= warmup).then_some(&own);
                    let seen = stream.advance(&state.params, &piece, given)?;
                    assert_eq!(seen.loss.is_some(), t >= warmup);
                    assert!(
                        seen.out.to_f64_vec().iter().any(|v| *v != 0.0),
                        "an output without a target is one all the same"
                    );
                    if t >= warmup {
                        loss += seen.loss.unwrap_or(f32::NAN);
                        out.iter_mut().zip(seen.out.to_f64_vec()).for_each(|(sum, v)| *sum += v);
                    }
                }
                let what = format!("{name} {method:?} {trace} {chunk} {warmup}");
                assert!((loss - want.loss).abs() < 1e-4 * want.loss.abs().max(1.0), "{what}: {loss} {}", want.loss);
                close(&what, &[out], &[want.out.to_f64_vec()], 1e-4);
                close(&what, &values(stream.states())?, &values(&want.states)?, 1e-4);
                close(&what, &values(&stream.gradient(&state.params)?)?, &values(&want.grads)?, 1e-3);
                let again = values(&stream.gradient(&state.params)?)?;
                assert!(again.iter().flatten().all(|v| *v == 0.0), "taken gradients are gone");
            }
        }
    }
    Ok(())
}

/// Updates, steps without a target and new beginnings come at any time: traces in rings give what dense traces give at each of them.
#[test]
fn rings_of_a_stream_are_never_late() -> Outcome {
    let (session, model, inputs) = (Session::cpu()?, network(), inputs());
    let (objective, targets) = (Objective::new(LossKind::Mse, Target::VECTORS), curve(&[STEPS, BATCH, 2]));
    let optimizer = Optimizer { lr: 0.05, ..Optimizer::default() };
    /// The gradients of each update, and the last parameters.
    type Taken = (Vec<Vec<Vec<f64>>>, Vec<Vec<f64>>);
    let taken = |trace, every: usize| -> Result<Taken, Box<dyn Error>> {
        let config = LearnerConfig { method: Method::D_RTRL, trace, ..LearnerConfig::default() };
        let engine = Engine::new(&session, &model, &objective, &config)?;
        let mut state = engine.start(optimizer.rule, 3)?;
        let mut stream = engine.stream(1, engine.states(3, 0)?)?;
        let mut all = Vec::new();
        for t in 0..STEPS {
            let own = part(&targets, t, 1)?;
            stream.advance(&state.params, &part(&inputs, t, 1)?, (t % 4 != 2).then_some(&own))?;
            if t % every == every - 1 {
                let grads = stream.gradient(&state.params)?;
                all.push(values(&grads)?);
                state = engine.update(&optimizer, state, &grads)?.0;
            }
            if t == 7 {
                stream.reset(engine.states(3, 1)?)?;
            }
        }
        Ok((all, values(&state.params)?))
    };
    for every in [1, 3, 5] {
        let (dense, rings) = (taken(TraceSetting::Dense, every)?, taken(TraceSetting::FixedLag, every)?);
        for (k, (got, want)) in rings.0.iter().zip(&dense.0).enumerate() {
            close(&format!("every {every}, update {k}"), got, want, 1e-4);
        }
        close(&format!("every {every}, parameters"), &rings.1, &dense.1, 1e-4);
        assert_eq!(dense.0.len(), STEPS / every);
    }
    Ok(())
}

/// Steps `at .. at + count` of an array.
fn part(all: &Array, at: usize, count: usize) -> Result<Array, Box<dyn Error>> {
    let row = all.bytes().len() / all.shape().dims[0];
    let dims = [&[count], &all.shape().dims[1..]].concat();
    Ok(Array::from_bytes(all.shape().with_dims(dims), all.bytes()[at * row..(at + count) * row].to_vec())?)
}

/// What an own loop saves, it finds again: an interrupted loop ends where an uninterrupted one does.
#[test]
fn a_loop_goes_on_from_its_checkpoint() -> Outcome {
    let (session, model, inputs) = (Session::cpu()?, network(), inputs());
    let classes = Array::s32([0, 1, 1], [BATCH])?;
    let engine = Engine::new(&session, &model, &Objective::default(), &LearnerConfig::default())?;
    let optimizer = Optimizer { lr: 0.05, ..Optimizer::default() };
    let train = |mut state: TrainState, from: u64, to: u64| -> Result<TrainState, Box<dyn Error>> {
        for batch in from..to {
            let (_, grads) = engine.gradient(&state.params, &engine.states(3, batch)?, &inputs, &classes)?;
            state = engine.update(&optimizer, state, &grads)?.0;
        }
        Ok(state)
    };
    let whole = train(engine.start(optimizer.rule, 3)?, 0, 6)?;
    let start = engine.start(optimizer.rule, 3)?;
    assert_ne!(values(&whole.params)?, values(&start.params)?, "it learns");
    let folder = std::env::temp_dir().join(format!("etrace-library-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let half = train(start, 0, 3)?;
    checkpoint::save(&folder, Name::Last, &model, &half, &checkpoint::Progress { step: 3, ..Default::default() })?;
    let (half, progress) = checkpoint::load(&folder, Name::Last, &session, &model, optimizer.rule)?;
    std::fs::remove_dir_all(&folder)?;
    let resumed = train(half, progress.step, 6)?;
    assert_eq!(values(&whole.params)?, values(&resumed.params)?);
    assert_eq!(values(&whole.slots)?, values(&resumed.slots)?);
    Ok(())
}

/// Steps that are no models: what is wrong, and what the error must say.
#[test]
#[expect(clippy::too_many_lines, reason = "a list of mistakes")]
fn a_wrong_step_is_an_error_that_names_what_was_written() {
    type Step = fn(&mut StepContext, &Tensor) -> Tensor;
    let out: fn(&mut StepContext, &Tensor) -> Tensor = |cx, x| readout::leaky(cx, x, 2, 10.0, 1.0);
    assert!(Model::trace(2, 3, out).is_ok());
    let wrong: [(&str, &str, Step); 16] = [
        ("read and never set", "`V`", |cx, x| x + cx.state("V", 3, StateInit::Zeros)),
        ("declared before it is set", "`U`", |cx, x| {
            let v = cx.state("V", 3, StateInit::Zeros);
            cx.set("U", &v);
            x.clone()
        }),
        ("keeps its shape", "`layer.V`", |cx, x| {
            cx.scope("layer", |cx| {
                let v = cx.state("V", 4, StateInit::Zeros);
                cx.set("V", &v.sum(&[1]));
            });
            x.clone()
        }),
        ("one size", "`V`", |cx, x| cx.state("V", 3, StateInit::Zeros) + cx.state("V", 4, StateInit::Zeros) + x),
        ("declared twice", "`w`", |cx, x| {
            let w = cx.param("w", &[3], Init::Zeros);
            let again = cx.param("w", &[3], Init::Zeros);
            cx.elementwise("a", &w) + cx.elementwise("b", &again) + x
        }),
        ("as many rows", "`product`", |cx, x| {
            let w = cx.param("w", &[4, 2], Init::Zeros);
            cx.matmul("product", x, &w)
        }),
        ("as many values as it has", "`w`", |cx, x| {
            let w = cx.param("w", &[3], Init::Values(vec![1.0, 2.0]));
            cx.elementwise("w", &w) * x
        }),
        ("orthogonal", "`w`", |cx, x| {
            let w = cx.param("w", &[3, 2], Init::Orthogonal(1.0));
            cx.matmul("w", x, &w)
        }),
        ("initial values for all of its inputs or for each", "`layer`", |cx, x| {
            let init = [Init::Zeros, Init::Zeros];
            cx.dense("layer", &[x, x, x], 2, &Dense::new(&init))
        }),
        ("at least one input", "`layer`", |cx, _| cx.dense("layer", &[], 2, &Dense::new(&[Init::Zeros]))),
        ("no constant", "`mean`", |cx, x| {
            cx.track("mean", &x.mean(&[0]), 0.9);
            x.clone()
        }),
        ("observed twice", "`layer.spike`", |cx, x| {
            (0..2).for_each(|_| cx.scope("layer", |cx| cx.observe(Quantity::Spike, x)));
            x.clone()
        }),
        ("values of its neurons", "`V` is f32[2]", |cx, x| {
            cx.observe(Quantity::Potential, &x.sum(&[1]));
            x.clone()
        }),
        ("gives its output", "f32[2]", |_, x| x.sum(&[1])),
        ("sizes must be equal", "f32[2,3]", |cx, x| x + cx.param("w", &[2, 2], Init::Zeros)),
        ("inner sizes", "f32[2,3]", |cx, x| x.dot(&cx.param("w", &[2, 2], Init::Zeros))),
    ];
    for (rule, name, step) in wrong {
        let text = Model::trace(2, 3, step).expect_err(rule).to_string();
        assert!(text.contains(rule) && text.contains(name) && text.contains("library.rs:"), "{rule}, {name}: {text}");
        assert!(text.contains("; "), "what to do: {text}");
    }
}

/// Calls with arrays that do not fit.
#[test]
fn a_wrong_call_is_an_error_that_names_the_array() -> Outcome {
    let (session, model, inputs) = (Session::cpu()?, network(), inputs());
    let engine = Engine::new(&session, &model, &Objective::default(), &LearnerConfig::default())?;
    let (state, states) = (engine.start(Optimizer::default().rule, 3)?, engine.states(3, 0)?);
    let classes = Array::s32([0, 1, 1], [BATCH])?;
    let says = |found: Result<(f32, Gradients), ProgramError>, words: &[&str]| {
        let text = found.map(|_| ()).expect_err(words[0]).to_string();
        assert!(words.iter().all(|w| text.contains(w)) && text.contains("; "), "{words:?}: {text}");
    };
    let params = &state.params;
    says(engine.gradient(&params[1..], &states, &inputs, &classes), &["parameters", "layer.weight"]);
    says(engine.gradient(params, &states[1..], &inputs, &classes), &["states", "V f32[3,6]"]);
    says(engine.gradient(params, &states, &curve(&[STEPS, N_IN]), &classes), &["[T, 3, 4]", "f32[12,4]"]);
    says(engine.gradient(params, &states, &curve(&[STEPS, 2, N_IN]), &classes), &["[T, 3, 4]", "f32[12,2,4]"]);
    says(engine.gradient(params, &states, &inputs, &curve(&[BATCH])), &["s32[3]", "f32[3]"]);
    let mut mixed = engine.start(Optimizer::default().rule, 3)?.params;
    mixed.swap(0, 1);
    says(engine.gradient(&mixed, &states, &inputs, &classes), &["`layer.weight`", "f32[4,6]", "f32[6]"]);
    let late = LearnerConfig { warmup: STEPS, ..LearnerConfig::default() };
    let late = Engine::new(&session, &model, &Objective::default(), &late)?;
    says(late.gradient(params, &states, &inputs, &classes), &["warm-up", "12 steps"]);
    assert!(engine.value(params, "layer.wieght").unwrap_err().to_string().contains("`layer.weight`"));
    Ok(())
}

/// Objectives that fit nothing, and those that no run can store.
#[test]
fn a_wrong_objective_is_refused_by_name() -> Outcome {
    let model = network();
    let refuse = |objective: Objective, words: &[&str]| {
        let text =
            Learner::new(&model, &objective, &LearnerConfig::default()).map(|_| ()).expect_err(words[0]).to_string();
        assert!(words.iter().all(|w| text.contains(w)) && text.contains("; "), "{words:?}: {text}");
    };
    refuse(
        Objective::own("mine", Target::VECTORS, |out, target| (out - target).square()),
        &["`mine`", "f32[3,2]", "mean"],
    );
    refuse(Objective::own("mine", Target::CLASS, |out, target| out.dot(target)), &["`mine`", "s32[3]"]);
    let five = Target { kind: TargetKind::Numbers(5), per_step: false };
    refuse(Objective::new(LossKind::Mse, five), &["Mse", "5"]);

    let own = Objective::own("mine", Target::CLASS, |out, _| out.sum(&[1]));
    for (objective, word) in [(own, "`mine`"), (Objective::new(LossKind::Mse, Target::VECTORS), "VECTORS")] {
        let mut experiment = etrace::experiment::Experiment::published("dms-small")?;
        assert!(experiment.check().is_ok());
        experiment.objective = objective;
        let text = experiment.check().expect_err("a run cannot store it").to_string();
        assert!(text.contains(word) || text.contains("Target"), "{text}");
    }
    Ok(())
}
