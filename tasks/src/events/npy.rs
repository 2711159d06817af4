//! Events in NumPy files, as tonic keeps DVS128 Gesture.
//!
//! One recording is an array `[events, 4]` of any number type, in C or Fortran order, with the columns x, y, p, t; t in milliseconds.
//! The format is that of NumPy (NEP 1): `\x93NUMPY`, version, length of the header, a Python dictionary in text, the numbers.

use std::path::Path;

use super::{Disorder, Event, Sensor};
use crate::shd::bin::half;
use crate::{Error, Result};

/// Reads a file. Errors: [`Error::Io`] and those of [`decode`].
pub fn read(path: &Path, sensor: Sensor, disorder: Disorder) -> Result<Vec<Event>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read the NumPy file", &e))?;
    decode(&bytes, path, sensor, disorder)
}

/// The events of a file with contents `bytes`; `path` is for messages only.
///
/// Errors: [`Error::Damaged`] for another format, type or shape and for numbers that are no coordinates, [`Error::Empty`],
/// [`Error::OffSensor`] and [`Error::TimeBackwards`] with the byte where the event (in C order) begins.
pub fn decode(bytes: &[u8], path: &Path, sensor: Sensor, disorder: Disorder) -> Result<Vec<Event>> {
    let bad = |rule: &str, got: String| Err(Error::damaged(path, rule, got));
    let Some((header, data)) = split(bytes) else {
        return bad("the file is in NumPy's format", format!("it begins with {:02x?}", &bytes[..bytes.len().min(8)]));
    };
    let Some((size, number)) = value(header, "descr").and_then(|d| reader(d.trim_matches(['\'', '"']))) else {
        return bad("the array has numbers of 1 to 8 bytes", header.chars().take(80).collect());
    };
    let fortran = value(header, "fortran_order").is_some_and(|v| v.starts_with("True"));
    let shape = value(header, "shape").unwrap_or_default().trim_matches(['(', ')']);
    let shape: Vec<usize> = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let &[n, 4] = shape.as_slice() else {
        return bad("the array has shape [events, 4]", format!("{shape:?}"));
    };
    if n.checked_mul(4 * size) != Some(data.len()) {
        return bad("the numbers follow the header", format!("{} bytes for {n} events of 4 x {size}", data.len()));
    }
    if n == 0 {
        let (got, next) = ("an array of no events".into(), "copy the file again, or leave it out");
        return Err(Error::Empty { path: path.to_owned(), got, next });
    }
    let at = |event: usize, column: usize| {
        let i = if fortran { column * n + event } else { event * 4 + column };
        number(&data[i * size..][..size])
    };
    let mut out: Vec<Event> = Vec::with_capacity(n);
    let mut sorted = true;
    for i in 0..n {
        let [x, y, p, t] = std::array::from_fn(|column| at(i, column));
        let offset = (bytes.len() - data.len() + i * 4 * size) as u64;
        let whole = |v: f64| (0.0..65_536.0).contains(&v) && v.fract() == 0.0;
        if !whole(x) || !whole(y) || !(0.0..1e15).contains(&t) {
            return bad(
                "x and y are whole numbers and t is at least 0",
                format!("x = {x}, y = {y}, t = {t} in event {i}"),
            );
        }
        let e = Event { t: (t * 1000.0) as u64, x: x as u16, y: y as u16, p: p > 0.0 };
        if e.x >= sensor.width || e.y >= sensor.height {
            let Sensor { width, height } = sensor;
            return Err(Error::OffSensor { path: path.to_owned(), offset, x: e.x, y: e.y, width, height });
        }
        if let Some(before) = out.last().map(|b| b.t).filter(|&b| b > e.t) {
            if disorder == Disorder::Refuse {
                return Err(Error::TimeBackwards { path: path.to_owned(), offset, time: e.t, before });
            }
            sorted = false;
        }
        out.push(e);
    }
    if !sorted {
        out.sort_by_key(|e| e.t);
    }
    Ok(out)
}

/// Header text and data.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (&[major, _minor], rest) = rest.split_first_chunk::<2>()?;
    let (length, rest) = if major == 1 {
        let (n, rest) = rest.split_first_chunk::<2>()?;
        (usize::from(u16::from_le_bytes(*n)), rest)
    } else {
        let (n, rest) = rest.split_first_chunk::<4>()?;
        (u32::from_le_bytes(*n) as usize, rest)
    };
    let (header, data) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

/// The text of a value in the header's dictionary, up to its end.
fn value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let at = header.find(&format!("'{key}'"))?;
    let text = header[at..].split_once(':')?.1.trim_start();
    let end = if text.starts_with('(') { text.find(')')? + 1 } else { text.find([',', '}'])? };
    Some(text[..end].trim())
}

/// Size and reader of a number type such as `<i8`.
fn reader(descr: &str) -> Option<(usize, impl Fn(&[u8]) -> f64)> {
    let mut chars = descr.chars();
    let big = match chars.next()? {
        '<' | '|' | '=' => false,
        '>' => true,
        _ => return None,
    };
    let kind = chars.next()?;
    let size: usize = chars.as_str().parse().ok()?;
    let known = match kind {
        'i' | 'u' => matches!(size, 1 | 2 | 4 | 8),
        'f' => matches!(size, 2 | 4 | 8),
        'b' => size == 1,
        _ => false,
    };
    known.then_some((size, move |chunk: &[u8]| {
        let mut word = [0; 8];
        word[..size].copy_from_slice(chunk);
        if big {
            word[..size].reverse();
        }
        let bits = u64::from_le_bytes(word);
        let shift = 64 - 8 * size as u32;
        match (kind, size) {
            ('f', 2) => half(bits as u16),
            ('f', 4) => f64::from(f32::from_bits(bits as u32)),
            ('f', _) => f64::from_bits(bits),
            ('i', _) => ((bits << shift) as i64 >> shift) as f64,
            _ => bits as f64,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn run(bytes: &[u8]) -> Result<Vec<Event>> {
        decode(bytes, Path::new("3.npy"), Sensor::DVS128, Disorder::Refuse)
    }

    #[test]
    fn types_and_orders() {
        let want = [Event { t: 4000, x: 1, y: 2, p: true }, Event { t: 8000, x: 127, y: 6, p: false }];
        let c = [1i64, 2, 1, 4, 127, 6, 0, 8];
        let f = [1i64, 127, 2, 6, 1, 0, 4, 8];
        let le: Vec<u8> = c.iter().flat_map(|v| v.to_le_bytes()).collect();
        let be: Vec<u8> = f.iter().flat_map(|v| (*v as i16).to_be_bytes()).collect();
        let fl: Vec<u8> = c.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
        let by: Vec<u8> = c.iter().map(|v| *v as u8).collect();
        assert_eq!(run(&file("<i8", "False", "(2, 4)", &le)).unwrap(), want);
        assert_eq!(run(&file(">i2", "True", "(2, 4)", &be)).unwrap(), want);
        assert_eq!(run(&file("<f4", "False", "(2, 4)", &fl)).unwrap(), want);
        assert_eq!(run(&file("|u1", "False", "(2, 4)", &by)).unwrap(), want);
    }

    #[test]
    fn damage() {
        let ok = [1, 2, 1, 4, 5, 6, 0, 8];
        let says = |bytes: &[u8], words: &str| {
            let m = run(bytes).unwrap_err().to_string();
            assert!(m.contains(words) && m.contains("3.npy"), "{m}");
        };
        says(b"PK", "NumPy's format");
        says(&file("|u1", "False", "(3, 4)", &ok), "follow the header");
        says(&file("|u1", "False", "(8,)", &ok), "shape [events, 4]");
        says(&file("|O8", "False", "(2, 4)", &ok), "1 to 8 bytes");
        says(&file("|u1", "False", "(0, 4)", &[]), "at least one event");
        says(&file("|u1", "False", "(1, 4)", &[200, 2, 1, 4]), "x = 200");
        says(&file("|u1", "False", "(2, 4)", &[1, 2, 1, 4, 5, 6, 0, 3]), "does not go back");
        says(&file("|i1", "False", "(1, 4)", &[255, 2, 1, 4]), "x = -1");
        says(&file("|u1", "False", "(99999999999999999, 4)", &ok), "follow the header");
        let good = file("|u1", "False", "(2, 4)", &ok);
        let mut s = crate::rng::Stream::new(2, "npy fuzz", &[]);
        for _ in 0..5000 {
            let mut bytes = good.clone();
            let at = s.below(bytes.len() as u64) as usize;
            bytes[at] = s.bits() as u8;
            bytes.truncate(s.below(2 * bytes.len() as u64) as usize);
            let _ = run(&bytes);
        }
    }
}
