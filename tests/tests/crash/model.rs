//! What has been asked for: operations on the daemon, and the state that they lead to.

use std::collections::{BTreeMap, BTreeSet};

/// Names that networks and containers of the test have, and the host's ports that they publish.
pub(crate) const NETWORKS: u64 = 4;
pub(crate) const CONTAINERS: u64 = 5;
pub(crate) const PORTS: std::ops::Range<u16> = 20_000..20_030;

/// The network that is always there.
pub(crate) const BRIDGE: &str = "bridge";

/// Protocol and host port.
pub(crate) type Port = (&'static str, u16);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    /// Besides [`BRIDGE`].
    pub(crate) networks: BTreeSet<String>,
    pub(crate) containers: BTreeMap<String, Attached>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) networks: BTreeSet<String>,
    pub(crate) ports: BTreeSet<Port>,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    CreateNetwork(String),
    RemoveNetwork(String),
    Attach {
        name: String,
        networks: BTreeSet<String>,
        kind: &'static str,
        ports: BTreeSet<Port>,
    },
    Detach(String),
    Connect {
        name: String,
        network: String,
        kind: &'static str,
    },
    Disconnect {
        name: String,
        network: String,
    },
    Publish(String, Port),
    Unpublish(String, Port),
    /// The container's process dies; nobody asks the daemon for it.
    Kill(String),
}

impl Operation {
    pub(crate) fn apply(&self, model: &mut Model) {
        fn attached<'a>(
            containers: &'a mut BTreeMap<String, Attached>,
            name: &str,
        ) -> &'a mut Attached {
            containers.get_mut(name).expect("it is attached")
        }
        let containers = &mut model.containers;
        match self {
            Operation::CreateNetwork(name) => {
                model.networks.insert(name.clone());
            }
            Operation::RemoveNetwork(name) => {
                model.networks.remove(name);
            }
            Operation::Attach {
                name,
                networks,
                ports,
                ..
            } => {
                let attached = Attached {
                    networks: networks.clone(),
                    ports: ports.clone(),
                };
                containers.insert(name.clone(), attached);
            }
            Operation::Detach(name) | Operation::Kill(name) => {
                containers.remove(name);
            }
            Operation::Connect { name, network, .. } => {
                attached(containers, name).networks.insert(network.clone());
            }
            Operation::Disconnect { name, network } => {
                attached(containers, name).networks.remove(network);
            }
            Operation::Publish(name, port) => {
                attached(containers, name).ports.insert(*port);
            }
            Operation::Unpublish(name, port) => {
                attached(containers, name).ports.remove(port);
            }
        }
    }

    /// Operations of one kind take about the same time.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Operation::CreateNetwork(_) => "create",
            Operation::RemoveNetwork(_) => "remove",
            Operation::Attach { .. } => "attach",
            Operation::Detach(_) => "detach",
            Operation::Connect { .. } => "connect",
            Operation::Disconnect { .. } => "disconnect",
            Operation::Publish(..) => "publish",
            Operation::Unpublish(..) => "unpublish",
            Operation::Kill(_) => "kill",
        }
    }
}

impl Model {
    /// An operation that the daemon should carry out in this state.
    pub(crate) fn choose(&self, random: &mut Random) -> Operation {
        loop {
            if let Some(operation) = self.try_choose(random) {
                return operation;
            }
        }
    }

    fn try_choose(&self, random: &mut Random) -> Option<Operation> {
        match random.below(20) {
            0 | 1 => {
                let name = format!("n{}", random.below(NETWORKS));
                (!self.networks.contains(&name)).then_some(Operation::CreateNetwork(name))
            }
            2 => {
                let used: BTreeSet<&String> = self
                    .containers
                    .values()
                    .flat_map(|it| &it.networks)
                    .collect();
                let unused = self.networks.iter().filter(|it| !used.contains(it));
                random.one_of(unused).cloned().map(Operation::RemoveNetwork)
            }
            3..=7 => self.choose_attach(random),
            8 | 9 => self.choose_container(random).map(Operation::Detach),
            10 | 11 => {
                let name = self.choose_container(random)?;
                let attached = &self.containers[&name].networks;
                let networks = self.all_networks();
                let others = networks.iter().filter(|it| !attached.contains(*it));
                Some(Operation::Connect {
                    network: random.one_of(others)?.clone(),
                    name,
                    kind: random.kind(),
                })
            }
            12 | 13 => {
                let name = self.choose_container(random)?;
                let network = random.one_of(self.containers[&name].networks.iter())?;
                Some(Operation::Disconnect {
                    network: network.clone(),
                    name,
                })
            }
            14..=16 => {
                let name = self.choose_container(random)?;
                let port = random.port();
                let possible =
                    !self.taken().contains(&port) && !self.containers[&name].networks.is_empty();
                possible.then_some(Operation::Publish(name, port))
            }
            17 | 18 => {
                let all = self.containers.iter();
                let all = all.flat_map(|(name, it)| it.ports.iter().map(move |port| (name, *port)));
                let (name, port) = random.one_of(all)?;
                Some(Operation::Unpublish(name.clone(), port))
            }
            _ => self.choose_container(random).map(Operation::Kill),
        }
    }

    fn choose_attach(&self, random: &mut Random) -> Option<Operation> {
        let name = format!("c{}", random.below(CONTAINERS));
        if self.containers.contains_key(&name) {
            return None;
        }
        let all = self.all_networks();
        let wanted = 1 + random.below(3);
        let networks = (0..wanted).filter_map(|_| random.one_of(all.iter()).cloned());
        let networks = networks.collect();
        let wanted = random.below(3);
        let ports: BTreeSet<Port> = (0..wanted).map(|_| random.port()).collect();
        Some(Operation::Attach {
            name,
            networks,
            kind: random.kind(),
            ports: ports.difference(&self.taken()).copied().collect(),
        })
    }

    fn choose_container(&self, random: &mut Random) -> Option<String> {
        random.one_of(self.containers.keys()).cloned()
    }

    fn all_networks(&self) -> BTreeSet<String> {
        let mut all = self.networks.clone();
        all.insert(BRIDGE.to_owned());
        all
    }

    /// Ports that are recorded for somebody.
    fn taken(&self) -> BTreeSet<Port> {
        let all = self.containers.values().flat_map(|it| it.ports.iter());
        all.copied().collect()
    }

    /// Ports that lead somewhere: who is on no network publishes nothing, for the time being.
    pub(crate) fn served(&self) -> BTreeSet<Port> {
        let on_networks = self
            .containers
            .values()
            .filter(|it| !it.networks.is_empty());
        on_networks
            .flat_map(|it| it.ports.iter())
            .copied()
            .collect()
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_of<T>(&mut self, items: impl Iterator<Item = T>) -> Option<T> {
        let mut items: Vec<T> = items.collect();
        let count = u64::try_from(items.len()).expect("few");
        if count == 0 {
            return None;
        }
        let chosen = usize::try_from(self.below(count)).expect("few");
        Some(items.swap_remove(chosen))
    }

    fn port(&mut self) -> Port {
        let protocol = if self.below(2) == 0 { "tcp" } else { "udp" };
        let count = u64::try_from(PORTS.len()).expect("few");
        let offset = u16::try_from(self.below(count)).expect("small");
        (protocol, PORTS.start + offset)
    }

    fn kind(&mut self) -> &'static str {
        if self.below(2) == 0 { "tap" } else { "veth" }
    }
}
