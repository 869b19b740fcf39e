//! The subjects of the comparison, one file each: what they need, how they connect two endpoints,
//! and how they attach a container and publish ports.
//!
//! ```text
//! switched:    container ── subject ── peer
//! translated:  container ── subject ── host ─ eth0 ════ eth0 ─ peer
//!              10.90.0.2             192.0.2.1      192.0.2.2
//! ```

pub(crate) mod bare;
pub(crate) mod bridge;
pub(crate) mod cni;
pub(crate) mod docker;
pub(crate) mod docker_proxy;
pub(crate) mod netfilter;
pub(crate) mod ovs;
pub(crate) mod pasta;
pub(crate) mod pontoon;
pub(crate) mod slirp;
pub(crate) mod vde;
pub(crate) mod veth;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;

use crate::SERVICE;
use crate::lab::{Lab, Namespace, join};
use crate::memory::kilobytes;
use crate::process::{Background, find};

/// Of the container, unless the subject chooses.
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 2);
/// Of the container that a fresh attachment is measured with.
const FRESH: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 9);
/// Of the peer, where it is on the same switch.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 3);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 1);
/// Of the host on its wire.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Of the peer, where it is beyond the host's wire.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The first port that is published to measure publishing.
const FIRST_PORT: u16 = 20_000;

/// What is compared with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Two endpoints on one switch.
    Switched,
    /// A container behind address translation.
    Translated,
}

impl Group {
    pub(crate) const ALL: [Group; 2] = [Group::Switched, Group::Translated];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Group::Switched => "switched",
            Group::Translated => "translated",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Group::Switched => "Switched: container to container",
            Group::Translated => "Translated: container to the outside, and published ports",
        }
    }
}

/// One way to connect a container.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    Veth,
    Bare,
    Bridge,
    Ovs,
    Vde,
    Nft,
    Iptables,
    Slirp,
    Pasta,
    DockerProxy,
    Docker,
    Cni,
    Pontoon(pontoon::Flavour),
}

/// A program that must be there, and the Debian package that has it.
pub(crate) type Need = (&'static str, &'static str);

/// How ports are published: as one range, or one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Range,
    Singles,
}

impl Subject {
    /// All but pontoon, in the order of the tables.
    pub(crate) const RIVALS: [Subject; 12] = [
        Subject::Veth,
        Subject::Bare,
        Subject::Bridge,
        Subject::Ovs,
        Subject::Vde,
        Subject::Nft,
        Subject::Iptables,
        Subject::Slirp,
        Subject::Pasta,
        Subject::DockerProxy,
        Subject::Docker,
        Subject::Cni,
    ];

    /// As `--only` and the tables call it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Subject::Veth => "veth",
            Subject::Bare => "bare",
            Subject::Bridge => "bridge",
            Subject::Ovs => "ovs",
            Subject::Vde => "vde",
            Subject::Nft => "nft",
            Subject::Iptables => "iptables",
            Subject::Slirp => "slirp4netns",
            Subject::Pasta => "pasta",
            Subject::DockerProxy => "docker-proxy",
            Subject::Docker => "docker",
            Subject::Cni => "cni",
            Subject::Pontoon(flavour) => &flavour.name,
        }
    }

    /// One line for people.
    pub(crate) fn about(&self) -> String {
        match self {
            Subject::Veth => veth::ABOUT.to_owned(),
            Subject::Bare => bare::ABOUT.to_owned(),
            Subject::Bridge => bridge::ABOUT.to_owned(),
            Subject::Ovs => ovs::ABOUT.to_owned(),
            Subject::Vde => vde::ABOUT.to_owned(),
            Subject::Nft => netfilter::ABOUT_NFT.to_owned(),
            Subject::Iptables => netfilter::ABOUT_IPTABLES.to_owned(),
            Subject::Slirp => slirp::ABOUT.to_owned(),
            Subject::Pasta => pasta::ABOUT.to_owned(),
            Subject::DockerProxy => docker_proxy::ABOUT.to_owned(),
            Subject::Docker => docker::ABOUT.to_owned(),
            Subject::Cni => cni::ABOUT.to_owned(),
            Subject::Pontoon(flavour) => flavour.about(),
        }
    }

    pub(crate) fn group(&self) -> Group {
        match self {
            Subject::Veth | Subject::Bare | Subject::Bridge | Subject::Ovs | Subject::Vde => {
                Group::Switched
            }
            Subject::Pontoon(flavour) => flavour.group,
            _ => Group::Translated,
        }
    }

    pub(crate) fn is_pontoon(&self) -> bool {
        matches!(self, Subject::Pontoon(_))
    }

    /// Is it another one with other flags for frames? Then its control plane is the same.
    fn is_variant(&self) -> bool {
        matches!(self, Subject::Pontoon(flavour) if !flavour.flags.is_empty())
    }

    fn needs(&self) -> &'static [Need] {
        match self {
            Subject::Veth | Subject::Bare | Subject::Bridge | Subject::Pontoon(_) => {
                &[("ip", "iproute2")]
            }
            Subject::Ovs => ovs::NEEDS,
            Subject::Vde => vde::NEEDS,
            Subject::Nft => netfilter::NEEDS_NFT,
            Subject::Iptables => netfilter::NEEDS_IPTABLES,
            Subject::Slirp => slirp::NEEDS,
            Subject::Pasta => pasta::NEEDS,
            Subject::DockerProxy => docker_proxy::NEEDS,
            Subject::Docker => docker::NEEDS,
            Subject::Cni => cni::NEEDS,
        }
    }

    /// What it needs and is not installed.
    pub(crate) fn missing(&self) -> Vec<Need> {
        let needs = self.needs().iter().copied();
        needs
            .filter(|(program, _)| find(program).is_none())
            .collect()
    }

    /// Has it a connection table whose memory can be told?
    pub(crate) fn tells_memory(&self) -> bool {
        matches!(self, Subject::Nft | Subject::Iptables)
            || (self.is_pontoon() && self.group() == Group::Translated && !self.is_variant())
    }

    /// Bytes of memory that the table is part of: of the daemon, or of the kernel's allocators.
    ///
    /// # Errors
    ///
    /// /proc does not tell.
    pub(crate) fn memory(&self, topology: &Topology) -> Result<u64> {
        match self {
            Subject::Pontoon(_) => pontoon::memory(topology),
            _ => kilobytes("/proc/meminfo", "SUnreclaim"),
        }
    }

    /// Connections in the table.
    ///
    /// # Errors
    ///
    /// The subject does not tell.
    pub(crate) fn connections(&self, topology: &Topology) -> Result<u64> {
        match self {
            Subject::Pontoon(flavour) => pontoon::connections(flavour, topology),
            _ => netfilter::connections(topology),
        }
    }

    /// Builds the topology and starts the measuring servers in it.
    ///
    /// # Errors
    ///
    /// The kernel or the subject's own programs refuse; nothing is left behind.
    pub(crate) fn build(&self) -> Result<Topology> {
        let mut topology = match self {
            Subject::Veth => veth::build(),
            Subject::Bare => bare::build(),
            Subject::Bridge => bridge::build(),
            Subject::Ovs => ovs::build(),
            Subject::Vde => vde::build(),
            Subject::Nft => netfilter::build_nft(),
            Subject::Iptables => netfilter::build_iptables(),
            Subject::Slirp => slirp::build(),
            Subject::Pasta => pasta::build(),
            Subject::DockerProxy => docker_proxy::build(),
            Subject::Docker => docker::build(),
            Subject::Cni => cni::build(),
            Subject::Pontoon(flavour) => pontoon::build(flavour),
        }?;
        topology.start_servers()?;
        Ok(topology)
    }

    /// The time it takes to give a fresh namespace its network; `None` if the subject has no such
    /// step. The namespace and its network are gone afterwards.
    ///
    /// # Errors
    ///
    /// The subject's programs fail.
    pub(crate) fn attach(&self, topology: &mut Topology) -> Result<Option<Duration>> {
        if self.is_variant() {
            return Ok(None);
        }
        let fresh = topology.lab.namespace("fresh")?;
        let took = match self {
            Subject::Veth | Subject::Bare | Subject::Vde | Subject::DockerProxy => Ok(None),
            Subject::Bridge | Subject::Nft | Subject::Iptables => {
                bridge::attach(topology, &fresh).map(Some)
            }
            Subject::Ovs => ovs::attach(topology, &fresh).map(Some),
            Subject::Slirp => slirp::attach(topology, &fresh).map(Some),
            Subject::Docker => docker::attach(topology).map(Some),
            Subject::Pasta => pasta::attach(topology, &fresh).map(Some),
            Subject::Cni => cni::attach(topology, &fresh).map(Some),
            Subject::Pontoon(flavour) => pontoon::attach(flavour, topology, &fresh).map(Some),
        };
        topology.lab.remove(&fresh);
        took
    }

    /// The time it takes to publish `count` TCP ports of the container; `None` if the subject
    /// can't in that form. They are withdrawn afterwards.
    ///
    /// # Errors
    ///
    /// The subject's programs fail, or would take minutes; the error says which.
    pub(crate) fn publish(
        &self,
        topology: &mut Topology,
        count: u16,
        form: Form,
    ) -> Result<Option<Duration>> {
        match self {
            Subject::Veth | Subject::Bare | Subject::Bridge | Subject::Ovs | Subject::Vde => {
                Ok(None)
            }
            Subject::Nft => netfilter::publish_nft(topology, count, form).map(Some),
            Subject::Iptables => netfilter::publish_iptables(topology, count, form).map(Some),
            Subject::Slirp => slirp::publish(topology, count, form),
            Subject::Pasta => pasta::publish(topology, count, form),
            Subject::DockerProxy => docker_proxy::publish(topology, count, form),
            Subject::Docker => docker::publish(topology, count, form),
            Subject::Cni => cni::publish(topology, count, form),
            Subject::Pontoon(flavour) => {
                if flavour.group == Group::Switched || self.is_variant() {
                    return Ok(None);
                }
                pontoon::publish(flavour, topology, count, form).map(Some)
            }
        }
    }
}

/// From where a client reaches a measuring server, and at which address.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) from: Namespace,
    pub(crate) to: SocketAddr,
}

/// Two endpoints and what connects them.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) lab: Lab,
    pub(crate) container: Namespace,
    host: Namespace,
    peer: Namespace,
    container_address: Ipv4Addr,
    /// The process that is the subject, if one is.
    daemon: Option<u32>,
    /// From the container to the peer.
    pub(crate) across: Option<Route>,
    /// From the peer to the container's published ports.
    pub(crate) published: Option<Route>,
    /// From the host's 127.0.0.1 to the container's published ports.
    pub(crate) loopback: Option<Route>,
}

impl Topology {
    /// Three namespaces with nothing between them.
    fn new() -> Result<Topology> {
        let mut lab = Lab::new()?;
        Ok(Topology {
            container: lab.namespace("container")?,
            host: lab.namespace("host")?,
            peer: lab.namespace("peer")?,
            lab,
            container_address: CONTAINER,
            daemon: None,
            across: None,
            published: None,
            loopback: None,
        })
    }

    /// The same, with a wire from the host to the peer and the host's default route over it.
    fn with_outside() -> Result<Topology> {
        let topology = Topology::new()?;
        join((&topology.host, "eth0"), (&topology.peer, "eth0"))?;
        topology.host.ip(&format!(
            "addr add {HOST}/24 dev eth0\nroute add default via {OUTSIDE}\n"
        ))?;
        topology
            .peer
            .ip(&format!("addr add {OUTSIDE}/24 dev eth0\n"))?;
        Ok(topology)
    }

    /// Says that the peer is reached at an address.
    fn lead_across(&mut self, to: Ipv4Addr) {
        self.across = Some(service(&self.container, to));
    }

    /// Says that the measuring ports are published: on the wire, and on the host's loopback.
    fn lead_published(&mut self) {
        self.published = Some(service(&self.peer, HOST));
    }

    fn lead_loopback(&mut self) {
        self.loopback = Some(service(&self.host, Ipv4Addr::LOCALHOST));
    }

    fn start_servers(&mut self) -> Result<()> {
        let outside = self.across.as_ref().map(|_| self.peer.clone());
        let published = self.published.as_ref().or(self.loopback.as_ref());
        let inside = published.map(|_| self.container.clone());
        for namespace in [outside, inside].into_iter().flatten() {
            let path = namespace.path();
            let path = path.to_string_lossy();
            let log = self.lab.directory().join("servers.log");
            let arguments = ["serve", "--netns", &path];
            let mut server = Background::start(None, "/proc/self/exe", &arguments, &[], &log)?;
            server.wait_until("listening", || namespace.listens(SERVICE + 1))?;
            self.lab.keep(server);
        }
        Ok(())
    }
}

fn service(from: &Namespace, to: Ipv4Addr) -> Route {
    Route {
        from: from.clone(),
        to: SocketAddr::new(IpAddr::V4(to), SERVICE),
    }
}

/// The last of `count` ports from [`FIRST_PORT`].
fn last_port(count: u16) -> u16 {
    FIRST_PORT + count.saturating_sub(1)
}
