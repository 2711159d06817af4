//! Training samples cropped, tilted and turned, a little differently in every epoch; all frames of a sample alike.
//!
//! In this order, as published: a random crop of 60 to 100 % of the area, stretched back to the full frame (nearest pixel); with
//! probability 1/2 a random perspective (bilinear, nothing outside, multiplied once more by the share of each pixel that is inside);
//! a rotation by -25 to 25 degrees (nearest pixel, nothing outside). Counts stay whole numbers: a fraction is rounded up with
//! its own probability, so that single events do not vanish on average.

use crate::rng::Stream;

/// Pixels of a side.
const SIZE: usize = 128;

/// For each pixel of the new frame, the pixels of the old one that it is made of.
pub(super) struct Warp(Vec<Vec<(u16, f32)>>);

impl Warp {
    /// A new one.
    pub fn draw(s: &mut Stream) -> Warp {
        let crop = Crop::draw(s);
        let perspective = (s.unit() < 0.5).then(|| perspective(s)).flatten();
        let angle = (50.0 * s.unit() - 25.0).to_radians();
        let (sin, cos) = angle.sin_cos();
        let middle = (SIZE as f64 - 1.0) / 2.0;
        let pixel = |i: usize| {
            let (x, y) = ((i % SIZE) as f64 - middle, (i / SIZE) as f64 - middle);
            let (x, y) = (cos * x - sin * y + middle, sin * x + cos * y + middle);
            let (Some(x), Some(y)) = (inside(x.round()), inside(y.round())) else { return Vec::new() };
            let Some(p) = &perspective else { return vec![(crop.source(x, y), 1.0)] };
            bilinear(p, x, y).into_iter().map(|(x, y, w)| (crop.source(x, y), w)).collect()
        };
        Warp((0..SIZE * SIZE).map(pixel).collect())
    }

    /// A frame of one polarity.
    pub fn apply(&self, frame: &[u8], out: &mut [u8], s: &mut Stream) {
        for (out, sources) in out.iter_mut().zip(&self.0) {
            let value: f32 = sources.iter().map(|&(i, w)| f32::from(frame[usize::from(i)]) * w).sum();
            let whole = value.floor();
            let up = value > whole && s.unit() < f64::from(value - whole);
            *out = (whole as u8).saturating_add(u8::from(up));
        }
    }
}

fn inside(v: f64) -> Option<usize> {
    (v >= 0.0 && v < SIZE as f64).then_some(v as usize)
}

struct Crop {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl Crop {
    fn draw(s: &mut Stream) -> Crop {
        let side = SIZE as f64;
        for _ in 0..10 {
            let area = side * side * (0.6 + 0.4 * s.unit());
            let ratio = ((0.75f64).ln() + ((4.0f64 / 3.0).ln() - (0.75f64).ln()) * s.unit()).exp();
            let (width, height) = ((area * ratio).sqrt().round() as usize, (area / ratio).sqrt().round() as usize);
            if width <= SIZE && height <= SIZE {
                let left = s.below((SIZE - width + 1) as u64) as usize;
                let top = s.below((SIZE - height + 1) as u64) as usize;
                return Crop { left, top, width, height };
            }
        }
        Crop { left: 0, top: 0, width: SIZE, height: SIZE }
    }

    fn source(&self, x: usize, y: usize) -> u16 {
        ((self.top + y * self.height / SIZE) * SIZE + self.left + x * self.width / SIZE) as u16
    }
}

/// `a .. h` of `x' = (a x + b y + c) / (g x + h y + 1)`, `y' = (d x + e y + f) / (g x + h y + 1)`.
type Coefficients = [f64; 8];

/// Moves each corner by up to a quarter of the frame; `None` if the four equations have no solution.
fn perspective(s: &mut Stream) -> Option<Coefficients> {
    let mut corner = |right: bool, bottom: bool| {
        let mut at = |far: bool| s.below(33) as f64 + if far { 95.0 } else { 0.0 };
        (at(right), at(bottom))
    };
    let moved = [corner(false, false), corner(true, false), corner(true, true), corner(false, true)];
    let original = [(0.0, 0.0), (127.0, 0.0), (127.0, 127.0), (0.0, 127.0)];
    let mut rows = Vec::new();
    for ((x, y), (u, v)) in moved.into_iter().zip(original) {
        rows.push([x, y, 1.0, 0.0, 0.0, 0.0, -u * x, -u * y, u]);
        rows.push([0.0, 0.0, 0.0, x, y, 1.0, -v * x, -v * y, v]);
    }
    solve(rows)
}

/// Gauss elimination with pivots: eight equations, the right side last.
fn solve(mut rows: Vec<[f64; 9]>) -> Option<Coefficients> {
    for k in 0..8 {
        let pivot = (k..8).max_by(|&a, &b| rows[a][k].abs().total_cmp(&rows[b][k].abs()))?;
        rows.swap(k, pivot);
        if rows[k][k].abs() < 1e-9 {
            return None;
        }
        let top = rows[k];
        for (i, row) in rows.iter_mut().enumerate() {
            let factor = if i == k { 0.0 } else { row[k] / top[k] };
            row.iter_mut().zip(top).for_each(|(v, t)| *v -= factor * t);
        }
    }
    Some(std::array::from_fn(|k| rows[k][8] / rows[k][k]))
}

/// The old pixels under pixel (x, y), with their weights.
fn bilinear(p: &Coefficients, x: usize, y: usize) -> Vec<(usize, usize, f32)> {
    let (x, y) = (x as f64 + 0.5, y as f64 + 0.5);
    let below = p[6] * x + p[7] * y + 1.0;
    let (u, v) = ((p[0] * x + p[1] * y + p[2]) / below - 0.5, (p[3] * x + p[4] * y + p[5]) / below - 0.5);
    let (left, top) = (u.floor(), v.floor());
    let (fx, fy) = (u - left, v - top);
    let corners = [
        (0.0, 0.0, (1.0 - fx) * (1.0 - fy)),
        (1.0, 0.0, fx * (1.0 - fy)),
        (0.0, 1.0, (1.0 - fx) * fy),
        (1.0, 1.0, fx * fy),
    ];
    let found: Vec<(usize, usize, f64)> = corners
        .into_iter()
        .filter_map(|(dx, dy, w)| Some((inside(left + dx)?, inside(top + dy)?, w)))
        .filter(|c| c.2 > 0.0)
        .collect();
    let coverage: f64 = found.iter().map(|c| c.2).sum();
    found.into_iter().map(|(x, y, w)| (x, y, (w * coverage) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perspective_moves_the_corners_where_it_says() {
        let moved = [(3.0, 7.0), (120.0, 12.0), (99.0, 101.0), (20.0, 127.0)];
        let original = [(0.0, 0.0), (127.0, 0.0), (127.0, 127.0), (0.0, 127.0)];
        let mut rows = Vec::new();
        for ((x, y), (u, v)) in moved.into_iter().zip(original) {
            rows.push([x, y, 1.0, 0.0, 0.0, 0.0, -u * x, -u * y, u]);
            rows.push([0.0, 0.0, 0.0, x, y, 1.0, -v * x, -v * y, v]);
        }
        let p = solve(rows).expect("four corners in general position");
        for ((x, y), (u, v)) in moved.into_iter().zip(original) {
            let below = p[6] * x + p[7] * y + 1.0;
            let got = ((p[0] * x + p[1] * y + p[2]) / below, (p[3] * x + p[4] * y + p[5]) / below);
            assert!((got.0 - u).abs() < 1e-9 && (got.1 - v).abs() < 1e-9, "{got:?}");
        }
    }

    #[test]
    fn a_warp_keeps_most_of_a_frame_and_is_a_function_of_its_stream() {
        let frame: Vec<u8> = (0..SIZE * SIZE).map(|i| (i % 7) as u8).collect();
        let total: f64 = frame.iter().map(|v| f64::from(*v)).sum();
        let (mut kept, mut different) = (0.0, 0);
        for epoch in 0..40 {
            let run = || {
                let mut s = Stream::new(1, "warp", &[epoch]);
                let warp = Warp::draw(&mut s);
                let mut out = vec![0; SIZE * SIZE];
                warp.apply(&frame, &mut out, &mut s);
                out
            };
            let out = run();
            assert_eq!(out, run());
            different += u32::from(out != frame);
            kept += out.iter().map(|v| f64::from(*v)).sum::<f64>() / total / 40.0;
        }
        assert_eq!(different, 40);
        assert!((0.6..1.05).contains(&kept), "{kept}");
    }

    #[test]
    fn rounding_keeps_the_mean() {
        let warp = Warp(vec![vec![(0, 0.25)]; SIZE * SIZE]);
        let (frame, mut out) = (vec![1; SIZE * SIZE], vec![0; SIZE * SIZE]);
        warp.apply(&frame, &mut out, &mut Stream::new(0, "round", &[]));
        let mean = out.iter().map(|v| f64::from(*v)).sum::<f64>() / out.len() as f64;
        assert!((mean - 0.25).abs() < 0.01, "{mean}");
    }
}
