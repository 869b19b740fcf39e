//! Who has which name, as a snapshot: made whole after each change, read without a lock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;

/// Digits of an id that name its container, as `docker ps` shows them.
const SHORT_ID: usize = 12;

/// Port of every server that is named by its address alone.
const DNS_PORT: u16 = 53;

pub(crate) struct NetworkNames {
    pub id: String,
    pub name: String,
    pub subnets: Vec<IpNet>,
    /// Where the network's own server is; never asked as an upstream, which would be a loop.
    pub gateways: Vec<IpAddr>,
    /// Nothing is forwarded for who is on internal networks alone.
    pub internal: bool,
}

pub(crate) struct ContainerNames {
    pub id: String,
    pub name: String,
    /// Asked instead of the host's servers, unless empty.
    pub servers: Vec<IpAddr>,
    pub attachments: Vec<Attachment>,
}

/// A container's place on one network.
pub(crate) struct Attachment {
    /// Position of the network among those of the directory.
    pub network: usize,
    pub aliases: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// What one asker may see.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// Positions, each once.
    networks: Vec<usize>,
    /// Its own upstreams, in place of the host's.
    pub(super) servers: Option<Arc<[SocketAddr]>>,
    /// Whether foreign names may be asked of anybody.
    pub(super) forwards: bool,
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is a container's: these are all its addresses that the asker may see, at least one.
    Addresses(Vec<IpAddr>),
    /// It stands for an address of the container that has this name.
    Pointer(String),
    /// It is ours to know, and there is no such name.
    Nobody,
    /// Others know it.
    Foreign,
}

#[derive(Default)]
pub(crate) struct Directory {
    networks: Vec<NetworkNames>,
    /// Positions of networks, by their ids.
    by_id: HashMap<String, usize>,
    containers: Vec<Known>,
    /// By name in lower case: the network it is valid on, and an address.
    names: HashMap<String, Vec<(usize, IpAddr)>>,
    /// Positions of containers, by their networks' and addresses.
    by_address: HashMap<(usize, IpAddr), usize>,
}

/// A container, as far as it is needed once its names are in the map.
struct Known {
    name: String,
    servers: Vec<IpAddr>,
    networks: Vec<usize>,
}

impl Directory {
    /// `containers` are those that run.
    pub(crate) fn new(networks: Vec<NetworkNames>, containers: Vec<ContainerNames>) -> Directory {
        let ids = networks.iter().enumerate();
        let mut directory = Directory {
            by_id: ids
                .map(|(position, it)| (it.id.clone(), position))
                .collect(),
            networks,
            ..Directory::default()
        };
        for container in containers {
            directory.add(container);
        }
        directory
    }

    fn add(&mut self, container: ContainerNames) {
        let position = self.containers.len();
        let short_id = container.id.get(..SHORT_ID);
        for attachment in &container.attachments {
            let network = attachment.network;
            let mut names: Vec<String> = std::iter::once(container.name.as_str())
                .chain(short_id)
                .chain(attachment.aliases.iter().map(String::as_str))
                .map(str::to_ascii_lowercase)
                .collect();
            // An alias that repeats the name must not repeat the address.
            names.sort();
            names.dedup();
            for name in names {
                let addresses = attachment.addresses.iter().map(|ip| (network, *ip));
                self.names.entry(name).or_default().extend(addresses);
            }
            for address in &attachment.addresses {
                self.by_address.insert((network, *address), position);
            }
        }
        self.containers.push(Known {
            name: container.name,
            servers: container.servers,
            networks: container.attachments.iter().map(|it| it.network).collect(),
        });
    }

    /// What who asks on the network of this id from the address `source` may see. None for who may
    /// not ask at all: a packet from elsewhere that was sent to a gateway's address.
    pub(super) fn scope(&self, network: &str, source: IpAddr) -> Option<Scope> {
        let position = *self.by_id.get(network)?;
        let subnets = &self.networks[position].subnets;
        if !subnets.iter().any(|subnet| subnet.contains(&source)) {
            return None;
        }
        Some(match self.by_address.get(&(position, source)) {
            Some(container) => {
                let container = &self.containers[*container];
                self.scope_on(container.networks.clone(), &container.servers)
            }
            // The host itself, or an address that a container gave itself.
            None => self.scope_on(vec![position], &[]),
        })
    }

    fn scope_on(&self, networks: Vec<usize>, servers: &[IpAddr]) -> Scope {
        Scope {
            forwards: networks.iter().any(|it| !self.networks[*it].internal),
            servers: (!servers.is_empty()).then(|| {
                let servers = servers.iter().map(|ip| SocketAddr::new(*ip, DNS_PORT));
                servers.collect()
            }),
            networks,
        }
    }

    /// Whether a server of ours answers at `address`.
    pub(super) fn is_gateway(&self, address: IpAddr) -> bool {
        let mut gateways = self.networks.iter().flat_map(|it| &it.gateways);
        gateways.any(|gateway| *gateway == address)
    }

    /// What is known of a name that is asked for a record of a type.
    pub(super) fn find(&self, scope: &Scope, name: &Name, wanted: RecordType) -> Found {
        if name.is_localhost() {
            // RFC 6761 clause 6.3: these never leave the machine.
            return Found::Addresses(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let text = name.to_ascii().to_ascii_lowercase();
        let text = text.trim_end_matches('.');
        let addresses = self.addresses(scope, text);
        if !addresses.is_empty() {
            return Found::Addresses(addresses);
        }
        if text.ends_with(".arpa") {
            return self.reverse(scope, name);
        }
        // A single label is a container's name or nobody's: the host's servers are not asked for
        // it, so that a name is gone at once with its container, and none is told to others. What
        // is asked of a top-level domain itself are not addresses.
        let address = matches!(wanted, RecordType::A | RecordType::AAAA);
        if address && !text.is_empty() && !text.contains('.') {
            return Found::Nobody;
        }
        Found::Foreign
    }

    /// The addresses of `NAME` on the networks of the scope, or of `NAME.NETWORK` on that one.
    fn addresses(&self, scope: &Scope, name: &str) -> Vec<IpAddr> {
        let on = |name: &str, valid: &dyn Fn(usize) -> bool| -> Vec<IpAddr> {
            let known = self.names.get(name).into_iter().flatten();
            known
                .filter(|(network, _)| valid(*network))
                .map(|(_, address)| *address)
                .collect()
        };
        let visible = |network: usize| scope.networks.contains(&network);
        let plain = on(name, &visible);
        if !plain.is_empty() {
            return plain;
        }
        // A network's name may itself hold dots.
        let mut splits = name.match_indices('.');
        splits
            .find_map(|(dot, _)| {
                let (name, network) = (&name[..dot], &name[dot + 1..]);
                let found = on(name, &|position| {
                    visible(position) && self.networks[position].name.eq_ignore_ascii_case(network)
                });
                (!found.is_empty()).then_some(found)
            })
            .unwrap_or_default()
    }

    /// The name of an address, for who sees its network. Addresses of networks are nobody else's
    /// to know.
    fn reverse(&self, scope: &Scope, name: &Name) -> Found {
        let address = match name.parse_arpa_name() {
            Ok(net) if net.prefix_len() == net.max_prefix_len() => net.addr(),
            _ => return Found::Foreign,
        };
        for network in &scope.networks {
            if let Some(container) = self.by_address.get(&(*network, address)) {
                let name = &self.containers[*container].name;
                return Found::Pointer(format!("{name}.{}", self.networks[*network].name));
            }
        }
        let mut subnets = self.networks.iter().flat_map(|it| &it.subnets);
        if subnets.any(|subnet| subnet.contains(&address)) {
            return Found::Nobody;
        }
        Found::Foreign
    }
}
