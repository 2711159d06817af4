//! A loaded plugin.
//!
//! Loading has an order that matters: the file is checked (`elf`), then the environment
//! variables that XLA reads while it loads are set, then the library is opened, its version compared, and
//! `PJRT_Plugin_Initialize` called once. A plugin is loaded at most once per process and never unloaded, since
//! XLA keeps threads and static state.

use super::{
    cache,
    client::{Client, ClientOptions},
    device::PluginKind,
    elf,
    error::{Error, Result},
    ffi::{self, Args, Entry},
    install,
};
use std::{
    collections::HashMap,
    ffi::{c_char, c_void},
    mem::ManuallyDrop,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

/// A loaded plugin.
pub struct Plugin {
    kind: PluginKind,
    path: PathBuf,
    api: *const ffi::Api,
    /// SHA-256 of the file as it was loaded; `None` if it was only looked at.
    hash: Option<[u8; cache::HASH]>,
    _library: ManuallyDrop<libloading::Library>,
}

// SAFETY: the table is immutable after loading, and the PJRT interface may be called from any thread.
unsafe impl Send for Plugin {}
// SAFETY: as above.
unsafe impl Sync for Plugin {}

/// Plugins of this process by file. The lock also keeps changes of the environment in one thread.
static LOADED: LazyLock<Mutex<HashMap<PathBuf, Arc<Plugin>>>> = LazyLock::new(Mutex::default);

impl Plugin {
    /// Loads the plugin in the file `path`; the second time, returns the one already loaded.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Load`] if the file is no whole library or the system cannot load it;
    /// [`Error::TooOld`] if its API version is not 0.x; [`Error::Plugin`] if it refuses to start.
    pub fn load(kind: PluginKind, path: &Path) -> Result<Arc<Plugin>> {
        let path = path.canonicalize().map_err(Error::io(path))?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = loaded.get(&path) {
            return Ok(plugin.clone());
        }
        let hash = cache::file_hash_remembered(&path)?;
        let plugin = Plugin { hash: Some(hash), ..Plugin::open(kind, path)? };
        if plugin.version().0 != 0 {
            let (version, path) = (plugin.version(), plugin.path);
            return Err(Error::TooOld { path, version, needs: "this program needs 0.x".into() });
        }
        // SAFETY: no pointers in the arguments.
        unsafe { plugin.call(&mut ffi::PluginInitialize::new()) }?;
        let plugin = Arc::new(plugin);
        loaded.insert(plugin.path.clone(), plugin.clone());
        Ok(plugin)
    }

    /// Opens the library without starting it.
    fn open(kind: PluginKind, path: PathBuf) -> Result<Plugin> {
        install::check_record(&path, kind)?;
        elf::check(&path, kind)?;
        prepare_environment(kind, &path);
        let failed = |reason: String| Error::Load { path: path.clone(), reason, fix: kind.advice() };
        // SAFETY: opening runs the library's initialisers. The file was named by the user, or installed by
        // this crate after comparing its hash; that it is a PJRT plugin is all we can ask.
        let library = unsafe { libloading::Library::new(&path) }.map_err(|e| failed(e.to_string()))?;
        let library = ManuallyDrop::new(library);
        // SAFETY: `GetPjrtApi` is the one exported function of a plugin, of this type by the PJRT header.
        let get = unsafe { library.get::<unsafe extern "C" fn() -> *const ffi::Api>(b"GetPjrtApi\0") }
            .map_err(|_| failed("it exports no `GetPjrtApi`, so it is not a PJRT plugin".into()))?;
        // SAFETY: no arguments, and it may be called at any time.
        let api = unsafe { get() };
        if api.is_null() {
            return Err(failed("`GetPjrtApi` returned nothing".into()));
        }
        Ok(Plugin { kind, path, api, hash: None, _library: library })
    }

    /// What it drives.
    pub fn kind(&self) -> PluginKind {
        self.kind
    }

    /// The library file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of the file as it was loaded, as hexadecimal digits.
    pub fn sha256(&self) -> Option<String> {
        self.hash.as_ref().map(|hash| cache::hex(hash))
    }

    pub(super) fn hash(&self) -> Option<[u8; cache::HASH]> {
        self.hash
    }

    /// API version, major and minor.
    pub fn version(&self) -> (i32, i32) {
        // SAFETY: `api` is not null and its head is the same in all versions.
        unsafe { ((*self.api).major, (*self.api).minor) }
    }

    /// What the plugin says of itself, such as `xla_version` and `stablehlo_current_version`.
    ///
    /// # Errors
    /// [`Error::Plugin`] if the plugin refuses.
    pub fn attributes(&self) -> Result<Vec<(String, String)>> {
        let mut args = ffi::PluginAttributes::new();
        // SAFETY: no pointers go in; what comes out belongs to the plugin and lives as long as it.
        let values = unsafe {
            self.call(&mut args)?;
            named_values(args.attributes, args.num_attributes)
        };
        Ok(values.into_iter().map(|(name, value)| (name, value.to_string())).collect())
    }

    /// Creates a client: takes hold of the plugin's devices.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there is none; [`Error::Plugin`] for other refusals.
    pub fn client(self: &Arc<Self>, options: &ClientOptions) -> Result<Arc<Client>> {
        Client::create(self, options)
    }

    /// Calls the entry that takes `A`.
    ///
    /// # Safety
    /// Every pointer in `args` must be valid for what the C header says the entry does with it.
    pub(super) unsafe fn call<A: Args>(&self, args: &mut A) -> Result<()> {
        let Some(function) = self.entry(A::ENTRY) else {
            let needs = format!("this program needs one with PJRT_{:?}", A::ENTRY);
            return Err(Error::TooOld { path: self.path.clone(), version: self.version(), needs });
        };
        // SAFETY: the struct is the one this entry takes (`Args`), announces its own size, and its pointers
        // are valid by the caller's promise.
        let error = unsafe { function(std::ptr::from_mut(args).cast::<c_void>()) };
        if error.is_null() { Ok(()) } else { Err(self.take_error(error, A::ENTRY)) }
    }

    /// Waits for an event, destroys it, and returns its error if it has one. Null is an event long past.
    ///
    /// # Safety
    /// `event` must be null or a live event, which the caller gives up.
    pub(super) unsafe fn finish(&self, event: *mut ffi::Event) -> Result<()> {
        if event.is_null() {
            return Ok(());
        }
        let mut wait = ffi::EventAwait::new();
        wait.event = event;
        let mut destroy = ffi::EventDestroy::new();
        destroy.event = event;
        // SAFETY: the event is live and ours; it is not used after its destruction.
        unsafe {
            let result = self.call(&mut wait);
            self.call(&mut destroy)?;
            result
        }
    }

    fn entry(&self, entry: Entry) -> Option<ffi::Function> {
        let offset = size_of::<ffi::Api>() + size_of::<usize>() * entry as usize;
        // SAFETY: the table begins with its size, and is read only where it is long enough. It holds
        // function pointers of one type, or null.
        unsafe {
            if offset + size_of::<usize>() > (*self.api).struct_size {
                return None;
            }
            *self.api.byte_add(offset).cast::<Option<ffi::Function>>()
        }
    }

    fn take_error(&self, error: *mut ffi::Error, during: Entry) -> Error {
        let mut message = ffi::ErrorMessage::new();
        message.error = error;
        let mut code = ffi::ErrorGetCode::new();
        code.error = error;
        let mut destroy = ffi::ErrorDestroy::new();
        destroy.error = error;
        let quiet = |entry: Entry, args: *mut c_void| {
            if let Some(function) = self.entry(entry) {
                // SAFETY: `error` is live until the last of these calls. `Error_Destroy` and `Error_Message`
                // return nothing, and `Error_GetCode` cannot fail on a live error, so the result is ignored.
                unsafe { function(args) };
            }
        };
        quiet(Entry::Error_Message, std::ptr::from_mut(&mut message).cast());
        // SAFETY: the text belongs to `error`, which is still live.
        let text = unsafe { text(message.message, message.message_size) };
        quiet(Entry::Error_GetCode, std::ptr::from_mut(&mut code).cast());
        quiet(Entry::Error_Destroy, std::ptr::from_mut(&mut destroy).cast());
        Error::Plugin { during: doing(during), code: code.code, message: text }
    }
}

/// API version of a plugin file, which is opened but not started.
pub(super) fn peek_version(kind: PluginKind, path: &Path) -> Result<(i32, i32)> {
    let path = path.canonicalize().map_err(Error::io(path))?;
    let loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    match loaded.get(&path) {
        Some(plugin) => Ok(plugin.version()),
        None => Ok(Plugin::open(kind, path)?.version()),
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plugin({} {:?} {:?})", self.kind, self.path, self.version())
    }
}

/// What a call does, in words, for error messages.
fn doing(entry: Entry) -> String {
    match entry {
        Entry::Client_Create => "to open the device".into(),
        Entry::Client_Compile | Entry::Compile => "to compile the program".into(),
        Entry::Client_BufferFromHostBuffer => "to upload an array".into(),
        Entry::Buffer_ToHostBuffer => "to download an array".into(),
        Entry::LoadedExecutable_Execute => "to run the program".into(),
        Entry::Event_Await => "while running (reported when the result was awaited)".into(),
        Entry::Executable_DeserializeAndLoad => "to load a compiled program".into(),
        other => format!("PJRT_{other:?}"),
    }
}

/// Sets the environment variables that XLA reads while it loads, unless the user has set them.
fn prepare_environment(kind: PluginKind, path: &Path) {
    // Only errors; XLA's start-up notes otherwise go to standard error.
    set_default("TF_CPP_MIN_LOG_LEVEL", "3");
    match kind {
        PluginKind::Cpu => super::memory::keep_freed_pages(),
        PluginKind::Cuda => add_ptxas_to_path(path),
        PluginKind::Tpu => {
            // Without a TPU, libtpu asks the cloud's metadata server for a description of it, thirty times
            // per question: minutes. With one, the answers matter and it must be left to ask.
            let attached = Path::new("/dev/vfio").exists() || Path::new("/dev/accel0").exists();
            if !attached {
                set_default("TPU_SKIP_MDS_QUERY", "1");
                set_default("TPU_ACCELERATOR_TYPE", "v5litepod-1");
                set_default("TPU_WORKER_ID", "0");
                set_default("TPU_WORKER_HOSTNAMES", "localhost");
            }
        }
    }
}

/// The CUDA plugin runs the assembler `ptxas`, found through `PATH`. Its wheel puts it beside the plugin.
fn add_ptxas_to_path(plugin: &Path) {
    let Some(site) = plugin.ancestors().nth(3) else { return };
    for folder in ["nvidia/cuda_nvcc/bin", "nvidia/cu13/bin"] {
        let folder = site.join(folder);
        if folder.join("ptxas").exists() {
            let old = std::env::var_os("PATH").unwrap_or_default();
            let folders = std::iter::once(folder).chain(std::env::split_paths(&old));
            if let Ok(new) = std::env::join_paths(folders) {
                set("PATH", new);
            }
            return;
        }
    }
}

fn set_default(name: &str, value: &str) {
    if std::env::var_os(name).is_none() {
        set(name, value);
    }
}

/// Sets an environment variable for XLA to read.
pub(super) fn set(name: &str, value: impl AsRef<std::ffi::OsStr>) {
    // SAFETY: Rust's own readers of the environment take its lock. C code that reads it at this very moment
    // would race: the module documentation tells callers to load plugins early, before such threads exist.
    unsafe { std::env::set_var(name, value) };
}

/// Copies a counted C string. Null is empty; bytes that are no UTF-8 are replaced.
///
/// # Safety
/// `start` must be null or point at `length` readable bytes.
pub(super) unsafe fn text(start: *const c_char, length: usize) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: by the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// The value of an option or attribute.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Named {
    Text(String),
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Bool(bool),
}

impl Named {
    /// The C form. It points into `self` and `name`, which must outlive it.
    pub(super) fn raw(&self, name: &str) -> ffi::NamedValue {
        let (kind, value, value_size) = match self {
            Named::Text(v) => (ffi::NamedValue::STRING, ffi::Value { string: v.as_ptr().cast() }, v.len()),
            Named::Int(v) => (ffi::NamedValue::INT64, ffi::Value { int64: *v }, 1),
            Named::Ints(v) => (ffi::NamedValue::INT64_LIST, ffi::Value { int64s: v.as_ptr() }, v.len()),
            Named::Float(v) => (ffi::NamedValue::FLOAT, ffi::Value { float: *v }, 1),
            Named::Bool(v) => (ffi::NamedValue::BOOL, ffi::Value { boolean: *v }, 1),
        };
        ffi::NamedValue {
            struct_size: size_of::<ffi::NamedValue>(),
            extension: std::ptr::null_mut(),
            name: name.as_ptr().cast(),
            name_size: name.len(),
            kind,
            value,
            value_size,
        }
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Named::Text(v) => f.write_str(v),
            Named::Int(v) => write!(f, "{v}"),
            Named::Ints(v) => {
                let words: Vec<String> = v.iter().map(i64::to_string).collect();
                f.write_str(&words.join("."))
            }
            Named::Float(v) => write!(f, "{v}"),
            Named::Bool(v) => write!(f, "{v}"),
        }
    }
}

/// Copies an array of named values that a plugin returned.
///
/// # Safety
/// `first` must be null or point at `count` live values of the plugin, whose stride is their own size.
pub(super) unsafe fn named_values(first: *const ffi::NamedValue, count: usize) -> Vec<(String, Named)> {
    let mut values = Vec::with_capacity(count);
    let mut at = first;
    for _ in 0..if first.is_null() { 0 } else { count } {
        // SAFETY: `at` is one of `count` values; the union is read as its `kind` says; a newer plugin's values
        // may be longer than ours, hence the step by their own size.
        unsafe {
            let raw = *at;
            let value = match raw.kind {
                ffi::NamedValue::STRING => Named::Text(text(raw.value.string, raw.value_size)),
                ffi::NamedValue::INT64 => Named::Int(raw.value.int64),
                ffi::NamedValue::INT64_LIST => {
                    Named::Ints(std::slice::from_raw_parts(raw.value.int64s, raw.value_size).to_vec())
                }
                ffi::NamedValue::FLOAT => Named::Float(raw.value.float),
                _ => Named::Bool(raw.value.boolean),
            };
            values.push((text(raw.name, raw.name_size), value));
            at = at.byte_add(raw.struct_size.max(size_of::<ffi::NamedValue>()));
        }
    }
    values
}
