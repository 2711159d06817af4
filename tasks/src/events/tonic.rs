//! Samples that tonic's `DiskCachedDataset` kept: HDF5 files `<sample>_<copy>.hdf5`.
//!
//! ```text
//! data/0    events as a structured array: records of t (microseconds), x, y, p, usually compressed with LZF
//! target/0  the class, a whole number
//! ```
//!
//! A cache holds whatever a transform made of the events. Frames and tensors are no events any more, and are refused by name.

use std::path::Path;

use super::{Reading, Recording, npy};
use crate::hdf5::{Budget, Dataset, Fault, Hdf5, Heap, Kind, Number, Values};
use crate::{Error, Result, files};

/// What is made of a file: at most so many times its bytes, and this many more.
const MOST: (usize, usize) = (8, 1 << 20);
const NEXT: &str =
    "cache the events before a transform makes frames of them, or read the data set that the cache was made of";

/// The events of a file with contents `bytes`; `path` is for messages only.
///
/// Errors: [`Error::Damaged`] for what is no HDF5 and for data that are no events, and those of arrays with named columns
/// ([`npy::decode`]).
pub fn decode(bytes: &[u8], path: &Path, reading: &Reading) -> Result<Recording> {
    let file = Hdf5::new(bytes.to_vec()).map_err(|fault| fault.at(path))?;
    let most = bytes.len().saturating_mul(MOST.0).saturating_add(MOST.1);
    let found = file.find("data/0").and_then(|data| {
        let events = data.as_ref().filter(|d| matches!(d.kind, Kind::Record(_)) && d.dims.len() == 1);
        match events {
            Some(events) => Ok((columns(events), file.rows(events, most)?.into_owned())),
            None => {
                let got = data.map_or("nothing there".into(), |d| format!("{} of shape {:?}", d.kind, d.dims));
                Err(Fault::unusable("a cache holds events in data/0, records of t, x, y and p", got, NEXT))
            }
        }
    });
    let (columns, rows) = found.map_err(|fault| fault.at(path))?;
    npy::of_rows(&columns, &rows, bytes.len(), path, reading)
}

/// The names and NumPy's types of the numbers of a record, with what lies between them.
fn columns(data: &Dataset) -> Vec<(String, String)> {
    let (mut all, mut at) = (Vec::new(), 0);
    for field in &data.fields {
        if field.offset > at {
            all.push((String::new(), format!("|V{}", field.offset - at)));
        }
        let Number { float, signed, size, big_endian } = field.number;
        let kind = if float {
            'f'
        } else if signed {
            'i'
        } else {
            'u'
        };
        all.push((field.name.clone(), format!("{}{kind}{size}", if big_endian { '>' } else { '<' })));
        at = field.offset + size;
    }
    if data.kind.size() > at {
        all.push((String::new(), format!("|V{}", data.kind.size() - at)));
    }
    all
}

/// The class of a sample. Errors: [`Error::Io`]; [`Error::Damaged`] for another target than one whole number.
pub(crate) fn target(path: &Path) -> Result<i64> {
    let file = Hdf5::new(files::read(path, files::EVENTS, "read the cache")?).map_err(|fault| fault.at(path))?;
    let value = file.find("target/0").and_then(|data| {
        let value = data.map(|data| file.value(&data, &mut Budget::of(64), &mut Heap::new(file.bytes())));
        value.transpose()
    });
    let got = match value.map_err(|fault| fault.at(path))? {
        Some(value) => match value.values {
            Values::Integers(class) if class.len() == 1 => return Ok(class[0]),
            other => format!("{} of shape {:?}", other.kind(), value.dims),
        },
        None => "nothing there".into(),
    };
    Err(Error::unusable(path, "a cache holds the class in target/0, a whole number", got, NEXT))
}

/// Sample and copy of a file that is called as tonic calls it.
pub(crate) fn number(path: &Path) -> Option<(u64, u64)> {
    let stem = path.file_stem()?.to_str()?;
    let (sample, copy) = stem.split_once('_').filter(|_| files::has_extension(path, &["hdf5"]))?;
    Some((sample.parse().ok()?, copy.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::format::tests::{genuine, written};

    #[test]
    fn caches_of_tonic() {
        for name in ["cache_lzf.hdf5", "cache_plain.hdf5"] {
            let got = genuine(name);
            assert_eq!((got.events, got.remarks), (written(), vec![]), "{name}");
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/formats").join(name);
            assert_eq!(target(&path).unwrap(), 3);
        }
        assert_eq!(number(Path::new("a/12_0.hdf5")), Some((12, 0)));
        assert_eq!((number(Path::new("12.hdf5")), number(Path::new("12_0.h5"))), (None, None));
    }

    #[test]
    fn frames_are_refused_by_name() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/formats/cache_frames.hdf5");
        let m = crate::events::read(&path, &Reading::GESTURE).unwrap_err().to_string();
        assert!(m.contains("integers of shape [4, 2, 6, 8]") && m.contains("makes frames"), "{m}");
        let m = decode(b"no HDF5", Path::new("0_0.hdf5"), &Reading::GESTURE).unwrap_err().to_string();
        assert!(m.contains("0_0.hdf5"), "{m}");
    }
}
