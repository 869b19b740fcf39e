//! The tests that say what they prove, found in the workspace's sources.
//!
//! A marker is a line `// Conforms: ID ID`, with only attributes and comments between it and its
//! test. That is a matter of text, so a test made by a macro can be marked where it is written.

use std::path::Path;

const MARKER: &str = "// Conforms: ";

/// A test with a marker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    /// Relative to the workspace.
    pub(crate) file: String,
    /// Of the marker, from 1.
    pub(crate) line: usize,
    /// The test's function.
    pub(crate) name: String,
    pub(crate) ids: Vec<String>,
    /// The test binary, as cargo names the file.
    pub(crate) binary: String,
    /// The modules that lead to the source file, `a::b`; empty for a crate's root.
    pub(crate) module: String,
}

impl Marked {
    /// `FILE:LINE`, as compilers write it.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

/// What [`scan`] finds: tests in the order of their files and lines, and markers that are none.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) marked: Vec<Marked>,
    pub(crate) faults: Vec<String>,
}

/// Looks through every Rust file of every crate of the workspace.
///
/// # Errors
///
/// A directory or file can't be read.
pub(crate) fn scan(workspace: &Path) -> Result<Found, String> {
    let mut found = Found::default();
    for directory in entries(workspace)? {
        let Ok(manifest) = std::fs::read_to_string(workspace.join(&directory).join("Cargo.toml"))
        else {
            continue;
        };
        let unit = package(&manifest).replace('-', "_");
        let mut files = Vec::new();
        rust_files(workspace, &directory, &mut files)?;
        for file in files {
            let path = workspace.join(&file);
            let text = std::fs::read_to_string(&path)
                .map_err(|error| format!("{} can't be read: {error}", path.display()))?;
            found.file(&unit, &file, &text);
        }
    }
    Ok(found)
}

impl Found {
    fn file(&mut self, unit: &str, file: &str, text: &str) {
        let (binary, module) = home(unit, file);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (index, line) in lines.iter().enumerate() {
            let Some(ids) = line.strip_prefix(MARKER) else {
                continue;
            };
            let line = index + 1;
            let Some(name) = test_after(&lines[line..]) else {
                let fault = format!("{file}:{line}: this marker stands above no test");
                self.faults.push(fault);
                continue;
            };
            self.marked.push(Marked {
                file: file.to_owned(),
                line,
                name: name.to_owned(),
                ids: ids.split_whitespace().map(str::to_owned).collect(),
                binary: binary.clone(),
                module: module.clone(),
            });
        }
    }
}

/// The name of the test that `lines` begin with.
fn test_after<'a>(lines: &[&'a str]) -> Option<&'a str> {
    let mut is_test = false;
    for line in lines {
        if line.starts_with("#[test]") {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
            return is_test.then_some(&rest[..end]);
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            return None;
        }
    }
    None
}

/// The test binary that `file` is part of, and the module that it is there. `unit` is the binary
/// of the crate's unit tests.
fn home(unit: &str, file: &str) -> (String, String) {
    let mut parts: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    parts.remove(0);
    let top = parts.remove(0);
    let binary = if top == "src" || parts.is_empty() {
        unit
    } else {
        // A test's own file, its directory, or that of another target.
        match top {
            "tests" => parts.remove(0),
            other => other,
        }
    };
    if parts
        .last()
        .is_some_and(|&last| matches!(last, "main" | "lib" | "mod"))
    {
        parts.pop();
    }
    (binary.to_owned(), parts.join("::"))
}

/// The name in a manifest's `[package]`, which comes first.
fn package(manifest: &str) -> &str {
    let name = manifest
        .lines()
        .find_map(|line| line.strip_prefix("name = "));
    name.unwrap_or_default().trim_matches('"')
}

/// The names in a directory, sorted, without those that git does not keep.
fn entries(directory: &Path) -> Result<Vec<String>, String> {
    let failed = |error| format!("{} can't be read: {error}", directory.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && name != "target" {
            names.push(name.into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn rust_files(workspace: &Path, within: &str, files: &mut Vec<String>) -> Result<(), String> {
    for name in entries(&workspace.join(within))? {
        let path = format!("{within}/{name}");
        if workspace.join(&path).is_dir() {
            rust_files(workspace, &path, files)?;
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_belongs_to_the_test_below_it() {
        // Spelled otherwise here, since this file is a source of the workspace too.
        let text = "
            MARKS X-1 Y-2
            // Why it is so.
            #[test]
            #[ignore = \"slow\"]
            fn proves() {}

            MARKS X-3
            fn helper() {}

            MARKS X-4
            let x = 1;
            #[test]
            fn other() {}"
            .replace("MARKS ", MARKER);
        let mut found = Found::default();
        found.file("pontoon_nat", "nat/src/nat/tests.rs", &text);
        let [marked] = &found.marked[..] else {
            panic!("{:?}", found.marked);
        };
        assert_eq!(marked.name, "proves");
        assert_eq!(marked.ids, ["X-1", "Y-2"]);
        assert_eq!(marked.place(), "nat/src/nat/tests.rs:2");
        assert_eq!(
            found.faults,
            [8, 11].map(|line| format!(
                "nat/src/nat/tests.rs:{line}: this marker stands above no test"
            ))
        );
    }

    #[test]
    fn a_file_is_a_module_of_its_binary() {
        let home = |file| home("pontoon_nat", file);
        let at = |binary: &str, module: &str| (binary.to_owned(), module.to_owned());
        assert_eq!(home("nat/src/lib.rs"), at("pontoon_nat", ""));
        assert_eq!(
            home("nat/src/nat/tests.rs"),
            at("pontoon_nat", "nat::tests")
        );
        assert_eq!(home("switch/src/io/mod.rs"), at("pontoon_nat", "io"));
        assert_eq!(home("nat/tests/model.rs"), at("model", ""));
        assert_eq!(home("nat/tests/model/run.rs"), at("model", "run"));
        assert_eq!(home("switch/tests/io/main.rs"), at("io", ""));
        assert_eq!(home("tests/conformance/list.rs"), at("conformance", "list"));
    }
}
