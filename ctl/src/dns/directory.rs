//! Who has which name, as a snapshot that is read without a lock.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use switch::NetworkId;

use super::resolv_conf::Server;
use crate::api::NameServer;

/// Digits of an id that name its container, as `docker ps` shows them.
const SHORT_ID: usize = 12;

#[derive(Clone)]
pub(crate) struct NetworkNames {
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
    pub servers: Vec<NameServer>,
    /// In place of the host's.
    pub search: Option<Vec<String>>,
    pub attachments: Vec<Attachment>,
}

/// A container's place on one network.
pub(crate) struct Attachment {
    pub network: NetworkId,
    pub aliases: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// What one asker may see.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scope {
    networks: Vec<NetworkId>,
    /// Its own upstreams, in place of the host's.
    pub(super) servers: Option<Arc<[SocketAddr]>>,
    /// Its own search domains, in place of the host's.
    pub(super) search: Option<Arc<[String]>>,
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
    /// It is ours to know, and has no records.
    Nothing,
    /// It is ours to know, and there is no such name.
    Nobody,
    /// Others know it.
    Foreign,
}

#[derive(Clone, Default)]
pub(crate) struct Directory {
    networks: HashMap<NetworkId, NetworkNames>,
    /// By id.
    containers: HashMap<String, Arc<ContainerNames>>,
    /// By name in lower case: the network it is valid on, and an address.
    names: HashMap<String, Vec<(NetworkId, IpAddr)>>,
    by_address: HashMap<(NetworkId, IpAddr), Arc<ContainerNames>>,
}

impl Directory {
    pub(crate) fn put_network(&mut self, id: NetworkId, network: NetworkNames) {
        self.networks.insert(id, network);
    }

    /// One that no container is on any more.
    pub(crate) fn remove_network(&mut self, id: NetworkId) {
        self.networks.remove(&id);
    }

    /// One that runs, and that is not there yet.
    pub(crate) fn put_container(&mut self, container: ContainerNames) {
        let container = Arc::new(container);
        for attachment in &container.attachments {
            let network = attachment.network;
            let addresses = attachment.addresses.iter().map(|ip| (network, *ip));
            for name in names(&container, attachment) {
                let known = self.names.entry(name).or_default();
                known.extend(addresses.clone());
            }
            for address in addresses {
                self.by_address.insert(address, Arc::clone(&container));
            }
        }
        self.containers.insert(container.id.clone(), container);
    }

    pub(crate) fn remove_container(&mut self, id: &str) {
        let Some(container) = self.containers.remove(id) else {
            return;
        };
        for attachment in &container.attachments {
            let gone = |network: NetworkId, ip: IpAddr| {
                network == attachment.network && attachment.addresses.contains(&ip)
            };
            for name in names(&container, attachment) {
                let Some(known) = self.names.get_mut(&name) else {
                    continue;
                };
                known.retain(|(network, ip)| !gone(*network, *ip));
                if known.is_empty() {
                    self.names.remove(&name);
                }
            }
            for ip in &attachment.addresses {
                self.by_address.remove(&(attachment.network, *ip));
            }
        }
    }

    /// What who asks on a network from the address `source` may see. None for who may not ask at
    /// all: a packet from elsewhere that was sent to a gateway's address.
    pub(super) fn scope(&self, network: NetworkId, source: IpAddr) -> Option<Scope> {
        let subnets = &self.networks.get(&network)?.subnets;
        if !subnets.iter().any(|subnet| subnet.contains(&source)) {
            return None;
        }
        Some(match self.by_address.get(&(network, source)) {
            Some(container) => {
                let networks = container.attachments.iter().map(|it| it.network);
                let search = container.search.as_ref();
                Scope {
                    search: search.map(|search| search.clone().into()),
                    ..self.scope_on(networks.collect(), &container.servers)
                }
            }
            // The host itself, or an address that a container gave itself.
            None => self.scope_on(vec![network], &[]),
        })
    }

    fn scope_on(&self, networks: Vec<NetworkId>, servers: &[NameServer]) -> Scope {
        let open = |id: &NetworkId| self.networks.get(id).is_some_and(|it| !it.internal);
        Scope {
            forwards: networks.iter().any(open),
            servers: (!servers.is_empty()).then(|| {
                let servers = servers.iter().map(Server::from);
                servers.filter_map(|server| server.socket()).collect()
            }),
            search: None,
            networks,
        }
    }

    /// Whether a server of ours answers at `address`.
    pub(super) fn is_gateway(&self, address: IpAddr) -> bool {
        let mut gateways = self.networks.values().flat_map(|it| &it.gateways);
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
        // it, so that a name is gone at once with its container, and none is told to others. But
        // who verifies names asks top-level domains for what zones have.
        if !text.is_empty() && !text.contains('.') && !is_of_zones(wanted) {
            return Found::Nobody;
        }
        Found::Foreign
    }

    /// The addresses of `NAME` on the networks of the scope, or of `NAME.NETWORK` on that one.
    fn addresses(&self, scope: &Scope, name: &str) -> Vec<IpAddr> {
        let on = |name: &str, valid: &dyn Fn(NetworkId) -> bool| -> Vec<IpAddr> {
            let known = self.names.get(name).into_iter().flatten();
            known
                .filter(|(network, _)| valid(*network))
                .map(|(_, address)| *address)
                .collect()
        };
        let visible = |network: NetworkId| scope.networks.contains(&network);
        let called = |id: NetworkId, name: &str| {
            let network = self.networks.get(&id);
            network.is_some_and(|network| network.name.eq_ignore_ascii_case(name))
        };
        let plain = on(name, &visible);
        if !plain.is_empty() {
            return plain;
        }
        // A network's name may itself hold dots.
        let mut splits = name.match_indices('.');
        splits
            .find_map(|(dot, _)| {
                let (name, network) = (&name[..dot], &name[dot + 1..]);
                let found = on(name, &|id| visible(id) && called(id, network));
                (!found.is_empty()).then_some(found)
            })
            .unwrap_or_default()
    }

    /// What is known of a name below arpa: the name of an address, for who sees its network.
    /// Addresses of networks are nobody else's to know, nor what is below and above their names.
    fn reverse(&self, scope: &Scope, name: &Name) -> Found {
        if is_designation(name) {
            return Found::Nothing;
        }
        let Some((net, is_whole)) = reversed(name) else {
            return Found::Foreign;
        };
        let mut subnets = self.networks.values().flat_map(|it| &it.subnets);
        if !subnets.any(|subnet| subnet.contains(&net)) {
            return Found::Foreign;
        }
        let address = net.addr();
        if net.prefix_len() < net.max_prefix_len() {
            // There may be names below it (RFC 8020).
            return if is_whole {
                Found::Nothing
            } else {
                Found::Nobody
            };
        }
        for id in &scope.networks {
            let container = self.by_address.get(&(*id, address));
            if let (Some(container), Some(network), true) =
                (container, self.networks.get(id), is_whole)
            {
                return Found::Pointer(format!("{}.{}", container.name, network.name));
            }
        }
        Found::Nobody
    }
}

/// Whether records of a type belong to a zone rather than to a host.
fn is_of_zones(wanted: RecordType) -> bool {
    use RecordType::{DNSKEY, DS, NS, NSEC, NSEC3, NSEC3PARAM, RRSIG, SOA};
    matches!(
        wanted,
        DNSKEY | DS | NS | NSEC | NSEC3 | NSEC3PARAM | RRSIG | SOA
    )
}

/// What resolver.arpa says is of the one server that is asked for it: another's answer would lead
/// the asker past this one, to which containers' names are known (RFC 9462 clause 6.4).
fn is_designation(name: &Name) -> bool {
    let mut labels = name.iter().rev().skip(1);
    labels
        .next()
        .is_some_and(|label| label.eq_ignore_ascii_case(b"resolver"))
}

/// Labels of the longest name of an address: 32 hexadecimal digits, ip6 and arpa.
const ARPA_LABELS_MAX: usize = 34;

/// The addresses whose names are at or above a name of in-addr.arpa or ip6.arpa, and whether it has
/// no labels besides.
fn reversed(name: &Name) -> Option<(IpNet, bool)> {
    let labels: Vec<&[u8]> = name.iter().collect();
    // Those of services are below the addresses' own, such as b._dns-sd._udp.0.1.168.192.in-addr.
    let longest = labels.len().saturating_sub(ARPA_LABELS_MAX);
    (longest..labels.len()).find_map(|from| {
        let mut own = Name::from_labels(labels[from..].iter().copied()).ok()?;
        own.set_fqdn(true);
        Some((own.parse_arpa_name().ok()?, from == 0))
    })
}

/// By what a container is known on a network, each name once, in lower case.
fn names(container: &ContainerNames, attachment: &Attachment) -> BTreeSet<String> {
    let own = [Some(container.name.as_str()), container.id.get(..SHORT_ID)];
    let aliases = attachment.aliases.iter().map(String::as_str);
    let names = own.into_iter().flatten().chain(aliases);
    names.map(str::to_ascii_lowercase).collect()
}
