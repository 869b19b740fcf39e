//! What all shards share, and what only the beginning and the end of a connection touch: who holds
//! how many connections, and which external ports.

use std::net::IpAddr;

use hashbrown::HashMap;

use crate::conntrack::Connection;
use crate::ports::{Endpoint, Ports};
use crate::time::Time;
use crate::tuple::Tuple;

pub(super) struct Ledger {
    pub(super) ports: Ports,
    /// Every inside address that holds something.
    holders: HashMap<IpAddr, Holder>,
    max_ports_per_address: usize,
}

/// What one inside address holds.
#[derive(Default)]
struct Holder {
    connections: usize,
    /// External ports of its own. One that it shares is somebody else's.
    ports: usize,
}

impl Ledger {
    pub(super) fn new(ports: Ports, max_ports_per_address: usize) -> Ledger {
        Ledger {
            ports,
            holders: HashMap::new(),
            max_ports_per_address,
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

    /// Whether this endpoint may not have a further external port for its inside address.
    pub(super) fn has_port_quota(&self, endpoint: &Endpoint) -> bool {
        let holder = self.holders.get(&endpoint.address);
        holder.is_some_and(|holder| holder.ports >= self.max_ports_per_address)
            && self.ports.port(endpoint).is_none()
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
            self.holders.entry(endpoint.address).or_default().ports += 1;
        }
        Some(port)
    }

    /// One connection less on the endpoint's own port.
    pub(super) fn release(&mut self, now: Time, endpoint: &Endpoint) {
        if self.ports.release(now, endpoint) {
            self.less(endpoint.address, |holder| &mut holder.ports);
        }
    }

    pub(super) fn open(&mut self, connection: &Connection) {
        let holder = self.holders.entry(connection.inside()).or_default();
        holder.connections += 1;
    }

    pub(super) fn close(&mut self, now: Time, connection: &Connection) {
        self.less(connection.inside(), |holder| &mut holder.connections);
        if !connection.has_external_port() {
            return;
        }
        let reply = connection.reply();
        let endpoint = endpoint(&connection.original(), reply.dst);
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
        if holder.connections == 0 && holder.ports == 0 {
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
