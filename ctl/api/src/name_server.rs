//! Servers for names, as people and configurations write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name of an interface, in bytes (IFNAMSIZ of netdevice(7), less its end).
const INTERFACE_MAX: usize = 15;

/// A server to ask for names, which is an address: one that is link-local has a zone, the interface
/// of the host that it is on, by name or number (`fe80::1%eth0`, RFC 4007 clause 11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Its address.
    pub address: IpAddr,
    /// Name or number of the host's interface that a link-local address is on.
    pub zone: Option<String>,
}

impl NameServer {
    /// Takes a link-local address without a zone too, as earlier versions did.
    fn parse(text: &str) -> Result<NameServer, String> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("{address:?} is no IP address"))?;
        if let Some(zone) = zone {
            if !is_link_local(address) {
                return Err(format!(
                    "only a link-local address (fe80::/10) has a zone, and {address} is none"
                ));
            }
            if !is_interface(zone) {
                return Err(format!(
                    "{zone:?} can be no interface: the zone of {address} is the name or number of \
                     one, as in {address}%eth0"
                ));
            }
        }
        let zone = zone.map(str::to_owned);
        Ok(NameServer { address, zone })
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// What the kernel takes for a name (dev_valid_name()).
fn is_interface(zone: &str) -> bool {
    let fits = |c: char| !c.is_whitespace() && !c.is_control() && !"/:%".contains(c);
    (1..=INTERFACE_MAX).contains(&zone.len())
        && zone.chars().all(fits)
        && !matches!(zone, "." | "..")
}

impl FromStr for NameServer {
    type Err = String;

    fn from_str(text: &str) -> Result<NameServer, String> {
        let server = NameServer::parse(text)?;
        if server.zone.is_none() && is_link_local(server.address) {
            return Err(format!(
                "{server} is link-local: say on which interface of the host, as in {server}%eth0"
            ));
        }
        Ok(server)
    }
}

impl From<IpAddr> for NameServer {
    fn from(address: IpAddr) -> NameServer {
        let zone = None;
        NameServer { address, zone }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.zone.iter().try_for_each(|zone| write!(f, "%{zone}"))
    }
}

impl Serialize for NameServer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NameServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NameServer, D::Error> {
        let text = String::deserialize(deserializer)?;
        NameServer::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_server_has_a_zone_and_no_other_has() {
        for text in [
            "192.0.2.1",
            "2001:db8::1",
            "fe80::1%eth0",
            "fe80::1%2",
            "febf::1%br-lan.7@x",
        ] {
            let server: NameServer = text.parse().unwrap();
            assert_eq!(server.to_string(), text);
            let json = serde_json::to_string(&server).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<NameServer>(&json).unwrap(), server);
        }
        for (text, why) in [
            ("x", "no IP address"),
            ("eth0%fe80::1", "no IP address"),
            ("192.0.2.1:53", "no IP address"),
            ("[fe80::1]%eth0", "no IP address"),
            ("fe80::1", "on which interface"),
            ("192.0.2.1%eth0", "only a link-local address"),
            ("2001:db8::1%eth0", "only a link-local address"),
            ("fe80::1%", "can be no interface"),
            ("fe80::1%a/b", "can be no interface"),
            ("fe80::1%eth0%eth1", "can be no interface"),
            ("fe80::1%sixteen-bytes-it", "can be no interface"),
            ("fe80::1%eth0 ", "can be no interface"),
            ("fe80::1%..", "can be no interface"),
        ] {
            let error = text.parse::<NameServer>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        // What a store of an earlier version may have.
        assert!(serde_json::from_str::<NameServer>("\"fe80::1\"").is_ok());
    }
}
