//! IPv6 for hosts that are there.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;
use smoltcp::wire::IpCidr;
use switch::config::Route;
use switch::frame::{Frame, MacAddr};
use switch::nd::{self, Message};

use super::{HostId, Simulation};

impl Simulation {
    /// Gives the host's own side of a network an address, which is the gateway's, and the network
    /// its subnet. Flows from there are masqueraded.
    pub fn add_ipv6_gateway(&mut self, id: HostId, address: Ipv6Net) {
        let port = self.port(id);
        let networks = &mut self.config.networks;
        let network = networks.iter_mut().find(|of| of.host_port == Some(port));
        let network = network.expect("the host has a side of each network");
        let gateway = address.addr().into();
        network.gateway_addresses.push(gateway);
        network.subnets.push(address.trunc().into());
        self.config.host_addresses.push(gateway);
        self.config.nat.local.push(gateway);
        self.config.nat.masquerade.push(nat::Masquerade {
            source: address.trunc().into(),
            to: None,
        });
        self.give(id, address);
    }

    /// Gives a container an address, with its network's gateway for a router.
    pub fn add_ipv6_container(&mut self, id: HostId, address: Ipv6Net) {
        let port = self.port(id);
        let Self { config, hosts, .. } = self;
        let endpoint = config.endpoints.iter_mut().find(|of| of.port == port);
        let endpoint = endpoint.expect("a container has an endpoint");
        endpoint.addresses.push(address.addr().into());
        let networks = &config.networks;
        let network = networks.iter().find(|of| of.id == endpoint.network);
        let addresses = &network.expect("the network is there").gateway_addresses;
        let gateway = addresses.iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        });
        let host = hosts[id.0].as_mut().expect("the container is there");
        let routes = host.interface.routes_mut();
        let gateway = gateway.expect("the gateway has IPv6 already");
        let added = routes.add_default_ipv6_route(gateway);
        added.expect("room for one more route");
        self.give(id, address);
    }

    /// Gives the host an address on its uplink.
    pub fn add_ipv6_uplink(&mut self, address: Ipv6Addr) {
        self.config.host_addresses.push(address.into());
        self.config.nat.local.push(address.into());
    }

    /// Gives a host an address and no more, as one beyond the uplink needs.
    pub fn give(&mut self, id: HostId, address: Ipv6Net) {
        let address = IpCidr::new(address.addr().into(), address.prefix_len());
        self.host_mut(id).interface.update_ip_addrs(|all| {
            all.push(address).expect("room for four addresses");
        });
    }

    /// A route to everywhere by way of `via`, or on the segment, and its masquerading source.
    pub fn route_ipv6(&mut self, via: Option<Ipv6Addr>, source: Ipv6Addr) {
        self.config.routes.push(Route::by(
            "::/0".parse().expect("a subnet"),
            self.uplink(),
            via.map(Into::into),
            source.into(),
        ));
    }
}

/// What the host's kernel answers on the uplink: solicitations of its own addresses.
pub(super) fn nd_answer(
    frame: &[u8],
    mac: MacAddr,
    is_own: impl Fn(Ipv6Addr) -> bool,
) -> Option<Vec<u8>> {
    let mut frame = Frame::from_bytes(frame);
    let Message::Solicitation(asked) = nd::parse(&frame)? else {
        return None;
    };
    is_own(asked.target).then(|| {
        nd::answer(&mut frame, &asked, mac);
        frame.bytes().to_vec()
    })
}
