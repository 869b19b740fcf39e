//! The tests that say what they prove, found in the workspace's sources.
//!
//! A marker is a line `// Conforms: ID ID` for requirements or `// Feature: ID ID` for features, with
//! only attributes and comments, such as another marker, between it and its test. That is a matter
//! of text, so a test made by a macro can be marked where it is written.

use std::path::Path;

const MARKERS: [&str; 2] = ["// Conforms: ", "// Feature: "];

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

/// Looks through every Rust file of every crate below `workspace`.
///
/// # Errors
///
/// A directory or file can't be read.
pub(crate) fn scan(workspace: &Path) -> Result<Found, String> {
    let mut found = Found::default();
    found.directory(workspace, "", None)?;
    Ok(found)
}

/// A crate: where it is, and the binary of its unit tests.
#[derive(Clone, Copy)]
struct Home<'a> {
    directory: &'a str,
    unit: &'a str,
}

impl Found {
    /// Looks through a directory of the workspace, which may be a crate of its own or lie in one.
    fn directory(
        &mut self,
        workspace: &Path,
        directory: &str,
        home: Option<Home<'_>>,
    ) -> Result<(), String> {
        let manifest = std::fs::read_to_string(workspace.join(directory).join("Cargo.toml"));
        let unit = manifest.as_deref().map(unit_tests).unwrap_or_default();
        let own = Home {
            directory,
            unit: &unit,
        };
        let home = if manifest.is_ok() { Some(own) } else { home };
        for name in entries(&workspace.join(directory))? {
            let path = format!("{directory}{name}");
            let full = workspace.join(&path);
            if full.is_dir() {
                self.directory(workspace, &format!("{path}/"), home)?;
            } else if let Some(home) = home.filter(|_| name.ends_with(".rs")) {
                let text = std::fs::read_to_string(&full)
                    .map_err(|error| format!("{} can't be read: {error}", full.display()))?;
                self.file(home, &path, &text);
            }
        }
        Ok(())
    }

    fn file(&mut self, home: Home<'_>, file: &str, text: &str) {
        let (binary, module) = home.of(file);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (index, line) in lines.iter().enumerate() {
            let Some(ids) = MARKERS.iter().find_map(|marker| line.strip_prefix(marker)) else {
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
        let function = line.trim_start_matches("async ");
        if ["#[test]", "#[tokio::test"]
            .iter()
            .any(|it| line.starts_with(it))
        {
            is_test = true;
        } else if let Some(rest) = function.strip_prefix("fn ") {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
            return is_test.then_some(&rest[..end]);
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            return None;
        }
    }
    None
}

impl Home<'_> {
    /// The test binary that `file` is part of, and the module that it is there.
    fn of(&self, file: &str) -> (String, String) {
        let within = file.strip_prefix(self.directory).unwrap_or(file);
        let mut parts: Vec<&str> = within.trim_end_matches(".rs").split('/').collect();
        let top = parts.remove(0);
        let binary = match top {
            _ if parts.is_empty() => self.unit,
            "src" => self.unit,
            // A test's own file or its directory, or that of another target.
            "tests" => parts.remove(0),
            other => other,
        };
        let root = |last: &&str| matches!(*last, "main" | "lib" | "mod");
        if parts.last().is_some_and(root) {
            parts.pop();
        }
        (binary.to_owned(), parts.join("::"))
    }
}

/// The binary of a crate's unit tests: named by its library if that has a name of its own, else by
/// the package.
fn unit_tests(manifest: &str) -> String {
    let name = |section: &str| {
        let start = manifest.find(section)?;
        let mut lines = manifest[start..].lines().skip(1);
        let own = lines.by_ref().take_while(|line| !line.starts_with('['));
        own.filter_map(|line| line.strip_prefix("name = ")).next()
    };
    let name = name("[lib]").or_else(|| name("[package]"));
    name.unwrap_or_default().trim_matches('"').replace('-', "_")
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

#[cfg(test)]
mod tests {
    use super::*;

    const NAT: Home<'static> = Home {
        directory: "nat/",
        unit: "nat",
    };

    #[test]
    fn a_marker_belongs_to_the_test_below_it() {
        // Spelled otherwise here, since this file is a source of the workspace too.
        let text = "
            MARKS X-1 Y-2
            SHOWS z
            // Why it is so.
            #[test]
            #[ignore = \"slow\"]
            fn proves() {}

            MARKS X-5
            #[tokio::test(start_paused = true)]
            async fn waits() {}

            MARKS X-3
            fn helper() {}

            MARKS X-4
            let x = 1;
            #[test]
            fn other() {}"
            .replace("MARKS ", MARKERS[0])
            .replace("SHOWS ", MARKERS[1]);
        let mut found = Found::default();
        found.file(NAT, "nat/src/nat/tests.rs", &text);
        let [marked, shows, waits] = &found.marked[..] else {
            panic!("{:?}", found.marked);
        };
        assert_eq!(shows.name, "proves");
        assert_eq!(shows.ids, ["z"]);
        assert_eq!(marked.name, "proves");
        assert_eq!(marked.ids, ["X-1", "Y-2"]);
        assert_eq!(waits.name, "waits");
        assert_eq!(marked.place(), "nat/src/nat/tests.rs:2");
        assert_eq!(
            found.faults,
            [13, 16].map(|line| format!(
                "nat/src/nat/tests.rs:{line}: this marker stands above no test"
            ))
        );
    }

    #[test]
    fn a_file_is_a_module_of_its_binary() {
        let home = |file: &str| {
            let directories = ["x/", "tests/fuzz/", "tests/"];
            let mut directories = directories.into_iter();
            let directory = directories.find(|it| file.starts_with(it)).unwrap();
            let unit = "unit";
            Home { directory, unit }.of(file)
        };
        let at = |binary: &str, module: &str| (binary.to_owned(), module.to_owned());
        assert_eq!(home("x/src/lib.rs"), at("unit", ""));
        assert_eq!(home("x/lib.rs"), at("unit", ""));
        assert_eq!(home("x/src/nat/tests.rs"), at("unit", "nat::tests"));
        assert_eq!(home("x/src/io/mod.rs"), at("unit", "io"));
        assert_eq!(home("x/tests/model.rs"), at("model", ""));
        assert_eq!(home("x/tests/model/run.rs"), at("model", "run"));
        assert_eq!(home("x/tests/io/main.rs"), at("io", ""));
        assert_eq!(home("x/conformance/list.rs"), at("conformance", "list"));
        assert_eq!(home("tests/fuzz/tests/corpus.rs"), at("corpus", ""));
        assert_eq!(home("tests/tests/names.rs"), at("names", ""));
        assert_eq!(home("tests/tests/crash/world.rs"), at("crash", "world"));
    }

    #[test]
    fn unit_tests_are_named_by_library_or_package() {
        let manifest = "[package]\nname = \"pontoon-nat\"\n[lib]\ndoctest = false\n[dependencies]";
        assert_eq!(unit_tests(manifest), "pontoon_nat");
        let manifest = "[package]\nname = \"pontoon-nat\"\n\n[lib]\nname = \"nat\"\n";
        assert_eq!(unit_tests(manifest), "nat");
    }
}
