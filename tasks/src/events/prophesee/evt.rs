//! The words of EVT 2.0, 2.1 and 3.0, all little endian; the highest four bits of a word are its type.
//!
//! ```text
//! EVT 2.0, 32 bits   0, 1  event off, on    time 5..0 : 6 | x : 11 | y : 11
//!                    8     high time        time 33..6 : 28
//! EVT 2.1, 64 bits   0, 1  events off, on   time 5..0 : 6 | x : 11 | y : 11 | which of the 32 pixels from x on : 32
//!                    8     high time        time 33..6 : 28 | unused : 32
//! EVT 3.0, 16 bits   0     row              slave : 1 | y : 11
//!                    2     event            p : 1 | x : 11
//!                    3     base             p : 1 | x : 11
//!                    4, 5  events           which of the 12 (8) pixels from the base on; the base moves on by as many
//!                    6, 8  low, high time   time 11..0, time 23..12
//! all                10 trigger, 14 others, 15 (and 7 in EVT 3.0) continuations: no events of pixels
//! ```
//!
//! The timer, 34 bits of microseconds in EVT 2 and 24 in EVT 3, runs over after 4.8 hours and 16.8 seconds. Events before the first high time have
//! no time; they are left out and said.

use crate::events::{Clock, Collector};
use crate::{Error, Result};

/// An encoding: one row of [`ENCODINGS`].
pub struct Encoding {
    /// What the lines `format` and `evt` of a header call it.
    pub names: [&'static str; 2],
    /// The halves of a word are swapped, as the IMX636 sends EVT 2.1.
    pub legacy: bool,
    /// Bytes of a word.
    pub word: usize,
    /// How many events there are.
    pub count: fn(&[u8]) -> usize,
    /// Hands all events of the words, which begin at a byte of the file, to a collector.
    pub decode: fn(&[u8], u64, &mut Collector) -> Result<()>,
}

/// All encodings.
pub const ENCODINGS: [Encoding; 4] = [
    Encoding { names: ["EVT2", "2.0"], legacy: false, word: 4, count: count_2, decode: decode_2 },
    Encoding { names: ["EVT21", "2.1"], legacy: false, word: 8, count: count_21::<0>, decode: decode_21::<0> },
    Encoding { names: ["EVT21", "2.1"], legacy: true, word: 8, count: count_21::<32>, decode: decode_21::<32> },
    Encoding { names: ["EVT3", "3.0"], legacy: false, word: 2, count: count_3, decode: decode_3 },
];

/// Words that bring no event, and the high part of the time.
struct Words {
    clock: Clock,
    high: Option<u64>,
    early: u64,
    unknown: u64,
}

impl Words {
    /// For a high part of so many bits.
    fn new(bits: u32) -> Self {
        Words { clock: Clock::new(1 << bits), high: None, early: 0, unknown: 0 }
    }

    /// What to say of them.
    fn remark(self, out: &mut Collector) {
        let several = |n: u64| if n == 1 { "" } else { "s" };
        self.clock.remark().into_iter().for_each(|r| out.remark(r));
        if self.early > 0 {
            let s = several(self.early);
            out.remark(format!("{} event{s} before the first time of the file are left out", self.early));
        }
        if self.unknown > 0 {
            let s = several(self.unknown);
            out.remark(format!("{} word{s} of unknown type are left out: is the file damaged?", self.unknown));
        }
    }
}

fn words_2(words: &[u8]) -> impl Iterator<Item = u32> {
    words.as_chunks().0.iter().map(|w| u32::from_le_bytes(*w))
}

fn count_2(words: &[u8]) -> usize {
    words_2(words).filter(|w| w >> 28 <= 1).count()
}

fn decode_2(words: &[u8], first: u64, out: &mut Collector) -> Result<()> {
    let mut state = Words::new(28);
    for (i, word) in words_2(words).enumerate() {
        match (word >> 28, state.high) {
            (kind @ 0..=1, Some(high)) => {
                let time = high << 6 | u64::from(word >> 22 & 0x3f);
                let (x, y) = ((word >> 11 & 0x7ff) as u16, (word & 0x7ff) as u16);
                out.push(first + 4 * i as u64, time as f64, x, y, kind == 1)?;
            }
            (0..=1, None) => state.early += 1,
            (8, _) => state.high = Some(state.clock.unwrap((word & 0xfff_ffff).into())),
            (10 | 14 | 15, _) => {}
            _ => state.unknown += 1,
        }
    }
    state.remark(out);
    Ok(())
}

/// Words whose halves are `TURN` bits away from where they belong.
fn words_21<const TURN: u32>(words: &[u8]) -> impl Iterator<Item = u64> {
    words.as_chunks().0.iter().map(|w| u64::from_le_bytes(*w).rotate_left(TURN))
}

fn count_21<const TURN: u32>(words: &[u8]) -> usize {
    words_21::<TURN>(words).filter(|w| w >> 60 <= 1).map(|w| (w as u32).count_ones() as usize).sum()
}

fn decode_21<const TURN: u32>(words: &[u8], first: u64, out: &mut Collector) -> Result<()> {
    let mut state = Words::new(28);
    for (i, word) in words_21::<TURN>(words).enumerate() {
        match (word >> 60, state.high) {
            (kind @ 0..=1, Some(high)) => {
                let time = (high << 6 | word >> 54 & 0x3f) as f64;
                let (x, y) = ((word >> 43 & 0x7ff) as u16, (word >> 32 & 0x7ff) as u16);
                for k in (0..32).filter(|k| word >> k & 1 == 1) {
                    out.push(first + 8 * i as u64, time, x + k, y, kind == 1)?;
                }
            }
            (0..=1, None) => state.early += u64::from((word as u32).count_ones()),
            (8, _) => state.high = Some(state.clock.unwrap(word >> 32 & 0xfff_ffff)),
            (10 | 14 | 15, _) => {}
            _ => state.unknown += 1,
        }
    }
    state.remark(out);
    Ok(())
}

fn words_3(words: &[u8]) -> impl Iterator<Item = u16> {
    words.as_chunks().0.iter().map(|w| u16::from_le_bytes(*w))
}

/// Pixels of a word that has several.
fn pixels_3(kind: u16) -> u16 {
    if kind == 4 { 12 } else { 8 }
}

fn count_3(words: &[u8]) -> usize {
    let events = |w: u16| match w >> 12 {
        2 => 1,
        kind @ 4..=5 => (w & ((1 << pixels_3(kind)) - 1)).count_ones() as usize,
        _ => 0,
    };
    words_3(words).map(events).sum()
}

fn decode_3(words: &[u8], first: u64, out: &mut Collector) -> Result<()> {
    let mut state = Words::new(12);
    let (mut low, mut y, mut base, mut on) = (0, 0, 0u16, false);
    // High times, and falls of the low time without one.
    let (mut highs, mut falls) = (0, 0);
    for (i, word) in words_3(words).enumerate() {
        let at = first + 2 * i as u64;
        let time = state.high.map(|high| (high << 12 | low) as f64);
        match (word >> 12, time) {
            (0, _) => y = word & 0x7ff,
            (2, Some(time)) => out.push(at, time, word & 0x7ff, y, word >> 11 & 1 == 1)?,
            (2, None) => state.early += 1,
            (3, _) => (base, on) = (word & 0x7ff, word >> 11 & 1 == 1),
            (kind @ 4..=5, time) => {
                for k in (0..pixels_3(kind)).filter(|k| word >> k & 1 == 1) {
                    match time {
                        Some(time) => out.push(at, time, base.saturating_add(k), y, on)?,
                        None => state.early += 1,
                    }
                }
                base = base.saturating_add(pixels_3(kind));
            }
            (6, _) => {
                falls += u64::from(u64::from(word & 0xfff) < low);
                low = u64::from(word & 0xfff);
            }
            (8, _) => {
                highs += 1;
                let high = Some(state.clock.unwrap((word & 0xfff).into()));
                // Its low part is sent with the next event.
                low = if high == state.high { low } else { 0 };
                state.high = high;
            }
            (7 | 10 | 14 | 15, _) => {}
            _ => state.unknown += 1,
        }
    }
    if highs == 1 && falls > 2 {
        let (rule, next) =
            ("EVT 3.0 has a new high time every 4096 us", "its times are lost: take the file that it was made of");
        return Err(Error::unusable(out.path(), rule, format!("one, and a low time that fell {falls} times"), next));
    }
    state.remark(out);
    Ok(())
}
