//! Announces an address that has another MAC address than before, to those that may remember the
//! old one: the network's endpoints and the host.
//!
//! By gratuitous ARP (RFC 5227 clause 3) and unsolicited neighbour advertisements with the override
//! flag (RFC 4861 clause 7.2.6). Only a change is announced: most containers get the MAC address
//! that follows from their address, and a network of a thousand hears nothing of one more.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::config::{Endpoint, NetworkId};
use crate::frame::{Frame, MacAddr};
use crate::topology::Topology;
use crate::{arp, nd};

/// Addresses remembered beyond those in use; many more would be of no use to any cache.
const REMEMBERED: usize = 1 << 16;

/// The MAC address that each address of a network had last.
#[derive(Debug, Default)]
pub(crate) struct LastMacs(HashMap<(NetworkId, IpAddr), MacAddr, RandomState>);

impl LastMacs {
    /// Takes up the endpoints that are new in `topology`, and announces those that have an address
    /// with another MAC address than the last one.
    pub(crate) fn follow(&mut self, previous: &Topology, topology: &Topology) {
        if Arc::ptr_eq(&previous.endpoints, &topology.endpoints) {
            return;
        }
        for endpoint in topology.endpoints.iter() {
            for &address in &endpoint.addresses {
                let before = previous.endpoint_at(address);
                if before.is_some_and(|it| (it.network, it.mac) == (endpoint.network, endpoint.mac))
                {
                    continue;
                }
                let last = self.0.insert((endpoint.network, address), endpoint.mac);
                if last.is_some_and(|last| last != endpoint.mac) {
                    announce(topology, endpoint, address);
                }
            }
        }
        if self.0.len() > topology.endpoints.len() + REMEMBERED {
            self.0
                .retain(|(_, address), _| topology.endpoint_at(*address).is_some());
        }
    }
}

/// Best effort: a cache that hears nothing runs out in time.
fn announce(topology: &Topology, endpoint: &Endpoint, address: IpAddr) {
    let mut networks = topology.networks.iter();
    let Some(segment) = networks.find(|segment| segment.network.id == endpoint.network) else {
        return;
    };
    let mut frame = Frame::new();
    match address {
        IpAddr::V4(address) => arp::ask(&mut frame, (endpoint.mac, address), address),
        IpAddr::V6(address) => nd::announce(&mut frame, (endpoint.mac, address)),
    }
    let hear = segment
        .members
        .iter()
        .filter(|member| member.port != endpoint.port && !(member.isolated && endpoint.isolated));
    for port in hear.filter_map(|member| topology.port(member.port)) {
        port.queue(0).transmit(&[&frame]);
    }
}

#[cfg(test)]
mod tests {
    use crate::frame::ethertype;
    use crate::testing::{Lan, mac};

    /// The ports that hear announcements, with the EtherTypes.
    fn announced(lan: &Lan) -> Vec<(usize, u16)> {
        let heard = lan.heard().into_iter();
        heard
            .map(|(port, frame)| {
                assert_eq!(frame[6..12], mac(9).0, "the new MAC address speaks");
                (port, u16::from_be_bytes([frame[12], frame[13]]))
            })
            .collect()
    }

    /// Gives the address of endpoint 1 another MAC address.
    fn change(lan: &mut Lan) {
        let endpoint = &mut lan.config.endpoints[0];
        endpoint.mac = mac(9);
        endpoint.addresses.push("fd00::1".parse().unwrap());
        lan.configure();
    }

    #[test]
    fn an_address_with_another_mac_address_is_announced_once() {
        let mut lan = Lan::new(3);
        assert_eq!(announced(&lan), [], "the first who has it");
        // Its container ends, and another one gets the address with the same MAC address.
        let endpoint = lan.config.endpoints.remove(0);
        lan.configure();
        lan.config.endpoints.insert(0, endpoint.clone());
        lan.configure();
        assert_eq!(announced(&lan), []);
        lan.config.endpoints.remove(0);
        lan.configure();
        lan.config.endpoints.insert(0, endpoint);
        change(&mut lan);
        let arp = ethertype::ARP;
        assert_eq!(announced(&lan), [(0, arp), (2, arp), (3, arp)]);
        lan.configure();
        assert_eq!(announced(&lan), []);
        lan.config.endpoints[0].mac = mac(1);
        lan.configure();
        let heard = lan.heard();
        assert_eq!(heard.len(), 6, "of both families, by three ports");
    }

    #[test]
    fn isolated_endpoints_hear_nothing_of_each_other() {
        let mut lan = Lan::new(3).with(|config| {
            for endpoint in &mut config.endpoints[..2] {
                endpoint.isolated = true;
            }
        });
        change(&mut lan);
        let arp = ethertype::ARP;
        assert_eq!(announced(&lan), [(0, arp), (3, arp)]);
    }
}
