//! Exponential conductance synapses between excitatory and inhibitory neurons.
//! `docs/spec/networks-dms-ei.md, "Evidence accumulation: network"`.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::{
    Input, Population,
    synapse::{Connection, Site, Synapse, exponential},
};
use crate::{
    cell::{Dense, Init, StepContext},
    settings::{SettingError, range},
};

/// Exponential conductances `g' = k(tau) g + x |W|` that pull the potential towards their reversal potentials; four fifths of
/// the neurons of a layer are excitatory. The first layer reads its input as a signed current, the others split it like their own
/// spikes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpCo {
    /// Time constant, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau: f64,
}

impl Default for ExpCo {
    fn default() -> Self {
        ExpCo { tau: 10.0 }
    }
}

/// Reversal potential of inhibitory conductances.
const INHIBITORY: f64 = -0.5;
/// Reversal potential of excitatory conductances in the first layer, whose input is a current.
const EXCITATORY_FIRST: f64 = 1.5;
/// Reversal potential of excitatory conductances in the other layers.
const EXCITATORY_DEEP: f64 = 3.5;
/// Initial inhibitory weights are this much larger, for there are four times fewer of them.
const INHIBITION: f64 = 4.0;

/// Splits a population into its excitatory 80 % and the rest: `[B, n]` to `[B, e]`, `[B, n - e]`.
pub fn split(s: &Tensor) -> (Tensor, Tensor) {
    let n = s.dims()[1];
    let n_exc = n * 4 / 5;
    (s.slice_axis(1, 0, n_exc), s.slice_axis(1, n_exc, n))
}

impl ExpCo {
    /// The conductance `g_NAME` driven by spikes through weights of one sign.
    fn conductance(&self, cx: &mut StepContext, site: Site<'_>, name: &str, from: Vec<(&Tensor, Init)>) -> Tensor {
        let (inputs, init): (Vec<&Tensor>, Vec<Init>) = from.into_iter().unzip();
        let y = Connection::Signed.apply(cx, name, &inputs, site.at.n, &init);
        exponential(cx, &format!("g_{name}"), self.tau, site.at.dt, &y)
    }
}

impl Synapse for ExpCo {
    fn drive(&self, cx: &mut StepContext, site: Site<'_>, x: &Tensor, s: &Tensor) -> Input {
        cx.scope(site.name, |cx| {
            let [ff, rec] = site.init.clone();
            let more = |init: &Init| Init::Scaled(INHIBITION, Box::new(init.clone()));
            let (s_exc, s_inh) = split(s);
            let mut input = Input::default();
            let (exc, inh) = if site.first {
                let y = cx.dense("inp", &[x], site.at.n, &Dense::new(&[ff]));
                input = input.current(&exponential(cx, "g_inp", self.tau, site.at.dt, &y));
                let exc = self.conductance(cx, site, "exc", vec![(&s_exc, rec.clone())]);
                (exc, self.conductance(cx, site, "inh", vec![(&s_inh, more(&rec))]))
            } else {
                let (x_exc, x_inh) = split(x);
                let exc = self.conductance(cx, site, "exc", vec![(&x_exc, ff.clone()), (&s_exc, rec.clone())]);
                (exc, self.conductance(cx, site, "inh", vec![(&x_inh, more(&ff)), (&s_inh, more(&rec))]))
            };
            let excitatory = if site.first { EXCITATORY_FIRST } else { EXCITATORY_DEEP };
            input.conductance(&exc, excitatory).conductance(&inh, INHIBITORY)
        })
    }

    fn check(&self, at: Population) -> Result<(), SettingError> {
        if at.n >= 5 {
            return Ok(());
        }
        let rule = "needs layers of at least 5 neurons (four excitatory, one inhibitory)";
        Err(SettingError::new(format!("{rule}, got {}; set n_rec to 5 or more", at.n)))
    }
}
