//! The rows of a data set in one piece: chunks found, put through their filters backwards, and joined.

use std::borrow::Cow;

use flate2::{Decompress, FlushDecompress, Status};

use super::cursor::{Cursor, UNDEFINED, check_sum};
use super::dataset::{Dataset, Filter, Index, Layout};
use super::header::{leaves, sums_up};
use super::{Fault, Result};

/// Rows and chunks take no more than this many times the file, which matters only where they are compressed: every row of a real
/// file refers to numbers that are in the file, too.
const MOST: usize = 2;

/// All rows, `data.rows * data.kind.size()` bytes.
pub fn rows<'a>(file: &'a [u8], data: &Dataset<'a>) -> Result<Cow<'a, [u8]>> {
    let (name, size) = (&data.name, data.kind.size());
    let Some(bytes) = data.rows.checked_mul(size).filter(|&bytes| bytes <= MOST * file.len()) else {
        let got = format!("{} rows of {size} bytes in a file of {} bytes", data.rows, file.len());
        return Err(Fault::new(format!("{name} is no longer than the file can hold"), got));
    };
    match data.layout {
        _ if bytes == 0 => Ok(Cow::default()),
        Layout::Compact(all) => match all.get(..bytes) {
            Some(rows) => Ok(rows.into()),
            None => Err(Fault::new(format!("{name} has {bytes} bytes"), format!("{} bytes", all.len()))),
        },
        Layout::Contiguous(UNDEFINED) => {
            Err(Fault::new(format!("the rows of {name} are in the file"), "none was ever written"))
        }
        Layout::Contiguous(address) => Cursor::new(file, address)?.take(bytes as u64).map(Cow::from),
        Layout::Chunked { rows, index } => join(file, data, rows, index).map(Cow::from),
    }
}

/// Where a chunk is, how much of it, and which filters it did not go through (bit i for filter i).
struct Stored {
    row: u64,
    address: u64,
    bytes: Option<u64>,
    mask: u32,
}

/// Chunks of `rows` rows, one after the other.
fn join(file: &[u8], data: &Dataset<'_>, rows: usize, index: Index) -> Result<Vec<u8>> {
    let (name, size) = (&data.name, data.kind.size());
    let chunk = rows.checked_mul(size).filter(|&bytes| data.filters.is_empty() || bytes <= MOST * file.len());
    let Some(chunk) = chunk else {
        let got = format!("{rows} rows of {size} bytes in a file of {} bytes", file.len());
        return Err(Fault::new(format!("a chunk of {name} is no longer than the file can hold"), got));
    };
    let mut out = Vec::with_capacity(data.rows * size);
    find(file, data, rows, chunk, index, |stored| {
        let done = out.len() / size;
        if stored.row >= data.rows as u64 {
            // Left behind by a data set that was once longer.
            return Ok(());
        }
        if stored.row != done as u64 || stored.address == UNDEFINED {
            return Err(missing(name, done));
        }
        let wanted = rows.min(data.rows - done) * size;
        let mut at = Cursor::new(file, stored.address)?;
        if data.filters.is_empty() || (data.plain_edge && wanted < chunk) {
            out.extend_from_slice(at.take(wanted as u64)?);
            return Ok(());
        }
        let bytes = at.take(stored.bytes.unwrap_or(chunk as u64))?;
        let decoded = decode(bytes, &data.filters, stored.mask, chunk).map_err(|got| {
            Fault::new(format!("the chunk at byte {} holds {chunk} bytes of {name}", stored.address), got)
        })?;
        out.extend_from_slice(&decoded[..wanted]);
        Ok(())
    })?;
    if out.len() < data.rows * size { Err(missing(name, out.len() / size)) } else { Ok(out) }
}

fn missing(name: &str, row: usize) -> Fault {
    Fault::new(
        format!("the chunks of {name} follow each other without a gap"),
        format!("the one with row {row} is not there"),
    )
}

/// Calls `visit` with the chunks in the order of their rows.
fn find(
    file: &[u8],
    data: &Dataset<'_>,
    rows: usize,
    chunk: usize,
    index: Index,
    mut visit: impl FnMut(Stored) -> Result<()>,
) -> Result<()> {
    let count = data.rows.div_ceil(rows) as u64;
    let plain = |i: u64, address: u64| Stored { row: i * rows as u64, address, bytes: None, mask: 0 };
    match index {
        Index::Tree(UNDEFINED) | Index::FixedArray(UNDEFINED) => Ok(()),
        // A key: bytes, mask, first row, and a second coordinate that is always 0.
        Index::Tree(tree) => leaves(file, tree, 1, 24, |mut key, address| {
            let (bytes, mask, row) = (key.u32()?, key.u32()?, key.u64()?);
            visit(Stored { row, address, bytes: Some(bytes.into()), mask })
        }),
        Index::Single { address, filtered } => {
            visit(Stored { bytes: filtered.map(|f| f.0), mask: filtered.map_or(0, |f| f.1), ..plain(0, address) })
        }
        Index::Implicit(first) => (0..count).try_for_each(|i| {
            let address = i.checked_mul(chunk as u64).and_then(|offset| first.checked_add(offset));
            visit(plain(i, address.unwrap_or(UNDEFINED)))
        }),
        Index::FixedArray(header) => fixed_array(file, header, count, |i, mut entry| {
            let address = entry.u64()?;
            if entry.left() == 0 {
                return visit(plain(i, address));
            }
            let bytes = entry.number(entry.left() - 4)?;
            visit(Stored { bytes: Some(bytes), mask: entry.u32()?, ..plain(i, address) })
        }),
    }
}

/// Calls `visit` with the first `count` entries of the fixed array at `address`: the address of a chunk, for a filtered one its length and
/// the mask, too.
fn fixed_array<'a>(
    file: &'a [u8],
    address: u64,
    count: u64,
    mut visit: impl FnMut(u64, Cursor<'a>) -> Result<()>,
) -> Result<()> {
    let mut c = Cursor::new(file, address)?;
    let start = c;
    c.signature(b"FAHD")?;
    c.skip(2)?;
    let (size, bits, entries, block) = (c.u8()?, c.u8()?, c.u64()?, c.u64()?);
    check_sum(start, &mut c)?;
    if !(size == 8 || (13..=20).contains(&size)) || bits > 32 || entries < count {
        let rule = format!("the fixed array at byte {address} has an entry for each of {count} chunks");
        return Err(Fault::new(rule, format!("{entries} entries of {size} bytes in pages of 2^{bits}")));
    }
    let size = u64::from(size);
    let mut c = Cursor::new(file, block)?;
    let start = c;
    c.signature(b"FADB")?;
    c.skip(10)?;
    let page = 1u64 << bits;
    let too_long = || Fault::new("a fixed array is no longer than the file", format!("{entries} entries"));
    if entries <= page {
        let mut all = c.part(entries.checked_mul(size).ok_or_else(too_long)?)?;
        check_sum(start, &mut c)?;
        return (0..count).try_for_each(|i| visit(i, all.part(size)?));
    }
    let written = c.take(entries.div_ceil(page).div_ceil(8))?;
    check_sum(start, &mut c)?;
    for first in (0..count).step_by(page as usize) {
        let number = first / page;
        let here = page.min(entries - first);
        let whole = c.take(here.checked_mul(size).and_then(|n| n.checked_add(4)).ok_or_else(too_long)?)?;
        if written[(number / 8) as usize] & (0x80 >> (number % 8)) == 0 || !sums_up(whole) {
            let got = "it was never written, or its checksum is another";
            return Err(Fault::new(format!("page {number} of the fixed array at byte {address} is sound"), got));
        }
        let mut entries = Cursor::new(whole, 0)?;
        (first..count.min(first + here)).try_for_each(|i| visit(i, entries.part(size)?))?;
    }
    Ok(())
}

/// Undoes the filters of a chunk of `size` bytes; what is wrong if that fails.
fn decode<'a>(
    stored: &'a [u8],
    filters: &[Filter],
    mask: u32,
    size: usize,
) -> std::result::Result<Cow<'a, [u8]>, String> {
    let mut bytes = Cow::from(stored);
    for (_, filter) in filters.iter().enumerate().rev().filter(|(i, _)| mask >> i & 1 == 0) {
        bytes = match filter {
            // A checksum may still be behind the rows.
            Filter::Deflate => inflate(&bytes, size + 4 * filters.len())?.into(),
            Filter::Shuffle(0) => return Err("bytes shuffled in elements of no size".into()),
            Filter::Shuffle(element) => unshuffle(&bytes, *element).into(),
            Filter::Fletcher32 => without_checksum(bytes)?,
        };
    }
    if bytes.len() == size { Ok(bytes) } else { Err(format!("{} bytes", bytes.len())) }
}

fn inflate(bytes: &[u8], most: usize) -> std::result::Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(most);
    match Decompress::new(true).decompress_vec(bytes, &mut out, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) => Ok(out),
        Ok(_) if out.len() == most => Err("more".into()),
        Ok(_) => Err("a compressed stream that is cut short".into()),
        Err(e) => Err(format!("what is no compressed stream ({e})")),
    }
}

/// Bytes that do not make a whole element are at the end, as they are.
fn unshuffle(bytes: &[u8], element: usize) -> Vec<u8> {
    let count = bytes.len() / element;
    let (planes, rest) = bytes.split_at(count * element);
    let mut out = vec![0; planes.len()];
    for (plane, place) in planes.chunks_exact(count.max(1)).zip(0..) {
        for (to, &byte) in out[place..].iter_mut().step_by(element).zip(plane) {
            *to = byte;
        }
    }
    out.extend_from_slice(rest);
    out
}

fn without_checksum(mut bytes: Cow<'_, [u8]>) -> std::result::Result<Cow<'_, [u8]>, String> {
    let Some((data, sum)) = bytes.split_last_chunk::<4>() else {
        return Err("fewer bytes than a checksum".into());
    };
    let (want, got, length) = (fletcher32(data), u32::from_le_bytes(*sum), data.len());
    if want != got {
        return Err(format!("bytes with the checksum {want:08x} where {got:08x} is stored"));
    }
    match &mut bytes {
        Cow::Borrowed(all) => *all = &all[..length],
        Cow::Owned(all) => all.truncate(length),
    }
    Ok(bytes)
}

/// Fletcher's checksum over big-endian words of 16 bits, as the library computes it.
fn fletcher32(bytes: &[u8]) -> u32 {
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    let (mut a, mut b) = (0u32, 0u32);
    // 360 words cannot overflow the sums.
    for block in bytes.chunks(720) {
        for word in block.chunks(2) {
            a += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
            b += a;
        }
        (a, b) = (fold(a), fold(b));
    }
    fold(b) << 16 | fold(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_bytes_go_back() {
        assert_eq!(unshuffle(&[1, 4, 2, 5, 3, 6, 9], 3), [1, 2, 3, 4, 5, 6, 9]);
        assert_eq!(unshuffle(&[7, 8], 3), [7, 8]);
        assert_eq!(unshuffle(&[], 8), []);
    }

    /// Worked values of Fletcher-32 over words, most significant byte first.
    #[test]
    fn fletcher_sums() {
        assert_eq!(fletcher32(b""), 0);
        assert_eq!(fletcher32(&[0, 1]), 0x0001_0001);
        assert_eq!(fletcher32(&[0, 1, 0, 2]), 0x0004_0003);
        assert_eq!(fletcher32(&[0, 1, 2]), 0x0202_0201);
        assert_eq!(fletcher32(&[0xff; 4]), 0xffff_ffff);
        let long = [[0xff; 720], [0xff; 720]].concat();
        assert_eq!(fletcher32(&long), 0xffff_ffff);
        assert!(without_checksum(Cow::from(&[0u8, 1, 1, 0, 1, 0][..])).is_ok_and(|b| b[..] == [0, 1]));
        assert!(without_checksum(Cow::from(&[0u8, 1, 1, 0, 1, 1][..])).is_err());
        assert!(without_checksum(Cow::from(&[0u8, 1][..])).is_err());
    }
}
