//! Names: what containers ask port 53 of their gateway, or of 127.0.0.11, where configurations made
//! for Docker ask.
//!
//! A network stack of its own answers ([`Names`](crate::config::Names)), which has the gateways'
//! addresses and nothing else to do: no filter of the host stands before it, and no other program
//! of the host holds its port. It is asked and it answers through one port of the switch, whatever
//! network a question is from.
//!
//! Nobody listens at 127.0.0.11 in the container, so its port 53 is its own. It routes the address
//! to the gateway, and here what it asks there gets the address of the gateway and a port that is
//! for such questions; the answer goes back from where it was asked for. The port tells such
//! answers from others, so nothing has to be remembered.
//!
//! To take such answers a container must believe its interface where loopback addresses are
//! concerned (route_localnet). What its neighbours send to them is dropped, or they would reach what
//! the container offers to itself alone (CVE-2020-8558).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nat::{Protocol, Tuple};

use crate::config::{Names, PortId};
use crate::datapath::{Egress, Pass};
use crate::drop::DropReason;
use crate::frame::{self, Frame, ethertype};
use crate::gateway::parse;
use crate::layers::Layers;
use crate::topology::{Role, Segment};

/// Where containers ask.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
const PORT: u16 = 53;

impl Pass<'_> {
    /// Sends a question for names on to who answers it. None for whatever is no such question.
    ///
    /// What has an address that nobody configured could not be answered from there: it is the
    /// host's.
    pub(crate) fn ask_names(
        &self,
        segment: &Segment,
        ingress: PortId,
        frame: &mut Frame,
    ) -> Option<Egress> {
        let names = self.topology.names.filter(|_| segment.network.names)?;
        let mut packet = parse(frame).ok()?;
        let asked = packet.tuple().filter(|asked| has_ports(asked.protocol))?;
        let gateways = &segment.network.gateway_addresses;
        let is_question = asked.dst == LOOPBACK || gateways.contains(&asked.dst);
        if asked.dst_port != PORT || !is_question {
            return None;
        }
        let asker = self.topology.endpoint_at(asked.src);
        asker.filter(|asker| asker.port == ingress)?;
        if asked.dst == LOOPBACK {
            packet.readdress(&Tuple {
                dst: *gateways.iter().find(|gateway| gateway.is_ipv4())?,
                dst_port: names.redirected,
                ..asked
            });
        }
        frame::set_destination(frame.bytes_mut(), names.mac);
        Some(Egress::Port(names.port))
    }

    /// Brings an answer to who asked. Whatever else a network stack says of its own accord is for
    /// nobody.
    pub(crate) fn answer_names(&mut self, frame: &mut Frame) -> Result<Egress, DropReason> {
        let Some(names) = self.topology.names else {
            return Err(DropReason::PortUnassigned);
        };
        let Ok(mut packet) = parse(frame) else {
            return Ok(Egress::Consumed);
        };
        let (server, asker) = (packet.src(), packet.dst());
        let Some(endpoint) = self.topology.endpoint_at(asker) else {
            return Ok(Egress::Consumed);
        };
        let is_gateway = match self.topology.role(endpoint.port) {
            Role::Container { network, .. } => {
                let network = &self.topology.networks[network].network;
                network.gateway_addresses.contains(&server)
            }
            _ => false,
        };
        if !is_gateway {
            return Ok(Egress::Consumed);
        }
        if let Some(answer) = packet.tuple().filter(|it| is_redirected(it, names)) {
            packet.readdress(&Tuple {
                src: LOOPBACK,
                src_port: PORT,
                ..answer
            });
        }
        self.deliver(asker, frame)
    }
}

fn is_redirected(answer: &Tuple, names: Names) -> bool {
    answer.src.is_ipv4() && answer.src_port == names.redirected && has_ports(answer.protocol)
}

fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP)
}

/// Whether a frame has a packet for a loopback address, which none on a wire may be for (RFC 1122
/// section 3.2.1.3, RFC 4291 section 2.5.3), tagged or not.
pub(crate) fn is_for_loopback(frame: &[u8], layers: Layers) -> bool {
    let destination = |at: usize, length: usize| frame.get(layers.at + at..)?.get(..length);
    match layers.ethertype {
        ethertype::IPV4 => destination(16, 1) == Some(&[127]),
        ethertype::IPV6 => destination(24, 16) == Some(&Ipv6Addr::LOCALHOST.octets()),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
