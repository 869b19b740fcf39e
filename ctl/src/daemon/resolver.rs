//! Names: what DNS is told after each change, and where it answers.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;

use super::container::Container;
use super::network::{Network, default_routes};
use super::store::{EndpointRecord, NetworkRecord};
use crate::api::Status;
use crate::dns::{
    self, Attachment, ContainerNames, Directory, Listener, NetworkNames, Resolver, Sockets,
    Upstreams,
};

/// A listener that was closed a moment ago may still hold its address.
const TRIES: usize = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// System ports that IANA has given to nobody, so that hardly anything listens there and no published
/// range is likely to have them. Answers from there are those to questions sent to 127.0.0.11.
const LED_PORTS: [u16; 6] = [14, 16, 26, 28, 30, 32];

pub(super) struct NameService {
    resolver: Arc<Resolver>,
    directory: watch::Sender<Arc<Directory>>,
    /// By the network's id.
    gateways: HashMap<String, Gateway>,
}

#[derive(Default)]
struct Gateway {
    /// At port 53 of each. None while another program has the port; that was told then.
    plain: Option<Listener>,
    /// Where the switch leads what is asked of 127.0.0.11. None without IPv4.
    led: Option<(SocketAddrV4, Listener)>,
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
        }
    }

    /// Where the switch is to lead what is asked of 127.0.0.11 on a network.
    pub(super) fn led_to(&self, network: &str) -> Option<SocketAddrV4> {
        let (address, _) = self.gateways.get(network)?.led.as_ref()?;
        Some(*address)
    }

    /// Takes up all names as they are now, and closes what nobody needs any more.
    pub(super) fn follow(&mut self, networks: &[Network], containers: &[Container]) {
        let containers: Vec<&Container> = containers
            .iter()
            .filter(|it| it.record.status == Status::Running && !it.record.endpoints.is_empty())
            .collect();
        let positions: HashMap<&str, usize> = networks
            .iter()
            .enumerate()
            .map(|(position, network)| (network.record.id.as_str(), position))
            .collect();
        let directory = Directory::new(
            networks.iter().map(network_names).collect(),
            containers
                .iter()
                .map(|container| container_names(container, networks, &positions))
                .collect(),
        );
        self.directory.send_replace(Arc::new(directory));
        self.follow_gateways(networks);
    }

    fn follow_gateways(&mut self, networks: &[Network]) {
        let ids: HashSet<&str> = networks.iter().map(|it| it.record.id.as_str()).collect();
        self.gateways.retain(|id, _| ids.contains(id.as_str()));
        for network in networks {
            let record = &network.record;
            if self.gateways.contains_key(&record.id) {
                continue;
            }
            let mut gateway = Gateway::default();
            if let Err(error) = self.open(record, &mut gateway) {
                tracing::warn!(
                    "network {} has no names at its gateway's address yet: {error}",
                    record.name
                );
            }
            self.gateways.insert(record.id.clone(), gateway);
        }
    }

    /// Opens what is not open yet.
    fn open(&self, record: &NetworkRecord, gateway: &mut Gateway) -> io::Result<()> {
        let listen = |sockets| self.resolver.listen(sockets, &record.id);
        let v4 = record.gateways.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        if let (None, Some(address)) = (&gateway.led, v4) {
            let free = LED_PORTS.into_iter().find_map(|port| {
                let address = SocketAddrV4::new(address, port);
                let sockets = Sockets::open(&[address.into()]).ok()?;
                Some((address, sockets))
            });
            if let Some((address, sockets)) = free {
                gateway.led = Some((address, listen(sockets)?));
            }
        }
        if gateway.plain.is_none() {
            let addresses: Vec<SocketAddr> = record
                .gateways
                .iter()
                .map(|address| SocketAddr::new(*address, dns::PORT))
                .collect();
            gateway.plain = Some(listen(open_patiently(&addresses)?)?);
        }
        Ok(())
    }

    /// Tries again where another program had the port.
    pub(super) fn retry(&mut self, networks: &[Network]) {
        for network in networks {
            let record = &network.record;
            let Some(gateway) = self.gateways.get(&record.id) else {
                continue;
            };
            if gateway.plain.is_some() {
                continue;
            }
            let mut gateway = self.gateways.remove(&record.id).unwrap_or_default();
            if self.open(record, &mut gateway).is_ok() {
                tracing::info!("names are answered at {:?} now", record.gateways);
            }
            self.gateways.insert(record.id.clone(), gateway);
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
        let mut named = networks.iter();
        let network = named.find(|network| network.record.id == endpoint.network);
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

fn open_patiently(addresses: &[SocketAddr]) -> io::Result<Sockets> {
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

/// `positions` says where among `networks` each is, by its id.
fn container_names(
    container: &Container,
    networks: &[Network],
    positions: &HashMap<&str, usize>,
) -> ContainerNames {
    let record = &container.record;
    let attachments = record.endpoints.iter().filter_map(|endpoint| {
        Some(Attachment {
            network: *positions.get(endpoint.network.as_str())?,
            aliases: endpoint.aliases.clone(),
            addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
        })
    });
    // Its own, or those of the first network that has some.
    let of_networks = record.endpoints.iter().filter_map(|endpoint| {
        let position = *positions.get(endpoint.network.as_str())?;
        Some(&networks[position].record.options.dns)
    });
    let mut servers = std::iter::once(&record.names.servers).chain(of_networks);
    let servers = servers.find(|servers| !servers.is_empty());
    ContainerNames {
        id: record.id.clone(),
        name: record.name.clone(),
        servers: servers.cloned().unwrap_or_default(),
        attachments: attachments.collect(),
    }
}
