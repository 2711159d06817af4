//! Writing: groups with compact links, data sets in one piece. Superblock 2, object headers 2, with their checksums; no compression.
//!
//! ```text
//! superblock | rows of each data set and its header, then the header of the group that holds it, and so on up to the root
//! ```
//!
//! Any reader of HDF5 1.8 or later takes it. Texts have a fixed length, filled up with zeros. Sequences lie in collections of the global heap in
//! front of the rows that refer to them.

use std::collections::BTreeMap;

use super::cursor::{UNDEFINED, lookup3};
use super::header::kind;

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Members by name.
    Group(BTreeMap<String, Item>),
    /// Single precision, rows along each axis (none for a single value).
    Single(Vec<usize>, Vec<f32>),
    /// Double precision.
    Double(Vec<usize>, Vec<f64>),
    /// Integers of 64 bits.
    Integers(Vec<usize>, Vec<i64>),
    /// Texts in UTF-8.
    Texts(Vec<usize>, Vec<String>),
    /// A sequence of numbers for each row: their type, and for each row their bytes, little endian.
    Sequences(Element, Vec<Vec<u8>>),
}

/// A number of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Half precision.
    Half,
    /// Single precision.
    Single,
    /// Double precision.
    Double,
    /// Integers from 0 to 65535.
    Unsigned16,
}

impl Element {
    /// Bytes.
    pub fn size(self) -> usize {
        match self {
            Element::Half | Element::Unsigned16 => 2,
            Element::Single => 4,
            Element::Double => 8,
        }
    }

    fn class(self) -> Vec<u8> {
        match self {
            Element::Unsigned16 => vec![0x10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 16, 0],
            _ => float(self.size() as u8),
        }
    }
}

impl Item {
    /// A group of these members.
    pub fn group<N: Into<String>>(members: impl IntoIterator<Item = (N, Item)>) -> Item {
        Item::Group(members.into_iter().map(|(name, item)| (name.into(), item)).collect())
    }

    /// One text.
    pub fn text(text: impl Into<String>) -> Item {
        Item::Texts(vec![], vec![text.into()])
    }
}

/// More kinds of messages than a reader needs.
const FILL: u16 = 0x05;
const GROUP_INFO: u16 = 0x0a;

/// The bytes of a file whose root group has these members.
///
/// # Panics
/// When a data set has another number of values than its axes say.
pub fn write(root: BTreeMap<String, Item>) -> Vec<u8> {
    let mut file = vec![0; SUPERBLOCK];
    let root = put(&mut file, &Item::Group(root));
    let mut head = b"\x89HDF\r\n\x1a\n\x02\x08\x08\0".to_vec();
    [0, UNDEFINED, file.len() as u64, root].into_iter().for_each(|word| head.extend(word.to_le_bytes()));
    head.extend(lookup3(&head).to_le_bytes());
    file[..SUPERBLOCK].copy_from_slice(&head);
    file
}

/// Bytes of the superblock.
const SUPERBLOCK: usize = 48;

/// Adds an item, after what it refers to; the address of its header.
fn put(file: &mut Vec<u8>, item: &Item) -> u64 {
    let (dims, class, rows) = match item {
        Item::Group(members) => return put_group(file, members),
        Item::Sequences(element, all) => return put_sequences(file, *element, all),
        Item::Single(dims, all) => (dims, float(4), all.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Item::Double(dims, all) => (dims, float(8), all.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Item::Integers(dims, all) => (dims, integer(), all.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Item::Texts(dims, all) => {
            let size = all.iter().map(String::len).max().unwrap_or_default().max(1);
            let fill = |text: &String| [text.as_bytes(), &vec![0; size - text.len()]].concat();
            (
                dims,
                [&[0x13, 0x11, 0, 0], &(size as u32).to_le_bytes()[..]].concat(),
                all.iter().flat_map(fill).collect(),
            )
        }
    };
    put_rows(file, dims, class, rows)
}

/// The type of a number as IEEE 754 has it, in `size` bytes: 2, 4 or 8.
fn float(size: u8) -> Vec<u8> {
    let (exponent, fraction, bias) = match size {
        2 => (5, 10, 15u32),
        4 => (8, 23, 127),
        _ => (11, 52, 1023),
    };
    let head = [0x11, 0x20, 8 * size - 1, 0, size, 0, 0, 0, 0, 0, 8 * size, 0, fraction, exponent, 0, fraction];
    [&head[..], &bias.to_le_bytes()].concat()
}

/// The type of a signed integer of 64 bits.
fn integer() -> Vec<u8> {
    vec![0x10, 0x08, 0, 0, 8, 0, 0, 0, 0, 0, 64, 0]
}

fn put_rows(file: &mut Vec<u8>, dims: &[usize], class: Vec<u8>, rows: Vec<u8>) -> u64 {
    let size = class[4..8].iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
    assert_eq!(rows.len(), size * dims.iter().product::<usize>(), "a data set has as many values as its axes say");
    let place = if rows.is_empty() { UNDEFINED } else { align(file) };
    file.extend(&rows);
    let mut space = vec![2, dims.len() as u8, 0, u8::from(!dims.is_empty())];
    dims.iter().for_each(|&n| space.extend((n as u64).to_le_bytes()));
    let layout = [&[3, 1][..], &place.to_le_bytes(), &(rows.len() as u64).to_le_bytes()].concat();
    // Room is made late, and what fills it is written if it is set.
    put_header(
        file,
        &[(kind::DATASPACE, space), (kind::DATATYPE, class), (FILL, vec![3, 0x0a]), (kind::LAYOUT, layout)],
    )
}

/// Bytes of objects that one collection of the heap holds, and the least that the C library takes for a collection.
const COLLECTION: (usize, usize) = (1 << 16, 4096);

fn put_sequences(file: &mut Vec<u8>, element: Element, all: &[Vec<u8>]) -> u64 {
    let mut rows = Vec::with_capacity(16 * all.len());
    let mut rest = all;
    while !rest.is_empty() {
        let (mut objects, mut count) = (Vec::new(), 0u16);
        let place = align(file);
        while let Some((bytes, more)) = rest.split_first().filter(|_| objects.len() < COLLECTION.0 && count < u16::MAX)
        {
            count += 1;
            // A number, one reference, and the length; then the bytes, filled up.
            objects.extend([count, 1, 0, 0].into_iter().flat_map(u16::to_le_bytes));
            objects.extend((bytes.len() as u64).to_le_bytes());
            objects.extend(bytes);
            objects.resize(objects.len().next_multiple_of(8), 0);
            // A row without numbers refers to nothing.
            let (length, place) = ((bytes.len() / element.size()) as u32, if bytes.is_empty() { 0 } else { place });
            rows.extend(length.to_le_bytes());
            rows.extend(place.to_le_bytes());
            rows.extend((if bytes.is_empty() { 0 } else { u32::from(count) }).to_le_bytes());
            rest = more;
        }
        // What is left of a collection is object 0, which counts its own head.
        let size = (16 + objects.len() + 16).max(COLLECTION.1);
        let free = size - 16 - objects.len();
        file.extend(b"GCOL\x01\0\0\0");
        file.extend((size as u64).to_le_bytes());
        file.extend(objects);
        file.extend([0; 8]);
        file.extend((free as u64).to_le_bytes());
        file.resize(place as usize + size, 0);
    }
    let class = [&[0x19, 0, 0, 0, 16, 0, 0, 0][..], &element.class()].concat();
    put_rows(file, &[all.len()], class, rows)
}

fn put_group(file: &mut Vec<u8>, members: &BTreeMap<String, Item>) -> u64 {
    let nowhere = UNDEFINED.to_le_bytes();
    let info = [&[0, 0][..], &nowhere, &nowhere].concat();
    let mut messages = vec![(kind::LINK_INFO, info), (GROUP_INFO, vec![0, 0])];
    for (name, item) in members {
        let address = put(file, item);
        // Version 1; the name is in UTF-8, and its length has two bytes.
        let head = [&[1, 0x11, 1][..], &(name.len() as u16).to_le_bytes()].concat();
        messages.push((kind::LINK, [&head, name.as_bytes(), &address.to_le_bytes()].concat()));
    }
    put_header(file, &messages)
}

/// An object header of version 2 with these messages.
fn put_header(file: &mut Vec<u8>, messages: &[(u16, Vec<u8>)]) -> u64 {
    let place = align(file);
    let length: usize = messages.iter().map(|(_, body)| 4 + body.len()).sum();
    // The length of what follows has four bytes.
    file.extend(b"OHDR\x02\x02");
    file.extend((length as u32).to_le_bytes());
    for (kind, body) in messages {
        file.push(*kind as u8);
        file.extend((body.len() as u16).to_le_bytes());
        file.push(0);
        file.extend(body);
    }
    let sum = lookup3(&file[place as usize..]);
    file.extend(sum.to_le_bytes());
    place
}

/// Fills the file up to a multiple of 8 bytes; its length.
fn align(file: &mut Vec<u8>) -> u64 {
    file.resize(file.len().next_multiple_of(8), 0);
    file.len() as u64
}

#[cfg(test)]
mod tests {
    use super::super::{Budget, Hdf5, Heap, Value, Values};
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let many = (0..40).map(|k| (format!("member {k}"), Item::text(format!("text {k}"))));
        let root = BTreeMap::from([
            ("numbers".to_string(), Item::Single(vec![2, 3], vec![0.1, -2.0, f32::MIN_POSITIVE, 3.5, 1e30, -0.0])),
            ("double".to_string(), Item::Double(vec![2], vec![0.1, -1e300])),
            ("one".to_string(), Item::Integers(vec![], vec![-7])),
            ("texts".to_string(), Item::Texts(vec![2, 2], ["a", "", "ccc", "d\u{e9}"].map(String::from).to_vec())),
            ("none".to_string(), Item::Single(vec![0], vec![])),
            ("group".to_string(), Item::group([("inner", Item::group(many))])),
        ]);
        let file = Hdf5::new(write(root)).expect("a sound file");
        let mut heap = Heap::new(file.bytes());
        let mut value = |path: &str| {
            let data = file.find(path).expect("a sound file").expect("a data set");
            file.value(&data, &mut Budget::of(1000), &mut heap).expect("sound rows")
        };
        let single = Values::Single(vec![0.1, -2.0, f32::MIN_POSITIVE, 3.5, 1e30, -0.0]);
        assert_eq!(value("numbers"), Value { dims: vec![2, 3], values: single });
        assert_eq!(value("double").values, Values::Double(vec![0.1, -1e300]));
        assert_eq!(value("one"), Value { dims: vec![], values: Values::Integers(vec![-7]) });
        let texts = ["a", "", "ccc", "d\u{e9}"].map(String::from).to_vec();
        assert_eq!(value("texts"), Value { dims: vec![2, 2], values: Values::Texts(texts) });
        assert_eq!(value("none").dims, [0]);
        assert_eq!(value("group/inner/member 33").values, Values::Texts(vec!["text 33".into()]));
        let inner = file.object(file.root(), "group/inner").expect("sound").expect("a group");
        assert_eq!(file.members(inner, "inner").expect("sound").expect("a group").len(), 40);
        let one = file.object(file.root(), "one").expect("sound").expect("a data set");
        assert!(file.members(one, "one").expect("sound").is_none());
    }
}
