//! Random numbers as a function of a position.
//!
//! Training must go on from any step exactly as if it had never stopped, and several threads must be able to make batches in
//! any order. So no generator is carried from batch to batch: each (seed, task, split, epoch, step, trial) names a **stream**
//! of its own, and the n-th block of a stream is a function of its name and n alone.
//!
//! The function is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011):
//! ten rounds of two 32 x 32 -> 64 bit products over a 128-bit counter under a 64-bit key. The key is the seed.
//! The upper half of the counter is a 64-bit hash of the rest of the name (FNV-1a, then the finaliser of SplitMix64), the
//! lower half is the number of the block. With a million steps of 128 trials the chance that any two streams coincide is
//! about 2^-11, and then it is two trials that are alike.
//!
//! [`Stream::bernoulli64`] draws 64 independent events of one probability at once, which is what spike trains are made of.

/// Blocks computed together, so that the compiler can use vector instructions.
const LANES: usize = 8;
/// 64-bit words in the buffer.
const WORDS: usize = LANES * 2;

/// A named stream of random numbers. Two streams of one name are equal.
#[derive(Clone)]
pub struct Stream {
    key: [u32; 2],
    high: [u32; 2],
    block: u64,
    buffer: [u64; WORDS],
    used: usize,
}

impl Stream {
    /// The stream called `name` at position `at` under `seed`.
    pub fn new(seed: u64, name: &str, at: &[u64]) -> Self {
        let mut h: u64 = 0xcbf2_9ce4_8422_2325;
        let mut eat = |byte: u8| h = (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        name.bytes().for_each(&mut eat);
        // A byte that no UTF-8 text contains ends the name, so that ("a", [b]) differs from any other split of the bytes.
        eat(0xff);
        at.iter().flat_map(|a| a.to_le_bytes()).for_each(&mut eat);
        h = finish(h);
        Stream { key: halves(seed), high: halves(h), block: 0, buffer: [0; WORDS], used: WORDS }
    }

    fn refill(&mut self) {
        let low: [[u32; 2]; LANES] = std::array::from_fn(|lane| halves(self.block.wrapping_add(lane as u64)));
        let mut counters = [low.map(|h| h[0]), low.map(|h| h[1]), [self.high[0]; LANES], [self.high[1]; LANES]];
        philox(&mut counters, self.key);
        let [c0, c1, c2, c3] = counters;
        for (lane, words) in self.buffer.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            *words = [u64::from(c0[lane]) | u64::from(c1[lane]) << 32, u64::from(c2[lane]) | u64::from(c3[lane]) << 32];
        }
        self.block = self.block.wrapping_add(LANES as u64);
        self.used = 0;
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        if self.used == WORDS {
            self.refill();
        }
        let word = self.buffer[self.used];
        self.used += 1;
        word
    }

    /// A uniform integer in `0..n`; 0 if `n` is 0. The bias is below `n / 2^64`.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// A uniform real number in `[0, 1)`, a multiple of 2^-53.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A normal number of mean 0 and variance 1 (Box and Muller 1958; the second of the pair is not kept).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// 64 independent events, one per bit, each of probability `p`.
    ///
    /// Compares 64 uniform numbers with `p` at once, from the first binary digit on: a number is below `p` if at the first
    /// digit where they differ it has 0 and `p` has 1. Each digit settles half of the numbers, so about 8 words suffice,
    /// and the probability is exact to 2^-63.
    #[inline]
    pub fn bernoulli64(&mut self, p: Probability) -> u64 {
        let Probability::Fraction(mut digits) = p else {
            return if p == Probability::Always { u64::MAX } else { 0 };
        };
        let (mut open, mut below) = (u64::MAX, 0);
        while digits != 0 && open != 0 {
            let u = self.bits();
            if digits >> 63 == 1 {
                below |= open & !u;
                open &= u;
            } else {
                open &= !u;
            }
            digits <<= 1;
        }
        below
    }
}

/// A probability as a binary fraction, for [`Stream::bernoulli64`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probability {
    /// 0 (and all below, and not-a-number).
    Never,
    /// `n / 2^64`.
    Fraction(u64),
    /// 1 (and all above).
    Always,
}

impl From<f64> for Probability {
    fn from(p: f64) -> Self {
        if p >= 1.0 {
            Probability::Always
        } else if p > 0.0 {
            match (p * (1u128 << 64) as f64) as u64 {
                0 => Probability::Never,
                n => Probability::Fraction(n),
            }
        } else {
            Probability::Never
        }
    }
}

fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// The finaliser of SplitMix64: a bijection in which every input bit moves every output bit.
pub(crate) fn finish(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Philox4x32-10 on `N` counters at once; `c[word][lane]`.
#[inline]
fn philox<const N: usize>(counters: &mut [[u32; N]; 4], mut key: [u32; 2]) {
    let [c0, c1, c2, c3] = counters;
    for _ in 0..10 {
        for (((c0, c1), c2), c3) in c0.iter_mut().zip(&mut *c1).zip(&mut *c2).zip(&mut *c3) {
            let a = u64::from(*c0) * 0xD251_1F53;
            let b = u64::from(*c2) * 0xCD9E_8D57;
            *c0 = (b >> 32) as u32 ^ *c1 ^ key[0];
            *c2 = (a >> 32) as u32 ^ *c3 ^ key[1];
            *c1 = b as u32;
            *c3 = a as u32;
        }
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers distributed with the authors' Random123 library (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        let cases: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, want) in cases {
            let mut c = counter.map(|w| [w]);
            philox(&mut c, key);
            assert_eq!(c.map(|w| w[0]), want);
        }
    }

    #[test]
    fn every_part_of_the_name_counts() {
        let first = |seed, name, at: &[u64]| Stream::new(seed, name, at).bits();
        let base = first(1, "a", &[0, 0]);
        assert_eq!(base, first(1, "a", &[0, 0]));
        for other in [
            first(2, "a", &[0, 0]),
            first(1, "b", &[0, 0]),
            first(1, "a", &[0, 1]),
            first(1, "a", &[1, 0]),
            first(1, "a", &[0]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn bernoulli_has_its_probability_in_every_bit() {
        let mut s = Stream::new(7, "bernoulli", &[]);
        for p in [0.001, 0.1, 0.25, 0.5, 0.9] {
            let n = 40_000;
            let mut bits = [0u32; 64];
            for _ in 0..n {
                let w = s.bernoulli64(p.into());
                (0..64).for_each(|i| bits[i] += (w >> i & 1) as u32);
            }
            let sd = (p * (1.0 - p) / f64::from(n)).sqrt();
            for b in bits {
                assert!((f64::from(b) / f64::from(n) - p).abs() < 5.0 * sd, "p = {p}, bit rate {b}/{n}");
            }
            let mean = bits.iter().sum::<u32>() as f64 / (64.0 * f64::from(n));
            assert!((mean - p).abs() < 5.0 * sd / 8.0, "p = {p}, mean {mean}");
        }
        assert_eq!(s.bernoulli64(0.0.into()), 0);
        assert_eq!(s.bernoulli64(f64::NAN.into()), 0);
        assert_eq!(s.bernoulli64(1.0.into()), u64::MAX);
    }

    #[test]
    fn normal_has_its_moments_and_tails() {
        let mut s = Stream::new(4, "normal", &[]);
        let n = 100_000.0;
        let all: Vec<f64> = (0..100_000).map(|_| s.normal()).collect();
        let moment = |k: i32| all.iter().map(|x| x.powi(k)).sum::<f64>() / n;
        // Standard errors: 1, sqrt 2, sqrt 15, sqrt 96 over sqrt n.
        let got = [moment(1), moment(2) - 1.0, moment(3), moment(4) - 3.0];
        let errors = [1.0, 2f64.sqrt(), 15f64.sqrt(), 96f64.sqrt()].map(|e| e / n.sqrt());
        assert!(got.iter().zip(errors).all(|(g, e)| g.abs() < 5.0 * e), "{got:?}");
        let tail = all.iter().filter(|x| x.abs() > 2.0).count() as f64;
        assert!((tail - 4550.0).abs() < 5.0 * 4550f64.sqrt(), "{tail}");
    }

    #[test]
    fn below_is_uniform() {
        let mut s = Stream::new(3, "below", &[]);
        let mut count = [0; 7];
        (0..70_000).for_each(|_| count[s.below(7) as usize] += 1);
        assert!(count.iter().all(|&c: &i32| (c - 10_000).abs() < 500), "{count:?}");
        assert_eq!(s.below(0), 0);
        assert!((0..1000).map(|_| s.unit()).all(|u| (0.0..1.0).contains(&u)));
    }
}
