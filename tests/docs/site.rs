//! The site: every page is a chapter, what chapters link to is in the site, messages that a page quotes are those of the program.
//! `.ci/site` builds it, and `cargo test --release --test docs -- --ignored site_` follows its links.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{files, links, read, resolved, root};

/// The chapters, in their order.
fn chapters() -> Vec<PathBuf> {
    let summary = read(&root().join("docs/SUMMARY.md"));
    links(&summary).into_iter().map(|link| resolved(&root().join("docs").join(link))).collect()
}

#[test]
fn every_page_is_a_chapter_once() {
    let chapters = chapters();
    let different: BTreeSet<&PathBuf> = chapters.iter().collect();
    assert_eq!(different.len(), chapters.len(), "docs/SUMMARY.md names a page twice");
    for page in files(&["docs"], "md").iter().filter(|page| !page.ends_with("SUMMARY.md")) {
        assert!(different.contains(page), "docs/SUMMARY.md has no line for {}", page.display());
    }
}

/// A link to a page that is no chapter would be dead in the site, where pages have another ending.
#[test]
fn chapters_link_to_chapters() {
    let chapters = chapters();
    for chapter in &chapters {
        let text = read(chapter);
        let folder = chapter.parent().expect("a file is in a folder");
        for link in links(&text) {
            let path = link.split('#').next().unwrap_or_default();
            let target = resolved(&folder.join(path));
            let page = path.ends_with(".md") && !path.contains(':');
            assert!(
                !page || chapters.contains(&target),
                "{} links to {link}, which docs/SUMMARY.md does not name; add a line there",
                chapter.display()
            );
        }
    }
}

/// Values of an attribute in a page.
fn values<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    let open = format!(" {attribute}=\"");
    html.match_indices(&open).filter_map(|(at, _)| html[at + open.len()..].split('"').next()).collect()
}

#[test]
#[ignore = "needs the built site: .ci/site, then cargo test --release --test docs -- --ignored site_"]
fn site_has_no_dead_link() {
    let site = root().join("target/site/html");
    let pages: BTreeMap<PathBuf, String> =
        files(&["target/site/html"], "html").into_iter().map(|path| (path.clone(), read(&path))).collect();
    let anchors: BTreeMap<&Path, BTreeSet<&str>> =
        pages.iter().map(|(path, html)| (path.as_path(), values(html, "id").into_iter().collect())).collect();
    let mut followed = 0;
    // The page of a missing file has links from the root of a server.
    for (page, html) in pages.iter().filter(|(page, _)| !page.ends_with("404.html")) {
        let folder = page.parent().expect("a page is in a folder");
        for link in ["href", "src"].into_iter().flat_map(|attribute| values(html, attribute)) {
            if link.contains(':') {
                continue;
            }
            let (path, fragment) = link.split_once('#').map_or((link, ""), |(path, fragment)| (path, fragment));
            let target = if path.is_empty() { page.clone() } else { resolved(&folder.join(path)) };
            let place = page.display();
            assert!(target.starts_with(&site) && target.exists(), "{place} links to {link}, which is not in the site");
            let known = anchors.get(target.as_path());
            assert!(
                fragment.is_empty() || known.is_none_or(|ids| ids.contains(fragment)),
                "{place} links to {link}, but that page has no such heading"
            );
            followed += 1;
        }
    }
    assert!(followed > 1000, "{followed} links were followed");
}

/// The messages that the page of troubleshooting quotes, with the table they are in.
fn quoted(page: &str) -> Vec<&str> {
    let tables = page.split("\n## ").filter(|section| section.contains("| message |"));
    let rows = tables.flat_map(|section| section.lines().filter(|line| line.starts_with("| `")));
    rows.filter_map(|row| row.split('`').nth(1)).collect()
}

#[test]
fn messages_of_the_page_are_those_of_the_program() {
    // What a source says, on one line: texts are continued with a backslash.
    let mut sources = String::new();
    for path in files(&["src", "hlo/src", "tasks/src"], "rs") {
        let mut lines = read(&path);
        while let Some(at) = lines.find("\\\n") {
            let rest = lines[at + 2..].trim_start().to_string();
            lines.truncate(at);
            lines.push_str(&rest);
        }
        sources.push_str(&lines);
    }
    let page = read(&root().join("docs/troubleshooting.md"));
    let messages = quoted(&page);
    assert!(messages.len() > 30, "only {} messages were found: has the form of the page changed?", messages.len());
    for message in messages {
        for part in message.split("..").map(str::trim).filter(|part| part.len() > 3) {
            assert!(
                sources.contains(part),
                "no message of the program says `{part}` (docs/troubleshooting.md: `{message}`)"
            );
        }
    }
}
