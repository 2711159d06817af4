//! The header of a NumPy file: a Python dictionary in text.
//!
//! ```text
//! {'descr': '<f8', 'fortran_order': False, 'shape': (200, 4), }
//! {'descr': [('t', '<i8'), ('x', '<i2'), ('y', '<i2'), ('p', '|b1')], 'fortran_order': False, 'shape': (200,), }
//! ```

/// Longest header in bytes that is read, as in NumPy.
const LONGEST: usize = 10_000;
/// Most values in a header.
const MOST: usize = 512;
/// Deepest nesting: a dictionary of a list of tuples of tuples.
const DEEPEST: usize = 6;

/// A Python value, as far as headers have them.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'a> {
    Text(&'a str),
    /// A number or a name such as `True`.
    Word(&'a str),
    /// A tuple or a list.
    Many(Vec<Value<'a>>),
    Dictionary(Vec<(Value<'a>, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// The entry of a dictionary.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let Value::Dictionary(all) = self else { return None };
        all.iter().find(|(k, _)| *k == Value::Text(key)).map(|(_, v)| v)
    }
}

/// Header and data of a file.
pub(super) fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (&[major, _minor], rest) = rest.split_first_chunk::<2>()?;
    let (length, rest) = if major == 1 {
        let (n, rest) = rest.split_first_chunk::<2>()?;
        (usize::from(u16::from_le_bytes(*n)), rest)
    } else {
        let (n, rest) = rest.split_first_chunk::<4>()?;
        (u32::from_le_bytes(*n) as usize, rest)
    };
    let (header, data) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

/// The dictionary of a header; `None` for what is none.
pub(super) fn parse(text: &str) -> Option<Value<'_>> {
    if text.len() > LONGEST {
        return None;
    }
    let mut parser = Parser { rest: text, values: 0 };
    let value = parser.value(0)?;
    (parser.rest.trim_start().is_empty() && matches!(value, Value::Dictionary(_))).then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
    /// Values so far.
    values: usize,
}

impl<'a> Parser<'a> {
    /// Takes `c` if it comes next.
    fn take(&mut self, c: char) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Value<'a>> {
        self.values += 1;
        if depth > DEEPEST || self.values > MOST {
            return None;
        }
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next()?;
        match first {
            '\'' | '"' => {
                let (text, rest) = self.rest[1..].split_once(first)?;
                self.rest = rest;
                Some(Value::Text(text))
            }
            '(' | '[' => {
                self.take(first);
                self.many(if first == '(' { ')' } else { ']' }, |p| p.value(depth + 1)).map(Value::Many)
            }
            '{' => {
                self.take(first);
                let pair = |p: &mut Self| {
                    let key = p.value(depth + 1)?;
                    p.take(':').then_some(())?;
                    Some((key, p.value(depth + 1)?))
                };
                self.many('}', pair).map(Value::Dictionary)
            }
            _ => {
                let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_+-.".contains(c));
                let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest;
                (!word.is_empty()).then_some(Value::Word(word))
            }
        }
    }

    /// Items with commas between them, up to `end`.
    fn many<T>(&mut self, end: char, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut all = Vec::new();
        while !self.take(end) {
            all.push(item(self)?);
            if !self.take(',') {
                return self.take(end).then_some(all);
            }
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries() {
        let got = parse("{'descr': [('t', '<i8'), (\"x\", '<i2', (2,))], 'fortran_order': False, 'shape': (3,), }  \n")
            .unwrap();
        let Some(Value::Many(fields)) = got.get("descr") else { panic!("{got:?}") };
        assert_eq!(fields[0], Value::Many(vec![Value::Text("t"), Value::Text("<i8")]));
        assert_eq!(got.get("fortran_order"), Some(&Value::Word("False")));
        assert_eq!(got.get("shape"), Some(&Value::Many(vec![Value::Word("3")])));
        assert_eq!(got.get("absent"), None);
        for bad in ["", "{'a': 1", "{'a' 1}", "{'a': }", "{'a': 'b}", "('a',)", "{} x", "{'a': (1 2)}", "{,}"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse(&format!("{{'a': {}", "[".repeat(9000))), None, "no depth without end");
    }
}
