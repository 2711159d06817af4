//! Heat maps: a matrix in colour, with a colour bar and, if wanted, the numbers.

use super::Figure;
use super::axis::{Axis, Axle, Scale};
use super::font;
use super::frame;
use super::number;
use super::scene::{Align, Mark, Rect, Rgb, Scene, stroke};
use super::style::{self, ColorMap, EDGE};

/// A matrix shown in colour, row 0 at the top.
#[derive(Clone, Debug)]
pub struct HeatMap {
    title: String,
    subtitle: String,
    x: Side,
    y: Side,
    value: Axis,
    columns: usize,
    values: Vec<f64>,
    colors: ColorMap,
    digits: Option<usize>,
    upward: bool,
    square: bool,
    size: (f64, f64),
}

/// What runs along one side of the matrix.
#[derive(Clone, Debug)]
struct Side {
    axis: Axis,
    /// Number of cells.
    count: usize,
    names: Vec<String>,
    /// The values at the outer edges of the first and last cell.
    span: (f64, f64),
}

impl Side {
    fn new(axis: Axis, count: usize) -> Self {
        Side { axis, count, names: Vec::new(), span: (-0.5, count as f64 - 0.5) }
    }

    fn axle(&self) -> Axle {
        let linear = self.axis.clone().scale(Scale::Linear);
        linear.range(self.span.0.min(self.span.1), self.span.0.max(self.span.1)).resolve(std::iter::empty(), 0.0)
    }
}

impl HeatMap {
    /// A matrix of `rows` by `columns` values, row-major: shape `[rows, columns]`.
    ///
    /// `value` labels the colour bar and sets its scale, unit and range. Values that are not finite, or missing
    /// because `values` is too short, are shown in grey as "no data".
    pub fn new(
        title: impl Into<String>,
        [rows, columns]: [usize; 2],
        values: impl IntoIterator<Item = f64>,
        value: Axis,
    ) -> Self {
        let mut values: Vec<f64> = values.into_iter().take(rows * columns).collect();
        values.resize(rows * columns, f64::NAN);
        HeatMap {
            title: title.into(),
            subtitle: String::new(),
            x: Side::new(Axis::new(""), columns),
            y: Side::new(Axis::new(""), rows),
            value,
            columns,
            values,
            colors: ColorMap::default(),
            digits: None,
            upward: false,
            square: false,
            size: (620.0, 480.0),
        }
    }

    /// With a smaller line under the title.
    pub fn subtitle(mut self, text: impl Into<String>) -> Self {
        self.subtitle = text.into();
        self
    }

    /// With an x axis on which the first column lies at `low` and the last at `high`.
    pub fn x(mut self, axis: Axis, low: f64, high: f64) -> Self {
        self.x = Side { axis, span: edges(low, high, self.x.count), names: Vec::new(), ..self.x };
        self
    }

    /// With a y axis on which row 0 lies at `low` and the last row at `high`.
    pub fn y(mut self, axis: Axis, low: f64, high: f64) -> Self {
        self.y = Side { axis, span: edges(low, high, self.y.count), names: Vec::new(), ..self.y };
        self
    }

    /// With a name for each column.
    pub fn x_names<S: Into<String>>(mut self, label: &str, names: impl IntoIterator<Item = S>) -> Self {
        self.x.axis = Axis::new(label);
        self.x.names = names.into_iter().map(Into::into).take(self.x.count).collect();
        self
    }

    /// With a name for each row.
    pub fn y_names<S: Into<String>>(mut self, label: &str, names: impl IntoIterator<Item = S>) -> Self {
        self.y.axis = Axis::new(label);
        self.y.names = names.into_iter().map(Into::into).take(self.y.count).collect();
        self
    }

    /// With these colours; [`ColorMap::Diverging`] makes the range symmetric about zero.
    pub fn colors(mut self, colors: ColorMap) -> Self {
        self.colors = colors;
        self
    }

    /// With each value written in its cell to `digits` significant digits, where the cells are large enough.
    pub fn numbers(mut self, digits: usize) -> Self {
        self.digits = Some(digits);
        self
    }

    /// With row 0 at the bottom.
    pub fn upward(mut self) -> Self {
        self.upward = true;
        self
    }

    /// With cells as wide as they are high.
    pub fn square(mut self) -> Self {
        self.square = true;
        self
    }

    /// With this size in pixels; the PNG has two image pixels to each.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.size = super::bounded_size(width, height);
        self
    }

    fn value_axle(&self) -> Axle {
        let finite = || self.values.iter().copied().filter(|v| self.value.shows(*v));
        if self.colors == ColorMap::Diverging && self.value.scale == Scale::Linear {
            let reach = finite().map(f64::abs).fold(0.0, f64::max);
            return self.value.resolve([-reach, reach].into_iter(), 0.0);
        }
        self.value.resolve(finite(), 0.0)
    }

    /// The colours of the matrix as seen, averaged down to at most `most` columns and rows.
    fn cells(&self, axle: &Axle, most: (usize, usize)) -> (usize, usize, Vec<Rgb>) {
        let (columns, rows) = (self.columns.min(most.0.max(1)), self.y.count.min(most.1.max(1)));
        let from = |i: usize, n: usize, of: usize| i * of / n;
        let mut cells = Vec::with_capacity(columns * rows);
        for i in 0..rows {
            let row = if self.upward { rows - 1 - i } else { i };
            for column in 0..columns {
                let (mut sum, mut count) = (0.0, 0u32);
                for r in from(row, rows, self.y.count)..from(row + 1, rows, self.y.count) {
                    for c in from(column, columns, self.columns)..from(column + 1, columns, self.columns) {
                        let v = self.values[r * self.columns + c];
                        if self.value.shows(v) {
                            sum += v;
                            count += 1;
                        }
                    }
                }
                let place = if count > 0 { axle.place(sum / f64::from(count)) } else { None };
                cells.push(place.map_or(style::NO_DATA, |p| self.colors.at(p)));
            }
        }
        (columns, rows, cells)
    }

    fn draw_numbers(&self, scene: &mut Scene, plot: Rect, cells: &[Rgb], digits: usize) {
        let (w, h) = (plot.w / self.columns as f64, plot.h / self.y.count as f64);
        let text = |v: f64| {
            if v.is_finite() { number::quantity(v, self.value.unit, digits) } else { "–".to_owned() }
        };
        let texts: Vec<String> = self.values.iter().map(|v| text(*v)).collect();
        let widest = texts.iter().map(|t| font::width(t, 1.0, false)).fold(0.0, f64::max);
        let size = (h * 0.5).min(12.0).min((w - 5.0) / widest.max(0.1));
        if size < 6.0 {
            return;
        }
        for (i, text) in texts.iter().enumerate() {
            let (row, column) = (i / self.columns, i % self.columns);
            let row = if self.upward { self.y.count - 1 - row } else { row };
            let at = (plot.x + (column as f64 + 0.5) * w, plot.y + (row as f64 + 0.5) * h);
            let dark = cells[row * self.columns + column].luminance() < 0.2;
            scene.label(at, text, size, Align::Middle, if dark { style::WHITE } else { style::INK });
        }
    }

    fn draw_sides(&self, scene: &mut Scene, plot: Rect, x: &Axle, y: &Axle, names: frame::Names) {
        let pen = stroke(style::AXIS, 1.0);
        let axis_height = if self.x.names.is_empty() {
            for tick in &x.ticks {
                let p = plot.x + x.place(tick.value).unwrap_or(0.0) * plot.w;
                scene.line((p, plot.bottom()), (p, plot.bottom() + 4.0), pen);
                scene.label((p, plot.bottom() + 13.0), &tick.label, style::TICK, Align::Middle, style::MUTED);
            }
            20.0
        } else {
            let pitch = plot.w / self.columns as f64;
            frame::draw_names(scene, &self.x.names, names, |i| plot.x + (i as f64 + 0.5) * pitch, plot.bottom());
            names.height
        };
        let text = font::ellipsize(&self.x.axis.label, style::LABEL, false, plot.w);
        let at = (plot.x + plot.w / 2.0, plot.bottom() + axis_height + 13.0);
        scene.label(at, &text, style::LABEL, Align::Middle, style::INK);

        let turned = |p: f64| {
            if self.upward { plot.bottom() - p * plot.h } else { plot.y + p * plot.h }
        };
        if self.y.names.is_empty() {
            for tick in &y.ticks {
                let h = turned(y.place(tick.value).unwrap_or(0.0));
                scene.line((plot.x - 4.0, h), (plot.x, h), pen);
                scene.label((plot.x - 7.0, h), &tick.label, style::TICK, Align::End, style::MUTED);
            }
        } else {
            let pitch = 1.0 / self.y.count as f64;
            let step = (13.0 / (pitch * plot.h)).ceil().max(1.0) as usize;
            for (i, name) in self.y.names.iter().enumerate().step_by(step) {
                let text = font::ellipsize(name, style::TICK, false, NAME);
                let at = (plot.x - 7.0, turned((i as f64 + 0.5) * pitch));
                scene.label(at, &text, style::TICK, Align::End, style::MUTED);
            }
        }
    }

    fn draw_bar(&self, scene: &mut Scene, bar: Rect, axle: &Axle) {
        frame::color_bar(scene, bar, axle, self.colors, &self.value.label);
        if self.values.iter().any(|v| !self.value.shows(*v)) {
            let y = bar.bottom() + 15.0;
            scene.rect(Rect { x: bar.x, y: y - 6.0, w: 12.0, h: 12.0 }, Some((style::NO_DATA, 1.0)), None);
            scene.label((bar.x + 17.0, y), NO_DATA, style::TICK, Align::Start, style::MUTED);
        }
    }
}

const NO_DATA: &str = "no data";
/// Longest name of a row, in pixels.
const NAME: f64 = 120.0;

/// The values at the outer edges of `count` cells of which the first lies at `low` and the last at `high`.
fn edges(low: f64, high: f64, count: usize) -> (f64, f64) {
    if !(low.is_finite() && high.is_finite() && low < high && count > 1) {
        return (-0.5, count as f64 - 0.5);
    }
    let half = (high - low) / (2.0 * (count - 1) as f64);
    (low - half, high + half)
}

impl Figure for HeatMap {
    fn scene(&self) -> Scene {
        const GAP: f64 = 18.0;
        let (width, height) = self.size;
        let mut scene = Scene::new(width, height, &self.title);
        let top = frame::heading(&mut scene, &self.title, &self.subtitle);
        let mut value = self.value_axle();
        let (mut x, mut y) = (self.x.axle(), self.y.axle());
        let room = |bottom: f64| (height - top - bottom).max(60.0);
        let label_height = if self.x.axis.label.is_empty() { 0.0 } else { 22.0 };
        let y_ticks = if self.y.names.is_empty() {
            y.tick_upright(room(44.0))
        } else {
            self.y.names.iter().map(|n| font::width(n, style::TICK, false)).fold(0.0, f64::max).min(NAME)
        };
        let value_ticks = value.tick_upright(room(44.0));
        let left = EDGE + frame::width_of_y_axis(&self.y.axis.label, y_ticks);
        let no_data = font::width(NO_DATA, style::TICK, false) + 17.0;
        let bar_width = frame::width_of_color_bar(&self.value.label, value_ticks).max(no_data);
        let mut plot = Rect { x: left, y: top, w: (width - left - GAP - bar_width - EDGE).max(60.0), h: 0.0 };
        let names = frame::fit_names(&self.x.names, plot.w / self.columns.max(1) as f64);
        let names_height = if self.x.names.is_empty() { 20.0 } else { names.height };
        plot.h = room(names_height + label_height + EDGE - 4.0);
        if self.square && self.columns > 0 && self.y.count > 0 {
            let cell = (plot.w / self.columns as f64).min(plot.h / self.y.count as f64);
            (plot.w, plot.h) = (cell * self.columns as f64, cell * self.y.count as f64);
            scene.width = (left + plot.w + GAP + bar_width + EDGE).ceil().max(width.min(320.0));
        }
        let names = frame::fit_names(&self.x.names, plot.w / self.columns.max(1) as f64);
        scene.height = scene.height.min(plot.bottom() + names_height.max(names.height) + label_height + EDGE).ceil();
        x.tick_level(plot.w);
        y.tick_upright(plot.h);
        for (axle, side) in [(&mut x, &self.x), (&mut y, &self.y)] {
            if side.span == (-0.5, side.count as f64 - 0.5) {
                axle.ticks.retain(|t| t.value.fract() == 0.0);
            }
        }
        value.tick_upright(plot.h);

        if !self.values.is_empty() {
            let most = ((plot.w * 2.0) as usize, (plot.h * 2.0) as usize);
            let (columns, rows, cells) = self.cells(&value, most);
            scene.marks.push(Mark::Image { rect: plot, columns, rows, cells: cells.clone() });
            if let (Some(digits), true) = (self.digits, (columns, rows) == (self.columns, self.y.count)) {
                self.draw_numbers(&mut scene, plot, &cells, digits);
            }
        }
        scene.rect(plot, None, Some(stroke(style::AXIS, 0.8)));
        self.draw_sides(&mut scene, plot, &x, &y, names);
        frame::upright_label(&mut scene, &self.y.axis.label, (EDGE + 6.0, plot.y + plot.h / 2.0), plot.h + 12.0);
        let bar = Rect { x: plot.right() + GAP, w: frame::COLOR_BAR, ..plot };
        self.draw_bar(&mut scene, bar, &value);
        scene
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_matrices_are_averaged_not_sampled() {
        // Columns alternate 0 and 1; sampling would show one of them, averaging shows neither.
        let map = HeatMap::new("", [1, 1000], (0..1000).map(|i| f64::from(i % 2)), Axis::new(""));
        let axle = map.value_axle();
        let (columns, rows, cells) = map.cells(&axle, (500, 10));
        assert_eq!((columns, rows), (500, 1));
        assert!(cells.iter().all(|c| *c == ColorMap::Viridis.at(0.5)));
    }

    #[test]
    fn a_cell_lies_at_its_value() {
        assert_eq!(edges(0.0, 10.0, 6), (-1.0, 11.0));
        assert_eq!(edges(3.0, 3.0, 4), (-0.5, 3.5));
    }

    #[test]
    fn diverging_colours_put_zero_at_white() {
        let map = HeatMap::new("", [1, 2], [-1.0, 4.0], Axis::new("")).colors(ColorMap::Diverging);
        assert_eq!(map.value_axle().place(0.0), Some(0.5));
    }

    #[test]
    fn upward_turns_the_rows_over() {
        let map = HeatMap::new("", [2, 1], [0.0, 1.0], Axis::new(""));
        let axle = map.value_axle();
        let down = map.cells(&axle, (9, 9)).2;
        let up = map.clone().upward().cells(&axle, (9, 9)).2;
        assert_eq!(down, [up[1], up[0]]);
    }
}
