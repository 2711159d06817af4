//! Reading the HDF5 files of SHD and SSC.
//!
//! The library `hdf5-pure` finds the data sets, reads their rows and undoes compression; a row of a variable-length data set is
//! a reference of 16 bytes, and following it is done here, because the library offers that for strings only:
//!
//! ```text
//! reference     length u32 | address of a collection u64 | index u32                          little endian
//! collection    "GCOL" | version 1 | 3 reserved | size u64 | objects                          (global heap)
//! object        index u16 | references u16 | 4 reserved | size u64 | data, padded to 8 bytes     index 0 ends the list
//! ```
//!
//! Nothing in a file is believed: every reference is followed and checked when the file is opened, no more is allocated than a small
//! multiple of the file's length, and a panic of the library is an error like any other.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hdf5_pure::{Dataset, Datatype, DatatypeByteOrder, File};

use super::bin::half;
use crate::events::{TimeUnit, span_error};
use crate::{Error, Result, files, parallel};

/// Least and greatest time of the latest spike of a file, seconds: words and sentences. Times in a wrong unit are off by 1000.
const LASTS: (f64, f64) = (0.02, 100.0);

/// Samples of one file: the spikes are decoded when asked for.
pub struct ShdFile {
    path: PathBuf,
    file: File,
    times: Column,
    units: Column,
    labels: Vec<i64>,
    speakers: Option<Vec<i64>>,
    keys: Vec<String>,
    /// Of the times.
    unit: TimeUnit,
}

/// How a number is stored.
#[derive(Clone, Copy, PartialEq)]
enum Number {
    Float(usize),
    Integer { size: usize, signed: bool },
}

impl Number {
    fn size(self) -> usize {
        match self {
            Number::Float(size) | Number::Integer { size, .. } => size,
        }
    }
}

/// A variable-length data set: where each sample's numbers are in the file.
struct Column {
    number: Number,
    big_endian: bool,
    /// First byte and count.
    spans: Vec<(usize, usize)>,
}

impl Column {
    fn bytes<'a>(&self, file: &'a [u8], sample: usize) -> impl Iterator<Item = u64> + 'a {
        let (start, count) = self.spans[sample];
        let (size, big) = (self.number.size(), self.big_endian);
        file[start..start + count * size].chunks_exact(size).map(move |chunk| {
            let mut word = [0; 8];
            word[..size].copy_from_slice(chunk);
            if big {
                word[..size].reverse();
            }
            u64::from_le_bytes(word)
        })
    }
}

impl ShdFile {
    /// Opens a file and checks its structure. Errors: [`Error::Io`]; [`Error::Damaged`] for what is not HDF5, lacks `spikes/times`,
    /// `spikes/units` or `labels`, has other types than numbers there, lengths that do not agree, or references that lead nowhere.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(files::read(path, files::SET, "read the HDF5 file")?, path)
    }

    /// A file with contents `bytes`; `path` is for messages only.
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        let file = guard(path, "the file is HDF5", || File::from_bytes(bytes))?;
        let mut reader = Reader { path, file: &file, heap: HashMap::new() };
        reader.check_base()?;
        let times = reader.column("spikes/times")?;
        let units = reader.column("spikes/units")?;
        let labels = reader.integers("labels")?;
        let n = times.spans.len();
        let speakers = if reader.has("extra", "speaker") { Some(reader.integers("extra/speaker")?) } else { None };
        let keys = if reader.has("extra", "keys") { reader.strings("extra/keys")? } else { Vec::new() };
        for (name, length) in [("spikes/units", units.spans.len()), ("labels", labels.len())]
            .into_iter()
            .chain(speakers.as_ref().map(|s| ("extra/speaker", s.len())))
        {
            if length != n {
                let rule = format!("{name} has as many entries as spikes/times, {n}");
                return Err(Error::damaged(path, rule, format!("{length} entries")));
            }
        }
        for (i, (t, u)) in times.spans.iter().zip(&units.spans).enumerate() {
            if t.1 != u.1 {
                let got = format!("sample {i} has {} times and {} units", t.1, u.1);
                return Err(Error::damaged(path, "every spike has a time and a unit", got));
            }
        }
        if let Number::Float(size) = units.number {
            let next = match times.number {
                Number::Integer { .. } => "are times and units the wrong way round?",
                Number::Float(_) => "save the numbers of the channels as integers",
            };
            let got = format!("floating-point numbers of {size} bytes");
            return Err(Error::unusable(path, "spikes/units holds integers", got, next));
        }
        Ok(ShdFile { path: path.to_owned(), file, times, units, labels, speakers, keys, unit: TimeUnit::S })
    }

    /// The file with its times in `unit`: seconds in floating-point numbers where none is given.
    ///
    /// Errors: [`Error::Damaged`] for whole numbers without a unit, and for a latest time that no utterance has, with the suspected unit.
    pub fn in_unit(mut self, unit: Option<TimeUnit>) -> Result<Self> {
        self.unit = unit.unwrap_or(TimeUnit::S);
        let samples = parallel::map(self.len(), |i| {
            let times = self.times.bytes(self.file.as_bytes(), i).map(|bits| self.time(bits)).filter(|t| t.is_finite());
            times.fold(f64::NEG_INFINITY, f64::max)
        });
        let latest = samples.into_iter().fold(f64::NEG_INFINITY, f64::max);
        if !latest.is_finite() {
            return Ok(self);
        }
        if let (Number::Integer { size, .. }, None) = (self.times.number, unit) {
            let fits = |u: &TimeUnit| (LASTS.0..=LASTS.1).contains(&(latest * u.seconds()));
            let likely = TimeUnit::ALL.into_iter().find(fits).unwrap_or(TimeUnit::Us).name();
            let got = format!("{}-bit integers up to {latest}", 8 * size);
            let next = format!(
                "give their unit (--time-unit {likely} if they are in {likely}), or save seconds as floating-point numbers"
            );
            return Err(Error::unusable(&self.path, "spikes/times holds seconds in floating-point numbers", got, next));
        }
        let spikes = (0..self.len()).map(|i| self.count(i)).sum();
        span_error(&self.path, LASTS, self.unit, latest * self.unit.seconds(), spikes)?;
        Ok(self)
    }

    /// A number of `spikes/times`, in the unit of the file.
    fn time(&self, bits: u64) -> f64 {
        match self.times.number {
            Number::Float(2) => half(bits as u16),
            Number::Float(4) => f64::from(f32::from_bits(bits as u32)),
            Number::Float(_) => f64::from_bits(bits),
            Number::Integer { size, signed: true } => signed(bits, size) as f64,
            Number::Integer { .. } => bits as f64,
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The class of each sample.
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// The speaker of each sample, if the file says.
    pub fn speakers(&self) -> Option<&[i64]> {
        self.speakers.as_deref()
    }

    /// The names of the classes; empty if the file does not say.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Spikes of sample `i`. Panics if there is no sample `i`.
    pub fn count(&self, i: usize) -> usize {
        self.times.spans[i].1
    }

    /// Time (seconds) and unit of every spike of sample `i`, in the order of the file. Panics if there is no sample `i`.
    ///
    /// Errors: a time that is not a finite number from 0 on, a unit that is not below `units`.
    pub fn sample(&self, i: usize, units: u16) -> Result<Vec<(f64, u16)>> {
        let file = self.file.as_bytes();
        let seconds = self.unit.seconds();
        let mut out = Vec::with_capacity(self.count(i));
        for (k, (t, u)) in self.times.bytes(file, i).zip(self.units.bytes(file, i)).enumerate() {
            let t = self.time(t) * seconds;
            // A negative unit reads as a number far above any limit.
            if !t.is_finite() || t < 0.0 || u >= u64::from(units) {
                let u = match self.units.number {
                    Number::Integer { size, signed: true } => i128::from(signed(u, size)),
                    _ => i128::from(u),
                };
                let rule = format!("times are finite and at least 0, and units below {units}");
                let got = format!("spike {k} of sample {i} is at {t} s on unit {u}");
                return Err(if t.is_infinite() && self.times.number == Number::Float(2) {
                    let next = "half-precision numbers end at 65504: save times in seconds, or in single precision";
                    Error::unusable(&self.path, rule, got, next)
                } else {
                    Error::damaged(&self.path, rule, got)
                });
            }
            out.push((t, u as u16));
        }
        Ok(out)
    }
}

fn signed(bits: u64, size: usize) -> i64 {
    let shift = 64 - 8 * size as u32;
    (bits << shift) as i64 >> shift
}

/// Runs the library: its errors and its panics are damage to the file.
fn guard<T>(path: &Path, rule: &str, f: impl FnOnce() -> std::result::Result<T, hdf5_pure::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(Error::damaged(path, rule, e.to_string())),
        Err(_) => Err(Error::damaged(path, rule, "the HDF5 library gave up on it")),
    }
}

/// Objects of a collection by their index: first byte and size.
type Collection = HashMap<u32, (usize, usize)>;

struct Reader<'a> {
    path: &'a Path,
    file: &'a File,
    heap: HashMap<u64, Collection>,
}

impl Reader<'_> {
    fn damaged(&self, rule: impl Into<String>, got: impl Into<String>) -> Error {
        Error::damaged(self.path, rule, got)
    }

    fn check_base(&self) -> Result<()> {
        let s = self.file.superblock();
        if s.offset_size == 8 && s.length_size == 8 && s.base_address.get() == 0 {
            return Ok(());
        }
        let got = format!("offsets of {} and lengths of {} bytes, or a user block", s.offset_size, s.length_size);
        Err(self.damaged("the file has 8-byte offsets and lengths and no user block", got))
    }

    fn has(&self, group: &str, name: &str) -> bool {
        let names = guard(self.path, "a group can be listed", || self.file.group(group)?.datasets());
        names.is_ok_and(|all| all.iter().any(|n| n == name))
    }

    fn dataset(&self, name: &str) -> Result<(Dataset, usize, Datatype)> {
        let rule = format!("the file has a one-dimensional data set {name}");
        let (data, shape, kind, element) = guard(self.path, &rule, || {
            let data = self.file.dataset(name)?;
            let (shape, kind, element) = (data.shape()?, data.datatype()?, data.element_size()?);
            Ok((data, shape, kind, element))
        })?;
        let &[n] = shape.as_slice() else {
            return Err(self.damaged(rule, format!("shape {shape:?}")));
        };
        // Every row of a real file, compressed or not, refers to numbers of its own; a length far beyond the file is damage, and would
        // be allocated several times over.
        let limit = 2 * self.file.file_size();
        if n.checked_mul(element.max(1)).is_none_or(|bytes| bytes > limit) {
            let got = format!("{n} rows of {element} bytes in a file of {} bytes", self.file.file_size());
            return Err(self.damaged(format!("{name} is no longer than the file can hold"), got));
        }
        let chunk = guard(self.path, &rule, || data.chunk_shape())?;
        let cells = chunk.iter().flatten().try_fold(element.max(1), |a, &b| a.checked_mul(b));
        if cells.is_none_or(|bytes| bytes > limit.max(1 << 24)) {
            return Err(self.damaged(format!("{name} has chunks of a sensible size"), format!("{chunk:?}")));
        }
        Ok((data, n as usize, kind))
    }

    fn number(&self, name: &str, kind: &Datatype) -> Result<(Number, bool)> {
        let (number, order) = match kind {
            Datatype::FixedPoint { size, byte_order, layout } => {
                (Number::Integer { size: *size as usize, signed: layout.signed }, byte_order)
            }
            Datatype::FloatingPoint { size, byte_order, .. } => (Number::Float(*size as usize), byte_order),
            other => {
                let rule = format!("{name} holds numbers");
                return Err(self.damaged(rule, format!("{other:?}").chars().take(80).collect::<String>()));
            }
        };
        let sizes: &[usize] = if matches!(number, Number::Float(_)) { &[2, 4, 8] } else { &[1, 2, 4, 8] };
        let big = match order {
            DatatypeByteOrder::LittleEndian => false,
            DatatypeByteOrder::BigEndian => true,
            other => {
                return Err(self.damaged(format!("{name} is big or little endian"), format!("{other:?}")));
            }
        };
        if !sizes.contains(&number.size()) {
            return Err(
                self.damaged(format!("{name} has numbers of {sizes:?} bytes"), format!("{} bytes", number.size()))
            );
        }
        Ok((number, big))
    }

    fn raw(&self, name: &str, data: &Dataset, expected: usize) -> Result<Vec<u8>> {
        let raw = guard(self.path, &format!("the rows of {name} can be read"), || data.read_raw())?;
        if raw.len() == expected {
            return Ok(raw);
        }
        Err(self.damaged(format!("{name} has {expected} bytes"), format!("{} bytes", raw.len())))
    }

    fn integers(&self, name: &str) -> Result<Vec<i64>> {
        let (data, n, kind) = self.dataset(name)?;
        let (number, big_endian) = self.number(name, &kind)?;
        let Number::Integer { size, signed: has_sign } = number else {
            return Err(self.damaged(format!("{name} holds integers"), "floating-point numbers"));
        };
        let raw = self.raw(name, &data, n * size)?;
        let all = Column { number, big_endian, spans: vec![(0, n)] };
        Ok(all
            .bytes(&raw, 0)
            .map(|bits| if has_sign { signed(bits, size) } else { bits.min(i64::MAX as u64) as i64 })
            .collect())
    }

    fn strings(&self, name: &str) -> Result<Vec<String>> {
        let (data, _, kind) = self.dataset(name)?;
        let limit = (self.file.file_size() as usize).min(1 << 24);
        let options = hdf5_pure::VlenStringReadOptions::new().with_max_elements(1 << 16).with_max_payload_bytes(limit);
        guard(self.path, &format!("{name} holds strings"), || match kind {
            Datatype::VariableLength { .. } => data.read_vlen_strings(options),
            _ => data.read_string(),
        })
    }

    /// A variable-length data set with all references followed.
    fn column(&mut self, name: &str) -> Result<Column> {
        let (data, n, kind) = self.dataset(name)?;
        let Datatype::VariableLength { is_string: false, base_type, .. } = &kind else {
            return Err(self.damaged(format!("{name} holds sequences of numbers"), "another type"));
        };
        let (number, big_endian) = self.number(name, base_type)?;
        let raw = self.raw(name, &data, n * 16)?;
        let mut total = 0;
        let spans = raw
            .as_chunks::<16>()
            .0
            .iter()
            .enumerate()
            .map(|(i, &[l0, l1, l2, l3, ref address @ .., i0, i1, i2, i3])| {
                let count = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
                let index = u32::from_le_bytes([i0, i1, i2, i3]);
                if count == 0 {
                    return Ok((0, 0));
                }
                let (start, size) = self.object(u64::from_le_bytes(*address), index)?;
                // Samples that shared bytes could ask for more memory than the file has.
                total += count * number.size();
                if count * number.size() > size || total > self.file.as_bytes().len() {
                    let rule = format!("the numbers of {name} fit where they are kept");
                    return Err(self.damaged(rule, format!("sample {i} has {count} in an object of {size} bytes")));
                }
                Ok((start, count))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Column { number, big_endian, spans })
    }

    /// First byte and size of an object of the global heap.
    fn object(&mut self, address: u64, index: u32) -> Result<(usize, usize)> {
        if !self.heap.contains_key(&address) {
            let collection = self.collection(address).ok_or_else(|| {
                self.damaged(
                    "a reference leads to a collection of the global heap",
                    format!("none is at byte {address}"),
                )
            })?;
            self.heap.insert(address, collection);
        }
        let found = self.heap.get(&address).and_then(|c| c.get(&index)).copied();
        found.ok_or_else(|| {
            self.damaged(
                "a reference leads to an object",
                format!("the collection at byte {address} has no object {index}"),
            )
        })
    }

    /// The collection at `address`, `None` if there is none or it leaves the file.
    fn collection(&self, address: u64) -> Option<Collection> {
        let file = self.file.as_bytes();
        let start = usize::try_from(address).ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(*file.get(at..)?.first_chunk::<8>()?));
        if file.get(start..start.checked_add(5)?)? != b"GCOL\x01" {
            return None;
        }
        let end = start.checked_add(usize::try_from(number(start + 8)?).ok()?)?;
        if end > file.len() {
            return None;
        }
        let mut objects = HashMap::new();
        let mut at = start + 16;
        while at + 16 <= end {
            let index = u32::from(u16::from_le_bytes([file[at], file[at + 1]]));
            if index == 0 {
                break;
            }
            let size = usize::try_from(number(at + 8)?).ok()?;
            let data = at + 16;
            if size > end - data {
                return None;
            }
            objects.insert(index, (data, size));
            at = data + size.next_multiple_of(8);
        }
        Some(objects)
    }
}
