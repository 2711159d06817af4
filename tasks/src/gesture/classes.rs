//! A folder for each class: `train/<class>/<recording>`, `test/<class>/<recording>`, and `valid/` where there is one.
//!
//! The name of a folder is that of its class. A file `classes.txt` beside the folders of the splits lists the classes, one a line; without
//! it they are those of the training folder, in the order of their names; names that are all whole numbers are in the order of the numbers.
//! The samples of a split are in the order of the names of the files, whatever their class: so numbers in front of the names keep any
//! order. `user07` in the name of a file says whose recording it is.
//!
//! The sensor is one for all recordings. A file `sensor.txt` beside the folders (`640x480`), the heads of the recordings or a setting says which.

use std::path::{Path, PathBuf};

use super::recordings::Recording;
use crate::events::{Sensor, format};
use crate::remarks::Listing;
use crate::{Error, Result, Split, files, table};

/// Where the size of the sensor is written.
pub(crate) const SENSOR: &str = "sensor.txt";
/// Where the classes are listed.
pub(crate) const CLASSES: &str = "classes.txt";
/// Most classes.
pub(super) const MOST: usize = 1 << 16;

/// A split of such a set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Classes {
    /// The folder that has those of the splits.
    pub root: PathBuf,
    /// The folder of the split.
    pub folder: PathBuf,
    /// The names of the classes.
    pub names: Vec<String>,
}

impl Classes {
    /// The split below `dir`, if there are folders of classes; the names of folders in any letter case. Errors: [`Error::NoSplit`] if the
    /// others are there and this one is not.
    pub fn find(dir: &Path, split: Split) -> Result<Option<Classes>> {
        let of = |split: Split| files::folder(dir, &[split.name()]);
        let found = [Split::Train, Split::Test].into_iter().filter_map(of).map(|folder| names(&folder));
        let Some(found) = found.into_iter().find(|names| !names.is_empty()) else { return Ok(None) };
        let names = files::file(dir, CLASSES).map_or(Ok(found), |path| listed(&path))?;
        let folder = of(split).ok_or_else(|| no_split(dir, split))?;
        Ok(Some(Classes { root: dir.to_owned(), folder, names }))
    }

    /// All recordings, in the order of the names of their files. Problems are of single folders; what is left out is remarked. Errors:
    /// [`Error::Io`].
    pub fn recordings(&self) -> Result<Listing<Recording>> {
        let mut out = Listing::default();
        let twin = "it is in another letter case than the folder that is read, and is left out";
        files::namesakes(&self.folder).iter().for_each(|path| out.remarks.add(path, twin));
        for class in files::entries(&self.folder)? {
            if !class.is_dir() {
                out.remarks.add(&class, "it is no folder of a class, and is left out");
                continue;
            }
            let Ok(inside) = files::entries(&class).map_err(|e| out.problems.push(e)) else { continue };
            let (found, strays): (Vec<_>, Vec<_>) = inside.into_iter().partition(|path| is_recording(path));
            let stray = format!("it is no recording ({}), and is left out", format::endings());
            strays.iter().for_each(|path| out.remarks.add(path, stray.as_str()));
            match self.names.iter().position(|name| *name == files::name(&class)) {
                Some(label) => out.found.extend(found.into_iter().map(|path| {
                    let user = user(&files::name(&path));
                    Recording { path, label: label as i32, user, span: None }
                })),
                None if found.is_empty() => out.remarks.add(&class, "it holds no recording, and is left out"),
                None => out.problems.push(self.unknown(&class)),
            }
        }
        out.found.sort_by_cached_key(|r| (files::name(&r.path), r.label));
        Ok(out)
    }

    fn unknown(&self, class: &Path) -> Error {
        let rule = format!(
            "the classes of every split are those of classes.txt or train/: {}",
            files::list(&self.names, String::clone)
        );
        let next = "rename the folder, or add the class there too";
        Error::unusable(class, rule, files::name(class), next)
    }

    /// The sensor of all recordings: that of a setting, of `sensor.txt`, or of the head of the first recording that has one.
    ///
    /// Errors: [`Error::Damaged`] if they do not agree, or nobody says.
    pub fn sensor(&self, setting: Option<Sensor>) -> Result<Sensor> {
        sensor(&self.root, setting, || {
            let found = self.recordings()?.found;
            // A recording that cannot be read is named when it is read.
            let heads = found.iter().filter_map(|r| Some((r.path.clone(), format::sensor(&r.path).ok()??)));
            Ok(heads.into_iter().next())
        })
    }

    /// Files beside the recordings that they depend on.
    pub fn tables(&self) -> Vec<PathBuf> {
        tables(&self.root)
    }
}

/// Files beside the folders of the splits that all recordings depend on.
pub(super) fn tables(root: &Path) -> Vec<PathBuf> {
    [SENSOR, CLASSES].into_iter().filter_map(|name| files::file(root, name)).collect()
}

/// The error for a split whose folder is not beside the others.
pub(super) fn no_split(dir: &Path, split: Split) -> Error {
    Error::NoSplit {
        task: "gesture".into(),
        split,
        got: format!("{} holds no {split}/", dir.display()),
        next: "put recordings of every class into a folder of that name, beside the others",
    }
}

/// The sensor of a set: that of a setting, of `sensor.txt`, or of the head of a recording.
pub(super) fn sensor(
    root: &Path,
    setting: Option<Sensor>,
    head: impl FnOnce() -> Result<Option<(PathBuf, Sensor)>>,
) -> Result<Sensor> {
    let found = match files::file(root, SENSOR) {
        Some(path) => Some((path.clone(), written(&path)?)),
        None => head()?,
    };
    match (setting, found) {
        (Some(setting), Some((path, found))) if setting != found => {
            let rule = format!("the sensor is the one that was given, {setting}");
            let next = "leave --sensor out, or name the folder of the other one";
            Err(Error::unusable(&path, rule, found.to_string(), next))
        }
        (Some(sensor), _) | (None, Some((_, sensor))) => Ok(sensor),
        (None, None) => {
            let (rule, got) =
                ("the size of the sensor must be known", "recordings that do not say it, and no sensor.txt");
            let next = "give it with --sensor, columns x rows, such as --sensor 640x480";
            Err(Error::unusable(root, rule, got, next))
        }
    }
}

/// The size in a `sensor.txt`.
fn written(path: &Path) -> Result<Sensor> {
    let bytes = files::read(path, files::TABLE, "read the size of the sensor")?;
    let text = table::text(&bytes, path)?;
    text.parse().map_err(|_| {
        let rule = "the file holds the size of the sensor, columns x rows, such as 640x480";
        Error::damaged(path, rule, table::quote(text.lines().next().unwrap_or_default()))
    })
}

/// The classes in a `classes.txt`.
pub(super) fn listed(path: &Path) -> Result<Vec<String>> {
    let bytes = files::read(path, files::TABLE, "read the list of classes")?;
    let names: Vec<String> = table::lines(table::text(&bytes, path)?).map(|(_, line)| line.to_owned()).collect();
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    let (rule, next) =
        ("classes.txt lists the names of the folders, one a line and each once", "correct the list, or remove it");
    // A conversion makes folders of these names: none may lead elsewhere.
    let is_folder = |name: &str| !name.starts_with('.') && Path::new(name).file_name().is_some_and(|own| own == name);
    if let Some(name) = names.iter().find(|name| !is_folder(name.as_str())) {
        let got = format!("{}, which no folder can be called", table::quote(name));
        return Err(Error::unusable(path, rule, got, next));
    }
    match sorted.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(Error::unusable(path, rule, format!("{} twice", table::quote(two[0])), next)),
        None if names.is_empty() || names.len() > MOST => {
            Err(Error::unusable(path, rule, format!("{} names", names.len()), next))
        }
        None => Ok(names),
    }
}

fn is_recording(path: &Path) -> bool {
    format::is_recording(path) && !path.is_dir()
}

/// The names of the folders in `dir` that hold recordings: numbers in their order, or else names in theirs.
fn names(dir: &Path) -> Vec<String> {
    let holds =
        |path: &PathBuf| path.is_dir() && files::entries(path).is_ok_and(|all| all.iter().any(|p| is_recording(p)));
    let folders = files::entries(dir).unwrap_or_default().into_iter().filter(holds);
    let mut names: Vec<String> = folders.map(|path| files::name(&path)).collect();
    let number = |name: &String| name.parse::<u64>().ok();
    if names.iter().all(|name| number(name).is_some()) {
        names.sort_by_key(number);
    }
    names
}

/// Whose recording a file is: the number after `user` in its name; -1 if nobody says.
pub(crate) fn user(name: &str) -> i64 {
    let name = name.to_lowercase();
    let after = name.split("user").nth(1).unwrap_or_default();
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    after[..end].parse().unwrap_or(-1)
}

/// Whether a folder is that of a split by itself: the one of the set is named too low.
pub(super) fn is_split(dir: &Path) -> bool {
    Split::ALL.iter().any(|split| files::name(dir).eq_ignore_ascii_case(split.name()))
}

/// Folders of classes that are not in folders of splits.
pub(crate) fn whole(dir: &Path) -> Option<Classes> {
    let names = names(dir);
    (names.len() > 1 && !is_split(dir)).then(|| Classes { root: dir.to_owned(), folder: dir.to_owned(), names })
}

/// What to say of such a folder; `None` for any other.
pub(crate) fn not_split(dir: &Path) -> Option<Error> {
    whole(dir).map(|Classes { names, .. }| {
        let rule = "folders of classes lie in train/ and test/, so that it is known what is tested";
        let got = format!("{} classes ({}) and neither of them", names.len(), files::list(&names, String::clone));
        let next = format!(
            "move them there, recordings of other people into test/ if you can, or have a share of every class copied there: etrace data convert {} \
             --out NEW --test-share 0.2",
            dir.display()
        );
        Error::unusable(dir, rule, got, next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn folders_of_classes() {
        let dir = Folder::new("classes");
        for name in ["train/10/b_user07.raw", "train/9/a.dat", "train/9/c.npy", "Test/9/x.npy", "train/9/notes.txt"] {
            dir.write(name, b"");
        }
        std::fs::create_dir_all(dir.path().join("train/empty")).unwrap();
        dir.write("train/readme.md", b"");
        let found = Classes::find(dir.path(), Split::Train).unwrap().unwrap();
        assert_eq!(found.names, ["9", "10"], "in the order of the numbers");
        let listing = found.recordings().unwrap();
        let brief: Vec<_> = listing.found.iter().map(|r| (files::name(&r.path), r.label, r.user)).collect();
        let want = [("a.dat", 0, -1), ("b_user07.raw", 1, 7), ("c.npy", 0, -1)];
        assert_eq!(brief, want.map(|(name, label, user)| (name.to_string(), label, user)));
        let remarks = listing.remarks.lines().join("\n");
        assert!(
            remarks.contains("notes.txt") && remarks.contains("readme.md") && remarks.contains("empty"),
            "{remarks}"
        );
        assert_eq!(Classes::find(dir.path(), Split::Test).unwrap().unwrap().recordings().unwrap().found[0].label, 0);
        assert!(matches!(Classes::find(dir.path(), Split::Valid), Err(Error::NoSplit { .. })));
        dir.write("classes.txt", b"10\r\n9\n\n8\n");
        let listed = Classes::find(dir.path(), Split::Test).unwrap().unwrap();
        assert_eq!((listed.names.len(), listed.recordings().unwrap().found[0].label), (3, 1));
        dir.write("classes.txt", b"9\n9");
        assert!(Classes::find(dir.path(), Split::Test).unwrap_err().to_string().contains("\"9\" twice"));
        for name in ["../9", "/9", "9/", "..", ".9"] {
            dir.write("classes.txt", format!("9\n{name}").as_bytes());
            let m = Classes::find(dir.path(), Split::Test).unwrap_err().to_string();
            assert!(m.contains("no folder can be called") && m.contains(name), "{m}");
        }
        std::fs::remove_file(dir.path().join("classes.txt")).unwrap();
        dir.write("Test/eleven/x.npy", b"");
        let problems = Classes::find(dir.path(), Split::Test).unwrap().unwrap().recordings().unwrap().problems;
        assert!(problems[0].to_string().contains("eleven"), "{problems:?}");
    }

    #[test]
    fn the_sensor_is_said_once_or_alike() {
        let dir = Folder::new("classes-sensor");
        dir.write("train/b/1.npy", b"");
        let sensor = |setting: Option<&str>| {
            let setting = setting.map(|s| s.parse().unwrap());
            let found = Classes::find(dir.path(), Split::Train).unwrap().unwrap();
            found.sensor(setting).map(|s| s.to_string()).map_err(|e| e.to_string())
        };
        assert!(sensor(None).unwrap_err().contains("--sensor 640x480"));
        assert_eq!(sensor(Some("30x20")).unwrap(), "30x20");
        dir.write("train/a/2.dat", b"% Width 64\n% Height 48\n");
        assert_eq!(sensor(None).unwrap(), "64x48");
        assert!(sensor(Some("30x20")).unwrap_err().contains("2.dat"));
        dir.write("sensor.txt", b"32x16\n");
        assert_eq!(sensor(None).unwrap(), "32x16");
        dir.write("sensor.txt", b"wide");
        assert!(sensor(None).unwrap_err().contains("columns x rows"));
    }

    #[test]
    fn one_folder_is_not_split_in_secret() {
        let dir = Folder::new("classes-one");
        dir.write("a/1.npy", b"");
        assert!(not_split(dir.path()).is_none(), "one class is none");
        dir.write("b/1.npy", b"");
        let m = not_split(dir.path()).unwrap().to_string();
        assert!(m.contains("2 classes (a, b)") && m.contains("--test-share"), "{m}");
    }
}
