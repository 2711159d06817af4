//! The life of a run as a user meets it: refused starts, resumed runs, full disks, closed terminals, damaged files, too little memory.
#![cfg(target_os = "linux")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

#[path = "common/runs.rs"]
#[allow(dead_code, reason = "each file of tests uses a part")]
mod common;

use common::{Folder, checkpoint, command, fails, log, metrics, succeeds, write_nmnist};

const SMALL: &str =
    "dms --dt 5 --n_rec 16 --batch_size 8 --t_delay 20 --t_fixation 10 --A2 1 --ff_scale 40 --seed 3 --acc_th 1";
const DIGITS: &str = "memspeed --dataset nmnist --n_rec 8 --n_layer 1 --data_length 10 --batch_size 2";

#[test]
fn a_start_that_failed_can_be_repeated() {
    let folder = Folder::new("rerun");
    write_nmnist(folder.path(), 1);
    let (test, away) = (folder.path().join("NMNIST/Test"), folder.path().join("Test"));
    fs::rename(&test, &away).expect("a moved folder");
    let line = format!("{DIGITS} --data {} --epochs 1 --out {}", folder.join(""), folder.join("run"));
    let error = fails(&line, 1);
    assert!(error.contains("NMNIST/Test"), "{error}");
    assert!(!folder.path().join("run").exists(), "a run that never began leaves nothing");
    fs::rename(&away, &test).expect("a moved folder");
    succeeds(&line);
}

#[test]
fn a_run_is_resumed_from_another_folder_and_with_moved_data() {
    let folder = Folder::new("elsewhere");
    write_nmnist(&folder.path().join("data"), 1);
    let run = |line: &str, place: &Path| {
        let output = command(line).current_dir(place).output().expect("the built command starts");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(&format!("{DIGITS} --data data --epochs 1 --out run"), folder.path());
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    run("memspeed --resume ../run --epochs 2", &elsewhere);
    fs::rename(folder.path().join("data"), folder.path().join("moved")).expect("a moved folder");
    run("memspeed --resume ../run --epochs 3 --data ../moved", &elsewhere);
    let path = folder.path().join("run");
    let updates = metrics(&path).iter().filter(|line| line.contains("\"step\",")).count();
    assert_eq!(updates, 3 * 5, "ten recordings in batches of two, three times");
    let changes: Vec<String> = log(&path).iter().map(|entry| entry["changes"].to_string()).collect();
    assert!(changes[2].contains("epochs") && changes[4].contains("data folder"), "{changes:?}");
    let config = fs::read_to_string(path.join("config.toml")).expect("a configuration");
    assert!(config.contains("epochs = 3") && config.contains("/moved"), "{config}");
}

#[test]
fn flags_that_contradict_a_run_are_refused_with_both_values() {
    let folder = Folder::new("flags");
    let run = folder.join("run");
    succeeds(&format!("{SMALL} --epochs 2 --out {run}"));
    let before = checkpoint(Path::new(&run), "last");
    let error = fails(&format!("dms --resume {run} --epochs 4 --lr 0.5 --batch_size 1 --method d-rtrl"), 2);
    for part in ["--lr 0.001", "--lr 0.5", "--batch_size 8", "--batch_size 1", "--method d-rtrl"] {
        assert!(error.contains(part), "`{part}` is missing from {error}");
    }
    let error = fails(&format!("ei --resume {run} --epochs 4"), 2);
    assert!(error.contains("a run of `etrace dms`"), "{error}");
    let error = fails(&format!("dms --resume {run} --out {}", folder.join("other")), 2);
    assert!(error.contains("--out"), "{error}");
    assert_eq!(checkpoint(Path::new(&run), "last"), before);
    // The same values, in any spelling, are no contradiction.
    succeeds(&format!("dms --resume {run} --epochs 3 --lr 1e-3 --batch-size 8 --n_rec 16 --out {run}"));
}

#[test]
fn a_finished_run_says_so_and_trains_no_further() {
    let folder = Folder::new("finished");
    let run = folder.join("run");
    succeeds(&format!("{SMALL} --epochs 3 --out {run}"));
    let before = (metrics(Path::new(&run)), checkpoint(Path::new(&run), "last"));
    for line in [format!("dms --resume {run}"), format!("dms --resume {run} --epochs 3")] {
        let (out, _) = succeeds(&line);
        assert!(out.contains("is complete, 3 of 3 batches") && out.contains("--epochs N"), "{out}");
        assert_eq!((metrics(Path::new(&run)), checkpoint(Path::new(&run), "last")), before, "{line}");
    }
    // One that has learned what it should is not lengthened.
    let run = folder.join("reached");
    succeeds(&format!("{} --epochs 50 --out {run}", SMALL.replace("--acc_th 1", "--acc_th 0.01")));
    let (out, _) = succeeds(&format!("dms --resume {run} --epochs 80"));
    assert!(out.contains("is complete") && out.contains("reached 1 %"), "{out}");
    assert_eq!(metrics(Path::new(&run)).len(), 10);
}

#[test]
fn a_run_begins_with_the_parameters_of_another() {
    let folder = Folder::new("init");
    let [first, second, other] = ["first", "second", "other"].map(|name| folder.join(name));
    let line =
        "train dms-small --set settings.batch=4 --set task.t_delay=20 --set task.t_sample=100 --set task.t_test=100 -q";
    succeeds(&format!("{line} --set net.n_rec=8 --epochs 3 --out {first}"));
    succeeds(&format!("{line} --set net.n_rec=8 --epochs 1 --set optimizer.lr=1e-30 --init {first} --out {second}"));
    // One update at a rate that changes nothing: the parameters are those of the first run, and the optimiser has made one update.
    let tensors = |run: &str| {
        let bytes = checkpoint(Path::new(run), "last");
        let read = safetensors::SafeTensors::deserialize(&bytes).expect("a checkpoint");
        let mut all: Vec<(String, Vec<u8>)> =
            read.tensors().iter().map(|(n, v)| (n.clone(), v.data().to_vec())).collect();
        all.sort();
        all
    };
    let (a, b) = (tensors(&first), tensors(&second));
    let of = |all: &[(String, Vec<u8>)], slots: bool| -> Vec<(String, Vec<u8>)> {
        all.iter().filter(|(n, _)| n != "count" && n.starts_with("slots.") == slots).cloned().collect()
    };
    assert_eq!(of(&a, false), of(&b, false));
    assert_ne!(of(&a, true), of(&b, true));
    let count = |all: &[(String, Vec<u8>)]| all.iter().find(|(n, _)| n == "count").expect("a count").1[0];
    assert_eq!((count(&a), count(&b)), (3, 1));
    let said = log(Path::new(&second))[0].to_string();
    assert!(said.contains("initial parameters") && said.contains("first/last.safetensors, 3 updates"), "{said}");
    // Another network, and what is no run.
    let error = fails(&format!("{line} --set net.n_rec=9 --epochs 1 --init {first} --out {other}"), 2);
    assert!(error.contains("but this model needs"), "{error}");
    assert!(!Path::new(&other).exists());
    fails(&format!("{line} --epochs 1 --init {}", folder.join("nothing")), 2);
    fails(&format!("train --resume {first} --init {second}"), 2);
}

#[test]
fn a_run_records_what_it_was() {
    let folder = Folder::new("record");
    let run = folder.join("run");
    succeeds(&format!("{SMALL} --epochs 2 --threads 2 --out {run}"));
    let (_, err) = succeeds(&format!("dms --resume {run} --epochs 4"));
    assert!(!err.contains("warning"), "the run's number of threads is kept: {err}");
    let (_, err) = succeeds(&format!("dms --resume {run} --epochs 6 --threads 1"));
    assert!(err.contains("the number of threads was 2 so far and is 1 after update 4"), "{err}");
    let log = log(Path::new(&run));
    let start = &log[0];
    assert_eq!(start["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&start["threads"], &start["device"]), (&2.into(), &"cpu".into()));
    assert_eq!(start["plugin_sha256"].as_str().map(str::len), Some(64), "{start}");
    assert!(start["command"].to_string().contains("--n_rec"), "{start}");
    for key in ["time", "host", "plugin", "device_kind", "folder", "process"] {
        assert!(!start[key].is_null(), "{key} of {start}");
    }
    let events: Vec<&str> = log.iter().filter_map(|entry| entry["event"].as_str()).collect();
    assert_eq!(events, ["start", "end", "start", "end", "warning", "start", "end"]);
}

#[test]
fn a_standard_output_that_is_lost_ends_no_training() {
    let folder = Folder::new("output");
    let binary = env!("CARGO_BIN_EXE_etrace");
    let shell = |script: &str| Command::new("bash").args(["-c", script]).stdin(Stdio::null()).output().expect("bash");
    for (name, end, code) in
        [("closed", "| head -1; exit ${PIPESTATUS[0]}", 0), ("full", "> /dev/full", 1), ("none", ">&- 2>&-", 0)]
    {
        let run = folder.join(name);
        let output = shell(&format!("'{binary}' {SMALL} --epochs 40 --out {run} {end}"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {error}");
        assert_eq!(error.contains("No space left on device"), name == "full", "{error}");
        assert_eq!(metrics(Path::new(&run)).len(), 40, "{name}");
        assert!(succeeds(&format!("dms --resume {run}")).0.contains("is complete"), "{name}");
    }
}

#[test]
fn damaged_checkpoints_are_named_with_what_can_be_resumed() {
    let folder = Folder::new("damage");
    let run = folder.path().join("run");
    let line = run.display();
    succeeds(&format!("{SMALL} --epochs 50 --out {line}"));
    let whole = (metrics(&run), checkpoint(&run, "last"));
    let last = run.join("last.safetensors");
    let good = &whole.1;
    let mut flipped = good.clone();
    flipped[good.len() - 1000] ^= 1;
    for (bad, word) in [(&flipped[..], "checksum"), (&good[..good.len() / 2], "cut short"), (&[][..], "cut short")] {
        fs::write(&last, bad).expect("a writable file");
        let error = fails(&format!("dms --resume {line}"), 1);
        assert!(error.contains(word) && error.contains("--from previous (update 40)"), "{error}");
    }
    fs::remove_file(&last).expect("a removed file");
    let error = fails(&format!("dms --resume {line}"), 1);
    assert!(error.contains("No such file") && error.contains("--from best"), "{error}");
    // The older one leads to the same end.
    succeeds(&format!("dms --resume {line} --from previous"));
    assert!((metrics(&run), checkpoint(&run, "last")) == whole);
    succeeds(&format!("dms --resume {line} --from best"));
    assert!((metrics(&run), checkpoint(&run, "last")) == whole);
    // Missing metrics are noticed.
    fs::remove_file(run.join("metrics.jsonl")).expect("a removed file");
    let (_, err) = succeeds(&format!("dms --resume {line} --epochs 51"));
    assert!(err.contains("holds 0 of the 50 updates"), "{err}");
}

#[test]
fn the_first_error_is_the_one_that_is_reported() {
    let folder = Folder::new("first-error");
    let run = folder.join("run");
    succeeds(&format!("{SMALL} --epochs 2 --out {run}"));
    // A folder where the file is written first: as good as a full disk, and drawing fails as well.
    for name in ["best.safetensors.tmp", "last.safetensors.tmp", "curve.svg"] {
        let _ = fs::remove_file(Path::new(&run).join(name));
        fs::create_dir(Path::new(&run).join(name)).expect("a folder");
    }
    let error = fails(&format!("dms --resume {run} --epochs 60"), 1);
    assert!(error.contains("cannot write checkpoint"), "{error}");
}

#[test]
fn names_do_not_lead_out_of_their_folder() {
    for name in ["../../x", "/x", "a/../../x"] {
        let error = fails(&format!("{SMALL} --epochs 1 --exp_name {name}"), 2);
        assert!(error.contains("--exp_name") && error.contains("--out"), "{error}");
    }
}

#[test]
fn what_does_not_fit_into_memory_is_refused_before_it_starts() {
    let folder = Folder::new("memory");
    let run = folder.join("run");
    for line in ["dms --n_rec 100000", "dms --batch_size 10000000", "ei --n_rec 200000"] {
        let error = fails(&format!("{line} --epochs 1 --out {run}"), 2);
        assert!(error.contains("a run must fit into memory") && error.contains("are free"), "{line}: {error}");
    }
    let made = "gesture --dataset made --units 8 --frame-size 32 --batch-size 8 --frames 6000";
    let error = fails(&format!("{made} --made-samples 16777216 2 --train-epochs 1 --out {run}"), 2);
    assert!(error.contains("index of the data"), "{error}");
    for flag in ["--n_data_worker 18446744073709551615", "--threads 20000"] {
        let error = fails(&format!("{SMALL} --epochs 1 {flag} --out {run}"), 2);
        assert!(error.contains("at most"), "{flag}: {error}");
    }
    assert!(!Path::new(&run).exists());
}

#[test]
fn a_sweep_without_a_measured_point_fails() {
    let script = format!(
        "ulimit -v 3000000; '{}' memspeed --n_in 8 --n_rec 60000 --n_layer 1 --batch_size 2 --length 4 --method bptt --repeats 1",
        env!("CARGO_BIN_EXE_etrace")
    );
    let output = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).output().expect("bash");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("a sweep must measure something"), "{error}");
}

#[test]
fn compiled_programs_are_not_taken_from_a_folder_that_others_can_write_to() {
    let folder = Folder::new("cache");
    let cache = folder.path().join("cache");
    fs::create_dir(&cache).expect("a folder");
    let run = |mode: u32, place: &str| {
        fs::set_permissions(&cache, fs::Permissions::from_mode(mode)).expect("permissions");
        let mut command = command(&format!("{SMALL} --dry-run"));
        command.env("ETRACE_CACHE", place).current_dir(folder.path()).output().expect("the built command starts")
    };
    let refused = run(0o777, "cache");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("everybody can write to it (mode 777)"));
    assert!(run(0o700, "cache").status.success());
    assert!(cache.read_dir().expect("a folder").next().is_some(), "a relative folder counts");
}

/// Python takes modules from the current folder, if it is let.
#[test]
fn looking_for_plugins_runs_nothing_from_the_current_folder() {
    let folder = Folder::new("python");
    for name in ["pip.py", "site.py", "sitecustomize.py"] {
        fs::write(folder.path().join(name), "open('run', 'w')\n").expect("a module");
    }
    let mut command = command("plugin install cpu --quiet");
    // An empty cache, and an index that is not there: the download fails, but Python runs.
    command.env("XDG_CACHE_HOME", folder.path().join("empty")).env("PIP_INDEX_URL", "http://127.0.0.1:9/");
    command.env("PIP_RETRIES", "0").env("PIP_CONFIG_FILE", "/dev/null").env("PIP_NO_INDEX", "1");
    let output = command.current_dir(folder.path()).output().expect("the built command starts");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!folder.path().join("run").exists(), "a module of the current folder was executed");
    let left = folder.path().join("empty/etrace/plugins");
    assert!(!left.join(".partial-cpu").exists());
}
