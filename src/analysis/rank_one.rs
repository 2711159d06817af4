//! The approximation behind ES-D-RTRL for random matrices: `U^T G` against `mean(U) sum(G)`.
//!
//! For U `[r, m]` and G `[r, n]` of independent entries with `ra = mean(u)^2 / var(u)` and `rb` likewise, the cosine is close to
//! `sqrt(1 - 1 / (r ra rb + ra + rb + 1))`. The published script computes some of its other studies with a standard deviation
//! in place of a variance; this one does not.

use super::cosine;
use crate::rng::Stream;

/// One point of the grid: U is Bernoulli(p), G normal with mean 1 and standard deviation `sigma`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Probability of a 1 in U.
    pub p: f64,
    /// Standard deviation of G.
    pub sigma: f64,
    /// Cosine of one draw; 0 where U is zero.
    pub measured: f64,
    /// What the theory says; `None` where it says nothing (p = 0).
    pub theory: Option<f64>,
}

/// Draws one pair of matrices.
pub fn point(rank: usize, m: usize, n: usize, p: f64, sigma: f64, seed: u64) -> Point {
    let mut random = Stream::new(seed, &format!("rank-one {p} {sigma}"));
    let (mut exact, mut mean, mut sum) = (vec![0.0f32; m * n], vec![0.0f32; m], vec![0.0f32; n]);
    let (mut u, mut g) = (vec![0.0f32; m], vec![0.0f32; n]);
    for _ in 0..rank {
        u.iter_mut().for_each(|u| *u = f32::from(random.uniform() < p));
        g.iter_mut().for_each(|g| *g = (1.0 + sigma * random.normal()) as f32);
        for (i, u) in u.iter().enumerate().filter(|(_, u)| **u != 0.0) {
            for (j, g) in g.iter().enumerate() {
                exact[i * n + j] += u * g;
            }
        }
        mean.iter_mut().zip(&u).for_each(|(s, u)| *s += u / rank as f32);
        sum.iter_mut().zip(&g).for_each(|(s, g)| *s += g);
    }
    let approximate: Vec<f32> = mean.iter().flat_map(|u| sum.iter().map(move |g| u * g)).collect();
    Point { p, sigma, measured: cosine(&exact, &approximate), theory: theory(rank, p, sigma) }
}

fn theory(rank: usize, p: f64, sigma: f64) -> Option<f64> {
    let (ra, rb) = (p / (1.0 - p), 1.0 / (sigma * sigma));
    let value = (1.0 - 1.0 / (rank as f64 * ra * rb + ra + rb + 1.0)).sqrt();
    (p > 0.0 && value.is_finite()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_agree_with_the_theory() {
        for (p, sigma) in [(0.02, 0.5), (0.1, 2.0), (0.05, 10.0)] {
            let mean = |f: fn(&Point) -> f64| (0..8).map(|s| f(&point(4000, 10, 10, p, sigma, s))).sum::<f64>() / 8.0;
            let (measured, expected) = (mean(|q| q.measured), mean(|q| q.theory.unwrap()));
            assert!((measured - expected).abs() < 0.05, "p {p}, sigma {sigma}: {measured} against {expected}");
        }
        assert_eq!(point(100, 4, 4, 0.0, 1.0, 0).theory, None);
    }
}
