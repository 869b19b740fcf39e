//! The `frame` target: a whole data path, with arbitrary frames on every port.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use switch::frame::{ETHERNET_HEADER, Frame, MAX_FRAME, MacAddr, VnetHeader, ethertype};

use crate::packet::{HOST4, HOST6, Shape, address, answer};
use crate::sums;
use crate::world::{Side, World};

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// A packet in a frame.
    Packet {
        side: Side,
        to: To,
        vnet: Vnet,
        tag: Option<u16>,
        shape: Shape<'a>,
    },
    /// Answers a frame that came out, from the side where it did.
    Answer {
        which: u8,
        flags: u8,
        vnet: Vnet,
        shape: Shape<'a>,
    },
    Arp {
        side: Side,
        reply: bool,
        sender: u8,
        target: u8,
        own_mac: bool,
        shape: Shape<'a>,
    },
    Bytes {
        side: Side,
        header: [u8; 10],
        bytes: &'a [u8],
    },
    Wait {
        millis: u32,
    },
    Configure {
        which: u8,
        odd: u8,
    },
}

/// Whose MAC a frame is addressed to.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum To {
    Router,
    OtherRouter,
    Side(Side),
    Everybody,
    Group(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Vnet {
    None,
    /// The transport's checksum is partial, as a TAP's often is.
    Partial {
        gso_size: u16,
    },
    Any([u8; 10]),
}

/// A run: the world, what came out of it, and how wrong the sums were that went in.
struct Run {
    world: World,
    came: Vec<(Side, Vec<u8>)>,
    wrong: HashSet<u16>,
    longest: usize,
    /// Whether A2 was ever free to be anybody, and B ever had its own addresses outside: what was
    /// sent then may leave later.
    unguarded: bool,
    routed: bool,
}

/// See the crate's description.
pub fn frame(data: &[u8]) {
    let Ok(steps) = <Vec<Step>>::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let mut run = Run {
        world: World::new(),
        came: Vec::new(),
        wrong: HashSet::from([0]),
        longest: 0,
        unguarded: false,
        routed: false,
    };
    for step in steps.iter().take(48) {
        run.step(step);
    }
    run.world.end();
}

impl Run {
    fn step(&mut self, step: &Step<'_>) {
        match step {
            Step::Packet {
                side,
                to,
                vnet,
                tag,
                shape,
            } => {
                let seen: Vec<Vec<u8>> = self
                    .came
                    .iter()
                    .filter(|(at, _)| at == side)
                    .map(|(_, packet)| packet.clone())
                    .collect();
                let packet = shape.build(&seen);
                let frame = ethernet(*side, *to, *tag, &packet);
                self.send(*side, *vnet, frame);
            }
            Step::Answer {
                which,
                flags,
                vnet,
                shape,
            } => {
                let Some((side, packet)) = self
                    .came
                    .get(usize::from(*which) % self.came.len().max(1))
                    .cloned()
                else {
                    return;
                };
                if let Some(mut packet) = answer(&packet, *flags) {
                    shape.damage.inflict(&mut packet);
                    self.send(side, *vnet, ethernet(side, To::Router, None, &packet));
                }
            }
            Step::Arp {
                side,
                reply,
                sender,
                target,
                own_mac,
                shape,
            } => {
                let mac = if *own_mac {
                    side.mac()
                } else {
                    MacAddr([2; 6])
                };
                let (IpAddr::V4(sender), IpAddr::V4(target)) =
                    (address(*sender, false), address(*target, false))
                else {
                    return;
                };
                let mut frame = MacAddr::BROADCAST.0.to_vec();
                frame.extend(side.mac().0);
                frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1 + u8::from(*reply)]);
                frame.extend(mac.0);
                frame.extend(sender.octets());
                frame.extend(side.router().0);
                frame.extend(target.octets());
                shape.damage.inflict(&mut frame);
                self.send(*side, Vnet::None, frame);
            }
            Step::Bytes {
                side,
                header,
                bytes,
            } => self.send(*side, Vnet::Any(*header), bytes.to_vec()),
            Step::Wait { millis } => {
                let time = Duration::from_millis(u64::from(*millis));
                for (side, frame) in self.world.wait(time) {
                    self.check(None, side, &frame);
                }
            }
            Step::Configure { which, odd } => {
                self.world.configure(*which, *odd);
                self.unguarded |= self.world.odd.unguarded;
                self.routed |= self.world.odd.routed;
            }
        }
    }

    fn send(&mut self, ingress: Side, vnet: Vnet, mut bytes: Vec<u8>) {
        bytes.truncate(MAX_FRAME);
        let mut frame = Frame::from_bytes(&bytes);
        let header = match vnet {
            Vnet::None => VnetHeader::default(),
            Vnet::Partial { gso_size } => partial(&mut frame, gso_size),
            Vnet::Any(header) => VnetHeader::decode(&header),
        };
        frame.set_vnet(header);
        self.longest = self.longest.max(frame.len());
        if let Some(errors) = errors(&frame) {
            self.wrong.extend(errors.header);
            self.wrong.extend(errors.transport);
        }
        for (side, frame) in self.world.send(ingress, &frame) {
            self.check(Some(ingress), side, &frame);
            if let Some(packet) = packet(frame.bytes()) {
                if self.came.len() == 32 {
                    self.came.remove(0);
                }
                self.came.push((side, packet.to_vec()));
            }
        }
    }

    /// What may leave by a port.
    fn check(&self, ingress: Option<Side>, egress: Side, frame: &Frame) {
        /// An ICMP error of the gateway's own, at most, in an Ethernet frame.
        const LARGEST_OWN: usize = ETHERNET_HEADER + 1280;
        let bytes = frame.bytes();
        assert!(bytes.len() >= ETHERNET_HEADER);
        assert!(bytes.len() <= self.longest.max(LARGEST_OWN));
        if let Some(errors) = errors(frame) {
            for error in [errors.header, errors.transport].into_iter().flatten() {
                assert!(self.wrong.contains(&error), "a checksum off by {error:#x}");
            }
        }
        let sent = sent_out(frame);
        let bytes = sent.bytes();
        let kind = switch::frame::ethertype_of(bytes);
        if egress == Side::Uplink {
            assert_eq!(switch::frame::source(bytes), Some(egress.router()));
            if kind == Some(ethertype::ARP) {
                let sender = bytes.get(28..32).expect("an ARP frame is whole");
                assert_eq!(sender, HOST4.octets());
            }
        }
        let odd = &self.world.odd;
        if odd.internal && ingress == Some(Side::B1) {
            assert_ne!(egress, Side::Uplink, "out of an internal network");
        }
        let parts = seen_by_a_kernel(bytes).and_then(sums::parts);
        if odd.isolated
            && matches!(
                (ingress, egress),
                (Some(Side::A1), Side::A2) | (Some(Side::A2), Side::A1)
            )
        {
            let by_the_host = parts.as_ref().is_some_and(|parts| is_host(parts.src));
            assert!(by_the_host, "isolated, and reached");
        }
        if egress == Side::Names {
            let parts = parts.as_ref().expect("what asks for names is a packet");
            assert!(is_host(parts.dst), "the stack is asked at {}", parts.dst);
        }
        let (Some(parts), false) = (parts, matches!(ingress, Some(Side::HostA | Side::HostB)))
        else {
            // The host may say anything.
            return;
        };
        if egress.is_container() {
            assert!(
                !parts.dst.is_loopback(),
                "{} is {egress:?}'s own",
                parts.dst
            );
        }
        if self.unguarded {
            return;
        }
        let from = network_of(parts.src);
        if egress == Side::Uplink {
            let own = [HOST4.into(), HOST6.into()].contains(&parts.src);
            let routed = self.routed && from == Some(1);
            assert!(own || routed, "{} left by the uplink", parts.src);
        } else {
            // A container has its own address or a link-local one, and what comes from elsewhere has
            // one of elsewhere.
            let foreign = from.is_some() && egress != Side::Names && from != egress.network();
            assert!(!foreign, "{} reached {egress:?}", parts.src);
        }
    }
}

/// The frame as the kernel or the card sends it, which adds up the checksum that was left to it.
fn sent_out(frame: &Frame) -> Frame {
    let mut sent = frame.clone();
    let vnet = frame.vnet();
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    if vnet.needs_csum() && field + 2 <= sent.len() {
        let checksum = sums::header_checksum(&sent.bytes()[start..]);
        sent.bytes_mut()[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    sent
}

/// Whether it is one of the host's addresses, the gateways' among them.
fn is_host(it: IpAddr) -> bool {
    let mut own = [3, 4, 5]
        .iter()
        .flat_map(|&at| [false, true].map(|ipv6| address(at, ipv6)));
    own.any(|own| own == it)
}

/// The network that an address is inside of.
fn network_of(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(address) => match address.octets() {
            [10, id @ (0 | 1), 0, _] => Some(u32::from(id)),
            _ => None,
        },
        IpAddr::V6(address) => match address.segments() {
            [id @ (0xfd00 | 0xfd01), 0, 0, 0, ..] => Some(u32::from(id & 1)),
            _ => None,
        },
    }
}

fn ethernet(side: Side, to: To, tag: Option<u16>, packet: &[u8]) -> Vec<u8> {
    let to = match to {
        To::Router => side.router(),
        To::OtherRouter => Side::B1.router(),
        To::Side(side) => side.mac(),
        To::Everybody => MacAddr::BROADCAST,
        To::Group(last) => MacAddr([0x33, 0x33, 0, 0, 0, last]),
    };
    let mut frame = [to.0, side.mac().0].concat();
    if let Some(tag) = tag {
        frame.extend([0x81, 0]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(match packet.first().map(|byte| byte >> 4) {
        Some(6) => [0x86, 0xdd],
        _ => [0x08, 0x00],
    });
    frame.extend(packet);
    frame
}

/// The bytes of the packet in a frame of IP without a tag of a VLAN.
fn packet(frame: &[u8]) -> Option<&[u8]> {
    packet_at(frame).map(|at| &frame[at..])
}

/// The bytes of the packet that a kernel finds in a frame of IP, with an interface for every VLAN:
/// behind all tags, as `skb_vlan_untag` and `vlan_do_receive` take them off in turn.
fn seen_by_a_kernel(frame: &[u8]) -> Option<&[u8]> {
    let mut at = ETHERNET_HEADER;
    loop {
        match frame.get(at - 2..at)? {
            [0x08, 0x00] | [0x86, 0xdd] => return Some(&frame[at..]),
            [0x81, 0x00] | [0x88, 0xa8] => at += 4,
            // Bridges to 802.11 and other systems take these off (RFC 1042).
            length if length < &[6, 0][..] => match frame.get(at..at + 6)? {
                [0xaa, 0xaa, 3, 0, 0, 0 | 0xf8] => at += 8,
                _ => return None,
            },
            _ => return None,
        }
    }
}

/// Where it begins. Priority tags, of VLAN 0, are taken off on the way.
fn packet_at(frame: &[u8]) -> Option<usize> {
    let mut at = ETHERNET_HEADER;
    loop {
        match frame.get(at - 2..at)? {
            [0x08, 0x00] | [0x86, 0xdd] => return Some(at),
            [0x81, 0x00] | [0x88, 0xa8] if sums::word(frame.get(at..at + 2)?, 0) & 0xfff == 0 => {
                at += 4;
            }
            _ => return None,
        }
    }
}

fn errors(frame: &Frame) -> Option<sums::Errors> {
    let at = packet_at(frame.bytes())?;
    let packet = &frame.bytes()[at..];
    let vnet = frame.vnet();
    let transport = at + sums::parts(packet)?.transport;
    let partial = vnet.needs_csum() && usize::from(vnet.csum_start) == transport;
    sums::errors(packet, partial)
}

/// Leaves the transport's checksum to whoever sends the frame out, and returns the header that says
/// so.
fn partial(frame: &mut Frame, gso_size: u16) -> VnetHeader {
    let Some(parts) = packet(frame.bytes()).and_then(sums::parts) else {
        return VnetHeader::default();
    };
    let (gso_type, csum_offset) = match (parts.protocol, parts.src.is_ipv4()) {
        (6, true) => (VnetHeader::GSO_TCPV4, 16),
        (6, false) => (VnetHeader::GSO_TCPV6, 16),
        (17, _) => (VnetHeader::GSO_UDP_L4, 6),
        _ => return VnetHeader::default(),
    };
    let at = packet_at(frame.bytes()).unwrap_or(ETHERNET_HEADER);
    let start = at + parts.transport;
    let sum = sums::partial(&parts);
    let field = start + usize::from(csum_offset);
    if let Some(bytes) = frame.bytes_mut().get_mut(field..field + 2) {
        bytes.copy_from_slice(&sum.to_be_bytes());
    }
    VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: if gso_size == 0 { 0 } else { gso_type },
        hdr_len: start as u16 + 20,
        gso_size,
        csum_start: start as u16,
        csum_offset,
    }
}
