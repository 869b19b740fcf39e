//! Names: what containers are called, where they are asked for, and what becomes of the world's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use pontoon_tests::dns::{
    A, AAAA, NXDOMAIN, PTR, TXT, World, ask, ask_by_tcp, parse, query, try_ask,
};
use pontoon_tests::process::run_within;
use pontoon_tests::scene::{ANY, HOST, LOOPBACK, Scene};
use pontoon_tests::traffic::{bind_udp, listen};
use pontoon_tests::{eventually, has_ipv6};

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
const GATEWAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1)), 53);

/// What a command in a new container writes.
#[track_caller]
fn inside(scene: &Scene, options: &[&str], command: &[&str]) -> String {
    scene
        .pontoon(&[&["run", "--rm"], options, &["--"], command].concat())
        .success()
}

// Feature: names dns-forwarding aardvark-500
#[test]
fn commands_find_containers_by_name() {
    let Some(scene) = Scene::new() else { return };
    let host_files = || {
        ["resolv.conf", "hosts", "hostname"].map(|name| {
            let path = Path::new("/etc").join(name);
            (
                std::fs::read(&path).ok(),
                path.metadata().and_then(|it| it.modified()).ok(),
            )
        })
    };
    let before = host_files();
    let web = scene.run_detached("web", &["--network-alias", "www"], &["sleep", "600"]);
    let web = web.to_string();
    for name in ["web", "www", "WEB", "web.bridge"] {
        let found = inside(&scene, &[], &["getent", "ahostsv4", name]);
        assert!(found.starts_with(&format!("{web} ")), "{name}: {found}");
    }
    inside(&scene, &[], &["ping", "-c1", "-W3", "www"]);
    let found = inside(&scene, &[], &["getent", "hosts", &web]);
    assert!(found.contains("web.bridge"), "{found}");
    for server in ["127.0.0.11", "172.17.0.1"] {
        let found = inside(&scene, &[], &["busybox", "nslookup", "web", server]);
        assert!(found.contains(&web), "{server}: {found}");
    }
    // A name of its own is there before the first instruction, each time.
    for _ in 0..5 {
        inside(
            &scene,
            &["--network-alias", "me"],
            &["getent", "ahostsv4", "me"],
        );
    }
    let script = "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; getent hosts db";
    let options = [
        "--name",
        "files",
        "--hostname",
        "shop.example",
        "--add-host",
        "db:10.9.8.7",
        "--add-host",
        "here:host-gateway",
        "--dns-search",
        "corp.example",
        "--dns-search",
        "example",
    ];
    let found = inside(&scene, &options, &["sh", "-ec", script]);
    for expected in [
        "shop.example\nshop.example\n127.0.0.1\tlocalhost\n",
        "\tshop.example\n",
        "10.9.8.7\tdb\n",
        "172.17.0.1\there\n",
        "nameserver 127.0.0.11\nsearch corp.example example\noptions ndots:0\n",
        "10.9.8.7        db",
    ] {
        assert!(found.contains(expected), "no {expected:?} in {found}");
    }
    // `exec` and those who share the namespace see the same.
    let shown = scene.pontoon(&["exec", "web", "--", "cat", "/etc/resolv.conf", "/etc/hosts"]);
    let shown = shown.success();
    assert!(shown.contains("nameserver 127.0.0.11\n"), "{shown}");
    assert!(shown.contains(&format!("{web}\tweb\n")), "{shown}");
    let shown = inside(
        &scene,
        &["--net", "container:web"],
        &["getent", "ahostsv4", "www"],
    );
    assert!(shown.starts_with(&web), "{shown}");
    assert_eq!(host_files(), before, "the host's files are as they were");
    // Options that a mode has no use for are refused.
    for net in ["host", "container:web"] {
        let refused = scene.pontoon(&["run", "--net", net, "--hostname", "x", "--", "true"]);
        assert!(refused.failure().contains("--hostname"));
    }
}

// Feature: names dns-forwarding aardvark-500
#[test]
fn names_are_answered_over_udp_and_tcp_and_end_with_their_container() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let a = scene.container("a", &["--network-alias", "first"]);
    let b = scene.container("b", &[]);
    for server in [LOCAL, GATEWAY] {
        for name in ["a", "first", "a.bridge"] {
            assert_eq!(ask(&b.namespace, server, name, A).addresses(), [a.address]);
            assert_eq!(
                ask_by_tcp(&b.namespace, server, name, A).addresses(),
                [a.address]
            );
        }
        let nothing = ask(&b.namespace, server, "a", TXT);
        assert_eq!((nothing.code, nothing.data.len()), (0, 0), "NODATA");
        assert_eq!(ask(&b.namespace, server, "nobody", A).code, NXDOMAIN);
        let IpAddr::V4(v4) = a.address else {
            panic!("an IPv4 address comes first")
        };
        let [w, x, y, z] = v4.octets();
        let pointer = ask(
            &b.namespace,
            server,
            &format!("{z}.{y}.{x}.{w}.in-addr.arpa"),
            PTR,
        );
        assert_eq!(pointer.data, [b"\x01a\x06bridge\0"]);
        if has_ipv6() {
            assert_eq!(ask(&b.namespace, server, "a", AAAA).addresses(), [a.ipv6()]);
        }
    }
    if has_ipv6() {
        let bridge = scene.json(&["network", "inspect", "bridge"]);
        let gateways = bridge.get(0).unwrap_or(&bridge)["gateways"].clone();
        let gateway: IpAddr = gateways[1].as_str().expect("a second one").parse().unwrap();
        let server = SocketAddr::new(gateway, 53);
        assert_eq!(
            ask_by_tcp(&b.namespace, server, "a", A).addresses(),
            [a.address]
        );
    }
    // Networks do not see each other's names.
    scene.pontoon(&["network", "create", "other"]).success();
    let c = scene.container("c", &["--net", "other"]);
    assert_eq!(ask(&c.namespace, LOCAL, "a", A).code, NXDOMAIN);
    assert_eq!(ask(&c.namespace, LOCAL, "c", A).addresses(), [c.address]);
    assert_eq!(ask(&b.namespace, LOCAL, "c", A).code, NXDOMAIN);
    // The host may ask, the world may not.
    assert_eq!(ask(&scene.host, GATEWAY, "a", A).addresses(), [a.address]);
    scene
        .outside
        .ip(&format!("route add 172.17.0.0/16 via {HOST}"));
    assert_eq!(try_ask(&scene.outside, GATEWAY, "a", A), None);
    // Two containers share an alias, and take turns.
    let d = scene.container("d", &["--network-alias", "first"]);
    let mut both = ask(&b.namespace, LOCAL, "first", A).addresses();
    both.sort();
    assert_eq!(both, [a.address, d.address]);
    // A daemon that was killed answers at the same places again.
    scene.end_daemon(Signal::SIGKILL);
    scene.start_daemon();
    for server in [LOCAL, GATEWAY] {
        assert_eq!(ask(&b.namespace, server, "d", A).addresses(), [d.address]);
    }
    // Gone with its container, for UDP and TCP, at once.
    scene.pontoon(&["detach", "d"]).success();
    for server in [LOCAL, GATEWAY] {
        assert_eq!(ask(&b.namespace, server, "d", A).code, NXDOMAIN);
        assert_eq!(
            ask_by_tcp(&b.namespace, server, "first", A).addresses(),
            [a.address]
        );
    }
    // Nobody listens any more where no container is.
    listen(&d.namespace, (ANY, 53));
    bind_udp(&d.namespace, (ANY, 53));
}

// Feature: names
#[test]
fn dnsperf_loses_no_answer() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let asker = scene.container("asker", &[]);
    let names: Vec<String> = (0..8).map(|at| format!("c{at}")).collect();
    let _named: Vec<_> = names
        .iter()
        .map(|name| scene.container(name, &[]))
        .collect();
    let questions = scene.run_dir().join("questions");
    let lines = names.iter().map(|name| format!("{name} A\n{name} AAAA\n"));
    let nobody = "nobody A\n".to_owned();
    let lines: String = lines.chain([nobody]).collect();
    std::fs::write(&questions, lines).expect("a file");
    for server in [LOCAL, GATEWAY] {
        for transport in ["udp", "tcp"] {
            let mut command = asker.namespace.command("dnsperf");
            command.args(["-s", &server.ip().to_string(), "-m", transport]);
            // Two seconds, four sockets, and as many questions under way as dnsperf is used to.
            command.args(["-l", "2", "-c", "4", "-q", "100", "-d"]);
            let told = run_within(command.arg(&questions), Duration::from_secs(30)).success();
            let figure = |what: &str| -> f64 {
                let line = told.lines().find_map(|line| line.trim().strip_prefix(what));
                let figure = line.and_then(|line| line.split_whitespace().next());
                figure
                    .and_then(|figure| figure.parse().ok())
                    .unwrap_or_else(|| panic!("dnsperf tells no {what:?}: {told}"))
            };
            println!(
                "{server} by {transport}: {} answers a second",
                figure("Queries per second:")
            );
            assert_eq!(figure("Queries lost:"), 0.0, "{server} {transport}: {told}");
            assert!(figure("Queries completed:") > 1000.0, "{told}");
            // One question of 17 is for a name that is nobody's.
            assert!(
                told.contains("NXDOMAIN") && !told.contains("SERVFAIL"),
                "{told}"
            );
        }
    }
}

// Feature: names
#[test]
fn a_dns_server_in_a_container_has_port_53() {
    let Some(scene) = Scene::new() else { return };
    let options = ["-p", "5353:53/udp", "-p", "5353:53"];
    let server = scene.container("server", &options);
    // Every address there is, 127.0.0.11 too: nobody listens in the container but itself.
    bind_udp(&server.namespace, (ANY, 53));
    listen(&server.namespace, (ANY, 53));
    World::with_address(99).serve(&server.namespace, ANY);
    for at in [LOCAL, GATEWAY] {
        let found = ask(&server.namespace, at, "server", A).addresses();
        assert_eq!(found, [server.address]);
        let found = ask_by_tcp(&server.namespace, at, "server", A).addresses();
        assert_eq!(found, [server.address]);
    }
    let published = SocketAddr::new(HOST, 5353);
    let expected: [IpAddr; 1] = ["192.0.2.99".parse().unwrap()];
    let found = ask(&scene.outside, published, "example.org", A);
    assert_eq!(found.addresses(), expected);
    let shown = inside(&scene, &[], &["cat", "/etc/resolv.conf"]);
    assert!(shown.contains("nameserver 127.0.0.11\n"), "{shown}");
}

// Feature: names isolation
// Conforms: CVE-2020-8558
#[test]
fn names_at_loopback_open_it_to_nobody() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let vault = ["network", "create", "vault", "--internal"];
    scene.pontoon(&vault).success();
    let inner = scene.container("inner", &["--net", "vault"]);
    let found = ask(&inner.namespace, LOCAL, "inner", A).addresses();
    assert_eq!(found, [inner.address], "an internal network has names too");

    let victim = scene.container("victim", &[]);
    let own = bind_udp(&victim.namespace, (LOOPBACK, 7777));
    let neighbour = scene.container("neighbour", &[]);
    let route = format!(
        "route add 127.0.0.1 via {} dev eth0 table local",
        victim.address
    );
    neighbour
        .namespace
        .ip("route del local 127.0.0.1 table local");
    neighbour.namespace.ip(&route);
    let before = scene.drops("Martian");
    let socket = bind_udp(&neighbour.namespace, (ANY, 0));
    socket
        .send_to(b"let me in", (LOOPBACK, 7777))
        .expect("a route");
    own.set_read_timeout(Some(Duration::from_millis(500))).ok();
    own.recv_from(&mut [0; 16])
        .expect_err("what is on loopback stays there");
    assert!(scene.drops("Martian") > before);

    // A daemon that finds a container of one that knew nothing of this leads it there too.
    scene.end_daemon(Signal::SIGKILL);
    victim.namespace.ip("route del 127.0.0.11 table local");
    scene.start_daemon();
    let found = ask(&victim.namespace, LOCAL, "victim", A).addresses();
    assert_eq!(found, [victim.address]);
}

// Feature: names several-networks
#[test]
fn names_at_loopback_follow_the_networks() {
    let Some(scene) = Scene::new() else { return };
    scene.pontoon(&["network", "create", "back"]).success();
    let web = scene.container("web", &[]);
    let db = scene.container("db", &["--net", "back"]);
    scene
        .pontoon(&["network", "connect", "back", "web"])
        .success();
    scene
        .pontoon(&["network", "disconnect", "bridge", "web"])
        .success();
    for by in [ask, ask_by_tcp] {
        assert_eq!(by(&web.namespace, LOCAL, "db", A).addresses(), [db.address]);
    }
    scene
        .pontoon(&["network", "connect", "bridge", "web", "--gw-priority", "9"])
        .success();
    scene
        .pontoon(&["network", "disconnect", "back", "web"])
        .success();
    assert_eq!(ask(&web.namespace, LOCAL, "db", A).code, NXDOMAIN);
    assert_eq!(ask(&web.namespace, LOCAL, "web", A).addresses().len(), 1);
}

// Feature: names several-networks
#[test]
fn files_of_a_running_container_follow_its_networks() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let host = std::fs::read("/etc/hosts").ok();
    scene.pontoon(&["network", "create", "back"]).success();
    let copy = scene.directory().join("copy");
    let script = format!(
        "while :; do cat /etc/hosts /etc/resolv.conf >{0}.new; mv {0}.new {0}; sleep 0.05; done",
        copy.display()
    );
    let command = ["sh", "-c", &script];
    let first = scene.run_detached("web", &["--hostname", "shop"], &command);
    let shows = |what: &str, is_there: bool| {
        eventually(
            &format!("{what:?}: {is_there}"),
            Duration::from_secs(10),
            || {
                let text = std::fs::read_to_string(&copy).unwrap_or_default();
                if text.contains(what) == is_there && text.contains("nameserver 127.0.0.11\n") {
                    Ok(())
                } else {
                    Err(text)
                }
            },
        );
    };
    shows(&format!("{first}\tshop\n"), true);
    scene
        .pontoon(&["network", "connect", "back", "web"])
        .success();
    let [second, ..] = addresses_on(&scene, "web", "back")[..] else {
        panic!("an address on back")
    };
    shows(&format!("{second}\tshop\n"), true);
    shows(&format!("{first}\tshop\n"), true);
    // By the next daemon too.
    scene.end_daemon(Signal::SIGKILL);
    scene.start_daemon();
    scene
        .pontoon(&["network", "disconnect", "bridge", "web"])
        .success();
    shows(&format!("{first}\tshop\n"), false);
    shows(&format!("{second}\tshop\n"), true);
    assert_eq!(
        std::fs::read("/etc/hosts").ok(),
        host,
        "the host's is its own"
    );
}

/// The addresses of a container on a network.
fn addresses_on(scene: &Scene, name: &str, network: &str) -> Vec<IpAddr> {
    let container = scene.json(&["inspect", name]);
    let container = container.get(0).unwrap_or(&container);
    let mut endpoints = container["endpoints"].as_array().expect("a list").iter();
    let endpoint = endpoints.find(|it| it["network"] == network);
    let addresses = endpoint.expect("an endpoint")["addresses"].as_array();
    let parsed = addresses.into_iter().flatten().filter_map(|it| {
        let (address, _) = it.as_str()?.split_once('/')?;
        address.parse().ok()
    });
    parsed.collect()
}

// Feature: names several-networks netavark-1471
#[test]
fn names_follow_a_container_from_network_to_network() {
    let Some(scene) = Scene::new() else { return };
    scene.pontoon(&["network", "create", "back"]).success();
    let db = scene.container("db", &["--net", "back"]);
    let web = scene.container("web", &[]);
    assert_eq!(ask(&web.namespace, GATEWAY, "db", A).code, NXDOMAIN);
    for _ in 0..3 {
        let connect = ["network", "connect", "back", "web", "--alias", "front"];
        scene.pontoon(&connect).success();
        // At once, both ways, with the alias that it has there and nowhere else.
        assert_eq!(
            ask(&web.namespace, GATEWAY, "db", A).addresses(),
            [db.address]
        );
        let [own, ..] = addresses_on(&scene, "web", "back")[..] else {
            panic!("an address on back")
        };
        let back = scene.json(&["network", "inspect", "back"]);
        let back = back.get(0).unwrap_or(&back)["gateways"][0].clone();
        let back: IpAddr = back.as_str().expect("a gateway").parse().expect("an IP");
        let back = SocketAddr::new(back, 53);
        for name in ["web", "front"] {
            assert_eq!(
                ask(&db.namespace, back, name, A).addresses(),
                [own],
                "{name}"
            );
        }
        scene
            .pontoon(&["network", "disconnect", "back", "web"])
            .success();
        assert_eq!(ask(&web.namespace, GATEWAY, "db", A).code, NXDOMAIN);
        assert_eq!(ask(&db.namespace, back, "front", A).code, NXDOMAIN);
    }
}

// Feature: names aardvark-389
#[test]
fn names_are_answered_while_others_come_and_go() {
    let Some(scene) = Scene::new() else { return };
    let db = scene.container("db", &[]);
    let web = scene.container("web", &[]);
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let socket = web.namespace.within(|| UdpSocket::bind((ANY, 0)));
            let socket = socket.expect("a socket");
            socket.set_read_timeout(Some(Duration::from_secs(3))).ok();
            let query = query("db", A);
            let mut buffer = [0; 512];
            let mut asked = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // Not once is it asked again: a closed socket would lose it.
                socket.send_to(&query, GATEWAY).expect("a route");
                let length = socket
                    .recv(&mut buffer)
                    .expect("every question is answered");
                assert_eq!(parse(&buffer[..length], &query).addresses(), [db.address]);
                asked += 1;
                thread::sleep(Duration::from_millis(1));
            }
            asked
        });
        for round in 0..5 {
            let network = format!("n{round}");
            scene.pontoon(&["network", "create", &network]).success();
            let passing = scene.container(&format!("c{round}"), &["--net", &network]);
            scene.pontoon(&["detach", &format!("c{round}")]).success();
            drop(passing);
            scene.pontoon(&["network", "rm", &network]).success();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let asked = asking.join().expect("every question was answered");
        assert!(asked > 100, "only {asked} questions");
    });
}
