//! E-prop: a low-pass filter behind the traces of D-RTRL, and random feedback if wanted.

use hlo::{DType, Dot, Shape, Tensor};
use serde::{Deserialize, Serialize};

use super::{About, Received, Reception, Rule, TracedOp, check_factor};
use crate::{
    learn::{LearnError, trace::TraceKind},
    rng::Stream,
};

/// D-RTRL with filtered traces.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EProp {
    /// Factor of the filter, in [0, 1); the decay of a leaky readout is usual, 0 is no filter.
    pub kappa: f64,
    /// Whether the signal of each group is normalised and multiplied by a fixed random matrix.
    pub random_feedback: bool,
    /// Which matrices.
    pub seed: u64,
}

impl Default for EProp {
    fn default() -> Self {
        EProp { kappa: 0.9, random_feedback: false, seed: 0 }
    }
}

impl Rule for EProp {
    fn about(&self) -> About {
        About {
            equation: "ebar_t = kappa ebar_{t-1} + e_t,  e_t = D_t e_{t-1} + x_t (x) f_t,  G = sum_t L'_t . ebar_t,  L'_t = L_t, or \
                       L_t / |L_t| times a random matrix",
            source: "Bellec et al., Nature Communications 11 (2020)",
            memory: "twice d-rtrl where kappa is not 0, else as d-rtrl",
            use_when: "when what reads a layer is leaky: the filter stands for the memory of the readout",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }

    fn filter(&self) -> f64 {
        self.kappa
    }

    fn reception(&self) -> Option<&dyn Reception> {
        self.random_feedback.then_some(self)
    }

    fn check(&self) -> Result<(), LearnError> {
        check_factor("the filter kappa", self.kappa, "the decay of the readout is usual, 0 is no filter")
    }
}

/// Normal matrices of scale 0.1; a matrix depends on the seed and the group's place alone.
impl Reception for EProp {
    fn receive(&self, received: &Received<'_>) -> Option<Tensor> {
        let n = received.dims[2];
        let mut random = Stream::new(self.seed, &format!("e-prop feedback {}", received.group));
        let values = (0..n * n).map(|_| 0.1 * random.normal()).collect();
        let matrix = received.time.graph().literal(&Shape::f32([n, n]), values);
        received.signal.map(|signal| normalised(signal, &matrix))
    }
}

/// A signal `[K, B, N]` of length one over the neurons of each sequence, times a matrix `[N, N]` from the right.
pub fn normalised(signal: &Tensor, matrix: &Tensor) -> Tensor {
    debug_assert_eq!(signal.dtype(), DType::F32);
    let last = signal.rank() - 1;
    let length = (signal * signal).sum(&[last]).sqrt() + 1e-8;
    let leading: Vec<usize> = (0..last).collect();
    let one = signal / length.broadcast(signal.dims(), &leading);
    one.dot_general(matrix, Dot { lhs_contract: vec![last], rhs_contract: vec![0], ..Dot::default() })
}
