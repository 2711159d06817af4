//! Flags: what their values may be, and how they may be written.
//!
//! A flag's range is declared where the flag is: `value_parser = positive`. The ranges are those of the settings in a
//! configuration ([`crate::settings::range`]).

pub mod hosts;
pub mod learner;
pub mod words;

use hlo::pjrt::Devices;

use super::common::ONE;
pub use crate::settings::range::flag::{below_one, finite, fraction, inside, non_negative, positive, share};
use crate::settings::range::{Count, LAYERS, PASSES, SIZE, SPAN, STEPS, THREADS};

/// Declares parsers of whole numbers.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident: $ty:ty, $count:expr;)+) => {
        $($(#[$doc])*
        ///
        /// # Errors
        /// When the text says anything else.
        pub fn $name(text: &str) -> Result<$ty, String> {
            let count: Count = $count;
            <$ty>::try_from(count.parse(text)?).map_err(|e| e.to_string())
        })+
    };
}

counts! {
    /// A size of a network or a batch, from 1.
    size: usize, SIZE;
    /// A size of a network of excitatory and inhibitory neurons: four and one at least.
    ei_size: usize, Count { low: 5, ..SIZE };
    /// A number of layers, from 1.
    layers: usize, LAYERS;
    /// Passes over a data set, or updates.
    passes: u64, PASSES;
    /// As [`passes`], from 1.
    some_passes: u64, Count { low: 1, ..PASSES };
    /// Steps of a sequence, from 1.
    steps: usize, STEPS;
    /// Steps of a part of a sequence, from 0.
    span: usize, SPAN;
    /// Threads, from 0.
    threads: usize, THREADS;
    /// Repeats of a measurement, from 1.
    repeats: usize, Count { low: 1, high: 10_000 };
    /// Bytes of memory, from 1.
    budget: u64, Count { low: 1, high: 1 << 50 };
    /// Samples, from 1.
    samples: u64, Count { low: 1, high: 1 << 24 };
}

/// The flag of commands that can use several devices.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ReplicaFlag {
    /// Devices that share each batch, of all hosts together: a number, or `all`; a CPU pretends to have as many [default: 1, of a
    /// resumed run as many as before, with --coordinator all]
    #[arg(long, value_name = "N")]
    pub replicas: Option<Devices>,
}

impl ReplicaFlag {
    /// As many as were asked for, else one.
    pub fn devices(self) -> Devices {
        self.replicas.unwrap_or(ONE)
    }
}

/// The error of a flag's value in the words of its range: "--tau_neu must be above 0 and finite, got -5".
pub fn value_error(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let why = std::error::Error::source(error)?.to_string();
    let name = flag.split_whitespace().next().unwrap_or(flag);
    why.starts_with("must be ").then(|| format!("{name} {why}"))
}
