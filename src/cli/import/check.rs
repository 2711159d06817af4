//! `--check`: every node of an imported network against what another simulator made of the same input.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    path::Path,
};

use anyhow::{Result, bail};
use hlo::array::Array;

use super::super::{Failed, usage};
use crate::{
    cell::{Model, Quantity},
    learn::{Method, Objective, sequence::LearnerConfig},
    net::{Network, NirNet},
    report::{Align, Table},
    say,
    train::{engine::Engine, optimizer::Rule, session::Session},
};

/// The largest difference that is none.
const TOLERANCE: f32 = 1e-5;

/// Most bytes of an array.
const MOST: u64 = 1 << 30;

/// An array of a file: shape and values.
type Stored = (Vec<usize>, Vec<f32>);

/// Compares, and prints a table. A node differs if one of its values does by more than [`TOLERANCE`], relative to 1 or to the value where
/// that is larger, or one of its spikes.
///
/// # Errors
/// When the file cannot be read, or a node differs.
pub fn run(path: &Path, session: &Session, model: &Model, net: &NirNet) -> Result<()> {
    let stored = read(path).map_err(|why| {
        usage(format!("--check takes an .npz file with arrays [T, n], but {}: {why}", path.display()))
    })?;
    let Some((shape, input)) = stored.get("input") else {
        bail!(usage(format!(
            "--check needs an array `input` of shape [T, {}], but {} has none",
            net.n_in(),
            path.display()
        )));
    };
    let (steps, n) = (shape.first().copied().unwrap_or(0), net.n_in());
    if steps == 0 || input.len() != steps * n {
        bail!(usage(format!("--check needs an `input` of shape [T, {n}], got {shape:?}")));
    }
    let batch = model.batch();
    let repeated = (0..steps).flat_map(|t| (0..batch).flat_map(move |_| (0..n).map(move |i| (t, i))));
    let values: Vec<f32> = repeated.map(|(t, i)| input[t * n + i]).collect();
    let inputs = Array::f32(values, [steps, batch, n])?;
    let engine = Engine::new(
        session,
        model,
        &Objective::default(),
        &LearnerConfig { method: Method::BPTT, ..LearnerConfig::default() },
    )?;
    let params = engine.start(Rule::Sgd, 0)?.params;
    let seen = engine.observe(&params, &engine.states(0, 0)?, &inputs)?;
    let mut table = Table::new([
        ("node", Align::Left),
        ("values", Align::Right),
        ("largest difference", Align::Right),
        ("spikes that differ", Align::Right),
    ]);
    let (mut compared, mut wrong) = (0, Vec::new());
    for (observable, array) in &seen.observed {
        let spiking = net.nodes[&observable.layer].row().arrays.iter().any(|a| a.0.ends_with("threshold"));
        let Some((_, want)) = stored.get(&observable.layer) else { continue };
        if spiking != (observable.quantity == Quantity::Spike) {
            continue;
        }
        let got = of_first(&array.to_vec::<f32>()?, steps, batch);
        if got.len() != want.len() {
            bail!(usage(format!(
                "`{}` has {} values in {} steps, but the array of that name has {}",
                observable.layer,
                got.len(),
                steps,
                want.len()
            )));
        }
        let apart = |(a, b): (&f32, &f32)| (a - b).abs() / b.abs().max(1.0);
        let most = got.iter().zip(want).map(apart).fold(0.0f32, |m, d| if d.is_nan() { d } else { m.max(d) });
        let spikes = got.iter().zip(want).filter(|(a, b)| a != b).count();
        if !(most <= TOLERANCE) {
            wrong.push(observable.layer.clone());
        }
        compared += 1;
        let shown = if spiking { spikes.to_string() } else { String::new() };
        table.row([observable.layer.clone(), got.len().to_string(), format!("{most:.1e}"), shown]);
    }
    if compared == 0 {
        bail!(usage(format!(
            "--check needs arrays with names of nodes, but {} has {:?}",
            path.display(),
            stored.keys()
        )));
    }
    say!("{table}");
    if wrong.is_empty() {
        say!("{compared} nodes agree with {} to {TOLERANCE:e}", path.display());
        return Ok(());
    }
    say!("{} differ from {}: is --dt or --scheme another there? No run was written", wrong.join(", "), path.display());
    Err(Failed.into())
}

/// The first of equal sequences, `[T, B, n]` to `[T, n]`.
fn of_first(all: &[f32], steps: usize, batch: usize) -> Vec<f32> {
    let n = all.len() / (steps * batch).max(1);
    (0..steps).flat_map(|t| all[t * batch * n..][..n].to_vec()).collect()
}

/// The arrays of an .npz file, or what is wrong with it.
fn read(path: &Path) -> Result<BTreeMap<String, Stored>, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let mut all = BTreeMap::new();
    for k in 0..archive.len() {
        let file = archive.by_index(k).map_err(|e| e.to_string())?;
        let name = file.name().map_err(|e| e.to_string())?.into_owned();
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        let array = npy(&bytes).map_err(|why| format!("{name}: {why}"))?;
        all.insert(name.trim_end_matches(".npy").to_string(), array);
    }
    Ok(all)
}

/// An array of numbers in the order of C.
fn npy(bytes: &[u8]) -> Result<Stored, String> {
    let (head, rest) = bytes.split_at_checked(8).ok_or("it is cut short")?;
    if !head.starts_with(b"\x93NUMPY") {
        return Err("it is no .npy array".into());
    }
    let width = if head[6] == 1 { 2 } else { 4 };
    let (length, rest) = rest.split_at_checked(width).ok_or("it is cut short")?;
    let length = length.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
    let (text, data) = rest.split_at_checked(length).ok_or("it is cut short")?;
    let text = String::from_utf8_lossy(text).replace(' ', "");
    let after = |key: &str| text.split_once(&format!("'{key}':")).map(|(_, rest)| rest);
    let word = after("descr").and_then(|rest| rest.split('\'').nth(1)).ok_or("its type is missing")?;
    if after("fortran_order").is_some_and(|rest| rest.starts_with("True")) {
        return Err("its columns are stored first; save np.ascontiguousarray of it".into());
    }
    let list =
        after("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next()).ok_or("its shape is missing")?;
    let sizes = list.split(',').filter(|n| !n.is_empty()).map(str::parse).collect::<Result<Vec<usize>, _>>();
    let shape = sizes.map_err(|e| e.to_string())?;
    let values: Vec<f32> = match word {
        "<f4" => data.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect(),
        "<f8" => data.as_chunks::<8>().0.iter().map(|v| f64::from_le_bytes(*v) as f32).collect(),
        "<i8" => data.as_chunks::<8>().0.iter().map(|v| i64::from_le_bytes(*v) as f32).collect(),
        "<i4" => data.as_chunks::<4>().0.iter().map(|v| i32::from_le_bytes(*v) as f32).collect(),
        "|u1" | "|b1" => data.iter().map(|&v| f32::from(v)).collect(),
        other => return Err(format!("it has numbers of type {other}; save float32")),
    };
    let n = shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
    if n == Some(values.len()) {
        Ok((shape, values))
    } else {
        Err(format!("{} numbers for the shape {shape:?}", values.len()))
    }
}
