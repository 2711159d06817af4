//! Spike times to rows.
//!
//! There are `n` edges, `edge[i] = i * (max_time / (n - 1))` and the last exactly `max_time` (NumPy's `linspace(0, max_time, n)`); the row
//! of a spike is the number of edges at or before it (`digitize`, closed on the left). So row 0 stays silent, the width of a bin
//! is `max_time / (n - 1)`, and a spike at `max_time` or later would have row `n`, one past the end: it goes to the last row
//! instead. Times are compared in double precision, whatever their width on disk. A time below 0 goes to row 0.

/// The edges of a binning. See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Edges {
    edges: Vec<f64>,
    per_second: f64,
}

impl Edges {
    /// `n` edges from 0 to `max_time` seconds; `None` unless `n` is at least 2 and `max_time` above 0 and finite.
    pub fn new(n: usize, max_time: f64) -> Option<Self> {
        if n < 2 || !max_time.is_finite() || max_time <= 0.0 {
            return None;
        }
        let width = max_time / (n - 1) as f64;
        let mut edges: Vec<f64> = (0..n).map(|i| i as f64 * width).collect();
        edges[n - 1] = max_time;
        Some(Edges { edges, per_second: 1.0 / width })
    }

    /// The last edge, in seconds.
    pub fn max_time(&self) -> f64 {
        self.edges[self.edges.len() - 1]
    }

    /// Number of edges at or before `t`, 0 to n; 0 for what is not a number.
    pub fn digitize(&self, t: f64) -> usize {
        // The guess is at most one off; the edges themselves decide.
        let mut i = ((t * self.per_second) as usize).min(self.edges.len());
        while i > 0 && self.edges[i - 1] > t {
            i -= 1;
        }
        while i < self.edges.len() && self.edges[i] <= t {
            i += 1;
        }
        i
    }

    /// The row of a spike at `t` seconds, 0 to n - 1.
    pub fn row(&self, t: f64) -> usize {
        self.digitize(t).min(self.edges.len() - 1)
    }
}

/// The value of a half-precision number (IEEE 754 binary16).
pub fn half(bits: u16) -> f64 {
    let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 31, f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1024.0 + fraction) * 2f64.powi(i32::from(e) - 25),
    };
    if sign == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digitize_has_its_worked_numbers() {
        let e = Edges::new(100, 1.4).unwrap();
        let got: Vec<usize> = [0.0, 0.0141, 0.0142, 1.3999, 1.4, 1.5].iter().map(|&t| e.digitize(t)).collect();
        assert_eq!(got, [1, 1, 2, 99, 100, 100]);
        assert_eq!((e.row(1.4), e.row(9e9), e.row(-1.0), e.row(f64::NAN)), (99, 99, 0, 0));
    }

    #[test]
    fn digitize_counts_edges() {
        for (n, max) in [(2, 1.0), (100, 1.4), (250, 1.3), (300, 0.79296875)] {
            let e = Edges::new(n, max).unwrap();
            let near = |x: f64| [x, x.next_down(), x.next_up()];
            for t in e.edges.iter().flat_map(|&x| near(x)).chain((0..1000).map(|i| f64::from(i) * 0.0016)) {
                assert_eq!(e.digitize(t), e.edges.iter().filter(|&&x| x <= t).count(), "{n} {max} {t}");
            }
        }
        assert!(Edges::new(1, 1.0).is_none() && Edges::new(5, 0.0).is_none() && Edges::new(5, f64::NAN).is_none());
    }

    #[test]
    fn half_precision() {
        for (bits, want) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x0001, 2f64.powi(-24)),
            (0x0400, 2f64.powi(-14)),
            (0x7bff, 65504.0),
            (0x3a58, 0.79296875),
            (0x7c00, f64::INFINITY),
        ] {
            assert_eq!(half(bits), want, "{bits:#x}");
        }
        assert!(half(0x7c01).is_nan());
    }
}
