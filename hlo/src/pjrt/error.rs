//! What can go wrong between this crate and a plugin.

use super::PluginKind;
use crate::{array::ArrayError, shape::Shape};
use std::path::PathBuf;

/// Result of a runtime call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the runtime. Each message says what the rule is, what was found, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No plugin of this kind was found.
    #[error("no {kind} plugin found; looked in:\n{}\nfix: {}", list(.searched), .kind.advice())]
    NotFound {
        /// The kind looked for.
        kind: PluginKind,
        /// Each place, with what was wrong there.
        searched: Vec<String>,
    },
    /// The file is shorter than its own headers or its install record say.
    #[error("plugin {} is truncated: {expected} bytes expected, {got} found; fix: {fix}", .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes its headers or its install record call for.
        expected: u64,
        /// Bytes there are.
        got: u64,
        /// What to do.
        fix: String,
    },
    /// The file is no plugin, or the system could not load it.
    #[error("plugin {} could not be loaded: {reason}; fix: {fix}", .path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
        /// What to do.
        fix: String,
    },
    /// The plugin speaks another major version of the interface, or lacks a function.
    #[error("plugin {} is too old or too new: it has PJRT API {}.{}, {needs}; fix: install the plugin with `etrace plugin install`", .path.display(), .version.0, .version.1)]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its API version.
        version: (i32, i32),
        /// What this crate needs of it.
        needs: String,
    },
    /// The plugin works but finds no device.
    #[error("the {kind} plugin found no device ({message}); fix: {}", no_device_advice(*.kind))]
    NoDevice {
        /// Kind of plugin.
        kind: PluginKind,
        /// The plugin's own words.
        message: String,
    },
    /// A device number beyond the devices there are.
    #[error("device {device} does not exist: the client has {count} device(s); fix: pass a number below {count}")]
    DeviceIndex {
        /// The device asked for.
        device: usize,
        /// Devices there are.
        count: usize,
    },
    /// The plugin refused a call.
    #[error("XLA refused {during} (code {code}): {message}")]
    Plugin {
        /// The call: what was being done.
        during: String,
        /// PJRT error code (the numbers of `absl::StatusCode`).
        code: i32,
        /// The plugin's own words.
        message: String,
    },
    /// A program was called with too few or too many arguments.
    #[error("program `{program}` takes {expected} arguments, got {got}; fix: pass one buffer for each of {}", .names.join(", "))]
    ArgumentCount {
        /// The program.
        program: String,
        /// Arguments it takes.
        expected: usize,
        /// Arguments given.
        got: usize,
        /// Their names.
        names: Vec<String>,
    },
    /// A program was called with an argument of another type or other sizes.
    #[error(
        "program `{program}`, argument {index} `{name}`: must be {expected}, got {got}; fix: pass a buffer of {expected}"
    )]
    ArgumentShape {
        /// The program.
        program: String,
        /// Position of the argument.
        index: usize,
        /// Its name.
        name: String,
        /// What it must be.
        expected: Shape,
        /// What was passed.
        got: Shape,
    },
    /// A buffer to be donated was passed by reference.
    #[error(
        "program `{program}`, argument {index} `{name}`: its buffer is donated to result `{result}` and cannot be kept; fix: pass it by value (`Arg::Give`), or upload a copy first"
    )]
    Donated {
        /// The program.
        program: String,
        /// Position of the argument.
        index: usize,
        /// Its name.
        name: String,
        /// The result that takes the buffer over.
        result: String,
    },
    /// An argument lives in another client.
    #[error(
        "program `{program}`, argument {index} `{name}`: the buffer belongs to another client; fix: upload it through the client that compiled the program"
    )]
    OtherClient {
        /// The program.
        program: String,
        /// Position of the argument.
        index: usize,
        /// Its name.
        name: String,
    },
    /// An argument lies on another device than the one that takes it.
    #[error(
        "program `{program}`, argument {index} `{name}`: must lie on device {expected}, got one on device {got}; fix: upload it to that device"
    )]
    OtherDevice {
        /// The program.
        program: String,
        /// Position of the argument.
        index: usize,
        /// Its name.
        name: String,
        /// The device that takes it.
        expected: usize,
        /// The device it lies on.
        got: usize,
    },
    /// The compiled program does not have the results its signature promises.
    #[error(
        "program `{program}`: signature promises results {expected}, the compiled program has {got}; fix: this is a defect of the graph that built the program"
    )]
    ResultMismatch {
        /// The program.
        program: String,
        /// Results of the signature.
        expected: String,
        /// Results of the executable.
        got: String,
    },
    /// The wrong number of devices was given arguments.
    #[error(
        "program `{program}` runs on {expected} device(s), got arguments for {got}; fix: pass one list of arguments per device"
    )]
    DeviceCount {
        /// The program.
        program: String,
        /// Replicas times partitions it was compiled for.
        expected: usize,
        /// Lists given.
        got: usize,
    },
    /// A downloaded file is not the one whose hash is recorded.
    #[error("{}: SHA-256 must be {expected}, got {got}; fix: retry the download; if it happens again, the package index serves another file", .path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// Hash recorded in this crate.
        expected: String,
        /// Hash of the file.
        got: String,
    },
    /// An installed plugin is not the file that was installed.
    #[error("plugin {} must be the file that was installed, with SHA-256 {expected}, but has {got}; fix: run `etrace plugin install {kind}`, which replaces it, or, if you changed it yourself, name it with --plugin", .path.display())]
    Altered {
        /// The file.
        path: PathBuf,
        /// Its kind.
        kind: PluginKind,
        /// Hash recorded when it was installed.
        expected: String,
        /// Hash of the file.
        got: String,
    },
    /// Others can put code into a folder that code is loaded from.
    #[error("{} must be writable by its user alone, since programs are loaded from there, but {why}; fix: `chmod go-w` it, or name another folder (XDG_CACHE_HOME, ETRACE_CACHE; ETRACE_CACHE=off keeps no compiled programs)", .path.display())]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// More threads than make sense.
    #[error("programs run on at most {most} threads, got {got}; fix: leave --threads out for one per processor")]
    Threads {
        /// Threads asked for.
        got: usize,
        /// Most there may be.
        most: usize,
    },
    /// `pip` could not fetch a wheel.
    #[error("`{command}` failed: {message}; fix: check that Python's pip and the network work, or fetch the wheel of {package} elsewhere, unpack it and point {} at the .so in it", .kind.env_var())]
    Pip {
        /// Kind of plugin.
        kind: PluginKind,
        /// Package and version.
        package: String,
        /// The command line.
        command: String,
        /// What came of it.
        message: String,
    },
    /// This machine has no pinned package.
    #[error("no {kind} plugin is published for {platform}; fix: build one and point {} at it", .kind.env_var())]
    NoPackage {
        /// Kind of plugin.
        kind: PluginKind,
        /// Operating system and processor.
        platform: String,
    },
    /// An archive is damaged.
    #[error("{}: not a readable wheel: {message}; fix: retry `etrace plugin install`", .path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A text that names no device.
    #[error("`{text}` names no device; use cpu, cuda, cuda:N, gpu or tpu")]
    DeviceName {
        /// The text.
        text: String,
    },
    /// A text that names no ahead-of-time target.
    #[error(
        "`{text}` names no compile target; use one of {}, or a topology: tpu:v5e:2x4, tpu:v4:2x2x1, cuda:h100:8",
        super::aot::TARGETS.join(", ")
    )]
    Target {
        /// The text.
        text: String,
    },
    /// A target with fewer devices than replicas.
    #[error(
        "each replica needs a device of its own, got {replicas} replicas and {target} with {devices} device(s); name a larger topology, \
         as tpu:v5e:2x4, tpu:v4:2x2x2 or cuda:h100:8"
    )]
    TargetDevices {
        /// The target.
        target: String,
        /// Its devices.
        devices: usize,
        /// So many were asked for.
        replicas: usize,
    },
    /// The child process that compiles ahead of time died or hung.
    #[error("the compiler for {target} {what}; its last words: {output}\nfix: {fix}")]
    AotChild {
        /// The target.
        target: String,
        /// How it ended.
        what: String,
        /// Tail of its standard error.
        output: String,
        /// What to do.
        fix: String,
    },
    /// A host array is not what its use needs.
    #[error(transparent)]
    Array(#[from] ArrayError),
    /// A file could not be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: an I/O error with the file it concerns.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}

fn list(places: &[String]) -> String {
    places.iter().map(|p| format!("  - {p}")).collect::<Vec<_>>().join("\n")
}

fn no_device_advice(kind: PluginKind) -> &'static str {
    match kind {
        PluginKind::Cpu => "this should not happen on a CPU; reinstall with `etrace plugin install cpu`",
        PluginKind::Cuda => {
            "check that `nvidia-smi` lists a GPU and that the driver is new enough, or run with `--device cpu`"
        }
        PluginKind::Tpu => "run on a machine with a TPU attached, or run with `--device cpu`",
    }
}
