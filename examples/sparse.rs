//! A sparse recurrent network of many neurons, trained online.
//!
//! `cargo run --release --example sparse [NEURONS DEGREE BATCH STEPS RULE..]`; without arguments a small one, by D-RTRL, ES-D-RTRL and
//! BPTT. 2 million synapses: `20000 100 1 1000 d-rtrl es-d-rtrl`.
//!
//! With the name of another device as the last argument, `cuda:h100`, the gradient is not run but compiled for that device, which need not
//! be here, and the compiler says what memory it takes.

use std::{num::NonZeroUsize, time::Instant};

use etrace::{prelude::*, rng::Stream, settings::Listed};
use hlo::{DType, Func, Shape, lower, pjrt};

/// Input lines, each a Poisson train.
const INPUTS: usize = 200;

fn network(batch: usize, neurons: usize, degree: usize) -> Result<Model, Box<dyn std::error::Error>> {
    let heard = Connections::random(INPUTS, neurons, 10, 1)?;
    let recurrent = Connections::random(neurons, neurons, degree, 2)?;
    let model = Model::trace(batch, INPUTS, |cx, x| {
        let v = cx.state("V", neurons, StateInit::Zeros);
        let before = Surrogate::default().spike(&(&v - 1.0));
        let strength = 1.0 / (degree as f64).sqrt();
        let input = cx.sparse("input", x, &heard, Init::Normal(0.3, 0.3));
        let y = input + cx.sparse("recurrent", &before, &recurrent, Init::Normal(0.0, strength));
        let new = (&v - &before) * 0.9 + y;
        cx.set("V", &new);
        let spikes = Surrogate::default().spike(&(&new - 1.0));
        cx.dense("out", &[&spikes], 2, &Dense::new(&[Init::KaimingNormal(1.0)]))
    })?;
    Ok(model)
}

/// What the gradient of a sequence takes on a device that need not be here.
fn compile_for(
    target: &str,
    model: &Model,
    steps: usize,
    config: &LearnerConfig,
) -> Result<(), Box<dyn std::error::Error>> {
    let learner = Learner::new(model, &Objective::default(), config)?;
    let batch = model.batch();
    let data = [Shape::f32([steps, batch, INPUTS]), Shape::new(DType::S32, [batch])];
    let shapes: Vec<Shape> = (model.params.iter().map(|p| p.shape.clone()))
        .chain(model.states.iter().map(|s| s.shape.clone()))
        .chain(data)
        .collect();
    let (n, s) = (model.params.len(), model.states.len());
    let gradient = Func::trace(&shapes, |g, v| {
        let out = learner.sequence(g, &v[..n], &v[n..n + s], &v[n + s], &v[n + s + 1]);
        [vec![out.loss], out.grads, out.states].concat()
    });
    let names = |of: &str, count: usize| (0..count).map(|k| format!("{of}{k}")).collect::<Vec<_>>();
    let (arguments, results) = (names("a", shapes.len()), names("r", gradient.results().len()));
    let program = lower("gradient", &gradient, &arguments, &results, &[])?;
    let plugin = pjrt::locate(pjrt::aot::plugin_kind(target)?, None, &mut |_| {})?;
    let report = pjrt::aot::compile(&plugin, target, &program, NonZeroUsize::MIN)?;
    println!(
        "{target}: {:?}, {:?}, {} MiB in all, compiled in {:.0} s",
        learner.form(steps),
        report.memory,
        report.memory.total() >> 20,
        report.seconds
    );
    Ok(())
}

/// The most memory that this process ever had, in MiB; 0 where the system does not say.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|l| l.split_whitespace().next());
    line.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The compiler of another device runs in a process of its own: this program again.
    if std::env::var_os(pjrt::aot::CHILD).is_some() {
        std::process::exit(pjrt::aot::child_main());
    }
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let target = args.pop_if(|last| last.contains(':'));
    let number = |k: usize, standard: usize| args.get(k).map_or(Ok(standard), |a| a.parse());
    let (neurons, degree, batch, steps) = (number(0, 500)?, number(1, 20)?, number(2, 4)?, number(3, 50)?);
    let rules: Vec<&str> = if args.len() > 4 {
        args[4..].iter().map(String::as_str).collect()
    } else {
        vec!["d-rtrl", "es-d-rtrl", "bptt"]
    };
    let model = network(batch, neurons, degree)?;
    let synapses: usize = model.params.iter().filter(|p| p.name != "out.weight").map(|p| p.shape.elements()).sum();
    println!("{neurons} neurons, {synapses} synapses and biases, batch {batch}, {steps} steps");
    if let Some(target) = target {
        for rule in rules {
            let config = LearnerConfig { method: <Method as Listed>::by_name(rule)?, ..LearnerConfig::default() };
            print!("{rule:>10}, ");
            compile_for(&target, &model, steps, &config)?;
        }
        return Ok(());
    }
    let session = Session::cpu()?;
    let mut random = Stream::new(1, "trains");
    let spikes =
        (0..steps * batch * INPUTS).map(|_| f32::from(u8::from(random.uniform() < 0.05))).collect::<Vec<f32>>();
    let inputs = Array::f32(spikes, [steps, batch, INPUTS])?;
    let targets = Array::s32((0..batch).map(|b| (b % 2) as i32).collect::<Vec<_>>(), [batch])?;
    for rule in rules {
        let config = LearnerConfig { method: <Method as Listed>::by_name(rule)?, ..LearnerConfig::default() };
        let engine = Engine::new(&session, &model, &Objective::default(), &config)?;
        let state = engine.start(Optimizer::default().rule, 1)?;
        let states = engine.states(1, 0)?;
        let start = Instant::now();
        let (loss, _) = engine.gradient(&state.params, &states, &inputs, &targets)?;
        let first = start.elapsed().as_secs_f64();
        let mut seconds = Vec::new();
        let mut norm = 0.0;
        for _ in 0..3 {
            let start = Instant::now();
            let (_, grads) = engine.gradient(&state.params, &states, &inputs, &targets)?;
            let weights = grads[0].to_array()?;
            seconds.push(start.elapsed().as_secs_f64());
            norm = weights.to_f64_vec().iter().map(|g| g * g).sum::<f64>().sqrt();
        }
        seconds.sort_by(f64::total_cmp);
        println!(
            "{rule:>10}: loss {:.4} per step, gradient of the inputs' weights {norm:.3e}, {:.3} s a gradient (median of 3; {first:.1} s with \
             compilation), process at most {} MiB",
            loss / steps as f32,
            seconds[1],
            most_memory()
        );
        assert!(norm > 0.0, "{rule}: the network must be alive");
    }
    Ok(())
}
