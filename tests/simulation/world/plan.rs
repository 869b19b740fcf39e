//! What a world is made of and what happens in it, drawn from its seed before anything runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nat::{Limits, Protocol};
use switch::frame::MacAddr;

use crate::simulation::Faults;
use crate::wire::Noise;

/// The host's addresses on its uplink.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// What every host serves: a stream each, and datagrams.
pub(super) const STREAMS: u16 = 80;
pub(super) const DATAGRAMS: u16 = 53;
/// New flows and accidents begin within this time.
const YOUTH: Duration = Duration::from_secs(20);

/// Who can talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    Container {
        network: usize,
        index: usize,
    },
    /// The host's own stack, in a network.
    Host {
        network: usize,
    },
    /// Beyond the uplink.
    Outside(usize),
}

impl Party {
    pub(super) fn address(self) -> Ipv4Addr {
        match self {
            Party::Container { network, index } => {
                Ipv4Addr::new(10, 80 + network as u8, 0, 2 + index as u8)
            }
            Party::Host { network } => Ipv4Addr::new(10, 80 + network as u8, 0, 1),
            Party::Outside(index) => Ipv4Addr::new(192, 0, 2, 2 + index as u8),
        }
    }

    pub(super) fn address6(self) -> Ipv6Addr {
        match self {
            Party::Container { network, index } => {
                Ipv6Addr::new(0xfd00, 0, 0, network as u16, 0, 0, 0, 2 + index as u16)
            }
            Party::Host { network } => Ipv6Addr::new(0xfd00, 0, 0, network as u16, 0, 0, 0, 1),
            Party::Outside(index) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2 + index as u16),
        }
    }

    /// Its address of one family.
    pub(super) fn of(self, v6: bool) -> IpAddr {
        if v6 {
            self.address6().into()
        } else {
            self.address().into()
        }
    }

    /// Of its `generation`th bearer. The second byte tells what it is, the third its network.
    pub(super) fn mac(self, generation: u8) -> MacAddr {
        match self {
            Party::Container { network, index } => {
                MacAddr([2, 1, network as u8, index as u8, generation, 0])
            }
            Party::Host { network } => MacAddr([2, 1, network as u8, 0xff, 0, 0]),
            Party::Outside(index) => MacAddr([2, 2, 0, index as u8, generation, 0]),
        }
    }

    pub(super) fn network(self) -> Option<usize> {
        match self {
            Party::Container { network, .. } | Party::Host { network } => Some(network),
            Party::Outside(_) => None,
        }
    }

    pub(super) fn is_container(self) -> bool {
        matches!(self, Party::Container { .. })
    }
}

/// One port of the host that leads to a container's service.
#[derive(Clone, Copy, Debug)]
pub struct PublishPlan {
    pub protocol: Protocol,
    pub port: u16,
    /// Every address of the host, or the one of its uplink alone.
    pub everywhere: bool,
    pub to: Party,
    pub v6: bool,
    /// It leads to a port that the container does not serve.
    pub closed: bool,
}

impl PublishPlan {
    pub(super) fn to_port(self) -> u16 {
        let served = if self.protocol == Protocol::TCP {
            STREAMS
        } else {
            DATAGRAMS
        };
        served + u16::from(self.closed)
    }
}

/// How a client addresses the service it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the server's own address.
    Direct(Party),
    /// By a published port, at an address of the host.
    Published { index: usize, dialled: IpAddr },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// So many bytes up, and so many down.
    Stream { up: usize, down: usize },
    /// So many questions of so many bytes, and as many answers.
    Datagrams { rounds: u32, size: usize },
    /// So many echo requests.
    Echo { rounds: u32 },
}

#[derive(Clone, Copy, Debug)]
pub struct FlowPlan {
    pub at: Duration,
    pub client: Party,
    pub way: Way,
    pub what: What,
    pub v6: bool,
    /// Sent directly to a port that nobody serves.
    pub closed: bool,
}

/// What goes wrong, or is changed.
#[derive(Clone, Copy, Debug)]
pub enum Accident {
    /// A container goes; another with its address comes after a while.
    Replace { who: Party, gap: Duration },
    /// A published port leads to another container, or to none.
    Republish { index: usize, to: Option<Party> },
    /// The switch begins anew, with empty tables.
    Restart,
    /// A wire is down for a while.
    Down { who: Party, time: Duration },
    /// Another machine takes over an outside address, and tells the segment or does not.
    NewMac { who: Party, announce: bool },
}

/// See the module's description.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The containers of each network.
    pub networks: Vec<usize>,
    pub outside: usize,
    pub faults: Faults,
    pub limits: Limits,
    pub external_ports: u16,
    /// There is too little of something, so a flow may be refused or cut off.
    pub tight: bool,
    pub publish: Vec<PublishPlan>,
    /// In the order of time, as are the accidents.
    pub flows: Vec<FlowPlan>,
    pub accidents: Vec<(Duration, Accident)>,
}

impl Plan {
    pub(super) fn draw(seed: u64) -> Plan {
        let noise = &mut Noise::new(seed);
        let networks: Vec<usize> = (0..1 + noise.below(3))
            .map(|_| 1 + noise.below(4))
            .collect();
        let outside = 1 + noise.below(3);
        let tight = noise.one_in(4);
        let mut limits = Limits {
            pick_up_tcp: noise.one_in(2),
            ..Limits::default()
        };
        let mut external_ports = 500;
        if tight {
            limits.max_connections = 4 + noise.below(40);
            limits.max_per_address = 1 + noise.below(16);
            external_ports = 1 + noise.below(12) as u16;
        }
        let mut plan = Plan {
            networks,
            outside,
            faults: faults(noise),
            limits,
            external_ports,
            tight,
            publish: Vec::new(),
            flows: Vec::new(),
            accidents: Vec::new(),
        };
        plan.draw_published(noise);
        for _ in 0..5 + noise.below(20) {
            plan.draw_flow(noise);
        }
        plan.flows.sort_by_key(|flow| flow.at);
        for _ in 0..noise.below(7) {
            let accident = plan.draw_accident(noise);
            plan.accidents.push((moment(noise), accident));
        }
        plan.accidents.sort_by_key(|&(at, _)| at);
        plan
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = Party> {
        let networks = self.networks.iter().enumerate();
        networks.flat_map(|(network, &containers)| {
            (0..containers).map(move |index| Party::Container { network, index })
        })
    }

    fn container(&self, noise: &mut Noise) -> Party {
        let network = noise.below(self.networks.len());
        let index = noise.below(self.networks[network]);
        Party::Container { network, index }
    }

    fn draw_published(&mut self, noise: &mut Noise) {
        let containers: Vec<Party> = self.containers().collect();
        for (index, to) in containers.into_iter().enumerate() {
            for (protocol, first, v6) in [
                (Protocol::TCP, 8000, false),
                (Protocol::UDP, 5300, false),
                (Protocol::TCP, 8000, true),
                (Protocol::UDP, 5300, true),
            ] {
                if noise.one_in(3) {
                    self.publish.push(PublishPlan {
                        protocol,
                        port: first + index as u16,
                        everywhere: noise.below(4) > 0,
                        to,
                        v6,
                        closed: noise.one_in(8),
                    });
                }
            }
        }
    }

    fn draw_flow(&mut self, noise: &mut Noise) {
        let client = match noise.below(10) {
            0 => Party::Host {
                network: noise.below(self.networks.len()),
            },
            1..4 => Party::Outside(noise.below(self.outside)),
            _ => self.container(noise),
        };
        let published = !self.publish.is_empty() && client.is_container() && noise.one_in(2);
        let mut v6 = noise.one_in(3);
        let (way, protocol) = if matches!(client, Party::Outside(_)) || published {
            if self.publish.is_empty() {
                return;
            }
            let index = noise.below(self.publish.len());
            let published = self.publish[index];
            let dialled = match client.network() {
                Some(network) if published.everywhere && noise.one_in(2) => {
                    Party::Host { network }.of(published.v6)
                }
                _ => host(published.v6),
            };
            v6 = published.v6;
            (Way::Published { index, dialled }, Some(published.protocol))
        } else {
            let server = match noise.below(4) {
                0 if client.is_container() => Party::Outside(noise.below(self.outside)),
                1 if client.is_container() => Party::Host {
                    network: client.network().unwrap_or(0),
                },
                // Of another network perhaps, which it must not reach.
                2 if client.is_container() => self.container(noise),
                _ => {
                    let network = client.network().unwrap_or(0);
                    let index = noise.below(self.networks[network]);
                    Party::Container { network, index }
                }
            };
            (Way::Direct(server), None)
        };
        if way == Way::Direct(client) {
            return;
        }
        let what = match (protocol, noise.below(5)) {
            (Some(Protocol::TCP), _) | (None, 0..2) => What::Stream {
                up: noise.below(20_000),
                down: noise.below(20_000),
            },
            (Some(_), _) | (None, 2..4) => What::Datagrams {
                rounds: 1 + noise.below(8) as u32,
                size: 8 + noise.below(1400),
            },
            (None, _) => What::Echo {
                rounds: 1 + noise.below(4) as u32,
            },
        };
        let (is_direct, is_echo) = (protocol.is_none(), matches!(what, What::Echo { .. }));
        let at = moment(noise);
        self.flows.push(FlowPlan {
            at,
            client,
            way,
            what,
            // Echo is of IPv4 here.
            v6: v6 && !is_echo,
            closed: is_direct && !is_echo && noise.one_in(8),
        });
    }

    fn draw_accident(&self, noise: &mut Noise) -> Accident {
        loop {
            return match noise.below(5) {
                0 => Accident::Replace {
                    who: self.container(noise),
                    gap: Duration::from_millis(noise.below(3000) as u64),
                },
                1 if !self.publish.is_empty() => Accident::Republish {
                    index: noise.below(self.publish.len()),
                    to: (!noise.one_in(3)).then(|| self.container(noise)),
                },
                2 => Accident::Restart,
                3 => Accident::Down {
                    who: self.container(noise),
                    time: Duration::from_millis(100 + noise.below(5000) as u64),
                },
                4 => Accident::NewMac {
                    who: Party::Outside(noise.below(self.outside)),
                    announce: noise.one_in(2),
                },
                _ => continue,
            };
        }
    }
}

/// The host's address on its uplink, of one family.
pub(super) fn host(v6: bool) -> IpAddr {
    if v6 { HOST6.into() } else { HOST.into() }
}

fn moment(noise: &mut Noise) -> Duration {
    Duration::from_micros(noise.below(YOUTH.as_micros() as usize) as u64)
}

/// One world in three has good wires, one passable ones, one bad ones.
fn faults(noise: &mut Noise) -> Faults {
    let delay = Duration::from_micros(10 + noise.below(2_000) as u64);
    match noise.below(3) {
        0 => Faults {
            delay,
            ..Faults::default()
        },
        1 => Faults {
            loss: 200 + noise.below(200),
            duplication: 200 + noise.below(200),
            corruption: 0,
            delay,
            jitter: Duration::from_micros(noise.below(5_000) as u64),
        },
        _ => Faults {
            loss: 20 + noise.below(80),
            duplication: 20 + noise.below(80),
            corruption: 100 + noise.below(400),
            delay,
            jitter: Duration::from_micros(noise.below(20_000) as u64),
        },
    }
}
