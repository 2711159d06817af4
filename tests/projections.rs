//! Rules that follow influence from neuron to neuron: SnAp on whole layers, and UORO, which projects it at random.

mod judge;

use etrace::{
    cell::{Dense, Init, Model, StateInit, StepContext},
    learn::{
        LearnError, Learner, LossKind, Method, Objective, Rule, Vjp,
        rule::{About, OstlRecurrent, Projection, Recursion, Signs, SnAp, TracedOp, Uoro},
        sequence::LearnerConfig,
        trace::TraceKind,
    },
};
use hlo::{Shape, Tensor};
use judge::{case::Case, models::case};

const STEPS: usize = 6;

fn objective() -> Objective {
    Objective { loss: LossKind::Mse, ..Objective::default() }
}

fn config(method: Method) -> LearnerConfig {
    LearnerConfig { method, chunk: Some(2), ..LearnerConfig::default() }
}

fn grads(case: &Case, config: &LearnerConfig) -> Vec<Vec<f64>> {
    case.gradients(&Learner::new(&case.model, &case.objective, config).expect("a learner"), false)
}

/// A recurrent layer of one or two states, which feed each other, and a readout without memory.
fn layer(batch: usize, n: usize, two_states: bool) -> Model {
    StepContext::trace(batch, 2, |cx, x| {
        let h = cx.state("h", n, StateInit::Zeros);
        let y = cx.dense("cell", &[x, &h.tanh()], n, &Dense::new(&[Init::Zeros, Init::Zeros]));
        let new = match two_states {
            true => {
                let slow = cx.state("slow", n, StateInit::Zeros) * 0.7 + y;
                cx.set("slow", &slow);
                h * 0.5 + slow.tanh()
            }
            false => y.tanh(),
        };
        cx.set("h", &new);
        cx.dense("out", &[&new], 2, &Dense::new(&[Init::Zeros]))
    })
}

fn with_bits(case: &Case, rule: Bits) -> Learner {
    let rule: Box<dyn Rule> = Box::new(rule);
    let config = config(Method::D_RTRL);
    Learner::with_rule(&case.model, &case.objective, &config, Box::new(rule)).expect("a learner")
}

/// UORO with the signs that the bits of a number say: `[T, S, N]`.
struct Bits {
    bits: u32,
    states: usize,
    neurons: usize,
}

impl Rule for Bits {
    fn about(&self) -> About {
        Uoro::default().about()
    }
    fn trace(&self, op: TracedOp<'_>) -> Option<TraceKind> {
        Uoro::default().trace(op)
    }
    fn recursion(&self) -> Recursion {
        Uoro::default().recursion()
    }
    fn projection(&self) -> Option<&dyn Projection> {
        Some(self)
    }
}

impl Projection for Bits {
    fn signs(&self, signs: &Signs<'_>) -> Tensor {
        let all = 3 * self.states * self.neurons;
        let values = (0..all).map(|k| if self.bits >> k & 1 == 1 { 1.0 } else { -1.0 }).collect();
        let table = signs.time.graph().literal(&Shape::f32([3, self.states, self.neurons]), values);
        table.dynamic_slice(signs.time, 1).at(0).at(signs.state).reshape(&signs.dims)
    }
}

/// The mean over all signs is exact, with influence from neuron to neuron and from state to state; a single one is not.
#[test]
fn uoro_is_right_on_average() {
    for (neurons, states) in [(2, 1), (1, 2)] {
        let case = Case::of(layer(1, neurons, states == 2), objective(), 9, 3);
        let exact = grads(&case, &config(Method::BPTT));
        let mut mean: Vec<Vec<f64>> = exact.iter().map(|grad| vec![0.0; grad.len()]).collect();
        let patterns = 1 << (3 * neurons * states);
        let mut apart = 0;
        for bits in 0..patterns {
            let got = case.gradients(&with_bits(&case, Bits { bits, states, neurons }), false);
            apart += usize::from(case.worst(&got, &exact) > 1e-2);
            for (sum, g) in mean.iter_mut().flatten().zip(got.iter().flatten()) {
                *sum += g / f64::from(patterns);
            }
        }
        assert!(case.worst(&mean, &exact) < 1e-5, "{mean:?}\n{exact:?}");
        assert!(apart > 50, "{apart} of {patterns} differ");
    }
}

/// All of the influence within a layer is all there is, where nothing else has memory.
#[test]
fn snap_on_a_whole_layer_is_exact() {
    let snap = |n| Method::SnAp(SnAp { n });
    for two_states in [false, true] {
        let case = Case::of(layer(2, 3, two_states), objective(), 9, STEPS);
        let exact = grads(&case, &config(Method::BPTT));
        assert!(case.worst(&grads(&case, &config(snap(2))), &exact) < 1e-9);
        assert_eq!(grads(&case, &config(snap(1))), grads(&case, &config(Method::OstlRecurrent(OstlRecurrent {}))));
        let one = case.worst(&grads(&case, &config(snap(1))), &exact);
        // Far above rounding: influence between neurons is left out.
        assert!(one > 1e-3, "{one:e}, two states: {two_states}");
    }
    let wide = layer(64, 300, true);
    let refused = Learner::new(&wide, &objective(), &config(snap(2))).err();
    let Some(LearnError::Setting(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("1 GiB, got") && text.contains("uoro"), "{text}");
    let zero = Learner::new(&layer(2, 3, false), &objective(), &config(snap(0))).err();
    assert!(zero.is_some_and(|e| e.to_string().contains("got 0")));
}

#[test]
fn however_a_sequence_is_cut_the_gradient_is_one() {
    let [snap, one, other] =
        [Method::SnAp(SnAp { n: 2 }), Method::Uoro(Uoro { seed: 1 }), Method::Uoro(Uoro { seed: 2 })];
    let mut apart = 0;
    let takes = |case: &Case| Learner::new(&case.model, &case.objective, &config(one)).is_ok();
    for case in (0..).map(|seed| case(seed, STEPS)).filter(takes).take(8) {
        for method in [snap, one] {
            for vjp in [Vjp::default(), Vjp::MultiStep { window: 1 }] {
                let of = |chunk| LearnerConfig { vjp, chunk: Some(chunk), ..config(method) };
                let want = grads(&case, &of(1));
                for (chunk, stream) in [(2, false), (4, false), (STEPS, false), (1, true), (4, true)] {
                    let learner = Learner::new(&case.model, &case.objective, &of(chunk)).expect("a learner");
                    let error = case.worst(&case.gradients(&learner, stream), &want);
                    let what = method.name();
                    assert!(error < 1e-9, "{what}, {vjp:?}, chunks of {chunk}, stream {stream}: {error:e}");
                }
            }
        }
        apart += usize::from(case.worst(&grads(&case, &config(one)), &grads(&case, &config(other))) > 1e-2);
    }
    assert!(apart > 5, "another seed changes {apart} of 8");
}
