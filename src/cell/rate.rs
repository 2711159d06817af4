//! Rate cells: units with a continuous output (and [`Egru`], which sends it in events).
//!
//! Each is one step: `x: [B, m]` and the stored states give the output `[B, n]`. `[u; v]` is a concatenation, `s` the
//! logistic function, `*` element by element. See `docs/spec/networks-dms-ei.md, "Rate cells"`; the parameters carry the
//! names used in the equations.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::{Dense, Init, Mode, StateInit, StepContext, egru::Egru};

/// A cell by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateCell {
    /// [`vanilla_rnn`].
    #[default]
    Rnn,
    /// [`gru`].
    Gru,
    /// [`lstm`].
    Lstm,
    /// [`mgu`].
    Mgu,
    /// [`minimal_rnn`].
    MinimalRnn,
    /// [`Egru`].
    Egru,
}

impl RateCell {
    /// A cell by any name that the published scripts use.
    pub fn by_name(name: &str) -> Option<RateCell> {
        Some(match name {
            "rnn" | "vanilla_rnn" => RateCell::Rnn,
            "gru" => RateCell::Gru,
            "lstm" => RateCell::Lstm,
            "mgu" => RateCell::Mgu,
            "minimal_rnn" | "minimal-rnn" => RateCell::MinimalRnn,
            "egru" => RateCell::Egru,
            _ => return None,
        })
    }

    /// One step; returns the output, `[B, n]`.
    pub fn step(self, cx: &mut StepContext, x: &Tensor, n: usize) -> Tensor {
        match self {
            RateCell::Rnn => vanilla_rnn(cx, x, n),
            RateCell::Gru => gru(cx, x, n),
            RateCell::Lstm => lstm(cx, x, n),
            RateCell::Mgu => mgu(cx, x, n),
            RateCell::MinimalRnn => minimal_rnn(cx, x, n),
            RateCell::Egru => Egru::new(n).step(cx, x, Mode::Offline),
        }
    }
}

fn map(cx: &mut StepContext, name: &str, inputs: &[&Tensor], n: usize) -> Tensor {
    cx.dense(name, inputs, n, &Dense::new(&[Init::KaimingNormal(1.0)]))
}

/// Elman's RNN: `h' = tanh([x; h] W + b)`.
pub fn vanilla_rnn(cx: &mut StepContext, x: &Tensor, n: usize) -> Tensor {
    let h = cx.state("h", n, StateInit::Zeros);
    let h = map(cx, "W", &[x, &h], n).tanh();
    cx.set("h", &h);
    h
}

/// Gated recurrent unit: `z = s([x; h] Wz)`, `r = s([x; h] Wr)`, `c = tanh([x; r*h] Wh)`, `h' = (1 - z) h + z c`.
pub fn gru(cx: &mut StepContext, x: &Tensor, n: usize) -> Tensor {
    let h = cx.state("h", n, StateInit::Zeros);
    let z = map(cx, "Wz", &[x, &h], n).sigmoid();
    let r = map(cx, "Wr", &[x, &h], n).sigmoid();
    let c = map(cx, "Wh", &[x, &(r * &h)], n).tanh();
    let h = (1.0 - &z) * h + z * c;
    cx.set("h", &h);
    h
}

/// Minimal gated unit, a GRU with one gate: `f = s([x; h] Wf)`, `c = tanh([x; f*h] Wh)`, `h' = (1 - f) h + f c`.
pub fn mgu(cx: &mut StepContext, x: &Tensor, n: usize) -> Tensor {
    let h = cx.state("h", n, StateInit::Zeros);
    let f = map(cx, "Wf", &[x, &h], n).sigmoid();
    let c = map(cx, "Wh", &[x, &(&f * &h)], n).tanh();
    let h = (1.0 - &f) * h + f * c;
    cx.set("h", &h);
    h
}

/// Long short-term memory: `i, f, o = s([x; h] Wi), s([x; h] Wf + 1), s([x; h] Wo)`, `g = tanh([x; h] Wg)`,
/// `c' = f c + i g`, `h' = o tanh(c')`.
pub fn lstm(cx: &mut StepContext, x: &Tensor, n: usize) -> Tensor {
    let (c, h) = (cx.state("c", n, StateInit::Zeros), cx.state("h", n, StateInit::Zeros));
    let i = map(cx, "Wi", &[x, &h], n).sigmoid();
    let g = map(cx, "Wg", &[x, &h], n).tanh();
    let f = (map(cx, "Wf", &[x, &h], n) + 1.0).sigmoid();
    let o = map(cx, "Wo", &[x, &h], n).sigmoid();
    let c = f * c + i * g;
    let h = o * c.tanh();
    cx.set("c", &c);
    cx.set("h", &h);
    h
}

/// MinimalRNN: `z = x phi`, `f = s([z; h] Wu)`, `h' = f h + (1 - f) z`.
pub fn minimal_rnn(cx: &mut StepContext, x: &Tensor, n: usize) -> Tensor {
    let h = cx.state("h", n, StateInit::Zeros);
    let z = map(cx, "phi", &[x], n);
    let f = map(cx, "Wu", &[&z, &h], n).sigmoid();
    let h = &f * h + (1.0 - &f) * z;
    cx.set("h", &h);
    h
}
