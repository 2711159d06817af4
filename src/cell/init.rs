//! Initial values of parameters and states.
//!
//! Values are a pure function of (seed, name): neither the order of declaration nor other parameters change them.
//! Scales are *variances* in units of 1/fan-in, as in section 1.7 of the specification of the networks.

use hlo::Shape;

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
    /// The values for `shape`, for the parameter `name` of the run with `seed`.
    pub fn values(&self, shape: &Shape, seed: u64, name: &str) -> Vec<f32> {
        let mut stream = Stream::new(seed, name);
        self.draw(&shape.dims, &mut stream)
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

/// Fan-in and fan-out of an array: `[n]`, `[in, out]`, or `[out, in, ..spatial]`.
fn fans(dims: &[usize]) -> (f64, f64) {
    match dims {
        [] => (1.0, 1.0),
        [n] => (*n as f64, *n as f64),
        [i, o] => (*i as f64, *o as f64),
        [o, i, spatial @ ..] => {
            let field: usize = spatial.iter().product();
            ((i * field) as f64, (o * field) as f64)
        }
    }
}

/// How a state starts, for every sequence of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum StateInit {
    /// All zero.
    Zeros,
    /// All equal.
    Constant(f64),
    /// Uniform in [lo, hi), drawn anew for every sequence of every batch.
    Uniform(f64, f64),
}

impl StateInit {
    /// The values for `shape`, for state `name` at training step `step` of the run with `seed`.
    pub fn values(&self, shape: &Shape, seed: u64, name: &str, step: u64) -> Vec<f32> {
        match self {
            StateInit::Zeros => vec![0.0; shape.elements()],
            StateInit::Constant(c) => vec![*c as f32; shape.elements()],
            StateInit::Uniform(lo, hi) => {
                Init::Uniform(*lo, *hi).values(shape, seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15), name)
            }
        }
    }
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
    fn values_depend_on_seed_and_name_only() {
        let shape = Shape::f32([8]);
        let init = Init::Uniform(0.0, 1.0);
        assert_eq!(init.values(&shape, 1, "a"), init.values(&shape, 1, "a"));
        assert_ne!(init.values(&shape, 1, "a"), init.values(&shape, 1, "b"));
        assert_ne!(init.values(&shape, 1, "a"), init.values(&shape, 2, "a"));
    }
}
