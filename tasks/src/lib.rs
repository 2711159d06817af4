//! The tasks and data sets of spiking networks: files and generators in, batches out. Knows nothing of XLA.
//!
//! A [`Task`] is a pure function from (split, seed, epoch, step) to a [`Batch`]: spike counts as bytes, `[T, B, n_in]`, time first, and
//! [`Targets`]: one class a row, or a class or numbers for each step. A [`Loader`] makes batches ahead of time on other threads and hands them out in order, from any position on.
//!
//! The tasks of the experiments (`etrace train --list` prints all there are):
//!
//! | task | inputs | classes | what for |
//! |---|---|---|---|
//! | [`Dms`] | 100 tuned to directions | 2 | memory over a delay |
//! | [`Evidence`] | 4 groups | 2 | counting; its older form is the `dm` click task |
//! | [`Copying`] | 10 symbols | 10 | memory of one symbol, or of several with a target for each step of recall |
//! | [`Pattern`] | a clock, or frozen spikes | no classes: a curve for each output | a target of numbers for each step |
//! | [`RandomSpikes`] | any number | any | measuring memory and speed |
//! | [`NMnist`] | 2 x 34 x 34 | 10 | event-camera digits |
//! | [`Gesture`] | 2 x 128 x 128 | 11 | event-camera gestures, and recordings of any classes |
//! | [`GestureSet`] | 2 x 32 x 32 | 8 | shapes that move before an event camera |
//! | [`Shd`] | 700 | 20 or 35 | spoken digits and words |
//!
//! To read the crate: [`task`] says what a task is and what its settings are, [`rng`] where its randomness comes from, [`order`] how a set
//! is passed over, [`loader`] how batches are made ahead. Each task has a file. [`events`], [`hdf5`], [`shd`] and [`nir`] read the formats
//! on disk, [`check()`] says what is in a directory and what is wrong with it, [`convert()`] writes it in one plain layout.
//!
//! All messages of an [`Error`] have three parts: the rule, what was got, what to do.

mod cache;
pub mod check;
pub mod convert;
pub mod copying;
pub mod dms;
pub mod error;
pub mod events;
pub mod evidence;
mod files;
pub mod gesture;
pub mod gesture_set;
pub mod hdf5;
pub mod loader;
mod memory;
pub mod nir;
pub mod nmnist;
pub mod order;
mod parallel;
pub mod pattern;
pub mod random;
mod remarks;
pub mod rng;
pub mod shd;
mod sparse;
mod table;
pub mod task;
#[cfg(test)]
mod testing;
mod trains;

pub use check::{Report, check};
pub use convert::{ConvertSettings, convert};
pub use copying::Copying;
pub use dms::{Dms, DmsSettings};
pub use error::{Error, Result};
pub use evidence::{Evidence, EvidenceSettings, Variant};
pub use gesture::{Gesture, GestureSettings};
pub use gesture_set::GestureSet;
pub use loader::{Loader, LoaderSettings, Position};
pub use nmnist::{NMnist, NMnistSettings};
pub use order::{Passes, Tail};
pub use pattern::Pattern;
pub use random::RandomSpikes;
pub use shd::{Shd, ShdKind, ShdSettings};
pub use task::{At, Batch, NO_ID, NO_TARGET, Rows, Split, Targets, Task, TaskSettings};
