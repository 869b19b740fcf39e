//! What a daemon before this one left: taken up, made anew where it is not there, or taken away
//! where it is nobody's any more.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::endpoint::Place;
use super::{Container, Plug, remove_tap};
use crate::api::{EventAction, EventKind, Status};
use crate::daemon::Daemon;
use crate::daemon::command;
use crate::daemon::events::event;
use crate::daemon::failure::Failure;
use crate::daemon::interface;
use crate::daemon::life;
use crate::daemon::network::{refused, remove_interface};
use crate::daemon::store::{ContainerRecord, EndpointRecord};
use crate::link::{self, ContainerLink};
use crate::netns::Netns;

impl Daemon {
    /// Takes up a container that a daemon before this one attached, or tells why it can't be.
    pub(in crate::daemon) fn adopt(&mut self, mut record: ContainerRecord) {
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

    fn try_adopt(&mut self, record: &mut ContainerRecord) -> Result<Container, Failure> {
        if let Some(why) = life::why_gone(&record.target, &record.identity) {
            return Err(Failure::NotFound(why));
        }
        let (netns, identity) = life::identify(&record.target)?;
        if identity != record.identity {
            return Err(Failure::NotFound(
                "its namespace is another one now".to_owned(),
            ));
        }
        let watch = self.watch(&record.id, &record.target)?;
        let mut plugs = Vec::with_capacity(record.endpoints.len());
        for at in 0..record.endpoints.len() {
            match self.adopt_endpoint(&netns, record, at) {
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
        let published = match self.reached(&record.endpoints) {
            Some(to) => self.republish(record, to),
            None => Vec::new(),
        };
        Ok(Container {
            record: Arc::new(record.clone()),
            plugs,
            published,
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
    ) -> Result<Plug, Failure> {
        let endpoint = record.endpoints[at].clone();
        let position = self.find_network(&endpoint.network)?;
        let addresses: Vec<IpAddr> = endpoint.addresses.iter().map(IpNet::addr).collect();
        self.networks[position]
            .addresses
            .hold(&addresses, &record.name)
            .map_err(refused)?;
        let link = self.routed_link(&record.endpoints, at);
        let adopted = match self.take_up(netns, &endpoint, &link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_anew(netns, record, at, &link)
            }
            other => other.map_err(Failure::from),
        };
        if adopted.is_err() {
            self.release(&endpoint);
        }
        adopted
    }

    fn take_up(
        &self,
        netns: &Netns,
        endpoint: &EndpointRecord,
        link: &ContainerLink,
    ) -> io::Result<Plug> {
        let host_interface = endpoint.host_interface.as_deref();
        let workers = self.switch.workers();
        let queues = interface::adopt(
            netns,
            &endpoint.interface,
            host_interface,
            workers,
            link.mtu,
        )?;
        let info = link::configure_container(netns, &endpoint.interface, link)?;
        Ok(Plug {
            port: self.switch.add_port(queues)?,
            ifindex: info.index,
            host_ifindex: info.peer_index.filter(|_| host_interface.is_some()),
        })
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
