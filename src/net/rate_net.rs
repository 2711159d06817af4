//! Layers of a rate cell and a readout.

use serde::{Deserialize, Serialize};

use super::{Network, Sizes};
use crate::{
    cell::{Mode, Model, StepContext, rate::RateCell, readout},
    settings::{SettingError, range},
};

/// A rate cell with a readout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateNet {
    /// Which cell.
    pub cell: RateCell,
    /// Inputs.
    #[serde(deserialize_with = "range::size")]
    pub n_in: usize,
    /// Units per layer.
    #[serde(deserialize_with = "range::size")]
    pub n_rec: usize,
    /// Layers.
    #[serde(deserialize_with = "range::layers")]
    pub n_layer: usize,
    /// Outputs.
    #[serde(deserialize_with = "range::size")]
    pub n_out: usize,
    /// Time constant of the readout in ms; a linear readout without memory if it is 0.
    #[serde(deserialize_with = "range::non_negative")]
    pub tau_o: f64,
    /// Step, ms.
    #[serde(deserialize_with = "range::positive")]
    pub dt: f64,
}

impl Default for RateNet {
    fn default() -> Self {
        RateNet { cell: RateCell::default(), n_in: 100, n_rec: 200, n_layer: 1, n_out: 2, tau_o: 10.0, dt: 1.0 }
    }
}

impl RateNet {
    /// Traces one step for `batch` sequences. One layer has the names of its cell alone, several are `l0.*`, `l1.*`, ...
    pub fn model(&self, batch: usize) -> Model {
        StepContext::trace(batch, self.n_in, |cx, x| {
            let mut h = x.clone();
            for k in 0..self.n_layer {
                h = match self.n_layer {
                    1 => self.cell.step(cx, &h, self.n_rec),
                    _ => cx.scope(&format!("l{k}"), |cx| self.cell.step(cx, &h, self.n_rec)),
                };
            }
            if self.tau_o > 0.0 {
                readout::leaky(cx, &h, self.n_out, self.tau_o, self.dt)
            } else {
                readout::linear(cx, &h, self.n_out)
            }
        })
    }
}

impl Network for RateNet {
    fn trace(&self, batch: usize, _: Mode) -> Model {
        self.model(batch)
    }

    fn n_in(&self) -> usize {
        self.n_in
    }

    fn n_out(&self) -> usize {
        self.n_out
    }

    fn dt(&self) -> f64 {
        self.dt
    }

    fn resize(&mut self, to: &Sizes) -> Result<(), SettingError> {
        to.apply(&mut self.n_in, &mut self.n_rec, &mut self.n_out);
        self.n_layer = to.n_layer.unwrap_or(self.n_layer);
        Ok(())
    }
}
