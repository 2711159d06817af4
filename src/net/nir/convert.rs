//! From a network of LIF neurons to a graph of NIR that computes the same. `docs/nir.md, "Export of other networks"`.
//!
//! ```text
//! exponential   tau stays; a delta input needs r = 1 / (1 - k), an exponential current w_in = 1 / (1 - k), k = exp(-dt / tau)
//! euler         tau = dt / (1 - k) leaves k of a potential in a step, too; r and w_in are the same
//! ```

use std::collections::BTreeMap;

use tasks::events::TimeUnit;

use super::{
    Extent, NirNet, Node, Scheme,
    import::{ImportError, Params},
};
use crate::{
    cell::spiking::{Lif, NeuronConfig, Reset, SynapseConfig, Tau},
    net::{NetConfig, Stack},
    settings::Listed,
};

/// A graph that computes the same as a network with these parameters, and its own.
///
/// # Errors
/// When something in the network has no counterpart in NIR; the error says which quantity.
pub fn convert(net: &NetConfig, params: &Params, scheme: Scheme) -> Result<(NirNet, Params), ImportError> {
    let layers = match net {
        NetConfig::Nir(net) => return Ok((net.clone(), params.clone())),
        NetConfig::Stack(stack) => vec![stack.clone(); stack.n_layer],
        NetConfig::Etrace(net) => net.layers(),
        NetConfig::Gif(net) => vec![net.stack()],
        other => return Err(none(other.row().name, other.row().doc.trim())),
    };
    let mut graph =
        Converter { net: NirNet::bare(scheme, layers[0].dt, TimeUnit::S), params: Params::new(), from: params };
    graph.layers(&layers)?;
    Ok((graph.net, graph.params))
}

fn none(net: &str, doc: &str) -> ImportError {
    let why = match net {
        "rate" => "rate cells",
        "ei" => "an adaptive threshold, after-currents and a standardised potential as output",
        "speech" => "the reset of a potential by a spike of the step before, and normalisation",
        "gesture" => "event-based units and pools of maxima",
        _ => doc,
    };
    ImportError(format!(
        "a network of NIR has no counterpart of `{net}`: {why}; train one that has, such as net=lif-exp-cu with net.neuron.reset=hard"
    ))
}

/// An array of a node: name, shape, values.
type Quantity = (&'static str, Vec<usize>, Vec<f32>);

struct Converter<'a> {
    net: NirNet,
    params: Params,
    from: &'a Params,
}

impl Converter<'_> {
    fn layers(&mut self, layers: &[Stack]) -> Result<(), ImportError> {
        let Stack { n_in, n_out, tau_o, .. } = layers[0];
        let (mut before, mut width) = ("input".to_string(), n_in);
        self.net.nodes.insert(before.clone(), Node::sized("Input", [("shape", vec![n_in as i64])]));
        for (k, layer) in layers.iter().enumerate() {
            before = self.layer(&format!("l{k}"), layer, &before, width)?;
            width = layer.n_rec;
        }
        let weight = self.weight("out.weight", [width, n_out], 0..width)?;
        self.node("out", "Linear", vec![("weight", vec![n_out, width], weight)]);
        let membrane = self.membrane(&Tau::Scalar(tau_o), "out", n_out, true)?;
        self.node("readout", "LI", membrane);
        self.net.nodes.insert("output".into(), Node::sized("Output", [("shape", vec![n_out as i64])]));
        for (from, to) in [(before.as_str(), "out"), ("out", "readout"), ("readout", "output")] {
            self.edge(from, to);
        }
        Ok(())
    }

    fn edge(&mut self, from: &str, to: &str) {
        self.net.edges.push([from.into(), to.into()]);
    }

    fn node(&mut self, name: &str, kind: &str, arrays: Vec<Quantity>) {
        let extents = arrays.iter().map(|(q, shape, values)| (*q, Extent::of(shape, values)));
        self.net.nodes.insert(name.into(), Node::new(kind, extents.collect::<BTreeMap<_, _>>()));
        self.params.extend(arrays.into_iter().map(|(q, _, values)| (format!("{name}.{q}"), values)));
    }

    /// One layer after the node `before` with `width` values; the name of its neurons.
    fn layer(&mut self, name: &str, layer: &Stack, before: &str, width: usize) -> Result<String, ImportError> {
        let n = layer.n_rec;
        let lif = lif(name, &layer.neuron)?;
        let (delta, tau_syn) = match &layer.synapse {
            SynapseConfig::Delta(_) => (true, None),
            SynapseConfig::ExpCu(synapse) => (false, Some(synapse.tau)),
            SynapseConfig::StdExpCu(_) | SynapseConfig::StpExpCu(_) => {
                return Err(lacks(name, "short-term plasticity of synapses, which NIR has not"));
            }
            SynapseConfig::ExpCo(_) => return Err(lacks(name, "conductances, which NIR has not")),
        };
        let full = format!("{name}.weight");
        let (feed, back) =
            (self.weight(&full, [width + n, n], 0..width)?, self.weight(&full, [width + n, n], width..width + n)?);
        let bias = self.values(&format!("{name}.bias"), n)?.to_vec();
        let [input, rec, neuron] = ["in", "rec", "lif"].map(|part| format!("{name}_{part}"));
        self.node(&input, "Affine", vec![("weight", vec![n, width], feed), ("bias", vec![n], bias)]);
        self.node(&rec, "Linear", vec![("weight", vec![n, n], back)]);
        let mut arrays = self.membrane(&lif.tau, name, n, delta)?;
        arrays.push(("v_threshold", vec![n], vec![lif.v_th as f32; n]));
        arrays.push(("v_reset", vec![n], vec![0.0; n]));
        let kind = match tau_syn {
            None => "LIF",
            Some(tau) => {
                let k = self.relaxation(tau);
                arrays[0].0 = "tau_mem";
                arrays.push(("tau_syn", vec![n], vec![self.time(tau, k); n]));
                arrays.push(("w_in", vec![n], vec![(1.0 / k) as f32; n]));
                "CubaLIF"
            }
        };
        self.node(&neuron, kind, arrays);
        for (from, to) in [(before, &input), (&input, &neuron), (&neuron, &rec), (&rec, &neuron)] {
            self.edge(from, to);
        }
        self.net.surrogate = lif.surrogate;
        Ok(neuron)
    }

    /// The share of the way that a step of the network goes, `1 - k`, for a time constant in ms.
    fn relaxation(&self, tau: f64) -> f64 {
        -(-self.net.dt / tau).exp_m1()
    }

    /// The time constant of NIR, s, that gives the share `k` of a step, where that of the network is `tau` ms.
    fn time(&self, tau: f64, k: f64) -> f32 {
        let ms = match self.net.scheme {
            Scheme::Exponential => tau,
            Scheme::Euler => self.net.dt / k,
        };
        (ms * 1e-3) as f32
    }

    /// `tau`, `r` and `v_leak` of `n` neurons; a delta input is not multiplied by `1 - k`.
    fn membrane(&self, tau: &Tau, name: &str, n: usize, delta: bool) -> Result<Vec<Quantity>, ImportError> {
        let taus: Vec<f64> = match tau {
            Tau::Scalar(tau) => vec![*tau; n],
            _ => self.values(&format!("{name}.tau"), n)?.iter().map(|&tau| tau.into()).collect(),
        };
        let share: Vec<f64> = taus.iter().map(|&tau| self.relaxation(tau)).collect();
        let times = taus.iter().zip(&share).map(|(&tau, &k)| self.time(tau, k)).collect();
        let r = share.iter().map(|k| if delta { (1.0 / k) as f32 } else { 1.0 }).collect();
        Ok(vec![("tau", vec![n], times), ("r", vec![n], r), ("v_leak", vec![n], vec![0.0; n])])
    }

    fn values(&self, name: &str, n: usize) -> Result<&[f32], ImportError> {
        let found = self.from.get(name).filter(|values| values.len() == n);
        found.map(Vec::as_slice).ok_or_else(|| ImportError(format!("the parameters have no `{name}` of {n} numbers")))
    }

    /// Some rows of a weight `[in, out]` as `[out, in]`.
    fn weight(&self, name: &str, [rows, n]: [usize; 2], of: std::ops::Range<usize>) -> Result<Vec<f32>, ImportError> {
        let all = self.values(name, rows * n)?;
        Ok((0..n).flat_map(|j| of.clone().map(move |i| all[i * n + j])).collect())
    }
}

fn lacks(layer: &str, what: &str) -> ImportError {
    ImportError(format!(
        "layer `{layer}` cannot be exported: it has {what}; train a network without, such as net=lif-exp-cu"
    ))
}

/// The neuron of a layer, if NIR has one like it.
fn lif<'a>(layer: &str, neuron: &'a NeuronConfig) -> Result<&'a Lif, ImportError> {
    match neuron {
        NeuronConfig::Lif(lif) if lif.reset == Reset::Hard => Ok(lif),
        NeuronConfig::Lif(_) => Err(ImportError(format!(
            "layer `{layer}` cannot be exported: a spike subtracts the threshold (`reset` is soft), and the neurons of NIR are set to v_reset; \
             train it with net.neuron.reset=hard"
        ))),
        NeuronConfig::Alif(_) => {
            Err(lacks(layer, "a threshold that adapts (`tau_a`, `beta`), which no neuron of NIR has"))
        }
        NeuronConfig::Gif2(_) => Err(lacks(
            layer,
            "an after-current (`I2`: `tau_i2`, `a2`), a reset that subtracts the threshold and a standardised potential as output, which no \
             neuron of NIR has",
        )),
        NeuronConfig::Gif4(_) => Err(lacks(
            layer,
            "two after-currents (`I1`, `I2`), a threshold that adapts (`tau_th`, `a_th`) and a standardised potential as output, which no \
             neuron of NIR has",
        )),
    }
}
