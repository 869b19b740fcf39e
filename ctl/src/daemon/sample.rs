//! Networks and containers for unit tests, as they are in memory: no interface is behind them.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use switch::frame::MacAddr;
use switch::{NetworkId, PortId};

use super::container::{Container, Plug};
use super::life::Identity;
use super::network::Network;
use super::resolver::NameService;
use super::store::{ContainerRecord, EndpointRecord, NetworkRecord};
use crate::api::{Mode, NetworkOptions, PortKind, Status, Target};
use crate::ipam::Pools;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn names() -> NameService {
    NameService::new(&[ip("192.0.2.53").into()], Path::new("/nonexistent"), None)
}

/// A network with this id, at the port `number - 1`.
pub(super) fn network(id: &str, number: u32) -> Network {
    let subnets = ["172.17.0.0/16".parse().unwrap()];
    let gateways = [ip("172.17.0.1")];
    Network {
        record: Arc::new(NetworkRecord {
            id: id.to_owned(),
            name: format!("net-{id}"),
            subnets: subnets.to_vec(),
            gateways: gateways.to_vec(),
            gateway_mac: MacAddr([2; 6]),
            host_interface: format!("pontoon{number}"),
            mtu: 1500,
            created: 0,
            options: NetworkOptions::default(),
        }),
        id: NetworkId(number),
        port: PortId(number - 1),
        addresses: Pools::new(&subnets, &gateways).unwrap(),
    }
}

/// A container on the network of this id, whose name is its id too. Without a port it has ended.
pub(super) fn container(name: &str, port: Option<u32>, network: &str) -> Container {
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
        record: Arc::new(ContainerRecord {
            names: Default::default(),
            id: name.to_owned(),
            name: name.to_owned(),
            mode: Mode::Network(network.to_owned()),
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
            process: None,
        }),
        plugs: port.map(plug).into_iter().collect(),
        published: Vec::new(),
        pending: Vec::new(),
        watch: None,
    }
}
