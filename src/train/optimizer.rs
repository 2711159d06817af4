//! Optimisers, gradient clipping and learning-rate schedules (`docs/spec/networks-dms-ei.md, "Optimisers and schedules"`).
//!
//! Updates are part of the training program: parameters and optimiser state never leave the device. The global norm is
//! computed from gradients divided by their largest entry, so it cannot overflow; a gradient that is not finite leaves
//! parameters and state untouched and is reported by the trainer.

use hlo::{DType, Graph, Tensor};
use serde::{Deserialize, Serialize};

/// Which update rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// `w -= lr g`.
    Sgd,
    /// `v = 0.9 v + g; w -= lr v`.
    Momentum,
    /// `s = 0.99 s + 0.01 g^2; w -= lr g / (sqrt(s) + eps)`.
    RmsProp,
    /// Adam with 0.9, 0.999 and bias correction.
    #[default]
    Adam,
}

impl Rule {
    /// The names the published commands use.
    pub const NAMES: &[&str] = &["adam", "momentum", "sgd", "rmsprop"];

    /// A rule by name.
    pub fn by_name(name: &str) -> Option<Rule> {
        Some(match name {
            "adam" => Rule::Adam,
            "momentum" => Rule::Momentum,
            "sgd" => Rule::Sgd,
            "rmsprop" => Rule::RmsProp,
            _ => return None,
        })
    }

    /// How many arrays of each parameter's shape it keeps.
    pub fn slots(self) -> usize {
        match self {
            Rule::Sgd => 0,
            Rule::Momentum | Rule::RmsProp => 1,
            Rule::Adam => 2,
        }
    }
}

/// Learning rate over training steps; `n` counts updates from 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Schedule {
    /// The same all along.
    #[default]
    Constant,
    /// `gamma^(n / every)`, whole division.
    Step {
        /// Updates per step.
        every: u64,
        /// Factor.
        gamma: f64,
    },
    /// `gamma^(number of milestones <= n)`.
    Milestones {
        /// Updates at which the rate falls.
        at: Vec<u64>,
        /// Factor.
        gamma: f64,
    },
}

impl Schedule {
    /// The factor on the base rate for update `n`.
    pub fn factor(&self, n: u64) -> f64 {
        match self {
            Schedule::Constant => 1.0,
            Schedule::Step { every, gamma } => gamma.powf((n / (*every).max(1)) as f64),
            Schedule::Milestones { at, gamma } => gamma.powf(at.iter().filter(|m| **m <= n).count() as f64),
        }
    }
}

/// Everything about an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// Which rule.
    pub rule: Rule,
    /// Base learning rate.
    pub lr: f64,
    /// How it changes.
    pub schedule: Schedule,
    /// Largest global norm of the gradient; 0 switches clipping off.
    pub clip: f64,
    /// What Adam and RMSprop add to the root of the second moment: a weight whose clipped gradient stays far below it hardly moves.
    #[serde(default = "usual_eps")]
    pub eps: f64,
    /// `weight_l1 * sum |w|` is added to the loss (its derivative to the gradient).
    pub weight_l1: f64,
    /// Coupled weight decay: `g += weight_l2 w` before the moments.
    pub weight_l2: f64,
}

fn usual_eps() -> f64 {
    1e-8
}

impl Default for Optimizer {
    fn default() -> Self {
        Optimizer {
            rule: Rule::Adam,
            lr: 1e-3,
            schedule: Schedule::Constant,
            clip: 1.0,
            eps: usual_eps(),
            weight_l1: 0.0,
            weight_l2: 0.0,
        }
    }
}

/// Parameters and optimiser state after an update.
pub struct Updated {
    /// New parameters.
    pub params: Vec<Tensor>,
    /// New state: for each slot of the rule, one array per parameter.
    pub slots: Vec<Tensor>,
    /// New update counter, `s32[]`.
    pub count: Tensor,
    /// Global norm of the gradient before clipping, a scalar.
    pub norm: Tensor,
}

/// The global L2 norm, `max|g| sqrt(sum (g / max|g|)^2)`: finite whenever every entry is and the result can be represented.
pub fn global_norm(g: &Graph, grads: &[Tensor]) -> Tensor {
    let largest = grads.iter().map(|t| t.abs().max_all()).reduce(|a, b| a.maximum(&b));
    let Some(largest) = largest else { return g.scalar(DType::F32, 0.0) };
    let zero = largest.zeros_like();
    // Divide by 1 where all is zero, and keep infinities and NaN as they are.
    let scale = largest.gt(&zero).select(&largest, &largest.full_like(1.0));
    let sum =
        grads.iter().map(|t| (t / &scale).square().sum_all()).reduce(|a, b| a + b).unwrap_or_else(|| zero.clone());
    let norm = sum.sqrt() * &scale;
    let finite = largest.lt(&largest.full_like(f64::INFINITY));
    finite.select(&norm, &(&largest * 1.0))
}

impl Optimizer {
    /// The term `weight_l1 * sum |w|`, a scalar.
    pub fn l1(&self, g: &Graph, params: &[Tensor]) -> Tensor {
        let zero = || g.scalar(DType::F32, 0.0);
        if self.weight_l1 == 0.0 {
            return zero();
        }
        params.iter().fold(zero(), |sum, w| sum + w.abs().sum_all()) * self.weight_l1
    }

    /// A gradient with the derivative of that term.
    fn with_l1(&self, w: &Tensor, gradient: &Tensor) -> Tensor {
        if self.weight_l1 == 0.0 {
            return gradient.clone();
        }
        let zero = w.zeros_like();
        let below = w.lt(&zero).select(&w.full_like(-1.0), &zero);
        gradient + w.gt(&zero).select(&w.full_like(1.0), &below) * self.weight_l1
    }

    /// One update of `params` with `grads`; `lr` is the scheduled rate, `count: s32[]` the number of updates before. Where `counts`
    /// (`pred[]`) is false no step carried loss: parameters, moments and count stay as they are.
    pub fn update(
        &self,
        params: &[Tensor],
        grads: &[Tensor],
        slots: &[Tensor],
        (count, lr): (&Tensor, &Tensor),
        counts: Option<&Tensor>,
    ) -> Updated {
        let g = count.graph();
        let grads: Vec<Tensor> = params.iter().zip(grads).map(|(w, d)| self.with_l1(w, d)).collect();
        let norm = global_norm(g, &grads);
        let finite = norm.lt(&norm.full_like(f64::INFINITY));
        let scale = if self.clip > 0.0 {
            (self.clip / (&norm + 1e-6)).minimum(&norm.full_like(1.0))
        } else {
            norm.full_like(1.0)
        };
        let next = count + &g.scalar(DType::S32, 1.0);
        let n = next.convert(DType::F32);
        let made = counts.map_or(finite.clone(), |counts| counts.select(&finite, counts));
        let keep = |new: &Tensor, old: &Tensor| made.select(new, old);
        let mut new_params = Vec::new();
        let mut new_slots: Vec<Vec<Tensor>> = vec![Vec::new(); self.rule.slots()];
        for (k, (w, d)) in params.iter().zip(&grads).enumerate() {
            let mut d = d * &scale;
            if self.weight_l2 > 0.0 {
                d = d + w * self.weight_l2;
            }
            let slot = |s: usize| &slots[s * params.len() + k];
            // The step reads what is kept, so that the old slot is read once and its array becomes the new one.
            let mut new = |s: usize, value: Tensor| {
                new_slots[s].push(keep(&value, slot(s)));
                new_slots[s][k].clone()
            };
            let step = match self.rule {
                Rule::Sgd => d,
                Rule::Momentum => new(0, slot(0) * 0.9 + d),
                Rule::RmsProp => {
                    let s = new(0, slot(0) * 0.99 + d.square() * 0.01);
                    d / (s.sqrt() + self.eps)
                }
                Rule::Adam => {
                    let m = new(0, slot(0) * 0.9 + &d * 0.1);
                    let v = new(1, slot(1) * 0.999 + d.square() * 0.001);
                    let correct = |decay: f64| 1.0 - (&n * decay.ln()).exp();
                    (m / correct(0.9)) / ((v / correct(0.999)).sqrt() + self.eps)
                }
            };
            new_params.push(keep(&(w - &(step * lr)), w));
        }
        Updated {
            params: new_params,
            slots: new_slots.into_iter().flatten().collect(),
            count: made.select(&next, count),
            norm,
        }
    }
}

#[cfg(test)]
mod tests {
    use hlo::{Func, Shape, array::Array, pjrt::Device};

    use super::*;
    use crate::train::session::Session;

    fn run(optimizer: &Optimizer, w0: [f32; 2], grads: &[[f32; 2]]) -> Vec<Vec<f64>> {
        let session = Session::open(Device::Cpu, None, &mut |_| {}).expect("a CPU plugin");
        let slots = optimizer.rule.slots();
        let mut shapes = vec![Shape::f32([2]); 2 + slots];
        shapes.extend([Shape::s32([]), Shape::f32([])]);
        let func = Func::trace(&shapes, |_, p| {
            let u = optimizer.update(&p[..1], &p[1..2], &p[2..2 + slots], (&p[2 + slots], &p[3 + slots]), None);
            u.params.into_iter().chain(u.slots).chain([u.count, u.norm]).collect()
        });
        let vector = |v: &[f32]| Array::f32(v, [2]).expect("two values");
        let mut args = vec![vector(&w0), vector(&[0.0, 0.0])];
        args.extend(vec![vector(&[0.0, 0.0]); slots]);
        args.extend([Array::scalar_of(0i32), Array::scalar_of(0f32)]);
        let mut seen = Vec::new();
        for (n, g) in grads.iter().enumerate() {
            args[1] = vector(g);
            let lr = optimizer.lr * optimizer.schedule.factor(n as u64);
            args[3 + slots] = Array::scalar_of(lr as f32);
            let out = session.evaluate("update", &func, &args).expect("the update runs");
            args[0] = out[0].clone();
            args[2..3 + slots].clone_from_slice(&out[1..2 + slots]);
            seen.push(out[0].to_f64_vec());
        }
        seen
    }

    fn close(got: &[Vec<f64>], want: &[[f64; 2]]) {
        for (g, w) in got.iter().zip(want) {
            assert!(g.iter().zip(w).all(|(a, b)| (a - b).abs() < 2e-6), "{got:?} {want:?}");
        }
    }

    const GRADS: [[f32; 2]; 3] = [[0.5, -0.1], [0.2, 0.3], [-0.4, 0.0]];

    /// `docs/spec/networks-dms-ei.md, "Worked examples"`.
    #[test]
    fn adam_follows_the_worked_example() {
        let adam = Optimizer { lr: 0.01, clip: 0.0, ..Optimizer::default() };
        close(&run(&adam, [1.0, -2.0], &GRADS), &[[0.99, -1.99], [0.981014, -1.994942], [0.979252, -1.998762]]);
        let decayed = Optimizer { weight_l2: 0.1, ..adam };
        close(&run(&decayed, [1.0, -2.0], &GRADS), &[[0.99, -1.99], [0.980683, -1.986026], [0.976743, -1.980026]]);
    }

    #[test]
    fn a_weight_whose_gradient_is_below_eps_moves_less() {
        let adam = Optimizer { lr: 0.01, clip: 0.0, eps: 0.5, ..Optimizer::default() };
        // lr |g| / (|g| + eps) in the first update.
        close(&run(&adam, [1.0, -2.0], &GRADS[..1]), &[[0.995, -1.998333]]);
    }

    #[test]
    fn momentum_follows_the_worked_example() {
        let momentum = Optimizer { rule: Rule::Momentum, lr: 0.01, clip: 0.0, ..Optimizer::default() };
        close(&run(&momentum, [1.0, -2.0], &GRADS[..2]), &[[0.995, -1.999], [0.9885, -2.0011]]);
    }

    #[test]
    fn rmsprop_divides_by_the_root_of_a_running_mean_of_squares() {
        let rmsprop = Optimizer { rule: Rule::RmsProp, lr: 0.01, clip: 0.0, ..Optimizer::default() };
        // s = 0.01 * 0.25, step 0.5 / 0.05; then s = 0.99 * 0.0025 + 0.01 * 0.04 = 0.002875, step 0.2 / 0.0536190.
        close(&run(&rmsprop, [1.0, 0.0], &[[0.5, 0.0], [0.2, 0.0]]), &[[0.9, 0.0], [0.862700, 0.0]]);
    }

    #[test]
    fn the_rate_falls_in_steps() {
        let step = Schedule::Step { every: 2, gamma: 0.9 };
        let rates: Vec<f64> = (0..5).map(|n| (1e-3 * step.factor(n) * 1e7).round()).collect();
        assert_eq!(rates, [10000.0, 10000.0, 9000.0, 9000.0, 8100.0]);
        let milestones = Schedule::Milestones { at: vec![2, 3], gamma: 0.2 };
        assert_eq!([0, 2, 5].map(|n| (milestones.factor(n) * 100.0).round()), [100.0, 20.0, 4.0]);
    }

    #[test]
    fn the_norm_of_many_elements_is_that_of_all() {
        let session = Session::open(Device::Cpu, None, &mut |_| {}).expect("a CPU plugin");
        for dims in [[2304, 96], [640, 33], [1001, 100]] {
            let n = dims[0] * dims[1];
            let values: Vec<f32> = (0..n).map(|k| ((k * 7919 % 1000) as f32 - 499.5) / 250.0).collect();
            let want = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let func = Func::trace(&[Shape::f32(dims)], |g, p| vec![global_norm(g, p)]);
            let array = Array::f32(values, dims).expect("fits");
            let got = session.evaluate("norm", &func, &[array]).expect("runs")[0].to_f64_vec()[0];
            assert!((got / want - 1.0).abs() < 1e-6, "{dims:?}: {got} {want}");
        }
    }

    #[test]
    fn the_norm_does_not_overflow_and_clips_as_published() {
        let session = Session::open(Device::Cpu, None, &mut |_| {}).expect("a CPU plugin");
        let norm = |values: [f32; 3]| {
            let func = Func::trace(&[Shape::f32([3])], |g, p| vec![global_norm(g, p)]);
            let array = Array::f32(values, [3]).expect("three values");
            session.evaluate("norm", &func, &[array]).expect("runs")[0].to_f64_vec()[0]
        };
        assert!((norm([3.0, 4.0, 12.0]) - 13.0).abs() < 1e-5);
        assert!((norm([3e30, 4e30, 0.0]) / 5e30 - 1.0).abs() < 1e-5);
        assert_eq!(norm([0.0, 0.0, 0.0]), 0.0);
        assert!(!norm([f32::NAN, 1.0, 0.0]).is_finite() && !norm([f32::INFINITY, 1.0, 0.0]).is_finite());
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let out = run(&Optimizer::default(), [1.0, -2.0], &[[f32::NAN, 0.0]]);
        close(&out, &[[1.0, -2.0]]);
    }
}
