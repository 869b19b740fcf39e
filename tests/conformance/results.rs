//! What became of each test, from the output that `tests/run` keeps: `STEP.log` as libtest prints
//! it, and `skipped`, the tests that passed because they could not run.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::markers::Marked;

/// In the order of what weighs more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Passed,
    Failed,
}

#[derive(Default)]
pub(crate) struct Results {
    /// By test binary and the test's full name.
    outcomes: HashMap<(String, String), Outcome>,
    /// By the test's full name, or its end.
    skipped: HashSet<String>,
}

impl Results {
    /// Reads what a directory of logs tells; without one, nothing ran.
    ///
    /// # Errors
    ///
    /// A log can't be read.
    pub(crate) fn read(logs: &Path) -> Result<Results, String> {
        let mut results = Results::default();
        let Ok(entries) = std::fs::read_dir(logs) else {
            return Ok(results);
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let is_log = path.extension().is_some_and(|extension| extension == "log");
            let is_skipped = path.file_name().is_some_and(|name| name == "skipped");
            if !is_log && !is_skipped {
                continue;
            }
            let text = std::fs::read(&path)
                .map_err(|error| format!("{} can't be read: {error}", path.display()))?;
            let text = String::from_utf8_lossy(&text);
            if is_log {
                results.log(&text);
            } else {
                let names = text
                    .lines()
                    .filter_map(|line| line.strip_prefix("skipped: "));
                let names = names.filter_map(|line| line.split(": ").next());
                results.skipped.extend(names.map(str::to_owned));
            }
        }
        Ok(results)
    }

    /// `None` if the test did not run, or could not.
    pub(crate) fn of(&self, test: &Marked) -> Option<Outcome> {
        // Modules within the file may stand between the file's own and the test.
        let belongs = |full: &str| {
            let path: Vec<&str> = full.split("::").collect();
            let file = test.module.split("::").filter(|part| !part.is_empty());
            path.last() == Some(&test.name.as_str())
                && file
                    .enumerate()
                    .all(|(index, part)| path.get(index) == Some(&part))
        };
        if self.skipped.iter().any(|full| belongs(full)) {
            return None;
        }
        let outcomes = self.outcomes.iter();
        let own = outcomes.filter(|((binary, full), _)| *binary == test.binary && belongs(full));
        own.map(|(_, &outcome)| outcome).max()
    }

    fn log(&mut self, text: &str) {
        let mut binary = String::new();
        // With --nocapture, the outcome is on a line of its own after what the test printed.
        let mut waiting: Option<String> = None;
        for line in text.lines().map(str::trim) {
            if line.starts_with("Running ") {
                binary = binary_of(line).unwrap_or_default().to_owned();
                waiting = None;
                continue;
            }
            let mut rest = line;
            if let Some((name, outcome)) = line
                .strip_prefix("test ")
                .and_then(|test| test.split_once(" ... "))
            {
                waiting = Some(name.trim_end_matches(" - should panic").to_owned());
                rest = outcome;
            } else if let Some(name) = line
                .strip_prefix("test ")
                .and_then(|test| test.strip_suffix(" ..."))
            {
                waiting = Some(name.to_owned());
            }
            let outcome = match rest {
                "ok" => Outcome::Passed,
                "FAILED" => Outcome::Failed,
                _ => continue,
            };
            if let Some(name) = waiting.take() {
                self.outcomes.insert((binary.clone(), name), outcome);
            }
        }
    }
}

/// `pontoon_nat` of `Running unittests src/lib.rs (target/debug/deps/pontoon_nat-0123456789abcdef)`.
fn binary_of(line: &str) -> Option<&str> {
    let path = line.rsplit_once('(')?.1.strip_suffix(')')?;
    let file = path.rsplit('/').next()?;
    Some(file.rsplit_once('-')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(binary: &str, module: &str, name: &str) -> Marked {
        Marked {
            file: String::new(),
            line: 1,
            name: name.to_owned(),
            ids: Vec::new(),
            binary: binary.to_owned(),
            module: module.to_owned(),
        }
    }

    #[test]
    fn outcomes_are_those_of_the_test_and_no_other() {
        let mut results = Results::default();
        results.log(
            "     Running unittests src/lib.rs (target/debug/deps/pontoon_nat-9c4d6a4f4a1c2e00)
            running 3 tests
            test packet::tests::no_bytes ... ok
            test random::no_bytes ... FAILED
            test fdb::tests::learns ... ignored
                 Running tests/io/main.rs (target/debug/deps/io-9c4d6a4f4a1c2e01)
            test no_bytes ... 3 Gbit/s
            ok",
        );
        let passed = Some(Outcome::Passed);
        assert_eq!(
            results.of(&test("pontoon_nat", "packet", "no_bytes")),
            passed
        );
        let failed = Some(Outcome::Failed);
        assert_eq!(
            results.of(&test("pontoon_nat", "random", "no_bytes")),
            failed
        );
        assert_eq!(results.of(&test("pontoon_nat", "rand", "no_bytes")), None);
        assert_eq!(results.of(&test("pontoon_nat", "fdb", "learns")), None);
        assert_eq!(results.of(&test("io", "", "no_bytes")), passed);
        assert_eq!(results.of(&test("io", "", "bytes")), None);
        results.skipped.insert("packet::tests::no_bytes".to_owned());
        assert_eq!(results.of(&test("pontoon_nat", "packet", "no_bytes")), None);
    }
}
