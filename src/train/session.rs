//! A device to run programs on.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use hlo::{
    Func, LowerError,
    array::Array,
    lower,
    pjrt::{self, Arg, Buffer, Client, ClientOptions, CompileOptions, Device, Devices, Executable, Plugin},
};

/// Something between a traced function and its results failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] pjrt::Error),
    /// The program could not be described.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A program is made for another number of devices.
    #[error(
        "a program runs on all devices of its session, got one for {parts} part(s) of a batch and {replicas} device(s); make both for one number"
    )]
    Parts {
        /// Parts of a batch.
        parts: usize,
        /// Devices of the session.
        replicas: usize,
    },
    /// All devices, but from one on that is not the first.
    #[error(
        "`all` takes every card, got {device}; use --device cuda, or --replicas with the number of cards from {device} on"
    )]
    AllFrom {
        /// The first that was asked for.
        device: Device,
    },
    /// There are fewer devices than replicas.
    #[error(
        "each replica needs a device of its own, got {replicas} replicas and {there} device(s) from {device} on; use --replicas \
         {there}, or --replicas all"
    )]
    Devices {
        /// So many were asked for.
        replicas: usize,
        /// So many are there.
        there: usize,
        /// The first of them.
        device: Device,
    },
}

/// A device, or several of one kind that train in step ([`replicas`](super::replicas)), and how programs are compiled for them.
pub struct Session {
    /// The client of the devices.
    pub client: Arc<Client>,
    /// How programs are compiled.
    pub options: CompileOptions,
    /// Which device; the first of several.
    pub device: Device,
}

impl Session {
    /// Opens the processor.
    ///
    /// # Errors
    /// When its plugin is neither installed nor can be fetched.
    pub fn cpu() -> Result<Session, SessionError> {
        Session::open(Device::Cpu, None, &mut |_| {})
    }

    /// Opens a device, finding (and for the CPU, if need be, fetching) its plugin.
    ///
    /// # Errors
    /// When no plugin is found or it has no device.
    pub fn open(
        device: Device,
        plugin: Option<PathBuf>,
        progress: &mut dyn FnMut(pjrt::Progress),
    ) -> Result<Session, SessionError> {
        let plugin = Plugin::find(device.kind(), plugin.as_deref(), progress)?;
        Session::on(&plugin, device, &ClientOptions::default())
    }

    /// Takes hold of as many devices of `plugin` as `options` say, `device` and those that follow it.
    ///
    /// # Errors
    /// When there are not as many.
    pub fn on(plugin: &Arc<Plugin>, device: Device, options: &ClientOptions) -> Result<Session, SessionError> {
        let gpu = if let Device::Cuda(number) = device { number } else { 0 };
        if gpu > 0 && options.devices == Devices::All {
            return Err(SessionError::AllFrom { device });
        }
        let client = plugin.client(&ClientOptions { gpu, ..options.clone() })?;
        let there = client.device_count();
        let replicas = match options.devices {
            Devices::All => there,
            Devices::Count(n) => n.get(),
        };
        if replicas > there {
            return Err(SessionError::Devices { replicas, there, device });
        }
        let replicas = NonZeroUsize::new(replicas).unwrap_or(NonZeroUsize::MIN);
        Ok(Session { client, options: CompileOptions { replicas, ..CompileOptions::default() }, device })
    }

    /// Devices that train in step.
    pub fn replicas(&self) -> usize {
        self.options.replicas.get()
    }

    /// How many of its devices share the memory of this machine: pretended ones do.
    pub fn in_one_memory(&self) -> u64 {
        if self.device == Device::Cpu { self.replicas() as u64 } else { 1 }
    }

    /// The same value on each device.
    ///
    /// # Errors
    /// When a device cannot hold it.
    pub fn upload_to_all(&self, array: &Array) -> Result<Vec<Buffer>, SessionError> {
        Ok((0..self.replicas()).map(|k| self.client.upload_to(array, k)).collect::<Result<_, _>>()?)
    }

    /// Compiles a function for one device; `donations` are pairs (argument, result).
    ///
    /// # Errors
    /// When the program cannot be described or compiled.
    pub fn compile(
        &self,
        name: &str,
        func: &Func,
        arguments: &[String],
        results: &[String],
        donations: &[(usize, usize)],
    ) -> Result<Executable, SessionError> {
        let program = lower(name, func, arguments, results, donations)?;
        let options = CompileOptions { replicas: NonZeroUsize::MIN, ..self.options.clone() };
        Ok(self.client.compile(&program, &options)?)
    }

    /// Compiles and runs a function once, for checks and small computations.
    ///
    /// # Errors
    /// When compiling or running fails.
    pub fn evaluate(&self, name: &str, func: &Func, args: &[Array]) -> Result<Vec<Array>, SessionError> {
        let arguments: Vec<String> = (0..func.params().len()).map(|k| format!("arg{k}")).collect();
        let results: Vec<String> = (0..func.results().len()).map(|k| format!("result{k}")).collect();
        let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let executable = self.compile(&clean, func, &arguments, &results, &[])?;
        let buffers = args.iter().map(|a| self.client.upload(a)).collect::<Result<Vec<_>, _>>()?;
        let out = executable.run(buffers.iter().map(Arg::Keep).collect())?;
        Ok(out.iter().map(|b| b.to_array()).collect::<Result<Vec<_>, _>>()?)
    }
}
