//! The page, as Markdown.

use std::collections::HashMap;
use std::fmt::Write;

use crate::list::{List, Row, Section};
use crate::markers::Marked;
use crate::results::Outcome;

/// How a row ends none of whose tests ever ran.
const NOT_RUN: &str = " | not run |";

/// Results of an earlier page: the row's first cells, without the result, to the result.
pub(crate) type Known<'a> = HashMap<&'a str, &'a str>;

/// The results that a page tells.
pub(crate) fn results_of(page: &str) -> Known<'_> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    rows.filter_map(|row| row.strip_suffix(" |")?.rsplit_once(" | "))
        .collect()
}

/// The row's id, if the line is a row whose tests have never run.
pub(crate) fn unproven(line: &str) -> Option<&str> {
    let row = line.strip_suffix(NOT_RUN)?.strip_prefix("| ")?;
    row.split(" | ").next()
}

pub(crate) struct Page {
    text: String,
}

impl Page {
    pub(crate) fn new() -> Page {
        let text = "# Conformance\n\n\
             What pontoon is held to and what it offers, and the tests that show it. Written by \
             `tests/run`, or, without\nrunning a test, by `cargo run -p pontoon-tests --bin \
             conformance`. A row whose tests did not run this time keeps its\nlast result.\n";
        Page {
            text: text.to_owned(),
        }
    }

    /// Begins a list; `is_tested` tells which of its rows have tests.
    pub(crate) fn list(&mut self, list: &List, is_tested: impl Fn(&Row) -> bool) {
        let (tested, others): (Vec<&Row>, Vec<&Row>) = list.rows().partition(|row| is_tested(row));
        let explained = others.iter().filter(|row| row.remark.is_some()).count();
        let neither = match others.len() - explained {
            0 => String::new(),
            missing => format!(", and {missing} with neither"),
        };
        let _ = write!(
            self.text,
            "\n## {}\n\n{}\n\n{} rows: {} with tests, {explained} with a reason why there is \
             none{neither}.\n",
            list.title,
            list.intro,
            tested.len() + others.len(),
            tested.len(),
        );
    }

    pub(crate) fn section(&mut self, list: &List, section: &Section) {
        let columns = list.columns.join(" | ");
        let head = format!("| {columns} |\n|---|---|---|---|\n");
        let _ = write!(self.text, "\n### {}\n\n{head}", section.title);
    }

    /// `outcome` is that of this run, if any of the tests ran; else the row's known one stands.
    pub(crate) fn row(
        &mut self,
        row: &Row,
        tests: &[&Marked],
        outcome: Option<Outcome>,
        known: &Known<'_>,
    ) {
        // Linked from the page's own directory.
        let links = tests
            .iter()
            .map(|test| match test.file.strip_prefix("tests/") {
                Some(here) => format!("[`{}`]({here})", test.name),
                None => format!("[`{}`](../{})", test.name, test.file),
            });
        let proof: Vec<String> = links.chain(row.remark.map(str::to_owned)).collect();
        let cells = format!("| {} | {} | {}", row.id, row.says, proof.join("; "));
        let result = match outcome {
            Some(Outcome::Passed) => "passed",
            Some(Outcome::Failed) => "FAILED",
            None if tests.is_empty() => "–",
            None => known.get(cells.as_str()).copied().unwrap_or("not run"),
        };
        let _ = writeln!(self.text, "{cells} | {result} |");
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::row;

    #[test]
    fn a_row_that_did_not_run_keeps_its_result() {
        let test = Marked {
            file: "tests/tests/x.rs".to_owned(),
            line: 3,
            name: "proves".to_owned(),
            ids: vec!["X-1".to_owned()],
            binary: "x".to_owned(),
            module: String::new(),
        };
        let row = row("X-1", "it works");
        let page = |outcome, before: &str| {
            let mut page = Page::new();
            page.row(&row, &[&test], outcome, &results_of(before));
            page.finish()
        };
        let passed = page(Some(Outcome::Passed), "");
        let line = "| X-1 | it works | [`proves`](tests/x.rs) | passed |\n";
        assert!(passed.ends_with(line), "{passed}");
        assert_eq!(page(None, &passed), passed);
        assert!(page(Some(Outcome::Failed), &passed).contains("FAILED"));
        let unproven: Vec<String> = page(None, "")
            .lines()
            .filter_map(unproven)
            .map(str::to_owned)
            .collect();
        assert_eq!(unproven, ["X-1"]);
        assert_eq!(passed.lines().find_map(super::unproven), None);
    }
}
