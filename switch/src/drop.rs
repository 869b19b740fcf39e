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
            Self::PortUnassigned => "the switch port belongs to no network, yet or any more",
            Self::Malformed => "a header is truncated or contradicts the frame's length",
            Self::TooManyTags => "a VLAN tag behind two others, which could hide anything",
            Self::Encapsulated => {
                "IP, ARP or a VLAN tag wrapped in LLC/SNAP instead of Ethernet II"
            }
            Self::SourceRouted => {
                "source-routed (an IPv4 option or an IPv6 routing header of type 0)"
            }
            Self::MisplacedChecksum => {
                "the checksum offload that the frame requests would write to other bytes"
            }
            Self::MisplacedSegmentation => {
                "the segmentation offload that the frame requests does not fit its protocol"
            }
            Self::TinySegments => {
                "a super-frame with segments smaller than any path needs, or with too many"
            }
            Self::SpoofedSource => "the source MAC or IP address is not the container's own",
            Self::RogueRouter => {
                "a container sent a router's message (advertisement, redirect, multicast query)"
            }
            Self::RogueDhcp => "a container sent a DHCP server's message",
            Self::ReservedAddress => {
                "sent to a link-local group that bridges do not forward (802.1D)"
            }
            Self::UnicastInMulticast => "a unicast packet in a broadcast or multicast frame",
            Self::MacTaken => "the source MAC address is another switch port's or the gateway's",
            Self::SamePort => "the destination is on the switch port that the frame came from",
            Self::NobodyElse => "broadcast or multicast, and no other switch port to receive it",
            Self::UnknownMac => {
                "unknown destination MAC address, and every switch port is MAC-locked"
            }
            Self::Isolated => "containers of an isolated network do not reach each other",
            Self::BroadcastStorm => "more broadcasts than the switch port's limit",
            Self::MulticastStorm => "more flooded multicast than the switch port's limit",
            Self::UnknownUnicastStorm => {
                "more frames to unknown MAC addresses than the switch port's limit"
            }
            Self::NotIp => "sent to the gateway, which routes IPv4 and IPv6 only",
            Self::Martian => "an address that cannot be routed (loopback, multicast, unspecified)",
            Self::BeyondScope => "an IPv6 link-local address cannot be routed",
            Self::NoRoute => "the host has no route to the destination",
            Self::RouteUnreachable => "the host's route says that the destination is unreachable",
            Self::RouteProhibited => "the host's route prohibits the destination",
            Self::RouteBlackhole => "the host's route is a blackhole",
            Self::NotAnUplink => "the host's route leads over an interface that is no uplink",
            Self::OtherNetwork => "networks are isolated from each other",
            Self::InternalNetwork => {
                "an internal network reaches nothing outside, and no service of the host but names"
            }
            Self::HostUnreachable => "the network has no interface on the host",
            Self::UnknownEndpoint => "no container has the destination address",
            Self::NeighborUnresolved => "the next hop did not answer ARP or ND",
            Self::TtlExceeded => "the TTL or hop limit ran out",
            Self::TooBig => "larger than any frame that the switch carries",
            Self::MtuExceeded => "larger than the next link's MTU, and must not be fragmented",
            Self::EgressFull => "the receiver's queue was full",
            Self::EgressDown => "the receiver's interface is down",
            Self::EgressRejected => "the kernel refused the frame",
            Self::EgressGone => "the receiver's switch port has been removed",
            Self::RateLimited => "the container's rate limit and its queue are exhausted",
            Self::DelayFull => {
                "more frames are delayed than may be held for one direction of a switch port"
            }
            Self::FaultLoss => "lost on request (pontoon fault)",
            Self::Partitioned => "partitioned on request (pontoon fault)",
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
