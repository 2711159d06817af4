//! Panels stacked over one time axis: spike rasters and traces, with the phases of a trial shaded behind them.

use std::collections::BTreeSet;

use super::Figure;
use super::axis::{self, Axis, Axle, Tick};
use super::font;
use super::frame::{self, Entry, Key};
use super::lines::{self, Series};
use super::number::{self, Unit};
use super::scene::{Align, Pt, Rect, Rgb, Scene, Stroke, stroke};
use super::style::{self, EDGE};

/// Most points of a series that has markers.
const SHORT: usize = 40;

/// One panel of [`Panels`].
#[derive(Clone, Debug)]
pub struct Panel {
    y: Axis,
    height: f64,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Raster { rows: usize, events: Vec<(f64, usize)>, groups: Vec<(usize, String)> },
    Traces { series: Vec<Series>, stacked: bool },
}

impl Panel {
    /// Spikes `(time, row)` of `rows` neurons, row 0 at the bottom; events of other rows are left out.
    pub fn raster(label: impl Into<String>, rows: usize, events: impl IntoIterator<Item = (f64, usize)>) -> Self {
        let events = events.into_iter().collect();
        Panel { y: Axis::new(label), height: 130.0, content: Content::Raster { rows, events, groups: Vec::new() } }
    }

    /// Several lines over one axis.
    pub fn traces(y: Axis, series: impl IntoIterator<Item = Series>) -> Self {
        Panel { y, height: 110.0, content: Content::Traces { series: series.into_iter().collect(), stacked: false } }
    }

    /// Traces only: each above the last and named at the left, with a bar at the right for the common scale, in the unit of the axis.
    pub fn stacked(mut self) -> Self {
        if let Content::Traces { stacked, .. } = &mut self.content {
            *stacked = true;
        }
        self
    }

    /// Rasters only: a colour and a name for the next `count` rows; called once for each group, from the bottom up.
    pub fn group(mut self, count: usize, name: impl Into<String>) -> Self {
        if let Content::Raster { groups, .. } = &mut self.content {
            groups.push((count, name.into()));
        }
        self
    }

    /// With this height in pixels; grows if its legend needs the room.
    pub fn height(mut self, pixels: u32) -> Self {
        self.height = f64::from(pixels.clamp(30, 2000));
        self
    }
}

/// A vertical stack of [`Panel`]s that share their x axis.
#[derive(Clone, Debug)]
pub struct Panels {
    title: String,
    subtitle: String,
    x: Axis,
    panels: Vec<Panel>,
    phases: Vec<(String, f64, f64)>,
    events: Vec<(f64, String)>,
    width: f64,
}

impl Panels {
    /// An empty stack, 800 pixels wide.
    pub fn new(title: impl Into<String>, x: Axis) -> Self {
        Panels {
            title: title.into(),
            subtitle: String::new(),
            x,
            panels: Vec::new(),
            phases: Vec::new(),
            events: Vec::new(),
            width: 800.0,
        }
    }

    /// With a smaller line under the title.
    pub fn subtitle(mut self, text: impl Into<String>) -> Self {
        self.subtitle = text.into();
        self
    }

    /// With one more panel below the others.
    pub fn panel(mut self, panel: Panel) -> Self {
        self.panels.push(panel);
        self
    }

    /// With the time from `start` to `end` shaded behind all panels and named above them.
    ///
    /// Phases of the same name have the same tint.
    pub fn phase(mut self, name: impl Into<String>, start: f64, end: f64) -> Self {
        if start.is_finite() && end.is_finite() {
            self.phases.push((name.into(), start.min(end), start.max(end)));
        }
        self
    }

    /// With a dashed line down all panels at time `at`, named above them.
    pub fn event(mut self, at: f64, name: impl Into<String>) -> Self {
        self.events.push((at, name.into()));
        self
    }

    /// With this width in pixels.
    pub fn width(mut self, pixels: u32) -> Self {
        self.width = super::bounded_size(pixels, 0).0;
        self
    }

    fn x_axle(&self) -> Axle {
        let of_panels = self.panels.iter().flat_map(|panel| -> Box<dyn Iterator<Item = f64> + '_> {
            match &panel.content {
                Content::Raster { events, .. } => Box::new(events.iter().map(|e| e.0)),
                Content::Traces { series, .. } => Box::new(series.iter().flat_map(Series::extent).map(|p| p.0)),
            }
        });
        let of_phases = self.phases.iter().flat_map(|p| [p.1, p.2]);
        self.x.resolve(of_panels.chain(of_phases).chain(self.events.iter().map(|e| e.0)), 0.015)
    }

    /// The tint of each phase: one for each name, in order of first use.
    fn tints(&self) -> Vec<Rgb> {
        let first = |name: &str| self.phases.iter().position(|p| p.0 == name).unwrap_or(0);
        let firsts: BTreeSet<usize> = self.phases.iter().map(|p| first(&p.0)).collect();
        self.phases.iter().map(|p| style::phase_tint(firsts.range(..first(&p.0)).count())).collect()
    }

    /// Names of phases and events above the panels, each with its middle and its row, rows counted from the bottom.
    fn captions(&self, x: &Axle, left: f64, width: f64) -> Vec<(f64, usize, String, bool)> {
        let at = |v: f64| x.place(v).map(|p| left + p.clamp(0.0, 1.0) * width);
        let phases = self.phases.iter().filter_map(|(name, a, b)| Some(((at(*a)? + at(*b)?) / 2.0, name, false)));
        let events = self.events.iter().filter_map(|(v, name)| Some((at(*v)?, name, true)));
        let mut rows: Vec<Vec<(f64, f64)>> = Vec::new();
        let mut captions = Vec::new();
        for (middle, name, is_event) in phases.chain(events) {
            let text = font::ellipsize(name, style::LEGEND, false, width);
            let half = font::width(&text, style::LEGEND, false) / 2.0;
            let middle = middle.clamp(left + half, (left + width - half).max(left + half));
            let (from, to) = (middle - half - 5.0, middle + half + 5.0);
            let free = rows.iter().position(|row| row.iter().all(|(a, b)| to <= *a || from >= *b));
            let row = free.unwrap_or_else(|| {
                rows.push(Vec::new());
                rows.len() - 1
            });
            rows[row].push((from, to));
            captions.push((middle, row, text, is_event));
        }
        captions
    }
}

/// A panel fitted to its data.
struct Fitted {
    y: Axle,
    height: f64,
    ticks: f64,
    entries: Vec<Entry>,
    /// Traces as drawn, moved apart if stacked.
    series: Vec<Series>,
    /// For stacked traces, the scale bar: its length and what is written beside it.
    bar: Option<(f64, String)>,
}

impl Fitted {
    /// Room in pixels for what stands at the right of the panel.
    fn margin(&self) -> f64 {
        if !self.entries.is_empty() {
            return frame::size_at_right(&self.entries).0;
        }
        self.bar.as_ref().map_or(0.0, |(_, text)| font::width(text, style::TICK, false) + 16.0)
    }
}

/// The height of a panel with these entries: as asked for, unless they or the label of the axis need more.
fn height(panel: &Panel, entries: &[Entry]) -> f64 {
    let label = font::width(&panel.y.label, style::LABEL, false) - 8.0;
    panel.height.max(frame::size_at_right(entries).1).max(label.min(300.0))
}

fn fit(panel: &Panel) -> Fitted {
    match &panel.content {
        Content::Raster { rows, groups, .. } => {
            let named = groups.iter().enumerate().rev().filter(|(_, g)| !g.1.is_empty());
            let entries: Vec<Entry> =
                named.map(|(i, g)| Entry { name: g.1.clone(), key: Key::Fill(style::color(i)) }).collect();
            let height = height(panel, &entries);
            let top = (*rows).max(1) as f64;
            let mut y = Axis::new("").unit(Unit::Count).range(-0.5, top - 0.5).resolve(std::iter::empty(), 0.0);
            let ticks = y.tick_upright(height);
            Fitted { y, height, ticks, entries, series: Vec::new(), bar: None }
        }
        Content::Traces { series, stacked: true } => fit_stacked(panel, series),
        Content::Traces { series, .. } => {
            let mut y = panel.y.resolve(series.iter().flat_map(Series::extent).map(|p| p.1), 0.06);
            let named = series.iter().enumerate().filter(|(_, s)| !s.name().is_empty() && s.extent().next().is_some());
            let named: Vec<_> = named.collect();
            let entries: Vec<Entry> =
                if named.len() > 1 { named.into_iter().map(|(i, s)| s.entry(i, SHORT)).collect() } else { Vec::new() };
            let height = height(panel, &entries);
            let ticks = y.tick_upright(height);
            Fitted { y, height, ticks, entries, series: series.clone(), bar: None }
        }
    }
}

fn fit_stacked(panel: &Panel, series: &[Series]) -> Fitted {
    let ranges: Vec<(f64, f64)> = series
        .iter()
        .map(|one| {
            let shown = one.extent().map(|p| p.1).filter(|y| panel.y.shows(*y) && y.is_finite());
            let (low, high) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), y| (a.min(y), b.max(y)));
            if low <= high { (low, high) } else { (0.0, 0.0) }
        })
        .collect();
    let span = span(ranges.iter().map(|(a, b)| b - a).collect());
    let pitch = span * 1.15;
    // Each trace is centred on its place, the first at the bottom, as the rows of a raster are.
    let place = |i: usize| i as f64 * pitch;
    let middle = |i: usize| {
        let ((low, high), first) = (ranges[i], series[i].extent().next().map_or(0.0, |p| p.1));
        // A trace without bound is in its place until it leaves.
        if high - low <= span || !first.is_finite() { (low + high) / 2.0 } else { first }
    };
    let moved: Vec<Series> = series.iter().enumerate().map(|(i, s)| s.looking(i).moved(place(i) - middle(i))).collect();
    let top = series.len().saturating_sub(1) as f64 * pitch;
    let mut y = Axis::new("").range(-0.6 * pitch, top + 0.6 * pitch).resolve(std::iter::empty(), 0.0);
    let height = height(panel, &[]);
    let step = (13.0 * series.len() as f64 / height).ceil().max(1.0) as usize;
    let name = |i: usize| font::ellipsize(series[i].name(), style::TICK, false, 90.0);
    y.ticks = (0..series.len()).step_by(step).map(|i| Tick { value: place(i), label: name(i) }).collect();
    let ticks = y.ticks.iter().map(|t| font::width(&t.label, style::TICK, false)).fold(0.0, f64::max);
    let length = axis::round_up(span / 2.5);
    let bar = (!series.is_empty()).then(|| (length, number::quantity(length, panel.y.unit, 2)));
    Fitted { y, height, ticks, entries: Vec::new(), series: moved, bar }
}

/// The room for each of several stacked traces: the largest span of values, unless it is so much larger than the others that these would
/// look constant; that trace runs over its neighbours.
fn span(mut spans: Vec<f64>) -> f64 {
    spans.retain(|span| *span > 0.0 && *span < 1e200);
    spans.sort_by(f64::total_cmp);
    let median = spans.get(spans.len() / 2);
    median.zip(spans.last()).map_or(1.0, |(median, largest)| largest.min(4.0 * median))
}

/// Most marks drawn in one raster; beyond it, spikes closer in time share a mark.
const SPIKES: usize = 30_000;

/// The spikes as one short upright line each, one list for each colour.
///
/// Spikes that fall on the same half pixel cannot be told apart and share a line, so the marks are bounded by the
/// area of the panel; if they still are too many the half pixel is widened.
fn spikes(panel: &Panel, plot: Rect, x: &Axle, y: &Axle) -> Vec<Vec<Vec<Pt>>> {
    let Content::Raster { rows, events, groups } = &panel.content else {
        return Vec::new();
    };
    let ends: Vec<usize> = groups
        .iter()
        .scan(0, |end, (count, _)| {
            *end += count;
            Some(*end)
        })
        .collect();
    let group = |row: usize| ends.iter().position(|end| row < *end).unwrap_or(groups.len());
    let pitch = plot.h / (*rows).max(1) as f64;
    let half = (pitch * 0.4).clamp(0.9, 6.0);
    let rows_per_bin = (0.5 / pitch).ceil().max(1.0) as usize;
    let mut bin = 0.5;
    loop {
        let mut marks: BTreeSet<(usize, usize, i64)> = BTreeSet::new();
        for (t, row) in events.iter().filter(|e| e.1 < *rows) {
            if let Some(p) = x.place(*t).filter(|p| (0.0..=1.0).contains(p)) {
                marks.insert((group(*row), row - row % rows_per_bin, (p * plot.w / bin) as i64));
            }
        }
        if marks.len() > SPIKES && bin < 64.0 {
            bin *= 2.0;
            continue;
        }
        let mut out = vec![Vec::new(); groups.len() + 1];
        for (group, row, column) in marks {
            let px = plot.x + (column as f64 + 0.5) * bin;
            let py = plot.bottom() - y.place(row as f64).unwrap_or(0.0) * plot.h;
            out[group].push(vec![(px, py - half), (px, py + half)]);
        }
        return out;
    }
}

/// Spikes are whole even at the edges of the plot.
fn draw_content(scene: &mut Scene, panel: &Panel, fitted: &Fitted, plot: Rect, x: &Axle) {
    match &panel.content {
        Content::Raster { groups, .. } => {
            for (i, marks) in spikes(panel, plot, x, &fitted.y).into_iter().enumerate() {
                let color = if i < groups.len() { style::color(i) } else { style::INK };
                scene.lines(marks, stroke(color, 1.1));
            }
        }
        Content::Traces { .. } => lines::draw_series(scene, plot, x, &fitted.y, &fitted.series, SHORT),
    }
}

fn draw_bar(scene: &mut Scene, fitted: &Fitted, plot: Rect) {
    let Some((length, text)) = &fitted.bar else { return };
    let (Some(from), Some(to)) = (fitted.y.place(0.0), fitted.y.place(*length)) else { return };
    let (x, pixels) = (plot.right() + 9.0, (to - from) * plot.h);
    let middle = plot.bottom() - plot.h / 2.0;
    scene.line((x, middle - pixels / 2.0), (x, middle + pixels / 2.0), stroke(style::INK, 1.5));
    scene.label((x + 6.0, middle), text, style::TICK, Align::Start, style::MUTED);
}

impl Figure for Panels {
    fn scene(&self) -> Scene {
        const GAP: f64 = 14.0;
        const CAPTION: f64 = 16.0;
        let mut scene = Scene::new(self.width, 100.0, &self.title);
        let top = frame::heading(&mut scene, &self.title, &self.subtitle);
        let mut x = self.x_axle();
        let fitted: Vec<Fitted> = self.panels.iter().map(fit).collect();
        let most = |f: &dyn Fn(&Fitted) -> f64| fitted.iter().map(f).fold(0.0, f64::max);
        let labelled = if self.panels.iter().any(|p| !p.y.label.is_empty()) { "labelled" } else { "" };
        let left = EDGE + frame::width_of_y_axis(labelled, most(&|f| f.ticks));
        let margin = most(&|f| f.margin());
        let right = if margin > 0.0 { margin + 18.0 + EDGE } else { EDGE + 14.0 };
        let width = (self.width - left - right).max(60.0);
        x.tick_level(width);

        let captions = self.captions(&x, left, width);
        let caption_rows = captions.iter().map(|c| c.1 + 1).max().unwrap_or(0);
        let first = top + caption_rows as f64 * CAPTION;
        let gaps = GAP * fitted.len().saturating_sub(1) as f64;
        let last = first + fitted.iter().map(|f| f.height).sum::<f64>() + gaps;
        scene.height = (last + frame::height_of_x_axis(&self.x.label) + EDGE - 6.0).ceil();

        let at = |v: f64| x.place(v).map(|p| left + p.clamp(0.0, 1.0) * width);
        for ((_, start, end), tint) in self.phases.iter().zip(self.tints()) {
            if let (Some(a), Some(b)) = (at(*start), at(*end)) {
                scene.rect(Rect { x: a, y: first, w: b - a, h: last - first }, Some((tint, 1.0)), None);
            }
        }
        for (middle, row, text, is_event) in captions {
            let y = first - 9.0 - row as f64 * CAPTION;
            let color = if is_event { style::INK } else { style::MUTED };
            scene.label((middle, y), &text, style::LEGEND, Align::Middle, color);
        }
        let mut y = first;
        for (i, (panel, fit)) in self.panels.iter().zip(&fitted).enumerate() {
            let plot = Rect { x: left, y, w: width, h: fit.height };
            let is_last = i + 1 == self.panels.len();
            frame::x_axis(&mut scene, plot, &x, is_last.then_some(self.x.label.as_str()));
            frame::y_axis(&mut scene, plot, &fit.y, &panel.y.label, EDGE);
            frame::spines(&mut scene, plot);
            draw_content(&mut scene, panel, fit, plot, &x);
            frame::draw_at_right(&mut scene, &fit.entries, (plot.right() + 18.0, y));
            draw_bar(&mut scene, fit, plot);
            y += fit.height + GAP;
        }
        for v in self.events.iter().filter_map(|e| at(e.0)) {
            let pen = Stroke { dash: &[4.0, 3.0], ..stroke(style::INK, 1.1) };
            scene.line((v, first - 2.0), (v, last), pen);
        }
        scene
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_rasters_are_bounded_and_keep_every_active_row() {
        let events = (0..2_000_000).map(|i| (f64::from(i / 200), (i % 200) as usize));
        let panel = Panel::raster("", 200, events);
        let fitted = fit(&panel);
        let plot = Rect { x: 0.0, y: 0.0, w: 640.0, h: 130.0 };
        let x = Axis::new("").resolve([0.0, 10_000.0].into_iter(), 0.0);
        let marks = spikes(&panel, plot, &x, &fitted.y).concat();
        assert!(marks.len() <= SPIKES, "{} marks", marks.len());
        let rows: BTreeSet<i64> = marks.iter().map(|m| (m[0].1 * 100.0) as i64).collect();
        assert_eq!(rows.len(), 200);
    }

    #[test]
    fn a_trace_that_grows_without_bound_does_not_flatten_the_others() {
        let wave =
            |scale: f64| Series::new("", (0..100).map(move |t| (f64::from(t), scale * (f64::from(t) / 9.0).sin())));
        let burst = Series::new("", (0..100).map(|t| (f64::from(t), if t == 99 { 1e6 } else { 7.0 })));
        let panel = Panel::traces(Axis::new("").unit(Unit::Of("mV")), [wave(1.0), burst, wave(1.2)]).stacked();
        let fitted = fit(&panel);
        assert_eq!(fitted.bar, Some((5.0, "5 mV".into())));
        let rest = fitted.series[1].extent().next().map(|p| p.1);
        assert_eq!(rest, Some(fitted.y.ticks[1].value), "it lies in its place until then");
    }

    #[test]
    fn captions_never_overlap() {
        let mut panels = Panels::new("", Axis::new("time"));
        for i in 0..12 {
            let start = f64::from(i) * 10.0;
            panels = panels.phase(format!("a phase with a long name {i}"), start, start + 10.0);
        }
        let captions = panels.captions(&panels.x_axle(), 50.0, 600.0);
        let extent = |c: &(f64, usize, String, bool)| {
            let half = font::width(&c.2, style::LEGEND, false) / 2.0;
            (c.0 - half, c.0 + half)
        };
        for (i, a) in captions.iter().enumerate() {
            assert!(extent(a).0 >= 49.9 && extent(a).1 <= 650.1);
            for b in captions[..i].iter().filter(|b| b.1 == a.1) {
                assert!(extent(a).1 <= extent(b).0 || extent(b).1 <= extent(a).0, "{a:?} over {b:?}");
            }
        }
    }

    #[test]
    fn phases_of_one_name_share_a_tint() {
        let panels = Panels::new("", Axis::new(""))
            .phase("fixation", 0.0, 1.0)
            .phase("cue", 1.0, 2.0)
            .phase("fixation", 2.0, 3.0)
            .phase("recall", 3.0, 4.0);
        let tints = panels.tints();
        assert_eq!(tints[0], tints[2]);
        assert_eq!(tints[3], style::phase_tint(2));
    }
}
