//! Replays reference cases through the public model and learner code.
//!
//! A case is a pair `NAME.safetensors`, `NAME.json`; the name picks the model ([`crate::net::reference`]). States, outputs
//! and losses are compared to 1e-4, gradients to 1e-3 of the largest entry of each parameter.

use std::path::{Path, PathBuf};

use hlo::{DType, Func, Shape, array::Array};
use safetensors::SafeTensors;

use crate::{
    cell::Model,
    learn::{Attachment, Learner, Method, Objective, Vjp, sequence::LearnerConfig},
    net::reference,
    train::session::{Session, SessionError},
};

/// Why a case could not be replayed (as opposed to: gave other numbers).
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The directory holds no case.
    #[error("a directory of reference cases holds pairs NAME.json and NAME.safetensors, but {0} holds none; name the folder that does")]
    Empty(PathBuf),
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is damaged or not a reference case: {why}")]
    Format {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The learner refused.
    #[error(transparent)]
    Learn(#[from] crate::learn::LearnError),
    /// The runtime failed.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// One compared quantity.
#[derive(Clone, Debug)]
pub struct Check {
    /// Case name.
    pub case: String,
    /// What was compared: `state`, `out`, `loss`, `bptt`, `d_rtrl/exit`, ...
    pub quantity: String,
    /// Worst error, relative to the largest entry of each array.
    pub error: f64,
    /// Largest error that passes.
    pub tolerance: f64,
}

impl Check {
    /// Whether it passes; a NaN does not.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Result of a directory.
#[derive(Debug, Default)]
pub struct Report {
    /// All comparisons.
    pub checks: Vec<Check>,
    /// Cases whose model does not exist.
    pub skipped: Vec<String>,
    /// Cases that could not be replayed, with the reason.
    pub broken: Vec<(String, String)>,
}

impl Report {
    /// Whether every case that could be replayed passes.
    pub fn passed(&self) -> bool {
        self.broken.is_empty() && self.checks.iter().all(Check::passed)
    }
}

/// Replays every case in `dir`; `progress` hears the name of each.
///
/// # Errors
/// When the directory cannot be read or holds no case.
pub fn run(session: &Session, dir: &Path, mut progress: impl FnMut(&str)) -> Result<Report, VerifyError> {
    let io = |source| VerifyError::Io { path: dir.to_path_buf(), source };
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map_err(io)?
        .filter_map(|entry| entry.ok()?.path().file_name()?.to_str()?.strip_suffix(".safetensors").map(str::to_string))
        .filter(|name| dir.join(format!("{name}.json")).exists())
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(VerifyError::Empty(dir.to_path_buf()));
    }
    let mut report = Report::default();
    for name in names {
        progress(&name);
        match Case::read(dir, &name).and_then(|case| case.map(|c| c.replay(session)).transpose()) {
            Ok(Some(checks)) => report.checks.extend(checks),
            Ok(None) => report.skipped.push(name),
            Err(error) => report.broken.push((name, error.to_string())),
        }
    }
    Ok(report)
}

/// A reference case with its model.
pub struct Case {
    name: String,
    path: PathBuf,
    bytes: Vec<u8>,
    model: Model,
}

/// Ways of forming the gradient, by their names in the files.
const MODES: [(&str, Vjp, bool); 5] = [
    ("exit", Vjp::SingleStep { attachment: Attachment::Exit }, false),
    ("ss", Vjp::SingleStep { attachment: Attachment::InStep }, false),
    ("ms1", Vjp::MultiStep { window: 1 }, false),
    ("win4", Vjp::MultiStep { window: 4 }, false),
    ("ss_oldcorr", Vjp::SingleStep { attachment: Attachment::InStep }, true),
];

/// Online rules, by their names in the files.
const RULES: [(&str, Method); 3] = [
    ("d_rtrl", Method::DRtrl),
    ("es_d_rtrl_0.9", Method::EsDRtrl { decay: 0.9 }),
    ("es_d_rtrl_0.99", Method::EsDRtrl { decay: 0.99 }),
];

impl Case {
    /// Reads a case; `None` when its model does not exist.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn read(dir: &Path, name: &str) -> Result<Option<Case>, VerifyError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| VerifyError::Io { path: path.to_path_buf(), source });
        let path = dir.join(format!("{name}.safetensors"));
        let description = dir.join(format!("{name}.json"));
        let format = |path: &Path, why: String| VerifyError::Format { path: path.to_path_buf(), why };
        let bytes = read(&path)?;
        let json: serde_json::Value =
            serde_json::from_slice(&read(&description)?).map_err(|e| format(&description, e.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| format(&path, e.to_string()))?;
        let inputs = tensors.tensor("inputs").map_err(|e| format(&path, e.to_string()))?;
        let batch = *inputs.shape().get(1).ok_or_else(|| format(&path, "`inputs` must be [T, B, n_in]".into()))?;
        let hyper = json.get("hyper").unwrap_or(&serde_json::Value::Null);
        let model = reference::model(name, hyper, batch).map_err(|e| format(&description, e.to_string()))?;
        drop(tensors);
        Ok(model.map(|model| Case { name: name.to_string(), path, bytes, model }))
    }

    fn array(&self, name: &str) -> Result<Array, VerifyError> {
        let wrong = |why: String| VerifyError::Format { path: self.path.clone(), why };
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|e| wrong(e.to_string()))?;
        let view = tensors.tensor(name).map_err(|e| wrong(e.to_string()))?;
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::I32 => DType::S32,
            other => return Err(wrong(format!("`{name}` has element type {other:?}; float32 or int32 are expected"))),
        };
        Array::from_bytes(Shape::new(dtype, view.shape()), view.data().to_vec()).map_err(|e| wrong(e.to_string()))
    }

    /// Parameters, initial states, inputs, targets, checked against the model.
    fn arguments(&self) -> Result<Vec<Array>, VerifyError> {
        let mut all = Vec::new();
        for (name, shape) in self
            .model
            .params
            .iter()
            .filter(|p| p.trainable)
            .map(|p| (format!("param/{}", p.name), &p.shape))
            .chain(self.model.states.iter().map(|s| (format!("init_state/{}", s.name), &s.shape)))
        {
            let array = self.array(&name)?;
            if array.shape() != shape {
                let why = format!("`{name}` must be {shape} for this model, got {}", array.shape());
                return Err(VerifyError::Format { path: self.path.clone(), why });
            }
            all.push(array);
        }
        all.push(self.array("inputs")?);
        all.push(self.array("targets")?);
        Ok(all)
    }

    /// Replays the case with every method and mode that it stores.
    ///
    /// # Errors
    /// When the case does not fit the model, or the runtime fails.
    pub fn replay(&self, session: &Session) -> Result<Vec<Check>, VerifyError> {
        let mut checks = self.forward(session)?;
        checks.push(self.gradient(session, "bptt", "bptt", &LearnerConfig { method: Method::Bptt, ..LearnerConfig::default() })?);
        for (rule, method) in RULES {
            for (mode, vjp, old_correction) in MODES {
                let stored = format!("{rule}/{mode}");
                if !self.has(&format!("grad/{stored}/")) {
                    continue;
                }
                let chunks: &[Option<usize>] =
                    if matches!(vjp, Vjp::SingleStep { .. }) { &[Some(1), Some(4), None] } else { &[Some(1), None] };
                let chunks = if matches!(vjp, Vjp::MultiStep { window: 4 }) { &[None] } else { chunks };
                for &chunk in chunks {
                    let config = LearnerConfig { method, vjp, chunk, warmup: 0, old_correction };
                    let label = match chunk {
                        Some(k) => format!("{stored} K={k}"),
                        None => stored.clone(),
                    };
                    checks.push(self.gradient(session, &stored, &label, &config)?);
                }
            }
        }
        Ok(checks)
    }

    fn has(&self, prefix: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).is_ok_and(|t| t.names().iter().any(|n| n.starts_with(prefix)))
    }

    /// A program over (trained parameters, states, inputs, targets) of this case.
    fn run(
        &self,
        session: &Session,
        name: &str,
        build: impl FnOnce(&hlo::Graph, &[hlo::Tensor], &[hlo::Tensor], &hlo::Tensor, &hlo::Tensor) -> Vec<hlo::Tensor>,
    ) -> Result<Vec<Array>, VerifyError> {
        let args = self.arguments()?;
        let shapes: Vec<Shape> = args.iter().map(|a| a.shape().clone()).collect();
        let trained = self.model.params.iter().filter(|p| p.trainable).count();
        let func = Func::trace(&shapes, |g, v| {
            let mut given = v.iter();
            // Fixed arrays (time constants) come from the description, so they are constants of the program.
            let params: Vec<hlo::Tensor> = self
                .model
                .params
                .iter()
                .map(|p| match given.next_if_trained(p.trainable) {
                    Some(t) => t.clone(),
                    None => constant_vector(g, &p.init.values(&p.shape, 0, &p.name)),
                })
                .collect();
            let n = self.model.states.len();
            build(g, &params, &v[trained..trained + n], &v[trained + n], &v[trained + n + 1])
        });
        Ok(session.evaluate(name, &func, &args)?)
    }

    fn forward(&self, session: &Session) -> Result<Vec<Check>, VerifyError> {
        let config = LearnerConfig { method: Method::Bptt, ..LearnerConfig::default() };
        let learner = Learner::new(&self.model, &Objective::default(), &config)?;
        let results = self.run(session, "forward", |g, params, states, inputs, target| {
            let mut out = learner.observe(g, params, states, inputs);
            out.truncate(states.len() + 1);
            let logits = &out[states.len()];
            let steps: Vec<hlo::Tensor> =
                (0..inputs.dims()[0]).map(|t| Objective::default().step_loss(&logits.at(t), target, &[])).collect();
            out.push(hlo::Tensor::stack(&steps.iter().collect::<Vec<_>>()));
            out
        })?;
        let mut worst = 0.0f64;
        for (state, got) in self.model.states.iter().zip(&results) {
            worst = worst.max(relative_error(got, &self.array(&format!("state/{}", state.name))?));
        }
        let n = self.model.states.len();
        let out = relative_error(&results[n], &self.array("out")?);
        let loss = relative_error(&results[n + 1], &self.array("loss")?);
        let check = |quantity: &str, error| Check { case: self.name.clone(), quantity: quantity.into(), error, tolerance: 1e-4 };
        Ok(vec![check("state", worst), check("out", out), check("loss", loss)])
    }

    fn gradient(&self, session: &Session, stored: &str, label: &str, config: &LearnerConfig) -> Result<Check, VerifyError> {
        let learner = Learner::new(&self.model, &Objective::default(), config)?;
        let grads = self.run(session, label, |g, params, states, inputs, target| {
            let grads = learner.sequence(g, params, states, inputs, target).grads;
            grads.into_iter().zip(&self.model.params).filter(|(_, p)| p.trainable).map(|(g, _)| g).collect()
        })?;
        let mut error = 0.0f64;
        for (param, got) in self.model.params.iter().filter(|p| p.trainable).zip(&grads) {
            error = error.max(relative_error(got, &self.array(&format!("grad/{stored}/{}", param.name))?));
        }
        Ok(Check { case: self.name.clone(), quantity: label.into(), error, tolerance: 1e-3 })
    }
}

trait NextIf<'a> {
    fn next_if_trained(&mut self, trained: bool) -> Option<&'a hlo::Tensor>;
}

impl<'a> NextIf<'a> for std::slice::Iter<'a, hlo::Tensor> {
    fn next_if_trained(&mut self, trained: bool) -> Option<&'a hlo::Tensor> {
        if trained { self.next() } else { None }
    }
}

/// A short fixed vector, element by element.
fn constant_vector(g: &hlo::Graph, values: &[f32]) -> hlo::Tensor {
    let elements: Vec<hlo::Tensor> = values.iter().map(|&v| g.scalar(DType::F32, f64::from(v))).collect();
    hlo::Tensor::stack(&elements.iter().collect::<Vec<_>>())
}

/// Largest difference, relative to the largest entry of the reference; where that is zero, the result must be zero too.
/// NaN where shapes differ or a value is not finite.
pub fn relative_error(got: &Array, reference: &Array) -> f64 {
    if got.shape() != reference.shape() {
        return f64::NAN;
    }
    let (got, want) = (got.to_f64_vec(), reference.to_f64_vec());
    let scale = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0f64, |m, e| if e.is_nan() { e } else { m.max(e) });
    if got.iter().any(|v| !v.is_finite()) {
        f64::NAN
    } else if scale == 0.0 {
        if worst == 0.0 { 0.0 } else { f64::INFINITY }
    } else {
        worst / scale
    }
}
