//! Folders that nobody else can write to.
//!
//! Plugins and compiled programs are machine code. Whoever can write to the folder that they are loaded from, or replace that
//! folder, can run code as the user. So folders are made for the user alone, and those that others can write to are refused.

use super::error::{Error, Result};
use std::{fs, path::Path};

/// Makes a folder, and those above it that are missing, for the user alone.
pub(super) fn create_all(folder: &Path) -> Result<()> {
    make(folder, true)
}

/// Makes a folder for the user alone that must not be there yet.
pub(super) fn create_new(folder: &Path) -> Result<()> {
    make(folder, false)
}

fn make(folder: &Path, recursive: bool) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(recursive);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(Error::io(folder))
}

/// Refuses a folder that others can write to, or replace. One that is not there yet is judged by where it will be.
///
/// # Errors
/// [`Error::Unsafe`] with the folder that is at fault.
pub(super) fn check(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        let Some(there) = folder.ancestors().find(|path| path.exists()) else { return Ok(()) };
        let real = there.canonicalize().map_err(Error::io(there))?;
        let user = user();
        for path in real.ancestors() {
            let itself = path == real && there == folder;
            let data = fs::metadata(path).map_err(Error::io(path))?;
            if let Some(why) = fault(&data, itself, user) {
                return Err(Error::Unsafe { path: path.to_owned(), why });
            }
        }
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// Refuses a folder that anybody but the user can even read.
///
/// # Errors
/// [`Error::Unsafe`].
pub(super) fn check_own(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let data = fs::symlink_metadata(folder).map_err(Error::io(folder))?;
        let fault = match () {
            () if !data.is_dir() => Some("it is no folder".to_string()),
            () if data.mode() & 0o077 != 0 => Some(format!("it is open to others (mode {:o})", data.mode() & 0o7777)),
            () if user().is_some_and(|user| user != data.uid()) => Some(format!("it belongs to user {}", data.uid())),
            () => None,
        };
        if let Some(why) = fault {
            return Err(Error::Unsafe { path: folder.to_owned(), why });
        }
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// What is wrong with a folder: the one that is used (`itself`), or one above it.
#[cfg(unix)]
fn fault(data: &fs::Metadata, itself: bool, user: Option<u32>) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    const STICKY: u32 = 0o1000;
    let mode = data.mode();
    // In a sticky folder (`/tmp`) others can add names, but not take away ours.
    let others = mode & 0o002 != 0 && (itself || mode & STICKY == 0);
    // Many systems give each user a group of the same number.
    let group = mode & 0o020 != 0 && data.gid() != data.uid() && (itself || mode & STICKY == 0);
    if others || group {
        let whom = if others { "everybody" } else { "its group" };
        return Some(format!("{whom} can write to it (mode {:o})", mode & 0o7777));
    }
    let foreign = itself && data.uid() != 0 && user.is_some_and(|user| user != data.uid());
    foreign.then(|| format!("it belongs to user {}", data.uid()))
}

/// Number of the user of this process, where the system says.
#[cfg(unix)]
fn user() -> Option<u32> {
    Some(std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").ok()?))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn folders_that_others_can_write_to_are_refused() {
        let top = std::env::temp_dir().join(format!("hlo-private-{}", std::process::id()));
        create_new(&top).unwrap();
        let inner = top.join("inner");
        create_all(&inner).unwrap();
        check(&inner).unwrap();
        check_own(&inner).unwrap();
        check(&inner.join("not/there/yet")).unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        // Below a sticky folder names are safe; in any other that others can write to, they are not.
        for (outer, own, sound) in [
            (0o700, 0o755, true),
            (0o700, 0o777, false),
            (0o700, 0o1777, false),
            (0o777, 0o700, false),
            (0o1777, 0o700, true),
        ] {
            set(&top, outer);
            set(&inner, own);
            assert_eq!(check(&inner).is_ok(), sound, "{outer:o} {own:o}");
            assert_eq!(check_own(&inner).is_ok(), own == 0o700, "{own:o}");
        }
        set(&top, 0o777);
        let error = check(&inner).unwrap_err().to_string();
        assert!(error.contains("everybody can write to it (mode 777)") && error.contains("chmod"), "{error}");
        assert!(create_new(&inner).is_err(), "it is there already");
        set(&top, 0o700);
        fs::remove_dir_all(top).unwrap();
    }
}
