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
    let session = Session::open(Device::Cpu, None, &mut |_| {})?;
    let optimizer = Optimizer { lr: 5e-3, ..Optimizer::default() };
    let mut engine = Engine::new(&session, model, &objective, &LearnerConfig::default(), optimizer, STEPS, 1)?;
    println!("D-RTRL keeps its traces as: {}", engine.learner().form(STEPS));

    let mut random = Stream::new(1, "sines");
    let [inputs, targets] = batch(&mut random)?;
    let (loss, grads) = engine.gradient(&inputs, &targets)?;
    let size: f64 = grads.iter().flat_map(Array::to_f64_vec).map(|g| g * g).sum::<f64>().sqrt();
    println!("before: loss {loss:.4}, norm of the gradient {size:.4}");
    let mut last = Vec::new();
    for update in 0..300 {
        let [inputs, targets] = batch(&mut random)?;
        last.push(engine.update(&inputs, &targets)?);
        if (update + 1) % 100 == 0 {
            println!("after {} updates: loss {:.4}", update + 1, last[update]);
        }
    }
    let end: f32 = last[290..].iter().sum::<f32>() / 10.0;
    assert!(end < 0.8 * loss, "the network must learn: {loss} before, {end} after");
    let [inputs, targets] = batch(&mut random)?;
    let (out, wanted) = (engine.outputs(&inputs)?.to_f64_vec(), targets.to_f64_vec());
    for t in (STEPS - 20..STEPS).step_by(4) {
        println!("step {t}: output {:+.3}, wanted {:+.3}", out[t * BATCH], wanted[t * BATCH]);
    }
    Ok(())
}
