//! Names: what DNS is told after each change, and where it answers.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;

use super::container::Container;
use super::network::Network;
use super::store::ContainerRecord;
use crate::api::{PortMapping, Status};
use crate::dns::{
    Attachment, ContainerNames, Directory, LOOPBACK, Listener, NetworkNames, Origin, Resolver,
    Sockets, Upstreams,
};
use crate::netns::Netns;

/// A listener that was closed a moment ago may still hold its address.
const TRIES: usize = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

const DNS_PORT: u16 = 53;

pub(super) struct NameService {
    resolver: Arc<Resolver>,
    directory: watch::Sender<Arc<Directory>>,
    /// By the network's id.
    gateways: HashMap<String, Gateway>,
    /// At 127.0.0.11, by the inode of the namespace. Each keeps its namespace alive.
    namespaces: HashMap<u64, Listener>,
}

struct Gateway {
    addresses: Vec<IpAddr>,
    /// None while another program has the port; that was told then.
    listener: Option<Listener>,
}

impl NameService {
    /// Must be called in a runtime, as everything here.
    pub(super) fn new(servers: &[IpAddr], resolv_conf: &Path) -> NameService {
        let (directory, receiver) = watch::channel(Arc::default());
        let upstreams = if servers.is_empty() {
            Upstreams::of_file(resolv_conf.to_owned())
        } else {
            Upstreams::fixed(servers)
        };
        NameService {
            resolver: Resolver::new(receiver, upstreams),
            directory,
            gateways: HashMap::new(),
            namespaces: HashMap::new(),
        }
    }

    /// Whether names are answered at 127.0.0.11 in a namespace.
    pub(super) fn answers_in(&self, netns: u64) -> bool {
        self.namespaces.contains_key(&netns)
    }

    /// Answers at 127.0.0.11 in a container's namespace from now on, if the container asked for it,
    /// until no container that has a network runs there. Where it can't, the gateway's address is
    /// left, which is told.
    ///
    /// Nobody else can then listen on port 53 of every address there, so it is for who asks for it,
    /// and never for who publishes port 53: that is a DNS server.
    pub(super) fn listen_in(&mut self, netns: &Netns, record: &ContainerRecord) {
        let serves = |mapping: &PortMapping| {
            let first = mapping.container_port;
            (first..=first.saturating_add(mapping.count.saturating_sub(1))).contains(&DNS_PORT)
        };
        if !record.names.loopback
            || record.published.iter().any(serves)
            || self.answers_in(netns.inode())
        {
            return;
        }
        let origin = Origin::Netns(netns.inode());
        let sockets = netns.run(|| open_patiently(&[LOOPBACK]));
        let listener = sockets
            .and_then(|sockets| sockets)
            .and_then(|sockets| self.resolver.listen(sockets, &origin));
        match listener {
            Ok(listener) => {
                self.namespaces.insert(netns.inode(), listener);
            }
            Err(error) => tracing::warn!(
                "names are answered at the gateway's address alone in {netns}: {error}"
            ),
        }
    }

    /// Takes up all names as they are now, and closes what nobody needs any more.
    pub(super) fn follow(&mut self, networks: &[Network], containers: &[Container]) {
        let containers: Vec<&Container> = containers
            .iter()
            .filter(|it| it.record.status == Status::Running && !it.record.endpoints.is_empty())
            .collect();
        self.namespaces.retain(|netns, _| {
            let mut containers = containers.iter();
            containers.any(|it| it.record.identity.netns == *netns)
        });
        let directory = Directory::new(
            networks.iter().map(network_names).collect(),
            containers
                .iter()
                .map(|container| container_names(container, networks))
                .collect(),
        );
        self.directory.send_replace(Arc::new(directory));
        self.follow_gateways(networks);
    }

    fn follow_gateways(&mut self, networks: &[Network]) {
        self.gateways
            .retain(|id, _| networks.iter().any(|it| it.record.id == *id));
        for network in networks {
            let record = &network.record;
            if self.gateways.contains_key(&record.id) {
                continue;
            }
            let sockets = open_patiently(&record.gateways);
            let origin = Origin::Gateway(record.id.clone());
            let listener = sockets.and_then(|sockets| self.resolver.listen(sockets, &origin));
            if let Err(error) = &listener {
                tracing::warn!(
                    "network {} has no names at its gateway's address yet: {error}",
                    record.name
                );
            }
            let gateway = Gateway {
                addresses: record.gateways.clone(),
                listener: listener.ok(),
            };
            self.gateways.insert(record.id.clone(), gateway);
        }
    }

    /// Tries again where another program had the port.
    pub(super) fn retry(&mut self) {
        for (id, gateway) in &mut self.gateways {
            if gateway.listener.is_some() {
                continue;
            }
            let origin = Origin::Gateway(id.clone());
            let sockets = Sockets::open(&gateway.addresses);
            if let Ok(listener) = sockets.and_then(|sockets| self.resolver.listen(sockets, &origin))
            {
                tracing::info!("names are answered at {:?} now", gateway.addresses);
                gateway.listener = Some(listener);
            }
        }
    }
}

fn open_patiently(addresses: &[IpAddr]) -> io::Result<Sockets> {
    for _ in 1..TRIES {
        match Sockets::open(addresses) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => thread::sleep(BETWEEN_TRIES),
            outcome => return outcome,
        }
    }
    Sockets::open(addresses)
}

fn network_names(network: &Network) -> NetworkNames {
    let record = &network.record;
    NetworkNames {
        id: record.id.clone(),
        name: record.name.clone(),
        subnets: record.subnets.clone(),
        gateways: record.gateways.clone(),
        internal: record.options.internal,
    }
}

fn container_names(container: &Container, networks: &[Network]) -> ContainerNames {
    let record = &container.record;
    let attachments = record.endpoints.iter().filter_map(|endpoint| {
        Some(Attachment {
            network: networks
                .iter()
                .position(|network| network.record.id == endpoint.network)?,
            aliases: endpoint.aliases.clone(),
            addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
        })
    });
    ContainerNames {
        id: record.id.clone(),
        name: record.name.clone(),
        netns: record.identity.netns,
        servers: record.names.servers.clone(),
        attachments: attachments.collect(),
    }
}
