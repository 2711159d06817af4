//! The 40-bit event files of N-MNIST (`.bin`), and of SLAYER's gesture samples (`.bs2`).
//!
//! No header; five bytes an event (the format of Orchard et al. 2015):
//!
//! ```text
//! byte 0      byte 1      byte 2                 byte 3      byte 4
//! x           y           p : 1 | t[22..16] : 7  t[15..8]    t[7..0]        t in microseconds, big endian
//! ```
//!
//! An event with y = 240 is no event but the mark of a timer overflow: it and all later times are 8192 us later than
//! written. Marks are counted and dropped.

use std::path::Path;

use super::{Disorder, Event, Sensor};
use crate::{Error, Result};

/// Bytes of an event.
pub const EVENT_BYTES: usize = 5;
const OVERFLOW_ROW: u8 = 240;
const OVERFLOW_US: u64 = 8192;

/// Reads and decodes a file. Errors: those of [`decode`], and [`Error::Io`].
pub fn read(path: &Path, sensor: Sensor, disorder: Disorder) -> Result<Vec<Event>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read the event file", &e))?;
    decode(&bytes, path, sensor, disorder)
}

/// The events of a file with contents `bytes`; `path` is for messages only.
///
/// Errors: [`Error::Empty`], [`Error::Truncated`], [`Error::OffSensor`], and under [`Disorder::Refuse`] [`Error::TimeBackwards`];
/// each with the byte where it happened.
pub fn decode(bytes: &[u8], path: &Path, sensor: Sensor, disorder: Disorder) -> Result<Vec<Event>> {
    let (events, rest) = bytes.as_chunks::<EVENT_BYTES>();
    if !rest.is_empty() {
        let offset = (bytes.len() - rest.len()) as u64;
        return Err(Error::Truncated { path: path.to_owned(), len: bytes.len() as u64, offset });
    }
    let mut out = Vec::with_capacity(events.len());
    let (mut late, mut before, mut sorted) = (0, 0, true);
    for (i, &[x, y, b2, b3, b4]) in events.iter().enumerate() {
        if y == OVERFLOW_ROW {
            late += OVERFLOW_US;
            continue;
        }
        let offset = (i * EVENT_BYTES) as u64;
        let (x, y) = (u16::from(x), u16::from(y));
        if x >= sensor.width || y >= sensor.height {
            let Sensor { width, height } = sensor;
            return Err(Error::OffSensor { path: path.to_owned(), offset, x, y, width, height });
        }
        let t = late + (u64::from(b2 & 0x7f) << 16 | u64::from(b3) << 8 | u64::from(b4));
        if t < before {
            if disorder == Disorder::Refuse {
                return Err(Error::TimeBackwards { path: path.to_owned(), offset, time: t, before });
            }
            sorted = false;
        }
        before = t;
        out.push(Event { t, x, y, p: b2 >> 7 == 1 });
    }
    if out.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
            got: format!("{} bytes without an event", bytes.len()),
            next: "copy or unpack the file again, or leave it out",
        });
    }
    if !sorted {
        out.sort_by_key(|e| e.t);
    }
    Ok(out)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn encode(events: &[(u8, u8, bool, u32)]) -> Vec<u8> {
        let one = |&(x, y, p, t): &(u8, u8, bool, u32)| {
            [x, y, u8::from(p) << 7 | (t >> 16) as u8 & 0x7f, (t >> 8) as u8, t as u8]
        };
        events.iter().flat_map(one).collect()
    }

    fn run(bytes: &[u8], disorder: Disorder) -> Result<Vec<Event>> {
        decode(bytes, Path::new("Train/3/00001.bin"), Sensor::NMNIST, disorder)
    }

    #[test]
    fn bits_are_where_the_format_has_them() {
        let got = run(&[3, 33, 0x80 | 0x01, 0x02, 0x03], Disorder::Refuse).unwrap();
        assert_eq!(got, [Event { t: 0x01_02_03, x: 3, y: 33, p: true }]);
    }

    #[test]
    fn overflow_marks_move_all_later_events() {
        let bytes =
            encode(&[(1, 1, true, 100), (0, 240, false, 0), (2, 2, false, 50), (9, 240, true, 3), (3, 3, true, 7)]);
        let got: Vec<u64> = run(&bytes, Disorder::Refuse).unwrap().iter().map(|e| e.t).collect();
        assert_eq!(got, [100, 8192 + 50, 2 * 8192 + 7]);
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let good = encode(&[(1, 1, true, 10), (2, 2, true, 20), (3, 3, true, 30)]);
        let says = |bytes: &[u8], words: &[&str]| {
            let m = run(bytes, Disorder::Refuse).unwrap_err().to_string();
            assert!(words.iter().all(|w| m.contains(w)) && m.contains("Train/3/00001.bin"), "{m}");
        };
        says(&good[..13], &["13 bytes", "byte 10", "cut short"]);
        says(&encode(&[(1, 1, true, 10), (34, 2, true, 20)]), &["byte 5", "x = 34", "below 34"]);
        says(&encode(&[(1, 200, true, 10)]), &["byte 0", "y = 200"]);
        says(&encode(&[(1, 1, true, 10), (1, 1, true, 30), (1, 1, true, 20)]), &["byte 10", "20 us", "30 us", "Sort"]);
        says(&[], &["at least one event", "0 bytes"]);
        says(&encode(&[(0, 240, false, 0)]), &["5 bytes without an event"]);
    }

    #[test]
    fn disorder_can_be_sorted() {
        let bytes = encode(&[(1, 1, true, 10), (2, 1, true, 30), (3, 1, true, 20), (4, 1, true, 20)]);
        let got: Vec<u16> = run(&bytes, Disorder::Sort).unwrap().iter().map(|e| e.x).collect();
        assert_eq!(got, [1, 3, 4, 2]);
    }

    #[test]
    fn any_bytes_give_events_or_an_error() {
        let mut s = crate::rng::Stream::new(1, "aer fuzz", &[]);
        for _ in 0..5000 {
            let bytes: Vec<u8> = (0..s.below(40)).map(|_| s.bits() as u8 % 36).collect();
            for disorder in [Disorder::Refuse, Disorder::Sort] {
                if let Ok(events) = run(&bytes, disorder) {
                    assert!(events.is_sorted_by_key(|e| e.t) && !events.is_empty());
                }
            }
        }
    }
}
