//! Classic BPF programs, built from plain data.
//!
//! Linux documents the machine in `Documentation/networking/filter.rst`: an accumulator A, an index
//! X, 16 words of memory, forward jumps. A conditional jump reaches 255 instructions, `JA` any. A
//! program that reads beyond the packet's end returns 0, which drops it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use libc::sock_filter;

use crate::frame::ethertype;

mod ingress;

pub use ingress::{IngressPorts, ingress_filter};

/// The largest program built here. The kernel takes 4096 instructions (BPF_MAXINSNS), but what it
/// makes of them must also fit twice, the old program and the new, into `net.core.optmem_max`, which
/// was 20,480 bytes before Linux 6.8. Measured: 831 instructions of this kind do (Linux 6.18).
const MAX_INSTRUCTIONS: usize = 750;

/// Addresses of one family that the uplink filter compares; with more it accepts every destination.
const MAX_ADDRESSES: usize = 32;

/// Routed networks of one family that the uplink filter compares; with more it accepts the family.
const MAX_NETWORKS: usize = 16;

const ACCEPT: u32 = u32::MAX;
const DROP: u32 = 0;

// Codes: what it does, on which size, from where.
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_BYTE_AT_X: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_IND;
const LOAD_HALF_AT_X: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const LOAD_MEMORY: u32 = libc::BPF_LD | libc::BPF_MEM;
const STORE_MEMORY: u32 = libc::BPF_ST;
const LOAD_X: u32 = libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM;
/// X = 4 * (byte & 15): the length of an IPv4 header.
const LOAD_X_HEADER: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const GO: u32 = libc::BPF_JMP | libc::BPF_JA;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const IF_NOT_LESS: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

const IFINDEX: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX) as u32;
const VLAN_TAG: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG) as u32;

/// Where a frame has its destination address, by family.
const IPV4_DESTINATION: u32 = 14 + 16;
const IPV6_DESTINATION: u32 = 14 + 24;

const ICMP: u32 = libc::IPPROTO_ICMP as u32;
const ICMPV6: u32 = libc::IPPROTO_ICMPV6 as u32;
const TCP: u32 = libc::IPPROTO_TCP as u32;
const UDP: u32 = libc::IPPROTO_UDP as u32;

/// Flags of TCP (RFC 9293 section 3.1).
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// What the switch wants to see of an uplink's traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkFilter {
    /// Destination ports of TCP: published ones and those of masqueraded connections. Any order,
    /// overlaps allowed.
    pub tcp: Vec<RangeInclusive<u16>>,
    /// The same for UDP.
    pub udp: Vec<RangeInclusive<u16>>,
    /// Those of `tcp` and of `udp` that are published, where anybody may open a connection.
    pub published: [Vec<RangeInclusive<u16>>; 2],
    /// The host's addresses that pontoon serves; packets to others stay out. Every address when
    /// empty. Link-local ones of IPv6 count for nothing: no container is behind them.
    pub addresses: Vec<IpAddr>,
    /// Networks whose containers are reached by their own addresses: packets to them come in whatever
    /// their protocol and port.
    pub routed: Vec<IpNet>,
}

/// Which of an uplink's sockets a program is for. Each frame that the switch wants is of exactly
/// one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// There is only one.
    All,
    /// What belongs to something that was there before, and whatever is not told apart.
    Known,
    /// What may open a connection to a published port: the first segments of TCP, and UDP. Anybody
    /// can send any number of them, and then they take nobody else's room but each other's.
    Newcomers,
}

impl Part {
    fn known(self) -> u32 {
        match self {
            Part::All | Part::Known => ACCEPT,
            Part::Newcomers => DROP,
        }
    }

    fn newcomer(self) -> u32 {
        match self {
            Part::All | Part::Newcomers => ACCEPT,
            Part::Known => DROP,
        }
    }
}

/// The program for an uplink's socket. Together those of an uplink accept:
///
/// - all that goes to a routed network;
/// - ARP, ICMP and ICMPv6 (echo, errors, neighbour discovery);
/// - fragments, of which only the first has ports, and IPv6 packets with extension headers;
/// - TCP and UDP to a port in the intervals, found in O(log n) steps;
/// - every other protocol, which has no ports to go by: SCTP and tunnels are translated by address.
///
/// All else stays in the kernel, frames of other VLANs too, and all of IPv6 when none of the addresses
/// is of that family. With more intervals than fit the nearest
/// ones are merged: the socket then sees some traffic of the host's own, which the data path ignores.
pub fn uplink_filter(filter: &UplinkFilter, part: Part) -> Vec<sock_filter> {
    let known = part.known();
    let mut program = vec![
        // The kernel takes the tag off before it shows the frame here; priority tags (VLAN 0) are
        // ours, others belong to a VLAN interface above.
        load(LOAD_WORD, VLAN_TAG),
        load(AND, 0x0fff),
        jump(IF_EQUAL, 0, 1, 0),
        exit(DROP),
        load(LOAD_HALF, 12),
    ];
    program.extend(when_equal(ethertype::ARP.into(), vec![exit(known)]));

    let (routed4, routed6): (Vec<IpNet>, Vec<IpNet>) = IpNet::aggregate(&filter.routed)
        .into_iter()
        .partition(|network| network.addr().is_ipv4());
    let mut ipv6 = ipv6_head(&filter.addresses, &routed6, known);
    // Not taken: neither family, so drop.
    ipv6.splice(
        0..0,
        [jump(IF_EQUAL, ethertype::IPV6.into(), 1, 0), exit(DROP)],
    );
    let mut ipv4 = ipv4_head(&filter.addresses, &routed4, known);
    // Both families go on at the port search behind the IPv6 part.
    ipv4.push(load(GO, ipv6.len() as u32));
    program.extend(when_equal(ethertype::IPV4.into(), ipv4));
    program.extend(ipv6);

    // Here M[0] is the protocol and X the length of the IP header.
    let room = MAX_INSTRUCTIONS.saturating_sub(program.len() + SEARCH_FIXED);
    // Those of TCP are searched by two pieces of the program.
    let limit = room / SEARCH_PER_INTERVAL / 2;
    let [open_tcp, open_udp] = &filter.published;
    let lists = [
        told_apart(&filter.tcp, open_tcp),
        told_apart(&filter.udp, open_udp),
    ];
    let [tcp, udp] = fit(lists, limit);
    // Whoever sends no first segment of TCP is of a connection, or of none.
    let leaves = |intervals: &[Interval], opening: bool| -> Vec<Leaf> {
        let leaf = |it: &Interval| Leaf {
            low: it.low,
            high: it.high,
            value: match it.published && opening {
                true => part.newcomer(),
                false => known,
            },
        };
        intervals.iter().map(leaf).collect()
    };
    program.push(load(LOAD_MEMORY, 0));
    // Ethernet's 14 bytes, the IP header, the source port.
    let destination_port = load(LOAD_HALF_AT_X, 14 + 2);
    let mut opening = vec![destination_port];
    opening.extend(search(&leaves(&tcp, true), DROP));
    let mut segment = vec![load(LOAD_BYTE_AT_X, 14 + 13), load(AND, SYN | ACK)];
    segment.extend(when_equal(SYN, opening));
    segment.push(destination_port);
    segment.extend(search(&leaves(&tcp, false), DROP));
    program.extend(when_equal(TCP, segment));
    let mut datagram = vec![destination_port];
    datagram.extend(search(&leaves(&udp, true), DROP));
    program.extend(when_equal(UDP, datagram));
    program.push(exit(known));
    program
}

/// Instructions of the port search beside those for the intervals.
const SEARCH_FIXED: usize = 20;
/// A comparison of the tree, perhaps with a far jump, and the leaf.
const SEARCH_PER_INTERVAL: usize = 5;

/// The program for a published port's listener: accepts what did not come in through one of these
/// interfaces, which leaves loopback and the host's own connections to itself. A segment from the
/// wire is then dropped without an answer.
pub fn local_only_filter(uplink_ifindexes: &[u32]) -> Vec<sock_filter> {
    let mut program = vec![load(LOAD_WORD, IFINDEX)];
    for &ifindex in uplink_ifindexes {
        program.extend(when_equal(ifindex, vec![exit(DROP)]));
    }
    program.push(exit(ACCEPT));
    program
}

/// The same program for an interface whose frames have no Ethernet header: a tunnel, PPP. It asks
/// the kernel which protocol the packet is of, and finds everything else 14 bytes earlier.
pub fn headerless(mut program: Vec<sock_filter>) -> Vec<sock_filter> {
    const ETHERNET: u32 = 14;
    const ETHERTYPE: u32 = 12;
    const PROTOCOL: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL) as u32;
    for instruction in &mut program {
        let code = u32::from(instruction.code);
        // Class and mode; the size is all the same.
        let reads_packet = [
            libc::BPF_LD | libc::BPF_ABS,
            libc::BPF_LD | libc::BPF_IND,
            libc::BPF_LDX | libc::BPF_MSH,
        ]
        .contains(&(code & 0xe7));
        match instruction.k {
            ETHERTYPE if reads_packet => instruction.k = PROTOCOL,
            // Beyond are the kernel's own data (SKF_AD_OFF).
            ETHERNET..0x8000_0000 if reads_packet => instruction.k -= ETHERNET,
            _ => {}
        }
    }
    program
}

/// The program for a port that pontoon holds for masquerading: drops everything.
pub fn drop_all_filter() -> Vec<sock_filter> {
    vec![exit(DROP)]
}

fn load(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn exit(value: u32) -> sock_filter {
    jump(RETURN, value, 0, 0)
}

/// `on_true` and `on_false` count instructions to skip.
fn jump(code: u32, k: u32, on_true: u8, on_false: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: on_true,
        jf: on_false,
        k,
    }
}

/// Runs the block when A equals `value`. The block must leave the program at its end.
fn when_equal(value: u32, block: Vec<sock_filter>) -> Vec<sock_filter> {
    let mut program = match u8::try_from(block.len()) {
        Ok(near) => vec![jump(IF_EQUAL, value, 0, near)],
        Err(_) => vec![jump(IF_EQUAL, value, 1, 0), load(GO, block.len() as u32)],
    };
    program.extend(block);
    program
}

/// Returns `accept` for what goes to one of the networks, of one family; `destination` is where
/// that family has the address.
fn to_networks(networks: &[IpNet], destination: u32, accept: u32) -> Vec<sock_filter> {
    if networks.len() > MAX_NETWORKS {
        return vec![exit(accept)];
    }
    let to_network = |network: &IpNet| {
        let (address, mask) = (words(network.network()), words(network.netmask()));
        let mut block = vec![exit(accept)];
        for (at, (value, mask)) in address.into_iter().zip(mask).enumerate().rev() {
            if mask == 0 {
                continue;
            }
            // To behind the block.
            let skip = block.len() as u8;
            let mut compare = vec![load(LOAD_WORD, destination + 4 * at as u32)];
            if mask != u32::MAX {
                compare.push(load(AND, mask));
            }
            compare.push(jump(IF_EQUAL, value, 0, skip));
            block.splice(0..0, compare);
        }
        block
    };
    networks.iter().flat_map(to_network).collect()
}

/// The words of an address, the first first.
fn words(address: IpAddr) -> Vec<u32> {
    match address {
        IpAddr::V4(address) => vec![address.to_bits()],
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32).to_vec()
        }
    }
}

/// IPv4 up to the port search. Offsets count from the Ethernet header, RFC 791 §3.1.
fn ipv4_head(addresses: &[IpAddr], routed: &[IpNet], accept: u32) -> Vec<sock_filter> {
    let wanted: Vec<Ipv4Addr> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
        .collect();
    let mut program = to_networks(routed, IPV4_DESTINATION, accept);
    if !addresses.is_empty() && wanted.len() <= MAX_ADDRESSES {
        program.push(load(LOAD_WORD, IPV4_DESTINATION));
        for (index, address) in wanted.iter().enumerate() {
            // To behind the drop.
            let skip = wanted.len() - index;
            program.push(jump(IF_EQUAL, u32::from(*address), skip as u8, 0));
        }
        program.push(exit(DROP));
    }
    program.extend([
        load(LOAD_HALF, 14 + 6), // flags and fragment offset
        jump(IF_ANY_BIT, 0x3fff, 0, 1),
        exit(accept),
        load(LOAD_BYTE, 14 + 9), // protocol
    ]);
    program.extend(when_equal(ICMP, vec![exit(accept)]));
    program.extend([load(STORE_MEMORY, 0), load(LOAD_X_HEADER, 14)]);
    program
}

/// IPv6 up to the port search. Offsets count from the Ethernet header, RFC 8200 §3.
fn ipv6_head(addresses: &[IpAddr], routed: &[IpNet], accept: u32) -> Vec<sock_filter> {
    let wanted: Vec<Ipv6Addr> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V6(address) if !address.is_unicast_link_local() => Some(*address),
            _ => None,
        })
        .collect();
    if wanted.is_empty() && !addresses.is_empty() && routed.is_empty() {
        // Never stored: the kernel checks that M[0] is written by reading the program from top to
        // bottom, past the return as well (check_load_and_stores in net/core/filter.c).
        return vec![exit(DROP), load(STORE_MEMORY, 0)];
    }
    let next_header = load(LOAD_BYTE, 14 + 6);
    let mut program = vec![next_header];
    // Before the addresses: neighbour discovery goes to multicast ones (RFC 4861 §7.2.2).
    program.extend(when_equal(ICMPV6, vec![exit(accept)]));
    program.extend(to_networks(routed, IPV6_DESTINATION, accept));
    if !addresses.is_empty() && wanted.len() <= MAX_ADDRESSES {
        const EACH: usize = 9;
        for (index, address) in wanted.iter().enumerate() {
            for (word, value) in words((*address).into()).into_iter().enumerate() {
                program.push(load(LOAD_WORD, IPV6_DESTINATION + 4 * word as u32));
                // To the next address.
                program.push(jump(IF_EQUAL, value, 0, (EACH - 2 - 2 * word) as u8));
            }
            // To behind the drop.
            program.push(load(GO, ((wanted.len() - 1 - index) * EACH + 1) as u32));
        }
        program.push(exit(DROP));
    }
    program.push(next_header);
    for extension in [
        libc::IPPROTO_HOPOPTS,
        libc::IPPROTO_ROUTING,
        libc::IPPROTO_FRAGMENT,
        libc::IPPROTO_DSTOPTS,
    ] {
        program.extend(when_equal(extension as u32, vec![exit(accept)]));
    }
    program.extend([load(STORE_MEMORY, 0), load(LOAD_X, 40)]);
    program
}

/// Destination ports that are treated alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    low: u16,
    high: u16,
    /// They are published.
    published: bool,
}

/// What a search returns for an interval of ports.
#[derive(Clone, Copy)]
struct Leaf {
    low: u16,
    high: u16,
    value: u32,
}

/// Returns `hit` when A lies in one of the intervals, which are in order and apart; `miss`
/// otherwise.
fn search_for(intervals: &[(u16, u16)], hit: u32, miss: u32) -> Vec<sock_filter> {
    let leaves = intervals.iter().map(|&(low, high)| Leaf {
        low,
        high,
        value: hit,
    });
    search(&leaves.collect::<Vec<_>>(), miss)
}

/// Returns the value of the leaf in which A lies, of leaves that are in order and do not overlap;
/// `miss` where there is none.
fn search(leaves: &[Leaf], miss: u32) -> Vec<sock_filter> {
    match leaves.first() {
        None => vec![exit(miss)],
        Some(first) => {
            // Below the first there is nothing; from here on A is never below the leaf's interval.
            let mut program = vec![jump(IF_NOT_LESS, first.low.into(), 1, 0), exit(miss)];
            program.extend(search_above(leaves, miss));
            program
        }
    }
}

/// The binary search among leaves, of which A is known not to lie below the first.
fn search_above(leaves: &[Leaf], miss: u32) -> Vec<sock_filter> {
    if let [leaf] = leaves {
        return vec![
            jump(IF_GREATER, leaf.high.into(), 0, 1),
            exit(miss),
            exit(leaf.value),
        ];
    }
    let (left, right) = leaves.split_at(leaves.len() / 2);
    let Some(boundary) = right.first().map(|leaf| leaf.low) else {
        return vec![exit(miss)];
    };
    let below = search_above(left, miss);
    let mut program = match u8::try_from(below.len()) {
        Ok(near) => vec![jump(IF_NOT_LESS, boundary.into(), near, 0)],
        Err(_) => {
            vec![
                jump(IF_NOT_LESS, boundary.into(), 0, 1),
                load(GO, below.len() as u32),
            ]
        }
    };
    program.extend(below);
    program.extend(search_above(right, miss));
    program
}

/// All the wanted ports of a protocol, in order, those that are published told from the others.
fn told_apart(all: &[RangeInclusive<u16>], published: &[RangeInclusive<u16>]) -> Vec<Interval> {
    let published = merge(published);
    let mut intervals = Vec::new();
    let mut add = |low: u32, high: u32, published: bool| {
        if let (Ok(low), Ok(high)) = (u16::try_from(low), u16::try_from(high))
            && low <= high
        {
            intervals.push(Interval {
                low,
                high,
                published,
            });
        }
    };
    for (low, high) in merge(all) {
        // Beyond u16 at the end of the last one.
        let mut next = u32::from(low);
        for &(first, last) in published.iter().filter(|it| it.1 >= low && it.0 <= high) {
            let (first, last) = (first.max(low), last.min(high));
            if u32::from(first) > next {
                add(next, u32::from(first) - 1, false);
            }
            add(first.into(), last.into(), true);
            next = u32::from(last) + 1;
        }
        add(next, high.into(), false);
    }
    intervals
}

/// Sorts intervals, joins those that touch, and drops empty ones.
fn merge(intervals: &[RangeInclusive<u16>]) -> Vec<(u16, u16)> {
    let mut sorted: Vec<(u16, u16)> = intervals
        .iter()
        .filter(|interval| !interval.is_empty())
        .map(|interval| (*interval.start(), *interval.end()))
        .collect();
    sorted.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(sorted.len());
    for (low, high) in sorted {
        match merged.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    merged
}

/// Merges both lists to at most `limit` intervals in all, closing the narrowest gaps first. What is
/// merged counts as published only if all of it is.
fn fit(lists: [Vec<Interval>; 2], limit: usize) -> [Vec<Interval>; 2] {
    let excess = (lists[0].len() + lists[1].len()).saturating_sub(limit);
    if excess == 0 {
        return lists;
    }
    // Width of each gap, in which list, before which interval.
    let mut gaps: Vec<(u16, usize, usize)> = lists
        .iter()
        .enumerate()
        .flat_map(|(list, intervals)| {
            let widths = intervals.windows(2).map(|pair| pair[1].low - pair[0].high);
            widths
                .enumerate()
                .map(move |(index, width)| (width, list, index + 1))
        })
        .collect();
    gaps.sort_unstable();
    gaps.truncate(excess);
    let mut closed = [vec![false; lists[0].len()], vec![false; lists[1].len()]];
    for (_, list, index) in gaps {
        closed[list][index] = true;
    }
    [0, 1].map(|list| {
        let mut fitted: Vec<Interval> = Vec::new();
        for (&interval, &join) in lists[list].iter().zip(&closed[list]) {
            match fitted.last_mut() {
                Some(last) if join => {
                    last.high = interval.high;
                    last.published &= interval.published;
                }
                _ => fitted.push(interval),
            }
        }
        fitted
    })
}

#[cfg(test)]
mod tests;
