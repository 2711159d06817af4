//! Writing: one recording as a structured array with named columns t, x, y, p, in as few bytes as its numbers need.

use super::super::{Event, Sensor};

/// The file of a recording: t in microseconds, 32 bits unless a time needs 64; x and y in 8 bits unless the sensor needs 16; p 0 or 1.
pub fn encode(events: &[Event], sensor: Sensor) -> Vec<u8> {
    let short_time = events.iter().all(|e| u32::try_from(e.t).is_ok());
    let narrow = sensor.width.max(sensor.height) <= 256;
    let (t, xy) = (if short_time { "<u4" } else { "<u8" }, if narrow { "|u1" } else { "<u2" });
    let header = format!(
        "{{'descr': [('t', '{t}'), ('x', '{xy}'), ('y', '{xy}'), ('p', '|u1')], 'fortran_order': False, 'shape': ({},), }}",
        events.len()
    );
    // Ten bytes before the header and a line feed after it; the numbers begin at a multiple of 64.
    let width = (10 + header.len() + 1).next_multiple_of(64) - 11;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((width as u16 + 1).to_le_bytes());
    out.extend(format!("{header:width$}\n").into_bytes());
    out.reserve(13 * events.len());
    for e in events {
        out.extend(&e.t.to_le_bytes()[..if short_time { 4 } else { 8 }]);
        for side in [e.x, e.y] {
            out.extend(&side.to_le_bytes()[..if narrow { 1 } else { 2 }]);
        }
        out.push(e.p.into());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Disorder, Reading, npy};

    #[test]
    fn what_is_written_is_read_back() {
        for (sensor, last, size) in
            [("128x128", 9, 7), ("640x480", 9, 9), ("128x128", 1 << 40, 11), ("257x2", 1 << 32, 13)]
        {
            let sensor: Sensor = sensor.parse().unwrap();
            let right = Event { t: last, x: sensor.width - 1, y: sensor.height - 1, p: false };
            let events = [Event { t: 3, x: 0, y: 1, p: true }, right];
            let bytes = encode(&events, sensor);
            assert_eq!(bytes.len() % 64, 2 * size, "{sensor}");
            let reading = Reading { sensor, lasts: (0.0, f64::MAX), disorder: Disorder::Refuse, time_unit: None };
            let got = npy::decode(&bytes, std::path::Path::new("a.npy"), &reading).unwrap();
            assert_eq!((got.events, got.remarks), (events.to_vec(), vec![]), "{sensor}");
        }
    }
}
