//! Bounds the number of points drawn, without hiding what they show.
//!
//! A curve of a million steps has more points than the figure has pixels. Within one column of pixels only four of
//! its points can be told apart: where it enters, its least and greatest value, and where it leaves. Keeping these
//! four per column (min-max decimation) leaves the picture as it was, spikes included, and bounds the file.

use super::scene::Pt;

/// Columns per CSS pixel: one per pixel of the PNG.
const COLUMNS_PER_PX: f64 = 2.0;
/// Limit for curves that run back and forth, which columns do not bound.
const MAX_POINTS: usize = 20_000;

/// Keeps coordinates inside what the writers' `f32` paths can hold.
fn clamp(p: Pt) -> Pt {
    (p.0.clamp(-20_000.0, 20_000.0), p.1.clamp(-20_000.0, 20_000.0))
}

/// The points of one polyline that share a column.
struct Column {
    index: i64,
    entry: Pt,
    low: (usize, Pt),
    high: (usize, Pt),
    exit: Pt,
    count: usize,
}

impl Column {
    fn new(index: i64, p: Pt) -> Self {
        Column { index, entry: p, low: (0, p), high: (0, p), exit: p, count: 1 }
    }

    fn add(&mut self, p: Pt) {
        if p.1 < self.low.1.1 {
            self.low = (self.count, p);
        }
        if p.1 > self.high.1.1 {
            self.high = (self.count, p);
        }
        self.exit = p;
        self.count += 1;
    }

    fn write(&self, out: &mut Vec<Pt>) {
        let (first, second) = if self.low.0 <= self.high.0 { (self.low, self.high) } else { (self.high, self.low) };
        for p in [self.entry, first.1, second.1, self.exit] {
            if out.last() != Some(&p) {
                out.push(p);
            }
        }
    }
}

/// Splits pixel points at gaps (`None`) into polylines and keeps at most four points per pixel column.
///
/// A gap narrower than a column cannot be seen and is closed.
pub(super) fn polylines(points: impl Iterator<Item = Option<Pt>>) -> Vec<Vec<Pt>> {
    let mut parts: Vec<Vec<Pt>> = vec![Vec::new()];
    let mut column: Option<Column> = None;
    let mut gap = false;
    for point in points {
        let Some(point) = point.map(clamp) else {
            gap = true;
            continue;
        };
        let index = (point.0 * COLUMNS_PER_PX).floor() as i64;
        match &mut column {
            Some(current) if current.index == index => current.add(point),
            _ => {
                if let (Some(done), Some(part)) = (column.take(), parts.last_mut()) {
                    done.write(part);
                    if gap {
                        parts.push(Vec::new());
                    }
                }
                column = Some(Column::new(index, point));
            }
        }
        gap = false;
    }
    if let (Some(done), Some(part)) = (column, parts.last_mut()) {
        done.write(part);
    }
    parts.retain(|part| !part.is_empty());
    let total: usize = parts.iter().map(Vec::len).sum();
    if total > MAX_POINTS {
        let keep_every = total.div_ceil(MAX_POINTS);
        for part in &mut parts {
            *part = part.iter().copied().step_by(keep_every).chain(part.last().copied()).collect();
        }
    }
    parts
}

/// Polygons around bands given in pixels as `(x, y of one edge, y of the other edge)`, split at gaps.
pub(super) fn bands(points: impl Iterator<Item = Option<(f64, f64, f64)>>) -> Vec<Vec<Pt>> {
    let mut parts: Vec<Vec<(i64, f64, f64, f64)>> = vec![Vec::new()];
    let mut gap = false;
    for point in points {
        let Some((x, a, b)) = point else {
            gap = true;
            continue;
        };
        let ((x, top), (_, bottom)) = (clamp((x, a.min(b))), clamp((x, a.max(b))));
        let index = (x * COLUMNS_PER_PX).floor() as i64;
        let same_column = parts.last().and_then(|part| part.last()).is_some_and(|last| last.0 == index);
        if gap && !same_column {
            parts.push(Vec::new());
        }
        gap = false;
        if let Some(part) = parts.last_mut() {
            match part.last_mut() {
                Some(last) if same_column => {
                    last.2 = last.2.min(top);
                    last.3 = last.3.max(bottom);
                }
                _ => part.push((index, x, top, bottom)),
            }
        }
    }
    parts
        .iter()
        .filter(|part| part.len() > 1)
        .map(|part| {
            let there = part.iter().map(|&(_, x, top, _)| (x, top));
            let back = part.iter().rev().map(|&(_, x, _, bottom)| (x, bottom));
            there.chain(back).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_series_keep_their_extremes() {
        let n = 1_000_000;
        let y = |i: usize| {
            if i == 777_777 { -500.0 } else { (i as f64 * 0.1).sin() }
        };
        let parts = polylines((0..n).map(|i| Some((i as f64 * 600.0 / n as f64, y(i)))));
        assert_eq!(parts.len(), 1);
        assert!(parts[0].len() <= 4 * 1200, "{} points", parts[0].len());
        assert!(parts[0].iter().any(|p| p.1 == -500.0));
        assert!(parts[0].windows(2).all(|w| w[0].0 <= w[1].0), "points are in their order");
    }

    #[test]
    fn gaps_split_and_lone_points_remain() {
        let points = [Some((0.0, 1.0)), Some((10.0, 1.0)), None, Some((20.0, 2.0)), None, None, Some((30.0, 1.0))];
        let parts = polylines(points.into_iter());
        assert_eq!(parts, [vec![(0.0, 1.0), (10.0, 1.0)], vec![(20.0, 2.0)], vec![(30.0, 1.0)]]);
        assert!(polylines([None, None].into_iter()).is_empty());
    }

    #[test]
    fn curves_running_back_and_forth_are_bounded() {
        let parts = polylines((0..500_000).map(|i| Some((f64::from(i % 700), f64::from(i % 311)))));
        assert!(parts.iter().map(Vec::len).sum::<usize>() <= MAX_POINTS + parts.len());
    }

    #[test]
    fn bands_cover_every_value_of_a_column() {
        let points = (0..10_000).map(|i| Some((f64::from(i) * 0.01, f64::from(i % 7), 10.0 + f64::from(i % 5))));
        let parts = bands(points);
        assert_eq!(parts.len(), 1);
        assert!(parts[0].len() <= 402);
        assert!(parts[0].iter().any(|p| p.1 == 0.0) && parts[0].iter().any(|p| p.1 == 14.0));
        assert_eq!(bands([Some((0.0, 0.0, 1.0)), None, Some((9.0, 0.0, 1.0))].into_iter()).len(), 0);
    }
}
