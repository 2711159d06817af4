//! Where reference cases come from: a folder, or the ones that are built in.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use super::VerifyError;

/// A set of reference cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Those of `tests/data/golden`, which are part of the program.
    BuiltIn,
    /// Pairs `NAME.safetensors`, `NAME.json` in this folder.
    Directory(PathBuf),
}

/// A file of a case, with the path that errors name.
pub(super) struct CaseFile {
    pub path: PathBuf,
    pub bytes: Cow<'static, [u8]>,
}

/// A case that is part of the program: its name, description and arrays.
type BuiltIn = (&'static str, &'static [u8], &'static [u8]);

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$((
            $name,
            include_bytes!(concat!("../../tests/data/golden/", $name, ".json")),
            include_bytes!(concat!("../../tests/data/golden/", $name, ".safetensors")),
        )),*]
    };
}

/// The built-in cases, sorted by name.
const BUILT_IN: &[BuiltIn] = built_in![
    "egru",
    "gif_coba_ei",
    "gru",
    "lif_delta_3layer",
    "lif_delta_soft",
    "lif_expco_ei",
    "lif_expcu",
    "lstm",
    "vanilla_rnn",
];

impl Source {
    /// Names of the cases, sorted. A case whose description is missing counts: replaying it says so.
    ///
    /// # Errors
    /// When the folder cannot be read or holds no case.
    pub fn names(&self) -> Result<Vec<String>, VerifyError> {
        match self {
            Source::BuiltIn => Ok(BUILT_IN.iter().map(|case| case.0.to_string()).collect()),
            Source::Directory(dir) => in_directory(dir),
        }
    }

    /// The description and the arrays of a case.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn read(&self, name: &str) -> Result<[CaseFile; 2], VerifyError> {
        let files = [format!("{name}.json"), format!("{name}.safetensors")];
        match self {
            Source::BuiltIn => {
                let case = BUILT_IN.iter().find(|case| case.0 == name);
                let &(_, json, tensors) = case.ok_or_else(|| VerifyError::Empty(PathBuf::from(name)))?;
                let [description, arrays] = files.map(PathBuf::from);
                Ok([
                    CaseFile { path: description, bytes: json.into() },
                    CaseFile { path: arrays, bytes: tensors.into() },
                ])
            }
            Source::Directory(dir) => {
                let [description, arrays] = files.map(|file| {
                    let path = dir.join(file);
                    match std::fs::read(&path) {
                        Ok(bytes) => Ok(CaseFile { path, bytes: bytes.into() }),
                        Err(source) => Err(VerifyError::Io { path, source }),
                    }
                });
                Ok([description?, arrays?])
            }
        }
    }
}

fn in_directory(dir: &Path) -> Result<Vec<String>, VerifyError> {
    let io = |source| VerifyError::Io { path: dir.to_path_buf(), source };
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map_err(io)?
        .filter_map(|entry| entry.ok()?.path().file_name()?.to_str()?.strip_suffix(".safetensors").map(str::to_string))
        .collect();
    names.sort();
    if names.iter().any(|name| dir.join(format!("{name}.json")).exists()) {
        Ok(names)
    } else {
        Err(VerifyError::Empty(dir.to_path_buf()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_of_the_folder_is_built_in() {
        let folder = Source::Directory(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden"));
        let names = folder.names().unwrap();
        assert_eq!(Source::BuiltIn.names().unwrap(), names);
        for name in names {
            let (built_in, read) = (Source::BuiltIn.read(&name).unwrap(), folder.read(&name).unwrap());
            assert!(built_in.iter().zip(&read).all(|(a, b)| a.bytes == b.bytes), "{name}");
        }
    }
}
