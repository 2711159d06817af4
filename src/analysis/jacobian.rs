//! How close the diagonal hidden Jacobian is to the full one.
//!
//! With all hidden states of the layers in one vector h, `J_t = dh(t)/dh(t-1)` and `D_t` the same with the outputs of all
//! trained maps held fixed (what D-RTRL keeps): the cosine of the two for every step, and of their products over the
//! sequence.

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
        chunk::{Forward, Steps},
        sequence::LearnerConfig,
    },
    train::{program::ProgramError, session::Session},
};

/// What is known of one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Similarity {
    /// Cosine of `J_t` and `D_t`, by step.
    pub steps: Vec<f32>,
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
        let mut out = self.analysis.run(seed, batch)?;
        let (rate, whole) = (out[2][0], out[1][0]);
        Ok(Similarity { steps: out.swap_remove(0), whole, rate })
    }
}

fn build(
    g: &Graph,
    learner: &Learner,
    model: &Model,
    params: &[Tensor],
    states: &[Tensor],
    inputs: &Tensor,
) -> Vec<Tensor> {
    let p = &learner.prepared;
    let phis = p.prefix.call(g, params);
    let steps = inputs.dims()[0];
    let inputs = inputs.convert(DType::F32);
    let target = g.zeros(&p.target);
    let forward = Forward::run(g, p, &learner.structure, &phis, states, &inputs);
    let transitions = Steps::new(g, p, &learner.structure, &phis, &forward, &inputs, &target).transitions();
    let groups = layer_groups(learner, model);
    let hidden: Vec<usize> = groups.iter().flat_map(|&k| learner.structure.groups[k].states.clone()).collect();
    let width: Vec<usize> = hidden.iter().map(|&s| model.states[s].shape.dims[1]).collect();
    let size: usize = width.iter().sum();
    let at = |s: usize| hidden.iter().position(|&h| h == s).unwrap_or_default();
    let offset = |k: usize| width[..k].iter().sum::<usize>();

    // (phi, states, input, tangents of the hidden states) to the tangents of the new ones.
    let mut shapes: Vec<Shape> = phis.iter().map(|t| t.shape().clone()).collect();
    shapes.extend(states.iter().map(|t| t.shape().clone()));
    shapes.push(p.input.clone());
    shapes.extend(hidden.iter().map(|&s| model.states[s].shape.clone()));
    let next = p.body.with_results(hidden.iter().map(|&s| p.new_states()[s].clone()).collect());
    let push = Func::trace(&shapes, |g, v| {
        let (values, tangents) = v.split_at(phis.len() + states.len() + 1);
        let mut args: Vec<Dual> = values.iter().map(|t| Dual { primal: t.clone(), tangent: None }).collect();
        for (&s, t) in hidden.iter().zip(tangents) {
            args[phis.len() + s].tangent = Some(t.clone());
        }
        args.push(Dual { primal: g.zeros(&p.target), tangent: None });
        let out = jvp(g, &next, &args).into_iter();
        out.map(|d| d.tangent.unwrap_or_else(|| d.primal.zeros_like())).collect()
    });
    // One tangent per hidden value: rows of the identity.
    let identity = |g: &Graph| -> Vec<Tensor> {
        let all = |k: usize, d: usize| g.iota(Shape::s32([size, 1, width[k]]), d);
        (0..hidden.len())
            .map(|k| {
                let column = all(k, 2) + g.scalar(DType::S32, offset(k) as f64);
                column.eq(&all(k, 0)).convert(DType::F32)
            })
            .collect()
    };

    // The entries of D, by (group, to, from), where they are not zero.
    let mut entries: Vec<(usize, usize, Tensor)> = Vec::new();
    for &k in &groups {
        let group = &learner.structure.groups[k];
        for (a, &to) in group.states.iter().enumerate() {
            for (c, &from) in group.states.iter().enumerate() {
                if let Some(d) = &transitions[k][a][c] {
                    let full = [&[steps], &group.dims[..]].concat();
                    entries.push((at(to), at(from), d.broadcast_to(&full)));
                }
            }
        }
    }
    let mut stacks: Vec<Tensor> = forward.before.clone();
    stacks.push(inputs.clone());
    stacks.extend(entries.iter().map(|(.., d)| d.clone()));
    // Products over the sequence: all of J, and the (to, from) blocks of D, each block diagonal.
    let mut init = identity(g);
    let together = |a: usize, c: usize| {
        groups.iter().any(|&k| [a, c].iter().all(|&h| learner.structure.groups[k].states.contains(&hidden[h])))
    };
    let pairs: Vec<(usize, usize)> = (0..hidden.len())
        .flat_map(|a| (0..hidden.len()).map(move |c| (a, c)))
        .filter(|&(a, c)| together(a, c))
        .collect();
    init.extend(pairs.iter().map(|&(a, c)| {
        let shape = Shape::f32([1, width[a]]);
        g.full(&shape, f64::from(u8::from(a == c)))
    }));
    let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
    shapes.extend(stacks.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
    shapes.extend(phis.iter().map(|t| t.shape().clone()));
    let body = Func::trace(&shapes, |g, v| {
        let (products, rest) = v.split_at(init.len());
        let (whole_j, whole_d) = products.split_at(hidden.len());
        let (rows, phis) = rest.split_at(stacks.len());
        let (values, entry) = rows.split_at(states.len() + 1);
        let apply = |tangents: &[Tensor]| -> Vec<Tensor> {
            let fixed = phis.iter().chain(values).map(|t| Mapped { tensor: t.clone(), mapped: false });
            let moving = tangents.iter().map(|t| Mapped { tensor: t.clone(), mapped: true });
            let env = vmap(g, &push, &fixed.chain(moving).collect::<Vec<_>>(), size);
            push.results().iter().map(|r| env.get(r.value()).materialize(size)).collect()
        };
        let zero = || g.scalar(DType::F32, 0.0);
        // `<J, D>`: the diagonals of the blocks of J, weighted by D.
        let against = |j: &[Tensor], d: &[(usize, usize, Tensor)]| {
            let term = |(a, c, d): &(usize, usize, Tensor)| {
                let block = j[*a].slice_axis(0, offset(*c), offset(*c) + width[*c]).reshape(&[width[*c], width[*a]]);
                let eye = |k: usize| g.iota(Shape::s32([width[*c], width[*a]]), k);
                let diagonal = (block * eye(0).eq(&eye(1)).convert(DType::F32)).sum(&[0]);
                (diagonal * d.reshape(&[width[*a]])).sum_all()
            };
            total(d.iter().map(term), zero)
        };
        let squares = |all: &[Tensor]| total(all.iter().map(|t| t.square().sum_all()), zero);
        let cosine = |j: &[Tensor], d: &[(usize, usize, Tensor)]| {
            let entries: Vec<Tensor> = d.iter().map(|(.., t)| t.clone()).collect();
            cosine_of(&against(j, d), &squares(j), &squares(&entries))
        };
        let now: Vec<(usize, usize, Tensor)> =
            entries.iter().zip(entry).map(|((a, c, _), t)| (*a, *c, t.clone())).collect();
        let step = cosine(&apply(&identity(g)), &now);
        // A common factor does not change a cosine, and keeps products finite.
        let scaled = |all: Vec<Tensor>| -> Vec<Tensor> {
            let largest = all.iter().map(|t| t.abs().max_all()).reduce(|a, b| a.maximum(&b));
            let Some(largest) = largest else { return all };
            let factor = largest.gt(&largest.zeros_like()).select(&largest, &largest.full_like(1.0));
            all.iter().map(|t| t / &factor).collect()
        };
        let new_j = scaled(apply(whole_j));
        let new_d: Vec<Tensor> = pairs
            .iter()
            .map(|&(a, c)| {
                let terms = now.iter().filter(|(to, ..)| *to == a).filter_map(|(_, from, d)| {
                    let k = pairs.iter().position(|&q| q == (*from, c))?;
                    Some(d * &whole_d[k])
                });
                Tensor::sum_of(terms.map(Some)).unwrap_or_else(|| g.zeros(&Shape::f32([1, width[a]])))
            })
            .collect();
        let new_d = scaled(new_d);
        let product: Vec<(usize, usize, Tensor)> =
            pairs.iter().zip(&new_d).map(|(&(a, c), t)| (a, c, t.clone())).collect();
        let whole = cosine(&new_j, &product);
        let mut out = new_j;
        out.extend(new_d);
        out.extend([step, whole]);
        out
    });
    let (_, ys) = scan_whole(g, &body, steps, false, &init, &stacks, &phis);
    // Firing rate over the layers.
    let seen = learner.observe(g, params, states, &inputs);
    let spikes: Vec<&Tensor> = model.spiking().map(|(k, _)| &seen[model.states.len() + 1 + k]).collect();
    let count: usize = spikes.iter().map(|t| t.shape().elements()).sum();
    let rate = total(spikes.iter().map(|t| t.sum_all()), || g.scalar(DType::F32, 0.0)) * (1.0 / count.max(1) as f64);
    vec![ys[0].clone(), ys[1].at(steps - 1).reshape(&[1]), rate.reshape(&[1])]
}
