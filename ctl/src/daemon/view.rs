//! What readers of the API see: brought up to date after each change, so that no reader waits for
//! one. What a change has not touched is shared with the view before it: with a thousand containers
//! a change of one costs little more than with ten.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;
use switch::config::Leads;
use switch::{PortId, Switch};

use super::container::Container;
use super::faults::FaultBook;
use super::identity;
use super::network::Network;
use super::resolver::NameService;
use super::routing;
use super::store::{ContainerRecord, NetworkRecord};
use super::uplink::Uplink;
use crate::api::{self, HostSilenceKind};
use crate::host::HostState;
use crate::relay::Common;

mod tell;
#[cfg(test)]
mod tests;

/// What a view is made from.
pub(super) struct Sight<'a> {
    pub networks: &'a [Network],
    pub containers: &'a [Container],
    pub uplinks: &'a [Uplink],
    pub host: &'a HostState,
    pub names: &'a NameService,
    pub faults: &'a FaultBook,
    pub host_silence: HostSilenceKind,
}

#[derive(Default)]
pub(super) struct View {
    networks: Vec<ToldNetwork>,
    containers: Vec<ToldContainer>,
    /// By the container's id.
    published: BTreeMap<String, Vec<PublishedView>>,
    pub uplinks: Vec<String>,
    pub host_silence: HostSilenceKind,
    /// What a masqueraded flow leaves with, by uplink, in IPv4 and in IPv6.
    sources: [BTreeMap<String, IpAddr>; 2],
    /// Who is behind a port of the switch.
    owners: HashMap<u32, Owner>,
    /// Networks by the switch's number.
    numbered: HashMap<u32, Arc<api::Network>>,
    /// Whether nobody suffers faults.
    sound: bool,
    /// Of [`NameService::retries`].
    retries: u64,
}

/// A network, and what is told of it.
struct ToldNetwork {
    record: Arc<NetworkRecord>,
    told: Arc<api::Network>,
}

/// A container, and what is told of it.
struct ToldContainer {
    record: Arc<ContainerRecord>,
    told: Arc<api::Container>,
}

enum Owner {
    Host,
    Uplink(String),
    /// Those who may open connections to published ports, at the uplink of this name.
    Newcomers(String),
    /// The stack that answers for names.
    Names,
    Container(Arc<api::Container>),
}

/// A published mapping, and where its use is counted.
struct PublishedView {
    mapping: api::PortMapping,
    to: Vec<IpAddr>,
    /// The switch's rules, by id.
    rules: Vec<u32>,
    relays: Arc<Common>,
}

impl PublishedView {
    /// With what each rule of the switch has carried.
    fn tell(&self, carried: impl Fn(u32) -> Option<nat::Traffic>) -> api::PublishedPort {
        let mut switched = nat::Traffic::default();
        for traffic in self.rules.iter().filter_map(|id| carried(*id)) {
            switched += traffic;
        }
        let relayed = self.relays.counters();
        api::PublishedPort {
            mapping: self.mapping.clone(),
            to: self.to.clone(),
            traffic: api::PortTraffic {
                connections: switched.connections,
                active: switched.active,
                packets: switched.packets,
                bytes: switched.bytes,
                relayed: api::RelayedTraffic {
                    connections: relayed.total,
                    active: relayed.active,
                    bytes: [relayed.bytes_in, relayed.bytes_out],
                    refused: relayed.refused,
                },
            },
        }
    }
}

impl View {
    /// `before` is the one that this one takes the place of.
    pub(super) fn new(sight: &Sight, before: &View) -> View {
        let Sight {
            networks,
            containers,
            uplinks,
            names,
            faults,
            ..
        } = sight;
        let networks_told = tell_networks(networks, containers, before);
        let containers_told = tell_containers(sight, before);
        let mut owners = HashMap::new();
        for network in *networks {
            owners.insert(network.port.0, Owner::Host);
        }
        if let Some(stack) = names.stack() {
            owners.insert(stack.port.0, Owner::Names);
        }
        for uplink in *uplinks {
            let name = &uplink.link.name;
            owners.insert(uplink.port.0, Owner::Uplink(name.clone()));
            owners.insert(uplink.newcomers.port.0, Owner::Newcomers(name.clone()));
        }
        for container in &containers_told {
            for endpoint in &container.told.endpoints {
                let owner = Owner::Container(Arc::clone(&container.told));
                owners.insert(endpoint.port, owner);
            }
        }
        let numbered = networks.iter().zip(&networks_told);
        View {
            numbered: numbered
                .map(|(network, it)| (network.id.0, Arc::clone(&it.told)))
                .collect(),
            networks: networks_told,
            containers: containers_told,
            published: containers
                .iter()
                .filter(|container| !container.published.is_empty())
                .map(|container| (container.record.id.clone(), view_published(container)))
                .collect(),
            uplinks: uplinks
                .iter()
                .map(|uplink| uplink.link.name.clone())
                .collect(),
            host_silence: sight.host_silence,
            sources: [false, true].map(|is_ipv6| sources(sight, is_ipv6)),
            owners,
            sound: faults.is_empty(),
            retries: names.retries(),
        }
    }

    pub(super) fn networks(&self) -> impl ExactSizeIterator<Item = &Arc<api::Network>> + Clone {
        self.networks.iter().map(|it| &it.told)
    }

    pub(super) fn containers(&self) -> impl ExactSizeIterator<Item = &Arc<api::Container>> + Clone {
        self.containers.iter().map(|it| &it.told)
    }

    /// A container's published ports, with what came and went by them.
    pub(super) fn published_ports_of(&self, id: &str, switch: &Switch) -> Vec<api::PublishedPort> {
        let carried = switch.nat().traffic(switch.now());
        let published = self.published.get(id).into_iter().flatten();
        published
            .map(|it| it.tell(|rule| carried.get(&rule).copied()))
            .collect()
    }

    /// Those of all containers, each with its container's name.
    pub(super) fn published_ports(&self, switch: &Switch) -> Vec<(&str, api::PublishedPort)> {
        let carried = switch.nat().traffic(switch.now());
        let of = |container: &'_ api::Container| self.published.get(&container.id);
        let mut all = Vec::new();
        for container in self.containers() {
            for published in of(container).into_iter().flatten() {
                let told = published.tell(|rule| carried.get(&rule).copied());
                all.push((container.name.as_str(), told));
            }
        }
        all
    }

    /// The rules of address translation.
    pub(super) fn rules(&self) -> api::NatRules {
        let masqueraded = self
            .networks
            .iter()
            .map(|network| &network.record)
            .filter(|record| record.options.masquerades())
            .flat_map(|record| record.subnets.iter().map(move |subnet| (record, *subnet)));
        let published = self.containers().flat_map(|container| {
            let published = self.published.get(&container.id).into_iter().flatten();
            published.map(move |it| (container, it))
        });
        api::NatRules {
            masquerade: masqueraded
                .map(|(record, source)| api::MasqueradeRule {
                    network: record.name.clone(),
                    source,
                    to: self.masqueraded_to(record, source),
                })
                .collect(),
            publish: published
                .map(|(container, published)| api::PublishRule {
                    container: container.name.clone(),
                    mapping: published.mapping.clone(),
                    to: published.to.clone(),
                })
                .collect(),
        }
    }

    fn masqueraded_to(&self, record: &NetworkRecord, source: IpNet) -> BTreeMap<String, IpAddr> {
        let mut to = self.sources[usize::from(source.addr().is_ipv6())].clone();
        if let Some(chosen) = record.options.masquerade_to(source) {
            to.values_mut().for_each(|address| *address = chosen);
        }
        to
    }

    pub(super) fn owner(&self, port: u32) -> String {
        match self.owners.get(&port) {
            Some(Owner::Host) => "host".to_owned(),
            Some(Owner::Uplink(name)) => format!("uplink {name}"),
            Some(Owner::Newcomers(name)) => format!("uplink {name}, newcomers"),
            Some(Owner::Names) => "names".to_owned(),
            Some(Owner::Container(container)) => container.name.clone(),
            None => "nobody".to_owned(),
        }
    }

    pub(super) fn network_name(&self, number: u32) -> String {
        let network = self.numbered.get(&number);
        network.map_or_else(|| number.to_string(), |network| network.name.clone())
    }
}

fn tell_networks(
    networks: &[Network],
    containers: &[Container],
    before: &View,
) -> Vec<ToldNetwork> {
    let known: HashMap<usize, &ToldNetwork> = before
        .networks
        .iter()
        .map(|it| (identity(&it.record), it))
        .collect();
    let mut on = HashMap::<&str, Vec<&str>>::new();
    for record in containers.iter().map(|container| &container.record) {
        for endpoint in &record.endpoints {
            let names = on.entry(&endpoint.network).or_default();
            // One with two interfaces there is named once.
            if names.last() != Some(&record.name.as_str()) {
                names.push(&record.name);
            }
        }
    }
    let told = networks.iter().map(|network| {
        let record = &network.record;
        let containers = on.get(record.id.as_str()).map_or(&[][..], Vec::as_slice);
        let fresh = known
            .get(&identity(record))
            .filter(|it| it.told.containers.iter().eq(containers));
        ToldNetwork {
            record: Arc::clone(record),
            told: match fresh {
                Some(known) => Arc::clone(&known.told),
                None => Arc::new(tell::network(record, containers)),
            },
        }
    });
    told.collect()
}

fn tell_containers(sight: &Sight, before: &View) -> Vec<ToldContainer> {
    let known: HashMap<usize, &ToldContainer> = before
        .containers
        .iter()
        .map(|it| (identity(&it.record), it))
        .collect();
    let joins = tell::joins(sight.containers);
    // Beyond its record and its ports, what is told of a container depends on its networks, which
    // don't change, and on these.
    let settled =
        sight.faults.is_empty() && before.sound && sight.names.retries() == before.retries;
    let told = sight.containers.iter().map(|container| {
        let record = &container.record;
        let joined = joins.get(record.name.as_str());
        let fresh = known.get(&identity(record)).filter(|it| {
            settled
                && tell::is_plugged_so(container, &it.told)
                && it.told.pending == container.pending
                && it.told.joined.is_empty()
                && joined.is_none()
        });
        ToldContainer {
            record: Arc::clone(record),
            told: match fresh {
                Some(known) => Arc::clone(&known.told),
                None => Arc::new(tell::container(container, sight, joined)),
            },
        }
    });
    told.collect()
}

fn view_published(container: &Container) -> Vec<PublishedView> {
    let published = container.published.iter().map(|published| PublishedView {
        mapping: published.mapping.clone(),
        to: published.reached(),
        rules: published.rules().iter().map(|rule| rule.id).collect(),
        relays: Arc::clone(published.common()),
    });
    published.collect()
}

/// The source of the widest route over each uplink.
fn sources(sight: &Sight, is_ipv6: bool) -> BTreeMap<String, IpAddr> {
    let ports = sight.uplinks.iter();
    let ports = ports.map(|uplink| (uplink.link.index, uplink.port));
    let mut widest: HashMap<PortId, (u8, IpAddr)> = HashMap::new();
    for route in routing::routes(sight.host, &ports.collect()) {
        let length = route.destination.prefix_len();
        let Leads::Out(hops) = route.leads else {
            continue;
        };
        for (hop, source) in hops.iter().filter_map(|hop| Some((hop, hop.source?))) {
            let known = widest.get(&hop.uplink);
            if source.is_ipv6() == is_ipv6 && known.is_none_or(|(known, _)| length < *known) {
                widest.insert(hop.uplink, (length, source));
            }
        }
    }
    let sources = sight.uplinks.iter().filter_map(|uplink| {
        let (_, source) = widest.get(&uplink.port)?;
        Some((uplink.link.name.clone(), *source))
    });
    sources.collect()
}
