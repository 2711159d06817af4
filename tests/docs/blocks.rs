//! Every block of code in a document is what its language says. `rust` blocks are doctests (`src/lib.rs`, `hlo/src/lib.rs`); here
//!
//! * `sh` and `console` blocks are run by a shell in which `etrace` only says how it was called and everything else does nothing; each call is
//!   then read by the real command line, its changes by `--set` are made, and a small one is run with `--dry-run`;
//! * `toml` blocks are read as what they are, a campaign, a configuration or a manifest;
//! * `python` blocks are compiled, and those of `docs/python.md` run, where Python is;
//! * `text` blocks are nothing but text. A block without a language fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::error::ErrorKind;
use etrace::{
    cli::{self, train_any},
    experiment::Experiment,
    settings::Change,
};

use super::{documents, outside_code, read, root};

/// A block of code.
pub struct Block {
    pub page: PathBuf,
    /// Line of its fence.
    line: usize,
    language: String,
    text: String,
}

impl Block {
    fn place(&self) -> String {
        let page = self.page.strip_prefix(root()).unwrap_or(&self.page);
        format!("{}, line {}", page.display(), self.line)
    }
}

/// The blocks of a page. A fence may be indented, in a list.
fn blocks_of(page: &Path) -> Vec<Block> {
    let (text, mut found) = (read(page), Vec::new());
    let mut lines = text.lines().enumerate();
    while let Some((k, line)) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let indent = line.len() - line.trim_start().len();
        let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
        let text: String = inside.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
        found.push(Block { page: page.to_path_buf(), line: k + 1, language: language.trim().to_string(), text });
    }
    found
}

fn blocks(languages: &[&str]) -> Vec<Block> {
    let all = documents().into_iter().flat_map(|page| blocks_of(&page));
    all.filter(|block| languages.contains(&block.language.as_str())).collect()
}

const LANGUAGES: [&str; 6] = ["sh", "console", "toml", "rust", "python", "text"];

#[test]
fn every_block_has_a_language_that_a_test_knows() {
    let mut seen = BTreeSet::new();
    for block in documents().iter().flat_map(|page| blocks_of(page)) {
        let known = LANGUAGES.contains(&block.language.as_str());
        assert!(
            known,
            "{}: a block of code is one of {}, got `{}`; what no test should read is `text`",
            block.place(),
            LANGUAGES.join(", "),
            block.language
        );
        seen.insert(block.language);
    }
    for page in documents() {
        let text = read(&page);
        let (mut list, mut blank) = (false, false);
        for line in outside_code(&text) {
            let block = blank && !list && line.starts_with("    ");
            assert!(!block, "{}: a block of code is fenced, got `{line}`", page.display());
            blank = line.trim().is_empty();
            if !blank && !line.starts_with(' ') {
                list = line.starts_with(['*', '-']) || line.starts_with(|c: char| c.is_ascii_digit());
            }
        }
    }
    assert_eq!(seen.len(), LANGUAGES.len(), "only {seen:?} were found: has the form of blocks changed?");
}

/// Rust in a page is a doctest of the crate that includes the page.
#[test]
fn every_page_with_rust_is_included_by_a_crate() {
    let crates = ["src/lib.rs", "hlo/src/lib.rs", "tasks/src/lib.rs"].map(|path| read(&root().join(path))).concat();
    for block in blocks(&["rust"]) {
        let page = block.page.strip_prefix(root()).expect("a page of the repository").display().to_string();
        assert!(
            crates.contains(&format!("/{page}\")]")),
            "{page} has Rust, but no crate includes it as a doctest; src/lib.rs has a list"
        );
    }
}

/// What a shell gets in front of a block: each call of `etrace` is written to the third stream, and nothing else is done.
const PRELUDE: &str = r#"
exec 3>&1 1>/dev/null
PATH=/nowhere
call() { printf '%s\0' "$@" $'\001' >&3; }
etrace() { call "$@"; }
cargo() { if [[ "$*" == "run --release -- "* ]]; then call "${@:4}"; fi; }
command_not_found_handle() { :; }
cd() { :; }
exit() { :; }
source() { :; }
"#;

/// Words that stand for a value, where the command line must have one that it takes.
const PLACEHOLDERS: [(&str, &str); 11] = [
    ("METHOD", "d-rtrl"),
    ("RULE", "d-rtrl"),
    ("SEED", "0"),
    ("CELL", "LIF"),
    ("DECAY", "0.9"),
    ("DELAY", "20"),
    ("LR", "0.001"),
    ("BOOL", "true"),
    ("SHELL", "bash"),
    ("K", "2"),
    ("N", "2"),
];

/// The arguments of each call of `etrace` in a script.
fn calls(script: &str) -> Vec<Vec<String>> {
    // Nothing is written: what is redirected goes nowhere.
    let words: Vec<&str> = script.split(' ').collect();
    let kept = words
        .iter()
        .enumerate()
        .map(|(k, word)| if k > 0 && words[k - 1] == ">" { nowhere(word) } else { (*word).to_string() });
    let script = format!("{PRELUDE}\n{}\n", kept.collect::<Vec<_>>().join(" "));
    let mut shell = Command::new("bash");
    shell.args(["--norc", "-c", &script]).current_dir(std::env::temp_dir()).stdin(Stdio::null());
    let out = shell.output().expect("bash runs the blocks of the documents");
    assert!(out.stderr.is_empty(), "{}\n{script}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).expect("text");
    let all = text.split("\u{1}\0").filter(|call| !call.is_empty());
    // `...` are the flags of the command before, and FLAGS are in a table beside it.
    let said = |word: &&str| !matches!(*word, "..." | "FLAGS");
    all.map(|call| call.split_terminator('\0').filter(said).map(filled).collect()).collect()
}

/// The target of a redirection, with what follows it on the next lines.
fn nowhere(word: &str) -> String {
    word.split_once('\n').map_or("/dev/null".into(), |(_, rest)| format!("/dev/null\n{rest}"))
}

/// A word with a value in place of what stands for one, also behind `=`.
fn filled(word: &str) -> String {
    let (before, value) = word.rsplit_once('=').map_or(("", word), |(key, value)| (&word[..=key.len()], value));
    let value = PLACEHOLDERS.iter().find(|(name, _)| *name == value).map_or(value, |(_, value)| value);
    format!("{before}{value}")
}

/// The script of a block: all of it, or the lines behind the prompts.
fn script(block: &Block) -> String {
    if block.language == "sh" {
        return block.text.clone();
    }
    let (mut out, mut continued) = (String::new(), false);
    for line in block.text.lines() {
        let typed = if continued { Some(line) } else { line.strip_prefix("$ ") };
        continued = typed.is_some_and(|line| line.ends_with('\\'));
        typed.into_iter().for_each(|line| out = format!("{out}{line}\n"));
    }
    out
}

/// Names of things that a reader adds by following a guide: there is nothing to set in them before.
const ADDED: [&str; 2] = ["resonator", "temporal-xor"];

/// Whether something is missing that a sentence may leave out: an argument, or the value of its last flag.
fn unfinished(error: &clap::Error) -> bool {
    let missing = matches!(error.kind(), ErrorKind::MissingRequiredArgument | ErrorKind::DisplayVersion);
    missing || (error.kind() == ErrorKind::InvalidValue && error.to_string().contains("none was supplied"))
}

/// Reads a call as the command does, and makes its changes by `--set`; whether it is small enough to be tried. One that is not `whole` may
/// leave something out.
fn understood(words: &[String], place: &str, whole: bool) -> bool {
    let line = words.join(" ");
    let all = std::iter::once("etrace").chain(words.iter().map(String::as_str)).map(OsString::from);
    let matches = match cli::parse(all) {
        Ok(matches) => matches,
        Err(error) if whole || !unfinished(&error) => panic!("{place}: etrace {line}\n{error}"),
        Err(_) => return false,
    };
    let Some((command @ ("train" | "explain"), own)) = matches.subcommand() else { return false };
    if ADDED.iter().any(|name| line.contains(name)) {
        return false;
    }
    let argument = if command == "train" { "config" } else { "model" };
    let Some(name) = own.get_one::<String>(argument).filter(|name| Experiment::published(name).is_ok()) else {
        return false;
    };
    let changes: Vec<Change> = own.try_get_many("set").ok().flatten().into_iter().flatten().cloned().collect();
    if let Err(error) = train_any::changed(name, &changes) {
        panic!(
            "{place}: etrace {line}
{error:#}"
        );
    }
    command == "train"
        && ["dms-small", "copying"].contains(&name.as_str())
        && !words.iter().any(|w| ["--init", "--resume", "--device"].contains(&w.as_str()))
}

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("etrace-docs-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a program in a folder, which must succeed; returns what it printed.
#[track_caller]
fn runs(program: &str, words: &[String], folder: &Folder, place: &str) -> String {
    let mut command = Command::new(program);
    let out = command.args(words).current_dir(&folder.0).stdin(Stdio::null()).output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{place}: {program} {}\n{}", words.join(" "), String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

const ETRACE: &str = env!("CARGO_BIN_EXE_etrace");

#[test]
fn command_lines_are_those_that_the_command_takes() {
    let (mut lines, mut small) = (0, BTreeMap::new());
    for block in blocks(&["sh", "console"]) {
        for words in calls(&script(&block)) {
            lines += 1;
            if understood(&words, &block.place(), true) {
                small.insert(words, block.place());
            }
        }
    }
    assert!(lines > 60 && small.len() > 5, "{lines} command lines were read, {} of them small", small.len());
    let folder = Folder::new("dry-run");
    // Loops over many networks are tried here and there.
    let share = small.len().div_ceil(DRY_RUNS);
    for (mut words, place) in small.into_iter().step_by(share) {
        for word in ["--dry-run", "-q"].map(String::from) {
            if !words.contains(&word) {
                words.push(word);
            }
        }
        runs(ETRACE, &words, &folder, &place);
    }
    assert!(fs::read_dir(&folder.0).expect("a folder").next().is_none(), "--dry-run writes nothing");
}

/// Command lines that are tried at most; each takes a second or two.
const DRY_RUNS: usize = 6;

/// Commands in the middle of a sentence are read too, where they are whole.
#[test]
fn command_lines_in_sentences_are_those_that_the_command_takes() {
    let mut lines = 0;
    for page in documents() {
        let text = read(&page);
        let spans = outside_code(&text).flat_map(|line| line.split('`').skip(1).step_by(2));
        // What has alternatives or gaps is a form of words, not a command.
        let formal = |span: &&str| ["..", "|", "[", "COMMAND"].iter().any(|part| span.contains(part));
        for span in spans.filter(|span| span.starts_with("etrace ") && span.contains(" --") && !formal(span)) {
            let place = page.display().to_string();
            for words in calls(span) {
                understood(&words, &place, false);
            }
            lines += 1;
        }
    }
    assert!(lines > 15, "only {lines} command lines were found in sentences");
}

/// Tables of a block in place of those of a small configuration; a thing with a name takes the place of the whole.
fn laid_over(base: &mut toml::Table, block: toml::Table) {
    for (key, value) in block {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new))
                if !["name", "kind"].iter().any(|tag| new.contains_key(*tag)) =>
            {
                laid_over(old, new);
            }
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

#[test]
fn toml_is_what_it_looks_like() {
    let folder = Folder::new("toml");
    let (mut campaigns, mut configurations) = (0, 0);
    for block in blocks(&["toml"]) {
        let place = block.place();
        let table: toml::Table = block.text.parse().unwrap_or_else(|e| panic!("{place}: {e}"));
        if table.contains_key("base") {
            campaigns += 1;
            fs::write(folder.0.join("campaign.toml"), &block.text).expect("a file");
            runs(ETRACE, &["campaign", "campaign.toml", "--dry-run"].map(String::from), &folder, &place);
        } else if table.contains_key("dependencies") {
            let etrace = table["dependencies"].get("etrace").unwrap_or_else(|| panic!("{place}: no etrace"));
            assert!(etrace.get("path").is_some(), "{place}: a manifest names etrace by its path");
        } else {
            configurations += 1;
            let small = Experiment::published("dms-small").expect("a preset");
            let mut all = toml::Table::try_from(&small).expect("a configuration");
            laid_over(&mut all, table);
            let text = toml::to_string(&all).expect("a configuration");
            if let Err(error) = Experiment::read(&text) {
                panic!("{place}: {error}");
            }
        }
    }
    assert!(campaigns > 0 && configurations > 0, "{campaigns} campaigns and {configurations} configurations");
}

#[test]
#[ignore = "needs python3: cargo test --release --test docs -- --ignored python_"]
fn python_compiles() {
    let folder = Folder::new("python");
    let all = blocks(&["python"]);
    assert!(all.len() >= 2, "{} blocks", all.len());
    for block in all {
        let words = ["-c", "import sys; compile(sys.argv[1], 'block', 'exec')", &block.text].map(String::from);
        runs("python3", &words, &folder, &block.place());
    }
}

/// The page of checkpoints, from the run of the README to the accuracy that NumPy finds.
#[test]
#[ignore = "needs python3 with numpy and safetensors: cargo test --release --test docs -- --ignored numpy_"]
fn numpy_runs_a_checkpoint_as_the_page_says() {
    let folder = Folder::new("numpy");
    let readme = blocks(&["console"]).into_iter().find(|block| block.page.ends_with("README.md")).expect("a run");
    let train = calls(&script(&readme)).remove(0);
    runs(ETRACE, &[train, vec!["-q".into()]].concat(), &folder, &readme.place());
    let page = root().join("docs/python.md");
    let text: String = blocks_of(&page).into_iter().filter(|b| b.language == "python").map(|b| b.text).collect();
    let told = runs("python3", &["-c".to_string(), text], &folder, "docs/python.md");
    let accuracy = told.split("accuracy on new trials: ").nth(1).and_then(|rest| rest.trim().parse::<f64>().ok());
    assert!(
        accuracy.is_some_and(|a| (0.8..=1.0).contains(&a)) && told.contains("l0.weight    float32 [200, 100]"),
        "{told}"
    );
}
