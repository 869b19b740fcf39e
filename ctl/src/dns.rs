//! Names for containers: a DNS server at the gateway of each network, to which the switch leads what
//! containers ask of 127.0.0.11 too.
//!
//! A query is decoded ([`message`]), its asker is known by the network and by the source address,
//! which the switch has checked, and what the [`Directory`] knows
//! is answered at once: names of containers, their aliases and short ids, and the reverse of their
//! addresses. Everything else is asked of the host's own servers ([`forward`]), unless the asker is
//! on internal networks alone.
//!
//! The directory is a snapshot that the daemon brings up to date with each change, before it tells
//! anyone of the change. So a name is there before the first instruction of its container and gone after
//! the last one; and names of containers have a TTL of 0, so that nobody remembers them for longer.

mod cache;
mod directory;
mod forward;
mod message;
pub(crate) mod resolv_conf;
mod server;
mod upstream;

#[cfg(test)]
mod tests;

pub(crate) use directory::{Attachment, ContainerNames, Directory, NetworkNames};
pub(crate) use resolv_conf::{ResolvConf, Upstreams};
pub(crate) use server::{LOOPBACK, Listener, PORT, Resolver, Sockets};
