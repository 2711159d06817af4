//! The networks of the speech experiments: feed-forward layers of neurons with learned time constants, with or without
//! adaptation and with or without connections inside a layer, and a leaky readout:
//! `docs/spec/speech-and-gesture.md, "Speech network"`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Network, Sizes, Unstable};
use crate::{
    cell::{
        Dense, Init, Mode, Model, StateInit, StepContext, Surrogate,
        norm::Norm,
        spiking::{AdLif, speech::bounded},
    },
    settings::{SettingError, range},
};

/// The four kinds of hidden layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpeechCell {
    /// Leaky integrate-and-fire.
    #[default]
    Lif,
    /// With connections inside the layer.
    Rlif,
    /// With adaptation.
    Adlif,
    /// With both.
    Radlif,
}

impl SpeechCell {
    /// The names the published commands use.
    pub const NAMES: &[&str] = &["LIF", "RLIF", "adLIF", "RadLIF"];

    /// A kind by its published name, in upper or lower case.
    pub fn by_name(name: &str) -> Option<SpeechCell> {
        Some(match name.to_lowercase().as_str() {
            "lif" => SpeechCell::Lif,
            "rlif" => SpeechCell::Rlif,
            "adlif" => SpeechCell::Adlif,
            "radlif" => SpeechCell::Radlif,
            _ => return None,
        })
    }

    /// Whether neurons adapt.
    pub fn adaptive(self) -> bool {
        matches!(self, SpeechCell::Adlif | SpeechCell::Radlif)
    }

    /// Whether neurons of a layer are connected.
    pub fn recurrent(self) -> bool {
        matches!(self, SpeechCell::Rlif | SpeechCell::Radlif)
    }
}

/// What the last layer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpeechReadout {
    /// Leaky integrators: `u' = alpha u + (1 - alpha) y`, output `u'`.
    #[default]
    Leaky,
    /// Neurons of the hidden kind; their spikes are the output.
    Spiking,
}

/// Sizes and constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpeechNet {
    /// What the hidden layers are made of.
    pub cell: SpeechCell,
    /// Inputs.
    #[serde(deserialize_with = "range::size")]
    pub n_in: usize,
    /// Neurons of each hidden layer.
    pub hidden: Vec<usize>,
    /// Classes.
    #[serde(deserialize_with = "range::size")]
    pub n_out: usize,
    /// Share of a hidden layer's output that is dropped in training.
    #[serde(deserialize_with = "range::below_one")]
    pub dropout: f64,
    /// Normalisation of the drive from the layer below.
    pub norm: Norm,
    /// Whether the connections between layers have a bias.
    pub bias: bool,
    /// Variance of the input weights of hidden layers, in units of 1/fan-in.
    #[serde(deserialize_with = "range::non_negative")]
    pub inp_scale: f64,
    /// Factor on the orthogonal matrix of connections inside a layer.
    #[serde(deserialize_with = "range::non_negative")]
    pub rec_scale: f64,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
    /// Threshold.
    #[serde(deserialize_with = "range::positive")]
    pub threshold: f64,
    /// Range of the leak of hidden layers.
    pub alpha: (f64, f64),
    /// Whether hidden states start from numbers in [0, 1), drawn for every sequence, rather than from 0.
    pub random_states: bool,
    /// The last layer.
    pub readout: SpeechReadout,
    /// In training the output is the readout summed over the steps so far, so that the loss of every step is one of the evidence
    /// up to then. Evaluation sums the readout itself.
    pub running: bool,
    /// Length of a step, ms (for pictures; the equations count steps).
    #[serde(deserialize_with = "range::positive")]
    pub dt: f64,
}

impl Default for SpeechNet {
    /// Two hidden layers of 128, as published.
    fn default() -> Self {
        SpeechNet {
            cell: SpeechCell::Lif,
            n_in: 700,
            hidden: vec![128; 2],
            n_out: 20,
            dropout: 0.1,
            norm: Norm::None,
            bias: false,
            inp_scale: 5f64.sqrt(),
            rec_scale: 1.0,
            surrogate: Surrogate::Boxcar { width: 0.5 },
            threshold: 1.0,
            alpha: AdLif::ALPHA,
            random_states: false,
            readout: SpeechReadout::Leaky,
            running: false,
            dt: 14.0,
        }
    }
}

impl SpeechNet {
    /// Traces one step for `batch` sequences.
    pub fn model(&self, batch: usize, mode: Mode) -> Model {
        StepContext::trace(batch, self.n_in, |cx, x| {
            let mut x = x.clone();
            for (k, &n) in self.hidden.iter().enumerate() {
                let s = cx.scope(&format!("l{k}"), |cx| self.layer(cx, &x, n, mode));
                x = if mode.trains() { cx.dropout(&s, self.dropout) } else { s };
            }
            cx.readout("out", |cx| {
                let out = match self.readout {
                    SpeechReadout::Spiking => self.layer(cx, &x, self.n_out, mode),
                    SpeechReadout::Leaky => {
                        let y = self.drive(cx, &x, self.n_out, Init::KaimingNormal(2.0), mode);
                        let u = cx.state("u", self.n_out, StateInit::Zeros);
                        let alpha = bounded(cx, "alpha", self.n_out, AdLif::ALPHA);
                        let u = &alpha * u + (1.0 - &alpha) * y;
                        cx.set("u", &u);
                        u
                    }
                };
                if !(self.running && mode.trains()) {
                    return out;
                }
                let sum = cx.state("sum", self.n_out, StateInit::Zeros) + out;
                cx.set("sum", &sum);
                sum
            })
        })
    }

    /// What a layer receives from the one below.
    fn drive(&self, cx: &mut StepContext, x: &hlo::Tensor, n: usize, init: Init, mode: Mode) -> hlo::Tensor {
        let init = [init];
        self.norm.of_product(cx, "W", x, n, &Dense { bias: self.bias, ..Dense::new(&init) }, mode)
    }

    fn layer(&self, cx: &mut StepContext, x: &hlo::Tensor, n: usize, mode: Mode) -> hlo::Tensor {
        let cell = AdLif {
            n,
            adaptive: self.cell.adaptive(),
            alpha: self.alpha,
            threshold: self.threshold,
            init: if self.random_states { StateInit::Uniform(0.0, 1.0) } else { StateInit::Zeros },
            surrogate: self.surrogate,
        };
        let y = self.drive(cx, x, n, Init::KaimingUniform(self.inp_scale), mode);
        let y = if self.cell.recurrent() {
            let s = cell.last_spike(cx);
            y + AdLif::recurrence(cx, "V", &s, Init::Orthogonal(self.rec_scale))
        } else {
            y
        };
        cell.step(cx, &y)
    }
}

impl Network for SpeechNet {
    fn trace(&self, batch: usize, mode: Mode) -> Model {
        self.model(batch, mode)
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
        let mut width = self.hidden.last().copied().unwrap_or(128);
        to.apply(&mut self.n_in, &mut width, &mut self.n_out);
        if to.n_rec.is_some() {
            self.hidden.fill(width);
        }
        self.hidden.resize(to.n_layer.unwrap_or(self.hidden.len()), width);
        Ok(())
    }

    fn unstable(&self, params: &BTreeMap<String, Vec<f64>>) -> Vec<Unstable> {
        let layer = |k: usize| {
            let of = |name: &str| params.get(&format!("l{k}.{name}"));
            let all = of("alpha")?.iter().zip(of("beta")?).zip(of("a")?);
            let growth = |((alpha, beta), a): ((&f64, &f64), &f64)| AdLif::growth(self.alpha, [*alpha, *beta, *a]);
            let largest: Vec<f64> = all.map(growth).collect();
            let neurons = largest.iter().filter(|value| **value > 1.0).count();
            let most = largest.iter().copied().fold(0.0, f64::max);
            (neurons > 0).then(|| Unstable { layer: format!("l{k}"), neurons, of: largest.len(), largest: most })
        };
        (0..self.hidden.len()).filter_map(layer).collect()
    }

    fn check(&self) -> Result<(), SettingError> {
        if self.hidden.iter().any(|n| range::SIZE.check(*n as u64).is_err()) {
            let text = format!("must be sizes of hidden layers from 1, got {:?}", self.hidden);
            return Err(SettingError::new(text).within("hidden"));
        }
        let (low, high) = self.alpha;
        if !(0.0..=1.0).contains(&low) || !(low..=1.0).contains(&high) {
            let text = format!("must be a range of leaks from 0 to 1, got {low} and {high}");
            return Err(SettingError::new(text).within("alpha"));
        }
        Ok(())
    }
}
