//! One network's learning bridge (802.1D): learn the source, look the destination up, flood what
//! is unknown or meant for many.

use nat::Time;

use crate::config::PortId;
use crate::datapath::Egress;
use crate::drop::DropReason;
use crate::frame::{self, MacAddr};
use crate::topology::Segment;

/// 802.1D table 7-10: addresses that no bridge forwards (spanning tree, pause, LACP, LLDP).
const LINK_LOCAL_GROUP: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

/// Learns the sender of `frame` behind `ingress`.
pub(crate) fn learn(
    now: Time,
    segment: &Segment,
    ingress: PortId,
    frame: &[u8],
) -> Result<(), DropReason> {
    let source = frame::source(frame).ok_or(DropReason::Malformed)?;
    if !source.is_unicast() {
        return Err(DropReason::SpoofedSource);
    }
    segment.fdb.learn(now, source, ingress);
    Ok(())
}

/// Decides where in `segment` a frame from `ingress` goes.
pub(crate) fn forward(
    now: Time,
    segment: &Segment,
    ingress: PortId,
    destination: MacAddr,
) -> Result<Egress, DropReason> {
    if destination.0[..5] == LINK_LOCAL_GROUP && destination.0[5] <= 0x0f {
        return Err(DropReason::ReservedAddress);
    }
    if destination.is_unicast()
        && let Some(port) = segment.fdb.lookup(now, destination)
    {
        return if port == ingress {
            Err(DropReason::SamePort)
        } else {
            Ok(Egress::Port(port))
        };
    }
    if segment.members.iter().all(|&member| member == ingress) {
        return Err(DropReason::NobodyElse);
    }
    Ok(Egress::Flood)
}
