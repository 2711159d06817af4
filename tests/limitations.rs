//! What the online rules do not do. Each test is a row of docs/limitations.md and fails when the limitation is gone.

mod judge;

use etrace::{
    cell::{Dense, Init, Model, StateInit, StepContext, readout},
    learn::{
        Attachment, Exclusion, LearnError, Learner, Method, Objective, Vjp,
        form::{Form, TraceSetting},
        objective::OfSum,
        sequence::LearnerConfig,
    },
    settings::Listed,
};
use hlo::Tensor;
use judge::case::{BATCH, Case};

const N: usize = 3;
const STEPS: usize = 8;

fn model(step: impl Fn(&mut StepContext, &Tensor) -> Tensor) -> Model {
    StepContext::trace(BATCH, N, |cx, x| step(cx, x))
}

fn config(method: Method) -> LearnerConfig {
    LearnerConfig { method, ..LearnerConfig::default() }
}

fn gradients(case: &Case, config: &LearnerConfig) -> Vec<Vec<f64>> {
    case.gradients(&Learner::new(&case.model, &case.objective, config).expect("the learner takes the model"), false)
}

/// Largest difference between a rule and BPTT, relative to each parameter's largest entry.
fn from_bptt(step: impl Fn(&mut StepContext, &Tensor) -> Tensor, method: Method) -> f64 {
    let case = Case::of(model(step), Objective::default(), 3, STEPS);
    case.worst(&gradients(&case, &config(method)), &gradients(&case, &config(Method::BPTT)))
}

/// A leaky layer, perhaps with recurrent weights.
fn leaky(cx: &mut StepContext, x: &Tensor, recurrent: bool) -> Tensor {
    let v = cx.state("V", N, StateInit::Zeros);
    let back = v.tanh();
    let inputs: Vec<&Tensor> = if recurrent { vec![x, &back] } else { vec![x] };
    let y = cx.dense("l0", &inputs, N, &Dense::new(&[Init::KaimingNormal(2.0)]));
    let v = v * 0.8 + y;
    cx.set("V", &v);
    v.tanh()
}

#[test]
fn recurrence_from_neuron_to_neuron_is_dropped() {
    assert!(from_bptt(|cx, x| leaky(cx, x, false), Method::D_RTRL) < 1e-5);
    assert!(from_bptt(|cx, x| leaky(cx, x, true), Method::D_RTRL) > 1e-2);
}

#[test]
fn memory_of_a_later_layer_is_dropped() {
    let without = |cx: &mut StepContext, x: &Tensor| {
        let spikes = leaky(cx, x, false);
        readout::linear(cx, &spikes, 2)
    };
    let with = |cx: &mut StepContext, x: &Tensor| {
        let spikes = leaky(cx, x, false);
        readout::leaky(cx, &spikes, 2, 10.0, 1.0)
    };
    assert!(from_bptt(without, Method::D_RTRL) < 1e-5);
    assert!(from_bptt(with, Method::D_RTRL) > 1e-2);
}

#[test]
fn the_way_through_another_op_of_the_step_is_dropped() {
    // The embedding drives the state, and gates it through another op.
    let step = |cx: &mut StepContext, x: &Tensor| {
        let v = cx.state("V", N, StateInit::Zeros);
        let embedded = cx.dense("embed", &[x], N, &Dense::new(&[Init::KaimingNormal(2.0)]));
        let gate = cx.dense("gate", &[&embedded], N, &Dense::new(&[Init::KaimingNormal(2.0)])).sigmoid();
        let v = gate * v + embedded;
        cx.set("V", &v);
        v.tanh()
    };
    let learner = Learner::new(&model(step), &Objective::default(), &config(Method::D_RTRL)).expect("taken");
    assert!(learner.structure.ops.iter().any(|op| op.site == "embed" && op.partial));
    assert!(from_bptt(step, Method::D_RTRL) > 1e-2);
}

#[test]
fn an_op_behind_another_op_learns_from_the_step_alone() {
    let step = |cx: &mut StepContext, x: &Tensor| {
        let h = cx.state("h", N, StateInit::Zeros);
        let reset = cx.dense("reset", &[x], N, &Dense::new(&[Init::KaimingNormal(2.0)])).sigmoid();
        let new = cx.dense("cell", &[&(reset * &h + x)], N, &Dense::new(&[Init::KaimingNormal(2.0)])).tanh();
        let h = h * 0.8 + new;
        cx.set("h", &h);
        h
    };
    let learner = Learner::new(&model(step), &Objective::default(), &config(Method::D_RTRL)).expect("taken");
    let reset = learner.structure.ops.iter().find(|op| op.site == "reset").expect("an op");
    assert_eq!(reset.exclusion, Some(Exclusion::WeightToWeight));
    assert!(from_bptt(step, Method::D_RTRL) > 1e-2);
}

#[test]
fn a_plain_parameter_learns_from_the_step_alone() {
    let plain = |cx: &mut StepContext, x: &Tensor| {
        let v = cx.state("V", N, StateInit::Zeros);
        let rate = cx.param("rate", &[N], Init::Zeros);
        let v = rate.sigmoid().broadcast_to(v.dims()) * v + x;
        cx.set("V", &v);
        v.tanh()
    };
    let traced = |cx: &mut StepContext, x: &Tensor| {
        let v = cx.state("V", N, StateInit::Zeros);
        let rate = cx.param("rate", &[N], Init::Zeros);
        let v = cx.elementwise("rate", &rate).sigmoid() * v + x;
        cx.set("V", &v);
        v.tanh()
    };
    assert!(from_bptt(traced, Method::D_RTRL) < 1e-5);
    assert!(from_bptt(plain, Method::D_RTRL) > 1e-2);
}

#[test]
fn positions_may_not_mix_inside_a_group() {
    let step = |cx: &mut StepContext, x: &Tensor| {
        let v = cx.state("V", N, StateInit::Zeros);
        let y = cx.dense("l0", &[x], N, &Dense::new(&[Init::KaimingNormal(2.0)]));
        let v = v.reverse(&[1]) * 0.8 + y;
        cx.set("V", &v);
        v
    };
    let refused = Learner::new(&model(step), &Objective::default(), &config(Method::D_RTRL));
    assert!(matches!(refused, Err(LearnError::NotPositionWise { .. })));
}

#[test]
fn a_weight_may_not_change_during_a_sequence() {
    let step = |cx: &mut StepContext, x: &Tensor| {
        let v = cx.state("V", N, StateInit::Zeros);
        let weight = cx.param("weight", &[N, N], Init::Zeros);
        let fast = &weight * &v.mean_all().broadcast_to(weight.dims());
        let v = v * 0.8 + cx.matmul("l0", x, &fast);
        cx.set("V", &v);
        v
    };
    let refused = Learner::new(&model(step), &Objective::default(), &config(Method::D_RTRL));
    assert!(matches!(refused, Err(LearnError::MovingWeight { .. })));
}

#[test]
fn a_parameter_that_no_rule_reaches_is_refused() {
    let step = |cx: &mut StepContext, x: &Tensor| {
        let spikes = leaky(cx, x, false);
        let r = cx.state("r", 2, StateInit::Zeros);
        let new = &r * 0.9 + cx.dense("out", &[&spikes], 2, &Dense::new(&[Init::KaimingNormal(1.0)]));
        cx.set("r", &new);
        r
    };
    let refused = Learner::new(&model(step), &Objective::default(), &config(Method::D_RTRL));
    assert!(matches!(refused, Err(LearnError::NoGradient { .. })));
    assert!(from_bptt(step, Method::BPTT) == 0.0);
}

#[test]
fn factorised_traces_are_not_exact_even_for_one_layer() {
    assert!(from_bptt(|cx, x| leaky(cx, x, false), Method::es_d_rtrl(0.9)) > 1e-2);
}

#[test]
fn in_step_attachment_gives_untraced_parameters_nothing() {
    let step = |cx: &mut StepContext, x: &Tensor| {
        let spikes = leaky(cx, x, false);
        readout::linear(cx, &spikes, 2)
    };
    let case = Case::of(model(step), Objective::default(), 3, STEPS);
    let vjp = Vjp::SingleStep { attachment: Attachment::InStep };
    let grads = gradients(&case, &LearnerConfig { vjp, ..config(Method::D_RTRL) });
    let of = |name: &str| &grads[case.model.param(name).expect("a parameter")];
    assert!(of("out.weight").iter().all(|g| *g == 0.0));
    assert!(of("l0.weight").iter().any(|g| *g != 0.0));
}

#[test]
fn a_loss_of_the_summed_output_needs_the_whole_sequence() {
    let objective = Objective { of_sum: OfSum::Always, ..Objective::default() };
    let learner = Learner::new(&model(|cx, x| leaky(cx, x, false)), &objective, &config(Method::D_RTRL));
    let refused = learner.expect("two passes").stream(1);
    assert!(matches!(&refused, Err(LearnError::Setting(text)) if text.contains("passes once")), "{refused:?}");
}

/// A leaky layer that any function of input and weight drives.
fn mapped(leak: f64, function: fn(&Tensor, &Tensor) -> Tensor) -> Model {
    model(move |cx, x| {
        let w = cx.param("w", &[x.dims()[1], 3], Init::Normal(0.0, 0.5));
        let v = cx.state("V", 3, StateInit::Zeros);
        let new = v * leak + cx.traced("map", x, &w, function);
        cx.set("V", &new);
        new
    })
}

#[test]
fn a_map_has_no_trace_that_goes_forwards() {
    let model = mapped(0.9, |x, w| x.dot(w));
    let build = |config: &LearnerConfig| Learner::new(&model, &Objective::default(), config);
    for refused in [
        build(&LearnerConfig { trace: TraceSetting::Dense, ..config(Method::D_RTRL) }),
        build(&LearnerConfig { vjp: Vjp::MultiStep { window: 3 }, ..config(Method::D_RTRL) }),
    ] {
        let refused = refused.map(|_| ());
        assert!(matches!(&refused, Err(LearnError::Setting(text)) if text.contains("`map`")), "{refused:?}");
    }
    assert!(build(&config(Method::es_d_rtrl(0.9))).and_then(|learner| learner.stream(1)).is_ok());
}

/// In a stream such an op has the last steps in place of a trace, where they are enough and what they need is in them.
#[test]
fn a_map_in_a_stream_needs_states_that_forget_and_a_linear_weight() {
    let stream = |model: &Model| {
        let learner = Learner::new(model, &Objective::default(), &config(Method::D_RTRL)).expect("a learner");
        learner.stream(1).map(|choice| choice.used.form)
    };
    let rings = stream(&mapped(0.9, |x, w| x.dot(w)));
    assert!(matches!(rings, Ok(Form::FixedLag { chunk: 1, lag: 132 })), "{rings:?}");
    for (model, why) in
        [(mapped(1.0, |x, w| x.dot(w)), "does not bound"), (mapped(0.9, |x, w| x.dot(&w.square())), "its weight")]
    {
        let refused = stream(&model);
        let says = matches!(&refused, Err(LearnError::Setting(text)) if text.contains("`map`") && text.contains(why));
        assert!(says, "{why}: {refused:?}");
    }
}

#[test]
fn a_stream_has_no_end_to_go_back_from() {
    let wide = model(|cx, x| leaky(cx, x, true));
    for trace in [TraceSetting::Whole, TraceSetting::Recompute] {
        let learner = Learner::new(&wide, &Objective::default(), &LearnerConfig { trace, ..config(Method::D_RTRL) });
        let refused = learner.expect("a sequence has an end").stream(1);
        assert!(matches!(&refused, Err(LearnError::Setting(text)) if text.contains("no end")), "{trace}: {refused:?}");
    }
}

#[test]
fn an_update_inside_a_sequence_cannot_look_ahead() {
    let model = model(|cx, x| leaky(cx, x, false));
    let of = |config: LearnerConfig, of_sum| {
        let objective = Objective { of_sum, ..Objective::default() };
        Learner::new(&model, &objective, &LearnerConfig { update_every: Some(3), ..config }).map(|_| ())
    };
    for trace in [TraceSetting::FixedLag, TraceSetting::Whole, TraceSetting::Recompute] {
        let refused =
            of(LearnerConfig { trace, lag: Some(5), lag_tolerance: 1.0, ..config(Method::D_RTRL) }, OfSum::Never);
        assert!(matches!(&refused, Err(LearnError::Setting(text)) if text.contains("--update_every")), "{refused:?}");
    }
    let windows = LearnerConfig { vjp: Vjp::MultiStep { window: 2 }, ..config(Method::D_RTRL) };
    for (config, of_sum) in
        [(config(Method::BPTT), OfSum::Never), (config(Method::D_RTRL), OfSum::Always), (windows.clone(), OfSum::Never)]
    {
        let refused = of(config, of_sum);
        assert!(matches!(&refused, Err(LearnError::Setting(text)) if text.contains("--update_every 3")), "{refused:?}");
    }
    assert!(of(config(Method::D_RTRL), OfSum::Evaluation).is_ok());
    assert!(of(LearnerConfig { vjp: Vjp::MultiStep { window: 3 }, ..windows }, OfSum::Never).is_ok());
}

/// The page and the tests name the same limitations.
#[test]
fn every_row_of_the_page_has_its_test() {
    let page = include_str!("../docs/limitations.md");
    let rows: Vec<&str> =
        page.lines().filter_map(|l| l.split('`').nth_back(1).filter(|_| l.starts_with("| "))).collect();
    let source = include_str!("limitations.rs");
    let tests: Vec<&str> = source
        .split("#[test]\nfn ")
        .skip(1)
        .filter_map(|t| t.split('(').next())
        .filter(|name| *name != "every_row_of_the_page_has_its_test")
        .collect();
    assert!(tests.len() >= 10, "{tests:?}");
    let sorted = |mut names: Vec<&'static str>| {
        names.sort_unstable();
        names
    };
    assert_eq!(sorted(rows), sorted(tests));
}

#[test]
fn rules_with_signals_of_their_own_have_no_windows() {
    let model = model(|cx, x| leaky(cx, x, true));
    for (name, takes) in [
        ("e-prop", false),
        ("three-factor", false),
        ("mdgl", false),
        ("s-tllr", false),
        ("d-rtrl", true),
        ("scalar-leak", true),
    ] {
        let vjp = Vjp::MultiStep { window: 1 };
        let config = LearnerConfig { vjp, ..config(<Method as Listed>::by_name(name).expect("a rule")) };
        match Learner::new(&model, &Objective::default(), &config) {
            Err(LearnError::Setting(text)) if !takes => assert!(text.contains("single-step"), "{text}"),
            other => assert!(takes && other.is_ok(), "{name}: {:?}", other.err()),
        }
    }
}
