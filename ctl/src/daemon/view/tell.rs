//! What is told of one network and of one container.

use std::collections::BTreeMap;

use switch::PortId;

use super::Sight;
use crate::api::{self, Mode, Status};
use crate::daemon::container::{Container, Plug};
use crate::daemon::faults::partition;
use crate::daemon::network::{by_id, default_routes};
use crate::daemon::resolver::names_route;
use crate::daemon::store::{ContainerRecord, NetworkRecord};
use crate::dns::LOOPBACK;

/// `containers` are the names of those that are on it.
pub(super) fn network(record: &NetworkRecord, containers: &[&str]) -> api::Network {
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
        containers: containers.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn container(
    container: &Container,
    sight: &Sight,
    joined: Option<&Vec<&ContainerRecord>>,
) -> api::Container {
    let Sight {
        networks,
        names,
        faults,
        ..
    } = sight;
    let record = &container.record;
    let routes = default_routes(networks, &record.endpoints);
    let endpoints = record.endpoints.iter().zip(&container.plugs).enumerate();
    let endpoints = endpoints.map(|(at, (endpoint, plug))| {
        let network = by_id(networks, &endpoint.network);
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
    let pending = container.pending.clone();
    let asks_loopback = names_route(networks, &record.endpoints)
        .and_then(|(at, _)| by_id(networks, &record.endpoints[at].network))
        .is_some_and(|network| names.are_inside(network.id));
    let resolvers = match asks_loopback {
        true => vec![LOOPBACK],
        false => {
            let first = endpoints.first();
            first.map_or_else(Vec::new, |endpoint| endpoint.gateways.clone())
        }
    };
    api::Container {
        id: record.id.clone(),
        name: record.name.clone(),
        mode: tell_mode(record, &endpoints),
        target: record.target.clone(),
        command: record.command.clone(),
        netns: record.identity.netns,
        created: record.created,
        status: record.status,
        exit_code: record.exit_code.filter(|_| record.status == Status::Exited),
        endpoints,
        published: match pending.is_empty() {
            true => record.published.clone(),
            false => {
                let mut published = record.published.clone();
                published.retain(|mapping| !pending.contains(mapping));
                published
            }
        },
        pending,
        names: record.names.clone(),
        resolvers,
        partition: partition(faults, &record.id, sight.containers),
        remove_on_exit: record.remove_on_exit,
        joined: joined.map_or_else(Vec::new, |joined| tell_joined(record, joined)),
    }
}

/// Whether a container's endpoints are where they were.
pub(super) fn is_plugged_so(container: &Container, told: &api::Container) -> bool {
    let plugs = container.plugs.iter().copied();
    let told = told.endpoints.iter().map(|it| Plug {
        port: PortId(it.port),
        ifindex: it.ifindex,
        host_ifindex: it.host_ifindex,
    });
    plugs.eq(told)
}

/// Who runs in another one's namespace, by the other one's name.
pub(super) fn joins(containers: &[Container]) -> BTreeMap<&str, Vec<&ContainerRecord>> {
    let mut joins = BTreeMap::<&str, Vec<&ContainerRecord>>::new();
    for record in containers.iter().map(|container| &*container.record) {
        if let (Status::Running, Mode::Container(other)) = (record.status, &record.mode) {
            joins.entry(other).or_default().push(record);
        }
    }
    joins
}

/// The names of those who are in this container's namespace, and not in that of one before it.
/// What it is on now, whatever it began with: a running container that was taken off all of its
/// networks is on none.
fn tell_mode(record: &ContainerRecord, endpoints: &[api::Endpoint]) -> Mode {
    match (&record.mode, record.status) {
        (Mode::Network(_), Status::Running) => endpoints.first().map_or(Mode::None, |endpoint| {
            Mode::Network(endpoint.network.clone())
        }),
        (mode, _) => mode.clone(),
    }
}

fn tell_joined(record: &ContainerRecord, joined: &[&ContainerRecord]) -> Vec<String> {
    let here = |other: &&&ContainerRecord| other.identity.netns == record.identity.netns;
    let names = joined.iter().filter(here).map(|other| other.name.clone());
    names.collect()
}
