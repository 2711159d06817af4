//! Rows that are records: several named numbers side by side, as NumPy's structured arrays are stored.

use super::cursor::Cursor;
use super::dataset::{class_name, number, type_head};
use super::{Fault, Number, Result};

/// A number of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its first byte in the record.
    pub offset: usize,
    /// How it is stored. Truth values are numbers 0 and 1.
    pub number: Number,
}

/// The most fields: a record of events has four.
const MOST: u32 = 32;

/// The fields of a type whose head has been read: `flags` holds their number, `size` is the bytes of a record.
pub(super) fn fields(mut c: Cursor<'_>, version: u8, flags: u32, size: usize, name: &str) -> Result<Vec<Field>> {
    let count = flags & 0xffff;
    if !(1..=MOST).contains(&count) || !(1..=3).contains(&version) {
        let rule = format!("the records of {name} have 1 to {MOST} numbers, in a type of version 1 to 3");
        return Err(Fault::new(rule, format!("{count}, version {version}")));
    }
    let mut all: Vec<Field> = Vec::new();
    for _ in 0..count {
        let field = text(&mut c, version, name)?;
        // Since version 3 an offset takes as many bytes as the size of a record.
        let bytes = if version < 3 { 4 } else { 1 + (size.max(1).ilog2() / 8) as usize };
        let offset = c.number(bytes)? as usize;
        // Axes of an array, which has a type of its own today.
        c.skip(if version == 1 { 28 } else { 0 })?;
        let number = member(&mut c, &format!("{field} of {name}"))?;
        if offset.checked_add(number.size).is_none_or(|end| end > size) {
            let got = format!("{field} at byte {offset} of {size}");
            return Err(Fault::new(format!("the numbers of a record of {name} lie within it"), got));
        }
        all.push(Field { name: field, offset, number });
    }
    all.sort_by_key(|f| f.offset);
    if all.windows(2).any(|two| two[0].offset + two[0].number.size > two[1].offset) {
        return Err(Fault::new(format!("the numbers of a record of {name} lie side by side"), "some overlap"));
    }
    Ok(all)
}

/// A name that ends with a zero, before version 3 filled up to eight bytes.
fn text(c: &mut Cursor<'_>, version: u8, name: &str) -> Result<String> {
    let end = c.rest().iter().position(|&b| b == 0);
    let Some(end) = end else {
        return Err(Fault::new(format!("names in the type of {name} end"), "one that does not"));
    };
    let length = if version < 3 { (end + 1).next_multiple_of(8) } else { end + 1 };
    let bytes = c.take(length as u64)?;
    Ok(String::from_utf8_lossy(&bytes[..end.min(64)]).into_owned())
}

/// The type of a number: an integer, a floating-point number, or a truth value, which is an enumeration of two integers.
fn member(c: &mut Cursor<'_>, name: &str) -> Result<Number> {
    let version = c.rest().first().map_or(0, |byte| byte >> 4);
    let (class, flags, size) = type_head(c)?;
    match class {
        0 => number(c.part(4)?, class, flags, size, name),
        1 => number(c.part(12)?, class, flags, size, name),
        8 => {
            let (inner, inner_flags, inner_size) = type_head(c)?;
            if inner != 0 || inner_size != size {
                return Err(Fault::new(format!("{name} is an enumeration of integers"), class_name(inner)));
            }
            let found = number(c.part(4)?, inner, inner_flags, size, name)?;
            let count = flags & 0xffff;
            (0..count).try_for_each(|_| text(c, version, name).map(drop))?;
            c.skip(u64::from(count) * u64::from(size))?;
            Ok(found)
        }
        _ => Err(Fault::new(format!("{name} is a number"), class_name(class))),
    }
}
