//! Numbers as a reader wants them on an axis: `64 MiB`, `5 ms`, `10⁵`, `−0.5`.

/// What the numbers of an axis count, which decides where ticks lie and how they read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// A pure number: `0.25`, `12,000`, `3×10⁷`.
    #[default]
    Plain,
    /// A count: as [`Unit::Plain`], with ticks at whole numbers only.
    Count,
    /// Bytes with binary prefixes, ticks at powers of two: `64 MiB`.
    Bytes,
    /// Seconds, written in the unit that suits their size: `20 µs`, `5 ms`, `2 min`.
    Seconds,
    /// A share of one, written in per cent: 0.25 is `25 %`.
    Percent,
    /// Numbers of this unit: `5 mV`.
    Of(&'static str),
}

const BINARY: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// `value` in its unit, to about `digits` significant digits.
///
/// ```text
/// quantity(67_108_864.0, Unit::Bytes, 3) = "64 MiB"
/// quantity(0.00512, Unit::Seconds, 2)    = "5.1 ms"
/// ```
pub fn quantity(value: f64, unit: Unit, digits: usize) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "n/a".into()
        } else if value > 0.0 {
            "∞".into()
        } else {
            "−∞".into()
        };
    }
    let (scaled, suffix) = in_unit(value, unit);
    let suffix = if suffix.is_empty() { String::new() } else { format!(" {suffix}") };
    format!("{}{suffix}", plain(scaled, digits))
}

/// A value divided by the prefix that suits its size, and that prefix with its unit.
fn in_unit(value: f64, unit: Unit) -> (f64, &'static str) {
    let size = value.abs();
    match unit {
        Unit::Plain | Unit::Count => (value, ""),
        Unit::Of(name) => (value, name),
        Unit::Bytes => {
            // The tolerance sends 1023.9999999 to the next prefix rather than printing 1024.
            let steps = if size > 0.0 { ((size * (1.0 + 1e-9)).ln() / 1024f64.ln()).floor() } else { 0.0 };
            let step = steps.clamp(0.0, (BINARY.len() - 1) as f64);
            (value / 1024f64.powf(step), BINARY[step as usize])
        }
        Unit::Percent => (value * 100.0, "%"),
        Unit::Seconds => {
            let size = size * (1.0 + 1e-9);
            match size {
                0.0 => (value, "s"),
                _ if size < 1e-6 => (value * 1e9, "ns"),
                _ if size < 1e-3 => (value * 1e6, "µs"),
                _ if size < 1.0 => (value * 1e3, "ms"),
                _ if size < 120.0 => (value, "s"),
                _ if size < 7200.0 => (value / 60.0, "min"),
                _ if size < 172_800.0 => (value / 3600.0, "h"),
                _ => (value / 86_400.0, "d"),
            }
        }
    }
}

/// The factor and suffix under which all ticks of a linear axis reaching to `reach` are written.
pub(super) fn axis_unit(reach: f64, unit: Unit) -> (f64, &'static str) {
    let (scaled, suffix) = in_unit(reach, unit);
    if reach == 0.0 || scaled == 0.0 { (1.0, suffix) } else { (scaled / reach, suffix) }
}

/// A pure number to about `digits` significant digits: grouped in thousands, or with a power of ten if far from one.
pub(super) fn plain(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let exponent = value.abs().log10().floor() as i32;
    if (-4..6).contains(&exponent) {
        let decimals = (digits as i32 - 1 - exponent).clamp(0, 9) as usize;
        fixed(value, decimals, true)
    } else {
        let mantissa = value / 10f64.powi(exponent);
        let decimals = digits.saturating_sub(1).min(9);
        let mut mantissa = fixed(mantissa, decimals, true);
        let mut exponent = exponent;
        if mantissa.trim_start_matches('−') == "10" {
            mantissa = mantissa.replace("10", "1");
            exponent += 1;
        }
        match mantissa.as_str() {
            "1" => power(10, exponent),
            "−1" => format!("−{}", power(10, exponent)),
            _ => format!("{mantissa}×{}", power(10, exponent)),
        }
    }
}

/// `value` with `decimals` decimals, thousands grouped from 10,000 on, a true minus sign; zeros cut if `trim`.
pub(super) fn fixed(value: f64, decimals: usize, trim: bool) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, mut fraction) = text.split_once('.').unwrap_or((&text, ""));
    if trim {
        fraction = fraction.trim_end_matches('0');
    }
    let mut out = String::new();
    if value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('−');
    }
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && whole.len() > 4 && (whole.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// `base` with `exponent` in superscript.
pub(super) fn power(base: u32, exponent: i32) -> String {
    let digits = exponent.to_string();
    let raised = digits.chars().map(|c| match c {
        '-' => '⁻',
        c => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][c.to_digit(10).unwrap_or(0) as usize],
    });
    base.to_string().chars().chain(raised).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_people_write_them() {
        let cases = [
            (67_108_864.0, Unit::Bytes, "64 MiB"),
            (1536.0, Unit::Bytes, "1.5 KiB"),
            (1_023.999_999_999_9, Unit::Bytes, "1 KiB"),
            (0.0, Unit::Bytes, "0 B"),
            (0.005, Unit::Seconds, "5 ms"),
            (2e-5, Unit::Seconds, "20 µs"),
            (90.0, Unit::Seconds, "90 s"),
            (600.0, Unit::Seconds, "10 min"),
            (4000.0, Unit::Count, "4000"),
            (2.5e6, Unit::Count, "2.5×10⁶"),
            (5.0, Unit::Of("mV"), "5 mV"),
            (0.25, Unit::Percent, "25 %"),
            (-0.5, Unit::Plain, "−0.5"),
            (12_000.0, Unit::Plain, "12,000"),
            (3e7, Unit::Plain, "3×10⁷"),
            (1e-6, Unit::Plain, "10⁻⁶"),
            (9.9999e9, Unit::Plain, "10¹⁰"),
            (f64::NAN, Unit::Plain, "n/a"),
        ];
        for (value, unit, expected) in cases {
            assert_eq!(quantity(value, unit, 3), expected, "{value} as {unit:?}");
        }
    }

    #[test]
    fn fixed_never_prints_minus_zero() {
        assert_eq!(fixed(-0.0001, 2, false), "0.00");
        assert_eq!(fixed(-1234567.5, 1, false), "−1,234,567.5");
        assert_eq!(fixed(2.50, 2, true), "2.5");
    }
}
