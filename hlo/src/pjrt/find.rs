//! Where plugins lie.
//!
//! In order: the path given; the environment variable of the kind; the user's cache folder, where
//! [`install`](super::install()) puts them; an installed Python environment (`VIRTUAL_ENV`, then what `python3`
//! says of itself). A CPU plugin found nowhere is installed on the spot. A path that was given, or set in the
//! environment, must work: nothing else is tried then, and who named it answers for it. An installed plugin must be
//! the file that was installed, in a folder that nobody else can write to.

use super::{
    cache,
    device::PluginKind,
    error::{Error, Result},
    install::{self, Progress},
    plugin::{self, Plugin},
    wheels,
};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

/// How a plugin was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Named by the environment variable of its kind.
    Environment,
    /// Installed in the user's cache folder.
    Cache,
    /// Part of a Python environment.
    Python,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Environment => "environment variable",
            Origin::Cache => "installed",
            Origin::Python => "Python environment",
        })
    }
}

/// A plugin on this machine.
#[derive(Clone, Debug)]
pub struct Installed {
    /// What it drives.
    pub kind: PluginKind,
    /// The library file.
    pub path: PathBuf,
    /// How it was found.
    pub origin: Origin,
    /// PJRT API version, or why the file is unusable.
    pub api_version: std::result::Result<(i32, i32), String>,
}

/// Every plugin on this machine, those that [`Plugin::find`] prefers first. Opens each file to ask its
/// version, but starts none.
pub fn installed() -> Vec<Installed> {
    let mut found: Vec<Installed> = Vec::new();
    for kind in PluginKind::ALL {
        let environment = from_environment(kind).map(|path| (path, Origin::Environment));
        let cached = from_cache(kind).0.map(|path| (path, Origin::Cache));
        let python = from_python(kind).0.into_iter().map(|path| (path, Origin::Python));
        for (path, origin) in environment.into_iter().chain(cached).chain(python) {
            if !found.iter().any(|f| f.path == path) {
                let sound = if origin == Origin::Cache { install::verify(&path, kind) } else { Ok(()) };
                let api_version = sound.and_then(|()| plugin::peek_version(kind, &path)).map_err(|e| e.to_string());
                found.push(Installed { kind, path, origin, api_version });
            }
        }
    }
    found
}

impl Plugin {
    /// Finds and loads the plugin of a kind, in the order of this module. `explicit` is a path the user gave.
    /// A missing CPU plugin is downloaded once; `progress` hears about it.
    ///
    /// # Errors
    /// [`Error::NotFound`] with every place looked in; the errors of [`Plugin::load`] for the file found; those
    /// of [`install`](super::install()) if the CPU plugin cannot be fetched.
    pub fn find(kind: PluginKind, explicit: Option<&Path>, progress: &mut dyn FnMut(Progress)) -> Result<Arc<Plugin>> {
        Plugin::load(kind, &locate(kind, explicit, progress)?)
    }
}

/// Where [`Plugin::find`] finds its file, without loading it.
///
/// # Errors
/// When there is none.
pub fn locate(kind: PluginKind, explicit: Option<&Path>, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
    let named = explicit.map(|path| (path.to_owned(), "the path given".to_owned()));
    let named = named.or_else(|| from_environment(kind).map(|path| (path, kind.env_var().to_owned())));
    if let Some((path, source)) = named {
        if path.is_file() {
            return Ok(path);
        }
        let place = format!("{} (from {source}): no such file", path.display());
        return Err(Error::NotFound { kind, searched: vec![place] });
    }
    let mut searched = vec![format!("environment variable {}: not set", kind.env_var())];
    let (found, place) = from_cache(kind);
    if let Some(path) = found {
        install::verify(&path, kind)?;
        return Ok(path);
    }
    searched.push(place);
    let (found, places) = from_python(kind);
    if let Some(path) = found.into_iter().next() {
        return Ok(path);
    }
    searched.extend(places);
    if kind == PluginKind::Cpu {
        return install::install(kind, progress);
    }
    Err(Error::NotFound { kind, searched })
}

fn from_environment(kind: PluginKind) -> Option<PathBuf> {
    std::env::var_os(kind.env_var()).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The installed plugin, if there is one, and the place looked in.
fn from_cache(kind: PluginKind) -> (Option<PathBuf>, String) {
    let Some(folder) = cache::root() else { return (None, "user's cache folder: HOME is not set".into()) };
    let package = wheels::package(kind);
    let path = package.plugin_under(&folder);
    if !path.is_file() {
        return (None, format!("{}: no such file", path.display()));
    }
    if !install::has_wheels(&path, &package.wheels_here()) {
        let place = format!("{}: installed without the libraries that this machine needs to run it", path.display());
        return (None, place);
    }
    let place = path.display().to_string();
    (Some(path), place)
}

/// Where each kind lies inside a `site-packages` folder.
fn library_paths(kind: PluginKind) -> &'static [&'static str] {
    match kind {
        PluginKind::Cpu => &["xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so"],
        PluginKind::Cuda => &["jax_plugins/xla_cuda13/xla_cuda_plugin.so", "jax_plugins/xla_cuda12/xla_cuda_plugin.so"],
        PluginKind::Tpu => &["libtpu/libtpu.so"],
    }
}

fn from_python(kind: PluginKind) -> (Vec<PathBuf>, Vec<String>) {
    let sites = site_packages();
    if sites.is_empty() {
        return (Vec::new(), vec!["Python environment: no python3 found".into()]);
    }
    let candidates = sites.iter().flat_map(|site| library_paths(kind).iter().map(move |library| site.join(library)));
    let (found, missing): (Vec<_>, Vec<_>) = candidates.partition(|path| path.is_file());
    (found, missing.iter().map(|path| format!("{}: no such file", path.display())).collect())
}

/// The `site-packages` folders of the active virtual environment and of `python3`. Asked once per process:
/// starting Python takes tens of milliseconds.
fn site_packages() -> &'static [PathBuf] {
    static SITES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    SITES.get_or_init(|| {
        let mut sites = Vec::new();
        if let Some(environment) = std::env::var_os("VIRTUAL_ENV") {
            let versions = fs::read_dir(Path::new(&environment).join("lib")).into_iter().flatten().flatten();
            sites.extend(versions.map(|entry| entry.path().join("site-packages")).filter(|site| site.is_dir()));
        }
        let script = "import sys; print('\\n'.join(p for p in sys.path if p.endswith('-packages')))";
        // From the root: Python must not take modules from whatever folder the user is in.
        if let Ok(output) = Command::new("python3").args(["-c", script]).current_dir("/").output() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            sites.extend(text.lines().map(PathBuf::from));
        }
        let mut seen = std::collections::HashSet::new();
        sites.retain(|site| seen.insert(site.clone()));
        sites
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_path_must_exist() {
        let error = locate(PluginKind::Tpu, Some(Path::new("/nowhere/libtpu.so")), &mut |_| {}).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no tpu plugin found; looked in:\n  - /nowhere/libtpu.so (from the path given): no such file\n\
             fix: run `etrace plugin install tpu`, or set ETRACE_TPU_PLUGIN to the path of a plugin"
        );
    }
}
