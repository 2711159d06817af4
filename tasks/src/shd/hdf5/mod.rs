//! A small part of HDF5: the one-dimensional data sets of the files of SHD and SSC, read from bytes that nobody vouches for.
//!
//! ```text
//! superblock -> object header of the root group -> links -> object header of a data set -> messages:
//!     dataspace   how many rows                      datatype   what a row is
//!     layout      where the rows are                 filters    how chunks of rows were compressed
//! global heap     the numbers of a row of variable length: the row itself is a reference of 16 bytes
//! ```
//!
//! In reading order: [`cursor`] takes numbers out of bytes, [`header`] walks object headers and groups, [`dataset`] understands the
//! four messages, [`chunks`] puts rows together, [`heap`] follows references. What is read: superblocks 0 to 3, object headers 1 and 2,
//! groups as symbol tables and as links, rows that are compact, contiguous or in chunks under a B-tree of version 1, a fixed array, or no
//! index at all; the filters deflate, shuffle and Fletcher-32. Anything else is refused by name. Checksums are compared where the
//! format has them.
//!
//! Nothing in a file is believed. Rows and chunks are allocated once it is known that they take at most twice the file; structures that
//! lie beside each other in a sound file are not read for longer than the file is, so that references in a circle end; there is
//! no recursion, and no panic. A damaged file of n bytes costs less than 16 n of memory. A general library promises none of this: see
//! `docs/dependencies.md`.
//!
//! Source: The HDF Group, "HDF5 File Format Specification Version 3.0", <https://support.hdfgroup.org/documentation/hdf5/latest/_s_p_e_c.html>.

mod chunks;
mod cursor;
mod dataset;
mod header;
mod heap;

use std::borrow::Cow;
use std::path::Path;

pub(super) use dataset::{Dataset, Kind, Number};
pub(super) use heap::Heap;

use crate::Error;

/// Why a file cannot be read: the parts of a message, without the file's name.
#[derive(Debug)]
pub(super) struct Fault {
    rule: String,
    got: String,
    next: &'static str,
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// Damage.
    pub fn new(rule: impl Into<String>, got: impl Into<String>) -> Self {
        let next = "the file is damaged or of another kind, copy or unpack it again";
        Fault { rule: rule.into(), got: got.into(), next }
    }

    /// Sound data of another meaning, and what to do about it.
    pub fn unusable(rule: impl Into<String>, got: impl Into<String>, next: &'static str) -> Self {
        Fault { rule: rule.into(), got: got.into(), next }
    }

    /// A part of HDF5 that is not read here.
    pub fn unsupported(got: impl Into<String>) -> Self {
        Fault {
            rule: "only the parts of HDF5 that the files of SHD use are read".into(),
            got: got.into(),
            next: "copy its data sets into a new file with the default settings of h5py or PyTables",
        }
    }

    /// The error about the file at `path`.
    pub fn at(self, path: &Path) -> Error {
        Error::Damaged { path: path.to_owned(), rule: self.rule, got: self.got, next: self.next.into() }
    }
}

/// The contents of a file.
pub(super) struct Hdf5 {
    bytes: Vec<u8>,
    /// Address of the root group's object header.
    root: u64,
}

impl Hdf5 {
    /// Errors: not HDF5, cut short, an offset size other than 8, a user block.
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        let root = header::superblock(&bytes)?;
        Ok(Hdf5 { bytes, root })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The data set at `path`, group names separated by `/`; `None` if there is none. Errors: damage on the way, or a data set of a kind
    /// that is not read here.
    pub fn find(&self, path: &str) -> Result<Option<Dataset<'_>>> {
        let mut at = self.root;
        for name in path.split('/') {
            match header::link(&self.bytes, at, name)? {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        Dataset::read(&self.bytes, at, path).map(Some)
    }

    /// The rows of a data set, one after the other, as they are stored once decompressed.
    pub fn rows<'a>(&'a self, data: &Dataset<'a>) -> Result<Cow<'a, [u8]>> {
        chunks::rows(&self.bytes, data)
    }
}
