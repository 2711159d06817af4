//! The rows of a data set in one piece: chunks found, put through their filters backwards, and joined.

use std::borrow::Cow;

use flate2::{Decompress, FlushDecompress, Status};

use super::cursor::{Cursor, UNDEFINED, check_sum};
use super::dataset::{Dataset, Filter, Index, Layout};
use super::header::{leaves, sums_up};
use super::{Fault, Result};

/// All rows, `data.rows * data.kind.size()` bytes, which may be `most`.
pub fn rows<'a>(file: &'a [u8], data: &Dataset<'a>, most: usize) -> Result<Cow<'a, [u8]>> {
    let (name, size) = (&data.name, data.kind.size());
    let Some(bytes) = data.rows.checked_mul(size).filter(|&bytes| bytes <= most) else {
        let got = format!("{} rows of {size} bytes in a file of {} bytes", data.rows, file.len());
        return Err(Fault::new(format!("{name} is no longer than the file can hold"), got));
    };
    match &data.layout {
        _ if bytes == 0 => Ok(Cow::default()),
        Layout::Compact(all) => match all.get(..bytes) {
            Some(rows) => Ok(rows.into()),
            None => Err(Fault::new(format!("{name} has {bytes} bytes"), format!("{} bytes", all.len()))),
        },
        Layout::Contiguous(UNDEFINED) => {
            Err(Fault::new(format!("the rows of {name} are in the file"), "none was ever written"))
        }
        Layout::Contiguous(address) => Cursor::new(file, *address)?.take(bytes as u64).map(Cow::from),
        Layout::Chunked { chunk, index } => {
            let bytes = chunk.iter().try_fold(size, |all, &n| all.checked_mul(n)).filter(|&bytes| bytes <= most);
            let Some(bytes) = bytes else {
                let got = format!("{chunk:?} rows of {size} bytes in a file of {} bytes", file.len());
                return Err(Fault::new(format!("a chunk of {name} is no longer than the file can hold"), got));
            };
            join(file, data, &Grid::new(&data.dims, chunk, bytes), *index).map(Cow::from)
        }
    }
}

/// How chunks cover a data set that is not empty, in rows.
struct Grid<'a> {
    dims: &'a [usize],
    chunk: &'a [usize],
    /// Chunks along each axis.
    count: Vec<usize>,
    /// Of a chunk.
    bytes: usize,
}

impl<'a> Grid<'a> {
    fn new(dims: &'a [usize], chunk: &'a [usize], bytes: usize) -> Self {
        Grid { dims, chunk, count: dims.iter().zip(chunk).map(|(n, c)| n.div_ceil(*c)).collect(), bytes }
    }

    /// All chunks. No more than there are rows.
    fn len(&self) -> usize {
        self.count.iter().product()
    }

    /// The first row, along each axis, of chunk number `at`; the last axis is the fastest.
    fn first(&self, mut at: usize) -> Vec<usize> {
        let mut first = vec![0; self.count.len()];
        for axis in (0..first.len()).rev() {
            first[axis] = at % self.count[axis] * self.chunk[axis];
            at /= self.count[axis];
        }
        first
    }

    /// Copies what lies inside the data set from chunk number `at` to its place, rows of `size` bytes.
    fn place(&self, at: usize, chunk: &[u8], size: usize, out: &mut [u8]) {
        let first = self.first(at);
        let (axes, last) = (first.len(), first.len() - 1);
        let inside: Vec<usize> = (0..axes).map(|a| self.chunk[a].min(self.dims[a] - first[a])).collect();
        let lines: usize = inside[..last].iter().product();
        for line in 0..lines {
            let (mut rest, mut from, mut to, mut steps) = (line, 0, 0, (1, 1));
            for axis in (0..last).rev() {
                let k = rest % inside[axis];
                rest /= inside[axis];
                from += k * steps.0;
                to += (first[axis] + k) * steps.1;
                steps = (steps.0 * self.chunk[axis], steps.1 * self.dims[axis]);
            }
            let (from, to) = (from * self.chunk[last] * size, (to * self.dims[last] + first[last]) * size);
            out[to..][..inside[last] * size].copy_from_slice(&chunk[from..][..inside[last] * size]);
        }
    }

    /// Whether a chunk reaches beyond the last row of an axis.
    fn at_the_edge(&self, at: usize) -> bool {
        self.first(at).iter().zip(self.chunk).zip(self.dims).any(|((first, chunk), n)| first + chunk > *n)
    }
}

/// Where a chunk is, how much of it, and which filters it did not go through (bit i for filter i).
struct Stored {
    /// Its number, or none for one that was left behind by a data set that was once longer.
    number: Option<usize>,
    address: u64,
    bytes: Option<u64>,
    mask: u32,
}

/// All chunks, each at its place. What is made grows with what is in the file, not with what the file says.
fn join(file: &[u8], data: &Dataset<'_>, grid: &Grid<'_>, index: Index) -> Result<Vec<u8>> {
    let (name, size) = (&data.name, data.kind.size());
    let mut chunks: Vec<Cow<'_, [u8]>> = Vec::new();
    find(file, grid, index, |stored| {
        let done = chunks.len();
        let Some(number) = stored.number else { return Ok(()) };
        if number != done || stored.address == UNDEFINED {
            return Err(missing(name, grid, done));
        }
        let mut at = Cursor::new(file, stored.address)?;
        if data.filters.is_empty() || (data.plain_edge && grid.at_the_edge(number)) {
            chunks.push(at.take(grid.bytes as u64)?.into());
            return Ok(());
        }
        let bytes = at.take(stored.bytes.unwrap_or(grid.bytes as u64))?;
        let decoded = decode(bytes, &data.filters, stored.mask, grid.bytes).map_err(|got| {
            Fault::new(format!("the chunk at byte {} holds {} bytes of {name}", stored.address, grid.bytes), got)
        })?;
        chunks.push(decoded);
        Ok(())
    })?;
    if chunks.len() < grid.len() {
        return Err(missing(name, grid, chunks.len()));
    }
    let mut out = vec![0; data.rows * size];
    chunks.iter().enumerate().for_each(|(at, chunk)| grid.place(at, chunk, size, &mut out));
    Ok(out)
}

fn missing(name: &str, grid: &Grid<'_>, number: usize) -> Fault {
    let first: Vec<String> = grid.first(number).iter().map(usize::to_string).collect();
    Fault::new(
        format!("the chunks of {name} follow each other without a gap"),
        format!("the one with row {} is not there", first.join(", ")),
    )
}

/// Calls `visit` with the chunks in the order of their rows.
fn find(file: &[u8], grid: &Grid<'_>, index: Index, mut visit: impl FnMut(Stored) -> Result<()>) -> Result<()> {
    let plain = |i: usize, address: u64| Stored { number: Some(i), address, bytes: None, mask: 0 };
    match index {
        Index::Tree(UNDEFINED) | Index::FixedArray(UNDEFINED) => Ok(()),
        // A key: bytes, mask, first row along each axis, and one more coordinate that is always 0.
        Index::Tree(tree) => leaves(file, tree, 1, 8 + 8 * (grid.dims.len() as u64 + 1), |mut key, address| {
            let (bytes, mask) = (key.u32()?, key.u32()?);
            let mut number = Some(0);
            for axis in 0..grid.dims.len() {
                let row = key.u64()?;
                let chunk = grid.chunk[axis] as u64;
                let inside = row < grid.dims[axis] as u64;
                if inside && !row.is_multiple_of(chunk) {
                    let got = format!("one begins at row {row} of axis {axis}");
                    return Err(Fault::new(format!("chunks begin at multiples of {chunk} rows"), got));
                }
                number = number.filter(|_| inside).map(|n| n * grid.count[axis] + (row / chunk) as usize);
            }
            visit(Stored { number, address, bytes: Some(bytes.into()), mask })
        }),
        Index::Single { address, filtered } => {
            visit(Stored { bytes: filtered.map(|f| f.0), mask: filtered.map_or(0, |f| f.1), ..plain(0, address) })
        }
        Index::Implicit(first) => (0..grid.len()).try_for_each(|i| {
            let address = (i as u64).checked_mul(grid.bytes as u64).and_then(|offset| first.checked_add(offset));
            visit(plain(i, address.unwrap_or(UNDEFINED)))
        }),
        Index::FixedArray(header) => fixed_array(file, header, grid.len() as u64, |i, mut entry| {
            let address = entry.u64()?;
            if entry.left() == 0 {
                return visit(plain(i as usize, address));
            }
            let bytes = entry.number(entry.left() - 4)?;
            visit(Stored { bytes: Some(bytes), mask: entry.u32()?, ..plain(i as usize, address) })
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
            Filter::Lzf => lzf(&bytes, size + 4 * filters.len())?.into(),
        };
    }
    if bytes.len() == size { Ok(bytes) } else { Err(format!("{} bytes", bytes.len())) }
}

/// The contents of a compressed stream of at most `most` bytes. Room is made as it is filled.
fn inflate(bytes: &[u8], most: usize) -> std::result::Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(most.min(4 * bytes.len() + 64));
    let mut stream = Decompress::new(true);
    loop {
        let read = stream.total_in() as usize;
        let finish = if out.capacity() >= most { FlushDecompress::Finish } else { FlushDecompress::None };
        let before = out.len();
        match stream.decompress_vec(&bytes[read..], &mut out, finish) {
            Ok(Status::StreamEnd) => return Ok(out),
            Ok(_) if out.len() >= most => return Err("more".into()),
            Ok(_) if out.len() == out.capacity() => out.reserve_exact(out.len().min(most - out.len())),
            Ok(_) if out.len() == before && stream.total_in() as usize == read => {
                return Err("a compressed stream that is cut short".into());
            }
            Ok(_) => {}
            Err(e) => return Err(format!("what is no compressed stream ({e})")),
        }
    }
}

/// What bytes of LZF stand for, at most `most`: copies of up to 32 bytes, and pieces of what came before.
///
/// ```text
/// 000nnnnn                           n + 1 bytes follow
/// nnnooooo oooooooo                  n + 2 bytes from o + 1 before the end; with n = 7 a byte before the last adds to n
/// ```
fn lzf(bytes: &[u8], most: usize) -> std::result::Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(most.min(4 * bytes.len() + 64));
    let mut rest = bytes.iter().copied();
    while let Some(control) = rest.next() {
        let mut next = || rest.next().ok_or("bytes that end too early");
        if control < 32 {
            for _ in 0..=control {
                out.push(next()?);
            }
        } else {
            let more = if control >> 5 == 7 { usize::from(next()?) } else { 0 };
            let (length, back) =
                (usize::from(control >> 5) + more + 2, usize::from(control & 31) << 8 | usize::from(next()?));
            let start = out.len().checked_sub(back + 1).ok_or("a piece from before the beginning")?;
            // A piece may reach into itself.
            (start..start + length).for_each(|at| out.push(out[at]));
        }
        if out.len() > most {
            return Err("more".into());
        }
    }
    Ok(out)
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
    fn lzf_copies_and_repeats() {
        assert_eq!(lzf(&[2, 7, 8, 9, 0x20, 2], 100).unwrap(), [7, 8, 9, 7, 8, 9]);
        assert_eq!(lzf(&[0, 5, 0xe0, 1, 0], 100).unwrap(), [5; 11], "a piece that reaches into itself, and a long one");
        for bad in [&[3, 1][..], &[0, 1, 0x20], &[0, 1, 0x20, 1], &[0, 1, 0xe0, 0xff, 0]] {
            assert!(lzf(bad, 100).is_err(), "{bad:?}");
        }
    }

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
