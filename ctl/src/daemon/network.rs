//! Networks: subnets, a gateway, the host's interface on it, and who has which address. What a new
//! one gets is chosen in [`subnets`].

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;
use std::{io, slice};

use ipnet::IpNet;
use switch::{NetworkId, PortId, Switch};

use super::events::event;
use super::failure::Failure;
use super::interface::{self, PortKinds};
use super::remains::{Interface, Remains};
use super::store::{EndpointRecord, NetworkRecord};
use super::{Daemon, names, seconds_since_1970};
use crate::api::{self, CreateNetwork, EventAction, EventKind, NetworkOptions, PortKind};
use crate::ipam::{self, IpamError, Pools};
use crate::link;

mod subnets;

/// The network that is there from the start and can't be removed.
pub(super) const BRIDGE: &str = "bridge";

/// Names that mean something else where a network is named.
const RESERVED: [&str; 4] = ["host", "none", "default", "container"];

/// Smallest and largest MTU: what every IPv4 host must take (RFC 791 clause 3.2), and what a TAP
/// can carry in a frame of 64 KiB.
const MTU: std::ops::RangeInclusive<u32> = 68..=65521;

pub(super) struct Network {
    /// Never changes.
    pub record: Arc<NetworkRecord>,
    /// The switch's name for it in this life of the daemon.
    pub id: NetworkId,
    /// The host's interface.
    pub port: PortId,
    pub addresses: Pools,
}

impl Network {
    /// Brings a network to life: makes or adopts the host's interface, and adds it to the switch.
    pub(super) fn open(
        record: NetworkRecord,
        id: NetworkId,
        kind: PortKind,
        switch: &Switch,
    ) -> Result<Network, Failure> {
        let addresses = pools(&record.subnets, &record.gateways, &record.options)?;
        let port = add_host_port(&record, kind, switch)?;
        Ok(Network {
            record: Arc::new(record),
            id,
            port,
            addresses,
        })
    }

    /// The gateways for an endpoint with these addresses: of each family one, that of the first
    /// address's subnet.
    pub(super) fn gateways_for(&self, addresses: &[IpNet]) -> Vec<IpAddr> {
        let mut gateways: Vec<IpAddr> = Vec::with_capacity(2);
        for address in addresses {
            let gateway = self.record.gateways.iter().find(|it| address.contains(*it));
            if let Some(gateway) = gateway
                && !gateways.iter().any(|it| it.is_ipv6() == gateway.is_ipv6())
            {
                gateways.push(*gateway);
            }
        }
        gateways
    }
}

/// The addresses of a network, nobody's yet.
fn pools(
    subnets: &[IpNet],
    gateways: &[IpAddr],
    options: &NetworkOptions,
) -> Result<Pools, Failure> {
    let mut pools = Pools::new(subnets, gateways).map_err(refused)?;
    pools
        .limit(&options.ip_ranges, &options.reserved)
        .map_err(refused)?;
    Ok(pools)
}

pub(super) fn by_id<'a>(networks: &'a [Network], id: &str) -> Option<&'a Network> {
    networks.iter().find(|network| network.record.id == id)
}

/// Which endpoint each family's default route of a container leads through, and to which gateway:
/// that of the highest priority, of equal ones the first. An internal network leads nowhere.
pub(super) fn default_routes(
    networks: &[Network],
    endpoints: &[EndpointRecord],
) -> Vec<(usize, IpAddr)> {
    let route = |is_ipv6: bool| {
        let ways = endpoints.iter().enumerate().filter_map(|(at, endpoint)| {
            let network = by_id(networks, &endpoint.network)?;
            if network.record.options.internal {
                return None;
            }
            let mut gateways = network.gateways_for(&endpoint.addresses).into_iter();
            let gateway = gateways.find(|gateway| gateway.is_ipv6() == is_ipv6)?;
            Some((Reverse(endpoint.gateway_priority), at, gateway))
        });
        ways.min().map(|(_, at, gateway)| (at, gateway))
    };
    [false, true].into_iter().filter_map(route).collect()
}

/// The host's interface of a network, as a port of the switch.
fn add_host_port(record: &NetworkRecord, kind: PortKind, switch: &Switch) -> io::Result<PortId> {
    let name = &record.host_interface;
    let ipv6 = record.subnets.iter().any(|subnet| subnet.addr().is_ipv6());
    let queues = interface::host_interface(
        kind,
        name,
        record.gateway_mac,
        record.mtu,
        switch.workers(),
        ipv6,
    )?;
    for (subnet, gateway) in record.subnets.iter().zip(&record.gateways) {
        let address = IpNet::new(*gateway, subnet.prefix_len()).map_err(io::Error::other)?;
        link::add_address(name, address)?;
    }
    switch.add_port(queues)
}

impl Daemon {
    /// Makes the network `bridge` unless the store has it, of these subnets if there are any.
    pub(super) fn ensure_bridge(&mut self, subnets: &[IpNet]) -> Result<(), Failure> {
        let mut networks = self.networks.iter();
        if let Some(bridge) = networks.find(|network| network.record.name == BRIDGE) {
            let has = |subnet: &IpNet| bridge.record.subnets.contains(&subnet.trunc());
            if !subnets.iter().all(has) {
                tracing::warn!(
                    "network {BRIDGE} keeps {}, which it was made of, not --bridge-subnet: \
                     containers have addresses there",
                    list(&bridge.record.subnets)
                );
            }
            return Ok(());
        }
        let request = CreateNetwork {
            name: BRIDGE.to_owned(),
            subnets: subnets.to_vec(),
            ..Default::default()
        };
        self.create_network(request).map(|_| ())
    }

    pub(super) fn create_network(
        &mut self,
        request: CreateNetwork,
    ) -> Result<api::Network, Failure> {
        let name = request.name.clone();
        names::check("network", &name)?;
        if RESERVED.contains(&name.as_str()) {
            return Err(Failure::Invalid(format!(
                "{name:?} means something else in --net: give the network another name"
            )));
        }
        if self
            .networks
            .iter()
            .any(|network| network.record.name == name)
        {
            return Err(Failure::Conflict(format!(
                "there is a network {name} already"
            )));
        }
        let mtu = request.mtu.unwrap_or_else(|| self.uplinks.mtu());
        if !MTU.contains(&mtu) {
            return Err(Failure::Invalid(format!(
                "an MTU of {mtu} is not possible: choose one from {} to {}",
                MTU.start(),
                MTU.end()
            )));
        }
        self.check_options(&request.options)?;
        self.read_host();
        let (subnets, gateways): (Vec<IpNet>, Vec<IpAddr>) =
            self.choose_subnets(&request, mtu)?.into_iter().unzip();
        let Some(&first) = gateways.first() else {
            return Err(Failure::Internal(format!("network {name} has no subnet")));
        };
        let record = NetworkRecord {
            id: names::new_id()?,
            host_interface: self.free_host_interface()?,
            name,
            subnets,
            gateways,
            gateway_mac: ipam::mac_for(first),
            mtu,
            created: seconds_since_1970(),
            options: request.options,
        };
        let opened = Network::open(
            record.clone(),
            self.new_network_id(),
            self.port_kind,
            &self.switch,
        );
        let network = match opened {
            Ok(network) => network,
            Err(failure) => {
                remove_interface(&record.host_interface);
                return Err(failure);
            }
        };
        if let Err(error) = self.store.put_network(&record) {
            self.switch.remove_port(network.port);
            remove_interface(&record.host_interface);
            return Err(error.into());
        }
        tracing::info!(
            "network {} is {}, gateway {} on {}, MTU {mtu}",
            record.name,
            list(&record.subnets),
            list(&record.gateways),
            record.host_interface
        );
        self.networks.push(network);
        self.apply();
        self.tell_network(&record.id)
    }

    /// Removes a network nobody is attached to, and tells what it was.
    pub(super) fn remove_network(&mut self, wanted: &str) -> Result<api::Network, Failure> {
        let position = self.find_network(wanted)?;
        let record = Arc::clone(&self.networks[position].record);
        if record.name == BRIDGE {
            return Err(Failure::Invalid(format!(
                "network {BRIDGE} is the default one and can't be removed"
            )));
        }
        let told = self.tell_network(&record.id)?;
        if !told.containers.is_empty() {
            return Err(Failure::Conflict(format!(
                "network {} has containers attached: {}; detach them first",
                record.name,
                told.containers.join(", ")
            )));
        }
        self.forget_networks(slice::from_ref(&record.id))?;
        Ok(told)
    }

    /// Removes the networks that nobody is on, and tells what they were.
    pub(super) fn prune_networks(&mut self) -> Result<Vec<api::Network>, Failure> {
        let used = |network: &Network| {
            let mut endpoints = self.containers.iter().flat_map(|it| &it.record.endpoints);
            endpoints.any(|endpoint| endpoint.network == network.record.id)
        };
        let unused: Vec<String> = self
            .networks
            .iter()
            .filter(|network| network.record.name != BRIDGE && !used(network))
            .map(|network| network.record.id.clone())
            .collect();
        let told: Result<Vec<_>, _> = unused.iter().map(|id| self.tell_network(id)).collect();
        let told = told?;
        self.forget_networks(&unused)?;
        Ok(told)
    }

    /// Takes networks away that nobody is on: all of them, or none.
    fn forget_networks(&mut self, ids: &[String]) -> Result<(), Failure> {
        self.store.remove_networks(ids)?;
        let (gone, kept) = std::mem::take(&mut self.networks)
            .into_iter()
            .partition(|network| ids.contains(&network.record.id));
        self.networks = kept;
        self.apply();
        for Network { record, port, .. } in gone {
            tracing::info!("network {} is removed", record.name);
            self.remains.push(Remains {
                netns: self.netns,
                port: self.switch.remove_port(port),
                interface: Interface::OfHost(record.host_interface.clone()),
            });
        }
        Ok(())
    }

    /// What contradicts itself, or the host as it is.
    fn check_options(&self, options: &NetworkOptions) -> Result<(), Failure> {
        let wrong = |why: &str| Err(Failure::Invalid(format!("{why}: leave one of them out")));
        if options.routed && options.internal {
            return wrong("nothing leaves an internal network, with any address (--no-masquerade)");
        }
        if options.masquerade_to.is_empty() {
            return Ok(());
        }
        if !options.masquerades() {
            return wrong(
                "an address to masquerade to (--masquerade-to) means nothing to a network that is \
                 internal or does not masquerade",
            );
        }
        let own = super::uplink::host_addresses(&self.host);
        for (index, address) in options.masquerade_to.iter().enumerate() {
            let earlier = &options.masquerade_to[..index];
            if let Some(other) = earlier.iter().find(|it| it.is_ipv4() == address.is_ipv4()) {
                return Err(Failure::Invalid(format!(
                    "flows can't leave as both {other} and {address}: name one of a family"
                )));
            }
            if !own.contains(address) {
                return Err(Failure::Invalid(format!(
                    "{address} is no address of this host, so no answer would come back: add it \
                     to an interface first (ip address add)"
                )));
            }
        }
        Ok(())
    }

    /// Position of a network by name, id or beginning of an id.
    pub(super) fn find_network(&self, wanted: &str) -> Result<usize, Failure> {
        let entries = self
            .networks
            .iter()
            .map(|network| (network.record.id.as_str(), network.record.name.as_str()));
        let id = names::resolve("network", wanted, entries)?;
        self.networks
            .iter()
            .position(|network| network.record.id == id)
            .ok_or_else(|| Failure::NotFound(format!("there is no network {wanted:?}")))
    }

    /// The host's interface of a network vanished: somebody removed it. The network needs it.
    pub(super) fn restore_host_interface(&mut self, position: usize) {
        let network = &mut self.networks[position];
        self.switch.remove_port(network.port);
        match add_host_port(&network.record, self.port_kind, &self.switch) {
            Ok(port) => {
                network.port = port;
                tracing::warn!(
                    "{} was removed; it is made anew",
                    network.record.host_interface
                );
                let name = &network.record.host_interface;
                self.news
                    .push(event(EventKind::Interface, EventAction::Restored, name));
            }
            Err(error) => tracing::error!(
                "{} was removed and can't be made anew, so the host does not reach network {}: {error}",
                network.record.host_interface,
                network.record.name
            ),
        }
        self.apply();
    }

    pub(super) fn new_network_id(&mut self) -> NetworkId {
        self.next_network += 1;
        NetworkId(self.next_network)
    }

    /// The first of `pontoon0`, `pontoon1`, … that is nobody's.
    fn free_host_interface(&self) -> Result<String, Failure> {
        for number in 0..10_000 {
            let name = format!("pontoon{number}");
            let ours = self
                .networks
                .iter()
                .any(|network| network.record.host_interface == name);
            if !ours && !link::exists(&name).map_err(io::Error::from)? {
                return Ok(name);
            }
        }
        Err(Failure::Conflict(
            "every name from pontoon0 to pontoon9999 is in use".to_owned(),
        ))
    }
}

/// For the log.
pub(super) fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

/// Removes the interfaces of the host that earlier lives of pontoon left and nothing claims.
pub(super) fn remove_strays(links: &[crate::host::HostLink], claimed: &[String]) {
    for link in links.iter().filter(|link| link.ours) {
        let name = link.name.strip_suffix("-sw").unwrap_or(&link.name);
        if !claimed.iter().any(|claimed| claimed == name) {
            tracing::info!(
                "interface {} is left from an earlier daemon; removing it",
                link.name
            );
            remove_interface(&link.name);
        }
    }
}

/// Removes an interface if it is there; trouble is told and not passed on.
pub(super) fn remove_interface(name: &str) {
    match link::delete(name) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("an interface is left over: {error}"),
    }
}

/// Why IPAM said no, in the kinds of the API.
pub(super) fn refused(error: IpamError) -> Failure {
    let text = error.to_string();
    match error {
        IpamError::NoSubnetFree(_)
        | IpamError::NoUlaFree(_)
        | IpamError::Overlap { .. }
        | IpamError::Held { .. }
        | IpamError::Full { .. } => Failure::Conflict(text),
        IpamError::TooSmall(_)
        | IpamError::NotUnicast(_)
        | IpamError::Outside { .. }
        | IpamError::RangeOutside { .. }
        | IpamError::Reserved { .. } => Failure::Invalid(text),
    }
}

/// # Errors
/// Neither kind of interface works here.
pub(super) fn choose_kind(kinds: &PortKinds, wanted: Option<PortKind>) -> Result<PortKind, String> {
    let preferred = kinds.preferred()?;
    match wanted {
        None => Ok(preferred),
        Some(kind) => kinds.check(kind).map(|()| kind),
    }
}
