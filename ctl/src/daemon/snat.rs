//! The external ports of masqueraded flows, a block at a time.
//!
//! Where the uplinks drop what is for them ([`silence`](super::silence)), they are a range outside
//! the one that the kernel gives to connections of its own, less what a process has bound there. A
//! process that binds one of them later gets it, within seconds: flows that have it end then, since
//! the port can't be both.
//!
//! Elsewhere real sockets hold them. A held port answers nothing and can be taken by no other
//! process, so the host's kernel never resets a flow of ours and never has a connection of its own
//! on the same port.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use nat::{Nat, Protocol, Time};
use nix::sys::resource::{Resource, getrlimit};
use switch::io::{ReservedPorts, hold_protocols, reserve};

/// Ports a block. A block of sockets costs as many descriptors; a port is shared among
/// destinations, so it goes far.
pub(super) const BLOCK: u16 = 128;

/// Given to flows from ports below 1024, which servers may take for a sign of privilege (RFC 4787
/// REQ-3a). IANA has given them to nobody. Sockets hold them in any case: a privileged client of
/// the host's own looks for a port that is not bound (bindresvport).
const PRIVILEGED: RangeInclusive<u16> = 914..=945;

/// Ports that are taken at a time when they cost no descriptor.
const SILENT_BLOCK: usize = 4096;

/// Where ports are looked for first: above Linux's default ephemeral range, which ends at 60999.
const PREFERRED: u16 = 61000;

/// Lowest port taken: below are the well-known ones, and those just above are popular.
const LOWEST: u16 = 10000;

pub(super) struct SnatPorts {
    tcp: Held,
    udp: Held,
    /// Keep the kernel silent about flows of protocols without ports.
    _others: Vec<OwnedFd>,
    /// How many ports of one protocol may be held by sockets.
    most: usize,
    /// No socket is needed: the uplinks drop what is for the ports.
    silent: bool,
    /// Outside the range that the kernel takes ports of its own connections from, so that ports
    /// can be used without a socket.
    apart: bool,
}

struct Held {
    /// Blocks not yet tried, the next one last.
    untried: Vec<RangeInclusive<u16>>,
    /// By sockets.
    held: Vec<ReservedPorts>,
    /// Those of [`PRIVILEGED`], by sockets too.
    privileged: ReservedPorts,
    /// Without.
    bare: BTreeSet<u16>,
    /// That a process of the host, or a published port, has for now.
    yielded: BTreeSet<u16>,
}

impl Held {
    fn sockets(&self) -> impl Iterator<Item = &ReservedPorts> {
        self.held.iter().chain([&self.privileged])
    }
}

/// How the ports have changed.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub added: Vec<(Protocol, RangeInclusive<u16>)>,
    pub removed: Vec<(Protocol, RangeInclusive<u16>)>,
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl SnatPorts {
    /// Holds no port yet; see [`SnatPorts::grow`].
    pub(super) fn new() -> SnatPorts {
        let local = local_port_range().unwrap_or(32768..=60999);
        let mut blocks = blocks(&local);
        let apart = blocks.iter().all(|block| is_outside(block, &local));
        blocks.reverse();
        let none = |untried| Held {
            untried,
            held: Vec::new(),
            privileged: ReservedPorts::default(),
            bare: BTreeSet::new(),
            yielded: BTreeSet::new(),
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
            silent: false,
            apart,
        }
    }

    /// Whether no socket is needed.
    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    /// The uplinks drop what is for the ports, or do so no more. In the former case the sockets are
    /// given back; in the latter sockets hold what they can, and the rest is lost.
    pub(super) fn set_silent(&mut self, silent: bool) -> Change {
        let mut change = Change::default();
        let silent = silent && self.apart;
        if silent == self.silent {
            return change;
        }
        self.silent = silent;
        for (protocol, held) in [
            (Protocol::TCP, &mut self.tcp),
            (Protocol::UDP, &mut self.udp),
        ] {
            if silent {
                let ports = held.held.drain(..);
                let ports = ports.flat_map(|reserved| reserved.ports().to_vec());
                held.bare.extend(ports.flatten());
                continue;
            }
            let mut left = self.most;
            for range in ranges(&std::mem::take(&mut held.bare)) {
                let part = (*range.start()..=*range.end()).take(left);
                let Some(last) = part.max() else {
                    change.removed.push((protocol, range));
                    continue;
                };
                let reserved = reserve(protocol.0, *range.start()..=last);
                left -= reserved.count();
                let got: BTreeSet<u16> = reserved.ports().iter().cloned().flatten().collect();
                let lost: BTreeSet<u16> = range.filter(|port| !got.contains(port)).collect();
                let lost = ranges(&lost);
                // They may be had again, as far as descriptors go.
                held.untried.splice(0..0, lost.iter().rev().cloned());
                change
                    .removed
                    .extend(lost.into_iter().map(|it| (protocol, it)));
                held.held.push(reserved);
            }
        }
        change
    }

    /// Looks which ports processes of the host have bound: those go to them, and what they have
    /// given up is used again.
    pub(super) fn look(&mut self) -> Change {
        let mut change = Change::default();
        if !self.silent {
            return change;
        }
        for (protocol, held) in [
            (Protocol::TCP, &mut self.tcp),
            (Protocol::UDP, &mut self.udp),
        ] {
            if held.bare.is_empty() && held.yielded.is_empty() {
                continue;
            }
            let bound = bound_ports(protocol);
            let taken: BTreeSet<u16> = held.bare.intersection(&bound).copied().collect();
            let back: BTreeSet<u16> = held.yielded.difference(&bound).copied().collect();
            held.bare.retain(|port| !taken.contains(port));
            held.yielded.retain(|port| !back.contains(port));
            held.yielded.extend(&taken);
            held.bare.extend(&back);
            let of = |ports| ranges(ports).into_iter().map(move |it| (protocol, it));
            change.removed.extend(of(&taken));
            change.added.extend(of(&back));
        }
        change
    }

    /// Leaves ports to somebody who is about to bind them, if no socket holds them.
    pub(super) fn give_up(&mut self, protocol: Protocol, range: &RangeInclusive<u16>) -> Change {
        let mut change = Change::default();
        let held = match protocol {
            Protocol::TCP => &mut self.tcp,
            Protocol::UDP => &mut self.udp,
            _ => return change,
        };
        let taken: BTreeSet<u16> = held.bare.range(range.clone()).copied().collect();
        held.bare.retain(|port| !range.contains(port));
        let gone = ranges(&taken).into_iter();
        change.removed.extend(gone.map(|it| (protocol, it)));
        held.yielded.extend(taken);
        change
    }

    /// Holds those for privileged clients, to be handed on likewise.
    pub(super) fn hold_privileged(&mut self, protocol: Protocol) -> Vec<RangeInclusive<u16>> {
        let held = match protocol {
            Protocol::TCP => &mut self.tcp,
            Protocol::UDP => &mut self.udp,
            _ => return Vec::new(),
        };
        held.privileged = reserve(protocol.0, PRIVILEGED);
        held.privileged.ports().to_vec()
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
        if self.silent {
            let (bound, reserved) = (bound_ports(protocol), reserved_ports());
            let mut new = BTreeSet::new();
            while new.len() < SILENT_BLOCK
                && let Some(block) = held.untried.pop()
            {
                let free = block.filter(|port| !reserved.contains(port));
                let (taken, free): (Vec<u16>, Vec<u16>) = free.partition(|it| bound.contains(it));
                held.yielded.extend(taken);
                new.extend(free);
            }
            if new.is_empty() {
                return Err(io::Error::other(format!(
                    "every port for outgoing {protocol} flows is used already"
                )));
            }
            held.bare.extend(&new);
            return Ok(ranges(&new));
        }
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

    /// What is used of a protocol, for the uplinks' filters.
    pub(super) fn intervals(&self, protocol: Protocol) -> Vec<RangeInclusive<u16>> {
        let Some(held) = self.of(protocol) else {
            return Vec::new();
        };
        let by_sockets = held.sockets();
        let by_sockets = by_sockets.flat_map(|reserved| reserved.ports().iter().cloned());
        by_sockets.chain(ranges(&held.bare)).collect()
    }

    /// Whether all of these ports are held.
    pub(super) fn holds_all(&self, protocol: Protocol, wanted: &BTreeSet<u16>) -> bool {
        let held = self.intervals(protocol);
        let is_held = |port: &u16| held.iter().any(|range| range.contains(port));
        wanted.iter().all(is_held)
    }

    /// How many ports of a protocol are used.
    pub(super) fn count(&self, protocol: Protocol) -> usize {
        self.of(protocol).map_or(0, |held| {
            let by_sockets: usize = held.held.iter().map(ReservedPorts::count).sum();
            by_sockets + held.bare.len()
        })
    }

    /// A port of `range` that a socket holds here, so that who asks for it hears by whom it is
    /// taken.
    pub(super) fn overlap(&self, protocol: Protocol, range: &RangeInclusive<u16>) -> Option<u16> {
        self.of(protocol)?
            .sockets()
            .flat_map(ReservedPorts::ports)
            .find(|held| held.start() <= range.end() && range.start() <= held.end())
            .map(|held| *held.start().max(range.start()))
    }

    /// None are held of others.
    fn of(&self, protocol: Protocol) -> Option<&Held> {
        match protocol {
            Protocol::TCP => Some(&self.tcp),
            Protocol::UDP => Some(&self.udp),
            _ => None,
        }
    }
}

/// Ports in a row as one.
fn ranges(ports: &BTreeSet<u16>) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(port) => *last = *last.start()..=port,
            _ => ranges.push(port..=port),
        }
    }
    ranges
}

/// The ports of this namespace that sockets have, listening or connected.
fn bound_ports(protocol: Protocol) -> BTreeSet<u16> {
    let tables = match protocol {
        Protocol::TCP => ["tcp", "tcp6"],
        _ => ["udp", "udp6"],
    };
    let read = |table| fs::read_to_string(format!("/proc/thread-self/net/{table}"));
    let texts = tables.iter().filter_map(|table| read(table).ok());
    texts
        .flat_map(|text| text.lines().filter_map(local_port).collect::<Vec<_>>())
        .collect()
}

/// Of a row of those tables, which begin with a number and the local address (proc_net in procfs).
fn local_port(row: &str) -> Option<u16> {
    let (_, port) = row.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

/// The ports that the administrator keeps for services which may not run yet
/// (net.ipv4.ip_local_reserved_ports).
fn reserved_ports() -> BTreeSet<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports");
    parse_ports(&text.unwrap_or_default())
}

fn parse_ports(list: &str) -> BTreeSet<u16> {
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// Whether a block has no port that the kernel may give to a connection of its own.
fn is_outside(block: &RangeInclusive<u16>, local: &RangeInclusive<u16>) -> bool {
    block.end() < local.start() || local.end() < block.start()
}

/// Lets the engine use ports that [`SnatPorts::grow`] has got.
pub(super) fn announce(nat: &Nat, protocol: Protocol, ports: Vec<RangeInclusive<u16>>) {
    for range in ports {
        nat.add_external_ports(protocol, range);
    }
}

/// Has the engine use ports no more that others have by now. Returns how many flows ended.
pub(super) fn withdraw(nat: &Nat, now: Time, change: &Change) -> usize {
    let removed = change.removed.iter();
    removed
        .map(|(protocol, range)| nat.remove_external_ports(now, *protocol, range))
        .sum()
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
    let high: Vec<_> = split(PREFERRED, u16::MAX).collect();
    let mut low: Vec<_> = split(LOWEST, PREFERRED - 1).collect();
    low.reverse();
    let chosen: Vec<_> = high
        .iter()
        .chain(&low)
        .filter(|block| is_outside(block, local))
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

    #[test]
    fn ports_without_sockets_are_thousands_and_leave_out_what_others_have() {
        let mut ports = SnatPorts::new();
        let first = ports.grow(Protocol::TCP).unwrap();
        assert!(ports.overlap(Protocol::TCP, &first[0]).is_some());
        let change = ports.set_silent(true);
        assert!(change.is_empty(), "{change:?}");
        assert_eq!(ports.overlap(Protocol::TCP, &first[0]), None);
        assert_eq!(ports.intervals(Protocol::TCP), first);
        ports.grow(Protocol::TCP).unwrap();
        let count = ports.count(Protocol::TCP);
        assert!(count > 4000, "{count}");

        // A process binds one, and gives it up.
        let at = *first[0].start();
        let listener = std::net::TcpListener::bind(("127.0.0.1", at)).unwrap();
        let change = ports.look();
        assert!(
            change.removed.contains(&(Protocol::TCP, at..=at)),
            "{change:?}"
        );
        assert!(
            !ports
                .intervals(Protocol::TCP)
                .iter()
                .any(|it| it.contains(&at))
        );
        assert!(!ports.look().removed.contains(&(Protocol::TCP, at..=at)));
        drop(listener);
        let change = ports.look();
        assert!(
            change.added.iter().any(|(_, it)| it.contains(&at)),
            "{change:?}"
        );

        // One that is about to be bound.
        let change = ports.give_up(Protocol::TCP, &(at - 5..=at + 1));
        assert_eq!(change.removed, [(Protocol::TCP, at..=at + 1)]);
        assert!(ports.give_up(Protocol::UDP, &(at..=at)).is_empty());

        // Back to sockets, as far as they go.
        ports.most = 200;
        let before = ports.count(Protocol::TCP);
        let change = ports.set_silent(false);
        let lost: usize = change.removed.iter().map(|(_, it)| it.len()).sum();
        assert_eq!(ports.count(Protocol::TCP), 200);
        assert_eq!(lost, before - 200);
        assert!(ports.overlap(Protocol::TCP, &(1..=u16::MAX)).is_some());
    }

    #[test]
    fn lists_of_ports_are_read() {
        let row = "  12: 0100007F:EE48 00000000:0000 0A 00000000:00000000";
        assert_eq!(local_port(row), Some(61000));
        assert_eq!(local_port("  sl  local_address rem_address"), None);
        assert_eq!(
            parse_ports("8080,61000-61002\n"),
            BTreeSet::from([8080, 61000, 61001, 61002])
        );
        assert_eq!(parse_ports("\n"), BTreeSet::new());
        let ports = BTreeSet::from([1, 2, 3, 7, u16::MAX]);
        assert_eq!(ranges(&ports), [1..=3, 7..=7, u16::MAX..=u16::MAX]);
    }
}
