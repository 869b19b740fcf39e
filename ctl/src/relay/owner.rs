//! Whose a client's socket is: the kernel tells the user of a socket on this host (sock_diag(7)).

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Whom a flow is counted against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// A user of this host.
    User(u32),
    /// A host beyond it, or one that the kernel does not tell the user of.
    Address(IpAddr),
}

/// Of which protocol the client's socket is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    Tcp,
    Udp,
}

/// SOCK_DIAG_BY_FAMILY, the type of a question and of its answer.
const BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
/// `struct nlmsghdr`, and what of `struct inet_diag_msg` is before the user.
const HEADER: usize = 16;
const USER: usize = HEADER + 64;

thread_local! {
    /// Answers come before the question has been sent, so one socket a thread mixes nothing up.
    static KERNEL: RefCell<Option<OwnedFd>> = const { RefCell::new(None) };
}

impl Owner {
    /// Of the socket at `client` that talks to `here`.
    pub(super) fn of(kind: Of, client: SocketAddr, here: SocketAddr) -> Owner {
        let user = KERNEL.with_borrow_mut(|kernel| {
            let asked = ask(kernel, kind, client, here);
            if asked.is_err() {
                // With the next question there is another chance.
                *kernel = None;
            }
            asked.ok().flatten()
        });
        user.map_or(Owner::Address(client.ip().to_canonical()), Owner::User)
    }
}

fn ask(
    kernel: &mut Option<OwnedFd>,
    kind: Of,
    client: SocketAddr,
    here: SocketAddr,
) -> io::Result<Option<u32>> {
    let kernel = match kernel {
        Some(kernel) => &*kernel,
        None => kernel.insert(socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkSockDiag,
        )?),
    };
    let question = question(kind, client, here);
    let flags = MsgFlags::MSG_DONTWAIT;
    sendto(
        kernel.as_raw_fd(),
        &question,
        &NetlinkAddr::new(0, 0),
        flags,
    )?;
    let mut answer = [0; 512];
    let length = recv(kernel.as_raw_fd(), &mut answer, flags)?;
    Ok(user(&answer[..length.min(answer.len())]))
}

fn question(kind: Of, client: SocketAddr, here: SocketAddr) -> Vec<u8> {
    /// `struct inet_diag_req_v2`.
    const BODY: usize = 56;
    let client = (client.ip().to_canonical(), client.port());
    let here = (here.ip().to_canonical(), here.port());
    let family = if client.0.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // One socket of UDP is looked up as if for a datagram that comes in (udp_dump_one in
    // net/ipv4/udp_diag.c).
    let (protocol, source, destination) = match kind {
        Of::Tcp => (libc::IPPROTO_TCP, client, here),
        Of::Udp => (libc::IPPROTO_UDP, here, client),
    };
    let mut bytes = Vec::with_capacity(HEADER + BODY);
    bytes.extend(((HEADER + BODY) as u32).to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family as u8, protocol as u8, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(source.1.to_be_bytes());
    bytes.extend(destination.1.to_be_bytes());
    for (address, _) in [source, destination] {
        let mut field = [0; 16];
        match address {
            IpAddr::V4(address) => field[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => field = address.octets(),
        }
        bytes.extend(field);
    }
    // Any interface, and no cookie.
    bytes.extend([0; 4]);
    bytes.extend([0xff; 8]);
    bytes
}

fn user(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let user = u32::from_ne_bytes(*answer.get(USER..)?.first_chunk()?);
    (kind == BY_FAMILY).then_some(user)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use nix::unistd::geteuid;

    use super::*;

    #[test]
    fn a_client_on_this_host_has_a_user() {
        let me = Owner::User(geteuid().as_raw());
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let here = listener.local_addr().unwrap();
            let client = TcpStream::connect(here).unwrap();
            assert_eq!(Owner::of(Of::Tcp, client.local_addr().unwrap(), here), me);

            let server = UdpSocket::bind(address).unwrap();
            let client = UdpSocket::bind(address).unwrap();
            let (client, here) = (client.local_addr().unwrap(), server.local_addr().unwrap());
            assert_eq!(Owner::of(Of::Udp, client, here), me);
        }
        let far: SocketAddr = "192.0.2.1:9".parse().unwrap();
        let here = "192.0.2.2:9".parse().unwrap();
        assert_eq!(Owner::of(Of::Tcp, far, here), Owner::Address(far.ip()));
    }
}
