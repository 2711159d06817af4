//! Steps of unusual structure: each is treated exactly (as the judge says) or refused by name.

mod judge;

use etrace::{
    cell::{Dense, Init, Model, StateInit, StepContext, readout},
    learn::{Attachment, LearnError, Learner, Method, Objective, Vjp, sequence::LearnerConfig},
};
use hlo::Tensor;
use judge::{
    Judge, Rule,
    case::{BATCH, Case},
};

const EXIT: Vjp = Vjp::SingleStep { attachment: Attachment::Exit };
const ES: Method = Method::es_d_rtrl(0.9);
const N: usize = 3;

fn config(method: Method, chunk: usize) -> LearnerConfig {
    LearnerConfig { method, vjp: EXIT, chunk: Some(chunk), ..LearnerConfig::default() }
}

fn learner(model: &Model, config: &LearnerConfig) -> Result<Learner, LearnError> {
    Learner::new(model, &Objective::default(), config)
}

fn spike(x: &Tensor) -> Tensor {
    let soft = (x * 3.0).sigmoid();
    x.heaviside().with_derivative(&[(x, &(&soft * (1.0 - &soft) * 3.0))])
}

fn weights(init: &[Init]) -> Dense<'_> {
    Dense::new(init)
}

/// Every trained parameter learns, and every rule and chunk length says what the judge says.
#[track_caller]
fn is_exact(step: impl Fn(&mut StepContext, &Tensor) -> Tensor, steps: usize) -> Case {
    let model = StepContext::trace(BATCH, N, |cx, x| step(cx, x));
    let case = Case::of(model, Objective::default(), 3, steps);
    let judge = Judge::new(&case).expect("position-wise");
    for (method, rule) in [(Method::D_RTRL, Rule::Full), (ES, Rule::Factorised(0.9))] {
        let want = judge.online(&vec![rule; judge.ops.len()], 0);
        for (grad, spec) in want.iter().zip(&case.model.params).filter(|(_, p)| p.trainable) {
            assert!(grad.iter().any(|g| g.abs() > 1e-9), "{method:?}: `{}` learns nothing", spec.name);
        }
        for chunk in [1, 3, steps] {
            let learner = learner(&case.model, &config(method, chunk)).expect("the learner takes the model");
            let error = case.worst(&case.gradients(&learner, false), &want);
            assert!(error < 1e-5, "{method:?}, chunks of {chunk}: {error:e}");
        }
    }
    case
}

/// D-RTRL says what back-propagation through time says.
#[track_caller]
fn is_bptt(case: &Case) {
    let exact = case.gradients(&learner(&case.model, &config(Method::BPTT, 1)).expect("BPTT takes any model"), false);
    let online = case.gradients(&learner(&case.model, &config(Method::D_RTRL, 2)).expect("a model"), false);
    let error = case.worst(&online, &exact);
    assert!(error < 1e-5, "{error:e} from BPTT");
}

#[track_caller]
fn refusal(step: impl Fn(&mut StepContext, &Tensor) -> Tensor) -> String {
    let model = StepContext::trace(BATCH, N, |cx, x| step(cx, x));
    match learner(&model, &config(Method::D_RTRL, 1)) {
        Ok(_) => panic!("the learner takes a model that it must refuse"),
        Err(error) => error.to_string(),
    }
}

/// Output before the reset of the same step.
fn pre_reset(cx: &mut StepContext, x: &Tensor, recurrent: bool) -> Tensor {
    let v = cx.state("V", N, StateInit::Zeros);
    let old = spike(&(&v - 0.2));
    let inputs: Vec<&Tensor> = if recurrent { vec![x, &old] } else { vec![x] };
    let y = cx.dense("l0", &inputs, N, &weights(&[Init::KaimingNormal(2.0)]));
    let u = &v * 0.9 + y;
    let s = spike(&(&u - 0.2));
    cx.set("V", &(&u - &s));
    s
}

fn before_a_leaky_readout(cx: &mut StepContext, x: &Tensor, recurrent: bool) -> Tensor {
    let spikes = pre_reset(cx, x, recurrent);
    readout::leaky(cx, &spikes, 2, 10.0, 1.0)
}

#[test]
fn outputs_before_the_reset_learn() {
    for recurrent in [false, true] {
        is_exact(|cx, x| before_a_leaky_readout(cx, x, recurrent), 20);
    }
    // Without another layer's memory and without recurrence nothing is left out.
    is_bptt(&is_exact(|cx, x| pre_reset(cx, x, false), 20));
    // One step is a step, whatever the rule.
    let one = is_exact(|cx, x| before_a_leaky_readout(cx, x, true), 1);
    is_bptt(&one);
}

#[test]
fn a_layer_that_reads_a_spike_before_its_reset_is_no_exception() {
    is_exact(
        |cx, x| {
            let first = cx.scope("first", |cx| pre_reset(cx, x, true));
            let second = cx.scope("second", |cx| pre_reset(cx, &first, false));
            readout::linear(cx, &second, 2)
        },
        7,
    );
}

#[test]
fn a_copy_of_an_old_value_is_a_state_of_its_group() {
    let case = is_exact(
        |cx, x| {
            let (v, copy) = (cx.state("V", N, StateInit::Zeros), cx.state("copy", N, StateInit::Zeros));
            let y = cx.dense("l0", &[x], N, &weights(&[Init::KaimingNormal(2.0)]));
            cx.set("copy", &v);
            cx.set("V", &(v * 0.8 + y));
            // Two steps after the input.
            copy.tanh()
        },
        6,
    );
    is_bptt(&case);
    let learner = learner(&case.model, &config(Method::D_RTRL, 1)).expect("taken");
    assert_eq!(learner.structure.groups.len(), 1);
}

#[test]
fn two_states_with_one_value_count_once() {
    is_bptt(&is_exact(
        |cx, x| {
            let (v, _) = (cx.state("V", N, StateInit::Zeros), cx.state("twin", N, StateInit::Zeros));
            let y = cx.dense("l0", &[x], N, &weights(&[Init::KaimingNormal(2.0)]));
            let v = v * 0.8 + y;
            cx.set("V", &v);
            cx.set("twin", &v);
            v.tanh()
        },
        6,
    ));
}

#[test]
fn a_latched_input_can_be_read_later() {
    let case = is_exact(
        |cx, x| {
            let latch = cx.state("latch", N, StateInit::Zeros);
            cx.set("latch", x);
            let v = cx.state("V", N, StateInit::Zeros);
            let y = cx.dense("l0", &[x, &latch], N, &weights(&[Init::KaimingNormal(2.0)]));
            let v = v * 0.8 + y;
            cx.set("V", &v);
            v.tanh()
        },
        6,
    );
    is_bptt(&case);
}

#[test]
fn a_state_that_forgets_itself_is_remembered_by_its_group() {
    // h' = W x has no past of its own; the average has.
    is_bptt(&is_exact(
        |cx, x| {
            let mean = cx.state("mean", N, StateInit::Zeros);
            cx.state("h", N, StateInit::Zeros);
            let h = cx.dense("l0", &[x], N, &weights(&[Init::KaimingNormal(2.0)])).tanh();
            cx.set("h", &h);
            let mean = mean * 0.8 + &h;
            cx.set("mean", &mean);
            mean.tanh()
        },
        6,
    ));
}

#[test]
fn a_state_that_nobody_reads_changes_nothing() {
    let with = |unread: bool| {
        is_exact(
            |cx, x| {
                let v = cx.state("V", N, StateInit::Zeros);
                let y = cx.dense("l0", &[x], N, &weights(&[Init::KaimingNormal(2.0)]));
                let v = v * 0.8 + y;
                cx.set("V", &v);
                if unread {
                    cx.state("unread", N, StateInit::Zeros);
                    cx.set("unread", &(v.tanh() * 3.0));
                }
                v.tanh()
            },
            6,
        )
    };
    let gradient =
        |case: &Case| case.gradients(&learner(&case.model, &config(Method::D_RTRL, 3)).expect("taken"), false);
    let (mut with, without) = (with(true), with(false));
    (with.inputs, with.states) = (without.inputs.clone(), [&without.states[..], &with.states[1..]].concat());
    assert!(without.worst(&gradient(&with), &gradient(&without)) < 1e-12);
}

#[test]
fn several_ops_of_several_kinds_drive_one_group() {
    is_exact(
        |cx, x| {
            let (v, g) = (cx.state("V", N, StateInit::Zeros), cx.state("g", N, StateInit::Zeros));
            let rate = cx.param("rate", &[N], Init::Zeros);
            let decay = cx.elementwise("rate", &rate).sigmoid();
            let current = cx.dense("in", &[x], N, &weights(&[Init::KaimingNormal(2.0)]));
            let back = cx.dense("back", &[&spike(&(&v - 1.0))], N, &weights(&[Init::KaimingNormal(1.0)]));
            let g = g * 0.7 + current;
            let v = decay * v + &g * 0.5 + back;
            cx.set("g", &g);
            cx.set("V", &v);
            (v + g).tanh()
        },
        7,
    );
}

/// Each use has a trace of its own; a use without a trace learns from the step alone.
#[test]
fn a_weight_used_twice_learns_from_both_uses() {
    is_bptt(&is_exact(
        |cx, x| {
            let v = cx.state("V", N, StateInit::Zeros);
            let weight = cx.param("weight", &[N, N], Init::KaimingNormal(1.0));
            let y = cx.matmul("l0", x, &weight) + cx.matmul("l0", &(x * x), &weight);
            let v = v * 0.8 + y;
            cx.set("V", &v);
            // The same weight once more, where no state remembers it.
            cx.matmul("out", &v.tanh(), &weight)
        },
        6,
    ));
}

#[test]
fn one_path_that_mixes_positions_is_named() {
    let mixing = |by: fn(&Tensor) -> Tensor| {
        refusal(move |cx, x| {
            let v = cx.state("V", N, StateInit::Zeros);
            let y = cx.dense("l0", &[x], N, &weights(&[Init::KaimingNormal(2.0)]));
            let v = &v * 0.8 + by(&v) * 0.1 + y;
            cx.set("V", &v);
            v
        })
    };
    let text = mixing(|v| v.reverse(&[1]));
    assert!(text.contains("the group {V}") && text.contains("`reverse`"), "{text}");
    let text = mixing(|v| v.mean(&[1]).unsqueeze_last().broadcast_to(v.dims()));
    assert!(text.contains("the group {V}") && text.contains("--method bptt"), "{text}");
    // An op whose output is mixed on the way to the state.
    let text = refusal(|cx, x| {
        let v = cx.state("V", N, StateInit::Zeros);
        let y = cx.dense("l0", &[x], N, &weights(&[Init::KaimingNormal(2.0)]));
        let v = v * 0.8 + y.reverse(&[1]);
        cx.set("V", &v);
        v
    });
    assert!(text.contains("the traced op `l0`") && text.contains("`reverse`"), "{text}");
}

/// On the way out positions may mix as they like.
#[test]
fn mixtures_after_the_states_are_followed() {
    is_bptt(&is_exact(
        |cx, x| {
            let s = pre_reset(cx, x, false);
            let mean = s.mean(&[1]).unsqueeze_last().broadcast_to(s.dims());
            s - mean * 0.5
        },
        6,
    ));
    // So may another layer without a weight to learn: what it remembers is left out.
    is_exact(
        |cx, x| {
            let s = pre_reset(cx, x, false);
            let pooled = cx.state("pooled", 1, StateInit::Zeros) * 0.5 + s.mean(&[1]).unsqueeze_last();
            cx.set("pooled", &pooled);
            Tensor::concat(&[&pooled, &(&pooled * -1.0)], 1)
        },
        6,
    );
}

#[test]
fn a_gradient_that_structure_makes_zero_is_an_error() {
    // The loss reads the old value of a readout with memory: whatever the layer below does, it is remembered there first.
    let text = refusal(|cx, x| {
        let s = pre_reset(cx, x, false);
        let r = cx.state("r", 2, StateInit::Zeros);
        let new = &r * 0.9 + cx.dense("out", &[&s], 2, &weights(&[Init::KaimingNormal(1.0)]));
        cx.set("r", &new);
        r
    });
    for part in ["`l0.weight`", "the memory of r", "new states", "--method bptt"] {
        assert!(text.contains(part), "`{part}` is missing from: {text}");
    }
    // A plain parameter in a recurrence that is read one step late.
    let text = refusal(|cx, x| {
        let v = cx.state("V", N, StateInit::Zeros);
        let weight = cx.param("weight", &[N, N], Init::KaimingNormal(1.0));
        cx.set("V", &(&v * 0.8 + x.dot(&weight)));
        v
    });
    for part in ["`weight`", "V", "`matmul`", "--method bptt"] {
        assert!(text.contains(part), "`{part}` is missing from: {text}");
    }
}

/// The compatible mode gives parameters without a trace no gradient, as its model does; it says so and is no error.
#[test]
fn what_a_documented_rule_leaves_out_is_said() {
    let model = StepContext::trace(BATCH, N, |cx, x| {
        let v = cx.state("V", N, StateInit::Zeros);
        let y = cx.dense("l0", &[x], N, &weights(&[Init::KaimingNormal(2.0)]));
        let v = v * 0.8 + y;
        cx.set("V", &v);
        readout::linear(cx, &v, 2)
    });
    let vjp = Vjp::SingleStep { attachment: Attachment::InStep };
    let config = LearnerConfig { vjp, ..config(Method::D_RTRL, 1) };
    let learner = learner(&model, &config).expect("taken");
    let out = learner.paths.iter().find(|p| p.parameter == "out.weight").expect("listed");
    assert!(out.follows.is_empty() && out.drops.iter().any(|d| d.to_string().contains("reference library")), "{out:?}");
}

/// The paths of a parameter in words, as `explain` prints them.
#[test]
fn paths_name_what_is_followed_and_what_is_not() {
    let model = StepContext::trace(BATCH, N, |cx, x| before_a_leaky_readout(cx, x, true));
    let learner = learner(&model, &config(Method::D_RTRL, 1)).expect("taken");
    let of = |name: &str| learner.paths.iter().find(|p| p.parameter == name).expect("listed");
    let words = |all: Vec<String>| all.join("; ");
    let hidden = of("l0.weight");
    let follows = words(hidden.follows.iter().map(ToString::to_string).collect());
    let drops = words(hidden.drops.iter().map(ToString::to_string).collect());
    assert!(follows.contains("the trace in V, read before the step") && follows.contains("bypassing"), "{follows}");
    assert!(drops.contains("from neuron to neuron through l0") && drops.contains("the memory of out."), "{drops}");
    let readout = of("out.weight");
    assert!(readout.drops.is_empty(), "{readout:?}");
}
