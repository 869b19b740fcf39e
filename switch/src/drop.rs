//! Why a frame was dropped: one variant, one counter, one sentence for people.

use std::fmt;

use nat::Refused;

/// The reason a frame went no further. Every dropped frame is counted under exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    PortUnassigned,
    Malformed,
    TooManyTags,
    Encapsulated,
    SourceRouted,
    MisplacedChecksum,
    MisplacedSegmentation,
    TinySegments,
    SpoofedSource,
    RogueRouter,
    RogueDhcp,
    ReservedAddress,
    UnicastInMulticast,
    MacTaken,
    SamePort,
    NobodyElse,
    UnknownMac,
    Isolated,
    BroadcastStorm,
    MulticastStorm,
    UnknownUnicastStorm,
    NotIp,
    Martian,
    BeyondScope,
    NoRoute,
    RouteUnreachable,
    RouteProhibited,
    RouteBlackhole,
    NotAnUplink,
    OtherNetwork,
    InternalNetwork,
    HostUnreachable,
    UnknownEndpoint,
    NeighborUnresolved,
    TtlExceeded,
    TooBig,
    MtuExceeded,
    EgressFull,
    EgressDown,
    EgressRejected,
    EgressGone,
    RateLimited,
    DelayFull,
    FaultLoss,
    Partitioned,
    /// It could not be translated; the engine says why.
    Nat(Refused),
}

/// The reasons of the switch's own, in the order of their counters.
const OWN: &[DropReason] = {
    use DropReason::*;
    &[
        PortUnassigned,
        Malformed,
        TooManyTags,
        Encapsulated,
        SourceRouted,
        MisplacedChecksum,
        MisplacedSegmentation,
        TinySegments,
        SpoofedSource,
        RogueRouter,
        RogueDhcp,
        ReservedAddress,
        UnicastInMulticast,
        MacTaken,
        SamePort,
        NobodyElse,
        UnknownMac,
        Isolated,
        BroadcastStorm,
        MulticastStorm,
        UnknownUnicastStorm,
        NotIp,
        Martian,
        BeyondScope,
        NoRoute,
        RouteUnreachable,
        RouteProhibited,
        RouteBlackhole,
        NotAnUplink,
        OtherNetwork,
        InternalNetwork,
        HostUnreachable,
        UnknownEndpoint,
        NeighborUnresolved,
        TtlExceeded,
        TooBig,
        MtuExceeded,
        EgressFull,
        EgressDown,
        EgressRejected,
        EgressGone,
        RateLimited,
        DelayFull,
        FaultLoss,
        Partitioned,
    ]
};

impl DropReason {
    /// How many reasons there are, and so how many counters.
    pub const COUNT: usize = OWN.len() + Refused::ALL.len();

    /// Every reason, in the order of [`index`](Self::index).
    pub fn all() -> impl Iterator<Item = DropReason> {
        OWN.iter()
            .copied()
            .chain(Refused::ALL.into_iter().map(DropReason::Nat))
    }

    /// The reason's place among the counters, below [`COUNT`](Self::COUNT).
    pub fn index(self) -> usize {
        match self {
            Self::Nat(refused) => OWN.len() + refused as usize,
            own => OWN.iter().position(|&other| other == own).unwrap_or(0),
        }
    }

    /// The variant's name, as metrics and `--json` tell it.
    pub fn name(self) -> String {
        match self {
            Self::Nat(refused) => format!("{refused:?}"),
            own => format!("{own:?}"),
        }
    }
}

/// What happened, for people.
impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PortUnassigned => "the port belongs to no network (yet, or any more)",
            Self::Malformed => "a header is truncated or contradicts the frame's length",
            Self::TooManyTags => "VLAN tags behind two others, which might hide anything",
            Self::Encapsulated => {
                "IP, ARP or a VLAN tag wrapped in LLC/SNAP instead of Ethernet II"
            }
            Self::SourceRouted => {
                "its sender chose its route (an IPv4 option or an IPv6 routing header of type 0)"
            }
            Self::MisplacedChecksum => {
                "the checksum that it leaves to the sending kernel would be written elsewhere"
            }
            Self::MisplacedSegmentation => {
                "the segments that it leaves to the sending kernel are not of its protocol"
            }
            Self::TinySegments => {
                "a super-frame of segments smaller than any path needs, or of too many"
            }
            Self::SpoofedSource => "the source MAC or address is not the sender's own",
            Self::RogueRouter => {
                "a container spoke as a router (advertisement, redirect, multicast query)"
            }
            Self::RogueDhcp => "a container answered as a DHCP server",
            Self::ReservedAddress => {
                "sent to a link-local group that bridges do not forward (802.1D)"
            }
            Self::UnicastInMulticast => "a packet for one address in a frame that goes to many",
            Self::MacTaken => "the source MAC is configured for another port, or is the gateway's",
            Self::SamePort => "the destination is on the port the frame came from",
            Self::NobodyElse => "meant for many, but no other port is there to get it",
            Self::UnknownMac => "no port has the destination MAC, and none could have it unseen",
            Self::Isolated => "isolated endpoints of a network do not reach each other",
            Self::BroadcastStorm => "the port sent more broadcasts than its limit",
            Self::MulticastStorm => "the port sent more flooded multicast than its limit",
            Self::UnknownUnicastStorm => "the port sent more frames to unknown MACs than its limit",
            Self::NotIp => "sent to the gateway, which routes only IPv4 and IPv6",
            Self::Martian => "an address that can't be routed (loopback, multicast, unspecified)",
            Self::BeyondScope => "an address of the link itself (IPv6 link-local) can't be routed",
            Self::NoRoute => "the host has no route to the destination",
            Self::RouteUnreachable => "the host's route says that the destination is unreachable",
            Self::RouteProhibited => "the host's route prohibits the destination",
            Self::RouteBlackhole => "the host's route is a blackhole",
            Self::NotAnUplink => "the host's route is over an interface that is no uplink",
            Self::OtherNetwork => "networks are isolated from each other",
            Self::InternalNetwork => {
                "an internal network leads nowhere, and reaches no service of the host's but names"
            }
            Self::HostUnreachable => "the network has no interface on the host",
            Self::UnknownEndpoint => "no container has the destination address",
            Self::NeighborUnresolved => "the next hop did not answer ARP or ND",
            Self::TtlExceeded => "the TTL or hop limit ran out",
            Self::TooBig => "larger than any frame the switch carries",
            Self::MtuExceeded => "larger than the next link's MTU, and not to be fragmented",
            Self::EgressFull => "the receiver's queue was full",
            Self::EgressDown => "the receiver's interface is down",
            Self::EgressRejected => "the kernel refused the frame",
            Self::EgressGone => "the receiver's port has been removed",
            Self::RateLimited => "the endpoint's limit is reached, and so is the wait behind it",
            Self::DelayFull => "more frames are late than may be held for one endpoint",
            Self::FaultLoss => "lost on request (pontoon fault)",
            Self::Partitioned => "cut off on request (pontoon fault)",
            Self::Nat(refused) => return refused.fmt(f),
        })
    }
}

impl From<Refused> for DropReason {
    fn from(refused: Refused) -> DropReason {
        DropReason::Nat(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_stands_once_at_its_own_index() {
        for (index, reason) in DropReason::all().enumerate() {
            assert_eq!(reason.index(), index);
        }
        assert_eq!(DropReason::all().count(), DropReason::COUNT);
    }

    #[test]
    fn no_two_reasons_share_a_name() {
        let names: std::collections::HashSet<String> =
            DropReason::all().map(DropReason::name).collect();
        assert_eq!(names.len(), DropReason::COUNT);
    }
}
