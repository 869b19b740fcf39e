//! The page, as Markdown.

use std::collections::HashMap;
use std::fmt::Write;

use crate::list::{List, Row, Section};
use crate::markers::Marked;
use crate::results::Outcome;

/// Results of an earlier page: the row's first cells, without the result, to the result.
pub(crate) type Known<'a> = HashMap<&'a str, &'a str>;

/// The results that a page tells.
pub(crate) fn results_of(page: &str) -> Known<'_> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    rows.filter_map(|row| row.strip_suffix(" |")?.rsplit_once(" | "))
        .collect()
}

pub(crate) struct Page {
    text: String,
    rows: usize,
    tested: usize,
    explained: usize,
}

impl Page {
    pub(crate) fn new() -> Page {
        Page {
            text: String::new(),
            rows: 0,
            tested: 0,
            explained: 0,
        }
    }

    pub(crate) fn list(&mut self, list: &List) {
        let _ = write!(self.text, "\n## {}\n\n{}\n", list.title, list.intro);
    }

    pub(crate) fn section(&mut self, section: &Section) {
        let head = "| requirement | what it asks for | proven by | result |\n|---|---|---|---|\n";
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
        self.rows += 1;
        if !tests.is_empty() {
            self.tested += 1;
        } else if row.remark.is_some() {
            self.explained += 1;
        }
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
        let Page {
            text,
            rows,
            tested,
            explained,
        } = self;
        let neither = match rows - tested - explained {
            0 => String::new(),
            missing => format!(", and {missing} with neither"),
        };
        format!(
            "# Conformance\n\n\
             What pontoon is held to, and the tests that hold it. Written by `tests/run`, or, \
             without running a test, by\n`cargo run -p pontoon-tests --bin conformance`. A row \
             whose tests did not run this time keeps its last result.\n\n\
             {rows} requirements: {tested} with tests, {explained} with a reason why there is \
             none{neither}.\n{text}"
        )
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
        assert!(page(None, "").contains("not run"));
    }
}
