//! Rules: which sources are masqueraded and which ports are published.
//!
//! [`Rules`] is passive data that the control plane writes; [`RuleIndex`] is the same compiled for
//! lookup. A published range of any width is one interval: a lookup costs O(log n) in the number
//! of ranges and nothing in the number of ports.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use crate::refused::Refused;
use crate::sources::Sources;
use crate::tuple::Protocol;

/// Everything the engine is told to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Sources translated on the way out. The longest prefix that holds the source decides.
    pub masquerade: Vec<Masquerade>,
    /// Host ports that reach a container. Of two rules for the same host port the first one in
    /// this list has it.
    pub publish: Vec<Publish>,
    /// The addresses of the host: those on which published ports with no host address answer.
    pub local: Vec<IpAddr>,
    /// Subnets all of whose addresses are the host's as well.
    pub local_subnets: Vec<IpNet>,
    /// Which interface of the host each address is on that flows are masqueraded as. A flow that
    /// now leaves with an address of another interface gives up its mapping, as it does in Linux
    /// (`nf_nat_oif_changed`); one whose interface has but one more address does not.
    pub links: Vec<(IpAddr, u32)>,
}

/// Flows from `source` leave with an address of the host (SNAT).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    pub source: IpNet,
    /// The external address, instead of the source address of the route taken.
    pub to: Option<IpAddr>,
}

/// A range of host ports that reaches a container (DNAT), port for port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Never used again for another rule: flows carry it, and end with it.
    pub id: u32,
    pub protocol: Protocol,
    /// The host address that answers; None for every address in [`Rules::local`] of the family of
    /// `to`. A rule for one address goes before a rule for all.
    pub host: Option<IpAddr>,
    /// The host ports.
    pub ports: RangeInclusive<u16>,
    /// The container's address.
    pub to: IpAddr,
    /// The container's port for the first port of the range; of SCTP that port itself.
    pub to_port: u16,
    /// Who may open flows to it. To everybody else it is as if nothing were published, but that the
    /// refusal has a name: what the container itself sends them from the port is masqueraded or
    /// routed as if from any other, and only answers come back.
    pub allow: Sources,
}

/// A publish rule that cannot mean anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidPublish {
    /// The range holds no port, or holds port 0.
    Ports(RangeInclusive<u16>),
    /// The range on the container's side runs over port 65535, or begins at 0.
    TargetPorts { first: u16, count: usize },
    /// The host address and the container's are of different families.
    Family { host: IpAddr, to: IpAddr },
    /// A protocol without ports, or one that cannot be translated.
    Protocol(Protocol),
    /// A protocol whose ports cannot be exchanged for others, on a container port that is not the
    /// host port.
    OtherPort { protocol: Protocol, first: u16 },
}

impl fmt::Display for InvalidPublish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidPublish::Ports(ports) => write!(
                f,
                "host ports {}-{} are no range: ports go from 1 to 65535, the lower one first",
                ports.start(),
                ports.end()
            ),
            InvalidPublish::TargetPorts { first, count } => write!(
                f,
                "{count} ports from {first} on do not fit in 1-65535: choose a container port \
                 that leaves room for the whole range"
            ),
            InvalidPublish::Family { host, to } => write!(
                f,
                "{host} cannot be published to {to}: give two addresses of the same IP version"
            ),
            InvalidPublish::Protocol(protocol) => {
                write!(f, "{protocol} cannot be published: use tcp, udp or sctp")
            }
            InvalidPublish::OtherPort { protocol, first } => write!(
                f,
                "{protocol} keeps its ports, which its checksum covers: publish {first} to {first}"
            ),
        }
    }
}

impl std::error::Error for InvalidPublish {}

impl Publish {
    /// Whether the rule means something. The engine ignores those that do not.
    ///
    /// # Errors
    /// [`InvalidPublish`] says what is wrong, and what would be right.
    pub fn check(&self) -> Result<(), InvalidPublish> {
        if !matches!(
            self.protocol,
            Protocol::TCP | Protocol::UDP | Protocol::SCTP
        ) {
            return Err(InvalidPublish::Protocol(self.protocol));
        }
        if self.ports.is_empty() || *self.ports.start() == 0 {
            return Err(InvalidPublish::Ports(self.ports.clone()));
        }
        let count = self.ports.len();
        if self.to_port == 0 || usize::from(self.to_port) + count - 1 > usize::from(u16::MAX) {
            return Err(InvalidPublish::TargetPorts {
                first: self.to_port,
                count,
            });
        }
        let first = *self.ports.start();
        if !self.protocol.has_translated_ports() && first != self.to_port {
            let protocol = self.protocol;
            return Err(InvalidPublish::OtherPort { protocol, first });
        }
        match self.host {
            Some(host) if host.is_ipv4() != self.to.is_ipv4() => {
                Err(InvalidPublish::Family { host, to: self.to })
            }
            _ => Ok(()),
        }
    }

    /// The container's ports, one for each host port.
    pub fn to_ports(&self) -> RangeInclusive<u16> {
        let width = self.ports.end().saturating_sub(*self.ports.start());
        self.to_port..=self.to_port.saturating_add(width)
    }
}

/// Where a published port leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) id: u32,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

/// The host port that a container's port is published on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: u32,
    pub(crate) host: IpAddr,
    pub(crate) port: u16,
}

/// Ports that map one to one on ports of another range.
#[derive(Debug, Clone, Copy)]
struct Interval {
    start: u16,
    end: u16,
    /// The port that `start` maps to; the checked rule keeps the sum below 65536.
    maps_to: u16,
    /// Index into [`Rules::publish`].
    rule: u32,
}

/// Disjoint intervals, sorted.
#[derive(Debug, Default)]
struct Intervals(Vec<Interval>);

impl Intervals {
    /// Adds what of the interval is not yet taken.
    fn insert(&mut self, new: Interval) {
        let mut pieces = Vec::new();
        let mut start = u32::from(new.start);
        let end = u32::from(new.end);
        let first = self.0.partition_point(|old| old.end < new.start);
        for old in &self.0[first..] {
            if u32::from(old.start) > end {
                break;
            }
            if u32::from(old.start) > start {
                pieces.push((start, u32::from(old.start) - 1));
            }
            start = u32::from(old.end) + 1;
        }
        if start <= end {
            pieces.push((start, end));
        }
        for (start, end) in pieces {
            // Both lie between `new.start` and `new.end`, so they are ports.
            let (start, end) = (start as u16, end as u16);
            let maps_to = new.maps_to + (start - new.start);
            let at = self.0.partition_point(|old| old.start < start);
            self.0.insert(
                at,
                Interval {
                    start,
                    end,
                    maps_to,
                    rule: new.rule,
                },
            );
        }
    }

    /// The interval that holds `port`, and the port it maps to.
    fn find(&self, port: u16) -> Option<(u32, u16)> {
        let at = self.0.partition_point(|interval| interval.end < port);
        let interval = self.0.get(at).filter(|interval| interval.start <= port)?;
        Some((interval.rule, interval.maps_to + (port - interval.start)))
    }
}

/// The published ports of one host address (or of all, for None) and one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct HostKey {
    protocol: Protocol,
    host: Option<IpAddr>,
    ipv4: bool,
}

/// [`Rules`] compiled for lookup; immutable.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    rules: Arc<Rules>,
    /// Indices into [`Rules::masquerade`], longest prefix first.
    masquerade: Vec<usize>,
    published: HashMap<HostKey, Intervals>,
    claims: HashMap<(Protocol, IpAddr), Intervals>,
    /// Sorted.
    local: Vec<IpAddr>,
    links: HashMap<IpAddr, u32>,
}

impl RuleIndex {
    pub(crate) fn new(rules: Rules) -> RuleIndex {
        let mut masquerade: Vec<usize> = (0..rules.masquerade.len()).collect();
        // A stable sort: of equal prefixes the first in the list decides.
        masquerade.sort_by_key(|&at| std::cmp::Reverse(rules.masquerade[at].source.prefix_len()));
        let mut published: HashMap<HostKey, Intervals> = HashMap::new();
        let mut claims: HashMap<(Protocol, IpAddr), Intervals> = HashMap::new();
        for (rule, publish) in rules.publish.iter().enumerate() {
            let Ok(rule) = u32::try_from(rule) else { break };
            if publish.check().is_err() {
                continue;
            }
            let Publish {
                protocol,
                host,
                to,
                to_port,
                ..
            } = *publish;
            let (start, end) = (*publish.ports.start(), *publish.ports.end());
            published
                .entry(HostKey {
                    protocol,
                    host,
                    ipv4: to.is_ipv4(),
                })
                .or_default()
                .insert(Interval {
                    start,
                    end,
                    maps_to: to_port,
                    rule,
                });
            let (to_start, to_end) = publish.to_ports().into_inner();
            claims.entry((protocol, to)).or_default().insert(Interval {
                start: to_start,
                end: to_end,
                maps_to: start,
                rule,
            });
        }
        let mut local = rules.local.clone();
        local.sort_unstable();
        let links = rules.links.iter().copied().collect();
        RuleIndex {
            links,
            rules: Arc::new(rules),
            masquerade,
            published,
            claims,
            local,
        }
    }

    pub(crate) fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// The host's addresses that `next` has no more.
    pub(crate) fn local_without(&self, next: &Rules) -> Vec<IpAddr> {
        let kept: HashSet<IpAddr> = next.local.iter().copied().collect();
        let lost = self.local.iter().filter(|it| !kept.contains(*it));
        lost.copied().collect()
    }

    /// Whether a flow may go on with the address `mapped`, though new ones get `external`: both are
    /// on one interface, or it is not known which they are on.
    pub(crate) fn same_link(&self, mapped: IpAddr, external: IpAddr) -> bool {
        match (self.links.get(&mapped), self.links.get(&external)) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        }
    }

    fn is_local(&self, address: IpAddr) -> bool {
        self.local.binary_search(&address).is_ok()
            || self
                .rules
                .local_subnets
                .iter()
                .any(|it| it.contains(&address))
    }

    /// The rule that masquerades this source.
    pub(crate) fn masquerade(&self, source: IpAddr) -> Option<&Masquerade> {
        self.masquerade
            .iter()
            .map(|&at| &self.rules.masquerade[at])
            .find(|rule| rule.source.contains(&source))
    }

    /// Whether an inside source may be seen as `external`: by its rule, or because the host has
    /// that address.
    pub(crate) fn is_external(&self, source: IpAddr, external: IpAddr) -> bool {
        let to = self.masquerade(source).and_then(|rule| rule.to);
        to == Some(external) || self.local.binary_search(&external).is_ok()
    }

    /// Where a packet to `host`:`port` goes, whoever sends it.
    pub(crate) fn published(&self, protocol: Protocol, host: IpAddr, port: u16) -> Option<Target> {
        self.publishing(protocol, host, port)
            .map(|(_, target)| target)
    }

    /// Where a packet from `source` to `host`:`port` goes.
    ///
    /// # Errors
    /// [`Refused::NotAllowed`] if it goes somewhere, but not from there.
    pub(crate) fn published_to(
        &self,
        source: IpAddr,
        protocol: Protocol,
        host: IpAddr,
        port: u16,
    ) -> Result<Option<Target>, Refused> {
        match self.publishing(protocol, host, port) {
            Some((rule, _)) if !rule.allow.allows(source) => Err(Refused::NotAllowed),
            found => Ok(found.map(|(_, target)| target)),
        }
    }

    fn publishing(
        &self,
        protocol: Protocol,
        host: IpAddr,
        port: u16,
    ) -> Option<(&Publish, Target)> {
        let (rule, to_port) = self
            .lists(protocol, host)
            .into_iter()
            .flatten()
            .find_map(|intervals| intervals.find(port))?;
        let rule = self.rule(rule)?;
        let target = Target {
            id: rule.id,
            address: rule.to,
            port: to_port,
        };
        Some((rule, target))
    }

    /// Whether any port of this protocol is published on `host`.
    pub(crate) fn publishes_any(&self, protocol: Protocol, host: IpAddr) -> bool {
        self.lists(protocol, host)
            .into_iter()
            .flatten()
            .next()
            .is_some()
    }

    /// The host port by which `peer` reaches this port of a container, from which the container's
    /// packets to it leave if the route out has the address `external`. A port that another rule
    /// has leads elsewhere, and is not it.
    pub(crate) fn published_as(
        &self,
        peer: IpAddr,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
        external: IpAddr,
    ) -> Option<Claim> {
        let (rule, host_port) = self.claims.get(&(protocol, address))?.find(port)?;
        let rule = self.rule(rule)?;
        let claim = Claim {
            id: rule.id,
            host: rule.host.unwrap_or(external),
            port: host_port,
        };
        let (rule, target) = self.publishing(protocol, claim.host, claim.port)?;
        (target.id == claim.id && rule.allow.allows(peer)).then_some(claim)
    }

    /// Whether some address of the host publishes this port of a container to `peer`.
    pub(crate) fn is_published(
        &self,
        peer: IpAddr,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
    ) -> bool {
        // A rule for one address says so whatever the route.
        let mut any = self.local.iter().chain([&address]);
        any.any(|&host| {
            self.published_as(peer, protocol, address, port, host)
                .is_some()
        })
    }

    /// Whether any port of this protocol and container is published.
    pub(crate) fn claims_any(&self, protocol: Protocol, address: IpAddr) -> bool {
        self.claims.contains_key(&(protocol, address))
    }

    /// The intervals that hold for `host`, its own before those of every address.
    fn lists(&self, protocol: Protocol, host: IpAddr) -> [Option<&Intervals>; 2] {
        let ipv4 = host.is_ipv4();
        let every = if self.is_local(host) {
            self.published.get(&HostKey {
                protocol,
                host: None,
                ipv4,
            })
        } else {
            None
        };
        [
            self.published.get(&HostKey {
                protocol,
                host: Some(host),
                ipv4,
            }),
            every,
        ]
    }

    fn rule(&self, at: u32) -> Option<&Publish> {
        self.rules.publish.get(usize::try_from(at).ok()?)
    }
}

#[cfg(test)]
mod tests;
