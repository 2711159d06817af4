//! Samples that tonic's `DiskCachedDataset` kept: `train/<sample>_<copy>.hdf5`, `test/...`, and `valid/` where there is one.
//!
//! Classes are the numbers from 0 to the largest of the training folder, unless a file `classes.txt` beside the folders names them. Samples are in
//! the order of their numbers. Of several copies the first is read: the others are the same sample, changed at random. A cache says nothing of the
//! sensor; a setting or a file `sensor.txt` does.

use std::path::{Path, PathBuf};

use super::classes::{self, CLASSES};
use super::recordings::Recording;
use crate::events::{Sensor, tonic};
use crate::remarks::Listing;
use crate::{Error, Result, Split, files, parallel};

/// A split of such a set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Caches {
    root: PathBuf,
    /// The folder of the split.
    pub folder: PathBuf,
    /// That which has all classes.
    train: PathBuf,
}

impl Caches {
    /// The split below `dir`, if there are caches. Errors: [`Error::NoSplit`] if only the others are there; [`Error::Damaged`] for caches
    /// that are not in folders of splits.
    pub fn find(dir: &Path, split: Split) -> Result<Option<Caches>> {
        let of = |split: Split| files::folder(dir, &[split.name()]).filter(|folder| holds(folder));
        match of(Split::Train).or_else(|| of(Split::Test)) {
            None if holds(dir) && !classes::is_split(dir) => {
                let (rule, got) =
                    ("caches lie in train/ and test/, a folder for each split", "caches and neither of them");
                Err(Error::unusable(dir, rule, got, "move each cache folder to one of these names, below one folder"))
            }
            None => Ok(None),
            Some(train) => match of(split) {
                Some(folder) => Ok(Some(Caches { root: dir.to_owned(), folder, train })),
                None => Err(classes::no_split(dir, split)),
            },
        }
    }

    /// All samples, in the order of their numbers. Problems are of single files. Errors: [`Error::Io`]; those of `classes`.
    pub fn recordings(&self) -> Result<Listing<Recording>> {
        let mut out = Listing::default();
        let classes = self.classes()?.len();
        let mut numbered = Vec::new();
        for path in files::entries(&self.folder)? {
            match tonic::number(&path) {
                Some((sample, 0)) => numbered.push((sample, path)),
                Some(_) => {
                    out.remarks.add(&path, "another copy of the same sample, changed by a transform, is left out")
                }
                None => out.remarks.add(&path, "it is not called as tonic calls a cache, and is left out"),
            }
        }
        numbered.sort();
        let targets = parallel::map(numbered.len(), |i| tonic::target(&numbered[i].1));
        for ((_, path), target) in numbered.into_iter().zip(targets) {
            match target {
                Ok(target) => match usize::try_from(target).ok().filter(|t| *t < classes) {
                    Some(label) => out.found.push(Recording { path, label: label as i32, user: -1, span: None }),
                    None => {
                        let rule = format!("classes are 0 to {}, those of classes.txt or train/", classes as i64 - 1);
                        out.problems.push(Error::damaged(&path, rule, format!("target {target}")));
                    }
                },
                Err(e) => out.problems.push(e),
            }
        }
        Ok(out)
    }

    /// The names of the classes. Errors: [`Error::Damaged`] for a list that is none, and for more classes than there can be.
    pub fn classes(&self) -> Result<Vec<String>> {
        if let Some(path) = files::file(&self.root, CLASSES) {
            return classes::listed(&path);
        }
        let caches: Vec<PathBuf> =
            files::entries(&self.train)?.into_iter().filter(|p| tonic::number(p).is_some()).collect();
        // A cache without a target is named when it is read.
        let targets = parallel::map(caches.len(), |i| tonic::target(&caches[i]).unwrap_or(-1));
        let most = targets.into_iter().max().unwrap_or(-1);
        if most >= classes::MOST as i64 {
            let rule = format!("classes are numbers below {}", classes::MOST);
            return Err(Error::damaged(&self.train, rule, format!("target {most}")));
        }
        Ok((0..=most).map(|class| class.to_string()).collect())
    }

    /// The sensor of all samples. Errors: as for folders of classes.
    pub fn sensor(&self, setting: Option<Sensor>) -> Result<Sensor> {
        classes::sensor(&self.root, setting, || Ok(None))
    }

    /// Files beside the caches that they depend on.
    pub fn tables(&self) -> Vec<PathBuf> {
        classes::tables(&self.root)
    }
}

/// Whether caches lie in a folder.
fn holds(folder: &Path) -> bool {
    files::entries(folder).is_ok_and(|all| all.iter().any(|path| tonic::number(path).is_some() && !path.is_dir()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn samples_by_number_and_classes_by_target() {
        let dir = Folder::new("caches");
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/formats");
        let cache = std::fs::read(data.join("cache_lzf.hdf5")).unwrap();
        for name in ["train/10_0.hdf5", "train/9_0.hdf5", "train/9_1.hdf5", "test/0_0.hdf5"] {
            dir.write(name, &cache);
        }
        dir.write("train/notes.txt", b"");
        let find = |split| Caches::find(dir.path(), split).unwrap().unwrap();
        let train = find(Split::Train);
        let listing = train.recordings().unwrap();
        let names: Vec<_> = listing.found.iter().map(|r| (files::name(&r.path), r.label)).collect();
        assert_eq!(names, [("9_0.hdf5".to_string(), 3), ("10_0.hdf5".to_string(), 3)]);
        let remarks = listing.remarks.lines().join("\n");
        assert!(remarks.contains("9_1.hdf5") && remarks.contains("notes.txt"), "{remarks}");
        assert_eq!(train.classes().unwrap(), ["0", "1", "2", "3"]);
        assert!(train.sensor(None).is_err() && train.sensor(Some(Sensor::DVS128)).is_ok());
        assert!(matches!(Caches::find(dir.path(), Split::Valid), Err(Error::NoSplit { .. })));
        dir.write("classes.txt", b"a\nb");
        let m = find(Split::Test).recordings().unwrap().problems[0].to_string();
        assert!(m.contains("target 3") && m.contains("0 to 1"), "{m}");
        let whole = Folder::new("caches-whole");
        whole.write("0_0.hdf5", &cache);
        assert!(Caches::find(whole.path(), Split::Train).unwrap_err().to_string().contains("train/ and test/"));
    }
}
