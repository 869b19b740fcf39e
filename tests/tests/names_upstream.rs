//! Names of the world: which servers are asked for them, how, and what containers hear of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pontoon_tests::dns::{A, PTR, TXT, World, ask, ask_by_tcp};
use pontoon_tests::has_ipv6;
use pontoon_tests::scene::{BEYOND, OUTSIDE, ROUTER6, Scene};

const HTTPS: u16 = 65;

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
const GATEWAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1)), 53);

/// A scene whose host has this resolv.conf.
fn scene_with(resolv_conf: &str) -> Option<Scene> {
    let mut scene = Scene::without_daemon("tap")?;
    let path = scene.directory().join("resolv.conf");
    std::fs::write(&path, resolv_conf).expect("a file");
    let path = path.to_str().expect("an ASCII path").to_owned();
    scene.set_daemon_options(&["--workers", "2", "--resolv-conf", &path]);
    scene.start_daemon();
    Some(scene)
}

/// What a command in a new container writes.
#[track_caller]
fn inside(scene: &Scene, options: &[&str], command: &[&str]) -> String {
    scene
        .pontoon(&[&["run", "--rm"], options, &["--"], command].concat())
        .success()
}

// Feature: dns-forwarding
#[test]
fn the_world_s_names_are_asked_of_the_host_s_servers() {
    let directory = tempfile::tempdir().expect("a directory");
    let resolv_conf = directory.path().join("resolv.conf");
    let write = |servers: &[IpAddr]| {
        let lines = servers.iter().map(|ip| format!("nameserver {ip}\n"));
        std::fs::write(&resolv_conf, lines.collect::<String>()).expect("a file");
    };
    let path = resolv_conf.to_str().expect("an ASCII path");
    // Nobody listens at the first one.
    write(&[OUTSIDE, BEYOND]);
    let Some(scene) = Scene::with_daemon_options(&["--workers", "2", "--resolv-conf", path]) else {
        return;
    };
    World::with_address(77).serve(&scene.outside, BEYOND);
    let a = scene.container("a", &[]);
    let expected: [IpAddr; 1] = ["192.0.2.77".parse().unwrap()];
    for server in [LOCAL, GATEWAY] {
        assert_eq!(
            ask(&a.namespace, server, "example.org", A).addresses(),
            expected
        );
    }
    let long = ask(&a.namespace, LOCAL, "long.example.org", A);
    // As many as fit in 512 bytes.
    assert!(long.truncated, "{long:?}");
    assert_eq!(long.data.len(), (512 - 12 - 22) / 16);
    let long = ask_by_tcp(&a.namespace, LOCAL, "long.example.org", A);
    assert_eq!(long.data.len(), 100);
    let found = inside(&scene, &[], &["getent", "ahostsv4", "long.example.org"]);
    assert!(found.contains("192.0.2.77"), "{found}");
    // The file changes, and is followed.
    let other = "198.51.100.8";
    scene.outside.ip(&format!("addr add {other}/32 dev lo"));
    let to: IpAddr = other.parse().unwrap();
    World::with_address(88).serve(&scene.outside, to);
    write(&[other.parse().unwrap()]);
    thread::sleep(Duration::from_millis(1200));
    let expected: [IpAddr; 1] = ["192.0.2.88".parse().unwrap()];
    assert_eq!(
        ask(&a.namespace, LOCAL, "new.example.org", A).addresses(),
        expected
    );
    // A container may have servers of its own.
    let options = ["--dns", "198.51.100.7"];
    let found = inside(&scene, &options, &["getent", "ahostsv4", "own.example.org"]);
    assert!(found.contains("192.0.2.77"), "{found}");
}

// Feature: dns-forwarding
#[test]
fn a_network_may_have_servers_and_search_domains_of_its_own() {
    let Some(scene) = Scene::new() else { return };
    World::with_address(77).serve(&scene.outside, BEYOND);
    let other = "198.51.100.8";
    scene.outside.ip(&format!("addr add {other}/32 dev lo"));
    let to: IpAddr = other.parse().unwrap();
    World::with_address(88).serve(&scene.outside, to);
    let beyond = BEYOND.to_string();
    let create = ["network", "create", "own", "--dns", &beyond];
    let search = ["--dns-search", "corp.example", "--dns-search", "example"];
    scene.pontoon(&[&create[..], &search].concat()).success();
    let lookup = ["getent", "ahostsv4", "own.example.org"];
    let found = inside(&scene, &["--net", "own"], &lookup);
    assert!(found.contains("192.0.2.77"), "{found}");
    let shown = inside(&scene, &["--net", "own"], &["cat", "/etc/resolv.conf"]);
    assert!(shown.contains("search corp.example example\n"), "{shown}");
    // What the container names itself comes first.
    let options = ["--net", "own", "--dns", other, "--dns-search", "."];
    let found = inside(&scene, &options, &lookup);
    assert!(found.contains("192.0.2.88"), "{found}");
    let shown = inside(&scene, &options, &["cat", "/etc/resolv.conf"]);
    assert!(!shown.contains("search"), "{shown}");
    let told = scene.json(&["network", "inspect", "own"]);
    let options = &told.get(0).unwrap_or(&told)["options"];
    assert_eq!(options["dns"], serde_json::json!([beyond]), "{told}");
}

// Feature: names dns-forwarding
#[test]
fn the_case_of_a_name_is_the_asker_s_business() {
    let Some(scene) = scene_with(&format!("nameserver {BEYOND}\nsearch Corp.Example\n")) else {
        return;
    };
    World::with_address(77).serve(&scene.outside, BEYOND);
    let web = scene.container("web", &["--network-alias", "Www"]);
    let asker = scene.container("asker", &[]);
    let world: IpAddr = "192.0.2.77".parse().unwrap();
    let IpAddr::V4(v4) = web.address else {
        panic!("an IPv4 address comes first")
    };
    let [w, x, y, z] = v4.octets();
    let reverse = format!("{z}.{y}.{x}.{w}.iN-aDDr.ARPA");
    for server in [LOCAL, GATEWAY] {
        // The question comes back byte by byte, or these fail.
        for by in [ask, ask_by_tcp] {
            let asked = |name: &str| by(&asker.namespace, server, name, A).addresses();
            for name in ["wEb", "WWW", "wwW", "Web.bRidge"] {
                assert_eq!(asked(name), [web.address], "{name}");
            }
            for name in ["eXample.ORG", "ExamplE.orG", "example.org"] {
                assert_eq!(asked(name), [world], "{name}");
            }
            // Found in the search domain.
            assert_eq!(asked("oTher").last(), Some(&world));
            let pointer = by(&asker.namespace, server, &reverse, PTR);
            assert_eq!(pointer.data, [b"\x03web\x06bridge\0"]);
            for wanted in [TXT, HTTPS] {
                let nothing = by(&asker.namespace, server, "WEB", wanted);
                assert_eq!((nothing.code, nothing.data.len()), (0, 0), "NODATA");
            }
        }
    }
    for name in ["WEB", "wWw", "eXample.ORG"] {
        inside(&scene, &[], &["getent", "ahostsv4", name]);
    }
}

// Feature: dns-forwarding
#[test]
fn a_server_of_the_link_is_named_with_its_interface() {
    if !has_ipv6() {
        return;
    }
    let server = "fe80::2%eth0";
    let Some(mut scene) = Scene::with_daemon_options(&["--workers", "2", "--dns", server]) else {
        return;
    };
    let IpAddr::V6(address) = ROUTER6 else {
        panic!("an IPv6 address")
    };
    let scope = scene.outside.sh("cat /sys/class/net/eth0/ifindex");
    let scope = scope.trim().parse().expect("a number");
    let at = SocketAddrV6::new(address, 53, 0, scope);
    World::with_address(66).serve_at(&scene.outside, at.into());
    let a = scene.container("a", &[]);
    let expected: [IpAddr; 1] = ["192.0.2.66".parse().unwrap()];
    let found = ask(&a.namespace, LOCAL, "example.org", A).addresses();
    assert_eq!(found, expected, "the daemon's server");
    // Those of a container and of a network, which the next daemon knows too.
    scene.set_daemon_options(&["--workers", "2", "--dns", "192.0.2.254"]);
    let own = scene.container("own", &["--dns", server]);
    let create = ["network", "create", "on-link", "--dns", server];
    scene.pontoon(&create).success();
    let inner = scene.container("inner", &["--net", "on-link"]);
    for restart in [false, true] {
        if restart {
            scene.end_daemon(Signal::SIGTERM);
            scene.start_daemon();
        }
        for container in [&own, &inner] {
            let found = ask(&container.namespace, LOCAL, "example.com", A).addresses();
            assert_eq!(found, expected);
        }
    }
    let told = scene.json(&["network", "inspect", "on-link"]);
    let options = &told.get(0).unwrap_or(&told)["options"];
    assert_eq!(options["dns"], serde_json::json!([server]), "{told}");
    for (wrong, why) in [
        ("fe80::2", "on which interface"),
        ("192.0.2.2%eth0", "only a link-local address"),
        ("fe80::2%", "can be no interface"),
        ("fe80::2%eth0%eth1", "can be no interface"),
    ] {
        for command in [
            &["run", "--dns", wrong, "--", "true"][..],
            &["network", "create", "x", "--dns", wrong],
            &["daemon", "--dns", wrong],
        ] {
            let failure = scene.pontoon(command).failure();
            assert!(failure.contains(why), "{wrong}: {failure}");
        }
    }
}

// Feature: dns-forwarding
#[test]
fn the_host_s_options_are_those_of_its_servers() {
    let other: IpAddr = "198.51.100.8".parse().unwrap();
    let conf = format!(
        "nameserver {BEYOND}\r\nnameserver\t{other}\noptions timeout:2 attempts:1 ; both\n\
         options rotate\n"
    );
    let Some(scene) = scene_with(&conf) else {
        return;
    };
    scene.outside.ip(&format!("addr add {other}/32 dev lo"));
    let slow = World::with_address(77).slow(Duration::from_millis(400));
    let asked = [BEYOND, other].map(|address| slow.serve(&scene.outside, address));
    let asked = || asked.each_ref().map(|it| it.load(Ordering::Relaxed));
    let a = scene.container("a", &[]);
    for number in 0..6 {
        ask(&a.namespace, LOCAL, &format!("n{number}.example.org"), A);
    }
    assert_eq!(asked(), [3, 3], "each in its turn");
    // A pair of servers that are both silent is asked once: with EDNS, and without.
    let gone = scene.container("gone", &["--dns", "192.0.2.253", "--dns", "192.0.2.254"]);
    let start = Instant::now();
    let failure = ask(&gone.namespace, LOCAL, "example.org", A);
    assert_eq!(failure.code, 2, "SERVFAIL");
    assert!(start.elapsed() < Duration::from_secs(6));
}

// Feature: dns-forwarding
#[test]
fn a_server_that_needs_two_seconds_gets_them() {
    let conf = format!("nameserver 192.0.2.254\nnameserver {BEYOND}\n");
    let Some(scene) = scene_with(&conf) else {
        return;
    };
    World::with_address(77)
        .slow(Duration::from_secs(2))
        .serve(&scene.outside, BEYOND);
    let found = inside(&scene, &[], &["getent", "ahostsv4", "example.org"]);
    assert!(found.contains("192.0.2.77"), "{found}");
    // The first one is gone, and only the first question waits for it, for 1.2 seconds.
    let a = scene.container("a", &[]);
    for name in ["a.example.org", "b.example.org"] {
        let start = Instant::now();
        assert_eq!(ask(&a.namespace, LOCAL, name, A).addresses().len(), 1);
        let took = start.elapsed().as_millis();
        assert!((2000..3000).contains(&took), "{took} ms");
    }
}

// Feature: dns-forwarding
#[test]
fn part_of_an_answer_is_better_than_none() {
    let Some(scene) = scene_with(&format!("nameserver {BEYOND}\n")) else {
        return;
    };
    World::with_address(77)
        .without_tcp(5)
        .serve(&scene.outside, BEYOND);
    let a = scene.container("a", &[]);
    for server in [LOCAL, GATEWAY] {
        for by in [ask, ask_by_tcp] {
            let part = by(&a.namespace, server, "long.example.org", A);
            assert!(part.truncated, "{part:?}");
            assert_eq!(part.addresses().len(), 5);
        }
    }
    let found = inside(&scene, &[], &["getent", "ahostsv4", "long.example.org"]);
    assert!(found.contains("192.0.2.77"), "{found}");
}

// Feature: dns-forwarding
#[test]
fn answers_are_forgotten_with_the_network_and_not_with_a_neighbour() {
    let Some(scene) = scene_with(&format!("nameserver {BEYOND}\n")) else {
        return;
    };
    let asked = World::with_address(77).serve(&scene.outside, BEYOND);
    let a = scene.container("a", &[]);
    let asks = || {
        ask(&a.namespace, LOCAL, "example.org", A);
        asked.load(Ordering::Relaxed)
    };
    // Addresses of the link's own come a moment after it is up.
    let settled = || {
        let before = asks();
        thread::sleep(Duration::from_millis(2500));
        if asks() == before {
            Ok(())
        } else {
            Err("it still changes".to_owned())
        }
    };
    pontoon_tests::eventually("the host's network is up", Duration::from_secs(20), settled);
    let first = asks();
    for last in 100..105 {
        let neighbour = format!("192.0.2.{last} lladdr 02:00:00:00:00:{}", last - 90);
        scene.host.ip(&format!("neigh add {neighbour} dev eth0"));
        thread::sleep(Duration::from_millis(150));
        assert_eq!(asks(), first, "the host has one more neighbour");
    }
    scene.host.ip("addr add 192.0.2.99/24 dev eth0");
    pontoon_tests::eventually("it is asked again", Duration::from_secs(5), || {
        if asks() > first {
            Ok(())
        } else {
            Err("it is not".to_owned())
        }
    });
}
