//! What a host serves: streams and datagrams, which say by their first bytes whose they are.
//!
//! Sockets stay in their set when they are closed, here and in `flow`: smoltcp hands a SYN that
//! comes again to the first socket in the set that takes it, which must be the one that has the
//! connection, and not one that listens. Listening ones are so always behind.

use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Duration;

use super::STALL;
use super::plan::{DATAGRAMS, Party, STREAMS};
use crate::simulation::{HostId, Simulation};

/// The flow's number, and how many bytes go up and down.
pub(super) const HEADER: usize = 12;
/// What an answer to a datagram has in front, where a question has zeros.
const ANSWER: u32 = 1;
/// Connections that may come at the same time.
const LISTENERS: usize = 4;
const BUFFER: usize = 8 << 10;

pub(super) struct Service {
    pub(super) party: Party,
    pub(super) host: HostId,
    listeners: Vec<SocketHandle>,
    accepted: Vec<Accepted>,
    datagrams: SocketHandle,
}

struct Accepted {
    handle: SocketHandle,
    header: Vec<u8>,
    received: usize,
    sent: usize,
}

/// Something of a flow came to a service.
pub(super) struct Receipt {
    pub(super) flow: u32,
    pub(super) by: Party,
    /// Where the service sees it come from.
    pub(super) from: SocketAddr,
    /// All that the flow sends up is there.
    pub(super) whole: bool,
}

/// The byte at `offset` of a flow's way up or down: different for every flow, way and place.
fn byte(flow: u32, down: bool, offset: usize) -> u8 {
    let key = flow.wrapping_mul(0x9e37_79b1) ^ u32::from(down).wrapping_mul(0x85eb_ca6b);
    let word = (offset as u32 ^ key).wrapping_mul(0xc2b2_ae35);
    (word >> 24) as u8
}

/// The bytes of a flow from `offset` on, so many of them.
pub(super) fn stream(flow: u32, down: bool, offset: usize, length: usize) -> Vec<u8> {
    let offsets = offset..offset + length;
    offsets.map(|offset| byte(flow, down, offset)).collect()
}

/// Holds `bytes` against what belongs at `offset` of a flow.
pub(super) fn compare(flow: u32, down: bool, offset: usize, bytes: &[u8]) -> Result<(), String> {
    let wrong = bytes
        .iter()
        .enumerate()
        .find(|&(index, &found)| found != byte(flow, down, offset + index));
    match wrong {
        None => Ok(()),
        Some((index, _)) => {
            let way = if down { "down" } else { "up" };
            Err(format!(
                "flow {flow} is garbled at byte {} {way}",
                offset + index
            ))
        }
    }
}

/// A datagram of a flow: whose it is, which round, question or answer, and filling.
pub(super) fn datagram(flow: u32, round: u32, answer: bool, size: usize) -> Vec<u8> {
    let kind = if answer { ANSWER } else { 0 };
    let mut bytes: Vec<u8> = [flow, round, kind]
        .into_iter()
        .flat_map(u32::to_be_bytes)
        .collect();
    bytes.extend(stream(flow, answer, round as usize, size));
    bytes
}

/// The flow, the round and the size of a datagram that is as one was sent.
pub(super) fn read_datagram(bytes: &[u8], answer: bool) -> Result<(u32, u32, usize), String> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_be_bytes)
            .ok_or("a datagram without its beginning")
    };
    let (flow, round) = (word(0)?, word(4)?);
    let size = bytes.len() - HEADER.min(bytes.len());
    if bytes != datagram(flow, round, answer, size) {
        return Err(format!("a datagram of flow {flow} is garbled"));
    }
    Ok((flow, round, size))
}

pub(super) fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // smoltcp believes a closed window that an older segment tells of, and then both sides wait
    // for ever; the answer to a keep-alive has the window as it is.
    socket.set_keep_alive(Some(Duration::from_secs(10)));
    socket
}

pub(super) fn udp_socket(port: u16) -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 8 << 10]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).expect("a new socket binds to any port");
    socket
}

impl Service {
    pub(super) fn start(simulation: &mut Simulation, party: Party, host: HostId) -> Service {
        let sockets = simulation.sockets_mut(host);
        let datagrams = sockets.add(udp_socket(DATAGRAMS));
        let mut service = Service {
            party,
            host,
            listeners: Vec::new(),
            accepted: Vec::new(),
            datagrams,
        };
        service.listen(simulation);
        service
    }

    fn listen(&mut self, simulation: &mut Simulation) {
        while self.listeners.len() < LISTENERS {
            let mut socket = tcp_socket();
            socket.listen(STREAMS).expect("a new socket listens");
            // A peer that went without a word is forgotten.
            socket.set_timeout(Some(STALL.into()));
            let handle = simulation.sockets_mut(self.host).add(socket);
            self.listeners.push(handle);
        }
    }

    /// Serves what has come, and tells what that was.
    ///
    /// # Errors
    ///
    /// Bytes came that nobody sent so.
    pub(super) fn pump(
        &mut self,
        simulation: &mut Simulation,
        receipts: &mut Vec<Receipt>,
    ) -> Result<(), String> {
        let sockets = simulation.sockets(self.host);
        let taken = |handle: &SocketHandle| {
            sockets.get::<tcp::Socket>(*handle).state() != tcp::State::Listen
        };
        if self.listeners.iter().any(taken) {
            let (taken, free) = self.listeners.iter().partition(|handle| taken(handle));
            let taken: Vec<SocketHandle> = taken;
            self.listeners = free;
            self.accepted
                .extend(taken.into_iter().map(|handle| Accepted {
                    handle,
                    header: Vec::new(),
                    received: 0,
                    sent: 0,
                }));
            self.listen(simulation);
        }
        let (party, host) = (self.party, self.host);
        let mut wrong = Ok(());
        self.accepted.retain_mut(|accepted| {
            let over = accepted.pump(simulation, host, party, receipts);
            over.unwrap_or_else(|error| {
                wrong = Err(error);
                true
            })
        });
        wrong?;
        while simulation
            .sockets(host)
            .get::<udp::Socket>(self.datagrams)
            .can_recv()
        {
            let sockets = simulation.sockets_mut(host);
            let socket: &mut udp::Socket = sockets.get_mut(self.datagrams);
            let Ok((question, from)) = socket.recv() else {
                break;
            };
            let (flow, round, size) = read_datagram(question, false)?;
            receipts.push(Receipt {
                flow,
                by: party,
                from: SocketAddr::new(IpAddr::from(from.endpoint.addr), from.endpoint.port),
                whole: false,
            });
            let answer = datagram(flow, round, true, size);
            // As the question came, so the answer goes; one that finds no room is lost.
            socket.send_slice(&answer, from).ok();
        }
        Ok(())
    }
}

impl Accepted {
    /// Whether the connection goes on.
    fn pump(
        &mut self,
        simulation: &mut Simulation,
        host: HostId,
        by: Party,
        receipts: &mut Vec<Receipt>,
    ) -> Result<bool, String> {
        let socket: &tcp::Socket = simulation.sockets(host).get(self.handle);
        match socket.state() {
            tcp::State::Closed | tcp::State::TimeWait => return Ok(false),
            // Refused before it was established, it would listen again, and not behind the others.
            tcp::State::Listen => {
                simulation
                    .sockets_mut(host)
                    .get_mut::<tcp::Socket>(self.handle)
                    .abort();
                return Ok(false);
            }
            _ => {}
        }
        if socket.can_recv() {
            let from = socket.remote_endpoint().expect("who sends has an address");
            let from = SocketAddr::new(IpAddr::from(from.addr), from.port);
            let mut bytes = Vec::new();
            let socket: &mut tcp::Socket = simulation.sockets_mut(host).get_mut(self.handle);
            while socket.can_recv() {
                let took = socket.recv(|block| {
                    bytes.extend_from_slice(block);
                    (block.len(), ())
                });
                took.map_err(|error| format!("what can be received is not: {error}"))?;
            }
            let missing = HEADER - self.header.len();
            let (header, body) = bytes.split_at(missing.min(bytes.len()));
            self.header.extend_from_slice(header);
            if let Some([flow, up, _]) = self.read_header() {
                compare(flow, false, self.received, body)?;
                self.received += body.len();
                if self.received > up as usize {
                    return Err(format!("flow {flow} has more bytes than were sent"));
                }
                receipts.push(Receipt {
                    flow,
                    by,
                    from,
                    whole: self.received == up as usize,
                });
            }
        }
        let Some([flow, up, down]) = self.read_header() else {
            return Ok(true);
        };
        let socket: &tcp::Socket = simulation.sockets(host).get(self.handle);
        let (down, room) = (down as usize, socket.send_capacity() - socket.send_queue());
        let done = self.sent == down && self.received == up as usize;
        if self.sent < down && socket.can_send() && room > 0 {
            let block = stream(flow, true, self.sent, room.min(down - self.sent));
            let socket: &mut tcp::Socket = simulation.sockets_mut(host).get_mut(self.handle);
            self.sent += socket.send_slice(&block).unwrap_or(0);
        } else if done && socket.may_send() {
            let socket: &mut tcp::Socket = simulation.sockets_mut(host).get_mut(self.handle);
            socket.close();
        }
        Ok(true)
    }

    fn read_header(&self) -> Option<[u32; 3]> {
        let header: &[u8; HEADER] = self.header.as_slice().try_into().ok()?;
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|next| header[at + next]));
        Some([word(0), word(4), word(8)])
    }
}
