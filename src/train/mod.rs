//! From a gradient to a trained network: devices, programs, optimisers, runs.

pub mod session;
