//! The adaptive neuron of the speech benchmark: every neuron learns its own time constants.

use hlo::{DType, Tensor};

use super::neuron::observe;
use crate::cell::{Dense, Init, StateInit, StepContext, Surrogate};

/// LIF with a learned leak `alpha`, and with adaptation a second state `w` with learned `beta`, `a`, `b`:
///
/// ```text
/// w' = beta w + a u + b s
/// u' = alpha (u - s) + (1 - alpha) (y - w')
/// s' = H(u' - threshold)
/// ```
///
/// The parameters are limited to their ranges where they are used; the derivative beyond a limit is 0. Equations:
/// `docs/spec/speech-and-gesture.md, "Speech cells"`. Parameters `alpha`, `beta`, `a`, `b`, each `[n]`.
#[derive(Clone, Debug)]
pub struct AdLif {
    /// Number of neurons.
    pub n: usize,
    /// Whether the adaptation `w` exists.
    pub adaptive: bool,
    /// Range of `alpha`.
    pub alpha: (f64, f64),
    /// Threshold.
    pub threshold: f64,
    /// States at the start of a sequence.
    pub init: StateInit,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
}

/// A traced parameter for each of `n` neurons, limited to `[lo, hi]` where it is used and uniform there at the start.
pub fn bounded(cx: &mut StepContext, name: &str, n: usize, (lo, hi): (f64, f64)) -> Tensor {
    let weight = cx.param(name, &[n], Init::Uniform(lo, hi));
    cx.elementwise(name, &weight.clamp(lo, hi))
}

impl AdLif {
    /// Range of `alpha` for time constants of 5 to 25 steps.
    pub const ALPHA: (f64, f64) = (0.818_730_753_077_981_8, 0.960_789_439_152_323_2);
    /// Range of `beta` for time constants of 30 to 120 steps.
    pub const BETA: (f64, f64) = (0.967_216_100_482_005_9, 0.991_701_292_638_876_8);

    /// The largest eigenvalue, in absolute value, of the transition of `(u, w)` in a step without spikes, where these are the values of
    /// `alpha` (in its `range`), `beta` and `a`. It is above 1 where `a < beta - 1`: such a neuron grows without bound between spikes.
    pub fn growth(range: (f64, f64), [alpha, beta, a]: [f64; 3]) -> f64 {
        let (alpha, beta) = (alpha.clamp(range.0, range.1), beta.clamp(AdLif::BETA.0, AdLif::BETA.1));
        // u' = alpha u - (1 - alpha) (beta w + a u), w' = beta w + a u
        let (trace, determinant) = (alpha + beta - (1.0 - alpha) * a.clamp(-1.0, 1.0), alpha * beta);
        match trace * trace - 4.0 * determinant {
            root if root >= 0.0 => (trace.abs() + root.sqrt()) / 2.0,
            _ => determinant.sqrt(),
        }
    }

    fn factor(&self, cx: &mut StepContext, name: &str, range: (f64, f64)) -> Tensor {
        bounded(cx, name, self.n, range)
    }

    /// `s V` with parameter `NAME.weight`, the diagonal taken as 0: no neuron drives itself.
    pub fn recurrence(cx: &mut StepContext, name: &str, s: &Tensor, init: Init) -> Tensor {
        let off_diagonal = |w: &Tensor| {
            let index = |axis| w.graph().iota(w.shape().with_dtype(DType::S32), axis);
            index(0).ne(&index(1)).select(w, &w.zeros_like())
        };
        let init = [init];
        cx.dense(name, &[s], s.dims()[1], &Dense::new(&init).without_bias().through(&off_diagonal))
    }

    /// The spikes of the stored state, `[B, n]`; not 0 or 1 at the start of a sequence if `init` draws them.
    pub fn last_spike(&self, cx: &mut StepContext) -> Tensor {
        cx.state("s", self.n, self.init.clone())
    }

    /// One step under the drive `y`, `[B, n]`; returns the new spikes.
    pub fn step(&self, cx: &mut StepContext, y: &Tensor) -> Tensor {
        let (u, s) = (cx.state("u", self.n, self.init.clone()), cx.state("s", self.n, self.init.clone()));
        let alpha = self.factor(cx, "alpha", self.alpha);
        let drive = if self.adaptive {
            let w = cx.state("w", self.n, self.init.clone());
            let (beta, a) = (self.factor(cx, "beta", AdLif::BETA), self.factor(cx, "a", (-1.0, 1.0)));
            let w = beta * w + a * &u + self.factor(cx, "b", (0.0, 2.0)) * &s;
            cx.set("w", &w);
            y - w
        } else {
            y.clone()
        };
        let u = &alpha * (u - s) + (1.0 - &alpha) * drive;
        cx.set("u", &u);
        let s = self.surrogate.spike(&(&u - self.threshold));
        cx.set("s", &s);
        observe(cx, &u, &s);
        s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The border is where `docs/spec/speech-and-gesture.md, "Speech cells"` puts an eigenvalue at 1.
    #[test]
    fn neurons_grow_where_the_adaptation_amplifies() {
        let growth = |a: f64| AdLif::growth(AdLif::ALPHA, [0.9, 0.98, a]);
        assert!(growth(-0.021) > 1.0 && growth(-0.019) < 1.0);
        assert!((growth(-0.02) - 1.0).abs() < 1e-9);
        assert!(growth(-1.0) > growth(-0.5) && (0.0..1.0).contains(&growth(1.0)), "{}", growth(-1.0));
        // By hand: u' = (0.9 + 0.1) u - 0.098 w, w' = 0.98 w - u for a = -1.
        let (mut u, mut w) = (1.0f64, -1.0f64);
        let mut before = 1.0;
        for _ in 0..200 {
            before = u;
            w = 0.98 * w - u;
            u = 0.9 * u - 0.1 * w;
        }
        assert!((u / before - growth(-1.0)).abs() < 1e-9, "{} and {}", u / before, growth(-1.0));
    }
}
