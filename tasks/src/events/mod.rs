//! Event cameras: files to events, events to frames.
//!
//! A dynamic vision sensor reports single pixels: at time t, pixel (x, y) became brighter (p = 1) or darker (p = 0). [`aer`]
//! reads the 40-bit files of N-MNIST and their kin, [`frames`] counts events in time bins. A frame has the channels
//! (p, y, x), flattened in that order: `(p * height + y) * width + x`.

pub mod aedat;
pub mod aer;
pub mod frames;
pub mod npy;
pub mod slices;

use serde::{Deserialize, Serialize};

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

/// The size of a camera in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What to do with a recording in which time runs backwards. None of the 700 real N-MNIST recordings that were looked at
/// does, so it is taken as damage unless the user says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disorder {
    /// An error that names the event.
    #[default]
    Refuse,
    /// Put the events in order of time, equal times in order of the file.
    Sort,
}
