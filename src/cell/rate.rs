//! Rate cells: units with a continuous output (and [`Egru`], which sends it in events).
//!
//! Each is one step: `x: [B, m]` and the stored states give the output `[B, n]`; one function and one row of [`CELLS`]. `[u; v]` is
//! a concatenation, `s` the logistic function, `*` element by element. `docs/spec/networks-dms-ei.md, "Rate cells"`; the
//! parameters carry the names used in the equations.

use hlo::Tensor;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{Dense, Init, Mode, StateInit, StepContext, egru::Egru};
use crate::settings::{node::choices, table::plain};

/// One step of a cell: the input `x: [B, m]` and the number of units to the output `[B, n]`.
pub type Step = fn(&mut StepContext, &Tensor, usize) -> Tensor;

/// A row of the table of cells.
pub struct Row {
    /// Its name in configurations and on the command line.
    pub name: &'static str,
    /// Other names that mean the same.
    pub aliases: &'static [&'static str],
    /// What it is, in one line.
    pub doc: &'static str,
    /// Its step.
    pub step: Step,
}

/// The rate cells.
pub const CELLS: &[Row] = &[
    Row { name: "rnn", aliases: &["vanilla-rnn"], doc: "Elman's recurrent network", step: vanilla_rnn },
    Row { name: "gru", aliases: &[], doc: "Gated recurrent unit", step: gru },
    Row { name: "lstm", aliases: &[], doc: "Long short-term memory", step: lstm },
    Row { name: "mgu", aliases: &[], doc: "Minimal gated unit, a GRU with one gate", step: mgu },
    Row { name: "minimal-rnn", aliases: &[], doc: "MinimalRNN", step: minimal_rnn },
    Row { name: "egru", aliases: &["event-gru"], doc: "Event-based GRU, which sends its output in events", step: egru },
];

/// A cell of the table. In a configuration it is its name.
#[derive(Clone, Copy)]
pub struct RateCell(&'static Row);

impl RateCell {
    /// All cells.
    pub fn all() -> impl Iterator<Item = RateCell> {
        CELLS.iter().map(RateCell)
    }

    /// A cell by its name or any alias.
    pub fn by_name(name: &str) -> Option<RateCell> {
        let name = plain(name);
        RateCell::all().find(|cell| cell.0.name == name || cell.0.aliases.contains(&name.as_str()))
    }

    /// Its row.
    pub fn row(self) -> &'static Row {
        self.0
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// One step; returns the output, `[B, n]`.
    pub fn step(self, cx: &mut StepContext, x: &Tensor, n: usize) -> Tensor {
        (self.0.step)(cx, x, n)
    }
}

impl Default for RateCell {
    fn default() -> Self {
        RateCell(&CELLS[0])
    }
}

impl PartialEq for RateCell {
    fn eq(&self, other: &RateCell) -> bool {
        self.name() == other.name()
    }
}

impl std::fmt::Debug for RateCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for RateCell {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for RateCell {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<RateCell, D::Error> {
        let name = String::deserialize(from)?;
        let names: Vec<&str> = CELLS.iter().map(|row| row.name).collect();
        let unknown = || Error::custom(format!("knows no rate cell `{name}`; {}", choices(&name, &names)));
        RateCell::by_name(&name).ok_or_else(unknown)
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

/// [`Egru`] without zoneout and trace.
pub fn egru(cx: &mut StepContext, x: &Tensor, n: usize) -> Tensor {
    Egru::new(n).step(cx, x, Mode::Offline)
}
