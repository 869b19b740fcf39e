//! The configuration, compiled: who owns each port, who has each address. Which way is out is in
//! [`routing`](crate::routing).
//!
//! Immutable. Workers load the current one once per vector of frames; the control plane builds the
//! next one beside it and swaps it in.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use nat::Time;

use crate::config::{self, Config, Endpoint, Names, Network, NetworkId, PortId, Uplink};
use crate::fdb::Fdb;
use crate::frame::MacAddr;
use crate::internal::Asked;
use crate::multicast::groups::Multicast;
use crate::port::Port;
use crate::routing::Routing;
use crate::treatment::Treatment;

/// See the module's description.
#[derive(Debug, Default)]
pub struct Topology {
    /// The ports' I/O, indexed by [`PortId`].
    ports: Vec<Option<Arc<Port>>>,
    roles: Vec<Role>,
    /// What ports are held to, indexed by [`PortId`]; as short as it can be.
    treatments: Vec<Option<Arc<Treatment>>>,
    pub networks: Vec<Arc<Segment>>,
    pub endpoints: Arc<[Endpoint]>,
    pub uplinks: Vec<Uplink>,
    endpoint_by_address: HashMap<IpAddr, usize, RandomState>,
    host_addresses: HashSet<IpAddr, RandomState>,
    host_subnets: Arc<[IpNet]>,
    pub(crate) routing: Arc<Routing>,
    pub(crate) names: Option<Names>,
    /// Whether any network has [`Network::clamp_mss`].
    clamps_mss: bool,
}

/// What a port is for. Indices are into the topology's lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Unassigned,
    Container {
        network: usize,
        endpoint: usize,
    },
    Host {
        network: usize,
    },
    Uplink {
        uplink: usize,
    },
    /// See [`Names`].
    Names,
}

/// A network as the bridge needs it.
#[derive(Debug)]
pub struct Segment {
    pub network: Network,
    /// Where the stations are that nobody configured.
    pub fdb: Arc<Fdb>,
    /// Who listens to which group.
    pub multicast: Arc<Multicast>,
    /// What the host has asked of the endpoints of an internal network.
    pub(crate) asked: Arc<Asked>,
    /// Its ports, the host's first.
    pub members: Vec<Member>,
    /// Who has the configured MACs: each endpoint's own, and the gateway's on the host port.
    stations: HashMap<MacAddr, Member, RandomState>,
}

/// A port as a member of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub port: PortId,
    /// See [`Endpoint::isolated`].
    pub isolated: bool,
    /// No station but the configured one can speak here, so nothing unknown is behind it.
    pub single: bool,
}

impl Topology {
    /// Compiles `config`. Learned addresses live on in the networks that `previous` had too.
    pub fn new(ports: Vec<Option<Arc<Port>>>, config: Config, previous: &Topology) -> Topology {
        let mut networks: Vec<Segment> = config
            .networks
            .into_iter()
            .map(|network| Segment::new(network, previous))
            .collect();
        let index_of: HashMap<NetworkId, usize, RandomState> = networks
            .iter()
            .enumerate()
            .map(|(index, segment)| (segment.network.id, index))
            .collect();

        let mut roles = vec![Role::Unassigned; ports.len()];
        let mut assign = |port: PortId, role: Role| {
            if let Some(slot) = roles.get_mut(port.0 as usize) {
                *slot = role;
            }
        };
        for (index, segment) in networks.iter().enumerate() {
            if let Some(port) = segment.network.host_port {
                assign(port, Role::Host { network: index });
            }
        }
        for (index, uplink) in config.uplinks.iter().enumerate() {
            for port in [Some(uplink.port), uplink.newcomers].into_iter().flatten() {
                assign(port, Role::Uplink { uplink: index });
            }
        }
        if let Some(names) = config.names {
            assign(names.port, Role::Names);
        }
        let mut endpoint_by_address = HashMap::with_hasher(RandomState::default());
        for (index, endpoint) in config.endpoints.iter().enumerate() {
            let Some(&network) = index_of.get(&endpoint.network) else {
                continue;
            };
            assign(
                endpoint.port,
                Role::Container {
                    network,
                    endpoint: index,
                },
            );
            networks[network].admit(endpoint);
            endpoint_by_address.extend(endpoint.addresses.iter().map(|&address| (address, index)));
        }
        let treatments = treatments(config.treatments, &ports, previous);
        let clamps_mss = networks.iter().any(|segment| segment.network.clamp_mss);
        Topology {
            ports,
            roles,
            treatments,
            networks: networks.into_iter().map(Arc::new).collect(),
            endpoints: config.endpoints.into(),
            uplinks: config.uplinks,
            endpoint_by_address,
            host_addresses: config.host_addresses.into_iter().collect(),
            host_subnets: config.host_subnets.into(),
            routing: Arc::new(Routing::new(config.rules, config.routes)),
            names: config.names,
            clamps_mss,
        }
    }

    /// The same world with other ports; what had a port that is gone stays unassigned until the
    /// next configuration.
    pub fn with_ports(&self, ports: Vec<Option<Arc<Port>>>) -> Topology {
        let mut roles = self.roles.clone();
        roles.resize(ports.len(), Role::Unassigned);
        let mut treatments = self.treatments.clone();
        for (slot, port) in ports.iter().enumerate() {
            if port.is_none() {
                roles[slot] = Role::Unassigned;
                if let Some(treatment) = treatments.get_mut(slot) {
                    *treatment = None;
                }
            }
        }
        Topology {
            roles,
            treatments,
            ports,
            networks: self.networks.clone(),
            endpoints: Arc::clone(&self.endpoints),
            uplinks: self.uplinks.clone(),
            endpoint_by_address: self.endpoint_by_address.clone(),
            host_addresses: self.host_addresses.clone(),
            host_subnets: Arc::clone(&self.host_subnets),
            routing: Arc::clone(&self.routing),
            names: self.names,
            clamps_mss: self.clamps_mss,
        }
    }

    pub fn port(&self, id: PortId) -> Option<&Arc<Port>> {
        self.ports.get(id.0 as usize)?.as_ref()
    }

    pub fn ports(&self) -> &[Option<Arc<Port>>] {
        &self.ports
    }

    pub fn role(&self, port: PortId) -> Role {
        self.roles.get(port.0 as usize).copied().unwrap_or_default()
    }

    /// What the port is held to besides.
    pub(crate) fn treatment(&self, port: PortId) -> Option<&Arc<Treatment>> {
        self.treatments.get(port.0 as usize)?.as_ref()
    }

    pub fn endpoint_at(&self, address: IpAddr) -> Option<&Endpoint> {
        self.endpoint_by_address
            .get(&address)
            .map(|&index| &self.endpoints[index])
    }

    pub fn is_host_address(&self, address: IpAddr) -> bool {
        self.host_addresses.contains(&address)
            || self.host_subnets.iter().any(|it| it.contains(&address))
    }

    /// Whether `address` belongs to one of pontoon's own networks.
    pub fn is_inside(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|segment| {
            segment
                .network
                .subnets
                .iter()
                .any(|subnet| subnet.contains(&address))
        })
    }

    /// Whether the network of the endpoint at `address` has [`Network::clamp_mss`].
    pub(crate) fn clamps_mss(&self, address: IpAddr) -> bool {
        self.clamps_mss
            && self.endpoint_at(address).is_some_and(|endpoint| {
                let mut networks = self.networks.iter().map(|segment| &segment.network);
                networks.any(|network| network.id == endpoint.network && network.clamp_mss)
            })
    }

    pub fn uplink(&self, port: PortId) -> Option<&Uplink> {
        match self.role(port) {
            Role::Uplink { uplink } => Some(&self.uplinks[uplink]),
            _ => None,
        }
    }

    /// Whether many share what comes in by `port`, so that a flood which one of them has asked for
    /// must not hold back the frames of the others. Nobody has asked for an uplink's newcomers.
    pub(crate) fn is_shared(&self, port: PortId) -> bool {
        match self.role(port) {
            Role::Names => true,
            Role::Uplink { uplink } => self.uplinks[uplink].port == port,
            Role::Container { .. } | Role::Host { .. } | Role::Unassigned => false,
        }
    }

    /// Whether `port` is an endpoint's that is kept from the other isolated ones.
    pub fn is_isolated(&self, port: PortId) -> bool {
        match self.role(port) {
            Role::Container { endpoint, .. } => self.endpoints[endpoint].isolated,
            _ => false,
        }
    }
}

fn treatments(
    wanted: Vec<config::Treatment>,
    ports: &[Option<Arc<Port>>],
    previous: &Topology,
) -> Vec<Option<Arc<Treatment>>> {
    let mut treatments = Vec::new();
    for treatment in wanted {
        let slot = treatment.port.0 as usize;
        if ports.get(slot).is_none_or(Option::is_none) {
            continue;
        }
        if treatments.len() <= slot {
            treatments.resize(slot + 1, None);
        }
        // That of a port before this one with the same number went with it.
        let before = previous.treatment(treatment.port);
        treatments[slot] = Some(Treatment::new(treatment, before));
    }
    treatments
}

impl Segment {
    fn new(network: Network, previous: &Topology) -> Segment {
        let before = previous
            .networks
            .iter()
            .find(|segment| segment.network.id == network.id);
        let mut segment = Segment {
            fdb: before.map_or_else(Arc::default, |before| Arc::clone(&before.fdb)),
            multicast: before.map_or_else(Arc::default, |before| Arc::clone(&before.multicast)),
            asked: before.map_or_else(Arc::default, |before| Arc::clone(&before.asked)),
            members: Vec::new(),
            stations: HashMap::default(),
            network,
        };
        if let Some(port) = segment.network.host_port {
            let host = Member::host(port);
            segment.members.push(host);
            segment.stations.insert(segment.network.gateway_mac, host);
        }
        segment
    }

    fn admit(&mut self, endpoint: &Endpoint) {
        let member = Member::endpoint(endpoint);
        self.members.push(member);
        self.stations.insert(endpoint.mac, member);
    }

    /// Who has the configured MAC `mac`.
    pub fn station(&self, mac: MacAddr) -> Option<Member> {
        self.stations.get(&mac).copied()
    }

    /// Every configured MAC and its port, in no order.
    pub fn stations(&self) -> impl Iterator<Item = (MacAddr, PortId)> + '_ {
        let stations = self.stations.iter();
        stations.map(|(&mac, member)| (mac, member.port))
    }

    /// Forgets what was learned behind ports that have left the network, and notes which are new.
    pub(crate) fn settle(&self, now: Time) {
        let ports: HashSet<PortId, RandomState> =
            self.members.iter().map(|member| member.port).collect();
        self.fdb.retain_ports(|port| ports.contains(&port));
        self.multicast.set_members(now, &ports);
    }

    /// Forgets what was learned behind `port`, which is gone.
    pub(crate) fn forget_port(&self, port: PortId) {
        self.fdb.retain_ports(|other| other != port);
        self.multicast.retain_ports(|other| other != port);
    }
}

impl Member {
    pub(crate) fn endpoint(endpoint: &Endpoint) -> Member {
        Member {
            port: endpoint.port,
            isolated: endpoint.isolated,
            single: endpoint.guard,
        }
    }

    /// The host's interface has one MAC, and need not hear what is sent to another. Who is
    /// bridged to it all the same is found once it has spoken.
    pub(crate) fn host(port: PortId) -> Member {
        Member {
            port,
            isolated: false,
            single: true,
        }
    }

    /// May frames go from here to `other`?
    pub(crate) fn reaches(self, other: Member) -> bool {
        !(self.isolated && other.isolated)
    }
}
