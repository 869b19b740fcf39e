//! The documents: links lead somewhere, lines are short, and what they list is complete.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use switch::DropReason;

/// Lines of the README.
const README: usize = 250;

/// Columns of a line, but for tables and blocks.
const WIDTH: usize = 100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(document: &Path) -> String {
    fs::read_to_string(document).unwrap_or_else(|error| panic!("{}: {error}", document.display()))
}

/// Those that are written by hand.
fn documents() -> Vec<PathBuf> {
    let markdown = |directory: PathBuf| {
        let entries = fs::read_dir(directory).expect("a directory of the repository");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|it| it == "md"))
    };
    let mut all: Vec<PathBuf> = markdown(root())
        .chain(markdown(root().join("docs")))
        .collect();
    all.sort();
    assert!(all.len() > 10, "{all:?}");
    all
}

/// A document without its fenced blocks, line by line.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut is_block = false;
    let mut prose = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            prose.push((number + 1, line));
        }
    }
    prose
}

/// Where links of a document lead.
fn links(text: &str) -> Vec<String> {
    let prose: Vec<&str> = prose(text).into_iter().map(|(_, line)| line).collect();
    let prose = prose.join("\n");
    let targets = prose.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// The names by which a document's headings are linked to, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).into_iter().map(|(_, line)| line);
    let headings = headings.filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|it| it.is_alphanumeric() || [' ', '-', '_'].contains(it));
        kept.map(|it| if it == ' ' { '-' } else { it }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = read(&document);
        for link in links(&text) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().expect("a directory").join(path),
            };
            let leads =
                target.exists() && (anchor.is_empty() || anchors(&read(&target)).contains(anchor));
            if !leads {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn lines_are_short_and_so_is_the_readme() {
    let mut long = Vec::new();
    for document in documents() {
        let text = read(&document);
        let lines = prose(&text).into_iter();
        let lines = lines.filter(|(_, line)| !line.starts_with('|'));
        for (number, line) in lines.filter(|(_, line)| line.chars().count() > WIDTH) {
            long.push(format!("{}:{number}: {line}", document.display()));
        }
    }
    assert!(long.is_empty(), "{long:#?}");
    let readme = read(&root().join("README.md")).lines().count();
    assert!(readme <= README, "{readme} lines");
}

#[test]
fn every_document_is_linked_from_the_readme() {
    let readme = read(&root().join("README.md"));
    let links: BTreeSet<String> = links(&readme).into_iter().collect();
    for document in documents() {
        let path = document
            .strip_prefix(root())
            .expect("it is in the repository");
        let name = path.display().to_string();
        assert!(name == "README.md" || links.contains(&name), "{name}");
    }
}

/// One row each, and none for a reason that is no more.
#[test]
fn every_drop_reason_is_explained() {
    let page = read(&root().join("docs/troubleshooting.md"));
    let (_, section) = page.split_once("\n## Drop reasons\n").expect("the reasons");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut explained: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    let mut known: Vec<String> = DropReason::all().map(DropReason::name).collect();
    explained.sort_unstable();
    known.sort_unstable();
    assert_eq!(explained, known);
}
