//! Long recordings cut into slices of equal length.
//!
//! With slices of w microseconds (1.7 s for DVS Gesture), from the first event's time t0: `n = max(1, floor((t_last - t0 - w) / w) + 1)`
//! slices, and slice k holds the events with `t0 + k w <= t < t0 + (k + 1) w`. So a short recording is one short slice, and the
//! rest at the end of a longer one is left out (tonic's `SliceByTime`).

use std::ops::Range;

use super::Event;

/// The index ranges of the slices of `events`, which are in order of time. No slice without events or for a window of 0.
pub fn by_time(events: &[Event], window: u64) -> Vec<Range<usize>> {
    let (Some(first), Some(last), true) = (events.first(), events.last(), window > 0) else {
        return Vec::new();
    };
    let n = ((last.t - first.t) / window).max(1);
    let edge = |k: u64| events.partition_point(|e| e.t - first.t < k.saturating_mul(window));
    // A window may be empty in a recording with a gap; millions of them in one whose times are damaged.
    let mut slices = Vec::new();
    let mut start = 0;
    while start < events.len() {
        let k = (events[start].t - first.t) / window;
        if k >= n {
            break;
        }
        let end = edge(k + 1);
        slices.push(start..end);
        start = end;
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_have_their_edges() {
        let cut = |ts: &[u64]| {
            let events: Vec<Event> = ts.iter().map(|&t| Event { t, x: 0, y: 0, p: false }).collect();
            by_time(&events, 100).into_iter().map(|r| (r.start, r.end)).collect::<Vec<_>>()
        };
        assert_eq!(cut(&[5, 50]), [(0, 2)]);
        assert_eq!(cut(&[5, 104, 105, 205]), [(0, 2), (2, 3)], "the event at 205 is past two slices");
        assert_eq!(cut(&[0, 99, 100, 150]), [(0, 2)], "a tail is left out");
        assert_eq!(cut(&[0, 350]), [(0, 1)], "silent slices are not made");
        assert!(cut(&[]).is_empty());
    }
}
