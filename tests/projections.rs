//! UORO: a trace projected at random.

mod judge;

use etrace::{
    cell::{Dense, Init, StateInit, StepContext},
    learn::{
        Learner, LossKind, Method, Objective, Rule,
        rule::{About, Projection, Recursion, Signs, TracedOp, Uoro},
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
    let one = |n: usize, two_states: bool| {
        StepContext::trace(1, 2, |cx, x| {
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
    };
    for (neurons, states) in [(2, 1), (1, 2)] {
        let case = Case::of(one(neurons, states == 2), objective(), 9, 3);
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

#[test]
fn uoro_is_a_function_of_its_seed_however_a_sequence_is_cut() {
    let method = |seed| Method::Uoro(Uoro { seed });
    let mut apart = 0;
    let takes = |case: &Case| Learner::new(&case.model, &case.objective, &config(method(1))).is_ok();
    for case in (0..).map(|seed| case(seed, STEPS)).filter(takes).take(8) {
        let want = grads(&case, &LearnerConfig { chunk: Some(1), ..config(method(1)) });
        for (chunk, stream) in [(2, false), (4, false), (STEPS, false), (1, true), (4, true)] {
            let config = LearnerConfig { chunk: Some(chunk), ..config(method(1)) };
            let learner = Learner::new(&case.model, &case.objective, &config).expect("a learner");
            let error = case.worst(&case.gradients(&learner, stream), &want);
            assert!(error < 1e-9, "chunks of {chunk}, stream {stream}: {error:e}");
        }
        apart += usize::from(case.worst(&grads(&case, &config(method(2))), &want) > 1e-2);
    }
    assert!(apart > 5, "another seed changes {apart} of 8");
}
