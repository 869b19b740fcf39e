//! Namespaces, and frames through them.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use switch::frame::{Frame, VnetHeader, ethertype, ethertype_of};
use switch::io::{
    PacketOptions, PacketSocket, Queue, Sent, TapOptions, TapQueue, open_packet, open_tap,
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
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new() -> Namespace {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("swio{}x{count}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Namespace { name };
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        run("ip", &all);
    }

    pub(crate) fn exec(&self, command: &str) {
        let mut all = vec!["netns", "exec", &self.name];
        all.extend(command.split_whitespace());
        run("ip", &all);
    }

    /// Runs a closure on a thread of its own inside the namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
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
    pub(crate) fn veth(&self, near: &str, other: &Namespace, far: &str) -> u32 {
        self.ip(&format!(
            "link add {near} type veth peer name {far} netns {}",
            other.name
        ));
        self.ip(&format!("link set {near} up"));
        other.ip(&format!("link set {far} up"));
        self.ifindex(near).unwrap()
    }

    pub(crate) fn ifindex(&self, interface: &str) -> Option<u32> {
        self.run(|| nix::net::if_::if_nametoindex(interface)).ok()
    }

    pub(crate) fn open_packet(
        &self,
        ifindex: u32,
        queues: usize,
        options: PacketOptions,
    ) -> Vec<PacketSocket> {
        self.run(|| open_packet(ifindex, queues, options)).unwrap()
    }

    /// One queue on an interface, with everything by default.
    pub(crate) fn packet_queue(&self, ifindex: u32) -> Queue {
        Queue::Packet(
            self.open_packet(ifindex, 1, PacketOptions::default())
                .remove(0),
        )
    }

    pub(crate) fn send_udp(&self, to: &str) {
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

pub(crate) fn run(command: &str, arguments: &[&str]) {
    let output = Command::new(command).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {arguments:?}: {error}");
}

/// A container's TAP: made by the host, moved, renamed `eth0`, with the address 10.9.0.1.
pub(crate) fn tap_container(
    host: &Namespace,
    container: &Namespace,
    queues: usize,
) -> Vec<TapQueue> {
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

pub(crate) fn tap_queue(host: &Namespace, container: &Namespace) -> Queue {
    Queue::Tap(tap_container(host, container, 1).remove(0))
}

pub(crate) fn frames() -> Vec<Frame> {
    (0..64).map(|_| Frame::new()).collect()
}

pub(crate) fn is_ipv4(frame: &Frame) -> bool {
    ethertype_of(frame.bytes()) == Some(ethertype::IPV4)
}

pub(crate) fn is_arp(frame: &Frame) -> bool {
    ethertype_of(frame.bytes()) == Some(ethertype::ARP)
}

/// The 16-bit field at an offset of a frame.
pub(crate) fn word(frame: &Frame, at: usize) -> u16 {
    u16::from_be_bytes([frame.bytes()[at], frame.bytes()[at + 1]])
}

/// The frames wanted of those received until there is silence for 200 ms.
pub(crate) fn receive_some(queue: &Queue, wanted: fn(&Frame) -> bool) -> Vec<Frame> {
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
pub(crate) fn eventually(mut condition: impl FnMut() -> bool) -> bool {
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
pub(crate) struct Seen {
    pub(crate) frames: usize,
    pub(crate) largest: usize,
    pub(crate) super_frames: usize,
    pub(crate) partial: usize,
    pub(crate) sent: Sent,
}

/// Moves frames between two queues while `work` runs; what it saw of each direction.
pub(crate) fn forward_while(one: &Queue, two: &Queue, work: impl FnOnce()) -> [Seen; 2] {
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
pub(crate) fn transfer(from: &Namespace, to: &Namespace, address: &str, bytes: usize) -> f64 {
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
                match stream.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    // A read with a timeout is not resumed by the kernel.
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => panic!("{error}"),
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

/// An Ethernet frame of UDP over IPv4, without a UDP checksum.
pub(crate) fn udp_frame(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: usize) -> Frame {
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

pub(crate) const HERE: [u8; 4] = [10, 0, 0, 1];
pub(crate) const THERE: [u8; 4] = [10, 0, 0, 2];
