//! The processes of containers: which they are, what they have, and that none is left when its
//! container is over.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use pontoon_tests::eventually;
use pontoon_tests::process::{Background, run, signal_process};
use pontoon_tests::scene::Scene;

const LIMIT: Duration = Duration::from_secs(20);

/// The process ids of all that run `sleep SECONDS`.
fn sleepers(seconds: u32) -> Vec<u32> {
    let command = format!("sleep\0{seconds}\0");
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|it| it == command.as_bytes())
    })
    .collect()
}

#[track_caller]
fn one_sleeper(seconds: u32) -> u32 {
    eventually("the command runs", LIMIT, || match sleepers(seconds)[..] {
        [pid] => Ok(pid),
        ref pids => Err(format!("{pids:?}")),
    })
}

#[track_caller]
fn no_sleeper(seconds: u32) {
    eventually(
        "the command is gone",
        LIMIT,
        || match sleepers(seconds)[..] {
            [] => Ok(()),
            ref pids => Err(format!("sleep {seconds} goes on: {pids:?}")),
        },
    );
}

fn supervisor(scene: &Scene, name: &str) -> u32 {
    let container = scene.json(&["inspect", name]);
    let container = container.get(0).unwrap_or(&container);
    let pid = container["target"]["pid"].as_u64().expect("a pid");
    u32::try_from(pid).expect("a pid")
}

fn exit_code(scene: &Scene, name: &str) -> Value {
    scene.json(&["wait", name])["exit_code"].clone()
}

/// prctl(2): the parent-death signal is cleared when a process changes its user.
#[test]
fn a_command_that_drops_privileges_ends_with_its_container() {
    let Some(scene) = Scene::new() else { return };
    let drop = "setpriv --reuid=65534 --clear-groups";
    scene.run_detached(
        "killed",
        &[],
        &["sh", "-c", &format!("exec {drop} sleep 86401")],
    );
    one_sleeper(86401);
    scene.pontoon(&["kill", "-s", "KILL", "killed"]).success();
    assert_eq!(exit_code(&scene, "killed"), 137);
    no_sleeper(86401);

    let stubborn = format!("trap '' TERM; exec {drop} sleep 86402");
    scene.run_detached("stopped", &[], &["sh", "-c", &stubborn]);
    one_sleeper(86402);
    scene.pontoon(&["stop", "-t", "0", "stopped"]).success();
    assert_eq!(exit_code(&scene, "stopped"), 137);
    no_sleeper(86402);

    // The supervisor can do nothing: the daemon ends the command and what it started.
    let family = format!("{drop} sleep 86403 & exec {drop} sleep 86404");
    for options in [&[][..], &["--net", "none"], &["--port-kind", "veth"]] {
        let options = [options, &["--rm"]].concat();
        scene
            .pontoon(
                &[
                    &["run", "-d", "--name", "orphan"],
                    &options[..],
                    &["--", "sh", "-c", &family],
                ]
                .concat(),
            )
            .success();
        one_sleeper(86403);
        one_sleeper(86404);
        signal_process(supervisor(&scene, "orphan"), Signal::SIGKILL);
        no_sleeper(86403);
        no_sleeper(86404);
        eventually("it is forgotten", LIMIT, || {
            match scene.json(&["ps", "-a"]).to_string() {
                rows if rows.contains("orphan") => Err(rows),
                _ => Ok(()),
            }
        });
    }
    // In the host's namespaces there is the command alone to know.
    scene
        .pontoon(&[
            "run",
            "-d",
            "--name",
            "host",
            "--net",
            "host",
            "--",
            "sh",
            "-c",
            &format!("exec {drop} sleep 86405"),
        ])
        .success();
    one_sleeper(86405);
    signal_process(supervisor(&scene, "host"), Signal::SIGKILL);
    no_sleeper(86405);
}

#[test]
fn what_ended_while_no_daemon_ran_leaves_no_command() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let command = "exec setpriv --reuid=65534 --clear-groups sleep 86411";
    scene.run_detached("orphan", &[], &["sh", "-c", command]);
    one_sleeper(86411);
    let supervisor = supervisor(&scene, "orphan");
    scene.end_daemon(Signal::SIGKILL);
    signal_process(supervisor, Signal::SIGKILL);
    scene.start_daemon();
    no_sleeper(86411);
}

#[test]
fn nothing_that_a_command_started_outlives_it() {
    let Some(scene) = Scene::new() else { return };
    // One that has left the session, one in mounts of its own, one that ignores what it can.
    let script = "setsid sleep 86421 & unshare -m sleep 86422 & \
                  (trap '' TERM HUP INT; exec sleep 86423) & read line";
    for mode in ["bridge", "host"] {
        let mut command = scene.host_command(pontoon_tests::pontoon());
        command.args(["run", "--rm", "--net", mode, "--", "sh", "-c", script]);
        let mut input = command
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("pontoon run");
        for seconds in [86421, 86422, 86423] {
            one_sleeper(seconds);
        }
        // Its input ends, and with it the command.
        drop(input.stdin.take());
        input.wait().expect("pontoon run ends");
        for seconds in [86421, 86422, 86423] {
            no_sleeper(seconds);
        }
    }
    // Children of a shell that became `pontoon run` are none of the command's.
    let program = pontoon_tests::pontoon();
    let line = format!("sleep 86424 & exec {} run --rm -- true", program.display());
    run(scene
        .host_command("sh")
        .args(["-c", &line])
        .stdout(std::process::Stdio::null()))
    .success();
    signal_process(one_sleeper(86424), Signal::SIGKILL);
}

#[test]
fn detach_orphans_no_command() {
    let Some(scene) = Scene::new() else { return };
    scene.run_detached(
        "web",
        &[],
        &[
            "sh",
            "-c",
            "exec setpriv --reuid=65534 --clear-groups sleep 86431",
        ],
    );
    let supervisor = supervisor(&scene, "web");
    one_sleeper(86431);
    scene.pontoon(&["detach", "web"]).success();
    no_sleeper(86431);
    eventually(
        "its supervisor has ended",
        LIMIT,
        || match fs::read_to_string(format!("/proc/{supervisor}/cmdline")) {
            Ok(line) if line.contains("run") => Err(line),
            _ => Ok(()),
        },
    );
}

#[test]
fn real_time_signals_reach_a_command() {
    let Some(scene) = Scene::new() else { return };
    let script = "import signal, sys, time\n\
                  for number in (signal.SIGRTMIN, signal.SIGRTMIN + 3, signal.SIGRTMAX, signal.SIGPWR):\n\
                  \x20   signal.signal(number, lambda number, _: print(number, flush=True))\n\
                  print('up', flush=True)\n\
                  while True: time.sleep(1)\n";
    let log = scene.directory().join("log");
    let log_text = log.to_str().expect("an ASCII path");
    scene.run_detached("systemd", &["--log", log_text], &["python3", "-c", script]);
    let mut expected = "up\n".to_owned();
    let told = |expected: &str| {
        eventually("the signal arrives", LIMIT, || {
            match fs::read_to_string(&log) {
                Ok(text) if text == expected => Ok(()),
                other => Err(format!("{other:?} is not {expected:?}")),
            }
        });
    };
    told(&expected);
    for (name, number) in [("RTMIN+3", 37), ("34", 34), ("SIGRTMAX", 64), ("PWR", 30)] {
        scene.pontoon(&["kill", "-s", name, "systemd"]).success();
        expected += &format!("{number}\n");
        told(&expected);
    }
    // What is sent to the supervisor is the command's too.
    let pid = supervisor(&scene, "systemd").to_string();
    run(Command::new("kill").args(["-s", "37", &pid])).success();
    expected += "37\n";
    told(&expected);
    let error = scene
        .pontoon(&["kill", "-s", "RTMAX+1", "systemd"])
        .failure();
    assert!(error.contains("RTMAX+1"), "{error}");

    // A command that such a signal ends.
    scene.run_detached("ended", &[], &["sleep", "86441"]);
    one_sleeper(86441);
    scene.pontoon(&["kill", "-s", "RTMIN+3", "ended"]).success();
    assert_eq!(exit_code(&scene, "ended"), 128 + 37);
}

/// A terminal that is hung up tells the leader of its session alone (setsid(2)).
#[test]
fn a_command_ends_with_its_terminal() {
    let Some(scene) = Scene::new() else { return };
    let script = "import os, pty, sys, time\n\
                  pid, fd = pty.fork()\n\
                  if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])\n\
                  while b'up' not in os.read(fd, 100): pass\n\
                  os.close(fd)\n\
                  os.waitpid(pid, 0)\n";
    let program = pontoon_tests::pontoon();
    let run_args = ["run", "--rm", "--name", "shell", "--", "sh", "-c"];
    for command in [
        "echo up; exec sleep 86451",
        "echo up; setsid -w sleep 86451",
    ] {
        let mut python = scene.host_command("python3");
        python
            .args(["-c", script])
            .arg(&program)
            .args(run_args)
            .arg(command);
        run(&mut python).success();
        no_sleeper(86451);
    }
    // The shell of the terminal leads the session here, and its end is the foreground's.
    let mut python = scene.host_command("python3");
    let line = format!(
        "{} run --rm -- sh -c 'echo up; exec sleep 86452'; true",
        program.display()
    );
    python.args(["-c", script, "sh", "-c", &line]);
    run(&mut python).success();
    no_sleeper(86452);
}

#[test]
fn a_command_has_no_descriptors_of_others() {
    let Some(scene) = Scene::new() else { return };
    let held = scene.directory().join("held");
    let held = held.to_str().expect("an ASCII path");
    let program = pontoon_tests::pontoon();
    let program = program.display();
    let shell = |line: &str| run(scene.host_command("sh").args(["-c", line])).success();
    shell(&format!(
        "exec 9>{held}; {program} run -d --name bg -- sleep 86461 >/dev/null"
    ));
    let pid = one_sleeper(86461);
    for process in [pid, supervisor(&scene, "bg")] {
        let entries = fs::read_dir(format!("/proc/{process}/fd"))
            .expect("it lives")
            .flatten();
        let holders = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        let holders: Vec<_> = holders.filter(|it| it == Path::new(held)).collect();
        assert!(holders.is_empty(), "{process} holds {held}");
    }
    let count = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it lives")
        .count();
    assert_eq!(count, 3, "input, output and error output");
    let listed = "ls /proc/self/fd | tr '\\n' ' '";
    for command in ["run --rm --", "exec bg --"] {
        // The fourth is the listing's own.
        let fds = shell(&format!(
            "exec 9>{held}; {program} {command} sh -c \"{listed}\""
        ));
        assert_eq!(fds, "0 1 2 3 ", "{command}");
    }
    let line = format!(
        "exec 3>{held} 4>&3 9>&3; {program} run --rm --preserve-fds 2 -- sh -c \"{listed}\""
    );
    assert_eq!(shell(&line), "0 1 2 3 4 5 ");
}

#[test]
fn a_client_in_another_pid_namespace_speaks_of_its_own_processes() {
    let Some(scene) = Scene::new() else { return };
    // Something that has in the daemon's namespace a number that the client will have in its own.
    let mut bystander = Background::start(Command::new("unshare").args(["-n", "sleep", "86471"]));
    let number = one_sleeper(86471);
    let program = pontoon_tests::pontoon();
    let inner = format!(
        "echo {} >/proc/sys/kernel/ns_last_pid; {} run --rm --name alien -- sh -c 'ls /sys/class/net; read line' & \
         wait",
        number - 1,
        program.display()
    );
    let links = || {
        let pid = number.to_string();
        run(Command::new("nsenter").args(["-t", &pid, "-n", "ls", "/sys/class/net"]));
        run(Command::new("nsenter").args(["-t", &pid, "-n", "ip", "-br", "link"])).success()
    };
    let mut command = scene.host_command("unshare");
    command.args(["-p", "-f", "--mount-proc", "sh", "-c", &inner]);
    let command = command.stdin(std::process::Stdio::null());
    let inside = run(command).success();
    assert!(inside.contains("eth0"), "{inside}");
    assert!(!links().contains("eth0"), "{}", links());

    let inner = inner.replace("read line", "exec sleep 86472");
    let mut command = scene.host_command("unshare");
    command.args(["-p", "-f", "--mount-proc", "sh", "-c", &inner]);
    let mut client = Background::start(&mut command);
    one_sleeper(86472);
    assert!(!links().contains("eth0"), "{}", links());
    // Nor does a client there enter what has the container's number in its namespace.
    scene.run_detached("web", &[], &["sleep", "86473"]);
    let mut command = scene.host_command("unshare");
    let exec = format!("{} exec web -- ls /sys/class/net", program.display());
    command.args(["-p", "-f", "--mount-proc", "sh", "-c", &exec]);
    let error = run(&mut command).failure();
    assert!(error.contains("web"), "{error}");
    // Nor is another process of its namespace attached in place of what it means.
    let attach = format!(
        "unshare -n sleep 86474 & sleep 0.3; {} attach --pid $! --name told",
        program.display()
    );
    let mut command = scene.host_command("unshare");
    command.args([
        "-p",
        "-f",
        "--mount-proc",
        "sh",
        "-c",
        &format!("{attach}; wait"),
    ]);
    let mut attached = Background::start(&mut command);
    let sleeper = one_sleeper(86474);
    eventually("it is attached", LIMIT, || {
        let pid = sleeper.to_string();
        let links =
            run(Command::new("nsenter").args(["-t", &pid, "-n", "ip", "-br", "link"])).success();
        if links.contains("eth0") {
            Ok(())
        } else {
            Err(links)
        }
    });
    // The daemon tells of it once all of it is made.
    eventually("it is told of", LIMIT, || {
        let rows = scene.pontoon(&["ps"]).success();
        rows.contains("told").then_some(()).ok_or(rows)
    });
    assert_eq!(supervisor(&scene, "told"), sleeper);

    scene.pontoon(&["stop", "-t", "1", "alien"]).success();
    no_sleeper(86472);
    assert!(bystander.has_ended().is_none(), "the bystander lives");
    client.end(Signal::SIGKILL);
    signal_process(sleeper, Signal::SIGKILL);
    attached.end(Signal::SIGKILL);
}

#[test]
fn a_daemon_outlives_its_terminal_and_what_is_sent_for_logs() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    for signal in [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
    ] {
        signal_process(scene.daemon_pid(), signal);
        scene.pontoon(&["ps"]).success();
    }
    eventually("it has read the host again", LIMIT, || {
        scene
            .log()
            .contains("SIGHUP")
            .then_some(())
            .ok_or(scene.log())
    });
    assert!(!scene.daemon_has_ended());
}

/// `PONTOON_SOCKET` says where the daemon is: to itself too.
#[test]
fn the_daemon_listens_where_its_clients_look() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let elsewhere = scene.directory().join("elsewhere");
    let mut command = scene.daemon_command();
    command.env("PONTOON_SOCKET", &elsewhere);
    let mut daemon = Background::start(&mut command);
    daemon.wait_for_output("pontoon answers on");
    let client = |scene: &Scene| {
        let mut command = scene.host_command(pontoon_tests::pontoon());
        run(command.arg("ps").env("PONTOON_SOCKET", &elsewhere))
    };
    client(&scene).success();
    assert!(!scene.socket().exists());
    daemon.end(Signal::SIGTERM);
    // What the command line says counts for more.
    let socket = scene.socket();
    let socket = socket.to_str().expect("an ASCII path");
    scene.set_daemon_options(&["--socket", socket]);
    scene.start_daemon();
    scene.pontoon(&["ps"]).success();
    assert!(!elsewhere.exists());
}
