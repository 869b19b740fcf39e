//! Writes `tests/conformance.md`: each requirement and each feature of the [lists](LISTS), the tests
//! that prove it, and how they last went.
//!
//! ```text
//!   lists (nat.rs)         the requirements, each with an id
//!         (features.rs)    the features, likewise
//!   sources (markers.rs)   `// Conforms: ID ID` or `// Feature: ID ID`, on a line above a test
//!   logs (results.rs)      what libtest printed, as `tests/run` keeps it
//!        └──► page.rs ──► tests/conformance.md
//! ```
//!
//! `cargo run -p pontoon-tests --bin conformance` writes the page. A row none of whose tests ran
//! keeps the result it had, so the page can be written without a run. It fails, after writing, if a
//! row has neither test nor reason, a marker names what no list has, names it twice or stands above
//! no test, or a row's test failed; with `--check`, as `tests/run` calls it, also if no test of a row
//! has ever run, or the page in the tree was not the one just written.

mod features;
mod list;
mod markers;
mod nat;
mod page;
mod results;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use list::{LISTS, Row};
use markers::Marked;
use page::Page;
use results::{Outcome, Results};

fn main() -> ExitCode {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => {
            eprintln!("conformance: {other:?} means nothing here; there is --check");
            return ExitCode::FAILURE;
        }
    };
    match run(check) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            eprintln!("{}", faults.join("\n"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("conformance: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the page, and returns what is wrong with what it tells, a line each.
///
/// # Errors
///
/// A source or the page can't be read or written; the message names the file.
fn run(check: bool) -> Result<Vec<String>, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from);
    let found = markers::scan(&workspace)?;
    let results = Results::read(&target.join("test-logs"))?;

    let mut faults = found.faults;
    let mut tests: HashMap<&str, Vec<&Marked>> = HashMap::new();
    for marked in &found.marked {
        for id in &marked.ids {
            let of_id = tests.entry(id).or_default();
            if of_id.last().is_some_and(|last| *last == marked) {
                faults.push(format!("{}: {id} is named twice", marked.place()));
            } else {
                of_id.push(marked);
            }
        }
    }
    let page_path = workspace.join("tests/conformance.md");
    let before = std::fs::read_to_string(&page_path).unwrap_or_default();
    let known = page::results_of(&before);
    let mut page = Page::new();
    for list in LISTS {
        page.list(list, |row| tests.contains_key(row.id));
        for section in list.sections {
            page.section(list, section);
            for row in section.rows {
                let tests = tests.remove(row.id).unwrap_or_default();
                faults.extend(fault_of(row, &tests, &results));
                page.row(row, &tests, outcome_of(&tests, &results), &known);
            }
        }
    }
    let mut unknown: Vec<_> = tests.into_iter().collect();
    unknown.sort_by_key(|&(id, _)| id);
    for (id, tests) in unknown {
        let place = tests[0].place();
        faults.push(format!("{place}: no list has {id}"));
    }
    let page = page.finish();
    if check {
        let unproven = page.lines().filter_map(page::unproven);
        faults.extend(unproven.map(|id| format!("{id}: none of its tests has run yet")));
    }
    if page != before {
        std::fs::write(&page_path, page).map_err(|error| {
            let path = page_path.display();
            format!("{path} can't be written: {error}")
        })?;
        if check {
            faults.push("tests/conformance.md was stale and is now right: commit it".to_owned());
        }
    }
    Ok(faults)
}

fn fault_of(row: &Row, tests: &[&Marked], results: &Results) -> Option<String> {
    let id = row.id;
    if tests.is_empty() {
        let unexplained = row.remark.is_none();
        return unexplained.then(|| format!("{id}: no test names it, and no reason is given"));
    }
    let mut failed = tests
        .iter()
        .filter(|test| results.of(test) == Some(Outcome::Failed));
    let test = failed.next()?;
    Some(format!("{id}: {} of {} failed", test.name, test.file))
}

/// What the tests of a row came to together: the worst of those that ran. `None` when none did.
fn outcome_of(tests: &[&Marked], results: &Results) -> Option<Outcome> {
    tests.iter().filter_map(|test| results.of(test)).max()
}
