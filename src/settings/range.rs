//! What a number may be. A range is declared beside the setting it belongs to, as a reader for files
//! (`#[serde(deserialize_with = "range::positive")]`) or a parser for flags (`value_parser = range::flag::positive`); both say
//! the same.

use serde::{Deserialize, Deserializer, de::Error};

/// Networks compute in single precision: beyond this a square is infinite there.
const LARGEST: f64 = 1e18;

/// The least number above 0: what is much smaller is 0 in single precision.
const SMALLEST: f64 = 1e-30;

/// The numbers from `low` to `high`; NaN and the infinities never belong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    low: f64,
    high: f64,
    /// Whether the ends do not belong.
    open: (bool, bool),
    /// The range after "must be".
    pub words: &'static str,
}

impl Range {
    /// The number, if it belongs.
    ///
    /// # Errors
    /// The rule and the number, after the name of a setting.
    pub fn check(&self, x: f64) -> Result<f64, String> {
        let above = if self.open.0 { x > self.low } else { x >= self.low };
        let below = if self.open.1 { x < self.high } else { x <= self.high };
        match x.abs() {
            size if size > LARGEST && size.is_finite() => {
                Err(format!("must be at most {LARGEST:e} in size, got {x:e}"))
            }
            size if size < SMALLEST && x != 0.0 => {
                Err(format!("must be 0 or at least {SMALLEST:e} in size, got {x:e}"))
            }
            _ if x.is_finite() && above && below => Ok(x),
            _ => Err(format!("must be {}, got {x}", self.words)),
        }
    }

    /// The number that a text says.
    ///
    /// # Errors
    /// When it is no number, or one that does not belong.
    pub fn parse(&self, text: &str) -> Result<f64, String> {
        let x: f64 = text.trim().parse().map_err(|_| format!("must be a number, {}, got `{text}`", self.words))?;
        self.check(x)
    }
}

/// A whole number from `low` to `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The least.
    pub low: u64,
    /// The greatest.
    pub high: u64,
}

impl Count {
    /// The number, if it belongs.
    ///
    /// # Errors
    /// The rule and the number, after the name of a setting.
    pub fn check(&self, n: u64) -> Result<u64, String> {
        match *self {
            Count { low, .. } if n < low => Err(format!("must be at least {low}, got {n}")),
            Count { high, .. } if n > high => Err(format!("must be at most {high}, got {n}")),
            _ => Ok(n),
        }
    }

    /// The number that a text says.
    ///
    /// # Errors
    /// When it is no whole number, or one that does not belong.
    pub fn parse(&self, text: &str) -> Result<u64, String> {
        // What is too large for 64 bits is too large.
        let n = text.trim().parse::<i128>().map_err(|_| format!("must be a whole number, got `{text}`"))?;
        match u64::try_from(n) {
            Ok(n) => self.check(n),
            Err(_) if n < 0 => Err(format!("must be at least {}, got {n}", self.low)),
            Err(_) => Err(format!("must be at most {}, got {n}", self.high)),
        }
    }
}

/// Declares ranges of numbers, each with its reader for files and its parser for flags.
macro_rules! ranges {
    ($($(#[$doc:meta])* $CONST:ident $name:ident: $low:expr, $high:expr, open $open:expr, $words:literal;)+) => {
        $($(#[$doc])* pub const $CONST: Range = Range { low: $low, high: $high, open: $open, words: $words };)+

        $($(#[$doc])*
        ///
        /// # Errors
        /// When the value is another.
        pub fn $name<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
            $CONST.check(f64::deserialize(from)?).map_err(D::Error::custom)
        })+

        /// The same ranges for flags.
        pub mod flag {
            $($(#[$doc])*
            ///
            /// # Errors
            /// When the text says anything else.
            pub fn $name(text: &str) -> Result<f64, String> {
                super::$CONST.parse(text)
            })+
        }
    };
}

ranges! {
    /// Any number that is not NaN and not infinite.
    FINITE finite: -LARGEST, LARGEST, open (false, false), "finite";
    /// Time constants, steps, learning rates.
    POSITIVE positive: 0.0, LARGEST, open (true, false), "above 0 and finite";
    /// Scales, weights of terms, durations that may be left out.
    NON_NEGATIVE non_negative: 0.0, LARGEST, open (false, false), "at least 0 and finite";
    /// A share or a probability.
    FRACTION fraction: 0.0, 1.0, open (false, false), "from 0 to 1";
    /// A share of which something must be left: dropout, decays.
    BELOW_ONE below_one: 0.0, 1.0, open (false, true), "at least 0 and below 1";
    /// A probability of something that must exist.
    SHARE share: 0.0, 1.0, open (true, false), "above 0 and at most 1";
    /// A mean of a distribution on (0, 1).
    INSIDE inside: 0.0, 1.0, open (true, true), "between 0 and 1";
}

/// Declares ranges of whole numbers, each with its readers for files.
macro_rules! counts {
    ($($(#[$doc:meta])* $CONST:ident $name:ident: $low:expr, $high:expr;)+) => {
        $($(#[$doc])* pub const $CONST: Count = Count { low: $low, high: $high };)+

        $($(#[$doc])*
        ///
        /// # Errors
        /// When the value is another.
        pub fn $name<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
            Ok($CONST.check(u64::deserialize(from)?).map_err(D::Error::custom)? as usize)
        })+
    };
}

counts! {
    /// Inputs, neurons, outputs, sequences: sizes whose products can be counted.
    SIZE size: 1, 1 << 24;
    /// Layers.
    LAYERS layers: 1, 1000;
    /// Passes over a data set, updates: more than any machine will make.
    PASSES passes: 0, 1_000_000_000_000;
    /// Steps of a sequence.
    STEPS steps: 1, 1 << 24;
    /// Steps of a chunk, a window, a warm-up: none is longer than a sequence.
    SPAN span: 0, 1 << 24;
    /// Threads.
    THREADS threads: 0, 1024;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_belong_or_not_and_what_is_no_number_never_does() {
        let all = [FINITE, POSITIVE, NON_NEGATIVE, FRACTION, BELOW_ONE, SHARE, INSIDE];
        for range in all {
            for text in ["nan", "inf", "-inf", "", "x", "1e999"] {
                let error = range.parse(text).unwrap_err();
                assert!(error.contains(range.words) && error.contains("got"), "{text}: {error}");
            }
        }
        for (x, want) in [(1e308, "at most 1e18"), (-1e19, "at most 1e18"), (1e-308, "at least 1e-30")] {
            for range in all {
                let error = range.check(x).unwrap_err();
                assert!(error.contains(want) && error.len() < 60, "{x:e}: {error}");
            }
        }
        let belong = |x: f64| all.map(|r| r.check(x).is_ok());
        assert_eq!(belong(-1.0), [true, false, false, false, false, false, false]);
        assert_eq!(belong(0.0), [true, false, true, true, true, false, false]);
        assert_eq!(belong(0.5), [true; 7]);
        assert_eq!(belong(1.0), [true, true, true, true, false, true, false]);
        assert_eq!(belong(95.0), [true, true, true, false, false, false, false]);
    }

    #[test]
    fn counts_have_an_upper_end() {
        assert_eq!(SIZE.parse("128"), Ok(128));
        for (text, want) in [
            ("0", "must be at least 1, got 0"),
            ("-1", "must be at least 1, got -1"),
            ("18446744073709551615", "must be at most 16777216, got 18446744073709551615"),
            ("18446744073709551616", "must be at most 16777216, got 18446744073709551616"),
            ("1.5", "must be a whole number, got `1.5`"),
            ("", "must be a whole number, got ``"),
        ] {
            assert_eq!(SIZE.parse(text), Err(want.to_string()));
        }
        assert_eq!(SPAN.check(0), Ok(0));
    }
}
