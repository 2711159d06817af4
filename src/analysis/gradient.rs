//! Online weight gradients against those of BPTT.

use hlo::{Func, array::Array, pjrt::Arg};
use tasks::Batch;

use super::{argument_shapes, arguments, cosine_with};
use crate::{
    cell::Model,
    learn::{Learner, Method, Objective, sequence::LearnerConfig},
    train::{
        program::ProgramError,
        session::{Session, SessionError},
        trainer::arrays,
    },
};

/// Gradients of the summed loss of a network under several methods.
pub struct Gradients<'a> {
    session: &'a Session,
    model: Model,
    /// BPTT first, then the methods to compare with it.
    programs: Vec<hlo::pjrt::Executable>,
    /// Parameters that are trained, by the map they belong to: a weight and its bias go together, unless groups of inputs are told apart.
    pub maps: Vec<Map>,
}

/// Trained values that are compared as one vector.
pub struct Map {
    /// Their name: that of a layer, or of a layer and a group of its inputs.
    pub name: String,
    /// Trained parameters, each with its first row and the one after its last; all rows, if not given.
    members: Vec<(usize, Option<(usize, usize)>)>,
}

/// A gradient of a map beside that of BPTT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// Their cosine; nothing where the gradient of BPTT is zero or not finite.
    pub cosine: Option<f64>,
    /// Norm of the gradient.
    pub norm: f64,
    /// Norm of that of BPTT.
    pub exact: f64,
}

/// The L2 norm.
fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// The maps of a model. Weights that meet the input of the model in full are told apart by `groups` of inputs: name, first, after the last.
fn maps(model: &Model, learner: &Learner, trained: &[usize], groups: &[(&str, usize, usize)]) -> Vec<Map> {
    let prepared = &learner.prepared;
    let input = prepared.body.params()[prepared.phis + prepared.states].value();
    let n_in = model.input.dims[1];
    let mut hears = vec![false; model.params.len()];
    for op in learner.structure.ops.iter().filter(|op| op.x == Some(input)) {
        prepared.sources[op.phi].iter().for_each(|&p| hears[p] = true);
    }
    let mut maps: Vec<Map> = Vec::new();
    for (position, &k) in trained.iter().enumerate() {
        let spec = &model.params[k];
        let name = spec.name.rsplit_once('.').map_or(spec.name.as_str(), |(map, _)| map);
        if !groups.is_empty() && hears[k] && spec.shape.dims.len() == 2 && spec.shape.dims[0] == n_in {
            let of = |&(group, from, to): &(&str, usize, usize)| Map {
                name: format!("{name} {group}"),
                members: vec![(position, Some((from, to)))],
            };
            maps.extend(groups.iter().map(of));
            continue;
        }
        // Where groups are told apart, a bias is not drowned by its weight either.
        let name = if groups.is_empty() { name.to_string() } else { spec.name.clone() };
        match maps.iter_mut().find(|map| map.name == name) {
            Some(map) => map.members.push((position, None)),
            None => maps.push(Map { name, members: vec![(position, None)] }),
        }
    }
    maps
}

impl<'a> Gradients<'a> {
    /// Compiles one program for each way of learning; the first `warmup` steps carry no loss (BPTT still differentiates through them). `groups`
    /// are groups of inputs whose weights are told apart: name, first input, input after the last.
    ///
    /// # Errors
    /// When a rule refuses the model or a program does not compile.
    pub fn new(
        session: &'a Session,
        model: &Model,
        steps: usize,
        warmup: usize,
        methods: &[Method],
        groups: &[(&str, usize, usize)],
    ) -> Result<Gradients<'a>, ProgramError> {
        let mut shapes = argument_shapes(model, steps);
        shapes.push(hlo::Shape::s32([model.batch()]));
        let (n, s) = (model.params.len(), model.states.len());
        let trained: Vec<usize> = (0..n).filter(|&k| model.params[k].trainable).collect();
        let (mut programs, mut found) = (Vec::new(), Vec::new());
        for &method in [Method::BPTT].iter().chain(methods) {
            let config = LearnerConfig { method, warmup, ..LearnerConfig::default() };
            let learner = Learner::new(model, &Objective::default(), &config)?;
            let func = Func::trace(&shapes, |g, v| {
                let out = learner.sequence(g, &v[..n], &v[n..n + s], &v[n + s], &v[n + s + 1]);
                trained.iter().map(|&k| out.grads[k].clone()).collect()
            });
            if programs.is_empty() {
                found = maps(model, &learner, &trained, groups);
            }
            let names = |k: usize, what: &str| (0..k).map(|i| format!("{what}{i}")).collect::<Vec<_>>();
            let results = names(trained.len(), "gradient");
            programs.push(session.compile("gradient", &func, &names(shapes.len(), "arg"), &results, &[])?);
        }
        Ok(Gradients { session, model: model.clone(), programs, maps: found })
    }

    /// Gradients by method and map, for the network of `seed` on a batch.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&self, seed: u64, batch: &Batch) -> Result<Vec<Vec<Compared>>, ProgramError> {
        let mut args = arguments(&self.model, seed, batch)?;
        args.push(arrays(batch.clone())?.1);
        let upload = |a: &Array| self.session.client.upload(a).map_err(SessionError::from);
        let buffers = args.iter().map(upload).collect::<Result<Vec<_>, _>>()?;
        let mut found: Vec<Vec<Vec<f32>>> = Vec::new();
        for program in &self.programs {
            let out = program.run(buffers.iter().map(Arg::Keep).collect()).map_err(SessionError::from)?;
            let values = |b: &hlo::pjrt::Buffer| -> Result<Vec<f32>, SessionError> {
                Ok(b.to_array()?.to_vec().map_err(hlo::pjrt::Error::from)?)
            };
            found.push(out.iter().map(values).collect::<Result<_, _>>()?);
        }
        let params: Vec<&crate::cell::model::ParamSpec> = self.model.params.iter().filter(|p| p.trainable).collect();
        let joined = |grads: &[Vec<f32>], map: &Map| -> Vec<f32> {
            let of = |&(k, rows): &(usize, Option<(usize, usize)>)| {
                let row = params[k].shape.elements() / params[k].shape.dims.first().map_or(1, |rows| (*rows).max(1));
                let (from, to) = rows.map_or((0, grads[k].len()), |(from, to)| (from * row, to * row));
                grads[k][from..to].to_vec()
            };
            map.members.iter().flat_map(of).collect()
        };
        let of = |grads: &Vec<Vec<f32>>| {
            let compared = |map: &Map| {
                let (exact, online) = (joined(&found[0], map), joined(grads, map));
                Compared { cosine: cosine_with(&exact, &online), norm: norm(&online), exact: norm(&exact) }
            };
            self.maps.iter().map(compared).collect()
        };
        Ok(found[1..].iter().map(of).collect())
    }
}
