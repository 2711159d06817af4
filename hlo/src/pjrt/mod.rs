//! Running programs: plugins, devices, buffers, executables.
//!
//! XLA is not linked. It comes as a *plugin*, a shared library with a C interface called PJRT: one for the
//! CPU, one for NVIDIA GPUs, one for TPUs. This module finds and loads a plugin, compiles a
//! [`Program`](crate::Program) with it and runs it. Reading order:
//!
//! | file | what |
//! |---|---|
//! | `ffi` | the C interface, by hand |
//! | [`plugin`] | a loaded library: checks before and after loading, calls, errors |
//! | `elf` | is a library file whole? |
//! | `find`, `install`, `wheels` | where plugins lie, and how they get there |
//! | [`client`] | the devices of a plugin; upload; compile |
//! | [`buffer`] | an array on a device |
//! | [`executable`] | a compiled program: checked calls, donation, memory and cost figures |
//! | [`options`] | what the compiler is told |
//! | [`cache`] | compiled programs kept on disk |
//! | [`aot`] | compiling for devices this machine does not have |
//! | `private` | folders that nobody else can write to |
//! | `store` | what a plugin asks that drives devices of several hosts |
//! | [`memory`] | memory of the process and machine |
//!
//! ```no_run
//! use hlo::{array::Array, pjrt::*};
//! # fn program() -> hlo::Program { unimplemented!() }
//! # fn main() -> Result<()> {
//! let plugin = Plugin::find(PluginKind::Cpu, None, &mut |_| {})?;
//! let client = plugin.client(&ClientOptions::default())?;
//! let step = client.compile(&program(), &CompileOptions::default())?;
//! let weights = client.upload(&Array::f32([1.0, 2.0], [2])?)?;
//! let state = client.upload(&Array::f32([0.0, 0.0], [2])?)?;
//! let results = step.run(vec![Arg::from(&weights), Arg::from(state)])?; // `state` is donated
//! println!("{:?}", results[0].to_array()?);
//! # Ok(()) }
//! ```
//!
//! # Threads
//!
//! Plugins, clients, executables and buffers may be shared and sent between threads. Loading the first
//! plugin sets environment variables, which other threads must not be reading through C at that moment:
//! load plugins early, from the main thread.
//!
//! # What is checked here because plugins do not
//!
//! A plugin compares only the byte size of an argument, so an `s32` passed for an `f32` of the same size
//! would run and give garbage: [`Executable::run`] compares type and sizes first. A few mistakes (replica
//! count 0, unknown words in `XLA_FLAGS`) abort the process inside the plugin: the options here cannot
//! express them. A shortened library file can crash the loader: [`Plugin::load`] compares its headers with
//! its size first.

pub mod aot;
pub mod buffer;
pub mod cache;
pub mod client;
mod device;
mod elf;
mod error;
pub mod executable;
mod ffi;
mod find;
mod install;
pub mod memory;
pub mod options;
pub mod plugin;
mod private;
mod store;
mod wheels;

pub use aot::AotReport;
pub use buffer::Buffer;
pub use client::{Client, ClientOptions, DeviceMemory, Devices, MOST_DEVICES, Platform};
pub use device::{Device, PluginKind};
pub use error::{Error, Result};
pub use executable::{Arg, Cost, Executable, MemoryStats};
pub use find::{Installed, Origin, installed, locate};
pub use install::{Progress, install};
pub use options::{Assignment, CompileOptions, OptionValue};
pub use plugin::Plugin;
