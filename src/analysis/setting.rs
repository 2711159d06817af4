//! The networks and weight scales that the published analyses use.

use crate::{
    cell::{
        Surrogate,
        spiking::{Depression, Facilitation, Tau},
    },
    net::{DenseNet, Layer},
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
struct Row(Layer, [(f64, f64); 3]);

const TABLE: &[Row] = &[
    Row(Layer::LifDelta, [(2.0, 15.0), (0.1, 0.1), (10.0, 100.0)]),
    Row(Layer::LifExpCu, [(10.0, 30.0), (0.2, 1.0), (0.1, 100.0)]),
    Row(Layer::LifStdExpCu, [(10.0, 20.0), (0.2, 1.0), (0.2, 1.0)]),
    Row(Layer::LifStpExpCu, [(5.0, 100.0), (1.0, 4.0), (5.0, 20.0)]),
    Row(Layer::AlifDelta, [(1.0, 1.0), (0.5, 0.5), (0.5, 0.5)]),
    Row(Layer::AlifExpCu, [(10.0, 20.0), (1.0, 5.0), (10.0, 20.0)]),
    Row(Layer::AlifStdExpCu, [(5.0, 20.0), (1.0, 4.0), (10.0, 30.0)]),
    Row(Layer::AlifStpExpCu, [(3.0, 20.0), (1.0, 4.0), (6.0, 40.0)]),
];

/// One or more layers as in the published analyses, with their scales for `source`.
pub fn net(layer: Layer, source: Source, n_in: usize, n_rec: usize, n_out: usize, layers: usize) -> DenseNet {
    let column = match source {
        Source::Random | Source::Nmnist => 0,
        Source::Gesture => 1,
        Source::Shd => 2,
    };
    let scales = TABLE.iter().find(|row| row.0 == layer).map_or((2.0, 15.0), |row| row.1[column]);
    let tau = if layer == Layer::AlifStpExpCu { 5.0 } else { 10.0 };
    let depression = if layer == Layer::AlifStdExpCu && column == 0 { 100.0 } else { 200.0 };
    DenseNet {
        layer,
        n_in,
        n_rec,
        n_out,
        tau_mem: vec![Tau::Scalar(tau); layers],
        tau_syn: tau,
        tau_a: 100.0,
        tau_o: 10.0,
        depression: Depression { tau: depression, ..Depression::default() },
        facilitation: Facilitation { tau_f: 10.0, tau_d: 100.0, ..Facilitation::default() },
        surrogate: Surrogate::default(),
        rec_scale: scales.0,
        ff_scale: scales.1,
        ..DenseNet::default()
    }
}
