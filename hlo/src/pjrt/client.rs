//! A client: the devices of one plugin, taken hold of.

use super::{
    buffer::{self, Buffer},
    device::PluginKind,
    error::{Error, Result},
    executable::Executable,
    ffi,
    options::{Assignment, CompileOptions},
    plugin::{self, Named, Plugin},
    store,
};
use crate::{Program, array::Array, hosts::Group};
use std::{fmt, num::NonZeroUsize, str::FromStr, sync::Arc};

/// How a client is created.
#[derive(Clone, Debug)]
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
    /// The processes whose devices are used together; `devices` are those of this one. A CPU plugin has no way to the devices of other
    /// processes and leaves it out.
    pub group: Option<Arc<Group>>,
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
            group: None,
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
    /// Those of this process, by their numbers.
    devices: Vec<*mut ffi::Device>,
    /// Those of all processes, by process and number.
    everywhere: Vec<DeviceId>,
    process: usize,
    platform: Platform,
    /// Asked by the plugin as long as there is a client.
    _group: Option<Arc<Group>>,
}

/// A device of this or another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DeviceId {
    process: usize,
    id: i64,
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
        let group = options.group.as_ref().filter(|_| plugin.kind() != PluginKind::Cpu);
        if let Some(group) = group.filter(|_| plugin.kind() == PluginKind::Cuda) {
            named.push(("node_id", Named::Int(group.process() as i64)));
            named.push(("num_nodes", Named::Int(group.processes() as i64)));
        }
        let raw: Vec<ffi::NamedValue> = named.iter().map(|(name, value)| value.raw(name)).collect();
        let mut args = ffi::ClientCreate::new();
        args.create_options = raw.as_ptr();
        args.num_options = raw.len();
        if let Some(group) = group {
            store::offer(group, &mut args);
        }
        // SAFETY: the options and the strings they point at outlive the call, and the group that the callbacks ask outlives the client.
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
            everywhere: Vec::new(),
            process: 0,
            platform: Platform { name: String::new(), version: String::new(), device: String::new() },
            _group: group.cloned(),
        };
        client.find_devices()?;
        if client.devices.is_empty() {
            return Err(Error::NoDevice { kind: plugin.kind(), message: "its list of devices is empty".into() });
        }
        client.platform = client.describe()?;
        Ok(Arc::new(client))
    }

    fn find_devices(&mut self) -> Result<()> {
        let mut here = ffi::ClientAddressableDevices::new();
        here.client = self.raw;
        let mut all = ffi::ClientDevices::new();
        all.client = self.raw;
        let mut process = ffi::ClientProcessIndex::new();
        process.client = self.raw;
        // SAFETY: the client is live, and the lists belong to it.
        let (here, all) = unsafe {
            self.plugin.call(&mut here)?;
            self.plugin.call(&mut all)?;
            self.plugin.call(&mut process)?;
            (list_of(here.devices, here.num_devices), list_of(all.devices, all.num_devices))
        };
        let known = |device: *mut ffi::Device| Ok((self.device_id(device)?, device));
        let mut own = here.into_iter().map(known).collect::<Result<Vec<_>>>()?;
        own.sort_by_key(|(id, _)| *id);
        let mut everywhere = all.into_iter().map(|device| self.device_id(device)).collect::<Result<Vec<_>>>()?;
        everywhere.sort();
        // Whatever number the plugin gives the process, its devices have it.
        self.process = own.first().map_or(usize::try_from(process.process_index).unwrap_or(0), |(id, _)| id.process);
        self.devices = own.into_iter().map(|(_, device)| device).collect();
        self.everywhere = everywhere;
        Ok(())
    }

    fn device_id(&self, device: *mut ffi::Device) -> Result<DeviceId> {
        let mut description = ffi::DeviceGetDescription::new();
        description.device = device;
        let mut id = ffi::DeviceDescriptionId::new();
        let mut process = ffi::DeviceDescriptionProcessIndex::new();
        // SAFETY: the device is one of the client's, which is live; the numbers are returned by value.
        unsafe {
            self.plugin.call(&mut description)?;
            (id.description, process.description) = (description.description, description.description);
            self.plugin.call(&mut id)?;
            self.plugin.call(&mut process)?;
        }
        Ok(DeviceId { process: usize::try_from(process.process_index).unwrap_or(0), id: i64::from(id.id) })
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

    /// Number of devices of this process.
    pub fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// Number of devices of all processes.
    pub fn devices_everywhere(&self) -> usize {
        self.everywhere.len()
    }

    /// Number of this process, in the plugin's count; 0 if it is alone.
    pub fn process(&self) -> usize {
        self.process
    }

    /// A replica on each device of all processes, those of process 0 first.
    pub fn assign_everywhere(&self) -> Assignment {
        let first = self.first();
        let devices = self.everywhere.iter().map(|d| d.id).collect();
        Assignment { devices, here: first..first + self.devices.len() }
    }

    /// A replica on each of the first `count` devices of this process; on all if it has fewer.
    pub fn assign_here(&self, count: usize) -> Assignment {
        let count = count.min(self.devices.len());
        let own = &self.everywhere[self.first()..][..count];
        Assignment { devices: own.iter().map(|d| d.id).collect(), here: 0..count }
    }

    /// Where the devices of this process begin in the list of all.
    fn first(&self) -> usize {
        self.everywhere.partition_point(|d| d.process < self.process)
    }

    pub(super) fn device(&self, device: usize) -> Result<*mut ffi::Device> {
        let count = self.devices.len();
        self.devices.get(device).copied().ok_or(Error::DeviceIndex { device, count })
    }

    /// The places of devices in the list of this process.
    pub(super) fn places(&self, devices: &[*mut ffi::Device]) -> Option<Vec<usize>> {
        devices.iter().map(|device| self.devices.iter().position(|own| own == device)).collect()
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

/// Copies a list of devices that a plugin returned.
///
/// # Safety
/// `first` must point at `count` live devices, or `count` be 0.
pub(super) unsafe fn list_of(first: *const *mut ffi::Device, count: usize) -> Vec<*mut ffi::Device> {
    // SAFETY: by the caller's promise.
    if count == 0 { Vec::new() } else { unsafe { std::slice::from_raw_parts(first, count) }.to_vec() }
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
