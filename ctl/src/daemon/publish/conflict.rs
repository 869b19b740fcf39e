//! Whether mappings would take the same port of the host: found by looking along the ports once,
//! since thousands are published at a time.

use super::{Destination, binds, host_ports, protocol};
use crate::api::PortMapping;

/// A mapping, and who has it or wants it.
#[derive(Clone, Copy, Debug)]
pub(in crate::daemon) struct Claim<'a> {
    /// The container's name.
    pub holder: &'a str,
    pub mapping: &'a PortMapping,
    pub to: Destination,
}

impl Claim<'_> {
    /// Whether the sockets of both would be on the same address. The ports are not looked at.
    fn clashes(&self, other: &Claim<'_>) -> bool {
        let others = binds(other.mapping, other.to);
        binds(self.mapping, self.to).any(|one| others.clone().any(|other| one.clashes(other)))
    }
}

/// A port that something wanted has in common with something else, wanted or held.
#[derive(Debug)]
pub(in crate::daemon) struct Conflict<'a> {
    pub port: u16,
    pub other: Claim<'a>,
}

/// The conflict at the lowest port, TCP before UDP.
pub(in crate::daemon) fn conflict<'a>(
    wanted: impl Iterator<Item = Claim<'a>>,
    held: impl Iterator<Item = Claim<'a>>,
) -> Option<Conflict<'a>> {
    let held = held.map(|claim| (claim, false));
    let mut all: Vec<(Claim<'_>, bool)> = held.chain(wanted.map(|claim| (claim, true))).collect();
    all.sort_by_key(|(claim, _)| (protocol(claim.mapping).0, claim.mapping.host_port));
    // Those whose ports go on where the next one's begin.
    let mut open: Vec<(Claim<'_>, bool)> = Vec::new();
    for (claim, wanted) in all {
        let port = claim.mapping.host_port;
        open.retain(|(other, _)| {
            other.mapping.protocol == claim.mapping.protocol
                && *host_ports(other.mapping).end() >= port
        });
        let clash = open
            .iter()
            .find(|(other, too)| (wanted || *too) && claim.clashes(other));
        if let Some(&(other, other_wanted)) = clash {
            let other = if other_wanted { claim } else { other };
            return Some(Conflict { port, other });
        }
        open.push((claim, wanted));
    }
    None
}
