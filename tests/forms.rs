//! The forms of one rule: the same gradient, or a stated difference.

mod judge;

use etrace::{
    cell::{Dense, Init, Model, StateInit, StepContext, Surrogate},
    learn::{
        LearnError, Learner, LossKind, Method, Objective, Vjp,
        form::{Form, TraceSetting},
        objective::OfSum,
        rule::{Bptt, Checkpoint, EProp},
        sequence::LearnerConfig,
    },
};
use hlo::Tensor;
use judge::case::Case;

/// One recurrent layer of leaky neurons with a leak that every position has, and a readout.
fn leaky(leak: f64, n: usize) -> Model {
    StepContext::trace(2, 3, |cx, x| {
        let v = cx.state("V", n, StateInit::Zeros);
        let spike = Surrogate::default().spike(&(&v - 1.0));
        let y = cx.dense("cell", &[x, &spike], n, &Dense::new(&[Init::Zeros, Init::Zeros]));
        let new = (&v - &spike) * leak + y;
        cx.set("V", &new);
        cx.dense("out", &[&Surrogate::default().spike(&(&new - 1.0))], 2, &Dense::new(&[Init::Zeros]))
    })
}

fn objective() -> Objective {
    Objective { loss: LossKind::Mse, ..Objective::default() }
}

fn learner(model: &Model, config: LearnerConfig) -> Result<Learner, LearnError> {
    Learner::new(model, &objective(), &config)
}

fn fixed_lag(lag: Option<usize>, lag_tolerance: f64) -> LearnerConfig {
    LearnerConfig { trace: TraceSetting::FixedLag, lag, lag_tolerance, chunk: Some(5), ..LearnerConfig::default() }
}

fn textbook() -> LearnerConfig {
    LearnerConfig { trace: TraceSetting::Dense, chunk: Some(1), ..LearnerConfig::default() }
}

/// The gradients of a form, and how far they are from the textbook's.
fn error(case: &Case, config: LearnerConfig) -> f64 {
    let gradients = |config| case.gradients(&learner(&case.model, config).expect("a learner"), false);
    case.worst(&gradients(config), &gradients(textbook()))
}

#[test]
fn a_lag_that_the_graph_bounds_agrees_to_the_bound() {
    let case = Case::of(leaky(0.5, 4), objective(), 1, 60);
    let lagged = learner(&case.model, fixed_lag(None, 1e-6)).expect("a learner");
    // 0.5^20 is the first power below 1e-6.
    assert_eq!(lagged.form(60), Form::FixedLag { chunk: 5, lag: 20 });
    assert!(lagged.cut_after(20) <= 1e-6 && lagged.cut_after(19) > 1e-6);
    let apart = error(&case, fixed_lag(None, 1e-6));
    assert!(apart < 1e-5 && apart > 0.0, "{apart:e}");
    for chunk in [1, 7, 60] {
        let apart = error(&case, LearnerConfig { chunk: Some(chunk), ..fixed_lag(None, 1e-6) });
        assert!(apart < 1e-5, "chunks of {chunk}: {apart:e}");
    }
    for warmup in [3, 33] {
        let of = |config: LearnerConfig| LearnerConfig { warmup, ..config };
        let gradients = |config| case.gradients(&learner(&case.model, config).expect("a learner"), false);
        let apart = case.worst(&gradients(of(fixed_lag(None, 1e-6))), &gradients(of(textbook())));
        assert!(apart < 1e-5, "warm-up {warmup}: {apart:e}");
    }
}

/// States that the step only hands on are kept like those that it computes.
#[test]
fn states_that_are_handed_on_are_kept() {
    let model = StepContext::trace(2, 3, |cx, x| {
        let [v, old, older] = ["V", "old", "older"].map(|name| cx.state(name, 4, StateInit::Zeros));
        let fixed = cx.state("fixed", 4, StateInit::Zeros);
        let y = cx.dense("cell", &[x], 4, &Dense::new(&[Init::Zeros]));
        cx.set("V", &(&v * 0.9 + &older * &older * 0.1 + y + &fixed));
        cx.set("old", &v);
        cx.set("older", &old);
        cx.set("fixed", &fixed);
        cx.dense("out", &[&(&older * &v)], 2, &Dense::new(&[Init::Zeros]))
    });
    let case = Case::of(model, objective(), 3, 23);
    for trace in [TraceSetting::Whole, TraceSetting::Recompute] {
        for (chunk, warmup) in [(1, 0), (2, 0), (5, 0), (5, 7), (22, 1), (23, 0)] {
            let of = |config: LearnerConfig| LearnerConfig { warmup, ..config };
            let gradients = |config| case.gradients(&learner(&case.model, of(config)).expect("a learner"), false);
            let config = LearnerConfig { trace, chunk: Some(chunk), ..LearnerConfig::default() };
            let apart = case.worst(&gradients(config), &gradients(textbook()));
            assert!(apart < 1e-9, "{trace}, chunks of {chunk}, warm-up {warmup}: {apart:e}");
        }
    }
}

/// Random numbers are read where they were made, in every form.
#[test]
fn random_numbers_that_are_kept_are_the_same() {
    let model = StepContext::trace(2, 3, |cx, x| {
        let v = cx.state("V", 6, StateInit::Zeros);
        let spike = Surrogate::default().spike(&(&v - 1.0));
        let y = cx.dense("cell", &[x, &spike], 6, &Dense::new(&[Init::Zeros, Init::Zeros]));
        cx.set("V", &((&v - &spike) * 0.9 + y));
        let dropped = cx.dropout(&v, 0.5);
        cx.dense("out", &[&dropped], 2, &Dense::new(&[Init::Zeros]))
    });
    let case = Case::of(model, objective(), 4, 23);
    for trace in [TraceSetting::Whole, TraceSetting::Recompute] {
        for chunk in [1, 5, 23] {
            let apart = error(&case, LearnerConfig { trace, chunk: Some(chunk), ..LearnerConfig::default() });
            assert!(apart < 1e-9, "{trace}, chunks of {chunk}: {apart:e}");
        }
    }
}

/// Products of an input that is wide are kept where the rest of a chunk is computed again, also of what is left of a sequence.
#[test]
fn products_of_a_wide_input_are_kept() {
    let model = |inputs: usize| {
        StepContext::trace(2, inputs, |cx, x| {
            let v = cx.state("V", 5, StateInit::Zeros);
            let spike = Surrogate::default().spike(&(&v - 1.0));
            let y = cx.dense("cell", &[x, &spike], 5, &Dense::new(&[Init::Zeros, Init::Zeros]));
            cx.set("V", &((&v - &spike) * 0.9 + y));
            cx.dense("out", &[&v], 2, &Dense::new(&[Init::Zeros]))
        })
    };
    let recompute =
        |chunk| LearnerConfig { trace: TraceSetting::Recompute, chunk: Some(chunk), ..LearnerConfig::default() };
    let grows = |inputs: usize| {
        let bytes = |steps| learner(&model(inputs), recompute(5)).expect("a learner").choice(steps).used.bytes;
        (bytes(400) - bytes(200)) / 40
    };
    // Besides the states at the start of each chunk, 5 steps of 2 x 5 values.
    let (states, products) = (2 * 5 * 4, 5 * 2 * 5 * 4);
    assert_eq!((grows(19), grows(20)), (states, states + products));
    let case = Case::of(model(40), objective(), 4, 23);
    for chunk in [1, 2, 5, 22, 23] {
        let apart = error(&case, recompute(chunk));
        assert!(apart < 1e-9, "chunks of {chunk}: {apart:e}");
    }
}

/// Large gradients of a wide input are made and added up turned: where many rows are summed, in loops and after them.
#[test]
fn a_large_gradient_of_a_wide_input_is_the_textbooks() {
    const INPUTS: usize = 3300;
    const UNITS: usize = 40;
    assert!(hlo::is_wide(INPUTS, UNITS));
    let model = StepContext::trace(2, INPUTS, |cx, x| {
        let v = cx.state("V", UNITS, StateInit::Zeros);
        let y = cx.dense("cell", &[x], UNITS, &Dense::new(&[Init::Zeros]));
        cx.set("V", &(&v * 0.9 + y));
        cx.dense("out", &[&v.tanh()], 2, &Dense::new(&[Init::Zeros]))
    });
    let case = Case::of(model, objective(), 4, 45);
    let turned = |trace| LearnerConfig { trace, chunk: Some(21), ..LearnerConfig::default() };
    for trace in [TraceSetting::Whole, TraceSetting::Recompute, TraceSetting::Dense] {
        let apart = error(&case, turned(trace));
        assert!(apart < 1e-9, "{trace}: {apart:e}");
    }
    let bptt = error(&case, LearnerConfig { method: Method::BPTT, ..LearnerConfig::default() });
    assert!(bptt < 1e-9, "{bptt:e}");
}

/// The whole-sequence form keeps what spikes are made of, and not the spikes, which two layers read.
#[test]
fn spikes_are_found_from_potentials() {
    let model = |steep: bool| {
        StepContext::trace(2, 3, move |cx, x| {
            let v = cx.state("V", 5, StateInit::Zeros);
            let spike = |v: &Tensor| {
                let spike = Surrogate::default().spike(&(v - 1.0));
                // A share of all spikes of a sequence is no matter of single positions.
                if steep {
                    &spike * spike.mean(&[1]).unsqueeze_last().broadcast_to(&[2, 5]).stop_gradient()
                } else {
                    spike
                }
            };
            let y = cx.dense("cell", &[x, &spike(&v)], 5, &Dense::new(&[Init::Zeros, Init::Zeros]));
            let new = &v * 0.9 + y;
            cx.set("V", &new);
            cx.dense("out", &[&spike(&new)], 2, &Dense::new(&[Init::Zeros]))
        })
    };
    let whole = LearnerConfig { trace: TraceSetting::Whole, chunk: Some(5), ..LearnerConfig::default() };
    let grows = |steep| {
        let bytes = |steps| learner(&model(steep), whole.clone()).expect("a learner").choice(steps).used.bytes;
        (bytes(400) - bytes(200)) / 40
    };
    // The state at the start of each chunk, and in 5 steps 2 x 5 potentials; the other model keeps the input of its recurrence, too.
    let values = 2 * 5 * 4;
    assert_eq!(grows(false), values + 5 * values);
    assert!(grows(true) > grows(false), "{} {}", grows(true), grows(false));
    for steep in [false, true] {
        let apart = error(&Case::of(model(steep), objective(), 4, 23), whole.clone());
        assert!(apart < 1e-9, "{steep}: {apart:e}");
    }
}

/// A rule with a filter behind its traces has states that the step does not have, in every form and at every boundary of chunks.
#[test]
fn a_filter_behind_the_traces_takes_every_form() {
    let case = Case::of(leaky(0.9, 4), objective(), 1, 20);
    let method = Method::EProp(EProp { kappa: 0.6, ..EProp::default() });
    let gradients = |config: LearnerConfig| {
        let config = LearnerConfig { method, ..config };
        case.gradients(&learner(&case.model, config).expect("a learner"), false)
    };
    let textbook = gradients(textbook());
    for trace in [TraceSetting::Whole, TraceSetting::Recompute] {
        for chunk in [1, 5, 7, 20] {
            let config = LearnerConfig { trace, chunk: Some(chunk), ..LearnerConfig::default() };
            let apart = case.worst(&gradients(config), &textbook);
            assert!(apart < 1e-5, "{trace}, chunks of {chunk}: {apart:e}");
        }
    }
}

/// A weight that acts through a traced op and otherwise learns from both: in a sequence of one step every rule is BPTT.
#[test]
fn a_weight_that_acts_twice_learns_twice() {
    let model = StepContext::trace(2, 3, |cx, x| {
        let v = cx.state("V", 3, StateInit::Zeros);
        let weight = cx.param("weight", &[3, 3], Init::Zeros);
        let y = cx.matmul("cell", x, &weight);
        let new = v * 0.9 + y;
        cx.set("V", &new);
        new + x.dot(&weight) * 0.5
    });
    let case = Case::of(model, objective(), 5, 1);
    let gradients = |method, vjp| {
        let config = LearnerConfig { method, vjp, ..LearnerConfig::default() };
        case.gradients(&learner(&case.model, config).expect("a learner"), false)
    };
    let exact = gradients(Method::Bptt(Bptt::default()), Vjp::default());
    for method in [Method::D_RTRL, Method::es_d_rtrl(0.9)] {
        for vjp in [Vjp::default(), Vjp::MultiStep { window: 1 }] {
            let apart = case.worst(&gradients(method, vjp), &exact);
            // The correction of ES-D-RTRL is made in single precision.
            assert!(apart < 1e-7, "{method:?} {vjp:?}: {apart:e}");
        }
    }
}

/// Evaluation has no form of traces, whatever the training asks for.
#[test]
fn what_evaluates_takes_no_form() {
    let model = leaky(0.5, 4);
    for trace in [TraceSetting::Dense, TraceSetting::FixedLag, TraceSetting::Whole, TraceSetting::Recompute] {
        let config = LearnerConfig { trace, warmup: 3, chunk: Some(5), ..LearnerConfig::default() };
        let evaluating = config.without_learning();
        assert_eq!((evaluating.warmup, evaluating.chunk), (3, Some(5)));
        assert!(learner(&model, evaluating).is_ok(), "{trace}");
    }
}

/// BPTT that recomputes is BPTT.
#[test]
fn checkpoints_change_no_gradient() {
    let of = |checkpoint| Method::Bptt(Bptt { checkpoint });
    for of_sum in [OfSum::Never, OfSum::Always] {
        let objective = Objective { of_sum, ..objective() };
        let case = Case::of(leaky(0.9, 4), objective.clone(), 1, 23);
        let gradients = |config: LearnerConfig| {
            case.gradients(&Learner::new(&case.model, &objective, &config).expect("a learner"), false)
        };
        for (chunk, warmup) in [(None, 0), (Some(1), 0), (Some(5), 0), (Some(23), 3), (Some(5), 7), (Some(4), 8)] {
            let config =
                |checkpoint| LearnerConfig { method: of(checkpoint), chunk, warmup, ..LearnerConfig::default() };
            let apart = case.worst(&gradients(config(Checkpoint::Auto)), &gradients(config(Checkpoint::None)));
            assert!(apart < 1e-9, "chunks of {chunk:?}, warm-up {warmup}, {of_sum:?}: {apart:e}");
        }
    }
}

/// What is cut off is really cut off.
#[test]
fn a_short_lag_differs() {
    let case = Case::of(leaky(0.5, 4), objective(), 1, 60);
    let short = learner(&case.model, fixed_lag(Some(4), 0.1)).expect("a learner");
    assert!(short.cut_after(4) <= 0.1);
    let apart = error(&case, fixed_lag(Some(4), 0.1));
    assert!((1e-4..0.5).contains(&apart), "{apart:e}");
}

#[test]
fn slow_states_are_not_cut() {
    let slow = Case::of(leaky(0.9999, 4), objective(), 2, 40);
    for tolerance in [1e-6, 0.5] {
        let error = learner(&slow.model, fixed_lag(Some(20), tolerance)).err().expect("a refusal").to_string();
        // 0.9999^20.
        let parts = ["--lag 20", "cut off 0.9980", &format!("--lag_tolerance {tolerance:e}")];
        assert!(parts.iter().all(|p| error.contains(p)), "{error}");
    }
    // The planner takes another form, which is exact.
    let auto = LearnerConfig::default();
    let form = learner(&slow.model, auto.clone()).expect("a learner").form(40);
    assert!(!matches!(form, Form::FixedLag { .. }), "{form}");
    assert!(error(&slow, auto) < 1e-9);
    for trace in [TraceSetting::Whole, TraceSetting::Recompute] {
        for chunk in [None, Some(1), Some(7), Some(39)] {
            let apart = error(&slow, LearnerConfig { trace, chunk, ..LearnerConfig::default() });
            assert!(apart < 1e-9, "{trace:?} {chunk:?}: {apart:e}");
        }
    }
}

/// A leak that is learned may be anything: no lag is enough.
#[test]
fn what_the_graph_does_not_bound_is_refused() {
    let model = StepContext::trace(2, 3, |cx, x| {
        let v = cx.state("V", 4, StateInit::Zeros);
        let rate = cx.param("rate", &[4], Init::Zeros);
        let leak = cx.elementwise("rate", &rate).sigmoid();
        let new = leak * &v + cx.dense("cell", &[x], 4, &Dense::new(&[Init::Zeros]));
        cx.set("V", &new);
        cx.dense("out", &[&new.tanh()], 2, &Dense::new(&[Init::Zeros]))
    });
    let error = learner(&model, fixed_lag(None, 1e-6)).err().expect("a refusal").to_string();
    assert!(error.contains("--trace auto"), "{error}");
}

/// A form that a rule does not have is refused, not exchanged for another.
#[test]
fn a_form_that_is_not_there_is_refused() {
    // One neuron beside four: the hybrid rule keeps full traces for the one.
    let model = StepContext::trace(2, 3, |cx, x| {
        let mut y = x.clone();
        for (name, n) in [("one", 1), ("four", 4)] {
            let v = cx.state(name, n, StateInit::Zeros) * 0.5
                + cx.dense(&format!("{name}.w"), &[&y], n, &Dense::new(&[Init::Zeros]));
            cx.set(name, &v);
            y = if n == 1 { Tensor::concat(&[&v.tanh(), x], 1) } else { v.tanh() };
        }
        cx.dense("out", &[&y], 2, &Dense::new(&[Init::Zeros]))
    });
    for (method, vjp, part) in [
        (Method::es_d_rtrl(0.9), Vjp::default(), "no trace of the size of a weight"),
        (Method::hybrid(0.9), Vjp::default(), "only go forwards"),
        (Method::D_RTRL, Vjp::MultiStep { window: 3 }, "windows"),
        (Method::BPTT, Vjp::default(), "bptt"),
    ] {
        let config = LearnerConfig { method, vjp, trace: TraceSetting::Recompute, ..LearnerConfig::default() };
        let error = learner(&model, config).err().map(|e| e.to_string());
        assert!(error.as_ref().is_some_and(|e| e.contains(part) && e.contains("recompute")), "{method:?}: {error:?}");
    }
}

/// The whole choice is a function of model, settings and length; a budget moves it.
#[test]
fn the_planner_weighs_time_against_memory() {
    let model = leaky(0.9, 300);
    let form = |steps: usize, memory_budget: Option<u64>| {
        let config = LearnerConfig { memory_budget, ..LearnerConfig::default() };
        learner(&model, config).expect("a learner").choice(steps)
    };
    // A chunk has no trace before it; few steps are smaller than the traces, and many are not.
    assert_eq!(form(20, None).used.form, Form::Dense { chunk: 20 });
    let long = form(5000, None);
    assert!(!matches!(long.used.form, Form::Whole { .. }), "{:?}", long.used);
    // With room for everything, what is smaller is slower by more than 5 %, and what is faster is larger.
    let everything = form(5000, Some(1 << 40));
    let forgets = |cut: Option<f64>| cut.is_none_or(|c| c <= 1e-6);
    let others = || everything.turned_down.iter().map(|(c, _)| c).filter(|c| forgets(c.cut));
    let used = &everything.used;
    let fastest = others().map(|c| c.seconds).fold(used.seconds, f64::min);
    assert!(others().count() >= 2 && used.seconds <= 1.05 * fastest);
    assert!(others().all(|c| c.bytes >= used.bytes || c.seconds > 1.05 * fastest), "{everything:?}");
    let least = form(5000, Some(1)).used;
    let others = form(5000, Some(1)).turned_down;
    assert!(others.iter().filter(|(c, _)| forgets(c.cut)).all(|(c, _)| c.bytes >= least.bytes));
    assert!(others.iter().all(|(_, why)| !why.is_empty()));
}
