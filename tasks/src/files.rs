//! Files and folders of a data set: found in any letter case, read only where they are regular files of a sensible size.
//!
//! Data folders come from strangers. A named pipe would block a reader for ever, a device never ends, a sparse file is larger than
//! memory, a list may name `../../secret`: each is refused by name before anything is opened.

use std::fs::FileType;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// Most bytes of a file with events.
pub(crate) const EVENTS: u64 = 1 << 30;
/// Most bytes of a table or list.
pub(crate) const TABLE: u64 = 1 << 24;
/// Most bytes of a file with a whole set.
pub(crate) const SET: u64 = 1 << 35;

/// Entries that a message lists.
const LISTED: usize = 8;

/// The first bytes of a regular file, at most `most`. Errors: [`Error::Io`], [`Error::Damaged`].
pub(crate) fn head(path: &Path, most: u64, doing: &'static str) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::io(path, doing, &e);
    let length = regular(path, doing)?;
    let mut bytes = Vec::with_capacity(length.min(most) as usize);
    std::fs::File::open(path).map_err(fail)?.take(most).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// The bytes of a regular file of at most `most` bytes. Errors: [`Error::Io`], [`Error::Damaged`].
pub(crate) fn read(path: &Path, most: u64, doing: &'static str) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::io(path, doing, &e);
    let length = regular(path, doing)?;
    if length > most {
        let (rule, next) = (format!("a file of this kind has at most {most} bytes"), "split it, or leave it out");
        return Err(Error::unusable(path, rule, format!("{length} bytes"), next));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length as usize).map_err(|e| fail(e.into()))?;
    std::fs::File::open(path).map_err(fail)?.take(most).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// The length of a regular file, which is not opened.
fn regular(path: &Path, doing: &'static str) -> Result<u64> {
    let fail = |e: std::io::Error| Error::io(path, doing, &e);
    // Looked at before it is opened: opening a pipe waits for a writer.
    let about = std::fs::metadata(path).map_err(fail)?;
    if !about.is_file() {
        let next = "put the file itself there, or leave it out of the folder";
        return Err(Error::unusable(path, "data are regular files", kind(about.file_type()), next));
    }
    Ok(about.len())
}

fn kind(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "something else" }
}

/// The entries of a folder, sorted by name, without hidden ones. Errors: [`Error::Io`].
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let fail = |e: std::io::Error| Error::io(dir, "list the folder", &e);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            all.push(entry.path());
        }
    }
    all.sort();
    Ok(all)
}

/// The name of an entry, for comparisons and messages.
pub(crate) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a file's extension is one of `extensions`, in any letter case.
pub(crate) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    extensions.iter().any(|e| extension.eq_ignore_ascii_case(e))
}

/// The entry of `dir` with this name: as it is spelled, else in another letter case.
pub(crate) fn child(dir: &Path, wanted: &str) -> Option<PathBuf> {
    let exact = dir.join(wanted);
    if exact.exists() {
        return Some(exact);
    }
    entries(dir).ok()?.into_iter().find(|p| name(p).eq_ignore_ascii_case(wanted))
}

/// The folder that `names` lead to from `dir`, each in any letter case.
pub(crate) fn folder(dir: &Path, names: &[&str]) -> Option<PathBuf> {
    let found = names.iter().try_fold(dir.to_owned(), |at, wanted| child(&at, wanted));
    found.filter(|p| p.is_dir())
}

/// What is no folder in `dir` and has this name, in any letter case. A pipe is found too, so that reading it is refused by name.
pub(crate) fn file(dir: &Path, wanted: &str) -> Option<PathBuf> {
    child(dir, wanted).filter(|p| !p.is_dir())
}

/// A file that a list in `dir` names, in any letter case. `Err` has what is wrong with the name.
pub(crate) fn listed(dir: &Path, wanted: &str) -> std::result::Result<PathBuf, &'static str> {
    // Lists made on Windows separate folders with `\`.
    let wanted = wanted.replace('\\', "/");
    let mut at = dir.to_owned();
    for component in Path::new(&wanted).components() {
        match component {
            Component::Normal(part) => {
                at = child(&at, &part.to_string_lossy()).ok_or("there is no such file in the folder of the list")?;
            }
            Component::CurDir => {}
            _ => return Err("the name leads out of the folder of the list"),
        }
    }
    if at.is_dir() { Err("it is a folder") } else { Ok(at) }
}

/// Archives in `dir` and the folders in it.
pub(crate) fn archives(dir: &Path) -> Vec<PathBuf> {
    let packed = |p: &PathBuf| p.is_file() && has_extension(p, &["zip", "tar", "gz", "tgz", "7z", "bz2", "xz", "rar"]);
    let here = entries(dir).unwrap_or_default();
    let below = here.iter().filter(|p| p.is_dir()).flat_map(|p| entries(p).unwrap_or_default()).collect::<Vec<_>>();
    here.into_iter().chain(below).filter(packed).collect()
}

/// What lies in a folder, in words: `data holds NMNIST/ (with test/, train/)`.
pub(crate) fn contents(dir: &Path) -> String {
    let shown = dir.display();
    let Ok(all) = entries(dir) else {
        return if dir.exists() { format!("{shown} is no folder") } else { format!("there is no {shown}") };
    };
    if all.is_empty() {
        return format!("{shown} is empty");
    }
    let one = |p: &PathBuf| match entries(p) {
        Ok(inside) if inside.is_empty() => format!("{}/ (empty)", name(p)),
        Ok(inside) => format!("{}/ (with {})", name(p), list(&inside, short)),
        Err(_) => name(p),
    };
    format!("{shown} holds {}", list(&all, one))
}

/// The error for data that are not below `dir`: what is there instead, and archives that are not unpacked yet.
pub(crate) fn missing(
    what: &'static str,
    looked_for: PathBuf,
    dir: &Path,
    layout: &'static str,
    next: String,
) -> Error {
    let packed = archives(dir);
    let next = match &packed[..] {
        [] => next,
        all => {
            let packed = list(all, |p| p.display().to_string());
            format!("Unpack {packed} where it lies, if that is the data set. {next}")
        }
    };
    Error::Missing { what, looked_for, found: contents(dir), layout, next }
}

/// Entries beside `path` whose names differ from its own in letter case only.
pub(crate) fn namesakes(path: &Path) -> Vec<PathBuf> {
    let beside = path.parent().and_then(|dir| entries(dir).ok()).unwrap_or_default();
    let (own, case) = (name(path), name(path).to_lowercase());
    beside.into_iter().filter(|p| name(p) != own && name(p).to_lowercase() == case).collect()
}

#[expect(clippy::ptr_arg, reason = "it is handed to `list`, whose items are owned")]
fn short(path: &PathBuf) -> String {
    format!("{}{}", name(path), if path.is_dir() { "/" } else { "" })
}

/// The first items in words, and how many more there are.
pub(crate) fn list<T>(all: &[T], word: impl Fn(&T) -> String) -> String {
    let mut words: Vec<String> = all.iter().take(LISTED).map(word).collect();
    if all.len() > LISTED {
        words.push(format!("{} more", all.len() - LISTED));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn names_are_found_in_any_letter_case_and_as_spelled_first() {
        let dir = Folder::new("files-case");
        dir.write("NMNIST/train/x", b"");
        dir.write("nmnist/Train/y", b"");
        assert_eq!(folder(dir.path(), &["NMNIST", "Train"]), Some(dir.path().join("NMNIST/train")));
        assert_eq!(folder(dir.path(), &["nmnist", "TRAIN"]), Some(dir.path().join("nmnist/Train")));
        assert_eq!(folder(dir.path(), &["NMNIST", "Test"]), None);
        assert_eq!(file(&dir.path().join("NMNIST"), "train"), None, "a folder is no file");
    }

    #[test]
    fn a_list_names_files_of_its_folder_only() {
        let dir = Folder::new("files-list");
        let inside = dir.write("set/a b/Clip.bs2", b"");
        dir.write("secret", b"");
        let set = dir.path().join("set");
        for good in ["a b/Clip.bs2", "./a b/clip.BS2", "a b\\Clip.bs2"] {
            assert_eq!(listed(&set, good), Ok(inside.clone()), "{good}");
        }
        let absolute = dir.path().join("secret").to_string_lossy().into_owned();
        for bad in ["../secret", "a b/../../secret", "..\\secret", absolute.as_str()] {
            assert!(listed(&set, bad).unwrap_err().contains("leads out"), "{bad}");
        }
        assert!(listed(&set, "absent").unwrap_err().contains("no such file"));
        assert!(listed(&set, "a b").unwrap_err().contains("folder"));
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = Folder::new("files-kind");
        let says = |path: &Path, words: &str| {
            let m = read(path, 10, "read").unwrap_err().to_string();
            assert!(m.contains(words), "{m}");
        };
        says(dir.path(), "a folder");
        says(Path::new("/dev/zero"), "a device");
        let pipe = dir.path().join("pipe");
        if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success()) {
            says(&pipe, "a named pipe");
        }
        says(&dir.write("long", &[0; 11]), "at most 10 bytes");
        assert_eq!(read(&dir.write("fits", &[7; 10]), 10, "read").unwrap(), [7; 10]);
        assert!(matches!(read(&dir.path().join("absent"), 10, "read"), Err(Error::Io { .. })));
    }

    #[test]
    fn contents_in_words() {
        let dir = Folder::new("files-contents");
        assert!(contents(dir.path()).ends_with("is empty"));
        dir.write("NMNIST/Train.zip", b"");
        dir.write("notes.txt", b"");
        assert!(contents(dir.path()).ends_with("holds NMNIST/ (with Train.zip), notes.txt"));
        assert_eq!(archives(dir.path()), [dir.path().join("NMNIST/Train.zip")]);
        assert!(contents(&dir.path().join("absent")).starts_with("there is no "));
    }
}
