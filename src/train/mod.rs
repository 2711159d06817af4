//! From a gradient to a trained network: devices, programs, optimisers, runs.

mod carried;
pub mod checkpoint;
pub mod efficiency;
pub mod engine;
pub mod evaluate;
mod fed;
pub mod feed;
mod forward;
pub mod history;
pub mod need;
pub mod observe;
pub mod optimizer;
pub mod program;
pub mod record;
pub mod replicas;
pub mod run;
pub mod score;
pub mod session;
pub mod settings;
mod stage;
pub mod stepwise;
pub mod stop;
pub mod sweep;
pub mod team;
pub mod trainer;
mod update;
