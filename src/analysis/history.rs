//! Whether a sum of outer products is close to the outer product of sums, along the traces of D-RTRL (theorem 3).
//!
//! With `x_r` the input of a map at step r and `f_r(t)` its drive carried from r to t by the diagonal Jacobians, the cosine of
//! `sum_r x_r f_r(t)` (the trace of D-RTRL) and `sum_r x_r . sum_r f_r(t) / (t + 1)`, for every step, sample and hidden state.
//! Both sides follow recursions, so nothing of the history is kept.

use hlo::{DType, Func, Graph, Shape, Tensor, scan_whole};
use tasks::Batch;

use super::{Analysis, cosine_of, layer_groups};
use crate::{
    cell::Model,
    learn::{
        Learner, Method, Objective,
        chunk::{Forward, Steps},
        sequence::LearnerConfig,
        structure::Kind,
    },
    train::{program::ProgramError, session::Session},
};

/// The analysis of one network.
pub struct History<'a> {
    analysis: Analysis<'a>,
    /// Hidden states, in the order of the results.
    pub states: Vec<String>,
}

impl<'a> History<'a> {
    /// Compiles the analysis of `model`.
    ///
    /// # Errors
    /// When the model has no structure that online learning can use, or the program does not compile.
    pub fn new(session: &'a Session, model: &Model, steps: usize) -> Result<History<'a>, ProgramError> {
        let learner = Learner::new(
            model,
            &Objective::default(),
            &LearnerConfig { method: Method::D_RTRL, ..Default::default() },
        )?;
        let mut groups = layer_groups(&learner, model);
        groups.retain(|&g| traced(&learner, g).next().is_some());
        let states = groups.iter().flat_map(|&g| learner.structure.groups[g].states.clone());
        let states = states.map(|s| model.states[s].name.clone()).collect();
        let analysis = Analysis::new(session, "history", model, steps, |g, params, initial, inputs| {
            groups.iter().flat_map(|&k| build(g, &learner, k, params, initial, inputs)).collect()
        })?;
        Ok(History { analysis, states })
    }

    /// Cosines by hidden state, `[T, B]` each.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&self, seed: u64, batch: &Batch) -> Result<Vec<Vec<f32>>, ProgramError> {
        self.analysis.run(seed, batch)
    }
}

/// Dense ops that drive a group.
fn traced(learner: &Learner, group: usize) -> impl Iterator<Item = usize> + '_ {
    learner
        .structure
        .traced()
        .filter(move |(_, op)| op.kind == Kind::Dense && op.groups.contains(&group))
        .map(|(k, _)| k)
}

fn build(g: &Graph, learner: &Learner, k: usize, params: &[Tensor], states: &[Tensor], inputs: &Tensor) -> Vec<Tensor> {
    let p = &learner.prepared;
    let phis = p.prefix.call(g, params);
    let steps = inputs.dims()[0];
    let inputs = inputs.convert(DType::F32);
    let forward = Forward::run(g, p, &learner.structure, &phis, states, &inputs);
    let chunk = Steps::new(g, p, &learner.structure, &phis, &forward, &inputs, &g.zeros(&p.target));
    let op_inputs = chunk.values().inputs;
    let transition = chunk.transitions().swap_remove(k);
    let group = &learner.structure.groups[k];
    let n = group.states.len();
    let ops: Vec<usize> = traced(learner, k).collect();
    let (batch, width) = (group.dims[0], group.dims[1]);
    let full = [&[steps], &group.dims[..]].concat();

    let mut stacks: Vec<Tensor> = Vec::new();
    let mut stack = |t: &Tensor| {
        stacks.push(t.clone());
        stacks.len() - 1
    };
    let d: Vec<Vec<Option<usize>>> = transition
        .iter()
        .map(|r| r.iter().map(|t| t.as_ref().map(|t| stack(&t.broadcast_to(&full)))).collect())
        .collect();
    let x: Vec<usize> = ops.iter().map(|o| stack(&op_inputs[o])).collect();
    let f: Vec<Vec<Option<usize>>> =
        ops.iter().map(|&o| chunk.drive(o, k).iter().map(|t| t.as_ref().map(&mut stack)).collect()).collect();

    // Per op: a trace and a sum of drives for each state, and a sum of inputs.
    let mut init: Vec<Tensor> = Vec::new();
    for &o in &ops {
        let rows = op_inputs[&o].dims()[2];
        init.extend((0..n).map(|_| g.zeros(&Shape::f32([batch, rows, width]))));
        init.extend((0..n).map(|_| g.zeros(&Shape::f32([batch, width]))));
        init.push(g.zeros(&Shape::f32([batch, rows])));
    }
    let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
    shapes.extend(stacks.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
    let body = Func::trace(&shapes, |g, v| {
        let (old, row) = v.split_at(init.len());
        let (mut new, mut outer): (Vec<Tensor>, Vec<Tensor>) = (Vec::new(), Vec::new());
        for (o, all) in old.chunks(2 * n + 1).enumerate() {
            let (e, sums) = all.split_at(n);
            let x = &row[x[o]];
            let dims = e[0].dims();
            let spread = |t: &Tensor| t.broadcast(dims, &[0, 2]);
            let deep = x.broadcast(dims, &[0, 1]);
            let carried = |values: &[Tensor], a: usize, wide: bool| {
                let term =
                    |c: usize| Some(if wide { spread(&row[d[a][c]?]) } else { row[d[a][c]?].clone() } * &values[c]);
                Tensor::sum_of((0..n).map(term))
            };
            let drive = |a: usize| f[o][a].map(|k| row[k].clone());
            let next = |a: usize| {
                let added = drive(a).map(|f| &deep * &spread(&f));
                Tensor::sum_of([carried(e, a, true), added]).unwrap_or_else(|| e[a].zeros_like())
            };
            let traces: Vec<Tensor> = (0..n).map(next).collect();
            let drives: Vec<Tensor> = (0..n)
                .map(|a| Tensor::sum_of([carried(sums, a, false), drive(a)]).unwrap_or_else(|| sums[a].zeros_like()))
                .collect();
            let input = &sums[n] + x;
            outer.extend(drives.iter().map(|f| input.broadcast(dims, &[0, 1]) * spread(f)));
            new.extend(traces);
            new.extend(drives);
            new.push(input);
        }
        // All maps of a state together.
        for a in 0..n {
            let trace = |o: usize| &new[o * (2 * n + 1) + a];
            let sum = |term: &dyn Fn(usize) -> Tensor| {
                Tensor::sum_of((0..ops.len()).map(|o| Some(term(o).sum(&[1, 2]))))
                    .unwrap_or_else(|| g.zeros(&Shape::f32([batch])))
            };
            let product = sum(&|o| trace(o) * &outer[o * n + a]);
            let cosine = cosine_of(&product, &sum(&|o| trace(o).square()), &sum(&|o| outer[o * n + a].square()));
            new.push(cosine);
        }
        new
    });
    scan_whole(g, &body, steps, false, &init, &stacks, &[]).1
}
