use super::*;
use crate::gesture::Framing;
use crate::testing::Folder;
use crate::{Batch, Gesture, GestureSettings, NMnist, NMnistSettings, Passes, Shd, ShdSettings, Task};

fn data(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)).unwrap()
}

fn plain(source: &Path, destination: &Path) -> Result<Converted> {
    convert(source, destination, ConvertSettings::default())
}

/// Batches of the first epoch: one of two samples of the training split in its shuffled order, and one of the test split.
fn batches(task: &dyn Task) -> [Batch; 2] {
    [Split::Train, Split::Test].map(|split| task.batch(split, 5, 0, 0, 2).unwrap())
}

fn is_the_same(before: &dyn Task, after: &dyn Task) {
    let (before_batches, after_batches) = (batches(before), batches(after));
    assert!(before_batches.iter().all(|b| b.inputs.iter().any(|&c| c > 0)), "there is something to compare");
    assert_eq!(before_batches, after_batches);
    for split in [Split::Train, Split::Test] {
        assert_eq!(before.samples(split).unwrap(), after.samples(split).unwrap());
        assert_eq!(before.people(split).unwrap(), after.people(split).unwrap());
    }
    assert_eq!((before.n_in(), before.n_out()), (after.n_in(), after.n_out()));
}

fn gestures(dir: &Path) -> Gesture {
    Gesture::open(GestureSettings { frame_size: 32, ..GestureSettings::new(dir) }).unwrap()
}

#[test]
fn gestures_are_the_same_afterwards() {
    let dir = Folder::new("convert-gesture");
    let clip = data("gesture_clip.bs2");
    let late = [&clip[..], &clip[..5 * 20_000]].concat();
    for (k, name) in
        ["ibmGestureTrain/user02_led/7.bs2", "ibmGestureTrain/user01_led/10.bs2", "ibmGestureTrain/user01_lab/2.bs2"]
            .iter()
            .enumerate()
    {
        dir.write(&format!("src/{name}"), &clip[..clip.len() - 5 * 3000 * k]);
    }
    dir.write("src/ibmGestureTest/user05_led/0.bs2", &clip[..5 * 30_000]);
    let (source, copy) = (dir.path().join("src"), dir.path().join("copy"));
    let done = plain(&source, &copy).unwrap();
    let [train, test] = &done.splits[..] else { panic!("{done:?}") };
    assert_eq!((train.samples, train.classes, test.samples, test.events), (3, 3, 1, 30_000));
    let text = done.to_string();
    assert!(text.contains("3 recordings of 3 classes") && text.contains("sensor   128x128"), "{text}");
    is_the_same(&gestures(&source), &gestures(&copy));
    assert_eq!(gestures(&copy).n_out(), 11, "classes without a recording are classes");
    let report = crate::check(&copy, Accept::default()).unwrap();
    assert!(report.is_sound(), "{report}");
    // And once more: a copy of a copy.
    plain(&copy, &dir.path().join("again")).unwrap();
    is_the_same(&gestures(&copy), &gestures(&dir.path().join("again")));
    // Two recordings in one file: nothing is written.
    dir.write("src/ibmGestureTest/user05_led/1.bs2", &late);
    let m = plain(&source, &dir.path().join("bad")).unwrap_err().to_string();
    assert!(m.contains("1.bs2"), "{m}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

/// Gestures that a table cuts out of one recording.
#[test]
fn gestures_of_tables_are_the_same_afterwards() {
    let dir = Folder::new("convert-tables");
    let event =
        |i: u32| [((i % 128) << 17 | (i * 7 % 128) << 2 | (i % 2) << 1 | 1).to_le_bytes(), (i * 5000).to_le_bytes()];
    let events: Vec<u8> = (0..1000).flat_map(event).flatten().collect();
    let mut head = [0u8; 28];
    (head[0], head[4]) = (1, 8);
    [20, 24].iter().for_each(|&at| head[at..at + 4].copy_from_slice(&1000u32.to_le_bytes()));
    let recording = [b"#!AER-DAT3.1\r\n", &head[..], &events].concat();
    for user in ["user01_led", "user02_lab"] {
        dir.write(&format!("src/{user}.aedat"), &recording);
        dir.write(&format!("src/{user}_labels.csv"), b"class,start,end\n5,0,1900000\n2,2000000,4900000\n");
    }
    dir.write("src/trials_to_train.txt", b"user01_led.aedat\n");
    dir.write("src/trials_to_test.txt", b"user02_lab.aedat\n");
    let (source, copy) = (dir.path().join("src"), dir.path().join("copy"));
    let done = plain(&source, &copy).unwrap();
    assert_eq!((done.splits[0].samples, done.splits[0].events), (2, 380 + 580));
    is_the_same(&gestures(&source), &gestures(&copy));
    dir.write("src/user02_lab_labels.csv", b"5,0,1900000\n2,4990000,9000000\n");
    let m = plain(&source, &dir.path().join("cut")).unwrap_err().to_string();
    assert!(m.contains("lasts 0.01 to 3600 s") && m.contains("user02_lab.aedat"), "{m}");
}

#[test]
fn digits_are_the_same_afterwards() {
    let dir = Folder::new("convert-nmnist");
    let sample = data("sample_nmnist.bin");
    for (k, name) in ["Train/3/00009.bin", "Train/3/00010.bin", "Train/1/00011.bin", "Test/3/1.bin"].iter().enumerate()
    {
        dir.write(&format!("src/NMNIST/{name}"), &sample[5 * 200 * k..]);
    }
    let (source, copy) = (dir.path().join("src"), dir.path().join("copy"));
    let done = plain(&source, &copy).unwrap();
    assert_eq!((done.what, done.splits[0].samples, done.splits[0].classes), ("N-MNIST", 3, 2));
    let open = |dir: &Path| NMnist::open(NMnistSettings::new(dir)).unwrap();
    is_the_same(&open(&source), &open(&copy));
    let report = crate::check(&copy, Accept::default()).unwrap();
    assert!(
        report.is_sound() && report.parts.len() == 2 && report.parts[0].kind == crate::check::Kind::NMnist,
        "{report}"
    );
}

#[test]
fn caches_are_the_same_afterwards() {
    let dir = Folder::new("convert-caches");
    for (k, name) in ["train/10_0.hdf5", "train/9_0.hdf5", "test/0_0.hdf5"].iter().enumerate() {
        dir.write(&format!("src/{name}"), &data(["formats/cache_lzf.hdf5", "formats/cache_plain.hdf5"][k % 2]));
    }
    dir.write("src/sensor.txt", b"64x48");
    let (source, copy) = (dir.path().join("src"), dir.path().join("copy"));
    let done = plain(&source, &copy).unwrap();
    assert_eq!((done.what, done.splits[0].samples, done.splits[0].events), ("caches of tonic", 2, 600));
    is_the_same(&gestures(&source), &gestures(&copy));
    assert_eq!(gestures(&copy).n_out(), 4);
    for dir in [&source, &copy] {
        assert!(crate::check(dir, Accept::default()).unwrap().is_sound());
    }
    dir.write("src/train/11_0.hdf5", &data("formats/cache_frames.hdf5"));
    let m = plain(&source, &dir.path().join("bad")).unwrap_err().to_string();
    assert!(m.contains("11_0.hdf5") && m.contains("makes frames"), "{m}");
}

#[test]
fn spike_trains_are_the_same_afterwards() {
    for (name, unit, element) in [
        ("shd_tiny.h5", None, "half"),
        ("shd_tiny_gzip.h5", None, "half"),
        ("shd_tiny_latest.h5", None, "half"),
        ("shd_times_int_us.h5", Some(crate::events::TimeUnit::Us), "double"),
    ] {
        let dir = Folder::new("convert-shd");
        dir.write("src/shd_train.h5", &data(name));
        dir.write("src/SHD/shd_test.h5", &data(name));
        let (source, copy) = (dir.path().join("src"), dir.path().join("copy"));
        let accept = Accept { time_unit: unit, ..Accept::default() };
        let done = convert(&source, &copy, ConvertSettings { accept, test_share: None }).unwrap();
        assert!(done.times.contains(element), "{name}: {}", done.times);
        let open = |dir: &Path, time_unit| {
            Shd::open(ShdSettings { time_unit, ..ShdSettings::new(dir, ShdKind::Shd) }).unwrap()
        };
        is_the_same(&open(&source, unit), &open(&copy, None));
        let [before, after] = [&source, &copy].map(|dir| shd::ShdFile::open(&dir.join("shd_train.h5")).unwrap());
        assert_eq!((before.speakers(), before.keys()), (after.speakers(), after.keys()));
    }
}

#[test]
fn one_folder_is_split_by_names_alone() {
    let dir = Folder::new("convert-whole");
    for (class, k) in ["a", "b"].iter().flat_map(|class| (0..10).map(move |k| (class, k))) {
        dir.write(&format!("src/{class}/{k}.aedat4"), &data("formats/lz4.aedat4"));
    }
    let source = dir.path().join("src");
    let m = plain(&source, &dir.path().join("copy")).unwrap_err().to_string();
    assert!(m.contains("--test-share"), "{m}");
    let share = |share: f64, name: &str| {
        let settings = ConvertSettings { test_share: Some(share), ..ConvertSettings::default() };
        convert(&source, &dir.path().join(name), settings)
    };
    let done = share(0.2, "copy").unwrap();
    assert_eq!([done.splits[0].samples, done.splits[1].samples], [16, 4]);
    assert_eq!([done.splits[0].classes, done.splits[1].classes], [2, 2]);
    assert!(share(0.0, "none").is_err() && share(f64::NAN, "none").is_err() && share(1.0, "none").is_err());
    share(0.2, "again").unwrap();
    let names = |copy: &str| {
        files::entries(&dir.path().join(copy).join("test/a"))
            .unwrap()
            .iter()
            .map(|p| files::name(p))
            .collect::<Vec<_>>()
    };
    assert_eq!(names("copy"), names("again"));
    let bins = Framing::Bins(5);
    let passes = Passes::default();
    let settings =
        GestureSettings { framing: bins, frame_size: 32, passes, ..GestureSettings::new(dir.path().join("copy")) };
    assert_eq!(Gesture::open(settings).unwrap().samples(Split::Test).unwrap(), Some(4));
    let m = convert(
        &dir.path().join("copy"),
        &dir.path().join("x"),
        ConvertSettings { test_share: Some(0.5), ..Default::default() },
    );
    assert!(m.unwrap_err().to_string().contains("one folder of classes"));
}

#[test]
fn what_is_there_is_not_touched() {
    let dir = Folder::new("convert-there");
    dir.write("src/shd_train.h5", &data("shd_tiny.h5"));
    let source = dir.path().join("src");
    for (to, words) in [("src", "does not exist yet"), ("src/copy", "outside the source")] {
        let m = plain(&source, &dir.path().join(to)).unwrap_err().to_string();
        assert!(m.contains(words), "{m}");
    }
    assert_eq!(files::entries(&source).unwrap().len(), 1);
    let left = format!(".left.unfinished-{}", std::process::id());
    dir.write(&format!("{left}/shd_train.h5"), b"of another set");
    let m = plain(&source, &dir.path().join("left")).unwrap_err().to_string();
    assert!(m.contains(&left) && m.contains("remove it"), "{m}");
    assert!(dir.path().join(left).join("shd_train.h5").exists());
    dir.write("src/ssc_train.h5", &data("shd_tiny.h5"));
    let m = plain(&source, &dir.path().join("copy")).unwrap_err().to_string();
    assert!(m.contains("SHD and SSC"), "{m}");
    let empty = Folder::new("convert-empty");
    assert!(matches!(plain(empty.path(), &dir.path().join("copy")), Err(Error::Missing { .. })));
    assert!(!dir.path().join("copy").exists());
}
