//! What a reader recognised or left out: true of the data, no damage, and never kept silent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Remarks on the files of a split, one of a kind. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Remarks(BTreeMap<String, (PathBuf, u64)>);

impl Remarks {
    /// Adds one on a file.
    pub fn add(&mut self, path: &Path, remark: impl Into<String>) {
        self.0.entry(remark.into()).or_insert_with(|| (path.to_owned(), 0)).1 += 1;
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: Remarks) {
        for (remark, (path, count)) in other.0 {
            self.0.entry(remark).or_insert((path, 0)).1 += count;
        }
    }

    /// A line for each kind, with the first file that it is about and the number of others.
    pub fn lines(&self) -> Vec<String> {
        let line = |(remark, (path, count)): (&String, &(PathBuf, u64))| match count {
            1 => format!("{}: {remark}", path.display()),
            n => format!("{} and {} more: {remark}", path.display(), n - 1),
        };
        self.0.iter().map(line).collect()
    }
}

/// What was found for a split: things to read, what stops it, what is only said.
#[derive(Debug)]
pub(crate) struct Listing<T> {
    pub found: Vec<T>,
    /// Training stops at the first; `data check` lists them all.
    pub problems: Vec<crate::Error>,
    pub remarks: Remarks,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Listing { found: Vec::new(), problems: Vec::new(), remarks: Remarks::default() }
    }
}

impl<T> Listing<T> {
    /// The things to read, if nothing is wrong. Errors: the first problem.
    pub fn sound(self) -> crate::Result<(Vec<T>, Remarks)> {
        match self.problems.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok((self.found, self.remarks)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_kind() {
        let mut r = Remarks::default();
        r.add(Path::new("a"), "sorted");
        let mut more = Remarks::default();
        more.add(Path::new("b"), "sorted");
        more.add(Path::new("b"), "ignored");
        r.extend(more);
        assert_eq!(r.lines(), ["b: ignored", "a and 1 more: sorted"]);
    }
}
