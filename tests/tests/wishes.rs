//! What users of other engines ask for most, and what no other engine has: each as a user meets it.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::run;
use pontoon_tests::scene::{ANY, BEYOND, HOST, LOOPBACK, OUTSIDE, Scene, run_long};
use pontoon_tests::traffic::{Flow, bind_udp, dial, listen, ping};
use pontoon_tests::{pontoon, skip};

/// The subnets of a network.
fn subnets(scene: &Scene, network: &str) -> Vec<IpNet> {
    let network = scene.json(&["network", "inspect", network]);
    let network = network.get(0).unwrap_or(&network);
    let subnets = network["subnets"].as_array().expect("a list").iter();
    let parsed = subnets.map(|it| it.as_str().and_then(|text| text.parse().ok()));
    parsed.map(|it| it.expect("a subnet")).collect()
}

// Feature: disjoint-pools pools
#[test]
fn a_chosen_subnet_overlaps_no_route_of_the_host() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    // A VPN that has the first of Docker's subnets, and a lab that has the next two.
    let mut routes: Vec<IpNet> = ["172.17.0.0/16", "172.18.0.0/15"]
        .map(|it| it.parse().expect("a prefix"))
        .to_vec();
    for route in &routes {
        scene.host.ip(&format!("route add {route} via {OUTSIDE}"));
    }
    scene.start_daemon();
    let bridge = subnets(&scene, "bridge");
    assert_eq!(bridge[0].to_string(), "172.20.0.0/16");
    // A route that comes later counts for the networks that come after it.
    let late: IpNet = "172.21.4.0/24".parse().expect("a prefix");
    scene.host.ip(&format!("route add {late} via {OUTSIDE}"));
    routes.push(late);
    let mut chosen = bridge;
    for number in 0..4 {
        let name = format!("n{number}");
        scene.pontoon(&["network", "create", &name]).success();
        chosen.extend(subnets(&scene, &name));
    }
    for (index, subnet) in chosen.iter().enumerate() {
        let others = chosen[..index].iter().chain(&routes);
        for other in others {
            let apart = !subnet.contains(other) && !other.contains(subnet);
            assert!(apart, "{subnet} overlaps {other}");
        }
    }
    // One that the user names is checked, and what it overlaps is told.
    let named = ["network", "create", "x", "--subnet", "172.18.0.0/15"];
    let error = scene.pontoon(&named).failure();
    assert!(error.contains("172.18.0.0/15"), "{error}");
    // What is behind those routes is still reached.
    let beyond: IpAddr = "172.18.0.9".parse().expect("an address");
    scene.outside.ip(&format!("addr add {beyond}/32 dev lo"));
    let web = scene.container("web", &["--net", "n0"]);
    ping(&web.namespace, beyond).success();
}

fn mtu_of(namespace: &Namespace) -> String {
    let text = namespace.sh("cat /sys/class/net/eth0/mtu");
    text.trim().to_owned()
}

// Feature: mtu moby-22028
#[test]
fn a_network_has_the_mtu_of_its_uplink() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    for end in [&scene.host, &scene.outside] {
        end.ip("link set eth0 mtu 1400");
    }
    scene.start_daemon();
    scene.pontoon(&["network", "create", "plain"]).success();
    let small = ["network", "create", "small", "--mtu", "1300"];
    scene.pontoon(&small).success();
    for (network, expected) in [("bridge", 1400), ("plain", 1400), ("small", 1300)] {
        let container = scene.container(network, &["--net", network]);
        assert_eq!(mtu_of(&container.namespace), expected.to_string());
        let told = scene.json(&["network", "inspect", network]);
        let told = told.get(0).unwrap_or(&told);
        assert_eq!(told["mtu"], expected, "{network}");
        // Bulk passes in segments that fit, though nobody clamps anything.
        let listener = listen(&scene.outside, (ANY, 80));
        let mut flow = Flow::open(&container.namespace, (BEYOND, 80), &listener).unwrap();
        flow.transfer(2 << 20).unwrap();
    }
}

// Feature: podman-5431 moby-48657
#[test]
fn a_firewall_that_is_reloaded_ends_nothing() {
    let Some(scene) = Scene::new() else { return };
    let load = "add table inet firewall; \
        add chain inet firewall forward { type filter hook forward priority 0; policy drop; }; \
        add rule inet firewall forward counter";
    let loaded = run(scene.host.command("nft").arg(load));
    if !loaded.status.success() {
        return skip("needs nftables in the kernel");
    }
    let web = scene.container("web", &["-p", "8080:80"]);
    let listener = listen(&web.namespace, (ANY, 80));
    let world = listen(&scene.outside, (BEYOND, 80));
    let open = || {
        [
            Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap(),
            Flow::open(&scene.host, (LOOPBACK, 8080), &listener).unwrap(),
            Flow::open(&web.namespace, (BEYOND, 80), &world).unwrap(),
        ]
    };
    let mut flows = open();
    for command in [
        "nft flush ruleset",
        &format!("nft '{load}'"),
        "nft flush ruleset",
    ] {
        scene.host.sh(command);
        for flow in &mut flows {
            flow.exchange()
                .unwrap_or_else(|error| panic!("{command}: {error}"));
        }
        for flow in &mut open() {
            flow.exchange().unwrap();
        }
    }
}

// Feature: moby-8795 plugins-123 restart
#[test]
fn a_udp_flow_follows_its_port_to_the_next_container() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    // One that never pauses, from one port: what is stale would stay so.
    let client = bind_udp(&scene.outside, (OUTSIDE, 4000));
    let asks = |server: &UdpSocket| {
        client.send_to(b"question", (HOST, 5353)).expect("a route");
        let mut buffer = [0; 64];
        let (length, source) = server.recv_from(&mut buffer).expect("the question arrives");
        assert_eq!(source.ip(), OUTSIDE);
        server.send_to(&buffer[..length], source).expect("a route");
        let (length, _) = client.recv_from(&mut buffer).expect("the answer arrives");
        assert_eq!(&buffer[..length], b"question");
    };
    let publish = ["-p", "5353:53/udp"];
    let first = scene.container("first", &publish);
    asks(&bind_udp(&first.namespace, (ANY, 53)));
    // Its namespace dies with it.
    scene.pontoon(&["detach", "first"]).success();
    drop(first);
    client.send_to(b"nobody", (HOST, 5353)).expect("a route");
    let second = scene.container("second", &publish);
    asks(&bind_udp(&second.namespace, (ANY, 53)));
    // So does one whose end no daemon saw.
    scene.end_daemon(Signal::SIGKILL);
    drop(second);
    client.send_to(b"nobody", (HOST, 5353)).expect("a route");
    scene.start_daemon();
    let third = scene.container("third", &publish);
    asks(&bind_udp(&third.namespace, (ANY, 53)));
}

/// Threads and processes of the daemon.
fn tasks(scene: &Scene) -> (usize, usize) {
    let count = |path: String| std::fs::read_dir(path).map_or(0, Iterator::count);
    let pid = scene.daemon_pid();
    let children = Path::new("/proc").join(format!("{pid}/task/{pid}/children"));
    let children = std::fs::read_to_string(children).unwrap_or_default();
    (
        count(format!("/proc/{pid}/task")),
        children.split_whitespace().count(),
    )
}

/// The bound leaves a debug build on a busy machine ten times what it takes.
// Feature: wide-ranges moby-14288 moby-11185 publishing
#[test]
fn sixty_thousand_ports_are_one_rule() {
    // A socket for each port, and the daemon's other files; it inherits the limit. Where that can't
    // be raised, as many ports as it allows.
    setrlimit(Resource::RLIMIT_NOFILE, 1 << 17, 1 << 17).ok();
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit");
    let count = u16::try_from(limit.saturating_sub(2000)).map_or(60_000, |it| it.min(60_000));
    let last = 1000 + count - 1;
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &[]);
    let before = tasks(&scene);
    let spec = format!("1000-{last}:1000-{last}");
    let change = |verb: &str| {
        let started = Instant::now();
        let mut command = scene.host_command(pontoon());
        run_long(command.args([verb, "web", "-p", &spec])).success();
        let took = started.elapsed();
        println!("{verb} of {count} ports: {took:?}");
        assert!(took < Duration::from_secs(20), "{verb}: {took:?}");
    };
    change("publish");
    // The runtime may start one or another thread for whatever blocks.
    let (threads, children) = tasks(&scene);
    assert!(
        threads < before.0 + 16,
        "{threads} threads, before {before:?}"
    );
    assert_eq!(children, 0, "no process");
    let rules = scene.json(&["nat"]);
    assert_eq!(rules["publish"].as_array().map(Vec::len), Some(1));
    for port in [1000, 1000 + count / 2, last] {
        let listener = listen(&web.namespace, (ANY, port));
        let mut flow = Flow::open(&scene.outside, (HOST, port), &listener).unwrap();
        assert_eq!(flow.seen_by_server(), OUTSIDE);
        flow.exchange().unwrap();
    }
    change("unpublish");
    dial(&scene.outside, (HOST, last)).expect_err("withdrawn");
}

// Feature: moby-36591 plugins-752
#[test]
fn nothing_is_left_when_all_is_gone() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let before = scene.host_interfaces();
    let routes = scene.host.ip("-4 route show table all");
    scene.pontoon(&["network", "create", "back"]).success();
    for round in 0..3 {
        let both = ["--net", "bridge", "--net", "back", "-p", "8080-8090:80-90"];
        let kinds = ["tap", "veth"].map(|kind| {
            let own = ["--port-kind", kind];
            let options = if kind == "tap" {
                [&both[..], &own].concat()
            } else {
                own.to_vec()
            };
            scene.container(&format!("{kind}{round}"), &options)
        });
        if round == 1 {
            scene.end_daemon(Signal::SIGKILL);
            drop(kinds);
            scene.start_daemon();
        } else {
            for kind in ["tap", "veth"] {
                let name = format!("{kind}{round}");
                scene.pontoon(&["detach", &name]).success();
            }
        }
    }
    scene.pontoon(&["network", "rm", "back"]).success();
    assert_eq!(scene.host_interfaces(), before);
    assert_eq!(scene.host.ip("-4 route show table all"), routes);
    let nothing = scene.json(&["nat"]);
    assert_eq!(nothing["publish"].as_array().map(Vec::len), Some(0));
    // The ports are the host's own again, every one.
    for port in 8080..=8090 {
        listen(&scene.host, (ANY, port));
    }
    let listening = run(Command::new("ip")
        .args(["netns", "exec", scene.host.name()])
        .args(["ss", "-Hltn"]));
    assert!(!listening.stdout.contains(":80"), "{}", listening.stdout);
}
