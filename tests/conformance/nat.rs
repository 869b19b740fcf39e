//! What a NAT and a switch of good manners do: the RFCs, what the test suites of others hold those
//! to, and what others learned the hard way.

use crate::list::{List, Section, row};

pub(crate) const LIST: List = List {
    title: "NAT and switch",
    intro: "The policy, in the words of RFC 4787: endpoint-independent mapping, \
            address-and-port-dependent filtering.",
    columns: ["requirement", "what it asks for", "proven by", "result"],
    sections: &[
        UDP,
        TCP,
        ICMP,
        CARRIER,
        STATE,
        OPEN_VSWITCH,
        LINUX,
        ENGINES,
        LESSONS,
        SWITCH,
        IPV6,
        WHOLE,
    ],
};

const UDP: Section = Section {
    title: "RFC 4787: unicast UDP",
    rows: &[
        row(
            "RFC4787-1",
            "one inside port that talks to two peers has one external port",
        ),
        row(
            "RFC4787-2",
            "all flows of one host leave with the same external address",
        ),
        row(
            "RFC4787-3",
            "two hosts with the same source port get distinct external ports",
        ),
        row(
            "RFC4787-4",
            "an even port is mapped to an even one and an odd to an odd while there are any",
        ),
        row(
            "RFC4787-5",
            "a mapping is alive after two minutes without a packet",
        ),
        row("RFC4787-6", "what the inside sends refreshes a mapping"),
        row(
            "RFC4787-7",
            "an inside subnet that clashes with one outside is refused, with a clear error",
        ),
        row(
            "RFC4787-8",
            "filtering is by the peer's address and port, as documented",
        ),
        row(
            "RFC4787-9",
            "a hairpin works, and the source seen is the external address and port",
        ),
        row("RFC4787-10", "no application gateway touches a payload"),
        row(
            "RFC4787-11",
            "what it does is the same with and without conflicts for ports",
        ),
        row("RFC4787-12", "no ICMP error ends a mapping"),
        row(
            "RFC4787-13",
            "too big and not to be fragmented: the sender is told the right MTU",
        ),
        row(
            "RFC4787-14",
            "fragments in any order are delivered, in bounded memory",
        ),
    ],
};

const TCP: Section = Section {
    title: "RFC 5382: TCP",
    rows: &[
        row(
            "RFC5382-1",
            "one inside port that talks to two peers has one external port",
        ),
        row("RFC5382-2", "a simultaneous open completes"),
        row(
            "RFC5382-3",
            "filtering is by the peer's address and port, as documented",
        ),
        row(
            "RFC5382-4",
            "an unsolicited SYN gets no answer for six seconds at least",
        ),
        row(
            "RFC5382-5",
            "an established connection lives 2 h 4 min without a packet, an opening or closing one 4 min",
        ),
        row("RFC5382-6", "no application gateway touches a payload"),
        row(
            "RFC5382-7",
            "two hosts with the same source port get distinct external ports",
        ),
        row(
            "RFC5382-8",
            "a hairpin works, and the source seen is the external address and port",
        ),
        row(
            "RFC5382-9",
            "ICMP destination unreachable about a connection is translated",
        ),
        row("RFC5382-10", "no ICMP error ends a mapping"),
    ],
};

const ICMP: Section = Section {
    title: "RFC 5508: ICMP",
    rows: &[
        row(
            "RFC5508-1",
            "echo works, from several hosts with the same identifier",
        ),
        row(
            "RFC5508-2",
            "an identifier's mapping lives 60 seconds at least",
        ),
        row(
            "RFC5508-3",
            "an ICMP error with a wrong checksum is dropped",
        ),
        row(
            "RFC5508-4",
            "an error from outside has the packet it quotes translated; one of no flow is dropped",
        ),
        row(
            "RFC5508-5",
            "an error from inside shows nothing of the inside; one of no flow is dropped",
        ),
        row(
            "RFC5508-6",
            "an error neither refreshes a session nor ends it",
        ),
        row("RFC5508-7", "errors about hairpinned packets pass"),
        row(
            "RFC5508-8",
            "out of resources: dropped and counted, and nothing is told: a shortage passes",
        ),
    ],
};

const CARRIER: Section = Section {
    title: "RFC 6888: many subscribers; RFC 7857: updates",
    rows: &[
        row(
            "RFC6888-2",
            "all flows of one host leave with the same external address",
        ),
        row("RFC6888-4", "an endpoint has a quota of external ports"),
        row("RFC6888-5", "an endpoint has a quota of state"),
        row(
            "RFC6888-8",
            "a freed external port rests 120 s, or its early use is harmless",
        ),
        row(
            "RFC6888-11",
            "out of resources: no mapping is deleted for a new one, and the sender is not told",
        ),
        row("RFC6888-15", "external ports can't be foreseen"),
        row(
            "RFC7857",
            "a RST shortens a connection's life, and does not end it at once",
        ),
    ],
};

const STATE: Section = Section {
    title: "The state of TCP",
    rows: &[
        row(
            "TCP-challenge-ack",
            "a challenge ACK (RFC 5961) does not advance the state",
        ),
        row(
            "TCP-time-wait-reuse",
            "a SYN opens a connection again that is in TIME-WAIT",
        ),
        row(
            "TCP-mid-stream-pickup",
            "whether a segment in mid-stream may open a connection is a setting",
        ),
        row(
            "TCP-out-of-window",
            "a segment out of window is never answered with a RST, and not believed",
        ),
        row(
            "TCP-rst-exact",
            "a RST is believed exactly where it is expected (RFC 5961 section 3.2)",
        ),
        row(
            "TCP-window-scale",
            "windows are scaled when both sides said so (RFC 7323)",
        ),
    ],
};

const OPEN_VSWITCH: Section = Section {
    title: "After the tests of Open vSwitch",
    rows: &[
        row(
            "OVS-icmp-related-nat",
            "an ICMP error about a translated flow reaches its sender",
        ),
        row(
            "OVS-icmp-related-other-source",
            "so does one that a router on the way sends",
        ),
        row(
            "OVS-multiple-traverse",
            "a packet that passes twice, out and in again, is tracked once each way",
        ),
        row(
            "OVS-snat-port-range",
            "masquerading uses the ports it was given and no others",
        ),
        row(
            "OVS-snat-exhaustion",
            "out of ports: the packet is refused, and the flows there are live on",
        ),
        row(
            "OVS-dnat-with-snat",
            "a published port with the source translated too",
        ),
        row(
            "OVS-dnat-load-balancing",
            "several containers behind one published port",
        )
        .remark("a published port leads to one container: there is no load balancing to test"),
        row(
            "OVS-frag-expiry",
            "fragments of a packet that never completes are forgotten in time",
        ),
        row(
            "OVS-frag-incomplete",
            "a packet with a hole is not delivered",
        ),
        row(
            "OVS-frag-out-of-order",
            "fragments in any order are one packet",
        ),
        row(
            "OVS-frag-overlap",
            "fragments that overlap, by one octet, in either order, are dropped",
        ),
        row(
            "OVS-frag-extension-headers",
            "IPv6 fragments behind several extension headers",
        ),
        row("OVS-frag-nat", "fragments of translated packets, both ways"),
        row(
            "OVS-limit-by-endpoint",
            "each endpoint has its own limit of connections",
        ),
        row(
            "OVS-flush-one",
            "one flow among many is flushed, and no other",
        ),
        row(
            "OVS-tcp-port-reuse",
            "a client that uses its port again gets a new connection",
        ),
        row("OVS-tcp-pick-up", "a connection is picked up in mid-stream"),
        row(
            "OVS-mac-table-fairness",
            "a sender of random addresses evicts its own from a full FDB",
        ),
        row(
            "OVS-static-mac-moves",
            "a static address does not move to where it is heard",
        ),
    ],
};

const LINUX: Section = Section {
    title: "After the self-tests of Linux",
    rows: &[
        row(
            "LINUX-conntrack-clash",
            "two first packets of one flow at the same time make one connection",
        ),
        row(
            "LINUX-conntrack-reverse-clash",
            "a flow whose answer collides with another's original",
        ),
        row(
            "LINUX-conntrack-icmp-related",
            "ICMP errors are related to their flow, through two networks",
        ),
        row(
            "LINUX-conntrack-resize",
            "the table grows under traffic and loses nothing",
        ),
        row(
            "LINUX-sctp-collision",
            "SCTP associations that cross each other",
        ),
        row(
            "LINUX-sctp-by-address",
            "SCTP is translated by address alone, its ports and its checksum are left as they are",
        ),
        row(
            "SCTP-host-silent",
            "the host's kernel does not answer for associations of its containers",
        ),
        row(
            "LINUX-conntrack-tcp-unreplied",
            "a SYN that nobody answers is replaced, and does not block its port",
        ),
        row(
            "LINUX-nft-nat",
            "translation of both addresses and ports, of ranges, and of local traffic",
        ),
        row(
            "LINUX-ack-loss-stall",
            "a lost ACK does not stall a connection",
        ),
        row(
            "LINUX-inexact-rst",
            "a RST with an inexact sequence number passes and is not believed",
        ),
        row(
            "LINUX-rst-invalid",
            "a RST out of window does not end a connection",
        ),
        row(
            "LINUX-syn-challenge-ack",
            "a SYN on an old connection, answered by a challenge ACK, opens anew after the RST",
        ),
        row(
            "LINUX-synack-old",
            "an old SYN-ACK does not open a connection",
        ),
        row(
            "LINUX-synack-reuse",
            "a SYN-ACK to a port used again is its own connection's",
        ),
        row(
            "LINUX-bridge-fdb-learning-limit",
            "a network's FDB learns so many addresses and no more",
        ),
        row(
            "LINUX-bridge-locked-port",
            "a port passes only the address that it was given",
        ),
        row(
            "LINUX-bridge-port-isolation",
            "isolated ports reach the gateway, and not each other",
        ),
        row(
            "LINUX-bridge-sticky-fdb",
            "a sticky address stays on its port",
        ),
        row(
            "LINUX-bridge-igmp",
            "IGMP joins and leaves decide where IPv4 groups go",
        ),
        row(
            "LINUX-bridge-mld",
            "MLD joins and leaves decide where IPv6 groups go",
        ),
        row(
            "LINUX-bridge-mdb",
            "the table of groups is bounded, ages and is shown",
        ),
        row(
            "LINUX-local-termination",
            "an interface gets what is for it, and what is for all, and no more",
        ),
        row(
            "LINUX-no-forwarding",
            "ports without a network in common exchange nothing",
        ),
    ],
};

const ENGINES: Section = Section {
    title: "After the tests of moby, netavark and the CNI plugins",
    rows: &[
        row(
            "MOBY-port-mapped-hairpin",
            "a container reaches another, and itself, by its published port",
        ),
        row(
            "MOBY-access-published-port-from-host",
            "a published port is reached from the host itself, at every address of it",
        ),
        row(
            "MOBY-access-published-port-from-remote-host",
            "from another host, whose own address the container sees",
        ),
        row(
            "MOBY-access-published-port-from-container",
            "from a container of the same network, and of another",
        ),
        row(
            "NETAVARK-bridge",
            "bridge networks: published ranges, several addresses, isolation",
        ),
        row(
            "NETAVARK-udp-flush",
            "UDP that began before the port was published reaches the container after",
        ),
        row(
            "CNI-portmap-udp-second-container",
            "UDP to a published port follows it to the next container",
        ),
    ],
};

const LESSONS: Section = Section {
    title: "Lessons from others' faults",
    rows: &[
        row(
            "MOBY-41872",
            "what is published on loopback is not reached from the wire; martians are dropped",
        ),
        row(
            "CVE-2020-8558",
            "no neighbour reaches what listens on a loopback address",
        ),
        row(
            "CVE-2020-13401",
            "a container can't announce itself as a router",
        ),
        row(
            "CVE-2024-29018",
            "no question of an internal network leaves by the host's resolver",
        ),
        row(
            "CVE-2024-32473",
            "a network without IPv6 has none: not even link-local addresses",
        ),
        row("CVE-2020-1983", "reassembly survives any fragments"),
        row(
            "CVE-2021-3773",
            "a translated flow can't take over the port of a service of the host",
        ),
        row("VPP-711", "out of ports is an error, and no crash"),
    ],
};

const SWITCH: Section = Section {
    title: "The switch's own",
    rows: &[
        row(
            "SWITCH-learning",
            "addresses are learned, refreshed, moved and aged as 802.1D says",
        ),
        row(
            "SWITCH-guard",
            "a container speaks with its own MAC and addresses, in IP and ARP",
        ),
        row("SWITCH-guard-nd", "and in neighbour discovery"),
        row(
            "SWITCH-guard-offload",
            "nor does the kernel make it another's: a checksum to be completed lies where its own is",
        ),
        row(
            "SWITCH-guard-dhcp",
            "it gives no addresses to others: answers of DHCP servers stop at its port",
        ),
        row(
            "SWITCH-reserved-groups",
            "frames to the link-local groups of 802.1D are not forwarded",
        ),
        row(
            "SWITCH-storm-control",
            "floods of broadcast, multicast and unknown unicast are limited by port",
        ),
        row(
            "SWITCH-unknown-unicast",
            "unknown unicast goes only where unknown stations may be",
        ),
        row(
            "SWITCH-multicast-router-guard",
            "a container can't draw all groups to itself as a multicast router",
        ),
        row(
            "SWITCH-order-across-threads",
            "the frames of a flow stay in order when another thread takes over",
        ),
        row(
            "SWITCH-udp-super-frames",
            "datagrams that the kernel will cut pass in one piece",
        ),
        row(
            "SWITCH-mtu-fragments",
            "an IPv4 packet too big for the next link is cut, if it may be (RFC 1812 4.2.2.7)",
        ),
        row(
            "SWITCH-mtu-super-frames",
            "a super-frame is as big as the packets that it is cut into",
        ),
        row(
            "SWITCH-mss-clamp",
            "segment sizes announced over an uplink are lowered to its MTU, when asked for",
        ),
        row(
            "SWITCH-full-port-holds-up-nobody",
            "a port that nobody reads holds up no other",
        ),
        row("SWITCH-vlan-transparent", "VLAN tags are carried untouched"),
    ],
};

const IPV6: Section = Section {
    title: "IPv6",
    rows: &[
        row(
            "IPV6-nd-gateway",
            "the gateway answers solicitations for its own addresses, and for no others",
        ),
        row(
            "IPV6-nd-dad",
            "duplicate address detection finds the gateway, and nobody's by another's doing",
        ),
        row(
            "IPV6-nd-validation",
            "discovery that RFC 4861 section 7.1 tells to discard is discarded",
        ),
        row(
            "IPV6-nd-uplink",
            "next hops are found, confirmed and corrected as RFC 4861 section 7.2 says",
        ),
        row(
            "IPV6-neighbor-exhaustion",
            "a scan of a subnet on the link costs nobody his neighbours (RFC 6583)",
        ),
        row(
            "IPV6-link-local-scope",
            "link-local and multicast packets are not routed (RFC 4291, RFC 4007)",
        ),
        row(
            "IPV6-icmp-errors",
            "the gateway's own errors are those of RFC 4443, to whom it allows",
        ),
        row(
            "IPV6-host-port",
            "what is for the host reaches it untouched, discovery too",
        ),
        row(
            "IPV6-nat66",
            "flows are masqueraded to the address of the route taken",
        ),
        row(
            "IPV6-publishing",
            "a port of the host's IPv6 addresses reaches a container, also from a neighbour",
        ),
        row(
            "IPV6-uplink-filter",
            "the uplink's filter lets in what the switch must see, and fits the kernel",
        ),
        row(
            "IPV6-extension-headers",
            "extension headers are walked, and hide nothing",
        ),
        row(
            "IPV6-frag-overlap",
            "a datagram with overlapping fragments is dropped (RFC 5722)",
        ),
        row(
            "IPV6-frag-header-chain",
            "a first fragment holds all headers (RFC 7112)",
        ),
        row(
            "IPV6-dual-stack-addresses",
            "networks and containers have addresses of both families",
        ),
        row(
            "IPV6-ula-prefix",
            "a network's own prefix is a unique local one, of a random global id (RFC 4193)",
        ),
        row(
            "IPV6-between-containers",
            "containers of one network reach each other",
        ),
        row(
            "IPV6-host-to-container",
            "the host reaches a container, and is reached",
        ),
        row(
            "IPV6-masquerade",
            "a container reaches the world, which sees the address of the host",
        ),
        row(
            "IPV6-hairpin",
            "a container reaches a published port of the host, also its own",
        ),
        row(
            "IPV6-publish-both-families",
            "one published port answers on the addresses of both families",
        ),
        row(
            "IPV6-publish-wire",
            "a published port is reached from the wire, and the container sees the client",
        ),
        row(
            "IPV6-publish-loopback",
            "a published port is reached at [::1]",
        ),
        row(
            "IPV6-publish-host-address",
            "a port published on one address is on that one alone",
        ),
        row(
            "IPV6-source-address",
            "flows leave with a lasting address, chosen as RFC 6724 says",
        ),
        row(
            "IPV6-link-local-next-hop",
            "a router known by its link-local address is a next hop",
        ),
        row(
            "IPV6-no-route",
            "without a global address there is no way out, and the container is told",
        ),
        row(
            "IPV6-off",
            "where a network or the host has no IPv6, nothing appears to have",
        ),
        row(
            "IPV6-off-by-default",
            "a daemon told so makes networks of IPv4 alone",
        ),
        row("IPV6-only", "a network of IPv6 alone"),
        row(
            "IPV6-static-addresses",
            "subnets and addresses are as they were asked for",
        ),
        row(
            "IPV6-restart",
            "connections survive a restart of the daemon",
        ),
    ],
};

const WHOLE: Section = Section {
    title: "The whole",
    rows: &[
        row(
            "PROOF-model",
            "any sequence of packets, time, publishing and withdrawing: as a naive NAT has it",
        ),
        row(
            "PROOF-differential",
            "the same frames through the kernel's NAT and through pontoon",
        ),
        row(
            "PROOF-fuzz",
            "any bytes: parsing, reassembly, quoted packets, API",
        ),
        row(
            "PROOF-simulation",
            "whole networks under a virtual clock with loss, reordering, duplication, restarts",
        ),
        row("PROOF-end-to-end", "real clients and servers in namespaces"),
    ],
};
