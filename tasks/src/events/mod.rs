//! Event cameras: files to events, events to frames.
//!
//! A dynamic vision sensor reports single pixels: at time t, pixel (x, y) became brighter (p = 1) or darker (p = 0). [`aer`] reads the
//! 40-bit files of N-MNIST and their kin, [`aedat`] the recordings of DVS128 Gesture, [`aedat4`] and [`prophesee`] those of two makers of
//! cameras, [`npy`] arrays of events, [`tonic`] its caches; [`format`](mod@format) has a row for each. All of them hand their events to one
//! collector (`collect`), which judges them. [`frames`] counts events in time bins. A frame has the channels (p, y, x), flattened in that
//! order: `(p * height + y) * width + x`.

pub mod aedat;
pub mod aedat4;
pub mod aer;
mod collect;
pub mod format;
pub mod frames;
pub mod npy;
pub mod prophesee;
pub mod slices;
pub mod tonic;

use serde::{Deserialize, Serialize};

pub(crate) use collect::{Clock, Collector, fitting, in_words, span_error};
pub use format::read;

/// One event of a camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Time, microseconds since the start of the recording.
    pub t: u64,
    /// Column, from the left.
    pub x: u16,
    /// Row, from the top.
    pub y: u16,
    /// Brighter (true) or darker.
    pub p: bool,
}

/// The size of a camera in pixels. In text it is `640x480`, columns first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sensor {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl Sensor {
    /// The sensor of N-MNIST.
    pub const NMNIST: Sensor = Sensor { width: 34, height: 34 };
    /// The sensor of DVS128 Gesture.
    pub const DVS128: Sensor = Sensor { width: 128, height: 128 };

    /// Most pixels of a side.
    pub const MOST: u16 = 1 << 14;

    /// Whether there can be such a camera: no side is 0 or longer than [`Sensor::MOST`].
    pub fn is_sensible(self) -> bool {
        [self.width, self.height].iter().all(|side| (1..=Sensor::MOST).contains(side))
    }

    /// Channels of a frame: two polarities of every pixel.
    pub fn channels(self) -> usize {
        2 * self.width as usize * self.height as usize
    }

    /// The channel of an event, `(p, y, x)` flattened. Meaningful for events on the sensor.
    pub fn channel(self, e: &Event) -> usize {
        let (w, h) = (self.width as usize, self.height as usize);
        (usize::from(e.p) * h + e.y as usize) * w + e.x as usize
    }
}

impl std::fmt::Display for Sensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl std::str::FromStr for Sensor {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let sides = text.trim().split_once(['x', 'X']);
        let sides = sides.and_then(|(w, h)| Some(Sensor { width: w.parse().ok()?, height: h.parse().ok()? }));
        sides.filter(|s| s.is_sensible()).ok_or_else(|| {
            format!("must be columns x rows, such as 640x480, each from 1 to {}, got `{text}`", Sensor::MOST)
        })
    }
}

impl TryFrom<String> for Sensor {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<Sensor> for String {
    fn from(sensor: Sensor) -> String {
        sensor.to_string()
    }
}

/// What to do with a recording in which time runs backwards. None of the 700 real N-MNIST recordings that were looked at
/// does, so it is taken as damage unless the user says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disorder {
    /// An error that names the event.
    #[default]
    Refuse,
    /// Put the events in order of time, equal times in order of the file. A clock that starts again is refused all the same: sorting
    /// would mix two recordings.
    Sort,
}

/// The unit of times in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl TimeUnit {
    /// All, from the longest.
    pub const ALL: [TimeUnit; 4] = [TimeUnit::S, TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns];

    /// Its symbol in lower case: s, ms, us, ns.
    pub fn name(self) -> &'static str {
        match self {
            TimeUnit::S => "s",
            TimeUnit::Ms => "ms",
            TimeUnit::Us => "us",
            TimeUnit::Ns => "ns",
        }
    }

    /// Seconds in one.
    pub fn seconds(self) -> f64 {
        match self {
            TimeUnit::S => 1.0,
            TimeUnit::Ms => 1e-3,
            TimeUnit::Us => 1e-6,
            TimeUnit::Ns => 1e-9,
        }
    }

    /// The unit that a heading or a column name ends in, such as `startTime_usec` or `t_ms`.
    pub(crate) fn of_name(name: &str) -> Option<TimeUnit> {
        let last = name.rsplit(['_', ' ', '(', '[', '/']).find(|w| !w.is_empty())?;
        match last.trim_end_matches([')', ']']).to_lowercase().as_str() {
            "s" | "sec" | "secs" | "seconds" => Some(TimeUnit::S),
            "ms" | "msec" | "milliseconds" => Some(TimeUnit::Ms),
            "us" | "usec" | "\u{b5}s" | "\u{3bc}s" | "microseconds" => Some(TimeUnit::Us),
            "ns" | "nsec" | "nanoseconds" => Some(TimeUnit::Ns),
            _ => None,
        }
    }
}

/// What is accepted of the recordings of a set, as the flags of a command say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Accept {
    /// Recordings whose time runs backwards.
    pub disorder: Disorder,
    /// The unit of times, where it is not that of the format.
    pub time_unit: Option<TimeUnit>,
    /// The camera, where it is not that of the set.
    pub sensor: Option<Sensor>,
}

/// What a recording is expected to be, and what is accepted of it. Every reader judges by it in the same way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The camera; an event outside it is an error.
    pub sensor: Sensor,
    /// Shortest and longest time from the first to the last event, seconds. Times in a wrong unit are off by a factor of 1000.
    pub lasts: (f64, f64),
    /// Recordings whose time runs backwards.
    pub disorder: Disorder,
    /// The unit of times, where it is not that of the format.
    pub time_unit: Option<TimeUnit>,
}

impl Reading {
    /// A recording of N-MNIST, 0.3 s long: 10 ms to 10 s.
    pub const NMNIST: Reading =
        Reading { sensor: Sensor::NMNIST, lasts: (0.01, 10.0), disorder: Disorder::Refuse, time_unit: None };
    /// One gesture, some seconds long: 10 ms to 100 s.
    pub const GESTURE: Reading =
        Reading { sensor: Sensor::DVS128, lasts: (0.01, 100.0), disorder: Disorder::Refuse, time_unit: None };
    /// A recording of any set: 10 ms to an hour.
    pub const ANY: Reading = Reading { lasts: (0.01, 3600.0), ..Reading::GESTURE };
    /// Many gestures in a row, one to two minutes long: 0.2 s to an hour.
    pub const GESTURES: Reading = Reading { lasts: (0.2, 3600.0), ..Reading::GESTURE };

    /// The same with this disorder and unit accepted.
    pub fn accepting(self, disorder: Disorder, time_unit: Option<TimeUnit>) -> Reading {
        Reading { disorder, time_unit, ..self }
    }
}

/// A recording that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// Its events in order of time, at least one.
    pub events: Vec<Event>,
    /// What was recognised in the file rather than given: an order of columns, a timer that ran over, events that were sorted.
    pub remarks: Vec<String>,
}
