//! How close the diagonal hidden Jacobian is to the full one.
//!
//! With all hidden states of the layers in one vector h, `J_t = dh(t)/dh(t-1)` and `D_t` the same with the outputs of all
//! trained maps held fixed (what D-RTRL keeps): the cosine of the two for every step, and of their products over the
//! sequence.

use std::ops::Range;

use hlo::{
    DType, Func, Graph, Mapped, Shape, Tensor, scan_whole,
    transform::{Dual, jvp, vmap},
};
use tasks::Batch;

use super::{Analysis, cosine_of, layer_groups, total};
use crate::{
    cell::Model,
    learn::{
        Learner, Method, Objective,
        chunk::{Forward, Steps, Transition},
        sequence::LearnerConfig,
    },
    train::{program::ProgramError, session::Session},
};

/// What is known of one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Similarity {
    /// Cosine of `J_t` and `D_t`, by step.
    pub steps: Vec<f32>,
    /// Share of the neurons that spike, by step.
    pub spiking: Vec<f32>,
    /// Cosine of their products over the sequence.
    pub whole: f32,
    /// Spikes per neuron and step.
    pub rate: f32,
}

/// The analysis of one network, for sequences of some length and batch 1.
pub struct Jacobian<'a> {
    analysis: Analysis<'a>,
}

impl<'a> Jacobian<'a> {
    /// Compiles the analysis of `model`, whose batch is 1.
    ///
    /// # Errors
    /// When the model has no structure that online learning can use, or the program does not compile.
    pub fn new(session: &'a Session, model: &Model, steps: usize) -> Result<Jacobian<'a>, ProgramError> {
        let learner = Learner::new(
            model,
            &Objective::default(),
            &LearnerConfig { method: Method::D_RTRL, ..Default::default() },
        )?;
        let analysis = Analysis::new(session, "jacobian", model, steps, |g, params, states, inputs| {
            build(g, &learner, model, params, states, inputs)
        })?;
        Ok(Jacobian { analysis })
    }

    /// The cosines for the network of `seed` on one sample.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&self, seed: u64, batch: &Batch) -> Result<Similarity, ProgramError> {
        self.run_as(&self.analysis.model, seed, batch)
    }

    /// The same with the initial values of another model of the same shapes.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run_as(&self, model: &Model, seed: u64, batch: &Batch) -> Result<Similarity, ProgramError> {
        let mut out = self.analysis.run_as(model, seed, batch)?;
        let (spiking, whole) = (out.swap_remove(2), out[1][0]);
        let rate = spiking.iter().sum::<f32>() / spiking.len().max(1) as f32;
        Ok(Similarity { steps: out.swap_remove(0), spiking, whole, rate })
    }
}

/// The hidden states of the layers, in one vector h.
struct Hidden {
    /// The states, group by group.
    states: Vec<usize>,
    /// Neurons of each.
    widths: Vec<usize>,
    /// The groups, with the positions of their states in `states`.
    groups: Vec<(usize, Range<usize>)>,
}

/// A block of a matrix between hidden states whose blocks are diagonal.
struct Block {
    /// Position of the state of its rows.
    to: usize,
    /// Position of the state of its columns.
    from: usize,
    /// Its diagonal, `[1, n]`, or that of each step, `[T, 1, n]`.
    diagonal: Tensor,
}

impl Hidden {
    fn new(learner: &Learner, model: &Model) -> Hidden {
        let (mut states, mut groups) = (Vec::new(), Vec::new());
        for k in layer_groups(learner, model) {
            let start = states.len();
            states.extend_from_slice(&learner.structure.groups[k].states);
            groups.push((k, start..states.len()));
        }
        let widths = states.iter().map(|&s| model.states[s].shape.dims[1]).collect();
        Hidden { states, widths, groups }
    }

    /// Number of values of h.
    fn size(&self) -> usize {
        self.widths.iter().sum()
    }

    /// Where the values of state `k` start in h.
    fn offset(&self, k: usize) -> usize {
        self.widths[..k].iter().sum()
    }

    /// The pairs (to, from) of states of one group.
    fn pairs(&self) -> Vec<(usize, usize)> {
        let of_group = |states: &Range<usize>| {
            let (to, from) = (states.clone(), states.clone());
            to.flat_map(move |a| from.clone().map(move |c| (a, c)))
        };
        self.groups.iter().flat_map(|(_, states)| of_group(states)).collect()
    }

    /// One tangent for each value of h: rows of the identity, `[size, 1, n]` by state.
    fn identity(&self, g: &Graph) -> Vec<Tensor> {
        let of_state = |k: usize| {
            let all = |d: usize| g.iota(Shape::s32([self.size(), 1, self.widths[k]]), d);
            let column = all(2) + g.scalar(DType::S32, self.offset(k) as f64);
            column.eq(&all(0)).convert(DType::F32)
        };
        (0..self.states.len()).map(of_state).collect()
    }

    /// (phi, states, input, tangents of the hidden states) to the tangents of the new ones.
    fn tangents(&self, learner: &Learner, model: &Model) -> Func {
        let p = &learner.prepared;
        let mut shapes: Vec<Shape> = p.prefix.results().iter().map(|t| t.shape().clone()).collect();
        shapes.extend(model.states.iter().map(|s| s.shape.clone()));
        shapes.push(p.input.clone());
        let given = shapes.len();
        shapes.extend(self.states.iter().map(|&s| model.states[s].shape.clone()));
        let next = p.body.with_results(self.states.iter().map(|&s| p.new_states()[s].clone()).collect());
        Func::trace(&shapes, |g, v| {
            let (values, tangents) = v.split_at(given);
            let mut args: Vec<Dual> = values.iter().map(|t| Dual { primal: t.clone(), tangent: None }).collect();
            for (&s, t) in self.states.iter().zip(tangents) {
                args[p.phis + s].tangent = Some(t.clone());
            }
            args.push(Dual { primal: g.zeros(&p.target), tangent: None });
            let out = jvp(g, &next, &args).into_iter();
            out.map(|d| d.tangent.unwrap_or_else(|| d.primal.zeros_like())).collect()
        })
    }

    /// The blocks of D that are not zero, for every step.
    fn blocks(&self, transitions: &[Transition], steps: usize) -> Vec<Block> {
        let mut blocks = Vec::new();
        for (k, states) in &self.groups {
            for to in states.clone() {
                for from in states.clone() {
                    if let Some(d) = &transitions[*k][to - states.start][from - states.start] {
                        let diagonal = d.broadcast_to(&[steps, 1, self.widths[to]]);
                        blocks.push(Block { to, from, diagonal });
                    }
                }
            }
        }
        blocks
    }

    /// The cosine of J, `[size, 1, n]` by state, and D.
    fn cosine(&self, g: &Graph, j: &[Tensor], d: &[Block]) -> Tensor {
        let zero = || g.scalar(DType::F32, 0.0);
        // Of J, only the diagonals of the blocks of D meet something in the product.
        let term = |Block { to, from, diagonal }: &Block| {
            let (rows, columns) = (self.widths[*to], self.widths[*from]);
            let start = self.offset(*from);
            let block = j[*to].slice_axis(0, start, start + columns).reshape(&[columns, rows]);
            let eye = |k: usize| g.iota(Shape::s32([columns, rows]), k);
            let of_block = (block * eye(0).eq(&eye(1)).convert(DType::F32)).sum(&[0]);
            (of_block * diagonal.reshape(&[rows])).sum_all()
        };
        let product = total(d.iter().map(term), zero);
        let of_j = total(j.iter().map(|t| t.square().sum_all()), zero);
        let of_d = total(d.iter().map(|b| b.diagonal.square().sum_all()), zero);
        cosine_of(&product, &of_j, &of_d)
    }

    /// `now` times `before`, whose blocks are those of [`Hidden::pairs`].
    fn product(&self, g: &Graph, now: &[Block], before: &[Tensor]) -> Vec<Tensor> {
        let pairs = self.pairs();
        let entry = |&(to, column): &(usize, usize)| {
            let terms = now.iter().filter(|block| block.to == to).filter_map(|block| {
                let k = pairs.iter().position(|&pair| pair == (block.from, column))?;
                Some(&block.diagonal * &before[k])
            });
            Tensor::sum_of(terms.map(Some)).unwrap_or_else(|| g.zeros(&Shape::f32([1, self.widths[to]])))
        };
        pairs.iter().map(entry).collect()
    }
}

/// All divided by their largest entry: a common factor does not change a cosine, and products stay finite.
fn scaled(all: Vec<Tensor>) -> Vec<Tensor> {
    let largest = all.iter().map(|t| t.abs().max_all()).reduce(|a, b| a.maximum(&b));
    let Some(largest) = largest else { return all };
    let factor = largest.gt(&largest.zeros_like()).select(&largest, &largest.full_like(1.0));
    all.iter().map(|t| t / &factor).collect()
}

fn build(
    g: &Graph,
    learner: &Learner,
    model: &Model,
    params: &[Tensor],
    states: &[Tensor],
    inputs: &Tensor,
) -> Vec<Tensor> {
    let (p, structure) = (&learner.prepared, &learner.structure);
    let phis = p.prefix.call(g, params);
    let steps = inputs.dims()[0];
    let inputs = inputs.convert(DType::F32);
    let target = g.zeros(&p.target);
    let forward = Forward::run(g, p, structure, &phis, states, &inputs);
    let transitions = Steps::new(g, p, structure, &phis, &forward, &inputs, &target).transitions();
    let hidden = Hidden::new(learner, model);
    let tangents = hidden.tangents(learner, model);
    let blocks = hidden.blocks(&transitions, steps);
    let mut stacks: Vec<Tensor> = forward.before.clone();
    stacks.push(inputs.clone());
    stacks.extend(blocks.iter().map(|b| b.diagonal.clone()));
    // Products over the sequence: all of J, and the blocks of D.
    let mut init = hidden.identity(g);
    let unit =
        |&(to, from): &(usize, usize)| g.full(&Shape::f32([1, hidden.widths[to]]), f64::from(u8::from(to == from)));
    init.extend(hidden.pairs().iter().map(unit));
    let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
    shapes.extend(stacks.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
    shapes.extend(phis.iter().map(|t| t.shape().clone()));
    let body = Func::trace(&shapes, |g, v| {
        let (products, rest) = v.split_at(init.len());
        let (whole_j, whole_d) = products.split_at(hidden.states.len());
        let (rows, phis) = rest.split_at(stacks.len());
        let (values, diagonals) = rows.split_at(states.len() + 1);
        let push = |moving: &[Tensor]| -> Vec<Tensor> {
            let fixed = phis.iter().chain(values).map(|t| Mapped { tensor: t.clone(), mapped: false });
            let moving = moving.iter().map(|t| Mapped { tensor: t.clone(), mapped: true });
            let env = vmap(g, &tangents, &fixed.chain(moving).collect::<Vec<_>>(), hidden.size());
            tangents.results().iter().map(|r| env.get(r.value()).materialize(hidden.size())).collect()
        };
        let at = |(b, t): (&Block, &Tensor)| Block { diagonal: t.clone(), ..*b };
        let now: Vec<Block> = blocks.iter().zip(diagonals).map(at).collect();
        let step = hidden.cosine(g, &push(&hidden.identity(g)), &now);
        let new_j = scaled(push(whole_j));
        let new_d = scaled(hidden.product(g, &now, whole_d));
        let all = hidden.pairs().into_iter().zip(&new_d);
        let whole: Vec<Block> = all.map(|((to, from), t)| Block { to, from, diagonal: t.clone() }).collect();
        let whole = hidden.cosine(g, &new_j, &whole);
        [new_j, new_d, vec![step, whole]].concat()
    });
    let (_, cosines) = scan_whole(g, &body, steps, false, &init, &stacks, &phis);
    let spiking = spiking(g, model, &learner.observe(g, params, states, &inputs), steps);
    vec![cosines[0].clone(), cosines[1].at(steps - 1).reshape(&[1]), spiking]
}

/// Spikes per neuron in every step over all layers, `[T]`, of what [`Learner::observe`] gives.
fn spiking(g: &Graph, model: &Model, seen: &[Tensor], steps: usize) -> Tensor {
    let spikes: Vec<&Tensor> = model.spiking().map(|(k, _)| &seen[model.states.len() + 1 + k]).collect();
    let count: usize = spikes.iter().map(|t| t.shape().elements() / steps.max(1)).sum();
    let sum = total(spikes.iter().map(|t| t.sum(&[1, 2])), || g.zeros(&Shape::f32([steps])));
    sum * (1.0 / count.max(1) as f64)
}
