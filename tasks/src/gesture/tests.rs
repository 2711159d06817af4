use std::path::Path;

use super::*;
use crate::events::aer;
use crate::testing::{Folder, shared};

/// A real clip with its times cut to milliseconds, as tonic's files have them.
fn clip(path: &Path) -> Vec<Event> {
    let mut events = events::read(path, &Reading::GESTURE).unwrap().events;
    events.iter_mut().for_each(|e| e.t = e.t / 1000 * 1000);
    events
}

/// Figures of a clip: events; counts of the first six frames, and of the last two; counts of all; the largest; those of the first polarity.
type Figures = (usize, [u32; 6], [u32; 2], usize, (u32, u32, u32, u32, u32), usize);

fn has_figures(clip: &[Event], (events, first, last, total, max, off): Figures) {
    assert_eq!(clip.len(), events);
    let framing = GestureSettings::new("").framing;
    assert_eq!(framing.steps(), 67);
    let samples = framing.samples(clip, Sensor::DVS128);
    assert_eq!((samples.len(), samples[0].len()), (1, total));
    let rows = rows(&samples[0]);
    assert_eq!((&rows[..6], &rows[55..57], rows[57]), (&first[..], &last[..], 0));
    assert_eq!(largest(&samples[0]), max);
    assert_eq!(samples[0].iter().filter(|b| b.1 < 128 * 128).count(), off);
}

fn rows(binned: &frames::Binned<u32>) -> Vec<u32> {
    let mut rows = vec![0; 67];
    binned.iter().for_each(|b| rows[b.0 as usize] += 1);
    rows
}

/// The largest cell and where it is: count, frame, polarity, y, x.
fn largest(binned: &frames::Binned<u32>) -> (u32, u32, u32, u32, u32) {
    let mut cells = std::collections::HashMap::new();
    binned.iter().for_each(|b| *cells.entry(*b).or_insert(0) += 1);
    let (&(frame, c), &n) = cells.iter().max_by_key(|c| c.1).unwrap();
    (n, frame, c / (128 * 128), c / 128 % 128, c % 128)
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/gesture_clip.bs2")
}

#[test]
fn golden_numbers_of_a_clip() {
    let (first, last) = ([986, 933, 595, 379, 482, 914], [744, 1078]);
    has_figures(&clip(&data()), (63_471, first, last, 62_138, (23, 41, 1, 93, 59), 30_665));
}

#[test]
#[ignore = "needs recordings that are not part of the project, in ../shared"]
fn golden_numbers_of_real_clips() {
    let dir = shared("real-samples/dvs128-gesture-slayer");
    let clip = |i: u64| clip(&dir.join(format!("{i}.bs2")));
    let (first, last) = ([1215, 1371, 1774, 2329, 2906, 3418], [2810, 2946]);
    has_figures(&clip(5), (181_179, first, last, 178_265, (35, 4, 1, 113, 41), 86_500));
    let joined: Vec<Event> = (1..=4u64)
        .flat_map(|i| clip(i).into_iter().map(move |e| Event { t: e.t + (i - 1) * 1_450_000, ..e }))
        .collect();
    assert_eq!(slices::by_time(&joined, 1_700_000), [0..76_646, 76_646..189_529, 189_529..339_174]);
    let samples = GestureSettings::new(&dir).framing.samples(&joined, Sensor::DVS128);
    assert_eq!(samples.iter().map(Vec::len).collect::<Vec<_>>(), [74_912, 111_359, 147_508]);
    assert_eq!(samples.iter().map(|s| largest(s).0).collect::<Vec<_>>(), [23, 20, 25]);
    assert!(samples.iter().all(|s| s.last().unwrap().0 == 66));
}

#[test]
fn layout_and_batches() {
    let dir = Folder::new("gesture");
    let bytes = aer::tests::encode(&[(1, 2, true, 0), (3, 4, false, 30_000), (3, 4, false, 60_000)]);
    dir.write("train/DVSGesture/ibmGestureTrain/user01_led/3.bs2", &bytes);
    dir.write("train/DVSGesture/ibmGestureTrain/user02_led/10.bs2", &bytes);
    dir.write("ibmGestureTest/user03_lab/0.bs2", &bytes);
    let task = Gesture::open(GestureSettings::new(dir.path())).unwrap();
    assert_eq!((task.n_in(), task.n_out(), task.steps()), (32_768, 11, 67));
    assert_eq!((task.samples(Split::Train).unwrap(), task.samples(Split::Test).unwrap()), (Some(2), Some(1)));
    let b = task.batch(Split::Test, 0, 0, 0, 1).unwrap();
    assert_eq!((b.targets[0], b.spikes(0)), (0, 2), "frames 0 and 1; the last event is past the last frame");
    assert_eq!((b.at(0, 0)[(128 + 2) * 128 + 1], b.at(1, 0)[4 * 128 + 3]), (1, 1));
    let bins = GestureSettings { framing: Framing::Bins(3), ..GestureSettings::new(dir.path()) };
    assert_eq!(Gesture::open(bins).unwrap().batch(Split::Train, 0, 0, 0, 2).unwrap().spikes(1), 2);
    assert_eq!(task.repeated(Split::Test).unwrap(), 1, "all files are the same");
    for stray in ["user03_lab/11.bs2", "user03_lab/notes.npy", "user03_lab/1 (copy).npy", "readme.txt"] {
        dir.write(&format!("ibmGestureTest/{stray}"), &bytes);
    }
    let task = Gesture::open(GestureSettings::new(dir.path())).unwrap();
    assert_eq!(task.samples(Split::Test).unwrap(), Some(1), "strays are left out");
    let remarks = task.remarks(Split::Test).unwrap();
    assert!(remarks.iter().any(|r| r.contains("and 2 more") && r.contains("0.npy to 10.npy")), "{remarks:?}");
    assert!(remarks.iter().any(|r| r.contains("readme.txt")), "{remarks:?}");
    std::fs::remove_file(dir.path().join("ibmGestureTest/user03_lab/0.bs2")).unwrap();
    let m = Gesture::open(GestureSettings::new(dir.path())).unwrap().samples(Split::Test).unwrap_err().to_string();
    assert!(m.contains("counted from 1"), "{m}");
    assert!(matches!(task.samples(Split::Valid), Err(Error::NoSplit { .. })));
    let none = Folder::new("gesture-none");
    assert!(matches!(Gesture::open(GestureSettings::new(none.path())), Err(Error::Missing { .. })));
}

#[test]
fn users_can_be_held_out() {
    let dir = Folder::new("gesture-users");
    let bytes = aer::tests::encode(&[(1, 2, true, 0), (3, 4, false, 30_000)]);
    for user in ["user01_led", "user02_lab", "user11_led"] {
        dir.write(&format!("ibmGestureTrain/{user}/3.bs2"), &bytes);
    }
    let held = GestureSettings { held_out: vec![11], ..GestureSettings::new(dir.path()) };
    let task = Gesture::open(held).unwrap();
    assert_eq!((task.people(Split::Train).unwrap(), task.people(Split::Valid).unwrap()), (vec![1, 2], vec![11]));
    let wrong = GestureSettings { held_out: vec![7], ..GestureSettings::new(dir.path()) };
    assert!(Gesture::open(wrong).unwrap().samples(Split::Valid).unwrap_err().to_string().contains("held_out"));
}

#[test]
fn original_recordings_are_cut_by_their_tables() {
    let dir = Folder::new("gesture-original");
    let event = |x: u32, t: u32| [(x << 17 | 7 << 2 | 1 << 1 | 1).to_le_bytes(), t.to_le_bytes()].concat();
    let events: Vec<Vec<u8>> = (0..100u32).map(|i| event(i, 1000 + i * 10_000)).collect();
    let mut packet = vec![0; 28];
    packet[0] = 1;
    packet[4] = 8;
    [16, 20, 24].iter().for_each(|&i| packet[i] = events.len() as u8);
    let file = [b"#!AER-DAT3.1\r\n#!END-HEADER\r\n".to_vec(), packet, events.concat()].concat();
    dir.write("user05_led.aedat", &file);
    dir.write("user05_led_labels.csv", b"class,startTime_usec,endTime_usec\n3,1000,201000\n11,500000,900000\n");
    dir.write("trials_to_train.txt", b"user05_led.aedat\n");
    dir.write("trials_to_test.txt", b"user05_led.aedat\n");
    let task = Gesture::open(GestureSettings::new(dir.path())).unwrap();
    let b = task.batch(Split::Test, 0, 0, 0, 2).unwrap();
    assert_eq!((b.real, &b.targets[..], task.people(Split::Test).unwrap()), (2, &[2, 10][..], vec![5, 5]));
    assert_eq!(b.at(0, 0)[128 * 128 + 7 * 128], 1, "the first event is of pixel (0, 7), brighter");
    dir.write("user05_led_labels.csv", b"class,startTime_usec,endTime_usec\n3,2000000,3000000\n");
    let gone = Gesture::open(GestureSettings::new(dir.path())).unwrap().samples(Split::Test).unwrap_err();
    assert!(gone.to_string().contains("no event between"), "{gone}");
}

#[test]
fn smaller_frames_have_the_largest_count_of_each_block() {
    let c = |p: u32, y: u32, x: u32| (p * 128 + y) * 128 + x;
    let sample = vec![(0, c(0, 0, 0)), (0, c(0, 1, 1)), (0, c(0, 1, 1)), (0, c(1, 127, 126)), (2, c(0, 0, 0))];
    let got = smaller(sample, FULL, 64);
    assert_eq!(got, [(0, 0), (0, 0), (0, 2 * 64 * 64 - 1), (2, 0)]);
}

#[test]
fn every_pixel_of_any_sensor_has_its_block() {
    for (width, height, side) in [(128, 128, 32), (640, 480, 128), (346, 260, 64), (100, 70, 64)] {
        let sensor = Sensor { width, height };
        let mut pixels = vec![0u32; 2 * usize::from(side) * usize::from(side)];
        for (p, y, x) in (0..2).flat_map(|p| (0..height).flat_map(move |y| (0..width).map(move |x| (p, y, x)))) {
            let channel = sensor.channel(&Event { t: 0, x, y, p: p == 1 });
            let got = usize::from(block(channel as u32, sensor, side));
            pixels[got] += 1;
            let (side, width, height) = (usize::from(side), usize::from(width), usize::from(height));
            let want = (p * side + usize::from(y) * side / height) * side + usize::from(x) * side / width;
            assert_eq!(got, want);
        }
        let (least, most) = (pixels.iter().min().unwrap(), pixels.iter().max().unwrap());
        assert!(*least > 0 && *most <= 4 * *least, "{sensor}: {least} to {most} pixels a block");
    }
}

/// The recording of `data/formats`, in six formats and two classes.
fn classes(dir: &Folder) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/formats");
    let splits = [
        ("train/wave", "lz4.aedat4"),
        ("train/clap", "evt3.raw"),
        ("train/wave", "cd.dat"),
        ("test/clap", "zstd.aedat4"),
    ];
    for (k, (folder, name)) in splits.into_iter().enumerate() {
        dir.write(&format!("{folder}/{k}_{name}"), &std::fs::read(data.join(name)).unwrap());
    }
}

#[test]
fn recordings_of_any_sensor_in_folders_of_classes() {
    let dir = Folder::new("gesture-classes");
    classes(&dir);
    let settings = GestureSettings {
        frame_size: 32,
        framing: Framing::Bins(10),
        passes: Passes { shuffle: false, ..Passes::default() },
        ..GestureSettings::new(dir.path())
    };
    let task = Gesture::open(settings.clone()).unwrap();
    assert_eq!((task.n_in(), task.n_out(), task.reading.sensor), (2 * 32 * 32, 2, Sensor { width: 64, height: 48 }));
    let train = task.batch(Split::Train, 0, 0, 0, 3).unwrap();
    assert_eq!(train.targets, [1, 0, 1], "in the order of the names of files; clap is class 0 and wave 1");
    let rows = |b: &Batch, r: usize| (0..10).flat_map(|t| b.at(t, r).to_vec()).collect::<Vec<u8>>();
    assert!(
        (0..3).all(|r| rows(&train, r) == rows(&train, 0)) && train.spikes(0) > 200,
        "one recording in three formats"
    );
    let other = Gesture::open(GestureSettings { sensor: Some(Sensor { width: 128, height: 128 }), ..settings.clone() });
    assert!(other.err().unwrap().to_string().contains("lz4.aedat4"), "its header says another sensor");
    let held = GestureSettings { frame_size: 64, ..settings.clone() };
    assert!(Gesture::open(held).err().unwrap().to_string().contains("64x48"), "frames are not larger than the sensor");
    let small = Gesture::open(GestureSettings { frame_size: 16, ..settings.clone() }).unwrap();
    assert_eq!(small.n_in(), 2 * 16 * 16);
    let odd = Gesture::open(GestureSettings { frame_size: 20, ..settings.clone() }).err().unwrap().to_string();
    assert!(odd.contains("got 20") && odd.contains("choose 128, 64, 32 or 16"), "{odd}");
    let augment = GestureSettings { augment: true, ..settings.clone() };
    assert!(Gesture::open(augment).err().unwrap().to_string().contains("augment"));
    let m = task.samples(Split::Valid).unwrap_err().to_string();
    assert!(m.contains("holds no valid/"), "{m}");
    let report = crate::check(dir.path(), Default::default()).unwrap().to_string();
    let want = "classes  2 (clap: 1, wave: 2)";
    assert!(report.contains(want) && report.contains("sensor   64x48") && report.contains("no problem"), "{report}");
}

#[test]
fn large_sensors_and_changed_samples() {
    let dir = Folder::new("gesture-large");
    let events: Vec<(u8, u8, bool, u32)> =
        (0..200u32).map(|i| (i as u8, (i / 2) as u8, i % 2 == 0, i * 5000)).collect();
    dir.write("train/a/user3_1.bs2", &aer::tests::encode(&events));
    dir.write("train/b/user4_1.bs2", &aer::tests::encode(&events));
    dir.write("sensor.txt", b"1280x720");
    let open = |augment| Gesture::open(GestureSettings { augment, ..GestureSettings::new(dir.path()) }).unwrap();
    let plain = open(false).batch(Split::Train, 1, 0, 0, 2).unwrap();
    assert_eq!(plain.n_in, 2 * 128 * 128);
    // x 0 to 199 of 1280 in blocks of ten pixels, y 0 to 99 of 720 in 128 rows.
    let at = plain.at(8, 0).iter().position(|&c| c > 0).unwrap();
    assert_eq!((at / 128 % 128, at % 128), (20 * 128 / 720, 4), "event 41 is the first of the ninth frame");
    assert_ne!(open(true).batch(Split::Train, 1, 0, 0, 2).unwrap().inputs, plain.inputs);
    assert_eq!(open(false).people(Split::Train).unwrap(), [3, 4]);
}

#[test]
fn clips_are_small_or_changed_as_asked() {
    let dir = Folder::new("gesture-clips");
    let clip = std::fs::read(data()).unwrap();
    let names: Vec<String> = (0..4).map(|label| format!("{label}.bs2,{label}\n")).collect();
    (0..4).for_each(|label| drop(dir.write(&format!("{label}.bs2"), &clip)));
    dir.write("labels.csv", format!("file,label\n{}", names.concat()).as_bytes());
    let open = |frame_size, augment, cache: Option<PathBuf>| {
        let settings = GestureSettings { frame_size, augment, cache, ..GestureSettings::new(dir.path()) };
        Gesture::open(settings).unwrap()
    };
    let full = open(128, false, None);
    assert_eq!((full.samples(Split::Train).unwrap(), full.samples(Split::Test).unwrap()), (Some(4), Some(4)));
    let small = open(32, false, None).batch(Split::Test, 0, 0, 0, 4).unwrap();
    let whole = full.batch(Split::Test, 0, 0, 0, 4).unwrap();
    assert_eq!((small.targets.clone(), small.n_in), ((0..4).collect(), 2 * 32 * 32));
    for t in [0, 20, 55] {
        let most = |row: &[u8], side: usize| row[..side * side].iter().copied().max();
        assert_eq!(most(small.at(t, 3), 32), most(whole.at(t, 3), 128));
    }
    let changed = open(64, true, None);
    let (a, b) = (changed.batch(Split::Train, 1, 0, 0, 4).unwrap(), changed.batch(Split::Train, 1, 0, 0, 4).unwrap());
    assert_eq!(a, b);
    let later = changed.batch(Split::Train, 1, 1, 0, 4).unwrap();
    assert!((0..4).all(|r| a.spikes(r) > 1000) && later.spikes(0) > 1000);
    assert_eq!(
        changed.batch(Split::Test, 1, 0, 0, 4).unwrap(),
        open(64, false, None).batch(Split::Test, 1, 5, 0, 4).unwrap()
    );
    let folder = Folder::new("gesture-cache");
    for _ in 0..2 {
        let cached = open(32, false, Some(folder.path().to_owned())).batch(Split::Test, 0, 0, 0, 4).unwrap();
        assert_eq!(cached, small);
    }
}
