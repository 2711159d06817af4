//! A compiled program: calling it, and what it costs.
//!
//! # Donation
//!
//! An argument with [`Argument::donated_to`](crate::Argument::donated_to) gives its memory to a result. Such
//! an argument is passed by value ([`Arg::Give`]), so that Rust itself forbids to use it afterwards; passing it
//! by reference is an error before anything runs. Any argument may be given: one that no result takes over is
//! freed when the call has been issued.
//!
//! # Asynchrony
//!
//! [`Executable::run`] may return before the results are there. An error that happens while running is
//! reported by [`Buffer::wait`] or [`Buffer::to_array`].

mod signature;

use super::{
    buffer::{Buffer, buffer_dtype},
    cache,
    client::{self, Client},
    error::{Error, Result},
    ffi,
    options::CompileOptions,
    plugin::{self, Named},
};
use crate::{Program, exchange::Exchanges, proto, shape::Shape};
use prost::Message;
use signature::Signature;
use std::{
    ptr::null_mut,
    sync::Arc,
    time::{Duration, Instant},
};

/// One argument of a call.
#[derive(Debug)]
pub enum Arg<'a> {
    /// Read it; it stays usable.
    Keep(&'a Buffer),
    /// Take it: its memory may become a result's.
    Give(Buffer),
}

impl Arg<'_> {
    /// The buffer.
    pub fn buffer(&self) -> &Buffer {
        match self {
            Arg::Keep(buffer) => buffer,
            Arg::Give(buffer) => buffer,
        }
    }
}

impl<'a> From<&'a Buffer> for Arg<'a> {
    fn from(buffer: &'a Buffer) -> Arg<'a> {
        Arg::Keep(buffer)
    }
}

impl From<Buffer> for Arg<'_> {
    fn from(buffer: Buffer) -> Self {
        Arg::Give(buffer)
    }
}

/// Memory of one run on one device in bytes, as the compiler planned it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All arguments.
    pub argument: u64,
    /// All results.
    pub output: u64,
    /// Part of the results that lies in donated arguments.
    pub alias: u64,
    /// Scratch space.
    pub temp: u64,
    /// The plugin's own peak figure. On the CPU it leaves `temp` out: use [`MemoryStats::total`] to compare.
    pub peak: u64,
    /// Machine code; always 0 on the CPU.
    pub generated_code: u64,
}

impl MemoryStats {
    /// Most memory in use at once: argument + output - alias + temp. Means the same on every plugin.
    pub fn total(&self) -> u64 {
        (self.argument + self.output + self.temp).saturating_sub(self.alias)
    }
}

/// Work of one run, as the compiler estimates it. The body of a loop counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read and written.
    pub bytes_accessed: f64,
}

/// A compiled program.
pub struct Executable {
    handle: Handle,
    signature: Signature,
    compile_time: Duration,
    from_cache: bool,
}

/// The plugin's two objects: one runs, the other answers questions. Freed on drop.
struct Handle {
    client: Arc<Client>,
    loaded: *mut ffi::LoadedExecutable,
    executable: *mut ffi::Executable,
}

// SAFETY: PJRT executables may be used from any thread; nothing here changes after creation.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Executable {
    pub(super) fn compile(client: &Arc<Client>, program: &Program, options: &CompileOptions) -> Result<Executable> {
        let start = Instant::now();
        let module = program.module.to_bytes();
        let option_bytes = options.sound_on(client.plugin().kind()).to_bytes();
        let entry = if options.cache { cache::Entry::find(client, &module, &option_bytes)? } else { None };

        let cached = entry.as_ref().and_then(cache::Entry::read);
        // An entry that the plugin refuses counts as damaged: the program is compiled anew.
        let loaded = cached.and_then(|bytes| Handle::deserialize(client, &bytes).ok());
        let from_cache = loaded.is_some();
        let handle = match loaded {
            Some(handle) => handle,
            None => Handle::compile(client, &module, &option_bytes)?,
        };
        let results = handle.result_shapes(program)?;
        let signature = Signature::new(program, options, results, handle.devices()?);
        let executable = Executable { handle, signature, compile_time: start.elapsed(), from_cache };
        if let (Some(entry), false) = (entry, from_cache)
            && let Ok(bytes) = executable.serialize()
        {
            entry.write(&bytes);
        }
        Ok(executable)
    }

    /// Time the compilation took, or the loading from the cache.
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }

    /// Whether the program came from the cache on disk.
    pub fn from_cache(&self) -> bool {
        self.from_cache
    }

    /// The devices of this process that run it, in the order in which it takes their arguments.
    pub fn devices(&self) -> &[usize] {
        &self.signature.devices
    }

    /// The client whose devices run it.
    pub fn client(&self) -> &Arc<Client> {
        &self.handle.client
    }

    /// Runs the program on the first device and returns its results in order.
    ///
    /// # Errors
    /// Before anything runs: [`Error::ArgumentCount`], [`Error::ArgumentShape`], [`Error::Donated`],
    /// [`Error::OtherClient`], [`Error::OtherDevice`]. [`Error::Plugin`] if XLA refuses; arguments given by value are gone then.
    pub fn run(&self, arguments: Vec<Arg<'_>>) -> Result<Vec<Buffer>> {
        let mut results = self.run_each(vec![arguments])?;
        Ok(results.pop().unwrap_or_default())
    }

    /// Runs a program compiled for several devices: one list of arguments per device, one list of results
    /// back, in the order of [`Executable::devices`]. With partitions, arguments and results are the pieces that the module's sharding prescribes.
    ///
    /// # Errors
    /// As [`Executable::run`], and [`Error::DeviceCount`].
    pub fn run_each(&self, arguments: Vec<Vec<Arg<'_>>>) -> Result<Vec<Vec<Buffer>>> {
        let signature = &self.signature;
        let devices = arguments.len();
        if devices != signature.devices.len() {
            return Err(Error::DeviceCount {
                program: signature.program.clone(),
                expected: signature.devices.len(),
                got: devices,
            });
        }
        for (list, device) in arguments.iter().zip(&signature.devices) {
            signature.check(list, &self.handle.client, *device)?;
        }
        let inputs: Vec<Vec<*mut ffi::Buffer>> =
            arguments.iter().map(|list| list.iter().map(|a| a.buffer().raw).collect()).collect();
        let input_lists: Vec<*const *mut ffi::Buffer> = inputs.iter().map(|list| list.as_ptr()).collect();
        let mut outputs = vec![vec![null_mut::<ffi::Buffer>(); signature.results.len()]; devices];
        let output_lists: Vec<*mut *mut ffi::Buffer> = outputs.iter_mut().map(|list| list.as_mut_ptr()).collect();

        // Buffers of slots without alias are never donated by XLA, so nothing needs to be exempted.
        let mut options = ffi::ExecuteOptions::new();
        let mut args = ffi::LoadedExecutableExecute::new();
        args.executable = self.handle.loaded;
        args.options = &mut options;
        args.argument_lists = input_lists.as_ptr();
        args.num_devices = devices;
        args.num_args = signature.arguments.len();
        args.output_lists = output_lists.as_ptr();
        // SAFETY: every buffer is live and of this client; the lists have as many entries as announced, and
        // one output list per device of as many entries as the executable has results (checked at compile
        // time). All outlive the call. Donated buffers were given by value, so nobody reads them after.
        unsafe { self.handle.client.plugin.call(&mut args) }?;
        // Given arguments are destroyed here; the plugin keeps what a run in progress still reads.
        drop(arguments);
        let client = &self.handle.client;
        let wrap = |(list, &device): (Vec<*mut ffi::Buffer>, &usize)| {
            let pairs = list.into_iter().zip(&signature.results);
            pairs.map(|(raw, shape)| Buffer { client: client.clone(), raw, shape: shape.clone(), device }).collect()
        };
        Ok(outputs.into_iter().zip(&signature.devices).map(wrap).collect())
    }

    /// Memory of one run, as planned by the compiler.
    ///
    /// # Errors
    /// [`Error::Plugin`] if the plugin does not know.
    pub fn memory(&self) -> Result<MemoryStats> {
        // SAFETY: the executable is live.
        unsafe { memory_of(&self.handle.client.plugin, self.handle.executable) }
    }

    /// Work of one run, as estimated by the compiler.
    ///
    /// # Errors
    /// [`Error::Plugin`] if the plugin does not know.
    pub fn cost(&self) -> Result<Cost> {
        let mut args = ffi::ExecutableGetCostAnalysis::new();
        args.executable = self.handle.executable;
        // SAFETY: the executable is live; the list belongs to it and is copied at once.
        let values = unsafe {
            self.handle.client.plugin.call(&mut args)?;
            plugin::named_values(args.properties, args.num_properties)
        };
        let value = |name: &str| match values.iter().find(|(n, _)| n == name) {
            Some((_, Named::Float(v))) => f64::from(*v),
            Some((_, Named::Int(v))) => *v as f64,
            _ => 0.0,
        };
        Ok(Cost { flops: value("flops"), bytes_accessed: value("bytes accessed") })
    }

    /// The module after optimisation, as text. Attributes that this crate never emits are not shown.
    ///
    /// # Errors
    /// [`Error::Plugin`] if the plugin does not return it, or returns something unreadable.
    pub fn optimized_text(&self) -> Result<String> {
        Ok(self.optimized()?.to_text())
    }

    /// What the devices exchange in a run, after optimisation.
    ///
    /// # Errors
    /// As [`Executable::optimized_text`].
    pub fn exchanges(&self) -> Result<Exchanges> {
        Ok(Exchanges::of(&self.optimized()?))
    }

    fn optimized(&self) -> Result<proto::Module> {
        // SAFETY: the executable is live.
        unsafe { optimized(&self.handle.client.plugin, self.handle.executable) }
    }

    /// The compiled program as bytes, for this plugin build and this processor only.
    ///
    /// # Errors
    /// [`Error::Plugin`] if the plugin cannot serialize.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        // SAFETY: the executable is live.
        unsafe { serialize(&self.handle.client.plugin, self.handle.executable) }
    }
}

impl std::fmt::Debug for Executable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Executable({})", self.signature.program)
    }
}

/// The module after optimisation.
///
/// # Safety
/// `executable` must be live.
pub(super) unsafe fn optimized(plugin: &plugin::Plugin, executable: *mut ffi::Executable) -> Result<proto::Module> {
    let mut program = ffi::Program::new();
    let mut args = ffi::ExecutableOptimizedProgram::new();
    args.executable = executable;
    args.program = &mut program;
    // SAFETY: by the caller's promise. The first call, without memory, fills in the size.
    unsafe { plugin.call(&mut args) }?;
    let mut code = vec![0u8; program.code_size];
    program.code = code.as_mut_ptr().cast();
    args.program = &mut program;
    // SAFETY: the memory has the size just announced.
    unsafe { plugin.call(&mut args) }?;
    let unreadable = |message: String| Error::Plugin {
        during: "to return the optimised program".into(),
        code: 0,
        message: format!("it came in an unknown form: {message}"),
    };
    let decoded = proto::ModuleWithConfig::decode(code.as_slice()).map_err(|e| unreadable(e.to_string()))?;
    decoded.hlo_module.ok_or_else(|| unreadable("no module in it".into()))
}

/// # Safety
/// `executable` must be live.
pub(super) unsafe fn memory_of(plugin: &plugin::Plugin, executable: *mut ffi::Executable) -> Result<MemoryStats> {
    let mut args = ffi::ExecutableGetCompiledMemoryStats::new();
    args.executable = executable;
    // SAFETY: by the caller's promise; the figures are returned by value.
    unsafe { plugin.call(&mut args) }?;
    let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(MemoryStats {
        argument: bytes(args.argument),
        output: bytes(args.output),
        alias: bytes(args.alias),
        temp: bytes(args.temp),
        peak: bytes(args.peak),
        generated_code: bytes(args.code),
    })
}

/// # Safety
/// `executable` must be live.
pub(super) unsafe fn serialize(plugin: &plugin::Plugin, executable: *mut ffi::Executable) -> Result<Vec<u8>> {
    let mut args = ffi::ExecutableSerialize::new();
    args.executable = executable;
    // SAFETY: the bytes belong to `backing`, which lives until its deleter is called, exactly once, after
    // they have been copied.
    unsafe {
        plugin.call(&mut args)?;
        let bytes = std::slice::from_raw_parts(args.bytes.cast::<u8>(), args.size).to_vec();
        if let Some(delete) = args.deleter {
            delete(args.backing);
        }
        Ok(bytes)
    }
}

/// A module in the form a plugin compiles. The bytes must outlive it.
pub(super) fn hlo_program(module: &[u8]) -> ffi::Program {
    const FORMAT: &str = "hlo";
    let mut program = ffi::Program::new();
    program.code = module.as_ptr().cast_mut().cast();
    program.code_size = module.len();
    program.format = FORMAT.as_ptr().cast();
    program.format_size = FORMAT.len();
    program
}

impl Handle {
    fn compile(client: &Arc<Client>, module: &[u8], options: &[u8]) -> Result<Handle> {
        let program = hlo_program(module);
        let mut args = ffi::ClientCompile::new();
        args.client = client.raw;
        args.program = &program;
        args.options = options.as_ptr().cast();
        args.options_size = options.len();
        // SAFETY: the client is live; program and options outlive the call and are only read.
        unsafe { client.plugin.call(&mut args) }?;
        Handle::new(client, args.executable)
    }

    fn deserialize(client: &Arc<Client>, bytes: &[u8]) -> Result<Handle> {
        let mut args = ffi::ExecutableDeserializeAndLoad::new();
        args.client = client.raw;
        args.bytes = bytes.as_ptr().cast();
        args.size = bytes.len();
        // SAFETY: the client is live; the bytes outlive the call. They come from our cache, whose checksum
        // was compared, since they become machine code.
        unsafe { client.plugin.call(&mut args) }?;
        Handle::new(client, args.loaded)
    }

    fn new(client: &Arc<Client>, loaded: *mut ffi::LoadedExecutable) -> Result<Handle> {
        let mut handle = Handle { client: client.clone(), loaded, executable: null_mut() };
        let mut args = ffi::LoadedExecutableGetExecutable::new();
        args.loaded = loaded;
        // SAFETY: just created, live. The object returned is ours to destroy; it is asked for once.
        unsafe { client.plugin.call(&mut args) }?;
        handle.executable = args.executable;
        Ok(handle)
    }

    /// The devices of this process that run it, in the order in which it takes their arguments.
    fn devices(&self) -> Result<Vec<usize>> {
        let mut args = ffi::LoadedExecutableAddressableDevices::new();
        args.executable = self.loaded;
        // SAFETY: the executable is live, and the list belongs to it.
        let devices = unsafe {
            self.client.plugin.call(&mut args)?;
            client::list_of(args.devices, args.num_devices)
        };
        self.client.places(&devices).ok_or_else(|| Error::Plugin {
            during: "to say where the program runs".into(),
            code: 0,
            message: "it named a device that is none of the client's".into(),
        })
    }

    /// Shapes of the results on one device; without partitions they must be those the program promises.
    fn result_shapes(&self, program: &Program) -> Result<Vec<Arc<Shape>>> {
        let plugin = &self.client.plugin;
        let mut count = ffi::ExecutableNumOutputs::new();
        count.executable = self.executable;
        let mut types = ffi::ExecutableOutputElementTypes::new();
        types.executable = self.executable;
        let mut dims = ffi::ExecutableOutputDimensions::new();
        dims.executable = self.executable;
        let mut shapes: Vec<Option<Shape>> = Vec::new();
        // SAFETY: the executable is live, and the lists belong to it. They are read as far as their announced
        // lengths: `types` and `dim_sizes` have one entry per output, `dims` the sum of `dim_sizes`.
        unsafe {
            plugin.call(&mut count)?;
            plugin.call(&mut types)?;
            plugin.call(&mut dims)?;
            let mut at = dims.dims;
            for i in 0..types.num_types.min(dims.num_outputs) {
                let rank = *dims.dim_sizes.add(i);
                let sizes = (0..rank).map(|k| *at.add(k) as usize).collect::<Vec<_>>();
                at = at.add(rank);
                shapes.push(buffer_dtype(*types.types.add(i)).map(|dtype| Shape::new(dtype, sizes)));
            }
        }
        let promised: Vec<&Shape> = program.results.iter().map(|r| &r.shape).collect();
        let sharded = program.module.computations.iter().flat_map(|c| &c.instructions).any(|i| i.sharding.is_some());
        let same = count.num_outputs == shapes.len()
            && shapes.len() == promised.len()
            && shapes.iter().zip(&promised).all(|(got, want)| match got {
                Some(got) => got == *want || sharded && got.dtype == want.dtype,
                None => false,
            });
        if !same {
            let show = |s: &Option<Shape>| s.as_ref().map_or("?".into(), Shape::to_string);
            return Err(Error::ResultMismatch {
                program: program.module.name.clone(),
                expected: format!("({})", promised.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
                got: format!("({})", shapes.iter().map(show).collect::<Vec<_>>().join(", ")),
            });
        }
        Ok(shapes.into_iter().flatten().map(Arc::new).collect())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let plugin = &self.client.plugin;
        if !self.executable.is_null() {
            let mut args = ffi::ExecutableDestroy::new();
            args.executable = self.executable;
            // SAFETY: ours, and not used again.
            let _ = unsafe { plugin.call(&mut args) };
        }
        let mut args = ffi::LoadedExecutableDestroy::new();
        args.executable = self.loaded;
        // SAFETY: ours, and not used again; runs in progress hold their own reference inside the plugin.
        let _ = unsafe { plugin.call(&mut args) };
    }
}
