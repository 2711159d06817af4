//! The event-based gated recurrent unit (Subramoney et al. 2023), as the gesture experiments have it:
//! `docs/spec/speech-and-gesture.md, "Event-based GRU"`.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::{Dense, Init, Mode, Quantity, StateInit, StepContext, Surrogate};

/// What units tell each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feedback {
    /// The internal state `h`, as in the published gesture experiments: communication is dense.
    #[default]
    State,
    /// The events' values `y`, as in the EGRU paper: a unit that has no event says nothing.
    Events,
}

/// Zoneout: in training, each unit keeps its state with probability `rate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Zoneout {
    /// Probability; 0 for none.
    pub rate: f64,
    /// As published: changes that are kept in training are scaled by `1/(1 - rate)`, and the weights of old and new state are swapped
    /// in evaluation. Otherwise as in the paper on zoneout.
    pub published: bool,
}

impl Zoneout {
    fn apply(self, cx: &mut StepContext, c: &Tensor, h: &Tensor, mode: Mode) -> Tensor {
        let p = self.rate;
        if p <= 0.0 {
            return c.clone();
        }
        if !mode.trains() {
            let p = if self.published { 1.0 - p } else { p };
            return c * (1.0 - p) + h * p;
        }
        let changes = cx.survives(c.dims()[1], p);
        let changed = if self.published { h + &((c - h) * (1.0 / (1.0 - p))) } else { c.clone() };
        changes.select(&changed, h)
    }
}

/// A layer of event-based gated recurrent units.
///
/// ```text
/// z, r = s([x; f] Wz), s([x; f] Wr)          f is h or y, see Feedback
/// g  = tanh(x Whx + r (f Whr))               c = z h + (1 - z) g
/// e  = H(c - thr)                            o' = e,  h' = c - e thr,  y' = e c,  tr' = 0.9 tr + 0.1 y'
/// ```
#[derive(Clone, Debug)]
pub struct Egru {
    /// Number of units.
    pub n: usize,
    /// Initial matrices.
    pub init: Init,
    /// Initial thresholds.
    pub threshold: Init,
    /// Derivative of an event.
    pub surrogate: Surrogate,
    /// Units that keep their state.
    pub zoneout: Zoneout,
    /// What units tell each other.
    pub feedback: Feedback,
    /// Whether the output is the trace `tr` of the events' values rather than these.
    pub trace: bool,
}

impl Egru {
    /// Weight of the newest value in the output trace.
    const NEW: f64 = 0.1;

    /// `n` units without zoneout and trace.
    pub fn new(n: usize) -> Egru {
        Egru {
            n,
            init: Init::KaimingNormal(1.0),
            threshold: Init::Uniform(0.0, 1.0),
            surrogate: Surrogate::Triangle { scale: 0.7, steepness: 1.0 },
            zoneout: Zoneout::default(),
            feedback: Feedback::State,
            trace: false,
        }
    }

    /// Thresholds around `mean`, from a Beta distribution with parameters `3 mean / (1 - mean)` and 3.
    pub fn thresholds(mean: f64) -> Init {
        Init::Beta(3.0 * mean / (1.0 - mean), 3.0)
    }

    /// One step; returns the output, `[B, n]`.
    pub fn step(&self, cx: &mut StepContext, x: &Tensor, mode: Mode) -> Tensor {
        let n = self.n;
        let h = cx.state("h", n, StateInit::Zeros);
        // Written for whoever looks at the cell; `y` is read back only as feedback.
        cx.state("o", n, StateInit::Zeros);
        let old = cx.state("y", n, StateInit::Zeros);
        let back = if self.feedback == Feedback::Events { old } else { h.clone() };
        let map = |cx: &mut StepContext, name: &str, inputs: &[&Tensor]| {
            cx.dense(name, inputs, n, &Dense::new(std::slice::from_ref(&self.init)))
        };
        let z = map(cx, "Wz", &[x, &back]).sigmoid();
        let r = map(cx, "Wr", &[x, &back]).sigmoid();
        let g = (map(cx, "Whx", &[x]) + map(cx, "Whr", &[&back]) * r).tanh();
        let thr = cx.param("thr.weight", &[n], self.threshold.clone());
        let thr = cx.elementwise("thr", &thr);
        let c = &z * &h + (1.0 - &z) * g;
        let c = self.zoneout.apply(cx, &c, &h, mode);
        let e = self.surrogate.spike(&(&c - &thr));
        let y = &e * &c;
        cx.set("o", &e);
        cx.set("h", &(c - &e * thr));
        cx.set("y", &y);
        cx.observe(Quantity::Spike, &e);
        if !self.trace {
            return y;
        }
        let trace = cx.state("tr", n, StateInit::Zeros) * (1.0 - Egru::NEW) + y * Egru::NEW;
        cx.set("tr", &trace);
        trace
    }
}
