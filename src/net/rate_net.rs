//! One layer of a rate cell and a readout.

use serde::{Deserialize, Serialize};

use crate::cell::{Model, StepContext, rate::RateCell, readout};

/// A rate cell with a readout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateNet {
    /// Which cell.
    pub cell: RateCell,
    /// Inputs.
    pub n_in: usize,
    /// Units.
    pub n_rec: usize,
    /// Outputs.
    pub n_out: usize,
    /// Time constant of the readout in ms; a linear readout without memory if there is none.
    pub tau_o: Option<f64>,
    /// Step, ms.
    pub dt: f64,
}

impl RateNet {
    /// Traces one step for `batch` sequences.
    pub fn model(&self, batch: usize) -> Model {
        StepContext::trace(batch, self.n_in, |cx, x| {
            let h = self.cell.step(cx, x, self.n_rec);
            match self.tau_o {
                Some(tau) => readout::leaky(cx, &h, self.n_out, tau, self.dt),
                None => readout::linear(cx, &h, self.n_out),
            }
        })
    }
}
