//! Nexthop objects (`ip nexthop`): next hops that routes name by a number.
//!
//! With `net.ipv4.nexthop_compat_mode` off a route tells that number alone, and nothing is told of
//! the routes when an object changes. The netlink crates do not know these messages, so they are
//! taken apart here (`linux/nexthop.h`).

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use rtnetlink::proto::sys::{SocketAddr, protocols::NETLINK_ROUTE};

use super::HostHop;

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

/// `struct nhmsg`: family, scope, protocol, a reserved byte, and flags.
const HEADER: usize = 8;
const DEAD: u32 = 1;

/// A message of rtnetlink, those about nexthop objects included.
#[derive(Debug)]
pub(super) enum Message {
    /// Of any other subject.
    Other(RouteNetlinkMessage),
    /// An object is there, has changed, or is gone; with its number, if it was understood.
    Nexthop(Option<(u32, Nexthop)>),
    /// All objects are asked for.
    AskForNexthops,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Nexthop {
    One(HostHop),
    /// Some of these, by number and weight.
    Group(Vec<(u32, u32)>),
    /// Packets are not sent on: its link is down.
    Dead,
    /// Encapsulated, a blackhole (which routes tell themselves), or of a kind not known here.
    Obscure,
}

impl NetlinkDeserializable for Message {
    type Error = <RouteNetlinkMessage as NetlinkDeserializable>::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Message, Self::Error> {
        match header.message_type {
            RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Ok(Message::Nexthop(parse(payload))),
            _ => RouteNetlinkMessage::deserialize(header, payload).map(Message::Other),
        }
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Message::Other(message) => message.message_type(),
            Message::Nexthop(_) => RTM_NEWNEXTHOP,
            Message::AskForNexthops => RTM_GETNEXTHOP,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Message::Other(message) => message.buffer_len(),
            Message::Nexthop(_) | Message::AskForNexthops => HEADER,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Message::Other(message) => message.serialize(buffer),
            // Of all families, without a condition.
            Message::Nexthop(_) | Message::AskForNexthops => buffer.fill(0),
        }
    }
}

/// An object and its number.
fn parse(payload: &[u8]) -> Option<(u32, Nexthop)> {
    let (header, attributes) = payload.split_at_checked(HEADER)?;
    let flags = number(&header[4..])?;
    let (mut id, mut via, mut ifindex) = (None, None, None);
    let (mut group, mut obscure) = (None, false);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            // NHA_ID, NHA_GROUP, NHA_OIF, NHA_GATEWAY
            1 => id = number(value),
            2 => group = Some(members(value)),
            5 => ifindex = number(value),
            6 => via = Some(address(value)?),
            // NHA_BLACKHOLE, NHA_ENCAP_TYPE, NHA_ENCAP, NHA_FDB
            4 | 7 | 8 | 11 => obscure = true,
            _ => {}
        }
    }
    let nexthop = match (group, ifindex) {
        _ if obscure => Nexthop::Obscure,
        _ if flags & DEAD != 0 => Nexthop::Dead,
        (Some(members), _) => Nexthop::Group(members),
        (None, Some(ifindex)) => Nexthop::One(HostHop {
            via,
            ifindex,
            weight: 1,
        }),
        (None, None) => Nexthop::Obscure,
    };
    Some((id?, nexthop))
}

/// Entries of `struct nexthop_grp`: a number, and the weight less one, whose upper byte came later.
fn members(value: &[u8]) -> Vec<(u32, u32)> {
    let entries = value.chunks_exact(8);
    let member = |entry: &[u8]| {
        let weight = u32::from(u16::from_le_bytes([entry[4], entry[5]])) + 1;
        Some((number(entry)?, weight))
    };
    entries.filter_map(member).collect()
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_ne_bytes)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(value).map(IpAddr::from);
    v4.or(v6).ok()
}

/// The objects of the host, by number.
#[derive(Debug, Default)]
pub(super) struct Nexthops(HashMap<u32, Nexthop>);

impl Nexthops {
    /// Asks the kernel; none if it has no such thing (before Linux 5.3).
    pub(super) async fn ask() -> io::Result<Nexthops> {
        let (connection, handle, _) = rtnetlink::proto::new_connection::<Message>(NETLINK_ROUTE)?;
        // It ends with the handle.
        tokio::spawn(connection);
        let mut question = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(Message::AskForNexthops),
        );
        question.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = handle
            .request(question, SocketAddr::new(0, 0))
            .map_err(io::Error::other)?;
        let mut nexthops = HashMap::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(Message::Nexthop(nexthop)) => nexthops.extend(nexthop),
                NetlinkPayload::Error(_) => break,
                _ => {}
            }
        }
        Ok(Nexthops(nexthops))
    }

    /// The next hops of a route that names this object, without dead ones; `None` if only the
    /// kernel knows them.
    pub(super) fn hops(&self, id: u32) -> Option<Vec<HostHop>> {
        let members = match self.0.get(&id)? {
            Nexthop::Group(members) => members.as_slice(),
            _ => &[(id, 1)],
        };
        let mut hops = Vec::with_capacity(members.len());
        for (member, weight) in members {
            match self.0.get(member)? {
                Nexthop::One(hop) => hops.push(HostHop {
                    weight: *weight,
                    ..*hop
                }),
                Nexthop::Dead => {}
                // The kernel takes no group into a group.
                Nexthop::Group(_) | Nexthop::Obscure => return None,
            }
        }
        Some(hops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0];
        bytes.extend(flags.to_ne_bytes());
        for (kind, value) in attributes {
            bytes.extend((value.len() as u16 + 4).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn hop(via: Option<&str>, weight: u32) -> HostHop {
        HostHop {
            via: via.map(|via| via.parse().unwrap()),
            ifindex: 3,
            weight,
        }
    }

    #[test]
    fn a_group_is_its_living_members() {
        let id = |id: u32| id.to_ne_bytes();
        let group: Vec<u8> = [(1, [0, 0]), (2, [1, 1]), (3, [4, 0])]
            .iter()
            .flat_map(|&(member, [low, high])| [&id(member)[..], &[low, high, 0, 0]].concat())
            .collect();
        let oif = id(3);
        let messages = [
            message(0, &[(1, &id(1)), (5, &oif), (6, &[192, 0, 2, 1])]),
            message(0, &[(1, &id(2)), (5, &oif)]),
            message(DEAD, &[(1, &id(3)), (5, &oif)]),
            message(0, &[(1, &id(9)), (2, &group), (3, &[0, 0])]),
            message(0, &[(1, &id(4)), (4, &[])]),
            message(0, &[(1, &id(5)), (7, &[1, 0]), (8, &[]), (5, &oif)]),
        ];
        let parsed = messages.iter().map(|bytes| parse(bytes).unwrap());
        let all = Nexthops(parsed.collect());
        assert_eq!(all.hops(1), Some(vec![hop(Some("192.0.2.1"), 1)]));
        let both = vec![hop(Some("192.0.2.1"), 1), hop(None, 258)];
        assert_eq!(all.hops(9), Some(both));
        assert_eq!(all.hops(3), Some(vec![]));
        assert_eq!([4, 5, 6].map(|id| all.hops(id)), [None, None, None]);
    }

    #[test]
    fn no_bytes_panic() {
        let whole = message(0, &[(1, &[1, 0, 0, 0]), (5, &[3, 0]), (6, &[1, 2, 3])]);
        for length in 0..=whole.len() {
            // Without an interface it is nothing to send by.
            let understood = parse(&whole[..length]).map(|(_, nexthop)| nexthop);
            assert!(
                understood.is_none_or(|it| it == Nexthop::Obscure),
                "{length}"
            );
        }
    }
}
