//! The daemon in service: containers that end, events, access, service managers.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pontoon_tests::eventually;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::{Background, Output, run, run_within, signal_process};
use pontoon_tests::scene::Scene;
use serde_json::Value;

/// The row of a container in `ps --all`.
fn row(scene: &Scene, name: &str) -> Value {
    let rows = scene.json(&["ps", "--all"]);
    let found = rows.as_array().expect("a list").iter();
    let mut found = found.filter(|row| row["name"] == name);
    found
        .next()
        .unwrap_or_else(|| panic!("no {name} in {rows}"))
        .clone()
}

/// `sh` in the background, which does as told when a signal comes, and else waits.
fn run_shell(scene: &Scene, name: &str, options: &[&str], script: &str) {
    let ready = scene.directory().join(format!("{name}.ready"));
    let script = format!(
        "{script}\ntouch {}\nwhile :; do sleep 0.05; done",
        ready.display()
    );
    scene.run_detached(name, options, &["sh", "-c", &script]);
    eventually("the shell listens", Duration::from_secs(10), || {
        if ready.exists() {
            Ok(())
        } else {
            Err(String::new())
        }
    });
}

// Feature: operations
#[test]
fn exit_codes_are_told() {
    let Some(scene) = Scene::new() else { return };
    for (name, script, code) in [
        ("fine", "exit 0", 0),
        ("bad", "exit 3", 3),
        ("shot", "kill -SEGV $$", 139),
    ] {
        let output = scene.pontoon(&["run", "--name", name, "--", "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(code), "{name}");
        assert_eq!(row(&scene, name)["exit_code"], code, "{name}");
        let waited = scene.pontoon(&["wait", name]).success();
        assert_eq!(waited.trim(), code.to_string(), "{name}");
    }
    let listed = scene.pontoon(&["ps", "-a"]).success();
    assert!(
        listed.contains("exited (3)") && listed.contains("exited (139)"),
        "{listed}"
    );
    // Docker's codes for what never ran.
    let code = |command: &str| scene.pontoon(&["run", "--rm", "--", command]).status.code();
    assert_eq!(code("no-such-program"), Some(127));
    assert_eq!(code("/etc/passwd"), Some(126));
    let output = scene.pontoon(&["run", "--net", "nowhere", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
}

// Feature: operations api
#[test]
fn failures_have_codes_of_their_own() {
    let Some(scene) = Scene::new() else { return };
    let code = |arguments: &[&str]| scene.pontoon(arguments).status.code();
    assert_eq!(code(&["ps"]), Some(0));
    assert_eq!(code(&["inspect", "nobody"]), Some(1));
    assert_eq!(code(&["rm", "nobody", "--json"]), Some(1));
    assert_eq!(code(&["ps", "--no-such-option"]), Some(2));
    assert_eq!(code(&["run", "--no-such-option"]), Some(125));
    assert_eq!(code(&["exec", "nobody", "--", "true"]), Some(125));
    let told = scene.pontoon(&["--help"]).success();
    assert!(told.contains("125 for an error of pontoon's own"), "{told}");
}

/// Commands that change something tell what became of it.
// Feature: api
#[test]
fn every_change_speaks_json() {
    let Some(scene) = Scene::new() else { return };
    let tells = |arguments: &[&str], name: &str| {
        let told = scene.json(arguments);
        assert_eq!(told["name"], name, "{arguments:?}: {told}");
        told
    };
    tells(&["network", "create", "blue"], "blue");
    let namespace = Namespace::new("json");
    let path = namespace.path();
    let path = path.to_str().expect("an ASCII path");
    tells(&["attach", "--netns", path, "--name", "web"], "web");
    let web = tells(&["network", "connect", "blue", "web"], "web");
    assert_eq!(web["endpoints"][1]["network"], "blue");
    let web = tells(&["publish", "web", "-p", "8080:80"], "web");
    assert_eq!(web["published"][0]["host_port"], 8080);
    tells(&["unpublish", "web", "-p", "8080:80"], "web");
    tells(&["network", "disconnect", "blue", "web"], "web");
    tells(&["detach", "web"], "web");
    tells(&["network", "rm", "blue"], "blue");
    scene.pontoon(&["network", "create", "red"]).success();
    assert_eq!(scene.json(&["network", "prune"])[0]["name"], "red");
    // `--json` must not be taken for a word of the command.
    let arguments = [
        "run", "-d", "--json", "--name", "job", "--", "sleep", "1000",
    ];
    let told = scene.pontoon(&arguments).success();
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["name"], "job");
    tells(&["kill", "--signal", "CONT", "job"], "job").as_object();
    tells(&["stop", "-t", "0", "job"], "job");
    tells(&["rm", "job"], "job");
}

// Feature: operations
#[test]
fn stop_asks_first_and_kills_then() {
    let Some(scene) = Scene::new() else { return };
    run_shell(&scene, "willing", &[], "trap 'exit 4' TERM");
    run_shell(&scene, "deaf", &["-p", "8080:80"], "trap '' TERM");
    run_shell(&scene, "gone", &["--rm"], "trap 'exit 5' TERM");
    let start = Instant::now();
    let stopped = scene.pontoon(&["stop", "willing", "gone"]).success();
    assert_eq!(stopped, "willing\ngone\n");
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "nobody waited for the time to be up"
    );
    assert_eq!(row(&scene, "willing")["exit_code"], 4);
    let start = Instant::now();
    scene.pontoon(&["stop", "-t", "1", "deaf"]).success();
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "it had its second"
    );
    let deaf = row(&scene, "deaf");
    assert_eq!(
        (&deaf["status"], &deaf["exit_code"]),
        (&Value::from("exited"), &Value::from(137))
    );
    assert_eq!(
        deaf["published"],
        Value::Array(Vec::new()),
        "its port is free"
    );
    // One that has ended is stopped already; one that is not there is an error.
    scene.pontoon(&["stop", "deaf"]).success();
    let error = scene.pontoon(&["stop", "nobody", "willing"]).failure();
    assert!(error.contains("nobody"), "{error}");
}

// Feature: operations
#[test]
fn kill_sends_what_it_is_told() {
    let Some(scene) = Scene::new() else { return };
    let note = scene.directory().join("note");
    run_shell(
        &scene,
        "web",
        &[],
        &format!("trap 'echo hup >{}' HUP", note.display()),
    );
    scene.pontoon(&["kill", "-s", "HUP", "web"]).success();
    eventually("the signal arrives", Duration::from_secs(5), || {
        std::fs::read_to_string(&note).map_err(|error| error.to_string())
    });
    assert_eq!(row(&scene, "web")["status"], "running");
    // Any signal there is; what is stopped can be killed.
    scene.pontoon(&["kill", "-s", "STOP", "web"]).success();
    let error = scene.pontoon(&["kill", "-s", "NONE", "web"]).failure();
    assert!(error.contains("NONE"), "{error}");
    let waiting = {
        let mut wait = scene.host_command(pontoon_tests::pontoon());
        wait.args(["wait", "web"]).stdout(Stdio::piped());
        wait.spawn().expect("pontoon wait starts")
    };
    thread::sleep(Duration::from_millis(200));
    scene.pontoon(&["kill", "web"]).success();
    let waited = waiting.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&waited.stdout), "137\n");
    let error = scene.pontoon(&["kill", "web"]).failure();
    assert!(error.contains("exited already"), "{error}");
    // What pontoon did not start is not pontoon's to end.
    let attached = scene.container("attached", &[]);
    let error = scene.pontoon(&["kill", "attached"]).failure();
    assert!(error.contains("attached, not run"), "{error}");
    drop(attached);
}

/// The stream of events as it comes, line by line.
struct Events {
    program: Background,
    read: usize,
}

impl Events {
    fn listen(scene: &Scene, options: &[&str]) -> Events {
        let mut command = scene.host_command(pontoon_tests::pontoon());
        let program = Background::start(command.args(["events", "--json"]).args(options));
        // Until it listens, nothing can be awaited.
        thread::sleep(Duration::from_millis(700));
        Events { program, read: 0 }
    }

    /// Reads up to an event of this kind and action, and returns it.
    fn until(&mut self, kind: &str, action: &str) -> Value {
        eventually(&format!("{kind} {action}"), Duration::from_secs(10), || {
            let output = self.program.output();
            let mut lines = output.lines().skip(self.read);
            let mut passed = 0;
            let found = lines.find_map(|line| {
                passed += 1;
                let event: Value = serde_json::from_str(line).ok()?;
                (event["kind"] == kind && event["action"] == action).then_some(event)
            });
            if found.is_some() {
                self.read += passed;
            }
            found.ok_or(output)
        })
    }
}

// Feature: events
#[test]
fn what_happens_is_told_as_it_happens() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let mut events = Events::listen(&scene, &[]);
    scene.pontoon(&["network", "create", "backend"]).success();
    assert_eq!(events.until("network", "created")["name"], "backend");
    run_shell(
        &scene,
        "web",
        &["--rm", "--net", "backend", "-p", "8080:80"],
        "trap 'exit 6' TERM",
    );
    assert_eq!(events.until("container", "created")["name"], "web");
    assert_eq!(events.until("endpoint", "connected")["network"], "backend");
    assert_eq!(events.until("port", "published")["port"]["host_port"], 8080);
    scene
        .pontoon(&["publish", "web", "-p", "8081:81"])
        .success();
    assert_eq!(events.until("port", "published")["port"]["host_port"], 8081);
    scene
        .pontoon(&["unpublish", "web", "-p", "8080:80"])
        .success();
    assert_eq!(events.until("port", "withdrawn")["port"]["host_port"], 8080);
    scene.pontoon(&["stop", "web"]).success();
    assert_eq!(events.until("container", "ended")["exit_code"], 6);
    assert_eq!(events.until("port", "withdrawn")["port"]["host_port"], 8081);
    events.until("container", "removed");
    scene.pontoon(&["network", "rm", "backend"]).success();
    events.until("network", "removed");

    // What nobody asked the daemon for.
    let loses = scene.container("loses", &[]);
    events.until("container", "created");
    loses.namespace.ip("link del eth0");
    let ended = events.until("container", "ended");
    assert!(
        ended["reason"]
            .as_str()
            .is_some_and(|it| it.contains("interface")),
        "{ended}"
    );
    scene.host.ip("link set eth0 mtu 1400");
    assert_eq!(events.until("interface", "changed")["name"], "eth0");
    scene.host.ip("link del pontoon0");
    assert_eq!(events.until("interface", "restored")["name"], "pontoon0");

    // The next daemon says what it has taken over, to those who ask for its past.
    let stays = scene.container("stays", &[]);
    scene.end_daemon(Signal::SIGKILL);
    scene.start_daemon();
    let mut events = Events::listen(&scene, &["--since", "0", "--filter", "action=adopted"]);
    assert_eq!(events.until("network", "adopted")["name"], "bridge");
    assert_eq!(events.until("container", "adopted")["name"], "stays");
    assert!(
        !events.program.output().contains("created"),
        "{}",
        events.program.output()
    );
    drop(stays);
}

// Feature: events
#[test]
fn a_slow_reader_costs_nothing_and_is_told() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &[]);
    let mut slow = UnixStream::connect(scene.socket()).expect("the daemon listens");
    slow.write_all(b"GET /v1/events?since=0 HTTP/1.1\r\nHost: p\r\n\r\n")
        .expect("a request");
    // More than the socket's buffers and the daemon's memory of events hold.
    let mappings: Vec<String> = (0..400)
        .map(|number| {
            let (host, inside) = (20_000 + number, 1 + number);
            format!(
                r#"{{"protocol":"udp","host_ip":"127.0.0.1","host_port":{host},"container_port":{inside},"count":1}}"#
            )
        })
        .collect();
    let body = format!("[{}]", mappings.join(","));
    let start = Instant::now();
    for _ in 0..6 {
        for method in ["POST", "DELETE"] {
            let (status, answer) = scene
                .request(method, "/v1/containers/web/ports", Some(&body))
                .expect("an answer");
            assert_eq!(status, 200, "{answer}");
        }
    }
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "nobody waits for a reader"
    );
    slow.set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout");
    let mut told = 0;
    let mut lost = 0;
    for line in BufReader::new(slow).lines() {
        let Ok(line) = line else { break };
        let Ok(event) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        match event["lost"].as_u64() {
            Some(count) => lost += count,
            None if event.is_object() => told += 1,
            None => {}
        }
    }
    assert!(lost > 0, "{told} told, {lost} lost");
    // The network, the container and its endpoint come before the ports.
    assert!(
        told + lost >= 4800,
        "{told} told, {lost} lost: none is missing unsaid"
    );
    drop(web);
}

/// `pontoon` as another user, who has only what a group may do.
fn as_user(scene: &Scene, uid: u32, gid: u32, arguments: &[&str]) -> Output {
    let program = scene.directory().join("pontoon");
    if !program.exists() {
        // Where it was built may be closed to others.
        std::fs::copy(pontoon_tests::pontoon(), &program).expect("the program can be copied");
    }
    let mut command = scene.host_command("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
    command
        .args(["--clear-groups"])
        .arg(program)
        .args(arguments);
    run(&mut command)
}

// Feature: access
#[test]
fn a_group_may_look_and_root_may_change() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    // A group that every system has.
    let group = nix::unistd::Group::from_name("daemon");
    let gid = group
        .expect("the groups can be read")
        .expect("there is one")
        .gid
        .as_raw();
    let open = Permissions::from_mode(0o755);
    std::fs::set_permissions(scene.directory(), open).expect("the directory is ours");
    scene.set_daemon_options(&["--group", "daemon"]);
    scene.start_daemon();
    let socket = std::fs::metadata(scene.socket()).expect("a socket");
    assert_eq!(
        (socket.uid(), socket.gid(), socket.mode() & 0o777),
        (0, gid, 0o660)
    );

    let web = scene.container("web", &[]);
    let listed = as_user(&scene, 65534, gid, &["ps"]).success();
    assert!(listed.contains("web"), "{listed}");
    as_user(&scene, 65534, gid, &["network", "ls"]).success();
    for arguments in [
        &["detach", "web"][..],
        &["network", "create", "mine"],
        &["publish", "web", "-p", "8080:80"],
        &["kill", "web"],
    ] {
        let error = as_user(&scene, 65534, gid, arguments).failure();
        assert!(
            error.contains("user 65534 may read") && error.contains("as root"),
            "{error}"
        );
    }
    let stranger = as_user(&scene, 65534, 65534, &["ps"]).failure();
    assert!(stranger.contains("no permission"), "{stranger}");
    assert_eq!(
        row(&scene, "web")["status"],
        "running",
        "nothing has changed"
    );
    scene.end_daemon(Signal::SIGTERM);
    scene.set_daemon_options(&["--group", "no-such-group"]);
    let error = run_within(&mut scene.daemon_command(), Duration::from_secs(10)).failure();
    assert!(error.contains("no-such-group"), "{error}");
    drop(web);
}

// Feature: service
#[test]
fn a_service_manager_is_heard_and_told() {
    let Some(scene) = Scene::without_daemon("tap") else {
        return;
    };
    std::fs::create_dir_all(scene.run_dir()).expect("a directory");
    let listener = UnixListener::bind(scene.socket()).expect("a socket");
    let notes = scene.directory().join("notify");
    let notify = UnixDatagram::bind(&notes).expect("a socket");
    notify
        .set_read_timeout(Some(Duration::from_secs(15)))
        .expect("a timeout");
    let hear = || {
        let mut buffer = [0; 256];
        let length = notify.recv(&mut buffer).expect("a word from the daemon");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    // The client is there before the daemon, as with socket activation.
    let mut early = UnixStream::connect(scene.socket()).expect("the queue takes it");
    early
        .write_all(b"GET /v1/info HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n")
        .expect("a request");

    let daemon = scene.daemon_command();
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\" 3<&0 </dev/null",
        "sh",
    ]);
    command.arg(daemon.get_program()).args(daemon.get_args());
    command.envs(
        daemon
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    command
        .env("NOTIFY_SOCKET", &notes)
        .env("WATCHDOG_USEC", "200000");
    let mut daemon = command
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .spawn()
        .expect("the daemon starts");
    let ready = hear();
    assert!(ready.contains("READY=1"), "{ready}");
    early
        .set_read_timeout(Some(Duration::from_secs(15)))
        .expect("a timeout");
    let answer = std::io::read_to_string(early).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let start = Instant::now();
    for _ in 0..5 {
        assert_eq!(hear().trim(), "WATCHDOG=1");
    }
    // Half a second, on a machine that has nothing else to do.
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    scene.pontoon(&["ps"]).success();

    signal_process(daemon.id(), Signal::SIGTERM);
    eventually("it says that it stops", Duration::from_secs(15), || {
        let heard = hear();
        if heard.contains("STOPPING=1") {
            Ok(())
        } else {
            Err(heard)
        }
    });
    assert!(daemon.wait().expect("it ends").success());
    assert!(
        scene.socket().exists(),
        "the socket is its manager's to remove"
    );
}

// Feature: service
#[test]
fn what_is_no_socket_is_refused() {
    let Some(scene) = Scene::without_daemon("tap") else {
        return;
    };
    let daemon = scene.daemon_command();
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\" 3</dev/null",
        "sh",
    ]);
    command.arg(daemon.get_program()).args(daemon.get_args());
    let error = run_within(&mut command, Duration::from_secs(10)).failure();
    assert!(error.contains("LISTEN_FDS"), "{error}");
}
