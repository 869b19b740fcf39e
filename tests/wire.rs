//! Frames as they are: sent into an interface, or watched on it.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::namespace::Namespace;
use crate::process::Background;

/// An AF_PACKET socket on one interface: what a container with CAP_NET_RAW can do.
pub struct RawPort {
    socket: OwnedFd,
    pub mac: [u8; 6],
}

impl RawPort {
    /// # Panics
    ///
    /// The namespace has no such interface.
    pub fn open(namespace: &Namespace, interface: &str) -> RawPort {
        namespace.within(|| {
            let address = getifaddrs()
                .expect("the interfaces can be listed")
                .filter(|entry| entry.interface_name == interface)
                .find_map(|entry| entry.address?.as_link_addr().copied())
                .unwrap_or_else(|| panic!("no interface {interface}"));
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .expect("root may open AF_PACKET");
            // The address names no protocol, so the socket keeps its own: all (packet_do_bind).
            bind(socket.as_raw_fd(), &address).expect("an AF_PACKET socket binds to an interface");
            let timeout = TimeVal::milliseconds(500);
            setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).expect("a timeout can be set");
            let mac = address.addr().expect("an Ethernet interface has a MAC");
            RawPort { socket, mac }
        })
    }

    /// Sends one frame, from its Ethernet header on.
    ///
    /// # Errors
    ///
    /// The kernel refuses it: shorter than an Ethernet header (EINVAL), larger than the interface's
    /// MTU (EMSGSIZE), no room (ENOBUFS), interface gone or down (ENXIO, ENETDOWN).
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// The next frame on the interface, in either direction; `None` after half a second without.
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.receive_with(MsgFlags::empty())
    }

    /// The next frame, if it is there already.
    pub fn receive_now(&self) -> Option<Vec<u8>> {
        self.receive_with(MsgFlags::MSG_DONTWAIT)
    }

    fn receive_with(&self, flags: MsgFlags) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        let length = recv(self.socket.as_raw_fd(), &mut frame, flags).ok()?;
        frame.truncate(length);
        Some(frame)
    }
}

/// `tcpdump`, which writes down the frames of an interface that match a filter: a witness that is
/// not of our making.
pub struct Witness {
    tcpdump: Background,
}

impl Witness {
    /// Watches from here on.
    pub fn start(namespace: &Namespace, interface: &str, filter: &str) -> Witness {
        let mut command = namespace.command("tcpdump");
        command.args(["-i", interface, "-nn", "-l", "--immediate-mode", filter]);
        let mut tcpdump = Background::start(&mut command);
        tcpdump.wait_for_output("listening on");
        Witness { tcpdump }
    }

    /// The frames it saw, a line each.
    pub fn stop(mut self) -> Vec<String> {
        std::thread::sleep(Duration::from_millis(200));
        self.tcpdump.end(Signal::SIGINT);
        let output = self.tcpdump.output();
        let frames = output.lines().filter(|line| {
            // `12:00:00.000000 IP …`; the rest is tcpdump talking of itself.
            line.as_bytes().get(2) == Some(&b':') && line.as_bytes().get(5) == Some(&b':')
        });
        frames.map(str::to_owned).collect()
    }
}

/// An Ethernet frame around `payload`.
pub fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet around `payload`, with a right header checksum.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = packet.chunks(2).fold(0, |sum, pair| {
        sum + u32::from(pair[0]) * 256 + u32::from(pair[1])
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// A UDP datagram without a checksum, as RFC 768 permits.
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut datagram = Vec::new();
    for field in [from, to, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    datagram
}

/// Numbers that look random and are the same in every run (xorshift64*).
pub struct Noise(u64);

impl Noise {
    /// Seeds that differ by little give numbers that have nothing in common.
    pub fn new(seed: u64) -> Noise {
        // The finalizer of splitmix64; xorshift can't begin at zero.
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Noise((mixed ^ (mixed >> 31)).max(1))
    }

    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.word() >> 33) as usize % limit
    }

    /// True once in `many` times; 0 is never.
    pub fn one_in(&mut self, many: usize) -> bool {
        many > 0 && self.below(many) == 0
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.word() >> 56) as u8).collect()
    }
}
