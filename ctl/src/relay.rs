//! Publishing on loopback: connections that the published socket itself accepts, those from the
//! host to 127.0.0.1 or to its own address, are carried to the container by copying.
//!
//! The switch sees only what crosses a wire. The socket that reserves a published port (design:
//! it refuses whatever comes in through an uplink) also accepts what the host sends to itself,
//! and a relay serves it. This is one of the two paths that lose the client's address: the
//! container sees the host's.
//!
//! A published range may have thousands of sockets, of which few ever see a client: until then a
//! socket costs its descriptor and an entry in one epoll ([`watch`]), no task and no buffer.
//! A port that is for some sources alone is so here too: a client that is not of them is cut off with a
//! reset at once, or its datagrams go nowhere. Nobody on the host needs to be kept waiting.
//!
//! Descriptors are shared with the rest of the daemon, so the flows of all relays together take at
//! most half of those that the process may have, and each published port and each user of it has a
//! share of that ([`slots`]).

use std::cell::RefCell;
use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nat::Sources;
use switch::io::{replace_filter, sock_filter};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

mod owner;
mod pipe;
mod slots;
mod target;
mod tcp;
mod udp;
mod watch;

pub(crate) use target::{Device, Reach, Target};
use watch::watch;

/// Bytes that one read takes: some of Linux's default socket buffers, and more than any datagram.
const BUFFER: usize = 128 * 1024;

thread_local! {
    /// One buffer a thread. It is filled and emptied between two awaits, so an idle connection
    /// has no buffer at all.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// What a relay has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RelayCounters {
    /// Connections, or for UDP clients, right now.
    pub(crate) active: u64,
    /// Connections or clients so far, those that failed included.
    pub(crate) total: u64,
    /// Connections that the container refused or that ran into the timeout; for UDP, clients that
    /// no socket could be had for.
    pub(crate) failed: u64,
    /// Bytes from clients to the container.
    pub(crate) bytes_in: u64,
    /// Bytes from the container to clients.
    pub(crate) bytes_out: u64,
    /// UDP: datagrams that could not be passed on (a full buffer, a closed port).
    pub(crate) dropped: u64,
    /// Connections and clients of UDP that were ended early to make room for others.
    pub(crate) evicted: u64,
    /// Connections and datagrams of clients whom the port is not for.
    pub(crate) refused: u64,
}

/// What the relays of one mapping have in common.
#[derive(Debug, Default)]
pub(crate) struct Common {
    /// Tells one mapping from another.
    id: u64,
    /// Whom they are for, by the address that a client has here.
    allow: tokio::sync::watch::Sender<Sources>,
    counters: Counters,
}

impl Common {
    pub(crate) fn new(allow: Sources) -> Arc<Common> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Arc::new(Common {
            id: LAST.fetch_add(1, Relaxed),
            allow: tokio::sync::watch::Sender::new(allow),
            counters: Counters::default(),
        })
    }

    /// Whom they are for from now on. Flows of others are cut.
    pub(crate) fn set_allow(&self, allow: Sources) {
        self.allow.send_replace(allow);
    }

    pub(crate) fn counters(&self) -> RelayCounters {
        self.counters.now()
    }

    fn allows(&self, client: SocketAddr) -> bool {
        self.allow.borrow().allows(client.ip())
    }

    /// Done once a client may no longer be carried.
    async fn banned(&self, client: SocketAddr) {
        let mut allow = self.allow.subscribe();
        // Looks at the present list first, and cannot fail while there is this sender.
        let gone = allow.wait_for(|allow| !allow.allows(client.ip())).await;
        drop(gone);
    }
}

#[derive(Debug, Default)]
struct Counters {
    active: AtomicU64,
    total: AtomicU64,
    failed: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    dropped: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    fn now(&self) -> RelayCounters {
        RelayCounters {
            active: self.active.load(Relaxed),
            total: self.total.load(Relaxed),
            failed: self.failed.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

/// Counts one connection as active while it lives.
struct Active(Arc<Common>);

impl Active {
    fn new(common: &Arc<Common>) -> Active {
        common.counters.total.fetch_add(1, Relaxed);
        common.counters.active.fetch_add(1, Relaxed);
        Active(common.clone())
    }

    fn counters(&self) -> &Counters {
        &self.0.counters
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.counters().active.fetch_sub(1, Relaxed);
    }
}

/// One published socket. Until its first client comes it costs a descriptor and a few hundred bytes;
/// then a task serves it. Dropping it ends it and cuts every flow in flight: TCP clients and the
/// container get a reset. [`Relay::stop`] also tells when that is done and the port is free.
#[derive(Debug)]
pub(crate) struct Relay {
    door: Arc<Door>,
    /// What the watch knows it by.
    token: u64,
}

/// A published socket as the [watch](watch::Watch) knows it too.
#[derive(Debug)]
struct Door {
    target: Target,
    common: Arc<Common>,
    /// Where it is served once somebody comes.
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Idle(Idle),
    Serving(Serving),
    Closed,
}

/// Nobody has come yet.
#[derive(Debug)]
enum Idle {
    Tcp(TcpListener),
    Udp(UdpSocket, udp::Terms),
}

#[derive(Debug)]
struct Serving {
    socket: Open,
    /// The task ends when this is dropped.
    _stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Open {
    Tcp(Arc<tokio::net::TcpListener>),
    Udp(Arc<tokio::net::UdpSocket>),
}

impl Idle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Idle::Tcp(listener) => listener.as_fd(),
            Idle::Udp(socket, _) => socket.as_fd(),
        }
    }
}

impl Door {
    /// A panic while it was held leaves a state that is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its first client has come: starts the task that serves it.
    fn open(&self) {
        let mut state = self.state();
        match mem::replace(&mut *state, State::Closed) {
            State::Idle(idle) => match self.serve(idle) {
                Ok(serving) => *state = State::Serving(serving),
                // Out of kernel memory, or the runtime is ending.
                Err(error) => {
                    tracing::error!("can't serve a published port of {}: {error}", self.target);
                }
            },
            other => *state = other,
        }
    }

    fn serve(&self, idle: Idle) -> io::Result<Serving> {
        let _runtime = self.runtime.enter();
        let (stop, stopped) = oneshot::channel();
        let common = self.common.clone();
        let (socket, task) = match idle {
            Idle::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let listener = Arc::new(tokio::net::TcpListener::from_std(listener)?);
                let serve = tcp::serve(listener.clone(), self.target, common, stopped);
                (Open::Tcp(listener), tokio::spawn(serve))
            }
            Idle::Udp(socket, terms) => {
                socket.set_nonblocking(true)?;
                let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
                let server = udp::Server::new(socket.clone(), self.target, terms);
                let serve = server.serve(common, stopped);
                (Open::Udp(socket), tokio::spawn(serve))
            }
        };
        Ok(Serving {
            socket,
            _stop: stop,
            task,
        })
    }
}

impl Relay {
    /// Carries every connection that `listener` accepts to `target`. Half-closed connections stay
    /// so; a reset on one side resets the other. Must be called in a runtime, which must be in the
    /// network namespace that reaches `target`.
    ///
    /// # Errors
    /// The listener can't be watched: the kernel's memory or `fs.epoll.max_user_watches` is used up.
    pub(crate) fn tcp(
        listener: TcpListener,
        target: impl Into<Target>,
        common: &Arc<Common>,
    ) -> io::Result<Relay> {
        Relay::new(Idle::Tcp(listener), target.into(), common)
    }

    /// Carries datagrams between the clients of `socket` and `target`. Each client gets a socket
    /// of its own towards `target`, until `idle` has passed without a datagram either way.
    /// Answers leave from the address that the client sent to. Otherwise as [`Relay::tcp`].
    pub(crate) fn udp(
        socket: UdpSocket,
        target: impl Into<Target>,
        idle: Duration,
        common: &Arc<Common>,
    ) -> io::Result<Relay> {
        let max_clients = udp::MAX_CLIENTS;
        let terms = udp::Terms { idle, max_clients };
        Relay::udp_bounded(socket, target.into(), terms, common)
    }

    fn udp_bounded(
        socket: UdpSocket,
        target: Target,
        terms: udp::Terms,
        common: &Arc<Common>,
    ) -> io::Result<Relay> {
        // Now: the kernel notes what a datagram was sent to when it comes, not when it is read.
        udp::ask_for_destinations(&socket)?;
        Relay::new(Idle::Udp(socket, terms), target, common)
    }

    fn new(idle: Idle, target: Target, common: &Arc<Common>) -> io::Result<Relay> {
        let door = Arc::new(Door {
            target,
            common: common.clone(),
            runtime: Handle::current(),
            state: Mutex::new(State::Idle(idle)),
        });
        let token = watch()?.add(&door)?;
        Ok(Relay { door, token })
    }

    /// Ends it, and cuts its flows, at once. The future is done when every socket of it is closed
    /// and the port free.
    pub(crate) fn stop(self) -> impl Future<Output = ()> {
        // What else there is of it is dropped here.
        let task = self.close().map(|serving| serving.task);
        async move {
            if let Some(task) = task
                && let Err(error) = task.await
                && error.is_panic()
            {
                tracing::error!("a relay has panicked: {error}");
            }
        }
    }

    /// Closes the socket, unless a task has it too: that ends when what is returned is dropped.
    fn close(&self) -> Option<Serving> {
        let state = mem::replace(&mut *self.door.state(), State::Closed);
        match state {
            State::Idle(idle) => {
                drop(idle);
                if let Ok(watch) = watch() {
                    watch.forget(self.token);
                }
                None
            }
            State::Serving(serving) => Some(serving),
            State::Closed => None,
        }
    }

    /// Gives the socket another filter, in one step.
    ///
    /// # Errors
    /// As of [`switch::io::replace_filter`].
    pub(crate) fn replace_filter(&self, filter: &[sock_filter]) -> io::Result<()> {
        match &*self.door.state() {
            State::Idle(idle) => replace_filter(idle.as_fd(), filter),
            State::Serving(serving) => match &serving.socket {
                Open::Tcp(listener) => replace_filter(listener.as_fd(), filter),
                Open::Udp(socket) => replace_filter(socket.as_fd(), filter),
            },
            State::Closed => Ok(()),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.close());
    }
}

#[cfg(test)]
mod tests;
