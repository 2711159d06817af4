//! Spikes: a step function forward, a surrogate derivative backward.
//!
//! `H(x) = 1` for `x >= 0`, else 0. The derivative used in all differentiation is the surrogate `s(x)` of
//! `docs/spec/networks-dms-ei.md, "Surrogate derivatives"`; `s` itself is constant (no second-order term).

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use crate::settings::table::plain;

/// The derivative used in place of the step function's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Surrogate {
    /// `max(0, alpha (width - |x|))`.
    Relu {
        /// Slope.
        alpha: f64,
        /// Half-width of the support.
        width: f64,
    },
    /// `alpha q (1 - q)` with `q = sigmoid(alpha x)` below 0; `beta / (x + 1)` from 0 on.
    S2nn {
        /// Steepness below the threshold.
        alpha: f64,
        /// Weight above the threshold.
        beta: f64,
    },
    /// A Gaussian with two wide negative ones beside it.
    MultiGaussian {
        /// Weight of the side lobes.
        h: f64,
        /// Width of the side lobes, in units of sigma.
        s: f64,
        /// Width of the centre.
        sigma: f64,
        /// Overall factor.
        scale: f64,
    },
    /// `alpha` below 0, `beta` from 0 on.
    LeakyRelu {
        /// Below.
        alpha: f64,
        /// From 0 on.
        beta: f64,
    },
    /// `1 / (alpha |x| + 1)^2`.
    InvSquare {
        /// Steepness.
        alpha: f64,
    },
    /// 1 for `|x| <= width`, else 0.
    Boxcar {
        /// Half-width.
        width: f64,
    },
    /// `scale exp(-(sigma x)^2 / 2) / (sqrt(2 pi) width)`.
    Gaussian {
        /// Overall factor.
        scale: f64,
        /// Divides the exponential.
        width: f64,
        /// Multiplies x.
        sigma: f64,
    },
    /// `alpha q (1 - q)` with `q = sigmoid(alpha x)`.
    Sigmoid {
        /// Steepness.
        alpha: f64,
    },
    /// `scale max(0, 1 - steepness |x|)`.
    Triangle {
        /// Height.
        scale: f64,
        /// Inverse of the half-width.
        steepness: f64,
    },
}

impl Default for Surrogate {
    fn default() -> Self {
        Surrogate::Relu { alpha: 0.3, width: 1.0 }
    }
}

impl Surrogate {
    /// The names that the published commands use, with the constants that go with them.
    pub const TABLE: &[(&str, Surrogate)] = &[
        ("relu", Surrogate::Relu { alpha: 0.3, width: 1.0 }),
        ("s2nn", Surrogate::S2nn { alpha: 4.0, beta: 1.0 }),
        ("s2nn2", Surrogate::S2nn { alpha: 8.0, beta: 1.0 }),
        ("multi_gaussian", Surrogate::MultiGaussian { h: 0.15, s: 6.0, sigma: 0.5, scale: 0.5 }),
        ("leaky_relu", Surrogate::LeakyRelu { alpha: 0.1, beta: 1.0 }),
        ("inv_square", Surrogate::InvSquare { alpha: 10.0 }),
        ("boxcar", Surrogate::Boxcar { width: 0.5 }),
        ("gaussian", Surrogate::Gaussian { scale: 0.5, width: 0.5, sigma: 0.5 }),
        ("sigmoid", Surrogate::Sigmoid { alpha: 4.0 }),
        ("triangle", Surrogate::Triangle { scale: 0.7, steepness: 1.0 }),
    ];

    /// All names, with commas.
    pub fn names() -> String {
        Surrogate::TABLE.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// A surrogate by its published name.
    pub fn by_name(name: &str) -> Option<Surrogate> {
        let name = plain(name);
        Surrogate::TABLE.iter().find(|(known, _)| plain(known) == name).map(|(_, surrogate)| *surrogate)
    }

    /// The derivative `s(x)`.
    pub fn slope(&self, x: &Tensor) -> Tensor {
        let zero = x.zeros_like();
        match *self {
            Surrogate::Relu { alpha, width } => (alpha * width - alpha * x.abs()).relu(),
            Surrogate::S2nn { alpha, beta } => {
                let q = (alpha * x).sigmoid();
                let above = beta / (x.relu() + 1.0);
                x.lt(&zero).select(&(alpha * &q * (1.0 - &q)), &above)
            }
            Surrogate::MultiGaussian { h, s, sigma, scale } => {
                let normal = |mean: f64, std: f64| {
                    let z = (x - mean) * (1.0 / std);
                    (z.square() * -0.5).exp() * (1.0 / (std * std::f64::consts::TAU.sqrt()))
                };
                let lobes = normal(sigma, s * sigma) + normal(-sigma, s * sigma);
                (normal(0.0, sigma) * (1.0 + h) - lobes * h) * scale
            }
            Surrogate::LeakyRelu { alpha, beta } => x.lt(&zero).select(&x.full_like(alpha), &x.full_like(beta)),
            Surrogate::InvSquare { alpha } => (alpha * x.abs() + 1.0).square().recip(),
            Surrogate::Boxcar { width } => x.abs().le(&x.full_like(width)).select(&x.full_like(1.0), &zero),
            Surrogate::Gaussian { scale, width, sigma } => {
                (x.square() * (-0.5 * sigma * sigma)).exp() * (scale / (width * std::f64::consts::TAU.sqrt()))
            }
            Surrogate::Sigmoid { alpha } => {
                let q = (alpha * x).sigmoid();
                alpha * &q * (1.0 - &q)
            }
            Surrogate::Triangle { scale, steepness } => (1.0 - x.abs() * steepness).relu() * scale,
        }
    }

    /// 1 where `x >= 0`, else 0, with the surrogate derivative.
    pub fn spike(&self, x: &Tensor) -> Tensor {
        x.heaviside().with_derivative(&[(x, &self.slope(x))])
    }

    /// 1 where `x > 0`, else 0, with the surrogate derivative: for equations that spike above a threshold, not at it.
    pub fn spike_above(&self, x: &Tensor) -> Tensor {
        (1.0 - (-x).heaviside()).with_derivative(&[(x, &self.slope(x))])
    }
}
