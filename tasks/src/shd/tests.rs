use std::path::{Path, PathBuf};

use super::*;
use crate::testing::{Folder, shared};

fn tiny() -> PathBuf {
    data("shd_tiny.h5")
}

/// A folder whose training and test file are both the tiny file.
fn folder() -> Folder {
    let dir = Folder::new("shd");
    let bytes = std::fs::read(tiny()).unwrap();
    dir.write("shd_train.h5", &bytes);
    dir.write("SHD/shd_test.h5", &bytes);
    dir
}

/// Compares every sample of a file with the table of expected figures.
fn compare(path: &Path, name: &str) {
    let table = include_str!("../../data/shd_expected.txt");
    let lines: Vec<Vec<&str>> =
        table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).filter(|l| l[0] == name).collect();
    let file = ShdFile::open(path).unwrap();
    assert_eq!(file.len(), lines.len());
    let edges = Edges::new(100, 1.4).unwrap();
    for (i, line) in lines.iter().enumerate() {
        let want: Vec<u64> = line[1..].iter().map(|w| w.parse().unwrap()).collect();
        let spikes = file.sample(i, UNITS).unwrap();
        let mut counts = vec![0u64; 100 * 700];
        spikes.iter().for_each(|&(t, u)| counts[edges.row(t) * 700 + u as usize] += 1);
        let sum = |row: usize| counts[row * 700..][..700].iter().sum::<u64>();
        let checksum = counts.iter().enumerate().map(|(k, c)| c * (k as u64 + 1)).sum::<u64>() % 1_000_003;
        let nonzero = counts.iter().filter(|&&c| c > 0).count() as u64;
        let mut got =
            vec![file.labels()[i] as u64, spikes.len() as u64, *counts.iter().max().unwrap(), nonzero, checksum];
        got.extend((0..8).map(sum));
        assert_eq!(got, want, "sample {i} of {name}");
    }
    assert_eq!(file.keys().len(), 20);
    assert_eq!(file.speakers().unwrap().len(), file.len());
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

#[test]
fn expected_counts() {
    for (file, name) in [
        ("shd_tiny.h5", "shd_test"),
        ("shd_tiny_gzip.h5", "shd_test_h5py_gzip"),
        ("shd_tiny_latest.h5", "shd_test_h5py_f64_i64_latest"),
        ("shd_tiny_train.h5", "shd_train"),
    ] {
        compare(&data(file), name);
    }
}

/// The samples of `hdf5_forms/make.py`.
#[test]
fn every_form_of_hdf5_gives_the_same_samples() {
    let mut forms = 0;
    for entry in std::fs::read_dir(data("hdf5_forms")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|e| e != "h5") || name.starts_with("refused") {
            continue;
        }
        forms += 1;
        let file = ShdFile::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let n = if name == "fixed_array_paged" { 2100 } else { 12 };
        assert_eq!(file.labels(), (0..n).map(|i| i % 20).collect::<Vec<_>>(), "{name}");
        assert_eq!(file.speakers().unwrap(), (0..n).map(|i| i % 3).collect::<Vec<_>>(), "{name}");
        assert_eq!(file.keys(), (0..20).map(|i| format!("key {i}")).collect::<Vec<_>>(), "{name}");
        for i in 0..n as usize {
            let count = if i < 12 { i % 5 } else { 0 };
            let want: Vec<_> = (0..count).map(|k| (k as f64 / 8.0, ((100 * i + k) % 700) as u16)).collect();
            assert_eq!(file.sample(i, UNITS).unwrap(), want, "sample {i} of {name}");
        }
    }
    assert_eq!(forms, 11);
}

#[test]
fn forms_of_hdf5_that_are_not_read_are_named() {
    let m = ShdFile::open(&data("hdf5_forms/refused_extensible.h5")).err().unwrap().to_string();
    assert!(m.contains("an extensible array") && m.contains("h5py"), "{m}");
}

#[test]
fn batches_equal_the_file() {
    let dir = folder();
    let task = Shd::open(ShdSettings::new(dir.path(), ShdKind::Shd)).unwrap();
    assert_eq!((task.n_in(), task.n_out(), task.steps()), (700, 20, 100));
    assert_eq!((task.batches(Split::Train, 5).unwrap(), task.batches(Split::Test, 5).unwrap()), (Some(2), Some(3)));
    let b = task.batch(Split::Test, 0, 0, 2, 5).unwrap();
    assert_eq!((b.real, &b.targets[..], &b.ids[..2]), (2, &[19, 14, -1, -1, -1][..], &[10, 11][..]));
    let b = task.batch(Split::Test, 0, 0, 0, 12).unwrap();
    assert_eq!(b.targets, [16, 4, 9, 14, 12, 11, 17, 7, 0, 17, 19, 14]);
    let rows: Vec<u64> = (0..5).map(|t| b.at(t, 0).iter().map(|&c| u64::from(c)).sum()).collect();
    assert_eq!((rows, b.spikes(0)), (vec![0, 8, 5, 12, 6], 330));
    let train = task.batch(Split::Train, 3, 1, 0, 12).unwrap();
    assert_eq!(train, task.batch(Split::Train, 3, 1, 0, 12).unwrap());
    assert_ne!(train.ids, b.ids);
    let row_0 = train.ids.iter().position(|&i| i == 0).unwrap();
    assert!((0..100).all(|t| train.at(t, row_0) == b.at(t, 0)));
}

#[test]
fn speakers_are_held_out() {
    let dir = folder();
    let plain = Shd::open(ShdSettings::new(dir.path(), ShdKind::Shd)).unwrap();
    let m = plain.samples(Split::Valid).unwrap_err().to_string();
    assert!(m.contains("no valid split") && m.contains("held_out"), "{m}");
    let speakers = plain.people(Split::Train).unwrap();
    let one = speakers[0];
    let held = ShdSettings { held_out: vec![one], ..ShdSettings::new(dir.path(), ShdKind::Shd) };
    let task = Shd::open(held.clone()).unwrap();
    let (train, valid) = (task.people(Split::Train).unwrap(), task.people(Split::Valid).unwrap());
    assert!(!train.is_empty() && train.iter().all(|&p| p != one));
    assert!(!valid.is_empty() && valid.iter().all(|&p| p == one));
    assert_eq!(train.len() + valid.len(), 12);
    assert_eq!(task.samples(Split::Test).unwrap(), Some(12));
    for bad in [vec![99], speakers] {
        let m = Shd::open(ShdSettings { held_out: bad, ..held.clone() })
            .unwrap()
            .samples(Split::Train)
            .unwrap_err()
            .to_string();
        assert!(m.contains("some but not all"), "{m}");
    }
}

#[test]
fn augmentation_is_of_the_training_split_and_new_in_each_epoch() {
    let dir = folder();
    let plain = ShdSettings::new(dir.path(), ShdKind::Shd);
    let none = Augment { shift: 0.0, dilate: (1.0, 1.0), jitter: 0.0 };
    let open = |augment| Shd::open(ShdSettings { augment, ..plain.clone() }).unwrap();
    let batch = |task: &Shd, split, seed, epoch| task.batch(split, seed, epoch, 0, 12).unwrap();
    let (without, unmoved, moved) = (open(None), open(Some(none)), open(Some(Augment::default())));
    let b = batch(&moved, Split::Train, 3, 1);
    assert_eq!(batch(&unmoved, Split::Train, 3, 1), batch(&without, Split::Train, 3, 1));
    assert_eq!(batch(&moved, Split::Test, 3, 1), batch(&without, Split::Test, 3, 1));
    assert_eq!(batch(&open(Some(Augment::default())), Split::Train, 3, 1), b, "a function of the position");
    assert_eq!((b.ids.clone(), b.targets.clone()), {
        let same = batch(&without, Split::Train, 3, 1);
        (same.ids, same.targets)
    });
    // The same sample in other epochs and seeds.
    let sample_0 = |seed, epoch| {
        let b = batch(&moved, Split::Train, seed, epoch);
        let row = b.ids.iter().position(|&i| i == 0).unwrap();
        (0..100).flat_map(|t| b.at(t, row).to_vec()).collect::<Vec<_>>()
    };
    assert_ne!(sample_0(3, 1), sample_0(3, 2));
    assert_ne!(sample_0(3, 1), sample_0(4, 1));
    assert_eq!((moved.samples(Split::Train).unwrap(), moved.people(Split::Train).unwrap().len()), (Some(12), 12));
    let bad = ShdSettings { augment: Some(Augment { dilate: (1.2, 0.9), ..none }), ..plain.clone() };
    let m = Shd::open(bad).err().unwrap().to_string();
    assert!(m.contains("low <= high"), "{m}");
}

#[test]
fn a_cache_gives_the_same_batches_without_the_binning() {
    let (dir, cache) = (folder(), Folder::new("shd-cache"));
    let held_out = vec![ShdFile::open(&tiny()).unwrap().speakers().unwrap()[0]];
    let with = |steps| ShdSettings {
        cache: Some(cache.path().to_owned()),
        held_out: held_out.clone(),
        steps,
        ..ShdSettings::new(dir.path(), ShdKind::Shd)
    };
    let batches = |s: ShdSettings| {
        let task = Shd::open(s).unwrap();
        Split::ALL.map(|split| (task.batch(split, 1, 2, 0, 2).unwrap(), task.people(split).unwrap()))
    };
    let want = batches(ShdSettings { cache: None, ..with(100) });
    assert_eq!(batches(with(100)), want);
    let files = crate::files::entries(cache.path()).unwrap();
    assert_eq!(files.len(), 3);
    let times = || files.iter().map(|f| f.metadata().unwrap().modified().unwrap()).collect::<Vec<_>>();
    let before = times();
    assert_eq!(batches(with(100)), want);
    assert_eq!(times(), before, "nothing is written again");
    assert_ne!(batches(with(50)), want);
    assert_eq!(crate::files::entries(cache.path()).unwrap().len(), 6);
}

#[test]
fn settings_stand_in_a_configuration_file() {
    let s = ShdSettings {
        max_time: MaxTime::Longest,
        held_out: vec![1, 2],
        augment: Some(Augment::default()),
        ..ShdSettings::new("data", ShdKind::Ssc)
    };
    let text = toml::to_string(&s).unwrap();
    assert!(text.contains("kind = \"ssc\"") && text.contains("max_time = \"longest\""), "{text}");
    assert_eq!(toml::from_str::<ShdSettings>(&text).unwrap(), s);
    let s = ShdSettings::new("data", ShdKind::Shd);
    assert_eq!(toml::from_str::<ShdSettings>(&toml::to_string(&s).unwrap()).unwrap(), s);
}

#[test]
fn rows_stay_within_the_steps() {
    let dir = folder();
    for max_time in [MaxTime::Longest, MaxTime::Fixed(0.1)] {
        let s = ShdSettings { max_time, steps: 50, ..ShdSettings::new(dir.path(), ShdKind::Shd) };
        let b = Shd::open(s).unwrap().batch(Split::Test, 0, 0, 0, 12).unwrap();
        assert_eq!(b.spikes(0), 330, "{max_time:?}: none is lost");
        assert!(b.at(0, 0).iter().all(|&c| c == 0) && (0..12).any(|r| b.at(49, r).iter().any(|&c| c > 0)));
    }
}

#[test]
fn what_is_wrong_is_said() {
    let dir = Folder::new("shd-none");
    let m = Shd::open(ShdSettings::new(dir.path(), ShdKind::Ssc)).err().unwrap().to_string();
    assert!(
        [
            "SSC",
            "looked for",
            "ssc_test.h5.zip (MD5 a35ff1e9cffdd02a20eb850c17c37748, 20382 samples)",
            "unpack them into"
        ]
        .iter()
        .all(|w| m.contains(w)),
        "{m}"
    );
    dir.write("shd_test.h5", b"not a file of that kind");
    let task = Shd::open(ShdSettings::new(dir.path(), ShdKind::Shd)).unwrap();
    let m = task.samples(Split::Test).unwrap_err().to_string();
    assert!(m.contains("shd_test.h5") && m.contains("is HDF5"), "{m}");
    assert!(Shd::open(ShdSettings { steps: 1, ..ShdSettings::new(dir.path(), ShdKind::Shd) }).is_err());
    let few = ShdSettings { n_out: 5, ..ShdSettings::new(folder().path(), ShdKind::Shd) };
    assert!(Shd::open(few).is_err(), "its folder is gone");
    let dir = folder();
    let few = ShdSettings { n_out: 5, ..ShdSettings::new(dir.path(), ShdKind::Shd) };
    let m = Shd::open(few).unwrap().samples(Split::Test).unwrap_err().to_string();
    assert!(m.contains("label 16 of sample 0"), "{m}");
    let file = ShdFile::open(&tiny()).unwrap();
    let m = file.sample(0, 10).unwrap_err().to_string();
    assert!(m.contains("units below 10") && m.contains("sample 0"), "{m}");
}

#[test]
#[ignore = "needs recordings that are not part of the project, in ../shared"]
fn a_real_utterance() {
    let dir = shared("real-samples/shd-lauscher-utterance");
    let file = ShdFile::open(&dir.join("shd_test.h5")).unwrap();
    let spikes = file.sample(0, UNITS).unwrap();
    assert_eq!(spikes.len(), 7082);
    let count = |n: usize, max: f64| {
        let edges = Edges::new(n, max).unwrap();
        let mut counts = vec![[0u32; 700]; n];
        spikes.iter().for_each(|&(t, u)| counts[edges.row(t)][u as usize] += 1);
        counts
    };
    let c = count(100, 1.4);
    let sums: Vec<u32> = c.iter().map(|r| r.iter().sum()).collect();
    assert_eq!((&sums[..6], sums[30]), (&[0, 3, 5, 10, 2, 7][..], 249));
    assert!(sums[57] > 0 && sums[58..].iter().all(|&s| s == 0));
    assert_eq!((c.iter().flatten().max(), c.iter().flatten().filter(|&&x| x > 0).count()), (Some(&5), 4675));
    let c = count(300, 1.4);
    assert_eq!((c.iter().flatten().max(), c.iter().flatten().filter(|&&x| x > 0).count()), (Some(&2), 6900));
    let last = spikes.iter().map(|s| s.0).fold(0.0, f64::max);
    assert_eq!(last, 0.79296875);
    assert_eq!(Edges::new(100, last).unwrap().digitize(last), 100);
}

#[test]
#[ignore = "needs recordings that are not part of the project, in ../shared"]
fn real_speech() {
    let dir = shared("real-samples/fsdd-spiking-shd-layout");
    let file = ShdFile::open(&dir.join("shd_train.h5")).unwrap();
    let all: Vec<Vec<(f64, u16)>> = (0..file.len()).map(|i| file.sample(i, UNITS).unwrap()).collect();
    assert_eq!((all.len(), all.iter().map(Vec::len).sum::<usize>()), (1000, 4_009_393));
    assert_eq!(all.iter().flatten().map(|s| u64::from(s.1)).sum::<u64>(), 2_094_129_293);
    assert_eq!((file.labels()[0], file.speakers().unwrap()[0], all[0].len()), (6, 0, 3744));
    assert_eq!(all[0][..3].iter().map(|s| s.1).collect::<Vec<_>>(), [582, 27, 120]);
    let task = Shd::open(ShdSettings { held_out: vec![3], ..ShdSettings::new(&dir, ShdKind::Shd) }).unwrap();
    let n = |split| task.samples(split).unwrap().unwrap();
    assert_eq!((n(Split::Train) + n(Split::Valid), n(Split::Test)), (1000, 200));
    let b = task.batch(Split::Test, 0, 0, 0, 200).unwrap();
    assert_eq!((0..200).map(|r| b.spikes(r)).sum::<u64>(), 962_178, "no spike is lost");
    assert_eq!(b.inputs.iter().max(), Some(&7));
}
