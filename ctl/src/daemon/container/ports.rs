//! Published ports of containers: all of a request, or none.

use super::stop;
use crate::api::{self, Mode, PortMapping, Status};
use crate::daemon::Daemon;
use crate::daemon::failure::Failure;
use crate::daemon::publish::{self, Destination, Published, Reservation};
use crate::daemon::store::ContainerRecord;

impl Daemon {
    /// Publishes more ports of a running container, all of them or none.
    pub(in crate::daemon) fn publish(
        &mut self,
        wanted: &str,
        mappings: Vec<PortMapping>,
    ) -> Result<api::Container, Failure> {
        let position = self.find_container(wanted)?;
        let container = &self.containers[position];
        let (id, name) = (container.record.id.clone(), container.record.name.clone());
        let to = self.destination(position)?;
        let mut published = self.publish_all(&name, to, mappings)?;
        let mut record = self.containers[position].record.clone();
        record
            .published
            .extend(published.iter().map(|published| published.mapping.clone()));
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
    pub(in crate::daemon) fn unpublish(
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

    /// Publishes again what a container had published. A port that somebody took meanwhile is told
    /// of and given up: the container is worth more than one of its ports.
    pub(super) fn republish(
        &mut self,
        record: &mut ContainerRecord,
        to: Destination,
    ) -> Vec<Published> {
        let mut all = Vec::new();
        for mapping in record.published.clone() {
            match self.publish_all(&record.name, to, vec![mapping]) {
                Ok(mut published) => all.append(&mut published),
                Err(failure) => tracing::warn!("{} loses a port: {failure}", record.name),
            }
        }
        if all.len() < record.published.len() {
            record.published = all
                .iter()
                .map(|published| published.mapping.clone())
                .collect();
            if let Err(error) = self.store.put_container(record) {
                tracing::error!("{error:#}");
            }
        }
        all
    }

    /// Reserves and serves the ports; the rules come into force with the container.
    pub(super) fn publish_all(
        &mut self,
        name: &str,
        to: Destination,
        mappings: Vec<PortMapping>,
    ) -> Result<Vec<Published>, Failure> {
        let mappings: Vec<PortMapping> = mappings.into_iter().map(publish::normalized).collect();
        for (index, mapping) in mappings.iter().enumerate() {
            publish::check(mapping, to)?;
            self.refuse_taken(name, (mapping, to), &mappings[..index])?;
        }
        let uplinks = self.uplinks.indexes();
        let reserved = mappings
            .iter()
            .map(|mapping| publish::reserve(mapping, to, &uplinks))
            .collect::<Result<Vec<Reservation>, Failure>>()?;
        let mut published = Vec::with_capacity(reserved.len());
        for reservation in reserved {
            published.push(reservation.serve(&mut self.last_rule)?);
        }
        Ok(published)
    }

    /// Ports that pontoon itself holds: the user should hear for whom.
    fn refuse_taken(
        &self,
        name: &str,
        (mapping, to): (&PortMapping, Destination),
        earlier: &[PortMapping],
    ) -> Result<(), Failure> {
        let protocol = publish::protocol(mapping);
        let others = self.containers.iter().flat_map(|container| {
            let name = container.record.name.as_str();
            container
                .published
                .iter()
                .map(move |published| (name, &published.mapping, published.destination()))
        });
        let earlier = earlier.iter().map(|other| (name, other, to));
        for (holder, other, other_to) in others.chain(earlier) {
            if let Some(port) = publish::overlap((mapping, to), (other, other_to)) {
                let range = match other.count {
                    1 => String::new(),
                    _ => format!(" ({})", publish::describe(other)),
                };
                return Err(Failure::Conflict(format!(
                    "port {port}/{protocol} is published for container {holder} already{range}: \
                     choose another port, or unpublish it there"
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

    fn destination(&self, position: usize) -> Result<Destination, Failure> {
        let record = &self.containers[position].record;
        match &record.endpoint {
            Some(endpoint) => Ok(Destination::of(&endpoint.addresses)),
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
}

fn published_list(mappings: &[PortMapping]) -> String {
    if mappings.is_empty() {
        return "it publishes nothing".to_owned();
    }
    let list: Vec<String> = mappings
        .iter()
        .map(|mapping| {
            format!(
                "{} to {}",
                publish::describe(mapping),
                mapping.container_port
            )
        })
        .collect();
    format!("it publishes {}", list.join(", "))
}
