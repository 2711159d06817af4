//! `.raw`: a header, and words of the sensor in the encoding that the header names (see `evt`).

use std::path::Path;

use super::{Header, evt};
use crate::events::{Collector, Reading, Recording, Sensor, TimeUnit};
use crate::{Error, Result};

/// The sensor that the header names.
pub fn sensor(bytes: &[u8]) -> Option<Sensor> {
    Header::of(bytes).sensor()
}

/// The events of a file with contents `bytes`; `path` is for messages only. Times are microseconds unless the reading says otherwise.
///
/// Errors: [`Error::Damaged`] for a header that names no encoding or another one, [`Error::Truncated`], [`Error::OffSensor`], and those
/// of every recording: [`Error::Empty`], [`Error::TimeBackwards`], [`Error::Damaged`].
pub fn decode(bytes: &[u8], path: &Path, reading: &Reading) -> Result<Recording> {
    let header = Header::of(bytes);
    let encoding = encoding(&header, path)?;
    let body = &bytes[header.len()..];
    let cut = body.len() % encoding.word;
    if cut > 0 {
        let (len, offset) = (bytes.len() as u64, (bytes.len() - cut) as u64);
        return Err(Error::Truncated { path: path.to_owned(), word: encoding.word as u64, len, offset });
    }
    let mut out = Collector::new(path, reading, TimeUnit::Us, (encoding.count)(body))?;
    (encoding.decode)(body, header.len() as u64, &mut out)?;
    out.finish(bytes.len())
}

/// The encoding that a header names in its line `format`, or in older files `evt`.
fn encoding(header: &Header, path: &Path) -> Result<&'static evt::Encoding> {
    let named = header.get("format").and_then(|f| f.split(';').next()).or_else(|| header.get("evt"));
    let legacy = header.option("endianness") == Some("legacy");
    let known = evt::ENCODINGS.iter().find(|e| named.is_some_and(|n| e.names.contains(&n)) && e.legacy == legacy);
    known.ok_or_else(|| {
        let rule = "the header of a .raw file names its encoding, EVT 2.0, 2.1 or 3.0, in a line such as `% evt 3.0`";
        let got = match named {
            Some(name) if legacy => format!("{name:?} with the legacy order of bytes"),
            Some(name) => format!("{:?}", name.chars().take(40).collect::<String>()),
            None if header.len() == 0 => "no header".into(),
            None => "a header without such a line".into(),
        };
        Error::unusable(path, rule, got, "convert the file to EVT 3.0 or to .dat, or copy it again")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Event, format};

    const ANY: Reading = Reading {
        sensor: Sensor { width: 64, height: 48 },
        lasts: (0.0, f64::MAX),
        disorder: crate::events::Disorder::Refuse,
        time_unit: None,
    };

    fn run(head: &str, words: &[u8]) -> Result<Recording> {
        decode(&[head.as_bytes(), words].concat(), Path::new("a.raw"), &ANY)
    }

    fn says(head: &str, words: &[u8], text: &str) {
        let m = run(head, words).unwrap_err().to_string();
        assert!(m.contains(text) && m.contains("a.raw"), "{m}");
    }

    fn brief(recording: &Recording) -> Vec<(u64, u16, u16, bool)> {
        recording.events.iter().map(|e| (e.t, e.x, e.y, e.p)).collect()
    }

    fn words16(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    fn words32(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// An event of EVT 2.0: the lowest six bits of its time.
    fn cd(on: u32, low: u32, x: u32, y: u32) -> u32 {
        on << 28 | low << 22 | x << 11 | y
    }

    #[test]
    fn evt_2() {
        let high = |h: u32| 8 << 28 | h;
        let words = [cd(1, 3, 9, 9), high(5), cd(1, 3, 7, 11), 0xa000_0000, cd(0, 63, 8, 47), high(6), cd(1, 0, 0, 0)];
        let got = run("% evt 2.0\n", &words32(&words)).unwrap();
        assert_eq!(brief(&got), [(323, 7, 11, true), (383, 8, 47, false), (384, 0, 0, true)]);
        assert!(got.remarks[0].contains("1 event before the first time"), "{:?}", got.remarks);
        let turn = [high((1 << 28) - 1), cd(1, 5, 1, 1), high(0), cd(0, 5, 1, 1)];
        let got = run("% evt 2.0\n", &words32(&turn)).unwrap();
        assert_eq!(got.events[1].t - got.events[0].t, 64, "{got:?}");
        assert!(got.remarks[0].contains("ran over"));
        let odd = run("% evt 2.0\n", &words32(&[high(5), 0x3000_0000, cd(1, 3, 7, 11)])).unwrap();
        assert!(odd.remarks[0].contains("1 word of unknown type"), "{:?}", odd.remarks);
    }

    #[test]
    fn evt_2_1_in_both_orders_of_halves() {
        let high = |h: u64| 8 << 60 | h << 32;
        let cd = |on: u64, low: u64, x: u64, y: u64, valid: u64| on << 60 | low << 54 | x << 43 | y << 32 | valid;
        let words = [high(5), cd(1, 3, 32, 11, 0b1001), cd(0, 4, 0, 2, 1 << 31)];
        let want = [(323, 32, 11, true), (323, 35, 11, true), (324, 31, 2, false)];
        let whole: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let halves: Vec<u8> = words.iter().flat_map(|w| w.rotate_left(32).to_le_bytes()).collect();
        assert_eq!(brief(&run("% format EVT21;width=64;height=48\n% end\n", &whole).unwrap()), want);
        assert_eq!(brief(&run("% evt 2.1\n% format EVT21;endianness=legacy\n% end\n", &halves).unwrap()), want);
        assert!(run("% format EVT21\n% end\n", &halves).is_err());
    }

    #[test]
    fn evt_3() {
        let words = [
            0x8001, 0x6002, // time 1 << 12 | 2
            0x0003, 0x2805, // y = 3, x = 5 on
            0x3010, 0x4801, 0x5081, // from x = 16 off: 16 and 27, then 28 and 35
            0x8002, 0x2006, // a new high time starts its low time at 0
            0x6fff, 0xa001, 0x7001, 0xf001, 0xe001, 0x0804,
            0x2807, // trigger and others pass; y = 4 of a slave camera
        ];
        let want = [
            (4098, 5, 3, true),
            (4098, 16, 3, false),
            (4098, 27, 3, false),
            (4098, 28, 3, false),
            (4098, 35, 3, false),
            (8192, 6, 3, false),
            (12287, 7, 4, true),
        ];
        let got = run("% format EVT3;height=48;width=64\n% end\n", &words16(&words)).unwrap();
        assert_eq!((brief(&got), got.remarks.len()), (want.to_vec(), 0));
        let turn = [0x8fff, 0x6fff, 0x0001, 0x2001, 0x8000, 0x6004, 0x2801];
        let got = run("% evt 3.0\n", &words16(&turn)).unwrap();
        assert_eq!(brief(&got), [(0xff_ffff, 1, 1, false), (0x100_0004, 1, 1, true)]);
        assert!(got.remarks[0].contains("ran over"));
    }

    #[test]
    fn damage_is_named() {
        let sound = words16(&[0x8001, 0x6002, 0x0003, 0x2805]);
        says("", &sound, "no header");
        says("% date 2020\n", &sound, "without such a line");
        says("% evt 4.0\n", &sound, "\"4.0\"");
        says("% format HISTO3D;height=320;width=320\n", &sound, "HISTO3D");
        says("% format EVT3;endianness=legacy\n", &sound, "legacy");
        says("% evt 3.0\n", &sound[..7], "cut short");
        says("% evt 3.0\n", &[], "at least one event");
        says("% evt 3.0\n", &sound[..4], "at least one event");
        says("% evt 3.0\n", &words16(&[0x8001, 0x6002, 0x0003, 0x2840]), "x = 64");
        let beyond: Vec<u16> = [0x8001, 0x3000].into_iter().chain([0x4001; 8000]).collect();
        says("% evt 3.0\n", &words16(&beyond), "x = 72");
        let lost: Vec<u16> = [0x8001].into_iter().chain((0..9).flat_map(|i| [0x6fff - 400 * i, 0x2001])).collect();
        says("% evt 3.0\n", &words16(&lost), "a new high time every 4096 us");
        says("% evt 2.0\n", &words32(&[8 << 28 | 9, cd(1, 9, 1, 1), cd(1, 3, 1, 1)]), "does not go back");
    }

    /// Recordings that another program wrote, and the events that it wrote into them.
    #[test]
    fn files_of_another_program() {
        for name in ["evt2.raw", "evt3.raw"] {
            let got = format::tests::genuine(name);
            assert!(got.remarks.is_empty(), "{name}: {:?}", got.remarks);
            assert_eq!(got.events, format::tests::written(), "{name}");
        }
        assert_ne!(format::tests::written()[0], Event { t: 0, x: 0, y: 0, p: false });
    }
}
