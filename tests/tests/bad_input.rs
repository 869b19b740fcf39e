//! What should not come, and comes: frames that are none, loops, floods, clients that send junk.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pontoon_tests::namespace::{Namespace, join};
use pontoon_tests::scene::{ANY, Container, HOST, LOOPBACK, OUTSIDE, PORT_KINDS, Scene};
use pontoon_tests::traffic::{Flow, listen, ping};
use pontoon_tests::wire::{Noise, RawPort, ethernet, ipv4, udp};
use switch::frame::{Frame, VnetHeader};
use switch::io::{PacketOptions, Queue, open_packet};

const GATEWAY: &str = "the gateway of the default network";

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("{address} is IPv6"),
    }
}

fn mac_of(text: &str) -> [u8; 6] {
    let mut mac = [0; 6];
    for (byte, part) in mac.iter_mut().zip(text.trim().split(':')) {
        *byte = u8::from_str_radix(part, 16).expect("a MAC in hexadecimal");
    }
    mac
}

fn gateway(scene: &Scene) -> (Ipv4Addr, [u8; 6]) {
    let network = scene.json(&["network", "inspect", "bridge"]);
    let network = network.get(0).unwrap_or(&network);
    let address = network["gateways"][0].as_str().expect(GATEWAY);
    let mac = network["gateway_mac"].as_str().expect(GATEWAY);
    (address.parse().expect(GATEWAY), mac_of(mac))
}

/// All that worked before the bad input works after it.
fn all_well(scene: &Scene, a: &Container, b: &Container) {
    ping(&a.namespace, b.address).success();
    ping(&a.namespace, OUTSIDE).success();
    let listener = listen(&a.namespace, (ANY, 80));
    for (from, to) in [(&scene.outside, HOST), (&scene.host, LOOPBACK)] {
        Flow::open(from, (to, 8080), &listener)
            .unwrap()
            .transfer(1 << 20)
            .unwrap();
    }
    let listener = listen(&scene.outside, (OUTSIDE, 80));
    Flow::open(&a.namespace, (OUTSIDE, 80), &listener)
        .unwrap()
        .transfer(1 << 20)
        .unwrap();
}

/// Frames that begin as they should and go wrong somewhere.
fn mutilated(noise: &mut Noise, macs: &[[u8; 6]], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let length = noise.below(300);
    let mut payload = noise.bytes(length);
    if noise.below(3) > 0 {
        let protocol = [1, 2, 4, 6, 17, 41, 47, 58, 132, 255][noise.below(10)];
        let from = addresses[noise.below(addresses.len())];
        let to = addresses[noise.below(addresses.len())];
        payload = ipv4(from, to, protocol, &payload);
        for _ in 0..noise.below(3) {
            let at = noise.below(payload.len().min(60));
            payload[at] = noise.word() as u8;
        }
    }
    let types = [
        0x0800, 0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x8847, 0x05dc, 0x0000,
    ];
    let ethertype = types[noise.below(types.len())];
    let to = macs[noise.below(macs.len())];
    let from = macs[noise.below(macs.len())];
    let mut frame = ethernet(to, from, ethertype, &payload);
    if noise.below(4) == 0 {
        frame.truncate(14 + noise.below(frame.len() - 13));
    }
    frame
}

fn garbage_harms_nobody(port_kind: &'static str) {
    let Some(scene) = Scene::with_port_kind(port_kind) else {
        return;
    };
    let a = scene.container("a", &["-p", "8080:80"]);
    let b = scene.container("b", &[]);
    all_well(&scene, &a, &b);
    let (gateway_address, gateway_mac) = gateway(&scene);
    let raw = RawPort::open(&a.namespace, "eth0");
    let b_mac = mac_of(&b.namespace.mac("eth0"));
    let macs = [
        raw.mac,
        raw.mac,
        raw.mac,
        gateway_mac,
        gateway_mac,
        b_mac,
        [0xff; 6],
        [0; 6],
        [1, 0x80, 0xc2, 0, 0, 0],
        [0x33, 0x33, 0, 0, 0, 1],
    ];
    let addresses = [
        v4(a.address),
        v4(a.address),
        v4(b.address),
        gateway_address,
        v4(HOST),
        v4(OUTSIDE),
        Ipv4Addr::BROADCAST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(224, 0, 0, 1),
    ];
    let mut noise = Noise::new(11);
    let mut taken = 0;
    for _ in 0..30_000 {
        let frame = mutilated(&mut noise, &macs, &addresses);
        // A full queue (ENOBUFS) is a refusal as good as any.
        taken += usize::from(raw.send(&frame).is_ok());
    }
    assert!(taken > 10_000, "{taken} frames went in");
    // Shorter than any frame, and longer than the interface takes.
    raw.send(&[1, 2, 3]).expect_err("no Ethernet header");
    raw.send(&[0xff; 9000]).expect_err("larger than the MTU");

    // What a wire would carry into the uplink.
    let wire = RawPort::open(&scene.outside, "eth0");
    let host_mac = mac_of(&scene.host.mac("eth0"));
    let macs = [wire.mac, host_mac, host_mac, gateway_mac, [0xff; 6]];
    let addresses = [
        v4(OUTSIDE),
        v4(OUTSIDE),
        v4(HOST),
        v4(HOST),
        v4(a.address),
        gateway_address,
    ];
    for _ in 0..10_000 {
        wire.send(&mutilated(&mut noise, &macs, &addresses)).ok();
    }
    all_well(&scene, &a, &b);
    for reason in ["SpoofedSource", "Malformed"] {
        assert!(scene.drops(reason) > 0, "{reason}");
    }
}

#[test]
fn garbage_from_a_tap_harms_nobody() {
    garbage_harms_nobody(PORT_KINDS[0]);
}

#[test]
fn garbage_from_a_veth_harms_nobody() {
    garbage_harms_nobody(PORT_KINDS[1]);
}

#[test]
fn super_frames_that_lie_harm_nobody() {
    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        let a = scene.container("a", &["-p", "8080:80"]);
        let b = scene.container("b", &[]);
        let (_, gateway_mac) = gateway(&scene);
        let raw = RawPort::open(&a.namespace, "eth0");
        let b_mac = mac_of(&b.namespace.mac("eth0"));
        let queue = offloading_socket(&a.namespace);
        let mut noise = Noise::new(17);
        let mut sent = 0;
        for _ in 0..5_000 {
            let to = [gateway_mac, b_mac, [0xff; 6]][noise.below(3)];
            let length = [40, 1500, 9000, 40_000, 65_000][noise.below(5)];
            let protocol = [6, 17, 1][noise.below(3)];
            let payload = noise.bytes(length);
            let destination = [v4(b.address), v4(OUTSIDE), v4(HOST)][noise.below(3)];
            let packet = ipv4(v4(a.address), destination, protocol, &payload);
            let mut frame = Frame::from_bytes(&ethernet(to, raw.mac, 0x0800, &packet));
            // The sending kernel checks some of it, and what passes is the switch's to bear.
            frame.set_vnet(VnetHeader {
                flags: noise.below(4) as u8,
                gso_type: [0, 1, 3, 4, 5, 0x81, 0x7f][noise.below(7)],
                hdr_len: [0, 14, 34, 54, 100, 65_535][noise.below(6)],
                gso_size: [0, 1, 8, 500, 1448, 65_535][noise.below(6)],
                csum_start: [0, 14, 34, 1499, 65_535][noise.below(5)],
                csum_offset: [0, 6, 16, 65_535][noise.below(4)],
            });
            sent += queue.transmit(&[&frame]).sent;
        }
        assert!(sent > 100, "{sent} frames went in");
        all_well(&scene, &a, &b);
    }
}

/// A checksum that a frame leaves to whoever sends it out may lie where its sender says. One that
/// would lie on the source address makes that another's, when the guard has long looked at it.
// Conforms: SWITCH-guard-offload
// Feature: spoof-guard
#[test]
fn a_checksum_to_be_completed_forges_no_source() {
    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        // As by a network card that adds up no checksums, so that the kernel has to.
        scene.host.sh("ethtool -K eth0 tx off");
        let a = scene.container("a", &[]);
        let (_, gateway_mac) = gateway(&scene);
        let watch = RawPort::open(&scene.outside, "eth0");
        let mac = mac_of(&a.namespace.mac("eth0"));
        let socket = offloading_socket(&a.namespace);
        let send = |marker: &[u8], csum_start, csum_offset| {
            let packet = ipv4(v4(a.address), v4(OUTSIDE), 17, &udp(7, 7, marker));
            let mut frame = Frame::from_bytes(&ethernet(gateway_mac, mac, 0x0800, &packet));
            frame.set_vnet(VnetHeader {
                flags: VnetHeader::NEEDS_CSUM,
                csum_start,
                csum_offset,
                ..VnetHeader::default()
            });
            assert_eq!(socket.transmit(&[&frame]).sent, 1);
        };
        let before = scene.drops("MisplacedChecksum");
        let forged = b"this must not arrive";
        // The IP header begins at 14, its source address at 26, the UDP header at 34. The kernel
        // takes nothing that starts before 20.
        for (start, offset) in [(20, 6), (20, 8), (24, 0), (33, 1), (34, 0), (35, 1)] {
            send(forged, start, offset);
        }
        let proper = b"this is as it should be";
        send(proper, 34, 6);
        let arrived = |frame: &[u8], marker: &[u8]| {
            let mut windows = frame.windows(marker.len());
            windows.any(|window| window == marker)
        };
        let mut came = false;
        while let Some(frame) = watch.receive() {
            assert!(!arrived(&frame, forged), "got out: {frame:02x?}");
            came |= arrived(&frame, proper);
        }
        assert!(came, "a checksum in its place is no offence");
        assert_eq!(scene.drops("MisplacedChecksum") - before, 6);
    }
}

/// A socket on a container's interface by which it says what is left of its frames to do.
fn offloading_socket(container: &Namespace) -> Queue {
    let index = container.sh("cat /sys/class/net/eth0/ifindex");
    let index = index.trim().parse().expect("an index");
    container.within(|| {
        let sockets = open_packet(index, 1, PacketOptions::default());
        Queue::Packet(sockets.expect("root may open AF_PACKET").remove(0))
    })
}

// Conforms: SWITCH-guard
// Feature: spoof-guard
#[test]
fn spoofed_sources_are_dropped_by_name() {
    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        let a = scene.container("a", &["-p", "8080:80"]);
        let b = scene.container("b", &[]);
        ping(&a.namespace, b.address).success();
        let (_, gateway_mac) = gateway(&scene);
        let raw = RawPort::open(&a.namespace, "eth0");
        let b_mac = mac_of(&b.namespace.mac("eth0"));
        let watch = RawPort::open(&scene.outside, "eth0");
        let before = scene.drops("SpoofedSource");
        let marker = b"this must not arrive";
        let stolen = ipv4(v4(b.address), v4(OUTSIDE), 17, &udp(7, 7, marker));
        let own = ipv4(v4(a.address), v4(OUTSIDE), 17, &udp(7, 7, marker));
        for _ in 0..10 {
            raw.send(&ethernet(gateway_mac, raw.mac, 0x0800, &stolen))
                .unwrap();
            raw.send(&ethernet(gateway_mac, b_mac, 0x0800, &own))
                .unwrap();
            raw.send(&ethernet([0xff; 6], gateway_mac, 0x0800, &own))
                .unwrap();
        }
        pontoon_tests::eventually("the spoofed are counted", Duration::from_secs(5), || {
            let count = scene.drops("SpoofedSource") - before;
            if count == 30 {
                Ok(())
            } else {
                Err(format!("{count} of 30"))
            }
        });
        while let Some(frame) = watch.receive() {
            let arrived = frame.windows(marker.len()).any(|window| window == marker);
            assert!(!arrived, "a spoofed datagram got out");
        }
        // The switch still knows where b is.
        ping(&a.namespace, b.address).success();
    }
}

/// Two containers that hand every frame they hear to each other, behind the switch's back.
// Feature: switching
#[test]
fn a_loop_behind_two_ports_is_no_storm() {
    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        // What an end of the loop says of its own accord, as hosts do in IPv6, it may repeat for
        // as long as it likes.
        let quiet = ["network", "create", "quiet", "--ipv6=false"];
        scene.pontoon(&quiet).success();
        let a = scene.container("a", &["--net", "quiet", "-p", "8080:80"]);
        let b = scene.container("b", &["--net", "quiet"]);
        let left = scene.container("left", &["--net", "quiet"]);
        let right = scene.container("right", &["--net", "quiet"]);
        let stop = AtomicBool::new(false);
        let carried = AtomicUsize::new(0);
        let ports = [&left, &right].map(|end| RawPort::open(&end.namespace, "eth0"));
        thread::scope(|scope| {
            for (from, to) in [(&ports[0], &ports[1]), (&ports[1], &ports[0])] {
                let (stop, carried) = (&stop, &carried);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Some(frame) = from.receive() {
                            to.send(&frame).ok();
                            carried.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            // Broadcasts are what a loop multiplies.
            let shout = RawPort::open(&a.namespace, "eth0");
            for _ in 0..20 {
                let nobody = ipv4(
                    v4(a.address),
                    Ipv4Addr::BROADCAST,
                    17,
                    &udp(9, 9, b"hear me"),
                );
                shout
                    .send(&ethernet([0xff; 6], shout.mac, 0x0800, &nobody))
                    .unwrap();
            }
            thread::sleep(Duration::from_secs(1));
            let before = carried.load(Ordering::Relaxed);
            thread::sleep(Duration::from_secs(1));
            let rate = carried.load(Ordering::Relaxed) - before;
            ping(&a.namespace, b.address).success();
            stop.store(true, Ordering::Relaxed);
            assert!(
                rate < 2_000,
                "{port_kind}: {rate} frames a second still go round"
            );
        });
        all_well(&scene, &a, &b);
    }
}

/// The same by a cable: the ports' namespaces joined by a veth pair, and both answering for it.
#[test]
fn a_second_way_between_containers_confuses_nobody() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &["-p", "8080:80"]);
    let b = scene.container("b", &[]);
    join((&a.namespace, "cable0"), (&b.namespace, "cable0"));
    a.namespace.ip("addr add 10.1.2.1/24 dev cable0");
    b.namespace.ip("addr add 10.1.2.2/24 dev cable0");
    ping(&a.namespace, [10, 1, 2, 2].into()).success();
    all_well(&scene, &a, &b);
}

// Feature: quotas
#[test]
fn a_flood_from_one_container_leaves_the_others_alive() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &["-p", "8080:80"]);
    let b = scene.container("b", &[]);
    let noisy = scene.container("noisy", &[]);
    let stop = AtomicBool::new(false);
    let raw = RawPort::open(&noisy.namespace, "eth0");
    let (_, gateway_mac) = gateway(&scene);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut noise = Noise::new(5);
            while !stop.load(Ordering::Relaxed) {
                // Each one a new flow, and each one masqueraded.
                let destination = Ipv4Addr::from_bits(0xc633_6400 | noise.word() as u32 & 0xff);
                let datagram = udp(noise.word() as u16, noise.word() as u16, b"x");
                let packet = ipv4(v4(noisy.address), destination, 17, &datagram);
                raw.send(&ethernet(gateway_mac, raw.mac, 0x0800, &packet))
                    .ok();
            }
        });
        let listener = listen(&a.namespace, (ANY, 80));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            for (from, to, port) in [
                (&scene.outside, HOST, 8080),
                (&scene.host, LOOPBACK, 8080),
                (&b.namespace, a.address, 80),
            ] {
                Flow::open(from, (to, port), &listener)
                    .unwrap()
                    .exchange()
                    .unwrap();
            }
            scene.json(&["ps"]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(noisy);
    all_well(&scene, &a, &b);
}

#[test]
fn an_api_client_that_sends_junk() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let web = scene.container("web", &["-p", "8080:80"]);
    let before = scene.json(&["inspect", "web"]);

    let status = |scene: &Scene, method: &str, path: &str, body: Option<&str>| {
        let (status, body) = scene.request(method, path, body).expect("an answer");
        if status >= 400 && !body.is_empty() && body.starts_with('{') {
            assert!(body.contains("\"error\""), "{method} {path}: {body}");
        }
        status
    };
    let huge = format!("{{\"name\": \"{}\"}}", "x".repeat(20 << 20));
    let deep = "[".repeat(100_000);
    let nowhere = format!(
        "{{\"mode\": {{\"network\": \"nowhere\"}}, \"target\": {{\"netns\": \"{}\"}}}}",
        web.namespace.path().display()
    );
    let ports = "/v1/containers/web/ports";
    for (method, path, body) in [
        ("GET", "/", None),
        ("GET", "/v1/nothing", None),
        ("GET", "/v1/containers/nobody", None),
        ("GET", "/v1/containers/..%2f..%2fetc%2fpasswd", None),
        ("GET", "/v1/containers/%ff%fe", None),
        ("BREW", "/v1/networks", None),
        ("PUT", "/v1/networks", Some("{}")),
        ("POST", "/v1/networks", None),
        ("POST", "/v1/networks", Some("{")),
        ("POST", "/v1/networks", Some("null")),
        ("POST", "/v1/networks", Some("{\"name\": 5}")),
        ("POST", "/v1/networks", Some("{\"name\": \"\"}")),
        ("POST", "/v1/networks", Some("{\"name\": \"a/b\"}")),
        (
            "POST",
            "/v1/networks",
            Some("{\"name\": \"x\", \"colour\": \"blue\"}"),
        ),
        (
            "POST",
            "/v1/networks",
            Some("{\"name\": \"x\", \"subnets\": [\"10.0.0.0/33\"]}"),
        ),
        (
            "POST",
            "/v1/networks",
            Some("{\"name\": \"x\", \"subnets\": [\"10.7.0.0/31\"]}"),
        ),
        (
            "POST",
            "/v1/networks",
            Some("{\"name\": \"x\", \"subnets\": [\"127.0.0.0/8\"]}"),
        ),
        (
            "POST",
            "/v1/networks",
            Some("{\"name\": \"x\", \"subnets\": [\"192.0.2.0/24\"]}"),
        ),
        (
            "POST",
            "/v1/networks",
            Some("{\"name\": \"x\", \"gateways\": [\"1.2.3.4\"]}"),
        ),
        (
            "POST",
            "/v1/networks",
            Some("{\"name\": \"x\", \"mtu\": 1}"),
        ),
        (
            "POST",
            "/v1/networks",
            Some("{\"name\": \"x\", \"mtu\": 4294967296}"),
        ),
        ("POST", "/v1/networks", Some(&huge)),
        ("POST", "/v1/networks", Some(&deep)),
        ("DELETE", "/v1/networks/bridge", None),
        ("POST", "/v1/containers", Some("{}")),
        (
            "POST",
            "/v1/containers",
            Some("{\"mode\": \"host\", \"target\": {\"pid\": 0}}"),
        ),
        ("POST", "/v1/containers", Some(&nowhere)),
        (
            "POST",
            "/v1/containers",
            Some("{\"mode\": {\"network\": \"bridge\"}, \"target\": {\"netns\": \"/etc/passwd\"}}"),
        ),
        (
            "POST",
            "/v1/containers",
            Some("{\"mode\": {\"network\": \"bridge\"}, \"target\": {\"netns\": \"/dev/zero\"}}"),
        ),
        ("POST", ports, Some("[]x")),
        (
            "POST",
            ports,
            Some("[{\"protocol\":\"tcp\",\"host_port\":65535,\"container_port\":1,\"count\":2}]"),
        ),
        (
            "POST",
            ports,
            Some("[{\"protocol\":\"tcp\",\"host_port\":9,\"container_port\":65535,\"count\":9}]"),
        ),
        (
            "POST",
            ports,
            Some("[{\"protocol\":\"tcp\",\"host_port\":9,\"container_port\":0,\"count\":1}]"),
        ),
        (
            "POST",
            ports,
            Some("[{\"protocol\":\"tcp\",\"host_port\":9,\"container_port\":9,\"count\":0}]"),
        ),
        (
            "DELETE",
            ports,
            Some("[{\"protocol\":\"udp\",\"host_port\":8080,\"container_port\":80,\"count\":1}]"),
        ),
    ] {
        let code = status(&scene, method, path, body);
        let shown: String = body.unwrap_or("").chars().take(100).collect();
        assert!(
            (400..500).contains(&code),
            "{method} {path} {shown}: {code}"
        );
    }

    // No HTTP at all.
    let mut noise = Noise::new(23);
    for length in [1, 10, 1000, 100_000] {
        let junk = noise.bytes(length);
        scene.converse(&[&junk[..], b"\r\n\r\n"].concat()).ok();
    }
    for junk in [
        &b"GET /v1/info HTTP/9.9\r\n\r\n"[..],
        b"GET /v1/info HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/networks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut stream = UnixStream::connect(scene.socket()).expect("the daemon listens");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        stream.write_all(junk).ok();
        stream.read_to_end(&mut Vec::new()).ok();
    }
    // Many who say half a sentence and stay, and some who hang up in the middle.
    let mut idlers = Vec::new();
    for number in 0..300 {
        let mut stream = UnixStream::connect(scene.socket()).expect("the daemon listens");
        let request = b"POST /v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"na";
        stream.write_all(&request[..number % request.len()]).ok();
        if number % 2 == 0 {
            idlers.push(stream);
        }
    }
    assert_eq!(
        status(&scene, "GET", "/v1/info", None),
        200,
        "others are served"
    );
    drop(idlers);

    assert!(!scene.daemon_has_ended());
    assert_eq!(scene.json(&["inspect", "web"]), before);
    let networks = scene.json(&["network", "ls"]);
    assert_eq!(networks.as_array().map(Vec::len), Some(1), "{networks}");
    let listener = listen(&web.namespace, (ANY, 80));
    Flow::open(&scene.outside, (HOST, 8080), &listener)
        .unwrap()
        .exchange()
        .unwrap();
}

/// A namespace that is attached twice, and one whose `eth0` is taken.
#[test]
fn attaching_what_cannot_be_attached() {
    let Some(scene) = Scene::new() else { return };
    let before = scene.host_interfaces();
    let taken = Namespace::new("taken");
    taken.ip("link add eth0 type veth peer name other");
    let path = taken.path();
    let path = path.to_str().expect("an ASCII path");
    for port_kind in PORT_KINDS {
        let arguments = [
            "attach",
            "--netns",
            path,
            "--name",
            "x",
            "--port-kind",
            port_kind,
        ];
        let error = scene
            .pontoon(&[&arguments[..], &["-p", "8080:80"]].concat())
            .failure();
        assert!(error.contains("eth0"), "{error}");
        assert_eq!(scene.host_interfaces(), before, "{port_kind}: undone");
        assert_eq!(scene.json(&["ps", "-a"]).as_array().map(Vec::len), Some(0));
    }
    // The port was given back each time.
    let again = scene.container("again", &["-p", "8080:80"]);
    for wrong in [
        &["--ip", "192.168.250.3"][..],
        &["--ip", &again.address.to_string()],
        &["--mac", "ff:ff:ff:ff:ff:ff"],
        &["--mac", "02:00"],
        &["--net", "nowhere"],
        &["--name", "again"],
        &["--name", "a b"],
    ] {
        let namespace = Namespace::new("wrong");
        let path = namespace.path();
        let path = path.to_str().expect("an ASCII path");
        let error = scene
            .pontoon(&[&["attach", "--netns", path], wrong].concat())
            .failure();
        let wrong_value = wrong[1];
        assert!(error.contains(wrong_value), "{wrong:?}: {error}");
    }
}
