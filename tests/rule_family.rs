//! The rules beside D-RTRL and ES-D-RTRL: equal where theory says so, different where it says so, and the same in every form.

mod judge;

use std::ops::Deref;

use etrace::{
    cell::{Dense, Init, Model, StateInit, StepContext, Surrogate},
    learn::{
        Attachment, LearnError, Learner, LossKind, Method, Objective, Rule, Vjp,
        form::TraceSetting,
        rule::{
            About, EProp, EsDRtrl, Immediate, Mdgl, Modulated, NoTransition, OstlFeedForward, OstlRecurrent, Ottt,
            Received, Reception, ScalarLeak, ThreeFactor, TracedOp, Uoro,
        },
        sequence::LearnerConfig,
        trace::TraceKind,
    },
};
use hlo::Tensor;
use judge::{Judge, case::Case, models::case};

const STEPS: usize = 6;

fn objective() -> Objective {
    Objective { loss: LossKind::Mse, ..Objective::default() }
}

fn config() -> LearnerConfig {
    LearnerConfig { chunk: Some(2), ..LearnerConfig::default() }
}

fn of(model: Model, seed: u64) -> Case {
    Case::of(model, objective(), seed, STEPS)
}

fn dense(bias: bool) -> Dense<'static> {
    Dense { bias, ..Dense::new(&[Init::Zeros]) }
}

/// Two layers of linear units with one leak, no bias, and a readout without memory.
fn linear() -> Case {
    of(
        StepContext::trace(2, 3, |cx, x| {
            let mut y = x.clone();
            for (name, n) in [("a", 4), ("b", 3)] {
                let h = cx.state(name, n, StateInit::Zeros) * 0.75
                    + cx.dense(&format!("{name}.w"), &[&y], n, &dense(false));
                cx.set(name, &h);
                y = h;
            }
            cx.dense("out", &[&y], 2, &dense(false))
        }),
        5,
    )
}

/// A recurrent layer of `n` spiking neurons with a synaptic current, and a leaky readout: two states that feed each other.
fn spiking(n: usize) -> Case {
    of(
        StepContext::trace(2, 3, |cx, x| {
            let (v, g) = (cx.state("V", n, StateInit::Zeros), cx.state("g", n, StateInit::Zeros));
            let spike = Surrogate::default().spike(&(&v - 0.3));
            let inits = [Init::Zeros, Init::Zeros];
            let current = g * 0.6 + cx.dense("cell", &[x, &spike], n, &Dense::new(&inits));
            let new = (&v - &spike) * 0.8 + &current * 0.5;
            cx.set("g", &current);
            cx.set("V", &new);
            let y = cx.dense("out", &[&Surrogate::default().spike(&(&new - 0.3))], 2, &dense(true));
            let r = cx.state("r", 2, StateInit::Zeros) * 0.5 + y;
            cx.set("r", &r);
            r
        }),
        3,
    )
}

/// An Elman layer, whose transition is zero, with a readout without memory.
fn elman(n: usize) -> Case {
    of(
        StepContext::trace(2, 3, |cx, x| {
            let h = cx.state("h", n, StateInit::Zeros);
            let h = cx.dense("cell", &[x, &h], n, &Dense::new(&[Init::Zeros, Init::Zeros])).tanh();
            cx.set("h", &h);
            cx.dense("out", &[&h], 2, &dense(true))
        }),
        4,
    )
}

/// Gated units: a reset gate acts by way of another op, in the same step.
fn gated(n: usize) -> Case {
    of(
        StepContext::trace(2, 3, |cx, x| {
            let h = cx.state("h", n, StateInit::Zeros);
            let both = [Init::Zeros, Init::Zeros];
            let z = cx.dense("z", &[x, &h], n, &Dense::new(&both)).sigmoid();
            let r = cx.dense("r", &[x, &h], n, &Dense::new(&both)).sigmoid();
            let c = cx.dense("c", &[x, &(&r * &h)], n, &Dense::new(&both)).tanh();
            let new = (1.0 - &z) * &h + &z * c;
            cx.set("h", &new);
            cx.dense("out", &[&new], 2, &dense(true))
        }),
        6,
    )
}

fn grads(case: &Case, config: &LearnerConfig) -> Vec<Vec<f64>> {
    case.gradients(&Learner::new(&case.model, &case.objective, config).expect("a learner"), false)
}

fn by(case: &Case, method: Method) -> Vec<Vec<f64>> {
    grads(case, &LearnerConfig { method, ..config() })
}

/// Largest difference between two rules.
fn apart(case: &Case, a: Method, b: Method) -> f64 {
    case.worst(&by(case, a), &by(case, b))
}

const NO_TRANSITION: Method = Method::NoTransition(NoTransition {});
const OSTL: Method = Method::OstlRecurrent(OstlRecurrent {});
const IMMEDIATE: Method = Method::Immediate(Immediate {});

fn leak(leak: f64) -> Method {
    Method::ScalarLeak(ScalarLeak { leak })
}

fn e_prop(kappa: f64, random_feedback: bool) -> Method {
    Method::EProp(EProp { kappa, random_feedback, seed: 7 })
}

fn split(input: f64, output: f64) -> Method {
    let own = EsDRtrl { input_decay: Some(input), output_decay: Some(output), ..EsDRtrl::default() };
    Method::EsDRtrl(own)
}

/// A number or two in place of the recursion where it is that number: nothing changes, not even a bit.
#[test]
fn without_its_extension_a_rule_is_d_rtrl() {
    for case in [linear(), spiking(4), gated(3)] {
        assert_eq!(by(&case, e_prop(0.0, false)), by(&case, Method::D_RTRL));
        assert!(apart(&case, e_prop(0.6, false), Method::D_RTRL) > 1e-2);
        assert_eq!(by(&case, split(0.9, 0.9)), by(&case, Method::es_d_rtrl(0.9)));
        assert!(apart(&case, split(0.9, 0.5), split(0.5, 0.9)) > 1e-2);
        assert_eq!(by(&case, leak(0.0)), by(&case, NO_TRANSITION));
        assert_eq!(by(&case, Method::OstlFeedForward(OstlFeedForward {})), by(&case, Method::es_d_rtrl(1e-6)));
    }
}

#[test]
fn a_leak_is_the_transition_where_that_is_a_number() {
    let case = linear();
    assert!(apart(&case, leak(0.75), Method::D_RTRL) < 1e-12);
    assert!(apart(&case, leak(0.5), Method::D_RTRL) > 1e-2);
    // Powers of a decay come from its logarithm, a constant of single precision.
    assert!(apart(&case, Method::Ottt(Ottt { leak: 0.75 }), Method::D_RTRL) < 1e-6);
    assert!(apart(&case, Method::Ottt(Ottt { leak: 0.5 }), Method::D_RTRL) > 1e-2);
    assert!(apart(&spiking(4), leak(0.75), Method::D_RTRL) > 1e-2);
}

#[test]
fn without_memory_there_is_no_transition() {
    let case = elman(4);
    assert!(apart(&case, NO_TRANSITION, Method::D_RTRL) < 1e-12);
    assert!(apart(&case, IMMEDIATE, Method::D_RTRL) < 1e-12);
    let case = spiking(4);
    assert!(apart(&case, NO_TRANSITION, Method::D_RTRL) > 1e-2);
}

/// One neuron has nobody else to hear from: with its connection to itself the trace is complete. (The readouts have no memory.)
#[test]
fn ostl_is_exact_for_one_neuron() {
    for case in [elman(1), gated(1)] {
        let names: Vec<&str> = case.model.params.iter().map(|p| p.name.as_str()).collect();
        let (exact, ostl, plain) = (by(&case, Method::BPTT), by(&case, OSTL), by(&case, Method::D_RTRL));
        // The reset gate acts through another op: it has no trace under any rule.
        let traced: Vec<usize> = (0..names.len()).filter(|&k| !names[k].starts_with("r.")).collect();
        let of = |grads: &[Vec<f64>]| -> Vec<Vec<f64>> { traced.iter().map(|&k| grads[k].clone()).collect() };
        assert!(case.worst(&of(&ostl), &of(&exact)) < 1e-9, "{names:?}");
        assert!(case.worst(&of(&plain), &of(&exact)) > 1e-2, "{names:?}");
    }
    let several = elman(4);
    assert!(apart(&several, OSTL, Method::BPTT) > 1e-3 && apart(&several, OSTL, Method::D_RTRL) > 1e-3);
    // Without a connection to itself there is nothing to add.
    assert_eq!(by(&linear(), OSTL), by(&linear(), Method::D_RTRL));
}

/// The gradient of each step by itself, and of windows by themselves: truncated back-propagation.
#[test]
fn immediate_is_back_propagation_cut_at_every_step() {
    for case in [spiking(4), gated(3), linear()] {
        let judge = Judge::new(&case).expect("a model for online rules");
        for window in [1, 3] {
            let vjp = if window == 1 { Vjp::default() } else { Vjp::MultiStep { window } };
            let mut want: Vec<Vec<f64>> = judge.exact(0, window, 0).params;
            for from in (window..STEPS).step_by(window) {
                let more = judge.exact(from, from + window, from).params;
                want.iter_mut().flatten().zip(more.iter().flatten()).for_each(|(sum, g)| *sum += g);
            }
            let chunk = (window == 1).then_some(4);
            let got = grads(&case, &LearnerConfig { method: IMMEDIATE, vjp, chunk, ..config() });
            assert!(case.worst(&got, &want) < 1e-9, "windows of {window}");
            assert!(case.worst(&by(&case, Method::BPTT), &want) > 1e-2);
        }
    }
}

/// It asks nothing of the network: positions may be coupled, which no rule with traces takes.
#[test]
fn immediate_takes_what_couples_positions() {
    let model = StepContext::trace(2, 3, |cx, x| {
        let v = cx.state("V", 4, StateInit::Zeros);
        let mean = v.mean(&[1]).broadcast(&[2, 4], &[0]);
        let new = (v - mean) * 0.5 + cx.dense("cell", &[x], 4, &dense(true));
        cx.set("V", &new);
        cx.dense("out", &[&new.tanh()], 2, &dense(true))
    });
    let case = of(model, 1);
    let refused = Learner::new(&case.model, &case.objective, &config()).err();
    assert!(matches!(refused, Some(LearnError::NotPositionWise { .. })), "{refused:?}");
    assert!(by(&case, IMMEDIATE).iter().flatten().any(|g| *g != 0.0));
}

/// A rule of one's own with the traces of D-RTRL.
struct Own<F>(F);

impl<F: Fn(&Received<'_>) -> Option<Tensor>> Rule for Own<F> {
    fn about(&self) -> About {
        Method::D_RTRL.about()
    }
    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }
    fn reception(&self) -> Option<&dyn Reception> {
        Some(self)
    }
}

impl<F: Fn(&Received<'_>) -> Option<Tensor>> Reception for Own<F> {
    fn receive(&self, received: &Received<'_>) -> Option<Tensor> {
        (self.0)(received)
    }
}

fn with_rule(case: &Case, rule: impl Rule + 'static, config: &LearnerConfig) -> Learner {
    let rule: Box<dyn Rule> = Box::new(rule);
    Learner::with_rule(&case.model, &case.objective, config, Box::new(rule)).expect("a learner")
}

#[test]
fn a_signal_that_is_left_as_it_is_makes_d_rtrl() {
    for seed in 0..12 {
        let case = case(seed, STEPS);
        let Ok(plain) = Learner::new(&case.model, &case.objective, &config()) else { continue };
        let same = with_rule(&case, Own(|r: &Received<'_>| r.signal.cloned()), &config());
        assert_eq!(case.gradients(&same, false), case.gradients(&plain, false), "{}", case.made_of.join("; "));
    }
    let (case, double) = (spiking(4), |r: &Received<'_>| r.signal.map(|t| t * 2.0));
    let got = case.gradients(&with_rule(&case, Own(double), &config()), false);
    let want: Vec<Vec<f64>> =
        by(&case, Method::D_RTRL).iter().map(|grad| grad.iter().map(|g| 2.0 * g).collect()).collect();
    assert!(case.worst(&got, &want) < 1e-12);
}

/// By hand: `e_t = 0.75 e_{t-1} + x_t` for the first layer, gated by the modulator of the step, whatever the loss.
#[test]
fn a_modulator_gates_the_traces() {
    let modulator = vec![0.5, 0.0, -1.0, 2.0, 0.25, 1.0];
    let mut case = linear();
    let learner = with_rule(&case, Modulated { modulator: modulator.clone() }, &config());
    let got = case.gradients(&learner, false);
    let mut want = vec![0.0; 12];
    for s in 0..2 {
        let mut e = [0.0; 3];
        for (x, m) in case.inputs.iter().zip(&modulator) {
            e = std::array::from_fn(|i| 0.75 * e[i] + x.data[s * 3 + i]);
            (0..12).for_each(|k| want[k] += m * e[k / 4]);
        }
    }
    let worst = got[0].iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-9, "{got:?}\n{want:?}");
    case.target.data.swap(0, 1);
    let other = case.gradients(&learner, false);
    assert_eq!(other[..2], got[..2]);
    assert_ne!(other[2], got[2], "the readout has no trace and learns from the loss");
    // The same number in every step is the rule of the table; after the last one nothing is learned.
    let constant =
        |steps| case.gradients(&with_rule(&case, Modulated { modulator: vec![0.5; steps] }, &config()), false);
    assert_eq!(constant(STEPS), by(&case, Method::ThreeFactor(ThreeFactor { modulator: 0.5 })));
    let zeros = [vec![0.5; 3], vec![0.0; 3]].concat();
    assert_eq!(constant(3), case.gradients(&with_rule(&case, Modulated { modulator: zeros }, &config()), false));
    assert_ne!(constant(3)[0], constant(STEPS)[0]);
}

/// Only the direction of a signal counts, and the seed.
#[test]
fn random_feedback_forgets_the_size_of_a_signal() {
    let case = spiking(4);
    let plain = by(&case, e_prop(0.0, true));
    let louder = Own(|r: &Received<'_>| {
        let signal = r.signal.map(|t| t * 5.0);
        EProp { kappa: 0.0, random_feedback: true, seed: 7 }.receive(&Received { signal: signal.as_ref(), ..*r })
    });
    assert!(case.worst(&case.gradients(&with_rule(&case, louder, &config()), false), &plain) < 1e-5);
    let seed = Method::EProp(EProp { kappa: 0.0, random_feedback: true, seed: 8 });
    assert!(case.worst(&by(&case, seed), &plain) > 1e-2);
    assert!(case.worst(&by(&case, e_prop(0.0, false)), &plain) > 1e-2);
    assert!(case.worst(&by(&case, e_prop(0.6, true)), &plain) > 1e-2);
}

/// Makes a rule, as the learner takes it.
type Maker = Box<dyn Fn() -> Box<dyn Deref<Target = dyn Rule>>>;

/// Every rule with full traces.
fn full_rules() -> Vec<Maker> {
    let table = [NO_TRANSITION, leak(0.7), OSTL, e_prop(0.6, false), e_prop(0.6, true), e_prop(0.0, true)];
    let others = [Method::Mdgl(Mdgl {}), Method::ThreeFactor(ThreeFactor { modulator: 0.5 })];
    let mut all: Vec<Maker> = Vec::new();
    for method in table.into_iter().chain(others) {
        all.push(Box::new(move || Box::new(method)));
    }
    all.push(Box::new(|| {
        let rule: Box<dyn Rule> = Box::new(Modulated { modulator: vec![0.5, 0.1, -1.0, 2.0, 0.25, 1.0] });
        Box::new(rule)
    }));
    all
}

#[test]
fn all_forms_of_a_rule_agree_and_a_stream_too() {
    for case in [spiking(4), gated(3), linear()] {
        for (k, rule) in full_rules().iter().enumerate() {
            let learner = |config: &LearnerConfig| {
                Learner::with_rule(&case.model, &case.objective, config, rule()).unwrap_or_else(|e| panic!("{k}: {e}"))
            };
            for attachment in [Attachment::Exit, Attachment::InStep] {
                for warmup in [0, 2] {
                    let of = |trace, chunk, lag| LearnerConfig {
                        vjp: attachment.into(),
                        warmup,
                        trace,
                        chunk,
                        lag,
                        lag_tolerance: f64::INFINITY,
                        ..LearnerConfig::default()
                    };
                    let want = case.gradients(&learner(&of(TraceSetting::Dense, Some(1), None)), false);
                    assert!(want[0].iter().any(|g| *g != 0.0), "rule {k} learns nothing");
                    let check = |trace, chunk: Option<usize>, stream: bool| {
                        let lag = (trace == TraceSetting::FixedLag).then_some(STEPS);
                        let learner = learner(&of(trace, chunk, lag));
                        let error = case.worst(&case.gradients(&learner, stream), &want);
                        assert!(error < 1e-9, "rule {k}, {trace}, chunks of {chunk:?}, stream {stream}: {error:e}");
                    };
                    for chunk in [Some(2), Some(4), None] {
                        check(TraceSetting::Dense, chunk, false);
                    }
                    check(TraceSetting::Whole, None, false);
                    check(TraceSetting::Recompute, Some(4), false);
                    if has_wide(&learner(&of(TraceSetting::Dense, None, None))) {
                        check(TraceSetting::FixedLag, Some(4), false);
                    }
                    if warmup == 0 {
                        check(TraceSetting::Dense, Some(1), true);
                        check(TraceSetting::Dense, Some(4), true);
                    }
                }
            }
        }
    }
}

fn has_wide(learner: &Learner) -> bool {
    learner.as_traced().traced().any(|(_, op)| op.x.is_some() && op.reached.iter().any(|r| !r.wide.is_empty()))
}

/// To single precision, as powers of a decay are.
#[test]
fn factorised_rules_stream() {
    for case in [spiking(4), gated(3)] {
        for method in [split(0.9, 0.5), Method::Ottt(Ottt::default()), Method::OstlFeedForward(OstlFeedForward {})] {
            let want = grads(&case, &LearnerConfig { method, chunk: Some(1), ..config() });
            for (chunk, stream) in [(4, false), (1, true), (4, true)] {
                let config = LearnerConfig { method, chunk: Some(chunk), ..config() };
                let learner = Learner::new(&case.model, &case.objective, &config).expect("a learner");
                let error = case.worst(&case.gradients(&learner, stream), &want);
                assert!(error < 1e-6, "{}, chunks of {chunk}, stream {stream}: {error:e}", method.name());
            }
        }
    }
}

/// A filter behind traces that decay by themselves takes twice their memory, and no more.
#[test]
fn a_filter_doubles_the_traces() {
    let case = spiking(4);
    let bytes = |method| {
        let config = LearnerConfig { method, trace: TraceSetting::Dense, ..LearnerConfig::default() };
        Learner::new(&case.model, &case.objective, &config).expect("a learner").trace_bytes(STEPS)
    };
    assert_eq!(bytes(e_prop(0.6, false)), 2 * bytes(Method::D_RTRL));
    assert_eq!(bytes(IMMEDIATE), 0);
}

/// One connection and one step further than D-RTRL: two steps of a recurrent layer are exact, and more are not.
#[test]
fn a_signal_that_passes_one_connection_back_makes_two_steps_exact() {
    let mdgl = Method::Mdgl(Mdgl {});
    for mut case in [elman(4), gated(3)] {
        assert!(apart(&case, mdgl, Method::BPTT) > 1e-3 && apart(&case, mdgl, Method::D_RTRL) > 1e-3);
        case.inputs.truncate(2);
        // The reset gate acts through another op: it has no trace.
        let traced: Vec<usize> =
            (0..case.model.params.len()).filter(|&k| !case.model.params[k].name.starts_with("r.")).collect();
        let of = |method| -> Vec<Vec<f64>> {
            let grads = by(&case, method);
            traced.iter().map(|&k| grads[k].clone()).collect()
        };
        assert!(case.worst(&of(mdgl), &of(Method::BPTT)) < 1e-9);
        assert!(case.worst(&of(Method::D_RTRL), &of(Method::BPTT)) > 1e-3);
    }
    // Without connections inside a group there is nothing to pass on.
    assert_eq!(by(&linear(), mdgl), by(&linear(), Method::D_RTRL));
}

#[track_caller]
fn refused(case: &Case, config: &LearnerConfig, parts: &[&str]) {
    let error = Learner::new(&case.model, &case.objective, config).err();
    let Some(LearnError::Setting(text)) = error else { panic!("{parts:?}: {error:?}") };
    assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in: {text}");
}

#[test]
fn what_a_rule_cannot_do_is_refused() {
    let case = spiking(4);
    for window in [1, 3] {
        let vjp = Vjp::MultiStep { window };
        let windows = format!("windows of {window}");
        let of = |method| LearnerConfig { method, vjp, chunk: None, ..config() };
        refused(&case, &of(e_prop(0.5, false)), &["filters its traces", &windows, "single-step"]);
        refused(&case, &of(e_prop(0.0, true)), &["replaces learning signals", &windows, "single-step"]);
        refused(&case, &of(Method::ThreeFactor(ThreeFactor::default())), &[&windows, "single-step"]);
        refused(&case, &of(Method::Mdgl(Mdgl {})), &["passes signals on", &windows, "single-step"]);
        for method in [e_prop(0.0, false), OSTL, leak(0.5), IMMEDIATE] {
            assert!(Learner::new(&case.model, &case.objective, &of(method)).is_ok(), "{}", method.name());
        }
    }
    let of = |method, trace| LearnerConfig { method, trace, ..LearnerConfig::default() };
    for trace in [TraceSetting::Whole, TraceSetting::Recompute, TraceSetting::FixedLag] {
        for method in [IMMEDIATE, Method::Ottt(Ottt::default()), Method::Uoro(Uoro::default())] {
            refused(&case, &of(method, trace), &["no trace of the size of a weight", &trace.to_string()]);
        }
    }
    let auto = |method| of(method, TraceSetting::Auto);
    refused(&case, &auto(e_prop(1.0, false)), &["kappa", "[0, 1)", "got 1"]);
    refused(&case, &auto(leak(-0.1)), &["leak", "got -0.1"]);
    refused(&case, &auto(Method::Ottt(Ottt { leak: 1.5 })), &["leak", "got 1.5"]);
    refused(&case, &auto(split(0.5, 1.0)), &["decay", "got 1"]);
    refused(&case, &auto(Method::ThreeFactor(ThreeFactor { modulator: f64::NAN })), &["modulator", "NaN"]);
    // A filter is for full traces.
    struct Filtered;
    impl Rule for Filtered {
        fn about(&self) -> About {
            Method::D_RTRL.about()
        }
        fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
            Some(TraceKind::Factorised)
        }
        fn filter(&self) -> f64 {
            0.5
        }
    }
    let rule: Box<dyn Rule> = Box::new(Filtered);
    let error = Learner::with_rule(&case.model, &case.objective, &config(), Box::new(rule)).err();
    assert!(error.is_some_and(|e| e.to_string().contains("factor of 0.5 for others")));
}
