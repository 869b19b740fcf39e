//! The program that keeps the host's kernel from seeing what is for the switch.
//!
//! A classifier at an uplink's tc ingress runs it, behind the taps of AF_PACKET and before
//! netfilter and the stack (`__netif_receive_skb_core` in net/core/dev.c). So the switch sees such
//! a frame, and the host neither answers it nor rejects it by a rule of its firewall.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use libc::sock_filter;

use super::{
    AND, GO, IF_ANY_BIT, IF_EQUAL, LOAD_BYTE, LOAD_HALF, LOAD_HALF_AT_X, LOAD_MEMORY, LOAD_WORD,
    LOAD_X, LOAD_X_HEADER, STORE_MEMORY, TCP, UDP, VLAN_TAG, exit, jump, load, merge, search_for,
    when_equal, words,
};
use crate::frame::ethertype;

const SCTP: u32 = libc::IPPROTO_SCTP as u32;

/// What a classifier with direct action returns to drop a frame (linux/pkt_cls.h).
const SHOT: u32 = 2;
/// And to leave it to the next classifier, or to the stack.
const UNSPECIFIED: u32 = u32::MAX;

const PROTOCOL: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL) as u32;
/// Offsets from here count from the IP header, whatever is before it on this kind of link.
const NETWORK: u32 = libc::SKF_NET_OFF as u32;

/// The kernel takes 4096 instructions (BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4000;
/// The most that one interval takes: see [`search_for`].
const PER_INTERVAL: usize = 5;
/// The most that one address takes, and one set besides its intervals.
const PER_ADDRESS: usize = 9;
const PER_SET: usize = 24;

/// Destinations that the host's kernel is not to see, on some of the host's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngressPorts {
    /// All of one family.
    pub addresses: Vec<IpAddr>,
    /// In any order. Those that come first are kept when there are too many for one program.
    pub tcp: Vec<RangeInclusive<u16>>,
    pub udp: Vec<RangeInclusive<u16>>,
    pub sctp: Vec<RangeInclusive<u16>>,
}

/// The program for the classifier: drops TCP, UDP and SCTP to these ports at these addresses. All
/// else goes its way: other VLANs', other protocols, IPv6 with extension headers, and fragments.
///
/// Of a datagram in fragments only the first one has ports. Without it the rest would wait in the
/// kernel for 30 s (`ipfrag_time`) and fill the memory for fragments (`ipfrag_high_thresh`, 4 MiB),
/// so that the host could receive none of its own.
///
/// With more intervals than fit, those that come last are left out; their ports need sockets.
pub fn ingress_filter(sets: &[IngressPorts]) -> Vec<sock_filter> {
    let addresses: usize = sets.iter().map(|set| set.addresses.len()).sum();
    let fixed = 40 + addresses * PER_ADDRESS + sets.len() * PER_SET;
    let room = MAX_INSTRUCTIONS.saturating_sub(fixed) / PER_INTERVAL / sets.len().max(1);
    let of_family = |v6: bool| -> Vec<&IngressPorts> {
        let is_family = |set: &&IngressPorts| set.addresses.iter().all(|it| it.is_ipv6() == v6);
        let sets = sets.iter().filter(|set| !set.addresses.is_empty());
        sets.filter(is_family).collect()
    };
    let mut program = vec![
        load(LOAD_WORD, VLAN_TAG),
        load(AND, 0x0fff),
        jump(IF_EQUAL, 0, 1, 0),
        exit(UNSPECIFIED),
        load(LOAD_WORD, PROTOCOL),
    ];
    program.extend(when_equal(
        ethertype::IPV4.into(),
        ipv4(&of_family(false), room),
    ));
    program.extend(when_equal(
        ethertype::IPV6.into(),
        ipv6(&of_family(true), room),
    ));
    program.push(exit(UNSPECIFIED));
    program
}

fn ipv4(sets: &[&IngressPorts], room: usize) -> Vec<sock_filter> {
    let mut program = vec![
        load(LOAD_HALF, NETWORK + 6),
        jump(IF_ANY_BIT, 0x3fff, 0, 1), // a fragment
        exit(UNSPECIFIED),
        load(LOAD_BYTE, NETWORK + 9),
        load(STORE_MEMORY, 0),
        load(LOAD_X_HEADER, NETWORK),
    ];
    for set in sets {
        let body = ports(set, room);
        // A jump on a comparison reaches 255 instructions.
        for addresses in set.addresses.chunks(200) {
            program.push(load(LOAD_WORD, NETWORK + 16));
            for (at, address) in addresses.iter().enumerate() {
                let to_body = addresses.len() - at;
                program.push(jump(IF_EQUAL, words(*address)[0], to_body as u8, 0));
            }
            program.push(load(GO, body.len() as u32));
            program.extend(body.iter().copied());
        }
    }
    program.push(exit(UNSPECIFIED));
    program
}

fn ipv6(sets: &[&IngressPorts], room: usize) -> Vec<sock_filter> {
    let mut program = vec![
        load(LOAD_X, 40),
        load(LOAD_BYTE, NETWORK + 6),
        load(STORE_MEMORY, 0),
    ];
    for set in sets {
        let body = ports(set, room);
        for (at, address) in set.addresses.iter().enumerate() {
            for (word, value) in words(*address).into_iter().enumerate() {
                program.push(load(LOAD_WORD, NETWORK + 24 + 4 * word as u32));
                // To the next address.
                let next = PER_ADDRESS - 2 - 2 * word;
                program.push(jump(IF_EQUAL, value, 0, next as u8));
            }
            // To the body, which is behind the others and a jump over it.
            let others = (set.addresses.len() - 1 - at) * PER_ADDRESS;
            program.push(load(GO, others as u32 + 1));
        }
        program.push(load(GO, body.len() as u32));
        program.extend(body);
    }
    program.push(exit(UNSPECIFIED));
    program
}

/// The verdict on a packet to one of the set's addresses. M[0] is the protocol, X the length of the
/// IP header.
fn ports(set: &IngressPorts, room: usize) -> Vec<sock_filter> {
    let mut program = vec![load(LOAD_MEMORY, 0)];
    let mut room = room;
    for (protocol, intervals) in [(TCP, &set.tcp), (UDP, &set.udp), (SCTP, &set.sctp)] {
        let intervals = merge(&intervals[..intervals.len().min(room)]);
        room -= intervals.len();
        let mut lookup = vec![load(LOAD_HALF_AT_X, NETWORK + 2)];
        lookup.extend(search_for(&intervals, SHOT, UNSPECIFIED));
        program.extend(when_equal(protocol, lookup));
    }
    program.push(exit(UNSPECIFIED));
    program
}
