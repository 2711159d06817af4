//! From the first byte of a file to the messages of an object: superblock, object headers, groups.

use super::cursor::{Cursor, UNDEFINED, check_sum, lookup3};
use super::{Fault, Result};

/// Kinds of messages.
pub mod kind {
    pub const DATASPACE: u16 = 0x01;
    pub const LINK_INFO: u16 = 0x02;
    pub const DATATYPE: u16 = 0x03;
    pub const LINK: u16 = 0x06;
    pub const LAYOUT: u16 = 0x08;
    pub const FILTERS: u16 = 0x0b;
    pub const CONTINUATION: u16 = 0x10;
    pub const SYMBOL_TABLE: u16 = 0x11;
}

/// The superblock: the address of the root group's object header.
pub fn superblock(file: &[u8]) -> Result<u64> {
    let mut c = Cursor::new(file, 0).map_err(|_| Fault::new("the file is HDF5", "it is empty"))?;
    let start = c;
    if !file.starts_with(b"\x89HDF\r\n\x1a\n") {
        let got = format!("it begins with {}", file[..file.len().min(8)].escape_ascii());
        return Err(Fault::new("the file is HDF5, and begins with \\x89HDF\\r\\n\\x1a\\n", got));
    }
    c.skip(8)?;
    let version = c.u8()?;
    let (sizes, base, end, root) = match version {
        0 | 1 => {
            c.skip(4)?;
            let sizes = (c.u8()?, c.u8()?);
            c.skip(if version == 0 { 9 } else { 13 })?;
            let base = c.u64()?;
            c.skip(8)?;
            let end = c.u64()?;
            // The driver's block, and the name of the root's entry in no symbol table.
            c.skip(16)?;
            (sizes, base, end, c.u64()?)
        }
        2 | 3 => {
            let sizes = (c.u8()?, c.u8()?);
            c.skip(1)?;
            let base = c.u64()?;
            c.skip(8)?;
            let (end, root) = (c.u64()?, c.u64()?);
            check_sum(start, &mut c)?;
            (sizes, base, end, root)
        }
        _ => return Err(Fault::unsupported(format!("a superblock of version {version}"))),
    };
    if sizes != (8, 8) || base != 0 {
        return Err(Fault::unsupported(format!(
            "offsets of {} and lengths of {} bytes, with a user block of {base} bytes",
            sizes.0, sizes.1
        )));
    }
    if end > file.len() as u64 {
        let got = format!("it ends after {}, so the copy is incomplete", file.len());
        return Err(Fault::new(format!("the file has the {end} bytes that its first block says"), got));
    }
    Ok(root)
}

/// A message of an object header.
pub struct Message<'a> {
    /// What it is about: see [`kind`].
    pub kind: u16,
    /// Whether the body is not here, but shared with other objects.
    pub shared: bool,
    pub body: Cursor<'a>,
}

/// Calls `visit` with every message of the object header at `address`, in the order of the blocks.
pub fn messages<'a>(file: &'a [u8], address: u64, mut visit: impl FnMut(Message<'a>) -> Result<()>) -> Result<()> {
    let mut c = Cursor::new(file, address)?;
    let (form, first) = if c.rest().starts_with(b"OHDR") { second_form(&mut c)? } else { first_form(&mut c)? };
    let mut blocks = vec![first];
    let mut seen = 0;
    while let Some(mut block) = blocks.pop() {
        seen += block.left();
        if seen > file.len() {
            let rule = format!("the blocks of the object header at byte {address} do not overlap");
            return Err(Fault::new(rule, "together they are longer than the file"));
        }
        while block.left() >= form.prefix() {
            let message = form.message(&mut block)?;
            if message.kind == kind::CONTINUATION {
                blocks.push(form.continuation(file, message.body)?);
            } else {
                visit(message)?;
            }
        }
    }
    Ok(())
}

/// The two ways of writing an object header.
#[derive(Clone, Copy)]
enum Form {
    First,
    Second { creation_order: bool },
}

fn first_form<'a>(c: &mut Cursor<'a>) -> Result<(Form, Cursor<'a>)> {
    let at = c.position();
    let version = c.u8()?;
    if version != 1 {
        let got = format!("its version is {version}");
        return Err(Fault::new(format!("an object header of version 1 or 2 is at byte {at}"), got));
    }
    // Reserved, the number of messages, the number of links to the object.
    c.skip(7)?;
    let size = c.u32()?;
    c.skip(4)?;
    Ok((Form::First, c.part(size.into())?))
}

fn second_form<'a>(c: &mut Cursor<'a>) -> Result<(Form, Cursor<'a>)> {
    let start = *c;
    c.signature(b"OHDR")?;
    let (version, flags) = (c.u8()?, c.u8()?);
    if version != 2 {
        return Err(Fault::unsupported(format!("an object header of version {version}")));
    }
    // Four times of the object; when links and attributes move to a heap.
    c.skip(if flags & 0x20 != 0 { 16 } else { 0 })?;
    c.skip(if flags & 0x10 != 0 { 4 } else { 0 })?;
    let size = c.number(1 << (flags & 3))?;
    let block = c.part(size)?;
    check_sum(start, c)?;
    Ok((Form::Second { creation_order: flags & 4 != 0 }, block))
}

impl Form {
    /// Bytes before the body of a message.
    fn prefix(self) -> usize {
        match self {
            Form::First => 8,
            Form::Second { creation_order } => 4 + if creation_order { 2 } else { 0 },
        }
    }

    fn message<'a>(self, block: &mut Cursor<'a>) -> Result<Message<'a>> {
        let (kind, size, flags) = match self {
            Form::First => {
                let head = (block.u16()?, block.u16()?, block.u8()?);
                block.skip(3)?;
                head
            }
            Form::Second { creation_order } => {
                let head = (block.u8()?.into(), block.u16()?, block.u8()?);
                block.skip(if creation_order { 2 } else { 0 })?;
                head
            }
        };
        Ok(Message { kind, shared: flags & 2 != 0, body: block.part(size.into())? })
    }

    /// The block of messages that a continuation message leads to.
    fn continuation<'a>(self, file: &'a [u8], mut body: Cursor<'a>) -> Result<Cursor<'a>> {
        let (address, length) = (body.u64()?, body.u64()?);
        let mut block = Cursor::new(file, address)?.part(length)?;
        if let Form::First = self {
            return Ok(block);
        }
        let start = block;
        block.signature(b"OCHK")?;
        let messages = block.part((block.left() as u64).saturating_sub(4))?;
        check_sum(start, &mut block)?;
        Ok(messages)
    }
}

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The address of the object header that it leads to; none for a soft or an external link.
    pub to: Option<u64>,
}

/// The address of the object called `name` in the group at `address`.
pub fn link(file: &[u8], address: u64, name: &str) -> Result<Option<u64>> {
    let mut found = None;
    links(file, address, name, |link| {
        if link.name == name.as_bytes() && found.is_none() {
            found = link.to;
            if link.to.is_none() {
                return Err(Fault::unsupported(format!("{name} is a soft or an external link")));
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Calls `visit` with the members of the group at `address`; what is looked for there is `wanted`, for messages. Says whether it is a group.
pub fn links<'a>(
    file: &'a [u8],
    address: u64,
    wanted: &str,
    mut visit: impl FnMut(Link<'a>) -> Result<()>,
) -> Result<bool> {
    let (mut group, mut table) = (false, None);
    messages(file, address, |mut message| {
        let body = &mut message.body;
        match message.kind {
            kind::SYMBOL_TABLE => table = Some((body.u64()?, body.u64()?)),
            kind::LINK => {
                group = true;
                visit(named(body)?)?;
            }
            kind::LINK_INFO => {
                group = true;
                body.skip(1)?;
                let flags = body.u8()?;
                body.skip(if flags & 1 != 0 { 8 } else { 0 })?;
                if body.u64()? != UNDEFINED {
                    let got = format!("a group with the links in a heap, where {wanted} is looked for");
                    return Err(Fault::unsupported(got));
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    match table {
        Some((tree, heap)) => symbols(file, tree, heap, visit).map(|()| true),
        None => Ok(group),
    }
}

/// What a link message says.
fn named<'a>(body: &mut Cursor<'a>) -> Result<Link<'a>> {
    body.skip(1)?;
    let flags = body.u8()?;
    let kind = if flags & 8 != 0 { body.u8()? } else { 0 };
    body.skip(if flags & 4 != 0 { 8 } else { 0 })?;
    body.skip(if flags & 16 != 0 { 1 } else { 0 })?;
    let length = body.number(1 << (flags & 3))?;
    let name = body.take(length)?;
    Ok(Link { name, to: if kind == 0 { Some(body.u64()?) } else { None } })
}

/// The members of a group that is a B-tree of symbol tables, with the names in a local heap.
fn symbols<'a>(file: &'a [u8], tree: u64, heap: u64, mut visit: impl FnMut(Link<'a>) -> Result<()>) -> Result<()> {
    let mut names = Cursor::new(file, heap)?;
    names.signature(b"HEAP")?;
    names.skip(4)?;
    let size = names.u64()?;
    names.skip(8)?;
    let names = Cursor::new(file, names.u64()?)?.part(size)?;
    leaves(file, tree, 0, 8, |_, child| {
        let mut c = Cursor::new(file, child)?;
        c.signature(b"SNOD")?;
        c.skip(2)?;
        let mut entries = {
            let n = u64::from(c.u16()?);
            c.part(n * 40)?
        };
        while entries.left() > 0 {
            let (offset, object, cache) = (entries.u64()?, entries.u64()?, entries.u32()?);
            entries.skip(20)?;
            let mut here = names;
            here.skip(offset)?;
            let name = here.rest().split(|&b| b == 0).next().unwrap_or_default();
            visit(Link { name, to: if cache == 2 { None } else { Some(object) } })?;
        }
        Ok(())
    })
}

/// Calls `visit` with the key and the address of every child of the leaves of a B-tree of version 1, from left to right. `node` is the
/// type of its nodes (0 groups, 1 chunks), `key` the bytes of a key.
pub fn leaves<'a>(
    file: &'a [u8],
    tree: u64,
    node: u8,
    key: u64,
    mut visit: impl FnMut(Cursor<'a>, u64) -> Result<()>,
) -> Result<()> {
    // Nodes to come: address, and the level that the one above says. The first may have any.
    let mut nodes = vec![(tree, None)];
    let mut seen = 0;
    while let Some((address, expected)) = nodes.pop() {
        let mut c = Cursor::new(file, address)?;
        c.signature(b"TREE")?;
        let (kind, level, count) = (c.u8()?, c.u8()?, c.u16()?);
        if kind != node || expected.is_some_and(|e| e != level) {
            let rule = format!(
                "a node of the B-tree at byte {address} is of type {node} and of the level below the one above it"
            );
            return Err(Fault::new(rule, format!("type {kind}, level {level}")));
        }
        c.skip(16)?;
        let mut entries = c.part(u64::from(count) * (key + 8))?;
        seen += 24 + entries.left();
        if seen > file.len() {
            let rule = format!("the nodes of the B-tree at byte {tree} do not overlap");
            return Err(Fault::new(rule, "together they are longer than the file"));
        }
        let first = nodes.len();
        while entries.left() > 0 {
            let (key, child) = (entries.part(key)?, entries.u64()?);
            if level == 0 {
                visit(key, child)?;
            } else {
                nodes.push((child, Some(level - 1)));
            }
        }
        // The last one in is the first one out.
        nodes[first..].reverse();
    }
    Ok(())
}

/// Whether the 4 bytes at the end of `whole` are the checksum of those before them.
pub fn sums_up(whole: &[u8]) -> bool {
    whole.split_last_chunk::<4>().is_some_and(|(bytes, sum)| lookup3(bytes) == u32::from_le_bytes(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of 8 bytes after a beginning.
    fn file(head: &[u8], words: &[u64]) -> Vec<u8> {
        let words = words.iter().flat_map(|w| w.to_le_bytes());
        head.iter().copied().chain(words).collect()
    }

    #[test]
    fn a_header_that_continues_with_itself_ends() {
        // Version 1, a block of 24 bytes; in it one message, which continues at byte 16 with 24 bytes.
        let bytes = file(b"\x01\0\x01\0\x01\0\0\0\x18\0\0\0\0\0\0\0", &[0x10_0010, 16, 24]);
        let m = messages(&bytes, 0, |_| Ok(())).unwrap_err();
        assert!(m.rule.contains("do not overlap"), "{m:?}");
    }

    #[test]
    fn a_tree_that_grows_into_itself_ends() {
        // A node of level 1 whose only child it is; one of level 0 below a node of level 2; a leaf that all children are.
        for (level, child) in [(1, 0), (2, 40)] {
            let mut bytes = file(b"TREE\0\x01\x01\0", &[0, 0, 0, child]);
            bytes.extend(file(b"TREE\0\0\0\0", &[0, 0]));
            bytes[5] = level;
            let m = leaves(&bytes, 0, 0, 8, |_, _| Ok(())).unwrap_err();
            assert!(m.rule.contains("of the level below"), "{m:?}");
        }
        let mut bytes = file(b"TREE\0\x01\x03\0", &[0, 0, 0, 72, 0, 72, 0, 72]);
        bytes.extend(file(b"TREE\0\0\x01\0", &[0, 0, 7, 9]));
        let mut seen = 0;
        let m = leaves(&bytes, 0, 0, 8, |_, child| {
            seen += child;
            Ok(())
        });
        assert!(m.unwrap_err().rule.contains("do not overlap"));
        assert_eq!(seen, 9, "the leaf is read once");
    }
}
