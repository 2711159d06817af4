//! AEDAT 3.1, the form in which IBM gives DVS128 Gesture.
//!
//! Lines of text that begin with `#`, the first `#!AER-DAT3.1`, then packets, all little endian:
//!
//! ```text
//! packet  type u16 | source u16 | event size u32 | .. | turns of the timer u32 (byte 12) | capacity u32 | number u32 (20) | valid u32 | events
//! event   data u32: valid bit 0, polarity bit 1, y bits 2 to 14, x bits 17 to 29 | time i32, microseconds
//! ```
//!
//! Only polarity events (type 1) are taken. A recording holds many gestures; a table beside it says which is when ([`trials`]).

use std::borrow::Cow;
use std::path::Path;

use super::{Clock, Collector, Reading, Recording, TimeUnit};
use crate::{Error, Result, table};

const POLARITY: u16 = 1;
/// Ticks of the timer: 31 bits and a sign that is never set.
const TIMER: u64 = 1 << 31;

/// The valid polarity events of a file with contents `bytes`; `path` is for messages only. Times are microseconds unless the reading says
/// otherwise.
///
/// Errors: [`Error::Damaged`] for another version and for packets that do not fit, [`Error::OffSensor`], and those of every recording:
/// [`Error::Empty`], [`Error::TimeBackwards`], [`Error::Damaged`].
pub fn decode(bytes: &[u8], path: &Path, reading: &Reading) -> Result<Recording> {
    version(bytes, path)?;
    let mut at = 0;
    while bytes.get(at) == Some(&b'#') {
        at += bytes[at..].iter().position(|&b| b == b'\n').map_or(bytes.len() - at, |n| n + 1);
    }
    let mut out = Collector::new(path, reading, TimeUnit::Us, 0)?;
    let mut clock = Clock::new(TIMER);
    while at < bytes.len() {
        let packet = Packet::at(bytes, at, path)?;
        if packet.kind == POLARITY {
            for offset in (packet.body..packet.end).step_by(packet.size) {
                let (Some(data), Some(time)) = (u32_at(bytes, offset), u32_at(bytes, offset + 4)) else {
                    break;
                };
                if data & 1 == 0 {
                    continue;
                }
                let (x, y) = ((data >> 17 & 0x1fff) as u16, (data >> 2 & 0x1fff) as u16);
                if u64::from(time) >= TIMER {
                    let got = format!("{} for the event at byte {offset}", time as i32);
                    return Err(Error::damaged(path, "times are at least 0", got));
                }
                // Either the packets count the turns of the timer, or its turns are seen.
                let time = u64::from(time);
                let time = if packet.turns > 0 { packet.turns * TIMER + time } else { clock.unwrap(time) };
                out.push(offset as u64, time as f64, x, y, data >> 1 & 1 == 1)?;
            }
        }
        at = packet.end;
    }
    clock.remark().into_iter().for_each(|r| out.remark(r));
    out.finish(bytes.len())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b))
}

/// Refuses other versions by name.
fn version(bytes: &[u8], path: &Path) -> Result<()> {
    if bytes.starts_with(b"#!AER-DAT3.1") {
        return Ok(());
    }
    let got = String::from_utf8_lossy(&bytes[..bytes.len().min(14)]).trim().to_owned();
    let next = if got.starts_with("#!AER-DAT") {
        "this is another version of the format: convert it to 3.1 or 4, or save x, y, p, t (ms) as a NumPy array"
    } else {
        "the file is damaged or of another kind, copy or unpack it again"
    };
    Err(Error::unusable(path, "the first line is #!AER-DAT3.1", format!("{got:?}"), next))
}

/// The head of a packet.
struct Packet {
    kind: u16,
    /// Bytes of an event, at least 8.
    size: usize,
    /// How often the timer has run over.
    turns: u64,
    /// Where the events are: first byte, byte after the last.
    body: usize,
    end: usize,
}

impl Packet {
    fn at(bytes: &[u8], at: usize, path: &Path) -> Result<Packet> {
        let fields = (u32_at(bytes, at), u32_at(bytes, at + 4), u32_at(bytes, at + 12), u32_at(bytes, at + 20));
        let (Some(kind), Some(size), Some(turns), Some(number), Some(_valid)) =
            (fields.0, fields.1, fields.2, fields.3, u32_at(bytes, at + 24))
        else {
            let got = format!("{} at byte {at}", bytes.len() - at);
            return Err(Error::damaged(path, "a packet begins with 28 bytes", got));
        };
        let body = at + 28;
        let end = (number as usize).checked_mul(size as usize).and_then(|n| body.checked_add(n));
        let Some(end) = end.filter(|&e| e <= bytes.len() && size >= 8) else {
            let got = format!("{number} events of {size} bytes at byte {at} of {}", bytes.len());
            return Err(Error::damaged(path, "a packet ends within the file and its events take 8 bytes", got));
        };
        // The type is the lower half of its word; the upper half is the source.
        Ok(Packet { kind: kind as u16, size: size as usize, turns: turns.into(), body, end })
    }
}

/// A gesture within a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Class from 0; the table counts from 1.
    pub class: i32,
    /// First microsecond.
    pub start: u64,
    /// First microsecond after it.
    pub end: u64,
}

/// The table `class,startTime_usec,endTime_usec` beside a recording, with or without its heading: its gestures, and the problems of
/// single lines.
///
/// A heading may name the unit (`start_ms`); where it does not, times are in microseconds. Errors: [`Error::Damaged`] for
/// what is no text.
pub fn trials(bytes: &[u8], path: &Path) -> Result<(Vec<Trial>, Vec<Error>)> {
    let text = table::text(bytes, path)?;
    let separator = table::separator(text);
    let (mut found, mut problems) = (Vec::with_capacity(table::rows(text, separator)), Vec::new());
    let mut unit = TimeUnit::Us;
    for (i, (number, line)) in table::lines(text).enumerate() {
        let fields = table::fields(line, separator).unwrap_or_default();
        if i == 0 && fields.iter().all(|f| f.parse::<f64>().is_err()) {
            unit = fields.iter().skip(1).find_map(|f| TimeUnit::of_name(f)).unwrap_or(unit);
            continue;
        }
        if let Some(trial) = trial(&fields, unit) {
            found.push(trial);
            continue;
        }
        table::add_problem(&mut problems, path, || {
            let rule = "a line has a class from 1 to 11, a start and a later end in microseconds";
            let got = format!("line {number}: {}", table::quote(line));
            if fields.first().is_some_and(|f| table::whole(f) == Some(0)) {
                Error::unusable(path, rule, got, "are classes counted from 0? Add 1 to each")
            } else {
                Error::damaged(path, rule, got)
            }
        });
    }
    Ok((found, problems))
}

fn trial(fields: &[Cow<str>], unit: TimeUnit) -> Option<Trial> {
    let [class, start, end] = fields else { return None };
    let class = table::whole(class).and_then(|c| i32::try_from(c).ok()).filter(|c| (1..=11).contains(c))? - 1;
    let time = |field: &str| {
        let micros = field.parse::<f64>().ok()? * unit.seconds() * 1e6;
        (0.0..1.2e18).contains(&micros).then_some(micros.round() as u64)
    };
    let (start, end) = (time(start)?, time(end)?);
    (start < end).then_some(Trial { class, start, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;

    fn packet(kind: u16, events: &[(u32, u32)]) -> Vec<u8> {
        let mut p = vec![0; 28];
        p[..2].copy_from_slice(&kind.to_le_bytes());
        p[4..8].copy_from_slice(&8u32.to_le_bytes());
        for i in [16, 20, 24] {
            p[i..i + 4].copy_from_slice(&(events.len() as u32).to_le_bytes());
        }
        events.iter().for_each(|(d, t)| p.extend(d.to_le_bytes().into_iter().chain(t.to_le_bytes())));
        p
    }

    fn data(x: u32, y: u32, p: u32) -> u32 {
        x << 17 | y << 2 | p << 1 | 1
    }

    /// Any length will do.
    fn run(bytes: &[u8]) -> Result<Vec<Event>> {
        let reading = Reading { lasts: (0.0, f64::MAX), ..Reading::GESTURES };
        decode(bytes, Path::new("user01.aedat"), &reading).map(|r| r.events)
    }

    #[test]
    fn packets() {
        let mut bytes = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n".to_vec();
        bytes.extend(packet(POLARITY, &[(data(5, 100, 1), 10), (data(5, 100, 1) & !1, 11), (data(127, 0, 0), 12)]));
        bytes.extend(packet(0, &[(7, 0)]));
        bytes.extend(packet(POLARITY, &[(data(1, 2, 0), 20)]));
        let got: Vec<_> = run(&bytes).unwrap().iter().map(|e| (e.t, e.x, e.y, e.p)).collect();
        assert_eq!(got, [(10, 5, 100, true), (12, 127, 0, false), (20, 1, 2, false)]);
        let m = run(&bytes[..bytes.len() - 3]).unwrap_err().to_string();
        assert!(m.contains("within the file"), "{m}");
        assert!(run(b"#!AER-DAT2.0\n").unwrap_err().to_string().contains("#!AER-DAT3.1"));
        assert!(matches!(run(b"#!AER-DAT3.1\n"), Err(Error::Empty { .. })));
        let mut s = crate::rng::Stream::new(3, "aedat fuzz", &[]);
        for _ in 0..5000 {
            let mut b = bytes.clone();
            let at = s.below(b.len() as u64) as usize;
            b[at] = s.bits() as u8;
            b.truncate(s.below(2 * b.len() as u64) as usize);
            let _ = run(&b);
        }
    }

    #[test]
    fn the_timer_may_run_over() {
        let turn = (TIMER - 1000) as u32;
        let head = b"#!AER-DAT3.1\r\n".to_vec();
        let seen = [head.clone(), packet(POLARITY, &[(data(1, 1, 1), turn), (data(1, 1, 0), 1_000_000)])].concat();
        let mut second = packet(POLARITY, &[(data(1, 1, 0), 1_000_000)]);
        second[12] = 1;
        let counted = [head, packet(POLARITY, &[(data(1, 1, 1), turn)]), second].concat();
        for bytes in [seen, counted] {
            let times: Vec<u64> = run(&bytes).unwrap().iter().map(|e| e.t).collect();
            assert_eq!(times, [TIMER - 1000, TIMER + 1_000_000]);
        }
        let m = run(&[b"#!AER-DAT3.1\r\n".to_vec(), packet(POLARITY, &[(data(1, 1, 1), u32::MAX)])].concat());
        assert!(m.unwrap_err().to_string().contains("-1"));
    }

    #[test]
    fn milliseconds_are_found_out() {
        let events: Vec<(u32, u32)> = (0..200).map(|i| (data(1, 1, i % 2), i * 500)).collect();
        let bytes = [b"#!AER-DAT3.1\r\n".to_vec(), packet(POLARITY, &events)].concat();
        let m = decode(&bytes, Path::new("a.aedat"), &Reading::GESTURES).unwrap_err().to_string();
        assert!(m.contains("--time-unit ms"), "{m}");
    }

    #[test]
    fn tables() {
        let path = Path::new("user01_labels.csv");
        let read = |text: &str| trials(text.as_bytes(), path).unwrap();
        let want = [Trial { class: 0, start: 100, end: 200 }, Trial { class: 10, start: 300, end: 400 }];
        for text in [
            "class,startTime_usec,endTime_usec\n1,100,200\n11,300,400\n",
            "1,100,200\n11,300,400\n",
            "\u{feff}class;start;end\r\n1;100;200\r\n\r\n11;300;400\r\n",
            "class\tstart_ms\tend_ms\n1\t0.1\t0.2\n\"11\"\t0.3\t0.4",
            "\"class\", \"start [s]\", \"end [s]\"\n1.0, 0.0001, 0.0002\n11, 3e-4, 4e-4\n",
        ] {
            let got = read(text);
            assert!(got.1.is_empty() && got.0 == want, "{text}: {got:?}");
        }
        let bad = read("h,i,j\n12,1,2\n3,1,2\n0,1,2\n3,5,4\n3,5\n3,-1,4\n3,nan,4\n");
        let m: Vec<String> = bad.1.iter().map(ToString::to_string).collect();
        assert!(bad.0.len() == 1 && m.len() == 6 && m[0].contains("line 2") && m[1].contains("from 0"), "{m:?}");
    }
}
