//! A host: smoltcp's stack at the end of a link.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, IpCidr, Ipv4Packet, Ipv6Packet,
};
use switch::frame::MacAddr;

use super::link::Link;
use super::{Attachment, MTU};
use crate::wire::Noise;

pub(super) struct Host {
    pub(super) wire: Wire,
    pub(super) link: Link,
    /// Where its link ends: at a port of its own, or on the segment beyond the uplink.
    pub(super) attachment: Option<Attachment>,
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    /// Somebody used its sockets: the stack may have something to do at once.
    pub(super) touched: bool,
    /// When the stack's timers want it to work.
    due: Option<Duration>,
}

impl Host {
    pub(super) fn new(
        mac: MacAddr,
        addresses: impl IntoIterator<Item = (Ipv4Addr, u8)>,
        gateway: Option<Ipv4Addr>,
        seed: u64,
    ) -> Host {
        let mut wire = Wire::default();
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|all| {
            for (address, prefix) in addresses {
                let address = IpCidr::new(address.into(), prefix);
                all.push(address).expect("room for two addresses");
            }
        });
        if let Some(gateway) = gateway {
            let added = interface.routes_mut().add_default_ipv4_route(gateway);
            added.expect("room for one route");
        }
        Host {
            wire,
            link: Link::default(),
            attachment: None,
            interface,
            sockets: SocketSet::new(Vec::new()),
            touched: false,
            due: None,
        }
    }

    /// Lets the stack read what has arrived, and do and send what it wants to. Whether it did.
    pub(super) fn work(&mut self, now: Duration, noise: &mut Noise) -> bool {
        while let Some(frame) = self.link.to_host.arrived(now) {
            if !is_misdirected(&frame) {
                self.wire.incoming.push_back(frame);
            }
        }
        let due = self.due.is_some_and(|due| due <= now);
        if self.wire.incoming.is_empty() && !due && !self.touched {
            return false;
        }
        let at = instant(now);
        let moved = !self.wire.incoming.is_empty();
        self.interface.poll(at, &mut self.wire, &mut self.sockets);
        self.touched = false;
        let next = self.interface.poll_at(at, &self.sockets);
        // What it can't do now it tries again, but not in the same moment for ever.
        self.due = next.map(|next| {
            let next = Duration::from_micros(next.total_micros().max(0) as u64);
            next.max(now + Duration::from_micros(1))
        });
        let sent = !self.wire.outgoing.is_empty();
        for frame in self.wire.outgoing.drain(..) {
            self.link.send_to_switch(now, &frame, noise);
        }
        moved || sent
    }

    /// When something happens here without anybody's doing.
    pub(super) fn next(&self) -> Option<Duration> {
        self.due.into_iter().chain(self.link.next()).min()
    }
}

/// A host's end of its link, as a device of smoltcp.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) incoming: VecDeque<Vec<u8>>,
    pub(super) outgoing: Vec<Vec<u8>>,
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.incoming.pop_front()?;
        Some((Received(frame), Sending(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        // The switch's side of the wire has room for more; a stack that has much to say takes turns.
        (self.outgoing.len() < 256).then_some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + 14;
        capabilities
    }
}

pub(super) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

pub(super) struct Sending<'a>(&'a mut Wire);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.outgoing.push(frame);
        result
    }
}

pub(super) fn instant(time: Duration) -> Instant {
    Instant::from_micros(time.as_micros() as i64)
}

/// Whether a packet for one host came in a frame for many, as when a bit of its address was flipped.
/// No host takes it (RFC 1122 section 3.3.6); smoltcp would answer for its own.
fn is_misdirected(frame: &[u8]) -> bool {
    let Ok(frame) = EthernetFrame::new_checked(frame) else {
        return false;
    };
    let to_one = match frame.ethertype() {
        EthernetProtocol::Ipv4 => Ipv4Packet::new_checked(frame.payload()).is_ok_and(|packet| {
            let to = packet.dst_addr();
            !to.is_multicast() && !to.is_broadcast()
        }),
        EthernetProtocol::Ipv6 => Ipv6Packet::new_checked(frame.payload())
            .is_ok_and(|packet| !packet.dst_addr().is_multicast()),
        _ => false,
    };
    to_one && !frame.dst_addr().is_unicast()
}

/// What the host's kernel answers on the uplink: ARP for its own addresses, and nothing else,
/// since sockets keep it quiet about ports that are pontoon's.
pub(super) fn arp_answer(
    frame: &[u8],
    mac: MacAddr,
    is_own: impl Fn(Ipv4Addr) -> bool,
) -> Option<Vec<u8>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    let packet = ArpPacket::new_checked(ethernet.payload()).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    is_own(target_protocol_addr).then(|| {
        arp(
            ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: EthernetAddress(mac.0),
                source_protocol_addr: target_protocol_addr,
                target_hardware_addr: source_hardware_addr,
                target_protocol_addr: source_protocol_addr,
            },
            source_hardware_addr,
        )
    })
}

/// `address` is at `mac` now (RFC 5227 section 2.3: a broadcast request for one's own).
pub(super) fn arp_announcement(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    arp(
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(mac.0),
            source_protocol_addr: address,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: address,
        },
        EthernetAddress::BROADCAST,
    )
}

fn arp(arp: ArpRepr, to: EthernetAddress) -> Vec<u8> {
    let ArpRepr::EthernetIpv4 {
        source_hardware_addr,
        ..
    } = arp
    else {
        unreachable!("there is no other ARP")
    };
    let ethernet = EthernetRepr {
        src_addr: source_hardware_addr,
        dst_addr: to,
        ethertype: EthernetProtocol::Arp,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + arp.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}
