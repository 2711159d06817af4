//! A client: the devices of one plugin, taken hold of.

use super::{
    buffer::{self, Buffer},
    device::PluginKind,
    error::{Error, Result},
    executable::Executable,
    ffi,
    options::CompileOptions,
    plugin::{self, Named, Plugin},
};
use crate::{Program, array::Array};
use std::{fmt, num::NonZeroUsize, str::FromStr, sync::Arc};

/// How a client is created.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientOptions {
    /// How many devices: on a CPU they are pretended and share the processor. A TPU plugin always takes all that are there. Default 1.
    pub devices: Devices,
    /// CPU only: threads of the pool that runs programs. Default: one per processor. It travels through the
    /// environment variable `NPROC`, which is set for the process just before the client is created, and
    /// which a compiled program's division of work also follows.
    pub threads: Option<usize>,
    /// CUDA only: the first GPU to use.
    pub gpu: u32,
    /// CUDA only: share of GPU memory to set aside. Default: the plugin's (three quarters).
    pub memory_fraction: Option<f32>,
    /// CUDA only: whether to set that memory aside at the start. Default: the plugin's (yes).
    pub preallocate: Option<bool>,
}

/// A number of devices. Parsed from a number or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// So many.
    Count(NonZeroUsize),
    /// All that the plugin finds; of pretended ones, 1.
    All,
}

/// Most devices that a CPU can pretend to be: each has threads of its own.
pub const MOST_DEVICES: usize = 4096;

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Devices, String> {
        if text == "all" {
            return Ok(Devices::All);
        }
        let count = text.parse().ok().filter(|n: &NonZeroUsize| n.get() <= MOST_DEVICES);
        count
            .map(Devices::Count)
            .ok_or_else(|| format!("must be `all` or a number from 1 to {MOST_DEVICES}, got `{text}`"))
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Devices::Count(n) => n.fmt(f),
            Devices::All => f.write_str("all"),
        }
    }
}

/// Most threads of the pool: with thousands more, the client takes minutes to start.
pub const MOST_THREADS: usize = 1024;

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            devices: Devices::Count(NonZeroUsize::MIN),
            threads: None,
            gpu: 0,
            memory_fraction: None,
            preallocate: None,
        }
    }
}

/// Name and version of what runs programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `cpu`, `cuda`, `tpu`.
    pub name: String,
    /// The plugin's version text.
    pub version: String,
    /// The first device, in the plugin's words.
    pub device: String,
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// In use now.
    pub in_use: u64,
    /// Most ever in use, if the plugin counts it.
    pub peak: Option<u64>,
    /// Most that may be used, if the plugin says.
    pub limit: Option<u64>,
}

/// The devices of one plugin.
pub struct Client {
    pub(super) plugin: Arc<Plugin>,
    pub(super) raw: *mut ffi::Client,
    devices: Vec<*mut ffi::Device>,
    platform: Platform,
}

// SAFETY: PJRT clients and devices may be used from any thread; the device list never changes.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    pub(super) fn create(plugin: &Arc<Plugin>, options: &ClientOptions) -> Result<Arc<Client>> {
        let mut named: Vec<(&str, Named)> = Vec::new();
        match plugin.kind() {
            PluginKind::Cpu => {
                let count = if let Devices::Count(n) = options.devices { n.get() } else { 1 };
                named.push(("cpu_device_count", Named::Int(count as i64)));
                if let Some(threads) = options.threads {
                    if threads > MOST_THREADS {
                        return Err(Error::Threads { got: threads, most: MOST_THREADS });
                    }
                    plugin::set("NPROC", threads.max(1).to_string());
                }
            }
            PluginKind::Cuda => {
                if let Devices::Count(n) = options.devices {
                    let first = i64::from(options.gpu);
                    named.push(("visible_devices", Named::Ints((first..first + n.get() as i64).collect())));
                }
                if let Some(fraction) = options.memory_fraction {
                    named.push(("memory_fraction", Named::Float(fraction)));
                }
                if let Some(preallocate) = options.preallocate {
                    named.push(("preallocate", Named::Bool(preallocate)));
                }
            }
            PluginKind::Tpu => {}
        }
        let raw: Vec<ffi::NamedValue> = named.iter().map(|(name, value)| value.raw(name)).collect();
        let mut args = ffi::ClientCreate::new();
        args.create_options = raw.as_ptr();
        args.num_options = raw.len();
        // SAFETY: the options and the strings they point at outlive the call; no callbacks are passed.
        unsafe { plugin.call(&mut args) }.map_err(|error| match error {
            // NOT_FOUND, FAILED_PRECONDITION, UNAVAILABLE, and INTERNAL of a missing driver.
            Error::Plugin { code: 5 | 9 | 13 | 14, message, .. } if plugin.kind() != PluginKind::Cpu => {
                Error::NoDevice { kind: plugin.kind(), message }
            }
            other => other,
        })?;
        // From here on, dropping the client destroys it.
        let mut client = Client {
            plugin: plugin.clone(),
            raw: args.client,
            devices: Vec::new(),
            platform: Platform { name: String::new(), version: String::new(), device: String::new() },
        };
        let mut devices = ffi::ClientAddressableDevices::new();
        devices.client = client.raw;
        // SAFETY: the client is live; the list belongs to it and lives as long.
        client.devices = unsafe {
            plugin.call(&mut devices)?;
            if devices.num_devices == 0 {
                Vec::new()
            } else {
                std::slice::from_raw_parts(devices.devices, devices.num_devices).to_vec()
            }
        };
        if client.devices.is_empty() {
            return Err(Error::NoDevice { kind: plugin.kind(), message: "its list of devices is empty".into() });
        }
        client.platform = client.describe()?;
        Ok(Arc::new(client))
    }

    fn describe(&self) -> Result<Platform> {
        let mut name = ffi::ClientPlatformName::new();
        name.client = self.raw;
        let mut version = ffi::ClientPlatformVersion::new();
        version.client = self.raw;
        let mut description = ffi::DeviceGetDescription::new();
        description.device = self.device(0)?;
        let mut kind = ffi::DeviceDescriptionKind::new();
        // SAFETY: client and device are live; the texts belong to them and are copied at once.
        unsafe {
            self.plugin.call(&mut name)?;
            self.plugin.call(&mut version)?;
            self.plugin.call(&mut description)?;
            kind.description = description.description;
            self.plugin.call(&mut kind)?;
            Ok(Platform {
                name: plugin::text(name.name, name.name_size),
                version: plugin::text(version.version, version.version_size),
                device: plugin::text(kind.kind, kind.kind_size),
            })
        }
    }

    /// The plugin.
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// What runs programs here.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Number of devices.
    pub fn device_count(&self) -> usize {
        self.devices.len()
    }

    pub(super) fn device(&self, device: usize) -> Result<*mut ffi::Device> {
        let count = self.devices.len();
        self.devices.get(device).copied().ok_or(Error::DeviceIndex { device, count })
    }

    /// Memory of the first device. `None` where the plugin does not count it, as on the CPU: use
    /// [`memory`](super::memory) there.
    pub fn device_memory(&self) -> Option<DeviceMemory> {
        let mut args = ffi::DeviceMemoryStats::new();
        args.device = self.device(0).ok()?;
        // SAFETY: the device is live; the figures are returned by value.
        unsafe { self.plugin.call(&mut args) }.ok()?;
        let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
        Some(DeviceMemory {
            in_use: bytes(args.bytes_in_use),
            peak: args.peak_bytes_in_use_set.then(|| bytes(args.peak_bytes_in_use)),
            limit: args.bytes_limit_set.then(|| bytes(args.bytes_limit)),
        })
    }

    /// Compiles a program, or takes it from the [cache](super::cache).
    ///
    /// # Errors
    /// [`Error::Plugin`] if XLA rejects the module (its message names the instruction);
    /// [`Error::ResultMismatch`] if the module's results are not those of the program's signature.
    pub fn compile(self: &Arc<Self>, program: &Program, options: &CompileOptions) -> Result<Executable> {
        Executable::compile(self, program, options)
    }

    /// Copies an array to the first device.
    ///
    /// # Errors
    /// [`Error::Plugin`] if the device cannot hold it.
    pub fn upload(self: &Arc<Self>, array: &Array) -> Result<Buffer> {
        self.upload_to(array, 0)
    }

    /// Copies an array to a device.
    ///
    /// # Errors
    /// [`Error::DeviceIndex`] if there is no such device, [`Error::Plugin`] if it cannot hold the array.
    pub fn upload_to(self: &Arc<Self>, array: &Array, device: usize) -> Result<Buffer> {
        buffer::upload(self, array, device)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut args = ffi::ClientDestroy::new();
        args.client = self.raw;
        // SAFETY: the client is live, and buffers and executables hold an `Arc` of it, so none is left. A
        // refusal would leave nothing to do.
        let _ = unsafe { self.plugin.call(&mut args) };
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({} x {})", self.devices.len(), self.platform.device)
    }
}
