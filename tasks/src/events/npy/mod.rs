//! Events in NumPy files.
//!
//! One recording is an array, in the format of NEP 1: `\x93NUMPY`, version, length of the header, a Python dictionary in text, the numbers.
//! Two forms are read, both with numbers of any type, byte order and memory order:
//!
//! * **plain** `[events, 4]` (or `[4, events]`), as tonic keeps DVS128 Gesture: columns x, y, p, t, with t in milliseconds. Another order is
//!   recognised where values leave no doubt: t rises, p has two values, x and y lie on the sensor.
//! * **named columns** t, x, y, p in any order (a structured array), as event libraries return them: t in microseconds, unless the name
//!   (`t_ms`) or the type (`timedelta64[ns]`) says otherwise.
//!
//! Polarities are 0 and 1, -1 and 1, or truth values.

mod columns;
mod header;
mod write;

use std::path::Path;

use self::columns::{Column, Named, Number, named, order, ranges};
use self::header::{Value, parse, split};
pub use self::write::encode;
use super::{Clock, Collector, Reading, Recording, TimeUnit};
use crate::{Error, Result};

/// How to save what is not read.
const SAVE: &str = "save a plain array with `np.save(name, np.stack([x, y, p, t / 1000], 1))` for t in microseconds";

/// The events of a file with contents `bytes`; `path` is for messages only.
///
/// Errors: [`Error::Damaged`] for another format, type or shape and for numbers that are no coordinates, polarities or times;
/// [`Error::OffSensor`] with the byte where the event (in C order) begins, and those of every recording: [`Error::Empty`],
/// [`Error::TimeBackwards`], [`Error::Damaged`].
pub fn decode(bytes: &[u8], path: &Path, reading: &Reading) -> Result<Recording> {
    let Some((text, data)) = split(bytes) else {
        let got = if bytes.starts_with(b"PK") {
            "a zip archive (of np.savez?)".into()
        } else {
            format!("it begins with {:02x?}", &bytes[..bytes.len().min(8)])
        };
        return Err(Error::damaged(path, "the file is in NumPy's format", got));
    };
    let array = Array::parse(text, data, path, reading)?;
    collect(&array, data, bytes.len(), path, reading)
}

/// The events of rows of named numbers that another format keeps: the names and NumPy's types of all that is in a row. `length` is that of
/// the file, for messages.
///
/// Errors: as [`decode`].
pub(crate) fn of_rows(
    fields: &[(String, String)],
    data: &[u8],
    length: usize,
    path: &Path,
    reading: &Reading,
) -> Result<Recording> {
    let fields: Vec<Value> =
        fields.iter().map(|(name, descr)| Value::Many(vec![Value::Text(name), Value::Text(descr)])).collect();
    let mut array = Array::of_names(&fields, Some(vec![0]), path)?;
    array.events = data.len() / array.size.max(1);
    collect(&array, data, length, path, reading)
}

/// The events of an array. Its numbers are at the end of the file.
fn collect(array: &Array, data: &[u8], length: usize, path: &Path, reading: &Reading) -> Result<Recording> {
    let first_byte = length.saturating_sub(data.len());
    let mut out = Collector::new(path, reading, array.unit, array.events)?;
    array.remark.iter().for_each(|r| out.remark(r.as_str()));
    let polarity = Polarity::find(array.columns[2], data, array.events, path)?;
    let mut clock = array.columns[3].number.range().map(Clock::new);
    for i in 0..array.events {
        let [x, y, p, t] = array.columns.map(|c| c.at(data, i));
        let whole = |v: f64| (0.0..65_536.0).contains(&v) && v.fract() == 0.0;
        if !whole(x) || !whole(y) || !t.is_finite() {
            let rule = "x and y are whole numbers and t is a finite one";
            let columns = ranges(array.columns, data, array.events, reading.sensor);
            let got = format!("x = {x}, y = {y}, t = {t} in event {i}; columns taken for x | y | p | t have {columns}");
            return Err(Error::unusable(path, rule, got, format!("if the columns are in another order, {SAVE}")));
        }
        let time = match &mut clock {
            Some(clock) => ticks(clock, t, array.columns[3].number),
            None => t,
        };
        out.push((first_byte + i * array.size) as u64, time, x as u16, y as u16, polarity.is_on(p))?;
    }
    clock.and_then(|c| c.remark()).into_iter().for_each(|r| out.remark(r));
    out.finish(length)
}

/// The time of an integer timer that may run over, into negative numbers where it has a sign. A time that is negative without the timer
/// having been anywhere near that stays negative.
fn ticks(clock: &mut Clock, t: f64, number: Number) -> f64 {
    match number.range() {
        Some(range) if t < 0.0 && clock.last() >= range / 4 => clock.unwrap((t + range as f64) as u64) as f64,
        Some(_) if t >= 0.0 => clock.unwrap(t as u64) as f64,
        _ => t,
    }
}

/// What an array is, after its header.
struct Array {
    /// x, y, p, t.
    columns: [Column; 4],
    unit: TimeUnit,
    events: usize,
    /// Bytes of an event.
    size: usize,
    remark: Option<String>,
}

impl Array {
    fn parse(text: &str, data: &[u8], path: &Path, reading: &Reading) -> Result<Array> {
        let header = parse(text);
        let get = |key: &str| header.as_ref().and_then(|h| h.get(key));
        let shape: Option<Vec<usize>> = match get("shape") {
            Some(Value::Many(sizes)) => {
                sizes.iter().map(|s| if let Value::Word(w) = s { w.parse().ok() } else { None }).collect()
            }
            _ => None,
        };
        let fortran = get("fortran_order") == Some(&Value::Word("True"));
        let array = match get("descr") {
            Some(Value::Text(descr)) => Array::plain(descr, shape, fortran, data, path, reading)?,
            Some(Value::Many(fields)) => Array::of_names(fields, shape, path)?,
            _ => return Err(no_array(path, text)),
        };
        if array.events.checked_mul(array.size) != Some(data.len()) {
            let got = format!("{} bytes for {} events of {}", data.len(), array.events, array.size);
            return Err(Error::damaged(path, "the numbers follow the header", got));
        }
        Ok(array)
    }

    fn plain(
        descr: &str,
        shape: Option<Vec<usize>>,
        fortran: bool,
        data: &[u8],
        path: &Path,
        reading: &Reading,
    ) -> Result<Array> {
        let Some((number, None)) = Number::parse(descr) else {
            return Err(no_array(path, &format!("numbers of the type {descr:?}")));
        };
        let shape = shape.unwrap_or_default();
        let (events, by_column) = match shape[..] {
            [n, 4] => (n, fortran),
            [4, n] => (n, !fortran),
            _ => {
                let rule = "the array has shape [events, 4]";
                return Err(Error::unusable(path, rule, format!("{shape:?}"), SAVE));
            }
        };
        let (size, number_size) = (4 * number.size, number.size);
        let columns = [0, 1, 2, 3].map(|k| {
            let (start, stride) =
                if by_column { (k * number_size, number_size) } else { (k * number_size, 4 * number_size) };
            Column { number, start: if by_column { start.saturating_mul(events) } else { start }, stride }
        });
        let fits = events.checked_mul(size) == Some(data.len());
        let (columns, remark) = if fits { order(columns, data, events, reading.sensor) } else { (columns, None) };
        Ok(Array { columns, unit: TimeUnit::Ms, events, size, remark })
    }

    fn of_names(fields: &[Value], shape: Option<Vec<usize>>, path: &Path) -> Result<Array> {
        let Some(&[events]) = shape.as_deref() else {
            let rule = "an array with named columns has shape [events]";
            return Err(Error::unusable(path, rule, format!("{:?}", shape.unwrap_or_default()), SAVE));
        };
        let Named { columns, unit, event, ignored } = named(fields)
            .map_err(|got| Error::unusable(path, "named columns are t, x, y and p, each of numbers", got, SAVE))?;
        let remark = (!ignored.is_empty()).then(|| format!("named columns that are not read: {}", ignored.join(", ")));
        Ok(Array { columns, unit: unit.unwrap_or(TimeUnit::Us), events, size: event, remark })
    }
}

fn no_array(path: &Path, got: &str) -> Error {
    let rule = "the array has numbers of 1 to 8 bytes, or named columns t, x, y, p of such numbers";
    Error::unusable(path, rule, got.trim().chars().take(100).collect::<String>(), SAVE)
}

/// The two values of a polarity.
enum Polarity {
    /// 0 and 1.
    Unsigned,
    /// -1 and 1.
    Signed,
}

impl Polarity {
    fn find(column: Column, data: &[u8], events: usize, path: &Path) -> Result<Polarity> {
        let rule = "p is 0 or 1, or -1 or 1";
        // Which of -1, 0, 1, 2 and 255 there are, and the first of other values.
        let known = [-1.0, 0.0, 1.0, 2.0, 255.0];
        let (mut has, mut strange) = ([false; 5], None);
        for i in 0..events {
            let p = column.at(data, i);
            match known.iter().position(|&k| k == p) {
                Some(k) => has[k] = true,
                None => strange = strange.or(Some((i, p))),
            }
        }
        let (got, next) = match (strange, has) {
            (None, [minus, zero, _, false, false]) if !(minus && zero) => {
                return Ok(if minus { Polarity::Signed } else { Polarity::Unsigned });
            }
            (Some((i, p)), _) => (
                format!("p = {p} in event {i}"),
                "if the columns are in another order, save them as x, y, p, t; else save polarities as 0 and 1",
            ),
            (None, [false, false, _, true, false]) => {
                ("1 and 2".into(), "do polarities count from 1? Save them as 0 and 1")
            }
            (None, [false, _, _, false, true]) => {
                ("255".into(), "is it -1 in a column without signs? Save polarities as 0 and 1")
            }
            (None, [true, true, ..]) => ("both 0 and -1".into(), "save polarities as 0 and 1"),
            _ => ("more than two values".into(), "save polarities as 0 and 1"),
        };
        Err(Error::unusable(path, rule, got, next))
    }

    fn is_on(&self, p: f64) -> bool {
        match self {
            Polarity::Unsigned => p == 1.0,
            Polarity::Signed => p > 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Disorder, Event};

    /// `descr` as Python writes it.
    fn array(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn file(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        array(&format!("'{descr}'"), fortran, shape, data)
    }

    /// Any length will do.
    const ANY: Reading = Reading { lasts: (0.0, f64::MAX), ..Reading::GESTURE };

    fn run(bytes: &[u8]) -> Result<Vec<Event>> {
        decode(bytes, Path::new("3.npy"), &ANY).map(|r| r.events)
    }

    fn says(bytes: &[u8], words: &str) {
        let m = run(bytes).unwrap_err().to_string();
        assert!(m.contains(words) && m.contains("3.npy"), "{m}");
    }

    /// A gesture of 4 s with 200 events: x, y, p, t (ms), saved as doubles with the columns in an order.
    fn gesture(order: [usize; 4], change: impl Fn(&mut [f64; 4])) -> Vec<u8> {
        let mut data = Vec::new();
        for i in 0..200u32 {
            let mut e = [f64::from(i % 128), f64::from(i * 7 % 128), f64::from(i % 2), f64::from(i) * 20.0];
            change(&mut e);
            order.iter().for_each(|&k| data.extend(e[k].to_le_bytes()));
        }
        file("<f8", "False", "(200, 4)", &data)
    }

    fn read(bytes: &[u8]) -> Result<Recording> {
        decode(bytes, Path::new("3.npy"), &Reading::GESTURE)
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
        let columns: Vec<u8> = f.iter().map(|v| *v as u8).collect();
        assert_eq!(run(&file("<i8", "False", "(2, 4)", &le)).unwrap(), want);
        assert_eq!(run(&file(">i2", "True", "(2, 4)", &be)).unwrap(), want);
        assert_eq!(run(&file("<f4", "False", "(2, 4)", &fl)).unwrap(), want);
        assert_eq!(run(&file("|u1", "False", "(2, 4)", &by)).unwrap(), want);
        assert_eq!(run(&file("|u1", "False", "(4, 2)", &columns)).unwrap(), want);
        assert_eq!(run(&file("|u1", "True", "(4, 2)", &by)).unwrap(), want);
    }

    #[test]
    fn plain_columns_in_another_order_are_recognised() {
        let want = read(&gesture([0, 1, 2, 3], |_| ())).unwrap();
        assert!(want.remarks.is_empty() && want.events[199].t == 3_980_000);
        for (order, name) in [([3, 0, 1, 2], "t, x, y, p"), ([0, 1, 3, 2], "x, y, t, p"), ([3, 2, 0, 1], "t, p, x, y")]
        {
            let got = read(&gesture(order, |_| ())).unwrap();
            assert_eq!(got.events, want.events, "{name}");
            assert!(got.remarks[0].contains(name), "{:?}", got.remarks);
        }
        let m = read(&gesture([2, 3, 0, 1], |_| ())).unwrap_err().to_string();
        assert!(m.contains("another order"), "{m}");
    }

    #[test]
    fn polarities() {
        let want = read(&gesture([0, 1, 2, 3], |_| ())).unwrap().events;
        let of = |low: f64, high: f64| read(&gesture([0, 1, 2, 3], |e| e[2] = if e[2] == 1.0 { high } else { low }));
        assert_eq!(of(-1.0, 1.0).unwrap().events, want);
        for (low, high, words) in [(1.0, 2.0, "count from 1"), (255.0, 1.0, "-1 in a column"), (0.0, 0.5, "p = 0.5")] {
            let m = of(low, high).unwrap_err().to_string();
            assert!(m.contains(words), "{m}");
        }
        assert!(of(-1.0, 0.0).unwrap_err().to_string().contains("both 0 and -1"));
    }

    #[test]
    fn units() {
        for (factor, unit) in [(1e-3, "s"), (1e3, "us"), (1e6, "ns")] {
            let m = read(&gesture([0, 1, 2, 3], |e| e[3] *= factor)).unwrap_err().to_string();
            assert!(m.contains(&format!("--time-unit {unit} ")) || m.contains(&format!("--time-unit {unit},")), "{m}");
        }
        let micros = Reading::GESTURE.accepting(Disorder::Refuse, Some(TimeUnit::Us));
        let got = decode(&gesture([0, 1, 2, 3], |e| e[3] *= 1e3), Path::new("3.npy"), &micros).unwrap();
        assert_eq!(got.events[199].t, 3_980_000);
    }

    /// Two events in a structured array: t, x, y, p.
    fn structured(descr: &str, t: [i64; 2]) -> Vec<u8> {
        let mut data = Vec::new();
        for (t, x, y, p) in [(t[0], 5u8, 6u8, 1u8), (t[1], 7, 8, 0)] {
            data.extend(t.to_le_bytes());
            data.extend([x, 0, y, p]);
        }
        array(descr, "False", "(2,)", &data)
    }

    #[test]
    fn named_columns() {
        let want = [Event { t: 1000, x: 5, y: 6, p: true }, Event { t: 900_000, x: 7, y: 8, p: false }];
        for (descr, t) in [
            ("[('t', '<i8'), ('x', '<i2'), ('y', '|u1'), ('p', '|b1')]", [1000, 900_000]),
            ("[('Timestamp_ms', '<u8'), ('x', '<u2'), ('y', '|i1'), ('polarity', '|u1')]", [1, 900]),
            ("[('t', '<m8[ns]'), ('x', '<i2'), ('y', '|u1'), ('p', '|b1')]", [1_000_000, 900_000_000]),
            (
                "[(('time of event', 'ts'), '<i8'), ('X', '|u1'), ('', '|V1'), ('Y', '|u1'), ('ON', '|b1')]",
                [1000, 900_000],
            ),
        ] {
            let got = read(&structured(descr, t)).unwrap_or_else(|e| panic!("{descr}: {e}"));
            assert_eq!(got.events, want, "{descr}");
        }
        let more = read(&structured(
            "[('t', '<i8'), ('x', '|u1'), ('camera', '|u1'), ('y', '|u1'), ('p', '|b1')]",
            [0, 900_000],
        ));
        assert!(more.unwrap().remarks[0].contains("camera"));
        let m = read(&structured("[('t', '<i8'), ('x', '<i2'), ('y', '|u1'), ('p', '|b1')]", [1, 900])).unwrap_err();
        assert!(m.to_string().contains("--time-unit ms"), "{m}");
        for (descr, words) in [
            ("[('t', '<i8'), ('x', '<i2'), ('z', '|u1'), ('p', '|b1')]", "no column for y"),
            ("[('t', '<i8'), ('x', '<i2'), ('x', '|u1'), ('p', '|b1')]", "two columns for x"),
            ("[('t', '|O'), ('x', '<i2'), ('y', '|u1'), ('p', '|b1')]", "the type"),
            ("[('t', '<i8'), ('x', '|u1', (2,)), ('y', '|u1'), ('p', '|b1')]", "arrays or records"),
            ("[('t', '<i8'), 'x']", "without a type"),
        ] {
            says(&structured(descr, [0, 1]), words);
            says(&structured(descr, [0, 1]), "np.stack");
        }
        says(&array("[('t', '<i8')]", "False", "(2, 3)", &[0; 48]), "shape [events]");
    }

    #[test]
    fn timers_run_over() {
        // 32 bits of microseconds with and without a sign, the second event after the turn.
        let events = |t: [u32; 2]| {
            let descr = |kind| format!("[('t', '<{kind}4'), ('x', '|u1'), ('y', '|u1'), ('p', '|b1')]");
            let mut data = Vec::new();
            t.iter().for_each(|t| data.extend(t.to_le_bytes().into_iter().chain([1, 1, 1])));
            ["i", "u"].map(|kind| array(&descr(kind), "False", "(2,)", &data))
        };
        let [signed, unsigned] = events([u32::MAX - 999, 1_000_000]);
        let times = |bytes: &[u8]| run(bytes).map(|e| e.iter().map(|e| e.t).collect::<Vec<_>>());
        assert_eq!(times(&unsigned).unwrap(), [(1 << 32) - 1000, (1 << 32) + 1_000_000]);
        assert!(times(&signed).unwrap_err().to_string().contains("-1000"), "a negative time to begin with");
        let [signed, _] = events([i32::MAX as u32, i32::MAX as u32 + 1]);
        assert_eq!(times(&signed).unwrap(), [(1 << 31) - 1, 1 << 31]);
    }

    #[test]
    fn damage() {
        let ok = [1, 2, 1, 4, 5, 6, 0, 8];
        says(b"PK", "np.savez");
        says(b"\x93NUMPY\x01\x00\xff\xff{}", "NumPy's format");
        says(&file("|u1", "False", "(3, 4)", &ok), "follow the header");
        says(&file("|u1", "False", "(8,)", &ok), "shape [events, 4]");
        says(&file("|O8", "False", "(2, 4)", &ok), "1 to 8 bytes");
        says(&file("|u1", "False", "(0, 4)", &[]), "at least one event");
        says(&file("|u1", "False", "(1, 4)", &[200, 2, 1, 4]), "x = 200");
        says(&file("|u1", "False", "(2, 4)", &[1, 2, 1, 4, 5, 6, 0, 3]), "does not go back");
        says(&file("|i1", "False", "(1, 4)", &[255, 2, 1, 4]), "x = -1");
        says(&file("|u1", "False", "(99999999999999999, 4)", &ok), "follow the header");
        says(&file("<f4", "False", "(1, 4)", &[1.0f32, 1.0, 1.0, f32::NAN].map(f32::to_le_bytes).concat()), "t = NaN");
    }
}
