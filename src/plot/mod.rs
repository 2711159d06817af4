//! Figures: one description, written both as SVG and as PNG.
//!
//! A chart ([`LineChart`], [`Panels`], [`HeatMap`], [`Frames`], [`BarChart`]) is a plain value built up by its methods. Laying it
//! out gives a [`Scene`], a flat list of marks in pixels; two writers turn the scene into files:
//!
//! ```text
//! chart ──scene()──> Scene ──┬─ svg.rs ────> STEM.svg   text, searchable, for pages and print
//!                            └─ raster.rs ─> STEM.png   two image pixels to a pixel, for reports
//! ```
//!
//! The typeface is part of the binary and no font, clock or processor feature of the machine is consulted, so one
//! program draws a figure with the same bytes every time. Data may be anything: values that are not finite are gaps, values without a
//! place on a logarithmic axis are left out, empty and constant series get a sensible range, long series are thinned
//! to what the pixels can show.
//!
//! Reading order: `number` and `axis` (ticks), `style`, `scene`, `frame` (what surrounds the data), the charts, the
//! writers.

mod axis;
mod bars;
mod decimate;
mod font;
mod frame;
mod frames;
mod heatmap;
mod lines;
mod number;
mod panels;
mod raster;
mod scene;
mod style;
mod svg;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

pub use axis::{Axis, Scale, round_up};
pub use bars::BarChart;
pub use frame::Legend;
pub use frames::Frames;
pub use heatmap::HeatMap;
pub use lines::{LineChart, Series};
pub use number::{Unit, quantity};
pub use panels::{Panel, Panels};
pub use scene::Scene;
pub use style::ColorMap;

/// Why a figure was not written.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// A file or folder could not be written.
    #[error("figure: cannot write {}: {source}; check that the folder can be written to and has room", path.display())]
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The image could not be encoded.
    #[error("figure: cannot encode {} as PNG: {reason}; choose a smaller size", path.display())]
    Encode {
        /// The file that would have held the image.
        path: PathBuf,
        /// What the encoder said.
        reason: String,
    },
}

/// Anything that can be laid out and saved.
pub trait Figure {
    /// Lays the figure out in pixels.
    fn scene(&self) -> Scene;

    /// The text of the SVG file.
    fn svg(&self) -> String {
        svg::write(&self.scene())
    }

    /// Writes `STEM.svg` and `STEM.png` and returns their paths in this order.
    ///
    /// If `stem` is a folder (or ends in a slash), the name is made from the title: "Memory, T = 100" gives
    /// `memory-t-100`. Missing folders are made. Each file is written beside its place and renamed into it, so no
    /// reader ever sees half a figure.
    ///
    /// # Errors
    /// [`PlotError`], with the path, if a file cannot be written or the image cannot be encoded.
    fn save(&self, stem: impl AsRef<Path>) -> Result<[PathBuf; 2], PlotError>
    where
        Self: Sized,
    {
        let scene = self.scene();
        let stem = stem.as_ref();
        let is_folder = stem.is_dir() || stem.as_os_str().to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]);
        let stem = if is_folder { stem.join(slug(&scene.title)) } else { stem.to_owned() };
        if let Some(folder) = stem.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|source| PlotError::Io { path: folder.to_owned(), source })?;
        }
        let [svg_path, png_path] = ["svg", "png"].map(|extension| {
            // Not `with_extension`, which would cut a stem such as `loss-0.5`.
            let mut name = stem.as_os_str().to_owned();
            name.push(".");
            name.push(extension);
            PathBuf::from(name)
        });
        let png = raster::write(&scene).map_err(|reason| PlotError::Encode { path: png_path.clone(), reason })?;
        write_whole(&svg_path, svg::write(&scene).as_bytes())?;
        write_whole(&png_path, &png)?;
        Ok([svg_path, png_path])
    }
}

/// Puts `bytes` at `path` by writing a file beside it and renaming that.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), PlotError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        PlotError::Io { path: path.to_owned(), source }
    })
}

/// A file name made from a title: lower-case letters and digits, words joined by hyphens.
fn slug(title: &str) -> String {
    let spaced: String =
        title.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
    let words: Vec<&str> = spaced.split_whitespace().take(10).collect();
    if words.is_empty() { "figure".to_owned() } else { words.join("-") }
}

/// A size in pixels that can be laid out and held in memory.
fn bounded_size(width: u32, height: u32) -> (f64, f64) {
    (f64::from(width.clamp(240, 4000)), f64::from(height.clamp(180, 4000)))
}
