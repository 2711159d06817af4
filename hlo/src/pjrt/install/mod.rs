//! Fetching plugins.
//!
//! Plugins are published as Python wheels, which are zip archives. `pip download` fetches them (it knows the
//! user's index, proxy and certificates), and the rest happens here: compare the SHA-256 recorded below,
//! unpack, write a record of the library's size and hash, and rename the finished folder into place. All work
//! is done in a folder that is not looked in, so an installation that is killed leaves nothing half-written;
//! the next one removes what is left. One installation of a kind runs at a time, on this machine: who comes
//! second waits, and finds it done.
//!
//! The folder keeps the layout of `site-packages`: the CUDA plugin finds its libraries by relative path.

mod download;

use super::{
    cache,
    device::PluginKind,
    elf,
    error::{Error, Result},
    private,
    wheels::{self, Package, Wheel},
};
use download::{EMPTY, TEMPORARY, download};
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// What an installation is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process or thread installs the same plugin; this one waits for it.
    Wait,
    /// Fetching a wheel.
    Download {
        /// Package and version.
        package: String,
        /// Bytes here so far, roughly.
        received: u64,
        /// Bytes of the wheel, where known.
        total: Option<u64>,
    },
    /// Comparing the hash of a wheel.
    Verify {
        /// Package and version.
        package: String,
    },
    /// Unpacking a wheel.
    Unpack {
        /// Package and version.
        package: String,
        /// Bytes written so far.
        done: u64,
        /// Bytes to write.
        total: u64,
    },
    /// Finished.
    Installed {
        /// The library file.
        path: PathBuf,
    },
}

/// Name of the record that an installation leaves beside the files.
const RECORD: &str = "etrace-plugin.json";

/// Installs the plugin of a kind into the user's cache folder and returns the library's path. An installation
/// that is there and whole is left alone; a damaged one is replaced.
///
/// # Errors
/// [`Error::NoPackage`] where none is published for this machine, [`Error::Pip`] if it cannot be fetched,
/// [`Error::Checksum`] if another file came, [`Error::Archive`] and [`Error::Io`] if it cannot be unpacked.
pub fn install(kind: PluginKind, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
    let package = wheels::package(kind);
    let platform = format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH);
    let wheels = package.wheels_here();
    if wheels.is_empty() || std::env::consts::OS != "linux" {
        return Err(Error::NoPackage { kind, platform });
    }
    let root = cache::root().ok_or_else(|| Error::Io {
        path: PathBuf::from("~/.cache"),
        source: io::Error::new(io::ErrorKind::NotFound, "neither XDG_CACHE_HOME nor HOME is set; set one of them"),
    })?;
    private::check(&root)?;
    let destination = package.destination(&root);
    let library = package.plugin_under(&root);
    if library.is_file() && is_whole(&library, kind, &wheels) {
        progress(Progress::Installed { path: library.clone() });
        return Ok(library);
    }
    let work = Workplace::new(&root, kind, progress)?;
    if library.is_file() && is_whole(&library, kind, &wheels) {
        progress(Progress::Installed { path: library.clone() });
        return Ok(library);
    }
    let unpacked = work.path.join("unpacked");
    for wheel in &wheels {
        let archive = download(kind, wheel, &work.path, progress)?;
        unpack(&archive, &unpacked, &wheel.title(), progress)?;
        fs::remove_file(&archive).map_err(Error::io(&archive))?;
    }
    let fresh = unpacked.join(package.plugin);
    elf::check(&fresh, kind)?;
    write_record(&unpacked, package, &wheels)?;
    if destination.exists() {
        fs::remove_dir_all(&destination).map_err(Error::io(&destination))?;
    }
    fs::rename(&unpacked, &destination).map_err(Error::io(&destination))?;
    progress(Progress::Installed { path: library.clone() });
    Ok(library)
}

/// Compares an installed library's size with its record. Files without a record pass: they are not ours.
///
/// # Errors
/// [`Error::Truncated`] if the size differs.
pub(super) fn check_record(library: &Path, kind: PluginKind) -> Result<()> {
    let Some(record) = record(library) else { return Ok(()) };
    let got = fs::metadata(library).map_err(Error::io(library))?.len();
    match record["bytes"].as_u64() {
        Some(expected) if expected != got => {
            Err(Error::Truncated { path: library.to_owned(), expected, got, fix: kind.advice() })
        }
        _ => Ok(()),
    }
}

/// Refuses an installed library that is not the file that was installed, or that others could replace.
///
/// # Errors
/// [`Error::Unsafe`], [`Error::Truncated`], [`Error::Altered`].
pub(super) fn verify(library: &Path, kind: PluginKind) -> Result<()> {
    private::check(library.parent().unwrap_or(library))?;
    check_record(library, kind)?;
    let expected = record(library).and_then(|record| Some(record["sha256"].as_str()?.to_owned())).unwrap_or_default();
    let got = cache::hex(&cache::file_hash_remembered(library)?);
    if got == expected {
        return Ok(());
    }
    Err(Error::Altered { path: library.to_owned(), kind, expected, got })
}

/// Size and hash both agree with the record, and every wheel that this machine needs is there.
fn is_whole(library: &Path, kind: PluginKind, wheels: &[&Wheel]) -> bool {
    let hash_agrees = |record: Value| {
        cache::file_hash(library).is_ok_and(|hash| record["sha256"].as_str() == Some(&cache::hex(&hash)))
    };
    has_wheels(library, wheels)
        && check_record(library, kind).is_ok()
        && elf::check(library, kind).is_ok()
        && record(library).is_some_and(hash_agrees)
}

/// Whether the installation that a library belongs to holds these wheels. It may have been made where fewer
/// were needed: on a machine without a GPU.
pub(super) fn has_wheels(library: &Path, wheels: &[&Wheel]) -> bool {
    let Some(record) = record(library) else { return false };
    let Some(names) = record["wheels"].as_array() else { return false };
    wheels.iter().all(|wheel| names.iter().any(|name| name.as_str() == Some(&wheel.title())))
}

/// The record of the installation that a library belongs to.
fn record(library: &Path) -> Option<Value> {
    library.ancestors().skip(1).take(4).find_map(|folder| {
        let record: Value = serde_json::from_slice(&fs::read(folder.join(RECORD)).ok()?).ok()?;
        let ours = folder.join(record["library"].as_str()?) == library;
        ours.then_some(record)
    })
}

fn write_record(folder: &Path, package: &Package, wheels: &[&Wheel]) -> Result<()> {
    let library = folder.join(package.plugin);
    let bytes = fs::metadata(&library).map_err(Error::io(&library))?.len();
    let record = json!({
        "kind": package.kind.name(),
        "version": package.version,
        "library": package.plugin,
        "bytes": bytes,
        "sha256": cache::hex(&cache::file_hash(&library)?),
        "wheels": wheels.iter().map(|wheel| wheel.title()).collect::<Vec<_>>(),
    });
    let path = folder.join(RECORD);
    fs::write(&path, format!("{record:#}\n")).map_err(Error::io(&path))
}

/// A folder for unfinished work, this installation's alone while it lives; removed on drop.
struct Workplace {
    path: PathBuf,
    /// Locked until it is closed, and unlocked by the system if the process dies.
    _lock: File,
}

impl Workplace {
    /// Waits for its turn and clears away what a killed installation left.
    fn new(root: &Path, kind: PluginKind, progress: &mut dyn FnMut(Progress)) -> Result<Workplace> {
        private::create_all(root)?;
        let turn = root.join(format!("install-{kind}.lock"));
        let lock = File::create(&turn).map_err(Error::io(&turn))?;
        if lock.try_lock().is_err() {
            progress(Progress::Wait);
            lock.lock().map_err(Error::io(&turn))?;
        }
        let path = root.join("plugins").join(format!(".partial-{kind}"));
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
        for inner in [TEMPORARY, EMPTY] {
            private::create_all(&path.join(inner))?;
        }
        Ok(Workplace { path, _lock: lock })
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next installation.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn unpack(archive: &Path, to: &Path, package: &str, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    let damaged = |e: zip::result::ZipError| Error::Archive { path: archive.to_owned(), message: e.to_string() };
    let file = File::open(archive).map_err(Error::io(archive))?;
    let mut zip = zip::ZipArchive::new(file).map_err(damaged)?;
    let mut total = 0;
    for index in 0..zip.len() {
        total += zip.by_index_raw(index).map_err(damaged)?.size();
    }
    let mut done = 0;
    let mut chunk = vec![0; 1 << 20];
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(damaged)?;
        // A name that climbs out of the folder is refused.
        let Some(name) = entry.enclosed_name() else {
            let name = entry.name().map_or_else(|e| e.to_string(), Cow::into_owned);
            let message = format!("it holds a file outside itself: {name}");
            return Err(Error::Archive { path: archive.to_owned(), message });
        };
        let path = to.join(name);
        if entry.is_dir() {
            fs::create_dir_all(&path).map_err(Error::io(&path))?;
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        let mut out = File::create(&path).map_err(Error::io(&path))?;
        loop {
            let n = entry.read(&mut chunk).map_err(Error::io(archive))?;
            if n == 0 {
                break;
            }
            out.write_all(&chunk[..n]).map_err(Error::io(&path))?;
            done += n as u64;
            progress(Progress::Unpack { package: package.to_owned(), done, total });
        }
        make_executable(&path, entry.unix_mode());
    }
    Ok(())
}

/// `ptxas` and its like must stay executable.
fn make_executable(path: &Path, mode: Option<u32>) {
    #[cfg(unix)]
    if mode.is_some_and(|mode| mode & 0o111 != 0) || path.components().any(|c| c.as_os_str() == "bin") {
        use std::os::unix::fs::PermissionsExt;
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    }
    #[cfg(not(unix))]
    let _ = (path, mode);
}

#[cfg(test)]
mod tests {
    use super::{
        download::{check_wheel, size_of_folder},
        *,
    };
    use std::time::Duration;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("hlo-install-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn wheel_of(path: &Path, name: &str, content: &[u8]) {
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
        zip.finish().unwrap();
    }

    #[test]
    fn wheels_unpack_with_progress() {
        let folder = folder("unpack");
        let archive = folder.join("a.whl");
        wheel_of(&archive, "pkg/bin/tool", b"content");
        let mut last = None;
        unpack(&archive, &folder.join("out"), "a 1", &mut |p| last = Some(p)).unwrap();
        assert_eq!(fs::read(folder.join("out/pkg/bin/tool")).unwrap(), b"content");
        assert_eq!(last, Some(Progress::Unpack { package: "a 1".into(), done: 7, total: 7 }));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn bad_wheels_are_errors() {
        let folder = folder("bad");
        let archive = folder.join("a.whl");
        wheel_of(&archive, "../escape", b"x");
        let error = unpack(&archive, &folder.join("out"), "a 1", &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Archive { .. }), "{error}");
        assert!(!folder.join("escape").exists());
        fs::write(&archive, b"not a zip").unwrap();
        assert!(matches!(unpack(&archive, &folder, "a 1", &mut |_| {}), Err(Error::Archive { .. })));
        let error = check_wheel(&archive, &"0".repeat(64)).unwrap_err().to_string();
        assert!(error.contains("SHA-256 must be 0000"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn installations_take_turns_and_clear_away_leftovers() {
        let folder = folder("turns");
        let left = folder.join("plugins/.partial-cpu/wheel/half.whl");
        fs::create_dir_all(left.parent().unwrap()).unwrap();
        fs::write(&left, b"half").unwrap();
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let work = Workplace::new(&folder, PluginKind::Cpu, &mut |_| {}).unwrap();
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "two at once");
                    assert_eq!(size_of_folder(&work.path), 0, "something is left");
                    fs::write(work.path.join(TEMPORARY).join("part"), b"part").unwrap();
                    std::thread::sleep(Duration::from_millis(20));
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                });
            }
        });
        assert!(!folder.join("plugins/.partial-cpu").exists());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_record_tells_a_shortened_library() {
        let folder = folder("record");
        let package = wheels::package(PluginKind::Cpu);
        let library = folder.join(package.plugin);
        fs::create_dir_all(library.parent().unwrap()).unwrap();
        fs::write(&library, b"0123456789").unwrap();
        let wheels = package.wheels_here();
        write_record(&folder, package, &[]).unwrap();
        assert!(!has_wheels(&library, &wheels), "an installation without its wheels is not complete");
        write_record(&folder, package, &wheels).unwrap();
        assert!(has_wheels(&library, &wheels));
        check_record(&library, PluginKind::Cpu).unwrap();
        verify(&library, PluginKind::Cpu).unwrap();
        // The same size and time of change, a tick of the file system's clock later.
        std::thread::sleep(Duration::from_millis(50));
        let changed = fs::metadata(&library).unwrap().modified().unwrap();
        fs::write(&library, b"012345678X").unwrap();
        File::options().append(true).open(&library).unwrap().set_modified(changed).unwrap();
        let error = verify(&library, PluginKind::Cpu).unwrap_err();
        assert!(matches!(error, Error::Altered { .. }) && error.to_string().contains("--plugin"), "{error}");
        fs::write(&library, b"0123").unwrap();
        let error = check_record(&library, PluginKind::Cpu).unwrap_err();
        assert!(matches!(error, Error::Truncated { expected: 10, got: 4, .. }), "{error}");
        assert!(error.to_string().contains("etrace plugin install cpu"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }
}
