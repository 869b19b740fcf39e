//! Containers on the switch, over both kinds of port: they reach each other and the host, and the
//! modes are what Docker's documents say of them.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::{run, run_within};
use pontoon_tests::scene::{ANY, LOOPBACK, PORT_KINDS, Scene, address_of, interfaces};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, listen, ping, ping_with};
use pontoon_tests::{eventually, pontoon};
use serde_json::Value;

fn gateway(scene: &Scene) -> IpAddr {
    let network = scene.json(&["network", "inspect", "bridge"]);
    let network = network.get(0).unwrap_or(&network);
    let gateway = network["gateways"][0].as_str().expect("a gateway");
    gateway.parse().expect("an address")
}

fn containers_reach_each_other(port_kind: &'static str) {
    let Some(scene) = Scene::with_port_kind(port_kind) else {
        return;
    };
    let a = scene.container("a", &[]);
    let b = scene.container("b", &[]);
    let gateway = gateway(&scene);

    ping(&a.namespace, b.address).success();
    // A full frame of 1500 bytes, which may not be cut up.
    ping_with(&a.namespace, b.address, &["-s", "1472", "-M", "do"]).success();
    ping(&a.namespace, gateway).success();
    ping(&scene.host, a.address).success();

    let listener = listen(&b.namespace, (ANY, 80));
    let mut flow = Flow::open(&a.namespace, (b.address, 80), &listener).unwrap();
    assert_eq!(flow.seen_by_server(), a.address);
    flow.exchange().unwrap();
    flow.transfer(20 << 20).unwrap();

    let mut flow = Flow::open(&scene.host, (b.address, 80), &listener).unwrap();
    assert_eq!(flow.seen_by_server(), gateway);
    flow.transfer(20 << 20).unwrap();

    let listener = listen(&scene.host, (ANY, 7000));
    let mut flow = Flow::open(&a.namespace, (gateway, 7000), &listener).unwrap();
    assert_eq!(flow.seen_by_server(), a.address);
    flow.transfer(20 << 20).unwrap();

    let server = bind_udp(&b.namespace, (ANY, 54));
    let mut datagrams = Datagrams::open(&a.namespace, (b.address, 54), server);
    assert_eq!(datagrams.exchange(100).unwrap().ip(), a.address);
    // Larger than a frame: fragments pass the bridge as they are.
    datagrams.exchange(4000).unwrap();

    let learned = scene.json(&["fdb"]);
    for container in [&a, &b] {
        let mac = container.namespace.mac("eth0");
        let rows = learned.as_array().expect("a list");
        let known = rows.iter().any(|row| row["mac"] == mac.as_str());
        assert!(known, "{mac} is not in {learned}");
    }
}

// Feature: switching
#[test]
fn taps_reach_each_other() {
    containers_reach_each_other(PORT_KINDS[0]);
}

// Feature: switching
#[test]
fn veths_reach_each_other() {
    containers_reach_each_other(PORT_KINDS[1]);
}

#[test]
fn a_tap_and_a_veth_reach_each_other() {
    let Some(scene) = Scene::new() else { return };
    let tap = scene.container("tap", &["--port-kind", "tap"]);
    let veth = scene.container("veth", &["--port-kind", "veth"]);
    let listener = listen(&veth.namespace, (ANY, 80));
    let mut flow = Flow::open(&tap.namespace, (veth.address, 80), &listener).unwrap();
    flow.transfer(20 << 20).unwrap();
    let listener = listen(&tap.namespace, (ANY, 80));
    let mut flow = Flow::open(&veth.namespace, (tap.address, 80), &listener).unwrap();
    flow.transfer(20 << 20).unwrap();
}

// Feature: modes
#[test]
fn mode_bridge_has_an_interface_of_its_own() {
    let Some(scene) = Scene::new() else { return };
    let output = scene.pontoon(&[
        "run", "--rm", "--name", "web", "--", "ip", "-j", "addr", "show", "dev", "eth0",
    ]);
    let addresses: Value = serde_json::from_str(&output.success()).expect("ip -j speaks JSON");
    let is_up = addresses[0]["flags"].to_string().contains("LOWER_UP");
    assert!(is_up, "{addresses}");
    let output = scene.pontoon(&["run", "--rm", "--", "hostname"]).success();
    assert!(!output.trim().is_empty());
    let output = scene.pontoon(&["run", "--rm", "--name", "web", "--", "hostname"]);
    assert_eq!(
        output.success().trim(),
        "web",
        "as Docker, the container's name"
    );
    // The network is there before the command's first instruction.
    let gateway = gateway(&scene).to_string();
    for _ in 0..5 {
        scene
            .pontoon(&["run", "--rm", "--", "ping", "-c1", "-W2", &gateway])
            .success();
    }
    assert_eq!(scene.json(&["ps", "-a"]), Value::Array(Vec::new()), "--rm");
}

// Feature: modes
#[test]
fn mode_none_has_loopback_only() {
    let Some(scene) = Scene::new() else { return };
    let script = "ip -j link; ping -c1 -W1 127.0.0.1 >/dev/null";
    let output = scene.pontoon(&["run", "--rm", "--net", "none", "--", "sh", "-ec", script]);
    let links: Value = serde_json::from_str(&output.success()).expect("ip -j speaks JSON");
    let names: Vec<&str> = links
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|link| link["ifname"].as_str())
        .collect();
    assert_eq!(names, ["lo"]);
}

// Feature: modes
#[test]
fn mode_host_is_the_hosts_own_namespace() {
    let Some(scene) = Scene::new() else { return };
    let namespace = ["--", "readlink", "/proc/self/ns/net"];
    let inside = scene.pontoon(&[&["run", "--rm", "--net", "host"][..], &namespace].concat());
    let outside = run(scene.host_command("readlink").arg("/proc/self/ns/net"));
    assert_eq!(inside.success(), outside.success());
}

// Feature: modes
#[test]
fn mode_container_shares_the_others_namespace() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &[]);
    let output = scene.pontoon(&[
        "run",
        "--rm",
        "--net",
        "container:web",
        "--",
        "ip",
        "-br",
        "addr",
        "show",
        "dev",
        "eth0",
    ]);
    let output = output.success();
    assert!(output.contains(&web.address.to_string()), "{output}");

    let arguments = [
        "run",
        "--rm",
        "--net",
        "container:web",
        "-p",
        "81:81",
        "--",
        "true",
    ];
    let error = scene.pontoon(&arguments).failure();
    assert!(error.contains("-p") || error.contains("publish"), "{error}");
    let arguments = ["run", "--rm", "--net", "container:nobody", "--", "true"];
    let error = scene.pontoon(&arguments).failure();
    assert!(error.contains("nobody"), "{error}");
}

/// The namespace lives on with its last process, as the kernel has it; the network goes with the
/// container whose it is, as with Docker.
// Feature: modes
#[test]
fn who_shares_a_namespace_is_told_and_counted() {
    let Some(scene) = Scene::new() else { return };
    let net = "container:web";
    scene.run_detached("web", &["-p", "8080:80"], &["sleep", "1000"]);
    for name in ["one", "two"] {
        let arguments = ["run", "-d", "--rm", "--name", name, "--net", net];
        scene
            .pontoon(&[&arguments[..], &["--", "sleep", "1000"]].concat())
            .success();
    }
    assert_eq!(
        scene.json(&["inspect", "web"])["joined"].to_string(),
        "[\"one\",\"two\"]"
    );
    assert_eq!(scene.json(&["inspect", "one"])["joined"].to_string(), "[]");
    let listed = scene.pontoon(&["ps"]).success();
    assert!(
        listed.contains("shared by one, two") && listed.contains(net),
        "{listed}"
    );

    let links = |name: &str| {
        scene
            .pontoon(&["exec", name, "--", "ip", "-br", "link"])
            .success()
    };
    for arguments in [&["detach", "web"][..], &["rm", "web"]] {
        let error = scene.pontoon(arguments).failure();
        assert!(error.contains("--force"), "{error}");
    }
    let error = scene.pontoon(&["detach", "web"]).failure();
    assert!(error.contains("one, two"), "{error}");
    assert!(links("one").contains("eth0"));
    scene.pontoon(&["stop", "-t", "0", "two"]).success();
    assert_eq!(
        scene.json(&["inspect", "web"])["joined"].to_string(),
        "[\"one\"]"
    );

    // The one whose namespace it was ends: who is left keeps the namespace, without a network.
    scene.pontoon(&["stop", "-t", "0", "web"]).success();
    assert_eq!(scene.json(&["inspect", "one"])["status"], "running");
    assert!(!links("one").contains("eth0"));
    assert!(
        scene.log().contains("one shared its namespace"),
        "{}",
        scene.log()
    );
    let error = scene.pontoon(&["rm", "web"]).failure();
    assert!(
        error.contains("one") && error.contains("--force"),
        "{error}"
    );
    scene.pontoon(&["rm", "--force", "web"]).success();

    // By force, a running one is ended and removed, whoever shares its namespace.
    scene.run_detached("web", &[], &["sleep", "1000"]);
    let arguments = ["run", "-d", "--rm", "--name", "three", "--net", net];
    scene
        .pontoon(&[&arguments[..], &["--", "sleep", "1000"]].concat())
        .success();
    let removed = scene.json(&["rm", "--force", "web"]);
    assert_eq!(removed["name"], "web");
    assert!(scene.pontoon(&["inspect", "web"]).failure().contains("web"));
    assert!(!links("three").contains("eth0"));
}

// Conforms: LINUX-no-forwarding NETAVARK-bridge
// Feature: networks isolation
#[test]
fn networks_of_the_user_are_isolated_from_each_other() {
    let Some(scene) = Scene::new() else { return };
    scene
        .pontoon(&["network", "create", "blue", "--subnet", "10.99.0.0/24"])
        .success();
    let default = scene.container("default", &[]);
    let a = scene.container("a", &["--net", "blue"]);
    let b = scene.container("b", &["--net", "blue", "--ip", "10.99.0.77"]);
    assert_eq!(b.address.to_string(), "10.99.0.77");
    ping(&a.namespace, b.address).success();
    let output =
        run(default
            .namespace
            .command("ping")
            .args(["-c1", "-W1", &a.address.to_string()]));
    assert!(!output.status.success(), "{output}");

    let error = scene.pontoon(&["network", "rm", "blue"]).failure();
    assert!(error.contains('a') && error.contains("blue"), "{error}");
    scene.pontoon(&["detach", "a"]).success();
    scene.pontoon(&["detach", "b"]).success();
    scene.pontoon(&["network", "rm", "blue"]).success();
    let networks = scene.json(&["network", "ls"]);
    assert_eq!(networks.as_array().map(Vec::len), Some(1), "{networks}");
    assert_eq!(networks[0]["name"], "bridge");
}

// Feature: operations
#[test]
fn run_ends_as_its_command_does() {
    let Some(scene) = Scene::new() else { return };
    let code = |command: &[&str]| {
        let arguments = [&["run", "--rm", "--"], command].concat();
        scene.pontoon(&arguments).status.code()
    };
    assert_eq!(code(&["true"]), Some(0));
    assert_eq!(code(&["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), Some(128 + 9));
    assert_eq!(code(&["/nonexistent/command"]), Some(127));
    assert_eq!(code(&["/etc/passwd"]), Some(126));
    let bad_name = scene.pontoon(&["run", "--name", "../x", "--", "true"]);
    assert_eq!(bad_name.status.code(), Some(125), "{bad_name}");
    assert_eq!(scene.json(&["ps", "-a"]), Value::Array(Vec::new()));
}

#[test]
fn run_passes_input_and_output_through() {
    let Some(scene) = Scene::new() else { return };
    let mut child = scene
        .host_command(pontoon())
        .args(["run", "--rm", "--", "tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("pontoon can be started");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"through\n").expect("a pipe takes a line");
    drop(stdin);
    let output = child
        .wait_with_output()
        .expect("it ends at the end of input");
    assert_eq!(output.stdout, b"THROUGH\n");
}

#[test]
fn run_detached_lets_go_of_its_caller() {
    let Some(scene) = Scene::new() else { return };
    // A shell's $(…) waits until nobody holds the pipe any more.
    let script = "id=$(\"$0\" run -d --name sleeper -- sleep 1000); echo \"id $id\"";
    let output = run_within(
        scene.host_command("sh").args(["-c", script]).arg(pontoon()),
        Duration::from_secs(10),
    );
    let output = output.success();
    let id = output
        .trim()
        .strip_prefix("id ")
        .expect("the container's id");
    let container = scene.json(&["inspect", id]);
    let container = container.get(0).unwrap_or(&container);
    assert_eq!(container["name"], "sleeper");
    assert_eq!(container["status"], "running");

    let error = scene
        .pontoon(&["run", "--name", "sleeper", "--", "true"])
        .failure();
    assert!(error.contains("sleeper"), "{error}");
    // What fails in the background is told in the foreground.
    let error = scene
        .pontoon(&["run", "-d", "--ip", "9.9.9.9", "--", "true"])
        .failure();
    assert!(error.contains("9.9.9.9"), "{error}");
}

// Feature: moby-36591
#[test]
fn a_container_ends_with_its_process() {
    let Some(scene) = Scene::new() else { return };
    scene.run_detached("short", &["-p", "8080:80"], &["sleep", "0.5"]);
    eventually(
        "the container is no longer running",
        Duration::from_secs(5),
        || match scene.json(&["ps"]).as_array() {
            Some(rows) if rows.is_empty() => Ok(()),
            rows => Err(format!("{rows:?}")),
        },
    );
    let exited = scene.json(&["ps", "-a"]);
    assert_eq!(exited[0]["name"], "short");
    assert_eq!(exited[0]["status"], "exited");
    // What it had is free again.
    scene.container("next", &["-p", "8080:80"]);
    scene.pontoon(&["rm", "short"]).success();

    // A supervisor that is killed says nothing any more, and its container ends all the same.
    scene.run_detached("killed", &["-p", "8081:80"], &["sleep", "1000"]);
    let container = scene.json(&["inspect", "killed"]);
    let container = container.get(0).unwrap_or(&container);
    let pid = container["target"]["pid"].as_u64().expect("a pid");
    run(Command::new("kill").args(["-9", &pid.to_string()])).success();
    eventually("the killed one is gone", Duration::from_secs(5), || {
        let rows = scene.json(&["ps"]).to_string();
        if rows.contains("killed") {
            Err(rows)
        } else {
            Ok(())
        }
    });
}

// Feature: operations
#[test]
fn exec_enters_the_containers_network() {
    let Some(scene) = Scene::new() else { return };
    let address = scene.run_detached("web", &[], &["sleep", "1000"]);
    let output = scene.pontoon(&["exec", "web", "--", "ip", "-br", "addr", "show", "eth0"]);
    let output = output.success();
    assert!(output.contains(&address.to_string()), "{output}");
    let code = scene.pontoon(&["exec", "web", "--", "sh", "-c", "exit 9"]);
    assert_eq!(code.status.code(), Some(9));
    let error = scene.pontoon(&["exec", "nobody", "--", "true"]).failure();
    assert!(error.contains("nobody"), "{error}");
}

#[test]
fn attach_by_pid_and_detach() {
    let Some(scene) = Scene::new() else { return };
    for port_kind in PORT_KINDS {
        let namespace = Namespace::new("pid");
        let mut sleeper =
            pontoon_tests::process::Background::start(namespace.command("sleep").arg("1000"));
        // `ip netns exec` has not entered the namespace at its first instruction.
        eventually("the sleeper sleeps", Duration::from_secs(5), || {
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", sleeper.pid()));
            match comm {
                Ok(comm) if comm.trim() == "sleep" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        let pid = sleeper.pid().to_string();
        let before = scene.host_interfaces();
        scene
            .pontoon(&[
                "attach",
                "--pid",
                &pid,
                "--name",
                "by-pid",
                "--port-kind",
                port_kind,
            ])
            .success();
        let address = address_of(&scene.json(&["inspect", "by-pid"]));
        ping(&scene.host, address).success();
        scene.pontoon(&["detach", "by-pid"]).success();
        assert_eq!(
            interfaces(&namespace),
            ["lo"],
            "{port_kind}: detach takes the interface away"
        );
        assert_eq!(scene.host_interfaces(), before, "{port_kind}");
        assert!(sleeper.has_ended().is_none(), "and nothing else");

        let error = scene.pontoon(&["detach", "by-pid"]).failure();
        assert!(error.contains("by-pid"), "{error}");
    }
    let error = scene
        .pontoon(&["attach", "--netns", "/nonexistent"])
        .failure();
    assert!(error.contains("/nonexistent"), "{error}");
    let error = scene.pontoon(&["attach", "--pid", "4194303"]).failure();
    assert!(error.contains("4194303"), "{error}");
}

// Feature: connections
#[test]
fn every_listing_speaks_json() {
    let Some(scene) = Scene::new() else { return };
    let _web = scene.container(
        "web",
        &["-p", "8080-8090:80-90", "-p", "127.0.0.1:53:53/udp"],
    );
    for listing in [
        &["ps"][..],
        &["ps", "-a"],
        &["inspect", "web"],
        &["network", "ls"],
        &["network", "inspect", "bridge"],
        &["fdb"],
        &["nat"],
        &["conntrack"],
        &["drops"],
        &["info"],
    ] {
        scene.json(listing);
        if listing[0] != "inspect" {
            let text = scene.pontoon(listing).success();
            assert!(!text.trim().is_empty(), "{listing:?} says nothing");
        }
    }
    let rules = scene.json(&["nat"]);
    let published = rules["publish"].as_array().expect("a list");
    assert_eq!(published.len(), 2, "a range is one rule: {rules}");
    let text = scene.pontoon(&["nat"]).success();
    assert!(text.contains("8080-8090"), "{text}");
}

#[test]
fn a_client_without_a_daemon_says_so() {
    let output = run(Command::new(pontoon()).args(["ps", "--socket", "/nonexistent/sock"]));
    let error = output.failure();
    assert!(error.contains("/nonexistent/sock"), "{error}");
    assert!(error.contains("pontoon daemon"), "what to do: {error}");
    assert_eq!(error.trim().lines().count(), 1, "{error}");
}

#[test]
fn loopback_of_a_container_is_its_own() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &[]);
    let listener = listen(&a.namespace, (LOOPBACK, 80));
    Flow::open(&a.namespace, (LOOPBACK, 80), &listener).unwrap();
}
