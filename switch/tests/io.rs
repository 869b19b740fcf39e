//! Ports on a real kernel: TAPs, veth pairs and sockets in namespaces that each test makes for
//! itself and removes. They need root and iproute2, and say so when they lack them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use switch::frame::{Frame, MAX_FRAME, VnetHeader, ethertype, ethertype_behind_tags, ethertype_of};
use switch::io::filter::{UplinkFilter, drop_all_filter, local_only_filter, uplink_filter};
use switch::io::{
    PacketOptions, PacketSocket, Poller, Queue, Sent, TapOptions, TapQueue, bind_udp, listen_tcp,
    open_packet, open_tap, replace_filter, reserve,
};

/// Leaves the test, with its reason, where it cannot run.
macro_rules! needs_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: namespaces and interfaces need root");
            return;
        }
        if Command::new("ip").arg("-V").output().is_err() {
            eprintln!("skipped: the command ip (iproute2) is missing");
            return;
        }
    };
    (tun) => {
        needs_root!();
        if !Path::new("/dev/net/tun").exists() {
            eprintln!("skipped: this kernel has no /dev/net/tun");
            return;
        }
    };
}

/// A network namespace, removed when dropped.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Namespace {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("swio{}x{count}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Namespace { name };
        namespace.ip("link set lo up");
        namespace
    }

    fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        run("ip", &all);
    }

    fn exec(&self, command: &str) {
        let mut all = vec!["netns", "exec", &self.name];
        all.extend(command.split_whitespace());
        run("ip", &all);
    }

    /// Runs a closure on a thread of its own inside the namespace.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Makes the pair `near` here, `far` in `other`, both up; the index of `near`.
    fn veth(&self, near: &str, other: &Namespace, far: &str) -> u32 {
        self.ip(&format!(
            "link add {near} type veth peer name {far} netns {}",
            other.name
        ));
        self.ip(&format!("link set {near} up"));
        other.ip(&format!("link set {far} up"));
        self.ifindex(near).unwrap()
    }

    fn ifindex(&self, interface: &str) -> Option<u32> {
        self.run(|| nix::net::if_::if_nametoindex(interface)).ok()
    }

    fn open_packet(
        &self,
        ifindex: u32,
        queues: usize,
        options: PacketOptions,
    ) -> Vec<PacketSocket> {
        self.run(|| open_packet(ifindex, queues, options)).unwrap()
    }

    /// One queue on an interface, with everything by default.
    fn packet_queue(&self, ifindex: u32) -> Queue {
        Queue::Packet(
            self.open_packet(ifindex, 1, PacketOptions::default())
                .remove(0),
        )
    }

    fn send_udp(&self, to: &str) {
        self.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"hello", to))
            .unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        Command::new("ip")
            .args(["netns", "del", &self.name])
            .output()
            .ok();
    }
}

fn run(command: &str, arguments: &[&str]) {
    let output = Command::new(command).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {arguments:?}: {error}");
}

/// A container's TAP: made by the host, moved, renamed `eth0`, with the address 10.9.0.1.
fn tap_container(host: &Namespace, container: &Namespace, queues: usize) -> Vec<TapQueue> {
    let opened = host
        .run(|| open_tap("swtap", queues, TapOptions { persist: true }))
        .unwrap();
    host.ip(&format!(
        "link set swtap netns {} name eth0",
        container.name
    ));
    container.ip("addr add 10.9.0.1/24 dev eth0");
    container.ip("link set eth0 up");
    opened
}

fn tap_queue(host: &Namespace, container: &Namespace) -> Queue {
    Queue::Tap(tap_container(host, container, 1).remove(0))
}

fn frames() -> Vec<Frame> {
    (0..64).map(|_| Frame::new()).collect()
}

fn is_ipv4(frame: &Frame) -> bool {
    ethertype_of(frame.bytes()) == Some(ethertype::IPV4)
}

fn is_arp(frame: &Frame) -> bool {
    ethertype_of(frame.bytes()) == Some(ethertype::ARP)
}

/// The 16-bit field at an offset of a frame.
fn word(frame: &Frame, at: usize) -> u16 {
    u16::from_be_bytes([frame.bytes()[at], frame.bytes()[at + 1]])
}

/// The frames wanted of those received until there is silence for 200 ms.
fn receive_some(queue: &Queue, wanted: fn(&Frame) -> bool) -> Vec<Frame> {
    let mut frames = frames();
    let mut last = Instant::now();
    let mut got = Vec::new();
    while last.elapsed() < Duration::from_millis(200) {
        let count = queue.receive(&mut frames).unwrap();
        for frame in frames[..count].iter().filter(|frame| wanted(frame)) {
            got.push(frame.clone());
            last = Instant::now();
        }
        if count == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    got
}

/// Does a condition come to hold within five seconds?
fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(5);
    while !condition() {
        if Instant::now() > until {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

/// What a forwarder saw of one direction.
#[derive(Debug, Default)]
struct Seen {
    frames: usize,
    largest: usize,
    super_frames: usize,
    partial: usize,
    sent: Sent,
}

/// Moves frames between two queues while `work` runs; what it saw of each direction.
fn forward_while(one: &Queue, two: &Queue, work: impl FnOnce()) -> [Seen; 2] {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let forwarder = scope.spawn(|| {
            let mut seen = [Seen::default(), Seen::default()];
            let mut frames = frames();
            while !stop.load(Ordering::Relaxed) {
                for ((from, to), seen) in [(one, two), (two, one)].into_iter().zip(&mut seen) {
                    let count = from.receive(&mut frames).unwrap();
                    for frame in &frames[..count] {
                        seen.frames += 1;
                        seen.largest = seen.largest.max(frame.len());
                        seen.super_frames += usize::from(frame.vnet().is_gso());
                        seen.partial += usize::from(frame.vnet().needs_csum());
                        assert_eq!(frame.vnet().flags & VnetHeader::DATA_VALID, 0);
                    }
                    seen.sent += to.transmit(&frames[..count].iter().collect::<Vec<_>>());
                }
                thread::yield_now();
            }
            seen
        });
        // A forwarder that is never told to stop would hide the failure of `work`.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let seen = forwarder.join();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        seen.unwrap()
    })
}

/// Sends bytes over TCP from one namespace to the other, checks them, and returns Gbit/s.
fn transfer(from: &Namespace, to: &Namespace, address: &str, bytes: usize) -> f64 {
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));
    let address: SocketAddr = address.parse().unwrap();
    let pattern: Vec<u8> = (0..251 * 1024).map(|at| (at % 251) as u8).collect();
    let listener = to.run(|| TcpListener::bind(address)).unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = from
                .run(|| TcpStream::connect_timeout(&address, PATIENCE.unwrap()))
                .unwrap();
            stream.set_write_timeout(PATIENCE).unwrap();
            let mut left = bytes;
            while left > 0 {
                let count = left.min(pattern.len());
                stream.write_all(&pattern[..count]).unwrap();
                left -= count;
            }
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(PATIENCE).unwrap();
        let mut buffer = vec![0; pattern.len()];
        let mut got = 0;
        loop {
            // Whole blocks, so that each is compared to the pattern at once.
            let mut filled = 0;
            while filled < buffer.len() {
                match stream.read(&mut buffer[filled..]).unwrap() {
                    0 => break,
                    count => filled += count,
                }
            }
            assert!(
                buffer[..filled] == pattern[..filled],
                "bytes changed after {got}"
            );
            got += filled;
            if filled < buffer.len() {
                break;
            }
        }
        assert_eq!(got, bytes);
    });
    bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9
}

#[test]
fn super_frames_pass_whole_between_tap_and_veth() {
    needs_root!(tun);
    let (host, one, two) = (Namespace::new(), Namespace::new(), Namespace::new());
    let tap = tap_queue(&host, &one);
    let veth = host.packet_queue(host.veth("vhost", &two, "eth0"));
    two.ip("addr add 10.9.0.2/24 dev eth0");

    let seen = forward_while(&tap, &veth, || {
        let out = transfer(&one, &two, "10.9.0.2:5001", 200 << 20);
        let back = transfer(&two, &one, "10.9.0.1:5001", 200 << 20);
        eprintln!("TAP to veth {out:.1} Gbit/s, veth to TAP {back:.1} Gbit/s");
    });
    for seen in &seen {
        eprintln!("{seen:?}");
        assert!(
            seen.largest > 30_000 && seen.largest <= MAX_FRAME,
            "{seen:?}"
        );
        assert!(
            seen.super_frames > 100 && seen.partial >= seen.super_frames,
            "{seen:?}"
        );
        assert_eq!((seen.sent.rejected, seen.sent.down), (0, 0), "{seen:?}");
    }
}

#[test]
fn frames_that_gro_joined_arrive_with_their_header() {
    needs_root!(tun);
    if Command::new("ethtool").arg("--version").output().is_err() {
        eprintln!("skipped: the command ethtool is missing");
        return;
    }
    let (host, one, wire) = (Namespace::new(), Namespace::new(), Namespace::new());
    let tap = tap_queue(&host, &one);
    let uplink = host.packet_queue(host.veth("uplink", &wire, "far"));
    wire.ip("addr add 10.9.0.2/24 dev far");
    // Segments of the MTU's size with whole checksums on the wire, joined by GRO on arrival.
    wire.exec("ethtool -K far tso off gso off tx off");
    host.exec("ethtool -K uplink gro on");
    let [from_wire, _] = forward_while(&uplink, &tap, || {
        let speed = transfer(&wire, &one, "10.9.0.1:5001", 50 << 20);
        eprintln!("{speed:.1} Gbit/s");
    });
    eprintln!("from the uplink {from_wire:?}");
    assert!(
        from_wire.super_frames > 10 && from_wire.largest > 2900,
        "{from_wire:?}"
    );
    assert_eq!(from_wire.sent.rejected, 0);
}

#[test]
fn vlan_tags_are_carried() {
    needs_root!(tun);
    let (host, one, two) = (Namespace::new(), Namespace::new(), Namespace::new());
    let tap = tap_queue(&host, &one);
    let veth = host.packet_queue(host.veth("vhost", &two, "eth0"));
    let inside = [&one, &two].map(|container| {
        let queue = container.packet_queue(container.ifindex("eth0").unwrap());
        while queue.receive(&mut frames()).unwrap() > 0 {}
        queue
    });
    // The kernel takes one tag off what it receives, so AF_PACKET tells of it beside the frame.
    let plain = udp_frame((HERE, 7), (THERE, 7), 100);
    let tagged = |tags: &[[u8; 4]]| {
        let mut bytes = plain.bytes().to_vec();
        bytes.splice(12..12, tags.concat());
        Frame::from_bytes(&bytes)
    };
    let frames = [
        tagged(&[[0x81, 0, 0x60, 7]]),
        tagged(&[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 7]]),
    ];
    for (port, inside) in [(&tap, &inside[0]), (&veth, &inside[1])] {
        for frame in &frames {
            for (from, to) in [(port, inside), (inside, port)] {
                assert_eq!(from.transmit(&[frame]).sent, 1);
                let got = receive_some(to, |frame| {
                    ethertype_behind_tags(frame.bytes()).is_some_and(|(kind, at)| {
                        kind == ethertype::IPV4 && at > 14 && frame.len() > 120
                    })
                });
                assert_eq!(got.len(), 1, "{frame:?}");
                assert_eq!(got[0].bytes(), frame.bytes());
            }
        }
    }
}

#[test]
fn queues_of_a_tap_survive_the_move_and_are_adopted_again() {
    needs_root!(tun);
    let (host, container) = (Namespace::new(), Namespace::new());
    let taps = tap_container(&host, &container, 2);
    assert_eq!(taps[0].interface_name().unwrap(), "eth0");
    container.ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev eth0");
    let flows_seen = |queues: &[Queue]| -> Vec<usize> {
        container.run(|| {
            for _ in 0..64 {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(b"flow", "10.9.0.2:9").unwrap();
            }
        });
        queues
            .iter()
            .map(|queue| receive_some(queue, is_ipv4).len())
            .collect()
    };
    let queues: Vec<Queue> = taps.into_iter().map(Queue::Tap).collect();
    let counts = flows_seen(&queues);
    assert!(counts.iter().all(|&count| count > 5), "{counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 64);

    // The daemon dies: the interface stays with its address, without a carrier.
    drop(queues);
    assert!(
        container.ifindex("eth0").is_some(),
        "a persistent TAP outlives its descriptors"
    );

    let adopted = container
        .run(|| open_tap("eth0", 2, TapOptions { persist: true }))
        .unwrap();
    let queues: Vec<Queue> = adopted.into_iter().map(Queue::Tap).collect();
    // Carrier and route are back without anyone's help.
    assert!(eventually(|| flows_seen(&queues)
        .iter()
        .all(|&count| count > 5)));

    let Queue::Tap(tap) = &queues[0] else {
        unreachable!()
    };
    tap.set_persist(false).unwrap();
    drop(queues);
    assert!(container.ifindex("eth0").is_none());
}

#[test]
fn an_interface_of_another_kind_is_refused() {
    needs_root!(tun);
    let host = Namespace::new();
    host.ip("tuntap add plain mode tap");
    host.ip("link add near type veth peer name far");
    for name in ["plain", "near", "lo"] {
        let error = host
            .run(|| open_tap(name, 1, TapOptions::default()))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("remove it or choose another name"),
            "{error}"
        );
    }
    let error = host
        .run(|| open_packet(4_000, 1, PacketOptions::default()))
        .unwrap_err();
    assert!(error.to_string().contains("interface 4000"), "{error}");
    assert!(
        host.run(|| open_packet(0, 1, PacketOptions::default()))
            .is_err()
    );
}

/// Polls and receives as a worker would, until the port is gone.
fn assert_gone(queue: &Queue) {
    let poller = Poller::new().unwrap();
    poller.add(queue.fd(), 1).unwrap();
    let mut ready = Vec::new();
    let mut frames = frames();
    let start = Instant::now();
    let error = loop {
        poller
            .wait(&mut ready, Some(Duration::from_millis(100)))
            .unwrap();
        match queue.receive(&mut frames) {
            Ok(_) => assert!(start.elapsed() < Duration::from_secs(10), "not gone"),
            Err(error) => break error,
        }
    };
    eprintln!(
        "after {:?}, {} by poll: {error}",
        start.elapsed(),
        ready.len()
    );
    assert!(queue.is_gone());
    let frame = Frame::from_bytes(&[0xff; 60]);
    assert_eq!(
        queue.transmit(&[&frame, &frame]),
        Sent {
            down: 2,
            ..Sent::default()
        }
    );
}

#[test]
fn a_port_is_gone_when_its_namespace_dies() {
    needs_root!(tun);
    let (host, container) = (Namespace::new(), Namespace::new());
    let mut queues: Vec<Queue> = tap_container(&host, &container, 2)
        .into_iter()
        .map(Queue::Tap)
        .collect();
    let ifindex = host.veth("vhost", &container, "eth1");
    let sockets = host.open_packet(ifindex, 2, PacketOptions::default());
    queues.extend(sockets.into_iter().map(Queue::Packet));
    assert!(queues.iter().all(|queue| !queue.is_gone()));
    drop(container);
    for queue in &queues {
        assert_gone(queue);
    }
}

#[test]
fn a_tap_adopted_inside_holds_its_namespace_until_closed() {
    needs_root!(tun);
    let (host, container) = (Namespace::new(), Namespace::new());
    drop(tap_container(&host, &container, 1));
    // The far end tells whether the namespace lives: a veth pair dies as one.
    host.veth("vwitness", &container, "witness");
    let adopted = container
        .run(|| open_tap("eth0", 1, TapOptions::default()))
        .unwrap();
    let queue = Queue::Tap(adopted.into_iter().next().unwrap());
    drop(container);
    thread::sleep(Duration::from_millis(500));
    assert!(
        !queue.is_gone() && host.ifindex("vwitness").is_some(),
        "held"
    );
    drop(queue);
    assert!(eventually(|| host.ifindex("vwitness").is_none()), "let go");
}

#[test]
fn an_interface_that_is_down_comes_back() {
    needs_root!(tun);
    let (host, container) = (Namespace::new(), Namespace::new());
    let tap = tap_queue(&host, &container);
    let ifindex = host.veth("vhost", &container, "eth1");
    let veth = host.packet_queue(ifindex);
    container.ip("addr add 10.8.0.1/24 dev eth1");
    let mut buffers = frames();
    let frame = Frame::from_bytes(&[0xff; 60]);
    let ports = [
        (&tap, &container, "eth0", "10.9.0.77:9"),
        (&veth, &host, "vhost", "10.8.0.77:9"),
    ];
    for (queue, namespace, name, address) in ports {
        assert_eq!(queue.transmit(&[&frame]).sent, 1, "{name}");
        namespace.ip(&format!("link set {name} down"));
        while queue.receive(&mut buffers).unwrap() > 0 {}
        assert_eq!(queue.receive(&mut buffers).unwrap(), 0, "{name}");
        assert_eq!(queue.transmit(&[&frame, &frame]).down, 2, "{name}");
        assert!(!queue.is_gone());
        namespace.ip(&format!("link set {name} up"));
        assert_eq!(queue.transmit(&[&frame]).sent, 1, "{name}");
        container.send_udp(address);
        assert!(!receive_some(queue, is_arp).is_empty(), "{name}");
    }
    // Opened while down.
    host.ip("link set vhost down");
    let later = host.packet_queue(ifindex);
    assert_eq!(later.receive(&mut buffers).unwrap(), 0);
    assert!(!later.is_gone());
    let two = host.run(|| open_packet(ifindex, 2, PacketOptions::default()));
    if let Err(error) = &two {
        assert!(
            error.to_string().contains("bring the interface up first"),
            "{error}"
        );
    }
    host.ip("link set vhost up");
    container.send_udp("10.8.0.78:9");
    assert!(!receive_some(&later, is_arp).is_empty());
    let two = two.into_iter().flatten().map(Queue::Packet);
    let heard: Vec<usize> = two
        .map(|queue| receive_some(&queue, is_arp).len())
        .collect();
    assert!(heard.is_empty() || heard.iter().sum::<usize>() > 0);
}

/// An Ethernet frame of UDP over IPv4, without a UDP checksum.
fn udp_frame(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: usize) -> Frame {
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    let mut header = [0u8; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&(28 + payload as u16).to_be_bytes());
    header[8] = 64;
    header[9] = 17;
    header[12..16].copy_from_slice(&from.0);
    header[16..20].copy_from_slice(&to.0);
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes.extend(header);
    bytes.extend(from.1.to_be_bytes());
    bytes.extend(to.1.to_be_bytes());
    bytes.extend((8 + payload as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(vec![b'x'; payload]);
    Frame::from_bytes(&bytes)
}

const HERE: [u8; 4] = [10, 0, 0, 1];
const THERE: [u8; 4] = [10, 0, 0, 2];

#[test]
fn fanout_keeps_both_directions_of_a_flow_on_one_queue() {
    needs_root!();
    let (host, wire) = (Namespace::new(), Namespace::new());
    let ifindex = host.veth("uplink", &wire, "far");
    // The second group on the same interface gets an id, and frames, of its own.
    let groups = [2, 3].map(|queues| host.open_packet(ifindex, queues, PacketOptions::default()));
    let sender = wire.packet_queue(wire.ifindex("far").unwrap());
    for port in 1000..1200 {
        let out = udp_frame((HERE, port), (THERE, 53), 10);
        let back = udp_frame((THERE, 53), (HERE, port), 10);
        assert_eq!(sender.transmit(&[&out, &back]).sent, 2);
    }
    for group in groups {
        let mut total = 0;
        for socket in group {
            let got = receive_some(&Queue::Packet(socket), is_ipv4);
            let mut ports: Vec<u16> = got
                .iter()
                .map(|frame| word(frame, 34).max(word(frame, 36)))
                .collect();
            ports.sort_unstable();
            assert!(ports.len() > 60, "spread: {}", ports.len());
            assert!(
                ports.chunks(2).all(|pair| pair[0] == pair[1]),
                "both directions"
            );
            total += ports.len();
        }
        assert_eq!(total, 400, "each frame once");
    }
}

#[test]
fn uplink_filter_works_in_the_kernel() {
    needs_root!();
    let (host, wire) = (Namespace::new(), Namespace::new());
    let ifindex = host.veth("uplink", &wire, "far");
    let filter = UplinkFilter {
        tcp: vec![],
        udp: vec![100..=110, 61000..=65535],
        addresses: vec![HERE.into()],
    };
    let options = PacketOptions {
        filter: Some(uplink_filter(&filter)),
        ..PacketOptions::default()
    };
    let queue = Queue::Packet(host.open_packet(ifindex, 1, options).remove(0));
    let sender = wire.packet_queue(wire.ifindex("far").unwrap());
    let ports_passed = || -> Vec<u16> {
        for port in [99, 100, 105, 110, 111, 60999, 61000, 65535] {
            for address in [HERE, THERE] {
                let frame = udp_frame(([10, 0, 0, 9], 7), (address, port), 10);
                assert_eq!(sender.transmit(&[&frame]).sent, 1);
            }
        }
        let got = receive_some(&queue, is_ipv4);
        assert!(got.iter().all(|frame| frame.bytes()[30..34] == HERE));
        got.iter().map(|frame| word(frame, 36)).collect()
    };
    assert_eq!(ports_passed(), [100, 105, 110, 61000, 65535]);

    // The largest program fits twice, the old and the new, into what Linux gave before 6.8; there
    // no namespace has a setting of its own.
    let sysctl = "sysctl -qw net.core.optmem_max=20480";
    let sysctl = ["netns", "exec", &host.name]
        .into_iter()
        .chain(sysctl.split(' '));
    Command::new("ip").args(sysctl).output().unwrap();
    let every_other: Vec<_> = (0..=u16::MAX).step_by(2).map(|port| port..=port).collect();
    let largest = UplinkFilter {
        tcp: every_other.clone(),
        udp: every_other,
        addresses: vec![HERE.into()],
    };
    let largest = uplink_filter(&largest);
    let Queue::Packet(socket) = &queue else {
        unreachable!()
    };
    for _ in 0..3 {
        socket.set_filter(&largest).unwrap();
    }
    eprintln!(
        "{} instructions fit twice into an optmem_max of 20480",
        largest.len()
    );
    // Merged into one but for the highest: the narrowest gaps close first, from below.
    assert_eq!(ports_passed(), [99, 100, 105, 110, 111, 60999, 61000]);
    socket.set_filter(&drop_all_filter()).unwrap();
    assert!(ports_passed().is_empty());
    assert_eq!(
        socket.kernel_drops(),
        0,
        "a filtered frame is not a lost one"
    );
}

#[test]
fn own_frames_are_not_heard_and_drops_are_counted() {
    needs_root!();
    let (host, wire) = (Namespace::new(), Namespace::new());
    let ifindex = host.veth("uplink", &wire, "far");
    let options = PacketOptions {
        buffer: 50_000,
        ..PacketOptions::default()
    };
    let small = host.open_packet(ifindex, 1, options).remove(0);
    let sender = wire.packet_queue(wire.ifindex("far").unwrap());
    let frame = udp_frame((THERE, 7), (HERE, 7), 1000);
    let many: Vec<&Frame> = (0..1000).map(|_| &frame).collect();
    assert_eq!(sender.transmit(&many).sent, 1000);
    assert!(receive_some(&sender, is_ipv4).is_empty());
    let drops = small.kernel_drops();
    assert_eq!(small.kernel_drops(), drops, "accumulates");
    let got = receive_some(&Queue::Packet(small), is_ipv4).len() as u64;
    eprintln!("{got} received, {drops} dropped");
    assert!(drops > 0 && got > 0);
    // The kernel's own frames (IPv6 router solicitations) may be among the dropped.
    assert!((1000..1020).contains(&(got + drops)));
}

#[test]
fn bad_frames_are_rejected() {
    needs_root!(tun);
    let (host, container) = (Namespace::new(), Namespace::new());
    let tap = tap_queue(&host, &container);
    let veth = host.packet_queue(host.veth("vhost", &container, "eth1"));
    let good = udp_frame(([10, 9, 0, 9], 7), ([10, 9, 0, 1], 7), 100);
    let with = |header: VnetHeader| {
        let mut frame = good.clone();
        frame.set_vnet(header);
        frame
    };
    let runt = Frame::from_bytes(&[1; 13]);
    let beyond = with(VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        csum_start: 60_000,
        csum_offset: 16,
        ..VnetHeader::default()
    });
    let unknown = with(VnetHeader {
        gso_type: 0x55,
        gso_size: 9,
        ..VnetHeader::default()
    });
    for (name, queue) in [("tap", &tap), ("veth", &veth)] {
        let sent = queue.transmit(&[&runt, &beyond, &good, &unknown, &Frame::new(), &good]);
        assert_eq!(
            sent,
            Sent {
                sent: 2,
                rejected: 4,
                ..Sent::default()
            },
            "{name}"
        );
    }
    let oversized = Frame::from_bytes(&[0xfe; 3000]);
    let sent = veth.transmit(&[&oversized, &good]);
    assert_eq!(
        sent,
        Sent {
            sent: 1,
            rejected: 1,
            ..Sent::default()
        }
    );
    // A TAP takes frames beyond its MTU; its stack decides.
    assert_eq!(tap.transmit(&[&oversized]).sent, 1);
}

/// A connection's outcome, within 300 ms.
fn connect(from: &Namespace, to: &str) -> Result<(), io::ErrorKind> {
    let to: SocketAddr = to.parse().unwrap();
    from.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)))
        .map(drop)
        .map_err(|error| error.kind())
}

/// What a datagram's sender hears within 200 ms: ConnectionRefused for an ICMP error, WouldBlock for
/// silence.
fn datagram_error(from: &Namespace, to: &str) -> io::ErrorKind {
    let to: SocketAddr = to.parse().unwrap();
    from.run(|| {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        socket.connect(to).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        socket.send(b"x").unwrap();
        socket.recv(&mut [0]).unwrap_err().kind()
    })
}

fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// The addresses that this kernel has a family for.
fn of_kernel<const N: usize>(addresses: [&str; N]) -> impl Iterator<Item = &str> {
    addresses
        .into_iter()
        .filter(|address| has_ipv6() || !address.starts_with('['))
}

const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 5, 1];

/// A host with an uplink, 10.5.0.1 and fd05::1, and a machine on its wire; the uplink's index.
fn host_and_wire() -> (Namespace, Namespace, u32) {
    let (host, wire) = (Namespace::new(), Namespace::new());
    let ifindex = host.veth("uplink", &wire, "far");
    host.ip("link set uplink address 02:00:00:00:05:01");
    for (namespace, name, last) in [(&host, "uplink", 1), (&wire, "far", 2)] {
        namespace.ip(&format!("addr add 10.5.0.{last}/24 dev {name}"));
        if has_ipv6() {
            namespace.ip(&format!("addr add fd05::{last}/64 dev {name} nodad"));
        }
    }
    (host, wire, ifindex)
}

#[test]
fn a_published_port_is_silent_on_the_wire_and_serves_the_host() {
    needs_root!();
    let (host, wire, ifindex) = host_and_wire();
    let watch = host.packet_queue(ifindex);
    let filter = local_only_filter(&[ifindex]);
    let listen = |address: &str| {
        let address = address.parse().unwrap();
        host.run(|| listen_tcp(address, &filter)).unwrap()
    };
    let listeners: Vec<TcpListener> = of_kernel(["0.0.0.0:8080", "[::]:8080"])
        .map(listen)
        .collect();
    let datagrams = host
        .run(|| bind_udp("0.0.0.0:8080".parse().unwrap(), &filter))
        .unwrap();

    for address in of_kernel(["10.5.0.1:8080", "[fd05::1]:8080"]) {
        assert_eq!(
            connect(&wire, address),
            Err(io::ErrorKind::TimedOut),
            "{address}"
        );
    }
    assert_eq!(
        connect(&wire, "10.5.0.1:8081"),
        Err(io::ErrorKind::ConnectionRefused)
    );
    assert_eq!(
        datagram_error(&wire, "10.5.0.1:8080"),
        io::ErrorKind::WouldBlock
    );
    assert_eq!(
        datagram_error(&wire, "10.5.0.1:8081"),
        io::ErrorKind::ConnectionRefused
    );
    // The switch sees all of it.
    let got = receive_some(&watch, |frame| is_ipv4(frame) && word(frame, 36) == 8080);
    assert!(got.iter().any(|frame| frame.bytes()[23] == 6), "TCP");
    assert!(got.iter().any(|frame| frame.bytes()[23] == 17), "UDP");

    // The host itself gets through, by loopback and by its own addresses.
    for own in of_kernel([
        "127.0.0.1:8080",
        "10.5.0.1:8080",
        "[::1]:8080",
        "[fd05::1]:8080",
    ]) {
        assert_eq!(connect(&host, own), Ok(()), "{own}");
    }
    for listener in &listeners {
        assert!(listener.accept().is_ok() && listener.accept().is_ok());
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }
    host.send_udp("127.0.0.1:8080");
    let mut buffer = [0; 10];
    assert!(eventually(|| datagrams
        .recv_from(&mut buffer)
        .is_ok_and(|(count, _)| count == 5)));

    // The uplinks change.
    replace_filter(listeners[0].as_fd(), &local_only_filter(&[])).unwrap();
    assert_eq!(connect(&wire, "10.5.0.1:8080"), Ok(()));
}

#[test]
fn reserved_ports_are_silent_to_everyone() {
    needs_root!();
    let (host, wire, _) = host_and_wire();
    let tcp = host.run(|| reserve(6, 61000..=61009));
    let udp = host.run(|| reserve(17, 61000..=61009));
    for held in [&tcp, &udp] {
        assert_eq!(held.ports(), [61000..=61009]);
        assert_eq!(held.count(), 10);
        assert!(held.error().is_none());
    }
    for address in of_kernel(["10.5.0.1:61000", "10.5.0.1:61009", "[fd05::1]:61005"]) {
        assert_eq!(
            connect(&wire, address),
            Err(io::ErrorKind::TimedOut),
            "{address}"
        );
        assert_eq!(
            datagram_error(&wire, address),
            io::ErrorKind::WouldBlock,
            "{address}"
        );
    }
    assert_eq!(
        connect(&host, "127.0.0.1:61001"),
        Err(io::ErrorKind::TimedOut)
    );
    for address in of_kernel(["10.5.0.1:61010", "[fd05::1]:61010"]) {
        assert_eq!(
            connect(&wire, address),
            Err(io::ErrorKind::ConnectionRefused),
            "{address}"
        );
        assert_eq!(
            datagram_error(&wire, address),
            io::ErrorKind::ConnectionRefused
        );
    }
    // A SYN-ACK out of the blue, as the kernel must take the answers to masqueraded connections to
    // be: a RST from a free port, nothing from a held one.
    let sender = wire.packet_queue(wire.ifindex("far").unwrap());
    for port in [61000, 61010] {
        let mut frame = udp_frame(([10, 5, 0, 2], 80), ([10, 5, 0, 1], port), 12);
        let bytes = frame.bytes_mut();
        bytes[..6].copy_from_slice(&UPLINK_MAC);
        bytes[23] = 6;
        // The sum of the IPv4 header, of which the protocol was 17.
        let sum = u16::from_be_bytes([bytes[24], bytes[25]]) + (17 - 6);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes[38..54].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x12, 1, 0, 0, 0, 0, 0]);
        frame.set_vnet(VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            csum_start: 34,
            csum_offset: 16,
            ..VnetHeader::default()
        });
        assert_eq!(sender.transmit(&[&frame]).sent, 1);
    }
    let resets = receive_some(&sender, |frame| is_ipv4(frame) && frame.bytes()[23] == 6);
    let from: Vec<u16> = resets.iter().map(|frame| word(frame, 34)).collect();
    assert_eq!(from, [61010]);

    drop((tcp, udp));
    assert_eq!(
        connect(&wire, "10.5.0.1:61000"),
        Err(io::ErrorKind::ConnectionRefused)
    );
}

#[test]
fn a_port_in_use_is_named() {
    needs_root!();
    let host = Namespace::new();
    let other = host.run(|| TcpListener::bind("127.0.0.1:61022")).unwrap();
    let filter = drop_all_filter();
    let listen = |address: &str| {
        let address = address.parse().unwrap();
        host.run(|| listen_tcp(address, &filter)).unwrap_err()
    };
    let error = listen("0.0.0.0:61022");
    assert_eq!(
        error.to_string(),
        "port 61022/tcp on 0.0.0.0 is taken by another process (EADDRINUSE)"
    );
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let address = "10.5.0.77:1".parse().unwrap();
    let error = host.run(|| bind_udp(address, &filter)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port 1/udp: 10.5.0.77 is not an address of this host (EADDRNOTAVAIL)"
    );
    // To a reservation it is a hole.
    let around = host.run(|| reserve(6, 61020..=61024));
    assert_eq!(around.ports(), [61020..=61021, 61023..=61024]);
    assert!(host.run(|| reserve(6, 0..=0)).ports().is_empty());
    assert!(host.run(|| reserve(1, 5..=9)).ports().is_empty());
    drop(other);
}
