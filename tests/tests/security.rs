//! SECURITY.md promises nothing without a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of all functions below a directory that are declared as tests are.
fn functions(directory: &Path, found: &mut BTreeSet<String>) {
    let entries = fs::read_dir(directory).expect("a directory of the repository");
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            if !path.ends_with("target") {
                functions(&path, found);
            }
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                }
                let name = line.trim_start_matches("async ").strip_prefix("fn ");
                if let Some(name) = name {
                    let name = name.split('(').next().unwrap_or_default();
                    if std::mem::take(&mut is_test) {
                        found.insert(name.to_owned());
                    }
                }
            }
        }
    }
}

#[test]
fn every_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("SECURITY.md")).expect("SECURITY.md");
    let mut known = BTreeSet::new();
    for part in ["nat", "switch", "ctl", "tests"] {
        functions(&root.join(part), &mut known);
    }
    let (_, promises) = page.split_once("## Promises").expect("the promises");
    let (promises, _) = promises.split_once("\n## ").expect("what follows them");
    let rows: Vec<&str> = promises
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| promise"))
        .collect();
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let names: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names {
            assert!(known.contains(name), "there is no test {name}: {row}");
        }
    }
}
