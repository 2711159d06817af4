//! Text for people: aligned tables, quantities with units.

use std::fmt;

/// Named numbers of bytes in a line, those that are not 0: `arguments 2.0 MiB, temporary 16 KiB`.
pub fn byte_counts(parts: &[(&str, u64)]) -> String {
    let named = parts.iter().filter(|(_, size)| *size > 0).map(|(name, size)| format!("{name} {}", bytes(*size)));
    named.collect::<Vec<_>>().join(", ")
}

/// How the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Quantities.
    Right,
}

/// Rows under a heading, every column as wide as its widest cell.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
    indent: usize,
}

impl Table {
    /// A table without rows.
    pub fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Align)>) -> Table {
        let columns = columns.into_iter().map(|(name, align)| (name.to_string(), align)).collect();
        Table { columns, rows: Vec::new(), indent: 0 }
    }

    /// The same table further right.
    #[must_use]
    pub fn indented(mut self, spaces: usize) -> Table {
        self.indent = spaces;
        self
    }

    /// Adds a row. Missing cells are empty; those beyond the last column are dropped.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut row: Vec<String> = cells.into_iter().map(Into::into).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads: Vec<&String> = self.columns.iter().map(|(name, _)| name).collect();
        let width = |k: usize| {
            let cells = self.rows.iter().map(|row| &row[k]).chain([heads[k]]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let lines = std::iter::once(heads).chain(self.rows.iter().map(|row| row.iter().collect()));
        for (k, line) in lines.enumerate() {
            if k > 0 {
                writeln!(f)?;
            }
            let mut text = " ".repeat(self.indent);
            for ((cell, &width), (_, align)) in line.into_iter().zip(&widths).zip(&self.columns) {
                let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
                match align {
                    Align::Left => text.extend([cell.as_str(), &gap]),
                    Align::Right => text.extend([gap.as_str(), cell]),
                }
                text.push_str("  ");
            }
            f.write_str(text.trim_end())?;
        }
        Ok(())
    }
}

/// A number of bytes: `512 B`, `1.50 KiB`, `43.0 MiB`.
pub fn bytes(count: u64) -> String {
    scaled(count as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// A number of floating-point operations: `820 FLOP`, `1.20 kFLOP`, `3.41 GFLOP`.
pub fn flops(count: u64) -> String {
    scaled(count as f64, 1000.0, &["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"])
}

/// Three significant digits and the unit that keeps the number below `base`.
fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = 0;
    // 999.5 would print as 1000.
    while value >= base - 0.5 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", units[unit])
}

/// A count with its thousands apart: `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let first = digits.len() % 3;
    let mut out = digits[..first].to_string();
    for (k, digit) in digits[first..].chars().enumerate() {
        if k % 3 == 0 && !out.is_empty() {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Sizes joined by a multiplication sign: `128 x 512`.
pub fn sizes(dims: &[usize]) -> String {
    if dims.is_empty() { "1".into() } else { dims.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("name", Align::Left), ("size", Align::Right), ("note", Align::Left)]).indented(2);
        table.row(["a", "1", ""]);
        table.row(["longer", "1000", "x"]);
        table.row(["µ"]);
        assert_eq!(table.to_string(), "  name    size  note\n  a          1\n  longer  1000  x\n  µ");
    }

    #[test]
    fn quantities_have_three_digits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10_239, "10.0 KiB"),
            (1_048_575, "1.00 MiB"),
            (45_088_768, "43.0 MiB"),
            (8_725_200_896, "8.13 GiB"),
        ];
        for (value, text) in cases {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(flops(999), "999 FLOP");
        assert_eq!(flops(999_600), "1.00 MFLOP");
        assert_eq!(flops(3_410_000_000), "3.41 GFLOP");
    }

    #[test]
    fn counts_and_sizes() {
        for (value, text) in [(0, "0"), (12, "12"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(value), text);
        }
        assert_eq!((sizes(&[]), sizes(&[3, 4])), ("1".to_string(), "3 x 4".to_string()));
    }
}
