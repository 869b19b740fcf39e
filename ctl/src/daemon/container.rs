//! Containers: their lists and their ends. How one begins is in [`attach`], how the next daemon takes
//! it up in [`adopt`], how it comes on a network and off it in [`endpoint`], and what it publishes in
//! [`ports`].

use std::io;
use std::sync::Arc;

use switch::PortId;
use tokio::runtime::Handle;

use super::command::{self, CommandProcess};
use super::events::event;
use super::failure::Failure;
use super::life::{self, Watch};
use super::network::remove_interface;
use super::publish::Published;
use super::remains::Interface;
use super::store::{ContainerRecord, EndpointRecord};
use super::{Daemon, names};
use crate::api::{self, EventAction, EventKind, PortMapping, Status, Target};
use crate::link;
use crate::netns::Netns;
use crate::signals::{self, SignalNumber};

mod adopt;
mod attach;
mod endpoint;
mod ports;

pub(super) use adopt::find;

/// The exit code of a command that SIGKILL ended.
const KILLED: u8 = 128 + 9;

pub(super) struct Container {
    /// Shared with what was made of it, which is fresh as long as it is the same.
    pub record: Arc<ContainerRecord>,
    /// One for each of the record's endpoints, in their order.
    pub plugs: Vec<Plug>,
    pub published: Vec<Published>,
    /// What else its record says that it publishes, and could not be had (yet).
    pub pending: Vec<PortMapping>,
    /// None for a namespace given by path, and once the container has ended.
    pub watch: Option<Watch>,
}

/// Where an endpoint meets switch and kernel, in this life of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plug {
    pub port: PortId,
    /// Index of the interface in the container's namespace.
    pub ifindex: u32,
    /// Index of the host's end of the veth pair; a TAP has none.
    pub host_ifindex: Option<u32>,
}

impl Daemon {
    /// Takes a container off its networks and forgets it. What was attached goes on; a command that
    /// `pontoon run` started ends, since nobody could end it by its container's name any more. One
    /// whose namespace others share is detached only by `force`: they lose their network.
    pub(super) fn detach(&mut self, wanted: &str, force: bool) -> Result<api::Container, Failure> {
        let position = self.find_container(wanted)?;
        let id = self.containers[position].record.id.clone();
        let told = self.tell_container(&id)?;
        if !told.joined.is_empty() && !force {
            return Err(Failure::Conflict(format!(
                "container {} shares its network namespace with {}: end or detach those first, or \
                 leave them without a network (--force)",
                told.name,
                told.joined.join(", ")
            )));
        }
        let plugs = self.containers[position].plugs.clone();
        self.record_leave(&plugs, |store| store.remove_container(&id))?;
        let container = self.containers.remove(position);
        tracing::info!("{} is detached", container.record.name);
        let record = &container.record;
        if record.status == Status::Running {
            command::end(&record.identity.boot, &record.process);
        }
        self.take_away(vec![container]);
        Ok(told)
    }

    /// A container's process or namespace is no more: its address and ports are free again, and it
    /// is forgotten, or told of as exited if its user wants that.
    pub(super) fn end(&mut self, id: &str, why: &str) {
        self.end_all([(id.to_owned(), why.to_owned())]);
    }

    /// Containers that have ended, and why. What is left is described once, however many they are.
    pub(super) fn end_all(&mut self, ended: impl IntoIterator<Item = (String, String)>) {
        let ended = ended.into_iter();
        let ended: Vec<Container> = ended
            .filter_map(|(id, why)| self.take_ended(&id, &why))
            .collect();
        // A supervisor that told of the end has seen to the rest of its command.
        let unsupervised = ended.iter().filter(|it| it.record.exit_code.is_none());
        let commands: Vec<&CommandProcess> = unsupervised
            .filter_map(|container| container.record.process.as_ref())
            .collect();
        if let Some(container) = ended.first() {
            command::end(&container.record.identity.boot, commands);
        }
        self.take_away(ended);
    }

    fn take_ended(&mut self, id: &str, why: &str) -> Option<Container> {
        let running = |container: &Container| {
            container.record.id == id && container.record.status == Status::Running
        };
        let position = self.containers.iter().position(running)?;
        let container = self.containers.remove(position);
        tracing::info!("{} has ended: {why}", container.record.name);
        if let Ok(told) = self.tell_container(id)
            && !told.joined.is_empty()
        {
            let joined = told.joined.join(", ");
            tracing::warn!("{joined} shared its namespace, and live on without a network");
        }
        let mut ended = event(
            EventKind::Container,
            EventAction::Ended,
            &container.record.name,
        );
        ended.id = Some(container.record.id.clone());
        ended.exit_code = container.record.exit_code;
        ended.reason = Some(why.to_owned());
        self.news.push(ended);
        self.outlive(&container.plugs, false);
        if let Some(exited) = self.record_end(&container.record) {
            self.containers.insert(position, exited);
        }
        Some(container)
    }

    /// The supervisor of a container's command tells how the command ended.
    pub(super) fn exited(&mut self, wanted: &str, exit_code: u8) -> Result<api::Exit, Failure> {
        let position = self.find_container(wanted)?;
        let record = &mut self.containers[position].record;
        let exit = api::Exit {
            id: record.id.clone(),
            name: record.name.clone(),
            exit_code: Some(exit_code),
        };
        if record.status == Status::Running {
            Arc::make_mut(record).exit_code = Some(exit_code);
            self.end(&exit.id, "its command has ended");
        }
        Ok(exit)
    }

    /// Sends a signal to the command of a container that `pontoon run` started.
    pub(super) fn kill(&mut self, wanted: &str, signal: &str) -> Result<api::Container, Failure> {
        let signal = signals::signal(signal).map_err(Failure::Invalid)?;
        let position = self.find_container(wanted)?;
        let record = &mut self.containers[position].record;
        let name = &record.name;
        if record.status == Status::Exited {
            return Err(Failure::Conflict(format!(
                "container {name} has exited already"
            )));
        }
        let (Target::Pid(pid), true) = (&record.target, record.supervised) else {
            return Err(Failure::Conflict(format!(
                "container {name} was attached, not run: pontoon did not start its processes \
                 and does not end them; pontoon detach removes its network"
            )));
        };
        let supervisor = |signal| match record.identity.started {
            Some(started) => life::send_signal(*pid, started, signal),
            None => Err(Failure::NotFound(format!("there is no process {pid}"))),
        };
        match &record.process {
            Some(command) => {
                command.send(signal)?;
                if signal == SignalNumber::KILL {
                    // It may be stopped, as from a terminal, and is to tell of the end.
                    let _ = supervisor(SignalNumber::CONTINUE);
                }
            }
            None => {
                supervisor(signal)?;
                if signal == SignalNumber::KILL {
                    // The supervisor can't tell any more.
                    Arc::make_mut(record).exit_code = Some(KILLED);
                }
            }
        }
        tracing::info!("{} is sent {signal}", record.name);
        let id = record.id.clone();
        self.tell_container(&id)
    }

    /// Ends the containers whose end nothing else tells of: a namespace's path that leads
    /// elsewhere now, a process on a kernel without pidfds.
    pub(super) fn sweep(&mut self) {
        self.reap(|container| container.watch.is_none());
        self.resolver.retry(&self.networks);
        if self.retry_ports() {
            self.apply();
        }
        self.look_after_ports();
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
        self.end_all(gone);
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

    fn watch(&self, id: &str, target: &Target) -> io::Result<Option<Watch>> {
        match target {
            Target::Pid(pid) => life::watch_process(*pid, id.to_owned(), self.ends.clone()),
            Target::Netns(_) => Ok(None),
        }
    }

    /// Records that a container is over. What is to be told of it further, if anything.
    fn record_end(&mut self, record: &ContainerRecord) -> Option<Container> {
        let (outcome, left) = if record.remove_on_exit {
            (self.store.remove_container(&record.id), None)
        } else {
            let exited = ContainerRecord {
                status: Status::Exited,
                endpoints: Vec::new(),
                published: Vec::new(),
                ..record.clone()
            };
            (
                self.store.put_container(&exited),
                Some(Container::exited(exited)),
            )
        };
        if let Err(error) = outcome {
            // The next start finds that it has ended once more.
            tracing::error!("{error:#}");
        }
        left
    }

    /// Takes away all that a container had, which is in no list any more. Rules go first, so that
    /// no new flow begins; then sockets, port and interface.
    fn take_away(&mut self, containers: Vec<Container>) {
        if containers.is_empty() {
            return;
        }
        self.apply();
        for container in containers {
            stop(container.published);
            let record = &container.record;
            for (endpoint, plug) in record.endpoints.iter().zip(container.plugs) {
                self.unplug(record, endpoint, plug);
            }
        }
    }

    /// The interface of an endpoint that is to go.
    fn remaining_interface(
        &self,
        record: &ContainerRecord,
        endpoint: &EndpointRecord,
    ) -> Interface {
        if let Some(host_end) = &endpoint.host_interface {
            return Interface::OfHost(host_end.clone());
        }
        // Others that share the namespace may outlive its first process.
        let netns = std::iter::once(record)
            .chain(self.containers.iter().map(|other| &*other.record))
            .filter(|other| other.identity.netns == record.identity.netns)
            .filter(|other| other.status == Status::Running || other.id == record.id)
            .find_map(|other| {
                let (netns, identity) = life::identify(&other.target).ok()?;
                (identity == other.identity).then_some(netns)
            });
        match netns {
            Some(netns) => Interface::Tap(netns, Box::new(endpoint.clone())),
            None => Interface::Gone,
        }
    }
}

/// Removes an endpoint's TAP from a namespace that was the container's. The number of that may be
/// another's by now, so the address must be the same too.
pub(super) fn remove_tap(netns: &Netns, endpoint: &EndpointRecord) {
    let name = &endpoint.interface;
    let removed = netns.run(|| match link::link_info(name) {
        Ok(info) if info.kind == "tun" && info.mac == endpoint.mac => remove_interface(name),
        _ => {}
    });
    if let Err(error) = removed {
        tracing::warn!("{name} with {} is left over: {error}", endpoint.mac);
    }
}

impl Container {
    fn without_endpoint(record: ContainerRecord) -> Container {
        Container {
            record: Arc::new(record),
            plugs: Vec::new(),
            published: Vec::new(),
            pending: Vec::new(),
            watch: None,
        }
    }

    fn exited(record: ContainerRecord) -> Container {
        Container::without_endpoint(record)
    }
}

/// Stops relays and frees their ports. Called on a thread for blocking work.
fn stop(published: Vec<Published>) {
    let endings: Vec<_> = published.into_iter().map(Published::stop).collect();
    Handle::current().block_on(async {
        for ending in endings {
            ending.await;
        }
    });
}
