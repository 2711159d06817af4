//! From a layer's output to class scores.

use hlo::Tensor;

use super::{Dense, Init, StateInit, StepContext};

/// Leaky readout `r' = k(tau) r + u W`: no bias, no (1 - k) gain. Parameter `out.weight`, state `out.r`; returns `r'`.
pub fn leaky(cx: &mut StepContext, u: &Tensor, n_out: usize, tau: f64, dt: f64) -> Tensor {
    let y = cx.dense("out", &[u], n_out, &Dense::new(&[Init::KaimingNormal(2.0)]).without_bias());
    cx.readout("out", |cx| {
        let r = cx.state("r", n_out, StateInit::Zeros);
        let r = r * (-dt / tau).exp() + y;
        cx.set("r", &r);
        r
    })
}

/// Readout without memory, `out = u W + b`.
pub fn linear(cx: &mut StepContext, u: &Tensor, n_out: usize) -> Tensor {
    cx.dense("out", &[u], n_out, &Dense::new(&[Init::KaimingNormal(2.0)]))
}
