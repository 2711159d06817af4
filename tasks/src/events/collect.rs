//! What every reader of recordings does with an event, and how it judges a recording as a whole.
//!
//! A reader finds time, place and polarity in its format and calls [`Collector::push`]; [`Collector::finish`] says whether a recording of
//! that kind can be so: events on the sensor, time that runs forwards, a length that its [`Reading`] has for possible. A wrong unit shows
//! in the length, which is then off by a factor of 1000 or more.

use std::path::Path;

use super::{Disorder, Event, Reading, Recording, Sensor, TimeUnit};
use crate::{Error, Result, memory};

/// Recordings shorter than this many events are not judged by their polarity.
const MANY: usize = 100;

/// A timer of a fixed number of ticks, which starts at 0 again after the last. A fall from its last quarter to its first is such a turn.
pub(crate) struct Clock {
    range: u64,
    last: u64,
    turns: u64,
}

impl Clock {
    /// A timer that counts `range` ticks.
    pub fn new(range: u64) -> Self {
        Clock { range, last: 0, turns: 0 }
    }

    /// The ticks since its first start.
    pub fn unwrap(&mut self, ticks: u64) -> u64 {
        let quarter = self.range / 4;
        if self.last >= self.range - quarter && ticks < quarter {
            self.turns += 1;
        }
        // An event that is late by a little belongs before the turn.
        let early = self.turns > 0 && self.last < quarter && ticks >= self.range - quarter;
        if !early {
            self.last = ticks;
        }
        (self.turns - u64::from(early)).saturating_mul(self.range).saturating_add(ticks)
    }

    /// What it showed last.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// What to say if the timer ran over.
    pub fn remark(&self) -> Option<String> {
        (self.turns > 0).then(|| format!("the timer of {} ticks ran over and was followed", self.range))
    }
}

/// Events of one recording, as they come. See the [module](self).
pub(crate) struct Collector<'a> {
    path: &'a Path,
    reading: &'a Reading,
    /// The unit of the times that are pushed.
    unit: TimeUnit,
    events: Vec<Event>,
    remarks: Vec<String>,
    /// Events that are earlier than the one before.
    late: u64,
    /// Byte and index of the first of them.
    first_late: (u64, usize),
    /// The longest way back in microseconds, and the index of its event.
    longest: (u64, usize),
    /// Least and greatest time in microseconds, fractions included: times in too short a unit round to nothing.
    span: (f64, f64),
}

impl<'a> Collector<'a> {
    /// For a file whose times are in `unit` unless the reading says otherwise; `events` is how many there will be, at most.
    pub fn new(path: &'a Path, reading: &'a Reading, unit: TimeUnit, events: usize) -> Result<Self> {
        let mut new = Collector {
            path,
            reading,
            unit: reading.time_unit.unwrap_or(unit),
            events: Vec::new(),
            remarks: Vec::new(),
            late: 0,
            first_late: (0, 0),
            longest: (0, 0),
            span: (f64::INFINITY, 0.0),
        };
        new.reserve(events)?;
        Ok(new)
    }

    /// The file, for messages.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// So many events more will come, at most.
    pub fn reserve(&mut self, events: usize) -> Result<()> {
        let (all, size) = (self.events.len().saturating_add(events), size_of::<Event>() as u64);
        memory::fits("recording", "its events fit in memory", &[all], size, "cut it into shorter recordings")?;
        self.events.reserve(events);
        Ok(())
    }

    /// Something that was recognised.
    pub fn remark(&mut self, remark: impl Into<String>) {
        self.remarks.push(remark.into());
    }

    /// An event that begins at byte `offset` of the file, `time` in the unit of the file. Errors: [`Error::OffSensor`], and
    /// [`Error::Damaged`] for a time that no clock shows.
    pub fn push(&mut self, offset: u64, time: f64, x: u16, y: u16, p: bool) -> Result<()> {
        let Sensor { width, height } = self.reading.sensor;
        if x >= width || y >= height {
            return Err(Error::OffSensor { path: self.path.to_owned(), offset, x, y, width, height });
        }
        let micros = match self.unit {
            TimeUnit::S => time * 1e6,
            TimeUnit::Ms => time * 1e3,
            TimeUnit::Us => time,
            TimeUnit::Ns => time / 1e3,
        };
        // 2^60 us: 36 000 years.
        if !(0.0..1.2e18).contains(&micros) {
            let got = format!("{time} {} for the event at byte {offset}", self.unit.name());
            return Err(Error::damaged(self.path, "times are at least 0", got));
        }
        self.span = (self.span.0.min(micros), self.span.1.max(micros));
        let t = micros as u64;
        if let Some(before) = self.events.last().map(|e| e.t).filter(|&b| b > t) {
            if self.late == 0 {
                self.first_late = (offset, self.events.len());
            }
            self.late += 1;
            if before - t > self.longest.0 {
                self.longest = (before - t, self.events.len());
            }
        }
        self.events.push(Event { t, x, y, p });
        Ok(())
    }

    /// The recording, in order of time. Errors: [`Error::Empty`], [`Error::TimeBackwards`] unless it is accepted, [`Error::Damaged`] for a
    /// clock that starts again and for a length that cannot be.
    pub fn finish(mut self, bytes: usize) -> Result<Recording> {
        if self.events.is_empty() {
            return Err(Error::Empty {
                path: self.path.to_owned(),
                got: format!("{bytes} bytes without an event"),
                next: "copy or unpack the file again, or leave it out",
            });
        }
        if self.late > 0 {
            self.order()?;
        }
        if self.events.len() > 1 {
            let seconds = (self.span.1 - self.span.0) * 1e-6;
            span_error(self.path, self.reading.lasts, self.unit, seconds, self.events.len())?;
            let rate = self.events.len() as f64 / seconds;
            if self.unit == TimeUnit::Ms && self.reading.time_unit.is_none() && seconds > 10.0 && rate < FEW {
                self.remark(format!(
                    "times are read as ms, which makes {rate:.1} events a second for {seconds:.0} s: --time-unit us, if they are microseconds"
                ));
            }
        }
        let on = self.events.iter().filter(|e| e.p).count();
        if self.events.len() >= MANY && (on == 0 || on == self.events.len()) {
            let which = if on == 0 { "darker" } else { "brighter" };
            self.remark(format!("all events are of one polarity, {which}: was the other one lost?"));
        }
        Ok(Recording { events: self.events, remarks: self.remarks })
    }

    /// Puts the events in order, if that is right and wished.
    fn order(&mut self) -> Result<()> {
        let (offset, index) = self.first_late;
        if self.starts_again() {
            let (back, at) = self.longest;
            return Err(Error::unusable(
                self.path,
                "a recording has one clock, which does not start again",
                format!("event {at} of {} is {:.3} s before the one before it", self.events.len(), back as f64 * 1e-6),
                "these are two recordings in one file, or the clock was set back: split the file there",
            ));
        }
        if self.reading.disorder == Disorder::Refuse {
            return Err(Error::TimeBackwards {
                path: self.path.to_owned(),
                offset,
                late: self.late,
                events: self.events.len() as u64,
                time: self.events[index].t,
                before: self.events[index - 1].t,
            });
        }
        self.events.sort_by_key(|e| e.t);
        self.remark("events were not in order of time and have been sorted");
        Ok(())
    }

    /// Whether the disorder is that of two recordings one behind the other: one jump back over most of the time, with much on both sides of
    /// it. Where all events before it are of one polarity and all after it of the other, they are the two halves of one recording.
    fn starts_again(&self) -> bool {
        let (back, at) = self.longest;
        let few = self.late <= 3 && at.min(self.events.len() - at) >= self.events.len() / 8 && back > 10_000;
        let (before, after) = self.events.split_at(at);
        let same = |part: &[Event]| part.iter().all(|e| e.p == part[0].p);
        let halves = same(before) && same(after) && before[0].p != after[0].p;
        few && back as f64 > (self.span.1 - self.span.0) / 2.0 && !halves
    }
}

/// The units in which a time, which is `seconds` long in `unit`, would be within `lasts`.
pub(crate) fn fitting(lasts: (f64, f64), unit: TimeUnit, seconds: f64) -> Vec<TimeUnit> {
    let fits = |u: &TimeUnit| (lasts.0..=lasts.1).contains(&(seconds / unit.seconds() * u.seconds()));
    TimeUnit::ALL.into_iter().filter(fits).collect()
}

/// A time for messages.
pub(crate) fn in_words(seconds: f64) -> String {
    if seconds == 0.0 || seconds >= 0.001 { format!("{seconds:.3} s") } else { format!("{seconds:.2e} s") }
}

/// Refuses a recording of `seconds` that is not within `lasts`, and names the unit in which it would be.
pub(crate) fn span_error(path: &Path, lasts: (f64, f64), unit: TimeUnit, seconds: f64, events: usize) -> Result<()> {
    let units = fitting(lasts, unit, seconds);
    if units.contains(&unit) {
        return Ok(());
    }
    let next = match units[..] {
        [one] => format!(
            "are they in {one}? Then say so with --time-unit {one}, or convert the file; else leave the file out",
            one = one.name()
        ),
        _ if seconds == 0.0 => {
            "were they rounded to whole numbers of a long unit when they were saved? Save them again".into()
        }
        _ => "give their unit with --time-unit, or leave the file out".into(),
    };
    let got = format!("{events} events over {}, with times in {}", in_words(seconds), unit.name());
    Err(Error::unusable(path, format!("a recording lasts {} to {} s", lasts.0, lasts.1), got, next))
}

/// Events in a second that are too few for a camera.
const FEW: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn run(reading: Reading, unit: TimeUnit, events: &[(f64, bool)]) -> Result<Recording> {
        let mut c = Collector::new(Path::new("a.npy"), &reading, unit, events.len()).unwrap();
        events.iter().try_for_each(|&(t, p)| c.push(7, t, 1, 1, p))?;
        c.finish(1)
    }

    fn steady(step: f64) -> Vec<(f64, bool)> {
        (0..200).map(|i| (f64::from(i) * step, i % 2 == 0)).collect()
    }

    #[test]
    fn a_wrong_unit_is_named() {
        // A gesture of 4 s in each unit, and what it is taken for.
        for (unit, step) in [(TimeUnit::S, 0.02), (TimeUnit::Ms, 20.0), (TimeUnit::Us, 20_000.0), (TimeUnit::Ns, 2e7)] {
            let events = steady(step);
            let right = Reading::GESTURE.accepting(Disorder::Refuse, Some(unit));
            assert_eq!(run(right, TimeUnit::Us, &events).unwrap().events[199].t, 3_980_000);
            for other in TimeUnit::ALL.into_iter().filter(|u| *u != unit) {
                let m = run(Reading::GESTURE, other, &events).unwrap_err().to_string();
                assert!(m.contains(&format!("--time-unit {}", unit.name())), "{unit:?} as {other:?}: {m}");
            }
        }
        let m = run(Reading::GESTURE, TimeUnit::S, &vec![(3.0, true); 50]).unwrap_err().to_string();
        assert!(m.contains("rounded"), "{m}");
        assert!(run(Reading::GESTURE, TimeUnit::S, &[(3.0, true)]).is_ok(), "one event has no length");
        assert!(run(Reading::GESTURE, TimeUnit::S, &[(-1.0, true)]).is_err());
        assert!(run(Reading::GESTURE, TimeUnit::S, &[(f64::NAN, true)]).is_err());
    }

    #[test]
    fn a_timer_that_runs_over_is_followed() {
        let mut clock = Clock::new(1000);
        let got: Vec<u64> = [0, 600, 990, 5, 998, 8, 700, 999, 3].into_iter().map(|t| clock.unwrap(t)).collect();
        assert_eq!(got, [0, 600, 990, 1005, 998, 1008, 1700, 1999, 2003]);
        assert!(clock.remark().is_some());
        let mut clock = Clock::new(1000);
        assert_eq!([500, 100].map(|t| clock.unwrap(t)), [500, 100], "a fall from the middle is no turn");
        assert!(clock.remark().is_none());
    }

    #[test]
    fn sorting_is_for_disorder_and_not_for_two_recordings() {
        let sort = Reading::GESTURE.accepting(Disorder::Sort, None);
        let mut swapped = steady(20_000.0);
        swapped.swap(50, 51);
        let got = run(sort, TimeUnit::Us, &swapped).unwrap();
        assert!(got.events.is_sorted_by_key(|e| e.t) && got.remarks[0].contains("sorted"));
        let m = run(Reading::GESTURE, TimeUnit::Us, &swapped).unwrap_err().to_string();
        assert!(m.contains("--sort-events") && m.contains("1 of 200"), "{m}");
        let twice = [steady(20_000.0), steady(20_000.0)].concat();
        for reading in [sort, Reading::GESTURE] {
            let m = run(reading, TimeUnit::Us, &twice).unwrap_err().to_string();
            assert!(m.contains("two recordings in one file"), "{m}");
        }
        // First everything brighter, then everything darker: one recording.
        let of = |p: bool| (0..100).map(move |i| (f64::from(i) * 20_000.0, p));
        let halves: Vec<_> = of(true).chain(of(false)).collect();
        assert!(run(sort, TimeUnit::Us, &halves).unwrap().events.is_sorted_by_key(|e| e.t));
    }

    #[test]
    fn too_few_events_for_milliseconds_are_remarked() {
        let given = Reading::ANY.accepting(Disorder::Refuse, Some(TimeUnit::Ms));
        let remarks = |reading, unit| run(reading, unit, &steady(1_000.0)).expect("a recording").remarks;
        assert!(remarks(Reading::ANY, TimeUnit::Ms).iter().any(|r| r.contains("--time-unit us")));
        assert!(remarks(Reading::ANY, TimeUnit::Us).is_empty() && remarks(given, TimeUnit::Ms).is_empty());
    }

    #[test]
    fn one_polarity_is_remarked() {
        let lost: Vec<_> = steady(20_000.0).into_iter().map(|(t, _)| (t, true)).collect();
        assert!(run(Reading::GESTURE, TimeUnit::Us, &lost).unwrap().remarks[0].contains("one polarity"));
        assert!(run(Reading::GESTURE, TimeUnit::Us, &steady(20_000.0)).unwrap().remarks.is_empty());
    }
}
