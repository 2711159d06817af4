//! Lists and tables beside recordings, as people and their programs write them.
//!
//! Bytes are UTF-8 with or without a byte-order mark; lines end in LF, CRLF or CR; fields are separated by commas, semicolons or tabs and
//! may stand in double quotes (`"a, b"`, with `""` for a quote). Empty lines count for nothing. UTF-16 is refused by name.

use std::borrow::Cow;
use std::path::Path;

use crate::{Error, Result};

/// Most fields of a line; a line with more is none of a table.
const FIELDS: usize = 32;
/// Problems of one table that are listed; the rest is counted.
pub(crate) const LISTED: usize = 10;

/// The text of a file with contents `bytes`. Errors: [`Error::Damaged`] for what is not UTF-8.
pub(crate) fn text<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str> {
    let rule = "a table is text in UTF-8";
    let next = "save it as UTF-8, as editors and spreadsheets offer";
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Error::unusable(path, rule, "the byte-order mark of UTF-16", next));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|e| {
        let got = format!("a byte that is no UTF-8 after {} bytes", e.valid_up_to());
        Error::unusable(path, rule, got, next)
    })
}

/// The lines that hold something, with their numbers from 1, without white space at their ends.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> + Clone {
    // `lines` takes a CR before an LF away; a lone CR is a line end of its own.
    let numbered = text.lines().flat_map(|l| l.split('\r')).enumerate();
    numbered.map(|(i, line)| (i + 1, line.trim())).filter(|(_, line)| !line.is_empty())
}

/// Which character separates the fields of a table: the first of `,`, `;` and tab that its first line has.
pub(crate) fn separator(text: &str) -> char {
    let first = lines(text).next().map_or("", |l| l.1);
    [',', ';', '\t'].into_iter().find(|&c| first.contains(c)).unwrap_or(',')
}

/// A line for an error: its beginning.
pub(crate) fn quote(line: &str) -> String {
    let start: String = line.chars().take(60).collect();
    if start.len() < line.len() { format!("{start:?}...") } else { format!("{start:?}") }
}

/// How many lines could be of a table: room for them is made once.
pub(crate) fn rows(text: &str, separator: char) -> usize {
    lines(text).filter(|l| l.1.contains(separator)).count()
}

/// The fields of a line, without white space and quotes around them; `None` if a quote has no end or there are too many.
pub(crate) fn fields(line: &str, separator: char) -> Option<Vec<Cow<'_, str>>> {
    let mut out = Vec::new();
    let mut rest = line;
    while out.len() < FIELDS {
        rest = rest.trim_start_matches([' ', '\u{a0}']);
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = rest.split_once(separator).map_or((rest, None), |(f, a)| (f, Some(a)));
            out.push(Cow::Borrowed(field.trim()));
            let Some(after) = after else { return Some(out) };
            rest = after;
            continue;
        };
        let mut end = 0;
        // The quote that ends the field is the first that is not doubled.
        while let Some(at) = quoted[end..].find('"') {
            end += at;
            if !quoted[end + 1..].starts_with('"') {
                break;
            }
            end += 2;
        }
        let inside = quoted.get(..end)?;
        let after = quoted[end..].strip_prefix('"')?.trim_start_matches(' ');
        out.push(if inside.contains('"') { inside.replace("\"\"", "\"").into() } else { inside.into() });
        match after.strip_prefix(separator) {
            Some(more) => rest = more,
            None if after.is_empty() => return Some(out),
            None => return None,
        }
    }
    None
}

/// Adds a problem of a line, or counts it in the last one if there are many. A table of nonsense must not become a list of errors that
/// is far longer than the table.
pub(crate) fn add_problem(problems: &mut Vec<Error>, path: &Path, problem: impl FnOnce() -> Error) {
    match problems.len() {
        n if n < LISTED => problems.push(problem()),
        LISTED => problems.push(Error::unusable(
            path,
            "every line of a table is sound",
            "more lines that are not",
            "mend those that are named first",
        )),
        _ => {}
    }
}

/// A whole number, also one written as `3.0`.
pub(crate) fn whole(field: &str) -> Option<i64> {
    field.parse().ok().or_else(|| {
        let number: f64 = field.parse().ok()?;
        (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_they_like() {
        let got: Vec<_> = lines("a b\r\n\r\n c \rd\n").collect();
        assert_eq!(got.iter().map(|l| l.1).collect::<Vec<_>>(), ["a b", "c", "d"]);
        assert_eq!(got[0].0, 1);
        let path = Path::new("labels.csv");
        assert_eq!(text(b"\xef\xbb\xbfa", path).unwrap(), "a");
        assert!(text(b"\xff\xfea\0", path).unwrap_err().to_string().contains("UTF-16"));
        assert!(text(b"ab\xff", path).unwrap_err().to_string().contains("after 2 bytes"));
    }

    #[test]
    fn fields_with_quotes() {
        let all = |line| fields(line, ',').map(|f| f.into_iter().map(Cow::into_owned).collect::<Vec<_>>());
        assert_eq!(all("a, b ,c").unwrap(), ["a", "b", "c"]);
        assert_eq!(all(r#""a, b","say ""x""", 3"#).unwrap(), ["a, b", "say \"x\"", "3"]);
        assert_eq!(all(r#""",1"#).unwrap(), ["", "1"]);
        assert_eq!(all("a,").unwrap(), ["a", ""]);
        assert_eq!(all("\"a"), None);
        assert_eq!(all("\"a\" b,1"), None);
        assert_eq!(all("\"a\"\"").map(|f| f.len()), None);
        assert_eq!((all(&",".repeat(31)).map(|f| f.len()), all(&",".repeat(32))), (Some(32), None));
        assert_eq!(separator("x;y\n1,2\n"), ';');
        assert_eq!(
            (whole("3.0"), whole("-2"), whole("1.5"), whole("1e300"), whole("nan")),
            (Some(3), Some(-2), None, None, None)
        );
    }
}
