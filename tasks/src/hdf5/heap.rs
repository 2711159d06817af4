//! The global heap: what rows of variable length refer to.
//!
//! ```text
//! reference     length u32 | address of a collection u64 | index u32                          little endian
//! collection    "GCOL" | version 1 | 3 reserved | size u64 | objects
//! object        index u16 | references u16 | 4 reserved | size u64 | data, padded to 8 bytes     index 0 ends the list
//! ```

use std::collections::HashMap;
use std::ops::Range;

use super::cursor::Cursor;
use super::{Fault, Result};

/// The collections that references have led to so far.
pub struct Heap<'a> {
    file: &'a [u8],
    /// By address: which of the objects.
    collections: HashMap<u64, Range<usize>>,
    /// Index, and where the data are, sorted by index within a collection.
    objects: Vec<(u16, Range<usize>)>,
    /// Bytes of all collections.
    seen: u64,
}

impl<'a> Heap<'a> {
    /// None is read yet.
    pub fn new(file: &'a [u8]) -> Self {
        Heap { file, collections: HashMap::new(), objects: Vec::new(), seen: 0 }
    }

    /// How many elements a reference says it leads to, and where in the file the object is; an empty place for none.
    ///
    /// # Errors
    /// Damage, or a reference that leads nowhere.
    pub fn follow(&mut self, reference: &[u8; 16]) -> Result<(usize, Range<usize>)> {
        let mut c = Cursor::new(reference, 0)?;
        let (count, address, index) = (c.u32()? as usize, c.u64()?, c.u32()?);
        if count == 0 {
            return Ok((0, 0..0));
        }
        let known = match self.collections.get(&address) {
            Some(known) => known.clone(),
            None => self.collection(address)?,
        };
        let objects = &self.objects[known];
        match objects.binary_search_by_key(&index, |o| o.0.into()) {
            Ok(found) => Ok((count, objects[found].1.clone())),
            Err(_) => {
                let got = format!("the collection at byte {address} has no object {index}");
                Err(Fault::new("a reference leads to an object", got))
            }
        }
    }

    fn collection(&mut self, address: u64) -> Result<Range<usize>> {
        let mut c = Cursor::new(self.file, address)?;
        let whole = c;
        c.signature(b"GCOL")?;
        c.skip(4)?;
        let size = c.u64()?;
        self.seen = self.seen.saturating_add(size);
        if size < 16 || self.seen > self.file.len() as u64 {
            let got = format!("the one at byte {address} says {size} bytes");
            return Err(Fault::new("collections of the heap do not overlap, and fit the file", got));
        }
        let mut c = {
            let mut whole = whole;
            whole.part(size)?
        };
        c.skip(16)?;
        let first = self.objects.len();
        while c.left() >= 16 {
            let index = c.u16()?;
            c.skip(6)?;
            let size = c.u64()?;
            if index == 0 {
                break;
            }
            let start = c.position();
            let data = c.part(size)?;
            c.skip((size.next_multiple_of(8) - size).min(c.left() as u64))?;
            self.objects.push((index, start..start + data.left()));
        }
        self.objects[first..].sort_unstable_by_key(|o| o.0);
        if self.objects[first..].windows(2).any(|two| two[0].0 == two[1].0) {
            let rule = "the objects of a collection have different numbers";
            return Err(Fault::new(rule, format!("two in the one at byte {address} have the same")));
        }
        let all = first..self.objects.len();
        self.collections.insert(address, all.clone());
        Ok(all)
    }
}
