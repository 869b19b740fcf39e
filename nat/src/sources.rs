//! Who may open a flow to a published port.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Source networks: everybody, or those of a list and nobody else. A copy shares the list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources(Option<Arc<[IpNet]>>);

impl Sources {
    /// Everybody when `networks` is empty. A list of one family lets nobody of the other in.
    pub fn new(networks: &[IpNet]) -> Sources {
        if networks.is_empty() {
            return Sources::default();
        }
        // Apart and in order, so that a look-up is a binary search however long the list is.
        let mut networks = IpNet::aggregate(&networks.to_vec());
        networks.sort_unstable();
        Sources(Some(networks.into()))
    }

    /// Whether `source` is in. An IPv4 address counts as one however it is written.
    pub fn allows(&self, source: IpAddr) -> bool {
        let Some(networks) = &self.0 else {
            return true;
        };
        let source = source.to_canonical();
        let after = networks.partition_point(|network| network.network() <= source);
        let nearest = after.checked_sub(1).and_then(|at| networks.get(at));
        nearest.is_some_and(|network| network.contains(&source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(list: &[&str]) -> Sources {
        let networks: Vec<IpNet> = list.iter().map(|net| net.parse().unwrap()).collect();
        Sources::new(&networks)
    }

    fn allows(sources: &Sources, source: &str) -> bool {
        sources.allows(source.parse().unwrap())
    }

    #[test]
    fn no_list_is_everybody() {
        let everybody = sources(&[]);
        for source in ["192.0.2.1", "127.0.0.1", "::1", "2001:db8::1", "0.0.0.0"] {
            assert!(allows(&everybody, source), "{source}");
        }
    }

    #[test]
    fn a_list_holds_what_is_in_any_of_its_networks() {
        let list = sources(&[
            "10.1.2.3/8",
            "10.9.0.0/16",
            "192.0.2.7/32",
            "fd00::/64",
            "2001:db8::5/128",
        ]);
        for source in [
            "10.0.0.0",
            "10.9.1.1",
            "10.255.255.255",
            "192.0.2.7",
            "::ffff:10.0.0.1",
            "fd00::ffff:ffff:ffff:ffff",
            "2001:db8::5",
        ] {
            assert!(allows(&list, source), "{source}");
        }
        for source in [
            "9.255.255.255",
            "11.0.0.0",
            "192.0.2.6",
            "192.0.2.8",
            "127.0.0.1",
            "::1",
            "fd00:0:0:1::",
            "2001:db8::4",
            "::ffff:11.0.0.1",
        ] {
            assert!(!allows(&list, source), "{source}");
        }
        assert!(!allows(&sources(&["0.0.0.0/0"]), "2001:db8::1"));
        assert!(!allows(&sources(&["::/0"]), "192.0.2.1"));
    }

    #[test]
    fn a_long_list_agrees_with_looking_at_each() {
        let networks: Vec<IpNet> = (0..=255u8)
            .map(|at| IpNet::new([10, at, at.wrapping_mul(7), 0].into(), 18 + at % 14).unwrap())
            .collect();
        let list = Sources::new(&networks);
        for at in 0..65_536u32 {
            let source = IpAddr::from((0x0a00_0000 | at.wrapping_mul(251)).to_be_bytes());
            let inside = networks.iter().any(|network| network.contains(&source));
            assert_eq!(list.allows(source), inside, "{source}");
        }
    }
}
