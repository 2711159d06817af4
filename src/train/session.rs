//! A device to run programs on.

use std::{path::PathBuf, sync::Arc};

use hlo::{
    Func, LowerError,
    array::Array,
    lower,
    pjrt::{self, Arg, Client, ClientOptions, CompileOptions, Device, Executable, Plugin, PluginKind},
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
}

/// A client of one device, and how programs are compiled for it.
pub struct Session {
    /// The device's client.
    pub client: Arc<Client>,
    /// How programs are compiled.
    pub options: CompileOptions,
    /// Which device.
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
        let kind: PluginKind = device.kind();
        let plugin = Plugin::find(kind, plugin.as_deref(), progress)?;
        let client = plugin.client(&ClientOptions::default())?;
        Ok(Session { client, options: CompileOptions::default(), device })
    }

    /// Compiles a function; `donations` are pairs (argument, result).
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
        Ok(self.client.compile(&program, &self.options)?)
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
