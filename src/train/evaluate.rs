//! How good a network is on a split: loss, score, which classes it confuses, who is understood, which layers fire.

#[cfg(feature = "plot")]
use std::path::Path;
use std::{fmt, sync::Arc};

use tasks::{Split, Task};

use super::{
    program::{EvalProgram, TrainState},
    score::{Measure, Score},
    trainer::TrainError,
};
use crate::{
    learn::objective::TargetKind,
    report::{Align, Table},
};
#[cfg(feature = "plot")]
use crate::{
    plot::{Axis, ColorMap, Figure, HeatMap, PlotError},
    train::checkpoint::write_atomic,
};

/// The answer to one sample, or to one of its steps where each has a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Number of the sample in its split.
    pub id: u64,
    /// The right class.
    pub target: usize,
    /// The class whose output is largest: summed over the sample, or that of the step.
    pub answer: usize,
}

/// Everything an evaluation says.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// Mean loss.
    pub loss: f64,
    /// Share of right answers, or the normalised error.
    pub score: Score,
    /// Number of samples.
    pub samples: usize,
    /// One for each sample, or for each of its steps that has a class; none where targets are numbers.
    pub answers: Vec<Answer>,
    /// Layers that fire: name, spikes per neuron and step.
    pub rates: Vec<(String, f64)>,
    /// Number of classes.
    pub classes: usize,
}

/// Evaluates the parameters of `state` on a split of a task: on all of it, or on `batches`, which a task needs that makes trials for ever.
/// `done` is called after each batch.
///
/// # Errors
/// When data or device fail.
pub fn evaluate(
    program: &EvalProgram,
    task: &Arc<dyn Task>,
    state: &TrainState,
    split: Split,
    of: (u64, Option<u64>),
    threads: usize,
    done: &mut dyn FnMut(),
) -> Result<Evaluation, TrainError> {
    let classes = program.forward.model().output.dims[1];
    let mut found = Evaluation { classes, ..Evaluation::default() };
    found.rates = program.layers().iter().map(|name| (name.clone(), 0.0)).collect();
    let mut scores = 0.0;
    program.forward.each(task, state, split, of, threads, |batch, values| {
        let report = program.report(values)?;
        let sum = |values: &[f32]| values[..batch.real].iter().map(|v| f64::from(*v)).sum::<f64>();
        found.loss += sum(&report.losses);
        found.rates.iter_mut().zip(&report.rates).for_each(|(mean, rates)| mean.1 += sum(rates));
        scores += sum(&report.scores);
        found.samples += batch.real;
        if program.target().kind == TargetKind::Class {
            let ids = &batch.ids[..batch.real];
            found.answers.extend(answers(&report.out, (batch.rows, classes), &batch.targets, ids));
        }
        done();
        Ok(())
    })?;
    let n = found.samples.max(1) as f64;
    found.loss /= n;
    found.score = match Measure::of(program.target()) {
        Measure::Accuracy => Score::Accuracy(found.share(|_| true).unwrap_or(0.0)),
        Measure::Nmse => Score::Nmse(scores / n),
    };
    found.rates.iter_mut().for_each(|(_, rate)| *rate /= n);
    Ok(found)
}

/// The answers to the samples with these `ids`, the first rows of a batch: `out` is `[B, C]` or that of the steps that count, `[.., B, C]`,
/// and `targets` `[B]` or `[T, B]`.
fn answers(out: &[f32], (batch, classes): (usize, usize), targets: &[i32], ids: &[u64]) -> Vec<Answer> {
    let steps = out.len() / (batch * classes).max(1);
    let before = targets.len() - steps * batch;
    let answer = |b: usize, t: usize| {
        let row = t * batch + b;
        let out = &out[row * classes..][..classes];
        // The first of equals, as the device's argmax has it.
        let answer = (0..classes).fold(0, |best, c| if out[c] > out[best] { c } else { best });
        Some(Answer { id: ids[b], target: usize::try_from(targets[before + row]).ok()?, answer })
    };
    (0..ids.len()).flat_map(|b| (0..steps).filter_map(move |t| answer(b, t))).collect()
}

impl Evaluation {
    /// Share of right answers among the samples that `counts`; `None` if there are none.
    pub fn share(&self, counts: impl Fn(&Answer) -> bool) -> Option<f64> {
        let chosen: Vec<&Answer> = self.answers.iter().filter(|a| counts(a)).collect();
        let right = chosen.iter().filter(|a| a.answer == a.target).count();
        (!chosen.is_empty()).then(|| right as f64 / chosen.len() as f64)
    }

    /// How often class `target` (row) was answered with `answer` (column).
    pub fn confusion(&self) -> Vec<Vec<u64>> {
        let mut table = vec![vec![0; self.classes]; self.classes];
        for a in &self.answers {
            table[a.target][a.answer] += 1;
        }
        table
    }

    /// Layers without a single spike.
    pub fn silent(&self) -> Vec<&str> {
        self.rates.iter().filter(|(_, rate)| *rate == 0.0).map(|(name, _)| name.as_str()).collect()
    }

    /// Accuracy by whose samples they are: those of `known` people, and the others.
    pub fn by_person(&self, people: &[i64], known: &[i64]) -> [(&'static str, usize, Option<f64>); 2] {
        let is_known = |a: &Answer| people.get(a.id as usize).is_some_and(|m| known.contains(m));
        let count = |f: &dyn Fn(&Answer) -> bool| self.answers.iter().filter(|a| f(a)).count();
        let unknown = |a: &Answer| !is_known(a);
        [
            ("heard in training", count(&is_known), self.share(is_known)),
            ("never heard", count(&unknown), self.share(unknown)),
        ]
    }

    /// Writes `confusion.csv` and `confusion.svg/.png` into `dir`.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    #[cfg(feature = "plot")]
    pub fn write(&self, dir: &Path, title: &str) -> Result<(), PlotError> {
        let table = self.confusion();
        let line = |row: &Vec<u64>| row.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let mut csv = format!("target,{}\n", (0..self.classes).map(|c| c.to_string()).collect::<Vec<_>>().join(","));
        for (target, row) in table.iter().enumerate() {
            csv.push_str(&format!("{target},{}\n", line(row)));
        }
        let path = dir.join("confusion.csv");
        let written = std::fs::create_dir_all(dir).and_then(|()| write_atomic(&path, csv.as_bytes()));
        written.map_err(|source| PlotError::Io { path, source })?;
        let share = |row: &Vec<u64>| {
            // A class that was answered and never asked for has no shares.
            let total = row.iter().sum::<u64>() as f64;
            row.iter().map(|&n| n as f64 / total).collect::<Vec<_>>()
        };
        // Classes that nobody asked for and nothing was answered with say nothing.
        let met = |c: &usize| table[*c].iter().any(|n| *n > 0) || table.iter().any(|row| row[*c] > 0);
        let shown: Vec<usize> = (0..self.classes).filter(met).collect();
        // Room for a number in each cell.
        let side = (30 * shown.len() as u32).max(370);
        let names: Vec<String> = shown.iter().map(usize::to_string).collect();
        let shares = shown.iter().flat_map(|&target| {
            let row = share(&table[target]);
            shown.iter().map(move |&answer| row[answer]).collect::<Vec<_>>()
        });
        HeatMap::new(
            "Answers to each class",
            [shown.len(); 2],
            shares,
            Axis::new("share of the samples of the class").range(0.0, 1.0),
        )
        .subtitle(title)
        .x_names("answer", names.clone())
        .y_names("target", names)
        .colors(ColorMap::Blues)
        .numbers(2)
        .square()
        .size(170 + side, 110 + side)
        .save(dir.join("confusion"))?;
        Ok(())
    }
}

/// What a layer is called in texts: its name, or 0 in a network without scopes.
pub fn layer_label(layer: &str) -> &str {
    if layer.is_empty() { "0" } else { layer }
}

/// Spikes per neuron and step of layers as a table, with Hz for steps of `dt` ms, and the activity sparsity: the share of neurons
/// that say nothing in a step, and whose outgoing products need not be computed.
pub struct Rates<'a>(pub &'a [(String, f64)], pub f64);

impl fmt::Display for Rates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ["spikes per neuron and step", "Hz", "activity sparsity"].map(|c| (c, Align::Right));
        let mut table = Table::new([("layer", Align::Left)].into_iter().chain(columns));
        for (name, rate) in self.0 {
            let (hz, sparsity) = (rate * 1000.0 / self.1, 100.0 * (1.0 - rate));
            table.row([
                layer_label(name).to_string(),
                format!("{rate:.4}"),
                format!("{hz:.2}"),
                format!("{sparsity:.2} %"),
            ]);
        }
        write!(f, "{table}")
    }
}
