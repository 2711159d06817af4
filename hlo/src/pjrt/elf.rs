//! Is this file a whole shared library for this processor? Asked before the system loader sees it.
//!
//! The loader maps a library by its headers and reads pages as they are touched, so a download cut short
//! can load and then kill the process. An ELF file says how long it must be: its section table is at the
//! end, and every section and segment has an extent. Those are compared with the file's length here.

use super::{
    device::PluginKind,
    error::{Error, Result},
};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// Checks that `path` is a complete 64-bit ELF library for this processor. On systems whose libraries have
/// another format, only existence is checked.
///
/// # Errors
/// [`Error::Truncated`] if the file ends before its headers say, [`Error::Load`] if it is no ELF library for
/// this processor, [`Error::Io`] if it cannot be read.
pub(super) fn check(path: &Path, kind: PluginKind) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    if !cfg!(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")) {
        return Ok(());
    }
    let bad = |reason: String| Error::Load { path: path.to_owned(), reason, fix: kind.advice() };
    let short = |expected: u64| Error::Truncated { path: path.to_owned(), expected, got: length, fix: kind.advice() };

    if length < HEADER {
        return Err(short(HEADER));
    }
    let head = read(&mut file, 0, HEADER as usize).map_err(Error::io(path))?;
    if head[..4] != *b"\x7fELF" || head[4] != 2 || head[5] != 1 {
        return Err(bad("it is not a 64-bit little-endian ELF file".into()));
    }
    if u16_at(&head, 16) != 3 {
        return Err(bad("it is an ELF file but not a shared library".into()));
    }
    let machine = u16_at(&head, 18);
    let host = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    if machine != host {
        return Err(bad(format!("it is for another processor (ELF machine {machine}, this one is {host})")));
    }

    // Segments, then sections: (table offset, entry size, count; offset and size of an extent in an entry).
    let segments = Table { at: u64_at(&head, 32), entry: u16_at(&head, 54), count: u16_at(&head, 56) };
    let sections = Table { at: u64_at(&head, 40), entry: u16_at(&head, 58), count: u16_at(&head, 60) };
    let mut needed = HEADER;
    for (table, offset, size, smallest) in [(segments, 8, 32, 56), (sections, 24, 32, 64)] {
        if table.count == 0 {
            continue;
        }
        if table.entry < smallest {
            return Err(bad("its ELF header is damaged".into()));
        }
        let bytes = u64::from(table.entry) * u64::from(table.count);
        let end = table.at.saturating_add(bytes);
        needed = needed.max(end);
        if end > length {
            return Err(short(needed));
        }
        let rows = read(&mut file, table.at, bytes as usize).map_err(Error::io(path))?;
        for row in rows.chunks_exact(usize::from(table.entry)) {
            // A section of type NOBITS (8) has a size but no bytes in the file.
            let empty = smallest == 64 && u32::from_le_bytes([row[4], row[5], row[6], row[7]]) == 8;
            if !empty {
                needed = needed.max(u64_at(row, offset).saturating_add(u64_at(row, size)));
            }
        }
    }
    if needed > length { Err(short(needed)) } else { Ok(()) }
}

const HEADER: u64 = 64;

#[derive(Clone, Copy)]
struct Table {
    at: u64,
    entry: u16,
    count: u16,
}

fn read(file: &mut File, at: u64, bytes: usize) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut buffer = vec![0; bytes];
    file.read_exact(&mut buffer)?;
    Ok(buffer)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn write(name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("hlo-elf-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    // The test binary is itself a position-independent ELF file of type 3.
    #[test]
    fn whole_file_passes_and_any_cut_is_found() {
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let path = write("whole", &whole);
        check(&path, PluginKind::Cpu).unwrap();
        for keep in [0, 63, 64, 4096, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..keep]).unwrap();
            let error = check(&path, PluginKind::Cpu).unwrap_err();
            assert!(matches!(error, Error::Truncated { got, .. } if got == keep as u64), "{keep}: {error}");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn other_files_are_refused() {
        let path = write("text", &[b'x'; 100]);
        let error = check(&path, PluginKind::Cuda).unwrap_err().to_string();
        assert!(error.contains("not a 64-bit little-endian ELF file"), "{error}");
        assert!(error.contains("etrace plugin install cuda"), "{error}");
        std::fs::remove_file(path).unwrap();
    }
}
