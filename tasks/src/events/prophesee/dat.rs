//! `.dat`: a header, the type and the size of an event in a byte each, then events of eight bytes, little endian.
//!
//! ```text
//! event   time u32, microseconds | x : 14, y : 14, p : 4, from the lowest bit
//! ```
//!
//! The timer runs over after 72 minutes, and is followed.

use std::path::Path;

use super::Header;
use crate::events::{Clock, Collector, Reading, Recording, Sensor, TimeUnit};
use crate::{Error, Result};

/// Bytes of an event.
const EVENT: usize = 8;
/// The two types of an event with these bits.
const TYPES: [u8; 2] = [0x00, 0x0c];

/// The sensor that the header names.
pub fn sensor(bytes: &[u8]) -> Option<Sensor> {
    Header::of(bytes).sensor()
}

/// The events of a file with contents `bytes`; `path` is for messages only. Times are microseconds unless the reading says otherwise.
///
/// Errors: [`Error::Damaged`] for another version of the format and for events of another type, [`Error::Truncated`],
/// [`Error::OffSensor`], and those of every recording: [`Error::Empty`], [`Error::TimeBackwards`], [`Error::Damaged`].
pub fn decode(bytes: &[u8], path: &Path, reading: &Reading) -> Result<Recording> {
    let header = Header::of(bytes);
    let other = |got: String| {
        let rule = "a .dat file has a header in version 2 and events of the type 0 or 12 in 8 bytes";
        Error::unusable(path, rule, got, "convert it to that, or copy it again")
    };
    if header.len() == 0 {
        return Err(other("no header".into()));
    }
    if let Some(version) = header.get("version").filter(|v| *v != "2") {
        return Err(other(format!("version {:?}", version.chars().take(20).collect::<String>())));
    }
    let (about, body) = bytes[header.len()..].split_at_checked(2).ok_or_else(|| other("nothing after it".into()))?;
    if !TYPES.contains(&about[0]) || usize::from(about[1]) != EVENT {
        return Err(other(format!("events of the type {} in {} bytes", about[0], about[1])));
    }
    let (events, rest) = body.as_chunks::<EVENT>();
    if !rest.is_empty() {
        let (len, offset) = (bytes.len() as u64, (bytes.len() - rest.len()) as u64);
        return Err(Error::Truncated { path: path.to_owned(), word: EVENT as u64, len, offset });
    }
    let mut out = Collector::new(path, reading, TimeUnit::Us, events.len())?;
    let mut clock = Clock::new(1 << 32);
    for (i, &[a, b, c, d, rest @ ..]) in events.iter().enumerate() {
        let (time, word) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(rest));
        let (x, y) = ((word & 0x3fff) as u16, (word >> 14 & 0x3fff) as u16);
        let at = (header.len() + 2 + i * EVENT) as u64;
        out.push(at, clock.unwrap(time.into()) as f64, x, y, word >> 28 & 1 == 1)?;
    }
    clock.remark().into_iter().for_each(|r| out.remark(r));
    out.finish(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Disorder, format};

    const HEAD: &[u8] = b"% Data file containing CD events\n% Version 2\n% Width 64\n% Height 48\n";

    fn file(head: &[u8], about: [u8; 2], events: &[(u32, u32, u32, u32)]) -> Vec<u8> {
        let word = |&(t, x, y, p): &(u32, u32, u32, u32)| [t.to_le_bytes(), (p << 28 | y << 14 | x).to_le_bytes()];
        [head, &about, &events.iter().flat_map(word).flatten().collect::<Vec<u8>>()].concat()
    }

    fn run(bytes: &[u8]) -> Result<Recording> {
        let sensor = Sensor { width: 64, height: 48 };
        let reading = Reading { sensor, lasts: (0.0, f64::MAX), disorder: Disorder::Refuse, time_unit: None };
        decode(bytes, Path::new("a.dat"), &reading)
    }

    #[test]
    fn events_and_a_timer_that_runs_over() {
        let bytes = file(HEAD, [12, 8], &[(u32::MAX, 63, 0, 1), (4, 0, 47, 0)]);
        let got = run(&bytes).unwrap();
        let brief: Vec<_> = got.events.iter().map(|e| (e.t, e.x, e.y, e.p)).collect();
        assert_eq!(brief, [((1 << 32) - 1, 63, 0, true), ((1 << 32) + 4, 0, 47, false)]);
        assert!(got.remarks[0].contains("ran over"));
        assert_eq!(sensor(&bytes), Some(Sensor { width: 64, height: 48 }));
    }

    #[test]
    fn damage_is_named() {
        let sound = file(HEAD, [0, 8], &[(5, 1, 2, 1), (9, 1, 2, 1)]);
        let says = |bytes: &[u8], text: &str| {
            let m = run(bytes).unwrap_err().to_string();
            assert!(m.contains(text) && m.contains("a.dat"), "{m}");
        };
        says(&sound[HEAD.len()..], "no header");
        says(HEAD, "nothing after it");
        says(&sound[..sound.len() - 3], "an event takes 8 bytes");
        says(&file(b"% Version 1\n", [0, 8], &[]), "version \"1\"");
        says(&file(HEAD, [14, 16], &[]), "type 14 in 16 bytes");
        says(&file(HEAD, [0, 8], &[]), "at least one event");
        says(&file(HEAD, [0, 8], &[(5, 64, 2, 1)]), "x = 64");
        says(&file(HEAD, [0, 8], &[(5, 1, 2, 1), (4, 1, 2, 1)]), "does not go back");
    }

    #[test]
    fn a_file_of_another_program() {
        let got = format::tests::genuine("cd.dat");
        assert_eq!((got.events, got.remarks), (format::tests::written(), vec![]));
    }
}
