//! A training loop of one's own, with real-valued inputs, a target for each step and a loss that is a closure.
//!
//! Run with `cargo run --release --example own_loop`. A recurrent spiking network hears a noisy sine and must say, in every step, where
//! the sine is a quarter of a period later.

use etrace::{prelude::*, rng::Stream};

const STEPS: usize = 60;
const BATCH: usize = 8;

/// Noisy sines `[T, B, 1]`, and the same curves later.
fn batch(random: &mut Stream) -> Result<[Array; 2], Box<dyn std::error::Error>> {
    let phases: Vec<f64> = (0..BATCH).map(|_| random.uniform() * std::f64::consts::TAU).collect();
    let (mut heard, mut wanted) = (Vec::new(), Vec::new());
    for t in 0..STEPS {
        for phase in &phases {
            let angle = 0.3 * t as f64 + phase;
            heard.push((angle.sin() + 0.1 * random.normal()) as f32);
            wanted.push((angle + std::f64::consts::FRAC_PI_2).sin() as f32);
        }
    }
    Ok([Array::f32(heard, [STEPS, BATCH, 1])?, Array::f32(wanted, [STEPS, BATCH, 1])?])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = Model::trace(BATCH, 1, |cx, x| {
        let v = cx.state("V", 40, StateInit::Zeros);
        let before = Surrogate::default().spike(&(&v - 1.0));
        let weights = [Init::KaimingNormal(1.0), Init::KaimingNormal(1.0)];
        let new = (&v - &before) * 0.8 + cx.dense("cell", &[x, &before], 40, &Dense::new(&weights));
        cx.set("V", &new);
        let spikes = Surrogate::default().spike(&(&new - 1.0));
        readout::leaky(cx, &spikes, 1, 5.0, 1.0)
    })?;
    // The mean absolute error of a step, by sequence.
    let objective =
        Objective::own("mean absolute error", Target::VECTORS, |out, wanted| (out - wanted).abs().mean(&[1]));
    let session = Session::cpu()?;
    let optimizer = Optimizer { lr: 5e-3, ..Optimizer::default() };
    let engine = Engine::new(&session, &model, &objective, &LearnerConfig::default())?;
    println!("D-RTRL keeps its traces as: {}", engine.learner().form(STEPS));

    let mut random = Stream::new(1, "sines");
    let (mut state, states) = (engine.start(optimizer.rule, 1)?, engine.states(1, 0)?);
    let mut losses = Vec::new();
    for update in 0..300 {
        let [inputs, targets] = batch(&mut random)?;
        let (loss, grads) = engine.gradient(&state.params, &states, &inputs, &targets)?;
        let norm;
        (state, norm) = engine.update(&optimizer, state, &grads)?;
        losses.push(loss / STEPS as f32);
        if update % 100 == 0 || update == 299 {
            println!("update {update:3}: error {:.4}, norm of the gradient {norm:.4}", losses[update]);
        }
    }
    let end: f32 = losses[290..].iter().sum::<f32>() / 10.0;
    assert!(end < 0.8 * losses[0], "the network must learn: {} before, {end} after", losses[0]);

    // The trained network, live: one step per call, and nothing that grows with their number.
    let [inputs, targets] = batch(&mut random)?;
    let (heard, wanted) = (inputs.to_f64_vec(), targets.to_f64_vec());
    let mut stream = engine.stream(1, states)?;
    let mut out = Vec::new();
    for step in heard.chunks(BATCH) {
        let step = Array::f32(step.iter().map(|v| *v as f32).collect::<Vec<_>>(), [1, BATCH, 1])?;
        out.extend(stream.advance(&state.params, &step, None)?.out.to_f64_vec());
    }
    for t in (STEPS - 20..STEPS).step_by(4) {
        println!("step {t}: output {:+.3}, wanted {:+.3}", out[t * BATCH], wanted[t * BATCH]);
    }
    Ok(())
}
