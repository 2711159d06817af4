//! One wheel, fetched by the user's pip.

use super::{
    super::{
        cache,
        device::PluginKind,
        error::{Error, Result},
        wheels::Wheel,
    },
    Progress,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// Where Python is started, in the folder of an installation: modules are looked for in the current folder, and this one has none.
pub(super) const EMPTY: &str = "empty";

/// Where pip keeps unfinished data, in the folder of an installation: there they can be measured and removed.
pub(super) const TEMPORARY: &str = "temporary";

/// What may run pip. `-I`: no modules from the current folder, and none that variables name.
const PIPS: [&[&str]; 3] = [&["python3", "-I", "-m", "pip"], &["pip3"], &["pip"]];

/// Fetches a wheel into the folder of an installation and compares its hash.
pub(super) fn download(
    kind: PluginKind,
    wheel: &Wheel,
    work: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf> {
    let (package, folder) = (wheel.title(), work.join("wheel"));
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let mut last = ("pip".to_owned(), "no pip was found".to_owned());
    for pip in PIPS {
        let outcome = Download { wheel, folder: &folder, work }.attempt(pip, progress)?;
        let message = match &outcome {
            Outcome::Fetched(archive) => {
                let received = fs::metadata(archive).map_or(0, |data| data.len());
                progress(Progress::Download { package: package.clone(), received, total: Some(received) });
                progress(Progress::Verify { package });
                check_wheel(archive, wheel.sha256)?;
                return Ok(archive.clone());
            }
            Outcome::NoPip(message) | Outcome::Failed(message) => message.clone(),
        };
        last = (format!("{} download --no-deps {}=={}", pip.join(" "), wheel.name, wheel.version), message);
        if let Outcome::Failed(_) = outcome {
            break;
        }
    }
    let (command, message) = last;
    Err(Error::Pip { kind, package, command, message })
}

struct Download<'a> {
    wheel: &'a Wheel,
    /// Where the wheel is to lie.
    folder: &'a Path,
    /// The folder of the installation.
    work: &'a Path,
}

enum Outcome {
    Fetched(PathBuf),
    /// No verdict on the download: there is no such program, or a Python without pip.
    NoPip(String),
    Failed(String),
}

impl Download<'_> {
    fn attempt(&self, pip: &[&str], progress: &mut dyn FnMut(Progress)) -> Result<Outcome> {
        let errors = self.work.join("pip-errors");
        let child = Command::new(pip[0])
            .args(&pip[1..])
            .args(self.words())
            .current_dir(self.work.join(EMPTY))
            .env("TMPDIR", self.work.join(TEMPORARY))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors).map_err(Error::io(&errors))?)
            .spawn();
        let status = match child {
            Ok(child) => self.watch(child, progress).map_err(Error::io(pip[0]))?,
            Err(error) => return Ok(Outcome::NoPip(error.to_string())),
        };
        let files = fs::read_dir(self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let wheels: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "whl")).collect();
        if let ([archive], true) = (wheels.as_slice(), status.success()) {
            return Ok(Outcome::Fetched(archive.clone()));
        }
        let text = fs::read_to_string(&errors).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(3)..].join(" ");
        let message = if tail.is_empty() { status.to_string() } else { tail };
        Ok(if message.contains("No module named pip") { Outcome::NoPip(message) } else { Outcome::Failed(message) })
    }

    /// The words after `pip`.
    fn words(&self) -> Vec<String> {
        let wheel = self.wheel;
        let mut words =
            ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
                .map(String::from)
                .to_vec();
        words.extend(["--platform".into(), wheel.platform.into()]);
        if let Some(version) = wheel.python {
            words.extend(["--implementation", "cp", "--python-version", version].map(String::from));
            words.extend(["--abi".into(), format!("cp{version}")]);
        }
        let named = format!("{}=={}", wheel.name, wheel.version);
        words.extend(["--dest".into(), self.folder.display().to_string(), named]);
        words
    }

    /// Says how far pip is until it ends.
    fn watch(&self, mut child: Child, progress: &mut dyn FnMut(Progress)) -> std::io::Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let received = size_of_folder(self.folder).max(size_of_folder(&self.work.join(TEMPORARY)));
            progress(Progress::Download { package: self.wheel.title(), received, total: self.wheel.bytes });
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

pub(super) fn check_wheel(archive: &Path, expected: &str) -> Result<()> {
    let got = cache::hex(&cache::file_hash(archive)?);
    if got == expected {
        return Ok(());
    }
    Err(Error::Checksum { path: archive.to_owned(), expected: expected.to_owned(), got })
}

pub(super) fn size_of_folder(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => size_of_folder(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
