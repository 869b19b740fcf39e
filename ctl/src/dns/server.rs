//! The server: sockets, who may ask how much, and the way of a query from bytes to bytes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Name;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use switch::NetworkId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout, timeout_at};

use super::cache::{Answer, Manner, Question};
use super::directory::{Directory, Found, Scope};
use super::forward::{self, Forwarder};
use super::message::{self, QUERY_MAX, Received, STREAM_MAX};
use super::resolv_conf::{Upstream, Upstreams};

/// Where containers ask: Docker's address, which some configurations name. The switch leads that to
/// the network's server.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// Of every server that is named by its address alone.
pub(crate) const PORT: u16 = 53;

/// Most questions that wait for upstream servers, of all askers and of one. Nobody takes more than
/// are left free, so however many askers want all there are, another one finds a place.
const WAITING_MAX: usize = 1024;
const WAITING_OF_ONE: usize = 256;

/// Most search domains that a name is looked for in.
const SEARCH_MAX: usize = 6;

/// Most TCP connections to one address of ours, and from one address to it.
const STREAMS_MAX: usize = 128;
const STREAMS_OF_ONE: usize = 16;
/// What a connection may be silent for, and an answer may take to be taken.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);

/// After an error that is the socket's and may last.
const PAUSE: Duration = Duration::from_millis(100);

/// Sockets that no task serves yet, of the namespace that they were opened in. What is asked of
/// them meanwhile waits.
pub(crate) struct Sockets {
    datagrams: Vec<std::net::UdpSocket>,
    streams: Vec<std::net::TcpListener>,
}

impl Sockets {
    /// Binds these addresses for UDP and TCP, wherever questions come from.
    ///
    /// # Errors
    /// Something else listens there; the text names the address.
    pub(crate) fn open(addresses: &[SocketAddr]) -> io::Result<Sockets> {
        Sockets::bind(addresses.iter().map(|address| (*address, None)))
    }

    /// Binds these addresses for UDP and TCP, for what comes in through `interface`, and for what
    /// the host itself asks, which comes by its loopback. Answers leave by the interface too,
    /// whatever more specific routes the host has (SO_BINDTODEVICE, socket(7)).
    ///
    /// # Errors
    /// Something else listens there; the text names the address. Or there is no such interface.
    pub(crate) fn open_on(addresses: &[SocketAddr], interface: &str) -> io::Result<Sockets> {
        Sockets::bind(addresses.iter().flat_map(|it| {
            // Where sockets share a port by SO_REUSEPORT, the kernel takes the first one that fits,
            // not the one that fits best: the last that was bound for IPv4, the first for IPv6.
            let devices = match it {
                SocketAddr::V4(_) => [None, Some(interface)],
                SocketAddr::V6(_) => [Some(interface), None],
            };
            devices.map(|device| (*it, device))
        }))
    }

    fn bind<'a>(
        wanted: impl Iterator<Item = (SocketAddr, Option<&'a str>)>,
    ) -> io::Result<Sockets> {
        let mut sockets = Sockets {
            datagrams: Vec::new(),
            streams: Vec::new(),
        };
        for (address, device) in wanted {
            let failed = |error: io::Error, what: &str| {
                let advice = match error.kind() {
                    io::ErrorKind::AddrInUse => ": another program listens there",
                    _ => "",
                };
                io::Error::new(
                    error.kind(),
                    format!("can't listen on {address}/{what}: {error}{advice}"),
                )
            };
            let datagrams = bound(address, Type::DGRAM, Protocol::UDP, device);
            let datagrams = datagrams.map_err(|error| failed(error, "udp"))?;
            sockets.datagrams.push(datagrams.into());
            let streams = bound(address, Type::STREAM, Protocol::TCP, device).and_then(|socket| {
                socket.listen(128)?;
                Ok(socket)
            });
            let streams = streams.map_err(|error| failed(error, "tcp"))?;
            sockets.streams.push(streams.into());
        }
        Ok(sockets)
    }
}

fn bound(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
    device: Option<&str>,
) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, kind.nonblocking(), Some(protocol))?;
    // The address may be tentative yet, or go and come back with its interface.
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    if kind == Type::STREAM {
        // Connections of an earlier daemon may linger in TIME-WAIT.
        socket.set_reuse_address(true)?;
    }
    // Two sockets of ours have the same address, one for an interface and one for the others.
    socket.set_reuse_port(true)?;
    socket.bind_device(device.map(str::as_bytes))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Serves some sockets; dropping it ends that and closes them.
pub(crate) struct Listener(Vec<AbortHandle>);

impl Drop for Listener {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// What answers, wherever it is asked.
pub(crate) struct Resolver {
    directory: watch::Receiver<Arc<Directory>>,
    upstreams: Upstreams,
    forwarder: Arc<Forwarder>,
    waiting: Mutex<Waiting>,
    /// Names with several addresses begin with another one each time.
    turn: AtomicUsize,
}

/// How many questions wait for upstream servers.
#[derive(Default)]
struct Waiting {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// What is to be done with what came in.
enum Step {
    Nothing,
    /// The answer, and the largest datagram that its asker takes.
    Answer(Message, u16),
    /// Others have to be asked.
    Ask(Message, Vec<Wanted>),
}

/// One thing to ask others for.
struct Wanted {
    question: Question,
    /// It is the question in a search domain, and counts only if the name has addresses there.
    searched: bool,
}

impl Resolver {
    pub(crate) fn new(
        directory: watch::Receiver<Arc<Directory>>,
        upstreams: Upstreams,
    ) -> Arc<Resolver> {
        Arc::new(Resolver {
            directory,
            upstreams,
            forwarder: Arc::default(),
            waiting: Mutex::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// Forgets what other servers have answered, and reads again which they are.
    pub(crate) fn forget(&self) {
        self.upstreams.forget();
        self.forwarder.forget();
    }

    /// Answers at these sockets, for who asks on a network. Must be called in a runtime.
    ///
    /// # Errors
    /// The runtime can't take the sockets.
    pub(crate) fn listen(
        self: &Arc<Self>,
        sockets: Sockets,
        network: NetworkId,
    ) -> io::Result<Listener> {
        let mut tasks = Listener(Vec::new());
        for socket in sockets.datagrams {
            let socket = UdpSocket::from_std(socket)?;
            let served = Arc::clone(self).serve_datagrams(socket, network);
            tasks.0.push(tokio::spawn(served).abort_handle());
        }
        for listener in sockets.streams {
            let listener = TcpListener::from_std(listener)?;
            let served = Arc::clone(self).serve_streams(listener, network);
            tasks.0.push(tokio::spawn(served).abort_handle());
        }
        Ok(tasks)
    }

    async fn serve_datagrams(self: Arc<Self>, socket: UdpSocket, network: NetworkId) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; QUERY_MAX];
        // These end with this task, and with them their hold on the socket.
        let mut asking = JoinSet::new();
        loop {
            let (length, source) = tokio::select! {
                received = socket.recv_from(&mut buffer) => match received {
                    Ok(received) => received,
                    Err(error) => {
                        tracing::debug!("a DNS socket failed: {error}");
                        sleep(PAUSE).await;
                        continue;
                    }
                },
                Some(_) = asking.join_next() => continue,
            };
            match self.consider(&buffer[..length], network, source.ip()) {
                Step::Nothing => {}
                Step::Answer(reply, limit) => {
                    let bytes = message::encode(&reply, limit);
                    // A full send buffer loses an answer, as the wire may.
                    let _ = socket.try_send_to(&bytes, source);
                }
                Step::Ask(query, wanted) => {
                    let (resolver, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    asking.spawn(async move {
                        let limit = message::datagram_limit(&query);
                        let reply = resolver.ask(&query, wanted, source.ip()).await;
                        // Its records are gone before anything waits.
                        let bytes = message::encode(&reply, limit);
                        drop(reply);
                        let _ = socket.send_to(&bytes, source).await;
                    });
                }
            }
        }
    }

    async fn serve_streams(self: Arc<Self>, listener: TcpListener, network: NetworkId) {
        let mut streams: JoinSet<IpAddr> = JoinSet::new();
        let mut of: HashMap<IpAddr, usize> = HashMap::new();
        loop {
            let (stream, source) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::debug!("a DNS listener failed: {error}");
                        sleep(PAUSE).await;
                        continue;
                    }
                },
                Some(ended) = streams.join_next() => {
                    if let Ok(source) = ended && let Some(count) = of.get_mut(&source) {
                        *count -= 1;
                        if *count == 0 {
                            of.remove(&source);
                        }
                    }
                    continue;
                }
            };
            let source = source.ip();
            let count = of.get(&source).copied().unwrap_or(0);
            if streams.len() >= STREAMS_MAX || count >= STREAMS_OF_ONE {
                continue;
            }
            of.insert(source, count + 1);
            let resolver = Arc::clone(&self);
            streams.spawn(async move {
                // Whoever breaks off knows why.
                let _ = resolver.serve_stream(stream, network, source).await;
                source
            });
        }
    }

    /// Answers the queries of one connection in their order (RFC 7766 clause 6.2.1.1 allows to).
    async fn serve_stream(
        &self,
        mut stream: TcpStream,
        network: NetworkId,
        source: IpAddr,
    ) -> io::Result<()> {
        let mut buffer = vec![0; QUERY_MAX];
        loop {
            let length = usize::from(timeout(STREAM_PATIENCE, stream.read_u16()).await??);
            let Some(query) = buffer.get_mut(..length) else {
                return Ok(());
            };
            timeout(STREAM_PATIENCE, stream.read_exact(query)).await??;
            let Some(reply) = self.respond(query, network, source).await else {
                return Ok(());
            };
            let bytes = message::encode(&reply, STREAM_MAX);
            drop(reply);
            let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes(), &bytes[..]].concat();
            timeout(STREAM_PATIENCE, stream.write_all(&framed)).await??;
        }
    }

    /// The answer to a query, from wherever; none to what needs none.
    pub(super) async fn respond(
        &self,
        bytes: &[u8],
        network: NetworkId,
        source: IpAddr,
    ) -> Option<Message> {
        match self.consider(bytes, network, source) {
            Step::Nothing => None,
            Step::Answer(reply, _) => Some(reply),
            Step::Ask(query, wanted) => Some(self.ask(&query, wanted, source).await),
        }
    }

    /// Answers what can be answered at once.
    fn consider(&self, bytes: &[u8], network: NetworkId, source: IpAddr) -> Step {
        // Cloned out of the lock at once.
        let directory = Arc::clone(&self.directory.borrow());
        let Some(scope) = directory.scope(network, source) else {
            return Step::Nothing;
        };
        let query = match message::receive(bytes) {
            Received::Noise => return Step::Nothing,
            Received::Refused(reply) => return Step::Answer(reply, 512),
            Received::Query(query) => query,
        };
        let Some(asked) = query.queries.first() else {
            return Step::Nothing;
        };
        let reply = match directory.find(&scope, asked.name(), asked.query_type()) {
            Found::Addresses(addresses) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                message::addresses(&query, &addresses, turn)
            }
            Found::Pointer(name) => message::pointer(&query, &name),
            Found::Nothing => message::no_data(&query),
            Found::Nobody if scope.forwards => {
                return self.consider_search(&directory, &scope, query);
            }
            Found::Nobody => message::nobody(&query),
            // For an internal network there is no world, so its names do not exist: to ask for
            // them would be a way out for data (CVE-2024-29018).
            Found::Foreign if !scope.forwards => message::nobody(&query),
            Found::Foreign => {
                return self.consider_foreign(&directory, &scope, query);
            }
        };
        Step::Answer(reply, message::datagram_limit(&query))
    }

    fn consider_foreign(&self, directory: &Directory, scope: &Scope, query: Message) -> Step {
        let Some(asked) = query.queries.first() else {
            return Step::Nothing;
        };
        let upstream = self.upstreams.now(Instant::now());
        let Some(question) = self.question(directory, scope, &upstream, &query, asked.name())
        else {
            let reply = message::failure(&query, ResponseCode::ServFail);
            return Step::Answer(reply, message::datagram_limit(&query));
        };
        if let Some((answer, age)) = self.forwarder.remembered(&question) {
            let reply = told(&query, &answer, age);
            return Step::Answer(reply, message::datagram_limit(&query));
        }
        let searched = false;
        Step::Ask(query, vec![Wanted { question, searched }])
    }

    /// A name of one label that no container has, in the asker's search domains. C libraries look
    /// there themselves, but musl only for names with fewer dots than `ndots`, which are none here.
    fn consider_search(&self, directory: &Directory, scope: &Scope, query: Message) -> Step {
        let nobody = |query: &Message| {
            let reply = message::nobody(query);
            Step::Answer(reply, message::datagram_limit(query))
        };
        let Some(asked) = query.queries.first() else {
            return Step::Nothing;
        };
        let upstream = self.upstreams.now(Instant::now());
        let domains = scope.search.as_ref().unwrap_or(&upstream.search);
        let domains = domains.iter().take(SEARCH_MAX);
        let names = domains.filter_map(|domain| {
            let domain = Name::from_ascii(domain.trim_end_matches('.')).ok()?;
            let name = asked.name().clone().append_domain(&domain).ok()?;
            let foreign = directory.find(scope, &name, asked.query_type()) == Found::Foreign;
            (!domain.is_root() && foreign).then_some(name)
        });
        let wanted = names.filter_map(|name| {
            let question = self.question(directory, scope, &upstream, &query, &name)?;
            let searched = true;
            Some(Wanted { question, searched })
        });
        let wanted: Vec<Wanted> = wanted.collect();
        if wanted.is_empty() {
            return nobody(&query);
        }
        Step::Ask(query, wanted)
    }

    /// What is to be asked for `name` in place of `query`; none where there is nobody to ask.
    fn question(
        &self,
        directory: &Directory,
        scope: &Scope,
        upstream: &Upstream,
        query: &Message,
        name: &Name,
    ) -> Option<Question> {
        let asked = query.queries.first()?;
        let own = scope.servers.as_ref();
        let servers = own.unwrap_or(&upstream.servers);
        let ours = |server: &SocketAddr| directory.is_gateway(server.ip());
        let servers: Arc<[SocketAddr]> = if servers.iter().any(ours) {
            servers.iter().copied().filter(|it| !ours(it)).collect()
        } else {
            Arc::clone(servers)
        };
        (!servers.is_empty()).then(|| Question {
            servers,
            name: name.to_lowercase(),
            record_type: asked.query_type(),
            dnssec_ok: wants_dnssec(query),
            checking_disabled: query.metadata.checking_disabled,
            manner: Manner {
                by_stream: own.is_none() && upstream.manner.by_stream,
                ..upstream.manner
            },
            epoch: (self.forwarder.epoch(), upstream.version),
        })
    }

    /// Asks others, if not too many wait already.
    async fn ask(&self, query: &Message, wanted: Vec<Wanted>, asker: IpAddr) -> Message {
        let Some(_place) = Place::take(&self.waiting, asker) else {
            return message::failure(query, ResponseCode::ServFail);
        };
        // One of several search domains has no longer than the only one.
        let longest = wanted
            .iter()
            .map(|it| forward::patience(it.question.manner))
            .max();
        let until = tokio::time::Instant::now() + longest.unwrap_or_default();
        let (mut fails, mut is_empty) = (false, false);
        for Wanted { question, searched } in wanted {
            let name = question.name.clone();
            let (answer, age) = match self.forwarder.remembered(&question) {
                Some(remembered) => remembered,
                None => {
                    let asked = timeout_at(until, self.forwarder.ask(question, asker)).await;
                    (asked.unwrap_or_else(|_| Arc::new(Answer::failure())), 0)
                }
            };
            let mut reply = told(query, &answer, age);
            if !searched {
                return reply;
            }
            match reply.metadata.response_code {
                ResponseCode::NoError if reply.answers.is_empty() => is_empty = true,
                ResponseCode::NoError => {
                    message::prepend_alias(&mut reply, &name);
                    return reply;
                }
                ResponseCode::NXDomain => {}
                _ => fails = true,
            }
        }
        // As libc has it. A name with an IPv4 address alone must not be missing when its IPv6
        // address is asked for: to musl it would be missing altogether. One that may be there must
        // not be missing either.
        match (is_empty, fails) {
            (true, _) => message::no_data(query),
            (false, true) => message::failure(query, ResponseCode::ServFail),
            (false, false) => message::nobody(query),
        }
    }
}

fn told(query: &Message, answer: &Answer, age: u32) -> Message {
    let mut reply = message::reply(query);
    answer.fill(&mut reply, age);
    // RFC 6840 clause 5.8: whether the records are verified is told to who asks for it.
    let wants = query.metadata.authentic_data || wants_dnssec(query);
    reply.metadata.authentic_data &= wants;
    // The name as it was asked for, whoever asked for it first, in whatever case.
    if let Some(asked) = query.queries.first() {
        let its = reply
            .answers
            .iter_mut()
            .filter(|it| it.name == *asked.name());
        its.for_each(|record| record.name = asked.name().clone());
    }
    reply
}

fn wants_dnssec(query: &Message) -> bool {
    query
        .edns
        .as_ref()
        .is_some_and(|edns| edns.flags().dnssec_ok)
}

/// A place among those who wait; dropping it leaves it to another.
struct Place<'a> {
    waiting: &'a Mutex<Waiting>,
    asker: IpAddr,
}

impl<'a> Place<'a> {
    fn take(waiting: &'a Mutex<Waiting>, asker: IpAddr) -> Option<Place<'a>> {
        let mut counts = waiting.lock();
        let of_one = counts.of.get(&asker).copied().unwrap_or(0);
        let free = WAITING_MAX.saturating_sub(counts.all);
        if of_one >= free.min(WAITING_OF_ONE) {
            return None;
        }
        counts.all += 1;
        counts.of.insert(asker, of_one + 1);
        Some(Place { waiting, asker })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut counts = self.waiting.lock();
        counts.all -= 1;
        if let Some(count) = counts.of.get_mut(&self.asker) {
            *count -= 1;
            if *count == 0 {
                counts.of.remove(&self.asker);
            }
        }
    }
}
