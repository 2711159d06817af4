//! How fast signals fade: powers of a matrix of bounds on transitions.

/// No ring is longer than this.
const LONGEST_LAG: usize = 1 << 16;

/// States that feed each other may amplify a signal for this many steps before they forget it.
const LONGEST_SWING: usize = 1 << 10;

/// `|dh'_a / dh_c|` at most, by a and c.
pub type Matrix = Vec<Vec<f64>>;

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let n = a.len();
    let entry = |i: usize, j: usize| {
        (0..n).map(|k| if a[i][k] == 0.0 || b[k][j] == 0.0 { 0.0 } else { a[i][k] * b[k][j] }).sum()
    };
    (0..n).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect()
}

fn power(d: &Matrix, mut exponent: usize) -> Matrix {
    let n = d.len();
    let mut result: Matrix = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let mut square = d.clone();
    while exponent > 0 {
        if exponent % 2 == 1 {
            result = product(&result, &square);
        }
        square = product(&square, &square);
        exponent /= 2;
    }
    result
}

/// The largest sum of a column.
fn norm(m: &Matrix) -> f64 {
    (0..m.len()).map(|c| m.iter().map(|row| row[c]).sum::<f64>()).fold(0.0, f64::max)
}

/// The largest norm of the powers of `d` from `exponent` on. Norms multiply to a bound: from the first power with a norm of at most 1 on,
/// they only repeat smaller ones.
pub fn reach(d: &Matrix, exponent: usize) -> f64 {
    let Some(period) = first(LONGEST_SWING, |m| norm(&power(d, m)) <= 1.0) else { return f64::INFINITY };
    let mut from = power(d, exponent);
    let mut largest = norm(&from);
    for _ in 1..period {
        from = product(&from, d);
        largest = largest.max(norm(&from));
    }
    largest
}

/// The smallest number from 1 on, up to `last`, from which on something holds.
fn first(last: usize, holds: impl Fn(usize) -> bool) -> Option<usize> {
    let mut high = 1;
    while !holds(high) {
        high *= 2;
        if high > last {
            return None;
        }
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = (low + high) / 2;
        if holds(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// The smallest lag after which at most `tolerance` of a signal is left, if it is one of the first.
pub fn lag_of(d: &Matrix, tolerance: f64) -> Option<usize> {
    first(LONGEST_LAG, |lag| reach(d, lag) <= tolerance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags_of_leaks() {
        // 0.9^131 is the first power below 1e-6.
        assert_eq!(lag_of(&vec![vec![0.9]], 1e-6), Some(132));
        assert_eq!(lag_of(&vec![vec![1.0]], 1e-6), None);
        assert_eq!(lag_of(&vec![vec![f64::INFINITY]], 1e-6), None);
        let cascade = vec![vec![0.9, 0.0], vec![0.5, 0.8]];
        let lag = lag_of(&cascade, 1e-6).expect("it forgets");
        assert!(reach(&cascade, lag) <= 1e-6 && reach(&cascade, lag - 1) > 1e-6, "{lag}");
        // A state that feeds another amplifies before it forgets: every later power counts.
        let swing = vec![vec![0.5, 0.0], vec![4.0, 0.5]];
        assert!(norm(&swing) > 1.0 && reach(&swing, 1) >= norm(&power(&swing, 3)));
        assert_eq!(reach(&vec![vec![1.1]], 5), f64::INFINITY);
    }
}
