//! Runs as a user makes them: resumed, killed, interrupted, gone wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A network so small that a batch takes milliseconds.
const SMALL: &str =
    "dms --dt 5 --n_rec 16 --batch_size 8 --t_delay 20 --t_fixation 10 --A2 1 --ff_scale 40 --seed 3 --acc_th 1";

fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etrace"));
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

fn etrace(line: &str) -> Output {
    command(line).output().expect("the built command starts")
}

#[track_caller]
fn succeeds(line: &str) -> String {
    let output = etrace(line);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "etrace {line}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The error of a command that must fail with `code`, on one line.
#[track_caller]
fn fails(line: &str, code: i32) -> String {
    let output = etrace(line);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "etrace {line}\n{error}");
    assert!(!error.contains("defect"), "{error}");
    error.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("etrace-training-{}-{name}", std::process::id()));
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

fn checkpoint(run: &str) -> Vec<u8> {
    fs::read(Path::new(run).join("last.safetensors")).expect("a checkpoint")
}

/// The recorded updates without their times.
fn updates(run: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(Path::new(run).join("metrics.jsonl")).expect("metrics");
    text.lines()
        .map(|line| {
            let mut row: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
            row.as_object_mut().expect("an object").remove("seconds");
            row
        })
        .collect()
}

/// Starts a long run and waits until it has made `count` updates.
fn start(line: &str, run: &str, count: usize) -> Child {
    let child = command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the built command starts");
    let clock = Instant::now();
    let metrics = Path::new(run).join("metrics.jsonl");
    while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < count {
        assert!(clock.elapsed() < Duration::from_secs(120), "no {count} updates in two minutes");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit() {
    let folder = Folder::new("resume");
    for method in ["bptt", "d-rtrl", "es-d-rtrl"] {
        let (whole, halves) = (folder.join(&format!("{method}-whole")), folder.join(&format!("{method}-halves")));
        succeeds(&format!("{SMALL} --method {method} --epochs 6 --out {whole}"));
        succeeds(&format!("{SMALL} --method {method} --epochs 3 --out {halves}"));
        assert_ne!(checkpoint(&whole), checkpoint(&halves), "three more updates change something");
        succeeds(&format!("dms --resume {halves} --epochs 6"));
        assert_eq!(checkpoint(&whole), checkpoint(&halves), "{method}");
        assert_eq!(updates(&whole), updates(&halves), "{method}");
    }
}

/// A network that draws random numbers in every step, with data that change in every epoch.
const GESTURES: &str = "gesture --dataset made --made-samples 24 9 --frames 6 --frame-size 32 --rnn-type event-gru --units 8 \
                        --batch-size 8 --dropout 0.3 --zoneout 0.2 --use-cnn --seed 5";

#[test]
fn a_resumed_run_draws_the_random_numbers_of_an_uninterrupted_one() {
    let folder = Folder::new("resume-gesture");
    let (whole, halves) = (folder.join("whole"), folder.join("halves"));
    succeeds(&format!("{GESTURES} --method d-rtrl --train-epochs 4 --out {whole}"));
    succeeds(&format!("{GESTURES} --method d-rtrl --train-epochs 2 --out {halves}"));
    succeeds(&format!("gesture --resume {halves} --train-epochs 4"));
    assert_eq!(checkpoint(&whole), checkpoint(&halves));
    assert_eq!(updates(&whole), updates(&halves));

    // The trained network is found again, as good as training said.
    let said = |text: String| {
        let line = text.lines().find(|l| l.contains("test accuracy")).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("no accuracy in {text}"));
        line.split("test accuracy ").nth(1).and_then(|rest| rest.split(',').next().map(str::to_owned))
    };
    let trained = succeeds(&format!("gesture --resume {whole} --train-epochs 4"));
    let found = succeeds(&format!("eval {whole}"));
    assert!(found.contains("activity sparsity") && found.contains("confusion.csv"), "{found}");
    assert_eq!(said(trained), said(found));

    let seen = succeeds(&format!("observe {whole} --samples 2"));
    assert!(seen.contains("activity sparsity"), "{seen}");
    for file in ["sample-1.png", "sample-1.svg", "sample-1-frames.png", "sample-1-frames.svg"] {
        assert!(Path::new(&whole).join(file).is_file(), "{file}");
    }
}

#[test]
fn a_killed_run_goes_on_from_its_checkpoint() {
    let folder = Folder::new("killed");
    let (whole, killed) = (folder.join("whole"), folder.join("killed"));
    let mut child = start(&format!("{SMALL} --method d-rtrl --epochs 1000000 --out {killed}"), &killed, 30);
    child.kill().expect("it runs still");
    child.wait().expect("it was killed");
    let done = updates(&killed).len() as u64 + 20;
    succeeds(&format!("dms --resume {killed} --epochs {done}"));
    succeeds(&format!("{SMALL} --method d-rtrl --epochs {done} --out {whole}"));
    assert_eq!(checkpoint(&whole), checkpoint(&killed));
    assert_eq!(updates(&whole), updates(&killed), "what came after the checkpoint is recorded once");
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_of_the_last_batch() {
    let folder = Folder::new("interrupted");
    let run = folder.join("run");
    let child = start(&format!("{SMALL} --method es-d-rtrl --epochs 1000000 --out {run}"), &run, 5);
    let told = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is a POSIX command");
    assert!(told.success());
    let output = child.wait_with_output().expect("it ends by itself");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let done = updates(&run).len();
    assert!(Path::new(&run).join("curve.png").is_file());
    let text = succeeds(&format!("dms --resume {run} --epochs {}", done + 1));
    assert!(text.contains(&format!("{} batches", done + 1)), "{text}");
}

#[test]
fn a_dry_run_shows_everything_and_writes_nothing() {
    let folder = Folder::new("dry");
    let run = folder.join("run");
    let text = succeeds(&format!("{SMALL} --method d-rtrl --epochs 3 --out {run} --dry-run"));
    for part in ["seed = 3", "batches = 3", "name = \"d-rtrl\"", "warmup = ", "compiled in", "needs", "temporary"] {
        assert!(text.contains(part), "`{part}` is missing from:\n{text}");
    }
    assert!(!Path::new(&run).exists());
}

#[test]
fn a_run_does_not_overwrite_another() {
    let folder = Folder::new("taken");
    let run = folder.join("run");
    succeeds(&format!("{SMALL} --epochs 1 --out {run}"));
    let before = checkpoint(&run);
    let error = fails(&format!("{SMALL} --epochs 2 --out {run}"), 2);
    assert!(error.contains("--resume"), "{error}");
    assert_eq!(checkpoint(&run), before);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_with_the_last_good_state() {
    let folder = Folder::new("nan");
    let run = folder.join("run");
    // The first update makes weights so large that the second loss is no number, but they are numbers still.
    let line = SMALL.replace("--seed 3", "--seed 4");
    let flags = "--method d-rtrl --epochs 4 --lr 1e18 --optimizer momentum --loss mse";
    let error = fails(&format!("{line} {flags} --out {run}"), 1);
    assert!(error.contains("the loss must be finite") && error.contains("lower --lr"), "{error}");
    assert!(error.contains("last.safetensors") && error.contains("at update 2"), "{error}");
    assert_eq!(updates(&run).len(), 1, "nothing is recorded of the update that failed");
}

#[test]
fn weights_that_are_not_finite_are_not_saved() {
    let folder = Folder::new("infinite");
    let run = folder.join("infinite");
    let large = SMALL.replace("--ff_scale 40", "--ff_scale 1e12");
    let flags = "--method d-rtrl --epochs 4 --lr 1e18 --optimizer sgd --weight_L2 1e18";
    let error = fails(&format!("{large} {flags} --out {run}"), 1);
    assert!(error.contains("must be finite") && error.contains("left as it was"), "{error}");
    let log = fs::read_to_string(Path::new(&run).join("log.jsonl")).expect("a log");
    assert!(log.contains("\"event\":\"failure\""), "{log}");
}

#[test]
fn a_checkpoint_of_another_network_names_the_shapes() {
    let folder = Folder::new("shapes");
    let run = folder.join("run");
    succeeds(&format!("{SMALL} --epochs 1 --out {run}"));
    let config = Path::new(&run).join("config.toml");
    let text = fs::read_to_string(&config).expect("a configuration").replace("n_rec = 16", "n_rec = 24");
    fs::write(&config, text).expect("a writable file");
    let error = fails(&format!("dms --resume {run} --epochs 2"), 1);
    assert!(error.contains("l0.weight") && error.contains("116") && error.contains("124"), "{error}");
    // A damaged one is named too.
    let bytes = checkpoint(&run);
    fs::write(Path::new(&run).join("last.safetensors"), &bytes[..bytes.len() / 2]).expect("a writable file");
    let error = fails(&format!("dms --resume {run} --epochs 2"), 1);
    assert!(error.contains("last.safetensors"), "{error}");
    let error = fails(&format!("dms --resume {}", folder.join("nowhere")), 2);
    assert!(error.contains("--resume names the folder of a run"), "{error}");
}

#[test]
fn a_sweep_writes_its_table_and_plots() {
    let folder = Folder::new("sweep");
    let out = folder.join("out");
    let sizes = "memspeed --n_in 8 --n_rec 6 --n_layer 2 --batch_size 2 --repeats 2";
    let text = succeeds(&format!("{sizes} --length 4,8 --drive both --chunk 2 --out {out}"));
    assert!(text.contains("training loss = ") && text.contains("memory before = "), "the published line: {text}");
    let json = fs::read_to_string(Path::new(&out).join("memspeed.json")).expect("the table");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).expect("an array");
    assert_eq!(rows.len(), 3 * 2 * 2, "methods, lengths, drives");
    for row in &rows {
        for key in ["method", "length", "drive", "chunk", "compile_seconds", "run_seconds", "compiled_bytes"] {
            let bptt_by_step = row["method"] == "bptt" && row["drive"] == "step";
            assert!(bptt_by_step || !row[key].is_null(), "{key} of {row}");
        }
        for key in ["peak_bytes", "loss", "accuracy", "error"] {
            assert!(row.get(key).is_some(), "{key} of {row}");
        }
        // BPTT needs the whole sequence: a row that says so, and the sweep goes on.
        assert_eq!(row["error"].is_null(), !(row["method"] == "bptt" && row["drive"] == "step"), "{row}");
    }
    // Both drives compute the same.
    for online in ["d-rtrl", "es-d-rtrl"] {
        let loss = |drive: &str| {
            let row = rows.iter().find(|r| r["method"] == online && r["drive"] == drive && r["length"] == 8);
            row.and_then(|r| r["loss"].as_f64()).expect("a loss")
        };
        assert!((loss("scan") - loss("step")).abs() < 1e-5, "{online}: {} and {}", loss("scan"), loss("step"));
    }
    for file in ["memspeed.csv", "time.svg", "time.png", "memory.svg", "memory.png"] {
        assert!(Path::new(&out).join(file).is_file(), "{file}");
    }
}

/// As printed in the README files of the published experiments.
#[test]
#[expect(clippy::too_many_lines, reason = "a list of command lines")]
fn the_published_command_lines_are_accepted() {
    let dms = "--dataset dms --t_delay 1000 --tau_I2 1500 --tau_neu 100 --tau_syn 100 --n_rec 200 --lr 0.001 --A2 1 --optimizer \
               adam --devices 3 --t_fixation 10. --spk_fun relu --acc_th 0.95 --n_data_worker 4 --dt 1. --ff_scale 6 --rec_scale 2";
    let ei = "--tau_neu 200 --tau_syn 10 --tau_I2 2000 --ff_scale 4.0 --rec_scale 2.0";
    let shd = "--dataset_name shd --nb_epochs 100 --nb_hiddens 1024";
    let gesture = "--batch-size 64 --units 1024 --num-layers 1 --frame-size 128 --train-epochs 500 --frame-time 25 --rnn-type \
                   event-gru --learning-rate 0.001 --lr-gamma 0.9 --event-agg-method mean --use-cnn --dropout 0.5 --zoneout 0 \
                   --pseudo-derivative-width 1.7 --threshold-mean 0.25 --augment-data --devices 0 --data ../data --cache ./cache";
    // In place of the data sets: a few samples in their layout, and patterns made to order.
    let folder = Folder::new("published");
    for file in ["shd_train.h5", "shd_test.h5"] {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/data/shd_tiny.h5");
        fs::copy(sample, folder.join(file)).expect("a copied sample");
    }
    let data = folder.join("");
    for (line, parts) in [
        (format!("dms --epochs 2000 --method bptt {dms}"), ["warmup = 1510", "name = \"bptt\""]),
        (
            format!("dms --epochs 2000 --method expsm_diag --etrace_decay 0.99 --vjp_time t {dms}"),
            ["decay = 0.99", "mode = \"single-step\""],
        ),
        (format!("dms --epochs 2000 --method diag {dms}"), ["name = \"d-rtrl\"", "batches = 2000"]),
        (
            format!(
                "ei {ei} --method esd-rtrl --n_rec 800 --epoch_per_step 20 --diff_spike 0 --epochs 300 --lr 0.001 --etrace_decay 0.9"
            ),
            ["decay = 0.9", "mode = \"multi-step\""],
        ),
        (
            format!("ei {ei} --method d-rtrl --n_rec 800 --epoch_per_step 30 --diff_spike 0 --epochs 300 --lr 0.001"),
            ["warmup = 2050", "every = 30"],
        ),
        (
            format!("ei {ei} --method bptt --n_rec 800 --epoch_per_step 30 --diff_spike 0 --epochs 300 --lr 0.001"),
            ["n_rec = 800", "name = \"bptt\""],
        ),
        (format!("shd --model_type LIF {shd} --method bptt --data_folder {data}"), ["hidden = [", "cell = \"lif\""]),
        (format!("shd --model_type RLIF {shd} --method d-rtrl --data_folder {data}"), ["1024", "cell = \"rlif\""]),
        (
            format!("shd --model_type adLIF {shd} --method esd-rtrl --etrace_decay 0.98 --data_folder {data}"),
            ["decay = 0.98", "cell = \"adlif\""],
        ),
        (
            format!("shd --model_type RadLIF {shd} --method esd-rtrl --etrace_decay 0.98 --data_folder {data}"),
            ["epochs = 100", "cell = \"radlif\""],
        ),
        (
            format!(
                "shd {shd} --use_bias True --use_augm 1 --save_best yes --normalization batchnorm --data_folder {data}"
            ),
            ["bias = true", "[task.augment]"],
        ),
        (format!("shd {shd} --use_bias 0 --use_augm no --data_folder {data}"), ["bias = false", "name = \"bptt\""]),
        (
            format!("gesture {gesture} --method bptt --lr-decay-epochs 100 --dataset made"),
            ["cell = \"event-gru\"", "name = \"bptt\""],
        ),
        (
            format!("gesture {gesture} --method d-rtrl --lr-decay-epochs 50 --dataset made"),
            ["units = 1024", "name = \"d-rtrl\""],
        ),
        (
            format!("gesture {gesture} --method es-d-rtrl --etrace-decay 0.2 --lr-decay-epochs 100 --dataset made"),
            ["decay = 0.2", "cnn = true"],
        ),
    ] {
        let text = succeeds(&format!("{line} --dry-run"));
        for part in parts {
            assert!(text.contains(part), "`{part}` is missing for {line}:\n{text}");
        }
    }
}

#[test]
fn wrong_values_are_usage_errors() {
    for (line, part) in [
        ("dms --n_rec 0", "--n_rec must be at least 1"),
        ("dms --dataset shd", "--dataset must be dms or dm"),
        ("dms --lr 0", "--lr must be above 0"),
        ("dms --adam_eps 0", "--adam_eps must be above 0"),
        ("dms --spk_fun step", "--spk_fun must be one of"),
        ("dms --lr_milestones 3,x", "--lr_milestones"),
        ("dms --target tpu:v5e", "--dry-run"),
        ("dms --dt 0", "dt"),
        ("ei --net cubic", "--net must be coba or cuba"),
        ("ei --n_rec 3", "--n_rec must be at least 5"),
        ("ei --sparsity 0", "--sparsity"),
        ("shd --data_folder /nowhere", "MD5"),
        ("shd --model_type GRU", "LIF"),
        ("shd --pdrop 1.5", "pdrop"),
        ("gesture --data /nowhere", "MD5"),
        ("gesture --frame-size 50", "frame_size divides 128 and is at least 16: got 50; choose"),
        ("gesture --frame-size 20 --dataset made --use-cnn", "--use-cnn"),
        ("gesture --dropout 1 --dataset made", "dropout"),
        ("eval /nowhere", "/nowhere"),
        ("memspeed --dataset nmnist", "--data DIR"),
        ("memspeed --dataset nmnist --data /nowhere", "/nowhere"),
    ] {
        let error = fails(line, 2);
        assert!(error.contains(part), "`{part}` is missing for {line}: {error}");
    }
}

#[test]
#[ignore = "needs the TPU plugin: etrace plugin install tpu"]
fn the_training_program_compiles_for_a_tpu_that_is_not_there() {
    for method in ["bptt", "d-rtrl", "es-d-rtrl"] {
        let text = succeeds(&format!("memspeed --method {method} --length 200 --dry-run --target tpu:v5e"));
        assert!(text.contains("compiled for tpu:v5e"), "{text}");
    }
}
