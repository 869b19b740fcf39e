//! What the switch is told, made from what the daemon knows.

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use switch::PortId;
use switch::config::{
    Bridge, Config, Endpoint, Network as SwitchNetwork, Route, Rule, Snooping, StormLimits,
    Uplink as SwitchUplink,
};
use switch::frame::MacAddr;
use switch::io::filter::UplinkFilter;

use super::container::Container;
use super::faults::FaultBook;
use super::limits::treatments;
use super::network::Network;
use super::publish::host_ports;
use super::resolver::NameService;
use super::routing;
use super::snat::SnatPorts;
use super::uplink::{self, Uplink};
use crate::api::{BridgeOptions, Protocol, StormOptions};
use crate::host::{HostState, is_link_local};

/// What of the host's state the description is made from.
#[derive(PartialEq)]
pub(super) struct Surroundings {
    /// The host's, sorted.
    addresses: Vec<IpAddr>,
    subnets: Vec<IpNet>,
    /// Which interface of the host each address is on.
    links: Vec<(IpAddr, u32)>,
    rules: Vec<Rule>,
    routes: Vec<Route>,
    neighbors: Vec<(PortId, IpAddr, MacAddr)>,
}

impl Surroundings {
    pub(super) fn new(networks: &[Network], uplinks: &[Uplink], host: &HostState) -> Surroundings {
        let ports: Vec<(u32, PortId)> = uplinks
            .iter()
            .map(|uplink| (uplink.link.index, uplink.port))
            .collect();
        let mut addresses = uplink::host_addresses(host);
        // They are on interfaces of ours, but news of them takes a moment.
        addresses.extend(gateways(networks));
        addresses.sort();
        addresses.dedup();
        Surroundings {
            addresses,
            subnets: routing::host_subnets(host),
            links: uplink::links(host),
            rules: routing::rules(host, networks),
            routes: routing::routes(host, &ports.iter().copied().collect()),
            neighbors: uplink::neighbors(host, &ports),
        }
    }

    /// Whether the host is where it was; its neighbors come and go there all the time.
    pub(super) fn is_same_network(&self, earlier: &Surroundings) -> bool {
        self.addresses == earlier.addresses
            && self.subnets == earlier.subnets
            && self.links == earlier.links
            && self.rules == earlier.rules
            && self.routes == earlier.routes
    }
}

fn gateways(networks: &[Network]) -> impl Iterator<Item = IpAddr> {
    let gateways = networks.iter().flat_map(|network| &network.record.gateways);
    gateways.copied()
}

/// The whole description. Endpoints of containers that have ended have no port and are left out.
pub(super) fn build(
    networks: &[Network],
    containers: &[Container],
    uplinks: &[Uplink],
    host: &HostState,
    faults: &FaultBook,
    names: &NameService,
    clamp_mss: bool,
) -> Config {
    let Surroundings {
        addresses,
        subnets,
        links,
        rules: routing_rules,
        routes,
        neighbors,
    } = Surroundings::new(networks, uplinks, host);
    let ids: HashMap<&str, &Network> = networks
        .iter()
        .map(|network| (network.record.id.as_str(), network))
        .collect();
    Config {
        networks: networks
            .iter()
            .map(|network| SwitchNetwork {
                id: network.id,
                gateway_mac: network.record.gateway_mac,
                gateway_addresses: network.record.gateways.clone(),
                subnets: network.record.subnets.clone(),
                host_port: Some(network.port),
                mtu: network.record.mtu,
                internal: network.record.options.internal,
                names: names.are_inside(network.id),
                bridge: bridge(&network.record.options.bridge),
                clamp_mss: network.record.options.mss_clamp,
            })
            .collect(),
        endpoints: containers
            .iter()
            .flat_map(|container| container.record.endpoints.iter().zip(&container.plugs))
            .filter_map(|(endpoint, plug)| {
                let network = ids.get(endpoint.network.as_str())?;
                Some(Endpoint {
                    port: plug.port,
                    network: network.id,
                    mac: endpoint.mac,
                    addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
                    guard: true,
                    isolated: network.record.options.isolated,
                })
            })
            .collect(),
        treatments: treatments(containers, faults),
        uplinks: uplinks
            .iter()
            .map(|uplink| SwitchUplink {
                port: uplink.port,
                newcomers: Some(uplink.newcomers.port),
                // One that came over a tunnel is no MAC of this link.
                mac: match uplink.link.ethernet {
                    true => uplink.link.mac,
                    false => MacAddr::default(),
                },
                mtu: uplink.link.mtu,
                clamp_mss,
            })
            .collect(),
        rules: routing_rules,
        routes,
        neighbors,
        names: names.stack(),
        nat: nat::Rules {
            local_subnets: subnets.clone(),
            links,
            ..rules(networks, containers, &addresses)
        },
        host_addresses: addresses,
        host_subnets: subnets,
    }
}

fn bridge(options: &BridgeOptions) -> Bridge {
    let StormOptions {
        broadcast,
        multicast,
        unknown_unicast,
    } = options.storm;
    Bridge {
        storm: StormLimits {
            broadcast,
            multicast,
            unknown_unicast,
        },
        snooping: options.snooping.then(|| Snooping {
            querier: options.querier,
            ..Snooping::default()
        }),
        ..Bridge::default()
    }
}

fn rules(networks: &[Network], containers: &[Container], local: &[IpAddr]) -> nat::Rules {
    nat::Rules {
        masquerade: networks
            .iter()
            .map(|network| &network.record)
            .filter(|record| record.options.masquerades())
            .flat_map(|record| record.subnets.iter().map(move |subnet| (record, *subnet)))
            .map(|(record, source)| nat::Masquerade {
                source,
                to: record.options.masquerade_to(source),
            })
            .collect(),
        publish: containers
            .iter()
            .flat_map(|container| &container.published)
            .flat_map(|published| published.rules().to_vec())
            .collect(),
        // Who asks at a link-local address has one as well, and no container could answer to that.
        local: local
            .iter()
            .filter(|address| address.is_ipv4() || !is_link_local(**address))
            .copied()
            .collect(),
        ..nat::Rules::default()
    }
}

/// What the uplinks' sockets let through: published ports and those of masqueraded flows, to the
/// host's own addresses; and what goes to containers by their own.
pub(super) fn filter(
    networks: &[Network],
    containers: &[Container],
    snat: &SnatPorts,
    host: &HostState,
) -> UplinkFilter {
    let published = |protocol: Protocol| {
        containers
            .iter()
            .flat_map(|container| &container.published)
            .filter(move |it| it.mapping.protocol == protocol && !it.rules().is_empty())
            .map(|published| host_ports(&published.mapping))
    };
    let gateways: HashSet<IpAddr> = gateways(networks).collect();
    let mut filter = UplinkFilter {
        tcp: snat.intervals(nat::Protocol::TCP),
        udp: snat.intervals(nat::Protocol::UDP),
        addresses: uplink::host_addresses(host),
        routed: networks
            .iter()
            .filter(|network| network.record.options.routed)
            .flat_map(|network| network.record.subnets.iter().copied())
            .chain(routing::host_subnets(host))
            .collect(),
        published: [
            published(Protocol::Tcp).collect(),
            published(Protocol::Udp).collect(),
        ],
    };
    filter.tcp.extend(published(Protocol::Tcp));
    filter.udp.extend(published(Protocol::Udp));
    filter
        .addresses
        .retain(|address| !gateways.contains(address));
    filter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::sample::{container, ip, names, network};
    use crate::host::HostAddress;

    /// The API's types know nothing of the switch, so its defaults are written down twice.
    #[test]
    fn a_network_s_storm_limits_are_the_switch_s_by_default() {
        let bridge = bridge(&BridgeOptions::default());
        assert_eq!(bridge.storm, StormLimits::default());
    }

    #[test]
    fn the_description_names_what_is_there_and_nothing_else() {
        let containers = [
            container("web", Some(4), "n"),
            container("ended", None, "n"),
            container("elsewhere", Some(5), "another"),
        ];
        let host = HostState {
            addresses: [(1, "127.0.0.1/8"), (2, "192.0.2.2/24"), (2, "fe80::2/64")]
                .map(|(ifindex, net)| HostAddress {
                    ifindex,
                    net: net.parse().unwrap(),
                    passing: false,
                    narrow: false,
                })
                .to_vec(),
            ..HostState::default()
        };
        let config = build(
            &[network("n", 1)],
            &containers,
            &[],
            &host,
            &FaultBook::default(),
            &names(),
            false,
        );
        assert_eq!(config.networks.len(), 1);
        let ports: Vec<PortId> = config
            .endpoints
            .iter()
            .map(|endpoint| endpoint.port)
            .collect();
        assert_eq!(ports, [PortId(4)]);
        assert_eq!(config.endpoints[0].addresses, [ip("172.17.0.2")]);
        let own = ["172.17.0.1", "192.0.2.2", "fe80::2"].map(ip);
        assert_eq!(config.host_addresses, own);
        assert_eq!(config.nat.local, own[..2]);
        assert_eq!(config.nat.masquerade.len(), 1);
        assert!(config.routes.is_empty() && config.uplinks.is_empty());
    }

    #[tokio::test]
    async fn published_ports_open_the_filter_and_make_rules_but_loopback_does_not() {
        use switch::io::filter::local_only_filter;

        use crate::api::PortMapping;
        use crate::daemon::publish::{Destination, reserve};

        let mut web = container("web", Some(4), "n");
        let to = Destination::of(&["172.17.0.2/16".parse().unwrap()]);
        // Ports nobody else has: found by asking for any.
        let mut last_rule = 0;
        for host_ip in [None, Some(ip("127.0.0.1"))] {
            let free = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
            let host_port = free.local_addr().unwrap().port();
            drop(free);
            let mapping = PortMapping {
                protocol: Protocol::Tcp,
                host_ip,
                host_port,
                container_port: 80,
                count: 1,
                allow: Vec::new(),
            };
            let reserved = reserve(&mapping, to, &local_only_filter(&[])).unwrap();
            web.published.push(reserved.serve(&mut last_rule).unwrap());
        }
        let wire = host_ports(&web.published[0].mapping);
        let (networks, containers) = ([network("n", 1)], [web]);
        let config = build(
            &networks,
            &containers,
            &[],
            &HostState::default(),
            &FaultBook::default(),
            &names(),
            false,
        );
        assert_eq!(config.nat.publish.len(), 1);
        assert_eq!(config.nat.publish[0].ports, wire);
        let filter = filter(
            &networks,
            &containers,
            &SnatPorts::new(),
            &HostState::default(),
        );
        assert_eq!((filter.tcp, filter.udp), (vec![wire], vec![]));
    }
}
