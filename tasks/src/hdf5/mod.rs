//! A small part of HDF5, read from bytes that nobody vouches for, and a smaller part of it written: the recordings of SHD and SSC, caches of
//! tonic, and networks in NIR.
//!
//! ```text
//! superblock -> object header of the root group -> links -> object header of a data set -> messages:
//!     dataspace   how many rows along each axis      datatype   what a row is
//!     layout      where the rows are                 filters    how chunks of rows were compressed
//! global heap     the numbers or the text of a row of variable length: the row itself is a reference of 16 bytes
//! ```
//!
//! In reading order: `cursor` takes numbers out of bytes, `header` walks object headers and groups, `dataset` understands the four
//! messages, `record` rows of several numbers, `chunks` puts rows together, `heap` follows references, `value` makes numbers and texts of
//! rows, [`write()`] writes. What is read: superblocks 0 to 3, object headers 1 and 2, groups as symbol tables and as links, rows that are
//! compact, contiguous or in chunks under a B-tree of version 1, a fixed array, or no index at all; the filters deflate, LZF, shuffle and
//! Fletcher-32. Anything else is refused by name. Checksums are compared where the format has them.
//!
//! Nothing in a file is believed. Rows and chunks are allocated within a limit that the caller gives, and compressed ones only as they
//! are unpacked; structures that lie beside each other in a sound file are not read for longer than the file is, so that references in a
//! circle end; there is no recursion, and no panic. A damaged file of n bytes costs less than 16 n of memory. A general library
//! promises none of this: see `docs/dependencies.md`.
//!
//! Source: The HDF Group, "HDF5 File Format Specification Version 3.0", <https://support.hdfgroup.org/documentation/hdf5/latest/_s_p_e_c.html>.

mod chunks;
mod cursor;
mod dataset;
mod header;
mod heap;
mod record;
pub(crate) mod value;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

pub use dataset::{Dataset, Kind, Number};
pub use heap::Heap;
pub use record::Field;
pub use value::{Budget, Value, Values};
pub use write::{Element, Item, write};

use crate::Error;

/// Why a file cannot be read: the parts of a message, without the file's name.
#[derive(Debug)]
pub struct Fault {
    rule: String,
    got: String,
    next: String,
}

/// The result of reading.
pub type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// Damage.
    pub fn new(rule: impl Into<String>, got: impl Into<String>) -> Self {
        Fault::unusable(rule, got, "the file is damaged or of another kind, copy or unpack it again")
    }

    /// Sound data of another meaning, and what to do about it.
    pub fn unusable(rule: impl Into<String>, got: impl Into<String>, next: impl Into<String>) -> Self {
        Fault { rule: rule.into(), got: got.into(), next: next.into() }
    }

    /// A part of HDF5 that is not read here.
    pub fn unsupported(got: impl Into<String>) -> Self {
        let next = "copy its data sets into a new file with the default settings of h5py or PyTables";
        Fault::unusable("only a part of HDF5 is read here, that of common files", got, next)
    }

    /// The error about the file at `path`.
    pub fn at(self, path: &Path) -> Error {
        Error::Damaged { path: path.to_owned(), rule: self.rule, got: self.got, next: self.next }
    }
}

/// The contents of a file.
pub struct Hdf5 {
    bytes: Vec<u8>,
    /// Address of the root group's object header.
    root: u64,
}

impl Hdf5 {
    /// Takes a file.
    ///
    /// # Errors
    /// Not HDF5, cut short, an offset size other than 8, a user block.
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        let root = header::superblock(&bytes)?;
        Ok(Hdf5 { bytes, root })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The root group.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The object at `path` below the group `from`, names separated by `/`; `None` if there is none.
    ///
    /// # Errors
    /// Damage on the way.
    pub fn object(&self, from: u64, path: &str) -> Result<Option<u64>> {
        let mut at = from;
        for name in path.split('/') {
            match header::link(&self.bytes, at, name)? {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// The members of the group at `address`, called `name` in messages: name and address of each; `None` for what is no group.
    ///
    /// # Errors
    /// Damage, a soft link, a name that is no text, more members than the file has room for.
    pub fn members(&self, address: u64, name: &str) -> Result<Option<BTreeMap<String, u64>>> {
        // An entry takes more memory than it takes room in a file, so there must not be very many.
        let most = self.bytes.len() / 32;
        // Nor may names share bytes: together they are no longer than the file.
        let mut room = self.bytes.len();
        let mut all = BTreeMap::new();
        let is_group = header::links(&self.bytes, address, name, |link| {
            let shown = || String::from_utf8_lossy(link.name).chars().take(40).collect::<String>();
            let Ok(member) = std::str::from_utf8(link.name) else {
                return Err(Fault::new(format!("the members of {name} have names in UTF-8"), shown()));
            };
            let Some(to) = link.to else {
                return Err(Fault::unsupported(format!("{member} in {name} is a soft or an external link")));
            };
            let left = room.checked_sub(link.name.len());
            room = left.unwrap_or_default();
            if left.is_none() || all.len() >= most || all.insert(member.to_owned(), to).is_some() {
                let rule = format!("the group {name} has at most {most} members, each with a name of its own");
                return Err(Fault::new(rule, format!("{} is one more", shown())));
            }
            Ok(())
        })?;
        Ok(is_group.then_some(all))
    }

    /// The data set at `address`, called `name` in messages.
    ///
    /// # Errors
    /// A data set of a kind that is not read here, or no data set.
    pub fn dataset(&self, address: u64, name: &str) -> Result<Dataset<'_>> {
        Dataset::read(&self.bytes, address, name)
    }

    /// The data set at `path`, group names separated by `/`; `None` if there is none.
    ///
    /// # Errors
    /// Damage on the way, or a data set of a kind that is not read here.
    pub fn find(&self, path: &str) -> Result<Option<Dataset<'_>>> {
        self.object(self.root, path)?.map(|at| self.dataset(at, path)).transpose()
    }

    /// The rows of a data set, one after the other, as they are stored once decompressed: at most `most` bytes.
    ///
    /// # Errors
    /// Damage, or more bytes.
    pub fn rows<'a>(&'a self, data: &Dataset<'a>, most: usize) -> Result<Cow<'a, [u8]>> {
        chunks::rows(&self.bytes, data, most)
    }
}
