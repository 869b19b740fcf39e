//! How much the engine may hold, and for how long. Every timeout cites the clause it obeys.

use std::time::Duration;

/// Bounds of the connection table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all. A full table evicts one that is half open or over, of the inside
    /// address that holds most, and never of one that would then hold less than who asks; when
    /// there is none, the new flow is refused.
    pub max_connections: usize,
    /// Connections of one inside address (RFC 6888 REQ-5). Keep it well below `max_connections`:
    /// established flows give way to nobody, so this is what leaves room for others.
    pub max_per_address: usize,
    /// External ports and ICMP identifiers of one inside address (RFC 6888 REQ-4); keep it below
    /// what the caller reserves. While few ports are free an address may hold eight times as many
    /// as are. With all that it may have, an address opens further flows from ports that have a
    /// mapping, or by sharing a port that is in use towards other peers; echoes by the former only.
    pub max_ports_per_address: usize,
    /// Whether a TCP segment without SYN may open a connection. Needed for connections to live
    /// through a restart of the process: those to published ports are picked up whole, from either
    /// side; a masqueraded one gets a new external port, so its peer answers with a RST and the
    /// inside learns at once what it would otherwise wait for. A connection picked up counts as
    /// half open until both sides have been seen.
    pub pick_up_tcp: bool,
    /// Datagrams in fragments that are known at a time; a further one takes the place of the
    /// oldest. 0 refuses all fragments that would have to be translated.
    pub max_fragmented: usize,
    /// Bytes of fragments that wait for the first one of their datagram, in all; the oldest make
    /// room.
    pub max_fragment_bytes: usize,
    /// Bytes that wait of one source.
    pub max_fragment_bytes_per_source: usize,
    pub timeouts: Timeouts,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 262_144,
            max_per_address: 65_536,
            max_ports_per_address: 4096,
            pick_up_tcp: true,
            max_fragmented: 4096,
            // What Linux allows for reassembly (ipfrag_high_thresh).
            max_fragment_bytes: 4 << 20,
            // Four of the largest datagrams.
            max_fragment_bytes_per_source: 256 << 10,
            timeouts: Timeouts::default(),
        }
    }
}

/// How long a connection lives after the last packet that refreshes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// An established TCP connection, half-closed ones included (RFC 6146 section 3.5.2.2 keeps
    /// them so): at least 2 hours 4 minutes (RFC 5382 REQ-5).
    pub tcp_established: Duration,
    /// TCP while opening, closing, in TIME-WAIT and after a RST: at least 4 minutes (RFC 5382
    /// REQ-5, RFC 7857 section 2).
    pub tcp_transitory: Duration,
    /// UDP: at least 2 minutes, 5 or more recommended (RFC 4787 REQ-5).
    pub udp: Duration,
    /// UDP to port 53: RFC 4787 REQ-5a lets well-known ports be shorter, and one lookup is one
    /// question and one answer. Without this, a busy resolver would hold a port for each lookup of
    /// the last five minutes.
    pub udp_dns: Duration,
    /// ICMP echo: at least 60 seconds (RFC 5508 REQ-2).
    pub icmp: Duration,
    /// How long the fragments of a datagram may take, from the one that comes first (Linux:
    /// ipfrag_time, 30 seconds). Their receiver waits as long or longer (RFC 1122 section 3.3.2,
    /// RFC 8200 section 4.5: 60 seconds), so what is late here is not worth much to it.
    pub fragment: Duration,
    /// SCTP, and protocols translated by address alone: none has a state that we know. The
    /// associations of SCTP beat every 30 seconds (RFC 9260 section 16), tunnels as they like.
    pub other: Duration,
    /// How long an answer may be in flight: no other endpoint gets the external port of a flow that
    /// was cut off before. An unanswered flow that has waited as long gives up its port to another
    /// when there is no other port.
    pub port_quarantine: Duration,
    /// The same after a TCP RST, for other inside addresses.
    pub port_reset: Duration,
    /// How long a freed external port rests while others are free: 120 seconds (RFC 6888 REQ-8).
    pub port_rest: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            tcp_established: Duration::from_secs(2 * 3600 + 4 * 60),
            tcp_transitory: Duration::from_secs(4 * 60),
            udp: Duration::from_secs(5 * 60),
            udp_dns: Duration::from_secs(30),
            icmp: Duration::from_secs(60),
            fragment: Duration::from_secs(30),
            other: Duration::from_secs(10 * 60),
            port_quarantine: Duration::from_secs(30),
            port_reset: Duration::from_secs(1),
            port_rest: Duration::from_secs(120),
        }
    }
}
