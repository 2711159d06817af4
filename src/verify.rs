//! Replays reference cases through the public model and learner code.
//!
//! A case is a pair `NAME.safetensors`, `NAME.json`; the name picks the model ([`crate::net::reference`]). Some are [built in](Source).
//! States, outputs and losses are compared to 1e-4, gradients to 1e-3 of the largest entry of each parameter.

mod cases;
mod rules;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use hlo::{
    DType, Func, Mapped, Shape, Tensor,
    array::Array,
    pjrt::{Device, OptionValue},
    transform::vmap,
};
use safetensors::SafeTensors;

pub use cases::Source;
use rules::{Gradient, MODES, Stored};

use crate::{
    cell::{Model, model::ParamSpec},
    learn::{Learner, Objective},
    net::reference,
    train::session::{Session, SessionError},
};

/// Why a case could not be replayed (as opposed to: gave other numbers).
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The directory holds no case.
    #[error(
        "a directory of reference cases holds pairs NAME.json and NAME.safetensors, but {0} holds none; name the folder that does"
    )]
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
    /// An array is not there.
    #[error("{path} must hold `{wanted}`, which is not there; of that kind it holds {there}")]
    Missing {
        /// Which file.
        path: PathBuf,
        /// The array.
        wanted: String,
        /// Those that are there, by name.
        there: String,
    },
    /// Gradients of an unknown method.
    #[error(
        "{path} stores gradients `grad/{stored}`, and `verify` knows no such method; it knows the rules of `etrace train --list` and their \
         names in reference files, each formed as {modes}",
        modes = MODES.map(|(name, ..)| name).join(", ")
    )]
    Unknown {
        /// Which file.
        path: PathBuf,
        /// The method, and how its gradient is formed.
        stored: String,
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

/// Result of a set of cases.
#[derive(Debug, Default)]
pub struct Report {
    /// All comparisons.
    pub checks: Vec<Check>,
    /// Cases whose model does not exist.
    pub skipped: Vec<String>,
    /// Stored gradients whose rule this project does not have: case, and method with the way of forming the gradient.
    pub without_rule: Vec<(String, String)>,
    /// Cases that could not be replayed, with the reason.
    pub broken: Vec<(String, String)>,
}

impl Report {
    /// Whether something was checked, and all of it passes; cases without a model do not count.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.broken.is_empty() && self.checks.iter().all(Check::passed)
    }
}

/// What [`run`] is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// This case began.
    Began(String),
    /// This case ended.
    Ended(String),
}

/// Name of the threads that replay cases. A panic on one of them is caught and reported as a broken case, so a panic hook
/// need not speak of it.
pub const THREAD: &str = "verify";

/// Replays every case of `source`, some at the same time; `progress` hears of each. Single-step gradients are computed with
/// chunks of 1 and 4 steps, others with the default chunk and (`thorough`) with chunks of 1.
///
/// # Errors
/// When the folder cannot be read or holds no case.
pub fn run(
    session: &Session,
    source: &Source,
    thorough: bool,
    progress: impl Fn(Progress) + Sync,
) -> Result<Report, VerifyError> {
    let names = source.names()?;
    let session = quick(session);
    let next = AtomicUsize::new(0);
    let results: Mutex<BTreeMap<usize, Replayed>> = Mutex::default();
    let worker = || loop {
        let k = next.fetch_add(1, Ordering::Relaxed);
        let Some(name) = names.get(k) else { break };
        progress(Progress::Began(name.clone()));
        let result = replay(&session, source, name, thorough);
        results.lock().unwrap_or_else(PoisonError::into_inner).insert(k, result);
        progress(Progress::Ended(name.clone()));
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(names.len());
    std::thread::scope(|scope| {
        let started = (0..threads)
            .filter(|_| std::thread::Builder::new().name(THREAD.into()).spawn_scoped(scope, worker).is_ok())
            .count();
        if started == 0 {
            worker();
        }
    });

    let mut report = Report::default();
    for (k, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let name = names[k].clone();
        match result {
            Ok(Some(replay)) => {
                report.checks.extend(replay.checks);
                report.without_rule.extend(replay.without_rule.into_iter().map(|stored| (name.clone(), stored)));
            }
            Ok(None) => report.skipped.push(name),
            Err(error) => report.broken.push((name, error)),
        }
    }
    Ok(report)
}

/// What became of a case.
#[derive(Debug, Default)]
pub struct Replay {
    /// All comparisons.
    pub checks: Vec<Check>,
    /// Stored gradients whose rule this project does not have.
    pub without_rule: Vec<String>,
}

/// `None` if the model of a case does not exist, or why it could not be replayed.
type Replayed = Result<Option<Replay>, String>;

fn replay(session: &Session, source: &Source, name: &str, thorough: bool) -> Replayed {
    // The sizes in a description may contradict each other, and the model's own checks of sizes panic.
    let all = || Case::read(source, name)?.map(|case| case.replay(session, thorough)).transpose();
    match catch_unwind(AssertUnwindSafe(all)) {
        Ok(result) => result.map_err(|e: VerifyError| e.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            Err(format!(
                "the sizes in {name}.json must fit each other and the arrays, but building the model failed: {text}"
            ))
        }
    }
}

/// A session that compiles fast rather than well: every program here runs once.
fn quick(session: &Session) -> Session {
    let mut options = session.options.clone();
    if session.device == Device::Cpu {
        options = options
            .with("xla_backend_optimization_level", OptionValue::Int(0))
            .with("xla_llvm_disable_expensive_passes", OptionValue::Bool(true));
    }
    session.with(options)
}

/// A reference case with its model.
pub struct Case {
    name: String,
    path: PathBuf,
    bytes: Cow<'static, [u8]>,
    model: Model,
}

impl Case {
    /// Reads a case; `None` when its model does not exist.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn read(source: &Source, name: &str) -> Result<Option<Case>, VerifyError> {
        let [description, arrays] = source.read(name)?;
        let (path, bytes) = (arrays.path, arrays.bytes);
        let format = |path: &PathBuf, why: String| VerifyError::Format { path: path.clone(), why };
        let json: serde_json::Value =
            serde_json::from_slice(&description.bytes).map_err(|e| format(&description.path, e.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| format(&path, e.to_string()))?;
        let inputs = tensors.tensor("inputs").map_err(|e| format(&path, e.to_string()))?;
        let batch = *inputs.shape().get(1).ok_or_else(|| format(&path, "`inputs` must be [T, B, n_in]".into()))?;
        let model = reference::model(name, &json, batch).map_err(|e| format(&description.path, e.to_string()))?;
        drop(tensors);
        Ok(model.map(|model| Case { name: name.to_string(), path, bytes, model }))
    }

    fn array(&self, name: &str) -> Result<Array, VerifyError> {
        let wrong = |why: String| VerifyError::Format { path: self.path.clone(), why };
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|e| wrong(e.to_string()))?;
        let Ok(view) = tensors.tensor(name) else { return Err(self.missing(name, tensors.names())) };
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::I32 => DType::S32,
            other => return Err(wrong(format!("`{name}` has element type {other:?}; float32 or int32 are expected"))),
        };
        Array::from_bytes(Shape::new(dtype, view.shape()), view.data().to_vec()).map_err(|e| wrong(e.to_string()))
    }

    fn missing(&self, wanted: &str, all: Vec<&str>) -> VerifyError {
        let kind = wanted.rsplit_once('/').map_or("", |(kind, _)| kind);
        let alike = |name: &&str| name.rsplit_once('/').map_or("", |(kind, _)| kind) == kind;
        let there: BTreeSet<String> = all.into_iter().filter(alike).map(|name| format!("`{name}`")).collect();
        let there = if there.is_empty() { "none".into() } else { Vec::from_iter(there).join(", ") };
        VerifyError::Missing { path: self.path.clone(), wanted: wanted.into(), there }
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
        let batch = self.model.batch();
        let inputs = self.array("inputs")?;
        let step = &self.model.input.dims;
        let whole = inputs.shape().rank() == 3 && inputs.shape().dims[0] > 0 && inputs.shape().dims[1..] == step[..];
        if !whole || inputs.shape().dtype != DType::F32 {
            let why = format!("`inputs` must be f32[T,{batch},{}] for this model, got {}", step[1], inputs.shape());
            return Err(VerifyError::Format { path: self.path.clone(), why });
        }
        let targets = self.array("targets")?;
        if *targets.shape() != Shape::s32([batch]) {
            let why = format!("`targets` must be s32[{batch}] for this model, got {}", targets.shape());
            return Err(VerifyError::Format { path: self.path.clone(), why });
        }
        all.extend([inputs, targets]);
        Ok(all)
    }

    /// Replays the case with every method and mode that it stores, all in one program: compiling costs far more than running.
    ///
    /// # Errors
    /// When the case does not fit the model, or the runtime fails.
    pub fn replay(&self, session: &Session, thorough: bool) -> Result<Replay, VerifyError> {
        let (gradients, without_rule) = self.gradients(thorough)?;
        let mut named = Vec::new();
        let mut learners = Vec::new();
        for Gradient { stored, label, rule, config } in gradients {
            let Stored::Rule(rule) = rule else { continue };
            learners.push(Learner::with_rule(&self.model, &Objective::default(), &config, rule)?);
            named.push((stored, label));
        }
        let trained = || self.model.params.iter().filter(|p| p.trainable);
        let results = self.run(session, |g, params, states, inputs, target| {
            let mut all = self.forward(g, &learners[0], params, states, inputs, target);
            for learner in &learners {
                let grads = learner.sequence(g, params, states, inputs, target).grads;
                all.extend(grads.into_iter().zip(&self.model.params).filter(|(_, p)| p.trainable).map(|(g, _)| g));
            }
            all
        })?;

        let (forward, mut grads) = results.split_at(self.model.states.len() + 2);
        let mut checks = self.check_forward(forward)?;
        for (stored, label) in named {
            let (mine, rest) = grads.split_at(trained().count());
            grads = rest;
            let mut error = 0.0f64;
            for (param, got) in trained().zip(mine) {
                error = worse(error, relative_error(got, &self.array(&format!("grad/{stored}/{}", param.name))?));
            }
            checks.push(Check { case: self.name.clone(), quantity: label, error, tolerance: 1e-3 });
        }
        Ok(Replay { checks, without_rule })
    }

    /// Runs a program over (trained parameters, states, inputs, targets) of this case.
    fn run(
        &self,
        session: &Session,
        build: impl FnOnce(&hlo::Graph, &[Tensor], &[Tensor], &Tensor, &Tensor) -> Vec<Tensor>,
    ) -> Result<Vec<Array>, VerifyError> {
        let args = self.arguments()?;
        let shapes: Vec<Shape> = args.iter().map(|a| a.shape().clone()).collect();
        let trained = self.model.params.iter().filter(|p| p.trainable).count();
        let func = Func::trace(&shapes, |g, v| {
            let mut given = v.iter();
            // Fixed arrays (time constants) come from the description, so they are constants of the program.
            let fixed = |p: &ParamSpec| constant_vector(g, &p.init.values(&p.shape, 0, &p.name));
            let params: Vec<Tensor> = self
                .model
                .params
                .iter()
                .map(|p| if p.trainable { given.next().cloned() } else { None }.unwrap_or_else(|| fixed(p)))
                .collect();
            let n = self.model.states.len();
            build(g, &params, &v[trained..trained + n], &v[trained + n], &v[trained + n + 1])
        });
        Ok(session.evaluate(&self.name, &func, &args)?)
    }

    /// States, output and loss of every step.
    fn forward(
        &self,
        g: &hlo::Graph,
        learner: &Learner,
        params: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        target: &Tensor,
    ) -> Vec<Tensor> {
        let mut out = learner.observe(g, params, states, inputs);
        out.truncate(states.len() + 1);
        let logits = Mapped { tensor: out[states.len()].clone(), mapped: true };
        let target = Mapped { tensor: target.clone(), mapped: false };
        let loss = &learner.prepared.loss_of;
        let steps = inputs.dims()[0];
        let env = vmap(g, loss, &[logits, target], steps);
        out.push(env.get(loss.results()[0].value()).materialize(steps));
        out
    }

    fn check_forward(&self, results: &[Array]) -> Result<Vec<Check>, VerifyError> {
        let mut state = 0.0f64;
        for (spec, got) in self.model.states.iter().zip(results) {
            state = worse(state, relative_error(got, &self.array(&format!("state/{}", spec.name))?));
        }
        let n = self.model.states.len();
        let out = relative_error(&results[n], &self.array("out")?);
        let loss = relative_error(&results[n + 1], &self.array("loss")?);
        let check = |quantity: &str, error| Check {
            case: self.name.clone(),
            quantity: quantity.into(),
            error,
            tolerance: 1e-4,
        };
        Ok(vec![check("state", state), check("out", out), check("loss", loss)])
    }
}

/// The larger of two errors; unlike `f64::max`, a NaN wins.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// A short fixed vector, element by element.
fn constant_vector(g: &hlo::Graph, values: &[f32]) -> Tensor {
    let elements: Vec<Tensor> = values.iter().map(|&v| g.scalar(DType::F32, f64::from(v))).collect();
    Tensor::stack(&elements.iter().collect::<Vec<_>>())
}

/// Largest difference, relative to the largest entry of the reference; where that is zero, the result must be zero too.
/// NaN where shapes differ or a value is not finite.
pub fn relative_error(got: &Array, reference: &Array) -> f64 {
    if got.shape() != reference.shape() {
        return f64::NAN;
    }
    let (got, want) = (got.to_f64_vec(), reference.to_f64_vec());
    let scale = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let worst =
        got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0f64, |m, e| if e.is_nan() { e } else { m.max(e) });
    if got.iter().any(|v| !v.is_finite()) {
        f64::NAN
    } else if scale == 0.0 {
        if worst == 0.0 { 0.0 } else { f64::INFINITY }
    } else {
        worst / scale
    }
}
