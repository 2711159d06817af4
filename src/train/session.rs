//! A device to run programs on.

use std::{num::NonZeroUsize, ops::Range, path::PathBuf, sync::Arc};

use hlo::{
    Func, LowerError,
    array::Array,
    hosts::Group,
    lower,
    pjrt::{self, Arg, Buffer, Client, ClientOptions, CompileOptions, Device, Devices, Executable, Plugin, PluginKind},
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
    /// Processes share replicas.
    #[error(
        "each process takes the same number of replicas, got {replicas} for {processes} processes; use a multiple of {processes}, or --replicas all"
    )]
    Shares {
        /// So many were asked for.
        replicas: usize,
        /// Processes.
        processes: usize,
    },
    /// The devices of all processes are used, or none of those of other processes.
    #[error(
        "the processes have {there} devices together and use all of them, got {replicas} replicas; use --replicas {there}, or --replicas all"
    )]
    Everywhere {
        /// So many were asked for.
        replicas: usize,
        /// So many are there.
        there: usize,
    },
    /// The plugin counts processes in another way.
    #[error(
        "processes are numbered as the {kind} runtime numbers them, got --process {got} for its number {number}; use --process {number}"
    )]
    Process {
        /// The kind of device.
        kind: PluginKind,
        /// The number that was given.
        got: usize,
        /// That of the plugin.
        number: usize,
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
    /// The replicas whose devices are those of this process.
    here: Range<usize>,
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
        let options = ClientOptions { gpu, ..options.clone() };
        match options.group.clone() {
            // Pretended devices cannot be those of other processes: each process has all of them.
            Some(group) if device == Device::Cpu => {
                let each = NonZeroUsize::new(group.processes()).map_or(Devices::All, Devices::Count);
                let devices = if options.devices == Devices::All { each } else { options.devices };
                Session::alone_on(plugin, device, &ClientOptions { devices, group: None, ..options })
            }
            Some(group) => Session::among(plugin, device, options, &group),
            None => Session::alone_on(plugin, device, &options),
        }
    }

    fn alone_on(plugin: &Arc<Plugin>, device: Device, options: &ClientOptions) -> Result<Session, SessionError> {
        let client = plugin.client(options)?;
        let there = client.device_count();
        let replicas = match options.devices {
            Devices::All => there,
            Devices::Count(n) => n.get(),
        };
        if replicas > there {
            return Err(SessionError::Devices { replicas, there, device });
        }
        let mut options = CompileOptions::default();
        if replicas > 1 {
            // Left to itself a plugin may put them in an order of its own.
            options = options.assigned(client.assign_here(replicas));
        }
        Ok(Session { client, options, device, here: 0..replicas })
    }

    /// Takes hold of devices together with other processes.
    fn among(
        plugin: &Arc<Plugin>,
        device: Device,
        mut options: ClientOptions,
        group: &Arc<Group>,
    ) -> Result<Session, SessionError> {
        let (asked, processes) = (options.devices, group.processes());
        if let Devices::Count(n) = asked {
            let own = NonZeroUsize::new(n.get() / processes).filter(|_| n.get().is_multiple_of(processes));
            let own = own.ok_or(SessionError::Shares { replicas: n.get(), processes })?;
            options.devices = Devices::Count(own);
        }
        let client = plugin.client(&options)?;
        let (there, number) = (client.devices_everywhere(), client.process());
        if number != group.process() {
            return Err(SessionError::Process { kind: plugin.kind(), got: group.process(), number });
        }
        if let Devices::Count(n) = asked
            && n.get() != there
        {
            return Err(SessionError::Everywhere { replicas: n.get(), there });
        }
        let everywhere = client.assign_everywhere();
        let here = everywhere.here.clone();
        Ok(Session { client, options: CompileOptions::default().assigned(everywhere), device, here })
    }

    /// The devices of this process alone.
    #[must_use]
    pub fn of_this_process(&self) -> Session {
        let (client, device, mut options) = (self.client.clone(), self.device, self.options.clone());
        if self.here.len() < self.replicas() {
            options = options.assigned(client.assign_here(self.here.len()));
        }
        Session { client, options, device, here: 0..self.here.len() }
    }

    /// The same devices, with other options of the compiler.
    #[must_use]
    pub fn with(&self, options: CompileOptions) -> Session {
        Session { client: self.client.clone(), options, device: self.device, here: self.here.clone() }
    }

    /// The same devices as if they were those of the replicas `here`, and the others those of another process.
    #[cfg(test)]
    pub(super) fn pretend(&self, here: Range<usize>) -> Session {
        Session { here, ..self.with(self.options.clone()) }
    }

    /// Devices that train in step, of all processes.
    pub fn replicas(&self) -> usize {
        self.options.replicas.get()
    }

    /// The replicas whose devices are those of this process.
    pub fn here(&self) -> Range<usize> {
        self.here.clone()
    }

    /// How many of its devices share the memory of this machine: pretended ones do.
    pub fn in_one_memory(&self) -> u64 {
        if self.device == Device::Cpu { self.replicas() as u64 } else { 1 }
    }

    /// The same value on each device of this process.
    ///
    /// # Errors
    /// When a device cannot hold it.
    pub fn upload_to_all(&self, array: &Array) -> Result<Vec<Buffer>, SessionError> {
        Ok((0..self.here.len()).map(|k| self.client.upload_to(array, k)).collect::<Result<_, _>>()?)
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
        let options = CompileOptions { replicas: NonZeroUsize::MIN, assignment: None, ..self.options.clone() };
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
