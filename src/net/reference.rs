//! The models of the reference cases, by name: what `etrace verify` replays.
//!
//! Equations: `golden/README.md` and appendix A of the specification of the algorithms. Parameters and states carry the
//! names of the case files.

use serde_json::Value;

use super::{ETraceNet, Layer};
use crate::cell::{
    Model, StepContext, Surrogate,
    rate, readout,
    spiking::{Reset, Tau},
};

/// A field that a case needs and does not have.
#[derive(Debug, thiserror::Error)]
#[error("the description of the case must give `hyper.{0}`, but it is missing or of the wrong type; check the JSON file")]
pub struct MissingHyper(String);

/// Sizes and constants of a case.
struct Hyper<'a>(&'a Value);

impl Hyper<'_> {
    fn number(&self, name: &str) -> Result<f64, MissingHyper> {
        self.0.get(name).and_then(Value::as_f64).ok_or_else(|| MissingHyper(name.into()))
    }

    fn size(&self, name: &str) -> Result<usize, MissingHyper> {
        self.0.get(name).and_then(Value::as_u64).map(|n| n as usize).ok_or_else(|| MissingHyper(name.into()))
    }

    /// A number for each layer, or a list with one entry (a number, or a list of numbers) for each.
    fn taus(&self, name: &str, layers: usize) -> Result<Vec<Tau>, MissingHyper> {
        let wrong = || MissingHyper(name.into());
        let tau = |v: &Value| match v {
            Value::Array(values) => {
                let numbers = values.iter().map(|v| v.as_f64().map(|x| x as f32)).collect::<Option<Vec<_>>>();
                numbers.map(Tau::PerNeuron)
            }
            v => v.as_f64().map(Tau::Scalar),
        };
        match self.0.get(name).ok_or_else(wrong)? {
            Value::Array(list) => list.iter().map(|v| tau(v).ok_or_else(wrong)).collect(),
            one => Ok(vec![tau(one).ok_or_else(wrong)?; layers]),
        }
    }
}

/// The model of a reference case; `None` when this project has no such model.
///
/// # Errors
/// When the description of the case lacks a field.
pub fn model(case: &str, hyper: &Value, batch: usize) -> Result<Option<Model>, MissingHyper> {
    let h = Hyper(hyper);
    let (n_in, n, n_out) = (h.size("n_in")?, h.size("n_rec")?, h.size("n_out")?);
    let tau_o = h.number("tau_o")?;
    let lif = |layer: Layer, reset: Reset| -> Result<Model, MissingHyper> {
        let layers = h.size("n_layer").unwrap_or(1);
        let net = ETraceNet {
            layer,
            n_in,
            n_rec: n,
            n_out,
            tau_mem: h.taus("tau_mem", layers)?,
            tau_syn: h.number("tau_syn").unwrap_or(10.0),
            tau_o,
            v_th: 1.0,
            reset,
            surrogate: Surrogate::default(),
            ff_scale: 1.0,
            rec_scale: 1.0,
            dt: 1.0,
        };
        Ok(net.model(batch))
    };
    Ok(Some(match case {
        "lif_delta_soft" | "lif_delta_3layer" => lif(Layer::LifDelta, Reset::Soft)?,
        "lif_delta_hard" => lif(Layer::LifDelta, Reset::Hard)?,
        "lif_expcu" => lif(Layer::LifExpCu, Reset::Soft)?,
        "vanilla_rnn" => StepContext::trace(batch, n_in, |cx, x| {
            let h = rate::vanilla_rnn(cx, "W", x, n);
            readout::linear(cx, &h, n_out)
        }),
        _ => return Ok(None),
    }))
}
