//! Fills a scene into pixels and encodes them as PNG.
//!
//! Everything, text included, is a path filled by tiny-skia with its portable (non-SIMD) pipeline, so the bytes do
//! not depend on the machine's processor.

use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Mask, Paint, Path, PathBuilder, Pixmap, PremultipliedColorU8, StrokeDash,
    Transform,
};
use ttf_parser::OutlineBuilder;

use super::font;
use super::scene::{Align, Mark, Rect, Rgb, Scene, Stroke, Text};

/// Image pixels per CSS pixel: figures are 192 dots per inch.
pub(super) const SCALE: f32 = 2.0;
const PIXELS_PER_METRE: u32 = 7559;

/// The scene as the bytes of an RGB PNG file, `SCALE` pixels per CSS pixel.
///
/// # Errors
/// Only if the image is too large to hold in memory or to encode.
pub(super) fn write(scene: &Scene) -> Result<Vec<u8>, String> {
    let (w, h) = ((scene.width as f32 * SCALE) as u32, (scene.height as f32 * SCALE) as u32);
    let mut pixmap = Pixmap::new(w, h).ok_or_else(|| format!("cannot hold an image of {w} by {h} pixels"))?;
    pixmap.fill(Color::WHITE);
    draw(&mut pixmap, &scene.marks, None);

    let rgb: Vec<u8> = pixmap.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    encode(w, h, &rgb)
}

/// `width` by `height` pixels of three bytes each as a PNG file.
pub(super) fn encode(w: u32, h: u32, rgb: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, w, h);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    encoder.set_filter(png::Filter::NoFilter);
    encoder.set_pixel_dims(Some(png::PixelDimensions {
        xppu: PIXELS_PER_METRE,
        yppu: PIXELS_PER_METRE,
        unit: png::Unit::Meter,
    }));
    let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
    writer.write_image_data(rgb).map_err(|e| e.to_string())?;
    writer.finish().map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn draw(pixmap: &mut Pixmap, marks: &[Mark], mask: Option<&Mask>) {
    let view = Transform::from_scale(SCALE, SCALE);
    for mark in marks {
        match mark {
            Mark::Path { parts, closed, fill, stroke } => {
                let mut builder = PathBuilder::new();
                for part in parts {
                    for (i, &(x, y)) in part.iter().enumerate() {
                        if i == 0 {
                            builder.move_to(x as f32, y as f32);
                        } else {
                            builder.line_to(x as f32, y as f32);
                        }
                    }
                    if *closed {
                        builder.close();
                    }
                }
                paint(pixmap, builder.finish(), *fill, stroke.as_ref(), view, mask);
            }
            Mark::Circle { centre, radius, fill, stroke } => {
                let path = PathBuilder::from_circle(centre.0 as f32, centre.1 as f32, *radius as f32);
                paint(pixmap, path, fill.map(|c| (c, 1.0)), stroke.as_ref(), view, mask);
            }
            Mark::Text(text) => draw_text(pixmap, text, view, mask),
            Mark::Image { rect, columns, rows, cells } => draw_cells(pixmap, rect, *columns, *rows, cells),
            Mark::Clip { rect, marks } => {
                // Nested clips are not needed by any chart; the inner one would replace the outer.
                if let Some(mask) = clip(pixmap, rect, view) {
                    draw(pixmap, marks, Some(&mask));
                }
            }
        }
    }
}

fn clip(pixmap: &Pixmap, rect: &Rect, view: Transform) -> Option<Mask> {
    let mut mask = Mask::new(pixmap.width(), pixmap.height())?;
    let area = tiny_skia::Rect::from_xywh(rect.x as f32, rect.y as f32, rect.w as f32, rect.h as f32)?;
    mask.fill_path(&PathBuilder::from_rect(area), FillRule::Winding, true, view);
    Some(mask)
}

fn solid(color: Rgb, opacity: f64) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(color.0, color.1, color.2, (opacity.clamp(0.0, 1.0) * 255.0).round() as u8);
    paint.anti_alias = true;
    paint
}

fn paint(
    pixmap: &mut Pixmap,
    path: Option<Path>,
    fill: Option<(Rgb, f64)>,
    stroke: Option<&Stroke>,
    view: Transform,
    mask: Option<&Mask>,
) {
    let Some(path) = path else { return };
    if let Some((color, opacity)) = fill {
        pixmap.fill_path(&path, &solid(color, opacity), FillRule::Winding, view, mask);
    }
    if let Some(stroke) = stroke {
        let dash: Vec<f32> = stroke.dash.iter().map(|&d| d as f32).collect();
        let shape = tiny_skia::Stroke {
            width: stroke.width as f32,
            line_cap: LineCap::Butt,
            line_join: LineJoin::Round,
            dash: StrokeDash::new(dash, 0.0),
            ..Default::default()
        };
        pixmap.stroke_path(&path, &solid(stroke.color, stroke.opacity), &shape, view, mask);
    }
}

/// Collects glyph outlines, each moved to its pen position.
struct Glyphs {
    builder: PathBuilder,
    pen: f32,
}

impl OutlineBuilder for Glyphs {
    fn move_to(&mut self, x: f32, y: f32) {
        self.builder.move_to(self.pen + x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.builder.line_to(self.pen + x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.builder.quad_to(self.pen + x1, y1, self.pen + x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.builder.cubic_to(self.pen + x1, y1, self.pen + x2, y2, self.pen + x, y);
    }

    fn close(&mut self) {
        self.builder.close();
    }
}

fn draw_text(pixmap: &mut Pixmap, text: &Text, view: Transform, mask: Option<&Mask>) {
    let mut glyphs = Glyphs { builder: PathBuilder::new(), pen: 0.0 };
    font::outline(&text.text, text.bold, &mut glyphs, |g, pen| g.pen = pen);
    let width = font::width(&text.text, text.size, text.bold);
    let back = match text.align {
        Align::Start => 0.0,
        Align::Middle => width / 2.0,
        Align::End => width,
    };
    let per_unit = (text.size / font::units_per_em()) as f32;
    let mut place = view.pre_translate(text.at.0 as f32, text.at.1 as f32);
    if text.upright {
        place = place.pre_rotate(-90.0);
    }
    place = place.pre_translate(-back as f32, 0.0).pre_scale(per_unit, -per_unit);
    paint(pixmap, glyphs.builder.finish(), Some((text.color, 1.0)), None, place, mask);
}

/// Copies each cell's colour to the pixels whose centres it covers; edges stay sharp whatever the cell size.
fn draw_cells(pixmap: &mut Pixmap, rect: &Rect, columns: usize, rows: usize, cells: &[Rgb]) {
    let scale = f64::from(SCALE);
    let span = |from: f64, length: f64, limit: u32| {
        let low = (from * scale).round().max(0.0);
        let high = ((from + length) * scale).round().clamp(low, f64::from(limit));
        (low as usize, high as usize)
    };
    let (x0, x1) = span(rect.x, rect.w, pixmap.width());
    let (y0, y1) = span(rect.y, rect.h, pixmap.height());
    let stride = pixmap.width() as usize;
    let cell = |i: usize, n: usize, count: usize| ((i as f64 + 0.5) / n as f64 * count as f64) as usize;
    for y in y0..y1 {
        let row = cell(y - y0, y1 - y0, rows).min(rows - 1);
        for x in x0..x1 {
            let column = cell(x - x0, x1 - x0, columns).min(columns - 1);
            let Rgb(r, g, b) = cells[row * columns + column];
            if let Some(pixel) = PremultipliedColorU8::from_rgba(r, g, b, 255) {
                pixmap.pixels_mut()[y * stride + x] = pixel;
            }
        }
    }
}
