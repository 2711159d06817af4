//! Frames of an event camera: small pictures side by side, each with its own axes.

use super::Figure;
use super::axis::{Axis, Axle};
use super::font;
use super::frame;
use super::number::Unit;
use super::scene::{Align, Mark, Rect, Scene, stroke};
use super::style::{self, ColorMap, EDGE};

/// Pictures of equal size, from left to right and then down, in colours that are white at zero.
#[derive(Clone, Debug)]
pub struct Frames {
    title: String,
    subtitle: String,
    rows: usize,
    columns: usize,
    value: Axis,
    pictures: Vec<(String, Vec<f64>)>,
}

/// Width of the figure in pixels.
const WIDTH: f64 = 1000.0;
/// Most pictures side by side.
const ABREAST: usize = 8;
const CAPTION: f64 = 16.0;
const TICKS: f64 = 24.0;
const GAP: f64 = 18.0;

impl Frames {
    /// No picture yet, of `rows` by `columns` pixels each; `value` labels the colour bar and sets its unit.
    pub fn new(title: impl Into<String>, [rows, columns]: [usize; 2], value: Axis) -> Self {
        let (rows, columns) = (rows.max(1), columns.max(1));
        Frames { title: title.into(), subtitle: String::new(), rows, columns, value, pictures: Vec::new() }
    }

    /// With a smaller line under the title.
    pub fn subtitle(mut self, text: impl Into<String>) -> Self {
        self.subtitle = text.into();
        self
    }

    /// With one more picture under this caption: `values` are row-major, row 0 at the top; missing ones are zero.
    pub fn picture(mut self, caption: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().take(self.rows * self.columns).collect();
        values.resize(self.rows * self.columns, 0.0);
        self.pictures.push((caption.into(), values));
        self
    }

    fn value_axle(&self) -> Axle {
        let finite = self.pictures.iter().flat_map(|p| &p.1).filter(|v| self.value.shows(**v));
        let reach = finite.map(|v| v.abs()).fold(0.0, f64::max);
        self.value.resolve([-reach, reach].into_iter(), 0.0)
    }

    /// Draws a picture with its caption and its axes.
    fn draw(&self, scene: &mut Scene, (caption, values): &(String, Vec<f64>), at: Rect, axles: &[Axle; 3]) {
        let [x, y, value] = axles;
        let color = |v: &f64| value.place(*v).map_or(style::NO_DATA, |p| ColorMap::Diverging.at(p));
        let cells = values.iter().map(color).collect();
        scene.marks.push(Mark::Image { rect: at, columns: self.columns, rows: self.rows, cells });
        let pen = stroke(style::AXIS, 0.8);
        scene.rect(at, None, Some(pen));
        let text = font::ellipsize(caption, style::TICK, false, at.w);
        scene.label((at.x + at.w / 2.0, at.y - 8.0), &text, style::TICK, Align::Middle, style::INK);
        for tick in &x.ticks {
            let h = at.x + x.place(tick.value).unwrap_or(0.0) * at.w;
            scene.line((h, at.bottom()), (h, at.bottom() + 3.0), pen);
            scene.label((h, at.bottom() + 11.0), &tick.label, style::TICK, Align::Middle, style::MUTED);
        }
        for tick in &y.ticks {
            let v = at.y + y.place(tick.value).unwrap_or(0.0) * at.h;
            scene.line((at.x - 3.0, v), (at.x, v), pen);
            scene.label((at.x - 6.0, v), &tick.label, style::TICK, Align::End, style::MUTED);
        }
    }
}

impl Figure for Frames {
    fn scene(&self) -> Scene {
        let mut scene = Scene::new(WIDTH, 100.0, &self.title);
        let top = frame::heading(&mut scene, &self.title, &self.subtitle);
        let pixels = |count: usize| {
            Axis::new("").unit(Unit::Count).range(-0.5, count as f64 - 0.5).resolve(std::iter::empty(), 0.0)
        };
        let (mut x, mut y, mut value) = (pixels(self.columns), pixels(self.rows), self.value_axle());
        let abreast = self.pictures.len().clamp(1, ABREAST);
        let left = EDGE + 22.0;
        let bar_room = frame::width_of_color_bar(&self.value.label, value.tick_upright(CAPTION * 8.0));
        let pitch = (WIDTH - left - GAP - bar_room - EDGE) / abreast as f64;
        let before = y.tick_upright(pitch) + 10.0;
        let width = (pitch - before - 6.0).min(320.0);
        let height = (width * self.rows as f64 / self.columns as f64).clamp(20.0, 640.0);
        x.tick_level(width);
        y.tick_upright(height);
        let row_pitch = CAPTION + height + TICKS;
        let lines = self.pictures.len().div_ceil(abreast).max(1) as f64;
        let bottom = top + lines * row_pitch;
        scene.height = (bottom + 24.0 + EDGE - 6.0).ceil();

        let whole =
            Rect { x: left, y: top + CAPTION, w: abreast as f64 * pitch, h: lines * row_pitch - CAPTION - TICKS };
        let bar = Rect { x: whole.right() + GAP, w: frame::COLOR_BAR, ..whole };
        value.tick_upright(bar.h);
        let axles = [x, y, value];
        for (i, picture) in self.pictures.iter().enumerate() {
            let corner = (left + (i % abreast) as f64 * pitch + before, whole.y + (i / abreast) as f64 * row_pitch);
            self.draw(&mut scene, picture, Rect { x: corner.0, y: corner.1, w: width, h: height }, &axles);
        }
        let middle = (whole.x + whole.w / 2.0, bottom + 9.0);
        scene.label(middle, "column (pixel)", style::LABEL, Align::Middle, style::INK);
        frame::upright_label(&mut scene, "row (pixel)", (EDGE + 6.0, whole.y + whole.h / 2.0), whole.h + 12.0);
        frame::color_bar(&mut scene, bar, &axles[2], ColorMap::Diverging, &self.value.label);
        scene
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_has_its_own_axes() {
        let count = |pictures: usize, label: &str| {
            let all = Frames::new("", [34, 34], Axis::new("events").unit(Unit::Count));
            let all = (0..pictures).fold(all, |all, k| all.picture(format!("{k} ms"), [k as f64]));
            all.svg().matches(&format!(">{label}</text>")).count()
        };
        let between = |label| count(9, label) - count(1, label);
        assert_eq!([between("20"), count(9, "8 ms")], [16, 1], "eight more pictures, two axes each");
    }
}
