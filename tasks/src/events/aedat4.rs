//! AEDAT 4, the files of iniVation's cameras.
//!
//! ```text
//! #!AER-DAT4.0\r\n | header | packets | table of the packets, which is not read
//! header   FlatBuffer: compression i32 | position of the table i64, -1 if the recording was not closed | streams, XML
//! packet   stream i32 | size i32 | so many bytes, compressed: FlatBuffer with a vector of events
//! event    time i64, microseconds | x i16 | y i16 | p u8 | three bytes to fill up                              all little endian
//! ```
//!
//! Every FlatBuffer has its length before it. The XML names streams by number, with the type and the size of the sensor of each. The first stream of
//! events (`EVTS`) is read; others are said.

use std::io::Read;
use std::path::Path;

use super::{Collector, Reading, Recording, Sensor, TimeUnit};
use crate::{Error, Result};

/// The first line.
pub const VERSION: &[u8] = b"#!AER-DAT4.0\r\n";
/// Bytes of an event.
const EVENT: usize = 16;
/// Bytes before a packet.
const PACKET: usize = 8;
/// What is made of a file: at most so many times its bytes, and this many more.
const MOST: (usize, usize) = (16, 1 << 20);
/// The largest window that a compressed packet may ask for: what the highest level of the cameras' programs uses.
const WINDOW: u64 = 1 << 23;

/// The sensor of the first stream of events.
pub fn sensor(bytes: &[u8]) -> Option<Sensor> {
    Streams::read(Table::root(bytes.get(VERSION.len()..)?)?.text(2)?).sensor
}

/// The events of a file with contents `bytes`; `path` is for messages only. Times are microseconds unless the reading says otherwise.
///
/// Errors: [`Error::Damaged`] for another version, a file without a stream of events, and packets that do not fit or cannot be
/// unpacked, [`Error::OffSensor`] with the byte of the packet, and those of every recording: [`Error::Empty`], [`Error::TimeBackwards`],
/// [`Error::Damaged`].
pub fn decode(bytes: &[u8], path: &Path, reading: &Reading) -> Result<Recording> {
    let head = Head::read(bytes, path)?;
    let mut out = Collector::new(path, reading, TimeUnit::Us, 0)?;
    let mut left = bytes.len().saturating_mul(MOST.0).saturating_add(MOST.1);
    let mut at = head.packets;
    while at < head.end {
        let packet = packet(&bytes[..head.end], at, path)?;
        if packet.stream == head.streams.events {
            let body = head.compression.unpack(packet.body, &mut left).map_err(|got| {
                Error::damaged(
                    path,
                    "packets are whole, and unpack to at most 16 times the file",
                    format!("{got} at byte {at}"),
                )
            })?;
            let events = Table::root(&body).and_then(|table| table.vector(0, EVENT)).ok_or_else(|| {
                Error::damaged(
                    path,
                    "a packet of a stream of events holds a vector of events",
                    format!("none at byte {at}"),
                )
            })?;
            out.reserve(events.len() / EVENT)?;
            for &[t @ .., x0, x1, y0, y1, p, _, _, _] in events.as_chunks::<EVENT>().0 {
                let time = i64::from_le_bytes(t) as f64;
                out.push(at as u64, time, u16::from_le_bytes([x0, x1]), u16::from_le_bytes([y0, y1]), p != 0)?;
            }
        }
        at += PACKET + packet.body.len();
    }
    head.streams.others.into_iter().for_each(|r| out.remark(r));
    out.finish(bytes.len())
}

/// What comes before the packets.
struct Head {
    compression: Compression,
    streams: Streams,
    /// First byte of the packets, and the byte after the last.
    packets: usize,
    end: usize,
}

impl Head {
    fn read(bytes: &[u8], path: &Path) -> Result<Head> {
        let Some(rest) = bytes.strip_prefix(VERSION) else {
            let got = String::from_utf8_lossy(&bytes[..bytes.len().min(14)]).trim().to_owned();
            return Err(Error::damaged(path, "the first line is #!AER-DAT4.0", format!("{got:?}")));
        };
        let whole = || {
            let table = Table::root(rest)?;
            let length = u32_at(rest, 0)? as usize + 4;
            let position = table.field(1).map_or(Some(-1), |at| table.i64_at(at))?;
            Some((table.i32(0).unwrap_or(0), position, table.text(2)?, VERSION.len() + length))
        };
        let damaged = |rule, got: String| Err(Error::damaged(path, rule, got));
        let Some((compression, position, text, packets)) = whole() else {
            return damaged("the first line is followed by a header", "none, or a part of one".into());
        };
        let Some(compression) = Compression::of(compression) else {
            return damaged(
                "packets are compressed with LZ4, Zstandard or not at all",
                format!("compression {compression}"),
            );
        };
        let mut streams = Streams::read(text);
        if streams.events < 0 {
            let next = "record events too, or leave the file out";
            return Err(Error::unusable(path, "the file has a stream of events", "none in its list of streams", next));
        }
        if position < 0 {
            streams.others.push("the recording was not closed: are its last events missing?".into());
        }
        let end = if position < 0 { Some(bytes.len()) } else { usize::try_from(position).ok() };
        match end.filter(|e| (packets..=bytes.len()).contains(e)) {
            Some(end) => Ok(Head { compression, streams, packets, end }),
            None => {
                let got = format!("packets from byte {packets} to {position} of {}", bytes.len());
                damaged("the packets lie within the file", got)
            }
        }
    }
}

/// How the packets of a file are compressed.
#[derive(Clone, Copy)]
enum Compression {
    Nothing,
    Lz4,
    Zstandard,
}

impl Compression {
    /// By its number in the header; two levels of each.
    fn of(number: i32) -> Option<Compression> {
        match number {
            0 => Some(Compression::Nothing),
            1 | 2 => Some(Compression::Lz4),
            3 | 4 => Some(Compression::Zstandard),
            _ => None,
        }
    }

    /// What a packet unpacks to, at most `left` bytes, which become as many fewer. `Err` has what stands in the way.
    fn unpack<'a>(self, body: &'a [u8], left: &mut usize) -> std::result::Result<std::borrow::Cow<'a, [u8]>, String> {
        let all = |source: &mut dyn Read| {
            let mut out = Vec::new();
            source.take(*left as u64 + 1).read_to_end(&mut out).map_err(|e| e.to_string())?;
            Ok::<_, String>(out)
        };
        let out = match self {
            Compression::Nothing => return Ok(body.into()),
            Compression::Lz4 => all(&mut lz4_flex::frame::FrameDecoder::new(body))?,
            Compression::Zstandard => {
                let source = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(body, WINDOW);
                all(&mut source.map_err(|e| e.to_string())?)?
            }
        };
        *left = left.checked_sub(out.len()).ok_or("a packet that unpacks to more")?;
        Ok(out.into())
    }
}

struct Packet<'a> {
    stream: i32,
    body: &'a [u8],
}

fn packet<'a>(bytes: &'a [u8], at: usize, path: &Path) -> Result<Packet<'a>> {
    let found = || {
        let (stream, size) = (u32_at(bytes, at)? as i32, u32_at(bytes, at + 4)? as usize);
        Some(Packet { stream, body: bytes.get(at + PACKET..)?.get(..size)? })
    };
    found().ok_or_else(|| {
        let got = format!("one at byte {at} of {} that does not", bytes.len());
        Error::damaged(path, "a packet ends before the table of packets", got)
    })
}

/// The streams of a file.
struct Streams {
    /// The number of the first that has events; -1 if there is none.
    events: i32,
    sensor: Option<Sensor>,
    /// What is not read, in words.
    others: Vec<String>,
}

impl Streams {
    /// Out of the XML of a header: `<node name="0"> <attr key="typeIdentifier">EVTS</attr> <node name="info"> <attr key="sizeX">...`.
    fn read(text: &str) -> Streams {
        let mut streams = Streams { events: -1, sensor: None, others: Vec::new() };
        let (mut stream, mut width, mut others) = (-1, None, 0);
        for tag in text.split('<') {
            let (tag, value) = tag.split_once('>').unwrap_or((tag, ""));
            let attribute = |name: &str| Some(tag.split_once(name)?.1.strip_prefix("=\"")?.split_once('"')?.0);
            if tag.starts_with("node") {
                // Streams are called by their numbers; what lies within them is not.
                stream = attribute("name").and_then(|n| n.parse().ok()).unwrap_or(stream);
            }
            let is_first = stream >= 0 && streams.events == stream;
            match attribute("key") {
                Some("typeIdentifier") if value == "EVTS" && streams.events < 0 => streams.events = stream,
                Some("typeIdentifier") => others += 1,
                Some("sizeX") if is_first => width = value.parse().ok(),
                Some("sizeY") if is_first => {
                    let sensor = width.zip(value.parse().ok()).map(|(width, height)| Sensor { width, height });
                    streams.sensor = sensor.filter(|s| s.is_sensible());
                }
                _ => {}
            }
        }
        if others > 0 {
            streams.others.push(format!("streams that are not read: {others}"));
        }
        streams
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b))
}

/// A table of a FlatBuffer: numbers of two bytes before it say where each of its fields is. Nothing is believed: a place outside gives
/// `None`.
#[derive(Clone, Copy)]
struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    fields: &'a [u8],
}

impl<'a> Table<'a> {
    /// The root of a FlatBuffer that has its length before it.
    fn root(bytes: &'a [u8]) -> Option<Table<'a>> {
        let length = u32_at(bytes, 0)? as usize;
        let bytes = bytes.get(4..)?.get(..length)?;
        let at = u32_at(bytes, 0)? as usize;
        let back = u32_at(bytes, at)? as i32;
        let list = bytes.get(usize::try_from(i64::try_from(at).ok()? - i64::from(back)).ok()?..)?;
        let size = usize::from(u16::from_le_bytes(*list.first_chunk()?));
        Some(Table { bytes, at, fields: list.get(4..size)? })
    }

    /// Where a field is; `None` for one that is left out.
    fn field(&self, number: usize) -> Option<usize> {
        let offset = self.fields.as_chunks::<2>().0.get(number).map(|o| usize::from(u16::from_le_bytes(*o)))?;
        (offset > 0).then_some(self.at + offset)
    }

    fn i32(&self, number: usize) -> Option<i32> {
        u32_at(self.bytes, self.field(number)?).map(|v| v as i32)
    }

    fn i64_at(&self, at: usize) -> Option<i64> {
        self.bytes.get(at..).and_then(|b| b.first_chunk()).map(|b| i64::from_le_bytes(*b))
    }

    /// The elements of a vector, `size` bytes each. A packet without events leaves its vector out.
    fn vector(&self, number: usize, size: usize) -> Option<&'a [u8]> {
        let Some(field) = self.field(number) else { return Some(&[]) };
        let at = field.checked_add(u32_at(self.bytes, field)? as usize)?;
        let length = (u32_at(self.bytes, at)? as usize).checked_mul(size)?;
        self.bytes.get(at + 4..)?.get(..length)
    }

    fn text(&self, number: usize) -> Option<&'a str> {
        std::str::from_utf8(self.vector(number, 1)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::format::tests::{genuine, written};

    fn file(name: &str) -> Vec<u8> {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/formats").join(name)).unwrap()
    }

    fn run(bytes: &[u8]) -> Result<Recording> {
        let reading = Reading { sensor: Sensor { width: 64, height: 48 }, lasts: (0.0, f64::MAX), ..Reading::GESTURE };
        decode(bytes, Path::new("a.aedat4"), &reading)
    }

    #[test]
    fn files_of_another_program_in_every_compression() {
        for name in ["none", "lz4", "lz4_high", "zstd", "zstd_high"] {
            let got = genuine(&format!("{name}.aedat4"));
            assert_eq!((got.events, got.remarks), (written(), vec![]), "{name}");
            assert_eq!(sensor(&file(&format!("{name}.aedat4"))), Some(Sensor { width: 64, height: 48 }));
        }
    }

    #[test]
    fn streams_are_told_apart() {
        let stream = |n: u32, kind: &str, size: u32| {
            format!(
                "<node name=\"{n}\" path=\"/outInfo/{n}/\"><attr key=\"typeIdentifier\" type=\"string\">{kind}</attr>\
                 <node name=\"info\"><attr key=\"sizeX\" type=\"int\">{size}</attr><attr key=\"sizeY\">{size}</attr></node></node>"
            )
        };
        let text = [stream(0, "FRME", 10), stream(3, "EVTS", 20), stream(4, "EVTS", 30)].concat();
        let got = Streams::read(&format!("<dv version=\"2.0\"><node name=\"outInfo\">{text}</node></dv>"));
        assert_eq!((got.events, got.sensor), (3, Some(Sensor { width: 20, height: 20 })));
        assert_eq!(got.others, ["streams that are not read: 2"]);
        assert_eq!(Streams::read("<<>\"=").events, -1);
    }

    #[test]
    fn damage_is_named() {
        let good = file("lz4.aedat4");
        let says = |bytes: &[u8], text: &str| {
            let m = run(bytes).unwrap_err().to_string();
            assert!(m.contains(text) && m.contains("a.aedat4"), "{m}");
        };
        says(&good[..10], "#!AER-DAT4.0");
        says(&good[..100], "followed by a header");
        says(&good[..good.len() / 2], "lie within the file");
        says(&[VERSION, &[0; 40]].concat(), "followed by a header");
        let at = good.windows(4).position(|w| w == b"EVTS").unwrap();
        let mut other = good.clone();
        other[at] = b'F';
        says(&other, "a stream of events");
        // A byte in the middle of the packets.
        let mut broken = good.clone();
        let middle = good.windows(4).position(|w| w == [0x04, 0x22, 0x4d, 0x18]).unwrap() + 40;
        broken[middle..middle + 8].fill(0xff);
        assert!(run(&broken).is_err());
        let m = run(&file("none.aedat4")[..3000]).unwrap_err().to_string();
        assert!(m.contains("lie within"), "{m}");
    }
}
