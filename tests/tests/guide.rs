//! The guide in README.md, typed line by line as a newcomer would.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use pontoon_tests::{is_root_or_skip, pontoon};

const SECTION: &str = "## A first walk\n";

/// Commands that are typed one after the other, and what they print when that is always the same.
#[derive(Debug, Default)]
struct Step {
    commands: Vec<String>,
    output: Option<Vec<String>>,
}

/// The fenced blocks of the section: those marked `sh`, and those marked `text stable` right behind.
fn steps(readme: &str) -> Vec<Step> {
    let section = readme.split(SECTION).nth(1).expect("the guide is there");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = section.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            continue;
        };
        let block = lines.by_ref().take_while(|line| *line != "```");
        let block: Vec<String> = block.map(str::to_owned).collect();
        match (language, steps.last_mut()) {
            ("sh", _) => steps.push(Step {
                commands: block,
                output: None,
            }),
            ("text stable", Some(step)) if step.output.is_none() => step.output = Some(block),
            other => panic!("a block that is no step: {other:?}"),
        }
    }
    steps
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
}

impl Drop for Shell {
    fn drop(&mut self) {
        // `unshare --kill-child` takes its namespace of processes along.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

// Feature: networks names publish-live publish-paths allow-list
#[test]
fn the_guide_works_as_it_is_written() {
    if !is_root_or_skip() {
        return;
    }
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md");
    let directory = tempfile::Builder::new()
        .prefix("pontoon-test-")
        .tempdir()
        .expect("a directory");
    symlink(pontoon(), directory.path().join("pontoon")).expect("a link");
    let mut shell = Shell::start(directory.path());
    let steps = steps(&readme);
    assert!(steps.len() > 5, "{steps:?}");
    for step in &steps {
        let mut printed = Vec::new();
        for command in &step.commands {
            printed.extend(shell.type_in(command));
        }
        if let Some(expected) = &step.output {
            assert_eq!(&printed, expected, "{:#?}", step.commands);
        }
    }
}
