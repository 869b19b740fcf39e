//! Every way in which a packet can fail to be translated has a name and a sentence.

use std::fmt;

/// Why a packet was not translated. The packet is then as it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// From an uplink, and part of no flow: it is the host's own, or unsolicited. RFC 5382 REQ-4
    /// wants silence, so the caller just lets go of it.
    NoMapping,
    /// From inside to the external port of another endpoint, which has not sent to where this
    /// comes from (RFC 4787 REQ-8, REQ-9). It has opened its sender's half of the flow all the
    /// same, so that the other side may now send.
    Filtered,
    /// To an address of the host, on a port that publishes nothing: it is for the host itself,
    /// to which the caller hands it untouched.
    NotPublished,
    /// To a published port, from a source that is not on its list. The host is silent too, so that
    /// a stranger can't tell the port from one behind a firewall.
    NotAllowed,
    /// A TCP segment that belongs to no known connection and may not open one.
    NotOpening,
    /// No external port or identifier is left for the flow.
    PortsExhausted,
    /// The connection table is full, and nothing in it is dispensable.
    TableFull,
    /// The inside address holds all the connections, or all the external ports, that it may.
    QuotaExceeded,
    /// More connections to a published port are half open than may be, all from outside.
    TooManyHalfOpen,
    /// Another connection already uses these addresses and ports towards the same peer.
    TupleInUse,
    /// The route's source address is of another family than the packet.
    NoExternalAddress,
    /// A fragment, where whole packets are wanted or fragments are switched off.
    Fragment,
    /// A fragment without data, with a length that is no multiple of 8 and yet more to follow, or
    /// beyond the largest datagram.
    FragmentInvalid,
    /// A first fragment that does not hold the whole transport header, which only an attempt to
    /// hide it makes (RFC 1858, RFC 7112); and what belongs to its datagram.
    FragmentTiny,
    /// A fragment that overlaps another of its datagram, and what comes later of that datagram
    /// (RFC 5722).
    FragmentOverlap,
    /// A fragment all of whose bytes have been seen already.
    FragmentDuplicate,
    /// More fragments wait for the first ones of their datagrams than may, or in more places.
    FragmentLimit,
    /// A fragment that was held, and whose datagram's first one did not come in time.
    FragmentUnfinished,
    /// An ICMP error in fragments, which has no reason to be so long.
    FragmentedError,
    /// A protocol, or an ICMP message, that has neither ports nor an identifier.
    UnsupportedProtocol,
    /// A combination of TCP flags that no conforming sender makes.
    InvalidTcpFlags,
    /// An ICMP error with a wrong checksum (RFC 5508 REQ-3).
    BadIcmpChecksum,
    /// An ICMP error whose quoted packet is cut off, damaged, or not one that its receiver sent
    /// (RFC 5508 REQ-3, REQ-4).
    BadQuote,
    /// An ICMP error about a packet of no known connection (RFC 5508 REQ-5).
    IcmpUnrelated,
}

impl Refused {
    /// Every variant, in the order of `as usize`: for tables of counters.
    pub const ALL: [Refused; 24] = [
        Refused::NoMapping,
        Refused::Filtered,
        Refused::NotPublished,
        Refused::NotAllowed,
        Refused::NotOpening,
        Refused::PortsExhausted,
        Refused::TableFull,
        Refused::QuotaExceeded,
        Refused::TooManyHalfOpen,
        Refused::TupleInUse,
        Refused::NoExternalAddress,
        Refused::Fragment,
        Refused::FragmentInvalid,
        Refused::FragmentTiny,
        Refused::FragmentOverlap,
        Refused::FragmentDuplicate,
        Refused::FragmentLimit,
        Refused::FragmentUnfinished,
        Refused::FragmentedError,
        Refused::UnsupportedProtocol,
        Refused::InvalidTcpFlags,
        Refused::BadIcmpChecksum,
        Refused::BadQuote,
        Refused::IcmpUnrelated,
    ];
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::NoMapping => "no flow and no published port takes this packet from outside",
            Refused::Filtered => "the owner of this external port has not sent to the sender",
            Refused::NotPublished => "the host address publishes nothing on this port",
            Refused::NotAllowed => "the source is not in the published port's allow list",
            Refused::NotOpening => "the TCP segment belongs to no connection and may not open one",
            Refused::PortsExhausted => "no external port is free for this flow",
            Refused::TableFull => "the connection table is full",
            Refused::QuotaExceeded => {
                "the container's address has reached its limit of connections or external ports"
            }
            Refused::TooManyHalfOpen => "too many connections to this published port are half open",
            Refused::TupleInUse => "another connection uses the same addresses and ports",
            Refused::NoExternalAddress => {
                "the route out has no source address of this address family"
            }
            Refused::Fragment => "fragments are not translated here",
            Refused::FragmentInvalid => "no datagram has a fragment of this offset and length",
            Refused::FragmentTiny => "the first fragment is too short for its transport header",
            Refused::FragmentOverlap => "two fragments of the datagram overlap",
            Refused::FragmentDuplicate => "the fragment repeats bytes that have been seen",
            Refused::FragmentLimit => "too many fragments wait for the first of their datagram",
            Refused::FragmentUnfinished => "the first fragment of the datagram did not arrive",
            Refused::FragmentedError => "an ICMP error came in fragments",
            Refused::UnsupportedProtocol => {
                "the protocol has neither ports nor an identifier to translate"
            }
            Refused::InvalidTcpFlags => "the TCP flags contradict each other",
            Refused::BadIcmpChecksum => "the checksum of the ICMP error is wrong",
            Refused::BadQuote => {
                "the packet quoted in the ICMP error is damaged or not the receiver's"
            }
            Refused::IcmpUnrelated => "the ICMP error is about no known connection",
        })
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_order_and_every_sentence_differs() {
        let mut sentences = Vec::new();
        for (at, refused) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(refused as usize, at);
            sentences.push(refused.to_string());
        }
        sentences.sort();
        sentences.dedup();
        assert_eq!(sentences.len(), Refused::ALL.len());
    }
}
