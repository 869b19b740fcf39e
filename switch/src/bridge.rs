//! One network's learning bridge (802.1D): learn the source, look the destination up, flood what
//! is unknown or meant for many.
//!
//! What is configured comes first: an endpoint's own MAC is where the configuration says, whoever
//! else claims it, and moves when the configuration does. Only stations behind an endpoint that is
//! not guarded are learned, and only there are unknown ones looked for.

use std::net::IpAddr;

use ipnet::IpNet;
use nat::Time;

use crate::config::PortId;
use crate::datapath::{Egress, Pass};
use crate::drop::DropReason;
use crate::frame::{self, Frame, MacAddr};
use crate::topology::{Member, Segment};

/// 802.1D table 7-10: addresses that no bridge forwards (spanning tree, pause, LACP, LLDP).
const LINK_LOCAL_GROUP: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

/// Learns the sender of `frame` behind `ingress`, whose configured MAC is `own`.
pub(crate) fn learn(
    now: Time,
    segment: &Segment,
    (ingress, own): (PortId, MacAddr),
    frame: &[u8],
) -> Result<(), DropReason> {
    let source = frame::source(frame).ok_or(DropReason::Malformed)?;
    if source == own {
        return Ok(());
    }
    if !source.is_unicast() {
        return Err(DropReason::SpoofedSource);
    }
    if source == segment.network.gateway_mac || segment.station(source).is_some() {
        return Err(DropReason::MacTaken);
    }
    let limits = &segment.network.bridge;
    segment.fdb.learn(now, source, ingress, limits);
    Ok(())
}

/// Whether a frame has a packet for one address, which none that goes to many may have (RFC 1122
/// section 3.3.6): its receivers would take it past what the gateway decides for that address.
pub(crate) fn is_unicast_packet(segment: &Segment, frame: &[u8]) -> bool {
    match frame::destination_ip(frame) {
        None => false,
        Some(IpAddr::V6(address)) => !address.is_multicast(),
        Some(IpAddr::V4(address)) => {
            let directed = |subnet: &IpNet| subnet.broadcast() == IpAddr::V4(address);
            let to_many = address.is_multicast() || address.is_broadcast();
            !to_many && !segment.network.subnets.iter().any(directed)
        }
    }
}

/// Why a frame goes to many.
#[derive(Clone, Copy)]
pub(crate) enum Flood {
    Broadcast,
    Multicast,
    UnknownUnicast,
}

impl Pass<'_> {
    /// Decides where in `segment` a frame from `sender` goes.
    pub(crate) fn bridge(
        &mut self,
        segment: &Segment,
        sender: Member,
        destination: MacAddr,
        frame: &Frame,
    ) -> Result<Egress, DropReason> {
        if destination.is_multicast() {
            return self.bridge_group(segment, sender, destination, frame);
        }
        let receiver = segment
            .station(destination)
            .or_else(|| self.learned(segment, destination));
        match receiver {
            None => self.flood(segment, sender, Flood::UnknownUnicast),
            Some(receiver) if receiver.port == sender.port => Err(DropReason::SamePort),
            Some(receiver) if !sender.reaches(receiver) => Err(DropReason::Isolated),
            Some(receiver) => Ok(Egress::Port(receiver.port)),
        }
    }

    fn bridge_group(
        &mut self,
        segment: &Segment,
        sender: Member,
        destination: MacAddr,
        frame: &Frame,
    ) -> Result<Egress, DropReason> {
        if destination.is_broadcast() {
            return self.flood(segment, sender, Flood::Broadcast);
        }
        if destination.0[..5] == LINK_LOCAL_GROUP && destination.0[5] <= 0x0f {
            return Err(DropReason::ReservedAddress);
        }
        if let Some(snooping) = &segment.network.bridge.snooping
            && let Some(egress) = self.snoop(segment, sender, snooping, frame)?
        {
            return Ok(egress);
        }
        self.flood(segment, sender, Flood::Multicast)
    }

    /// The port that `mac` was learned on.
    fn learned(&self, segment: &Segment, mac: MacAddr) -> Option<Member> {
        let port = segment.fdb.lookup(self.now, mac)?;
        Some(Member {
            port,
            isolated: self.topology.is_isolated(port),
            single: false,
        })
    }

    /// To every port that may want it, if the sender's limit allows.
    fn flood(
        &mut self,
        segment: &Segment,
        sender: Member,
        flood: Flood,
    ) -> Result<Egress, DropReason> {
        self.admit_flood(segment, sender, flood)?;
        let unknown = matches!(flood, Flood::UnknownUnicast);
        let wanted = |other: &&Member| {
            other.port != sender.port && sender.reaches(**other) && !(unknown && other.single)
        };
        self.egresses.clear();
        let others = segment.members.iter().filter(wanted);
        self.egresses.extend(others.map(|other| other.port));
        match (self.egresses.is_empty(), flood) {
            (false, _) => Ok(Egress::Several),
            (true, Flood::UnknownUnicast) => Err(DropReason::UnknownMac),
            (true, _) => Err(DropReason::NobodyElse),
        }
    }

    /// Storm control: counts a flooded frame against its sender's limit.
    pub(crate) fn admit_flood(
        &self,
        segment: &Segment,
        sender: Member,
        flood: Flood,
    ) -> Result<(), DropReason> {
        let limits = &segment.network.bridge.storm;
        let clocks = &self
            .topology
            .port(sender.port)
            .ok_or(DropReason::PortUnassigned)?
            .storm;
        let (clock, limit, reason) = match flood {
            Flood::Broadcast => (
                &clocks.broadcast,
                limits.broadcast,
                DropReason::BroadcastStorm,
            ),
            Flood::Multicast => (
                &clocks.multicast,
                limits.multicast,
                DropReason::MulticastStorm,
            ),
            Flood::UnknownUnicast => (
                &clocks.unknown_unicast,
                limits.unknown_unicast,
                DropReason::UnknownUnicastStorm,
            ),
        };
        match limit {
            Some(limit) if !clock.admit(self.now, limit) => Err(reason),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
