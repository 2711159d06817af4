//! A figure after layout: a flat list of marks in pixels, the one thing both writers read.
//!
//! Coordinates are CSS pixels with the origin at the top left and y down. Charts place marks; the SVG writer prints
//! them and the PNG writer fills them, so the two files of a figure cannot disagree.

use super::font;

/// A colour, red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rgb(pub u8, pub u8, pub u8);

impl Rgb {
    /// The colour a share `t` in [0, 1] of the way to `other`.
    pub(super) fn mix(self, other: Rgb, t: f64) -> Rgb {
        let lerp = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * t.clamp(0.0, 1.0)).round() as u8;
        Rgb(lerp(self.0, other.0), lerp(self.1, other.1), lerp(self.2, other.2))
    }

    /// Relative luminance in [0, 1], to choose black or white text on this colour.
    pub(super) fn luminance(self) -> f64 {
        let linear = |c: u8| (f64::from(c) / 255.0).powf(2.2);
        0.2126 * linear(self.0) + 0.7152 * linear(self.1) + 0.0722 * linear(self.2)
    }
}

/// A point in pixels.
pub(super) type Pt = (f64, f64);

/// An axis-parallel rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

impl Rect {
    pub(super) fn right(&self) -> f64 {
        self.x + self.w
    }

    pub(super) fn bottom(&self) -> f64 {
        self.y + self.h
    }

    /// Whether a point lies inside or on the edge, to half a pixel.
    pub(super) fn contains(&self, (x, y): Pt) -> bool {
        let inside = |v: f64, low: f64, high: f64| v > low - 0.5 && v < high + 0.5;
        inside(x, self.x, self.right()) && inside(y, self.y, self.bottom())
    }

    fn corners(&self) -> Vec<Pt> {
        vec![(self.x, self.y), (self.right(), self.y), (self.right(), self.bottom()), (self.x, self.bottom())]
    }
}

/// A stroke: colour, width in pixels, opacity, dash lengths in pixels (empty for a solid line).
#[derive(Clone, Copy, Debug)]
pub(super) struct Stroke {
    pub color: Rgb,
    pub width: f64,
    pub opacity: f64,
    pub dash: &'static [f64],
}

/// A solid, opaque stroke.
pub(super) fn stroke(color: Rgb, width: f64) -> Stroke {
    Stroke { color, width, opacity: 1.0, dash: &[] }
}

/// Which point of a text its position names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Start,
    Middle,
    End,
}

/// A single line of text; `at` is on the baseline.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub at: Pt,
    pub text: String,
    pub size: f64,
    pub bold: bool,
    pub align: Align,
    /// Turned a quarter to the left, to be read from bottom to top.
    pub upright: bool,
    pub color: Rgb,
}

/// One thing to draw.
#[derive(Clone, Debug)]
pub(super) enum Mark {
    /// Polylines or polygons that share one fill (colour, opacity) and one stroke.
    Path { parts: Vec<Vec<Pt>>, closed: bool, fill: Option<(Rgb, f64)>, stroke: Option<Stroke> },
    /// A disc with an optional outline.
    Circle { centre: Pt, radius: f64, fill: Option<Rgb>, stroke: Option<Stroke> },
    /// A line of text.
    Text(Text),
    /// `columns` by `rows` cells of colour, row-major from the top left, each cell a flat rectangle.
    Image { rect: Rect, columns: usize, rows: usize, cells: Vec<Rgb> },
    /// Marks of which only the part inside `rect` shows.
    Clip { rect: Rect, marks: Vec<Mark> },
}

/// A laid-out figure.
#[derive(Clone, Debug)]
pub struct Scene {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) title: String,
    pub(super) marks: Vec<Mark>,
}

impl Scene {
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        Scene { width: width.ceil(), height: height.ceil(), title: title.to_owned(), marks: Vec::new() }
    }

    /// Draws what `draw` adds, clipped to `rect`.
    pub(super) fn clipped(&mut self, rect: Rect, draw: impl FnOnce(&mut Scene)) {
        let outer = std::mem::take(&mut self.marks);
        draw(self);
        let marks = std::mem::replace(&mut self.marks, outer);
        if !marks.is_empty() {
            self.marks.push(Mark::Clip { rect, marks });
        }
    }

    pub(super) fn line(&mut self, a: Pt, b: Pt, stroke: Stroke) {
        self.lines(vec![vec![a, b]], stroke);
    }

    pub(super) fn lines(&mut self, parts: Vec<Vec<Pt>>, stroke: Stroke) {
        if !parts.is_empty() {
            self.marks.push(Mark::Path { parts, closed: false, fill: None, stroke: Some(stroke) });
        }
    }

    pub(super) fn polygons(&mut self, parts: Vec<Vec<Pt>>, fill: (Rgb, f64), stroke: Option<Stroke>) {
        if !parts.is_empty() {
            self.marks.push(Mark::Path { parts, closed: true, fill: Some(fill), stroke });
        }
    }

    pub(super) fn rect(&mut self, rect: Rect, fill: Option<(Rgb, f64)>, stroke: Option<Stroke>) {
        self.marks.push(Mark::Path { parts: vec![rect.corners()], closed: true, fill, stroke });
    }

    /// Text on the baseline at `at`; use [`Scene::label`] to centre it on a height.
    pub(super) fn text(&mut self, at: Pt, text: &str, size: f64, align: Align, color: Rgb) {
        self.push_text(Text { at, text: text.to_owned(), size, bold: false, align, upright: false, color });
    }

    /// Text whose capitals are centred on the height `at.1`.
    pub(super) fn label(&mut self, at: Pt, text: &str, size: f64, align: Align, color: Rgb) {
        self.text((at.0, at.1 + 0.5 * font::CAP_HEIGHT * size), text, size, align, color);
    }

    pub(super) fn push_text(&mut self, text: Text) {
        if !text.text.is_empty() {
            self.marks.push(Mark::Text(text));
        }
    }
}
