//! Reproducible random numbers: a stream is named by (seed, name) and does not depend on any other stream.

/// A stream of random numbers (SplitMix64 on a hashed key).
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
    spare: Option<f64>,
}

impl Stream {
    /// No normal number is farther from 0: the smallest uniform one is 2^-53.
    pub const FARTHEST_NORMAL: f64 = 8.6;

    /// The stream called `name` of the run with `seed`.
    pub fn new(seed: u64, name: &str) -> Stream {
        // FNV-1a of the name, mixed with the seed.
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut stream = Stream { state: hash ^ seed.rotate_left(32).wrapping_mul(0x9E37_79B9_7F4A_7C15), spare: None };
        stream.bits();
        stream
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        if let Some(z) = self.spare.take() {
            return z;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}
