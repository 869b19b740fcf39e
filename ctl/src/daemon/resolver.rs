//! Names: what DNS is told after each change, and where it answers: to containers in a [`stack`] of
//! its own, at the host's interface to the host itself and to stations that nobody configured.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use switch::NetworkId;
use switch::config::Names;
use tokio::sync::watch;

use super::container::Container;
use super::identity;
use super::network::{Network, by_id, default_routes};
use super::store::{ContainerRecord, EndpointRecord};
use crate::api::{NameServer, Status};
use crate::dns::{
    self, Attachment, ContainerNames, Directory, Listener, NetworkNames, Resolver, Sockets,
    Upstreams,
};

use stack::Served;

mod stack;

pub(super) use stack::Stack;

/// A listener that was closed a moment ago may still hold its address.
const TRIES: usize = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

pub(super) struct NameService {
    resolver: Arc<Resolver>,
    directory: watch::Sender<Arc<Directory>>,
    /// What the directory's names of containers were made from, by identity.
    known: HashMap<usize, Arc<ContainerRecord>>,
    gateways: HashMap<NetworkId, Gateway>,
    retries: u64,
    /// None if this kernel makes none: the host's sockets serve everybody then.
    stack: Option<Stack>,
}

#[derive(Default)]
struct Gateway {
    /// Where containers ask. None without a stack.
    inside: Option<(Served, Listener)>,
    /// Index of the network's interface when `plain` was opened: another one has been made anew,
    /// and the sockets are bound to the one that is gone.
    ifindex: Option<u32>,
    /// At port 53 of each. None while another program has the port; that was told then.
    plain: Option<Listener>,
}

impl NameService {
    /// Must be called in a runtime, as everything here.
    pub(super) fn new(
        servers: &[NameServer],
        resolv_conf: &Path,
        stack: Option<Stack>,
    ) -> NameService {
        let (directory, receiver) = watch::channel(Arc::default());
        let upstreams = if servers.is_empty() {
            Upstreams::of_file(resolv_conf.to_owned())
        } else {
            Upstreams::fixed(servers, resolv_conf.to_owned())
        };
        NameService {
            resolver: Resolver::new(receiver, upstreams),
            directory,
            known: HashMap::new(),
            gateways: HashMap::new(),
            retries: 0,
            stack,
        }
    }

    /// What answers containers, for the switch.
    pub(super) fn stack(&self) -> Option<Names> {
        self.stack.as_ref().map(Stack::names)
    }

    /// Whether that answers for a network.
    pub(super) fn are_inside(&self, network: NetworkId) -> bool {
        let gateway = self.gateways.get(&network);
        gateway.is_some_and(|it| it.inside.is_some())
    }

    /// Forgets what other servers have answered, and reads again which they are.
    pub(super) fn forget(&self) {
        self.resolver.forget();
    }

    /// How often [`Self::are_inside`] may have changed for a network that was there before.
    pub(super) fn retries(&self) -> u64 {
        self.retries
    }

    /// Takes up what has changed of the names, and closes what nobody needs any more.
    pub(super) fn follow(&mut self, networks: &[Network], containers: &[Container]) {
        // In the order of their attachment, which is that of a name's addresses.
        let named: Vec<&Arc<ContainerRecord>> = containers
            .iter()
            .map(|container| &container.record)
            .filter(|record| record.status == Status::Running && !record.endpoints.is_empty())
            .collect();
        let now: HashSet<usize> = named.iter().copied().map(identity).collect();
        let stale = self.known.extract_if(|it, _| !now.contains(it));
        let stale: Vec<Arc<ContainerRecord>> = stale.map(|(_, record)| record).collect();
        let new = named.into_iter();
        let new: Vec<&Arc<ContainerRecord>> = new
            .filter(|record| !self.known.contains_key(&identity(record)))
            .collect();
        let ids: HashSet<NetworkId> = networks.iter().map(|it| it.id).collect();
        let gone = self.gateways.keys().copied();
        let gone: Vec<NetworkId> = gone.filter(|id| !ids.contains(id)).collect();
        let come = networks
            .iter()
            .filter(|it| !self.gateways.contains_key(&it.id));

        self.directory.send_modify(|directory| {
            // A copy, while somebody looks something up.
            let directory = Arc::make_mut(directory);
            for network in come {
                directory.put_network(network.id, network_names(network));
            }
            for record in &stale {
                directory.remove_container(&record.id);
            }
            for record in &new {
                directory.put_container(container_names(record, networks));
            }
            for id in &gone {
                directory.remove_network(*id);
            }
        });
        self.known
            .extend(new.into_iter().map(|it| (identity(it), Arc::clone(it))));
        self.follow_gateways(networks, &gone);
    }

    fn follow_gateways(&mut self, networks: &[Network], gone: &[NetworkId]) {
        for id in gone {
            let gateway = self.gateways.remove(id);
            let Some((served, listener)) = gateway.and_then(|it| it.inside) else {
                continue;
            };
            drop(listener);
            let left = self.stack.as_ref().map(|stack| stack.leave(&served));
            if let Some(Err(error)) = left {
                tracing::warn!("names of a network that is gone: {error}");
            }
        }
        for network in networks {
            let name = &network.record.name;
            let ifindex = if_nametoindex(network.record.host_interface.as_str()).ok();
            let known = self.gateways.remove(&network.id);
            let is_new = known.is_none();
            let mut gateway = known.unwrap_or_default();
            if is_new && let Err(error) = self.open_inside(network, &mut gateway) {
                tracing::warn!("names of network {name} are the host's to answer: {error}");
            }
            if is_new || gateway.ifindex != ifindex {
                self.retries += u64::from(!is_new);
                gateway.ifindex = ifindex;
                gateway.plain = None;
                if let Err(error) = self.open(network, &mut gateway) {
                    tracing::warn!("the host has no names of network {name} yet: {error}");
                }
            }
            self.gateways.insert(network.id, gateway);
        }
    }

    fn open_inside(&self, network: &Network, gateway: &mut Gateway) -> io::Result<()> {
        let Some(stack) = &self.stack else {
            return Ok(());
        };
        let (served, sockets) = stack.serve(&network.record)?;
        let listener = self.resolver.listen(sockets, network.id)?;
        gateway.inside = Some((served, listener));
        Ok(())
    }

    /// Listens on the host, unless that is done.
    fn open(&self, network: &Network, gateway: &mut Gateway) -> io::Result<()> {
        if gateway.plain.is_some() {
            return Ok(());
        }
        let record = &network.record;
        let addresses: Vec<SocketAddr> = record
            .gateways
            .iter()
            .map(|address| SocketAddr::new(*address, dns::PORT))
            .collect();
        let sockets = open_patiently(&addresses, &record.host_interface)?;
        gateway.plain = Some(self.resolver.listen(sockets, network.id)?);
        Ok(())
    }

    /// Tries again where another program had the port.
    pub(super) fn retry(&mut self, networks: &[Network]) {
        for network in networks {
            let id = network.id;
            if self.gateways.get(&id).is_none_or(|it| it.plain.is_some()) {
                continue;
            }
            let mut gateway = self.gateways.remove(&id).unwrap_or_default();
            if self.open(network, &mut gateway).is_ok() {
                tracing::info!("the host has names at {:?} now", network.record.gateways);
            }
            self.gateways.insert(id, gateway);
            self.retries += 1;
        }
    }
}

/// Which endpoint a container asks 127.0.0.11 through, and of which gateway: that of its default
/// route, or, where nothing leads outside, the first that has IPv4.
pub(super) fn names_route(
    networks: &[Network],
    endpoints: &[EndpointRecord],
) -> Option<(usize, Ipv4Addr)> {
    let outside = default_routes(networks, endpoints).into_iter();
    let inside = endpoints.iter().enumerate().flat_map(|(at, endpoint)| {
        let network = by_id(networks, &endpoint.network);
        let gateways = network.map_or_else(Vec::new, |network| {
            network.gateways_for(&endpoint.addresses)
        });
        gateways.into_iter().map(move |gateway| (at, gateway))
    });
    outside
        .chain(inside)
        .find_map(|(at, gateway)| match gateway {
            IpAddr::V4(gateway) => Some((at, gateway)),
            IpAddr::V6(_) => None,
        })
}

fn open_patiently(addresses: &[SocketAddr], interface: &str) -> io::Result<Sockets> {
    for _ in 1..TRIES {
        match Sockets::open_on(addresses, interface) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => thread::sleep(BETWEEN_TRIES),
            outcome => return outcome,
        }
    }
    Sockets::open_on(addresses, interface)
}

fn network_names(network: &Network) -> NetworkNames {
    let record = &network.record;
    NetworkNames {
        name: record.name.clone(),
        subnets: record.subnets.clone(),
        gateways: record.gateways.clone(),
        internal: record.options.internal,
    }
}

fn container_names(record: &ContainerRecord, networks: &[Network]) -> ContainerNames {
    let attachments = record.endpoints.iter().filter_map(|endpoint| {
        Some(Attachment {
            network: by_id(networks, &endpoint.network)?.id,
            aliases: endpoint.aliases.clone(),
            addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
        })
    });
    // Its own, or those of the first network that has some.
    let of_networks = record
        .endpoints
        .iter()
        .filter_map(|endpoint| Some(&by_id(networks, &endpoint.network)?.record.options.dns));
    let mut servers = std::iter::once(&record.names.servers).chain(of_networks);
    let servers = servers.find(|servers| !servers.is_empty());
    ContainerNames {
        id: record.id.clone(),
        name: record.name.clone(),
        servers: servers.cloned().unwrap_or_default(),
        search: record.names.search.clone(),
        attachments: attachments.collect(),
    }
}
