//! Keeping the host's kernel silent about what is for the switch.
//!
//! The kernel would answer a segment to an external port with a RST, and a datagram with an ICMP
//! error. Where every uplink takes a classifier at its tc ingress ([`link::ingress`]) that drops
//! such a frame below netfilter: then neither the kernel's stack nor the host's firewall meddles,
//! and a whole range of ports costs nothing. Elsewhere sockets hold the ports
//! ([`snat`](super::snat), [`publish`](super::publish)), which are silent, but behind netfilter.
//!
//! A published port has its socket in either case: it keeps other processes off the port, and
//! serves the host itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nat::Protocol;
use switch::io::filter::{IngressPorts, UplinkFilter, ingress_filter};
use switch::io::sock_filter;

use super::container::Container;
use super::snat::SnatPorts;
use super::uplink::Uplink;
use crate::host::HostState;
use crate::link;

/// The classifiers that are in place.
#[derive(Default)]
pub(super) struct HostSilence {
    /// What is to be dropped, and its program.
    ports: Vec<IngressPorts>,
    program: Vec<sock_filter>,
    /// By interface index: whether it has the program.
    uplinks: BTreeMap<u32, State>,
    /// The last trouble told.
    told: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Attached,
    /// It has an older program.
    Stale,
    /// The kernel refused. Tried again when the host changes.
    Refused,
}

impl HostSilence {
    /// Takes away what an earlier daemon left on interfaces that are none of the uplinks.
    pub(super) fn remove_strays(host: &HostState, uplinks: &[Uplink]) {
        let is_uplink = |index| uplinks.iter().any(|uplink| uplink.link.index == index);
        let others = host
            .links
            .iter()
            .filter(|link| !link.ours && !link.loopback);
        let others = others
            .map(|link| link.index)
            .filter(|&index| !is_uplink(index));
        // What can't be asked has none.
        _ = link::ingress::detach(&others.collect::<Vec<_>>());
    }

    /// Takes up what an earlier daemon left on the uplinks, whatever it drops, until the next
    /// [`set`](HostSilence::set); whether every one of them has it.
    pub(super) fn take_up(&mut self, uplinks: &[Uplink]) -> bool {
        for index in uplinks.iter().map(|uplink| uplink.link.index) {
            if link::ingress::is_attached(index).unwrap_or(false) {
                self.uplinks.entry(index).or_insert(State::Attached);
            }
        }
        !uplinks.is_empty() && self.is_complete() && self.uplinks.len() == uplinks.len()
    }

    /// Whether every uplink drops what is for the switch.
    pub(super) fn is_complete(&self) -> bool {
        let mut states = self.uplinks.values();
        !self.uplinks.is_empty() && states.all(|state| *state == State::Attached)
    }

    /// Has the uplinks drop these ports, and no interface besides.
    pub(super) fn set(&mut self, uplinks: &[Uplink], ports: Vec<IngressPorts>) {
        if ports != self.ports || self.program.is_empty() {
            self.program = ingress_filter(&ports);
            self.ports = ports;
            for state in self
                .uplinks
                .values_mut()
                .filter(|it| **it == State::Attached)
            {
                *state = State::Stale;
            }
        }
        self.uplinks.retain(|index, _| {
            let stays = uplinks.iter().any(|uplink| uplink.link.index == *index);
            if !stays {
                // It may be gone altogether.
                _ = link::ingress::detach(&[*index]);
            }
            stays
        });
        let mut trouble = None;
        for uplink in uplinks {
            let state = self.uplinks.get(&uplink.link.index).copied();
            if matches!(state, Some(State::Attached | State::Refused)) {
                continue;
            }
            let state = match link::ingress::attach(uplink.link.index, &self.program) {
                Ok(()) => State::Attached,
                Err(error) => {
                    trouble = Some(format!("{}: {error}", uplink.link.name));
                    State::Refused
                }
            };
            self.uplinks.insert(uplink.link.index, state);
        }
        if let Some(trouble) = trouble
            && self.told.as_ref() != Some(&trouble)
        {
            tracing::info!("sockets hold the external ports, since {trouble}");
            self.told = Some(trouble);
        }
    }

    /// Looks whether the classifiers are still there. What is not is made again by the next
    /// [`set`](HostSilence::set); true if there is something to do.
    pub(super) fn look(&mut self) -> bool {
        let mut missing = false;
        for (index, state) in &mut self.uplinks {
            let attached = link::ingress::is_attached(*index).unwrap_or(false);
            if attached != (*state == State::Attached) && *state != State::Refused {
                *state = State::Stale;
                missing = true;
            }
        }
        missing
    }

    /// Takes away what is left of a program that can't be renewed: it would go on dropping what it
    /// was for. To be called when sockets hold the ports.
    pub(super) fn remove_refused(&self) {
        let refused = self.uplinks.iter();
        let refused = refused.filter(|(_, state)| **state == State::Refused);
        let refused: Vec<u32> = refused.map(|(index, _)| *index).collect();
        if !refused.is_empty() {
            _ = link::ingress::detach(&refused);
        }
    }

    /// The host has changed: what the kernel refused may work by now.
    pub(super) fn retry(&mut self) {
        self.uplinks.retain(|_, state| *state != State::Refused);
    }

    /// Takes all classifiers away.
    pub(super) fn clear(&mut self) {
        let uplinks: Vec<u32> = std::mem::take(&mut self.uplinks).into_keys().collect();
        if let Err(error) = link::ingress::detach(&uplinks) {
            tracing::warn!("{error}");
        }
    }
}

/// What the host's kernel is not to see: the ports of masqueraded flows, and published ones, at
/// the host's addresses. Addresses with the same ports are one set.
pub(super) fn ingress_ports(
    filter: &UplinkFilter,
    snat: &SnatPorts,
    containers: &[Container],
) -> Vec<IngressPorts> {
    let published = containers.iter().flat_map(|container| &container.published);
    let rules: Vec<_> = published.flat_map(|published| published.rules()).collect();
    let mut sets: Vec<IngressPorts> = Vec::new();
    for &address in &filter.addresses {
        let of = |protocol: Protocol| {
            let here = rules.iter().filter(move |rule| {
                let at = rule.host.unwrap_or(match rule.to {
                    IpAddr::V4(_) if address.is_ipv4() => address,
                    IpAddr::V6(_) if address.is_ipv6() => address,
                    other => other,
                });
                rule.protocol == protocol && at == address
            });
            let ports = here.map(|rule| rule.ports.clone());
            snat.intervals(protocol).into_iter().chain(ports).collect()
        };
        let set = IngressPorts {
            addresses: vec![address],
            tcp: of(Protocol::TCP),
            udp: of(Protocol::UDP),
            sctp: of(Protocol::SCTP),
        };
        let same = sets.iter_mut().find(|other| {
            other.addresses[0].is_ipv4() == address.is_ipv4()
                && (&other.tcp, &other.udp, &other.sctp) == (&set.tcp, &set.udp, &set.sctp)
        });
        match same {
            Some(other) => other.addresses.push(address),
            None => sets.push(set),
        }
    }
    sets
}
