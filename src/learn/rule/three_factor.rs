//! Three-factor learning: a modulator in place of a learning signal.

use hlo::{DType, Shape, Tensor};
use serde::{Deserialize, Serialize};

use super::{About, Moment, Received, Reception, Rule, TracedOp};
use crate::learn::{LearnError, trace::TraceKind};

/// The traces of D-RTRL gated by a number that is the same for every neuron and step. [`Modulated`] has one for each step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThreeFactor {
    /// What takes the place of the derivative of the loss with respect to every state.
    pub modulator: f64,
}

impl Default for ThreeFactor {
    fn default() -> Self {
        ThreeFactor { modulator: 1.0 }
    }
}

/// What both rules say of themselves.
const ABOUT: About = About {
    equation: "e_t = D_t e_{t-1} + x_t (x) f_t,  G = sum_t m_t sum_a e_t[a], the same modulator m_t for every neuron and state a",
    source: "Fremaux and Gerstner, Frontiers in Neural Circuits 9 (2016); Gerstner et al., Frontiers in Neural Circuits 12 (2018)",
    memory: "as d-rtrl",
    use_when: "as a model of learning by a global signal such as reward; it does not descend the loss",
};

impl Rule for ThreeFactor {
    fn about(&self) -> About {
        ABOUT
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }

    fn reception(&self) -> Option<&dyn Reception> {
        Some(self)
    }

    fn check(&self) -> Result<(), LearnError> {
        check(&[self.modulator])
    }
}

impl Reception for ThreeFactor {
    fn receive(&self, received: &Received<'_>) -> Option<Tensor> {
        let after = received.moment == Moment::After;
        after.then(|| received.time.graph().full(&Shape::f32(received.dims), self.modulator))
    }

    fn adds_up(&self) -> bool {
        true
    }
}

/// [`ThreeFactor`] with a modulator for each step of a sequence, for [`Learner::with_rule`](crate::learn::Learner::with_rule); after
/// the last of them nothing is learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Modulated {
    /// By step.
    pub modulator: Vec<f64>,
}

impl Rule for Modulated {
    fn about(&self) -> About {
        ABOUT
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }

    fn reception(&self) -> Option<&dyn Reception> {
        Some(self)
    }

    fn check(&self) -> Result<(), LearnError> {
        check(&self.modulator)
    }
}

impl Reception for Modulated {
    fn receive(&self, received: &Received<'_>) -> Option<Tensor> {
        if received.moment != Moment::After {
            return None;
        }
        let (g, steps, [length, ..]) = (received.time.graph(), self.modulator.len(), received.dims);
        // Zeros after the last: a chunk may reach beyond it.
        let mut values = self.modulator.clone();
        values.resize(steps + length, 0.0);
        let all = g.literal(&Shape::f32([steps + length]), values);
        let from = received.time.minimum(&g.scalar(DType::S32, steps as f64));
        Some(all.dynamic_slice(&from, length).broadcast(&received.dims, &[0]))
    }

    fn adds_up(&self) -> bool {
        true
    }
}

fn check(modulator: &[f64]) -> Result<(), LearnError> {
    match modulator.iter().find(|m| !m.is_finite()) {
        Some(wrong) => Err(LearnError::Setting(format!(
            "the modulator of a three-factor rule must be a number, got {wrong}; 1 is usual"
        ))),
        None => Ok(()),
    }
}
