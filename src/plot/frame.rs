//! What surrounds the data: heading, axes with their grid, legend.

use super::axis::Axle;
use super::font;
use super::scene::{Align, Mark, Pt, Rect, Rgb, Scene, Text, stroke};
use super::style::{self, ColorMap, EDGE};

/// Draws title and subtitle across the top and returns the height at which the plot may begin.
pub(super) fn heading(scene: &mut Scene, title: &str, subtitle: &str) -> f64 {
    let room = scene.width - 2.0 * EDGE;
    let mut y = EDGE - 2.0;
    for (text, size, bold, lines, color) in
        [(title, style::TITLE, true, 2, style::INK), (subtitle, style::SUBTITLE, false, 3, style::MUTED)]
    {
        for line in font::wrap(text, size, bold, room, lines) {
            y += size * 1.25;
            let at = (EDGE, y - size * 0.25);
            scene.push_text(Text { at, text: line, size, bold, align: Align::Start, upright: false, color });
        }
        y += if text.is_empty() { 0.0 } else { 3.0 };
    }
    y + 10.0
}

/// Height below the plot for tick labels and the label of the axis.
pub(super) fn height_of_x_axis(label: &str) -> f64 {
    if label.is_empty() { 24.0 } else { 44.0 }
}

/// Width left of the plot for tick labels of `ticks` pixels and the label of the axis.
pub(super) fn width_of_y_axis(label: &str, ticks: f64) -> f64 {
    ticks + 8.0 + if label.is_empty() { 0.0 } else { 22.0 }
}

/// The grid, tick marks and labels of a level axis under `plot`; without labels if the axis is another panel's.
pub(super) fn x_axis(scene: &mut Scene, plot: Rect, axle: &Axle, label: Option<&str>) {
    let at = |v: f64| axle.place(v).map(|p| plot.x + p * plot.w);
    let inside = |x: &f64| *x > plot.x - 0.5 && *x < plot.right() + 0.5;
    let minor = axle.minor.iter().filter_map(|v| at(*v)).filter(inside);
    scene.lines(minor.map(|x| vec![(x, plot.y), (x, plot.bottom())]).collect(), style::grid(style::GRID_MINOR));
    let ticks: Vec<(f64, &str)> =
        axle.ticks.iter().filter_map(|t| Some((at(t.value).filter(inside)?, t.label.as_str()))).collect();
    let lines = ticks.iter().map(|(x, _)| vec![(*x, plot.y), (*x, plot.bottom())]).collect();
    scene.lines(lines, style::grid(style::GRID));
    let Some(label) = label else { return };
    let marks = ticks.iter().map(|(x, _)| vec![(*x, plot.bottom()), (*x, plot.bottom() + 4.0)]).collect();
    scene.lines(marks, stroke(style::AXIS, 1.0));
    for (x, text) in ticks {
        scene.label((x, plot.bottom() + 13.0), text, style::TICK, Align::Middle, style::MUTED);
    }
    let text = font::ellipsize(label, style::LABEL, false, scene.width - 2.0 * EDGE);
    // Kept inside the figure even where the label is wider than the plot.
    let half = font::width(&text, style::LABEL, false) / 2.0;
    let x = (plot.x + plot.w / 2.0).clamp(EDGE + half, (scene.width - EDGE - half).max(EDGE + half));
    scene.label((x, plot.bottom() + 33.0), &text, style::LABEL, Align::Middle, style::INK);
}

/// The grid, tick marks and labels of an upright axis at the left of `plot`; its label starts at `label_x`.
pub(super) fn y_axis(scene: &mut Scene, plot: Rect, axle: &Axle, label: &str, label_x: f64) {
    let at = |v: f64| axle.place(v).map(|p| plot.bottom() - p * plot.h);
    let inside = |y: &f64| *y > plot.y - 0.5 && *y < plot.bottom() + 0.5;
    let minor = axle.minor.iter().filter_map(|v| at(*v)).filter(inside);
    scene.lines(minor.map(|y| vec![(plot.x, y), (plot.right(), y)]).collect(), style::grid(style::GRID_MINOR));
    let ticks: Vec<(f64, &str)> =
        axle.ticks.iter().filter_map(|t| Some((at(t.value).filter(inside)?, t.label.as_str()))).collect();
    let lines = ticks.iter().map(|(y, _)| vec![(plot.x, *y), (plot.right(), *y)]).collect();
    scene.lines(lines, style::grid(style::GRID));
    let marks = ticks.iter().map(|(y, _)| vec![(plot.x - 4.0, *y), (plot.x, *y)]).collect();
    scene.lines(marks, stroke(style::AXIS, 1.0));
    for (y, text) in ticks {
        scene.label((plot.x - 7.0, y), text, style::TICK, Align::End, style::MUTED);
    }
    upright_label(scene, label, (label_x + 6.0, plot.y + plot.h / 2.0), plot.h + 12.0);
}

/// Text read from bottom to top, centred on `at` and cut to `room` pixels.
pub(super) fn upright_label(scene: &mut Scene, text: &str, at: Pt, room: f64) {
    let (size, color) = (style::LABEL, style::INK);
    let text = font::ellipsize(text, size, false, room);
    let at = (at.0 + 0.5 * font::CAP_HEIGHT * size, at.1);
    scene.push_text(Text { at, text, size, bold: false, align: Align::Middle, upright: true, color });
}

/// The left and bottom edge of `plot`.
pub(super) fn spines(scene: &mut Scene, plot: Rect) {
    let corner = vec![(plot.x, plot.y), (plot.x, plot.bottom()), (plot.right(), plot.bottom())];
    scene.lines(vec![corner], stroke(style::AXIS, 1.0));
}

/// Width of a colour bar in pixels.
pub(super) const COLOR_BAR: f64 = 14.0;

/// Room for a colour bar with tick labels of `ticks` pixels and a label.
pub(super) fn width_of_color_bar(label: &str, ticks: f64) -> f64 {
    COLOR_BAR + 7.0 + ticks + if label.is_empty() { 0.0 } else { 20.0 }
}

/// What the colours of a plot at the left of `bar` mean.
pub(super) fn color_bar(scene: &mut Scene, bar: Rect, axle: &Axle, colors: ColorMap, label: &str) {
    let cells = (0..128).rev().map(|i| colors.at((f64::from(i) + 0.5) / 128.0)).collect();
    scene.marks.push(Mark::Image { rect: bar, columns: 1, rows: 128, cells });
    scene.rect(bar, None, Some(stroke(style::AXIS, 0.8)));
    for tick in &axle.ticks {
        let y = bar.bottom() - axle.place(tick.value).unwrap_or(0.0) * bar.h;
        scene.line((bar.right(), y), (bar.right() + 4.0, y), stroke(style::AXIS, 1.0));
        scene.label((bar.right() + 7.0, y), &tick.label, style::TICK, Align::Start, style::MUTED);
    }
    let ticks = axle.ticks.iter().map(|t| font::width(&t.label, style::TICK, false)).fold(0.0, f64::max);
    upright_label(scene, label, (bar.right() + 7.0 + ticks + 12.0, bar.y + bar.h / 2.0), bar.h);
}

/// How names are set under the columns of a categorical axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Names {
    upright: bool,
    /// Room for a level name in pixels.
    room: f64,
    /// Every `step`-th name is shown.
    step: usize,
    /// Height of the names in pixels.
    pub height: f64,
}

/// Most lines of a level name.
const NAME_LINES: usize = 2;
/// Longest upright name, in pixels.
const UPRIGHT: f64 = 110.0;

/// Chooses level names, broken over two lines if need be, if all fit between columns `pitch` pixels apart; else upright ones, thinned out if need be.
pub(super) fn fit_names(names: &[String], pitch: f64) -> Names {
    let widest = names.iter().map(|n| font::width(n, style::TICK, false)).fold(0.0, f64::max);
    let room = pitch - 8.0;
    if widest <= room {
        return Names { upright: false, room, step: 1, height: 20.0 };
    }
    let whole = |n: &String| font::wrap(n, style::TICK, false, room, usize::MAX);
    let fits = |n: &String| {
        let lines = whole(n);
        lines.len() <= NAME_LINES && lines.join(" ") == n.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    if names.iter().all(fits) {
        let lines = names.iter().map(|n| whole(n).len()).max().unwrap_or(1);
        return Names { upright: false, room, step: 1, height: 7.0 + 13.0 * lines as f64 };
    }
    let step = ((style::TICK + 3.0) / pitch.max(0.1)).ceil().max(1.0) as usize;
    Names { upright: true, room, step, height: widest.min(UPRIGHT) + 12.0 }
}

/// Draws names under columns whose middles are at `at(i)`, from height `y` down.
pub(super) fn draw_names(scene: &mut Scene, names: &[String], fit: Names, at: impl Fn(usize) -> f64, y: f64) {
    for (i, name) in names.iter().enumerate().step_by(fit.step) {
        let (size, color) = (style::TICK, style::MUTED);
        if fit.upright {
            let text = font::ellipsize(name, size, false, UPRIGHT);
            let at = (at(i) + 0.5 * font::CAP_HEIGHT * size, y + 7.0);
            scene.push_text(Text { at, text, size, bold: false, align: Align::End, upright: true, color });
        } else {
            for (k, line) in font::wrap(name, size, false, fit.room, NAME_LINES).iter().enumerate() {
                scene.label((at(i), y + 13.0 + 13.0 * k as f64), line, size, Align::Middle, color);
            }
        }
    }
}

/// Where the legend stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Legend {
    /// At the right if it fits there, else below; never over the data.
    #[default]
    Auto,
    /// At the right of the plot.
    Right,
    /// Below the plot, in columns.
    Below,
    /// Left out.
    None,
}

/// The sample drawn beside a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Key {
    /// A line, with the marker of this number if any, on a band if it has one.
    Line { color: Rgb, dash: &'static [f64], marker: Option<usize>, band: bool },
    /// The marker of this number alone.
    Dot { color: Rgb, marker: usize },
    /// A filled square.
    Fill(Rgb),
    /// The sign for a reason why points are missing.
    Missing(usize),
}

/// A line of the legend.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub name: String,
    pub key: Key,
}

const KEY_WIDTH: f64 = 26.0;
const KEY_GAP: f64 = 8.0;
const LINE: f64 = 15.0;
/// Widest name in a legend at the right, in pixels; longer ones are wrapped.
const NAME: f64 = 170.0;

fn names(entry: &Entry, room: f64) -> Vec<String> {
    font::wrap(&entry.name, style::LEGEND, false, room, 3)
}

fn name_width(lines: &[String]) -> f64 {
    lines.iter().map(|l| font::width(l, style::LEGEND, false)).fold(0.0, f64::max)
}

fn height_of(lines: &[String]) -> f64 {
    lines.len().max(1) as f64 * LINE + 4.0
}

/// Width and height of a legend at the right of a plot.
pub(super) fn size_at_right(entries: &[Entry]) -> (f64, f64) {
    let lines: Vec<_> = entries.iter().map(|e| names(e, NAME)).collect();
    let width = lines.iter().map(|l| name_width(l)).fold(0.0, f64::max);
    (KEY_WIDTH + KEY_GAP + width, lines.iter().map(|l| height_of(l)).sum())
}

/// Draws a legend downwards from `at`, its top left corner.
pub(super) fn draw_at_right(scene: &mut Scene, entries: &[Entry], at: Pt) {
    let mut y = at.1;
    for entry in entries {
        let lines = names(entry, NAME);
        draw_entry(scene, entry.key, &lines, (at.0, y));
        y += height_of(&lines);
    }
}

/// The columns of a legend below: their number, their width and the heights of the rows.
fn columns(entries: &[Entry], room: f64) -> (usize, f64, Vec<f64>) {
    let longest = room - KEY_WIDTH - KEY_GAP;
    let width = entries.iter().map(|e| name_width(&names(e, longest))).fold(0.0, f64::max) + KEY_WIDTH + KEY_GAP;
    let gap = 22.0;
    let count = (((room + gap) / (width + gap)).floor() as usize).clamp(1, entries.len().max(1));
    let rows = entries.chunks(count).map(|row| row.iter().map(|e| height_of(&names(e, longest))).fold(0.0, f64::max));
    (count, width + gap, rows.collect())
}

/// Room for a legend below a plot, in a figure of so many pixels.
fn room_below(width: f64) -> f64 {
    width - 2.0 * EDGE
}

/// Height of a legend below a plot, in a figure of `width` pixels.
pub(super) fn height_below(entries: &[Entry], width: f64) -> f64 {
    if entries.is_empty() { 0.0 } else { columns(entries, room_below(width)).2.iter().sum::<f64>() + 6.0 }
}

/// Draws a legend in columns from `y` downwards, as high as [`height_below`] says.
pub(super) fn draw_below(scene: &mut Scene, entries: &[Entry], mut y: f64, width: f64) {
    let room = room_below(width);
    let (count, width, heights) = columns(entries, room);
    for (row, height) in entries.chunks(count).zip(heights) {
        for (i, entry) in row.iter().enumerate() {
            let lines = names(entry, room - KEY_WIDTH - KEY_GAP);
            draw_entry(scene, entry.key, &lines, (EDGE + i as f64 * width, y));
        }
        y += height;
    }
}

fn draw_entry(scene: &mut Scene, key: Key, lines: &[String], at: Pt) {
    let middle = at.1 + LINE / 2.0;
    match key {
        Key::Line { color, dash, marker, band } => {
            if band {
                let rect = Rect { x: at.0, y: middle - 5.0, w: KEY_WIDTH, h: 10.0 };
                scene.rect(rect, Some((color, 0.2)), None);
            }
            let pen = super::scene::Stroke { dash, ..stroke(color, 1.8) };
            scene.line((at.0, middle), (at.0 + KEY_WIDTH, middle), pen);
            if let Some(i) = marker {
                style::marker(scene, i, (at.0 + KEY_WIDTH / 2.0, middle), 3.6, color);
            }
        }
        Key::Dot { color, marker } => style::marker(scene, marker, (at.0 + KEY_WIDTH / 2.0, middle), 3.6, color),
        Key::Fill(color) => {
            let rect = Rect { x: at.0 + KEY_WIDTH - 12.0, y: middle - 6.0, w: 12.0, h: 12.0 };
            scene.rect(rect, Some((color, 1.0)), None);
        }
        Key::Missing(reason) => style::missing(scene, reason, (at.0 + KEY_WIDTH / 2.0, middle), style::MUTED),
    }
    for (i, line) in lines.iter().enumerate() {
        let at = (at.0 + KEY_WIDTH + KEY_GAP, middle + i as f64 * LINE);
        scene.label(at, line, style::LEGEND, Align::Start, style::INK);
    }
}
