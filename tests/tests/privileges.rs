//! What the daemon keeps of root's rights, and that everything works with that.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, chown};
use pontoon_tests::eventually;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::{Background, run};
use pontoon_tests::scene::{HOST, LOOPBACK, PORT_KINDS, Scene};
use pontoon_tests::traffic::{Flow, listen, ping};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

/// By their numbers in capabilities(7).
const KEPT: [(&str, u32); 7] = [
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_KILL", 5),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
];

/// A field of /proc/PID/task/TID/status, of every thread of a process.
fn fields(pid: u32, name: &str) -> BTreeSet<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let statuses = threads.filter_map(|thread| {
        // One of a moment may be gone.
        fs::read_to_string(thread.ok()?.path().join("status")).ok()
    });
    let field = |status: String| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {status}"))
            .trim()
            .to_owned()
    };
    statuses.map(field).collect()
}

/// The same, as a set of capabilities.
fn capabilities(pid: u32, name: &str) -> Vec<u64> {
    let fields = fields(pid, name).into_iter();
    let number = |field: String| u64::from_str_radix(&field, 16).expect("hexadecimal digits");
    fields.map(number).collect()
}

/// All threads have a filter but those that carry frames.
#[track_caller]
fn assert_filtered(pid: u32) {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let mut carrying = 0;
    for thread in threads {
        let path = thread.expect("a thread").path().join("status");
        let Ok(status) = fs::read_to_string(path) else {
            continue;
        };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.expect(name).trim()
        };
        let name = field("Name:");
        let carries = name.starts_with("worker-") || name == "housekeeper";
        carrying += u32::from(carries);
        let filter = if carries { "0" } else { "2" };
        assert_eq!(field("Seccomp:"), filter, "{name}; 2 is a filter");
    }
    assert!(carrying > 0, "the switch has threads");
}

#[track_caller]
fn assert_dropped(pid: u32) {
    let kept = KEPT.iter().fold(0, |all, (_, number)| all | 1 << number);
    for set in ["CapEff", "CapPrm"] {
        for has in capabilities(pid, set) {
            assert_eq!(has & !kept, 0, "{set}: {has:x} is more than {kept:x}");
        }
    }
    for set in ["CapInh", "CapAmb", "CapBnd"] {
        assert_eq!(capabilities(pid, set), [0], "{set}");
    }
    let is = |value: &str| BTreeSet::from([value.to_owned()]);
    assert_eq!(fields(pid, "NoNewPrivs"), is("1"));
    if Path::new("/proc/sys/kernel/seccomp").exists() {
        assert_filtered(pid);
    }
}

#[test]
fn no_thread_of_the_daemon_keeps_more_than_it_uses() {
    let Some(scene) = Scene::new() else { return };
    let inside = scene.container("web", &["-p", "8080:80"]);
    let server = listen(&inside.namespace, (inside.address, 80));
    // Threads of every kind: the runtime's, the switch's, the journal's, the relay's.
    Flow::open(&scene.host, (LOOPBACK, 8080), &server).expect("the relay answers");
    let threads = fields(scene.daemon_pid(), "Name");
    assert!(threads.len() > 4, "{threads:?}");
    assert_dropped(scene.daemon_pid());

    let told = &scene.json(&["info"])["privileges"];
    let names = told["capabilities"].as_array().expect("a list");
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
    assert_eq!(names, KEPT.map(|(name, _)| name));
    assert_eq!(told["no_new_privs"], true);
    let has_filters = Path::new("/proc/sys/kernel/seccomp").exists();
    assert_eq!(told["seccomp"], has_filters);
    let told = scene.pontoon(&["info"]).success();
    assert!(
        told.contains("sys_admin") && told.contains("seccomp"),
        "{told}"
    );
    assert!(!scene.log().contains("WARN"), "{}", scene.log());
}

/// What a daemon is for, from its first start to its next one.
fn do_everything(scene: &mut Scene, port_kind: &str) {
    let kind = ["--port-kind", port_kind];
    scene.pontoon(&["network", "create", "blue"]).success();
    let with_ports = [&kind[..], &["-p", "80:80", "-p", "123:123/udp"]].concat();
    let web = scene.container("web", &with_ports);
    let other = scene.container("other", &kind);
    scene
        .pontoon(&["network", "connect", "blue", "web"])
        .success();
    scene
        .pontoon(&["network", "connect", "blue", "other"])
        .success();
    ping(&other.namespace, web.address).success();

    let server = listen(&web.namespace, (web.address, 80));
    for (from, to) in [(&scene.outside, HOST), (&scene.host, LOOPBACK)] {
        let open = Flow::open(from, (to, 80), &server);
        open.and_then(|mut it| it.exchange())
            .unwrap_or_else(|error| panic!("port 80 at {to}: {error}"));
    }
    scene
        .pontoon(&["limit", "web", "--rate-out", "100mbit"])
        .success();
    scene
        .pontoon(&["fault", "web", "--latency", "1ms"])
        .success();
    scene.pontoon(&["fault", "--clear"]).success();
    scene
        .pontoon(&["publish", "other", "-p", "81:80"])
        .success();
    scene
        .pontoon(&["unpublish", "other", "-p", "81:80"])
        .success();
    for list in ["conntrack", "nat", "fdb", "drops", "ps"] {
        scene.pontoon(&[list]).success();
    }

    // Another user's process, whose namespace is by its number alone.
    let pid = scene.directory().join("pid");
    let script = format!(
        "echo $$ > {}; exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all \
         sleep 1000",
        pid.display()
    );
    let _process = Background::start(
        scene
            .host_command("unshare")
            .args(["-n", "sh", "-c", &script]),
    );
    let pid = eventually("the process has another user", LIMIT, || {
        let pid = fs::read_to_string(&pid).map_err(|error| error.to_string())?;
        let pid = pid.trim().to_owned();
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        let status = status.map_err(|error| error.to_string())?;
        match status.contains("Uid:\t65534\t65534") {
            true => Ok(pid),
            false => Err(status),
        }
    });
    scene
        .pontoon(&["attach", "--pid", &pid, "--name", "foreign"])
        .success();

    scene
        .pontoon(&["network", "disconnect", "blue", "other"])
        .success();
    scene.end_daemon(Signal::SIGTERM);
    scene.start_daemon();
    let rows = scene.json(&["ps"]);
    assert_eq!(rows.as_array().map(Vec::len), Some(3), "{rows}");
    ping(&other.namespace, web.address).success();
    Flow::open(&scene.outside, (HOST, 80), &server).expect("it was adopted");
    for name in ["foreign", "web", "other"] {
        scene.pontoon(&["detach", name]).success();
    }
    scene.pontoon(&["network", "rm", "blue"]).success();
}

#[test]
fn what_is_kept_is_enough() {
    for port_kind in PORT_KINDS {
        let Some(mut scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        do_everything(&mut scene, port_kind);
        assert_dropped(scene.daemon_pid());
    }
}

#[test]
fn a_container_of_another_user_is_killed() {
    let Some(scene) = Scene::new() else { return };
    let command = "exec setpriv --reuid=65534 --clear-groups sleep 1000";
    scene.run_detached("web", &[], &["sh", "-c", command]);
    eventually("its command has another user", LIMIT, || {
        let status = scene.json(&["inspect", "web"]);
        let container = status.get(0).unwrap_or(&status);
        let supervisor = container["target"]["pid"].as_u64().ok_or("no pid")?;
        let children = format!("/proc/{supervisor}/task/{supervisor}/children");
        let children = fs::read_to_string(children).map_err(|error| error.to_string())?;
        let child = children.trim();
        let status = fs::read_to_string(format!("/proc/{child}/status"));
        let status = status.map_err(|error| error.to_string())?;
        match status.contains("Uid:\t65534") {
            true => Ok(()),
            false => Err(status),
        }
    });
    scene.pontoon(&["kill", "-s", "KILL", "web"]).success();
    assert_eq!(scene.json(&["wait", "web"])["exit_code"], 137);
}

/// Rootless engines keep their namespaces in a directory of their user's.
#[test]
fn a_path_below_another_user_s_directory_is_attached() {
    let Some(scene) = Scene::new() else { return };
    let private = scene.directory().join("private");
    fs::create_dir(&private).expect("a directory");
    let namespace = Namespace::new("private");
    let path = private.join("netns");
    std::os::unix::fs::symlink(namespace.path(), &path).expect("a link");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).expect("its mode");
    chown(
        &private,
        Some(Uid::from_raw(65534)),
        Some(Gid::from_raw(65534)),
    )
    .expect("its owner");
    let path = path.to_str().expect("an ASCII path");
    scene
        .pontoon(&["attach", "--netns", path, "--name", "web"])
        .success();
}

#[test]
fn another_user_s_process_that_has_a_port_is_named() {
    let Some(scene) = Scene::new() else { return };
    let script = "import socket, time\n\
                  it = socket.create_server(('', 8080))\n\
                  print('up', flush=True)\n\
                  time.sleep(1000)\n";
    let mut holder = Background::start(scene.host_command("setpriv").args([
        "--reuid=65534",
        "--clear-groups",
        // Past root's own installations, which others may not read.
        "/usr/bin/python3",
        "-c",
        script,
    ]));
    holder.wait_for_output("up");
    let namespace = Namespace::new("web");
    let path = namespace.path();
    let path = path.to_str().expect("an ASCII path");
    let told = scene.pontoon(&["attach", "--netns", path, "--name", "web", "-p", "8080:80"]);
    let told = told.failure();
    assert!(told.contains("python3 (pid "), "{told}");
}

/// A scene whose daemon a script starts, which may change what it begins with.
fn scene_with(script: &str) -> Option<Scene> {
    let mut scene = Scene::without_daemon("tap")?;
    let program = scene.directory().join("start");
    let pontoon = pontoon_tests::pontoon();
    let (state, run) = (scene.state_dir().to_owned(), scene.run_dir());
    let script = script
        .replace("PONTOON", pontoon.to_str().expect("an ASCII path"))
        .replace("STATE", state.to_str().expect("an ASCII path"))
        .replace("RUN", run.to_str().expect("an ASCII path"));
    fs::write(&program, format!("#!/bin/sh -e\n{script}\n")).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    scene.set_program(program);
    Some(scene)
}

/// In a sandbox that has no CAP_SYS_PTRACE, a process is seen by those alone that have all its
/// capabilities: a daemon that dropped its own would see none of root's.
#[test]
fn without_ptrace_it_sees_containers_all_the_same() {
    let without = ["--bounding-set=-sys_ptrace", "--inh-caps=-all"];
    let script = format!("exec setpriv {} PONTOON \"$@\"", without.join(" "));
    let Some(mut scene) = scene_with(&script) else {
        return;
    };
    scene.start_daemon();
    let pontoon = pontoon_tests::pontoon();
    let pontoon = pontoon.to_str().expect("an ASCII path");
    let client = |arguments: &[&str]| {
        let all = [&without[..], &[pontoon], arguments].concat();
        run(scene.host_command("setpriv").args(all))
    };
    client(&["run", "-d", "--name", "web", "--", "sleep", "1000"]).success();
    client(&["stop", "-t", "0", "web"]).success();
    let told = client(&["info"]).success();
    assert!(told.contains("chown"), "all are kept: {told}");
    let told = scene.log();
    assert!(told.contains("without CAP_SYS_PTRACE"), "{told}");
}

#[test]
fn without_most_rights_it_does_the_rest() {
    let kept = "-all,+net_admin,+net_raw,+sys_admin";
    let script = format!("exec setpriv --bounding-set={kept} --inh-caps=-all PONTOON \"$@\"");
    let Some(mut scene) = scene_with(&script) else {
        return;
    };
    scene.start_daemon();
    let inside = scene.container("web", &["-p", "8080:80"]);
    let server = listen(&inside.namespace, (inside.address, 80));
    let address: SocketAddr = (HOST, 8080).into();
    Flow::open(&scene.outside, address, &server).expect("it is published");
}

/// The unit's ProtectSystem=strict: a mount namespace that is read-only but for the daemon's own
/// directories, and hears of the host's mounts.
#[test]
fn mounts_of_its_own_keep_no_namespace_from_it() {
    let mounts = "mkdir -p STATE RUN\n\
                  mount --bind STATE STATE\n\
                  mount --bind RUN RUN\n\
                  mount -o remount,bind,ro /\n\
                  if mountpoint -q /run; then mount -o remount,bind,ro /run; fi\n\
                  if mkdir /pontoon-test 2>/dev/null; then exit 1; fi\n\
                  exec PONTOON \"$@\"";
    let script = mounts.replace(
        "exec ",
        "exec setpriv --bounding-set=BOUNDS --inh-caps=-all ",
    );
    let bounds = KEPT.map(|(name, _)| name.replace("CAP_", "+").to_lowercase());
    let script = script.replace("BOUNDS", &format!("-all,{}", bounds.join(",")));
    let Some(mut scene) = scene_with(&script) else {
        return;
    };
    scene.start_daemon();
    do_everything(&mut scene, "tap");
}
