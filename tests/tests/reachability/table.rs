//! The table, and the page that is rendered from it.

use std::fmt::Write;

use Family::{V4, V6};
use Means::{Name, Ping, Tcp, Udp};

/// A kind of network, as it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ordinary,
    Isolated,
    Internal,
    Routed,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Ordinary, Kind::Isolated, Kind::Internal, Kind::Routed];

impl Kind {
    /// The option of `pontoon network create` that makes such a network.
    pub(crate) fn option(self) -> Option<&'static str> {
        match self {
            Kind::Ordinary => None,
            Kind::Isolated => Some("--isolated"),
            Kind::Internal => Some("--internal"),
            Kind::Routed => Some("--no-masquerade"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// By what something is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    Ping,
    Tcp,
    Udp,
    /// A question to the names' server that is answered.
    Name,
}

/// What is tried from a container of a network, unless the name says from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Gateway,
    HostOnUplink,
    HostOnNoWire,
    GatewayLinkLocal,
    Neighbour,
    OtherContainers,
    OtherGateway,
    PublishedAtGateway,
    PublishedAtHost,
    PublishedAtOtherGateway,
    PublishedByNeighbour,
    WorldOnWire,
    WorldBeyond,
    NameOfNeighbour,
    NameOfOther,
    NameOfWorld,
    /// Everybody on the link, or a group: and whose ears are listened at.
    Many(Group, Listener),
    FromHost,
    FromWorld,
    FromWorldPublished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// 255.255.255.255.
    Broadcast,
    /// The last address of the subnet.
    SubnetBroadcast,
    /// 224.0.0.251 or ff02::1: of this link, never snooped.
    Link,
    /// 239.1.2.3 or ff15::1:3: to those who joined it.
    Joined,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    Host,
    Neighbour,
    /// Containers of all other networks, and the world.
    Others,
}

/// One line of the table: a target, and what reaches it from each of the [`KINDS`].
pub(crate) struct Line {
    pub target: Target,
    pub text: &'static str,
    pub families: &'static [Family],
    pub expected: [&'static [Means]; 4],
}

const BOTH: &[Family] = &[V4, V6];
const ALL: &[Means] = &[Ping, Tcp, Udp];
const PING: &[Means] = &[Ping];
const PORTS: &[Means] = &[Tcp, Udp];
const DATAGRAM: &[Means] = &[Udp];
const NAME: &[Means] = &[Name];
const NONE: &[Means] = &[];

const fn line(
    target: Target,
    text: &'static str,
    families: &'static [Family],
    expected: [&'static [Means]; 4],
) -> Line {
    Line {
        target,
        text,
        families,
        expected,
    }
}

//                       ordinary  isolated  internal  routed
const ALWAYS: [&[Means]; 4] = [ALL, ALL, ALL, ALL];
const NEVER: [&[Means]; 4] = [NONE, NONE, NONE, NONE];
const BUT_INTERNAL: [&[Means]; 4] = [ALL, ALL, NONE, ALL];
const PORTS_BUT_INTERNAL: [&[Means]; 4] = [PORTS, PORTS, NONE, PORTS];
const HEARD_BY_HOST: [&[Means]; 4] = [DATAGRAM, DATAGRAM, NONE, DATAGRAM];
const HEARD_BY_NEIGHBOUR: [&[Means]; 4] = [DATAGRAM, NONE, DATAGRAM, DATAGRAM];

/// Everything that is tried.
pub(crate) const LINES: &[Line] = &[
    line(
        Target::Gateway,
        "the gateway of its network, and services of the host there",
        BOTH,
        [ALL, ALL, PING, ALL],
    ),
    line(
        Target::HostOnUplink,
        "the host's address on the uplink",
        BOTH,
        BUT_INTERNAL,
    ),
    line(
        Target::HostOnNoWire,
        "an address of the host on no wire",
        BOTH,
        BUT_INTERNAL,
    ),
    line(
        Target::GatewayLinkLocal,
        "the link-local address of the gateway",
        &[V6],
        [ALL, ALL, PING, ALL],
    ),
    line(
        Target::Neighbour,
        "a container of its network",
        BOTH,
        [ALL, NONE, ALL, ALL],
    ),
    line(
        Target::OtherContainers,
        "containers of other networks, by their own addresses",
        BOTH,
        NEVER,
    ),
    line(
        Target::OtherGateway,
        "the gateway of another network, and services of the host there",
        BOTH,
        BUT_INTERNAL,
    ),
    line(
        Target::PublishedAtGateway,
        "a port that another network's container publishes, at its own gateway",
        BOTH,
        PORTS_BUT_INTERNAL,
    ),
    line(
        Target::PublishedAtHost,
        "the same port, at the host's address",
        BOTH,
        PORTS_BUT_INTERNAL,
    ),
    line(
        Target::PublishedAtOtherGateway,
        "the same port, at the gateway of that network",
        BOTH,
        PORTS_BUT_INTERNAL,
    ),
    line(
        Target::PublishedByNeighbour,
        "a port that a container of its network publishes, at the host's address",
        BOTH,
        PORTS_BUT_INTERNAL,
    ),
    line(
        Target::WorldOnWire,
        "the world: a neighbour of the host",
        BOTH,
        BUT_INTERNAL,
    ),
    line(
        Target::WorldBeyond,
        "the world: beyond a router",
        BOTH,
        BUT_INTERNAL,
    ),
    line(
        Target::NameOfNeighbour,
        "the name of a container of its network",
        BOTH,
        [NAME, NAME, NAME, NAME],
    ),
    line(
        Target::NameOfOther,
        "the name of a container of another network",
        BOTH,
        NEVER,
    ),
    line(
        Target::NameOfWorld,
        "a name of the world",
        BOTH,
        [NAME, NAME, NONE, NAME],
    ),
    line(
        Target::Many(Group::Broadcast, Listener::Host),
        "255.255.255.255, heard by the host",
        &[V4],
        HEARD_BY_HOST,
    ),
    line(
        Target::Many(Group::Broadcast, Listener::Neighbour),
        "255.255.255.255, heard by a container of its network",
        &[V4],
        HEARD_BY_NEIGHBOUR,
    ),
    line(
        Target::Many(Group::Broadcast, Listener::Others),
        "255.255.255.255, heard in another network or the world",
        &[V4],
        NEVER,
    ),
    line(
        Target::Many(Group::SubnetBroadcast, Listener::Host),
        "the subnet's broadcast address, heard by the host",
        &[V4],
        HEARD_BY_HOST,
    ),
    line(
        Target::Many(Group::SubnetBroadcast, Listener::Neighbour),
        "the subnet's broadcast address, heard by a container of its network",
        &[V4],
        HEARD_BY_NEIGHBOUR,
    ),
    line(
        Target::Many(Group::SubnetBroadcast, Listener::Others),
        "the subnet's broadcast address, heard in another network or the world",
        &[V4],
        NEVER,
    ),
    line(
        Target::Many(Group::Link, Listener::Host),
        "the link's groups 224.0.0.251 and ff02::1, heard by the host",
        BOTH,
        HEARD_BY_HOST,
    ),
    line(
        Target::Many(Group::Link, Listener::Neighbour),
        "the link's groups, heard by a container of its network",
        BOTH,
        HEARD_BY_NEIGHBOUR,
    ),
    line(
        Target::Many(Group::Link, Listener::Others),
        "the link's groups, heard in another network or the world",
        BOTH,
        NEVER,
    ),
    line(
        Target::Many(Group::Joined, Listener::Host),
        "the groups 239.1.2.3 and ff15::1:3, which all have joined, heard by the host",
        BOTH,
        HEARD_BY_HOST,
    ),
    line(
        Target::Many(Group::Joined, Listener::Neighbour),
        "those groups, heard by a container of its network",
        BOTH,
        HEARD_BY_NEIGHBOUR,
    ),
    line(
        Target::Many(Group::Joined, Listener::Others),
        "those groups, heard in another network or the world",
        BOTH,
        NEVER,
    ),
    line(
        Target::FromHost,
        "*by the host:* a container of it, by its own address",
        BOTH,
        ALWAYS,
    ),
    line(
        Target::FromWorld,
        "*by the world, with a route:* a container of it, by its own address",
        BOTH,
        NEVER,
    ),
    line(
        Target::FromWorldPublished,
        "*by the world:* a port that a container of it publishes, at the host's address",
        BOTH,
        PORTS_BUT_INTERNAL,
    ),
];

const INTRODUCTION: &str = "\
# What a network may reach

Rendered from the table in `tests/tests/reachability/table.rs`, every cell of which a test tries,
in each family that is named, between real network namespaces: what a cell names is answered, and of
the rest nothing arrives. The columns are the kinds of network: one made without options, with
`--isolated`, with `--internal` and with `--no-masquerade`. Each line is a place that a container of
such a network tries to reach; the last lines are about those who try to reach the container.

The container of the internal network has a default route to its gateway, though pontoon gives it
none: its own root could make one. It has the names of its network, it can ping its gateway, and it
answers what the host begins; nothing else leaves its network.

One thing is not in the table: the host's kernel sees what comes out of a veth pair as well as the
switch, and takes a datagram from 0.0.0.0 to 255.255.255.255 or 224.0.0.1 for its own sockets, as
DHCP needs it. It cannot answer one. With TAP interfaces there is no such second way.

";

/// The page.
pub(crate) fn render() -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("| place | family |");
    for kind in KINDS {
        let option = kind.option().map(|option| format!("`{option}`"));
        write!(page, " {} |", option.as_deref().unwrap_or("ordinary")).expect("memory");
    }
    page.push_str("\n|---|---|---|---|---|---|\n");
    for line in LINES {
        let families = match line.families {
            [V4] => "IPv4",
            [V6] => "IPv6",
            _ => "both",
        };
        write!(page, "| {} | {families} |", line.text).expect("memory");
        for expected in line.expected {
            write!(page, " {} |", cell(expected)).expect("memory");
        }
        page.push('\n');
    }
    page
}

fn cell(expected: &[Means]) -> String {
    if expected.is_empty() {
        return "–".to_owned();
    }
    let words = expected.iter().map(|means| match means {
        Ping => "ping",
        Tcp => "TCP",
        Udp => "UDP",
        Name => "answered",
    });
    words.collect::<Vec<_>>().join(", ")
}
