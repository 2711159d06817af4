//! `etrace import` and `etrace export`: fixtures of the Python package `nir` with the values of another simulator, runs made of them, and
//! networks of LIF neurons on their way out and back. Nodes one by one are in `tests/nir_nodes.rs`.

#[path = "common/runs.rs"]
#[allow(dead_code, reason = "each file of tests uses a part")]
mod common;
#[path = "common/host.rs"]
mod host;

use std::{collections::BTreeMap, fs, path::Path};

use common::{Folder, etrace, fails, metrics, succeeds};
use etrace::{
    cell::{Init, Mode},
    experiment::Experiment,
    learn::{Method, Objective, sequence::LearnerConfig},
    net::nir::import::{Steps, import},
    rng::Stream,
    train::{
        checkpoint::{self, Name},
        engine::Engine,
        optimizer::{Optimizer, Rule},
        session::Session,
    },
};
use hlo::array::Array;
use tasks::nir::Graph;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tasks/data/nir");

/// The parameters of a run, as bits.
fn bits(run: &str) -> BTreeMap<String, Vec<u32>> {
    let arrays = checkpoint::arrays(Path::new(run), Name::Last).expect("a checkpoint");
    arrays.into_iter().map(|(name, all)| (name, all.into_iter().map(f32::to_bits).collect())).collect()
}

#[test]
fn every_node_of_the_fixtures_has_the_expected_values_in_every_step() {
    let folder = Folder::new("nir-fixtures");
    for (name, nodes) in [("feedforward_lif", 4), ("recurrent_cubalif", 5)] {
        let run = folder.join(name);
        let line = format!("import {FIXTURES}/{name}.nir --check {FIXTURES}/{name}_expected.npz --out {run}");
        let (out, _) = succeeds(&line);
        assert!(out.contains(&format!("{nodes} nodes agree with")), "{out}");
        let spikes = out.lines().find(|line| line.starts_with("lif1  ") && line.ends_with(" 0")).is_some();
        assert!(spikes, "no spike differs: {out}");
        assert!(Path::new(&run).join("last.safetensors").is_file());
    }
}

#[test]
fn another_scheme_and_another_step_give_other_values() {
    let folder = Folder::new("nir-schemes");
    let line = format!("import {FIXTURES}/recurrent_cubalif.nir --check {FIXTURES}/recurrent_cubalif_expected.npz");
    for more in ["--scheme exponential", "--dt 0.5", "--time_unit ms --scheme exponential"] {
        let run = folder.join("run");
        let output = etrace(&format!("{line} {more} --out {run}"));
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{more}: {out}");
        assert!(out.contains("differ from") && out.contains("lif1") && !Path::new(&run).exists(), "{more}: {out}");
    }
}

#[test]
fn an_imported_run_goes_on_like_any_other_and_comes_out_as_it_came_in() {
    let folder = Folder::new("nir-life");
    for name in ["feedforward_lif", "recurrent_cubalif"] {
        let [run, again, trained, file, after] =
            ["run", "again", "trained", "out.nir", "after.nir"].map(|what| folder.join(&format!("{name}-{what}")));
        let import = format!("import {FIXTURES}/{name}.nir -q --set task.steps=20");
        succeeds(&format!("{import} --out {run}"));
        succeeds(&format!("export {run} --nir {file}"));
        succeeds(&format!("import {file} -q --out {again}"));
        assert_eq!(bits(&run), bits(&again));
        assert!(succeeds(&format!("explain {run}")).0.contains("lif1"));
        // Weights learn; constants stay as they were, bit for bit.
        succeeds(&format!("{import} --method d-rtrl --epochs 3 --out {trained}"));
        succeeds(&format!("train --resume {trained} -q"));
        assert_eq!(metrics(Path::new(&trained)).len(), 3);
        let (before, now) = (bits(&run), bits(&trained));
        for (name, values) in before.iter().filter(|(name, _)| name.contains('.') && !name.starts_with("slots")) {
            let is_trained = name.ends_with(".weight") || name.ends_with(".bias");
            assert_eq!(now[name] != *values, is_trained, "{name}");
        }
        succeeds(&format!("observe {trained} --samples 1 --out {}", folder.join("plots")));
        succeeds(&format!("export {trained} --nir {after}"));
        let graph = Graph::open(Path::new(&after)).expect("an export");
        let weight = import_params(&graph).remove("fc1.weight").expect("a weight");
        assert_eq!(weight.iter().map(|w| w.to_bits()).collect::<Vec<_>>(), now["fc1.weight"]);
    }
}

fn import_params(graph: &Graph) -> BTreeMap<String, Vec<f32>> {
    import(graph, Steps::default()).expect("a sound graph").params
}

#[test]
fn online_rules_reduce_a_loss_of_an_imported_network() {
    let graph = Graph::open(&Path::new(FIXTURES).join("recurrent_cubalif.nir")).expect("a fixture");
    let found = import(&graph, Steps::default()).expect("a sound graph");
    let (batch, steps) = (8, 40);
    let mut model = etrace::net::Network::trace(&found.net, batch, Mode::Online);
    for param in &mut model.params {
        param.init = Init::Values(found.params[&param.name].clone());
    }
    let session = Session::cpu().expect("a session");
    let mut stream = Stream::new(3, "inputs");
    let spikes: Vec<f32> = (0..steps * batch * 12).map(|_| f32::from(u8::from(stream.uniform() < 0.3))).collect();
    let inputs = Array::f32(spikes, [steps, batch, 12]).expect("an array");
    let targets = Array::s32((0..batch as i32).map(|b| b % 4).collect::<Vec<_>>(), [batch]).expect("an array");
    let optimizer = Optimizer { lr: 0.05, rule: Rule::Adam, ..Optimizer::default() };
    for method in [Method::D_RTRL, Method::es_d_rtrl(0.9), Method::BPTT] {
        let config = LearnerConfig { method, ..LearnerConfig::default() };
        let engine = Engine::new(&session, &model, &Objective::default(), &config).expect("a learner");
        let mut state = engine.start(optimizer.rule, 0).expect("a start");
        let mut losses = Vec::new();
        for _ in 0..40 {
            let states = engine.states(0, 0).expect("states");
            let (loss, grads) = engine.gradient(&state.params, &states, &inputs, &targets).expect("a gradient");
            losses.push(loss);
            (state, _) = engine.update(&optimizer, state, &grads).expect("an update");
        }
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        assert!(last < 0.7 * first, "{}: {first} to {last}", config.method.name());
    }
}

const SMALL: &str = "train dms-small -q --set settings.batch=4 --set task.t_delay=20 --set task.t_sample=100 --set task.t_test=100 --epochs 2";

#[test]
fn trained_layers_of_lif_neurons_compute_the_same_once_exported() {
    let folder = Folder::new("nir-stack");
    let mut stream = Stream::new(1, "inputs");
    let inputs: Vec<Vec<f64>> =
        (0..60).map(|_| (0..100).map(|_| f64::from(u8::from(stream.uniform() < 0.1))).collect()).collect();
    for (net, more) in [
        ("lif-delta", "--set net.n_layer=2"),
        ("lif-exp-cu", "--set net.neuron.tau={uniform=[5.0,30.0]} --set net.ff_scale=40.0"),
    ] {
        let run = folder.join(net);
        succeeds(&format!("{SMALL} --set net={net} --set net.n_rec=12 --set net.neuron.reset=hard {more} --out {run}"));
        let before = Experiment::of_run(Path::new(&run)).expect("a run");
        let params = checkpoint::arrays(Path::new(&run), Name::Last).expect("a checkpoint");
        let want = host::outputs(&before.net.trace(1, Mode::Evaluation), |name| params[name].clone(), &inputs);
        let size = want.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
        assert!(size > 0.1, "{net} is alive: {size}");
        for scheme in ["exponential", "euler"] {
            let (file, back) = (folder.join("out.nir"), folder.join(&format!("{net}-{scheme}")));
            succeeds(&format!("export {run} --nir {file} --scheme {scheme}"));
            let (out, _) = succeeds(&format!("import {file} --experiment {run} --out {back}"));
            assert!(out.contains(&format!("{scheme} steps of 5 ms")) && out.contains("l0_lif (step before)"), "{out}");
            let after = Experiment::of_run(Path::new(&back)).expect("a run");
            assert_eq!(after.task, before.task);
            let params = checkpoint::arrays(Path::new(&back), Name::Last).expect("a checkpoint");
            let got = host::outputs(&after.net.trace(1, Mode::Evaluation), |name| params[name].clone(), &inputs);
            let apart = got.iter().flatten().zip(want.iter().flatten()).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(apart < 1e-5 * size, "{net} {scheme}: {apart:e} of {size}");
        }
    }
}

#[test]
fn networks_without_a_counterpart_are_refused_with_the_quantity() {
    let folder = Folder::new("nir-refused");
    for (k, (net, want)) in [
        ("gif", "layer `l0` cannot be exported: it has an after-current (`I2`: `tau_i2`, `a2`)"),
        ("alif-exp-cu", "a threshold that adapts (`tau_a`, `beta`)"),
        (
            "lif-exp-cu",
            "(`reset` is soft), and the neurons of NIR are set to v_reset; train it with net.neuron.reset=hard",
        ),
        ("lif-exp-co", "net.neuron.reset=hard"),
        ("gru", "no counterpart of `rate`: rate cells"),
    ]
    .into_iter()
    .enumerate()
    {
        let (run, file) = (folder.join(&format!("run{k}")), folder.join("out.nir"));
        succeeds(&format!("{SMALL} --set net={net} --set net.n_rec=8 --out {run}"));
        let error = fails(&format!("export {run} --nir {file}"), 2);
        assert!(error.contains(want), "{net}: {error}");
        assert!(!Path::new(&file).exists());
    }
}

#[test]
fn what_is_wrong_is_said() {
    let folder = Folder::new("nir-wrong");
    let (text, run) = (folder.join("text.nir"), folder.join("run"));
    fs::write(&text, "no HDF5").expect("a file");
    let fixture = format!("{FIXTURES}/feedforward_lif.nir");
    let speech = concat!(env!("CARGO_MANIFEST_DIR"), "/tasks/data/shd_tiny.h5");
    for (line, want) in [
        (format!("import {}", folder.join("none.nir")), "import takes a NIR file, but"),
        (format!("import {text} --out {run}"), "the file is HDF5, and begins with"),
        (format!("import {speech} --out {run}"), "a NIR file has a group `node`"),
        (format!("import {fixture} --scheme rk4"), "invalid value 'rk4'"),
        (format!("import {fixture} --dt 60 --out {run}"), "forward Euler with a step of 0.06 s is not stable"),
        (
            format!("import {fixture} --trained weight,tao --out {run}"),
            "`trained` knows no quantity `tao`; the nearest is `tau`",
        ),
        (format!("import {fixture} --surrogate hat --out {run}"), "--surrogate must be one of relu"),
        (
            format!("import {fixture} --experiment dms-small --dt 5 --out {run}"),
            "inputs: the task has 100, the network 12",
        ),
        (format!("import {fixture} --check {text} --out {run}"), "--check takes an .npz file"),
        (format!("import {fixture} --resume {run}"), "import makes a new run"),
        (
            format!("import {fixture} --set net.dt=2 --out {run}"),
            "--set may change net.diff_spike, net.surrogate and net.weight_scale",
        ),
        (format!("import {fixture} --set net=gru --out {run}"), "--set may change net.diff_spike"),
        (format!("export {run} --nir {text}"), "export takes the folder of a run"),
    ] {
        let error = fails(&line, 2);
        assert!(error.contains(want), "{line}: {error}");
        assert!(!Path::new(&run).exists(), "{line} leaves nothing");
    }
    succeeds(&format!("import {fixture} -q --out {run}"));
    let taken = fails(&format!("import {fixture} --out {run}"), 2);
    assert!(taken.contains("must not hold a run already"), "{taken}");
    let error = fails(&format!("export {run} --nir {}/none/out.nir", folder.join("x")), 2);
    assert!(error.contains("cannot write"), "{error}");
    let error = fails(&format!("export {run} --nir {text} --scheme exponential"), 2);
    assert!(error.contains("this one is a graph, in euler steps"), "{error}");
    // A configuration that a hand made contradict itself.
    let config = Path::new(&run).join("config.toml");
    let broken = fs::read_to_string(&config).expect("a configuration").replacen("input -> fc1", "input -> fc3", 1);
    fs::write(&config, broken).expect("a file");
    for line in [format!("explain {run}"), format!("observe {run}"), format!("export {run} --nir {text}")] {
        let error = fails(&line, 2);
        assert!(error.contains("there is no `fc3`"), "{line}: {error}");
    }
}
