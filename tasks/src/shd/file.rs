//! Reading the HDF5 files of SHD and SSC: which data sets there are, and that they agree with each other. The module [`hdf5`](crate::hdf5)
//! knows the format.
//!
//! Nothing in a file is believed: every reference is followed and checked when the file is opened, and no more is allocated than a small
//! multiple of the file's length.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::bin::half;
use crate::events::{TimeUnit, span_error};
use crate::hdf5::value::{signed, text, words};
use crate::hdf5::{Dataset, Fault, Hdf5, Heap, Kind, Number};
use crate::{Error, Result, files, parallel};

/// Least and greatest time of the latest spike of a file, seconds: words and sentences. Times in a wrong unit are off by 1000.
const LASTS: (f64, f64) = (0.02, 100.0);

/// Samples of one file: the spikes are decoded when asked for.
pub struct ShdFile {
    path: PathBuf,
    file: Hdf5,
    times: Column,
    units: Column,
    labels: Vec<i64>,
    speakers: Option<Vec<i64>>,
    keys: Vec<String>,
    /// Of the times.
    unit: TimeUnit,
}

/// A variable-length data set: where each sample's numbers are in the file.
struct Column {
    number: Number,
    /// First byte and count.
    spans: Vec<(usize, usize)>,
}

impl Column {
    fn numbers<'a>(&self, file: &'a [u8], sample: usize) -> impl Iterator<Item = u64> + 'a {
        let (start, count) = self.spans[sample];
        words(&file[start..start + count * self.number.size], self.number)
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
        let file = Hdf5::new(bytes).map_err(|fault| fault.at(path))?;
        let parts = Parts::read(&file).map_err(|fault| fault.at(path))?;
        let Parts { times, units, labels, speakers, keys } = parts;
        Ok(ShdFile { path: path.to_owned(), file, times, units, labels, speakers, keys, unit: TimeUnit::S })
    }

    /// The file with its times in `unit`: seconds in floating-point numbers where none is given.
    ///
    /// Errors: [`Error::Damaged`] for whole numbers without a unit, and for a latest time that no utterance has, with the suspected unit.
    pub fn in_unit(mut self, unit: Option<TimeUnit>) -> Result<Self> {
        self.unit = unit.unwrap_or(TimeUnit::S);
        let samples = parallel::map(self.len(), |i| {
            let times = self.times.numbers(self.file.bytes(), i).map(|bits| self.time(bits)).filter(|t| t.is_finite());
            times.fold(f64::NEG_INFINITY, f64::max)
        });
        let latest = samples.into_iter().fold(f64::NEG_INFINITY, f64::max);
        if !latest.is_finite() {
            return Ok(self);
        }
        if let (Number { float: false, size, .. }, None) = (self.times.number, unit) {
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
            Number { float: true, size: 2, .. } => half(bits as u16),
            Number { float: true, size: 4, .. } => f64::from(f32::from_bits(bits as u32)),
            Number { float: true, .. } => f64::from_bits(bits),
            Number { signed: true, size, .. } => signed(bits, size) as f64,
            _ => bits as f64,
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
        let file = self.file.bytes();
        let seconds = self.unit.seconds();
        let mut out = Vec::with_capacity(self.count(i));
        for (k, (t, u)) in self.times.numbers(file, i).zip(self.units.numbers(file, i)).enumerate() {
            let t = self.time(t) * seconds;
            // A negative unit reads as a number far above any limit.
            if !t.is_finite() || t < 0.0 || u >= u64::from(units) {
                let Number { size, signed: has_sign, .. } = self.units.number;
                let u = if has_sign { i128::from(signed(u, size)) } else { i128::from(u) };
                let rule = format!("times are finite and at least 0, and units below {units}");
                let got = format!("spike {k} of sample {i} is at {t} s on unit {u}");
                return Err(if t.is_infinite() && self.times.number.size == 2 {
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

/// What a file says, in agreement with itself.
struct Parts {
    times: Column,
    units: Column,
    labels: Vec<i64>,
    speakers: Option<Vec<i64>>,
    keys: Vec<String>,
}

impl Parts {
    fn read(file: &Hdf5) -> std::result::Result<Self, Fault> {
        let mut reader = Reader { file, heap: Heap::new(file.bytes()), referred: 0 };
        let times = reader.column("spikes/times", None)?;
        let n = times.spans.len();
        let units = reader.column("spikes/units", Some(n))?;
        if units.number.float {
            let next = if times.number.float {
                "save the numbers of the channels as integers"
            } else {
                "are times and units the wrong way round?"
            };
            let got = format!("floating-point numbers of {} bytes", units.number.size);
            return Err(Fault::unusable("spikes/units holds integers", got, next));
        }
        for (i, (t, u)) in times.spans.iter().zip(&units.spans).enumerate() {
            if t.1 != u.1 {
                let got = format!("sample {i} has {} times and {} units", t.1, u.1);
                return Err(Fault::new("every spike has a time and a unit", got));
            }
        }
        let labels = reader.integers(&reader.dataset("labels")?, n)?;
        let speakers = reader.find("extra/speaker")?.map(|data| reader.integers(&data, n)).transpose()?;
        let keys = reader.find("extra/keys")?.map_or(Ok(Vec::new()), |data| reader.strings(&data))?;
        Ok(Parts { times, units, labels, speakers, keys })
    }
}

struct Reader<'a> {
    file: &'a Hdf5,
    heap: Heap<'a>,
    /// Bytes that references have led to so far.
    referred: usize,
}

impl<'a> Reader<'a> {
    fn find(&self, name: &str) -> std::result::Result<Option<Dataset<'a>>, Fault> {
        let found = self.file.find(name)?;
        match found.as_ref().map(|data| data.dims.len()) {
            None | Some(1) => Ok(found),
            Some(n) => Err(Fault::new(format!("{name} is one-dimensional"), format!("it has {n} dimensions"))),
        }
    }

    fn dataset(&self, name: &str) -> std::result::Result<Dataset<'a>, Fault> {
        let missing = || Fault::new(format!("the file has a data set {name}"), "there is none");
        self.find(name)?.ok_or_else(missing)
    }

    /// Rows as they are stored. They take no more than twice the file: every row of a real one refers to numbers that are in it, too.
    fn rows(&self, data: &Dataset<'a>) -> std::result::Result<Cow<'a, [u8]>, Fault> {
        self.file.rows(data, 2 * self.file.bytes().len())
    }

    /// A row for each of `n` samples, the first of which was counted in the times.
    fn length(&self, data: &Dataset<'_>, n: usize) -> std::result::Result<(), Fault> {
        if data.rows == n {
            return Ok(());
        }
        let rule = format!("{} has as many entries as spikes/times, {n}", data.name);
        Err(Fault::new(rule, format!("{} entries", data.rows)))
    }

    fn integers(&self, data: &Dataset<'a>, n: usize) -> std::result::Result<Vec<i64>, Fault> {
        self.length(data, n)?;
        let Kind::Number(number @ Number { float: false, size, .. }) = data.kind else {
            return Err(Fault::new(format!("{} holds integers", data.name), data.kind.to_string()));
        };
        let value = |bits: u64| if number.signed { signed(bits, size) } else { bits.min(i64::MAX as u64) as i64 };
        let rows = self.rows(data)?;
        Ok(words(&rows, number).map(value).collect())
    }

    fn strings(&mut self, data: &Dataset<'a>) -> std::result::Result<Vec<String>, Fault> {
        // A name takes more memory than it takes room in a file, so there must not be very many.
        let most = self.file.bytes().len() / 32;
        if data.rows > most {
            return Err(Fault::new(format!("{} has at most {most} names", data.name), format!("{} names", data.rows)));
        }
        let rows = self.rows(data)?;
        match data.kind {
            Kind::Text(0) => Ok(vec![String::new(); data.rows]),
            Kind::Text(size) => Ok(rows.chunks_exact(size).map(text).collect()),
            Kind::Texts => {
                let spans = self.spans(data, &rows, 1)?;
                Ok(spans.iter().map(|&(start, count)| text(&self.file.bytes()[start..start + count])).collect())
            }
            other => Err(Fault::new(format!("{} holds text", data.name), other.to_string())),
        }
    }

    /// A variable-length data set with all references followed.
    fn column(&mut self, name: &str, n: Option<usize>) -> std::result::Result<Column, Fault> {
        let data = self.dataset(name)?;
        n.map_or(Ok(()), |n| self.length(&data, n))?;
        let Kind::Numbers(number) = data.kind else {
            return Err(Fault::new(format!("{name} holds sequences of numbers"), data.kind.to_string()));
        };
        let rows = self.rows(&data)?;
        Ok(Column { number, spans: self.spans(&data, &rows, number.size)? })
    }

    /// First byte and count of what each row refers to, elements of `size` bytes.
    fn spans(
        &mut self,
        data: &Dataset<'_>,
        rows: &[u8],
        size: usize,
    ) -> std::result::Result<Vec<(usize, usize)>, Fault> {
        let mut spans = Vec::with_capacity(data.rows);
        for (i, reference) in rows.as_chunks::<16>().0.iter().enumerate() {
            let (count, object) = self.heap.follow(reference)?;
            // Samples that shared bytes could ask for more memory than the file has.
            self.referred = self.referred.saturating_add(count.saturating_mul(size));
            if count.saturating_mul(size) > object.len() || self.referred > self.file.bytes().len() {
                let rule = format!("the elements of {} fit where they are kept", data.name);
                return Err(Fault::new(rule, format!("row {i} has {count} in an object of {} bytes", object.len())));
            }
            spans.push((object.start, count));
        }
        Ok(spans)
    }
}
