//! What is sent: conversations drawn from a seed, step by step.

use std::fmt;

use pontoon_tests::wire::Noise;

use crate::net::{PUBLISHED, SERVED, Side, Who, host};
use crate::packet::{Body, End, ICMP, Sketch, TCP, UDP, flag};

/// Two ends that talk, and what was said.
#[derive(Clone)]
pub(crate) struct Flow {
    pub(crate) client: Who,
    pub(crate) server: Who,
    pub(crate) protocol: u8,
    pub ipv6: bool,
    src: End,
    dst: End,
    /// Where the client's next byte is in its stream.
    sequence: u32,
}

/// One packet, or one datagram in fragments.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) flow: usize,
    pub(crate) say: Say,
    pub(crate) twist: Twist,
}

#[derive(Clone)]
pub(crate) enum Say {
    /// The client's next packet.
    Client(Sketch),
    /// Whoever got the packet of that earlier step answers it, with these flags if it is TCP.
    Answer {
        to: usize,
        flags: u8,
        payload: usize,
    },
    /// An ICMP error about it, to its sender: the type and the code of both families, how much it
    /// quotes, and whether a router on the way sends it.
    Error {
        about: usize,
        kinds: [(u8, u8); 2],
        quote: usize,
        by_router: bool,
    },
    /// The same packet once more.
    Again { step: usize },
}

/// What is odd about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twist {
    None,
    LastHop,
    Options,
    BadHeaderSum,
    BadTransportSum,
    Fragments { backwards: bool },
}

/// Draws a scenario: its flows, and its steps.
pub(crate) fn draw(seed: u64) -> (Vec<Flow>, Vec<Step>) {
    let mut noise = Noise::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..8 {
        noise.word();
    }
    let mut flows: Vec<Flow> = (0..3 + noise.below(4)).map(|_| flow(&mut noise)).collect();
    let mut steps: Vec<Step> = Vec::new();
    for number in 0..20 + noise.below(40) {
        let at = noise.below(flows.len());
        let earlier: Vec<usize> = (0..steps.len())
            .filter(|&step| steps[step].flow == at)
            .collect();
        let say = match (noise.below(10), earlier.last()) {
            (0..=3, _) | (_, None) => Say::Client(flows[at].next(&mut noise, number as u16)),
            (4..=7, Some(&last)) => {
                // Mostly the last one, as hosts do.
                let to = if noise.below(4) > 0 {
                    last
                } else {
                    earlier[noise.below(earlier.len())]
                };
                Say::Answer {
                    to,
                    flags: flags(&mut noise),
                    payload: noise.below(200),
                }
            }
            (8, Some(_)) => Say::Error {
                about: earlier[noise.below(earlier.len())],
                kinds: [
                    ((3, 3), (1, 4)),
                    ((3, 1), (1, 3)),
                    ((3, 4), (2, 0)),
                    ((11, 0), (3, 0)),
                    ((12, 0), (4, 0)),
                ]
                .map(|(four, six)| [four, six])[noise.below(5)],
                quote: [28, 48, 64, 600][noise.below(4)],
                by_router: noise.below(2) == 0,
            },
            (_, Some(_)) => Say::Again {
                step: earlier[noise.below(earlier.len())],
            },
        };
        let twist = match noise.below(40) {
            0 => Twist::LastHop,
            1 => Twist::Options,
            2 => Twist::BadHeaderSum,
            3 => Twist::BadTransportSum,
            4 | 5 => Twist::Fragments {
                backwards: noise.below(2) == 0,
            },
            _ => Twist::None,
        };
        steps.push(Step {
            flow: at,
            say,
            twist,
        });
    }
    (flows, steps)
}

fn flow(noise: &mut Noise) -> Flow {
    let protocol = [TCP, TCP, TCP, UDP, UDP, ICMP][noise.below(6)];
    let ipv6 = noise.below(3) == 0;
    let inside = [Who::A, Who::B][noise.below(2)];
    let outside = [Who::P, Who::Q][noise.below(2)];
    let port = 20_000 + noise.below(20_000) as u16;
    let end = |who: Who, port| End {
        address: who.address(ipv6),
        port,
    };
    let of_host = |port| End {
        address: host(ipv6),
        port,
    };
    let server_port = if protocol == ICMP {
        0
    } else {
        [80, 53, 443][noise.below(3)]
    };
    let (client, server, dst) = match noise.below(8) {
        0..=3 => (inside, outside, end(outside, server_port)),
        4 | 5 if protocol != ICMP => (outside, Who::B, of_host(PUBLISHED)),
        6 if protocol != ICMP => (inside, Who::B, of_host(PUBLISHED)),
        // Nobody asked for it.
        7 if protocol != ICMP => (outside, Who::A, of_host([9, 61_003, 22][noise.below(3)])),
        // Straight to an inside address, over the wire.
        _ => (
            outside,
            inside,
            end(inside, if protocol == ICMP { 0 } else { SERVED }),
        ),
    };
    Flow {
        client,
        server,
        protocol,
        ipv6,
        src: end(client, port),
        dst,
        sequence: 0x0100_0000 + noise.below(1 << 20) as u32,
    }
}

impl Flow {
    /// Whether it goes from inside to the inside, by a published port.
    pub(crate) fn is_hairpin(&self) -> bool {
        self.client.side() != Side::Outside && self.dst.address == host(self.ipv6)
    }

    /// Whether it goes out, or to a published port.
    pub(crate) fn is_allowed(&self) -> bool {
        let published = self.dst.address == host(self.ipv6) && self.dst.port == PUBLISHED;
        self.client.side() != Side::Outside || published
    }

    fn next(&mut self, noise: &mut Noise, id: u16) -> Sketch {
        let length = [0, 1, 33, 900][noise.below(4)];
        let payload = noise.bytes(length);
        let body = match self.protocol {
            TCP => {
                // It begins with a SYN, mostly.
                let first = self.sequence & 0x00f0_0000 == 0 && noise.below(8) > 0;
                let flags = if first { flag::SYN } else { flags(noise) };
                let payload = if flags & flag::SYN == 0 {
                    payload
                } else {
                    Vec::new()
                };
                let sequence = self.sequence;
                let advance =
                    payload.len() as u32 + u32::from(flags & (flag::SYN | flag::FIN) != 0);
                self.sequence = (sequence | 0x0010_0000).wrapping_add(advance);
                Body::Tcp {
                    flags,
                    sequence,
                    acknowledgement: if flags & flag::ACK == 0 {
                        0
                    } else {
                        0x0700_0001
                    },
                    payload,
                }
            }
            UDP => Body::Udp {
                payload,
                summed: self.ipv6 || noise.below(6) > 0,
            },
            _ => Body::Echo {
                reply: noise.below(12) == 0,
                payload,
            },
        };
        let (src, dst) = match &body {
            Body::Echo { reply: true, .. } => (
                End {
                    port: 0,
                    ..self.src
                },
                End {
                    port: self.src.port,
                    ..self.dst
                },
            ),
            _ => (self.src, self.dst),
        };
        Sketch {
            src,
            dst,
            body,
            ttl: 64,
            options: 0,
            id,
        }
    }
}

fn flags(noise: &mut Noise) -> u8 {
    use flag::{ACK, FIN, PSH, RST, SYN};
    let all = [
        ACK,
        ACK,
        ACK | PSH,
        ACK | PSH,
        SYN,
        SYN | ACK,
        SYN | ACK,
        FIN | ACK,
        RST,
        RST | ACK,
    ];
    all[noise.below(all.len())]
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |end: &End| format!("{}.{}", end.address, end.port);
        let (src, dst) = (end(&self.src), end(&self.dst));
        write!(
            f,
            "{:?} to {:?}: {src} > {dst}, protocol {}",
            self.client, self.server, self.protocol
        )
    }
}

impl fmt::Debug for Say {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Say::Client(sketch) => match &sketch.body {
                Body::Tcp { flags, payload, .. } => {
                    write!(f, "says flags {flags:02x}, {} bytes", payload.len())
                }
                Body::Udp { payload, summed } => {
                    write!(f, "says {} bytes, summed: {summed}", payload.len())
                }
                Body::Echo { reply, .. } => write!(f, "echo, reply: {reply}"),
            },
            Say::Answer { to, flags, payload } => {
                write!(f, "answers {to} with flags {flags:02x}, {payload} bytes")
            }
            Say::Error {
                about,
                kinds,
                quote,
                by_router,
            } => {
                let by = if *by_router { "a router's" } else { "its own" };
                write!(
                    f,
                    "error {kinds:?} about {about}, {quote} bytes of it, {by}"
                )
            }
            Say::Again { step } => write!(f, "{step} once more"),
        }
    }
}
