//! What the switch is told, made from what the daemon knows.

use std::net::IpAddr;

use ipnet::IpNet;
use switch::PortId;
use switch::config::{
    Bridge, Config, Endpoint, Network as SwitchNetwork, Snooping, StormLimits,
    Uplink as SwitchUplink,
};
use switch::io::filter::UplinkFilter;

use super::container::Container;
use super::faults::FaultBook;
use super::limits::treatments;
use super::network::Network;
use super::publish::host_ports;
use super::resolver::NameService;
use super::snat::SnatPorts;
use super::uplink::{self, Uplink};
use crate::api::{BridgeOptions, Protocol, StormOptions};
use crate::host::{HostState, is_link_local};

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
    let ports: Vec<(u32, PortId)> = uplinks
        .iter()
        .map(|uplink| (uplink.link.index, uplink.port))
        .collect();
    let mut host_addresses = uplink::host_addresses(host);
    // The gateways' addresses are on interfaces of ours, but news of them takes a moment.
    for gateway in networks.iter().flat_map(|network| &network.record.gateways) {
        if !host_addresses.contains(gateway) {
            host_addresses.push(*gateway);
        }
    }
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
                resolver: names.led_to(&network.record.id),
                bridge: bridge(&network.record.options.bridge),
                clamp_mss: network.record.options.mss_clamp,
            })
            .collect(),
        endpoints: containers
            .iter()
            .flat_map(|container| container.record.endpoints.iter().zip(&container.plugs))
            .filter_map(|(endpoint, plug)| {
                let network = networks
                    .iter()
                    .find(|network| network.record.id == endpoint.network)?;
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
                mac: uplink.link.mac,
                mtu: uplink.link.mtu,
                clamp_mss,
            })
            .collect(),
        routes: uplink::routes(host, &ports),
        neighbors: uplink::neighbors(host, &ports),
        nat: rules(networks, containers, &host_addresses),
        host_addresses,
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
    let is_gateway = |ip: &IpAddr| {
        networks
            .iter()
            .any(|network| network.record.gateways.contains(ip))
    };
    let mut filter = UplinkFilter {
        tcp: snat.intervals(nat::Protocol::TCP),
        udp: snat.intervals(nat::Protocol::UDP),
        addresses: uplink::host_addresses(host),
        routed: networks
            .iter()
            .filter(|network| network.record.options.routed)
            .flat_map(|network| network.record.subnets.iter().copied())
            .collect(),
    };
    filter.tcp.extend(published(Protocol::Tcp));
    filter.udp.extend(published(Protocol::Udp));
    filter.addresses.retain(|address| !is_gateway(address));
    filter
}

#[cfg(test)]
mod tests {
    use switch::NetworkId;
    use switch::frame::MacAddr;

    use super::*;
    use crate::api::{Mode, NetworkOptions, PortKind, Status, Target};
    use crate::daemon::container::Plug;
    use crate::daemon::life::Identity;
    use crate::daemon::store::{ContainerRecord, EndpointRecord, NetworkRecord};
    use crate::host::HostAddress;
    use crate::ipam::Pools;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn names() -> NameService {
        NameService::new(&[ip("192.0.2.53")], std::path::Path::new("/nonexistent"))
    }

    fn network() -> Network {
        Network {
            record: NetworkRecord {
                id: "n".to_owned(),
                name: "bridge".to_owned(),
                subnets: vec!["172.17.0.0/16".parse().unwrap()],
                gateways: vec![ip("172.17.0.1")],
                gateway_mac: MacAddr([2; 6]),
                host_interface: "pontoon0".to_owned(),
                mtu: 1500,
                created: 0,
                options: NetworkOptions::default(),
            },
            id: NetworkId(1),
            port: PortId(0),
            addresses: Pools::new(&["172.17.0.0/16".parse().unwrap()], &[ip("172.17.0.1")])
                .unwrap(),
        }
    }

    fn container(name: &str, port: Option<u32>, network: &str) -> Container {
        let endpoint = EndpointRecord {
            network: network.to_owned(),
            interface: "eth0".to_owned(),
            mac: MacAddr([2, 0, 0, 0, 0, 7]),
            addresses: vec!["172.17.0.2/16".parse().unwrap()],
            port_kind: PortKind::Tap,
            host_interface: None,
            aliases: Vec::new(),
            gateway_priority: 0,
            limits: Default::default(),
        };
        let plug = |port| Plug {
            port: PortId(port),
            ifindex: 2,
            host_ifindex: None,
        };
        Container {
            record: ContainerRecord {
                names: Default::default(),
                id: name.to_owned(),
                name: name.to_owned(),
                mode: Mode::Network("bridge".to_owned()),
                target: Target::Pid(1),
                identity: Identity {
                    boot: String::new(),
                    netns: 1,
                    started: None,
                },
                command: Vec::new(),
                created: 0,
                status: Status::Running,
                exit_code: None,
                endpoints: vec![endpoint],
                published: Vec::new(),
                remove_on_exit: false,
                supervised: false,
            },
            plugs: port.map(plug).into_iter().collect(),
            published: Vec::new(),
            watch: None,
        }
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
                })
                .to_vec(),
            ..HostState::default()
        };
        let config = build(
            &[network()],
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
        let own = ["192.0.2.2", "fe80::2", "172.17.0.1"].map(ip);
        assert_eq!(config.host_addresses, own);
        assert_eq!(config.nat.local, [own[0], own[2]]);
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
        let (networks, containers) = ([network()], [web]);
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
