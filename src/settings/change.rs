//! `--set net.n_rec=100`: one setting of a configuration changed by its path.

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::node::{SettingError, choices, read};

/// A path and the value it gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Keys from the outside in.
    pub path: Vec<String>,
    /// The value; a word that is no TOML is a text.
    pub value: Value,
}

impl std::str::FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Change, String> {
        let rule = || format!("must be KEY=VALUE, as in net.n_rec=100, got `{text}`");
        let (path, value) = text.split_once('=').ok_or_else(rule)?;
        let path: Vec<String> = path.trim().split('.').map(|key| key.trim().to_string()).collect();
        if path.iter().any(String::is_empty) {
            return Err(rule());
        }
        let value = value.trim();
        let parsed = format!("x = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("x"));
        Ok(Change { path, value: parsed.unwrap_or_else(|| Value::String(value.to_string())) })
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.path.join("."), self.value)
    }
}

/// Single settings by their paths: `net.n_rec`.
pub fn leaves(config: &Value) -> Vec<(String, &Value)> {
    let Value::Table(table) = config else { return vec![(String::new(), config)] };
    let path = |key: &str, rest: String| if rest.is_empty() { key.to_string() } else { format!("{key}.{rest}") };
    table
        .iter()
        .flat_map(|(key, value)| leaves(value).into_iter().map(move |(rest, leaf)| (path(key, rest), leaf)))
        .collect()
}

/// `config` with one setting changed.
///
/// A name where there is a table with a name (a network, a neuron, a task) exchanges the thing: its settings are the standard ones,
/// except those that the old thing had too.
///
/// # Errors
/// When there is no such setting, or it cannot have this value.
pub fn change<C: Serialize + DeserializeOwned>(config: &C, change: &Change) -> Result<C, SettingError> {
    let mut all = Value::try_from(config).map_err(|e| SettingError::new(e.to_string()))?;
    let (last, before) = change.path.split_last().ok_or_else(|| SettingError::new("must name a setting"))?;
    let mut at = &mut all;
    for (depth, key) in before.iter().enumerate() {
        at = entry(at, &change.path[..depth], key)?;
    }
    let here = |e: SettingError| before.iter().rev().fold(e, |e, key| e.within(key));
    match at {
        Value::Table(table) => {
            let mut new = change.value.clone();
            let keep = match (table.get(last), &new) {
                (Some(Value::Table(old)), Value::String(name)) => {
                    tag_of(old).map(|tag| (tag, name.clone(), old.clone()))
                }
                _ => None,
            };
            if let Some((tag, name, _)) = &keep {
                new = Value::Table(Table::from_iter([((*tag).to_string(), Value::String(name.clone()))]));
            } else if tag_of(table) == Some(last) && table.get(last) != Some(&new) {
                // `net.kind=rate` is `net=rate`.
                let path = before.to_vec();
                return self::change(config, &Change { path, value: change.value.clone() });
            }
            let inside = if table.contains_key(last) { vec![] } else { holders(table, last) };
            table.insert(last.clone(), new);
            let found: C = read(all.clone()).map_err(|e| match &inside[..] {
                [] => e,
                inside => {
                    let paths = inside
                        .iter()
                        .map(|inner| format!("`{}`", [before, inner, std::slice::from_ref(last)].concat().join(".")));
                    SettingError::new(format!("{e}; there is {}", paths.collect::<Vec<_>>().join(" and ")))
                }
            })?;
            let Some((_, _, old)) = keep else { return kept(found, config, &change.path) };
            adopt(found, &change.path, &old)
        }
        Value::Array(list) => {
            let index: Option<usize> = last.parse().ok();
            let Some(slot) = index.and_then(|k| list.get_mut(k)) else {
                return Err(here(SettingError::new(format!(
                    "has {} entries, counted from 0, got `{last}`",
                    list.len()
                ))));
            };
            *slot = change.value.clone();
            kept(read(all.clone())?, config, &change.path)
        }
        other => Err(here(SettingError::new(format!("is {other}, which has no setting `{last}`; set it as a whole")))),
    }
}

/// The tables inside of `table`, by their paths, that have a setting `key`.
fn holders(table: &Table, key: &str) -> Vec<Vec<String>> {
    let inner = table.iter().filter_map(|(name, value)| Some((name, value.as_table()?)));
    let found = inner.flat_map(|(name, inner)| {
        let here = inner.contains_key(key).then(Vec::new);
        let all = here.into_iter().chain(holders(inner, key));
        all.map(move |path| [std::slice::from_ref(name), &path[..]].concat()).collect::<Vec<_>>()
    });
    found.collect()
}

/// What is below `key`.
fn entry<'a>(at: &'a mut Value, before: &[String], key: &str) -> Result<&'a mut Value, SettingError> {
    let here = |e: SettingError| before.iter().rev().fold(e, |e, key| e.within(key));
    match at {
        Value::Table(table) => {
            if !table.contains_key(key) {
                let known: Vec<&str> = table.keys().map(String::as_str).collect();
                return Err(here(SettingError::new(format!("has no table `{key}`; {}", choices(key, &known)))));
            }
            Ok(&mut table[key])
        }
        Value::Array(list) => {
            let n = list.len();
            let found = key.parse().ok().and_then(|k: usize| list.get_mut(k));
            found.ok_or_else(|| here(SettingError::new(format!("has {n} entries, counted from 0, got `{key}`"))))
        }
        other => Err(here(SettingError::new(format!("is {other}, which has no setting `{key}`; set it as a whole")))),
    }
}

/// Keys that may hold a name, the tag of a table before settings of the same name (`kind` of a speech data set).
const TAGS: [&str; 3] = ["name", "kind", "mode"];

/// The key that holds the name of what a table describes.
fn tag_of(table: &Table) -> Option<&'static str> {
    TAGS.into_iter().find(|tag| table.get(*tag).is_some_and(Value::is_str))
}

/// The configuration with those settings of the new thing at `path` that the old one had too.
fn adopt<C: Serialize + DeserializeOwned>(config: C, path: &[String], old: &Table) -> Result<C, SettingError> {
    let mut all = Value::try_from(&config).map_err(|e| SettingError::new(e.to_string()))?;
    let Some(Value::Table(new)) = path.iter().try_fold(&mut all, |at, key| at.get_mut(key.as_str())) else {
        return Ok(config);
    };
    let tag = tag_of(old);
    for (key, value) in old.iter().filter(|(key, _)| Some(key.as_str()) != tag) {
        if new.get(key).is_some_and(|v| v.same_type(value)) {
            new.insert(key.clone(), value.clone());
        }
    }
    read(all)
}

/// Checks that the new value is in the configuration: types that ignore what they do not know would lose it silently.
fn kept<C: Serialize>(config: C, before: &C, path: &[String]) -> Result<C, SettingError> {
    let has = |config: &C| {
        let all = Value::try_from(config).ok()?;
        path.iter().try_fold(&all, |at, key| match at {
            Value::Array(list) => list.get(key.parse::<usize>().ok()?),
            _ => at.get(key.as_str()),
        })?;
        Some(())
    };
    if has(&config).is_some() {
        return Ok(config);
    }
    let all = Value::try_from(before).map_err(|e| SettingError::new(e.to_string()))?;
    let (last, outer) = path.split_last().ok_or_else(|| SettingError::new("must name a setting"))?;
    let table = outer.iter().try_fold(&all, |at, key| at.get(key.as_str())).and_then(Value::as_table);
    let known: Vec<&str> = table.into_iter().flat_map(Table::keys).map(String::as_str).collect();
    let error = SettingError::new(format!("has no setting `{last}`; {}", choices(last, &known)));
    Err(outer.iter().rev().fold(error, |e, key| e.within(key)))
}
