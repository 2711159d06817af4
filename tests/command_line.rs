//! The command line as a user types it: exit codes and the words on the screen.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn etrace(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etrace"));
    command.args(words).stdin(Stdio::null());
    // A plugin of the tester must not answer for one that a test names.
    for variable in ["ETRACE_CPU_PLUGIN", "ETRACE_CUDA_PLUGIN", "ETRACE_TPU_PLUGIN", "RUST_BACKTRACE"] {
        command.env_remove(variable);
    }
    command.output().expect("the built command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must end with `code`; returns what it printed to standard output and standard error.
#[track_caller]
fn run(words: &[&str], code: i32) -> (String, String) {
    let output = etrace(words);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "etrace {}\n{out}\n{err}", words.join(" "));
    assert!(!err.contains("panicked") && !err.contains("RUST_BACKTRACE") && !err.contains("defect"), "{err}");
    (out, err)
}

/// Runs a command that must fail with `code` and say all of `parts`.
#[track_caller]
fn fails(words: &[&str], code: i32, parts: &[&str]) {
    let (_, err) = run(words, code);
    assert!(err.starts_with("error: "), "{err}");
    // Clap wraps lines where it likes.
    let flat = err.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(flat.contains(part), "`{part}` is missing from: {err}");
    }
}

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("etrace-command-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("a temporary file");
        path.display().to_string()
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file of the reference cases.
fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name)).expect("a reference case")
}

const COMMANDS: &[&[&str]] = &[
    &[],
    &["memspeed"],
    &["train"],
    &["explain"],
    &["verify"],
    &["plugin"],
    &["plugin", "list"],
    &["plugin", "install"],
    &["plugin", "path"],
    &["data"],
    &["data", "check"],
    &["completions"],
    &["man"],
];

#[test]
fn every_command_has_help() {
    for command in COMMANDS {
        let words: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        let (out, _) = run(&words, 0);
        assert!(out.contains("Usage: etrace"), "{out}");
        for flag in ["--device", "--plugin", "--threads", "--quiet"] {
            assert!(out.contains(flag), "etrace {}: {flag} is missing", words.join(" "));
        }
    }
    let (out, _) = run(&["--version"], 0);
    assert_eq!(out.trim(), format!("etrace {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_and_manual_pages_know_every_command_and_flag() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (out, _) = run(&["completions", shell], 0);
        for word in ["memspeed", "dry-run", "etrace_decay"] {
            assert!(out.contains(word), "{shell}: {word} is missing");
        }
    }
    fails(&["completions", "csh"], 2, &["csh", "bash, elvish, fish"]);
    let folder = Folder::new("man");
    let (out, _) = run(&["man", "--out", &folder.path()], 0);
    assert!(out.contains("etrace.1"), "{out}");
    for (page, parts) in
        [("etrace.1", "etrace-train(1)"), ("etrace-data-check.1", "time-unit"), ("etrace-dms.1", "tau_I2")]
    {
        let text = fs::read_to_string(folder.0.join(page)).expect(page).replace('\\', "");
        assert!(text.contains(parts), "{page}: {parts} is missing");
    }
    assert!(!folder.0.join("etrace-help.1").exists());
    let file = folder.file("file", b"");
    fails(&["man", "--out", &file], 2, &["--out must be a folder that can be written", "name another"]);
}

#[test]
fn wrong_words_are_usage_errors() {
    fails(&["explain", "dms", "--bacth", "3"], 2, &["--bacth", "similar", "--batch"]);
    fails(&["explian", "dms"], 2, &["explian", "explain"]);
    fails(&["explain"], 2, &["<MODEL>"]);
    fails(&["explain", "dms", "--batch", "0"], 2, &["--batch must be at least 1, got 0"]);
    fails(&["--device", "npu", "plugin", "list"], 2, &["npu", "cpu, cuda, cuda:N, gpu or tpu"]);
    fails(&["--threads", "0", "plugin", "list"], 2, &["--threads"]);
    fails(&["plugin", "install", "rocm"], 2, &["cpu, cuda12, cuda13, tpu"]);
    fails(&["plugin", "install", "cuda13"], 2, &["plugin install cuda12"]);
}

#[test]
fn an_unknown_learning_rule_lists_the_known_ones() {
    fails(&["memspeed", "--method", "backprop"], 2, &["backprop", "bptt", "expsm_diag", "d-rtrl", "hybrid"]);
}

#[test]
fn flags_and_commands_may_be_shortened() {
    let (long, _) = run(&["explain", "rnn", "--batch", "4", "--steps", "10", "--n_rec", "8"], 0);
    let (short, _) = run(&["expl", "rnn", "--bat", "4", "--st", "10", "--n-rec", "8"], 0);
    assert_eq!(long, short);
}

#[test]
fn a_plugin_that_does_not_exist() {
    let folder = Folder::new("no-plugin");
    folder.file("x.json", b"{}");
    folder.file("x.safetensors", b"");
    let words = ["verify", &folder.path(), "--plugin", "/nowhere/plugin.so"];
    fails(&words, 2, &["--plugin", "/nowhere/plugin.so", "nothing at"]);
}

#[test]
fn damaged_plugins_are_refused_before_they_are_loaded() {
    let folder = Folder::new("plugins");
    // One case, which is never reached.
    folder.file("x.json", b"{}");
    folder.file("x.safetensors", b"");
    let few = folder.file("few.so", b"\x7fELF few bytes");
    fails(&["verify", &folder.path(), "--plugin", &few], 1, &["few.so is truncated", "etrace plugin install cpu"]);
    let prose = folder.file("prose.so", &[b'x'; 4096]);
    fails(&["verify", &folder.path(), "--plugin", &prose], 1, &["prose.so", "not a 64-bit little-endian ELF file"]);

    // The command itself is a position-independent ELF file: whole it is no plugin, cut short it is truncated.
    let whole = fs::read(env!("CARGO_BIN_EXE_etrace")).expect("the built command");
    let cut = folder.file("cut.so", &whole[..whole.len() / 2]);
    fails(&["verify", &folder.path(), "--plugin", &cut], 1, &["cut.so is truncated", "bytes expected"]);
    let other = folder.file("other.so", &whole);
    fails(&["verify", &folder.path(), "--plugin", &other], 1, &["other.so could not be loaded"]);
}

#[test]
fn verify_without_cases_is_a_usage_error() {
    let folder = Folder::new("empty");
    fails(&["verify", &folder.path()], 2, &["NAME.json and NAME.safetensors", "holds none"]);
    fails(&["verify", "/nowhere/golden"], 2, &["/nowhere/golden", "nothing at"]);
    let file = folder.file("x.json", b"{}");
    fails(&["verify", &file], 2, &["is a file"]);
}

#[test]
fn verify_replays_the_built_in_cases() {
    // From a folder that holds nothing: the cases are part of the program.
    let folder = Folder::new("built-in");
    let mut command = Command::new(env!("CARGO_BIN_EXE_etrace"));
    let output = command
        .args(["verify", "--json", "--quiet"])
        .current_dir(&folder.0)
        .output()
        .expect("the built command starts");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((report["failed"].as_u64(), report["skipped"].as_array().map(Vec::len)), (Some(0), Some(0)), "{report}");
    let checks = report["checks"].as_array().expect("checks");
    let cases: std::collections::BTreeSet<_> = checks.iter().filter_map(|check| check["case"].as_str()).collect();
    assert_eq!(cases.len(), 9, "{cases:?}");
    for quantity in ["state", "out", "loss", "bptt", "d_rtrl/exit", "es_d_rtrl_0.99/exit K=4"] {
        assert!(checks.iter().any(|check| check["quantity"] == quantity), "{quantity} is missing from {report}");
    }
}

#[test]
fn verify_replays_a_case_and_names_a_broken_one() {
    let folder = Folder::new("golden");
    for name in ["vanilla_rnn.json", "vanilla_rnn.safetensors"] {
        folder.file(name, &golden(name));
    }
    let (out, err) = run(&["verify", &folder.path()], 0);
    assert!(out.contains("d_rtrl/exit") && out.contains("0 failed, 0 skipped"), "{out}\n{err}");
    assert!(!out.contains("FAIL"), "{out}");

    // A model nobody knows is skipped; a damaged file is a failure; neither hides the other results.
    let (bytes, json) = (golden("vanilla_rnn.safetensors"), golden("vanilla_rnn.json"));
    folder.file("unheard_of.json", &json);
    folder.file("unheard_of.safetensors", &bytes);
    folder.file("gru.json", &json);
    folder.file("gru.safetensors", &bytes[..bytes.len() / 2]);
    let (out, _) = run(&["verify", &folder.path(), "--json", "--quiet"], 1);
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["failed"], 1, "{report}");
    assert_eq!(report["skipped"][0], "unheard_of");
    assert_eq!(report["broken"][0]["case"], "gru");
    assert!(
        report["broken"][0]["reason"].as_str().is_some_and(|r| r.contains("gru.safetensors is damaged")),
        "{report}"
    );
    assert!(report["passed"].as_u64().is_some_and(|n| n > 10), "{report}");
}

#[test]
fn verify_that_compares_nothing_fails() {
    let folder = Folder::new("unheard-of");
    folder.file("unheard_of.json", &golden("vanilla_rnn.json"));
    folder.file("unheard_of.safetensors", &golden("vanilla_rnn.safetensors"));
    let (out, err) = run(&["verify", &folder.path(), "--quiet"], 1);
    assert!(out.contains("0 passed, 0 failed, 1 skipped (no model of this name: unheard_of)"), "{out}");
    for part in ["must compare something", "unheard_of", "leave the directory out"] {
        assert!(err.contains(part), "`{part}` is missing from: {err}");
    }
}

/// Gradients that nobody can compute are not passed over.
#[test]
fn verify_names_gradients_without_a_rule_and_unknown_methods() {
    let folder = Folder::new("unknown-method");
    folder.file("vanilla_rnn.json", &golden("vanilla_rnn.json"));
    let bytes = golden("vanilla_rnn.safetensors");
    folder.file("vanilla_rnn.safetensors", &bytes);
    let (out, _) = run(&["verify", &folder.path(), "--quiet"], 0);
    assert!(!out.contains("do not exist here"), "{out}");
    for quantity in ["snap_n2/ss K=4", "ostl_recurrent/ms1", "eprop_kappa0.9/ss K=4", "uoro/ss K=1", "uoro/ms1"] {
        assert!(out.contains(quantity), "{quantity} is not replayed: {out}");
    }
    let renamed = |from: &str, to: &str| -> Vec<u8> {
        let (from, to) = (from.as_bytes(), to.as_bytes());
        let mut bytes = bytes.clone();
        let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|&k| bytes[k..].starts_with(from)).collect();
        assert!(!places.is_empty() && from.len() == to.len());
        places.iter().for_each(|&k| bytes[k..k + from.len()].copy_from_slice(to));
        bytes
    };
    // Synthetic gradients.
    folder.file("vanilla_rnn.safetensors", &renamed("grad/uoro/ss", "grad/dnix/ss"));
    let (out, _) = run(&["verify", &folder.path(), "--quiet"], 0);
    assert!(out.contains("rules that do not exist here skipped: vanilla_rnn dnix/ss"), "{out}");
    for (from, to, part) in [
        ("grad/uoro/ss/", "grad/uoru/ss/", "`grad/uoru/ss`"),
        ("grad/uoro/ss/", "grad/uoro/sx/", "`grad/uoro/sx`"),
        ("extra/uoro/nu/", "extra/uoro/nv/", "uoro"),
        ("grad/uoro/ss/W.bias", "grad/uoro/ss/W.bids", "belongs to no parameter"),
        ("init_state/h", "init_state/q", "init_state"),
    ] {
        folder.file("vanilla_rnn.safetensors", &renamed(from, to));
        let (out, _) = run(&["verify", &folder.path(), "--quiet"], 1);
        assert!(out.contains("could not be replayed") && out.contains(part), "{to}: {out}");
    }
}

#[test]
fn verify_fails_where_one_number_is_wrong() {
    let folder = Folder::new("wrong-number");
    folder.file("vanilla_rnn.json", &golden("vanilla_rnn.json"));
    let mut bytes = golden("vanilla_rnn.safetensors");
    let arrays = safetensors::SafeTensors::deserialize(&bytes).expect("arrays");
    let loss = arrays.tensor("loss").expect("the loss").data().as_ptr() as usize - bytes.as_ptr() as usize;
    bytes[loss..loss + 4].copy_from_slice(&9f32.to_le_bytes());
    folder.file("vanilla_rnn.safetensors", &bytes);
    let (out, _) = run(&["verify", &folder.path(), "--quiet"], 1);
    assert!(out.contains("FAIL") && out.contains("1 failed"), "{out}");
}

#[test]
fn explain_describes_a_spiking_network() {
    let (out, _) = run(&["explain", "memspeed-laptop"], 0);
    for line in [
        "memspeed-laptop: batch 16, 100 steps",
        "  trained           855,552 values in 7 arrays, 3.26 MiB",
        "  3      16 x 11          1  out.r",
        "  1   dense        l0.weight   256 x 256   l0.V[t-1]  group 0",
        "  3   dense        l1.weight   256 x 256   l0.V[t]    group 1",
    ] {
        assert!(out.contains(&format!("{line}\n")), "`{line}` is missing from\n{out}");
    }
    // 16 x (3 x 256 x 256 + 2048 x 256 + 2 x 256 x 256 + 3 x 256 + 256) floats: the readout's trace is the same for all classes.
    assert!(out.contains("52.1 MiB"), "{out}");
    for learner in ["forward", "bptt", "d-rtrl", "es-d-rtrl", "hybrid"] {
        assert!(out.lines().any(|l| l.trim_start().starts_with(learner)), "{learner} is missing from\n{out}");
    }
}

#[test]
fn explain_says_what_is_left_out() {
    let (out, _) = run(&["explain", "gru", "--batch", "4", "--steps", "10"], 0);
    assert!(out.contains("Wr.weight") && out.contains("it reaches states through another traced op"), "{out}");
    for name in ["lif_expcu", "dms", "ei", "memspeed-published"] {
        let (out, _) = run(&["explain", name], 0);
        assert!(out.contains("Hidden groups") && out.contains("Learners"), "{out}");
    }
    fails(&["explain", "lif_gamma"], 2, &["lif_gamma", "memspeed-laptop", "lif_delta"]);
    fails(&["explain", "dms", "--n_layer", "2"], 2, &["--n_layer must be 1 in this network"]);
    fails(&["explain", "rnn", "--steps", "5", "--warmup", "5"], 2, &["--warmup"]);
}

#[test]
fn data_check_reads_samples_and_names_damage() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/data");
    let folder = Folder::new("data");
    let h5 = fs::read(samples.join("shd_tiny.h5")).expect("a sample");
    folder.file("shd_test.h5", &h5);
    let (out, _) = run(&["data", "check", &folder.path()], 0);
    assert!(out.contains("SHD test") && out.contains("no problem found"), "{out}");
    folder.file("shd_train.h5", &h5[..h5.len() / 2]);
    let (out, err) = run(&["data", "check", &folder.path()], 1);
    assert!(out.contains("PROBLEM") && out.contains("shd_train.h5"), "{out}");
    assert!(err.is_empty(), "{err}");
}

#[test]
fn data_check_without_data_is_a_usage_error() {
    fails(&["data", "check", "/nowhere/data"], 2, &["/nowhere/data", "nothing at"]);
    // The samples lie there under names that no task reads.
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/data").display().to_string();
    fails(&["data", "check", &samples], 2, &["shd_train.h5"]);
}

#[test]
fn plugins_are_listed_with_their_versions() {
    let (out, _) = run(&["plugin", "list"], 0);
    assert!(out.contains("PJRT API") || out.contains("no plugin is installed"), "{out}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_closed_pipe_is_no_error() {
    let script = format!("'{}' explain memspeed-laptop | true; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_etrace"));
    let output = Command::new("bash").args(["-c", &script]).output().expect("bash");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}
