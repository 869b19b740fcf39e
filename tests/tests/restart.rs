//! The daemon goes and comes back: killed, stopped, twice at once, out of disk.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pontoon_tests::eventually;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::{Background, run_within};
use pontoon_tests::scene::{
    ANY, BEYOND, HOST, LOOPBACK, OUTSIDE, PORT_KINDS, Scene, address_of, interfaces,
};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, listen, ping};
use serde_json::Value;

fn a_killed_daemon_loses_nothing(port_kind: &'static str) {
    let Some(mut scene) = Scene::with_port_kind(port_kind) else {
        return;
    };
    scene.run_redis();
    let a = scene.container("a", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let b = scene.container("b", &[]);
    let before_containers = scene.json(&["ps"]);
    let before_host = scene.host_interfaces();
    let before_a = interfaces(&a.namespace);
    let mac = a.namespace.mac("eth0");
    let listener = listen(&a.namespace, (ANY, 80));
    let beyond = listen(&scene.outside, (BEYOND, 80));
    let mut bridged = Flow::open(&b.namespace, (a.address, 80), &listener).unwrap();
    let mut published = Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap();
    bridged.exchange().unwrap();
    published.exchange().unwrap();

    scene.end_daemon(Signal::SIGKILL);
    assert_eq!(
        interfaces(&a.namespace),
        before_a,
        "the interface is there without a daemon"
    );
    assert_eq!(a.namespace.mac("eth0"), mac);
    assert_eq!(scene.host_interfaces(), before_host);

    scene.start_daemon();
    // Established connections go on: TCP repeats what was lost meanwhile.
    bridged
        .exchange()
        .expect("the flow through the bridge goes on");
    published
        .exchange()
        .expect("the flow to the published port goes on");
    assert_eq!(address_of(&scene.json(&["inspect", "a"])), a.address);
    assert_eq!(a.namespace.mac("eth0"), mac);
    let names = |containers: &serde_json::Value| -> Vec<String> {
        let rows = containers.as_array().expect("a list").iter();
        let mut names: Vec<String> = rows.map(|row| row["name"].to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&scene.json(&["ps"])), names(&before_containers));
    // And all that was there works anew.
    ping(&a.namespace, b.address).success();
    Flow::open(&scene.outside, (HOST, 8080), &listener)
        .unwrap()
        .exchange()
        .unwrap();
    Flow::open(&scene.host, (LOOPBACK, 8080), &listener)
        .unwrap()
        .exchange()
        .unwrap();
    Flow::open(&a.namespace, (BEYOND, 80), &beyond)
        .unwrap()
        .exchange()
        .unwrap();
    let server = bind_udp(&a.namespace, (ANY, 53));
    let mut datagrams = Datagrams::open(&scene.outside, (HOST, 5353), server);
    assert_eq!(datagrams.exchange(10).unwrap().ip(), OUTSIDE);
    let pong = run_within(
        scene
            .host
            .command("redis-cli")
            .args(["-h", "127.0.0.1", "-p", "6379", "ping"]),
        Duration::from_secs(10),
    );
    assert_eq!(pong.success().trim(), "PONG");
    assert_eq!(
        scene.host_interfaces().len(),
        before_host.len(),
        "no interface more"
    );
    // A process that the first daemon knew, and the second one must notice.
    scene.pontoon(&["detach", "redis"]).success();
    scene.pontoon(&["detach", "a"]).success();
    assert_eq!(interfaces(&a.namespace), ["lo"]);
}

// Feature: restart
#[test]
fn a_killed_daemon_loses_no_tap() {
    a_killed_daemon_loses_nothing(PORT_KINDS[0]);
}

// Feature: restart
#[test]
fn a_killed_daemon_loses_no_veth() {
    a_killed_daemon_loses_nothing(PORT_KINDS[1]);
}

// Feature: restart moby-36591 plugins-752
#[test]
fn what_died_meanwhile_is_forgotten() {
    for port_kind in PORT_KINDS {
        let Some(mut scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        let clean = scene.host_interfaces();
        scene.run_detached("process", &["-p", "8080:80"], &["sleep", "1000"]);
        let process = scene.json(&["inspect", "process"]);
        let process = process.get(0).unwrap_or(&process);
        let pid = process["target"]["pid"].to_string();
        let namespace = scene.container("namespace", &["-p", "8081:80"]);
        let address = namespace.address;
        scene.end_daemon(Signal::SIGKILL);
        drop(namespace);
        run_within(
            Command::new("kill").args(["-9", &pid]),
            Duration::from_secs(5),
        )
        .success();
        std::thread::sleep(Duration::from_millis(200));
        scene.start_daemon();
        let running = scene.json(&["ps"]);
        assert_eq!(
            running.as_array().map(Vec::len),
            Some(0),
            "{port_kind}: {running}"
        );
        assert_eq!(scene.host_interfaces(), clean, "{port_kind}: no ghosts");
        // Ports and addresses are free again.
        let next = scene.container(
            "next",
            &[
                "-p",
                "8080:80",
                "-p",
                "8081:81",
                "--ip",
                &address.to_string(),
            ],
        );
        assert_eq!(next.address, address);
    }
}

// Feature: restart
/// What was asked for is there again, and what can't be is told, in the log and as events.
// Feature: restart events
#[test]
fn what_vanished_meanwhile_is_made_anew_and_told() {
    for port_kind in PORT_KINDS {
        let Some(mut scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        let web = scene.container("web", &["-p", "8080:80", "-p", "8081:81"]);
        let ends = scene.container("ends", &[]);
        let host_end = scene.json(&["inspect", "web"])["endpoints"][0]["host_interface"].clone();
        scene.end_daemon(Signal::SIGKILL);
        web.namespace.ip("link del eth0");
        scene.host.ip("link del pontoon0");
        drop(ends);
        let _squatter = scene.host.within(|| TcpListener::bind("0.0.0.0:8081"));
        scene.start_daemon();
        let listener = listen(&web.namespace, (ANY, 80));
        Flow::open(&scene.outside, (HOST, 8080), &listener)
            .unwrap()
            .exchange()
            .unwrap();
        ping(&scene.host, web.address).success();
        let now = scene.json(&["inspect", "web"]);
        assert_eq!(address_of(&now), web.address);
        assert_eq!(now["endpoints"][0]["host_interface"], host_end);
        assert_eq!(now["published"].as_array().map(Vec::len), Some(1));

        let told = events_so_far(&scene);
        for (kind, action, name) in [
            ("interface", "restored", "pontoon0"),
            ("endpoint", "restored", "web"),
            ("port", "pending", "web"),
            ("container", "ended", "ends"),
        ] {
            let found = told.iter().find(|event| {
                event["kind"] == kind && event["action"] == action && event["name"] == name
            });
            let found = found.unwrap_or_else(|| panic!("{kind} {name} {action}: {told:#?}"));
            assert!(found["reason"].is_string(), "{found}");
        }
        let log = scene.log();
        for said in [
            "eth0 of web was not there",
            "is pending, until it can be had",
            "ends is not adopted",
        ] {
            assert!(log.contains(said), "{said:?} is not in\n{log}");
        }
        // All is as it should be, so the next start has nothing to tell.
        scene.end_daemon(Signal::SIGKILL);
        scene.start_daemon();
        let told = events_so_far(&scene);
        assert!(
            told.iter().all(|event| event["action"] == "adopted"
                || event["kind"] == "endpoint"
                || event["kind"] == "port"),
            "{told:#?}"
        );
        assert!(!told.iter().any(|event| event["action"] == "restored"));
    }
}

/// What the daemon has told in this life.
fn events_so_far(scene: &Scene) -> Vec<Value> {
    let mut command = scene.host_command("timeout");
    command.arg("1").arg(pontoon_tests::pontoon());
    command.args(["events", "--json", "--since", "0"]);
    let output = command.output().expect("it starts");
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn a_stop_is_clean_and_leaves_the_interfaces() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        if scene.daemon_has_ended() {
            scene.start_daemon();
        }
        let name = format!("web-{}", signal.as_str().to_lowercase());
        let web = scene.container(&name, &[]);
        let start = Instant::now();
        let status = scene.end_daemon(signal);
        assert!(status.success(), "{signal}: {status}");
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "{signal}: {:?}",
            start.elapsed()
        );
        assert!(!scene.socket().exists(), "{signal}: the socket goes");
        assert_eq!(interfaces(&web.namespace), ["lo", "eth0"], "{signal}");
        scene.start_daemon();
        let listener = listen(&web.namespace, (ANY, 80));
        Flow::open(&scene.host, (web.address, 80), &listener)
            .unwrap()
            .exchange()
            .unwrap();
    }
}

#[test]
fn two_daemons_on_one_state() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &[]);
    // The same directories; the same state with another socket.
    let mut other_run_dir = scene.host_command(pontoon_tests::pontoon());
    other_run_dir
        .arg("daemon")
        .arg("--state-dir")
        .arg(scene.state_dir());
    other_run_dir
        .arg("--run-dir")
        .arg(scene.directory().join("run2"));
    other_run_dir
        .arg("--socket")
        .arg(scene.directory().join("run2/pontoon.sock"));
    for command in [&mut scene.daemon_command(), &mut other_run_dir] {
        let error = run_within(command, Duration::from_secs(10)).failure();
        assert!(
            error.contains("another") && error.contains("daemon"),
            "{error}"
        );
        let state_dir = scene.state_dir().to_str().expect("an ASCII path");
        assert!(error.contains(state_dir), "which state: {error}");
    }
    // The first one has noticed nothing.
    ping(&scene.host, web.address).success();
    scene.json(&["ps"]);
}

#[test]
fn two_daemons_side_by_side() {
    let (Some(first), Some(second)) = (Scene::new(), Scene::new()) else {
        return;
    };
    let containers = [&first, &second].map(|scene| scene.container("web", &["-p", "8080:80"]));
    for (scene, container) in [&first, &second].into_iter().zip(&containers) {
        let listener = listen(&container.namespace, (ANY, 80));
        Flow::open(&scene.outside, (HOST, 8080), &listener)
            .unwrap()
            .exchange()
            .unwrap();
        Flow::open(&scene.host, (LOOPBACK, 8080), &listener)
            .unwrap()
            .exchange()
            .unwrap();
    }
}

/// A mount that goes with the value.
struct TinyDisk<'a>(&'a Path);

impl TinyDisk<'_> {
    fn mount(path: &Path) -> TinyDisk<'_> {
        std::fs::create_dir_all(path).expect("a directory for the mount");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=8m", "pontoon-test"])
            .arg(path);
        run_within(&mut mount, Duration::from_secs(5)).success();
        TinyDisk(path)
    }
}

impl Drop for TinyDisk<'_> {
    fn drop(&mut self) {
        // Lazily, as the daemon may still be there.
        let mut unmount = Command::new("umount");
        run_within(unmount.arg("-l").arg(self.0), Duration::from_secs(5));
    }
}

// Feature: restart
#[test]
fn a_full_disk_is_an_error_and_no_more() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let disk = scene.directory().join("disk");
    let _disk = TinyDisk::mount(&disk);
    scene.set_state_dir(disk.join("state"));
    scene.start_daemon();
    let web = scene.container("web", &["-p", "8080:80"]);
    let listener = listen(&web.namespace, (ANY, 80));
    let mut flow = Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap();

    let filler = disk.join("filler");
    // Ends with ENOSPC, as it should.
    std::fs::write(&filler, vec![0; 9 << 20]).expect_err("the disk is full");
    // The store may have some room of its own left.
    let mut created = Vec::new();
    let error = (0..200)
        .find_map(|number| {
            let name = format!("n{number}");
            let interfaces = scene.host_interfaces();
            let output = scene.pontoon(&["network", "create", &name]);
            if output.status.success() {
                created.push(name);
                return None;
            }
            assert_eq!(scene.host_interfaces(), interfaces, "what failed is undone");
            Some(output.failure())
        })
        .expect("a full disk fails something");
    let says_why = ["space", "ENOSPC", "disk"]
        .iter()
        .any(|word| error.contains(word));
    assert!(says_why, "{error}");
    // It goes on with all it has.
    flow.exchange().unwrap();
    Flow::open(&scene.outside, (HOST, 8080), &listener)
        .unwrap()
        .exchange()
        .unwrap();
    let listed = scene.json(&["network", "ls"]).as_array().map(Vec::len);
    assert_eq!(listed, Some(created.len() + 1));
    // A small change may still find room; a change that does not is told.
    let output = scene.pontoon(&["run", "--name", "early", "--", "true"]);
    if !output.status.success() {
        let error = output.failure();
        assert!(error.contains("disk"), "{error}");
    }

    std::fs::remove_file(&filler).expect("the filler can go");
    scene.pontoon(&["network", "create", "later"]).success();
    scene
        .pontoon(&["run", "--rm", "--name", "late", "--", "true"])
        .success();
    // And what it stored before, in the middle and after is there after a restart.
    scene.end_daemon(Signal::SIGKILL);
    scene.start_daemon();
    let listed = scene.json(&["network", "ls"]).as_array().map(Vec::len);
    assert_eq!(listed, Some(created.len() + 2));
    assert_eq!(address_of(&scene.json(&["inspect", "web"])), web.address);
    flow.exchange().unwrap();
    scene.end_daemon(Signal::SIGTERM);
}

#[test]
fn a_state_that_is_no_state_is_named() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    scene.start_daemon();
    scene.end_daemon(Signal::SIGTERM);
    let files: Vec<_> = std::fs::read_dir(scene.state_dir())
        .expect("the state directory")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.len() > 0)
        })
        .collect();
    assert!(!files.is_empty(), "the state is in files");
    for file in &files {
        std::fs::write(file, b"this is no database").expect("root can write");
    }
    let error = run_within(&mut scene.daemon_command(), Duration::from_secs(10)).failure();
    let named = files
        .iter()
        .any(|file| error.contains(file.to_str().expect("ASCII")));
    assert!(named, "{error}");
    assert!(error.contains("move it away"), "{error}");
    // A state directory that can't be one.
    let file = scene.directory().join("file");
    std::fs::write(&file, b"").expect("a file can be written");
    scene.set_state_dir(file.clone());
    let error = run_within(&mut scene.daemon_command(), Duration::from_secs(10)).failure();
    assert!(error.contains(file.to_str().expect("ASCII")), "{error}");
}

// Feature: moby-36591 plugins-752
/// A disk that loses or changes bytes: a daemon starts with what is whole, or says what is not and
/// what to do. It never panics.
// Feature: restart
#[test]
fn a_store_that_is_damaged_is_told_of() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.pontoon(&["network", "create", "blue"]).success();
    let web = scene.container("web", &["-p", "8080:80"]);
    scene.end_daemon(Signal::SIGTERM);
    let path = scene.state_dir().join("pontoon.redb");
    let whole = std::fs::read(&path).expect("the store");
    let mut refused = 0;
    for round in 0..24_usize {
        let mut damaged = whole.clone();
        match round % 3 {
            0 => damaged.truncate(whole.len() * (round + 1) / 25),
            1 => {
                let at = whole.len() * round / 24;
                let end = (at + 512).min(whole.len());
                damaged[at..end].fill(0xa5);
            }
            _ => {
                // What is in use lies at the beginning, mostly.
                let at = 512 * round;
                damaged[at % whole.len()] ^= 0x40;
                damaged[round] ^= 0x01;
            }
        }
        std::fs::write(&path, &damaged).expect("root can write");
        let mut daemon = Background::start(&mut scene.daemon_command());
        let answers = || scene.request("GET", "/v1/info", None).is_ok();
        let begun = Instant::now();
        while daemon.has_ended().is_none() && !answers() {
            assert!(begun.elapsed() < Duration::from_secs(10), "round {round}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let ended = daemon.end(Signal::SIGTERM);
        let said = daemon.output();
        assert!(!said.contains("panicked"), "round {round}: {said}");
        if !ended.success() {
            refused += 1;
            let helps = said.contains("pontoon.redb") && said.contains("move it away");
            assert!(helps, "round {round}: {said}");
        }
    }
    assert!(refused > 4, "{refused} of the damaged stores were refused");
    std::fs::write(&path, &whole).expect("root can write");
    scene.start_daemon();
    let listed = scene.json(&["network", "ls"]).as_array().map(Vec::len);
    assert_eq!(listed, Some(2));
    drop(web);
}

#[test]
fn the_end_of_a_namespace_or_an_interface_is_the_end_of_a_port() {
    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        let clean = scene.host_interfaces();
        let stays = scene.container("stays", &[]);
        let with_one = scene.host_interfaces();
        let gone = |name: &str| {
            eventually("the container is gone", Duration::from_secs(8), || {
                let rows = scene.json(&["ps"]).to_string();
                if rows.contains(&format!("\"{name}\"")) {
                    Err(rows)
                } else {
                    Ok(())
                }
            });
        };
        // A namespace that dies.
        let dies = scene.container("dies", &["-p", "8080:80"]);
        let address = dies.address;
        ping(&stays.namespace, dies.address).success();
        drop(dies);
        gone("dies");
        assert_eq!(scene.host_interfaces(), with_one, "{port_kind}");
        // An interface that is deleted from inside, as root of a container can.
        let loses = scene.container("loses", &["-p", "8080:80", "--ip", &address.to_string()]);
        assert_eq!(loses.address, address, "the address is free again");
        loses.namespace.ip("link del eth0");
        gone("loses");
        assert_eq!(scene.host_interfaces(), with_one, "{port_kind}");
        let learned = scene.json(&["fdb"]).to_string();
        assert!(!learned.contains("loses"), "{learned}");
        // One that is only down comes back.
        let down = scene.container("down", &["-p", "8080:80"]);
        down.namespace.ip("link set eth0 down");
        std::thread::sleep(Duration::from_millis(300));
        down.namespace.ip("link set eth0 up");
        ping(&stays.namespace, down.address).success();
        drop(stays);
        gone("stays");
        drop(down);
        gone("down");
        assert_eq!(scene.host_interfaces(), clean, "{port_kind}");
    }
}

/// The news of a port's end may come when its number is another's already.
#[test]
fn a_new_container_does_not_inherit_the_end_of_another() {
    let Some(scene) = Scene::new() else { return };
    let mut survivors = Vec::new();
    for round in 0..6 {
        let old = scene.container("old", &[]);
        let next = Namespace::new("next");
        // The kernel takes a namespace apart some time after its name is gone.
        drop(old);
        if round % 2 == 0 {
            scene.pontoon(&["detach", "old"]);
        } else {
            eventually("the old one is gone", Duration::from_secs(8), || {
                let rows = scene.json(&["ps"]).to_string();
                if rows.contains("\"old\"") {
                    Err(rows)
                } else {
                    Ok(())
                }
            });
        }
        let name = format!("new{round}");
        survivors.push((name.clone(), scene.attach(next, &name, &[])));
    }
    std::thread::sleep(Duration::from_millis(500));
    let running = scene.json(&["ps"]).to_string();
    for (name, container) in &survivors {
        assert!(running.contains(&format!("\"{name}\"")), "{name} has ended");
        ping(&scene.host, container.address).success();
    }
}
