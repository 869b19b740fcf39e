//! `pontoon demo`, as docs/demo.md shows it: for root and for an ordinary user.

use std::collections::BTreeSet;
use std::fs::{Permissions, copy, read_dir, read_to_string, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pontoon_tests::process::run_within;
use pontoon_tests::scene::PORT_KINDS;
use pontoon_tests::{is_root_or_skip, pontoon, skip};

const LIMIT: Duration = Duration::from_secs(60);

fn entries(directory: &Path) -> BTreeSet<String> {
    let entries = read_dir(directory).expect("a directory that can be read");
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// Runs a demo with a temporary directory of its own, and looks at what it says and leaves behind.
fn passes(demo: &mut Command) {
    let interfaces = Path::new("/sys/class/net");
    let temporary = tempfile::tempdir().expect("a temporary directory");
    set_permissions(temporary.path(), Permissions::from_mode(0o777)).expect("it is ours");
    let before = entries(interfaces);
    let output = run_within(demo.env("TMPDIR", temporary.path()), LIMIT).success();
    for word in ["127.0.0.1", "container", "outside"] {
        assert!(output.contains(word), "no {word} in:\n{output}");
    }
    assert!(
        !output.contains('\u{1b}'),
        "no colours into a file:\n{output}"
    );
    let left = entries(temporary.path());
    assert!(left.is_empty(), "left behind: {left:?}");
    let after = entries(interfaces);
    let left: Vec<&String> = after.difference(&before).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

// Feature: no-netfilter source-preserved
#[test]
fn as_root() {
    if !is_root_or_skip() {
        return;
    }
    for port_kind in PORT_KINDS {
        passes(Command::new(pontoon()).args(["demo", "--port-kind", port_kind]));
    }
}

#[test]
fn as_an_ordinary_user() {
    let setting = |path: &str| read_to_string(path).unwrap_or_default().trim().to_owned();
    if setting("/proc/sys/kernel/unprivileged_userns_clone") == "0"
        || setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1"
        || setting("/proc/sys/user/max_user_namespaces") == "0"
    {
        skip("this machine forbids user namespaces to ordinary users");
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return passes(Command::new(pontoon()).arg("demo"));
    }
    // As nobody, for whom the program may lie out of reach.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = directory.path().join("pontoon");
    copy(pontoon(), &program).expect("the program can be copied");
    set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let mut demo = Command::new("setpriv");
    demo.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    passes(demo.arg(program).arg("demo").env("HOME", "/"));
}
