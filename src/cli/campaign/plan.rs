//! The file of a campaign, and the runs that it stands for.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Deserialize;
use toml::{Table, Value};

use super::{super::train_any, wrong};
use crate::{experiment::Experiment, settings::Change, train::checkpoint::write_atomic};

/// Most runs of a campaign.
const MOST_RUNS: usize = 10_000;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    base: String,
    #[serde(default)]
    set: Vec<String>,
    #[serde(default)]
    seeds: Vec<u64>,
    #[serde(default)]
    evaluate: bool,
    #[serde(default)]
    grid: Table,
    #[serde(default)]
    runs: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: String,
    #[serde(default)]
    set: Vec<String>,
}

/// Runs that differ in their seed alone.
pub struct Variant {
    /// Its name, which is that of its folder too.
    pub name: String,
    set: Vec<Change>,
    experiment: Experiment,
    /// Its configuration.
    pub file: PathBuf,
}

impl Variant {
    /// What makes it another than the base.
    pub fn changes(&self) -> String {
        self.set.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}

/// A run.
pub struct Run {
    /// Number of its variant.
    pub variant: usize,
    /// Its seed.
    pub seed: u64,
    /// Its folder.
    pub dir: PathBuf,
}

/// Everything that a campaign trains.
pub struct Plan {
    /// Variants, in the order of the file.
    pub variants: Vec<Variant>,
    /// Whether complete runs are evaluated, for what their networks cost.
    pub evaluate: bool,
    /// Runs: all variants with the first seed, then with the next, so that an early look compares like with like.
    pub runs: Vec<Run>,
}

impl Plan {
    /// Reads a file; its runs go below `out`.
    ///
    /// # Errors
    /// When it is no campaign, or a variant is no experiment.
    pub fn read(path: &Path, out: &Path) -> Result<Plan> {
        let read = || format!("a campaign is a TOML file, but {} cannot be read; name one", path.display());
        let text = std::fs::read_to_string(path).with_context(read)?;
        let file: File = toml::from_str(&text).with_context(|| format!("{} is no campaign", path.display()))?;
        let base = base(&file.base, path);
        let common = changes(&file.set)?;
        let mut variants = Vec::new();
        for (name, set) in named(&file)? {
            let all: Vec<Change> = common.iter().chain(&set).cloned().collect();
            let experiment = train_any::changed(&base, &all).with_context(|| format!("variant `{name}`"))?;
            experiment.check().map_err(|e| wrong(format!("variant `{name}`: {e}")))?;
            let file = out.join(&name).join("experiment.toml");
            variants.push(Variant { name, set, experiment, file });
        }
        let seeds = if file.seeds.is_empty() { vec![0] } else { file.seeds };
        if let Some(twice) = seeds.iter().enumerate().find(|(k, seed)| seeds[..*k].contains(seed)) {
            return Err(wrong(format!("each seed is trained once, got {} twice; leave one out", twice.1)));
        }
        if variants.len().saturating_mul(seeds.len()) > MOST_RUNS {
            let n = variants.len() * seeds.len();
            return Err(wrong(format!("a campaign has at most {MOST_RUNS} runs, got {n}; divide it")));
        }
        let run = |seed: u64, variant: usize| {
            let dir = out.join(&variants[variant].name).join(format!("seed-{seed}"));
            Run { variant, seed, dir }
        };
        let runs = seeds
            .iter()
            .flat_map(|&seed| (0..variants.len()).map(move |k| (seed, k)))
            .map(|(s, k)| run(s, k))
            .collect();
        Ok(Plan { variants, evaluate: file.evaluate, runs })
    }

    /// Writes what each variant trains into its folder. A variant that is there already must be the same: its runs are compared with the
    /// others'.
    ///
    /// # Errors
    /// When the folder holds another variant, or cannot be written to.
    pub fn write_configurations(&self) -> Result<()> {
        for variant in &self.variants {
            let text = toml::to_string_pretty(&variant.experiment)?;
            match std::fs::read_to_string(&variant.file) {
                Ok(old) if old == text => continue,
                Ok(_) => {
                    return Err(wrong(format!(
                        "the runs of a variant have one configuration, but {} holds another than the campaign says now; use another --out, or \
                         rename the variant",
                        variant.file.display()
                    )));
                }
                Err(_) => {}
            }
            let cannot = || format!("cannot write {}", variant.file.display());
            if let Some(folder) = variant.file.parent() {
                std::fs::create_dir_all(folder).with_context(cannot)?;
            }
            write_atomic(&variant.file, text.as_bytes()).with_context(cannot)?;
        }
        Ok(())
    }
}

/// A file named in a campaign is looked for beside it.
fn base(name: &str, campaign: &Path) -> String {
    let beside = campaign.parent().unwrap_or(Path::new("")).join(name);
    if beside.exists() { beside.display().to_string() } else { name.to_string() }
}

fn changes(texts: &[String]) -> Result<Vec<Change>> {
    texts.iter().map(|text| text.parse().map_err(|e| wrong(format!("a change {e}")))).collect()
}

/// The variants of a file: those listed, else the combinations of the grid, else the base alone.
fn named(file: &File) -> Result<Vec<(String, Vec<Change>)>> {
    if !file.grid.is_empty() && !file.runs.is_empty() {
        return Err(wrong("a campaign has a [grid] or a list of [[runs]], got both; leave one out".into()));
    }
    if file.runs.is_empty() {
        return combinations(&file.grid);
    }
    let mut known = HashSet::new();
    let mut all = Vec::new();
    for run in &file.runs {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,.".contains(c);
        if run.name.is_empty() || run.name.starts_with('.') || !run.name.chars().all(plain) {
            return Err(wrong(format!(
                "the name of a variant is that of its folder: letters, digits, - _ = , and ., got `{}`; choose another",
                run.name
            )));
        }
        if !known.insert(&run.name) {
            return Err(wrong(format!("each variant has a name of its own, got `{}` twice; rename one", run.name)));
        }
        all.push((run.name.clone(), changes(&run.set)?));
    }
    Ok(all)
}

fn combinations(grid: &Table) -> Result<Vec<(String, Vec<Change>)>> {
    let mut all: Vec<Vec<Change>> = vec![Vec::new()];
    for (key, values) in grid {
        let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
            return Err(wrong(format!(
                "a row of the grid is a setting and a list of its values, got {key} = {values}"
            )));
        };
        let path: Vec<String> = key.split('.').map(String::from).collect();
        let one = |value: &Value| Change { path: path.clone(), value: value.clone() };
        all = all.iter().flat_map(|old| values.iter().map(|v| [&old[..], &[one(v)]].concat())).collect();
        if all.len() > MOST_RUNS {
            return Err(wrong(format!("a campaign has at most {MOST_RUNS} runs, but its grid has more; divide it")));
        }
    }
    Ok(all.into_iter().map(|set| (name(&set), set)).collect())
}

/// `method=bptt,lr=0.001`; what a folder cannot be called becomes `_`.
fn name(set: &[Change]) -> String {
    if set.is_empty() {
        return "base".into();
    }
    let one = |change: &Change| {
        let value = change.value.as_str().map_or_else(|| change.value.to_string(), String::from);
        format!("{}={value}", change.path.last().map_or("", String::as_str))
    };
    let text = set.iter().map(one).collect::<Vec<_>>().join(",");
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "-_=,.".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Plan, String> {
        let folder = std::env::temp_dir().join(format!("etrace-plan-{}-{:p}", std::process::id(), text));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("campaign.toml");
        std::fs::write(&path, text).expect("a file");
        let plan = Plan::read(&path, Path::new("out")).map_err(|e| format!("{e:#}"));
        let _ = std::fs::remove_dir_all(folder);
        plan
    }

    #[test]
    fn a_grid_is_every_combination() {
        let plan = read(
            "base = 'dms-small'\nseeds = [3, 1]\n[grid]\n'learner.method' = ['bptt', 'd-rtrl']\n'optimizer.lr' = [1e-3, 1e-2]",
        );
        let plan = plan.expect("a campaign");
        let names: Vec<&str> = plan.variants.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(
            names,
            ["method=bptt,lr=0.001", "method=bptt,lr=0.01", "method=d-rtrl,lr=0.001", "method=d-rtrl,lr=0.01"]
        );
        assert_eq!(plan.runs.len(), 8);
        assert_eq!((plan.runs[0].seed, plan.runs[4].seed), (3, 1), "all variants with the first seed come first");
        assert_eq!(plan.runs[5].dir, Path::new("out/method=bptt,lr=0.01/seed-1"));
        assert_eq!(plan.variants[2].experiment.optimizer.lr, 1e-3);
    }

    #[test]
    fn what_is_no_campaign_is_refused() {
        let runs = |more: &str| format!("base = 'dms-small'\n{more}");
        for (text, part) in [
            ("seeds = [1]".to_string(), "base"),
            (runs("seed = [1]"), "seed"),
            (runs("seeds = [1, 2, 1]"), "got 1 twice"),
            (runs("seeds = [-1]"), "seeds"),
            (runs("set = ['net.n_rec']"), "KEY=VALUE"),
            (runs("set = ['net.n_wreck=3']"), "n_wreck"),
            (runs("[grid]\n'net.n_rec' = 3"), "list of its values"),
            (runs("[grid]\n'net.n_rec' = [0]"), "n_rec"),
            (runs("[[runs]]\nname = '../up'"), "name of a variant"),
            (runs("[[runs]]\nname = 'a'\n[[runs]]\nname = 'a'"), "got `a` twice"),
            (runs("[grid]\n'net.n_rec' = [3]\n[[runs]]\nname = 'a'"), "got both"),
            ("base = 'dms-smal'".to_string(), "dms-smal"),
        ] {
            let error = read(&text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(error.contains(part), "{text}: {error}");
        }
        let many = (0..101).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let error =
            read(&runs(&format!("seeds = [{many}]\n[grid]\n'task.t_delay' = [{many}]"))).err().expect("too many");
        assert!(error.contains("at most 10000 runs"), "{error}");
    }
}
