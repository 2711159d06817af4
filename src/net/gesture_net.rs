//! The network of the gesture experiments: a convolutional front end that sees single frames, recurrent layers, a linear head.
//! See `docs/spec/speech-and-gesture.md, "Gesture network"`.

use hlo::{Shape, Tensor};
use serde::{Deserialize, Serialize};

use super::{Network, Sizes};
use crate::{
    cell::{
        Dense, Init, Mode, Model, StepContext, Surrogate,
        egru::{Egru, Feedback, Zoneout},
        rate, readout,
    },
    settings::{SettingError, range},
};

/// What a frame's two polarities become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Polarity {
    /// Their mean, one channel.
    #[default]
    Mean,
    /// Two channels.
    Both,
}

/// The recurrent layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GestureCell {
    /// Event-based GRU.
    #[default]
    EventGru,
    /// GRU.
    Gru,
    /// LSTM.
    Lstm,
}

/// Sizes and constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GestureNet {
    /// Pixels of a side of a frame.
    pub frame_size: usize,
    /// What the polarities become.
    pub polarity: Polarity,
    /// Counts are divided by this.
    #[serde(deserialize_with = "range::positive")]
    pub scale: f64,
    /// Whether there is a convolutional front end; frames are flattened otherwise.
    pub cnn: bool,
    /// Whether an online rule trains the front end through time, together with the products of the first recurrent layer; it learns from the
    /// loss of each step alone otherwise, as published.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trace_cnn: bool,
    /// Share of the front end's output that is dropped in training.
    #[serde(deserialize_with = "range::below_one")]
    pub dropout: f64,
    /// What the recurrent layers are made of.
    pub cell: GestureCell,
    /// Units of each.
    #[serde(deserialize_with = "range::size")]
    pub units: usize,
    /// Their number.
    #[serde(deserialize_with = "range::layers")]
    pub layers: usize,
    /// Mean of the initial thresholds of event-based units.
    #[serde(deserialize_with = "range::inside")]
    pub threshold_mean: f64,
    /// Inverse width of their surrogate derivative.
    #[serde(deserialize_with = "range::positive")]
    pub steepness: f64,
    /// Event-based units that keep their state.
    pub zoneout: Zoneout,
    /// What event-based units tell each other.
    pub feedback: Feedback,
    /// Classes.
    #[serde(deserialize_with = "range::size")]
    pub n_out: usize,
    /// Length of a step, ms.
    #[serde(deserialize_with = "range::positive")]
    pub dt: f64,
}

impl Default for GestureNet {
    /// The published size.
    fn default() -> Self {
        GestureNet {
            frame_size: 128,
            polarity: Polarity::Mean,
            scale: 19.0,
            cnn: true,
            trace_cnn: false,
            dropout: 0.5,
            cell: GestureCell::EventGru,
            units: 1024,
            layers: 1,
            threshold_mean: 0.25,
            steepness: 1.7,
            zoneout: Zoneout::default(),
            feedback: Feedback::State,
            n_out: 11,
            dt: 25.0,
        }
    }
}

/// Outputs of the front end.
const FEATURES: usize = 512;

/// A convolution of the front end.
struct Stage {
    /// Height and width of the kernel.
    width: usize,
    channels: usize,
    stride: usize,
    padding: usize,
    /// The least size of a frame for pooling after it.
    pools: usize,
}

/// Five convolutions with pooling in between, as many as the size of a frame allows.
const STAGES: [Stage; 5] = [
    Stage { width: 11, channels: 64, stride: 4, padding: 2, pools: 0 },
    Stage { width: 5, channels: 192, stride: 1, padding: 2, pools: 0 },
    Stage { width: 3, channels: 384, stride: 1, padding: 1, pools: 64 },
    Stage { width: 3, channels: 256, stride: 1, padding: 1, pools: 128 },
    Stage { width: 3, channels: 256, stride: 1, padding: 1, pools: usize::MAX },
];

impl Stage {
    /// `[B, y, x, in]` to `[B, y', x', channels]`, for frames of `size` pixels a side.
    fn apply(&self, image: &Tensor, kernel: &Tensor, size: usize) -> Tensor {
        let image = image.conv2d(kernel, [self.stride; 2], [(self.padding, self.padding); 2]).relu();
        if size >= self.pools { image.max_pool2d([3; 2], [2; 2]) } else { image }
    }
}

impl GestureNet {
    /// Inputs: (polarity, y, x).
    pub fn n_in(&self) -> usize {
        2 * self.frame_size * self.frame_size
    }

    /// Traces one step for `batch` sequences.
    pub fn model(&self, batch: usize, mode: Mode) -> Model {
        StepContext::trace(batch, self.n_in(), |cx, x| {
            let mut x = self.front(cx, x, mode);
            for k in 0..self.layers {
                let last = k + 1 == self.layers;
                x = cx.scope(&format!("l{k}"), |cx| match self.cell {
                    GestureCell::Gru => rate::gru(cx, &x, self.units),
                    GestureCell::Lstm => rate::lstm(cx, &x, self.units),
                    GestureCell::EventGru => Egru {
                        init: Init::XavierNormal(1.0),
                        threshold: Egru::thresholds(self.threshold_mean),
                        surrogate: Surrogate::Triangle { scale: 0.7, steepness: self.steepness },
                        zoneout: self.zoneout,
                        feedback: self.feedback,
                        trace: last,
                        ..Egru::new(self.units)
                    }
                    .step(cx, &x, mode),
                });
            }
            readout::linear(cx, &x, self.n_out)
        })
    }

    /// From counts `[B, 2 * size * size]` to features `[B, n]`.
    fn front(&self, cx: &mut StepContext, x: &Tensor, mode: Mode) -> Tensor {
        let (batch, size) = (cx.batch(), self.frame_size);
        let frames = (x * (1.0 / self.scale)).reshape(&[batch, 2, size, size]);
        let (frames, channels) = match self.polarity {
            Polarity::Mean => (frames.mean(&[1]).reshape(&[batch, size, size, 1]), 1),
            Polarity::Both => (frames.transpose(&[0, 2, 3, 1]), 2),
        };
        if !self.cnn {
            return frames.reshape(&[batch, channels * size * size]);
        }
        let (mut kernels, mut image) = (Vec::new(), frames.clone());
        for (k, stage) in STAGES.iter().enumerate() {
            let dims = [stage.width, stage.width, image.dims()[3], stage.channels];
            kernels.push(cx.param(&format!("conv{k}.weight"), &dims, Init::XavierNormal(1.0)));
            image = stage.apply(&image, &kernels[k], size);
        }
        let width: usize = image.dims()[1..].iter().product();
        let init = Init::KaimingNormal(2.0);
        if !self.trace_cnn {
            let out = cx.dense("front", &[&image.reshape(&[batch, width])], FEATURES, &Dense::new(&[init]));
            return if mode.trains() { cx.dropout(&out, self.dropout) } else { out };
        }
        kernels.push(cx.param("front.weight", &[width, FEATURES], init));
        kernels.push(cx.param("front.bias", &[FEATURES], Init::Zeros));
        let pixels = channels * size * size;
        let mut input = frames.reshape(&[batch, pixels]);
        let drops = mode.trains() && self.dropout > 0.0;
        if drops {
            let ones = input.graph().full(&Shape::f32([batch, FEATURES]), 1.0);
            input = Tensor::concat(&[&input, &cx.dropout(&ones, self.dropout)], 1);
        }
        cx.in_front(&input, &kernels, move |x, weights| {
            let frames = x.slice_axis(1, 0, pixels).reshape(&[batch, size, size, channels]);
            let image =
                STAGES.iter().zip(weights).fold(frames, |image, (stage, kernel)| stage.apply(&image, kernel, size));
            let [matrix, bias] = [&weights[STAGES.len()], &weights[STAGES.len() + 1]];
            let out = image.reshape(&[batch, width]).dot(matrix) + bias.broadcast(&[batch, FEATURES], &[1]);
            if drops { out * x.slice_axis(1, pixels, pixels + FEATURES) } else { out }
        })
    }
}

impl Network for GestureNet {
    fn trace(&self, batch: usize, mode: Mode) -> Model {
        self.model(batch, mode)
    }

    fn n_in(&self) -> usize {
        self.n_in()
    }

    fn n_out(&self) -> usize {
        self.n_out
    }

    fn dt(&self) -> f64 {
        self.dt
    }

    fn resize(&mut self, to: &Sizes) -> Result<(), SettingError> {
        if let Some(n) = to.n_in {
            let text = format!(
                "cannot be chosen, for the inputs of this network are the pixels of a frame, got {n}; set frame_size"
            );
            return Err(SettingError::new(text).within("n_in"));
        }
        self.units = to.n_rec.unwrap_or(self.units);
        self.n_out = to.n_out.unwrap_or(self.n_out);
        self.layers = to.n_layer.unwrap_or(self.layers);
        Ok(())
    }

    fn check(&self) -> Result<(), SettingError> {
        let size = self.frame_size;
        if self.cnn && size < 32 {
            let text = format!(
                "needs frames of at least 32 x 32 pixels, got {size} x {size}; set it to false, or use larger frames"
            );
            return Err(SettingError::new(text).within("cnn"));
        }
        if self.trace_cnn && !self.cnn {
            let text = "traces the convolutions in front, but there are none; set cnn to true, or leave it out";
            return Err(SettingError::new(text.to_string()).within("trace_cnn"));
        }
        if !(1..=1024).contains(&size) {
            return Err(SettingError::new(format!("must be from 1 to 1024 pixels, got {size}")).within("frame_size"));
        }
        Ok(())
    }
}
