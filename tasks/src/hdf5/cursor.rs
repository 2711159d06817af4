//! Numbers out of bytes, little endian, with the position kept for messages; the checksum of the format.

use super::{Fault, Result};

/// The address that stands for none.
pub const UNDEFINED: u64 = u64::MAX;

/// A place in a file, and the end of what may be read from there.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    /// From `address` to the end of the file.
    pub fn new(file: &'a [u8], address: u64) -> Result<Self> {
        match usize::try_from(address) {
            Ok(at) if at < file.len() => Ok(Cursor { file, at, end: file.len() }),
            _ => Err(Fault::new(
                format!("addresses lie within the {} bytes of the file", file.len()),
                format!("the address {address}"),
            )),
        }
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.end - self.at
    }

    /// Where in the file the cursor is.
    pub fn position(&self) -> usize {
        self.at
    }

    /// All that is left.
    pub fn rest(&self) -> &'a [u8] {
        &self.file[self.at..self.end]
    }

    /// The next `n` bytes as a cursor of their own.
    pub fn part(&mut self, n: u64) -> Result<Cursor<'a>> {
        match usize::try_from(n) {
            Ok(n) if n <= self.left() => {
                let part = Cursor { end: self.at + n, ..*self };
                self.at += n;
                Ok(part)
            }
            _ => {
                let got = format!("{n} bytes are needed at byte {}, and {} are there", self.at, self.left());
                Err(Fault::new("the structures of the file are whole", got))
            }
        }
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        self.part(n).map(|part| part.rest())
    }

    /// Passes over `n` bytes.
    pub fn skip(&mut self, n: u64) -> Result<()> {
        self.part(n).map(drop)
    }

    /// The next number of `size` bytes, 1 to 8.
    pub fn number(&mut self, size: usize) -> Result<u64> {
        let mut word = [0; 8];
        word[..size].copy_from_slice(self.take(size as u64)?);
        Ok(u64::from_le_bytes(word))
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8> {
        self.number(1).map(|n| n as u8)
    }

    /// The next 2 bytes.
    pub fn u16(&mut self) -> Result<u16> {
        self.number(2).map(|n| n as u16)
    }

    /// The next 4 bytes.
    pub fn u32(&mut self) -> Result<u32> {
        self.number(4).map(|n| n as u32)
    }

    /// The next 8 bytes.
    pub fn u64(&mut self) -> Result<u64> {
        self.number(8)
    }

    /// Passes over a signature that must be there.
    pub fn signature(&mut self, expected: &[u8; 4]) -> Result<()> {
        let at = self.at;
        let got = self.take(4)?;
        if got == expected {
            return Ok(());
        }
        let rule = format!("the structure at byte {at} begins with {}", expected.escape_ascii());
        Err(Fault::new(rule, format!("its first bytes are \"{}\"", got.escape_ascii())))
    }
}

/// Compares the checksum that follows the bytes from `start` to where `end` is, and passes over it.
pub fn check_sum(start: Cursor<'_>, end: &mut Cursor<'_>) -> Result<()> {
    let want = lookup3(&start.rest()[..end.at - start.at]);
    let got = end.u32()?;
    if got == want {
        return Ok(());
    }
    let rule = format!("the structure at byte {} matches its checksum", start.at);
    Err(Fault::new(rule, format!("its bytes give {want:08x}, and {got:08x} is stored")))
}

/// Bob Jenkins' `hashlittle` of lookup3.c, from 0: the checksum of the structures of HDF5.
pub fn lookup3(bytes: &[u8]) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = bytes;
    loop {
        let n = rest.len().min(12);
        let mut block = [0; 12];
        block[..n].copy_from_slice(&rest[..n]);
        let word = |i: usize| u32::from_le_bytes([block[i], block[i + 1], block[i + 2], block[i + 3]]);
        if n == 0 {
            return c;
        }
        a = a.wrapping_add(word(0));
        b = b.wrapping_add(word(4));
        c = c.wrapping_add(word(8));
        rest = &rest[n..];
        if rest.is_empty() {
            break;
        }
        for (x, y, z, turn) in [(0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4)] {
            let mut state = [a, b, c];
            state[x] = state[x].wrapping_sub(state[y]) ^ state[y].rotate_left(turn);
            state[y] = state[y].wrapping_add(state[z]);
            [a, b, c] = state;
        }
    }
    for (x, y, turn) in [(2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24)] {
        let mut state = [a, b, c];
        state[x] = (state[x] ^ state[y]).wrapping_sub(state[y].rotate_left(turn));
        [a, b, c] = state;
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the driver in lookup3.c.
    #[test]
    fn checksums_have_their_published_values() {
        assert_eq!(lookup3(b""), 0xdead_beef);
        assert_eq!(lookup3(b"Four score and seven years ago"), 0x1777_0551);
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        let file = [1, 2, 3, 4, 5];
        let mut c = Cursor::new(&file, 1).unwrap();
        assert_eq!((c.u16().unwrap(), c.left(), c.position()), (0x302, 2, 3));
        let mut part = c.part(1).unwrap();
        assert_eq!((part.u8().unwrap(), part.left(), c.rest()), (4, 0, &[5u8][..]));
        let m = part.u8().unwrap_err();
        assert!(m.got.contains("at byte 4"), "{}", m.got);
        assert!(c.part(u64::MAX).is_err() && Cursor::new(&file, 5).is_err() && Cursor::new(&file, UNDEFINED).is_err());
    }
}
