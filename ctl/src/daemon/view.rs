//! What readers of the API see: made anew after each change, so that no reader waits for one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use switch::Switch;

use super::container::Container;
use super::faults::{FaultBook, partition};
use super::network::{Network, default_routes};
use super::resolver::{NameService, names_route};
use super::store::ContainerRecord;
use super::uplink::Uplink;
use crate::api::{self, Mode, Status};
use crate::dns::LOOPBACK;
use crate::host::HostState;
use crate::relay::Common;

pub(super) struct View {
    pub networks: Vec<api::Network>,
    pub containers: Vec<api::Container>,
    pub rules: api::NatRules,
    /// By the container's id.
    published: BTreeMap<String, Vec<PublishedView>>,
    pub uplinks: Vec<String>,
    /// Who is behind a port of the switch.
    owners: BTreeMap<u32, String>,
    /// Names of networks by the switch's number.
    network_names: BTreeMap<u32, String>,
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
    pub(super) fn new(
        networks: &[Network],
        containers: &[Container],
        uplinks: &[Uplink],
        host: &HostState,
        names: &NameService,
        faults: &FaultBook,
    ) -> View {
        let mut owners = BTreeMap::new();
        for network in networks {
            owners.insert(network.port.0, "host".to_owned());
        }
        for uplink in uplinks {
            owners.insert(uplink.port.0, format!("uplink {}", uplink.link.name));
        }
        for container in containers {
            for plug in &container.plugs {
                owners.insert(plug.port.0, container.record.name.clone());
            }
        }
        let joins = joins(containers);
        View {
            networks: networks
                .iter()
                .map(|network| tell_network(network, containers))
                .collect(),
            containers: containers
                .iter()
                .map(|container| {
                    let joined = joins.get(container.record.name.as_str());
                    tell_container(container, containers, networks, names, faults, joined)
                })
                .collect(),
            rules: tell_rules(networks, containers, uplinks, host),
            published: containers
                .iter()
                .filter(|container| !container.published.is_empty())
                .map(|container| (container.record.id.clone(), view_published(container)))
                .collect(),
            uplinks: uplinks
                .iter()
                .map(|uplink| uplink.link.name.clone())
                .collect(),
            owners,
            network_names: networks
                .iter()
                .map(|network| (network.id.0, network.record.name.clone()))
                .collect(),
        }
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
        for container in &self.containers {
            for published in of(container).into_iter().flatten() {
                let told = published.tell(|rule| carried.get(&rule).copied());
                all.push((container.name.as_str(), told));
            }
        }
        all
    }

    pub(super) fn owner(&self, port: u32) -> String {
        self.owners
            .get(&port)
            .cloned()
            .unwrap_or_else(|| "nobody".to_owned())
    }

    pub(super) fn network_name(&self, id: u32) -> String {
        self.network_names
            .get(&id)
            .cloned()
            .unwrap_or_else(|| id.to_string())
    }
}

fn tell_network(network: &Network, containers: &[Container]) -> api::Network {
    let record = &network.record;
    api::Network {
        id: record.id.clone(),
        name: record.name.clone(),
        subnets: record.subnets.clone(),
        gateways: record.gateways.clone(),
        gateway_mac: record.gateway_mac.to_string(),
        host_interface: record.host_interface.clone(),
        mtu: record.mtu,
        created: record.created,
        options: record.options.clone(),
        containers: containers
            .iter()
            .filter(|container| {
                container
                    .record
                    .endpoints
                    .iter()
                    .any(|endpoint| endpoint.network == record.id)
            })
            .map(|container| container.record.name.clone())
            .collect(),
    }
}

fn tell_container(
    container: &Container,
    all: &[Container],
    networks: &[Network],
    names: &NameService,
    faults: &FaultBook,
    joined: Option<&Vec<&ContainerRecord>>,
) -> api::Container {
    let record = &container.record;
    let routes = default_routes(networks, &record.endpoints);
    let endpoints = record.endpoints.iter().zip(&container.plugs).enumerate();
    let endpoints = endpoints.map(|(at, (endpoint, plug))| {
        let network = networks
            .iter()
            .find(|network| network.record.id == endpoint.network);
        api::Endpoint {
            network: network.map_or_else(
                || endpoint.network.clone(),
                |network| network.record.name.clone(),
            ),
            interface: endpoint.interface.clone(),
            mac: endpoint.mac.to_string(),
            addresses: endpoint.addresses.clone(),
            gateways: network.map_or_else(Vec::new, |network| {
                network.gateways_for(&endpoint.addresses)
            }),
            gateway_priority: endpoint.gateway_priority,
            default_routes: routes
                .iter()
                .filter(|(through, _)| *through == at)
                .map(|(_, gateway)| *gateway)
                .collect(),
            aliases: endpoint.aliases.clone(),
            port_kind: endpoint.port_kind,
            port: plug.port.0,
            ifindex: plug.ifindex,
            host_interface: endpoint.host_interface.clone(),
            host_ifindex: plug.host_ifindex,
            limits: endpoint.limits.clone(),
            faults: faults.told(&record.id, &endpoint.network),
        }
    });
    let endpoints: Vec<api::Endpoint> = endpoints.collect();
    let led = names_route(networks, &record.endpoints)
        .and_then(|(at, _)| names.led_to(&record.endpoints[at].network));
    let resolvers = match led {
        Some(_) => vec![LOOPBACK],
        None => {
            let first = endpoints.first();
            first.map_or_else(Vec::new, |endpoint| endpoint.gateways.clone())
        }
    };
    api::Container {
        id: record.id.clone(),
        name: record.name.clone(),
        mode: record.mode.clone(),
        target: record.target.clone(),
        command: record.command.clone(),
        created: record.created,
        status: record.status,
        exit_code: record.exit_code.filter(|_| record.status == Status::Exited),
        endpoints,
        published: record.published.clone(),
        names: record.names.clone(),
        resolvers,
        partition: partition(faults, &record.id, all),
        remove_on_exit: record.remove_on_exit,
        joined: joined.map_or_else(Vec::new, |joined| tell_joined(record, joined)),
    }
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

/// Who runs in another one's namespace, by the other one's name.
fn joins(containers: &[Container]) -> BTreeMap<&str, Vec<&ContainerRecord>> {
    let mut joins = BTreeMap::<&str, Vec<&ContainerRecord>>::new();
    for record in containers.iter().map(|container| &container.record) {
        if let (Status::Running, Mode::Container(other)) = (record.status, &record.mode) {
            joins.entry(other).or_default().push(record);
        }
    }
    joins
}

/// The names of those who are in this container's namespace, and not in that of one before it.
fn tell_joined(record: &ContainerRecord, joined: &[&ContainerRecord]) -> Vec<String> {
    let here = |other: &&&ContainerRecord| other.identity.netns == record.identity.netns;
    let names = joined.iter().filter(here).map(|other| other.name.clone());
    names.collect()
}

fn tell_rules(
    networks: &[Network],
    containers: &[Container],
    uplinks: &[Uplink],
    host: &HostState,
) -> api::NatRules {
    // What a flow to the world leaves with is its route's source; by uplink, the widest route's.
    let to = |is_ipv6: bool| -> BTreeMap<String, IpAddr> {
        let sources = uplinks.iter().filter_map(|uplink| {
            let ports = [(uplink.link.index, uplink.port)];
            let routes = super::uplink::routes(host, &ports);
            let widest = routes
                .iter()
                .filter(|route| route.source.is_ipv6() == is_ipv6)
                .min_by_key(|route| route.destination.prefix_len())?;
            Some((uplink.link.name.clone(), widest.source))
        });
        sources.collect()
    };
    let (ipv4, ipv6) = (to(false), to(true));
    api::NatRules {
        masquerade: networks
            .iter()
            .filter(|network| network.record.options.masquerades())
            .flat_map(|network| {
                network
                    .record
                    .subnets
                    .iter()
                    .map(|subnet| api::MasqueradeRule {
                        network: network.record.name.clone(),
                        source: *subnet,
                        to: {
                            let mut to = match subnet {
                                IpNet::V4(_) => ipv4.clone(),
                                IpNet::V6(_) => ipv6.clone(),
                            };
                            if let Some(chosen) = network.record.options.masquerade_to(*subnet) {
                                to.values_mut().for_each(|address| *address = chosen);
                            }
                            to
                        },
                    })
            })
            .collect(),
        publish: containers
            .iter()
            .flat_map(|container| {
                container
                    .published
                    .iter()
                    .map(|published| api::PublishRule {
                        container: container.record.name.clone(),
                        mapping: published.mapping.clone(),
                        to: published.reached(),
                    })
            })
            .collect(),
    }
}
