//! Measuring a training step: time apart from compilation, memory from the compiler and as observed.

use std::time::{Duration, Instant};

use hlo::{
    Func, Shape,
    array::Array,
    pjrt::{Arg, Buffer, memory},
};
use serde::Serialize;
use tasks::{Batch, RandomSpikes, Split, Task};

use crate::learn::{Learner, Method, form::Candidate};

use super::{
    need,
    program::{Fed, ProgramError, Spec, TrainProgram, TrainState},
    session::{Session, SessionError},
    stepwise::Stepwise,
    trainer::{TrainError, arrays},
};

/// How a sequence is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drive {
    /// The whole sequence in one program.
    Scan,
    /// A program for one chunk, called again and again with its state on the device.
    Step,
}

/// One measured point. Seconds are medians; bytes are of the device.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Method name.
    pub method: String,
    /// Steps of the sequence.
    pub length: usize,
    /// How it was run.
    pub drive: Drive,
    /// Steps per chunk (the whole sequence for BPTT).
    pub chunk: usize,
    /// Seconds to compile.
    pub compile_seconds: Option<f64>,
    /// Seconds of one training step on one batch, median.
    pub run_seconds: Option<f64>,
    /// Arguments + results - donated + temporary bytes, from the compiler.
    pub compiled_bytes: Option<u64>,
    /// Growth of the device's (or process's) memory at its highest, from before the data were there.
    pub peak_bytes: Option<u64>,
    /// In which form an online rule keeps its traces.
    pub form: Option<String>,
    /// The largest share of a learning signal that a lag cuts off, if there is one.
    pub cut: Option<f64>,
    /// Floating-point operations of a gradient, counted on its graph.
    pub flops: Option<u64>,
    /// These per second, as a share of the rate of large matrix products that the same process reached before.
    pub product_share: Option<f64>,
    /// Loss of the first training step.
    pub loss: Option<f32>,
    /// Accuracy of the first training step.
    pub accuracy: Option<f32>,
    /// Why there are no figures.
    pub error: Option<String>,
    /// Bytes in use before and after, for the published line.
    #[serde(skip)]
    pub in_use: (u64, u64),
}

impl Row {
    /// A point without figures.
    pub fn new(method: String, length: usize, drive: Drive, chunk: usize) -> Row {
        Row {
            method,
            length,
            drive,
            chunk,
            compile_seconds: None,
            run_seconds: None,
            compiled_bytes: None,
            peak_bytes: None,
            form: None,
            cut: None,
            flops: None,
            product_share: None,
            loss: None,
            accuracy: None,
            error: None,
            in_use: (0, 0),
        }
    }
}

/// Bytes in use on the device, or by the process where the device does not say.
pub fn in_use(session: &Session) -> u64 {
    let device = session.client.device_memory().map(|m| m.in_use);
    device.or_else(memory::process_bytes).unwrap_or(0)
}

fn peak(session: &Session) -> u64 {
    let device = session.client.device_memory().and_then(|m| m.peak);
    device.or_else(memory::process_peak_bytes).unwrap_or(0)
}

/// A program of either drive.
enum Driver {
    Scan(Box<TrainProgram>),
    Step(Box<Stepwise>, usize),
}

impl Driver {
    fn new(session: &Session, spec: &Spec, drive: Drive, chunk: usize) -> Result<Driver, ProgramError> {
        Ok(match drive {
            Drive::Scan => Driver::Scan(Box::new(TrainProgram::new(session, spec)?)),
            Drive::Step => Driver::Step(Box::new(Stepwise::new(session, spec, chunk)?), chunk),
        })
    }

    fn compile_seconds(&self) -> f64 {
        match self {
            Driver::Scan(p) => p.executable.compile_time().as_secs_f64(),
            Driver::Step(p, _) => p.compile_seconds(),
        }
    }

    /// How traces are kept, where there are any.
    fn form(&self, spec: &Spec) -> Result<Option<Candidate>, ProgramError> {
        if !spec.learner.method.is_online() {
            return Ok(None);
        }
        Ok(Some(match self {
            Driver::Scan(_) => {
                Learner::new(&spec.model, &spec.objective, &spec.learner.within(spec.steps))?.choice(spec.steps).used
            }
            Driver::Step(p, _) => p.choice.used.clone(),
        }))
    }

    fn compiled_bytes(&self) -> Result<u64, SessionError> {
        Ok(match self {
            Driver::Scan(p) => p.executable.memory()?.total(),
            Driver::Step(p, _) => p.memory()?.total(),
        })
    }
}

/// Operations per second that the device reaches in products of large matrices of `f32`: the median of some.
///
/// # Errors
/// When the device fails.
pub fn product_rate(session: &Session) -> Result<f64, SessionError> {
    const SIZE: usize = 1024;
    const PRODUCTS: usize = 8;
    let shape = Shape::f32([SIZE, SIZE]);
    let func = Func::trace(&[shape.clone(), shape.clone()], |_, v| {
        vec![(0..PRODUCTS).fold(v[0].clone(), |product, _| product.dot(&v[1]) * (1.0 / SIZE as f64)).sum_all()]
    });
    let names = ["a", "b"].map(String::from);
    let program = session.compile("products", &func, &names, &["sum".into()], &[])?;
    let ones = Array::f32(vec![1.0; SIZE * SIZE], [SIZE, SIZE]).map_err(hlo::pjrt::Error::from)?;
    let matrix = session.client.upload(&ones)?;
    let mut times = Vec::new();
    for _ in 0..7 {
        let clock = Instant::now();
        program.run(vec![Arg::Keep(&matrix), Arg::Keep(&matrix)])?[0].to_array()?;
        times.push(clock.elapsed().as_secs_f64());
    }
    Ok(2.0 * (SIZE * SIZE * SIZE * PRODUCTS) as f64 / median(&mut times).unwrap_or(f64::INFINITY))
}

/// Data where the drive wants them: on the devices, or in pieces on the host.
enum Data {
    Devices(Fed),
    Pieces(Vec<Array>, Buffer),
}

/// Waits until the memory in use falls no further, and returns it: the runtime frees arrays on threads of its own.
fn settled(session: &Session) -> u64 {
    let mut lowest = u64::MAX;
    let mut still = 0;
    // Half a second without a fall of a mebibyte, ten seconds at most.
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(50));
        memory::release_freed_pages();
        let now = in_use(session);
        still = if now.saturating_add(1 << 20) < lowest { 0 } else { still + 1 };
        lowest = lowest.min(now);
        if still >= 10 {
            break;
        }
    }
    lowest
}

/// The name of a rule in tables: its own, or with what makes it another program.
pub fn label(method: &Method) -> String {
    let recomputes = if method.recomputes() { " (checkpoints)" } else { "" };
    format!("{}{recomputes}", method.name())
}

/// Measures one point: `repeats` training steps after two that are not counted, on one random batch.
///
/// What cannot be done (a method that does not fit the drive, too little memory) becomes a row with its reason.
pub fn measure(
    session: &Session,
    spec: &Spec,
    drive: Drive,
    chunk: usize,
    repeats: usize,
    seed: u64,
    rate: f64,
) -> Row {
    memory::release_freed_pages();
    let before = in_use(session);
    let chunk_said = if spec.learner.method.is_online() { chunk } else { spec.steps };
    let mut row = Row::new(label(&spec.learner.method), spec.steps, drive, chunk_said);
    row.in_use = (before, before);
    if let Err(error) = fill(session, spec, drive, chunk, repeats, seed, rate, &mut row) {
        row.error = Some(error.to_string());
    }
    row
}

#[allow(clippy::too_many_arguments, reason = "the settings of one measurement")]
fn fill(
    session: &Session,
    spec: &Spec,
    drive: Drive,
    chunk: usize,
    repeats: usize,
    seed: u64,
    rate: f64,
    row: &mut Row,
) -> Result<(), TrainError> {
    let driver = Driver::new(session, spec, drive, chunk)?;
    row.compile_seconds = Some(driver.compile_seconds());
    if let Some(used) = driver.form(spec)? {
        (row.form, row.cut) = (Some(used.form.to_string()), used.cut);
    }
    let bytes = driver.compiled_bytes()?;
    row.compiled_bytes = Some(bytes);
    enough_memory(session, bytes.saturating_mul(session.in_one_memory()))?;

    let (batch, n_in) = (spec.batch(), spec.model.input.dims[1]);
    let n_out = spec.model.output.dims[1];
    let task = RandomSpikes { steps: spec.steps, n_in, n_out, rate };
    let lr = session.client.upload(&Array::scalar_of(spec.optimizer.lr as f32)).map_err(SessionError::from)?;
    let mut fresh: Option<(TrainState, Data)> = None;
    let mut times = Vec::new();
    // Two steps are not counted. The first makes threads and code that later ones use again; the second measures memory, in a
    // process that has done the first, holds nothing, and has returned what it held.
    const WARM: usize = 0;
    const MEMORY: usize = 1;
    let mut before = 0;
    for n in 0..repeats + 2 {
        if n == MEMORY {
            fresh = None;
            before = settled(session);
            memory::exact_residency(true);
            memory::reset_process_peak();
        }
        let (state, fed) = match fresh.take() {
            Some(both) => both,
            None => {
                let made = task.batch(Split::Train, seed, 0, 0, batch)?;
                (start(session, spec, seed)?, feed(session, spec, made, &driver)?)
            }
        };
        let clock = Instant::now();
        let (next, report) = match (&driver, &fed) {
            (Driver::Scan(p), Data::Devices(given)) => p.step_on_device(state, given)?,
            (Driver::Step(p, _), Data::Pieces(pieces, target)) => p.sequence(session, state, &lr, pieces, target)?,
            _ => unreachable!("data are fed as the driver wants them"),
        };
        let value = |b: &Buffer| -> Result<f32, SessionError> {
            Ok(b.to_array()?.scalar::<f32>().map_err(hlo::pjrt::Error::from)?)
        };
        let loss = value(&report[0])?;
        let elapsed = clock.elapsed().as_secs_f64();
        fresh = Some((next, fed));
        match n {
            WARM => {
                row.loss = Some(loss);
                row.accuracy = Some(value(&report[1])?);
            }
            MEMORY => {
                row.peak_bytes = Some(peak(session).saturating_sub(before));
                memory::exact_residency(false);
            }
            _ => times.push(elapsed),
        }
    }
    row.run_seconds = median(&mut times);
    row.in_use.1 = in_use(session);
    Ok(())
}

/// Fresh parameters and optimiser state.
fn start(session: &Session, spec: &Spec, seed: u64) -> Result<TrainState, SessionError> {
    super::program::start(session, &spec.model, spec.optimizer.rule, seed)
}

fn feed(session: &Session, spec: &Spec, batch: Batch, driver: &Driver) -> Result<Data, TrainError> {
    let upload = |a: &Array| session.client.upload(a).map_err(|e| TrainError::from(SessionError::from(e)));
    let (steps, size) = (batch.steps, batch.batch * batch.n_in);
    let dims = [batch.batch, batch.n_in];
    let (inputs, target) = arrays(batch)?;
    Ok(match driver {
        Driver::Scan(_) => {
            let lr = spec.optimizer.lr as f32;
            Data::Devices(Fed::upload(session, spec.parts, Some(lr), &[], &inputs, &target)?)
        }
        Driver::Step(_, chunk) => {
            let bytes = inputs.into_bytes();
            let pieces = bytes
                .chunks_exact(chunk * size)
                .map(|piece| Array::u8(piece, [*chunk, dims[0], dims[1]]))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| SessionError::from(hlo::pjrt::Error::from(e)))?;
            debug_assert_eq!(pieces.len() * chunk, steps);
            Data::Pieces(pieces, upload(&target)?)
        }
    })
}

/// On a CPU the system kills a process that asks for too much: say so before.
fn enough_memory(session: &Session, bytes: u64) -> Result<(), TrainError> {
    match need::free(session) {
        Some(free) if bytes > free => {
            let gib = |b: u64| b as f64 / (1u64 << 30) as f64;
            Err(TrainError::Setting(format!(
                "out of memory: the program needs {:.2} GiB, {:.2} GiB are free",
                gib(bytes),
                gib(free)
            )))
        }
        _ => Ok(()),
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
