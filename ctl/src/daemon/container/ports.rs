//! Published ports of containers: all of a request, or none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use switch::io::filter::local_only_filter;

use super::stop;
use crate::api::{self, EventAction, EventKind, Mode, PortMapping, Protocol, Status};
use crate::daemon::Daemon;
use crate::daemon::events::event;
use crate::daemon::failure::Failure;
use crate::daemon::publish::{self, Claim, Destination, Published, Reservation};
use crate::daemon::store::ContainerRecord;

impl Daemon {
    /// Publishes more ports of a running container, all of them or none. Of ports that it publishes
    /// already this changes whom they are for.
    pub(in crate::daemon) fn publish(
        &mut self,
        wanted: &str,
        mappings: Vec<PortMapping>,
    ) -> Result<api::Container, Failure> {
        let position = self.find_container(wanted)?;
        let container = &self.containers[position];
        let (id, name) = (container.record.id.clone(), container.record.name.clone());
        let mut record = ContainerRecord::clone(&container.record);
        let to = self.destination(position)?;
        let held: HashMap<PortMapping, usize> = (record.published.iter().enumerate())
            .map(|(at, mapping)| (publish::ports_of(mapping), at))
            .collect();
        let mut lists: HashMap<PortMapping, Vec<IpNet>> = HashMap::new();
        let mut added = Vec::new();
        for mapping in mappings.into_iter().map(publish::normalized) {
            let ports = publish::ports_of(&mapping);
            match held.get(&ports) {
                Some(&at) if record.published[at].allow != mapping.allow => {
                    publish::check(&mapping, to)?;
                    record.published[at].allow.clone_from(&mapping.allow);
                    lists.insert(ports, mapping.allow);
                }
                _ => added.push(mapping),
            }
        }
        let mut published = self.publish_all(&name, to, added)?;
        // One that was pending has its place.
        let new: HashSet<PortMapping> = (published.iter())
            .map(|published| publish::ports_of(&published.mapping))
            .collect();
        record
            .published
            .retain(|mapping| !new.contains(&publish::ports_of(mapping)));
        record
            .published
            .extend(published.iter().map(|published| published.mapping.clone()));
        self.store.put_container(&record)?;
        if !published.is_empty() {
            let added = &record.published[record.published.len() - published.len()..];
            tracing::info!("{name} publishes {}", publish::describe_all(added));
        }
        let container = &mut self.containers[position];
        container.record = Arc::new(record);
        for published in &mut container.published {
            if let Some(allow) = lists.remove(&publish::ports_of(&published.mapping)) {
                published.set_allow(allow);
                tracing::info!("{name} publishes {} now", published.mapping);
            }
        }
        container
            .pending
            .retain(|mapping| !new.contains(&publish::ports_of(mapping)));
        for mapping in &mut container.pending {
            if let Some(allow) = lists.remove(&publish::ports_of(mapping)) {
                mapping.allow = allow;
            }
        }
        container.published.append(&mut published);
        self.apply();
        self.tell_container(&id)
    }

    /// Withdraws mappings as they were published, all of them or none. Their flows end.
    pub(in crate::daemon) fn unpublish(
        &mut self,
        wanted: &str,
        mappings: Vec<PortMapping>,
    ) -> Result<api::Container, Failure> {
        let position = self.find_container(wanted)?;
        let container = &self.containers[position];
        let (id, name) = (container.record.id.clone(), container.record.name.clone());
        let mut record = ContainerRecord::clone(&container.record);
        let mut withdrawn: Vec<PortMapping> =
            mappings.into_iter().map(publish::normalized).collect();
        let mut kept: HashSet<PortMapping> =
            record.published.iter().map(publish::ports_of).collect();
        for mapping in &mut withdrawn {
            // The host port was chosen for who asked, who need not know it.
            if mapping.host_port == 0
                && let Some(chosen) = record.published.iter().find(|it| {
                    let asked = PortMapping {
                        host_port: 0,
                        ..(*it).clone()
                    };
                    publish::ports_of(&asked) == publish::ports_of(mapping)
                })
            {
                mapping.host_port = chosen.host_port;
            }
            if !kept.remove(&publish::ports_of(mapping)) {
                return Err(Failure::NotFound(format!(
                    "{name} does not publish {} to {} ({}): name a mapping as it was published",
                    publish::describe(mapping),
                    mapping.container_port,
                    published_list(&container.record.published)
                )));
            }
        }
        record
            .published
            .retain(|mapping| kept.contains(&publish::ports_of(mapping)));
        self.store.put_container(&record)?;
        let container = &mut self.containers[position];
        let (served, ended) = std::mem::take(&mut container.published)
            .into_iter()
            .partition(|published| kept.contains(&publish::ports_of(&published.mapping)));
        container.published = served;
        container
            .pending
            .retain(|mapping| kept.contains(&publish::ports_of(mapping)));
        container.record = Arc::new(record);
        self.apply();
        stop(ended);
        let withdrawn = publish::describe_all(&withdrawn);
        tracing::info!("{name} no longer publishes {withdrawn}");
        self.tell_container(&id)
    }

    /// Publishes again what a container had published. A port that can't be had now, because its
    /// address is not there yet or somebody took it meanwhile, is told of and stays with the
    /// container, to be [tried again](Self::retry_ports).
    pub(super) fn republish(
        &mut self,
        record: &ContainerRecord,
        to: Destination,
    ) -> (Vec<Published>, Vec<PortMapping>) {
        // Mostly nothing was taken, and then this is fast however many there are.
        if let Ok(all) = self.publish_all(&record.name, to, record.published.clone()) {
            return (all, Vec::new());
        }
        let (mut all, mut pending) = (Vec::new(), Vec::new());
        for mapping in record.published.clone() {
            match self.publish_all(&record.name, to, vec![mapping.clone()]) {
                Ok(mut published) => all.append(&mut published),
                Err(failure) => {
                    let name = &record.name;
                    tracing::warn!(
                        "{name}: port {mapping} is pending, until it can be had: {failure}"
                    );
                    let mut waits = event(EventKind::Port, EventAction::Pending, name);
                    waits.id = Some(record.id.clone());
                    waits.port = Some(mapping.clone());
                    waits.reason = Some(failure.to_string());
                    self.news.push(waits);
                    pending.push(mapping);
                }
            }
        }
        (all, pending)
    }

    /// Publishes what containers wait for, if it can be had by now. Tells whether there was any.
    pub(in crate::daemon) fn retry_ports(&mut self) -> bool {
        let mut any = false;
        for position in 0..self.containers.len() {
            if self.containers[position].pending.is_empty() {
                continue;
            }
            let record = Arc::clone(&self.containers[position].record);
            let Some(to) = self.reached(&record.endpoints) else {
                continue;
            };
            for mapping in std::mem::take(&mut self.containers[position].pending) {
                let outcome = self.publish_all(&record.name, to, vec![mapping.clone()]);
                let container = &mut self.containers[position];
                match outcome {
                    Ok(mut published) => {
                        tracing::info!("{} publishes {mapping} after all", record.name);
                        container.published.append(&mut published);
                        any = true;
                    }
                    Err(_) => container.pending.push(mapping),
                }
            }
        }
        any
    }

    /// Reserves and serves the ports; the rules come into force with the container.
    pub(super) fn publish_all(
        &mut self,
        name: &str,
        to: Destination,
        mappings: Vec<PortMapping>,
    ) -> Result<Vec<Published>, Failure> {
        let mappings: Vec<PortMapping> = mappings.into_iter().map(publish::normalized).collect();
        if mappings.is_empty() {
            return Ok(Vec::new());
        }
        for mapping in &mappings {
            publish::check(mapping, to)?;
        }
        publish::check_descriptors(&mappings, to)?;
        let filter = local_only_filter(&self.uplinks.indexes());
        // Those that are named first, so that none of them is chosen for another.
        let (named, any): (Vec<_>, Vec<_>) = mappings.into_iter().partition(|it| it.host_port != 0);
        self.refuse_taken(name, &named, to)?;
        // Of SCTP the switch may hold some for associations out to the world.
        for mapping in named.iter().filter(|it| it.protocol == Protocol::Sctp) {
            self.switch.release_sctp(&publish::host_ports(mapping));
        }
        let named = named
            .iter()
            .map(|mapping| publish::reserve(mapping, to, &filter));
        let any = any
            .iter()
            .map(|mapping| publish::reserve_any(mapping, to, &filter));
        let reserved = named
            .chain(any)
            .collect::<Result<Vec<Reservation>, Failure>>()?;
        let mut published = Vec::with_capacity(reserved.len());
        for reservation in reserved {
            published.push(reservation.serve(&mut self.last_rule)?);
        }
        Ok(published)
    }

    /// Ports that pontoon itself holds: the user should hear for whom. Those that it uses without
    /// a socket it gives up.
    fn refuse_taken(
        &mut self,
        name: &str,
        mappings: &[PortMapping],
        to: Destination,
    ) -> Result<(), Failure> {
        let wanted = mappings.iter().map(|mapping| Claim {
            holder: name,
            mapping,
            to,
        });
        let held = self.containers.iter().flat_map(|container| {
            container.published.iter().map(|published| Claim {
                holder: &container.record.name,
                mapping: &published.mapping,
                to: published.destination(),
            })
        });
        if let Some(conflict) = publish::conflict(wanted, held) {
            let other = conflict.other;
            let range = match other.mapping.count {
                1 => String::new(),
                _ => format!(" ({})", publish::describe(other.mapping)),
            };
            return Err(Failure::Conflict(format!(
                "port {}/{} is published for container {} already{range}: choose another port, or \
                 unpublish it there",
                conflict.port,
                publish::protocol(other.mapping),
                other.holder
            )));
        }
        for mapping in mappings {
            let protocol = publish::protocol(mapping);
            if let Some(port) = self.snat.overlap(protocol, &publish::host_ports(mapping)) {
                return Err(Failure::Conflict(format!(
                    "port {port}/{protocol} is held by pontoon for the containers' outgoing flows: \
                     choose another port"
                )));
            }
            let change = self.snat.give_up(protocol, &publish::host_ports(mapping));
            self.change_external_ports(&change);
        }
        Ok(())
    }

    fn destination(&self, position: usize) -> Result<Destination, Failure> {
        let record = &self.containers[position].record;
        match self.reached(&record.endpoints) {
            Some(to) => Ok(to),
            None if record.status == Status::Exited => Err(Failure::Conflict(format!(
                "container {} has exited: it can publish nothing",
                record.name
            ))),
            None if matches!(record.mode, Mode::Network(_)) => Err(no_way_in(&record.name)),
            None => Err(Failure::Invalid(format!(
                "container {} has no interface of its own ({}), so it can publish nothing",
                record.name,
                match &record.mode {
                    Mode::Host => "--net host".to_owned(),
                    Mode::None => "--net none".to_owned(),
                    Mode::Container(other) => format!("it shares the one of {other}"),
                    Mode::Network(_) => "it is on no network".to_owned(),
                }
            ))),
        }
    }
}

pub(super) fn no_way_in(name: &str) -> Failure {
    Failure::Invalid(format!(
        "container {name} is on no network that leads outside, so it can publish nothing: connect \
         it to one that is not internal (pontoon network connect)"
    ))
}

fn published_list(mappings: &[PortMapping]) -> String {
    /// More would bury the message.
    const TOLD: usize = 16;
    if mappings.is_empty() {
        return "it publishes nothing".to_owned();
    }
    let mut list: Vec<String> = mappings
        .iter()
        .take(TOLD)
        .map(|mapping| {
            format!(
                "{} to {}",
                publish::describe(mapping),
                mapping.container_port
            )
        })
        .collect();
    if mappings.len() > TOLD {
        list.push(format!("{} more", mappings.len() - TOLD));
    }
    format!("it publishes {}", list.join(", "))
}
