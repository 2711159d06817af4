//! Axes: from the numbers of the data to positions, ticks and their labels.
//!
//! An [`Axis`] is what the caller asks for; [`Axis::resolve`] turns it, with the data and the room there is, into an
//! [`Axle`]: the range, the ticks and the map to positions in [0, 1]. Data decide the range; ticks lie on round
//! numbers inside it, which for bytes are powers of two; there are as many as have room to be read.

use super::font;
use super::number::{self, Unit};
use super::style;

/// How values are laid along an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences, equal lengths.
    #[default]
    Linear,
    /// Equal ratios, equal lengths; ticks at powers of two. Values that are not positive are left out.
    Log2,
    /// As [`Scale::Log2`], with ticks at powers of ten.
    Log10,
}

/// What the caller asks of an axis.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    pub(super) label: String,
    pub(super) scale: Scale,
    pub(super) unit: Unit,
    low: Option<f64>,
    high: Option<f64>,
}

impl Axis {
    /// A linear axis of plain numbers that fits the data.
    pub fn new(label: impl Into<String>) -> Self {
        Axis { label: label.into(), ..Axis::default() }
    }

    /// With this scale.
    pub fn scale(mut self, scale: Scale) -> Self {
        self.scale = scale;
        self
    }

    /// With numbers of this unit.
    pub fn unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    /// From exactly `low` to exactly `high`; data outside are clipped. A bound that is not finite is ignored.
    pub fn range(self, low: f64, high: f64) -> Self {
        self.from(low).to(high)
    }

    /// Starting exactly at `low`.
    pub fn from(mut self, low: f64) -> Self {
        self.low = low.is_finite().then_some(low);
        self
    }

    /// Ending exactly at `high`.
    pub fn to(mut self, high: f64) -> Self {
        self.high = high.is_finite().then_some(high);
        self
    }

    /// Whether a value can be shown on this axis.
    pub(super) fn shows(&self, v: f64) -> bool {
        v.abs() < LARGEST && (self.scale == Scale::Linear || v > SMALLEST)
    }

    /// Fits the axis to `values` with a margin of `pad` of the span at each end.
    pub(super) fn resolve(&self, values: impl Iterator<Item = f64>, pad: f64) -> Axle {
        let log = self.scale != Scale::Linear;
        let to = |v: f64| if log { v.ln() } else { v };
        let bounds = |b: Option<f64>| b.filter(|v| self.shows(*v)).map(to);
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for v in values.filter(|v| self.shows(*v)).map(to) {
            low = low.min(v);
            high = high.max(v);
        }
        if low > high {
            (low, high) = if log { (0.0, 10f64.ln()) } else { (0.0, 1.0) };
        }
        let flat = high - low <= low.abs().max(high.abs()) * 1e-9 || high - low < SMALLEST;
        if flat {
            let middle = low / 2.0 + high / 2.0;
            let half = if log {
                10f64.ln() / 2.0
            } else if middle == 0.0 {
                1.0
            } else {
                middle.abs() * 0.1
            };
            (low, high) = (middle - half, middle + half);
        }
        let margin = (high - low) * pad;
        low = bounds(self.low).unwrap_or(low - margin);
        high = bounds(self.high).unwrap_or(high + margin);
        if self.unit == Unit::Count && !log && high - low < 1.0 {
            // No count lies between.
            (low, high) = (low.floor(), high.ceil());
        }
        if high <= low {
            // The caller's bounds contradict each other or the data; show something rather than nothing.
            high = low + if log { 10f64.ln() } else { low.abs().max(1.0) };
        }
        Axle { scale: self.scale, unit: self.unit, low, high, ticks: Vec::new(), minor: Vec::new() }
    }
}

/// Values beyond this are treated as infinite, so that spans and products stay finite.
const LARGEST: f64 = 1e200;
const SMALLEST: f64 = 1e-200;

/// A labelled tick.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub value: f64,
    pub label: String,
}

/// An axis fitted to data. `low` and `high` are natural logarithms on log scales.
#[derive(Clone, Debug)]
pub(super) struct Axle {
    scale: Scale,
    unit: Unit,
    low: f64,
    high: f64,
    pub ticks: Vec<Tick>,
    /// Unlabelled ticks between powers of ten.
    pub minor: Vec<f64>,
}

impl Axle {
    /// Where `v` lies, 0 at the low end and 1 at the high end; `None` if it cannot be shown.
    pub(super) fn place(&self, v: f64) -> Option<f64> {
        let log = self.scale != Scale::Linear;
        if v.is_nan() || v.abs() >= LARGEST || (log && v <= SMALLEST) {
            return None;
        }
        let v = if log { v.ln() } else { v };
        Some((v - self.low) / (self.high - self.low))
    }

    /// Sets ticks for an axis drawn upright over `length` pixels; returns the width of the widest label.
    pub(super) fn tick_upright(&mut self, length: f64) -> f64 {
        self.set_ticks(((length / 40.0) as usize).clamp(2, 9));
        self.ticks.iter().map(|t| font::width(&t.label, style::TICK, false)).fold(0.0, f64::max)
    }

    /// Sets as many ticks as can be read side by side over `length` pixels.
    pub(super) fn tick_level(&mut self, length: f64) {
        // Powers of the base are few and worth showing one by one; round steps can always be coarser.
        let pitch = if self.scale == Scale::Linear { 64.0 } else { 48.0 };
        for count in (1..=((length / pitch) as usize).clamp(2, 10)).rev() {
            self.set_ticks(count);
            let half: Vec<(f64, f64)> = self
                .ticks
                .iter()
                .map(|t| (self.place(t.value).unwrap_or(0.0) * length, font::width(&t.label, style::TICK, false) / 2.0))
                .collect();
            if half.windows(2).all(|w| w[1].0 - w[0].0 >= w[0].1 + w[1].1 + 14.0) {
                return;
            }
        }
        self.ticks.truncate(1);
    }

    /// Chooses about `count` ticks, a quarter more at most.
    pub(super) fn set_ticks(&mut self, count: usize) {
        self.minor.clear();
        self.ticks.clear();
        if self.scale != Scale::Linear {
            self.log_ticks(count.max(1));
            if self.ticks.len() > 1 {
                return;
            }
            self.minor.clear();
        }
        let log = self.scale != Scale::Linear;
        let (low, high) = if log { (self.low.exp(), self.high.exp()) } else { (self.low, self.high) };
        self.ticks = linear_ticks(low, high, count, self.unit);
    }

    fn log_ticks(&mut self, count: usize) {
        let binary = self.scale == Scale::Log2 || self.unit == Unit::Bytes;
        let base = if binary { 2.0f64 } else { 10.0 };
        let slack = 1e-9;
        let first = (self.low / base.ln() - slack).ceil() as i32;
        let last = (self.high / base.ln() + slack).floor() as i32;
        let powers = (last - first + 1).max(0) as usize;
        let tens = (self.low / 10f64.ln(), self.high / 10f64.ln());
        let far = tens.0 < -4.0 - slack || tens.1 > 6.0 + slack;
        let unit = self.unit;
        let label = |value: f64, exponent: i32| log_label(value, exponent, base as u32, unit, far);
        if powers > count {
            let strides: &[i32] =
                if self.unit == Unit::Bytes { &[2, 5, 10, 20, 40, 80] } else { &[2, 3, 4, 5, 10, 20, 50, 100] };
            let stride = strides.iter().copied().find(|s| powers.div_ceil(*s as usize) <= count).unwrap_or(200);
            let aligned = (first..=last).filter(|e| e.rem_euclid(stride) == 0);
            self.ticks = aligned.map(|e| Tick { value: base.powi(e), label: label(base.powi(e), e) }).collect();
            return;
        }
        self.ticks = (first..=last).map(|e| Tick { value: base.powi(e), label: label(base.powi(e), e) }).collect();
        if binary {
            return;
        }
        let inside = |v: f64| v.ln() > self.low - slack && v.ln() < self.high + slack;
        let multiples = |of: &[i32]| -> Vec<f64> {
            let all = (first - 1..=last).flat_map(|e| of.iter().map(move |m| f64::from(*m) * 10f64.powi(e)));
            all.filter(|v| inside(*v)).collect()
        };
        let labelled = [vec![2, 5], vec![3]].into_iter().find(|m| powers + multiples(m).len() <= count);
        if let Some(labelled) = labelled {
            let more = multiples(&labelled).into_iter();
            let more: Vec<Tick> = more.map(|value| Tick { value, label: label(value, i32::MAX) }).collect();
            self.ticks.extend(more);
            self.ticks.sort_by(|a, b| a.value.total_cmp(&b.value));
        }
        self.minor = multiples(&[2, 3, 4, 5, 6, 7, 8, 9]);
        self.minor.retain(|v| self.ticks.iter().all(|t| (t.value / v - 1.0).abs() > 1e-6));
    }
}

/// A label on a log scale; `exponent` is `i32::MAX` where the value is not a power of the base, and `far` says that
/// the axis reaches numbers too small or large to be written out.
fn log_label(value: f64, exponent: i32, base: u32, unit: Unit, far: bool) -> String {
    match unit {
        Unit::Plain if exponent != i32::MAX && (far || (base == 2 && exponent < 0)) => number::power(base, exponent),
        unit => number::quantity(value, unit, if base == 2 { 7 } else { 3 }),
    }
}

/// A step that is round once multiplied by `factor` and gives about `count` ticks over `span`.
fn round_step(span: f64, count: usize, unit: Unit, factor: f64, suffix: &str) -> f64 {
    let raw = 0.8 * span / count.max(1) as f64;
    if unit == Unit::Bytes && raw > 1.0 / 1024.0 {
        return 2f64.powf(raw.log2().ceil());
    }
    let raw = if unit == Unit::Count { raw.max(1.0) } else { raw * factor };
    let clock = matches!(suffix, "min" | "h").then_some([10.0, 15.0, 30.0]);
    if let Some(step) = clock.filter(|_| raw > 5.0).and_then(|steps| steps.into_iter().find(|s| *s >= raw * 0.999)) {
        return step / factor;
    }
    round_up(raw * 0.999) / factor
}

/// The least of 1, 2 and 5 times a power of ten that is not below `value`, which is positive.
pub fn round_up(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|m| m * decade).find(|v| *v >= value).unwrap_or(10.0 * decade)
}

/// About `count` ticks, but at least two where round numbers allow: one alone tells no scale.
fn linear_ticks(low: f64, high: f64, count: usize, unit: Unit) -> Vec<Tick> {
    let tries = (count..count + 4).map(|count| ticks_at_round_steps(low, high, count, unit));
    let mut best = Vec::new();
    for ticks in tries {
        if ticks.len() > best.len() {
            best = ticks;
        }
        if best.len() > 1 {
            break;
        }
    }
    best
}

fn ticks_at_round_steps(low: f64, high: f64, count: usize, unit: Unit) -> Vec<Tick> {
    let reach = low.abs().max(high.abs());
    let (factor, suffix) = number::axis_unit(reach, unit);
    let step = round_step(high - low, count, unit, factor, suffix);
    let (first, last) = ((low / step - 1e-6).ceil(), (high / step + 1e-6).floor());
    if step.is_nan() || step <= 0.0 || !(last - first).is_finite() || last - first > 4.0 * count.max(4) as f64 {
        return Vec::new();
    }
    let values = (0..=(last - first).max(-1.0) as i64).map(|i| (first + i as f64) * step);
    let scaled_step = step * factor;
    let power = (reach * factor).log10().floor();
    let suffix = if suffix.is_empty() { String::new() } else { format!(" {suffix}") };
    let label = |v: f64| {
        let v = if v.abs() < step * 1e-6 { 0.0 } else { v };
        if unit == Unit::Bytes {
            return number::quantity(v, unit, 5);
        }
        if (-4.0..6.0).contains(&power) {
            let decimals = (-(scaled_step * 1.000_001).log10().floor()).clamp(0.0, 12.0) as usize;
            return format!("{}{suffix}", number::fixed(v * factor, decimals, false));
        }
        let digits = (power - scaled_step.log10().floor()).clamp(0.0, 12.0) as usize + 1;
        format!("{}{suffix}", number::plain(v * factor, digits))
    };
    values.map(|value| Tick { value, label: label(value) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis, values: &[f64], count: usize) -> Vec<String> {
        let mut axle = axis.resolve(values.iter().copied(), 0.0);
        axle.set_ticks(count);
        axle.ticks.into_iter().map(|t| t.label).collect()
    }

    #[test]
    fn ticks_are_round_in_their_unit() {
        let cases: [(Axis, [f64; 2], usize, &[&str]); 12] = [
            (Axis::new(""), [0.0, 1.0], 5, &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
            (Axis::new(""), [-1.0, 1.0], 4, &["−1.0", "−0.5", "0.0", "0.5", "1.0"]),
            (Axis::new(""), [0.0, 3e7], 3, &["0", "10⁷", "2×10⁷", "3×10⁷"]),
            (Axis::new("").unit(Unit::Bytes), [0.0, 2e9], 4, &["0 B", "512 MiB", "1 GiB", "1.5 GiB"]),
            (Axis::new("").unit(Unit::Seconds), [0.0, 0.005], 5, &["0 ms", "1 ms", "2 ms", "3 ms", "4 ms", "5 ms"]),
            (Axis::new("").unit(Unit::Percent), [0.0, 1.0], 3, &["0 %", "50 %", "100 %"]),
            (Axis::new("").unit(Unit::Count), [1.0, 3.0], 10, &["1", "2", "3"]),
            (Axis::new("").unit(Unit::Count), [1.0, 1.0], 5, &["0", "1", "2"]),
            (
                Axis::new("").unit(Unit::Seconds),
                [570.0, 600.0],
                5,
                &["9.5 min", "9.6 min", "9.7 min", "9.8 min", "9.9 min", "10.0 min"],
            ),
            (Axis::new("").scale(Scale::Log2), [128.0, 1024.0], 6, &["128", "256", "512", "1024"]),
            (Axis::new("").scale(Scale::Log10), [1e-6, 1e2], 5, &["10⁻⁶", "10⁻⁴", "10⁻²", "10⁰", "10²"]),
            (
                Axis::new("").scale(Scale::Log10).unit(Unit::Seconds),
                [1e-5, 1.0],
                8,
                &["10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s"],
            ),
        ];
        for (axis, values, count, expected) in cases {
            assert_eq!(labels(&axis, &values, count), expected, "{axis:?} over {values:?}");
        }
    }

    #[test]
    fn byte_ticks_on_a_log_axis_are_binary() {
        let axis = Axis::new("").scale(Scale::Log10).unit(Unit::Bytes);
        assert_eq!(labels(&axis, &[1024.0, 1_073_741_824.0], 6), ["1 KiB", "32 KiB", "1 MiB", "32 MiB", "1 GiB"]);
    }

    #[test]
    fn strange_data_give_a_finite_increasing_range_with_ticks() {
        let odd: [&[f64]; 9] = [
            &[],
            &[f64::NAN, f64::INFINITY],
            &[0.0],
            &[5.0, 5.0],
            &[-3.0],
            &[1e-300, 2e-300],
            &[f64::MAX, f64::MIN],
            &[1e15, 1e15 + 1.0],
            &[3.1, 4.7],
        ];
        for scale in [Scale::Linear, Scale::Log2, Scale::Log10] {
            for unit in [Unit::Plain, Unit::Count, Unit::Bytes, Unit::Seconds, Unit::Percent] {
                for values in odd {
                    let mut axle = Axis::new("").scale(scale).unit(unit).resolve(values.iter().copied(), 0.05);
                    assert!(axle.low.is_finite() && axle.high.is_finite() && axle.low < axle.high);
                    axle.tick_level(500.0);
                    axle.tick_upright(300.0);
                    assert!(!axle.ticks.is_empty(), "{scale:?} {unit:?} {values:?}");
                    assert!(axle.ticks.len() <= 14, "{} ticks: {scale:?} {unit:?} {values:?}", axle.ticks.len());
                    assert!(
                        axle.ticks.iter().all(|t| { axle.place(t.value).is_some_and(|p| (-0.01..=1.01).contains(&p)) })
                    );
                }
            }
        }
    }

    #[test]
    fn values_without_a_logarithm_have_no_place() {
        let axle = Axis::new("").scale(Scale::Log10).resolve([1.0, 100.0].into_iter(), 0.0);
        assert_eq!(axle.place(0.0), None);
        assert_eq!(axle.place(-1.0), None);
        assert_eq!(axle.place(f64::NAN), None);
        assert!((axle.place(10.0).unwrap() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn contradictory_bounds_do_not_invert_the_axis() {
        let axle = Axis::new("").range(5.0, 1.0).resolve([2.0].into_iter(), 0.0);
        assert!(axle.low < axle.high);
    }
}
