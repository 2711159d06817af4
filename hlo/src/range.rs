//! What is known of the values of an operation before it runs: between which two numbers they lie.
//!
//! Each operation says so itself ([`Primitive::range`](crate::Primitive::range)); one that does not is unbounded. The bounds hold for
//! exact arithmetic on finite operands, and they know nothing of how operands depend on each other: `x - x` lies in `[-1, 1]` for `x` in
//! `[0, 1]`.

use std::{
    collections::HashMap,
    ops::{Add, Mul, Neg, Sub},
};

use crate::{
    func::{Func, downcast},
    graph::{Node, Tensor, Value},
    ops::elementwise::{Compare, MulOp, Select},
};

/// All numbers from `low` to `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Range {
    /// Every number.
    pub const ANY: Range = Range { low: f64::NEG_INFINITY, high: f64::INFINITY };

    /// From one number to another; a bound that is not a number is none.
    pub fn new(low: f64, high: f64) -> Range {
        Range {
            low: if low.is_nan() { f64::NEG_INFINITY } else { low },
            high: if high.is_nan() { f64::INFINITY } else { high },
        }
    }

    /// One number.
    pub fn point(value: f64) -> Range {
        Range::new(value, value)
    }

    /// Values of a function that never falls.
    pub fn rising(self, f: impl Fn(f64) -> f64) -> Range {
        Range::new(f(self.low), f(self.high))
    }

    /// The smallest range that has both.
    pub fn union(self, other: Range) -> Range {
        Range::new(self.low.min(other.low), self.high.max(other.high))
    }

    /// The larger of two values.
    pub fn max(self, other: Range) -> Range {
        Range::new(self.low.max(other.low), self.high.max(other.high))
    }

    /// The smaller of two values.
    pub fn min(self, other: Range) -> Range {
        Range::new(self.low.min(other.low), self.high.min(other.high))
    }

    /// Absolute values.
    pub fn abs(self) -> Range {
        self.max(-self).max(Range::point(0.0))
    }

    /// `a / b`; unbounded where the divisor may be 0.
    pub fn over(self, divisor: Range) -> Range {
        if divisor.low <= 0.0 && divisor.high >= 0.0 {
            return Range::ANY;
        }
        self * Range::new(1.0 / divisor.high, 1.0 / divisor.low)
    }

    /// Whether a value lies in it.
    pub fn has(self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// The largest absolute value.
    pub fn size(self) -> f64 {
        self.low.abs().max(self.high.abs())
    }
}

impl Add for Range {
    type Output = Range;
    fn add(self, other: Range) -> Range {
        Range::new(self.low + other.low, self.high + other.high)
    }
}

impl Neg for Range {
    type Output = Range;
    fn neg(self) -> Range {
        Range::new(-self.high, -self.low)
    }
}

impl Sub for Range {
    type Output = Range;
    fn sub(self, other: Range) -> Range {
        self + -other
    }
}

impl Mul for Range {
    type Output = Range;
    fn mul(self, other: Range) -> Range {
        // 0 times anything finite is 0, however large it may be.
        let product = |a: f64, b: f64| if a == 0.0 || b == 0.0 { 0.0 } else { a * b };
        let all = [
            product(self.low, other.low),
            product(self.low, other.high),
            product(self.high, other.low),
            product(self.high, other.high),
        ];
        Range::new(
            all.iter().copied().fold(f64::INFINITY, f64::min),
            all.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        )
    }
}

impl Func {
    /// Ranges of the results, whatever the arguments.
    ///
    /// Two ways in which operands depend on each other are seen: a value times itself is not negative, and a value chosen by a
    /// comparison of itself keeps to it (`relu`, `clamp`).
    pub fn ranges(&self) -> Vec<Range> {
        self.ranges_of(&vec![Range::ANY; self.params().len()])
    }

    /// Ranges of the results, given those of the arguments; see [`Func::ranges`].
    ///
    /// # Panics
    /// When there is not one range for each parameter.
    pub fn ranges_of(&self, args: &[Range]) -> Vec<Range> {
        let mut known: HashMap<Value, Range> =
            self.params().iter().map(Tensor::value).zip(args.iter().copied()).collect();
        let env = self.replay(args, |index, node, operands| {
            let mut range = node.op.range(&operands, &node.shapes);
            if downcast::<MulOp>(node).is_some() && node.operands[0] == node.operands[1] {
                range = range.max(Range::point(0.0));
            } else if downcast::<Select>(node).is_some() {
                range = self.chosen(node, &operands, &known);
            }
            known.extend((0..node.shapes.len()).map(|result| (Value { node: index, result }, range)));
            vec![range; node.shapes.len()]
        });
        self.results().iter().map(|r| *env.get(r.value())).collect()
    }

    /// The range of a select: each branch keeps to the comparison under which it is chosen.
    fn chosen(&self, select: &Node, operands: &[Range], known: &HashMap<Value, Range>) -> Range {
        let condition = self.graph().node(select.operands[0].node);
        let Some(compare) = downcast::<Compare>(&condition) else { return operands[1].union(operands[2]) };
        let side = |k: usize| (condition.operands[k], known.get(&condition.operands[k]).copied().unwrap_or(Range::ANY));
        let (a, b) = (side(0), side(1));
        let branch = |k: usize, holds: bool| {
            let (value, range) = (select.operands[k], operands[k]);
            let greater = match compare.direction {
                "GT" | "GE" => holds,
                "LT" | "LE" => !holds,
                _ => return range,
            };
            let above = |other: Range| Range::new(range.low.max(other.low), range.high.max(other.low));
            let below = |other: Range| Range::new(range.low.min(other.high), range.high.min(other.high));
            match (value == a.0, value == b.0) {
                (true, _) if greater => above(b.1),
                (true, _) => below(b.1),
                (_, true) if greater => below(a.1),
                (_, true) => above(a.1),
                _ => range,
            }
        };
        branch(1, true).union(branch(2, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    #[test]
    fn transitions_of_a_leaky_neuron_with_a_soft_reset() {
        let func = Func::trace(&[Shape::f32([3, 5])], |_, v| {
            // max(0, 0.3 (1 - |x|)), as surrogates are.
            let slope = ((1.0 - v[0].abs()) * 0.3).relu();
            let mean = v[0].sum(&[0]).broadcast(&[3, 5], &[1]);
            let clamped = v[0].clamp(0.25, 0.75);
            vec![
                clamped,
                v[0].square(),
                (1.0 - &slope) * 0.5,
                slope.stop_gradient() - 1.0,
                v[0].sigmoid() * 2.0,
                mean,
                &v[0] / &v[0],
            ]
        });
        let of = |low: f64, high: f64| Range { low, high };
        let found = func.ranges();
        assert_eq!(found[..2], [of(0.25, 0.75), of(0.0, f64::INFINITY)]);
        let found = &found[2..];
        let close = |a: Range, b: Range| (a.low - b.low).abs() < 1e-6 && (a.high - b.high).abs() < 1e-6;
        assert!(close(found[0], of(0.35, 0.5)), "{:?}", found[0]);
        assert!(close(found[1], of(-1.0, -0.7)), "{:?}", found[1]);
        assert_eq!(found[2], of(0.0, 2.0));
        assert_eq!(found[3..], [Range::ANY, Range::ANY]);
    }

    #[test]
    fn arithmetic_of_ranges() {
        let of = |low: f64, high: f64| Range { low, high };
        assert_eq!(of(-1.0, 2.0) * of(-3.0, 1.0), of(-6.0, 3.0));
        assert_eq!(of(1.0, 2.0).over(of(2.0, 4.0)), of(0.25, 1.0));
        assert_eq!(of(1.0, 2.0).over(of(-2.0, 4.0)), Range::ANY);
        assert_eq!(of(-3.0, 2.0).abs(), of(0.0, 3.0));
        assert_eq!(Range::point(0.0) * Range::ANY, Range::point(0.0));
        assert_eq!(of(f64::NAN, 1.0).union(of(0.0, f64::INFINITY)).size(), f64::INFINITY);
    }
}
