//! Any network on any task: `etrace train`, presets, configurations, `--set`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use etrace::{
    cell::{rate::RateCell, spiking::NeuronConfig, spiking::SynapseConfig},
    experiment::{Experiment, NetConfig, TaskConfig},
    learn::{LossKind, Method},
    net::{Sizes, Stack},
    presets::PRESETS,
    settings::Listed,
};
use tasks::Targets;

fn etrace(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etrace"));
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command.output().expect("the built command starts")
}

#[track_caller]
fn succeeds(line: &str) -> String {
    let output = etrace(line);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "etrace {line}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The error of a command that must fail as the user's mistake, on one line.
#[track_caller]
fn fails(line: &str) -> String {
    let output = etrace(line);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "etrace {line}\n{error}");
    assert!(error.starts_with("error: ") && !error.contains("defect"), "{error}");
    error.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("etrace-grid-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    fn join(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Delayed match-to-sample so small that a batch takes milliseconds.
const TINY: &str =
    "train dms-small --set settings.batch=4 --set task.t_delay=20 --set task.t_sample=100 --set task.t_test=100";

#[test]
fn every_layer_and_every_rate_cell_is_trained_and_explained() {
    let folder = Folder::new("all");
    let cells = RateCell::all().map(|cell| cell.name().to_string());
    for name in Stack::layer_names().into_iter().chain(cells) {
        let run = folder.join(&name);
        succeeds(&format!("{TINY} --set net={name} --set net.n_rec=8 --epochs 2 --out {run} -q"));
        let metrics = fs::read_to_string(Path::new(&run).join("metrics.jsonl")).expect("a recorded run");
        assert_eq!(metrics.lines().count(), 2, "{name}");
        let told = succeeds(&format!("explain {run}"));
        assert!(told.contains("batch 4, 46 steps, loss after step 26"), "{name}: {told}");
    }
}

#[test]
fn every_rule_trains_a_layer_and_a_run_of_it_is_resumed() {
    let folder = Folder::new("resume");
    for method in Method::names() {
        let (whole, halves) = (folder.join(&format!("{method}-whole")), folder.join(&format!("{method}-halves")));
        let line = format!("{TINY} --set net=alif-std-exp-cu --set net.n_rec=8 --method {method} -q");
        succeeds(&format!("{line} --epochs 4 --out {whole}"));
        succeeds(&format!("{line} --epochs 2 --out {halves}"));
        succeeds(&format!("train --resume {halves} --epochs 4 -q"));
        let last = |run: &str| fs::read(Path::new(run).join("last.safetensors")).expect("a checkpoint");
        assert_eq!(last(&whole), last(&halves), "{method}");
    }
}

#[test]
fn a_configuration_that_was_printed_is_the_same_experiment() {
    let folder = Folder::new("printed");
    let printed = succeeds("train dms-small --set net=gru --set net.n_rec=8 --dry-run -q");
    let file = folder.join("mine.toml");
    // All of it is a configuration file: what is said of the program is a comment.
    fs::write(&file, &printed).expect("a file");
    let settings =
        |text: &str| text.split_once("\n# 242 steps").expect("the program follows the settings").0.to_string();
    let again = succeeds(&format!("train {file} --dry-run -q"));
    let text = settings(&printed);
    assert_eq!(settings(&again), text);
    assert!(succeeds(&format!("explain {file}")).contains("242 steps, loss after step 142"));
    // What a hand adds and nobody knows is refused, wherever it is.
    for (more, part) in [
        ("\n[nett]\nn_rec = 3\n", "has no setting `nett`; the nearest is `net`"),
        ("\n[settings.more]\nx = 3\n", "`settings` has no setting `more`"),
    ] {
        fs::write(&file, format!("{text}{more}")).expect("a file");
        let error = fails(&format!("train {file} --dry-run"));
        assert!(error.contains(part) && error.contains("mine.toml"), "{error}");
    }
    fs::write(&file, text.replace("n_rec = 8", "n_rec = 0")).expect("a file");
    assert!(fails(&format!("train {file}")).contains("`net.n_rec` must be at least 1, got 0"));
    fs::write(&file, "n_rec = [").expect("a file");
    assert!(fails(&format!("explain {file}")).contains("no TOML"));
}

#[test]
fn explain_dry_run_and_training_agree_on_the_published_experiments() {
    for (name, steps, warmup) in [("dms", "2,500", 2000), ("ei", "2,200", 2050)] {
        let experiment = Experiment::published(name).expect("a preset");
        let told = succeeds(&format!("explain {name}"));
        assert!(told.contains(&format!("{} steps, loss after step {warmup}", steps.replace(',', ""))), "{told}");
        let dry = succeeds(&format!("{name} --dry-run -q"));
        let stored = toml::to_string_pretty(&experiment).expect("it can be written");
        assert!(dry.starts_with(&stored), "{name}:\n{dry}\nand\n{stored}");
        // Only the time to compile differs.
        let config = |text: &str| text.split_once("\n# ").expect("the program follows the settings").0.to_string();
        assert_eq!(config(&succeeds(&format!("train {name} --dry-run -q"))), config(&dry));
    }
}

#[test]
fn every_preset_is_checked_listed_and_explained() {
    let list = succeeds("train --list");
    for preset in PRESETS {
        let experiment = (preset.experiment)();
        experiment.check().unwrap_or_else(|e| panic!("{}: {e}", preset.name));
        if let Ok(task) = experiment.task.open() {
            experiment.fits(task.as_ref()).unwrap_or_else(|e| panic!("{}: {e}", preset.name));
        }
        let text = toml::to_string(&experiment).expect("it can be written");
        Experiment::read(&text).unwrap_or_else(|e| panic!("{}: {e}", preset.name));
        assert!(list.contains(&format!("  {} ", preset.name)) && list.contains(preset.doc), "{}", preset.name);
        if !preset.name.contains("published") {
            succeeds(&format!("explain {} --batch 2 --steps 10 --warmup 0", preset.name));
        }
    }
    let names = [TaskConfig::names(), NetConfig::names(), NeuronConfig::names(), SynapseConfig::names()].concat();
    for name in names.into_iter().chain(RateCell::all().map(RateCell::name)) {
        assert!(
            list.lines().any(|line| line.split_whitespace().next() == Some(name)),
            "{name} is missing from\n{list}"
        );
    }
}

#[test]
fn every_task_is_stored_and_read_back() {
    for row in TaskConfig::ROWS {
        let task = (row.standard)();
        assert_eq!(task.row().name, row.name);
        let text = toml::to_string(&task).expect("it can be written");
        assert_eq!(toml::from_str::<TaskConfig>(&text).expect(&text), task);
        for name in row.aliases {
            assert_eq!(TaskConfig::by_name(name), Ok(task.clone()));
        }
        let (steps, warmup) = task.timing().expect("standard settings make sense");
        assert!(warmup < steps, "{}", row.name);
    }
}

#[test]
fn every_task_without_files_is_trained_and_explained() {
    let folder = Folder::new("tasks");
    for row in TaskConfig::ROWS {
        let mut task = (row.standard)();
        if task.folders().is_some() {
            continue;
        }
        let mut all = Experiment::published("gru").expect("a rate cell");
        let opened = task.open().expect("standard settings make sense");
        let sizes = Sizes { n_in: Some(opened.n_in()), n_rec: Some(4), n_out: Some(opened.n_out()), n_layer: None };
        all.net.resize(&sizes).expect("every network has these");
        if let NetConfig::Rate(net) = &mut all.net {
            net.dt = task.dt().unwrap_or(net.dt);
        }
        if task.targets() == Targets::Numbers {
            all.objective.loss = LossKind::Mse;
        }
        (all.learner.warmup, all.settings.batch, all.task) = (opened.warmup(), 2, task);
        let (file, run) = (folder.join(&format!("{}.toml", row.name)), folder.join(row.name));
        fs::write(&file, toml::to_string(&all).expect("it can be written")).expect("a file");
        let said = succeeds(&format!("train {file} --epochs 2 --out {run} -q"));
        assert!(said.contains(&format!("{}: ", opened.name())), "{said}");
        let metrics = fs::read_to_string(Path::new(&run).join("metrics.jsonl")).expect("a recorded run");
        assert_eq!(metrics.lines().count(), 2, "{}", row.name);
        succeeds(&format!("explain {run}"));
    }
}

#[test]
fn a_task_that_copies_is_trained() {
    let folder = Folder::new("copying");
    let run = folder.join("run");
    let said = succeeds(&format!("train copying --epochs 3 --out {run} -q"));
    assert!(said.contains("copying: ") && said.contains("16 steps, loss in the last 3;"), "{said}");
}

#[test]
fn shapes_that_differ_are_named_with_what_to_set() {
    let error = fails("train dms-small --set task=copying --set task.length=1 --dry-run");
    for part in ["network `gif` and task `copying`", "the task has 10, the network 100", "net.n_in=10", "net.n_out=10"]
    {
        assert!(error.contains(part), "`{part}` is missing: {error}");
    }
    let line =
        "train dms-small --set task=copying --set task.length=1 --set net.n_in=10 --set net.n_out=10 --dry-run -q";
    assert!(succeeds(line).contains("warmup = 101"), "the loss starts where that of the new task does");
    for (set, part) in [
        ("net.dt=1", "length of a step: the task has 5 ms, the network 1 ms (set net.dt=5)"),
        ("learner.warmup=242", "got 242 of 242 steps (set learner.warmup=142)"),
        ("net=gesture", "set net to another network"),
    ] {
        let error = fails(&format!("train dms-small --set {set}"));
        assert!(error.contains(part), "{set}: {error}");
    }
}

#[test]
fn set_knows_every_setting_and_refuses_the_others() {
    for (set, part) in [
        ("net.n_recc=3", "`net` has no setting `n_recc`; the nearest is `n_rec`; known are n_in, n_rec"),
        (
            "net=lif-exp-cu --set net.reset=hard",
            "known are n_in, n_rec, n_layer, n_out, tau_o, ff_scale, rec_scale, dt, neuron, synapse; there is `net.neuron.reset`",
        ),
        ("net.n_rec=many", "`net.n_rec` must be a whole number from 0, got `many`"),
        ("net.n_rec=18446744073709551615", "`net.n_rec` must be"),
        ("net.tau_syn=0", "`net.tau_syn` must be above 0 and finite, got 0"),
        ("net.tau_syn=nan", "`net.tau_syn` must be above 0 and finite, got NaN"),
        ("net.tau_neu=inf", "`net.tau_neu` must be above 0 and finite, got inf"),
        ("net.dt=-1", "`net.dt` must be above 0 and finite, got -1"),
        ("settings.stop_at=95", "`settings.stop_at` must be from 0 to 1, got 95"),
        ("settings.batch=0", "`settings.batch` must be at least 1, got 0"),
        ("settings.epochs=3", "set settings.batches"),
        ("settings.epocs=3", "`settings` has no setting `epocs`"),
        ("optimizer.lr=0", "`optimizer.lr` must be above 0 and finite, got 0"),
        ("optimizer.eps.x=0", "`optimizer.eps`"),
        ("nett.n_rec=3", "has no table `nett`; the nearest is `net`"),
        ("net=alif-gamma", "`net.kind` knows no network `alif-gamma`"),
        ("net.tau_neu.uniform=3", "`net.tau_neu"),
        ("task=dmss", "`task.name` knows no task `dmss`; the nearest is `dms`"),
        ("task.t_delay=-5", "t_delay is at least 0"),
        ("net", "must be KEY=VALUE"),
        ("=3", "must be KEY=VALUE"),
    ] {
        let error = fails(&format!("train dms-small --dry-run --set {set}"));
        assert!(error.contains(part), "{set}: `{part}` is missing from: {error}");
    }
    let text = succeeds(
        "train dms-small --dry-run -q --set net=lif-exp-cu --set net.neuron=alif --set net.neuron.tau=30 --set net.neuron.beta=0.2 \
         --set net.synapse.tau=7 --set net.n_rec=11 --set optimizer.rule=sgd",
    );
    for part in
        ["name = \"alif\"", "scalar = 30.0", "beta = 0.2", "tau = 7.0", "n_rec = 11", "rule = \"sgd\"", "dt = 5.0"]
    {
        assert!(text.contains(part), "`{part}` is missing from\n{text}");
    }
}

/// Configurations that earlier versions wrote.
#[test]
fn old_configurations_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs");
    for (file, kind, task) in [
        ("dms.toml", "gif", "dms"),
        ("ei.toml", "ei", "evidence"),
        ("gesture.toml", "gesture", "made"),
        ("shd.toml", "speech", "speech"),
        ("memspeed.toml", "etrace", "nmnist"),
    ] {
        let text = fs::read_to_string(folder.join(file)).expect("a configuration");
        let found: Experiment = toml::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!((found.net.row().name, found.task.row().name), (kind, task), "{file}");
        let strict = Experiment::read(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        let written = toml::to_string(&strict).expect("it can be written");
        let table = |text: &str| text.parse::<toml::Table>().expect("TOML");
        assert_eq!(table(&written), table(&text), "{file}");
    }
}
