//! Where a relay leads.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The name of an interface of the host, without allocation: at most 15 bytes (IFNAMSIZ).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    bytes: [u8; 15],
    len: u8,
}

impl Device {
    /// None if no interface can have the name.
    pub(crate) fn new(name: &str) -> Option<Device> {
        let mut bytes = [0; 15];
        bytes
            .get_mut(..name.len())?
            .copy_from_slice(name.as_bytes());
        let len = name.len() as u8;
        (len > 0).then_some(Device { bytes, len })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// One address of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) address: SocketAddr,
    /// The interface of its network, which sockets to it are bound to: a more specific route of the
    /// host, such as a VPN brings, takes none of their packets.
    pub(crate) device: Option<Device>,
}

impl From<SocketAddr> for Reach {
    /// By the host's routes.
    fn from(address: SocketAddr) -> Reach {
        Reach {
            address,
            device: None,
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Where a relay leads: the container's address for clients of either family. They are the same if
/// it has but one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) ipv4: Reach,
    pub(crate) ipv6: Reach,
}

impl From<SocketAddr> for Target {
    /// One address for everybody.
    fn from(address: SocketAddr) -> Target {
        Target {
            ipv4: address.into(),
            ipv6: address.into(),
        }
    }
}

impl Target {
    /// An IPv4 client of a socket of both families shows as a mapped address.
    pub(super) fn for_client(&self, client: SocketAddr) -> Reach {
        match client.ip().to_canonical() {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ipv4)?;
        if self.ipv6 != self.ipv4 {
            write!(f, " and {}", self.ipv6)?;
        }
        Ok(())
    }
}
