//! Events counted in time bins.
//!
//! **A fixed number of bins** ([`fixed_bins`], tonic's `n_time_bins`): with n bins the window is `w = floor((t_last - t_first) / n)`
//! microseconds, and bin i holds the events with `t_first + i w <= t < t_first + (i + 1) w`. What comes after the last bin is left
//! out, and that is always at least the last event. A recording shorter than n microseconds has w = 0 and silent bins.
//!
//! **A fixed window** ([`fixed_window`], tonic's `time_window`): with windows of w microseconds there are
//! `n = max(1, floor((t_last - t_first - w) / w) + 1)` bins of the same form.

use super::{Event, Sensor};

/// The bin and channel of each event that falls in a bin, in order of time.
pub type Binned<C = u16> = Vec<(u32, C)>;

/// What counts channels: 16 bits are enough for 181 x 181 pixels, 32 for every sensor.
pub trait Channel: Copy {
    /// The number of a channel, which must not be too large.
    fn new(channel: usize) -> Self;
}

impl Channel for u16 {
    fn new(channel: usize) -> u16 {
        debug_assert!(channel < 1 << 16);
        channel as u16
    }
}

impl Channel for u32 {
    fn new(channel: usize) -> u32 {
        channel as u32
    }
}

fn place<C: Channel>(events: &[Event], sensor: Sensor, bins: usize, window: u64) -> Binned<C> {
    let (Some(first), true) = (events.first(), window > 0) else {
        return Vec::new();
    };
    let bin = |e: &Event| (e.t - first.t) / window;
    events.iter().take_while(|e| bin(e) < bins as u64).map(|e| (bin(e) as u32, C::new(sensor.channel(e)))).collect()
}

/// The window in microseconds that `n` bins over `events` have; 0 without events or bins.
pub fn window_of(events: &[Event], n: usize) -> u64 {
    match (events, n) {
        ([first, .., last], 1..) => (last.t - first.t) / n as u64,
        _ => 0,
    }
}

/// `events`, in order of time, in `n` bins of equal width. See the [module](self).
pub fn fixed_bins<C: Channel>(events: &[Event], sensor: Sensor, n: usize) -> Binned<C> {
    place(events, sensor, n, window_of(events, n))
}

/// `events`, in order of time, in bins of `window` microseconds; and the number of bins. See the [module](self).
pub fn fixed_window<C: Channel>(events: &[Event], sensor: Sensor, window: u64) -> (usize, Binned<C>) {
    let (Some(first), Some(last), true) = (events.first(), events.last(), window > 0) else {
        return (1, Vec::new());
    };
    let n = ((last.t - first.t) / window).max(1) as usize;
    (n, place(events, sensor, n, window))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{self, Reading};
    use std::path::Path;

    fn sample() -> Vec<Event> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/sample_nmnist.bin");
        events::read(&path, &Reading::NMNIST).unwrap().events
    }

    /// Events in a bin, the largest cell, and the total of each polarity.
    fn figures(binned: &Binned, n: usize, sensor: Sensor) -> (Vec<u32>, u32, [u32; 2]) {
        let mut cells = vec![0; n * sensor.channels()];
        let (mut rows, mut polarity) = (vec![0; n], [0; 2]);
        for &(bin, channel) in binned {
            rows[bin as usize] += 1;
            polarity[usize::from(usize::from(channel) >= sensor.channels() / 2)] += 1;
            cells[bin as usize * sensor.channels() + channel as usize] += 1;
        }
        (rows, cells.into_iter().max().unwrap_or(0), polarity)
    }

    #[test]
    fn first_saccade_of_the_sample_recording() {
        let mut events = sample();
        assert_eq!(events.len(), 4325);
        assert_eq!((events[0].t, events[4324].t), (654, 311_175));
        assert_eq!(events.iter().filter(|e| e.p).count(), 2145);
        events.retain(|e| e.t < 100_000);
        assert_eq!(events.len(), 1369);
        assert_eq!(window_of(&events, 100), 993);
        let binned: Binned = fixed_bins(&events, Sensor::NMNIST, 100);
        let (rows, max, polarity) = figures(&binned, 100, Sensor::NMNIST);
        assert_eq!(binned.len(), 1368);
        assert_eq!(rows[..5], [1, 0, 2, 3, 0]);
        assert_eq!((max, polarity), (2, [685, 683]));
    }

    #[test]
    fn all_saccades_of_the_sample_recording() {
        let events = sample();
        assert_eq!(window_of(&events, 100), 3105);
        let binned: Binned = fixed_bins(&events, Sensor::NMNIST, 100);
        let (rows, max, _) = figures(&binned, 100, Sensor::NMNIST);
        assert_eq!((binned.len(), max), (4324, 4));
        assert_eq!(rows[..5], [3, 4, 9, 9, 13]);
    }

    #[test]
    fn the_edges_of_short_recordings() {
        let at = |t| Event { t, x: 1, y: 0, p: false };
        assert!(fixed_bins::<u16>(&[], Sensor::NMNIST, 10).is_empty());
        assert!(fixed_bins::<u16>(&[at(5)], Sensor::NMNIST, 10).is_empty(), "one event has no extent");
        assert!(fixed_bins::<u16>(&[at(5), at(9)], Sensor::NMNIST, 10).is_empty(), "window 0");
        assert!(fixed_bins::<u16>(&[at(5), at(9)], Sensor::NMNIST, 0).is_empty());
        assert_eq!(fixed_bins::<u16>(&[at(5), at(7), at(9)], Sensor::NMNIST, 2), [(0, 1), (1, 1)]);
    }

    #[test]
    fn fixed_windows() {
        let at = |t| Event { t, x: 0, y: 0, p: true };
        let bins = |ts: &[u64]| {
            let events: Vec<Event> = ts.iter().map(|&t| at(t)).collect();
            let (n, b) = fixed_window::<u16>(&events, Sensor::DVS128, 25_000);
            (n, b.iter().map(|&(bin, _)| bin).collect::<Vec<_>>())
        };
        // 1.7 s less one microsecond: 67 bins, not 68.
        assert_eq!(bins(&[0, 1_699_999]), (67, vec![0]));
        assert_eq!(bins(&[7, 25_006, 25_007, 50_007]), (2, vec![0, 0, 1]));
        assert_eq!(bins(&[0, 30_000]), (1, vec![0]));
        assert_eq!(bins(&[0, 10]), (1, vec![0, 0]));
        assert_eq!(bins(&[]), (1, vec![]));
        assert_eq!(Sensor::DVS128.channel(&Event { t: 0, x: 59, y: 93, p: true }), (128 + 93) * 128 + 59);
    }
}
