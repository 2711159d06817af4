//! Rate cells: units with a continuous output and no spikes.

use hlo::Tensor;

use super::{Dense, Init, StateInit, StepContext};

/// The tanh RNN, `h' = tanh([x; h] W + b)`; returns `h'`, `[B, n]`.
pub fn vanilla_rnn(cx: &mut StepContext, name: &str, x: &Tensor, n: usize) -> Tensor {
    let h = cx.state("h", n, StateInit::Zeros);
    let y = cx.dense(name, &[x, &h], n, &Dense::new(&[Init::KaimingNormal(1.0)]));
    let h = y.tanh();
    cx.set("h", &h);
    h
}
