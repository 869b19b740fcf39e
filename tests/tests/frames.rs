//! What a frame is: what the switch lets through is what the receiving kernel takes it for, and
//! super-frames of every kind arrive whole.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use pontoon_tests::namespace::{Namespace, join};
use pontoon_tests::scene::{HOST, OUTSIDE, PORT_KINDS, Scene};
use pontoon_tests::traffic::{Flow, bind_udp, listen, ping};
use pontoon_tests::wire::{Noise, RawPort, ipv4, udp};

const PORT: u16 = 5353;

/// Puts tags, LLC or an IPv4 option around a packet at random: what Linux may or may not see
/// through.
fn disguise(noise: &mut Noise, to: [u8; 6], from: [u8; 6], kind: u16, packet: &[u8]) -> Vec<u8> {
    let mut between = Vec::new();
    for _ in 0..noise.below(6) {
        between.extend([[0x81, 0x00], [0x88, 0xa8]][noise.below(2)]);
        between.extend([[0, 0], [0xe0, 0], [0, 0], [0, 5]][noise.below(4)]);
    }
    if noise.one_in(6) {
        between.extend([[0, 36], [0, 0], [5, 0xff]][noise.below(3)]);
        between.extend([0xaa, 0xaa, 3, 0, 0, 0]);
    }
    between.extend(kind.to_be_bytes());
    let mut frame = [&to[..], &from, &between, packet].concat();
    if noise.one_in(8) {
        let cut = noise.below(frame.len() - 14);
        frame.truncate(14 + cut);
    }
    if noise.one_in(8) {
        frame.resize(frame.len() + noise.below(40), 0);
    }
    frame
}

/// What a socket got, by the sender's address: how many datagrams.
fn drain(socket: &UdpSocket, own: IpAddr) -> (usize, usize) {
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a timeout can be set");
    let (mut from_own, mut from_others) = (0, 0);
    let mut buffer = [0; 200];
    while let Ok((_, source)) = socket.recv_from(&mut buffer) {
        match source.ip() == own {
            true => from_own += 1,
            false => from_others += 1,
        }
    }
    (from_own, from_others)
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("an IPv4 address"),
    }
}

fn mac_of(namespace: &Namespace) -> [u8; 6] {
    let text = namespace.mac("eth0");
    let mut bytes = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("a MAC"));
    std::array::from_fn(|_| bytes.next().expect("six bytes"))
}

/// Sends disguised frames to a receiver with `mac` and `address`: datagrams from `own` and from
/// others, to it and to its loopback, and ARP answers that put `gateway` at the sender's MAC.
fn attack(port: &RawPort, mac: [u8; 6], own: Ipv4Addr, address: Ipv4Addr, gateway: Ipv4Addr) {
    let mut noise = Noise::new(7);
    let datagram = udp(1, PORT, b"who am I");
    let arp = [
        &[0, 1, 8, 0, 6, 4, 0, 2][..],
        &port.mac,
        &gateway.octets(),
        &mac,
        &address.octets(),
    ]
    .concat();
    for _ in 0..400 {
        let forged = ipv4(Ipv4Addr::new(9, 9, 9, 9), address, 17, &datagram);
        let local = ipv4(own, Ipv4Addr::LOCALHOST, 17, &datagram);
        let honest = ipv4(own, address, 17, &datagram);
        for (kind, packet) in [
            (0x0800, &forged),
            (0x0800, &local),
            (0x0800, &honest),
            (0x0806, &arp),
        ] {
            let to = if noise.one_in(4) { [0xff; 6] } else { mac };
            let frame = disguise(&mut noise, to, port.mac, kind, packet);
            // A full queue loses one; that the rest comes is what counts.
            port.send(&frame).ok();
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

// Conforms: SWITCH-guard CVE-2020-8558
#[test]
fn a_kernel_takes_no_disguised_frame_for_another_s() {
    // Without a switch the same frames do their work, so the kernel sees through the disguise.
    if !pontoon_tests::is_root_or_skip() {
        return;
    }
    let (own, victim) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2));
    let (one, other) = (Namespace::new("plain1"), Namespace::new("plain2"));
    join((&one, "eth0"), (&other, "eth0"));
    one.ip(&format!("addr add {own}/24 dev eth0"));
    other.ip(&format!("addr add {victim}/24 dev eth0"));
    other.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0");
    other.ip("route add default dev eth0");
    let socket = bind_udp(&other, (Ipv4Addr::UNSPECIFIED, PORT));
    attack(
        &RawPort::open(&one, "eth0"),
        mac_of(&other),
        own,
        victim,
        Ipv4Addr::new(10, 9, 0, 9),
    );
    let (honest, forged) = drain(&socket, own.into());
    assert!(honest > 50 && forged > 50, "{honest} and {forged}");

    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        let (attacker, victim) = (scene.container("a", &[]), scene.container("v", &[]));
        let gateway = Ipv4Addr::new(172, 17, 0, 1);
        ping(&victim.namespace, gateway.into()).success();
        let entry = || {
            let entry = victim.namespace.ip(&format!("neigh show {gateway}"));
            let mac = entry.split(' ').skip_while(|word| *word != "lladdr").nth(1);
            mac.map(str::to_owned)
        };
        let before = entry().expect("the gateway is known");
        let socket = bind_udp(&victim.namespace, (victim.address, PORT));
        let local = bind_udp(&victim.namespace, (Ipv4Addr::LOCALHOST, PORT));
        let mac = mac_of(&victim.namespace);
        let port = RawPort::open(&attacker.namespace, "eth0");
        attack(
            &port,
            mac,
            v4(attacker.address),
            v4(victim.address),
            gateway,
        );
        let (honest, forged) = drain(&socket, attacker.address);
        assert!(honest > 50, "{port_kind}: {honest}");
        assert_eq!(forged, 0, "{port_kind}");
        assert_eq!(drain(&local, attacker.address), (0, 0), "{port_kind}");
        assert_eq!(entry().as_ref(), Some(&before), "{port_kind}: poisoned");
        for reason in ["SpoofedSource", "TooManyTags", "Encapsulated", "Martian"] {
            assert!(scene.drops(reason) > 0, "{port_kind}: {reason}");
        }
    }
}

/// An advertisement that `target` is at `mac`, from one host to another, behind one extension
/// header of IPv6 at the most, and perhaps in a disguise.
fn advertise(noise: &mut Noise, to: [u8; 6], mac: [u8; 6], addresses: [Ipv6Addr; 3]) -> Vec<u8> {
    let [from, address, target] = addresses;
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let pseudo = [
        &from.octets()[..],
        &address.octets(),
        &[0, 0, 0, 32, 0, 0, 0, 58],
        &message,
    ];
    let sum = pseudo.concat().chunks(2).fold(0, |sum, pair| {
        sum + u32::from(pair[0]) * 256 + u32::from(pair[1])
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    // Hop-by-hop and destination options of padding.
    let (next, chain): (u8, &[u8]) = match noise.below(3) {
        0 => (58, &[]),
        1 => (0, &[58, 0, 1, 4, 0, 0, 0, 0]),
        _ => (60, &[58, 0, 1, 4, 0, 0, 0, 0]),
    };
    let length = (chain.len() + message.len()) as u16;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(from.octets());
    packet.extend(address.octets());
    packet.extend([chain, &message].concat());
    disguise(noise, to, mac, 0x86dd, &packet)
}

// Conforms: SWITCH-guard-nd IPV6-extension-headers
#[test]
fn no_disguised_advertisement_moves_a_neighbour() {
    if !pontoon_tests::is_root_or_skip() || !pontoon_tests::has_ipv6_or_skip() {
        return;
    }
    let settled = "02:00:00:00:00:77";
    let target: Ipv6Addr = "fd00:9::77".parse().expect("an address");
    // Whether advertisements of one namespace change what another believes.
    let moves = |attacker: &Namespace, victim: &Namespace, from: IpAddr, to: IpAddr| {
        let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else {
            panic!("IPv6 addresses");
        };
        victim.ip(&format!(
            "neigh replace {target} lladdr {settled} dev eth0 nud stale"
        ));
        let port = RawPort::open(attacker, "eth0");
        let mac = mac_of(victim);
        let mut noise = Noise::new(11);
        for _ in 0..300 {
            let frame = advertise(&mut noise, mac, port.mac, [from, to, target]);
            port.send(&frame).ok();
            std::thread::sleep(Duration::from_micros(200));
        }
        !victim.ip(&format!("neigh show {target}")).contains(settled)
    };
    let (one, other) = (Namespace::new("plain1"), Namespace::new("plain2"));
    join((&one, "eth0"), (&other, "eth0"));
    one.ip("addr add fd00:9::1/64 dev eth0 nodad");
    other.ip("addr add fd00:9::2/64 dev eth0 nodad");
    let plain = ["fd00:9::1", "fd00:9::2"].map(|it| it.parse().expect("an address"));
    assert!(
        moves(&one, &other, plain[0], plain[1]),
        "nothing to guard from"
    );
    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        let (attacker, victim) = (scene.container("a", &[]), scene.container("v", &[]));
        let moved = moves(
            &attacker.namespace,
            &victim.namespace,
            attacker.ipv6(),
            victim.ipv6(),
        );
        assert!(!moved, "{port_kind}");
        assert!(scene.drops("SpoofedSource") > 0, "{port_kind}");
    }
}

/// Datagrams that leave at once as super-frames, 1200 bytes each, to `to`; returns how many of 200
/// arrive as they were sent.
fn super_datagrams(from: &Namespace, to: (IpAddr, u16), receiver: &UdpSocket) -> usize {
    const SIZE: usize = 1200;
    let sender = bind_udp(from, (Ipv4Addr::UNSPECIFIED, 0));
    setsockopt(&sender, sockopt::UdpGsoSegment, &(SIZE as i32)).expect("Linux 4.18 has it");
    receiver
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a timeout can be set");
    let mut arrived = 0;
    for round in 0..10u8 {
        let message: Vec<u8> = (0..20)
            .flat_map(|piece| [round * 20 + piece; SIZE])
            .collect();
        sender.send_to(&message, to).expect("a route");
        for piece in 0..20 {
            let mut buffer = [0; 2 * SIZE];
            match receiver.recv(&mut buffer) {
                Ok(length) => {
                    arrived += usize::from(buffer[..length] == [round * 20 + piece; SIZE]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    arrived
}

/// Carries 8 MB, and says how fast, in Mbit/s.
#[track_caller]
fn bulk(from: &Namespace, to: (IpAddr, u16), listener: &std::net::TcpListener) -> f64 {
    const BYTES: usize = 8_000_000;
    let mut flow = Flow::open(from, to, listener).expect("a connection");
    let start = Instant::now();
    flow.transfer(BYTES).expect("what was sent");
    BYTES as f64 * 8e-6 / start.elapsed().as_secs_f64()
}

/// Floor of every transfer, in Mbit/s: far below what a debug build does, far above a stalling TCP.
const FLOOR: f64 = 40.0;

// Conforms: SWITCH-guard-offload
#[test]
fn super_frames_of_every_kind_arrive_whole() {
    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        let ports = [
            "-p",
            "7000:7000/udp",
            "-p",
            "8080:8080",
            "-p",
            "4789:4789/udp",
        ];
        let container = scene.container("c", &ports);
        let peer = scene.container("peer", &[]);
        let inside = &container.namespace;
        let listener = listen(inside, (Ipv4Addr::UNSPECIFIED, 8080));
        let receiver = bind_udp(inside, (Ipv4Addr::UNSPECIFIED, 7000));
        // The uplink's receiver, and its sender.
        for gro in ["rx-gro-list off", "gro on rx-gro-list on", "gro off"] {
            for offloads in ["tso on gso on tx on", "tso off gso off tx off"] {
                scene.host.sh(&format!("ethtool -K eth0 {gro}"));
                scene.outside.sh(&format!("ethtool -K eth0 {offloads}"));
                let what = format!("{port_kind}, {gro}, {offloads}");
                let rate = bulk(&scene.outside, (HOST, 8080), &listener);
                assert!(rate > FLOOR, "{what}: {rate} Mbit/s");
                let arrived = super_datagrams(&scene.outside, (HOST, 7000), &receiver);
                assert!(arrived >= 190, "{what}: {arrived} of 200 datagrams");
            }
        }
        scene.outside.sh("ethtool -K eth0 tso on gso on tx on");
        let rate = bulk(&peer.namespace, (container.address, 8080), &listener);
        assert!(
            rate > FLOOR,
            "{port_kind}, between containers: {rate} Mbit/s"
        );
        let arrived = super_datagrams(&peer.namespace, (container.address, 7000), &receiver);
        assert!(arrived >= 190, "{port_kind}, between containers: {arrived}");
        tunnel(&scene, inside, container.address, port_kind);
    }
}

/// A tunnel between the outside and a container, whose super-frames say less than they contain.
fn tunnel(scene: &Scene, inside: &Namespace, address: IpAddr, port_kind: &str) {
    let outside = &scene.outside;
    let add = "link add tunnel type vxlan id 42 dstport 4789 dev eth0";
    outside.ip(&format!("{add} remote {HOST} local 192.0.2.2"));
    inside.ip(&format!("{add} remote 192.0.2.2 local {address}"));
    for (namespace, own) in [(outside, "10.77.0.2"), (inside, "10.77.0.1")] {
        namespace.ip(&format!("addr add {own}/24 dev tunnel"));
        namespace.ip("link set tunnel up");
    }
    let near: IpAddr = [10, 77, 0, 1].into();
    let far: IpAddr = [10, 77, 0, 2].into();
    for (from, to, address) in [(outside, inside, near), (inside, outside, far)] {
        let listener = listen(to, (address, 9000));
        let rate = bulk(from, (address, 9000), &listener);
        assert!(
            rate > FLOOR,
            "{port_kind}, tunnel to {address}: {rate} Mbit/s"
        );
    }
    outside.ip("link del tunnel");
    inside.ip("link del tunnel");
}

/// Raises what a super-frame of TCP over IPv4 may be on a namespace's `eth0`; false if this kernel
/// knows no such thing (Linux 6.3). `ip` learned it later than kernels.
fn raise_gso(namespace: &Namespace, bytes: u32) -> bool {
    let script = format!(
        "import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
index = socket.if_nametoindex('eth0')
body = struct.pack('=BxHiII', 0, 0, index, 0, 0) + struct.pack('=HHI', 8, 63, {bytes})
s.send(struct.pack('=IHHII', 16 + len(body), 16, 5, 1, 0) + body)
error = struct.unpack('=i', s.recv(4096)[16:20])[0]
print('known' if error == 0 else 'unknown')"
    );
    let output = namespace.command("python3").args(["-c", &script]).output();
    let text = output.expect("python3 runs").stdout;
    text.starts_with(b"known")
}

// Conforms: SWITCH-guard-offload
#[test]
fn super_frames_larger_than_a_packet_s_length_arrive_whole() {
    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind("veth") else {
            return;
        };
        // The receiver's kind is this one; only a veth can be raised.
        let sender = scene.container("s", &[]);
        let receiver = scene.container("r", &["--port-kind", port_kind]);
        if !raise_gso(&sender.namespace, 185_000) {
            eprintln!("skipped: this kernel has no gso_ipv4_max_size");
            return;
        }
        let outside = (OUTSIDE, "the outside");
        for (to, address, what) in [
            (&receiver.namespace, receiver.address, port_kind),
            (&scene.outside, outside.0, outside.1),
        ] {
            let listener = listen(to, (address, 8080));
            let rate = bulk(&sender.namespace, (address, 8080), &listener);
            let again = bulk(&sender.namespace, (address, 8080), &listener);
            eprintln!("BIG TCP to {what}: {rate}, then {again} Mbit/s");
            assert!(again > FLOOR, "IPv4 to {what}: {rate}, {again} Mbit/s");
        }
        if !pontoon_tests::has_ipv6_or_skip() {
            return;
        }
        sender.namespace.ip("link set eth0 gso_max_size 185000");
        let listener = listen(&receiver.namespace, (receiver.ipv6(), 8080));
        let to = (receiver.ipv6(), 8080);
        let rate = bulk(&sender.namespace, to, &listener);
        let again = bulk(&sender.namespace, to, &listener);
        eprintln!("BIG TCP by IPv6 to {port_kind}: {rate}, then {again} Mbit/s");
        assert!(again > FLOOR, "IPv6 to {port_kind}: {rate}, {again} Mbit/s");
    }
}

/// No vnet header can describe them, so that the switch would not get them.
#[test]
fn a_veth_leaves_no_super_frames_of_sctp_to_the_switch() {
    let Some(scene) = Scene::with_port_kind("veth") else {
        return;
    };
    let container = scene.container("c", &[]);
    let features = container.namespace.sh("ethtool -k eth0");
    let feature = features
        .lines()
        .find(|line| line.contains("tx-sctp-segmentation"));
    let Some(feature) = feature else {
        eprintln!("skipped: this kernel has no super-frames of SCTP");
        return;
    };
    assert!(feature.contains(": off"), "{feature}");
}
