//! Programs that a test runs: to their end within a limit, or in the background until dropped.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Long enough for any command that has nothing to wait for, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(30);

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub struct Output {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Its output, if it succeeded.
    ///
    /// # Panics
    ///
    /// It failed; the panic tells all it wrote.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(self.status.success(), "should have succeeded: {self}");
        self.stdout
    }

    /// What it wrote to stderr, if it failed.
    ///
    /// # Panics
    ///
    /// It succeeded, or died of a signal or a panic.
    #[track_caller]
    pub fn failure(self) -> String {
        assert!(!self.status.success(), "should have failed: {self}");
        assert!(
            self.status.code().is_some_and(|code| code != 101),
            "should have failed with an error of its own: {self}"
        );
        self.stderr
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {}", self.command, self.status)?;
        write!(f, "--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// Runs a program to its end, which must come within half a minute.
///
/// # Panics
///
/// It can't be started, or does not end in time.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    run_within(command, LIMIT)
}

/// Runs a program to its end.
///
/// Its output goes to files, not pipes: a daemon it leaves behind can't hold the test up.
///
/// # Panics
///
/// It can't be started, or does not end within `limit`.
#[track_caller]
pub fn run_within(command: &mut Command, limit: Duration) -> Output {
    let text = format!("{command:?}");
    let mut stdout = tempfile::tempfile().expect("a temporary file");
    let mut stderr = tempfile::tempfile().expect("a temporary file");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a second handle on a file"))
        .stderr(stderr.try_clone().expect("a second handle on a file"))
        .spawn()
        .unwrap_or_else(|error| panic!("can't start {text}: {error}"));
    let status = wait_within(&mut child, limit);
    if status.is_none() {
        child.kill().ok();
        child.wait().ok();
    }
    let read = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind().expect("a file can be rewound");
        file.read_to_end(&mut bytes).expect("a file can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = (read(&mut stdout), read(&mut stderr));
    match status {
        Some(status) => Output {
            command: text,
            status,
            stdout,
            stderr,
        },
        None => {
            panic!("did not end within {limit:?}: {text}\n--- stdout\n{stdout}--- stderr\n{stderr}")
        }
    }
}

fn wait_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if start.elapsed() > limit {
            return None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// A program in the background, whose output goes to a file; dropping it kills it.
pub struct Background {
    child: Child,
    text: String,
    log: PathBuf,
    _log_if_ours: Option<tempfile::TempPath>,
}

impl Background {
    /// Starts a program whose output only this value knows.
    #[track_caller]
    pub fn start(command: &mut Command) -> Background {
        let log = tempfile::NamedTempFile::new()
            .expect("a temporary file")
            .into_temp_path();
        let mut background = Background::start_logging(command, &log);
        background._log_if_ours = Some(log);
        background
    }

    /// Starts a program whose output is appended to the file `log`.
    #[track_caller]
    pub fn start_logging(command: &mut Command, log: &Path) -> Background {
        let text = format!("{command:?}");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("can't write {}: {error}", log.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle on a file"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("can't start {text}: {error}"));
        Background {
            child,
            text,
            log: log.to_owned(),
            _log_if_ours: None,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has written `needle`.
    ///
    /// # Panics
    ///
    /// It ends before, or does not write it within 10 seconds.
    #[track_caller]
    pub fn wait_for_output(&mut self, needle: &str) {
        let start = Instant::now();
        while !self.output().contains(needle) {
            let ended = self.has_ended();
            assert!(
                ended.is_none() && start.elapsed() < Duration::from_secs(10),
                "{} did not write {needle:?} (ended: {ended:?}), but:\n{}",
                self.text,
                self.output()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Panics
    ///
    /// It is still there 10 seconds later.
    #[track_caller]
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        if let Some(status) = self.has_ended() {
            return status;
        }
        signal_process(self.pid(), signal);
        wait_within(&mut self.child, Duration::from_secs(10)).unwrap_or_else(|| {
            panic!(
                "{} survived {signal} for 10 seconds:\n{}",
                self.text,
                self.output()
            )
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Signals one process, by pid; that it may be gone already is no error.
pub fn signal_process(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).expect("a pid fits");
    kill(Pid::from_raw(pid), signal).ok();
}

/// Kills every process that has `mark` in its environment: all that a scene has started, whatever
/// has become of its parents.
pub fn kill_marked(mark: &str) {
    for _ in 0..20 {
        let marked = marked_processes(mark);
        if marked.is_empty() {
            return;
        }
        for pid in marked {
            signal_process(pid, Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn marked_processes(mark: &str) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let marked = environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes());
        marked.then_some(pid)
    });
    pids.collect()
}
