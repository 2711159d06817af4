//! A loop that can be stopped and goes on where it was: `cargo run --release --example resume [FOLDER]`.
//!
//! With a folder it saves there, and goes on from there when it is started again. Without one it shows that both ways end at the same
//! numbers: 20 updates at once, and 10 and 10 with a checkpoint in between.

use std::{error::Error, path::Path};

use etrace::{
    prelude::*,
    train::checkpoint::{self, Name, Progress},
};

const STEPS: usize = 30;
const BATCH: usize = 8;

/// Counts of events, and which half of the inputs had more of them: a pure function of the number of the batch, so that a loop that goes
/// on sees what it would have seen.
fn batch(number: u64) -> Result<[Array; 2], Box<dyn Error>> {
    let mut random = etrace::rng::Stream::new(number, "events");
    let classes: Vec<i32> = (0..BATCH).map(|_| i32::from(random.uniform() < 0.5)).collect();
    let event =
        |k: usize| u8::from(random.uniform() < if (k % 8 < 4) == (classes[k / 8 % BATCH] == 0) { 0.3 } else { 0.1 });
    let counts: Vec<u8> = (0..STEPS * BATCH * 8).map(event).collect();
    Ok([Array::u8(counts, [STEPS, BATCH, 8])?, Array::s32(classes, [BATCH])?])
}

struct Loop<'a> {
    session: &'a Session,
    model: &'a Model,
    engine: Engine<'a>,
    optimizer: Optimizer,
}

impl Loop<'_> {
    /// Trains up to update `end`, from the checkpoint of the folder if there is one, and saves there.
    fn run(&self, folder: &Path, end: u64) -> Result<f32, Box<dyn Error>> {
        let rule = self.optimizer.rule;
        let (mut state, from) = if Name::Last.file(folder).exists() {
            let (state, progress) = checkpoint::load(folder, Name::Last, self.session, self.model, rule)?;
            (state, progress.step)
        } else {
            (self.engine.start(rule, 1)?, 0)
        };
        println!("updates {from} to {end}");
        let mut loss = f32::NAN;
        for step in from..end {
            let [inputs, targets] = batch(step)?;
            let grads;
            (loss, grads) = self.engine.gradient(&state.params, &self.engine.states(1, step)?, &inputs, &targets)?;
            state = self.engine.update(&self.optimizer, state, &grads)?.0;
        }
        std::fs::create_dir_all(folder)?;
        checkpoint::save(
            folder,
            Name::Last,
            self.model,
            &state,
            &Progress { step: end.max(from), ..Progress::default() },
        )?;
        Ok(loss)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let model = Model::trace(BATCH, 8, |cx, x| {
        // Potentials start anywhere, anew for each sequence: the number of the batch decides where.
        let v = cx.state("V", 20, StateInit::Uniform(0.0, 1.0));
        let before = Surrogate::default().spike(&(&v - 1.0));
        let init = [Init::KaimingNormal(3.0), Init::KaimingNormal(1.0)];
        let new = (&v - &before) * 0.9 + cx.dense("cell", &[x, &before], 20, &Dense::new(&init));
        cx.set("V", &new);
        readout::leaky(cx, &Surrogate::default().spike(&(&new - 1.0)), 2, 10.0, 1.0)
    })?;
    let session = Session::cpu()?;
    let engine = Engine::new(&session, &model, &Objective::default(), &LearnerConfig::default())?;
    let all =
        Loop { session: &session, model: &model, engine, optimizer: Optimizer { lr: 5e-3, ..Optimizer::default() } };
    if let Some(folder) = std::env::args_os().nth(1) {
        let folder = Path::new(&folder);
        let done = checkpoint::progress(folder, Name::Last).map_or(0, |p| p.step);
        println!("loss of a step {:.4}", all.run(folder, done + 20)? / STEPS as f32);
        return Ok(());
    }
    let scratch = std::env::temp_dir().join(format!("etrace-resume-{}", std::process::id()));
    let at_once = all.run(&scratch.join("at-once"), 20)?;
    all.run(&scratch.join("in-two"), 10)?;
    let in_two = all.run(&scratch.join("in-two"), 20)?;
    std::fs::remove_dir_all(&scratch)?;
    println!("loss of the last batch: {at_once} at once, {in_two} with a stop in between");
    assert_eq!(at_once, in_two, "a loop that goes on repeats one that was never stopped");
    Ok(())
}
