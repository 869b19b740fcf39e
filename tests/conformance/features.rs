//! What a user can do, and what users of other engines have asked those for.

use crate::list::{List, Section, row};

pub(crate) const LIST: List = List {
    title: "Features",
    intro: "Each with the tests that use it, end to end where that is possible.",
    columns: ["feature", "what a user has of it", "shown by", "result"],
    sections: &[
        NETWORKS,
        ADDRESSES,
        NAMES,
        PUBLISHING,
        TRANSLATION,
        ISOLATION,
        SWITCHING,
        SERVICE,
        ALONE,
        WISHES,
    ],
};

const NETWORKS: Section = Section {
    title: "Modes and networks",
    rows: &[
        row(
            "modes",
            "a container has a network, the host's namespace, loopback alone, or another container's namespace",
        ),
        row(
            "networks",
            "networks are created, listed, inspected, removed, pruned, connected and disconnected",
        ),
        row(
            "several-networks",
            "a container is on several networks, and one of them has its default route",
        ),
    ],
};

const ADDRESSES: Section = Section {
    title: "Addresses",
    rows: &[
        row(
            "pools",
            "subnets, gateways, ranges, reserved addresses, addresses and MACs as asked for, or chosen",
        ),
        row(
            "disjoint-pools",
            "a subnet that was chosen overlaps neither another network nor a route of the host",
        ),
        row(
            "dual-stack",
            "both families side by side: unique local addresses, neighbour discovery, published ports, [::1] too",
        ),
    ],
};

const NAMES: Section = Section {
    title: "Names",
    rows: &[
        row(
            "names",
            "containers are found by name, alias, short id and address, on every network they share",
        ),
        row(
            "dns-forwarding",
            "the world's names are asked of the host's servers, over UDP and TCP, at the gateway and at 127.0.0.11; search domains",
        ),
    ],
};

const PUBLISHING: Section = Section {
    title: "Published ports",
    rows: &[
        row(
            "publishing",
            "TCP, UDP and SCTP, single ports and ranges, on chosen addresses of the host, on a port that is free",
        ),
        row(
            "publish-paths",
            "a published port answers loopback, the host's addresses, the wire, and containers, its own too",
        ),
        row(
            "source-preserved",
            "the container sees its client's own address",
        ),
        row(
            "publish-live",
            "ports are published and withdrawn while the container runs",
        ),
        row(
            "allow-list",
            "a published port answers the networks that it names, and nobody else",
        ),
    ],
};

const TRANSLATION: Section = Section {
    title: "Translation",
    rows: &[
        row(
            "masquerade",
            "what leaves has the uplink's address, a chosen one, or its own",
        ),
        row(
            "nat-state",
            "TCP's states, timeouts of the RFCs that can be set, ICMP errors both ways, fragments, sizes that fit",
        ),
        row(
            "connections",
            "connections are listed, counted, ended, and told as they come and go",
        )
        .remark("a stream of them is not built yet"),
    ],
};

const ISOLATION: Section = Section {
    title: "Isolation",
    rows: &[
        row(
            "isolation",
            "networks are apart; an internal one leads nowhere; containers of an isolated one are apart",
        ),
        row(
            "spoof-guard",
            "a container speaks with its own MAC and addresses only, and never as a router",
        ),
    ],
};

const SWITCHING: Section = Section {
    title: "The switch",
    rows: &[
        row(
            "switching",
            "addresses are learned, age, move and are configured; ports have limits, storms are held",
        ),
        row(
            "snooping",
            "a multicast group goes to its listeners; VLAN tags pass",
        ),
        row(
            "limits",
            "an endpoint has a bandwidth and a packet rate, both ways",
        ),
        row(
            "mtu",
            "a network has its uplink's MTU unless told otherwise",
        ),
    ],
};

const SERVICE: Section = Section {
    title: "Operations",
    rows: &[
        row(
            "restart",
            "the daemon ends in any way, and the next one goes on with all connections",
        ),
        row(
            "operations",
            "what was run is stopped, killed and waited for, and its exit code told",
        ),
        row("events", "what happens is told as it happens"),
        row(
            "api",
            "an HTTP API that tells of itself (OpenAPI), and JSON from every command that says something",
        ),
        row(
            "access",
            "a group may look; root and the daemon's user may change",
        ),
        row(
            "service",
            "a service manager passes the socket, and is told",
        ),
        row(
            "capture",
            "an endpoint's frames are captured while it runs, as pcapng",
        )
        .remark("not built yet"),
        row("metrics", "metrics for Prometheus, and a live view")
            .remark("the live view is not built yet"),
        row(
            "plugins",
            "the engine behind Docker, podman (netavark) and CNI",
        )
        .remark("not built yet: `attach --netns` gives any engine's namespace a network"),
    ],
};

const ALONE: Section = Section {
    title: "What no other engine has",
    rows: &[
        row(
            "no-netfilter",
            "all of this on a kernel without netfilter, bridge, eBPF and IPv6, and with IP forwarding off",
        ),
        row(
            "source-matrix",
            "the source address on every path that can keep it, family by family and protocol by protocol",
        ),
        row(
            "wide-ranges",
            "60,000 ports in one rule, published in a moment",
        ),
        row(
            "why",
            "what every stage would decide of a flow, and a named reason for every frame dropped",
        )
        .remark("every drop has its name; the question for a flow is not built yet"),
        row(
            "simulation",
            "the whole network in one process under a virtual clock, with the code of the real one",
        ),
        row(
            "faults",
            "loss, delay, duplication and partition on request",
        ),
        row(
            "one-engine",
            "one engine behind Docker, podman, CNI and a command line of its own",
        )
        .remark("its own command line alone, yet"),
        row(
            "quotas",
            "one container can exhaust neither the table of connections nor the external ports",
        ),
    ],
};

const WISHES: Section = Section {
    title: "What users of other engines ask for most",
    rows: &[
        row(
            "moby-22054",
            "a published port that a firewall's rules hold for: its allow-list",
        ),
        row("moby-46026", "the client's address is not lost (Docker)"),
        row("podman-8193", "the client's address is not lost (podman)"),
        row("moby-11185", "no process for each published port"),
        row("moby-14288", "a range is published in a moment"),
        row(
            "podman-5431",
            "a firewall that is reloaded ends no networking (podman)",
        ),
        row(
            "moby-48657",
            "a firewall that is reloaded ends no networking (Docker)",
        ),
        row(
            "moby-8795",
            "a UDP flow follows its published port to the next container (Docker)",
        ),
        row(
            "plugins-123",
            "a UDP flow follows its published port to the next container (CNI)",
        ),
        row(
            "kubernetes-71261",
            "a full table of connections makes room, and says so",
        ),
        row(
            "plugins-68",
            "a container reaches itself by its published port (CNI)",
        ),
        row(
            "podman-2886",
            "a container reaches itself by its published port (podman)",
        ),
        row(
            "moby-41872",
            "a port published on 127.0.0.1 is for the host alone",
        ),
        row(
            "moby-45610",
            "nor does a neighbour reach it by a frame for 127.0.0.1",
        ),
        row(
            "podman-15140",
            "what works by IPv4 works by IPv6: published ports",
        ),
        row(
            "podman-26092",
            "what works by IPv4 works by IPv6: the client's own address",
        ),
        row(
            "aardvark-389",
            "DNS goes on answering while networks and containers come and go",
        ),
        row(
            "aardvark-500",
            "a name is there when its container starts, and gone with it",
        ),
        row(
            "netavark-1471",
            "names are answered at once, and none is stale",
        ),
        row("docker-cli-637", "it runs on a host without netfilter"),
        row(
            "gvisor-7469",
            "it runs where a sandbox's kernel has no iptables",
        ),
        row("moby-22028", "a network's MTU is the uplink's"),
        row(
            "moby-36591",
            "no port or interface is left of what is gone (Docker)",
        ),
        row("plugins-752", "no rule is left of what is gone (CNI)"),
        row("moby-2045", "ports of a running container are changed"),
        row("moby-26767", "an endpoint has a bandwidth limit"),
    ],
};
