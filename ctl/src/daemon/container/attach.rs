//! Attaching a namespace as a container, in each of the four modes.
//!
//! All or nothing: what one step made, the failure of a later one takes away.

use std::sync::Arc;
use std::{io, iter};

use super::Container;
use super::endpoint::Place;
use super::ports::no_way_in;
use crate::api::{self, Attach, Connect, Mode, NameSettings, Status, Target};
use crate::daemon::command::CommandProcess;
use crate::daemon::failure::Failure;
use crate::daemon::life::{self, Identity};
use crate::daemon::network::{by_id, list};
use crate::daemon::store::{ContainerRecord, EndpointRecord};
use crate::daemon::{Daemon, names, seconds_since_1970};
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
    process: Option<CommandProcess>,
    request: Attach,
}

impl Candidate {
    fn record(&self, mode: Mode) -> ContainerRecord {
        ContainerRecord {
            id: self.id.clone(),
            name: self.name.clone(),
            mode,
            target: self.request.target.clone(),
            identity: self.identity.clone(),
            command: self.request.command.clone(),
            created: seconds_since_1970(),
            status: Status::Running,
            exit_code: None,
            endpoints: Vec::new(),
            published: Vec::new(),
            names: self.request.names.clone(),
            remove_on_exit: self.request.remove_on_exit,
            supervised: self.request.supervised,
            process: self.process.clone(),
        }
    }

    fn place(&self) -> Place<'_> {
        Place {
            id: &self.id,
            name: &self.name,
            netns: &self.netns,
            target: &self.request.target,
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
        if !self.request.limits.is_none() {
            return refuse("--rate-in…", "the container gets no interface");
        }
        if !self.request.aliases.is_empty() {
            return refuse("--alias", "the container is on no network");
        }
        if let Some(other) = self.request.also.first() {
            let why = format!("it is one mode, and network {} is another", other.network);
            return refuse("--net twice", &why);
        }
        Ok(())
    }

    /// Options of names, in a mode that has those of somebody else.
    fn refuse_names(&self, mode: &str, whose: &str) -> Result<(), Failure> {
        if self.request.names == NameSettings::default() {
            return Ok(());
        }
        Err(Failure::Invalid(format!(
            "--hostname, --add-host and --dns… can't go with {mode}: the container has the names \
             and servers of {whose}"
        )))
    }
}

impl Daemon {
    /// Attaches a namespace as a new container.
    pub(in crate::daemon) fn attach(&mut self, request: Attach) -> Result<api::Container, Failure> {
        let (netns, identity) = life::identify(&request.target)?;
        let process = match (&request.target, request.process) {
            (Target::Pid(supervisor), Some(told)) if request.supervised => {
                Some(CommandProcess::child_of(*supervisor, told)?)
            }
            _ => None,
        };
        self.reap_predecessors(&request, &identity);
        self.clear(identity.netns);
        let name = self.choose_name(request.name.as_deref())?;
        let candidate = Candidate {
            id: names::new_id()?,
            name,
            netns,
            identity,
            process,
            request,
        };
        let watch = self.watch(&candidate.id, &candidate.request.target)?;
        let mode = candidate.request.mode.clone();
        let mut container = match &mode {
            Mode::Network(network) => self.attach_to_networks(&candidate, network)?,
            Mode::Host => self.attach_host(&candidate)?,
            Mode::None => self.attach_nothing(&candidate)?,
            Mode::Container(other) => self.attach_sharing(&candidate, other)?,
        };
        container.watch = watch;
        let id = candidate.id;
        let endpoints = container.record.endpoints.iter();
        let addresses: Vec<_> = endpoints.flat_map(|it| &it.addresses).collect();
        if addresses.is_empty() {
            tracing::info!("{} is attached, --net {mode}", container.record.name);
        } else {
            tracing::info!(
                "{} is attached, {}",
                container.record.name,
                list(&addresses)
            );
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
                let mut addresses = record.endpoints.iter().flat_map(|it| &it.addresses);
                addresses.any(|net| net.addr() == ip)
            };
            let mut asked = request.also.iter();
            record.identity.netns == identity.netns
                || request.name.as_ref() == Some(&record.name)
                || request.ips.iter().any(|ip| has(*ip))
                || request.mac.is_some()
                || asked.any(|it| it.mac.is_some() || it.ips.iter().any(|ip| has(*ip)))
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
        candidate.refuse_names("--net host", "the host")?;
        if candidate.identity.netns != self.netns {
            return Err(Failure::Invalid(format!(
                "{} is not in the host's network namespace, which --net host means",
                describe_target(&candidate.request.target)
            )));
        }
        let record = candidate.record(Mode::Host);
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
        let record = candidate.record(Mode::None);
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
        candidate.refuse_names(&mode, wanted)?;
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
        let record = candidate.record(Mode::Container(other.name.clone()));
        self.store.put_container(&record)?;
        Ok(Container::without_endpoint(record))
    }

    fn attach_to_networks(
        &mut self,
        candidate: &Candidate,
        first: &str,
    ) -> Result<Container, Failure> {
        self.refuse_own_namespace(candidate)?;
        let request = &candidate.request;
        let first = Connect {
            network: first.to_owned(),
            port_kind: request.port_kind,
            ips: request.ips.clone(),
            mac: request.mac.clone(),
            interface: request.interface.clone(),
            aliases: request.aliases.clone(),
            gateway_priority: request.gateway_priority,
            limits: request.limits.clone(),
        };
        let place = candidate.place();
        let mut endpoints = Vec::with_capacity(1 + request.also.len());
        for (at, connect) in iter::once(&first).chain(&request.also).enumerate() {
            let mut connect = connect.clone();
            connect.port_kind = connect.port_kind.or(request.port_kind);
            if at == 0 && connect.interface.is_none() {
                connect.interface = Some(INTERFACE.to_owned());
            }
            match self.plan_endpoint(&place, &connect, &endpoints) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(failure) => {
                    endpoints.iter().for_each(|it| self.release(it));
                    return Err(failure);
                }
            }
        }
        let attached = self.make_container(candidate, endpoints.clone());
        if attached.is_err() {
            endpoints.iter().for_each(|it| self.release(it));
        }
        attached
    }

    /// Makes the published ports, the interfaces, the switch's ports and the record.
    fn make_container(
        &mut self,
        candidate: &Candidate,
        endpoints: Vec<EndpointRecord>,
    ) -> Result<Container, Failure> {
        let mode = match self.network_name(&endpoints) {
            Some(name) => Mode::Network(name),
            None => candidate.request.mode.clone(),
        };
        let mut record = candidate.record(mode);
        if record.names.search.is_none() {
            record.names.search = self.search_domains(&endpoints);
        }
        // First, because it is what fails most.
        let mappings = candidate.request.publish.clone();
        let published = match self.reached(&endpoints) {
            _ if mappings.is_empty() => Vec::new(),
            Some(to) => self.publish_all(&candidate.name, to, mappings)?,
            None => return Err(no_way_in(&candidate.name)),
        };
        record.published = published
            .iter()
            .map(|published| published.mapping.clone())
            .collect();
        let plugs = self.plug(&candidate.place(), &mut record, endpoints)?;
        Ok(Container {
            record: Arc::new(record),
            plugs,
            published,
            pending: Vec::new(),
            watch: None,
        })
    }

    /// Those of the first network that says some.
    fn search_domains(&self, endpoints: &[EndpointRecord]) -> Option<Vec<String>> {
        endpoints.iter().find_map(|endpoint| {
            let network = by_id(&self.networks, &endpoint.network)?;
            network.record.options.dns_search.clone()
        })
    }

    /// The first endpoint's.
    fn network_name(&self, endpoints: &[EndpointRecord]) -> Option<String> {
        let network = by_id(&self.networks, &endpoints.first()?.network)?;
        Some(network.record.name.clone())
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
}

pub(super) fn describe_target(target: &Target) -> String {
    match target {
        Target::Pid(pid) => format!("process {pid}"),
        Target::Netns(path) => path.display().to_string(),
    }
}
