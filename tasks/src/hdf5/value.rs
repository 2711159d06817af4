//! From stored rows to numbers and texts.

use super::{Dataset, Fault, Hdf5, Heap, Kind, Number, Result};
use crate::shd::bin::half;

/// The rows of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Rows along each axis, the slowest first; none for a single value.
    pub dims: Vec<usize>,
    /// The rows, the last axis fastest.
    pub values: Values,
}

/// Numbers or texts.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Half and single precision.
    Single(Vec<f32>),
    /// Double precision.
    Double(Vec<f64>),
    /// Integers; those beyond the range of `i64` are its largest.
    Integers(Vec<i64>),
    /// Texts, without what fills them up.
    Texts(Vec<String>),
}

impl Values {
    /// What they are, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Values::Single(_) => "numbers of single precision",
            Values::Double(_) => "numbers of double precision",
            Values::Integers(_) => "integers",
            Values::Texts(_) => "text",
        }
    }
}

/// How many bytes may still be made of a file.
#[derive(Debug)]
pub struct Budget(usize);

impl Budget {
    /// For a file of `bytes`: 8 times as many, and 64 MiB more, for what is all the same compresses a thousandfold.
    pub fn of(bytes: usize) -> Budget {
        Budget(bytes.saturating_mul(8).saturating_add(64 << 20))
    }

    fn take(&mut self, bytes: usize, name: &str) -> Result<()> {
        match self.0.checked_sub(bytes) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => {
                let rule = "a file unpacks to at most 8 times its bytes and 64 MiB";
                Err(Fault::new(rule, format!("{name} with {bytes} bytes, and {} are left", self.0)))
            }
        }
    }
}

/// The bits of each number.
pub(crate) fn words(bytes: &[u8], number: Number) -> impl Iterator<Item = u64> {
    let Number { size, big_endian, .. } = number;
    bytes.chunks_exact(size).map(move |chunk| {
        let mut word = [0; 8];
        word[..size].copy_from_slice(chunk);
        if big_endian {
            word[..size].reverse();
        }
        u64::from_le_bytes(word)
    })
}

/// The number whose two's complement the lowest `size` bytes are.
pub(crate) fn signed(bits: u64, size: usize) -> i64 {
    let shift = 64 - 8 * size as u32;
    (bits << shift) as i64 >> shift
}

/// A stored text without the zeros and spaces that fill it up.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim_end_matches(' ').to_owned()
}

impl Hdf5 {
    /// The rows of a data set as numbers or texts.
    ///
    /// # Errors
    /// Damage, sequences of numbers, more than the budget has left.
    pub fn value<'a>(&'a self, data: &Dataset<'a>, budget: &mut Budget, heap: &mut Heap<'a>) -> Result<Value> {
        let rows = self.rows(data, budget.0)?;
        let each = match data.kind {
            Kind::Number(Number { float: true, size, .. }) => size.max(4),
            Kind::Number(_) => 8,
            _ => size_of::<String>() + data.kind.size(),
        };
        budget.take(data.rows.saturating_mul(each), &data.name)?;
        let values = match data.kind {
            Kind::Number(number) => numbers(&rows, number),
            Kind::Text(0) => Values::Texts(vec![String::new(); data.rows]),
            Kind::Text(size) => Values::Texts(rows.chunks_exact(size).map(text).collect()),
            Kind::Texts => {
                let mut texts = Vec::with_capacity(data.rows);
                for reference in rows.as_chunks::<16>().0 {
                    let (count, object) = heap.follow(reference)?;
                    let Some(bytes) = self.bytes().get(object.start..object.start + count.min(object.len())) else {
                        return Err(Fault::new("a reference leads to an object", "one beyond the end of the file"));
                    };
                    if bytes.len() < count {
                        let got = format!("{count} bytes in an object of {}", object.len());
                        return Err(Fault::new(format!("the texts of {} fit where they are kept", data.name), got));
                    }
                    budget.take(count, &data.name)?;
                    texts.push(text(bytes));
                }
                Values::Texts(texts)
            }
            Kind::Numbers(_) | Kind::Record(_) => {
                return Err(Fault::new(format!("{} holds numbers or text", data.name), data.kind.to_string()));
            }
        };
        Ok(Value { dims: data.dims.clone(), values })
    }
}

fn numbers(rows: &[u8], number: Number) -> Values {
    let all = words(rows, number);
    match number {
        Number { float: true, size: 2, .. } => Values::Single(all.map(|bits| half(bits as u16) as f32).collect()),
        Number { float: true, size: 4, .. } => Values::Single(all.map(|bits| f32::from_bits(bits as u32)).collect()),
        Number { float: true, .. } => Values::Double(all.map(f64::from_bits).collect()),
        Number { signed: true, size, .. } => Values::Integers(all.map(|bits| signed(bits, size)).collect()),
        _ => Values::Integers(all.map(|bits| bits.min(i64::MAX as u64) as i64).collect()),
    }
}
