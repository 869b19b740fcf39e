//! What a daemon before this one left: taken up, made anew where it is not there, or taken away
//! where it is nobody's any more.
//!
//! What a container has in the kernel is found by several threads at a time ([`find`]), since it is
//! silent until then; most of it is waiting for the kernel's lock on interfaces. Whether each
//! interface still has the addresses and routes it should have is looked at when frames are carried
//! again ([`Daemon::settle`]).

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::endpoint::Place;
use super::{Container, Plug, remove_tap};
use crate::api::{EventAction, EventKind, Status};
use crate::daemon::Daemon;
use crate::daemon::command;
use crate::daemon::events::event;
use crate::daemon::failure::Failure;
use crate::daemon::interface::{self, Adopted};
use crate::daemon::life;
use crate::daemon::network::{refused, remove_interface};
use crate::daemon::store::ContainerRecord;
use crate::link::{self, ContainerLink};
use crate::netns::Netns;

/// Threads that look for containers. More would wait for the same lock.
const THREADS: usize = 4;

/// Interfaces that are looked at before others have their turn.
const AT_ONCE: usize = 32;

/// What a container has in the kernel.
pub(in crate::daemon) struct Found {
    netns: Netns,
    /// One for each of its endpoints.
    interfaces: Vec<io::Result<Adopted>>,
}

/// Looks for what the containers have, each with the outcome. `mtus` are those of networks by id,
/// `home` is the host's namespace.
pub(in crate::daemon) fn find(
    records: Vec<ContainerRecord>,
    workers: usize,
    mtus: &HashMap<String, u32>,
    home: &Netns,
) -> Vec<(ContainerRecord, Result<Found, Failure>)> {
    let next = AtomicUsize::new(0);
    let search = || {
        let mut found = Vec::new();
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(record) = records.get(at)
        {
            if record.status != Status::Exited {
                found.push((at, find_one(record, workers, mtus, home)));
            }
        }
        found
    };
    let mut outcomes: HashMap<usize, Result<Found, Failure>> = thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| scope.spawn(search));
        let found = threads.map(|it| {
            it.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        found.into_iter().flatten().collect()
    });
    let ended = || Err(Failure::NotFound("it has exited".to_owned()));
    let outcomes: Vec<_> = (0..records.len())
        .map(|at| outcomes.remove(&at).unwrap_or_else(ended))
        .collect();
    records.into_iter().zip(outcomes).collect()
}

fn find_one(
    record: &ContainerRecord,
    workers: usize,
    mtus: &HashMap<String, u32>,
    home: &Netns,
) -> Result<Found, Failure> {
    if let Some(why) = life::why_gone(&record.target, &record.identity) {
        return Err(Failure::NotFound(why));
    }
    let (netns, identity) = life::identify(&record.target)?;
    if identity != record.identity {
        return Err(Failure::NotFound(
            "its namespace is another one now".to_owned(),
        ));
    }
    let endpoints = record.endpoints.iter();
    let interfaces = endpoints.map(|endpoint| {
        let mtu = mtus.get(&endpoint.network).copied().unwrap_or(1500);
        let host_end = endpoint.host_interface.as_deref();
        let netns = (home, &netns);
        interface::adopt(netns, &endpoint.interface, host_end, workers, mtu)
    });
    Ok(Found {
        interfaces: interfaces.collect(),
        netns,
    })
}

impl Daemon {
    /// Takes up a container that a daemon before this one attached, or tells why it can't be.
    pub(in crate::daemon) fn adopt(
        &mut self,
        mut record: ContainerRecord,
        found: Result<Found, Failure>,
    ) {
        if record.status == Status::Exited {
            self.containers.push(Container::exited(record));
            return;
        }
        match found.and_then(|found| self.try_adopt(&mut record, found)) {
            Ok(container) => {
                tracing::debug!("{} is adopted", record.name);
                self.unsettled.push(record.id);
                self.containers.push(container);
            }
            Err(why) => {
                tracing::warn!("{} is not adopted: {why}", record.name);
                let mut ended = event(EventKind::Container, EventAction::Ended, &record.name);
                ended.id = Some(record.id.clone());
                ended.reason = Some(why.to_string());
                self.news.push(ended);
                // Before the record: who dies in between finds it once more.
                let command = record.process.iter().filter(|it| it.is_alive());
                command::end(&record.identity.boot, command);
                self.remove_remains(&record);
                if let Some(exited) = self.record_end(&record) {
                    self.containers.push(exited);
                }
            }
        }
    }

    fn try_adopt(
        &mut self,
        record: &mut ContainerRecord,
        found: Found,
    ) -> Result<Container, Failure> {
        let watch = self.watch(&record.id, &record.target)?;
        let mut plugs = Vec::with_capacity(record.endpoints.len());
        for (at, interface) in found.interfaces.into_iter().enumerate() {
            match self.adopt_endpoint(&found.netns, record, at, interface) {
                Ok(plug) => plugs.push(plug),
                Err(error) => {
                    self.outlive(&plugs, false);
                    for (endpoint, plug) in record.endpoints.iter().zip(plugs) {
                        self.switch.remove_port(plug.port);
                        self.release(endpoint);
                    }
                    return Err(error);
                }
            }
        }
        let (published, pending) = match self.reached(&record.endpoints) {
            Some(to) => self.republish(record, to),
            None => (Vec::new(), Vec::new()),
        };
        Ok(Container {
            record: Arc::new(record.clone()),
            plugs,
            published,
            pending,
            watch,
        })
    }

    /// Takes up an endpoint that a daemon before this one made. Its interface is made anew if it is
    /// not there: somebody has removed it, or that daemon died between the record and the interface.
    fn adopt_endpoint(
        &mut self,
        netns: &Netns,
        record: &mut ContainerRecord,
        at: usize,
        interface: io::Result<Adopted>,
    ) -> Result<Plug, Failure> {
        let endpoint = record.endpoints[at].clone();
        let position = self.find_network(&endpoint.network)?;
        let addresses: Vec<IpAddr> = endpoint.addresses.iter().map(IpNet::addr).collect();
        self.networks[position]
            .addresses
            .hold(&addresses, &record.name)
            .map_err(refused)?;
        let plug = interface.and_then(|it| {
            Ok(Plug {
                port: self.switch.add_port(it.queues)?,
                ifindex: it.ifindex,
                host_ifindex: it.host_ifindex,
            })
        });
        let adopted = match plug {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let link = self.routed_link(&record.endpoints, at);
                self.make_anew(netns, record, at, &link)
            }
            other => other.map_err(Failure::from),
        };
        if adopted.is_err() {
            self.release(&endpoint);
        }
        adopted
    }

    /// Makes adopted interfaces what they should be, if somebody has changed them while no daemon
    /// ran: some of them at each call; false when there are no more.
    pub(in crate::daemon) fn settle(&mut self) -> bool {
        for _ in 0..AT_ONCE {
            let Some(id) = self.unsettled.pop() else {
                return false;
            };
            let mut containers = self.containers.iter();
            if let Some(container) = containers.find(|it| it.record.id == id)
                && container.record.status == Status::Running
                && let Err(failure) = self.settle_container(&container.record)
            {
                let name = &container.record.name;
                tracing::warn!("an interface of {name} is not as it should be: {failure}");
            }
        }
        true
    }

    fn settle_container(&self, record: &ContainerRecord) -> Result<(), Failure> {
        let (netns, identity) = life::identify(&record.target)?;
        if identity != record.identity {
            return Ok(());
        }
        for (at, endpoint) in record.endpoints.iter().enumerate() {
            let link = self.routed_link(&record.endpoints, at);
            link::configure_container(&netns, &endpoint.interface, &link)
                .map_err(io::Error::from)?;
        }
        Ok(())
    }

    fn make_anew(
        &mut self,
        netns: &Netns,
        record: &mut ContainerRecord,
        at: usize,
        link: &ContainerLink,
    ) -> Result<Plug, Failure> {
        let mut siblings = record.endpoints.clone();
        let mut endpoint = siblings.remove(at);
        // Its other end may have been renamed inside.
        if let Some(host_end) = &endpoint.host_interface {
            remove_interface(host_end);
        }
        let place = Place {
            id: &record.id,
            name: &record.name,
            netns,
            target: &record.target,
        };
        let made = self.make_interface(&place, &mut endpoint, &siblings, link)?;
        if record.endpoints[at] != endpoint {
            let mut changed = record.clone();
            changed.endpoints[at] = endpoint;
            if let Err(error) = self.store.put_container(&changed) {
                self.unmake(&place, made);
                return Err(error.into());
            }
            *record = changed;
        }
        made.new.keep();
        self.outlive(&[made.plug], true);
        let interface = &record.endpoints[at].interface;
        tracing::warn!(
            "{interface} of {} was not there; it is made anew",
            record.name
        );
        let mut restored = event(EventKind::Endpoint, EventAction::Restored, &record.name);
        restored.id = Some(record.id.clone());
        let network = &record.endpoints[at].network;
        let mut networks = self.networks.iter().map(|it| &it.record);
        restored.network = networks
            .find(|it| it.id == *network)
            .map(|it| it.name.clone());
        restored.addresses = link.addresses.iter().map(IpNet::addr).collect();
        restored.reason = Some(format!("{interface} had vanished while no daemon ran"));
        self.news.push(restored);
        Ok(made.plug)
    }

    /// Removes the interfaces that an earlier daemon has made and nobody takes up. The namespace may
    /// live on without what was attached, for processes that nobody told of.
    fn remove_remains(&self, record: &ContainerRecord) {
        let host_ends = record.endpoints.iter().map(|it| &it.host_interface);
        host_ends.flatten().for_each(|name| remove_interface(name));
        let mut taps = record.endpoints.iter();
        if taps.any(|it| it.host_interface.is_none())
            && let Some(netns) = life::find_namespace(&record.identity)
        {
            for endpoint in &record.endpoints {
                remove_tap(&netns, endpoint);
            }
        }
    }
}
