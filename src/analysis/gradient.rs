//! Online weight gradients against those of BPTT.

use hlo::{Func, array::Array, pjrt::Arg};
use tasks::Batch;

use super::{argument_shapes, arguments, cosine};
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
    /// Parameters that are trained, by the map they belong to: a weight and its bias go together.
    pub maps: Vec<(String, Vec<usize>)>,
}

impl<'a> Gradients<'a> {
    /// Compiles one program per method; the first `warmup` steps carry no loss (BPTT still differentiates through them).
    ///
    /// # Errors
    /// When a rule refuses the model or a program does not compile.
    pub fn new(
        session: &'a Session,
        model: &Model,
        steps: usize,
        warmup: usize,
        methods: &[Method],
    ) -> Result<Gradients<'a>, ProgramError> {
        let mut shapes = argument_shapes(model, steps);
        shapes.push(hlo::Shape::s32([model.batch()]));
        let (n, s) = (model.params.len(), model.states.len());
        let trained: Vec<usize> = (0..n).filter(|&k| model.params[k].trainable).collect();
        let mut programs = Vec::new();
        for &method in [Method::BPTT].iter().chain(methods) {
            let config = LearnerConfig { method, warmup, ..LearnerConfig::default() };
            let learner = Learner::new(model, &Objective::default(), &config)?;
            let func = Func::trace(&shapes, |g, v| {
                let out = learner.sequence(g, &v[..n], &v[n..n + s], &v[n + s], &v[n + s + 1]);
                trained.iter().map(|&k| out.grads[k].clone()).collect()
            });
            let names = |k: usize, what: &str| (0..k).map(|i| format!("{what}{i}")).collect::<Vec<_>>();
            let results = names(trained.len(), "gradient");
            programs.push(session.compile("gradient", &func, &names(shapes.len(), "arg"), &results, &[])?);
        }
        let mut maps: Vec<(String, Vec<usize>)> = Vec::new();
        for (position, &k) in trained.iter().enumerate() {
            let name = model.params[k].name.rsplit_once('.').map_or(model.params[k].name.as_str(), |(map, _)| map);
            match maps.iter_mut().find(|(known, _)| known == name) {
                Some((_, members)) => members.push(position),
                None => maps.push((name.to_string(), vec![position])),
            }
        }
        Ok(Gradients { session, model: model.clone(), programs, maps })
    }

    /// Cosine with BPTT by method and map, for the network of `seed` on a batch.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&self, seed: u64, batch: &Batch) -> Result<Vec<Vec<f64>>, ProgramError> {
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
        let joined = |grads: &[Vec<f32>], members: &[usize]| -> Vec<f32> {
            members.iter().flat_map(|&k| grads[k].iter().copied()).collect()
        };
        let of = |grads: &Vec<Vec<f32>>| {
            self.maps.iter().map(|(_, m)| cosine(&joined(&found[0], m), &joined(grads, m))).collect()
        };
        Ok(found[1..].iter().map(of).collect())
    }
}
