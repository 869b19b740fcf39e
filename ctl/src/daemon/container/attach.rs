//! Attaching a namespace as a container, in each of the four modes.
//!
//! All or nothing: what one step made, the failure of a later one takes away.

use std::io;

use ipnet::IpNet;
use switch::frame::MacAddr;

use super::Container;
use crate::api::{self, Attach, Mode, Status, Target};
use crate::daemon::failure::Failure;
use crate::daemon::interface::NewInterface;
use crate::daemon::life::{self, Identity};
use crate::daemon::network::{list, refused, remove_interface};
use crate::daemon::publish::Destination;
use crate::daemon::store::{ContainerRecord, EndpointRecord};
use crate::daemon::{Daemon, names, seconds_since_1970};
use crate::ipam::{self, IpamError};
use crate::link;
use crate::netns::Netns;

/// The interface's name inside a container whose user names none.
const INTERFACE: &str = "eth0";

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
            Err(Failure::Invalid(format!(
                "{option} can't go with {mode}: {why}"
            )))
        };
        if !self.request.publish.is_empty() {
            return refuse("-p", publish_why);
        }
        if !self.request.ips.is_empty() {
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
    pub(in crate::daemon) fn attach(&mut self, request: Attach) -> Result<api::Container, Failure> {
        let (netns, identity) = life::identify(&request.target)?;
        self.reap_predecessors(&request, &identity);
        let name = self.choose_name(request.name.as_deref())?;
        let candidate = Candidate {
            id: names::new_id()?,
            name,
            netns,
            identity,
            request,
        };
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
        let endpoint = container.record.endpoint.as_ref();
        match endpoint.map(|endpoint| list(&endpoint.addresses)) {
            Some(addresses) => tracing::info!("{} is attached, {addresses}", container.record.name),
            None => tracing::info!("{} is attached, --net {mode}", container.record.name),
        }
        self.containers.push(container);
        self.apply();
        self.tell_container(&id)
    }

    /// Names, addresses and the numbers of namespaces are taken again at once by who comes next,
    /// before the end of the one that had them is known.
    fn reap_predecessors(&mut self, request: &Attach, identity: &Identity) {
        self.reap(|container| {
            let record = &container.record;
            let has = |ip| {
                let endpoint = record.endpoint.as_ref();
                endpoint.is_some_and(|it| it.addresses.iter().any(|net| net.addr() == ip))
            };
            record.identity.netns == identity.netns
                || request.name.as_ref() == Some(&record.name)
                || request.ips.iter().any(|ip| has(*ip))
                || request.mac.is_some()
        });
    }

    fn choose_name(&self, wanted: Option<&str>) -> Result<String, Failure> {
        let taken = |name: &str| {
            self.containers
                .iter()
                .find(|container| container.record.name == name)
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
                    Status::Exited => {
                        "it has exited: remove it (pontoon rm), or choose another name"
                    }
                };
                Err(Failure::Conflict(format!(
                    "there is a container {name} already: {advice}"
                )))
            }
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
        candidate
            .netns
            .run(|| link::set_up("lo"))?
            .map_err(io::Error::from)?;
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
        let interface = request
            .interface
            .clone()
            .unwrap_or_else(|| INTERFACE.to_owned());
        self.refuse_attached_twice(candidate, &interface)?;
        let position = self.find_network(wanted)?;
        let addresses = match self.allocate(position, candidate) {
            Err(IpamError::Full { .. }) => {
                // Somebody may have gone unnoticed.
                self.reap(|_| true);
                self.allocate(position, candidate)
            }
            allocated => allocated,
        }
        .map_err(refused)?;

        let attached = self
            .choose_mac(position, request.mac.as_deref(), &addresses)
            .and_then(|mac| {
                let endpoint = EndpointRecord {
                    network: self.networks[position].record.id.clone(),
                    interface,
                    mac,
                    addresses: addresses.clone(),
                    port_kind: kind,
                    host_interface: None,
                };
                self.connect(candidate, position, endpoint)
            });
        if attached.is_err() {
            self.networks[position].addresses.release(&addresses);
        }
        attached
    }

    fn allocate(
        &mut self,
        position: usize,
        candidate: &Candidate,
    ) -> Result<Vec<IpNet>, IpamError> {
        let ips = &candidate.request.ips;
        self.networks[position]
            .addresses
            .allocate(ips, &candidate.name)
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
        let to = Destination::of(&endpoint.addresses);
        // First, because it is what fails most.
        let published = self.publish_all(&candidate.name, to, candidate.request.publish.clone())?;

        let workers = self.switch.workers();
        let made = NewInterface::create(endpoint.port_kind, &candidate.id, workers, mtu)?;
        endpoint.host_interface = made.host_interface.clone();
        link::move_to(&made.name, &candidate.netns).map_err(io::Error::from)?;
        link::configure_container(&candidate.netns, &made.name, &link).map_err(io::Error::from)?;

        let mut record = candidate.record(mode, Some(endpoint));
        record.published = published
            .iter()
            .map(|published| published.mapping.clone())
            .collect();
        self.store.put_container(&record)?;
        match made.keep().and_then(|queues| self.switch.add_port(queues)) {
            Ok(port) => Ok(Container {
                record,
                port: Some(port),
                published,
                watch: None,
            }),
            Err(error) => {
                let _ = candidate.netns.run(|| remove_interface(&link.name));
                if let Err(error) = self.store.remove_container(&record.id) {
                    tracing::error!("{error:#}; the next start drops it");
                }
                Err(error.into())
            }
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
                Failure::Invalid(format!("{wanted:?} is no MAC address: {error}"))
            })?,
            (None, Some(first)) => ipam::mac_for(first.addr()),
            (None, None) => {
                return Err(Failure::Internal("an endpoint without address".to_owned()));
            }
        };
        if !mac.is_unicast() || mac == MacAddr([0; 6]) {
            return Err(Failure::Invalid(format!(
                "{mac} is no MAC address of a single interface"
            )));
        }
        let network = &self.networks[position].record;
        let holder = self.containers.iter().find_map(|container| {
            let endpoint = container.record.endpoint.as_ref()?;
            (endpoint.network == network.id && endpoint.mac == mac)
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

    fn refuse_attached_twice(&self, candidate: &Candidate, interface: &str) -> Result<(), Failure> {
        let other = self.containers.iter().find(|container| {
            let record = &container.record;
            record.identity.netns == candidate.identity.netns
                && record
                    .endpoint
                    .as_ref()
                    .is_some_and(|it| it.interface == interface)
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
}

fn describe_target(target: &Target) -> String {
    match target {
        Target::Pid(pid) => format!("process {pid}"),
        Target::Netns(path) => path.display().to_string(),
    }
}
