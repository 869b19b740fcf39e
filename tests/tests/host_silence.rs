//! The host's kernel and its firewall keep out of what is for containers, and what is the host's
//! own stays the host's.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::{Background, run};
use pontoon_tests::scene::{ANY, BEYOND, HOST, HOST_SECOND, OUTSIDE, Scene};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, dial, listen};
use pontoon_tests::wire::Witness;
use pontoon_tests::{eventually, skip};

const LONG: Duration = Duration::from_secs(15);

/// The classifiers at the ingress of the host's uplink, as tc shows them.
fn classifiers(scene: &Scene) -> String {
    scene.host.sh("tc filter show dev eth0 ingress 2>&1; true")
}

fn qdiscs(scene: &Scene) -> String {
    scene.host.sh("tc qdisc show dev eth0")
}

fn mode(scene: &Scene) -> String {
    let info = scene.json(&["info"]);
    let mode = info["host_silence"].as_str();
    mode.expect("info says how the host is silenced").to_owned()
}

/// Has the host's firewall answer everything that comes in with an error; false where there is
/// none.
fn rejects(scene: &Scene) -> bool {
    let rules = "table inet f { chain i { type filter hook input priority 0; policy drop; iif lo \
                 accept; meta l4proto { icmp, ipv6-icmp } accept; reject with icmpx \
                 admin-prohibited; }; }";
    let nft = format!("nft '{rules}' 2>&1 || echo refused");
    !scene.host.sh(&nft).contains("refused")
}

/// A scene whose host drops by tc; none on a kernel that can't.
fn silent_scene() -> Option<Scene> {
    let scene = Scene::new()?;
    if mode(&scene) == "tc" {
        return Some(scene);
    }
    skip("this kernel has no clsact or no cls_bpf");
    None
}

#[test]
fn a_firewall_that_rejects_is_before_neither_published_nor_external_ports() {
    let Some(scene) = silent_scene() else { return };
    if !rejects(&scene) {
        return skip("nft does not work here");
    }
    let a = scene.container("a", &["-p", "8080:80", "-p", "8080:80/udp"]);
    let errors = Witness::start(
        &scene.outside,
        "eth0",
        "icmp[icmptype] = icmp-unreach or tcp[tcpflags] & tcp-rst != 0",
    );
    let inside = listen(&a.namespace, (ANY, 80));
    let beyond = listen(&scene.outside, (BEYOND, 80));
    let server = bind_udp(&a.namespace, (ANY, 80));
    let mut datagrams = Datagrams::open(&scene.outside, (HOST, 8080), server);
    for _ in 0..3 {
        let mut inbound = Flow::open(&scene.outside, (HOST, 8080), &inside).unwrap();
        inbound.exchange().unwrap();
        let mut outbound = Flow::open(&a.namespace, (BEYOND, 80), &beyond).unwrap();
        outbound.exchange().unwrap();
        datagrams.exchange(100).unwrap();
    }
    assert_eq!(errors.stop(), Vec::<String>::new());
    scene.host.sh("nft delete table inet f");
}

/// Several, that of a VLAN, and a tunnel's, whose packets have no Ethernet header.
#[test]
fn every_uplink_is_silenced() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let lan = scene.second_interface();
    let _tunnel = scene.tunnel();
    let add = "ip link add link eth0 name eth0.7 type vlan id 7 2>&1 || echo refused";
    let has_vlan = !scene.host.sh(add).contains("refused");
    if has_vlan {
        scene
            .outside
            .ip("link add link eth0 name eth0.7 type vlan id 7");
        for (namespace, last) in [(&scene.host, 2), (&scene.outside, 1)] {
            namespace.ip(&format!("addr add 10.7.7.{last}/24 dev eth0.7"));
            namespace.ip("link set eth0.7 up");
        }
    }
    if !rejects(&scene) {
        return skip("nft does not work here");
    }
    scene.start_daemon();
    if mode(&scene) != "tc" {
        return skip("this kernel has no clsact or no cls_bpf");
    }
    let mut ways = vec![
        (&scene.outside, "eth0", HOST, OUTSIDE),
        (&lan, "eth0", [10, 9, 0, 2].into(), [10, 9, 0, 5].into()),
        (
            &scene.outside,
            "tun0",
            [10, 8, 0, 2].into(),
            [10, 8, 0, 1].into(),
        ),
    ];
    if has_vlan {
        ways.push((
            &scene.outside,
            "eth0.7",
            [10, 7, 7, 2].into(),
            [10, 7, 7, 1].into(),
        ));
    } else {
        skip("this kernel has no VLAN interfaces; the other uplinks are tried");
    }
    let a = scene.container("a", &["-p", "8080:80", "-p", "8080:80/udp"]);
    let inside = listen(&a.namespace, (ANY, 80));
    for (beyond, interface, host, address) in ways {
        let errors = Witness::start(
            beyond,
            interface,
            "icmp[icmptype] = icmp-unreach or tcp[tcpflags] & tcp-rst != 0",
        );
        let server = bind_udp(&a.namespace, (ANY, 80));
        let mut datagrams = Datagrams::open(beyond, (host, 8080), server);
        let there = listen(beyond, (address, 80));
        for _ in 0..2 {
            let mut inbound = Flow::open(beyond, (host, 8080), &inside).unwrap();
            inbound.exchange().unwrap();
            assert_eq!(inbound.seen_by_server(), address, "{interface}");
            let mut outbound = Flow::open(&a.namespace, (address, 80), &there).unwrap();
            outbound.exchange().unwrap();
            assert_eq!(outbound.seen_by_server(), host, "{interface}");
            datagrams.exchange(100).unwrap();
        }
        assert_eq!(errors.stop(), Vec::<String>::new(), "{interface}");
    }
    scene.host.sh("nft delete table inet f");
}

#[test]
fn classifiers_come_and_go_and_disturb_nobody_elses() {
    let Some(mut scene) = silent_scene() else {
        return;
    };
    let ours = "pref 7 bpf";
    assert!(
        classifiers(&scene).contains(ours),
        "{}",
        classifiers(&scene)
    );
    scene.end_daemon(Signal::SIGTERM);
    assert!(!qdiscs(&scene).contains("clsact"), "{}", qdiscs(&scene));

    // Somebody else's qdisc and classifier stay.
    scene.host.sh("tc qdisc add dev eth0 clsact");
    let other = "tc filter add dev eth0 ingress protocol all prio 99 bpf da bytecode '1,6 0 0 \
                 4294967295'";
    scene.host.sh(other);
    scene.start_daemon();
    assert_eq!(mode(&scene), "tc");
    scene.end_daemon(Signal::SIGTERM);
    let left = classifiers(&scene);
    assert!(left.contains("pref 99") && !left.contains(ours), "{left}");

    // One that was killed leaves its own to the next, which takes it over and away.
    scene.host.sh("tc qdisc del dev eth0 clsact");
    scene.start_daemon();
    scene.end_daemon(Signal::SIGKILL);
    assert!(classifiers(&scene).contains(ours));
    scene.start_daemon();
    let now = classifiers(&scene);
    assert_eq!(now.matches("direct-action").count(), 1, "{now}");
    scene.end_daemon(Signal::SIGTERM);
    assert!(!qdiscs(&scene).contains("clsact"), "{}", qdiscs(&scene));
}

#[test]
fn a_classifier_that_somebody_takes_away_is_put_back() {
    let Some(scene) = silent_scene() else { return };
    scene.host.sh("tc qdisc del dev eth0 clsact");
    eventually("it is back", LONG, || {
        let now = classifiers(&scene);
        now.contains("pref 7 bpf").then_some(()).ok_or(now)
    });
    assert_eq!(mode(&scene), "tc");
}

#[test]
fn where_tc_is_somebody_elses_sockets_do() {
    let Some(mut scene) = silent_scene() else {
        return;
    };
    let a = scene.container("a", &["-p", "8080:80"]);
    // A verdict that comes before ours may let through what is to be dropped.
    scene
        .host
        .sh("tc filter add dev eth0 ingress protocol all prio 1 bpf da bytecode '1,6 0 0 0'");
    eventually("sockets hold the ports", LONG, || {
        let now = mode(&scene);
        (now == "sockets").then_some(()).ok_or(now)
    });
    // Flows to a port of the world, none of which the host may reset.
    let check = |scene: &Scene, port: u16| {
        let expression = format!("tcp[tcpflags] & tcp-rst != 0 and (port 8080 or port {port})");
        let resets = Witness::start(&scene.outside, "eth0", &expression);
        let inside = listen(&a.namespace, (ANY, 80));
        let beyond = listen(&scene.outside, (BEYOND, port));
        let mut inbound = Flow::open(&scene.outside, (HOST, 8080), &inside).unwrap();
        inbound.exchange().unwrap();
        for _ in 0..50 {
            let mut outbound = Flow::open(&a.namespace, (BEYOND, port), &beyond).unwrap();
            outbound.exchange().unwrap();
        }
        assert_eq!(resets.stop(), Vec::<String>::new());
    };
    check(&scene, 81);
    // And back. Sockets end with their daemon, so a connection that is just being closed may be
    // reset.
    scene.host.sh("tc filter del dev eth0 ingress prio 1");
    scene.end_daemon(Signal::SIGTERM);
    scene.start_daemon();
    assert_eq!(mode(&scene), "tc");
    check(&scene, 82);
}

/// A server of TCP on the host that answers what it gets, on a port of the range that pontoon uses.
fn exchanges(from: &Namespace, to: (IpAddr, u16)) -> Result<(), String> {
    let tell = |error: std::io::Error| error.to_string();
    let mut stream = dial(from, to).map_err(tell)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .map_err(tell)?;
    stream.write_all(b"hello").map_err(tell)?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).map_err(tell)
}

const ECHO: &str = "
import socket, sys, threading
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', int(sys.argv[1])))
s.listen()
print('ready', flush=True)
def serve(c):
    while True:
        d = c.recv(100)
        if not d: return
        c.sendall(d)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
";

/// From a source port of the range, to an address: an answer or none.
const ASK_FROM: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.bind(('', int(sys.argv[1])))
for i in range(20):
    s.sendto(b'?', (sys.argv[2], 53))
    try:
        s.recv(100)
        print('answered')
        break
    except OSError: pass
";

#[test]
fn ports_that_processes_of_the_host_bind_are_theirs() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let server = |scene: &Scene, port: &str| {
        let mut command = scene.host.command("python3");
        let mut server = Background::start(command.args(["-c", ECHO, port]));
        server.wait_for_output("ready");
        server
    };
    let _before = server(&scene, "61007");
    scene.start_daemon();
    exchanges(&scene.outside, (HOST, 61007)).unwrap();
    if mode(&scene) != "tc" {
        return;
    }
    let _later = server(&scene, "62007");
    eventually("a later one is reached too", LONG, || {
        exchanges(&scene.outside, (HOST, 62007))
    });
    // What a process of the host asks from such a port is answered.
    let mut answer = scene.outside.command("python3");
    let mut answer = Background::start(answer.args([
        "-c",
        "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('',53))\n\
         print('ready',flush=True)\nwhile True:\n  d,a=s.recvfrom(100)\n  s.sendto(d,a)",
    ]));
    answer.wait_for_output("ready");
    let mut ask = scene.host.command("python3");
    let said = run(ask.args(["-c", ASK_FROM, "63007", &OUTSIDE.to_string()])).success();
    assert!(said.contains("answered"), "{said}");
    // Containers never get one of them, and the port is used again when it is free.
    let a = scene.container("a", &[]);
    let beyond = listen(&scene.outside, (BEYOND, 80));
    for _ in 0..100 {
        let flow = Flow::open(&a.namespace, (BEYOND, 80), &beyond).unwrap();
        assert_eq!(flow.seen_by_server(), HOST);
    }
    exchanges(&scene.outside, (HOST, 61007)).unwrap();
}

#[test]
fn one_address_that_publishes_leaves_the_port_of_the_others_alone() {
    let Some(scene) = silent_scene() else { return };
    let on = format!("{HOST}:8080:80");
    let a = scene.container("a", &["-p", &on]);
    let inside = listen(&a.namespace, (ANY, 80));
    let mut flow = Flow::open(&scene.outside, (HOST, 8080), &inside).unwrap();
    flow.exchange().unwrap();
    let own = listen(&scene.host, (HOST_SECOND, 8080));
    let mut flow = Flow::open(&scene.outside, (HOST_SECOND, 8080), &own).unwrap();
    flow.exchange().unwrap();
    // A port of the range for outgoing flows can be published.
    scene.pontoon(&["publish", "a", "-p", "61234:80"]).success();
    let mut flow = Flow::open(&scene.outside, (HOST, 61234), &inside).unwrap();
    flow.exchange().unwrap();
}

#[test]
fn thousands_of_flows_at_once_take_no_descriptors() {
    let Some(scene) = silent_scene() else { return };
    let a = scene.container("a", &[]);
    let descriptors = || {
        let path = format!("/proc/{}/fd", scene.daemon_pid());
        std::fs::read_dir(path).map_or(0, Iterator::count)
    };
    let before = descriptors();
    let server = bind_udp(&scene.outside, (BEYOND, 7000));
    let count = 3000;
    let burst = format!(
        "import socket,resource,time\nresource.setrlimit(resource.RLIMIT_NOFILE,(4096,4096))\n\
         k=[socket.socket(socket.AF_INET,socket.SOCK_DGRAM) for i in range({count})]\n\
         for i,s in enumerate(k):\n  s.sendto(b'?',('{BEYOND}',7000))\n  if i%50==0: time.sleep(0.02)\n"
    );
    run(a.namespace.command("python3").args(["-c", &burst])).success();
    let told = scene.pontoon(&[
        "conntrack",
        "--count",
        "--protocol",
        "udp",
        "--port",
        "7000",
    ]);
    let flows: usize = told.success().trim().parse().expect("a number");
    assert!(flows >= count * 99 / 100, "{flows} of {count}");
    assert!(
        descriptors() < before + 20,
        "{before}, then {}",
        descriptors()
    );
    drop(server);
}
