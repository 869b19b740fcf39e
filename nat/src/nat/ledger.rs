//! What all shards share, and what only the beginning and the end of a connection touch: who holds
//! how many connections, and which external ports.

use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashMap;

use crate::conntrack::Connection;
use crate::limits::Timeouts;
use crate::ports::{Endpoint, Ports};
use crate::time::Time;
use crate::tuple::{Protocol, Tuple};

/// An inside address may hold so many times the external ports that are free. One greedy address
/// gets eight ninths of all, ten get nine hundredths each, and a newcomer always finds some:
/// nobody has to be dispossessed for it.
const PORTS_PER_FREE: usize = 8;

/// Searches without success that an inside address may cause in a [`SEARCH_WINDOW`]: one a
/// millisecond, of some 50 µs. Beyond that its new flows are refused without a search.
const SEARCHES: u32 = 64;
const SEARCH_WINDOW: Duration = Duration::from_millis(64);

/// Inside addresses whose searches are counted at a time.
const SEARCHERS: usize = 4096;

pub(super) struct Ledger {
    pub(super) ports: Ports,
    /// Every inside address that holds something.
    holders: HashMap<IpAddr, Holder>,
    max_ports_per_address: usize,
    /// Inside addresses whose searches for room or ports failed, with the beginning of the window
    /// and how often.
    searchers: HashMap<IpAddr, (Time, u32)>,
}

/// What one inside address holds.
#[derive(Default)]
struct Holder {
    connections: usize,
    /// External ports of its own: of TCP, of UDP, identifiers. One that it shares is somebody
    /// else's.
    ports: [usize; 3],
}

impl Holder {
    fn all_ports(&self) -> usize {
        self.ports.iter().sum()
    }
}

/// Which of a holder's counts.
fn kind(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => 0,
        Protocol::UDP => 1,
        _ => 2,
    }
}

impl Ledger {
    pub(super) fn new(ports: Ports, max_ports_per_address: usize) -> Ledger {
        Ledger {
            ports,
            holders: HashMap::new(),
            max_ports_per_address,
            searchers: HashMap::new(),
        }
    }

    /// Connections of an inside address.
    pub(super) fn count(&self, inside: IpAddr) -> usize {
        let holder = self.holders.get(&inside);
        holder.map_or(0, |holder| holder.connections)
    }

    /// Inside addresses that hold something.
    pub(super) fn holders(&self) -> usize {
        self.holders.len()
    }

    /// Whether this endpoint may not have a further external port for its inside address, which has
    /// what its limit allows, or its share while few are free.
    pub(super) fn has_port_quota(&self, endpoint: &Endpoint) -> bool {
        let Some(holder) = self.holders.get(&endpoint.address) else {
            return false;
        };
        let held = holder.ports[kind(endpoint.protocol)];
        let share = || {
            let free = self.ports.available(endpoint.protocol, endpoint.external);
            held > 0 && held >= free.saturating_mul(PORTS_PER_FREE)
        };
        (holder.all_ports() >= self.max_ports_per_address || share())
            && self.ports.port(endpoint).is_none()
    }

    /// Whether an inside address may cause a search that takes long.
    pub(super) fn may_search(&self, now: Time, inside: IpAddr) -> bool {
        self.searchers
            .get(&inside)
            .is_none_or(|&(since, count)| count < SEARCHES || now - since >= SEARCH_WINDOW)
    }

    /// A search for an inside address has failed.
    pub(super) fn search_failed(&mut self, now: Time, inside: IpAddr) {
        if self.searchers.len() >= SEARCHERS {
            self.searchers
                .retain(|_, (since, _)| now - *since < SEARCH_WINDOW);
        }
        if self.searchers.len() >= SEARCHERS {
            return;
        }
        let (since, count) = self.searchers.entry(inside).or_insert((now, 0));
        if now - *since >= SEARCH_WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
    }

    /// The external port of an endpoint for one more connection: the one it has, or a free one.
    /// None when there is none that fits, or when its inside address may not have another.
    pub(super) fn acquire(
        &mut self,
        now: Time,
        endpoint: &Endpoint,
        fits: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        if self.has_port_quota(endpoint) {
            return None;
        }
        let has_one = self.ports.port(endpoint).is_some();
        let port = self.ports.acquire(now, endpoint, fits)?;
        if !has_one {
            let holder = self.holders.entry(endpoint.address).or_default();
            holder.ports[kind(endpoint.protocol)] += 1;
        }
        Some(port)
    }

    /// The same port once more for a connection that had it in an earlier process, as its own or
    /// sharing it; false when it is not to be had.
    pub(super) fn claim(&mut self, endpoint: &Endpoint, port: u16, shares: bool) -> bool {
        let has_one = self.ports.port(endpoint).is_some();
        if shares {
            return self.ports.claim_shared(endpoint, port);
        }
        if !self.ports.claim(endpoint, port) {
            return false;
        }
        if !has_one {
            let holder = self.holders.entry(endpoint.address).or_default();
            holder.ports[kind(endpoint.protocol)] += 1;
        }
        true
    }

    /// One connection less on the endpoint's own port.
    pub(super) fn release(&mut self, now: Time, endpoint: &Endpoint) {
        if self.ports.release(now, endpoint) {
            self.less(endpoint.address, |holder| {
                &mut holder.ports[kind(endpoint.protocol)]
            });
        }
    }

    pub(super) fn open(&mut self, connection: &Connection) {
        let holder = self.holders.entry(connection.inside()).or_default();
        holder.connections += 1;
    }

    pub(super) fn close(&mut self, now: Time, connection: &Connection, timeouts: &Timeouts) {
        self.less(connection.inside(), |holder| &mut holder.connections);
        if !connection.has_external_port() {
            return;
        }
        let reply = connection.reply();
        let endpoint = endpoint(&connection.original(), reply.dst);
        if let Some(unquiet) = connection.unquiet(now, timeouts) {
            self.ports
                .disquiet(reply.protocol, reply.dst, reply.dst_port, unquiet);
        }
        if connection.shares_port {
            self.ports
                .unshare(now, reply.protocol, reply.dst, reply.dst_port);
        } else {
            self.release(now, &endpoint);
        }
    }

    fn less(&mut self, inside: IpAddr, what: impl Fn(&mut Holder) -> &mut usize) {
        let Some(holder) = self.holders.get_mut(&inside) else {
            return;
        };
        let count = what(holder);
        *count = count.saturating_sub(1);
        if holder.connections == 0 && holder.all_ports() == 0 {
            self.holders.remove(&inside);
        }
    }
}

/// The inside endpoint that opened a flow.
pub(super) fn endpoint(original: &Tuple, external: IpAddr) -> Endpoint {
    Endpoint {
        protocol: original.protocol,
        external,
        address: original.src,
        port: original.src_port,
    }
}
