//! Stacked spiking layers and a leaky readout: any neuron with any synapse.
//!
//! Each layer sees the *same-step* output of the one below and its own spikes of the step before. `docs/spec/networks-dms-ei.md, "Layers"`,
//! whose eleven layers are products of a row of [`NeuronConfig`] and a row of [`SynapseConfig`]; such a product is
//! called by both names, as in `alif-exp-cu`.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::{Network, Sizes};
use crate::{
    cell::{
        Init, Mode, Model, StepContext, readout,
        spiking::{Neuron, NeuronConfig, Population, Site, Synapse, SynapseConfig},
    },
    settings::{Listed, SettingError, range, table::plain},
};

/// Equal layers and a leaky readout. Times in ms, potentials in units of the distance from rest to threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stack {
    /// Inputs.
    #[serde(deserialize_with = "range::size")]
    pub n_in: usize,
    /// Neurons per layer.
    #[serde(deserialize_with = "range::size")]
    pub n_rec: usize,
    /// Layers.
    #[serde(deserialize_with = "range::layers")]
    pub n_layer: usize,
    /// Outputs.
    #[serde(deserialize_with = "range::size")]
    pub n_out: usize,
    /// Time constant of the readout.
    #[serde(deserialize_with = "range::positive")]
    pub tau_o: f64,
    /// Variance of the input weights, in units of 1/fan-in.
    #[serde(deserialize_with = "range::non_negative")]
    pub ff_scale: f64,
    /// Variance of the recurrent weights, in units of 1/fan-in.
    #[serde(deserialize_with = "range::non_negative")]
    pub rec_scale: f64,
    /// Step.
    #[serde(deserialize_with = "range::positive")]
    pub dt: f64,
    /// What each layer is made of.
    pub neuron: NeuronConfig,
    /// What joins a layer to the one below and to itself.
    pub synapse: SynapseConfig,
}

impl Default for Stack {
    /// One layer of 200 LIF neurons with delta synapses.
    fn default() -> Self {
        Stack {
            n_in: 100,
            n_rec: 200,
            n_layer: 1,
            n_out: 2,
            tau_o: 10.0,
            ff_scale: 2.0,
            rec_scale: 2.0,
            dt: 1.0,
            neuron: crate::cell::spiking::Lif::default().into(),
            synapse: crate::cell::spiking::Delta::default().into(),
        }
    }
}

impl Stack {
    /// A stack of the layer `NEURON-SYNAPSE`, with the standard settings of both; the published names with `_` and `_dense` are
    /// among them (`alif_std_expcu_dense`).
    pub fn named(name: &str) -> Option<Stack> {
        let name = plain(name);
        let name = name.strip_suffix("-dense").unwrap_or(&name);
        let rows = |(at, _)| Some((NeuronConfig::find(&name[..at])?, SynapseConfig::find(&name[at + 1..])?));
        let (neuron, synapse) = name.match_indices('-').find_map(rows)?;
        Some(Stack { neuron: (neuron.standard)(), synapse: (synapse.standard)(), ..Stack::default() })
    }

    /// The name of its layer, `NEURON-SYNAPSE`.
    pub fn layer_name(&self) -> String {
        format!("{}-{}", self.neuron.row().name, self.synapse.row().name)
    }

    /// The names of all layers: every neuron with every synapse.
    pub fn layer_names() -> Vec<String> {
        let with = |neuron: &'static str| SynapseConfig::names().into_iter().map(move |s| format!("{neuron}-{s}"));
        NeuronConfig::names().into_iter().flat_map(with).collect()
    }

    /// Traces one step for `batch` sequences.
    pub fn model(&self, batch: usize) -> Model {
        Stack::of_layers(batch, &vec![self.clone(); self.n_layer])
    }

    /// Traces one step of layers that differ; sizes and readout are those of the first.
    pub(super) fn of_layers(batch: usize, layers: &[Stack]) -> Model {
        let Stack { n_in, n_out, tau_o, dt, .. } = layers[0];
        StepContext::trace(batch, n_in, |cx, x| {
            let u = layers.iter().enumerate().fold(x.clone(), |u, (k, layer)| layer.step_layer(cx, k, &u));
            readout::leaky(cx, &u, n_out, tau_o, dt)
        })
    }

    /// One step of layer `k` (parameters `lK.*`) under the spikes `x`; returns its own.
    pub fn step_layer(&self, cx: &mut StepContext, k: usize, x: &Tensor) -> Tensor {
        let name = &format!("l{k}");
        let at = Population { n: self.n_rec, dt: self.dt };
        let init = &[Init::KaimingNormal(self.ff_scale), Init::KaimingNormal(self.rec_scale)];
        layer(cx, Site { name, first: k == 0, at, init }, &*self.neuron, &*self.synapse, x)
    }
}

/// One step of a layer of any neurons with any synapses, those of the tables or others, under the spikes `x: [B, m]` of the layer
/// below; returns its output `[B, n]`. Its parameters and states are called `NAME.*` after [`Site::name`].
pub fn layer(cx: &mut StepContext, site: Site<'_>, neuron: &dyn Neuron, synapse: &dyn Synapse, x: &Tensor) -> Tensor {
    let s = cx.scope(site.name, |cx| neuron.last_spike(cx, site.at));
    let input = synapse.drive(cx, site, x, &s);
    cx.scope(site.name, |cx| neuron.step(cx, site.at, &input))
}

impl Network for Stack {
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

    fn check(&self) -> Result<(), SettingError> {
        let at = Population { n: self.n_rec, dt: self.dt };
        self.neuron.check(at).map_err(|e| e.within("neuron"))?;
        self.synapse.check(at).map_err(|e| e.within("synapse"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_names_are_products_of_two_tables() {
        for (published, name) in [
            ("lif_delta_dense", "lif-delta"),
            ("if_delta_dense", "lif-delta"),
            ("alif_delta_dense", "alif-delta"),
            ("lif_expcu_dense", "lif-exp-cu"),
            ("alif_expcu_dense", "alif-exp-cu"),
            ("lif_std_expcu_dense", "lif-std-exp-cu"),
            ("alif_std_expcu_dense", "alif-std-exp-cu"),
            ("lif_stp_expcu_dense", "lif-stp-exp-cu"),
            ("alif_stp_expcu_dense", "alif-stp-exp-cu"),
            ("lif_expco_dense", "lif-exp-co"),
            ("ALIF-ExpCo", "alif-exp-co"),
        ] {
            assert_eq!(Stack::named(published).map(|s| s.layer_name()).as_deref(), Some(name), "{published}");
        }
        for name in Stack::layer_names() {
            assert_eq!(Stack::named(&name).map(|s| s.layer_name()), Some(name));
        }
        for unknown in ["lif", "lif-", "-delta", "lif-gamma", "", "lif delta"] {
            assert_eq!(Stack::named(unknown), None, "{unknown}");
        }
    }
}
