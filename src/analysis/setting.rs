//! The networks and weight scales that the published analyses use.

use crate::{
    cell::spiking::{Depression, Facilitation, NeuronConfig, SynapseConfig, Tau},
    net::Stack,
};

/// Where the input comes from; it decides the scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Random spikes; scales as for N-MNIST.
    Random,
    /// N-MNIST.
    Nmnist,
    /// DVS128 Gesture.
    Gesture,
    /// SHD.
    Shd,
}

/// A row of the published table: layer, and (recurrent, feed-forward) scales for N-MNIST, gestures and SHD ("v2").
struct Row(&'static str, [(f64, f64); 3]);

const TABLE: &[Row] = &[
    Row("lif-delta", [(2.0, 15.0), (0.1, 0.1), (10.0, 100.0)]),
    Row("lif-exp-cu", [(10.0, 30.0), (0.2, 1.0), (0.1, 100.0)]),
    Row("lif-std-exp-cu", [(10.0, 20.0), (0.2, 1.0), (0.2, 1.0)]),
    Row("lif-stp-exp-cu", [(5.0, 100.0), (1.0, 4.0), (5.0, 20.0)]),
    Row("alif-delta", [(1.0, 1.0), (0.5, 0.5), (0.5, 0.5)]),
    Row("alif-exp-cu", [(10.0, 20.0), (1.0, 5.0), (10.0, 20.0)]),
    Row("alif-std-exp-cu", [(5.0, 20.0), (1.0, 4.0), (10.0, 30.0)]),
    Row("alif-stp-exp-cu", [(3.0, 20.0), (1.0, 4.0), (6.0, 40.0)]),
];

/// Recurrent and feed-forward scales of layers that were not published.
pub const UNPUBLISHED: (f64, f64) = (2.0, 15.0);

/// A network to analyse.
pub struct Setting {
    /// The network.
    pub net: Stack,
    /// Whether its scales are those of the published analyses. If not, they are [`UNPUBLISHED`] ones, which suit no layer in particular:
    /// its neurons may never spike.
    pub published: bool,
}

/// Recurrent and feed-forward scales of a layer `NEURON-SYNAPSE`; `None` where none were published.
fn scales(layer: &str, source: Source) -> Option<(f64, f64)> {
    let column = match source {
        Source::Random | Source::Nmnist => 0,
        Source::Gesture => 1,
        Source::Shd => 2,
    };
    TABLE.iter().find(|row| row.0 == layer).map(|row| row.1[column])
}

/// Layers with the scales and time constants of the published analyses for `source`. Neurons and synapses that these do not have keep
/// their standard settings.
/// `name` is that of a layer, as in [`Stack::named`]; `None` if there is no such layer.
pub fn net(name: &str, source: Source, n_in: usize, n_rec: usize, n_out: usize, layers: usize) -> Option<Setting> {
    let mut net = Stack { n_in, n_rec, n_out, n_layer: layers, tau_o: 10.0, ..Stack::named(name)? };
    let layer = net.layer_name();
    let found = scales(&layer, source);
    (net.rec_scale, net.ff_scale) = found.unwrap_or(UNPUBLISHED);
    let time = if layer == "alif-stp-exp-cu" { 5.0 } else { 10.0 };
    match &mut net.neuron {
        NeuronConfig::Lif(lif) => lif.tau = Tau::Scalar(time),
        NeuronConfig::Alif(alif) => alif.tau = Tau::Scalar(time),
        _ => {}
    }
    match &mut net.synapse {
        SynapseConfig::ExpCu(s) => s.tau = time,
        SynapseConfig::ExpCo(s) => s.tau = time,
        SynapseConfig::StdExpCu(s) => {
            s.tau = time;
            let nmnist = matches!(source, Source::Random | Source::Nmnist);
            let tau = if layer == "alif-std-exp-cu" && nmnist { 100.0 } else { 200.0 };
            s.depression = Depression { tau, ..s.depression };
        }
        SynapseConfig::StpExpCu(s) => {
            s.tau = time;
            s.facilitation = Facilitation { tau_f: 10.0, tau_d: 100.0, ..s.facilitation };
        }
        _ => {}
    }
    Some(Setting { net, published: found.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::spiking::Gif4;

    #[test]
    fn every_layer_of_the_tables_has_a_setting_and_says_whether_it_was_published() {
        let settings = |name: &String| net(name, Source::Shd, 3, 5, 2, 1).map(|found| (name.clone(), found));
        let all: Vec<(String, Setting)> = Stack::layer_names().iter().filter_map(settings).collect();
        assert_eq!(all.len(), Stack::layer_names().len());
        let published = all.iter().filter(|(_, found)| found.published);
        let scales = published.map(|(name, found)| (name.as_str(), (found.net.rec_scale, found.net.ff_scale)));
        assert_eq!(scales.collect::<Vec<_>>(), TABLE.iter().map(|row| (row.0, row.1[2])).collect::<Vec<_>>());
        for (name, Setting { net, .. }) in all.iter().filter(|(_, found)| !found.published) {
            assert_eq!((net.rec_scale, net.ff_scale), UNPUBLISHED, "{name}");
        }
        let (_, gif4) = all.iter().find(|(name, _)| name == "gif4-delta").expect("a layer");
        assert_eq!(gif4.net.neuron, NeuronConfig::from(Gif4::default()), "no entry, standard settings");
    }
}
