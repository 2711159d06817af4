//! Initial values of parameters and states.
//!
//! Values are a pure function of (seed, name): neither the order of declaration nor other parameters change them.
//! Scales are *variances* in units of 1/fan-in, as in `docs/spec/networks-dms-ei.md, "Initial values"`.

use hlo::{Range, Shape};
use serde::{Deserialize, Serialize};

use crate::rng::Stream;

/// How a parameter starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All equal.
    Constant(f64),
    /// Gaussian with mean and standard deviation.
    Normal(f64, f64),
    /// Uniform in [lo, hi).
    Uniform(f64, f64),
    /// Gaussian with variance scale / fan-in.
    KaimingNormal(f64),
    /// Uniform with variance scale / fan-in.
    KaimingUniform(f64),
    /// Gaussian with variance scale / mean(fan-in, fan-out).
    XavierNormal(f64),
    /// A square matrix with orthogonal rows, times a factor.
    Orthogonal(f64),
    /// Beta-distributed with the two parameters.
    Beta(f64, f64),
    /// 1 with the given probability, else 0.
    Bernoulli(f64),
    /// Rows in blocks (number of rows, how), each with its own fan-in.
    Rows(Vec<(usize, Init)>),
    /// Values multiplied by a factor.
    Scaled(f64, Box<Init>),
    /// Given values.
    Values(Vec<f32>),
}

impl Init {
    /// Whether it can give the values of an array of these sizes.
    pub(super) fn fits(&self, dims: &[usize]) -> Result<(), String> {
        let rest = dims.iter().skip(1).product::<usize>();
        match self {
            Init::Values(values) if values.len() != dims.iter().product::<usize>() => {
                let (want, got) = (dims.iter().product::<usize>(), values.len());
                Err(format!(
                    "an array is given as many values as it has, {want}, got {got}; change the sizes or the values"
                ))
            }
            Init::Rows(blocks) => {
                let (rows, given) = (dims.first().copied().unwrap_or(1), blocks.iter().map(|(n, _)| n).sum::<usize>());
                if rows != given {
                    return Err(format!("blocks of rows make up all rows, {rows}, got {given}; change the blocks"));
                }
                blocks.iter().try_for_each(|(n, init)| init.fits(&[&[*n], dims.get(1..).unwrap_or(&[])].concat()))
            }
            Init::Scaled(_, init) => init.fits(dims),
            Init::Orthogonal(_) if dims.first().is_none_or(|rows| *rows > rest) => {
                Err("an orthogonal matrix has at most as many rows as columns; transpose it".into())
            }
            _ => Ok(()),
        }
    }

    /// The values for `shape`, for the parameter `name` of the run with `seed`.
    pub fn values(&self, shape: &Shape, seed: u64, name: &str) -> Vec<f32> {
        let mut stream = Stream::new(seed, name);
        self.draw(&shape.dims, &mut stream)
    }

    /// Between which numbers all values for `shape` lie, whatever the seed.
    pub fn range(&self, shape: &Shape) -> Range {
        let (fan_in, fan_out) = fans(&shape.dims);
        let normal = |mean: f64, std: f64| {
            let far = Stream::FARTHEST_NORMAL * std.abs();
            Range::new(mean - far, mean + far)
        };
        match self {
            Init::Zeros => Range::point(0.0),
            Init::Constant(c) => Range::point(*c),
            Init::Normal(mean, std) => normal(*mean, *std),
            Init::KaimingNormal(scale) => normal(0.0, (scale / fan_in).sqrt()),
            Init::XavierNormal(scale) => normal(0.0, (2.0 * scale / (fan_in + fan_out)).sqrt()),
            Init::Uniform(lo, hi) => Range::new(lo.min(*hi), lo.max(*hi)),
            Init::KaimingUniform(scale) => {
                let limit = (3.0 * scale / fan_in).sqrt();
                Range::new(-limit, limit)
            }
            Init::Orthogonal(factor) => Range::new(-factor.abs(), factor.abs()),
            Init::Beta(..) | Init::Bernoulli(_) => Range::new(0.0, 1.0),
            Init::Rows(blocks) => {
                let block =
                    |(rows, init): &(usize, Init)| init.range(&shape.with_dims([&[*rows], &shape.dims[1..]].concat()));
                blocks.iter().map(block).reduce(Range::union).unwrap_or(Range::ANY)
            }
            Init::Scaled(factor, init) => init.range(shape) * Range::point(*factor),
            Init::Values(values) => {
                values.iter().map(|&v| Range::point(v.into())).reduce(Range::union).unwrap_or(Range::ANY)
            }
        }
    }

    fn draw(&self, dims: &[usize], stream: &mut Stream) -> Vec<f32> {
        let count: usize = dims.iter().product();
        let (fan_in, fan_out) = fans(dims);
        let mut normal = |mean: f64, std: f64| (0..count).map(|_| (mean + std * stream.normal()) as f32).collect();
        match self {
            Init::Zeros => vec![0.0; count],
            Init::Constant(c) => vec![*c as f32; count],
            Init::Normal(mean, std) => normal(*mean, *std),
            Init::KaimingNormal(scale) => normal(0.0, (scale / fan_in).sqrt()),
            Init::XavierNormal(scale) => normal(0.0, (2.0 * scale / (fan_in + fan_out)).sqrt()),
            Init::Uniform(lo, hi) => (0..count).map(|_| (lo + (hi - lo) * stream.uniform()) as f32).collect(),
            Init::KaimingUniform(scale) => {
                let limit = (3.0 * scale / fan_in).sqrt();
                Init::Uniform(-limit, limit).draw(dims, stream)
            }
            Init::Orthogonal(factor) => orthogonal(dims, *factor, stream),
            Init::Beta(a, b) => (0..count).map(|_| beta(*a, *b, stream) as f32).collect(),
            Init::Bernoulli(p) => (0..count).map(|_| if stream.uniform() < *p { 1.0 } else { 0.0 }).collect(),
            Init::Rows(blocks) => blocks
                .iter()
                .flat_map(|(rows, init)| {
                    let block: Vec<usize> = std::iter::once(*rows).chain(dims[1..].iter().copied()).collect();
                    init.draw(&block, stream)
                })
                .collect(),
            Init::Scaled(factor, init) => {
                init.draw(dims, stream).into_iter().map(|v| (f64::from(v) * factor) as f32).collect()
            }
            Init::Values(values) => values.clone(),
        }
    }
}

/// The first rows of Q of the QR decomposition of a normal matrix (its signs such that R has a positive diagonal), by
/// Gram-Schmidt, twice for accuracy.
fn orthogonal(dims: &[usize], factor: f64, stream: &mut Stream) -> Vec<f32> {
    let (rows, n) = (dims[0], dims[1..].iter().product::<usize>());
    assert!(rows <= n, "an orthogonal matrix has at most as many rows as columns, got {rows} x {n}");
    let mut done: Vec<Vec<f64>> = Vec::with_capacity(rows);
    for _ in 0..rows {
        let mut row: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        for other in done.iter().chain(&done) {
            let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
        }
        let length = row.iter().map(|a| a * a).sum::<f64>().sqrt();
        row.iter_mut().for_each(|a| *a /= length);
        done.push(row);
    }
    done.into_iter().flatten().map(|v| (v * factor) as f32).collect()
}

/// A Beta-distributed number, by Johnk's method: `x / (x + y)` with `x = u^(1/a)`, `y = v^(1/b)`, if `x + y <= 1`.
fn beta(a: f64, b: f64, stream: &mut Stream) -> f64 {
    loop {
        let (x, y) = (stream.uniform().powf(1.0 / a), stream.uniform().powf(1.0 / b));
        if x + y > 0.0 && x + y <= 1.0 {
            return x / (x + y);
        }
    }
}

/// Fan-in and fan-out of an array: `[n]`, `[in, out]`, or `[..spatial, in, out]`.
fn fans(dims: &[usize]) -> (f64, f64) {
    match dims {
        [] => (1.0, 1.0),
        [n] => (*n as f64, *n as f64),
        [i, o] => (*i as f64, *o as f64),
        [spatial @ .., i, o] => {
            let field: usize = spatial.iter().product();
            ((i * field) as f64, (o * field) as f64)
        }
    }
}

/// How a state starts, for every sequence of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateInit {
    /// All zero.
    Zeros,
    /// All equal.
    Constant(f64),
    /// Uniform in [lo, hi), drawn anew for every sequence of every batch.
    Uniform(f64, f64),
    /// A whole number below 2^24, drawn anew for every sequence of every batch: the key of a random generator.
    Key,
}

impl StateInit {
    /// Whether the values are drawn anew for every batch.
    pub fn is_drawn(&self) -> bool {
        matches!(self, StateInit::Uniform(..) | StateInit::Key)
    }

    /// The values for `shape`, for state `name` at training step `step` of the run with `seed`.
    pub fn values(&self, shape: &Shape, seed: u64, name: &str, step: u64) -> Vec<f32> {
        match self {
            StateInit::Zeros => vec![0.0; shape.elements()],
            StateInit::Constant(c) => vec![*c as f32; shape.elements()],
            StateInit::Uniform(lo, hi) => Init::Uniform(*lo, *hi).values(shape, of_step(seed, step), name),
            StateInit::Key => {
                let all = Init::Uniform(0.0, f64::from(1 << 24)).values(shape, of_step(seed, step), name);
                all.into_iter().map(|v| v.floor().min(((1 << 24) - 1) as f32)).collect()
            }
        }
    }
}

/// A seed for one training step.
fn of_step(seed: u64, step: u64) -> u64 {
    seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        (mean, values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n)
    }

    #[test]
    fn kaiming_variance_is_scale_over_fan_in() {
        let (mean, var) = moments(&Init::KaimingNormal(10.0).values(&Shape::f32([400, 300]), 1, "w"));
        assert!(mean.abs() < 2e-3, "{mean}");
        assert!((var / (10.0 / 400.0) - 1.0).abs() < 0.02, "{var}");
    }

    #[test]
    fn blocks_of_rows_have_their_own_fan_in() {
        let init = Init::Rows(vec![(100, Init::KaimingNormal(1.0)), (400, Init::KaimingNormal(1.0))]);
        let all = init.values(&Shape::f32([500, 200]), 3, "w");
        let (_, top) = moments(&all[..100 * 200]);
        let (_, bottom) = moments(&all[100 * 200..]);
        assert!((top * 100.0 - 1.0).abs() < 0.05 && (bottom * 400.0 - 1.0).abs() < 0.05, "{top} {bottom}");
    }

    #[test]
    fn orthogonal_rows_are_orthogonal() {
        let n = 40;
        let q = Init::Orthogonal(2.0).values(&Shape::f32([n, n]), 5, "v");
        for i in 0..n {
            for j in 0..n {
                let product: f32 = (0..n).map(|k| q[i * n + k] * q[j * n + k]).sum();
                assert!((product - if i == j { 4.0 } else { 0.0 }).abs() < 1e-5, "{i} {j} {product}");
            }
        }
    }

    #[test]
    fn beta_has_its_mean_and_variance() {
        let (mean, var) = moments(&Init::Beta(1.0, 3.0).values(&Shape::f32([100_000]), 2, "thr"));
        assert!((mean - 0.25).abs() < 0.003 && (var - 0.0375).abs() < 0.001, "{mean} {var}");
    }

    #[test]
    fn a_kernel_counts_its_field_as_fan() {
        let (_, var) = moments(&Init::XavierNormal(1.0).values(&Shape::f32([5, 5, 64, 192]), 1, "k"));
        assert!((var.sqrt() - 0.01768).abs() < 1e-4, "{}", var.sqrt());
    }

    #[test]
    fn values_depend_on_seed_and_name_only() {
        let shape = Shape::f32([8]);
        let init = Init::Uniform(0.0, 1.0);
        assert_eq!(init.values(&shape, 1, "a"), init.values(&shape, 1, "a"));
        assert_ne!(init.values(&shape, 1, "a"), init.values(&shape, 1, "b"));
        assert_ne!(init.values(&shape, 1, "a"), init.values(&shape, 2, "a"));
    }
}
