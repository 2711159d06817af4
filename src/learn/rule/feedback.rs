//! D-RTRL with random feedback: no transposed weights.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::{About, Passage, Rule, TracedOp};
use crate::{learn::trace::TraceKind, rng::Stream};

/// The traces of D-RTRL with learning signals that come back through fixed random matrices in place of transposed weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomFeedback {
    /// Which random matrices.
    pub seed: u64,
}

impl Rule for RandomFeedback {
    fn about(&self) -> About {
        About {
            equation: "e_t = D_t e_{t-1} + x_t (x) f_t,  G = sum_t L_t . e_t,  L_t pulled back with B in place of every W",
            source: "Lillicrap et al., Nature Communications 7 (2016); with eligibility traces: Bellec et al., Nature \
                     Communications 11 (2020), \"random e-prop\"",
            memory: "as d-rtrl",
            use_when: "when a model of learning must not use the weights of other synapses",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }

    /// Normal with variance `1 / I`, the scale of usual initial weights; a matrix depends on the seed and the layer's name alone.
    fn feedback(&self, passage: &Passage<'_>) -> Option<Tensor> {
        let shape = passage.weight.shape();
        let mut random = Stream::new(self.seed, &format!("feedback {}", passage.name));
        let scale = 1.0 / (shape.dims[0].max(1) as f64).sqrt();
        let values = (0..shape.elements()).map(|_| scale * random.normal()).collect();
        Some(passage.weight.graph().literal(shape, values))
    }
}
