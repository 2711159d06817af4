//! UORO: real-time recurrent learning projected at random.

use hlo::{DType, Shape, Tensor, random};
use serde::{Deserialize, Serialize};

use super::{About, Projection, Recursion, Rule, Signs, TracedOp};
use crate::learn::trace::TraceKind;

/// An unbiased estimate of real-time recurrent learning within a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uoro {
    /// Which random signs.
    pub seed: u32,
}

impl Rule for Uoro {
    fn about(&self) -> About {
        About {
            equation: "s_t = r0 J_t s_{t-1} + r1 v_t,  w_t = w_{t-1} / r0 + (v_t^T dh_t/dw) / r1,  G = sum_t (L_t . s_t) w_t,  v_t random signs",
            source: "Tallec and Ollivier, Unbiased Online Recurrent Optimization, ICLR (2018)",
            memory: "one value per weight and B N per state; the sequences of a batch share one sum",
            use_when: "as the unbiased extreme: right on average with influence from neuron to neuron, and very noisy; small batches only",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Projected)
    }

    fn recursion(&self) -> Recursion {
        Recursion::Coupled
    }

    fn projection(&self) -> Option<&dyn Projection> {
        Some(self)
    }
}

/// Hashes of seed, group, state, step and position.
impl Projection for Uoro {
    fn signs(&self, signs: &Signs<'_>) -> Tensor {
        let g = signs.time.graph();
        let shape = Shape::new(DType::U32, signs.dims);
        let number = |n: usize| g.full(&shape, n as f64);
        let time = signs.time.convert(DType::U32).broadcast(&signs.dims, &[]);
        let (row, column) = (g.iota(shape.clone(), 0), g.iota(shape.clone(), 1));
        let place = number(signs.group * 256 + signs.state);
        let bits = random::bits(&[&number(self.seed as usize), &place, &time, &row, &column]);
        let one = g.full(&Shape::f32(signs.dims), 1.0);
        random::uniform(&bits).ge(&one.full_like(0.5)).select(&one, &-&one)
    }
}
