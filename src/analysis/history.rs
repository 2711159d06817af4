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
        op::Kind,
        sequence::LearnerConfig,
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

/// Where values of the steps lie in the stacks of the loop over them.
struct Layout {
    /// The entries of the transition, by (to, from).
    transition: Vec<Vec<Option<usize>>>,
    /// Each op.
    ops: Vec<OpLayout>,
}

struct OpLayout {
    /// Its input.
    input: usize,
    /// Its drive, by state of the group.
    drive: Vec<Option<usize>>,
}

/// What an op carries from step to step.
struct Sums {
    /// Its trace, `[B, I, N]` by state of the group.
    traces: Vec<Tensor>,
    /// The sum of its drives carried to this step, `[B, N]` by state of the group.
    drives: Vec<Tensor>,
    /// The sum of its inputs, `[B, I]`.
    input: Tensor,
}

impl Sums {
    /// Zeros, for a group of `n` states of shape `[B, N]`.
    fn zeros(g: &Graph, n: usize, (batch, rows, width): (usize, usize, usize)) -> Sums {
        Sums {
            traces: (0..n).map(|_| g.zeros(&Shape::f32([batch, rows, width]))).collect(),
            drives: (0..n).map(|_| g.zeros(&Shape::f32([batch, width]))).collect(),
            input: g.zeros(&Shape::f32([batch, rows])),
        }
    }

    /// As they lie in a loop.
    fn flat(self) -> Vec<Tensor> {
        self.traces.into_iter().chain(self.drives).chain([self.input]).collect()
    }

    fn of_flat(flat: &[Tensor]) -> Sums {
        let n = flat.len() / 2;
        Sums { traces: flat[..n].to_vec(), drives: flat[n..2 * n].to_vec(), input: flat[2 * n].clone() }
    }

    /// Those of the next step, whose values are `row`.
    fn next(&self, row: &[Tensor], layout: &Layout, op: &OpLayout) -> Sums {
        let n = self.drives.len();
        let x = &row[op.input];
        let dims = self.traces[0].dims();
        let spread = |t: &Tensor| t.broadcast(dims, &[0, 2]);
        let deep = x.broadcast(dims, &[0, 1]);
        let entry = |a: usize, c: usize| layout.transition[a][c].map(|k| &row[k]);
        let drive = |a: usize| op.drive[a].map(|k| &row[k]);
        let trace = |a: usize| {
            let carried = Tensor::sum_of((0..n).map(|c| Some(spread(entry(a, c)?) * &self.traces[c])));
            let added = drive(a).map(|f| &deep * &spread(f));
            Tensor::sum_of([carried, added]).unwrap_or_else(|| self.traces[a].zeros_like())
        };
        let traces = (0..n).map(trace).collect();
        let sum = |a: usize| {
            let carried = Tensor::sum_of((0..n).map(|c| Some(entry(a, c)?.clone() * &self.drives[c])));
            Tensor::sum_of([carried, drive(a).cloned()]).unwrap_or_else(|| self.drives[a].zeros_like())
        };
        let drives = (0..n).map(sum).collect();
        Sums { traces, drives, input: &self.input + x }
    }

    /// The sum of inputs times each sum of drives, `[B, I, N]` by state of the group.
    fn products(&self) -> Vec<Tensor> {
        let dims = self.traces[0].dims();
        let product = |f: &Tensor| self.input.broadcast(dims, &[0, 1]) * f.broadcast(dims, &[0, 2]);
        self.drives.iter().map(product).collect()
    }
}

fn build(g: &Graph, learner: &Learner, k: usize, params: &[Tensor], states: &[Tensor], inputs: &Tensor) -> Vec<Tensor> {
    let (p, structure) = (&learner.prepared, &learner.structure);
    let phis = p.prefix.call(g, params);
    let steps = inputs.dims()[0];
    let inputs = inputs.convert(DType::F32);
    let forward = Forward::run(g, p, structure, &phis, states, &inputs);
    let chunk = Steps::new(g, p, structure, &phis, &forward, &inputs, &g.zeros(&p.target));
    let op_inputs = chunk.values().inputs;
    let transition = chunk.transitions().swap_remove(k);
    let group = &structure.groups[k];
    let n = group.states.len();
    let ops: Vec<usize> = traced(learner, k).collect();
    let (batch, width) = (group.dims[0], group.dims[1]);
    let full = [&[steps], &group.dims[..]].concat();

    let mut stacks: Vec<Tensor> = Vec::new();
    let mut stack = |t: &Tensor| {
        stacks.push(t.clone());
        stacks.len() - 1
    };
    let transition = transition
        .iter()
        .map(|row| row.iter().map(|t| t.as_ref().map(|t| stack(&t.broadcast_to(&full)))).collect())
        .collect();
    let places: Vec<usize> = ops.iter().map(|o| stack(&op_inputs[o])).collect();
    let of_op = |(&o, input)| {
        let drive = chunk.drive(o, k).iter().map(|t| t.as_ref().map(&mut stack)).collect();
        OpLayout { input, drive }
    };
    let layout = Layout { transition, ops: ops.iter().zip(places).map(of_op).collect() };

    let zeros = |o: &usize| Sums::zeros(g, n, (batch, op_inputs[o].dims()[2], width)).flat();
    let init: Vec<Tensor> = ops.iter().flat_map(zeros).collect();
    let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
    shapes.extend(stacks.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
    let body = Func::trace(&shapes, |g, v| {
        let (old, row) = v.split_at(init.len());
        let (mut all, mut products) = (Vec::new(), Vec::new());
        for (old, op) in old.chunks(2 * n + 1).zip(&layout.ops) {
            let new = Sums::of_flat(old).next(row, &layout, op);
            products.push(new.products());
            all.push(new);
        }
        let cosines: Vec<Tensor> = (0..n).map(|a| state_cosine(g, batch, a, &all, &products)).collect();
        all.into_iter().flat_map(Sums::flat).chain(cosines).collect()
    });
    scan_whole(g, &body, steps, false, &init, &stacks, &[]).1
}

/// The cosine of the traces of state `a` and their approximations, over all ops together, `[B]`.
fn state_cosine(g: &Graph, batch: usize, a: usize, all: &[Sums], products: &[Vec<Tensor>]) -> Tensor {
    let sum = |term: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
        let terms = all.iter().zip(products).map(|(sums, products)| term(&sums.traces[a], &products[a]));
        Tensor::sum_of(terms.map(|t| Some(t.sum(&[1, 2])))).unwrap_or_else(|| g.zeros(&Shape::f32([batch])))
    };
    let product = sum(&|trace, outer| trace * outer);
    cosine_of(&product, &sum(&|trace, _| trace.square()), &sum(&|_, outer| outer.square()))
}
