//! The external ports of masqueraded flows: held with real sockets, a block at a time.
//!
//! A held port answers nothing and can be taken by no other process, so the host's kernel never
//! resets a flow of ours and never has a connection of its own on the same port.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use nat::{Nat, Protocol};
use nix::sys::resource::{Resource, getrlimit};
use switch::io::{ReservedPorts, hold_protocols, reserve};

/// Ports a block. A block costs as many descriptors; TCP shares one port among destinations, so
/// it goes far.
pub(super) const BLOCK: u16 = 128;

/// Where ports are looked for first: above Linux's default ephemeral range, which ends at 60999.
const PREFERRED: u16 = 61000;

/// Lowest port taken: below are the well-known ones, and those just above are popular.
const LOWEST: u16 = 10000;

pub(super) struct SnatPorts {
    tcp: Held,
    udp: Held,
    /// Keep the kernel silent about flows of protocols without ports.
    _others: Vec<OwnedFd>,
    /// How many ports of one protocol may be held.
    most: usize,
}

struct Held {
    /// Blocks not yet tried, the next one last.
    untried: Vec<RangeInclusive<u16>>,
    held: Vec<ReservedPorts>,
}

impl SnatPorts {
    /// Holds no port yet; see [`SnatPorts::grow`].
    pub(super) fn new() -> SnatPorts {
        let mut blocks = blocks(&local_port_range().unwrap_or(32768..=60999));
        blocks.reverse();
        let none = |untried| Held {
            untried,
            held: Vec::new(),
        };
        // A container that opens flow after flow must not take the descriptors that the API and
        // published ports need: an eighth of all a protocol.
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let most = usize::try_from(descriptors / 8).unwrap_or(usize::MAX);
        SnatPorts {
            tcp: none(blocks.clone()),
            udp: none(blocks),
            _others: hold_protocols(),
            most: most.max(usize::from(BLOCK)),
        }
    }

    /// Holds another block. Hand the outcome to [`announce`] once the uplinks' filters let it in.
    ///
    /// # Errors
    /// As many are held as the limit of descriptors allows, or no port is left.
    pub(super) fn grow(&mut self, protocol: Protocol) -> io::Result<Vec<RangeInclusive<u16>>> {
        let held = match protocol {
            Protocol::TCP => &mut self.tcp,
            Protocol::UDP => &mut self.udp,
            // Echo ids are not ports: the engine has the whole space of them.
            _ => return Ok(Vec::new()),
        };
        let count: usize = held.held.iter().map(ReservedPorts::count).sum();
        if count + usize::from(BLOCK) > self.most {
            return Err(io::Error::other(format!(
                "{count} are held, which is as many as the limit of file descriptors allows: start \
                 the daemon with a higher one (ulimit -Hn, LimitNOFILE=)"
            )));
        }
        while let Some(block) = held.untried.pop() {
            let reserved = reserve(protocol.0, block.clone());
            let error = reserved
                .error()
                .map(|error| io::Error::new(error.kind(), error.to_string()));
            if reserved.count() == 0 {
                match error {
                    Some(error) => {
                        held.untried.push(block);
                        return Err(error);
                    }
                    None => continue,
                }
            }
            let ports = reserved.ports().to_vec();
            held.held.push(reserved);
            return Ok(ports);
        }
        Err(io::Error::other(format!(
            "every port for outgoing {protocol} flows is held already"
        )))
    }

    /// What is held of a protocol, for the uplinks' filters.
    pub(super) fn intervals(&self, protocol: Protocol) -> Vec<RangeInclusive<u16>> {
        self.held(protocol)
            .flat_map(|reserved| reserved.ports().iter().cloned())
            .collect()
    }

    /// Whether all of these ports are held.
    pub(super) fn holds_all(&self, protocol: Protocol, wanted: &BTreeSet<u16>) -> bool {
        let held = self.intervals(protocol);
        let is_held = |port: &u16| held.iter().any(|range| range.contains(port));
        wanted.iter().all(is_held)
    }

    /// How many ports of a protocol are held.
    pub(super) fn count(&self, protocol: Protocol) -> usize {
        self.held(protocol).map(ReservedPorts::count).sum()
    }

    /// A port of `range` that is held here, so that who asks for it hears by whom it is taken.
    pub(super) fn overlap(&self, protocol: Protocol, range: &RangeInclusive<u16>) -> Option<u16> {
        self.held(protocol)
            .flat_map(|reserved| reserved.ports())
            .find(|held| held.start() <= range.end() && range.start() <= held.end())
            .map(|held| *held.start().max(range.start()))
    }

    fn held(&self, protocol: Protocol) -> impl Iterator<Item = &ReservedPorts> {
        match protocol {
            Protocol::TCP => self.tcp.held.iter(),
            Protocol::UDP => self.udp.held.iter(),
            // None are held of others.
            _ => [].iter(),
        }
    }
}

/// Lets the engine use ports that [`SnatPorts::grow`] has got.
pub(super) fn announce(nat: &Nat, protocol: Protocol, ports: Vec<RangeInclusive<u16>>) {
    for range in ports {
        nat.add_external_ports(protocol, range);
    }
}

/// The ports that the host's kernel gives to connections of its own (ip(7)).
pub(super) fn local_port_range() -> Option<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(low), Ok(high)) => Some(low..=high),
        _ => None,
    }
}

/// All blocks outside the kernel's own range, in the order to take them: those from 61000 up, then
/// the highest downwards. Where the kernel's range leaves nothing, those from 61000 up all the
/// same: they are held by sockets, so the kernel passes them over.
fn blocks(local: &RangeInclusive<u16>) -> Vec<RangeInclusive<u16>> {
    let outside =
        |block: &RangeInclusive<u16>| block.end() < local.start() || local.end() < block.start();
    let high: Vec<_> = split(PREFERRED, u16::MAX).collect();
    let mut low: Vec<_> = split(LOWEST, PREFERRED - 1).collect();
    low.reverse();
    let chosen: Vec<_> = high
        .iter()
        .chain(&low)
        .filter(|block| outside(block))
        .cloned()
        .collect();
    if chosen.is_empty() { high } else { chosen }
}

fn split(first: u16, last: u16) -> impl Iterator<Item = RangeInclusive<u16>> {
    (first..=last)
        .step_by(usize::from(BLOCK))
        .map(move |start| start..=start.saturating_add(BLOCK - 1).min(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_begin_above_the_default_ephemeral_range() {
        let blocks = blocks(&(32768..=60999));
        assert_eq!(blocks[0], 61000..=61127);
        assert!(blocks.contains(&(65480..=65535)));
        assert!(
            blocks
                .iter()
                .all(|block| *block.start() > 60999 || *block.end() < 32768)
        );
    }

    #[test]
    fn blocks_avoid_a_range_moved_by_the_administrator() {
        let above = blocks(&(50000..=65535));
        assert!(above.iter().all(|block| *block.end() < 50000));
        assert!(
            *above[0].start() > 49000,
            "the highest first: {:?}",
            above[0]
        );
        assert_eq!(blocks(&(1024..=65535))[0], 61000..=61127);
        assert_eq!(blocks(&(0..=0))[0], 61000..=61127);
    }

    #[test]
    fn an_overlap_with_a_held_block_is_found() {
        let mut ports = SnatPorts::new();
        let held = ports.grow(Protocol::TCP).unwrap();
        let first = *held[0].start();
        assert_eq!(
            ports.overlap(Protocol::TCP, &(first - 5..=first)),
            Some(first)
        );
        assert_eq!(ports.overlap(Protocol::UDP, &(first - 5..=first)), None);
        assert_eq!(ports.overlap(Protocol::TCP, &(80..=81)), None);
        assert_eq!(ports.intervals(Protocol::TCP), held);
        assert_eq!(ports.grow(Protocol::ICMP).unwrap(), []);
    }
}
