//! Online training of recurrent spiking networks with eligibility traces, compiled through XLA.

pub mod cell;
pub mod learn;
pub mod net;
pub mod plot;
pub mod rng;
pub mod train;
pub mod verify;
