//! Where x, y, p and t of an event are in a NumPy array, and how its numbers are stored.

use super::super::{Sensor, TimeUnit};
use super::header::Value;
use crate::shd::bin::half;

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Number {
    kind: char,
    pub size: usize,
    big: bool,
}

impl Number {
    /// A type such as `<i8`, and its unit if it is one of time (`<m8[us]`).
    pub fn parse(descr: &str) -> Option<(Number, Option<TimeUnit>)> {
        let mut chars = descr.chars();
        let big = match chars.next()? {
            '<' | '|' | '=' => false,
            '>' => true,
            _ => return None,
        };
        let kind = chars.next()?;
        let (size, unit) = match chars.as_str().split_once('[') {
            Some((size, unit)) => (size, Some(TimeUnit::of_name(unit)?)),
            None => (chars.as_str(), None),
        };
        let size: usize = size.parse().ok()?;
        let known = match kind {
            'i' | 'u' => matches!(size, 1 | 2 | 4 | 8) && unit.is_none(),
            'f' => matches!(size, 2 | 4 | 8) && unit.is_none(),
            'b' => size == 1 && unit.is_none(),
            // Spans and points of time are 64-bit integers with a unit.
            'm' | 'M' => size == 8 && unit.is_some(),
            _ => false,
        };
        known.then_some((Number { kind, size, big }, unit))
    }

    pub fn read(self, bytes: &[u8]) -> f64 {
        let mut word = [0; 8];
        word[..self.size].copy_from_slice(&bytes[..self.size]);
        if self.big {
            word[..self.size].reverse();
        }
        let bits = u64::from_le_bytes(word);
        let shift = 64 - 8 * self.size as u32;
        match (self.kind, self.size) {
            ('f', 2) => half(bits as u16),
            ('f', 4) => f64::from(f32::from_bits(bits as u32)),
            ('f', _) => f64::from_bits(bits),
            ('i' | 'm' | 'M', _) => ((bits << shift) as i64 >> shift) as f64,
            _ => bits as f64,
        }
    }

    /// Values of a timer of this width, if it is an integer that can run over.
    pub fn range(self) -> Option<u64> {
        (matches!(self.kind, 'i' | 'u') && self.size <= 4).then(|| 1 << (8 * self.size))
    }
}

/// One number of each event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub number: Number,
    /// Byte of the first, and bytes from one to the next.
    pub start: usize,
    pub stride: usize,
}

impl Column {
    pub fn at(self, data: &[u8], event: usize) -> f64 {
        self.number.read(&data[self.start + event * self.stride..])
    }
}

/// Named columns of a structured array: x, y, p, t, the unit of t where its name or type tells, the bytes of an event, names not used.
pub(super) struct Named<'a> {
    pub columns: [Column; 4],
    pub unit: Option<TimeUnit>,
    pub event: usize,
    pub ignored: Vec<&'a str>,
}

/// Names of x, y, p and t in the files of event libraries, in lower case, without a unit.
const NAMES: [&[&str]; 4] = [
    &["x", "xs", "col", "column", "x_pos"],
    &["y", "ys", "row", "y_pos"],
    &["p", "ps", "pol", "polarity", "polarities", "on"],
    &["t", "ts", "time", "times", "timestamp", "timestamps"],
];

/// Finds the columns by their names; `Err` has what stands in the way.
pub(super) fn named<'a>(fields: &[Value<'a>]) -> Result<Named<'a>, String> {
    let mut found: [Option<Column>; 4] = [None; 4];
    let (mut unit, mut event, mut ignored) = (None, 0usize, Vec::new());
    for field in fields {
        let Value::Many(parts) = field else { return Err("a column without a type".into()) };
        let [name, Value::Text(descr)] = &parts[..] else {
            return Err(format!("a column of arrays or records: {parts:?}"));
        };
        // A column may have a title beside its name.
        let name = match name {
            Value::Text(name) => *name,
            Value::Many(pair) => match pair[..] {
                [_, Value::Text(name)] => name,
                _ => return Err("a column without a name".into()),
            },
            _ => return Err("a column without a name".into()),
        };
        let plain = name.to_lowercase();
        let of_time = TimeUnit::of_name(&plain).filter(|_| plain.contains('_'));
        let plain = if of_time.is_some() { plain.rsplit_once('_').map_or("", |s| s.0) } else { &plain };
        let which = NAMES.iter().position(|names| names.contains(&plain));
        let (size, number) = match (Number::parse(descr), which) {
            (Some(number), _) => (number.0.size, Some(number)),
            (None, Some(_)) => return Err(format!("the type {descr:?} of column {name:?}")),
            // What is not read must have a size all the same: text, padding.
            (None, None) => (unread(descr).ok_or_else(|| format!("the type {descr:?} of column {name:?}"))?, None),
        };
        match (which, number) {
            (Some(k), Some((number, of_type))) => {
                if found[k].is_some() {
                    return Err(format!("two columns for {}", NAMES[k][0]));
                }
                found[k] = Some(Column { number, start: event, stride: 0 });
                unit = if k == 3 { of_type.or(of_time) } else { unit };
            }
            _ if name.is_empty() => {}
            _ => ignored.push(name),
        }
        event = event.checked_add(size).ok_or("columns of a size beyond any memory")?;
    }
    let [Some(x), Some(y), Some(p), Some(t)] = found else {
        let lacks: Vec<&str> = NAMES.iter().zip(found).filter(|f| f.1.is_none()).map(|f| f.0[0]).collect();
        return Err(format!("no column for {}", lacks.join(", ")));
    };
    let columns = [x, y, p, t].map(|c| Column { stride: event, ..c });
    Ok(Named { columns, unit, event, ignored })
}

/// Bytes of a type that is not read, such as `|V4` or `<U8`.
fn unread(descr: &str) -> Option<usize> {
    let mut chars = descr.chars();
    let _order = chars.next()?;
    let (kind, size) = (chars.next()?, chars.as_str().parse::<usize>().ok()?);
    match kind {
        'V' | 'S' | 'a' | 'c' => Some(size),
        'U' => size.checked_mul(4),
        _ => None,
    }
}

/// Orders of plain columns in which event libraries write, after the one that is expected: which column x, y, p, t are.
const ORDERS: [([usize; 4], &str); 4] = [
    ([0, 1, 2, 3], "x, y, p, t"),
    ([1, 2, 3, 0], "t, x, y, p"),
    ([0, 1, 3, 2], "x, y, t, p"),
    ([2, 3, 1, 0], "t, p, x, y"),
];

/// What the numbers of a column can be.
struct Can {
    coordinate: [bool; 2],
    polarity: bool,
    time: bool,
    /// Least and greatest.
    range: (f64, f64),
}

fn can(column: Column, data: &[u8], events: usize, sensor: Sensor) -> Can {
    let mut c = Can { coordinate: [true; 2], polarity: true, time: true, range: (f64::INFINITY, f64::NEG_INFINITY) };
    let mut before = f64::NEG_INFINITY;
    for i in 0..events {
        let v = column.at(data, i);
        let whole = v >= 0.0 && v.fract() == 0.0;
        c.coordinate[0] &= whole && v < f64::from(sensor.width);
        c.coordinate[1] &= whole && v < f64::from(sensor.height);
        c.polarity &= v == 0.0 || v == 1.0 || v == -1.0;
        c.time &= v >= before;
        before = v;
        c.range = (c.range.0.min(v), c.range.1.max(v));
    }
    c
}

/// The order of four plain columns: the expected one unless it cannot be and exactly one other can. With what was recognised.
pub(super) fn order(columns: [Column; 4], data: &[u8], events: usize, sensor: Sensor) -> ([Column; 4], Option<String>) {
    let can = columns.map(|c| can(c, data, events, sensor));
    let place =
        |order: [usize; 4]| can[order[0]].coordinate[0] && can[order[1]].coordinate[1] && can[order[2]].polarity;
    if place(ORDERS[0].0) {
        return (columns, None);
    }
    let others: Vec<_> = ORDERS[1..].iter().filter(|o| place(o.0) && can[o.0[3]].time && events > 1).collect();
    match others[..] {
        [(order, name)] => (
            order.map(|k| columns[k]),
            Some(format!("columns are not x, y, p, t; read as {name}, which their values allow")),
        ),
        _ => (columns, None),
    }
}

/// Values of a column in words, for errors.
pub(super) fn ranges(columns: [Column; 4], data: &[u8], events: usize, sensor: Sensor) -> String {
    let words = columns.map(|c| {
        let (low, high) = can(c, data, events, sensor).range;
        format!("{low} to {high}")
    });
    words.join(" | ")
}
