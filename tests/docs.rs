//! The documents hang together: what sources cite exists, links lead somewhere, every command and environment variable is
//! described. And a source file is short enough to be read.
//!
//! Sources cite the specification as `docs/spec/PAGE.md, "Heading"`, never by the number of a section, which would go stale
//! without anybody noticing.
//!
//! ```text
//! blocks     every block of code is what its language says
//! reference  the pages of flags and of settings, made from the sources (`source` reads them)
//! site       every page is a chapter, no link is dead, quoted messages exist
//! ```

#[path = "docs/blocks.rs"]
mod blocks;
#[path = "docs/reference.rs"]
mod reference;
#[path = "docs/site.rs"]
mod site;
#[path = "docs/source.rs"]
mod source;

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
    process::Command,
};

/// Every file with this ending below the folders, of the repository root.
fn files(folders: &[&str], ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack: Vec<PathBuf> = folders.iter().map(|f| root().join(f)).collect();
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no .{ending} file below {folders:?}");
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All Rust sources but this one, with comments joined to running text.
fn sources() -> Vec<(PathBuf, String)> {
    let all = files(&["src", "hlo", "tasks", "tests", "examples"], "rs");
    let own = all.iter().filter(|path| !path.ends_with("tests/docs.rs"));
    own.map(|path| {
        let lines = read(path);
        let words = lines.lines().map(|line| line.trim_start().trim_start_matches(['/', '!']).trim());
        (path.clone(), words.collect::<Vec<_>>().join(" "))
    })
    .collect()
}

/// The documents of the repository.
fn documents() -> Vec<PathBuf> {
    let mut all = files(&["docs", "benches", "checkpoints", "tasks/data", "src/plot/font"], "md");
    all.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root().join(name)));
    all
}

/// The headings of a document, without those inside code.
fn headings(document: &str) -> Vec<&str> {
    outside_code(document).filter_map(|line| line.strip_prefix('#')).map(|h| h.trim_start_matches('#').trim()).collect()
}

/// The lines that are not part of a fenced code block.
fn outside_code(document: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    document.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// The anchor that a rendered page gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What a source cites: a document, and a heading in it.
fn citations(text: &str) -> Vec<(&str, Option<&str>)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("docs/") {
        let Some((path, rest)) = text[at..].split_once(".md") else { continue };
        if path.contains(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_'))) {
            continue;
        }
        let heading = rest.strip_prefix(", \"").and_then(|rest| rest.split_once('"')).map(|(heading, _)| heading);
        found.push((&text[at..at + path.len() + ".md".len()], heading));
    }
    found
}

#[test]
fn what_sources_cite_exists() {
    let mut cited = BTreeSet::new();
    for (source, text) in sources() {
        for (path, heading) in citations(&text) {
            let at = root().join(path);
            assert!(at.is_file(), "{} cites {path}, which does not exist", source.display());
            let Some(heading) = heading else {
                assert!(
                    !path.starts_with("docs/spec/"),
                    "{} cites {path} without a heading; write `{path}, \"Heading\"`",
                    source.display()
                );
                continue;
            };
            let document = read(&at);
            assert!(
                headings(&document).contains(&heading),
                "{} cites \"{heading}\" of {path}, which has only {:?}",
                source.display(),
                headings(&document)
            );
            cited.insert(path.to_string());
        }
    }
    for page in ["algorithms", "networks-dms-ei", "speech-and-gesture", "reference-cases"] {
        let page = format!("docs/spec/{page}.md");
        assert!(cited.contains(&page), "nothing cites {page}: has the form of citations changed?");
    }
}

#[test]
fn sources_cite_headings_not_numbers() {
    let number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    for (source, text) in sources() {
        let text = text.to_lowercase();
        for word in ["section ", "sections "] {
            let numbered = text.split(word).skip(1).find(|rest| number(rest));
            assert!(
                numbered.is_none(),
                "{} cites a section by number (`{word}{}`); cite `docs/PAGE.md, \"Heading\"`",
                source.display(),
                numbered.unwrap_or_default().chars().take(40).collect::<String>()
            );
        }
    }
}

/// The target of each link and picture in a document.
fn links(document: &str) -> Vec<&str> {
    let lines = outside_code(document);
    lines.flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split_once(')'))).map(|(t, _)| t).collect()
}

/// A path without `..`, so that links out of the repository are noticed.
fn resolved(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for document in documents() {
        let text = read(&document);
        let folder = document.parent().expect("a file is in a folder");
        for link in links(&text) {
            if link.starts_with("https:") || link.starts_with("mailto:") {
                continue;
            }
            let (path, fragment) = link.split_once('#').map_or((link, None), |(path, f)| (path, Some(f)));
            let target = if path.is_empty() { document.clone() } else { resolved(&folder.join(path)) };
            let where_from = document.display();
            assert!(target.starts_with(root()), "{where_from} links to {link}, outside the repository");
            assert!(target.exists(), "{where_from} links to {link}, which does not exist");
            if let Some(fragment) = fragment {
                let page = read(&target);
                let anchors: Vec<String> = headings(&page).into_iter().map(anchor).collect();
                assert!(
                    anchors.iter().any(|a| a == fragment),
                    "{where_from} links to {link}, but that page has only {anchors:?}"
                );
            }
            checked += 1;
        }
    }
    assert!(checked >= 50, "only {checked} links were found: has their form changed?");
}

#[test]
fn every_page_can_be_reached_from_the_readme() {
    let mut reached = BTreeSet::from([root().join("README.md")]);
    let mut stack = vec![root().join("README.md")];
    while let Some(document) = stack.pop() {
        let text = read(&document);
        let folder = document.parent().expect("a file is in a folder").to_path_buf();
        for link in links(&text) {
            let path = link.split('#').next().unwrap_or_default();
            let target = resolved(&folder.join(path));
            if target.extension().is_some_and(|e| e == "md") && target.is_file() && reached.insert(target.clone()) {
                stack.push(target);
            }
        }
    }
    // The table of contents of the site leads to pages, and no page leads to it.
    for page in files(&["docs"], "md").into_iter().filter(|page| !page.ends_with("SUMMARY.md")) {
        assert!(reached.contains(&page), "{} cannot be reached from README.md; link to it", page.display());
    }
}

#[test]
fn headings_of_a_page_differ() {
    for page in files(&["docs"], "md") {
        let text = read(&page);
        let all: Vec<String> = headings(&text).into_iter().map(anchor).collect();
        let different: BTreeSet<&String> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{} has a heading twice: {all:?}", page.display());
    }
}

#[test]
fn files_named_in_documents_exist() {
    let mut checked = 0;
    for document in documents() {
        let text = read(&document);
        // Names of source files in backticks, from the root of the repository.
        for name in outside_code(&text).flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let starts =
                ["src/", "hlo/", "tasks/", "tests/", "examples/", "benches/"].iter().any(|s| name.starts_with(s));
            let plain = !name.contains(|c: char| c.is_whitespace() || matches!(c, '*' | '{' | '<' | ':' | '='));
            if starts && plain {
                let target = root().join(name);
                assert!(target.exists(), "{} names `{name}`, which does not exist", document.display());
                checked += 1;
            }
        }
    }
    assert!(checked >= 20, "only {checked} names were found: has their form changed?");
}

#[test]
fn every_environment_variable_is_documented() {
    let page = read(&root().join("docs/environment.md"));
    let mut names = BTreeSet::new();
    // A name is an argument of a call that reads or sets it, or a constant that begins as ours do.
    for path in files(&["src", "hlo", "tasks", "tests"], "rs").iter().filter(|path| !path.ends_with("tests/docs.rs")) {
        let text = read(path);
        for call in ["var(\"", "var_os(\"", "set_default(\"", "absolute(\""] {
            names.extend(text.split(call).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_string));
        }
        let quoted = text.split('"').skip(1).map(|word| word.trim_end_matches('\\'));
        names.extend(quoted.filter(|word| word.starts_with("ETRACE_")).map(str::to_string));
    }
    names.retain(|name| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || matches!(c, '_' | '0'..='9'))
    });
    for name in ["ETRACE_CACHE", "ETRACE_CPU_PLUGIN", "NPROC", "TPU_WORKER_ID"] {
        assert!(names.contains(name), "{name} was not found in the sources: has the way of reading it changed?");
    }
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "docs/environment.md does not say what `{name}` does");
    }
}

#[test]
fn every_command_is_in_the_readme() {
    let help = Command::new(env!("CARGO_BIN_EXE_etrace")).arg("--help").output().expect("the built command runs");
    let help = String::from_utf8(help.stdout).expect("help is text");
    let listed = help.split("Commands:").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list of commands");
    // A line that is indented further continues the one before.
    let names = listed.lines().filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).filter(|n| *n != "help").collect();
    assert!(names.len() >= 12, "the help lists only {names:?}: has its form changed?");
    let readme = read(&root().join("README.md"));
    for name in names {
        assert!(
            readme.contains(&format!("| `etrace {name}")),
            "the table of commands in README.md has no `etrace {name}`"
        );
    }
}

/// Files that may be longer than the others: tables, which nobody reads from the beginning to the end.
const LONG: &[&str] = &["hlo/src/ops/elementwise.rs", "hlo/src/proto.rs"];

#[test]
fn source_files_have_at_most_500_lines() {
    let members = ["src", "hlo/src", "tasks/src", "revision/src", "examples", "hlo/examples", "benches"];
    for path in files(&members, "rs") {
        let name = path.strip_prefix(root()).expect("a file of the repository").to_string_lossy().replace('\\', "/");
        let (text, excepted) = (read(&path), LONG.contains(&name.as_str()));
        let lines = text.lines().count();
        assert!(
            lines <= 500 || excepted,
            "{name} has {lines} lines, at most 500 are wanted; split it by what its parts are about"
        );
        assert!(lines > 500 || !excepted, "{name} has {lines} lines and needs no exception: take it out of the list");
    }
    for name in LONG {
        let head = read(&root().join(name));
        let mut head = head.lines().take_while(|line| line.starts_with("//!"));
        assert!(
            head.any(|line| line.contains("above 500 lines")),
            "{name} must say at its head why it is above 500 lines"
        );
    }
}
