//! A data set: how many rows, of which kind, where, and behind which filters.

use super::cursor::Cursor;
use super::header::{kind, messages};
use super::record::{self, Field};
use super::{Fault, Result};

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    /// IEEE 754 of 2, 4 or 8 bytes; otherwise an integer of 1, 2, 4 or 8.
    pub float: bool,
    /// Whether an integer may be negative.
    pub signed: bool,
    /// Bytes.
    pub size: usize,
    /// Whether the most significant byte comes first.
    pub big_endian: bool,
}

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// One number.
    Number(Number),
    /// A reference to numbers in the global heap.
    Numbers(Number),
    /// So many bytes of text, filled up with zeros or spaces.
    Text(usize),
    /// A reference to text in the global heap.
    Texts,
    /// Several named numbers in so many bytes; [`Dataset::fields`] says which.
    Record(usize),
}

impl Kind {
    /// Bytes of a row.
    pub fn size(self) -> usize {
        match self {
            Kind::Number(number) => number.size,
            Kind::Text(size) | Kind::Record(size) => size,
            Kind::Numbers(_) | Kind::Texts => 16,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |n: &Number| if n.float { "floating-point numbers" } else { "integers" };
        match self {
            Kind::Number(number) => f.write_str(name(number)),
            Kind::Numbers(number) => write!(f, "sequences of {}", name(number)),
            Kind::Text(_) | Kind::Texts => f.write_str("text"),
            Kind::Record(_) => f.write_str("records"),
        }
    }
}

/// Where the rows are.
#[derive(Clone)]
pub enum Layout<'a> {
    /// In the header.
    Compact(&'a [u8]),
    /// One after the other from this address.
    Contiguous(u64),
    /// In blocks of `chunk` rows along each axis, each by itself.
    Chunked { chunk: Vec<usize>, index: Index },
}

/// How chunks are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Index {
    /// A B-tree of version 1.
    Tree(u64),
    /// There is one, and if it went through filters so many bytes are stored, with this mask.
    Single { address: u64, filtered: Option<(u64, u32)> },
    /// They are one after the other.
    Implicit(u64),
    /// A fixed array.
    FixedArray(u64),
}

/// A step in compressing a chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Filter {
    Deflate,
    /// The first bytes of all elements of this size, then the second ones, and so on. The library writes 0 for references to the heap, and
    /// then marks every chunk as not shuffled.
    Shuffle(usize),
    Fletcher32,
    /// What h5py has beside deflate.
    Lzf,
}

/// Filters of a data set: more than there are kinds of them is no sensible order.
const MOST_FILTERS: usize = 4;

/// The most axes that the format allows.
const MOST_AXES: u8 = 32;

/// A data set.
pub struct Dataset<'a> {
    /// Rows along each axis, the slowest first; none for a single value.
    pub dims: Vec<usize>,
    /// Rows in all: the product of these.
    pub rows: usize,
    /// What a row is.
    pub kind: Kind,
    /// The numbers of a record, in their order; none for other rows.
    pub fields: Vec<Field>,
    pub(super) layout: Layout<'a>,
    /// In the order of writing.
    pub(super) filters: Vec<Filter>,
    /// A chunk that reaches beyond the last row has been through no filter.
    pub(super) plain_edge: bool,
    /// For messages.
    pub name: String,
}

impl<'a> Dataset<'a> {
    /// The data set whose object header is at `address`.
    pub(super) fn read(file: &'a [u8], address: u64, name: &str) -> Result<Self> {
        let (mut dims, mut row, mut layout, mut filters) = (None, None, None, Vec::new());
        messages(file, address, |message| {
            let body = message.body;
            if message.shared && [kind::DATATYPE, kind::FILTERS].contains(&message.kind) {
                return Err(Fault::unsupported(format!("{name} has a type or filters that it shares with others")));
            }
            match message.kind {
                kind::DATASPACE => dims = Some(dataspace(body, name)?),
                kind::DATATYPE => row = Some(datatype(body, name)?),
                kind::LAYOUT => layout = Some(body),
                kind::FILTERS => filters = pipeline(body, name)?,
                _ => {}
            }
            Ok(())
        })?;
        let (Some(dims), Some((kind, fields)), Some(layout)) = (dims, row, layout) else {
            let rule = format!("{name} is a data set, with rows, a type and a layout");
            return Err(Fault::new(rule, "it is a group, or a part is missing"));
        };
        let (layout, plain_edge) = place(layout, dims.len(), kind, name)?;
        let rows = dims.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
        let Some(rows) = rows else {
            return Err(Fault::new(format!("{name} has a sensible number of rows"), format!("{dims:?}")));
        };
        Ok(Dataset { dims, rows, kind, fields, layout, filters, plain_edge, name: name.into() })
    }
}

fn dataspace(mut c: Cursor<'_>, name: &str) -> Result<Vec<usize>> {
    let (version, rank) = (c.u8()?, c.u8()?);
    match version {
        1 => c.skip(6)?,
        2 => {
            c.skip(1)?;
            if c.u8()? == 2 {
                return Err(Fault::new(format!("{name} holds a value"), "it is empty"));
            }
        }
        _ => return Err(Fault::unsupported(format!("{name} has a dataspace of version {version}"))),
    }
    if rank > MOST_AXES {
        return Err(Fault::new(format!("{name} has at most {MOST_AXES} dimensions"), format!("it has {rank}")));
    }
    let sensible = |n: u64| {
        usize::try_from(n).map_err(|_| Fault::new(format!("{name} has a sensible number of rows"), n.to_string()))
    };
    (0..rank).map(|_| sensible(c.u64()?)).collect()
}

fn datatype(mut c: Cursor<'_>, name: &str) -> Result<(Kind, Vec<Field>)> {
    let version = c.rest().first().map_or(0, |byte| byte >> 4);
    let (class, flags, size) = type_head(&mut c)?;
    if class == 6 {
        return Ok((Kind::Record(size as usize), record::fields(c, version, flags, size as usize, name)?));
    }
    let kind = match class {
        0 | 1 => number(c, class, flags, size, name).map(Kind::Number),
        3 => Ok(Kind::Text(size as usize)),
        9 if size != 16 => {
            Err(Fault::new(format!("a row of {name} is a reference of 16 bytes"), format!("{size} bytes")))
        }
        9 if flags & 15 == 1 => Ok(Kind::Texts),
        9 if flags & 15 == 0 => {
            let (class, flags, size) = type_head(&mut c)?;
            number(c, class, flags, size, name).map(Kind::Numbers)
        }
        _ => Err(Fault::new(format!("{name} holds numbers, sequences of numbers or text"), class_name(class))),
    };
    Ok((kind?, Vec::new()))
}

/// Class, flags and size in bytes of a type.
pub(super) fn type_head(c: &mut Cursor<'_>) -> Result<(u8, u32, u32)> {
    let word = c.u32()?;
    Ok((word as u8 & 15, word >> 8, c.u32()?))
}

pub(super) fn class_name(class: u8) -> String {
    let names = ["integers", "floating-point numbers", "times", "text", "bit fields", "opaque bytes", "compounds"];
    let more = ["references", "enumerations", "sequences", "arrays", "complex numbers"];
    names.iter().chain(&more).nth(class.into()).map_or_else(|| format!("class {class}"), |name| name.to_string())
}

pub(super) fn number(mut c: Cursor<'_>, class: u8, flags: u32, size: u32, name: &str) -> Result<Number> {
    if class > 1 {
        return Err(Fault::new(format!("{name} holds numbers"), class_name(class)));
    }
    let (float, size) = (class == 1, size as usize);
    let sizes: &[usize] = if float { &[2, 4, 8] } else { &[1, 2, 4, 8] };
    let (offset, bits) = (c.u16()?, usize::from(c.u16()?));
    if !sizes.contains(&size) || offset != 0 || bits != 8 * size {
        let rule = format!("{name} has numbers of {sizes:?} bytes, all of whose bits count");
        return Err(Fault::new(rule, format!("{bits} bits of {size} bytes")));
    }
    if float {
        // Place and bits of the exponent, place and bits of the fraction, bias.
        let got = (c.u8()?, c.u8()?, c.u8()?, c.u8()?, c.u32()?);
        let want = [(10, 5, 0, 10, 15), (23, 8, 0, 23, 127), (52, 11, 0, 52, 1023)][size.ilog2() as usize - 1];
        if got != want || flags & 0x40 != 0 {
            return Err(Fault::new(
                format!("{name} has floating-point numbers as IEEE 754 defines them"),
                format!("{got:?}"),
            ));
        }
    }
    Ok(Number { float, size, signed: !float && flags & 8 != 0, big_endian: flags & 1 != 0 })
}

fn pipeline(mut c: Cursor<'_>, name: &str) -> Result<Vec<Filter>> {
    let (version, count) = (c.u8()?, c.u8()?);
    match version {
        1 => c.skip(6)?,
        2 => {}
        _ => return Err(Fault::unsupported(format!("{name} has filters of version {version}"))),
    }
    if usize::from(count) > MOST_FILTERS {
        return Err(Fault::unsupported(format!("{name} has {count} filters")));
    }
    (0..count).map(|_| filter(&mut c, version, name)).collect()
}

fn filter(c: &mut Cursor<'_>, version: u8, name: &str) -> Result<Filter> {
    let id = c.u16()?;
    let text = if version == 1 || id >= 256 { c.u16()? } else { 0 };
    c.skip(2)?;
    let count = c.u16()?;
    c.skip(if version == 1 { u64::from(text).next_multiple_of(8) } else { text.into() })?;
    let mut values = c.part(4 * u64::from(count))?;
    let first = if count > 0 { values.u32()? } else { 0 };
    c.skip(if version == 1 && count % 2 == 1 { 4 } else { 0 })?;
    match id {
        1 => Ok(Filter::Deflate),
        2 => Ok(Filter::Shuffle(first as usize)),
        3 => Ok(Filter::Fletcher32),
        32_000 => Ok(Filter::Lzf),
        _ => {
            let known = match id {
                4 => "szip",
                5 => "nbit",
                6 => "scale-offset",
                32_001 => "Blosc",
                32_015 => "Zstandard",
                _ => "another program's",
            };
            Err(Fault::unsupported(format!("{name} is compressed with filter {id}, {known}")))
        }
    }
}

fn place<'a>(mut c: Cursor<'a>, axes: usize, kind: Kind, name: &str) -> Result<(Layout<'a>, bool)> {
    let (version, class) = (c.u8()?, c.u8()?);
    if !(3..=5).contains(&version) {
        return Err(Fault::unsupported(format!("{name} has a layout of version {version}")));
    }
    match class {
        0 => {
            let size = c.u16()?;
            Ok((Layout::Compact(c.take(size.into())?), false))
        }
        1 => Ok((Layout::Contiguous(c.u64()?), false)),
        2 if version == 3 => {
            let rank = c.u8()?;
            let address = c.u64()?;
            let chunk = chunk_shape(&mut c, [rank, 4], axes, kind, name)?;
            Ok((Layout::Chunked { chunk, index: Index::Tree(address) }, false))
        }
        2 => {
            let (flags, rank, size) = (c.u8()?, c.u8()?, c.u8()?);
            let chunk = chunk_shape(&mut c, [rank, size], axes, kind, name)?;
            Ok((Layout::Chunked { chunk, index: index(&mut c, flags, name)? }, flags & 1 != 0))
        }
        _ => Err(Fault::unsupported(format!("{name} is made of other data sets or lies in other files"))),
    }
}

/// Rows of a chunk along each of `axes`; one dimension more is the bytes of a row. `rank` dimensions are stored, each in `size` bytes.
fn chunk_shape(c: &mut Cursor<'_>, [rank, size]: [u8; 2], axes: usize, kind: Kind, name: &str) -> Result<Vec<usize>> {
    let rule = format!("chunks of {name} have rows of {} bytes", kind.size());
    if axes == 0 || usize::from(rank) != axes + 1 || !(1..=8).contains(&size) {
        return Err(Fault::new(rule, format!("{rank} dimensions, each in {size} bytes")));
    }
    let mut rows = || Ok(usize::try_from(c.number(size.into())?).unwrap_or(usize::MAX));
    let chunk = (0..axes).map(|_| rows()).collect::<Result<Vec<usize>>>()?;
    match rows()? {
        row if row == kind.size() && !chunk.contains(&0) => Ok(chunk),
        row => Err(Fault::new(rule, format!("{chunk:?} rows of {row} bytes"))),
    }
}

fn index(c: &mut Cursor<'_>, flags: u8, name: &str) -> Result<Index> {
    match c.u8()? {
        1 => {
            let filtered = if flags & 2 != 0 { Some((c.u64()?, c.u32()?)) } else { None };
            Ok(Index::Single { address: c.u64()?, filtered })
        }
        2 => Ok(Index::Implicit(c.u64()?)),
        3 => {
            c.skip(1)?;
            Ok(Index::FixedArray(c.u64()?))
        }
        4 => Err(Fault::unsupported(format!("{name} has its chunks in an extensible array"))),
        5 => Err(Fault::unsupported(format!("{name} has its chunks in a B-tree of version 2"))),
        other => Err(Fault::new(format!("the chunks of {name} have an index"), format!("its kind is {other}"))),
    }
}
