//! Networks made of cells: one for each experiment, stacks of any spiking layer ([`dense_net`]), a rate cell with a readout
//! ([`rate_net`]), and the models of the reference cases ([`mod@reference`]).
//!
//! Each network is a set of sizes and constants that can be stored, and a function `model` that traces its step for a batch size;
//! where training and evaluation differ (dropout, normalisation), also for a [`Mode`](crate::cell::Mode).

pub mod dense_net;
pub mod ei_net;
pub mod etrace_net;
pub mod gesture_net;
pub mod gif_net;
pub mod rate_net;
pub mod reference;
pub mod speech_net;

pub use dense_net::{DenseNet, Layer};
pub use ei_net::{Coupling, EiNet};
pub use etrace_net::ETraceNet;
pub use gesture_net::{GestureCell, GestureNet, Polarity};
pub use gif_net::GifNet;
pub use rate_net::RateNet;
pub use speech_net::{SpeechCell, SpeechNet, SpeechReadout};
