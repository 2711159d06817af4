//! The formats of event files, each one row of [`FORMATS`]: by what a file of it is known, and its reader.

use std::path::Path;

use super::{Reading, Recording, Sensor, aedat, aedat4, aer, npy, prophesee, tonic};
use crate::{Error, Result, files};

/// A format.
pub struct Format {
    /// Its name, for messages.
    pub name: &'static str,
    /// Endings of the names of files, in lower case.
    pub extensions: &'static [&'static str],
    /// How such files begin, where the ending says too little.
    pub begins: &'static [u8],
    /// Shortest and longest recording in seconds, where the format decides and not the set: its files hold several samples, or its unit
    /// of time cannot be mistaken.
    pub lasts: Option<(f64, f64)>,
    /// The sensor that the head of a file names.
    pub sensor: fn(&[u8]) -> Option<Sensor>,
    /// The recording in a file with these contents; the path is for messages only.
    pub decode: fn(&[u8], &Path, &Reading) -> Result<Recording>,
}

const NOBODY_SAYS: fn(&[u8]) -> Option<Sensor> = |_| None;
const LONG: Option<(f64, f64)> = Some(Reading::ANY.lasts);

/// All formats. Where two share an ending, the first that begins as the file does is taken.
#[rustfmt::skip]
pub const FORMATS: [Format; 7] = [
    Format { name: "40-bit events", extensions: &["bin", "bs2"], begins: b"", lasts: None, sensor: NOBODY_SAYS, decode: aer::decode },
    Format { name: "NumPy", extensions: &["npy"], begins: b"", lasts: None, sensor: NOBODY_SAYS, decode: npy::decode },
    Format { name: "AEDAT 4", extensions: &["aedat4", "aedat"], begins: aedat4::VERSION, lasts: LONG, sensor: aedat4::sensor, decode: aedat4::decode },
    Format { name: "AEDAT 3.1", extensions: &["aedat"], begins: b"", lasts: Some(Reading::GESTURES.lasts), sensor: NOBODY_SAYS, decode: aedat::decode },
    Format { name: "Prophesee RAW", extensions: &["raw"], begins: b"", lasts: LONG, sensor: prophesee::raw::sensor, decode: prophesee::raw::decode },
    Format { name: "Prophesee DAT", extensions: &["dat"], begins: b"", lasts: LONG, sensor: prophesee::dat::sensor, decode: prophesee::dat::decode },
    Format { name: "cache of tonic", extensions: &["hdf5"], begins: b"", lasts: None, sensor: NOBODY_SAYS, decode: tonic::decode },
];

/// Bytes of a file in which its header is looked for.
const HEAD: u64 = 1 << 16;

impl Format {
    /// The format of a file with this name that begins with `bytes`.
    fn of(path: &Path, bytes: &[u8]) -> Option<&'static Format> {
        let mut named = FORMATS.iter().filter(|f| files::has_extension(path, f.extensions)).peekable();
        let first = named.peek().copied();
        named.find(|f| bytes.starts_with(f.begins)).or(first)
    }
}

/// Whether the name of a file is that of an event file.
pub fn is_recording(path: &Path) -> bool {
    FORMATS.iter().any(|f| files::has_extension(path, f.extensions))
}

/// All endings, for messages: `.bin, .bs2, ...`.
pub(crate) fn endings() -> String {
    let mut all: Vec<String> = FORMATS.iter().flat_map(|f| f.extensions).map(|e| format!(".{e}")).collect();
    all.sort();
    all.dedup();
    all.join(", ")
}

/// The sensor that a file names; `None` where its format has no place for it, or the file leaves it out. Errors: [`Error::Io`],
/// [`Error::Damaged`] for what is no regular file.
pub fn sensor(path: &Path) -> Result<Option<Sensor>> {
    let head = files::head(path, HEAD, "read the head of the event file")?;
    Ok(Format::of(path, &head).and_then(|f| (f.sensor)(&head)))
}

/// Reads an event file of any format. Errors: [`Error::Io`]; [`Error::Damaged`] for a file of no known name and for one of another sensor;
/// those of the formats.
pub fn read(path: &Path, reading: &Reading) -> Result<Recording> {
    let bytes = files::read(path, files::EVENTS, "read the event file")?;
    let Some(format) = Format::of(path, &bytes) else {
        let rule = format!("event files end in {}", endings());
        return Err(Error::unusable(path, rule, files::name(path), "convert it, or call it by its format"));
    };
    let own = (format.sensor)(&bytes);
    if let Some(own) = own.filter(|own| *own != reading.sensor) {
        let rule = format!("the recordings of a set come from one sensor, here {}", reading.sensor);
        let got = format!("its header says {own}");
        return Err(Error::unusable(
            path,
            rule,
            got,
            "leave it out, or give the size with --sensor if all are of that one (N-MNIST has one sensor only)",
        ));
    }
    (format.decode)(&bytes, path, &Reading { lasts: format.lasts.unwrap_or(reading.lasts), ..*reading })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::events::{Disorder, Event};

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("data/formats")
    }

    /// What is in all files of `data/formats`.
    pub(crate) fn written() -> Vec<Event> {
        let lines = std::fs::read_to_string(folder().join("events.csv")).unwrap();
        let event = |line: &str| {
            let n: Vec<u64> = line.split(',').map(|n| n.parse().unwrap()).collect();
            Event { t: n[0], x: n[1] as u16, y: n[2] as u16, p: n[3] == 1 }
        };
        lines.lines().map(event).collect()
    }

    /// A file of `data/formats`.
    pub(crate) fn genuine(name: &str) -> Recording {
        let sensor = Sensor { width: 64, height: 48 };
        let reading = Reading { sensor, lasts: (0.01, 10.0), disorder: Disorder::Refuse, time_unit: None };
        read(&folder().join(name), &reading).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_row_for_every_ending() {
        for (k, format) in FORMATS.iter().enumerate() {
            assert!(!format.extensions.is_empty() && !format.name.is_empty());
            for extension in format.extensions {
                assert_eq!(*extension, extension.to_lowercase());
                let path = format!("A.{}", extension.to_uppercase());
                assert!(is_recording(Path::new(&path)));
                let found = Format::of(Path::new(&path), format.begins).unwrap();
                assert_eq!(found.name, FORMATS[k].name, "{path}");
            }
        }
        assert!(!is_recording(Path::new("a.csv")) && !is_recording(Path::new("npy")));
        assert_eq!(endings(), ".aedat, .aedat4, .bin, .bs2, .dat, .hdf5, .npy, .raw");
        let m = read(&folder().join("events.csv"), &Reading::GESTURE).unwrap_err().to_string();
        assert!(m.contains(".aedat4") && m.contains("events.csv"), "{m}");
    }

    #[test]
    fn a_recording_of_another_sensor_is_refused() {
        let path = folder().join("none.aedat4");
        assert_eq!(sensor(&path).unwrap(), Some(Sensor { width: 64, height: 48 }));
        assert_eq!(sensor(&folder().join("evt3.raw")).unwrap(), None);
        let m = read(&path, &Reading::GESTURE).unwrap_err().to_string();
        assert!(m.contains("128x128") && m.contains("64x48") && m.contains("--sensor"), "{m}");
    }
}
