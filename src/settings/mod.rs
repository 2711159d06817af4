//! Settings: how they are listed, read, checked and changed.
//!
//! Everything a researcher chooses from (neurons, synapses, networks, tasks) is a [`table`] of rows; a row is a name, a line of
//! documentation and a type whose fields are its settings. Help, `explain`, error messages and tests are made from the tables.
//!
//! ```text
//! table   one row for each thing that can be chosen            Row, Listed, table!
//! range   what a number may be, said once for flags and files   Range, Count
//! node    from a TOML value to a type, with errors that name the key
//! change  `--set net.n_rec=100`
//! ```

pub mod change;
pub mod node;
pub mod range;
pub mod table;

pub use change::{Change, change, leaves};
pub use node::{Node, SettingError, read};
pub use range::{Count, Range};
pub use table::{Listed, Row};

/// The name among `known` that is most like `word`, if any is like it.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace('_', "-");
    let word = plain(word);
    let scored = known.into_iter().map(|name| (distance(&word, &plain(name)), name));
    let limit = (word.chars().count() / 3).max(1);
    let begins = |name: &str| !word.is_empty() && (plain(name).starts_with(&word) || word.starts_with(&plain(name)));
    scored.filter(|(d, name)| *d <= limit || begins(name)).min_by_key(|(d, _)| *d).map(|(_, name)| name)
}

/// Insertions, deletions and replacements from one word to another (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_strange_word_has_none() {
        let known = ["n_rec", "n_in", "tau_syn", "threshold-mean"];
        assert_eq!(nearest("n_recc", known), Some("n_rec"));
        assert_eq!(nearest("tau-sin", known), Some("tau_syn"));
        assert_eq!(nearest("threshold", known), Some("threshold-mean"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!((distance("kitten", "sitting"), distance("", "abc"), distance("a", "a")), (3, 3, 0));
    }
}
