//! Compiling for devices this machine does not have.
//!
//! The CUDA and TPU plugins can compile for *described* devices. That proves that a program compiles there
//! and says what memory it needs; it does not prove that it runs correctly. Targets are `tpu:v5e` and `tpu:v4`, of which a
//! topology may be named (`tpu:v5e:2x4`, `tpu:v4:2x2x1`), and `cuda:h100`, of which a number of cards in one machine may be named
//! (`cuda:h100:8`); the H100 is described by the file `h100.txtpb` beside this one.
//!
//! Compilers for other devices crash more readily than one's own, so each compilation runs in a child process:
//! this very program, called again with [`CHILD`] set to a folder that holds the request. A program that uses
//! [`compile`] therefore starts with
//!
//! ```no_run
//! if std::env::var_os(hlo::pjrt::aot::CHILD).is_some() {
//!     std::process::exit(hlo::pjrt::aot::child_main());
//! }
//! ```

use super::{
    cache,
    device::PluginKind,
    error::{Error, Result},
    executable::{self, MemoryStats},
    ffi,
    options::CompileOptions,
    plugin::{Named, Plugin},
    private,
};
use crate::{Program, exchange::Exchanges};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    hash::{BuildHasher, Hasher, RandomState},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// The targets that [`compile`] knows.
pub const TARGETS: &[&str] = &["tpu:v5e", "tpu:v4", "cuda:h100"];

/// The environment variable that makes a process a compiling child: a folder with a request in it.
pub const CHILD: &str = "ETRACE_AOT_CHILD";

/// A compilation that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What a compilation for another device found out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AotReport {
    /// Memory of one run on one device.
    pub memory: MemoryStats,
    /// Time the compilation took, without loading the plugin.
    pub seconds: f64,
    /// Size of the compiled program; 0 if the plugin cannot serialize for this target.
    pub serialized_bytes: u64,
    /// What the devices exchange; `None` if the plugin does not return the program.
    pub exchanges: Option<Exchanges>,
}

/// A target in the plugin's own terms.
#[derive(Debug, PartialEq)]
struct Target {
    kind: PluginKind,
    topology: String,
    /// Devices of the topology.
    devices: usize,
    options: Vec<(&'static str, Named)>,
}

/// Most devices of a topology: a whole TPU v4 pod.
const MOST_DEVICES: usize = 4096;

/// Sizes of a topology with this many axes, and their product: `2x4`.
fn topology(text: &str, axes: usize) -> Option<(Vec<usize>, usize)> {
    let sizes: Option<Vec<usize>> = text.split('x').map(|size| size.parse().ok().filter(|n| *n > 0)).collect();
    let sizes = sizes.filter(|sizes| sizes.len() == axes)?;
    let devices = sizes.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).filter(|n| *n <= MOST_DEVICES)?;
    Some((sizes, devices))
}

impl Target {
    fn parse(text: &str) -> Result<Target> {
        let wrong = || Error::Target { text: text.to_owned() };
        let mut words = text.splitn(3, ':');
        let (kind, model, size) = (words.next(), words.next(), words.next());
        let tpu = |name: &str, axes: usize, smallest: &str| {
            let size = size.unwrap_or(smallest);
            let (_, devices) = topology(size, axes).ok_or_else(wrong)?;
            Ok(Target { kind: PluginKind::Tpu, topology: format!("{name}:{size}"), devices, options: Vec::new() })
        };
        match (kind, model) {
            // The smallest topologies that libtpu accepts.
            (Some("tpu"), Some("v5e")) => tpu("v5e", 2, "2x2"),
            (Some("tpu"), Some("v4")) => tpu("v4", 3, "2x2x1"),
            (Some("cuda"), Some("h100")) => {
                let (_, devices) = topology(size.unwrap_or("1"), 1).ok_or_else(wrong)?;
                let cards = Named::Text(format!("1x1x{devices}"));
                let config = Named::Text(include_str!("h100.txtpb").into());
                let options = vec![("target_config", config), ("topology", cards)];
                Ok(Target { kind: PluginKind::Cuda, topology: "h100".into(), devices, options })
            }
            _ => Err(wrong()),
        }
    }
}

/// The kind of plugin that compiles for `target`.
///
/// # Errors
/// [`Error::Target`] if there is no such target.
pub fn plugin_kind(target: &str) -> Result<PluginKind> {
    Ok(Target::parse(target)?.kind)
}

/// Compiles a program for so many `replicas` on `target`, with the plugin in the file `plugin`, in a child process.
///
/// # Errors
/// [`Error::Target`] if there is no such target, or it has fewer devices; [`Error::Plugin`] if the compiler rejects the program;
/// [`Error::AotChild`] if the child dies or hangs, or reports another error.
pub fn compile(plugin: &Path, target: &str, program: &Program, replicas: NonZeroUsize) -> Result<AotReport> {
    let this = std::env::current_exe().map_err(Error::io("the path of this program"))?;
    compile_in(Command::new(this), plugin, target, program, replicas)
}

/// As [`compile`], in a child started by `command`, which must reach [`child_main`].
///
/// # Errors
/// As [`compile`].
pub fn compile_in(
    mut command: Command,
    plugin: &Path,
    target: &str,
    program: &Program,
    replicas: NonZeroUsize,
) -> Result<AotReport> {
    let Target { kind, devices, .. } = Target::parse(target)?;
    if replicas.get() > devices {
        return Err(Error::TargetDevices { target: target.to_owned(), devices, replicas: replicas.get() });
    }
    let plugin = plugin.canonicalize().map_err(Error::io(plugin))?;
    let folder = Folder::new()?;
    let request = json!({ "plugin": plugin.display().to_string(), "target": target, "replicas": replicas.get() });
    cache::write_atomically(&folder.0.join("request.json"), request.to_string().as_bytes())?;
    cache::write_atomically(&folder.0.join("module.pb"), &program.module.to_bytes())?;
    let errors = folder.0.join("stderr");
    let child = command
        .env(CHILD, &folder.0)
        // libtpu leaves a lock file and logs; they go when the folder does.
        .env("TMPDIR", &folder.0)
        .env("TPU_LOG_DIR", &folder.0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors).map_err(Error::io(&errors))?)
        .spawn()
        .map_err(Error::io(command.get_program()))?;
    let status = wait(child).map_err(Error::io(command.get_program()))?;
    let report = fs::read(folder.0.join("report.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let because = |what: String, output: String, fix: String| Error::AotChild {
        target: target.to_owned(),
        what,
        output: if output.is_empty() { "(none)".into() } else { output },
        fix,
    };
    let failed = |what, output| {
        let fix = match kind {
            PluginKind::Cuda => "check that `ptxas` is installed (`etrace plugin install cuda`)".into(),
            _ => format!("reinstall the plugin (`etrace plugin install {kind}`)"),
        };
        because(what, output, fix)
    };
    match (status, report) {
        (Some(_), Some(report)) => read_report(&report, failed),
        (Some(status), None) => Err(failed(format!("died ({status})"), last_words(&errors))),
        (None, _) => {
            let fix = "give it the machine for itself, or a smaller program: narrower layers, a smaller batch".into();
            Err(because(format!("was stopped after {PATIENCE:?}"), last_words(&errors), fix))
        }
    }
}

fn read_report(report: &Value, failed: impl Fn(String, String) -> Error) -> Result<AotReport> {
    if let (Some(message), Some(code)) = (report["message"].as_str(), report["code"].as_i64()) {
        let during = report["during"].as_str().unwrap_or_default().to_owned();
        return Err(Error::Plugin { during, code: code as i32, message: message.to_owned() });
    }
    if let Some(error) = report["error"].as_str() {
        return Err(failed("failed".into(), error.to_owned()));
    }
    let number = |name: &str| report[name].as_u64().unwrap_or(0);
    Ok(AotReport {
        memory: MemoryStats {
            argument: number("argument"),
            output: number("output"),
            alias: number("alias"),
            temp: number("temp"),
            peak: number("peak"),
            generated_code: number("generated_code"),
        },
        seconds: report["seconds"].as_f64().unwrap_or(0.0),
        serialized_bytes: number("serialized_bytes"),
        exchanges: report["exchanges"].as_u64().map(|count| Exchanges {
            count: count as usize,
            in_loops: number("exchanges_in_loops") as usize,
            bytes: number("exchanged_bytes"),
        }),
    })
}

/// Waits for the child; one that hangs is ended, and has no status.
fn wait(mut child: Child) -> std::io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn last_words(errors: &Path) -> String {
    let text = fs::read(errors).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// A new temporary folder for the user alone, removed on drop. The child loads the library that a file in it names.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        // A name that nobody can guess, and that must not be there yet.
        let random = RandomState::new().build_hasher().finish();
        let path = std::env::temp_dir().join(format!("etrace-aot-{}-{random:016x}", std::process::id()));
        private::create_new(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The child's whole work: reads the request, compiles, writes the report. Returns the exit code.
pub fn child_main() -> i32 {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else {
        eprintln!("{CHILD} is not set; it must name a folder with a request");
        return 2;
    };
    let report = match work(&folder) {
        Ok(report) => report,
        Err(Error::Plugin { during, code, message }) => json!({ "during": during, "code": code, "message": message }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    match cache::write_atomically(&folder.join("report.json"), report.to_string().as_bytes()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            2
        }
    }
}

fn work(folder: &Path) -> Result<Value> {
    private::check_own(folder)?;
    let read = |name: &str| fs::read(folder.join(name)).map_err(Error::io(folder.join(name)));
    let request: Value = serde_json::from_slice(&read("request.json")?)
        .map_err(|e| Error::Io { path: folder.join("request.json"), source: e.into() })?;
    let module = read("module.pb")?;
    let target = Target::parse(request["target"].as_str().unwrap_or_default())?;
    let plugin = Plugin::load(target.kind, Path::new(request["plugin"].as_str().unwrap_or_default()))?;
    if target.kind == PluginKind::Cuda && !on_path("ptxas") {
        // The plugin would crash on the second try, after an error on the first.
        return Err(Error::Load {
            path: plugin.path().to_owned(),
            reason: "the assembler `ptxas` is not on PATH".into(),
            fix: PluginKind::Cuda.advice(),
        });
    }
    let start = Instant::now();
    let replicas =
        request["replicas"].as_u64().and_then(|n| NonZeroUsize::new(n as usize)).unwrap_or(NonZeroUsize::MIN);
    let (memory, serialized, exchanges) = compile_here(&plugin, &target, &module, replicas)?;
    Ok(json!({
        "seconds": start.elapsed().as_secs_f64(),
        "serialized_bytes": serialized,
        "argument": memory.argument,
        "output": memory.output,
        "alias": memory.alias,
        "temp": memory.temp,
        "peak": memory.peak,
        "generated_code": memory.generated_code,
        "exchanges": exchanges.map(|e| e.count),
        "exchanges_in_loops": exchanges.map(|e| e.in_loops),
        "exchanged_bytes": exchanges.map(|e| e.bytes),
    }))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn compile_here(
    plugin: &Plugin,
    target: &Target,
    module: &[u8],
    replicas: NonZeroUsize,
) -> Result<(MemoryStats, u64, Option<Exchanges>)> {
    let options: Vec<ffi::NamedValue> = target.options.iter().map(|(name, value)| value.raw(name)).collect();
    let mut topology = ffi::TopologyDescriptionCreate::new();
    topology.name = target.topology.as_ptr().cast();
    topology.name_size = target.topology.len();
    topology.create_options = options.as_ptr();
    topology.num_options = options.len();
    // SAFETY: name, options and the strings they point at outlive the call.
    unsafe { plugin.call(&mut topology) }?;

    let program = executable::hlo_program(module);
    let compile_options = CompileOptions { replicas, ..CompileOptions::default() }.to_bytes();
    let mut compile = ffi::Compile::new();
    compile.topology = topology.topology;
    compile.program = &program;
    compile.options = compile_options.as_ptr().cast();
    compile.options_size = compile_options.len();
    let mut destroy_topology = ffi::TopologyDescriptionDestroy::new();
    destroy_topology.topology = topology.topology;
    let mut destroy = ffi::ExecutableDestroy::new();
    // SAFETY: the topology is live until destroyed, program and options until the end; the executable is
    // ours, is read while live, and is destroyed before the topology it was made for.
    unsafe {
        let result = plugin.call(&mut compile).and_then(|()| {
            destroy.executable = compile.executable;
            let memory = executable::memory_of(plugin, compile.executable);
            let serialized = executable::serialize(plugin, compile.executable).map_or(0, |bytes| bytes.len() as u64);
            let exchanges = executable::optimized(plugin, compile.executable).ok().map(|module| Exchanges::of(&module));
            plugin.call(&mut destroy)?;
            Ok((memory?, serialized, exchanges))
        });
        plugin.call(&mut destroy_topology)?;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_targets_parse_and_others_do_not() {
        for target in TARGETS {
            assert!(target.starts_with(plugin_kind(target).unwrap().name()));
        }
        let error = plugin_kind("tpu:v99").unwrap_err().to_string();
        assert_eq!(
            error,
            "`tpu:v99` names no compile target; use one of tpu:v5e, tpu:v4, cuda:h100, or a topology: tpu:v5e:2x4, tpu:v4:2x2x1, cuda:h100:8"
        );
        for (text, devices) in
            [("tpu:v5e", 4), ("tpu:v5e:2x4", 8), ("tpu:v4:2x2x1", 4), ("cuda:h100", 1), ("cuda:h100:8", 8)]
        {
            assert_eq!(Target::parse(text).unwrap().devices, devices, "{text}");
        }
        for wrong in [
            "tpu:v5e:",
            "tpu:v5e:2",
            "tpu:v5e:0x4",
            "tpu:v4:2x4",
            "cuda:h100:2x2",
            "cuda:h100:99999999999",
            "tpu:v5e:4294967296x4294967296",
        ] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_child_that_dies_is_an_error() {
        let program = Program { module: Default::default(), arguments: Vec::new(), results: Vec::new() };
        let this = std::env::current_exe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo out of patience >&2; kill -SEGV $$"]);
        let error = compile_in(command, &this, "tpu:v5e", &program, NonZeroUsize::MIN).unwrap_err();
        let Error::AotChild { what, output, .. } = &error else { panic!("{error}") };
        assert!(what.starts_with("died (signal: 11"), "{what}");
        assert_eq!(output, "out of patience");
    }
}
