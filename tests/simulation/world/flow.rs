//! The client's side of a flow.

use std::net::IpAddr;
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress, IpEndpoint};

use super::plan::{FlowPlan, What};
use super::service::{self, HEADER};
use crate::simulation::{HostId, Simulation};

/// A question that nobody answers is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A stream that is refused is opened again, so often.
const ATTEMPTS: u32 = 6;

pub(super) struct Flow {
    pub(super) id: u32,
    pub(super) plan: FlowPlan,
    pub(super) state: State,
    /// Something happened that excuses it from coming to a good end.
    pub(super) disturbed: bool,
    /// Then it is given up.
    pub(super) give_up: Duration,
    /// A service has all that it sends up.
    pub(super) delivered: bool,
    attempts: u32,
}

pub(super) enum State {
    Waiting,
    Running(HostId, Client),
    Over(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Complete,
    /// A stream that was cut off, and was told so.
    Reset,
    /// Nobody was there any more, or nothing came.
    Abandoned,
}

pub(super) enum Client {
    Stream {
        handle: SocketHandle,
        opened: bool,
        sent: usize,
        received: usize,
    },
    Datagrams {
        handle: SocketHandle,
        round: u32,
        ask: Duration,
    },
    Echo {
        handle: SocketHandle,
        ident: u16,
        round: u32,
        ask: Duration,
    },
}

/// An answer that came to a flow and says to be another's.
pub(super) struct Stray {
    pub(super) flow: u32,
}

impl Flow {
    pub(super) fn new(id: u32, plan: FlowPlan) -> Flow {
        Flow {
            id,
            plan,
            state: State::Waiting,
            disturbed: false,
            give_up: Duration::MAX,
            delivered: false,
            attempts: 0,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over(_))
    }

    /// Begins at a host, from a `port` of it, or with this identifier.
    pub(super) fn start(
        &mut self,
        simulation: &mut Simulation,
        host: HostId,
        to: (IpAddr, u16),
        port: u16,
    ) {
        let now = simulation.now();
        let client = match self.plan.what {
            What::Stream { .. } => {
                let handle = simulation.sockets_mut(host).add(service::tcp_socket());
                simulation
                    .connect(host, handle, to, port)
                    .expect("a new socket connects");
                Client::Stream {
                    handle,
                    opened: false,
                    sent: 0,
                    received: 0,
                }
            }
            What::Datagrams { .. } => Client::Datagrams {
                handle: simulation.sockets_mut(host).add(service::udp_socket(port)),
                round: 0,
                ask: now,
            },
            What::Echo { .. } => {
                let buffer =
                    || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 512]);
                let mut socket = icmp::Socket::new(buffer(), buffer());
                socket
                    .bind(icmp::Endpoint::Ident(port))
                    .expect("a new socket takes any identifier");
                Client::Echo {
                    handle: simulation.sockets_mut(host).add(socket),
                    ident: port,
                    round: 0,
                    ask: now,
                }
            }
        };
        self.state = State::Running(host, client);
    }

    /// Goes on as far as it can now. While the world is `confused`, answers may come from a wrong
    /// port; nobody would take them.
    ///
    /// # Errors
    ///
    /// What came is not what was sent.
    pub(super) fn pump(
        &mut self,
        simulation: &mut Simulation,
        to: (IpAddr, u16),
        confused: bool,
    ) -> Result<Option<Stray>, String> {
        let State::Running(host, client) = &mut self.state else {
            return Ok(None);
        };
        let (host, id) = (*host, self.id);
        let mut stray = None;
        let outcome = match (client, self.plan.what) {
            (
                Client::Stream {
                    handle,
                    opened,
                    sent,
                    received,
                },
                What::Stream { up, down },
            ) => {
                let mut end = Streaming {
                    id,
                    up,
                    down,
                    opened,
                    sent,
                    received,
                };
                let handle = *handle;
                let over = end.pump(simulation, host, handle)?;
                let refused = !*opened;
                match over {
                    Some(Outcome::Complete) if !self.delivered => None,
                    // Refused, as when all listeners are busy: try again, with another port.
                    Some(Outcome::Reset) if refused && self.attempts < ATTEMPTS => {
                        self.attempts += 1;
                        self.state = State::Waiting;
                        self.plan.at = simulation.now() + ASK_AGAIN;
                        return Ok(None);
                    }
                    Some(outcome) => Some(outcome),
                    None => None,
                }
            }
            (Client::Datagrams { handle, round, ask }, What::Datagrams { rounds, size }) => {
                let now = simulation.now();
                while simulation
                    .sockets(host)
                    .get::<udp::Socket>(*handle)
                    .can_recv()
                {
                    let sockets = simulation.sockets_mut(host);
                    let Ok((bytes, from)) = sockets.get_mut::<udp::Socket>(*handle).recv() else {
                        break;
                    };
                    let (flow, answered, _) = service::read_datagram(bytes, true)?;
                    let from = (IpAddr::from(from.endpoint.addr), from.endpoint.port);
                    if flow != id {
                        stray = Some(Stray { flow });
                    } else if from != to {
                        if confused {
                            continue;
                        }
                        return Err(format!("flow {id} asked {to:?}, and {from:?} answers"));
                    } else if answered == *round {
                        *round += 1;
                        *ask = now;
                    }
                }
                if *round < rounds && *ask <= now {
                    *ask = now + ASK_AGAIN;
                    let question = service::datagram(id, *round, false, size);
                    let sockets = simulation.sockets_mut(host);
                    // Full is lost, as everywhere.
                    let socket = sockets.get_mut::<udp::Socket>(*handle);
                    socket.send_slice(&question, IpEndpoint::from(to)).ok();
                }
                (*round == rounds).then_some(Outcome::Complete)
            }
            (
                Client::Echo {
                    handle,
                    ident,
                    round,
                    ask,
                },
                What::Echo { rounds },
            ) => {
                let now = simulation.now();
                while simulation
                    .sockets(host)
                    .get::<icmp::Socket>(*handle)
                    .can_recv()
                {
                    let sockets = simulation.sockets_mut(host);
                    let Ok((bytes, from)) = sockets.get_mut::<icmp::Socket>(*handle).recv() else {
                        break;
                    };
                    if let Some((flow, answered)) = read_echo(bytes, *ident)? {
                        if flow != id {
                            stray = Some(Stray { flow });
                        } else if IpAddr::from(from) != to.0 {
                            return Err(format!("flow {id} asked {}, and {from} answers", to.0));
                        } else if answered == *round {
                            *round += 1;
                            *ask = now;
                        }
                    }
                }
                if *round < rounds && *ask <= now {
                    *ask = now + ASK_AGAIN;
                    send_echo(simulation, host, *handle, *ident, (id, *round), to.0);
                }
                (*round == rounds).then_some(Outcome::Complete)
            }
            _ => unreachable!("a client is of the kind of its plan"),
        };
        if let Some(outcome) = outcome {
            self.state = State::Over(outcome);
        }
        Ok(stray)
    }

    /// Ends where it is.
    pub(super) fn abandon(&mut self, simulation: &mut Simulation) {
        if let State::Running(host, Client::Stream { handle, .. }) = &self.state {
            // Tells the peer.
            let sockets = simulation.sockets_mut(*host);
            sockets.get_mut::<tcp::Socket>(*handle).abort();
        }
        self.state = State::Over(Outcome::Abandoned);
    }

    /// When it wants to do something without anything having come.
    pub(super) fn next(&self) -> Option<Duration> {
        match &self.state {
            State::Waiting => Some(self.plan.at),
            State::Running(_, Client::Datagrams { ask, .. } | Client::Echo { ask, .. }) => {
                Some(*ask.min(&self.give_up))
            }
            State::Running(..) if self.give_up < Duration::MAX => Some(self.give_up),
            State::Running(..) | State::Over(_) => None,
        }
    }
}

/// A stream's client and what it has to do.
struct Streaming<'a> {
    id: u32,
    up: usize,
    down: usize,
    opened: &'a mut bool,
    sent: &'a mut usize,
    received: &'a mut usize,
}

impl Streaming<'_> {
    fn pump(
        &mut self,
        simulation: &mut Simulation,
        host: HostId,
        handle: SocketHandle,
    ) -> Result<Option<Outcome>, String> {
        let id = self.id;
        let socket: &tcp::Socket = simulation.sockets(host).get(handle);
        *self.opened |= socket.may_send();
        if socket.can_recv() {
            let socket: &mut tcp::Socket = simulation.sockets_mut(host).get_mut(handle);
            while socket.can_recv() {
                let mut right = Ok(());
                let took = socket.recv(|block| {
                    right = service::compare(id, true, *self.received, block);
                    (block.len(), block.len())
                });
                right?;
                *self.received += took.map_err(|error| format!("flow {id}: {error}"))?;
            }
            if *self.received > self.down {
                return Err(format!("flow {id} gets more bytes than were sent"));
            }
        }
        let socket: &tcp::Socket = simulation.sockets(host).get(handle);
        let all = HEADER + self.up;
        let room = socket.send_capacity() - socket.send_queue();
        if *self.sent < all && socket.can_send() && room > 0 {
            let mut block = Vec::new();
            if *self.sent == 0 {
                let header = [id, self.up as u32, self.down as u32];
                block.extend(header.into_iter().flat_map(u32::to_be_bytes));
            }
            let from = (*self.sent + block.len()).saturating_sub(HEADER);
            let length = (self.up - from).min(room.saturating_sub(block.len()));
            block.extend(service::stream(id, false, from, length));
            let socket: &mut tcp::Socket = simulation.sockets_mut(host).get_mut(handle);
            *self.sent += socket.send_slice(&block).unwrap_or(0);
        }
        if *self.sent == all && *self.received == self.down {
            let socket: &tcp::Socket = simulation.sockets(host).get(handle);
            if socket.may_send() {
                let socket: &mut tcp::Socket = simulation.sockets_mut(host).get_mut(handle);
                socket.close();
            }
            return Ok(Some(Outcome::Complete));
        }
        let socket: &tcp::Socket = simulation.sockets(host).get(handle);
        let cut_off = socket.state() == tcp::State::Closed;
        Ok(cut_off.then_some(Outcome::Reset))
    }
}

fn send_echo(
    simulation: &mut Simulation,
    host: HostId,
    handle: SocketHandle,
    ident: u16,
    (flow, round): (u32, u32),
    to: IpAddr,
) {
    let data = service::datagram(flow, round, false, 16);
    let request = Icmpv4Repr::EchoRequest {
        ident,
        seq_no: round as u16,
        data: &data,
    };
    let sockets = simulation.sockets_mut(host);
    let socket: &mut icmp::Socket = sockets.get_mut(handle);
    // Full is lost, as everywhere.
    if let Ok(payload) = socket.send(request.buffer_len(), IpAddress::from(to)) {
        let mut packet = Icmpv4Packet::new_unchecked(payload);
        request.emit(&mut packet, &ChecksumCapabilities::default());
    }
}

/// The flow and the round of an echo reply; `None` for any other message, such as an error.
fn read_echo(bytes: &[u8], own: u16) -> Result<Option<(u32, u32)>, String> {
    let answer = Icmpv4Packet::new_checked(bytes)
        .and_then(|packet| Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()));
    let Ok(Icmpv4Repr::EchoReply { ident, data, .. }) = answer else {
        return Ok(None);
    };
    if ident != own {
        return Err(format!("identifier {own} gets the reply to {ident}"));
    }
    let (flow, round, _) = service::read_datagram(data, false)?;
    Ok(Some((flow, round)))
}
