//! AEDAT 3.1, the form in which IBM gives DVS128 Gesture.
//!
//! Lines of text that begin with `#`, the first `#!AER-DAT3.1`, then packets, all little endian:
//!
//! ```text
//! packet  type u16 | source u16 | event size u32 | .. | capacity u32 (byte 16) | number u32 (20) | valid u32 (24) | events
//! event   data u32: valid bit 0, polarity bit 1, y bits 2 to 14, x bits 17 to 29 | time i32, microseconds
//! ```
//!
//! Only polarity events (type 1) are taken. A recording holds many gestures; a table beside it says which is when ([`trials`]).

use std::path::Path;

use super::{Disorder, Event, Sensor};
use crate::{Error, Result};

const POLARITY: u16 = 1;

/// Reads a file. Errors: [`Error::Io`] and those of [`decode`].
pub fn read(path: &Path, sensor: Sensor, disorder: Disorder) -> Result<Vec<Event>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read the AEDAT file", &e))?;
    decode(&bytes, path, sensor, disorder)
}

/// The valid polarity events of a file with contents `bytes`; `path` is for messages only.
///
/// Errors: [`Error::Damaged`] for another version and for packets that do not fit, [`Error::Empty`], [`Error::OffSensor`],
/// [`Error::TimeBackwards`].
pub fn decode(bytes: &[u8], path: &Path, sensor: Sensor, disorder: Disorder) -> Result<Vec<Event>> {
    if !bytes.starts_with(b"#!AER-DAT3.1") {
        let got = String::from_utf8_lossy(&bytes[..bytes.len().min(14)]).trim().to_owned();
        return Err(Error::damaged(path, "the first line is #!AER-DAT3.1", format!("{got:?}")));
    }
    let mut at = 0;
    while bytes.get(at) == Some(&b'#') {
        at += bytes[at..].iter().position(|&b| b == b'\n').map_or(bytes.len() - at, |n| n + 1);
    }
    let u32_at = |i: usize| bytes.get(i..).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b));
    let mut out: Vec<Event> = Vec::new();
    let mut sorted = true;
    while at < bytes.len() {
        let fields = (u32_at(at), u32_at(at + 4), u32_at(at + 20), u32_at(at + 24));
        let (Some(kind), Some(size), Some(number), Some(_valid)) = fields else {
            return Err(Error::damaged(
                path,
                "a packet begins with 28 bytes",
                format!("{} at byte {at}", bytes.len() - at),
            ));
        };
        let body = at + 28;
        let end = (number as usize).checked_mul(size as usize).and_then(|n| body.checked_add(n));
        let Some(end) = end.filter(|&e| e <= bytes.len() && size >= 8) else {
            let got = format!("{number} events of {size} bytes at byte {at} of {}", bytes.len());
            return Err(Error::damaged(path, "a packet ends within the file and its events take 8 bytes", got));
        };
        if kind as u16 == POLARITY {
            for offset in (body..end).step_by(size as usize) {
                let (Some(data), Some(time)) = (u32_at(offset), u32_at(offset + 4)) else {
                    break;
                };
                if data & 1 == 0 {
                    continue;
                }
                let (x, y) = ((data >> 17 & 0x1fff) as u16, (data >> 2 & 0x1fff) as u16);
                let e = Event { t: u64::from(time), x, y, p: data >> 1 & 1 == 1 };
                let offset = offset as u64;
                if x >= sensor.width || y >= sensor.height {
                    let Sensor { width, height } = sensor;
                    return Err(Error::OffSensor { path: path.to_owned(), offset, x, y, width, height });
                }
                if let Some(before) = out.last().map(|b| b.t).filter(|&b| b > e.t) {
                    if disorder == Disorder::Refuse {
                        return Err(Error::TimeBackwards { path: path.to_owned(), offset, time: e.t, before });
                    }
                    sorted = false;
                }
                out.push(e);
            }
        }
        at = end;
    }
    if out.is_empty() {
        let got = format!("{} bytes without a polarity event", bytes.len());
        return Err(Error::Empty { path: path.to_owned(), got, next: "copy the file again, or leave it out" });
    }
    if !sorted {
        out.sort_by_key(|e| e.t);
    }
    Ok(out)
}

/// A gesture within a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Class from 0; the table counts from 1.
    pub class: i32,
    /// First microsecond.
    pub start: u64,
    /// First microsecond after it.
    pub end: u64,
}

/// The table `class,startTime_usec,endTime_usec` beside a recording, with its heading. Errors: [`Error::Damaged`] with the line.
pub fn trials(text: &str, path: &Path) -> Result<Vec<Trial>> {
    let lines = text.lines().enumerate().skip(1).filter(|(_, l)| !l.trim().is_empty());
    lines
        .map(|(i, line)| {
            let numbers: Vec<u64> = line.split(',').filter_map(|n| n.trim().parse().ok()).collect();
            match numbers[..] {
                [class @ 1..=11, start, end] if start < end => Ok(Trial { class: class as i32 - 1, start, end }),
                _ => {
                    let rule = "a line has a class from 1 to 11, a start and a later end in microseconds";
                    Err(Error::damaged(path, rule, format!("line {}: {line:?}", i + 1)))
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(kind: u16, events: &[(u32, u32)]) -> Vec<u8> {
        let mut p = vec![0; 28];
        p[..2].copy_from_slice(&kind.to_le_bytes());
        p[4..8].copy_from_slice(&8u32.to_le_bytes());
        for i in [16, 20, 24] {
            p[i..i + 4].copy_from_slice(&(events.len() as u32).to_le_bytes());
        }
        events.iter().for_each(|(d, t)| p.extend(d.to_le_bytes().into_iter().chain(t.to_le_bytes())));
        p
    }

    fn data(x: u32, y: u32, p: u32) -> u32 {
        x << 17 | y << 2 | p << 1 | 1
    }

    fn run(bytes: &[u8]) -> Result<Vec<Event>> {
        decode(bytes, Path::new("user01.aedat"), Sensor::DVS128, Disorder::Refuse)
    }

    #[test]
    fn packets() {
        let mut bytes = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n".to_vec();
        bytes.extend(packet(POLARITY, &[(data(5, 100, 1), 10), (data(5, 100, 1) & !1, 11), (data(127, 0, 0), 12)]));
        bytes.extend(packet(0, &[(7, 0)]));
        bytes.extend(packet(POLARITY, &[(data(1, 2, 0), 20)]));
        let got: Vec<_> = run(&bytes).unwrap().iter().map(|e| (e.t, e.x, e.y, e.p)).collect();
        assert_eq!(got, [(10, 5, 100, true), (12, 127, 0, false), (20, 1, 2, false)]);
        let m = run(&bytes[..bytes.len() - 3]).unwrap_err().to_string();
        assert!(m.contains("within the file"), "{m}");
        assert!(run(b"#!AER-DAT2.0\n").unwrap_err().to_string().contains("#!AER-DAT3.1"));
        assert!(matches!(run(b"#!AER-DAT3.1\n"), Err(Error::Empty { .. })));
        let mut s = crate::rng::Stream::new(3, "aedat fuzz", &[]);
        for _ in 0..5000 {
            let mut b = bytes.clone();
            let at = s.below(b.len() as u64) as usize;
            b[at] = s.bits() as u8;
            b.truncate(s.below(2 * b.len() as u64) as usize);
            let _ = run(&b);
        }
    }

    #[test]
    fn tables() {
        let path = Path::new("user01_labels.csv");
        let got = trials("class,startTime_usec,endTime_usec\n1,100,200\n11,300,400\n", path).unwrap();
        assert_eq!(got, [Trial { class: 0, start: 100, end: 200 }, Trial { class: 10, start: 300, end: 400 }]);
        let m = trials("h\n12,1,2\n", path).unwrap_err().to_string();
        assert!(m.contains("line 2"), "{m}");
    }
}
