//! One loss of the summed output under online rules: two passes; and signals that look ahead of the step.

mod judge;

use etrace::{
    cell::{Dense, Init, Model, StateInit, StepContext, Surrogate, readout},
    learn::{
        Attachment, LearnError, Learner, LossKind, Method, Objective, Vjp, form::TraceSetting, objective::OfSum,
        sequence::LearnerConfig, signal::Ahead,
    },
};
use hlo::{Func, Shape};
use judge::case::Case;

const STEPS: usize = 17;

/// Constants of a graph are rounded to `f32`, also where it multiplies two of them.
const ROUNDING: f64 = 1e-6;

/// A layer of leaky neurons without recurrence, read through a layer without memory: D-RTRL is exact.
fn feed_forward() -> Model {
    StepContext::trace(3, 4, |cx, x| {
        let v = cx.state("V", 5, StateInit::Zeros);
        let new = &v * 0.8 + cx.dense("cell", &[x], 5, &Dense::new(&[Init::Zeros]));
        cx.set("V", &new);
        cx.dense("out", &[&Surrogate::default().spike(&(&new - 0.5))], 3, &Dense::new(&[Init::Zeros]))
    })
}

fn gradients(case: &Case, objective: &Objective, config: &LearnerConfig) -> Vec<Vec<f64>> {
    case.gradients(&Learner::new(&case.model, objective, config).expect("a learner"), false)
}

#[test]
fn two_passes_are_exact_where_the_rule_is() {
    for loss in [LossKind::CrossEntropy, LossKind::Mse] {
        let of_sum = Objective { loss, of_sum: OfSum::Always, ..Objective::default() };
        let of_steps = Objective { of_sum: OfSum::Never, ..of_sum.clone() };
        let case = Case::of(feed_forward(), of_sum.clone(), 1, STEPS);
        for warmup in [0, 5] {
            let of = |method| LearnerConfig { method, warmup, ..LearnerConfig::default() };
            let exact = gradients(&case, &of_sum, &of(Method::BPTT));
            let forms = [TraceSetting::Auto, TraceSetting::Dense, TraceSetting::Whole, TraceSetting::Recompute];
            for (trace, chunk) in forms.into_iter().flat_map(|form| [(form, 1), (form, 6)]) {
                let config = LearnerConfig { trace, chunk: Some(chunk), ..of(Method::D_RTRL) };
                let apart = case.worst(&gradients(&case, &of_sum, &config), &exact);
                assert!(apart < ROUNDING, "{trace}, chunks of {chunk}, warm-up {warmup}: {apart:e}");
            }
            let window = LearnerConfig { vjp: Vjp::MultiStep { window: 4 }, ..of(Method::D_RTRL) };
            let apart = case.worst(&gradients(&case, &of_sum, &window), &exact);
            assert!(apart < ROUNDING, "windows, warm-up {warmup}: {apart:e}");
            // It is another objective than the losses of all steps.
            let steps = gradients(&case, &of_steps, &of(Method::D_RTRL));
            assert!(case.worst(&steps, &exact) > 1e-2);
        }
    }
}

/// The same, read through a leaky readout.
fn with_memory() -> Model {
    StepContext::trace(3, 4, |cx, x| {
        let v = cx.state("V", 5, StateInit::Zeros);
        let before = Surrogate::default().spike(&(&v - 0.5));
        let new = (&v - &before) * 0.8 + cx.dense("cell", &[x], 5, &Dense::new(&[Init::Zeros]));
        cx.set("V", &new);
        readout::leaky(cx, &Surrogate::default().spike(&(&new - 0.5)), 3, 4.0, 1.0)
    })
}

/// Signals through the memory of the readout make D-RTRL exact where only that memory stood between.
#[test]
fn signals_through_the_readout_are_exact() {
    for of_sum in [OfSum::Never, OfSum::Always] {
        let objective = Objective { of_sum, ..Objective::default() };
        let case = Case::of(with_memory(), objective.clone(), 1, STEPS);
        for warmup in [0, 5] {
            let of = |method| LearnerConfig { method, warmup, ..LearnerConfig::default() };
            let exact = gradients(&case, &objective, &of(Method::BPTT));
            // BPTT goes through every memory in any case.
            let ahead = LearnerConfig { signal: Ahead::Readout, ..of(Method::BPTT) };
            assert_eq!(gradients(&case, &objective, &ahead), exact);
            let plain = gradients(&case, &objective, &of(Method::D_RTRL));
            assert!(case.worst(&plain, &exact) > 1e-2, "the readout remembers");
            let forms = [TraceSetting::Auto, TraceSetting::Whole, TraceSetting::Recompute];
            for (trace, chunk) in forms.into_iter().flat_map(|form| [(form, 1), (form, 6), (form, STEPS)]) {
                let config = LearnerConfig { trace, chunk: Some(chunk), signal: Ahead::Readout, ..of(Method::D_RTRL) };
                let apart = case.worst(&gradients(&case, &objective, &config), &exact);
                assert!(apart < ROUNDING, "{trace}, chunks of {chunk}, warm-up {warmup}, {of_sum:?}: {apart:e}");
            }
        }
    }
}

#[test]
fn signals_through_the_readout_need_the_whole_sequence() {
    let refused = |model: &Model, config: LearnerConfig| {
        let config = LearnerConfig { signal: Ahead::Readout, ..config };
        match Learner::new(model, &Objective::default(), &config) {
            Err(LearnError::Setting(text)) => text,
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    let d_rtrl = LearnerConfig::default;
    let model = with_memory();
    for (config, words) in [
        (LearnerConfig { trace: TraceSetting::Dense, ..d_rtrl() }, "go forwards"),
        (LearnerConfig { method: Method::es_d_rtrl(0.9), ..d_rtrl() }, "no trace of the size of a weight"),
        (LearnerConfig { vjp: Vjp::MultiStep { window: 3 }, ..d_rtrl() }, "windows"),
        (LearnerConfig { vjp: Vjp::SingleStep { attachment: Attachment::InStep }, ..d_rtrl() }, "--attachment exit"),
    ] {
        let text = refused(&model, config);
        assert!(text.contains(words) && text.contains("--signal readout"), "{text}");
    }
    assert!(refused(&feed_forward(), d_rtrl()).contains("no readout with a memory"));
    let learner = Learner::new(&model, &Objective::default(), &LearnerConfig { signal: Ahead::Readout, ..d_rtrl() });
    let stream = learner.expect("a learner").stream(1).expect_err("later steps").to_string();
    assert!(stream.contains("--drive scan"), "{stream}");
}

/// The losses that two passes and BPTT report are the same, and other rules learn from them, too.
#[test]
fn every_online_rule_passes_twice() {
    let objective = Objective { of_sum: OfSum::Always, ..Objective::default() };
    let case = Case::of(feed_forward(), objective.clone(), 2, STEPS);
    let loss = |method| {
        let config = LearnerConfig { method, ..LearnerConfig::default() };
        let learner = Learner::new(&case.model, &objective, &config).expect("a learner");
        let (program, args) = case.program(&learner, false);
        let shapes: Vec<Shape> = args.iter().map(|a| a.shape.clone()).collect();
        let (n, s) = (case.model.params.len(), case.model.states.len());
        let loss = Func::trace(&shapes, |g, v| {
            vec![learner.sequence(g, &v[..n], &v[n..n + s], &v[n + s], &v[n + s + 1]).loss]
        });
        let grads: Vec<Vec<f64>> = program.evaluate(&args).into_iter().map(|v| v.data).collect();
        (loss.evaluate(&args)[0].data[0], grads)
    };
    let (want, _) = loss(Method::BPTT);
    for method in Method::all().filter(|m| m.is_online()) {
        let (got, grads) = loss(method);
        assert!((got - want).abs() < 1e-9, "{}: {got} and {want}", method.name());
        let size = grads.iter().flatten().fold(0.0f64, |most, v| most.max(v.abs()));
        assert!(size > 1e-3, "{} learns, got {size:e}", method.name());
        // It is another objective than the losses of all steps, for the readout under a modulator, too.
        let of_steps = LearnerConfig { method, ..LearnerConfig::default() };
        let steps = gradients(&case, &Objective::default(), &of_steps);
        assert!(case.worst(&grads, &steps) > 1e-2, "{}", method.name());
    }
}
