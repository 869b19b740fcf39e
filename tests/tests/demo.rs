//! `pontoon demo`, as the README shows it: for root and for an ordinary user.

use std::process::Command;
use std::time::Duration;

use pontoon_tests::process::run_within;
use pontoon_tests::scene::PORT_KINDS;
use pontoon_tests::{is_root_or_skip, pontoon, skip};

const LIMIT: Duration = Duration::from_secs(60);

/// Network interfaces and pontoon's processes and files of this machine.
fn traces() -> Vec<String> {
    let mut traces = Vec::new();
    for directory in ["/sys/class/net", "/run/netns"] {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.path().display().to_string());
        // Other tests run at the same time, in namespaces of their own.
        traces.extend(names.filter(|name| !name.contains("pontoon-test-")));
    }
    traces.sort();
    traces
}

fn assert_is_a_demo(output: &str) {
    for word in ["127.0.0.1", "container", "outside"] {
        assert!(output.contains(word), "the demo tells of {word}:\n{output}");
    }
    assert!(
        !output.contains('\u{1b}'),
        "no colours into a file:\n{output}"
    );
}

#[test]
fn as_root() {
    if !is_root_or_skip() {
        return;
    }
    for port_kind in PORT_KINDS {
        let before = traces();
        let mut demo = Command::new(pontoon());
        let output = run_within(demo.args(["demo", "--port-kind", port_kind]), LIMIT);
        assert_is_a_demo(&output.success());
        assert_eq!(traces(), before, "{port_kind}: it cleans up after itself");
    }
}

#[test]
fn as_an_ordinary_user() {
    let mut demo = if nix::unistd::geteuid().is_root() {
        // The program may lie where only root can look.
        let mut demo = Command::new("setpriv");
        demo.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--no-new-privs",
        ]);
        let directory = tempfile::tempdir().expect("a temporary directory").keep();
        let copy = directory.join("pontoon");
        std::fs::copy(pontoon(), &copy).expect("the program can be copied");
        use std::os::unix::fs::PermissionsExt;
        for path in [&directory, &copy] {
            let permissions = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(path, permissions).expect("permissions can be set");
        }
        demo.arg(copy);
        demo
    } else {
        Command::new(pontoon())
    };
    let setting = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if setting("/proc/sys/kernel/unprivileged_userns_clone").trim() == "0"
        || setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").trim() == "1"
        || setting("/proc/sys/user/max_user_namespaces").trim() == "0"
    {
        skip("this machine forbids user namespaces to ordinary users");
        return;
    }
    demo.arg("demo")
        .env_remove("XDG_RUNTIME_DIR")
        .env("HOME", "/");
    let output = run_within(&mut demo, LIMIT);
    if let Some(copy) = demo
        .get_args()
        .find(|arg| arg.to_string_lossy().ends_with("/pontoon"))
    {
        let directory = std::path::Path::new(copy).parent().expect("a directory");
        std::fs::remove_dir_all(directory).ok();
    }
    assert_is_a_demo(&output.success());
}
