//! What networks cost, as NeuroBench counts it: compared with counts by hand.

use std::fs;

use etrace::{
    cell::{Connections, Convolution, Dense, Init, Model, StateInit, StepContext, Surrogate},
    experiment::Experiment,
    learn::{Learner, Method, Objective, sequence::LearnerConfig},
    train::{checkpoint, efficiency::Efficiency},
};
use hlo::{Func, Shape, array::Array};
use tasks::Split;

#[path = "common/runs.rs"]
#[allow(dead_code, reason = "each file of tests uses a part")]
mod common;

use common::{Folder, succeeds};

/// Trains, evaluates, and reads what the evaluation counted.
fn evaluated(folder: &Folder, line: &str) -> (std::path::PathBuf, Efficiency, String) {
    let run = folder.path().join("run");
    succeeds(&format!("{line} --out {}", run.display()));
    let (said, _) = succeeds(&format!("eval {} --batches 2", run.display()));
    let text = fs::read_to_string(run.join("efficiency.json")).expect("a file of counts");
    (run, serde_json::from_str(&text).expect("JSON of counts"), said)
}

fn near(got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{got} for {want}");
}

#[test]
fn spikes_are_counted_as_they_come() {
    let folder = Folder::new("efficiency-dms");
    let line =
        "dms --dt 5 --n_rec 16 --batch_size 8 --t_delay 20 --t_fixation 10 --A2 1 --ff_scale 40 --acc_th 1 --epochs 5";
    let (run, found, said) = evaluated(&folder, line);
    let experiment = Experiment::of_run(&run).expect("a configuration");
    let task = experiment.task.open().expect("a task");
    let batches: Vec<_> =
        (0..2).map(|step| task.batch(Split::Test, experiment.settings.seed, 0, step, 8).expect("trials")).collect();
    let spikes: usize = batches.iter().map(|batch| batch.inputs.iter().filter(|v| **v != 0).count()).sum();
    let per_step = spikes as f64 / (16.0 * task.steps() as f64);
    let [input, recurrent, readout] = &found.connections[..] else { panic!("three products: {said}") };
    assert_eq!((input.name.as_str(), readout.name.as_str()), ("l0.weight", "out.weight"));
    assert!(per_step > 1.0, "inputs spike");
    near(input.effective, per_step * 16.0);
    assert!(input.spikes && recurrent.spikes && !readout.spikes, "potentials of GIF neurons are read out");
    assert!(recurrent.effective < recurrent.dense);
    assert_eq!((input.dense, recurrent.dense, readout.dense), (1600.0, 256.0, 32.0));
    near(found.effective_macs, readout.effective);
    near(found.effective_acs, input.effective + recurrent.effective);
    assert_eq!((found.potentials, found.uncounted.len()), (16, 0));
    let parameters: usize = [100 * 16 + 16 * 16, 16 * 2].iter().sum();
    assert!(found.parameter_bytes >= 4 * parameters as u64 && found.connection_sparsity == 0.0);
    // Silent neurons make no operations: what is recurrent follows the rate, but for the first and the last step.
    let silent = found.activation_sparsity.expect("a layer that fires");
    let share = recurrent.effective / recurrent.dense;
    assert!((share - (1.0 - silent)).abs() < 0.02, "{share} for {}", 1.0 - silent);
    assert!(said.contains("Synaptic operations of a step") && said.contains("16 membrane potentials"), "{said}");
}

#[test]
fn masks_are_sparse_connections() {
    let folder = Folder::new("efficiency-ei");
    let line = "ei --dt 5 --cues 2 --t_delay 50 --n_rec 20 --batch_size 4 --threshold 1 --method d-rtrl --epochs 3";
    let (run, found, _) = evaluated(&folder, line);
    let arrays = checkpoint::arrays(&run, checkpoint::Name::Last).expect("a checkpoint");
    let excitatory = found.connections.iter().find(|c| c.name.contains("exc.")).expect("excitatory synapses");
    let (mask, weight) = (&arrays["exc.mask"], &arrays["exc.weight"]);
    let there = mask.iter().zip(weight).filter(|(m, w)| **m * **w != 0.0).count();
    assert!(there < mask.len() / 2);
    near(excitatory.nonzero, there as f64);
    assert_eq!(excitatory.weights, mask.len());
    assert!(found.connection_sparsity > 0.5);
}

#[test]
fn convolutions_in_front_are_counted() {
    let folder = Folder::new("efficiency-gesture");
    let line = "gesture --dataset made --made-samples 16 8 --frames 3 --frame-size 32 --use-cnn --rnn-type event-gru --units 6 \
                --num-layers 1 --batch-size 8 --train-epochs 1";
    let (_, found, said) = evaluated(&folder, line);
    let conv = found.connections.iter().find(|c| c.name.starts_with("conv0")).unwrap_or_else(|| panic!("{said}"));
    assert!(conv.effective > 0.0 && conv.effective < 0.5 * conv.dense, "most pixels are silent: {conv:?}");
    assert!(found.connections.iter().any(|c| c.name.contains("l0.")), "{said}");
    assert!(found.activation_sparsity.is_some());
}

/// Counts of one step with inputs `[1, 1, n_in]`, all weights 1: effective and graded operations, and dense ones.
fn counted(model: &Model, inputs: &[f32]) -> (Vec<[f64; 3]>, Vec<String>) {
    let config = LearnerConfig { method: Method::BPTT, ..LearnerConfig::default() };
    let learner = Learner::new(model, &Objective::default(), &config).expect("a learner");
    let synapses = learner.synapses(model);
    let shape = Shape::f32([1, 1, inputs.len()]);
    let func = Func::trace(std::slice::from_ref(&shape), |g, v| {
        let params: Vec<_> = model.params.iter().map(|p| g.full(&p.shape, 1.0)).collect();
        let states: Vec<_> = model.states.iter().map(|s| g.zeros(&s.shape)).collect();
        let counts = learner.count_synapses(g, model, &synapses, &params, &states, &v[0]);
        counts.effective.into_iter().chain(counts.graded).chain(counts.dense).collect()
    });
    let session = etrace::train::session::Session::cpu().expect("a processor");
    let out = session.evaluate("count", &func, &[Array::f32(inputs, shape.dims.clone()).unwrap()]).expect("runs");
    let n = synapses.connections.len();
    let value = |k: usize| f64::from(out[k].to_vec::<f32>().unwrap()[0]);
    ((0..n).map(|k| [value(k), value(n + k), value(2 * n + k)]).collect(), synapses.uncounted)
}

fn driven(n_in: usize, n: usize, input: impl Fn(&mut StepContext, &hlo::Tensor) -> hlo::Tensor) -> Model {
    StepContext::trace(1, n_in, |cx, x| {
        let y = input(cx, x);
        let v = cx.state("V", n, StateInit::Zeros);
        let new = &v * 0.8 + y;
        cx.set("V", &new);
        cx.dense("out", &[&Surrogate::default().spike(&(&new - 0.5))], 2, &Dense::new(&[Init::Zeros]))
    })
}

#[test]
fn sparse_products_and_convolutions_have_the_operations_of_their_connections() {
    // Input 0 has three synapses, input 1 one, input 2 none.
    let pattern = Connections::new(3, 4, &[(0, 0), (0, 1), (0, 3), (1, 2)]).expect("a pattern");
    let model = driven(3, 4, move |cx, x| cx.sparse("syn", x, &pattern, Init::Zeros));
    let (all, uncounted) = counted(&model, &[1.0, 0.0, 1.0]);
    let sparse = all.iter().find(|c| c[2] == 4.0).unwrap_or_else(|| panic!("four synapses: {all:?}"));
    assert_eq!((sparse[0], sparse[1]), (3.0, 0.0));
    assert!(uncounted.is_empty());
    // A value that is no spike makes its operations multiplications.
    assert!(counted(&model, &[0.5, 0.0, 0.0]).0.iter().any(|c| c[..2] == [3.0, 1.0]));
    // Over five positions, 2 channels to 3, a kernel of 3: at an end of the line two positions are in reach.
    let line = Convolution::line(5, 3, [2, 3]);
    let model = driven(10, 15, move |cx, x| cx.convolution("conv", x, &line, Init::Zeros));
    let mut inputs = [0.0; 10];
    inputs[4] = 1.0;
    let (all, _) = counted(&model, &inputs);
    assert!(
        all.iter().any(|c| c[0] == 9.0 && c[2] == 78.0),
        "3 positions x 3 channels of (5 + 4 + 4) x 2 x 3: {all:?}"
    );
    // What is no product is named.
    let model = driven(3, 3, |cx, x| {
        let w = cx.param("odd.weight", &[3], Init::Zeros);
        cx.traced("odd", x, &w, |x, w| (x * x) * w.broadcast_to(x.dims()))
    });
    assert_eq!(counted(&model, &[1.0, 0.0, 0.0]).1, ["odd.weight"]);
}

#[test]
fn a_campaign_shows_what_its_networks_cost() {
    let folder = Folder::new("efficiency-campaign");
    let file = folder.join("c.toml");
    let text = "base = 'dms-small'\nset = ['settings.batch=4', 'settings.batches=3', 'task.t_delay=20', 'net.n_rec=8']\nevaluate = true\n\
                [grid]\n'net.n_rec' = [8, 12]\n";
    fs::write(&file, text).expect("a file");
    let out = folder.path().join("out");
    let (said, _) = succeeds(&format!("campaign {file} -q --out {}", out.display()));
    assert!(said.contains("effective ACs") && said.contains("parameters, bytes"), "{said}");
    let rows = fs::read_to_string(out.join("summary.csv")).expect("a table");
    let acs: Vec<f64> = rows.lines().skip(1).map(|row| row.split(',').nth(8).unwrap().parse().unwrap()).collect();
    assert!(acs.len() == 2 && acs[1] > acs[0] && acs[0] > 0.0, "{rows}");
    assert!(out.join("n_rec=8/seed-0/efficiency.json").exists(), "{rows}");
}

/// What the planner says that a form takes, and what the compiled program does.
#[test]
fn forms_take_what_was_predicted() {
    for form in ["whole", "recompute"] {
        let line = format!("memspeed --length 200 --methods d-rtrl --trace {form} --dry-run");
        let (said, _) = succeeds(&line);
        let mebibytes = |after: &str| -> f64 {
            let rest = said.split(after).nth(1).unwrap_or_else(|| panic!("{said} says no `{after}`"));
            let number = rest.trim_start().split(" MiB").next().expect("a number of bytes");
            number.parse().unwrap_or_else(|_| panic!("{number} MiB after `{after}`"))
        };
        let (predicted, temporary, all) = (mebibytes("takes about"), mebibytes("temporary"), mebibytes("needs"));
        let apart = (predicted - temporary) / all;
        assert!(apart.abs() < 0.15, "{form}: {predicted} predicted, {temporary} taken, {all} in all");
    }
}
