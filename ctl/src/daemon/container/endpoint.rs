//! Endpoints: how a container comes on a network and off it, when it begins or while it runs.
//!
//! An endpoint is planned first, which costs nothing but the addresses that it holds, and then
//! plugged: its interface is made, and the switch takes it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use switch::PortId;
use switch::frame::MacAddr;

use super::attach::describe_target;
use super::{Plug, stop};
use crate::api::{self, Connect, Mode, Status, Target};
use crate::daemon::failure::Failure;
use crate::daemon::interface::NewInterface;
use crate::daemon::life;
use crate::daemon::network::{by_id, default_routes, list, refused, remove_interface};
use crate::daemon::publish::Destination;
use crate::daemon::remains::Remains;
use crate::daemon::resolver::names_route;
use crate::daemon::store::{ContainerRecord, EndpointRecord, Store};
use crate::daemon::{Daemon, limits, names};
use crate::ipam::{self, IpamError};
use crate::link::{self, ContainerLink};
use crate::netns::Netns;
use crate::relay::Device;
use crate::signals::SignalNumber;

/// Aliases of one endpoint; a name server answers for each.
const ALIASES_MAX: usize = 64;

/// An interface that is new and may yet be given up, and where it is plugged.
pub(super) struct Made {
    pub new: NewInterface,
    /// Its name in the container.
    interface: String,
    pub plug: Plug,
}

/// The container that an endpoint is made for.
pub(super) struct Place<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub netns: &'a Netns,
    pub target: &'a Target,
}

impl Daemon {
    /// Gives a running container an endpoint on one more network.
    pub(in crate::daemon) fn connect(
        &mut self,
        wanted: &str,
        request: Connect,
    ) -> Result<api::Container, Failure> {
        if !request.ips.is_empty() || request.mac.is_some() {
            // Who has them may have gone unnoticed.
            self.reap(|_| true);
        }
        let position = self.find_container(wanted)?;
        let mut record = ContainerRecord::clone(&self.containers[position].record);
        refuse_mode(&record)?;
        let (netns, identity) = life::identify(&record.target)?;
        if identity != record.identity {
            return Err(Failure::Conflict(format!(
                "{} is in another network namespace now: detach it and attach it again",
                record.name
            )));
        }
        self.clear(netns.inode());
        let (id, name, target) = (
            record.id.clone(),
            record.name.clone(),
            record.target.clone(),
        );
        let place = Place {
            id: &id,
            name: &name,
            netns: &netns,
            target: &target,
        };
        let endpoint = self.plan_endpoint(&place, &request, &record.endpoints)?;
        // Planning may find that somebody has gone.
        let position = match self.find_container(&id) {
            Ok(position) => position,
            Err(failure) => {
                self.release(&endpoint);
                return Err(failure);
            }
        };
        let addresses = list(&endpoint.addresses);
        match self.plug(&place, &mut record, vec![endpoint.clone()]) {
            Ok(mut plugs) => {
                let container = &mut self.containers[position];
                container.record = Arc::new(record);
                container.plugs.append(&mut plugs);
            }
            Err(failure) => {
                self.release(&endpoint);
                self.route(&netns, &self.containers[position].record.endpoints);
                return Err(failure);
            }
        }
        tracing::info!("{name} is on network {} too, {addresses}", request.network);
        self.apply();
        self.retarget(position);
        self.tell_supervisors(netns.inode());
        self.tell_container(&id)
    }

    /// Takes a running container off one of its networks.
    pub(in crate::daemon) fn disconnect(
        &mut self,
        wanted: &str,
        network: &str,
    ) -> Result<api::Container, Failure> {
        let position = self.find_container(wanted)?;
        let network = self.networks[self.find_network(network)?].record.clone();
        let record = &self.containers[position].record;
        let mut endpoints = record.endpoints.iter();
        let Some(at) = endpoints.position(|it| it.network == network.id) else {
            return Err(Failure::NotFound(format!(
                "container {} is not on network {}",
                record.name, network.name
            )));
        };
        let id = record.id.clone();
        self.remove_endpoint(position, at)?;
        tracing::info!(
            "{} is off network {}",
            self.containers[position].record.name,
            network.name
        );
        self.tell_container(&id)
    }

    /// The port of an endpoint is gone: somebody removed the interface, or its namespace ended. A
    /// container that has others lives on with them.
    pub(in crate::daemon) fn endpoint_gone(&mut self, position: usize, at: usize, error: &str) {
        let record = self.containers[position].record.clone();
        let removed = record.endpoints.len() > 1
            && life::why_gone(&record.target, &record.identity).is_none()
            && self.remove_endpoint(position, at).is_ok();
        if removed {
            let interface = &record.endpoints[at].interface;
            tracing::warn!("{} has lost {interface}: {error}", record.name);
        } else {
            self.end(&record.id, &format!("its interface is gone ({error})"));
        }
    }

    /// Whose a port of the switch is: positions of the container and of its endpoint.
    pub(in crate::daemon) fn find_plug(&self, port: PortId) -> Option<(usize, usize)> {
        let mut containers = self.containers.iter().enumerate();
        containers.find_map(|(position, container)| {
            let at = container.plugs.iter().position(|it| it.port == port)?;
            Some((position, at))
        })
    }

    fn remove_endpoint(&mut self, position: usize, at: usize) -> Result<(), Failure> {
        let mut record = ContainerRecord::clone(&self.containers[position].record);
        let endpoint = record.endpoints.remove(at);
        let leaving = self.containers[position].plugs[at];
        self.record_leave(&[leaving], |store| store.put_container(&record))?;
        let container = &mut self.containers[position];
        container.record = Arc::new(record.clone());
        let plug = container.plugs.remove(at);
        self.apply();
        self.retarget(position);
        if let Ok((netns, identity)) = life::identify(&record.target)
            && identity == record.identity
        {
            self.route(&netns, &record.endpoints);
        }
        self.unplug(&record, &endpoint, plug);
        self.tell_supervisors(record.identity.netns);
        Ok(())
    }

    /// Lets the supervisors of the containers in a namespace know that its networks have changed, for
    /// the sake of their /etc/hosts: by SIGCHLD, which no process takes amiss.
    fn tell_supervisors(&self, netns: u64) {
        for container in &self.containers {
            let record = &container.record;
            if let (Target::Pid(pid), true) = (&record.target, record.supervised)
                && record.status == Status::Running
                && record.identity.netns == netns
                && let Some(started) = record.identity.started
                && let Err(error) = life::send_signal(*pid, started, SignalNumber::CHILD)
            {
                tracing::debug!("{} keeps its /etc/hosts: {error}", record.name);
            }
        }
    }

    /// Chooses what an endpoint will have; it holds its addresses from now on. `siblings` are the
    /// container's other endpoints.
    pub(super) fn plan_endpoint(
        &mut self,
        place: &Place,
        request: &Connect,
        siblings: &[EndpointRecord],
    ) -> Result<EndpointRecord, Failure> {
        let kind = request.port_kind.unwrap_or(self.port_kind);
        self.kinds.check(kind).map_err(Failure::Invalid)?;
        if request.aliases.len() > ALIASES_MAX {
            return Err(Failure::Invalid(format!(
                "{} aliases are too many: {ALIASES_MAX} at most",
                request.aliases.len()
            )));
        }
        for alias in &request.aliases {
            names::check("alias", alias)?;
        }
        limits::check(&request.limits)?;
        let position = self.find_network(&request.network)?;
        let network = &self.networks[position].record;
        if siblings.iter().any(|other| other.network == network.id) {
            return Err(Failure::Conflict(format!(
                "container {} is on network {} already",
                place.name, network.name
            )));
        }
        let network = network.id.clone();
        let interface = self.choose_interface(place, request.interface.as_deref(), siblings)?;
        let mut allocated = self.allocate(position, request, place);
        if matches!(allocated, Err(IpamError::Full { .. })) {
            // Somebody may have gone unnoticed.
            self.reap(|_| true);
            allocated = self.allocate(position, request, place);
        }
        let addresses = allocated.map_err(refused)?;
        match self.choose_mac(position, request.mac.as_deref(), &addresses) {
            Ok(mac) => Ok(EndpointRecord {
                network,
                interface,
                mac,
                addresses,
                port_kind: kind,
                host_interface: None,
                aliases: request.aliases.clone(),
                gateway_priority: request.gateway_priority,
                limits: request.limits.clone(),
            }),
            Err(failure) => {
                self.networks[position].addresses.release(&addresses);
                Err(failure)
            }
        }
    }

    fn allocate(
        &mut self,
        position: usize,
        request: &Connect,
        place: &Place,
    ) -> Result<Vec<IpNet>, IpamError> {
        let pools = &mut self.networks[position].addresses;
        pools.allocate(&request.ips, place.name)
    }

    /// Takes the addresses of an endpoint back.
    pub(super) fn release(&mut self, endpoint: &EndpointRecord) {
        let mut networks = self.networks.iter_mut();
        if let Some(network) = networks.find(|it| it.record.id == endpoint.network) {
            network.addresses.release(&endpoint.addresses);
        }
    }

    /// Makes what was planned: interfaces, default routes, the switch's ports, and the record with
    /// the new endpoints. On failure nothing is left of it.
    pub(super) fn plug(
        &mut self,
        place: &Place,
        record: &mut ContainerRecord,
        planned: Vec<EndpointRecord>,
    ) -> Result<Vec<Plug>, Failure> {
        let mut made = Vec::with_capacity(planned.len());
        // A route by an interface that is there already stays, or gives way to one that is new.
        let all: Vec<EndpointRecord> = record.endpoints.iter().chain(&planned).cloned().collect();
        let plugged = planned
            .into_iter()
            .try_for_each(|mut endpoint| {
                let link = self.routed_link(&all, record.endpoints.len());
                made.push(self.make_interface(place, &mut endpoint, &record.endpoints, &link)?);
                record.endpoints.push(endpoint);
                Ok::<_, io::Error>(())
            })
            .map_err(Failure::from)
            .and_then(|()| Ok(self.store.put_container(record)?));
        if let Err(failure) = plugged {
            made.into_iter().for_each(|it| self.unmake(place, it));
            return Err(failure);
        }
        let mut plugs = Vec::with_capacity(made.len());
        for Made { new, plug, .. } in made {
            new.keep();
            self.outlive(&[plug], true);
            plugs.push(plug);
        }
        Ok(plugs)
    }

    /// Makes an interface inside the container and gives it to the switch. It does not outlive the
    /// daemon yet.
    pub(super) fn make_interface(
        &self,
        place: &Place,
        endpoint: &mut EndpointRecord,
        siblings: &[EndpointRecord],
        link: &ContainerLink,
    ) -> io::Result<Made> {
        let stem = free_stem(place.id, siblings);
        let workers = self.switch.workers();
        let (mut new, info) =
            NewInterface::create(endpoint.port_kind, &stem, workers, place.netns, link)?;
        endpoint.host_interface = new.host_interface.clone();
        let port = self.switch.add_port(new.take_queues())?;
        let plug = Plug {
            port,
            ifindex: info.index,
            host_ifindex: info.peer_index.filter(|_| new.host_interface.is_some()),
        };
        Ok(Made {
            new,
            interface: info.name,
            plug,
        })
    }

    /// Takes away what was made and is nobody's.
    pub(super) fn unmake(&self, place: &Place, made: Made) {
        self.switch.remove_port(made.plug.port);
        // A TAP would go by itself, but a moment later, when the last worker lets go of it.
        if made.new.host_interface.is_none() {
            let _ = place.netns.run(|| remove_interface(&made.interface));
        }
    }

    /// Whether the TAPs behind plugs outlive the daemon.
    pub(super) fn outlive(&self, plugs: &[Plug], outlive: bool) {
        for plug in plugs {
            // Fails where somebody has removed the device, and then its end is on its way.
            if let Err(error) = self.switch.set_persist(plug.port, outlive) {
                tracing::debug!("{error}");
            }
        }
    }

    /// Records that endpoints go, which must not outlive the daemon any more by then.
    pub(super) fn record_leave(
        &mut self,
        plugs: &[Plug],
        record: impl FnOnce(&mut Store) -> anyhow::Result<()>,
    ) -> Result<(), Failure> {
        self.outlive(plugs, false);
        let recorded = record(&mut self.store);
        if recorded.is_err() {
            self.outlive(plugs, true);
        }
        Ok(recorded?)
    }

    /// Takes an endpoint away that no rule leads to and no record names any more.
    pub(super) fn unplug(
        &mut self,
        record: &ContainerRecord,
        endpoint: &EndpointRecord,
        plug: Plug,
    ) {
        let remains = Remains {
            netns: record.identity.netns,
            port: self.switch.remove_port(plug.port),
            interface: self.remaining_interface(record, endpoint),
        };
        self.remains.push(remains);
        for address in &endpoint.addresses {
            self.switch.nat().forget(self.switch.now(), address.addr());
        }
        self.release(endpoint);
    }

    /// What the interface of one of a container's endpoints shall be. Which has the default routes
    /// follows from all of them together.
    pub(super) fn routed_link(&self, endpoints: &[EndpointRecord], at: usize) -> ContainerLink {
        let endpoint = &endpoints[at];
        let network = by_id(&self.networks, &endpoint.network);
        ContainerLink {
            name: endpoint.interface.clone(),
            mac: endpoint.mac,
            mtu: network.map_or(1500, |network| network.record.mtu),
            addresses: endpoint.addresses.clone(),
            gateways: default_routes(&self.networks, endpoints)
                .into_iter()
                .filter(|(through, _)| *through == at)
                .map(|(_, gateway)| gateway)
                .collect(),
            names: names_route(&self.networks, endpoints)
                .and_then(|(through, gateway)| (through == at).then_some(gateway)),
        }
    }

    /// Where published ports lead: of each family to the endpoint that has the default route. None
    /// for a container that has no default route at all.
    pub(super) fn reached(&self, endpoints: &[EndpointRecord]) -> Option<Destination> {
        let routes = default_routes(&self.networks, endpoints).into_iter();
        let (addresses, networks): (Vec<IpNet>, Vec<&str>) = routes
            .filter_map(|(at, gateway)| {
                let mut addresses = endpoints[at].addresses.iter();
                let address = addresses.find(|address| address.contains(&gateway))?;
                Some((*address, &*endpoints[at].network))
            })
            .unzip();
        let device = |ip: IpAddr| {
            let at = addresses.iter().position(|address| address.addr() == ip)?;
            Device::new(&by_id(&self.networks, networks[at])?.record.host_interface)
        };
        (!addresses.is_empty()).then(|| Destination::of(&addresses).by(device))
    }

    /// Leads what a container publishes to where its default routes are now. What leads nowhere is
    /// not served, and is again when the container has a default route again.
    fn retarget(&mut self, position: usize) {
        let container = &self.containers[position];
        let to = self.reached(&container.record.endpoints);
        let tried = container.published.len() + container.pending.len();
        let served = tried == container.record.published.len();
        let settled = match to {
            Some(to) => served && container.published.iter().all(|it| it.destination() == to),
            None => container.published.is_empty() && container.pending.is_empty(),
        };
        if settled {
            return;
        }
        self.containers[position].pending.clear();
        let published = std::mem::take(&mut self.containers[position].published);
        self.apply();
        stop(published);
        if let Some(to) = to {
            let record = Arc::clone(&self.containers[position].record);
            let (published, pending) = self.republish(&record, to);
            let container = &mut self.containers[position];
            container.published = published;
            container.pending = pending;
            self.apply();
        }
    }

    fn try_route(&self, netns: &Netns, endpoints: &[EndpointRecord]) -> io::Result<()> {
        let routes = default_routes(&self.networks, endpoints);
        let names = names_route(&self.networks, endpoints);
        netns.run(|| {
            for (at, gateway) in &routes {
                link::set_default_route(*gateway, &endpoints[*at].interface)?;
            }
            match names {
                Some((at, gateway)) => link::lead_names(gateway, &endpoints[at].interface),
                None => Ok(()),
            }
        })??;
        Ok(())
    }

    /// Makes the default routes what the endpoints say; trouble is told and not passed on.
    fn route(&self, netns: &Netns, endpoints: &[EndpointRecord]) {
        if let Err(error) = self.try_route(netns, endpoints) {
            tracing::warn!("a default route is not as it should be: {error}");
        }
    }

    fn choose_mac(
        &self,
        position: usize,
        wanted: Option<&str>,
        addresses: &[IpNet],
    ) -> Result<MacAddr, Failure> {
        let mac = match (wanted, addresses.first()) {
            (Some(wanted), _) => wanted.parse().map_err(|error| {
                Failure::Invalid(format!("{wanted:?} is not a MAC address: {error}"))
            })?,
            (None, Some(first)) => ipam::mac_for(first.addr()),
            (None, None) => {
                return Err(Failure::Internal("an endpoint without address".to_owned()));
            }
        };
        if !mac.is_unicast() || mac == MacAddr([0; 6]) {
            return Err(Failure::Invalid(format!(
                "{mac} is not a unicast MAC address"
            )));
        }
        let network = &self.networks[position].record;
        let holder = self.containers.iter().find_map(|container| {
            let mut endpoints = container.record.endpoints.iter();
            endpoints
                .any(|endpoint| endpoint.network == network.id && endpoint.mac == mac)
                .then_some(container.record.name.as_str())
        });
        let holder = if mac == network.gateway_mac {
            Some("the gateway")
        } else {
            holder
        };
        match holder {
            None => Ok(mac),
            Some(holder) => Err(Failure::Conflict(format!(
                "{mac} is the MAC address of {holder} on network {}: choose another one (--mac)",
                network.name
            ))),
        }
    }

    /// The name of an interface that no endpoint in the namespace has: the one wanted, or the first
    /// of `eth0`, `eth1`, ….
    fn choose_interface(
        &self,
        place: &Place,
        wanted: Option<&str>,
        siblings: &[EndpointRecord],
    ) -> Result<String, Failure> {
        let others = self.containers.iter().flat_map(|container| {
            let record = &container.record;
            let here = record.identity.netns == place.netns.inode();
            let endpoints = record.endpoints.iter().filter(move |_| here);
            endpoints.map(|endpoint| (record.name.as_str(), endpoint.interface.as_str()))
        });
        let own = siblings
            .iter()
            .map(|it| (place.name, it.interface.as_str()));
        let taken: Vec<(&str, &str)> = others.chain(own).collect();
        let holder = |name: &str| taken.iter().find(|(_, interface)| *interface == name);
        let Some(wanted) = wanted else {
            let mut all = (0..=taken.len()).map(|number| format!("eth{number}"));
            return all
                .find(|name| holder(name).is_none())
                .ok_or_else(|| Failure::Internal("no name of an interface is free".to_owned()));
        };
        match holder(wanted) {
            None => Ok(wanted.to_owned()),
            Some((other, _)) => Err(Failure::Conflict(format!(
                "the namespace of {} has {wanted} of container {other} already: detach that, or \
                 choose another --interface",
                describe_target(place.target),
            ))),
        }
    }
}

/// Part of the name of the next interface of a container: the beginning of its id, with a number
/// behind it if another one has that already.
fn free_stem(id: &str, siblings: &[EndpointRecord]) -> String {
    let short = id.get(..8).unwrap_or(id);
    let taken = |stem: &str| {
        let name = format!("pt-{stem}");
        siblings
            .iter()
            .any(|it| it.host_interface.as_deref() == Some(name.as_str()))
    };
    let mut number = 0;
    let mut stem = short.to_owned();
    while taken(&stem) {
        number += 1;
        stem = format!("{short}-{number}");
    }
    stem
}

/// Only what has interfaces of its own is put on networks.
fn refuse_mode(record: &ContainerRecord) -> Result<(), Failure> {
    let why = match &record.mode {
        _ if record.status == Status::Exited => {
            return Err(Failure::Conflict(format!(
                "container {} has exited: it has no namespace to connect",
                record.name
            )));
        }
        Mode::Network(_) => return Ok(()),
        Mode::Host => "it is the host's network that it has".to_owned(),
        Mode::None => "it was made to have no network (--net none)".to_owned(),
        Mode::Container(other) => format!("it shares that of {other}: connect {other}"),
    };
    Err(Failure::Invalid(format!(
        "container {} can't be connected: {why}",
        record.name
    )))
}
