//! Data of one's own, from a file: `cargo run --release --example own_data [FILE.csv]`.
//!
//! The file is a table of comma-separated values: a class from 0, then the samples of one channel, a row for each recording. Without
//! a file the example writes one first: bursts of a slow or of a fast wave.

use std::{error::Error, fmt::Write, path::PathBuf};

use etrace::{prelude::*, rng::Stream as Random};

const BATCH: usize = 16;

/// Recordings of one length: a class and the samples of each.
struct Recordings {
    classes: Vec<i32>,
    samples: Vec<Vec<f32>>,
}

impl Recordings {
    fn read(path: &PathBuf) -> Result<Recordings, Box<dyn Error>> {
        let mut found = Recordings { classes: vec![], samples: vec![] };
        for (k, line) in std::fs::read_to_string(path)?.lines().enumerate() {
            let wrong = |what: String| format!("{} line {}: {what}", path.display(), k + 1);
            let (class, rest) =
                line.split_once(',').ok_or_else(|| wrong("a row is `class,sample,..`, got no comma".into()))?;
            let samples = rest.split(',').map(|v| v.trim().parse()).collect::<Result<Vec<f32>, _>>();
            let samples = samples.map_err(|e| wrong(format!("a sample is a number: {e}")))?;
            if found.samples.first().is_some_and(|first| first.len() != samples.len()) {
                return Err(wrong(format!("all rows have the same length, got {} samples", samples.len())).into());
            }
            found.classes.push(class.trim().parse().map_err(|e| wrong(format!("a class is a whole number: {e}")))?);
            found.samples.push(samples);
        }
        if found.classes.is_empty() {
            return Err(format!("{} must have a row for each recording, but it is empty", path.display()).into());
        }
        Ok(found)
    }

    fn steps(&self) -> usize {
        self.samples[0].len()
    }

    /// Inputs `[T, B, 1]` and classes `[B]` of the recordings from `first` on; a row beyond the last has class -1 and no loss.
    fn batch(&self, first: usize) -> Result<[Array; 2], Box<dyn Error>> {
        let mut inputs = Vec::new();
        for t in 0..self.steps() {
            inputs.extend((first..first + BATCH).map(|k| self.samples.get(k).map_or(0.0, |row| row[t])));
        }
        let classes: Vec<i32> = (first..first + BATCH).map(|k| self.classes.get(k).copied().unwrap_or(-1)).collect();
        Ok([Array::f32(inputs, [self.steps(), BATCH, 1])?, Array::s32(classes, [BATCH])?])
    }
}

/// A file with 40 recordings of 50 samples: not a whole number of batches, as is usual.
fn write(path: &PathBuf) -> Result<(), Box<dyn Error>> {
    let mut random = Random::new(1, "recordings");
    let mut text = String::new();
    for k in 0..40 {
        let (class, phase) = (k % 2, random.uniform() * std::f64::consts::TAU);
        write!(text, "{class}")?;
        for t in 0..50 {
            let wave = (f64::from(t) * [0.2, 0.7][class] + phase).sin() + 0.2 * random.normal();
            write!(text, ",{wave:.4}")?;
        }
        text.push('\n');
    }
    Ok(std::fs::write(path, text)?)
}

fn network(n_out: usize) -> Result<Model, ModelError> {
    Model::trace(BATCH, 1, |cx, x| {
        let v = cx.state("V", 40, StateInit::Zeros);
        let before = Surrogate::default().spike(&(&v - 1.0));
        let init = [Init::KaimingNormal(1.0), Init::KaimingNormal(1.0)];
        let new = (&v - &before) * 0.8 + cx.dense("cell", &[x, &before], 40, &Dense::new(&init));
        cx.set("V", &new);
        readout::leaky(cx, &Surrogate::default().spike(&(&new - 1.0)), n_out, 10.0, 1.0)
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let path =
        given.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("etrace-waves-{}.csv", std::process::id())));
    if given.is_none() {
        write(&path)?;
    }
    let data = Recordings::read(&path)?;
    if given.is_none() {
        std::fs::remove_file(&path)?;
    }
    let classes = data.classes.iter().max().map_or(1, |c| *c as usize + 1);
    println!("{} recordings of {} samples, {classes} classes", data.classes.len(), data.steps());

    let (session, model) = (Session::cpu()?, network(classes)?);
    let engine = Engine::new(&session, &model, &Objective::default(), &LearnerConfig::default())?;
    let optimizer = Optimizer { lr: 1e-2, ..Optimizer::default() };
    let (mut state, states) = (engine.start(optimizer.rule, 1)?, engine.states(1, 0)?);
    for epoch in 0..40 {
        let (mut right, mut losses) = (0, 0.0);
        for first in (0..data.classes.len()).step_by(BATCH) {
            let [inputs, targets] = data.batch(first)?;
            let seen = engine.sequence(&state.params, &states, &inputs, &targets)?;
            let out = seen.out.to_f64_vec();
            // The largest of the summed outputs is the answer; a row that fills up the batch has no class to agree with.
            let answer = |row: &[f64]| (0..classes).fold(0, |best, c| if row[c] > row[best] { c } else { best }) as i32;
            right +=
                out.chunks(classes).zip(targets.to_vec::<i32>()?).filter(|(row, class)| answer(row) == *class).count();
            losses += seen.loss;
            state = engine.update(&optimizer, state, &seen.grads)?.0;
        }
        let share = right as f64 / data.classes.len() as f64;
        if epoch % 10 == 9 {
            println!("epoch {epoch:2}: loss {:.4}, accuracy {share:.3}", losses / (3 * data.steps()) as f32);
        }
        assert!(given.is_some() || epoch < 39 || share > 0.8, "it learns: accuracy {share}");
    }
    Ok(())
}
