//! A kernel without netfilter: Debian's user-mode-linux, which boots as a process in two seconds.
//!
//! The kernel is `linux` of the package user-mode-linux; its root is the real file system, read
//! only; `uml/init` is its first process and runs one of the scripts beside it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::run_within;
use crate::{pontoon, skip};

/// Boot, script and halt take a few seconds; a kernel that hangs must not hang the test.
const LIMIT: Duration = Duration::from_secs(120);

/// How a script in the kernel ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    /// What the script wrote, both streams.
    pub output: String,
}

/// Boots the kernel with `modules` (of `tun`, `veth`) loaded and runs `tests/uml/SCRIPT` in it,
/// which finds the program in PONTOON_BIN and the variables of `environment`.
///
/// `None`, and the calling test is skipped, when an ordinary user lacks the kernel.
///
/// # Panics
///
/// The kernel does not boot and halt within its time, or root lacks the kernel.
pub fn boot(modules: &[&str], script: &str, environment: &[(&str, &str)]) -> Option<Ended> {
    if !Path::new("/usr/bin/linux").exists() {
        let missing = "needs the Debian packages user-mode-linux and busybox-static";
        assert!(!nix::unistd::geteuid().is_root(), "{missing}");
        skip(missing);
        return None;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let scripts = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/uml"));
    let mut kernel = Command::new("/usr/bin/linux");
    kernel
        .args([
            "mem=1G",
            "rootfstype=hostfs",
            "ro",
            "root=/dev/root",
            "rootflags=/",
            "quiet",
        ])
        .args(["con=null", "con0=null,fd:1"])
        .arg(format!("uml_dir={}", directory.path().display()))
        .arg(format!("init={}", scripts.join("init").display()))
        .arg(format!("PONTOON_MODULES={}", modules.join(",")))
        .arg(format!("PONTOON_SCRIPT={}", scripts.join(script).display()))
        .arg(format!("PONTOON_BIN={}", pontoon().display()))
        .args(
            environment
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
    // The kernel puts its memory in a file of TMPDIR, which it insists on executing.
    let output = run_within(&mut kernel, LIMIT);
    // The console ends its lines as a terminal does.
    let stdout = output.stdout.replace('\r', "");
    let (text, code) = stdout
        .rsplit_once("uml: exit ")
        .and_then(|(text, end)| Some((text, end.lines().next()?.trim().parse().ok()?)))
        .unwrap_or_else(|| panic!("the kernel did not run {script} to its end: {output}"));
    let start = text
        .find("uml: start\n")
        .map_or(0, |at| at + "uml: start\n".len());
    Some(Ended {
        code,
        output: text[start..].to_owned(),
    })
}
