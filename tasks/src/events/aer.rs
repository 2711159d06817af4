//! The 40-bit event files of N-MNIST (`.bin`), and of SLAYER's gesture samples (`.bs2`).
//!
//! No header; five bytes an event (the format of Orchard et al. 2015):
//!
//! ```text
//! byte 0      byte 1      byte 2                 byte 3      byte 4
//! x           y           p : 1 | t[22..16] : 7  t[15..8]    t[7..0]        t in microseconds, big endian
//! ```
//!
//! An event with y = 240 is no event but the mark of a timer overflow: it and all later times are 8192 us later than
//! written. Marks are counted and dropped. In a file without marks the 23 bits run over after 8.4 s, and are followed.

use std::path::Path;

use super::{Clock, Collector, Reading, Recording, TimeUnit};
use crate::{Error, Result};

/// Bytes of an event.
pub const EVENT_BYTES: usize = 5;
const OVERFLOW_ROW: u8 = 240;
const OVERFLOW_US: u64 = 8192;
/// Ticks of the 23-bit timer.
const TIMER: u64 = 1 << 23;

/// The events of a file with contents `bytes`; `path` is for messages only. Times are microseconds unless the reading says otherwise.
///
/// Errors: [`Error::Truncated`], [`Error::OffSensor`], each with the byte where it happened, and those of every recording:
/// [`Error::Empty`], [`Error::TimeBackwards`], [`Error::Damaged`].
pub fn decode(bytes: &[u8], path: &Path, reading: &Reading) -> Result<Recording> {
    let (events, rest) = bytes.as_chunks::<EVENT_BYTES>();
    if !rest.is_empty() {
        let offset = (bytes.len() - rest.len()) as u64;
        return Err(Error::Truncated {
            path: path.to_owned(),
            word: EVENT_BYTES as u64,
            len: bytes.len() as u64,
            offset,
        });
    }
    let mut out = Collector::new(path, reading, TimeUnit::Us, events.len())?;
    let (mut late, mut clock) = (0, Clock::new(TIMER));
    for (i, &[x, y, b2, b3, b4]) in events.iter().enumerate() {
        if y == OVERFLOW_ROW {
            late += OVERFLOW_US;
            continue;
        }
        let ticks = u64::from(b2 & 0x7f) << 16 | u64::from(b3) << 8 | u64::from(b4);
        // With marks the timer is short, and the marks say when it turns.
        let time = if late > 0 { late + ticks } else { clock.unwrap(ticks) };
        out.push((i * EVENT_BYTES) as u64, time as f64, x.into(), y.into(), b2 >> 7 == 1)?;
    }
    clock.remark().into_iter().for_each(|r| out.remark(r));
    out.finish(bytes.len())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::events::{Disorder, Event};

    pub(crate) fn encode(events: &[(u8, u8, bool, u32)]) -> Vec<u8> {
        let one = |&(x, y, p, t): &(u8, u8, bool, u32)| {
            [x, y, u8::from(p) << 7 | (t >> 16) as u8 & 0x7f, (t >> 8) as u8, t as u8]
        };
        events.iter().flat_map(one).collect()
    }

    /// Any length will do.
    fn run(bytes: &[u8], disorder: Disorder) -> Result<Vec<Event>> {
        let reading = Reading { lasts: (0.0, f64::MAX), disorder, ..Reading::NMNIST };
        decode(bytes, Path::new("Train/3/00001.bin"), &reading).map(|r| r.events)
    }

    #[test]
    fn bits_are_where_the_format_has_them() {
        let got = run(&[3, 33, 0x80 | 0x01, 0x02, 0x03], Disorder::Refuse).unwrap();
        assert_eq!(got, [Event { t: 0x01_02_03, x: 3, y: 33, p: true }]);
    }

    #[test]
    fn overflow_marks_move_all_later_events() {
        let bytes =
            encode(&[(1, 1, true, 100), (0, 240, false, 0), (2, 2, false, 50), (9, 240, true, 3), (3, 3, true, 7)]);
        let got: Vec<u64> = run(&bytes, Disorder::Refuse).unwrap().iter().map(|e| e.t).collect();
        assert_eq!(got, [100, 8192 + 50, 2 * 8192 + 7]);
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let good = encode(&[(1, 1, true, 10), (2, 2, true, 20), (3, 3, true, 30)]);
        let says = |bytes: &[u8], words: &[&str]| {
            let m = run(bytes, Disorder::Refuse).unwrap_err().to_string();
            assert!(words.iter().all(|w| m.contains(w)) && m.contains("Train/3/00001.bin"), "{m}");
        };
        says(&good[..13], &["13 bytes", "byte 10", "cut short"]);
        says(&encode(&[(1, 1, true, 10), (34, 2, true, 20)]), &["byte 5", "x = 34", "below 34"]);
        says(&encode(&[(1, 200, true, 10)]), &["byte 0", "y = 200"]);
        says(
            &encode(&[(1, 1, true, 10), (1, 1, true, 30), (1, 1, true, 20)]),
            &["byte 10", "20 us", "30 us", "--sort-events"],
        );
        says(&[], &["at least one event", "0 bytes"]);
        says(&encode(&[(0, 240, false, 0)]), &["5 bytes without an event"]);
    }

    #[test]
    fn disorder_can_be_sorted() {
        let bytes = encode(&[(1, 1, true, 10), (2, 1, true, 30), (3, 1, true, 20), (4, 1, true, 20)]);
        let got: Vec<u16> = run(&bytes, Disorder::Sort).unwrap().iter().map(|e| e.x).collect();
        assert_eq!(got, [1, 3, 4, 2]);
    }

    #[test]
    fn a_timer_without_marks_is_followed() {
        let at = |t: u32| (1, 1, t.is_multiple_of(2), t);
        let bytes = encode(&[at(0), at(4_000_000), at(8_388_000), at(391), at(500_000)]);
        let got = decode(&bytes, Path::new("1.bs2"), &Reading::GESTURE).unwrap();
        assert_eq!(got.events.iter().map(|e| e.t).collect::<Vec<_>>()[3..], [8_388_999, 8_888_608]);
        assert!(got.remarks[0].contains("ran over"));
    }

    #[test]
    fn milliseconds_are_found_out() {
        // A digit of 300 ms, saved in milliseconds.
        let bytes = encode(&(0..300).map(|t: u32| (1, 1, t.is_multiple_of(2), t)).collect::<Vec<_>>());
        let m = decode(&bytes, Path::new("1.bin"), &Reading::NMNIST).unwrap_err().to_string();
        assert!(m.contains("--time-unit ms"), "{m}");
        let read = Reading::NMNIST.accepting(Disorder::Refuse, Some(TimeUnit::Ms));
        assert_eq!(decode(&bytes, Path::new("1.bin"), &read).unwrap().events[299].t, 299_000);
    }

    #[test]
    fn any_bytes_give_events_or_an_error() {
        let mut s = crate::rng::Stream::new(1, "aer fuzz", &[]);
        for _ in 0..5000 {
            let bytes: Vec<u8> = (0..s.below(40)).map(|_| s.bits() as u8 % 36).collect();
            for disorder in [Disorder::Refuse, Disorder::Sort] {
                if let Ok(events) = run(&bytes, disorder) {
                    assert!(events.is_sorted_by_key(|e| e.t) && !events.is_empty());
                }
            }
        }
    }
}
