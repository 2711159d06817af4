//! The embedded typeface: how wide a text is and what its outlines are.
//!
//! Layout needs widths before anything is drawn, and both writers have to agree on them; the PNG writer also needs
//! the outlines. Both come from two subsets of Inter held in the binary, so no font of the machine is ever consulted.

use std::sync::OnceLock;

use ttf_parser::{Face, GlyphId, OutlineBuilder};

static REGULAR: &[u8] = include_bytes!("font/Inter-Regular.subset.ttf");
static SEMI_BOLD: &[u8] = include_bytes!("font/Inter-SemiBold.subset.ttf");

/// Height of a capital letter over the font size, used to centre text on a line.
pub(super) const CAP_HEIGHT: f64 = 1490.0 / 2048.0;

/// The font stack named in SVG files. Widths are pinned by `textLength`, so a substitute cannot break the layout.
pub(super) const SVG_FAMILY: &str = "Inter,'Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif";

fn face(bold: bool) -> &'static Face<'static> {
    static FACES: OnceLock<[Face<'static>; 2]> = OnceLock::new();
    let faces = FACES.get_or_init(|| {
        [REGULAR, SEMI_BOLD].map(|data| Face::parse(data, 0).expect("the embedded font is a valid TrueType file"))
    });
    &faces[usize::from(bold)]
}

/// The glyph for a character; characters outside the subset become a question mark rather than an empty box.
fn glyph(face: &Face<'_>, c: char) -> GlyphId {
    face.glyph_index(c).or_else(|| face.glyph_index('?')).unwrap_or(GlyphId(0))
}

/// Width in pixels of `text` set at `size` pixels per em.
pub(super) fn width(text: &str, size: f64, bold: bool) -> f64 {
    let face = face(bold);
    let units: u32 = text.chars().map(|c| u32::from(face.glyph_hor_advance(glyph(face, c)).unwrap_or(0))).sum();
    f64::from(units) * size / f64::from(face.units_per_em())
}

/// Feeds the outlines of `text` to `sink`, in font units with y up; `place` is told the pen position of each glyph.
pub(super) fn outline<S: OutlineBuilder>(text: &str, bold: bool, sink: &mut S, place: impl Fn(&mut S, f32)) {
    let face = face(bold);
    let mut pen = 0u32;
    for c in text.chars() {
        let id = glyph(face, c);
        place(sink, pen as f32);
        face.outline_glyph(id, sink);
        pen += u32::from(face.glyph_hor_advance(id).unwrap_or(0));
    }
}

/// Font units per em.
pub(super) fn units_per_em() -> f64 {
    f64::from(face(false).units_per_em())
}

/// `text`, shortened with an ellipsis until it is at most `max` pixels wide.
pub(super) fn ellipsize(text: &str, size: f64, bold: bool, max: f64) -> String {
    if width(text, size, bold) <= max {
        return text.to_owned();
    }
    let chars: Vec<char> = text.chars().collect();
    for keep in (1..chars.len()).rev() {
        let mut short: String = chars[..keep].iter().collect();
        short.truncate(short.trim_end().len());
        short.push('…');
        if width(&short, size, bold) <= max {
            return short;
        }
    }
    "…".to_owned()
}

/// Breaks `text` at spaces into at most `lines` lines of at most `max` pixels; what does not fit is ellipsized.
pub(super) fn wrap(text: &str, size: f64, bold: bool, max: f64, lines: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let full = out.len() == lines;
        match out.last_mut() {
            Some(line) if full || width(&format!("{line} {word}"), size, bold) <= max => {
                line.push(' ');
                line.push_str(word);
            }
            _ => out.push(word.to_owned()),
        }
    }
    out.iter().map(|line| ellipsize(line, size, bold, max)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn width_grows_with_text_and_size() {
        assert_eq!(width("", 12.0, false), 0.0);
        assert!(width("mm", 12.0, false) > width("m", 12.0, false));
        assert!((width("m", 24.0, true) - 2.0 * width("m", 12.0, true)).abs() < 1e-9);
    }

    #[test]
    fn every_sign_the_module_writes_is_in_the_subset() {
        for c in "µ×−–…·⁰¹²³⁴⁵⁶⁷⁸⁹⁻ θκαβγτσΔ≤≥≈∞".chars() {
            for bold in [false, true] {
                assert!(face(bold).glyph_index(c).is_some(), "no glyph for {c:?}, bold {bold}");
            }
        }
    }

    #[test]
    fn wrapped_and_ellipsized_lines_fit() {
        let text = "a rather long title about eligibility traces in recurrent spiking networks";
        let lines = wrap(text, 15.0, true, 160.0, 2);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| width(line, 15.0, true) <= 160.0));
        assert!(lines[1].ends_with('…'));
        assert_eq!(wrap(text, 15.0, true, 2000.0, 2), [text]);
        assert_eq!(ellipsize("unbreakable", 12.0, false, 0.0), "…");
    }
}
