//! The commands in the documents, typed line by line as a newcomer would.
//!
//! A fenced block marked `sh typed` is typed, one line after the other. One marked `text stable`
//! right behind it is what the block prints, always. Each document is a session of its own. One
//! that opens no shell of its own begins in the host that `docs/guide.md` sets up.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use pontoon_tests::{is_root_or_skip, pontoon};

/// What opens a shell with a network of its own.
const OWN_HOST: &str = "unshare --net ";

/// Commands that are typed one after the other, and what they print when that is always the same.
#[derive(Debug, Default)]
struct Step {
    commands: Vec<String>,
    output: Option<Vec<String>>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// What is typed in a document, or a part of one.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = text.lines();
    // Whether the last block was typed, so that it may be followed by what it prints.
    let mut typed = false;
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            continue;
        };
        let block = lines.by_ref().take_while(|line| *line != "```");
        let block: Vec<String> = block.map(str::to_owned).collect();
        match (language, steps.last_mut()) {
            ("sh typed", _) => steps.push(Step {
                commands: block,
                output: None,
            }),
            ("text stable", Some(step)) if typed => step.output = Some(block),
            ("text stable", _) => panic!("the output of no step: {block:?}"),
            _ => {}
        }
        typed = language == "sh typed";
    }
    steps
}

/// The documents that have something to type, by their paths in the repository.
fn documents() -> Vec<String> {
    let entries = fs::read_dir(root().join("docs")).expect("the documents");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut documents: Vec<String> = names
        .map(|name| format!("docs/{}", name.to_string_lossy()))
        .filter(|name| name.ends_with(".md"))
        .collect();
    documents.push("README.md".to_owned());
    documents.sort();
    documents.retain(|document| !steps(&read(document)).is_empty());
    documents
}

/// What `docs/guide.md` types to have a host with a wire and a daemon.
fn own_host() -> Vec<Step> {
    let guide = read("docs/guide.md");
    let section = guide.split("\n## A host to try it on\n").nth(1);
    let section = section.expect("the guide sets a host up");
    steps(section.split("\n## ").next().unwrap_or_default())
}

/// A shell that is typed into. It ends with the value, and all that was started in it.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
    typed: usize,
}

impl Shell {
    fn start(directory: &Path) -> Shell {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new("bash")
            .current_dir(directory)
            .env(
                "PATH",
                format!("{}:{path}:/usr/sbin:/sbin", directory.display()),
            )
            .env_remove("PONTOON_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash is installed");
        let input = child.stdin.take().expect("a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Shell {
            child,
            input,
            output,
            typed: 0,
        }
    }

    /// Types a line, and returns what it prints once it has ended. Whatever shell the line has opened
    /// reads the next one: each takes no more of the pipe than its own lines.
    fn type_in(&mut self, line: &str) -> Vec<String> {
        self.typed += 1;
        let end = format!("--- end of line {}:", self.typed);
        writeln!(self.input, "{line}\necho '{end}' $?").expect("the shell reads");
        let mut printed = Vec::new();
        loop {
            let heard = self.output.recv_timeout(Duration::from_secs(30));
            let heard = heard.unwrap_or_else(|error| {
                panic!("{line}: no end of it ({error}) after {printed:#?}")
            });
            match heard.split_once(&end) {
                Some((before, status)) => {
                    printed.extend((!before.is_empty()).then(|| before.to_owned()));
                    assert_eq!(status.trim(), "0", "{line}: failed after {printed:#?}");
                    return printed;
                }
                None => printed.push(heard),
            }
        }
    }

    fn take(&mut self, step: &Step) {
        let mut printed = Vec::new();
        for command in &step.commands {
            printed.extend(self.type_in(command));
        }
        if let Some(expected) = &step.output {
            assert_eq!(&printed, expected, "{:#?}", step.commands);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // `unshare --kill-child` takes its namespace of processes along.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Types what a document says.
fn type_all(document: &str) {
    let directory = tempfile::Builder::new()
        .prefix("pontoon-test-")
        .tempdir()
        .expect("a directory");
    symlink(pontoon(), directory.path().join("pontoon")).expect("a link");
    let steps = steps(&read(document));
    let first = steps.first().and_then(|step| step.commands.first());
    let opens_shell = first.is_some_and(|command| command.starts_with(OWN_HOST));
    let before = if opens_shell { Vec::new() } else { own_host() };
    // Nothing may touch the machine itself.
    let opening = before.iter().chain(&steps).next();
    let opening = opening.and_then(|step| step.commands.first());
    assert!(
        opening.is_some_and(|command| command.starts_with(OWN_HOST)),
        "{document} begins with {opening:?}"
    );
    let mut shell = Shell::start(directory.path());
    for step in before.iter().chain(&steps) {
        shell.take(step);
    }
}

// Feature: networks names publish-live publish-paths allow-list
#[test]
fn the_guide_works_as_it_is_written() {
    if is_root_or_skip() {
        type_all("docs/guide.md");
    }
}

#[test]
fn the_quick_start_works_as_it_is_written() {
    if is_root_or_skip() {
        type_all("README.md");
    }
}

// Feature: modes limits faults
#[test]
fn examples_in_documents_work_as_they_are_written() {
    if !is_root_or_skip() {
        return;
    }
    let documents = documents();
    assert!(documents.len() > 4, "{documents:?}");
    for document in documents {
        if !["docs/guide.md", "README.md"].contains(&document.as_str()) {
            println!("{document}");
            type_all(&document);
        }
    }
}
