//! Networks made of cells, one file per experiment.
//!
//! Each is a set of sizes and constants that can be stored, and one function `model(batch)` that traces its step.

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
