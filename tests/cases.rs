//! Data as people really have them: other units, orders, names and layouts than the published sets. The kinds come from public bug
//! reports of data and SNN libraries; each is run through the command line, with the right value of what comes out.
//!
//! All data are made here, but two HDF5 files in `tasks/data`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A folder of one test, removed at its end. Commands run in it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("etrace-cases-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Runs `etrace` with the words of a line; standard output and error together. It must end with `code`, within a minute.
    #[track_caller]
    fn run(&self, line: &str, code: i32) -> String {
        let out = fs::File::create(self.0.join("stdout")).expect("a file");
        let err = fs::File::create(self.0.join("stderr")).expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_etrace"))
            .args(line.split_whitespace())
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .expect("the built command starts");
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if started.elapsed() > Duration::from_secs(60) {
                let _ = child.kill();
                panic!("etrace {line} hangs");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let text = self.read("stdout") + &self.read("stderr");
        assert_eq!(status.code(), Some(code), "etrace {line}\n{text}");
        assert!(!text.contains("defect of the program"), "{text}");
        text
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(text.contains(part), "`{part}` is missing from: {text}"));
}

/// x, y, p and t (us) of event `i` of 200 over `seconds`, a little different for each `kind`.
fn event(i: u32, kind: u32, side: u32, seconds: f64) -> (u32, u32, u32, u32) {
    let t = f64::from(i) * seconds * 1e6 / 200.0;
    ((i * 3 + kind * 11) % side, (i * 7 + kind) % side, (i / 2 + kind) % 2, t as u32)
}

/// The 40-bit form.
fn aer(kind: u32, side: u32, seconds: f64) -> Vec<u8> {
    let bytes = |i| {
        let (x, y, p, t) = event(i, kind, side, seconds);
        [x as u8, y as u8, (p << 7) as u8 | (t >> 16) as u8 & 0x7f, (t >> 8) as u8, t as u8]
    };
    (0..200).flat_map(bytes).collect()
}

fn nmnist(dir: &Folder, root: &str) {
    for (split, shift) in [("train", 0), ("test", 50)] {
        for class in 0..3 {
            for n in 0..2 {
                dir.write(&format!("{root}/{split}/{class}/0000{n}.bin"), aer(class * 7 + n + shift, 34, 0.3));
            }
        }
    }
}

fn clips(dir: &Folder, root: &str) {
    (0..4).for_each(|c| dir.write(&format!("{root}/clip{c}.bs2"), aer(c, 128, 2.0)));
    dir.write(&format!("{root}/labels.csv"), "file,class\nclip0.bs2,0\nclip1.bs2,1\nclip2.bs2,2\nclip3.bs2,3\n");
}

/// A recording of 9 s in AEDAT 3.1.
fn aedat(kind: u32) -> Vec<u8> {
    let mut head = vec![0; 28];
    head[0] = 1;
    head[4] = 8;
    [16, 20, 24].iter().for_each(|&i| head[i] = 200);
    let event = |i| {
        let (x, y, p, t) = event(i, kind, 128, 9.0);
        [(x << 17 | y << 2 | p << 1 | 1).to_le_bytes(), t.to_le_bytes()].concat()
    };
    [b"#!AER-DAT3.1\r\n#!END-HEADER\r\n".to_vec(), head, (0..200).flat_map(event).collect()].concat()
}

/// Two users' recordings of three gestures, with the times of their tables in units of `tick` microseconds, `late` of them too late.
fn recordings(dir: &Folder, root: &str, users: [&str; 2], tick: u32, late: u32) {
    for (i, (user, split)) in users.into_iter().zip(["train", "test"]).enumerate() {
        dir.write(&format!("{root}/{user}.aedat"), aedat(i as u32));
        let second = 1_000_000 / tick;
        let row = |c: u32| format!("{c},{},{}\n", (3 * c - 2) * second + late, 3 * c * second + late);
        let table: String = (1..4).map(row).collect();
        dir.write(&format!("{root}/{user}_labels.csv"), format!("class,start,end\n{table}"));
        dir.write(&format!("{root}/trials_to_{split}.txt"), format!("{user}.aedat\n"));
    }
}

fn numpy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    [&bytes, header.as_bytes(), data].concat()
}

/// Gestures in tonic's layout, each as `make(kind)` has it.
fn npy(dir: &Folder, make: impl Fn(u32) -> Vec<u8>) {
    for (split, name, shift) in [("train", "Train", 0), ("test", "Test", 20)] {
        let file = |class| format!("data/{split}/DVSGesture/ibmGesture{name}/user01_led/{class}.npy");
        (0..2).for_each(|class| dir.write(&file(class), make(class + shift)));
    }
}

/// Doubles: x, y, p, t in an order, t in milliseconds times `factor`.
fn plain(kind: u32, order: [usize; 4], factor: f64, swap: bool) -> Vec<u8> {
    let rows = (0..200).flat_map(|i| {
        let j = if swap && (i == 50 || i == 51) { 101 - i } else { i };
        let (x, y, p, t) = event(j, kind, 128, 2.0);
        let all = [f64::from(x), f64::from(y), f64::from(p), f64::from(t) * 1e-3 * factor];
        order.map(|k| all[k])
    });
    numpy("'<f8'", "(200, 4)", &rows.flat_map(f64::to_le_bytes).collect::<Vec<_>>())
}

fn shd(dir: &Folder, name: &str) {
    let bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/data").join(name)).expect("a sample");
    dir.write("data/shd_train.h5", &bytes);
    dir.write("data/shd_test.h5", &bytes);
}

const GESTURE: &str =
    "gesture --frame-size 32 --rnn-type gru --units 4 --train-epochs 1 --batch-size 1 --frame-time 100";
const SHD: &str =
    "shd --data_folder data --nb_epochs 1 --nb_hiddens 8 --nb_layers 2 --batch_size 4 --data_length 20 --select last";
const NMNIST: &str = "memspeed --dataset nmnist --n_rec 8 --n_layer 1 --data_length 10 --batch_size 2 --epochs 1";

/// Samples of each class in the confusion matrix of a run.
fn classes(dir: &Folder, run: &str) -> Vec<(usize, u32)> {
    let table = dir.read(&format!("{run}/confusion.csv"));
    let row = |line: &str| line.split(',').skip(1).filter_map(|n| n.parse::<u32>().ok()).sum();
    let rows = table.lines().skip(1).map(row).enumerate();
    rows.filter(|r| r.1 > 0).collect()
}

#[test]
fn names_may_hold_spaces_and_quotes() {
    let dir = Folder::new("names");
    recordings(&dir, "data", ["user 01 led", "user 02 \"lab\""], 1, 0);
    dir.write("data/trials_to_test.txt", "\u{feff}user 02 \"lab\".aedat\r\n\r\n");
    let out = dir.run("data check data", 0);
    says(&out, &["samples  3", "classes  3 (0: 1, 1: 1, 2: 1)", "DVS128 Gesture test"]);
}

#[test]
fn a_batch_larger_than_the_set_is_lowered_with_a_remark() {
    let dir = Folder::new("batch");
    clips(&dir, "clips");
    nmnist(&dir, "data/NMNIST");
    shd(&dir, "shd_tiny.h5");
    for (line, samples) in [
        (format!("{GESTURE} --batch-size 64 --data clips --out out").replace("--batch-size 1 ", ""), 4),
        (format!("{SHD} --batch_size 64 --out out").replace("--batch_size 4 ", ""), 12),
        (format!("{NMNIST} --batch_size 64 --data data --out out").replace("--batch_size 2 ", ""), 6),
    ] {
        let out = dir.run(&line, 0);
        says(&out, &[&format!("a batch of 64 is more than the {samples} training samples")]);
        says(&dir.read("out/config.toml"), &[&format!("batch = {samples}\n")]);
        fs::remove_dir_all(dir.0.join("out")).expect("a run");
    }
}

#[test]
fn a_cache_follows_tables() {
    let dir = Folder::new("cache");
    clips(&dir, "clips");
    let run = |data: &str, out: &str| dir.run(&format!("{GESTURE} --data {data} --cache cache --out {out}"), 0);
    run("clips", "a");
    assert_eq!(classes(&dir, "a"), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    let table = dir.read("clips/labels.csv");
    dir.write("clips/labels.csv", table.replace("clip0.bs2,0", "clip0.bs2,7"));
    run("clips", "b");
    assert_eq!(classes(&dir, "b"), [(1, 1), (2, 1), (3, 1), (7, 1)]);
    recordings(&dir, "full", ["user01_led", "user02_led"], 1, 0);
    run("full", "c");
    assert_eq!(classes(&dir, "c"), [(0, 1), (1, 1), (2, 1)]);
    // Another class, and one gesture less.
    dir.write("full/user02_led_labels.csv", "class,start,end\n9,1000000,3000000\n2,4000000,6000000\n");
    run("full", "d");
    assert_eq!(classes(&dir, "d"), [(1, 1), (8, 1)]);
}

#[test]
fn the_check_reads_the_tables_of_gestures() {
    let dir = Folder::new("tables");
    recordings(&dir, "sound", ["user01_led", "user02_led"], 1, 0);
    says(&dir.run("data check sound", 0), &["samples  3", "classes  3 (0: 1, 1: 1, 2: 1)", "no problem found"]);
    recordings(&dir, "late", ["user01_led", "user02_led"], 1, 90_000_000);
    let out = dir.run("data check late", 1);
    assert_eq!(out.matches("PROBLEM").count(), 6, "every gesture of both: {out}");
    says(&out, &["no event between 91000000 and 93000000 us", "the recording goes from 0 to 8955000 us"]);
    let out = dir.run(&format!("{GESTURE} --data late --out out"), 2);
    says(&out, &["no event between 91000000 and 93000000 us"]);
    // In milliseconds, without and with a word about it.
    recordings(&dir, "ms", ["user01_led", "user02_led"], 1000, 0);
    says(
        &dir.run("data check ms", 1),
        &["are the times in ms? Call the columns start_ms", "_labels.csv", "6 problems"],
    );
    for user in ["user01_led", "user02_led"] {
        let name = format!("ms/{user}_labels.csv");
        dir.write(&name, dir.read(&name).replace("start,end", "start_ms,end_ms"));
    }
    says(&dir.run("data check ms", 0), &["classes  3 (0: 1, 1: 1, 2: 1)"]);
    // Without a heading no gesture is lost.
    let name = "sound/user01_led_labels.csv";
    dir.write(name, dir.read(name).replace("class,start,end\n", ""));
    says(&dir.run("data check sound", 0), &["samples  3"]);
}

#[test]
fn clips_and_copies_are_called_training_samples() {
    let dir = Folder::new("clips");
    clips(&dir, "clips");
    let said = "4 of the 4 test samples are training samples too";
    says(&dir.run(&format!("{GESTURE} --data clips --out out"), 0), &["test accuracy", said]);
    says(&dir.run("eval out", 0), &[said]);
    says(&dir.run("data check clips", 0), &["4 of 4 samples are training samples too"]);
    nmnist(&dir, "data/NMNIST");
    let out = dir.run(&format!("{NMNIST} --data data --out digits"), 0);
    assert!(!out.contains("training samples too"), "{out}");
    let copied = fs::read(dir.0.join("data/NMNIST/train/1/00000.bin")).expect("a recording");
    dir.write("data/NMNIST/test/1/00000.bin", copied);
    says(
        &dir.run(&format!("{NMNIST} --data data --out more"), 0),
        &["1 of the 6 test samples are training samples too"],
    );
}

#[test]
fn folders_are_found_or_what_is_there_is_said() {
    let dir = Folder::new("folders");
    nmnist(&dir, "data/nmnist");
    says(&dir.run("data check data", 0), &["samples  6", "classes  3 (0: 2, 1: 2, 2: 2)"]);
    dir.write("packed/NMNIST/Train.zip", "PK");
    let out = dir.run("data check packed", 2);
    says(&out, &["packed holds NMNIST/ (with Train.zip)", "Unpack packed/NMNIST/Train.zip"]);
    dir.write("packed2/shd_train.h5.gz", "");
    says(&dir.run(&SHD.replace("data_folder data", "data_folder packed2"), 2), &["Unpack packed2/shd_train.h5.gz"]);
    says(&dir.run("data check data/nmnist/train", 2), &["holds 0/ (with 00000.bin, 00001.bin)"]);
}

#[test]
fn numbers_that_nothing_can_hold_are_usage_errors() {
    let dir = Folder::new("numbers");
    nmnist(&dir, "data/NMNIST");
    for (line, words) in [
        ("gesture --dataset made --frame-size 65568 --frames 4 --train-epochs 1", "got 65568"),
        ("gesture --dataset made --made-samples 10000000000 2 --train-epochs 1", "must be at most 16777216"),
        ("gesture --dataset made --frames 0 --train-epochs 1", "--frames must be at least 1, got 0"),
        ("gesture --dataset nmnist --data data --frames 99999999 --train-epochs 1", "must be at most 16777216"),
        ("memspeed --dataset nmnist --data data --data_length 0", "--data_length must be at least 1, got 0"),
        (
            "memspeed --dataset nmnist --data data --tau_mem 2 --tau_mem_sigma 5",
            "so that none is drawn below 0, got 2 and 5",
        ),
    ] {
        says(&dir.run(&format!("{line} --out out"), 2), &[words]);
        assert!(!dir.0.join("out").exists(), "{line}");
    }
}

#[test]
fn arrays_of_any_form_give_the_same_batches() {
    let dir = Folder::new("arrays");
    let train = |more: &str, out: &str| {
        let text = dir.run(&format!("{GESTURE} --data data --out {out} {more}"), 0);
        let loss = text.split("test loss ").nth(1).and_then(|t| t.split_whitespace().next());
        (loss.expect("a loss").to_string(), text)
    };
    npy(&dir, |kind| plain(kind, [0, 1, 2, 3], 1.0, false));
    let (want, text) = train("", "plain");
    assert!(!text.contains("remark"), "{text}");
    let named = |kind| {
        let rows = (0..200).flat_map(|i| {
            let (x, y, p, t) = event(i, kind, 128, 2.0);
            [&u64::from(t).to_le_bytes()[..], &[x as u8, 0, y as u8, 0, p as u8]].concat()
        });
        numpy("[('t', '<i8'), ('x', '<i2'), ('y', '<i2'), ('p', '|b1')]", "(200,)", &rows.collect::<Vec<_>>())
    };
    npy(&dir, named);
    says(&dir.run("data check data", 0), &["samples  2", "the latest at 1.990 s"]);
    assert_eq!(train("", "named").0, want);
    npy(&dir, |kind| plain(kind, [3, 0, 1, 2], 1.0, false));
    let (loss, text) = train("", "order");
    assert_eq!(loss, want);
    says(&text, &["remark on the train split", "read as t, x, y, p"]);
    npy(&dir, |kind| plain(kind, [0, 1, 2, 3], 1000.0, false));
    says(&dir.run("data check data", 1), &["--time-unit us", "4 problems"]);
    says(&dir.run(&format!("{GESTURE} --data data --out out"), 2), &["--time-unit us"]);
    assert_eq!(train("--time-unit us", "us").0, want);
    npy(&dir, |kind| plain(kind, [0, 1, 2, 3], 1.0, true));
    let text = dir.run(&format!("{GESTURE} --data data --out out"), 2);
    says(&text, &["1 of 200 events", "--sort-events"]);
    says(&dir.run("data check data", 1), &["4 problems", "--sort-events"]);
    says(&dir.run("data check data --sort-events", 0), &["samples  2", "have been sorted"]);
    assert_eq!(train("--sort-events", "sorted").0, want);
}

#[test]
fn recordings_of_another_sensor_train_alike_before_and_after_they_are_converted() {
    let dir = Folder::new("classes");
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/data/formats");
    for (folder, name) in [
        ("train/wave", "lz4.aedat4"),
        ("train/clap", "evt3.raw"),
        ("train/clap", "evt2.raw"),
        ("test/wave", "cd.dat"),
        ("test/clap", "zstd_high.aedat4"),
    ] {
        dir.write(&format!("data/{folder}/{name}"), fs::read(formats.join(name)).expect("a sample"));
    }
    let train = |data: &str, more: &str| {
        let text = dir.run(&format!("{GESTURE} --data {data} --out out-{data} {more}"), 0);
        let line = text.lines().find(|line| line.starts_with("Epoch")).expect("an epoch");
        line.split(", lr").next().unwrap_or_default().to_string()
    };
    says(&dir.run(&format!("{GESTURE} --data data --sensor 128x128 --out out"), 2), &["64x48"]);
    says(&dir.run(&format!("{GESTURE} --data data --sensor wide --out out"), 2), &["--sensor must be columns x rows"]);
    says(
        &dir.run("data check data", 0),
        &["sensor   64x48", "classes  2 (clap: 2, wave: 1)", "folders of classes, test"],
    );
    says(
        &dir.run("data convert data --out copy", 0),
        &["train    3 recordings of 2 classes, 900 events", "test     2 recordings", "sensor   64x48", "copy"],
    );
    assert_eq!(train("copy", ""), train("data", ""));
    says(&dir.run("data check copy", 0), &["classes  2 (clap: 2, wave: 1)", "sensor   64x48"]);
    says(&dir.run("data convert copy --out copy", 2), &["does not exist yet"]);
    says(&dir.run("data convert data --out more --test-share 0.2", 2), &["one folder of classes"]);
    says(&dir.run("data convert data --out more --test-share 1", 2), &["--test-share must be between 0 and 1"]);
    assert!(!dir.0.join("more").exists());
    dir.write("data/train/clap/bad.raw", b"% evt 3.0\n123");
    says(&dir.run("data convert data --out more", 1), &["bad.raw", "cut short"]);
    assert!(!dir.0.join("more").exists() && dir.0.read_dir().expect("a folder").count() == 6, "nothing is left behind");
    fs::rename(dir.0.join("data/train"), dir.0.join("whole")).expect("a folder");
    let text = dir.run(&format!("{GESTURE} --data whole --out out"), 2);
    says(&text, &["2 classes (clap, wave)", "etrace data convert whole"]);
}

#[test]
fn digits_in_another_unit_or_order() {
    let dir = Folder::new("digits");
    nmnist(&dir, "data/NMNIST");
    let mut swapped = aer(90, 34, 0.3);
    swapped[250..260].rotate_left(5);
    dir.write("data/NMNIST/train/0/00000.bin", &swapped);
    says(&dir.run(&format!("{NMNIST} --data data --out out"), 1), &["--sort-events"]);
    dir.run(&format!("{NMNIST} --data data --out sorted --sort_events"), 0);
    // Milliseconds.
    dir.write("data/NMNIST/train/0/00000.bin", aer(90, 34, 0.0003));
    says(&dir.run("data check data", 1), &["--time-unit ms", "1 problem"]);
}

#[test]
fn spoken_digits_in_another_unit() {
    let dir = Folder::new("speech");
    for (file, unit, words) in
        [("shd_times_ms.h5", "ms", "are they in ms?"), ("shd_times_int_us.h5", "us", "32-bit integers up to")]
    {
        shd(&dir, file);
        let out = dir.run("data check data", 1);
        says(&out, &[words, &format!("--time-unit {unit}"), "2 problems"]);
        says(&dir.run(&format!("{SHD} --out out"), 2), &[words]);
        let out = dir.run(&format!("data check data --time-unit {unit}"), 0);
        says(&out, &["samples  8", "the latest at 0.99"]);
        let out = dir.run(&format!("{SHD} --time_unit {unit} --out {unit}"), 0);
        assert!(!out.contains("later than the last edge"), "{out}");
        let out = dir.run(&format!("{SHD} --time_unit {unit} --max_time 0.1 --out {unit}-short"), 0);
        says(&out, &["remark on the train split", "later than the last edge at 0.1 s"]);
    }
}

#[test]
fn nothing_outside_the_folder_is_read_and_no_pipe_blocks() {
    let dir = Folder::new("foreign");
    clips(&dir, "clips");
    dir.write("secret.bs2", aer(9, 128, 2.0));
    let secret = dir.0.join("secret.bs2");
    for name in ["../secret.bs2", secret.to_str().expect("a name"), "absent.bs2"] {
        dir.write("clips/labels.csv", format!("file,class\nclip0.bs2,0\n{name},1\nclip1.bs2,1\nclip1.bs2,2\n"));
        let out = dir.run("data check clips", 1);
        says(
            &out,
            &["line 3", "has class 1 in line 4 and 2 in line 5", "clip2.bs2 and 1 more: labels.csv does not name it"],
        );
        says(&dir.run(&format!("{GESTURE} --data clips --out out"), 2), &["line 3"]);
    }
    recordings(&dir, "full", ["user01_led", "user02_led"], 1, 0);
    dir.write("full/trials_to_train.txt", "../secret.bs2\nuser01_led.aedat\nuser01_led.aedat\ngone.aedat\n");
    says(&dir.run("data check full", 1), &["line 1", "leads out", "line 4", "more than once", "samples  3"]);
    nmnist(&dir, "data/NMNIST");
    shd(&dir, "shd_tiny.h5");
    for pipe in ["data/NMNIST/train/0/00009.bin", "data/shd_train.h5", "clips/labels.csv"] {
        let _ = fs::remove_file(dir.0.join(pipe));
        let made = Command::new("mkfifo").arg(dir.0.join(pipe)).status().expect("mkfifo is a POSIX command");
        assert!(made.success());
    }
    let out = dir.run("data check data", 1);
    says(&out, &["data/NMNIST/train/0/00009.bin: data are regular files: a named pipe", "data/shd_train.h5: data are"]);
    says(&dir.run("data check clips", 1), &["clips/labels.csv: data are regular files: a named pipe"]);
}
