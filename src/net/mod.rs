//! Networks made of cells, and the table of them.
//!
//! A network is a type whose fields are its sizes and constants, an `impl Network`, and one row of [`NetConfig`].
//! [`Stack`] and [`RateNet`] take any neuron, synapse or rate cell, [`NirNet`] is a graph from a file; the others are the networks of published
//! experiments.

pub mod ei_net;
pub mod etrace_net;
pub mod gesture_net;
pub mod gif_net;
pub mod nir;
pub mod rate_net;
pub mod reference;
pub mod speech_net;
pub mod stack;

pub use ei_net::{Coupling, EiNet};
pub use etrace_net::{ETraceNet, Layer};
pub use gesture_net::{GestureCell, GestureNet, Polarity};
pub use gif_net::GifNet;
pub use nir::NirNet;
pub use rate_net::RateNet;
pub use speech_net::{SpeechCell, SpeechNet, SpeechReadout};
pub use stack::{Stack, layer};

use std::collections::BTreeMap;

use crate::{
    cell::{Mode, Model, rate::RateCell},
    settings::SettingError,
    table,
};

table! {
    /// What learns. A layer (`alif-exp-cu`) or a rate cell (`gru`) by its name alone is a network of one such layer.
    pub enum NetConfig: dyn Network, tag "kind", a "network", else named {
        /// Spiking layers: any neuron with any synapse.
        Stack(Stack) = "stack";
        /// Layers of rate cells.
        Rate(RateNet) = "rate";
        /// Layers of LIF neurons, as in the memory-and-speed evaluation.
        Etrace(ETraceNet) = "etrace" | "memspeed";
        /// GIF neurons for delayed match-to-sample.
        Gif(GifNet) = "gif" | "dms";
        /// Excitatory and inhibitory GIF neurons for decisions.
        Ei(EiNet) = "ei";
        /// Layers of neurons with learned time constants, for speech.
        Speech(SpeechNet) = "speech" | "shd";
        /// Convolutions and event-based GRUs, for gestures.
        Gesture(GestureNet) = "gesture";
        /// A graph of nodes, imported from a NIR file (`etrace import`).
        Nir(NirNet) = "nir";
    }
}

/// A network of one layer or one rate cell by the name of that.
fn named(name: &str) -> Option<NetConfig> {
    let rate = || RateCell::by_name(name).map(|cell| RateNet { cell, ..RateNet::default() }.into());
    Stack::named(name).map(NetConfig::from).or_else(rate)
}

/// A network: sizes and constants, from which a step is traced.
pub trait Network {
    /// Traces one step for `batch` sequences; networks without dropout and normalisation are the same in every mode.
    fn trace(&self, batch: usize, mode: Mode) -> Model;

    /// Inputs.
    fn n_in(&self) -> usize;

    /// Outputs.
    fn n_out(&self) -> usize;

    /// Step in ms.
    fn dt(&self) -> f64;

    /// Changes the sizes that `to` gives.
    ///
    /// # Errors
    /// When the network has no such size.
    fn resize(&mut self, to: &Sizes) -> Result<(), SettingError>;

    /// Checks what no single setting shows.
    ///
    /// # Errors
    /// When settings contradict each other.
    fn check(&self) -> Result<(), SettingError> {
        Ok(())
    }

    /// Layers with neurons whose transition has an eigenvalue above 1, so that their states grow without bound between spikes; `params`
    /// are the values of the parameters by name.
    fn unstable(&self, params: &BTreeMap<String, Vec<f64>>) -> Vec<Unstable> {
        let _ = params;
        Vec::new()
    }
}

/// A layer with unstable neurons.
#[derive(Clone, Debug, PartialEq)]
pub struct Unstable {
    /// Its name.
    pub layer: String,
    /// How many neurons.
    pub neurons: usize,
    /// Of how many.
    pub of: usize,
    /// The largest eigenvalue of all.
    pub largest: f64,
}

/// Sizes that a network may get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Inputs.
    pub n_in: Option<usize>,
    /// Neurons of each layer.
    pub n_rec: Option<usize>,
    /// Outputs.
    pub n_out: Option<usize>,
    /// Layers.
    pub n_layer: Option<usize>,
}

impl Sizes {
    fn apply(&self, n_in: &mut usize, n_rec: &mut usize, n_out: &mut usize) {
        *n_in = self.n_in.unwrap_or(*n_in);
        *n_rec = self.n_rec.unwrap_or(*n_rec);
        *n_out = self.n_out.unwrap_or(*n_out);
    }

    /// Refuses a number of layers where there is one.
    fn one_layer(&self) -> Result<(), SettingError> {
        match self.n_layer {
            None | Some(1) => Ok(()),
            Some(n) => {
                Err(SettingError::new(format!("must be 1 in this network, which has one layer, got {n}; leave it out"))
                    .within("n_layer"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Listed, read};

    fn net(text: &str) -> Result<NetConfig, String> {
        let table = text.parse::<toml::Table>().expect("TOML");
        read(toml::Value::Table(table)).map_err(|e| e.to_string())
    }

    #[test]
    fn every_network_is_written_and_read_back_and_traced() {
        for row in NetConfig::ROWS {
            let mut net = (row.standard)();
            assert_eq!(net.row().name, row.name);
            let text = toml::to_string(&net).expect("it can be written");
            assert_eq!(self::net(&text), Ok(net.clone()), "{text}");
            for name in row.aliases {
                assert_eq!(NetConfig::by_name(name), Ok(net.clone()));
            }
            assert!(!row.doc.trim().is_empty());
            net.resize(&Sizes { n_rec: Some(6), n_out: Some(3), ..Sizes::default() }).expect("every network has these");
            net.check().expect("six neurons are enough");
            if net.n_in() < 1000 {
                let model = net.trace(2, Mode::Online);
                assert_eq!((model.input.dims[1], model.output.dims[1]), (net.n_in(), 3));
            }
        }
    }

    #[test]
    fn a_layer_or_a_cell_by_its_name_is_a_network() {
        let cells = RateCell::all().map(|cell| cell.name().to_string());
        for name in Stack::layer_names().into_iter().chain(cells) {
            assert!(NetConfig::by_name(&name).is_ok(), "{name}");
        }
        assert!(matches!(net("kind = 'gru'"), Ok(NetConfig::Rate(_))));
        assert!(matches!(net("kind = 'alif_expco'"), Ok(NetConfig::Stack(_))));
    }

    #[test]
    fn errors_name_the_setting() {
        for (text, want) in [
            ("kind = 'stack'\nn_recc = 3", "has no setting `n_recc`; the nearest is `n_rec`; known are n_in, n_rec"),
            ("kind = 'stack'\nn_rec = 0", "`n_rec` must be at least 1, got 0"),
            (
                "kind = 'stack'\nneuron = {name = 'alif', tau_a = -5}",
                "`neuron.tau_a` must be above 0 and finite, got -5",
            ),
            ("kind = 'stack'\nneuron = {name = 'alif', tau = 0}", "`neuron.tau` must be above 0 and finite, got 0"),
            (
                "kind = 'stack'\nneuron = {name = 'liff'}",
                "`neuron.name` knows no neuron `liff`; the nearest is `lif`; known are lif, alif",
            ),
            ("kind = 'stack'\nsynapse = 3", "`synapse` must be the name of a synapse or a table with `name`, got 3"),
            (
                "kind = 'gif'\ntau_i2 = {uniform = [300.0, 100.0]}",
                "`tau_i2` must be uniform from a smaller to a larger number",
            ),
            ("kind = 'rate'\ncell = 'gruu'", "`cell` knows no rate cell `gruu`; the nearest is `gru`"),
            ("kind = 'stak'", "`kind` knows no network `stak`; the nearest is `stack`"),
            ("n_rec = 3", "needs the setting `kind`, one of stack, rate"),
        ] {
            let error = net(text).expect_err(text);
            assert!(error.starts_with(want), "{error}");
        }
    }
}
