//! Bar charts: one value for each of several things, and histograms.

use super::Figure;
use super::axis::{Axis, Axle, Scale};
use super::font;
use super::frame::{self, Entry, Key};
use super::number;
use super::scene::{Align, Rect, Scene, stroke};
use super::style::{self, EDGE};

/// Bars in groups, one group for each category, or the bars of a histogram.
#[derive(Clone, Debug)]
pub struct BarChart {
    title: String,
    subtitle: String,
    x: Columns,
    y: Axis,
    sets: Vec<(String, Vec<f64>)>,
    digits: Option<usize>,
    size: (f64, f64),
}

#[derive(Clone, Debug)]
enum Columns {
    Named { label: String, names: Vec<String> },
    Binned { axis: Axis, low: f64, high: f64 },
}

impl BarChart {
    /// A chart with these categories along the x axis, 760 by 400 pixels.
    pub fn new<S: Into<String>>(
        title: impl Into<String>,
        x_label: impl Into<String>,
        names: impl IntoIterator<Item = S>,
        y: Axis,
    ) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        BarChart {
            title: title.into(),
            subtitle: String::new(),
            x: Columns::Named { label: x_label.into(), names },
            y,
            sets: Vec::new(),
            digits: None,
            size: (760.0, 400.0),
        }
    }

    /// How many of `values` fall into each of `bins` equal parts of their range; values not finite are left out.
    pub fn histogram(title: impl Into<String>, x: Axis, values: impl IntoIterator<Item = f64>, bins: usize) -> Self {
        let values: Vec<f64> = values.into_iter().filter(|v| v.abs() < 1e200).collect();
        let bins = bins.clamp(1, 1000);
        let (mut low, mut high) =
            values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low <= low.abs().max(high.abs()) * 1e-9 {
            (low, high) = (low - 0.5, low + 0.5 + low.abs() * 1e-6);
        }
        let mut counts = vec![0.0; bins];
        for v in values {
            counts[(((v - low) / (high - low) * bins as f64) as usize).min(bins - 1)] += 1.0;
        }
        let mut chart = BarChart::new(title, "", [""; 0], Axis::new("count").unit(number::Unit::Count));
        chart.x = Columns::Binned { axis: x.scale(Scale::Linear).range(low, high), low, high };
        chart.sets.push((String::new(), counts));
        chart
    }

    /// With a smaller line under the title.
    pub fn subtitle(mut self, text: impl Into<String>) -> Self {
        self.subtitle = text.into();
        self
    }

    /// With one more bar in each category; a value that is not finite leaves its bar out.
    pub fn bars(mut self, name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        self.sets.push((name.into(), values.into_iter().collect()));
        self
    }

    /// With each value written over its bar to `digits` significant digits, where the bars are wide enough.
    pub fn numbers(mut self, digits: usize) -> Self {
        self.digits = Some(digits);
        self
    }

    /// With this size in pixels; the PNG has two image pixels to each.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.size = super::bounded_size(width, height);
        self
    }
}

impl Figure for BarChart {
    fn scene(&self) -> Scene {
        let (width, height) = self.size;
        let mut scene = Scene::new(width, height, &self.title);
        let top = frame::heading(&mut scene, &self.title, &self.subtitle);
        let entries = self.entries();
        let below = frame::height_below(&entries, width);

        let mut y = self.y_axle();
        let ticks = y.tick_upright((height - top - 60.0).max(80.0));
        let left = EDGE + frame::width_of_y_axis(&self.y.label, ticks);
        let plot_width = (width - left - EDGE - 10.0).max(60.0);
        let (label, names) = match &self.x {
            Columns::Named { label, names } => (label.as_str(), names.as_slice()),
            Columns::Binned { axis, .. } => (axis.label.as_str(), &[][..]),
        };
        let pitch = plot_width / self.count().max(1) as f64;
        let fit = frame::fit_names(names, pitch);
        let names_height = if names.is_empty() { 20.0 } else { fit.height };
        let axis_height = names_height + if label.is_empty() { 0.0 } else { 24.0 };
        let plot_height = (height - top - axis_height - below - EDGE + 6.0).max(80.0);
        let plot = Rect { x: left, y: top, w: plot_width, h: plot_height };
        scene.height = scene.height.max((plot.bottom() + axis_height + below + EDGE - 6.0).ceil());
        y.tick_upright(plot.h);

        frame::y_axis(&mut scene, plot, &y, &self.y.label, EDGE);
        match &self.x {
            Columns::Named { names, .. } => {
                frame::draw_names(&mut scene, names, fit, |i| plot.x + (i as f64 + 0.5) * pitch, plot.bottom());
                let text = font::ellipsize(label, style::LABEL, false, plot.w);
                let at = (plot.x + plot.w / 2.0, plot.bottom() + names_height + 13.0);
                scene.label(at, &text, style::LABEL, Align::Middle, style::INK);
            }
            Columns::Binned { axis, low, high } => {
                let mut x = axis.resolve([*low, *high].into_iter(), 0.0);
                x.tick_level(plot.w);
                frame::x_axis(&mut scene, plot, &x, Some(label));
            }
        }
        self.draw_bars(&mut scene, plot, &y);
        if !entries.is_empty() {
            frame::draw_below(&mut scene, &entries, plot.bottom() + axis_height + 8.0, width);
        }
        scene
    }
}

impl BarChart {
    /// The legend; none for a single set.
    fn entries(&self) -> Vec<Entry> {
        let named = self.sets.iter().enumerate().filter(|(_, s)| !s.0.is_empty());
        let entries: Vec<Entry> =
            named.map(|(i, s)| Entry { name: s.0.clone(), key: Key::Fill(style::color(i)) }).collect();
        if entries.len() > 1 { entries } else { Vec::new() }
    }

    /// Number of categories.
    fn count(&self) -> usize {
        match &self.x {
            Columns::Named { names, .. } => names.len(),
            Columns::Binned { .. } => self.sets.first().map_or(0, |s| s.1.len()),
        }
    }

    /// Bars start at zero, or their lengths would lie; a log axis has no zero and they start at its end.
    fn floor(&self) -> Option<f64> {
        (self.y.scale == Scale::Linear).then_some(0.0)
    }

    fn y_axle(&self) -> Axle {
        let floor = self.floor();
        let values = self.sets.iter().flat_map(|s| s.1.iter().copied()).chain(floor);
        let (mut least, mut most) = (0.0f64, 0.0f64);
        for v in values.clone().filter(|v| v.is_finite()) {
            (least, most) = (least.min(v), most.max(v));
        }
        let headroom = if self.digits.is_some() { 0.12 } else { 0.05 };
        let mut axis = self.y.clone();
        if floor.is_some() && least >= 0.0 {
            axis = axis.from(0.0);
        } else if floor.is_some() && most <= 0.0 {
            axis = axis.to(0.0);
        }
        axis.resolve(values, headroom)
    }

    /// Draws the bars, their numbers, and the lines that they stand on and begin at.
    fn draw_bars(&self, scene: &mut Scene, plot: Rect, y: &Axle) {
        let (count, floor) = (self.count(), self.floor());
        let pitch = plot.w / count.max(1) as f64;
        let touching = match &self.x {
            Columns::Named { names, .. } => names.is_empty(),
            Columns::Binned { .. } => true,
        };
        let filled = if touching { pitch } else { pitch * 0.78 };
        let bar = filled / self.sets.len().max(1) as f64;
        let base = floor.and_then(|v| y.place(v)).unwrap_or(0.0).clamp(0.0, 1.0);
        let text = |v: f64| self.digits.map(|d| number::quantity(v, self.y.unit, d)).unwrap_or_default();
        let shown = self.sets.iter().flat_map(|s| &s.1).filter(|v| y.place(**v).is_some());
        let widest = shown.map(|v| font::width(&text(*v), 1.0, false)).fold(0.0, f64::max);
        // One size for all numbers, so that none is left out beside its neighbours.
        let size = if widest > 0.0 { style::TICK.min((bar - 3.0) / widest) } else { 0.0 };
        scene.clipped(plot, |scene| {
            for (k, (_, values)) in self.sets.iter().enumerate() {
                for (i, v) in values.iter().take(count).enumerate() {
                    let Some(end) = y.place(*v).map(|p| p.clamp(-1.0, 2.0)) else {
                        continue;
                    };
                    let x = plot.x + i as f64 * pitch + (pitch - filled) / 2.0 + k as f64 * bar;
                    let (a, b) = (plot.bottom() - base * plot.h, plot.bottom() - end * plot.h);
                    let rect = Rect { x, y: a.min(b), w: bar, h: (a - b).abs() };
                    let rim = (bar > 3.0).then(|| stroke(style::WHITE, 0.8));
                    scene.rect(rect, Some((style::color(k), 1.0)), rim);
                    if size >= 6.0 {
                        let above = if *v < 0.0 && floor.is_some() { b + 9.0 } else { b - 8.0 };
                        scene.label((x + bar / 2.0, above), &text(*v), size, Align::Middle, style::INK);
                    }
                }
            }
        });
        let zero = plot.bottom() - base * plot.h;
        scene.line((plot.x, zero), (plot.right(), zero), stroke(style::AXIS, 1.0));
        scene.line((plot.x, plot.y), (plot.x, plot.bottom()), stroke(style::AXIS, 1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_count_every_finite_value_once() {
        let values = [0.0, 0.1, 0.5, 0.9, 1.0, f64::NAN, f64::INFINITY];
        let chart = BarChart::histogram("", Axis::new(""), values, 2);
        assert_eq!(chart.sets[0].1, [2.0, 3.0]);
        assert_eq!(BarChart::histogram("", Axis::new(""), [7.0; 4], 3).sets[0].1.iter().sum::<f64>(), 4.0);
    }
}
