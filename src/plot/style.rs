//! How figures look: sizes, colours that colour-blind readers can tell apart, markers and colour maps.

use super::scene::{Mark, Pt, Rgb, Scene, Stroke, stroke};

/// Font sizes in pixels.
pub(super) const TITLE: f64 = 15.0;
pub(super) const SUBTITLE: f64 = 11.5;
pub(super) const LABEL: f64 = 12.0;
pub(super) const TICK: f64 = 10.5;
pub(super) const LEGEND: f64 = 11.5;

/// Space between the edge of the figure and what is in it.
pub(super) const EDGE: f64 = 16.0;

pub(super) const INK: Rgb = Rgb(0x1f, 0x23, 0x28);
pub(super) const MUTED: Rgb = Rgb(0x57, 0x60, 0x6a);
pub(super) const AXIS: Rgb = Rgb(0x8c, 0x95, 0x9f);
pub(super) const GRID: Rgb = Rgb(0xe4, 0xe7, 0xeb);
pub(super) const GRID_MINOR: Rgb = Rgb(0xf2, 0xf4, 0xf6);
pub(super) const STRIP: Rgb = Rgb(0xf4, 0xf5, 0xf7);
pub(super) const NO_DATA: Rgb = Rgb(0xd8, 0xdb, 0xdf);
pub(super) const WHITE: Rgb = Rgb(0xff, 0xff, 0xff);

/// The palette of Okabe and Ito (Color Universal Design, 2008) without its yellow, which is lost on white.
const PALETTE: [Rgb; 7] = [
    Rgb(0x00, 0x72, 0xb2),
    Rgb(0xd5, 0x5e, 0x00),
    Rgb(0x00, 0x9e, 0x73),
    Rgb(0xcc, 0x79, 0xa7),
    Rgb(0xe6, 0x9f, 0x00),
    Rgb(0x56, 0xb4, 0xe9),
    Rgb(0x4d, 0x4d, 0x4d),
];

const DASHES: [&[f64]; 4] = [&[], &[6.0, 3.0], &[1.5, 2.5], &[8.0, 3.0, 1.5, 3.0]];

/// Colour of the `i`-th series.
pub(super) fn color(i: usize) -> Rgb {
    PALETTE[i % PALETTE.len()]
}

/// Dashes of the `i`-th series: solid until the colours run out, then a new pattern for each round.
pub(super) fn dash(i: usize) -> &'static [f64] {
    DASHES[i / PALETTE.len() % DASHES.len()]
}

/// Tints behind the phases of a trial.
pub(super) fn phase_tint(i: usize) -> Rgb {
    const TINTS: [Rgb; 5] = [
        Rgb(0xf0, 0xf2, 0xf4),
        Rgb(0xe9, 0xf2, 0xf9),
        Rgb(0xfc, 0xf3, 0xe1),
        Rgb(0xe2, 0xf3, 0xec),
        Rgb(0xf6, 0xe8, 0xf0),
    ];
    TINTS[i % TINTS.len()]
}

/// Draws the marker of the `i`-th series: filled, with a white rim that parts it from its line.
pub(super) fn marker(scene: &mut Scene, i: usize, at: Pt, radius: f64, color: Rgb) {
    let rim = Some(stroke(WHITE, 0.9));
    // Star-shaped outlines given by (number of corners, turn, inner radius over outer radius).
    let star = |corners: usize, turn: f64, inner: f64, scale: f64| -> Vec<Pt> {
        let steps = if inner < 1.0 { 2 * corners } else { corners };
        (0..steps)
            .map(|k| {
                let angle = turn + k as f64 * std::f64::consts::TAU / steps as f64;
                let r = radius * scale * if inner < 1.0 && k % 2 == 1 { inner } else { 1.0 };
                (at.0 + r * angle.sin(), at.1 - r * angle.cos())
            })
            .collect()
    };
    let eighth = std::f64::consts::FRAC_PI_4;
    let outline = match i % 8 {
        0 => {
            return scene.marks.push(Mark::Circle { centre: at, radius, fill: Some(color), stroke: rim });
        }
        1 => star(4, eighth, 1.0, 1.3),
        2 => star(3, 0.0, 1.0, 1.4),
        3 => star(4, 0.0, 1.0, 1.35),
        4 => star(3, 4.0 * eighth, 1.0, 1.4),
        5 => star(5, 0.0, 0.45, 1.6),
        6 => star(6, 0.0, 1.0, 1.15),
        _ => star(4, 0.0, 0.4, 1.7),
    };
    scene.polygons(vec![outline], (color, 1.0), rim);
}

/// Draws the sign for the `i`-th reason why a point is missing.
pub(super) fn missing(scene: &mut Scene, i: usize, at: Pt, color: Rgb) {
    let r = 3.6;
    let arm = |dx: f64, dy: f64| vec![(at.0 - dx, at.1 - dy), (at.0 + dx, at.1 + dy)];
    let pen = stroke(color, 1.7);
    match i % 3 {
        0 => scene.lines(vec![arm(r, r), arm(r, -r)], pen),
        1 => {
            scene.marks.push(Mark::Circle { centre: at, radius: r, fill: None, stroke: Some(stroke(color, 1.4)) });
            scene.lines(vec![arm(r * 0.7, -r * 0.7)], stroke(color, 1.4));
        }
        _ => scene.lines(vec![arm(r, 0.0), arm(r * 0.5, r * 0.87), arm(r * 0.5, -r * 0.87)], pen),
    }
}

/// A thin grey grid line.
pub(super) fn grid(color: Rgb) -> Stroke {
    stroke(color, 1.0)
}

/// How the values of a heat map become colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorMap {
    /// Dark violet to yellow, even to the eye (viridis); for magnitudes.
    #[default]
    Viridis,
    /// White to dark blue; for counts and confusion matrices, where nothing should look empty.
    Blues,
    /// Blue through white to red, white at zero; for signed values.
    Diverging,
}

impl ColorMap {
    /// The colour at `t` in [0, 1].
    pub(super) fn at(self, t: f64) -> Rgb {
        const VIRIDIS: [u32; 11] = [
            0x440154, 0x482475, 0x414487, 0x355f8d, 0x2a788e, 0x21918c, 0x22a884, 0x44bf70, 0x7ad151, 0xbddf26,
            0xfde725,
        ];
        const BLUES: [u32; 9] =
            [0xf7fbff, 0xdeebf7, 0xc6dbef, 0x9ecae1, 0x6baed6, 0x4292c6, 0x2171b5, 0x08519c, 0x08306b];
        const DIVERGING: [u32; 9] =
            [0x2166ac, 0x4393c3, 0x92c5de, 0xd1e5f0, 0xf7f7f7, 0xfddbc7, 0xf4a582, 0xd6604d, 0xb2182b];
        let stops: &[u32] = match self {
            ColorMap::Viridis => &VIRIDIS,
            ColorMap::Blues => &BLUES,
            ColorMap::Diverging => &DIVERGING,
        };
        let along = t.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
        let index = (along as usize).min(stops.len() - 2);
        let rgb = |v: u32| Rgb((v >> 16) as u8, (v >> 8) as u8, v as u8);
        rgb(stops[index]).mix(rgb(stops[index + 1]), along - index as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_differ_in_colour_or_dash_and_neighbours_in_marker() {
        let looks: Vec<_> = (0..28).map(|i| (color(i), dash(i))).collect();
        for i in 0..looks.len() {
            assert!(!looks[..i].contains(&looks[i]), "series {i} repeats an earlier one");
        }
    }

    #[test]
    fn colour_maps_are_total() {
        for map in [ColorMap::Viridis, ColorMap::Blues, ColorMap::Diverging] {
            assert_ne!(map.at(0.0), map.at(1.0));
            assert_eq!(map.at(-5.0), map.at(0.0));
            let _ = map.at(f64::NAN);
        }
        assert_eq!(ColorMap::Viridis.at(1.0), Rgb(0xfd, 0xe7, 0x25));
    }
}
