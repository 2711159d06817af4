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
    let name = path.display();
    let stored = read(path).map_err(|why| usage(format!("--check takes an .npz file, but {name}: {why}")))?;
    let Some((shape, input)) = stored.get("input") else {
        bail!(usage(format!("--check needs an array `input` of shape [T, {}], but {name} has none", net.n_in())));
    };
    let (steps, n) = (shape.first().copied().unwrap_or(0), net.n_in());
    if steps == 0 || input.len() != steps * n {
        bail!(usage(format!("--check needs an `input` of shape [T, {n}], got {shape:?}")));
    }
    let columns = [("node", Align::Left), ("values", Align::Right), ("largest difference", Align::Right)];
    let mut table = Table::new(columns.into_iter().chain([("spikes that differ", Align::Right)]));
    let (mut compared, mut wrong) = (0, Vec::new());
    for (node, spiking, got) in simulate(session, model, net, input, steps)? {
        let Some((shape, want)) = stored.get(&node) else { continue };
        if got.len() != want.len() {
            let each = got.len() / steps;
            bail!(usage(format!(
                "`{node}` has {each} values in a step, but the array of that name has the shape {shape:?}"
            )));
        }
        let apart = got.iter().zip(want).map(|(a, b)| (a - b).abs() / b.abs().max(1.0));
        // What is no number is not close.
        let most = apart.fold(0.0f32, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) });
        let spikes = got.iter().zip(want).filter(|(a, b)| a != b).count();
        compared += 1;
        let shown = if spiking { spikes.to_string() } else { String::new() };
        table.row([node.clone(), got.len().to_string(), format!("{most:.1e}"), shown]);
        wrong.extend((most > TOLERANCE).then_some(node));
    }
    if compared == 0 {
        bail!(usage(format!("--check needs arrays with names of nodes, but {name} has {:?}", stored.keys())));
    }
    say!("{table}");
    if wrong.is_empty() {
        say!("{compared} nodes agree with {name} to {TOLERANCE:e}");
        return Ok(());
    }
    say!("{} differ from {name}: is --dt or --scheme another there? No run was written", wrong.join(", "));
    Err(Failed.into())
}

/// The name of each node that shows values, whether these are spikes, and its values of `steps` steps under the input `[T, n_in]`, `[T, n]`.
fn simulate(
    session: &Session,
    model: &Model,
    net: &NirNet,
    input: &[f32],
    steps: usize,
) -> Result<Vec<(String, bool, Vec<f32>)>> {
    let (batch, n) = (model.batch(), net.n_in());
    let values: Vec<f32> = (0..steps).flat_map(|t| input[t * n..][..n].repeat(batch)).collect();
    let inputs = Array::f32(values, [steps, batch, n])?;
    let config = LearnerConfig { method: Method::BPTT, ..LearnerConfig::default() };
    let engine = Engine::new(session, model, &Objective::default(), &config)?;
    let params = engine.start(Rule::Sgd, 0)?.params;
    let seen = engine.observe(&params, &engine.states(0, 0)?, &inputs)?;
    let mut all = Vec::new();
    for (observable, array) in &seen.observed {
        let spiking = net.nodes[&observable.layer].row().arrays.iter().any(|a| a.0.ends_with("threshold"));
        if spiking == (observable.quantity == Quantity::Spike) {
            all.push((observable.layer.clone(), spiking, of_first(&array.to_vec::<f32>()?, steps, batch)));
        }
    }
    Ok(all)
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
