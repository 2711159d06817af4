//! Writes a scene as SVG 1.1: one element per mark, coordinates to a hundredth of a pixel.
//!
//! Text stays text, so it can be searched and edited; `textLength` holds it to the width the layout reckoned with.
//! Clipping is done by nested `svg` elements rather than `clipPath`, so the file needs no identifiers and several
//! figures can be pasted into one page.

use std::fmt::Write;

use super::font;
use super::raster;
use super::scene::{Align, Mark, Pt, Rect, Rgb, Scene, Stroke, Text};

/// Matrices of more cells than this are embedded as an image, one image pixel to a cell.
const CELLS: usize = 4096;

/// The scene as the text of an SVG file.
pub(super) fn write(scene: &Scene) -> String {
    let (w, h) = (num(scene.width), num(scene.height));
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" \
         height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\" font-family=\"{}\">\n<title>{}</title>\n\
         <rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n",
        font::SVG_FAMILY,
        escape(&scene.title)
    );
    for mark in &scene.marks {
        write_mark(&mut out, mark);
    }
    out.push_str("</svg>\n");
    out
}

fn write_mark(out: &mut String, mark: &Mark) {
    match mark {
        Mark::Path { parts, closed, fill, stroke } => {
            out.push_str("<path d=\"");
            for part in parts {
                path_data(out, part, *closed);
            }
            out.push('"');
            match fill {
                Some((color, opacity)) => {
                    let _ = write!(out, " fill=\"{}\"", hex(*color));
                    if *opacity < 1.0 {
                        let _ = write!(out, " fill-opacity=\"{}\"", num(*opacity));
                    }
                }
                None => out.push_str(" fill=\"none\""),
            }
            write_stroke(out, stroke.as_ref());
            out.push_str("/>\n");
        }
        Mark::Circle { centre, radius, fill, stroke } => {
            let fill = fill.map_or("none".to_owned(), hex);
            let (x, y) = (num(centre.0), num(centre.1));
            let _ = write!(out, "<circle cx=\"{x}\" cy=\"{y}\" r=\"{}\" fill=\"{fill}\"", num(*radius));
            write_stroke(out, stroke.as_ref());
            out.push_str("/>\n");
        }
        Mark::Text(text) => write_text(out, text),
        Mark::Image { rect, columns, rows, cells } if cells.len() <= CELLS => {
            write_cells(out, rect, *columns, *rows, cells);
        }
        Mark::Image { rect, columns, rows, cells } => {
            let [x, y, w, h] = [rect.x, rect.y, rect.w, rect.h].map(num);
            let rgb: Vec<u8> = cells.iter().flat_map(|c| [c.0, c.1, c.2]).collect();
            // An image that cannot be encoded is one too large to be looked at; the axes are still worth having.
            let png = raster::encode(*columns as u32, *rows as u32, &rgb).unwrap_or_default();
            let _ = writeln!(
                out,
                "<image x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" preserveAspectRatio=\"none\" \
                 style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>",
                base64(&png)
            );
        }
        Mark::Clip { rect, marks } => {
            let [x, y, w, h] = [rect.x, rect.y, rect.w, rect.h].map(num);
            let _ = writeln!(out, "<svg x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" viewBox=\"{x} {y} {w} {h}\">");
            for mark in marks {
                write_mark(out, mark);
            }
            out.push_str("</svg>\n");
        }
    }
}

/// One rectangle for each run of equal neighbours in a row.
fn write_cells(out: &mut String, rect: &Rect, columns: usize, rows: usize, cells: &[Rgb]) {
    out.push_str("<g shape-rendering=\"crispEdges\">\n");
    let (cw, ch) = (rect.w / columns as f64, rect.h / rows as f64);
    for (row, line) in cells.chunks(columns).enumerate() {
        let mut column = 0;
        for run in line.chunk_by(|a, b| a == b) {
            let (x, y) = (num(rect.x + column as f64 * cw), num(rect.y + row as f64 * ch));
            let (w, h, fill) = (num(run.len() as f64 * cw), num(ch), hex(run[0]));
            let _ = writeln!(out, "<path d=\"M{x} {y}h{w}v{h}h-{w}z\" fill=\"{fill}\"/>");
            column += run.len();
        }
    }
    out.push_str("</g>\n");
}

/// RFC 4648 base 64, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |g, b| g << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

fn path_data(out: &mut String, points: &[Pt], closed: bool) {
    let mut last: Option<(String, String)> = None;
    for point in points {
        let (x, y) = (num(point.0), num(point.1));
        let _ = match &last {
            None => write!(out, "M{x} {y}"),
            Some((px, _)) if *px == x => write!(out, "V{y}"),
            Some((_, py)) if *py == y => write!(out, "H{x}"),
            Some(_) => write!(out, "L{x} {y}"),
        };
        last = Some((x, y));
    }
    if closed {
        out.push('z');
    }
}

fn write_stroke(out: &mut String, stroke: Option<&Stroke>) {
    let Some(stroke) = stroke else { return };
    let (color, width) = (hex(stroke.color), num(stroke.width));
    let _ = write!(out, " stroke=\"{color}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"");
    if stroke.opacity < 1.0 {
        let _ = write!(out, " stroke-opacity=\"{}\"", num(stroke.opacity));
    }
    if !stroke.dash.is_empty() {
        let dash: Vec<String> = stroke.dash.iter().copied().map(num).collect();
        let _ = write!(out, " stroke-dasharray=\"{}\"", dash.join(" "));
    }
}

fn write_text(out: &mut String, text: &Text) {
    let (x, y) = (num(text.at.0), num(text.at.1));
    let _ = write!(out, "<text x=\"{x}\" y=\"{y}\" font-size=\"{}\" fill=\"{}\"", num(text.size), hex(text.color));
    match text.align {
        Align::Start => {}
        Align::Middle => out.push_str(" text-anchor=\"middle\""),
        Align::End => out.push_str(" text-anchor=\"end\""),
    }
    if text.bold {
        out.push_str(" font-weight=\"600\"");
    }
    if text.upright {
        let _ = write!(out, " transform=\"rotate(-90 {x} {y})\"");
    }
    let length = num(font::width(&text.text, text.size, text.bold));
    let _ = writeln!(out, " textLength=\"{length}\" lengthAdjust=\"spacingAndGlyphs\">{}</text>", escape(&text.text));
}

/// A coordinate to two decimals without trailing zeros; never `NaN` or `inf`, which are not SVG numbers.
fn num(v: f64) -> String {
    let v = if v.is_finite() { v } else { 0.0 };
    let mut s = format!("{v:.2}");
    s.truncate(s.trim_end_matches('0').trim_end_matches('.').len());
    if s == "-0" { "0".to_owned() } else { s }
}

fn hex(c: Rgb) -> String {
    format!("#{:02x}{:02x}{:02x}", c.0, c.1, c.2)
}

/// Text fit for an element or attribute; characters XML 1.0 forbids are replaced.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_finite() {
        assert_eq!(num(1.0), "1");
        assert_eq!(num(-0.001), "0");
        assert_eq!(num(12.346), "12.35");
        assert_eq!(num(f64::NAN), "0");
        assert_eq!(num(100.0), "100");
    }

    #[test]
    fn markup_and_forbidden_characters_are_escaped() {
        assert_eq!(escape("a<b & \"c\"\u{0}"), "a&lt;b &amp; &quot;c&quot;\u{fffd}");
    }

    #[test]
    fn base64_follows_the_vectors_of_rfc_4648() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn straight_segments_use_one_coordinate() {
        let mut out = String::new();
        path_data(&mut out, &[(1.0, 2.0), (1.0, 5.0), (4.0, 5.0), (6.0, 7.5)], true);
        assert_eq!(out, "M1 2V5H4L6 7.5z");
    }
}
