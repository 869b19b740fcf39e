//! Containers: attached, adopted after a restart, published, and let go.
//!
//! An attachment is all or nothing: what one step made, the failure of a later one takes away.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use switch::PortId;
use switch::frame::MacAddr;
use tokio::runtime::Handle;

use super::failure::Failure;
use super::interface::{self, NewInterface};
use super::life::{self, Identity, Watch};
use super::network::{refused, remove_interface};
use super::publish::{self, Published, Reservation};
use super::store::{ContainerRecord, EndpointRecord};
use super::{Daemon, names, seconds_since_1970};
use crate::api::{self, Attach, Mode, PortMapping, Status, Target};
use crate::ipam;
use crate::link::{self, ContainerLink};
use crate::netns::Netns;

/// The interface's name inside a container whose user names none.
const INTERFACE: &str = "eth0";

pub(super) struct Container {
    pub record: ContainerRecord,
    /// None without an endpoint.
    pub port: Option<PortId>,
    pub published: Vec<Published>,
    /// None for a namespace given by path, and once the container has ended.
    pub watch: Option<Watch>,
}

/// A container about to be: named, known, and nothing made yet.
struct Candidate {
    id: String,
    name: String,
    netns: Netns,
    identity: Identity,
    request: Attach,
}

impl Candidate {
    fn record(&self, mode: Mode, endpoint: Option<EndpointRecord>) -> ContainerRecord {
        ContainerRecord {
            id: self.id.clone(),
            name: self.name.clone(),
            mode,
            target: self.request.target.clone(),
            identity: self.identity.clone(),
            command: self.request.command.clone(),
            created: seconds_since_1970(),
            status: Status::Running,
            endpoint,
            published: Vec::new(),
            remove_on_exit: self.request.remove_on_exit,
        }
    }

    /// Options that need an interface, in a mode that has none of its own.
    fn refuse_options(&self, mode: &str, publish_why: &str) -> Result<(), Failure> {
        let refuse = |option: &str, why: &str| {
            Err(Failure::Invalid(format!("{option} can't go with {mode}: {why}")))
        };
        if !self.request.publish.is_empty() {
            return refuse("-p", publish_why);
        }
        if self.request.ip.is_some() {
            return refuse("--ip", "the container gets no address");
        }
        if self.request.mac.is_some() {
            return refuse("--mac", "the container gets no interface");
        }
        Ok(())
    }
}

impl Daemon {
    /// Attaches a namespace as a new container.
    pub(super) fn attach(&mut self, request: Attach) -> Result<api::Container, Failure> {
        // Names, addresses and the numbers of namespaces are taken again at once by who comes next.
        self.reap(|_| true);
        let name = self.choose_name(request.name.as_deref())?;
        let (netns, identity) = life::identify(&request.target)?;
        let candidate = Candidate { id: names::new_id()?, name, netns, identity, request };
        let watch = self.watch(&candidate.id, &candidate.request.target)?;
        let mode = candidate.request.mode.clone();
        let mut container = match &mode {
            Mode::Network(network) => self.attach_to_network(&candidate, network)?,
            Mode::Host => self.attach_host(&candidate)?,
            Mode::None => self.attach_nothing(&candidate)?,
            Mode::Container(other) => self.attach_sharing(&candidate, other)?,
        };
        container.watch = watch;
        let id = candidate.id;
        let address = container.record.endpoint.as_ref().and_then(|it| it.addresses.first());
        match address {
            Some(address) => tracing::info!("{} is attached, {address}", container.record.name),
            None => tracing::info!("{} is attached ({mode:?})", container.record.name),
        }
        self.containers.push(container);
        self.apply();
        self.tell_container(&id)
    }

    /// Takes a container off its network and forgets it. Its process goes on.
    pub(super) fn detach(&mut self, wanted: &str) -> Result<api::Container, Failure> {
        let position = self.find_container(wanted)?;
        let id = self.containers[position].record.id.clone();
        let told = self.tell_container(&id)?;
        self.store.remove_container(&id)?;
        let container = self.containers.remove(position);
        tracing::info!("{} is detached", container.record.name);
        self.disconnect(container);
        Ok(told)
    }

    /// A container's process or namespace is no more: its address and ports are free again, and it
    /// is forgotten, or told of as exited if its user wants that.
    pub(super) fn end(&mut self, id: &str, why: &str) {
        let running = |container: &Container| {
            container.record.id == id && container.record.status == Status::Running
        };
        let Some(position) = self.containers.iter().position(running) else {
            return;
        };
        let container = self.containers.remove(position);
        tracing::info!("{} has ended: {why}", container.record.name);
        if let Some(exited) = self.record_end(&container.record) {
            self.containers.insert(position, exited);
        }
        self.disconnect(container);
    }

    /// Publishes more ports of a running container, all of them or none.
    pub(super) fn publish(
        &mut self,
        wanted: &str,
        mappings: Vec<PortMapping>,
    ) -> Result<api::Container, Failure> {
        let position = self.find_container(wanted)?;
        let container = &self.containers[position];
        let (id, name) = (container.record.id.clone(), container.record.name.clone());
        let to = self.published_address(position)?;
        let mut published = self.publish_all(&name, to, mappings)?;
        let mut record = self.containers[position].record.clone();
        record.published.extend(published.iter().map(|published| published.mapping.clone()));
        self.store.put_container(&record)?;
        for published in &published {
            tracing::info!("{name} publishes {}", publish::describe(&published.mapping));
        }
        let container = &mut self.containers[position];
        container.record = record;
        container.published.append(&mut published);
        self.apply();
        self.tell_container(&id)
    }

    /// Withdraws mappings as they were published, all of them or none. Their flows end.
    pub(super) fn unpublish(
        &mut self,
        wanted: &str,
        mappings: Vec<PortMapping>,
    ) -> Result<api::Container, Failure> {
        let position = self.find_container(wanted)?;
        let container = &self.containers[position];
        let (id, name) = (container.record.id.clone(), container.record.name.clone());
        let mut record = container.record.clone();
        for mapping in mappings.into_iter().map(publish::normalized) {
            let Some(index) = record.published.iter().position(|other| *other == mapping) else {
                return Err(Failure::NotFound(format!(
                    "{name} does not publish {} to {} ({}): name a mapping as it was published",
                    publish::describe(&mapping),
                    mapping.container_port,
                    published_list(&container.record.published)
                )));
            };
            record.published.remove(index);
        }
        self.store.put_container(&record)?;
        let container = &mut self.containers[position];
        let (kept, withdrawn) = std::mem::take(&mut container.published)
            .into_iter()
            .partition(|published| record.published.contains(&published.mapping));
        container.published = kept;
        container.record = record;
        self.apply();
        stop(withdrawn, |mapping| {
            tracing::info!("{name} no longer publishes {}", publish::describe(mapping));
        });
        self.tell_container(&id)
    }

    /// Takes up a container that a daemon before this one attached, or tells why it can't be.
    pub(super) fn adopt(&mut self, mut record: ContainerRecord) {
        if record.status == Status::Exited {
            self.containers.push(Container::exited(record));
            return;
        }
        match self.try_adopt(&mut record) {
            Ok(container) => {
                tracing::info!("{} is adopted", record.name);
                self.containers.push(container);
            }
            Err(why) => {
                tracing::warn!("{} is not adopted: {why}", record.name);
                if let Some(host_end) =
                    record.endpoint.as_ref().and_then(|it| it.host_interface.as_ref())
                {
                    remove_interface(host_end);
                }
                if let Some(exited) = self.record_end(&record) {
                    self.containers.push(exited);
                }
            }
        }
    }

    /// Ends the containers whose end nothing else tells of: a namespace's path that leads
    /// elsewhere now, a process on a kernel without pidfds.
    pub(super) fn sweep(&mut self) {
        self.reap(|container| container.watch.is_none());
    }

    fn reap(&mut self, looked_at: impl Fn(&Container) -> bool) {
        let gone: Vec<(String, String)> = self
            .containers
            .iter()
            .filter(|container| container.record.status == Status::Running)
            .filter(|container| looked_at(container))
            .filter_map(|container| {
                let record = &container.record;
                let why = life::why_gone(&record.target, &record.identity)?;
                Some((record.id.clone(), why))
            })
            .collect();
        for (id, why) in gone {
            self.end(&id, &why);
        }
    }

    /// Position of a container by name, id or beginning of an id.
    pub(super) fn find_container(&self, wanted: &str) -> Result<usize, Failure> {
        let entries = self
            .containers
            .iter()
            .map(|container| (container.record.id.as_str(), container.record.name.as_str()));
        let id = names::resolve("container", wanted, entries)?;
        self.containers
            .iter()
            .position(|container| container.record.id == id)
            .ok_or_else(|| Failure::NotFound(format!("there is no container {wanted:?}")))
    }

    fn choose_name(&self, wanted: Option<&str>) -> Result<String, Failure> {
        let taken = |name: &str| {
            self.containers.iter().find(|container| container.record.name == name)
        };
        let Some(name) = wanted else {
            return Ok(names::made_up_name(|name| taken(name).is_some())?);
        };
        names::check("container", name)?;
        match taken(name) {
            None => Ok(name.to_owned()),
            Some(other) => {
                let advice = match other.record.status {
                    Status::Running => "detach it, or choose another name",
                    Status::Exited => "it has exited: remove it (pontoon rm), or choose another name",
                };
                Err(Failure::Conflict(format!("there is a container {name} already: {advice}")))
            }
        }
    }

    fn watch(&self, id: &str, target: &Target) -> io::Result<Option<Watch>> {
        match target {
            Target::Pid(pid) => life::watch_process(*pid, id.to_owned(), self.ends.clone()),
            Target::Netns(_) => Ok(None),
        }
    }

    /// The host's namespace: nothing to make. `-p` is refused where Docker warns and discards it.
    fn attach_host(&mut self, candidate: &Candidate) -> Result<Container, Failure> {
        candidate.refuse_options(
            "--net host",
            "the container's ports are the host's already, without publishing",
        )?;
        if candidate.identity.netns != self.netns {
            return Err(Failure::Invalid(format!(
                "{} is not in the host's network namespace, which --net host means",
                describe_target(&candidate.request.target)
            )));
        }
        let record = candidate.record(Mode::Host, None);
        self.store.put_container(&record)?;
        Ok(Container::without_endpoint(record))
    }

    /// A namespace of its own with loopback only.
    fn attach_nothing(&mut self, candidate: &Candidate) -> Result<Container, Failure> {
        candidate.refuse_options("--net none", "the container has loopback only")?;
        self.refuse_own_namespace(candidate)?;
        candidate.netns.run(|| link::set_up("lo"))?.map_err(io::Error::from)?;
        let record = candidate.record(Mode::None, None);
        self.store.put_container(&record)?;
        Ok(Container::without_endpoint(record))
    }

    /// The namespace of another container, which may end or be detached before this one, as with
    /// Docker: what is left then is a namespace without an interface.
    fn attach_sharing(
        &mut self,
        candidate: &Candidate,
        wanted: &str,
    ) -> Result<Container, Failure> {
        let mode = format!("--net container:{wanted}");
        candidate.refuse_options(&mode, &format!("publish the ports on {wanted}"))?;
        let other = &self.containers[self.find_container(wanted)?].record;
        if other.status != Status::Running {
            return Err(Failure::Conflict(format!(
                "container {} has exited: there is no namespace to share",
                other.name
            )));
        }
        if other.identity.netns != candidate.identity.netns {
            return Err(Failure::Invalid(format!(
                "{} is not in the network namespace of {}: enter it first (pontoon run --net \
                 container:{} does)",
                describe_target(&candidate.request.target),
                other.name,
                other.name
            )));
        }
        let record = candidate.record(Mode::Container(other.name.clone()), None);
        self.store.put_container(&record)?;
        Ok(Container::without_endpoint(record))
    }

    fn attach_to_network(
        &mut self,
        candidate: &Candidate,
        wanted: &str,
    ) -> Result<Container, Failure> {
        self.refuse_own_namespace(candidate)?;
        let request = &candidate.request;
        let kind = request.port_kind.unwrap_or(self.port_kind);
        self.kinds.check(kind).map_err(Failure::Invalid)?;
        let interface = request.interface.clone().unwrap_or_else(|| INTERFACE.to_owned());
        self.refuse_attached_twice(candidate, &interface)?;
        let position = self.find_network(wanted)?;
        let address = self.allocate(position, request.ip, &candidate.name)?;

        let attached = self.choose_mac(position, request.mac.as_deref(), address).and_then(|mac| {
            let network = &self.networks[position];
            let subnet = network.addresses.subnet();
            let endpoint = EndpointRecord {
                network: network.record.id.clone(),
                interface,
                mac,
                addresses: IpNet::new(address, subnet.prefix_len()).into_iter().collect(),
                port_kind: kind,
                host_interface: None,
            };
            self.connect(candidate, position, endpoint)
        });
        if attached.is_err() {
            self.networks[position].addresses.release(address);
        }
        attached
    }

    /// Makes the interface, the switch's port, the published ports and the record.
    fn connect(
        &mut self,
        candidate: &Candidate,
        position: usize,
        mut endpoint: EndpointRecord,
    ) -> Result<Container, Failure> {
        let network = &self.networks[position].record;
        let (mode, mtu) = (Mode::Network(network.name.clone()), network.mtu);
        let link = self.container_link(position, &endpoint);
        let to = first_address(&endpoint)?;
        // First, because it is what fails most.
        let published = self.publish_all(&candidate.name, to, candidate.request.publish.clone())?;

        let workers = self.switch.workers();
        let made = NewInterface::create(endpoint.port_kind, &candidate.id, workers, mtu)?;
        endpoint.host_interface = made.host_interface.clone();
        link::move_to(&made.name, &candidate.netns).map_err(io::Error::from)?;
        link::configure_container(&candidate.netns, &made.name, &link).map_err(io::Error::from)?;

        let mut record = candidate.record(mode, Some(endpoint));
        record.published = published.iter().map(|published| published.mapping.clone()).collect();
        self.store.put_container(&record)?;
        match made.keep().and_then(|queues| self.switch.add_port(queues)) {
            Ok(port) => Ok(Container { record, port: Some(port), published, watch: None }),
            Err(error) => {
                let _ = candidate.netns.run(|| remove_interface(&link.name));
                if let Err(error) = self.store.remove_container(&record.id) {
                    tracing::error!("{error:#}; the next start drops it");
                }
                Err(error.into())
            }
        }
    }

    fn try_adopt(&mut self, record: &mut ContainerRecord) -> Result<Container, Failure> {
        if let Some(why) = life::why_gone(&record.target, &record.identity) {
            return Err(Failure::NotFound(why));
        }
        let (netns, identity) = life::identify(&record.target)?;
        if identity != record.identity {
            return Err(Failure::NotFound("its namespace is another one now".to_owned()));
        }
        let watch = self.watch(&record.id, &record.target)?;
        let Some(endpoint) = record.endpoint.clone() else {
            return Ok(Container { watch, ..Container::without_endpoint(record.clone()) });
        };
        let position = self.find_network(&endpoint.network)?;
        let to = first_address(&endpoint)?;
        self.allocate(position, Some(to), &record.name)?;
        let network = &self.networks[position].record;
        let workers = self.switch.workers();
        let port = interface::adopt(
            &netns,
            &endpoint.interface,
            endpoint.host_interface.as_deref(),
            workers,
            network.mtu,
        )
        .and_then(|queues| {
            let link = self.container_link(position, &endpoint);
            link::configure_container(&netns, &endpoint.interface, &link)?;
            self.switch.add_port(queues)
        });
        let port = match port {
            Ok(port) => port,
            Err(error) => {
                self.networks[position].addresses.release(to);
                return Err(error.into());
            }
        };
        let published = self.republish(record, to);
        Ok(Container { record: record.clone(), port: Some(port), published, watch })
    }

    /// Publishes again what a container had published. A port that somebody took meanwhile is told
    /// of and given up: the container is worth more than one of its ports.
    fn republish(&mut self, record: &mut ContainerRecord, to: IpAddr) -> Vec<Published> {
        let mut all = Vec::new();
        for mapping in record.published.clone() {
            match self.publish_all(&record.name, to, vec![mapping]) {
                Ok(mut published) => all.append(&mut published),
                Err(failure) => tracing::warn!("{} loses a port: {failure}", record.name),
            }
        }
        if all.len() < record.published.len() {
            record.published = all.iter().map(|published| published.mapping.clone()).collect();
            if let Err(error) = self.store.put_container(record) {
                tracing::error!("{error:#}");
            }
        }
        all
    }

    /// Reserves and serves the ports; the rules come into force with the container.
    fn publish_all(
        &mut self,
        name: &str,
        to: IpAddr,
        mappings: Vec<PortMapping>,
    ) -> Result<Vec<Published>, Failure> {
        let mappings: Vec<PortMapping> = mappings.into_iter().map(publish::normalized).collect();
        for (index, mapping) in mappings.iter().enumerate() {
            publish::check(mapping, to)?;
            self.refuse_taken(name, mapping, &mappings[..index])?;
        }
        let uplinks = self.uplinks.indexes();
        let reserved = mappings
            .iter()
            .map(|mapping| publish::reserve(mapping, to, &uplinks))
            .collect::<Result<Vec<Reservation>, Failure>>()?;
        let mut published = Vec::with_capacity(reserved.len());
        for reservation in reserved {
            self.next_rule += 1;
            published.push(reservation.serve(self.next_rule, to)?);
        }
        Ok(published)
    }

    /// Ports that pontoon itself holds: the user should hear for whom.
    fn refuse_taken(
        &self,
        name: &str,
        mapping: &PortMapping,
        earlier: &[PortMapping],
    ) -> Result<(), Failure> {
        let protocol = publish::protocol(mapping);
        let others = self.containers.iter().flat_map(|container| {
            let name = container.record.name.as_str();
            container.published.iter().map(move |published| (name, &published.mapping))
        });
        for (holder, other) in others.chain(earlier.iter().map(|other| (name, other))) {
            if let Some(port) = publish::overlap(mapping, other) {
                return Err(Failure::Conflict(format!(
                    "port {port}/{protocol} is published for container {holder} already \
                     ({}): choose another port, or unpublish it there",
                    publish::describe(other)
                )));
            }
        }
        if let Some(port) = self.snat.overlap(protocol, &publish::host_ports(mapping)) {
            return Err(Failure::Conflict(format!(
                "port {port}/{protocol} is held by pontoon for the containers' outgoing flows: \
                 choose another port"
            )));
        }
        Ok(())
    }

    fn published_address(&self, position: usize) -> Result<IpAddr, Failure> {
        let record = &self.containers[position].record;
        match &record.endpoint {
            Some(endpoint) => first_address(endpoint),
            None if record.status == Status::Exited => Err(Failure::Conflict(format!(
                "container {} has exited: it can publish nothing",
                record.name
            ))),
            None => Err(Failure::Invalid(format!(
                "container {} has no interface of its own ({}), so it can publish nothing",
                record.name,
                match &record.mode {
                    Mode::Host => "--net host".to_owned(),
                    Mode::None => "--net none".to_owned(),
                    Mode::Container(other) => format!("it shares the one of {other}"),
                    Mode::Network(network) => format!("network {network}"),
                }
            ))),
        }
    }

    fn allocate(
        &mut self,
        position: usize,
        wanted: Option<IpAddr>,
        holder: &str,
    ) -> Result<IpAddr, Failure> {
        let addresses = &mut self.networks[position].addresses;
        match wanted {
            Some(address) => {
                addresses.allocate_specific(address, holder).map_err(refused)?;
                Ok(address)
            }
            None => addresses.allocate(holder).map_err(refused),
        }
    }

    fn choose_mac(
        &self,
        position: usize,
        wanted: Option<&str>,
        address: IpAddr,
    ) -> Result<MacAddr, Failure> {
        let Some(wanted) = wanted else {
            return Ok(ipam::mac_for(address));
        };
        let mac: MacAddr = wanted
            .parse()
            .map_err(|error| Failure::Invalid(format!("{wanted:?} is no MAC address: {error}")))?;
        if !mac.is_unicast() || mac == MacAddr([0; 6]) {
            return Err(Failure::Invalid(format!("{mac} is no MAC address of a single interface")));
        }
        let network = &self.networks[position].record;
        let holder = self.containers.iter().find_map(|container| {
            let endpoint = container.record.endpoint.as_ref()?;
            (endpoint.network == network.id && endpoint.mac == mac)
                .then_some(container.record.name.as_str())
        });
        let holder = if mac == network.gateway_mac { Some("the gateway") } else { holder };
        match holder {
            None => Ok(mac),
            Some(holder) => Err(Failure::Conflict(format!(
                "{mac} is the MAC address of {holder} on network {}: choose another one",
                network.name
            ))),
        }
    }

    fn container_link(&self, position: usize, endpoint: &EndpointRecord) -> ContainerLink {
        let network = &self.networks[position];
        ContainerLink {
            name: endpoint.interface.clone(),
            mac: endpoint.mac,
            mtu: network.record.mtu,
            addresses: endpoint.addresses.clone(),
            gateways: endpoint
                .addresses
                .iter()
                .filter_map(|address| network.gateway_of(&address.trunc()))
                .collect(),
        }
    }

    /// Configuring an interface of the daemon's own namespace would cut the host off.
    fn refuse_own_namespace(&self, candidate: &Candidate) -> Result<(), Failure> {
        if candidate.identity.netns != self.netns {
            return Ok(());
        }
        Err(Failure::Invalid(format!(
            "{} is in the daemon's own network namespace: attach one of its own (unshare -n), or \
             use --net host",
            describe_target(&candidate.request.target)
        )))
    }

    fn refuse_attached_twice(
        &self,
        candidate: &Candidate,
        interface: &str,
    ) -> Result<(), Failure> {
        let other = self.containers.iter().find(|container| {
            let record = &container.record;
            record.identity.netns == candidate.identity.netns
                && record.endpoint.as_ref().is_some_and(|it| it.interface == interface)
        });
        match other {
            None => Ok(()),
            Some(other) => Err(Failure::Conflict(format!(
                "the namespace of {} has {interface} of container {} already: detach that, or \
                 choose another --interface",
                describe_target(&candidate.request.target),
                other.record.name
            ))),
        }
    }

    /// Records that a container is over. What is to be told of it further, if anything.
    fn record_end(&mut self, record: &ContainerRecord) -> Option<Container> {
        let (outcome, left) = if record.remove_on_exit {
            (self.store.remove_container(&record.id), None)
        } else {
            let exited = ContainerRecord {
                status: Status::Exited,
                endpoint: None,
                published: Vec::new(),
                ..record.clone()
            };
            (self.store.put_container(&exited), Some(Container::exited(exited)))
        };
        if let Err(error) = outcome {
            // The next start finds that it has ended once more.
            tracing::error!("{error:#}");
        }
        left
    }

    /// Takes away all that a container had, which is in no list any more. Rules go first, so that
    /// no new flow begins; then sockets, port and interface.
    fn disconnect(&mut self, container: Container) {
        self.apply();
        stop(container.published, |_| {});
        let Some(endpoint) = &container.record.endpoint else {
            return;
        };
        if let Some(port) = container.port {
            self.switch.remove_port(port);
        }
        self.remove_container_interface(&container.record, endpoint);
        let network = self.networks.iter_mut().find(|it| it.record.id == endpoint.network);
        for address in &endpoint.addresses {
            self.switch.nat().forget(self.switch.now(), address.addr());
        }
        if let Some(network) = network {
            for address in &endpoint.addresses {
                network.addresses.release(address.addr());
            }
        }
    }

    /// A veth goes with its host end. A TAP is inside the container, if that still lives; it may
    /// live on without its first process, for others that share it.
    fn remove_container_interface(&self, record: &ContainerRecord, endpoint: &EndpointRecord) {
        if let Some(host_end) = &endpoint.host_interface {
            remove_interface(host_end);
            return;
        }
        let netns = std::iter::once(record)
            .chain(self.containers.iter().map(|other| &other.record))
            .filter(|other| other.identity.netns == record.identity.netns)
            .filter(|other| other.status == Status::Running || other.id == record.id)
            .find_map(|other| {
                let (netns, identity) = life::identify(&other.target).ok()?;
                (identity == other.identity).then_some(netns)
            });
        if let Some(netns) = netns
            && let Err(error) = netns.run(|| remove_interface(&endpoint.interface))
        {
            tracing::warn!("{} of {} is left over: {error}", endpoint.interface, record.name);
        }
    }
}

impl Container {
    fn without_endpoint(record: ContainerRecord) -> Container {
        Container { record, port: None, published: Vec::new(), watch: None }
    }

    fn exited(record: ContainerRecord) -> Container {
        Container::without_endpoint(record)
    }
}

/// Stops relays and frees their ports. Called on a thread for blocking work.
fn stop(published: Vec<Published>, told: impl Fn(&PortMapping)) {
    let runtime = Handle::current();
    for published in published {
        told(&published.mapping);
        runtime.block_on(published.stop());
    }
}

fn first_address(endpoint: &EndpointRecord) -> Result<IpAddr, Failure> {
    endpoint
        .addresses
        .first()
        .map(IpNet::addr)
        .ok_or_else(|| Failure::Internal("the endpoint has no address".to_owned()))
}

fn describe_target(target: &Target) -> String {
    match target {
        Target::Pid(pid) => format!("process {pid}"),
        Target::Netns(path) => path.display().to_string(),
    }
}

fn published_list(mappings: &[PortMapping]) -> String {
    if mappings.is_empty() {
        return "it publishes nothing".to_owned();
    }
    let list: Vec<String> = mappings
        .iter()
        .map(|mapping| format!("{} to {}", publish::describe(mapping), mapping.container_port))
        .collect();
    format!("it publishes {}", list.join(", "))
}
