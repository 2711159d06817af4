//! Line charts: how one quantity depends on another, for several series.

use super::Figure;
use super::axis::{Axis, Axle};
use super::decimate;
use super::frame::{self, Entry, Key, Legend};
use super::scene::{Pt, Rect, Scene, Stroke, stroke};
use super::style::{self, EDGE};

/// One named line: points in order, with an optional band around it.
#[derive(Clone, Debug, Default)]
pub struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    band: Vec<(f64, f64, f64)>,
    missing: Vec<(f64, String)>,
    markers: Option<bool>,
    style: Option<usize>,
    dots: bool,
}

impl Series {
    /// A series through `points`; a point that is not finite makes a gap.
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Series { name: name.into(), points: points.into_iter().collect(), ..Series::default() }
    }

    /// With a shaded band given by `(x, least, greatest)`.
    pub fn band(mut self, band: impl IntoIterator<Item = (f64, f64, f64)>) -> Self {
        self.band = band.into_iter().collect();
        self
    }

    /// With a sign at `x` that there is no value there, and why (`"out of memory"`); reasons are named in the legend.
    pub fn missing(mut self, x: f64, reason: impl Into<String>) -> Self {
        self.missing.push((x, reason.into()));
        self
    }

    /// With or without markers; left alone, each point has a marker if the figure is wide enough for all.
    pub fn markers(mut self, show: bool) -> Self {
        self.markers = Some(show);
        self
    }

    /// With the colour, dashes and marker of the `i`-th series, to give one thing the same look in every figure.
    pub fn style(mut self, i: usize) -> Self {
        self.style = Some(i);
        self
    }

    /// With markers and no line between them, for values such as classes between which nothing lies.
    pub fn dots(mut self) -> Self {
        self.dots = true;
        self.markers(true)
    }

    /// Number of the colour, dashes and marker of this series, the `i`-th of its chart.
    fn look(&self, i: usize) -> usize {
        self.style.unwrap_or(i)
    }

    fn shows_markers(&self, short: usize) -> bool {
        self.markers.unwrap_or(self.points.len() <= short)
    }

    /// Every number on either axis that has to be in view, as `(x, y)`.
    pub(super) fn extent(&self) -> impl Iterator<Item = (f64, f64)> {
        self.points.iter().copied().chain(self.band.iter().flat_map(|&(x, a, b)| [(x, a), (x, b)]))
    }

    /// The same series with its values moved by `by`.
    pub(super) fn moved(&self, by: f64) -> Series {
        let mut moved = self.clone();
        moved.points.iter_mut().for_each(|p| p.1 += by);
        moved.band.iter_mut().for_each(|b| *b = (b.0, b.1 + by, b.2 + by));
        moved
    }

    /// The same series with the look it has as the `i`-th of its chart.
    pub(super) fn looking(&self, i: usize) -> Series {
        self.clone().style(self.look(i))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The legend's line for this series, the `i`-th of its chart, whose markers show up to `short` points.
    pub(super) fn entry(&self, i: usize, short: usize) -> Entry {
        let look = self.look(i);
        let marker = self.shows_markers(short).then_some(look);
        let (color, dash, band) = (style::color(look), style::dash(look), !self.band.is_empty());
        let key = match marker {
            Some(marker) if self.dots => Key::Dot { color, marker },
            _ => Key::Line { color, dash, marker, band },
        };
        Entry { name: self.name.clone(), key }
    }
}

/// Room in pixels that a marker needs along the x axis.
const MARKER_ROOM: f64 = 14.0;
/// Lines of more points are drawn thinner, or noise would fill them in.
const DENSE: usize = 400;
/// Points between gaps that are shown in a series without markers.
const LONE_POINTS: usize = 500;
/// Radius of a marker in pixels.
const MARKER: f64 = 3.6;

/// A chart of several [`Series`] over common axes.
#[derive(Clone, Debug)]
pub struct LineChart {
    title: String,
    subtitle: String,
    x: Axis,
    y: Axis,
    series: Vec<Series>,
    levels: Vec<(f64, String)>,
    legend: Legend,
    size: (f64, f64),
}

impl LineChart {
    /// An empty chart, 760 by 440 pixels.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Self {
        LineChart {
            title: title.into(),
            subtitle: String::new(),
            x,
            y,
            series: Vec::new(),
            levels: Vec::new(),
            legend: Legend::Auto,
            size: (760.0, 440.0),
        }
    }

    /// With a smaller line under the title, for the setting and what the bands mean.
    pub fn subtitle(mut self, text: impl Into<String>) -> Self {
        self.subtitle = text.into();
        self
    }

    /// With one more series.
    pub fn series(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// With a dashed line across the chart at `y`, named in the legend: a limit, a chance level.
    pub fn level(mut self, y: f64, name: impl Into<String>) -> Self {
        self.levels.push((y, name.into()));
        self
    }

    /// With the legend here.
    pub fn legend(mut self, legend: Legend) -> Self {
        self.legend = legend;
        self
    }

    /// With this size in pixels; the PNG has two image pixels to each. Grows in height if a legend needs the room.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.size = super::bounded_size(width, height);
        self
    }

    /// Most points of a series whose markers have room, about 0.7 of the width being the plot's.
    fn short(&self) -> usize {
        (0.7 * self.size.0 / MARKER_ROOM) as usize
    }

    /// The reasons for missing points, in the order in which they first occur.
    fn reasons(&self) -> Vec<&str> {
        let mut reasons = Vec::new();
        for (_, reason) in self.series.iter().flat_map(|s| &s.missing) {
            if !reasons.contains(&reason.as_str()) {
                reasons.push(reason);
            }
        }
        reasons
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (i, series) in self.series.iter().enumerate().filter(|(_, s)| !s.name.is_empty()) {
            entries.push(series.entry(i, self.short()));
        }
        for (k, (_, name)) in self.levels.iter().enumerate().filter(|(_, l)| !l.1.is_empty()) {
            let key = Key::Line { color: style::MUTED, dash: level_dash(k), marker: None, band: false };
            entries.push(Entry { name: name.clone(), key });
        }
        for (i, reason) in self.reasons().into_iter().enumerate() {
            entries.push(Entry { name: reason.to_owned(), key: Key::Missing(i) });
        }
        entries
    }

    fn axles(&self) -> (Axle, Axle) {
        let shown = |x: &f64, y: &f64| self.x.shows(*x) && self.y.shows(*y);
        let points = || self.series.iter().flat_map(Series::extent).filter(|(x, y)| shown(x, y));
        let missing = self.series.iter().flat_map(|s| &s.missing).map(|m| m.0);
        let xs = points().map(|p| p.0).chain(missing);
        let ys = points().map(|p| p.1).chain(self.levels.iter().map(|l| l.0));
        (self.x.resolve(xs, 0.025), self.y.resolve(ys, 0.06))
    }

    fn draw_levels(&self, scene: &mut Scene, plot: Rect, y: &Axle) {
        for (k, (value, _)) in self.levels.iter().enumerate() {
            if let Some(place) = y.place(*value) {
                let h = plot.bottom() - place * plot.h;
                let pen = Stroke { dash: level_dash(k), ..stroke(style::MUTED, 1.3) };
                scene.line((plot.x, h), (plot.right(), h), pen);
            }
        }
    }

    /// Signs of missing points, in a strip of their own above the data: one row for each series that lacks some.
    fn draw_missing(&self, scene: &mut Scene, strip: Rect, x: &Axle) {
        scene.rect(strip, Some((style::STRIP, 1.0)), None);
        let reasons = self.reasons();
        let lacking: Vec<_> = self.series.iter().enumerate().filter(|(_, s)| !s.missing.is_empty()).collect();
        let row_height = strip.h / lacking.len().max(1) as f64;
        for (row, (i, series)) in lacking.into_iter().enumerate() {
            let y = strip.y + (row as f64 + 0.5) * row_height;
            for (value, reason) in &series.missing {
                let sign = reasons.iter().position(|r| r == reason).unwrap_or(0);
                if let Some(place) = x.place(*value).filter(|p| (0.0..=1.0).contains(p)) {
                    style::missing(scene, sign, (strip.x + place * strip.w, y), style::color(series.look(i)));
                }
            }
        }
    }
}

/// Draws bands, then lines, then markers of `series` into `plot`. Lines end at its edges; a marker in it is whole even there.
pub(super) fn draw_series(scene: &mut Scene, plot: Rect, x: &Axle, y: &Axle, series: &[Series], short: usize) {
    let mut markers = Vec::new();
    scene.clipped(plot, |scene| markers = draw_lines(scene, plot, (x, y), series, short));
    for (look, centre) in markers.into_iter().filter(|(_, centre)| plot.contains(*centre)) {
        style::marker(scene, look, centre, MARKER, style::color(look));
    }
}

/// Draws bands, then lines; returns the looks and places of markers.
fn draw_lines(
    scene: &mut Scene,
    plot: Rect,
    (x, y): (&Axle, &Axle),
    series: &[Series],
    short: usize,
) -> Vec<(usize, Pt)> {
    let at = |p: &(f64, f64)| -> Option<Pt> {
        Some((plot.x + x.place(p.0)? * plot.w, plot.bottom() - y.place(p.1)? * plot.h))
    };
    for (i, one) in series.iter().enumerate() {
        let band = one.band.iter().map(|b| {
            let ((px, low), (_, high)) = (at(&(b.0, b.1))?, at(&(b.0, b.2))?);
            Some((px, low, high))
        });
        scene.polygons(decimate::bands(band), (style::color(one.look(i)), 0.18), None);
    }
    let mut all = Vec::new();
    for (i, one) in series.iter().enumerate() {
        let look = one.look(i);
        let color = style::color(look);
        let mut parts = decimate::polylines(one.points.iter().map(at));
        // A point with gaps on both sides has no line and would vanish without a marker.
        let lone: Vec<Pt> = parts.iter().filter(|p| p.len() == 1).map(|p| p[0]).take(LONE_POINTS).collect();
        parts.retain(|part| part.len() > 1);
        let markers: Vec<Pt> = if one.shows_markers(short) {
            let step = one.points.len().div_ceil(200).max(1);
            one.points.iter().step_by(step).filter_map(at).collect()
        } else {
            lone
        };
        let width = if one.points.len() > DENSE { 1.3 } else { 1.8 };
        if !one.dots {
            scene.lines(parts, Stroke { dash: style::dash(look), ..stroke(color, width) });
        }
        all.extend(markers.into_iter().map(|centre| (look, centre)));
    }
    all
}

fn level_dash(k: usize) -> &'static [f64] {
    [&[5.0, 4.0][..], &[1.5, 3.0], &[9.0, 3.0, 2.0, 3.0]][k % 3]
}

impl Figure for LineChart {
    fn scene(&self) -> Scene {
        let (width, mut height) = self.size;
        let mut scene = Scene::new(width, height, &self.title);
        let top = frame::heading(&mut scene, &self.title, &self.subtitle);
        let entries = if self.legend == Legend::None { Vec::new() } else { self.entries() };
        // One series needs no legend: the axes and the title say what it is.
        let entries = if entries.len() < 2 && self.legend == Legend::Auto && self.reasons().is_empty() {
            Vec::new()
        } else {
            entries
        };
        let axis_height = frame::height_of_x_axis(&self.x.label);
        let (legend_width, legend_height) = frame::size_at_right(&entries);
        let fits = legend_width < 0.32 * width && legend_height < height - top - axis_height - EDGE;
        let right = !entries.is_empty() && (self.legend == Legend::Right || (self.legend == Legend::Auto && fits));
        let below = if right { 0.0 } else { frame::height_below(&entries, width) };

        let bottom = axis_height + below + EDGE - 6.0;
        let wanted = if right { legend_height.max(140.0) } else { 140.0 };
        height = height.max(top + wanted + bottom);
        scene.height = height.ceil();
        let (mut x, mut y) = self.axles();
        let lacking = self.series.iter().filter(|s| !s.missing.is_empty()).count();
        let strip = lacking as f64 * 12.0 + if lacking > 0 { 6.0 } else { 0.0 };
        let plot_height = height - top - bottom;
        let strip = strip.min(plot_height / 2.0);
        let ticks = y.tick_upright(plot_height - strip);
        let left = EDGE + frame::width_of_y_axis(&self.y.label, ticks);
        let margin = if right { legend_width + 20.0 + EDGE } else { EDGE + 10.0 };
        let plot_width = (width - left - margin).max(60.0);
        x.tick_level(plot_width);

        let whole = Rect { x: left, y: top, w: plot_width, h: plot_height };
        let plot = Rect { y: top + strip, h: plot_height - strip, ..whole };
        if lacking > 0 {
            self.draw_missing(&mut scene, Rect { h: strip, ..whole }, &x);
        }
        frame::x_axis(&mut scene, plot, &x, Some(&self.x.label));
        frame::y_axis(&mut scene, plot, &y, &self.y.label, EDGE);
        frame::spines(&mut scene, whole);
        scene.clipped(plot, |scene| self.draw_levels(scene, plot, &y));
        draw_series(&mut scene, plot, &x, &y, &self.series, self.short());
        if right {
            frame::draw_at_right(&mut scene, &entries, (plot.right() + 20.0, top));
        } else if !entries.is_empty() {
            frame::draw_below(&mut scene, &entries, plot.bottom() + axis_height + 6.0, width);
        }
        scene
    }
}
