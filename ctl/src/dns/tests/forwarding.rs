use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, SOA, TXT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use super::*;
use crate::dns::cache::{Answer, Cache, Manner, Question};

/// An upstream server: what it sends for a query is the test's to say. It counts the queries.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    pub(super) asked: Arc<AtomicUsize>,
}

impl Upstream {
    pub(super) async fn start(
        answer: impl Fn(&Message, bool, usize) -> Vec<Message> + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::start_late(Duration::ZERO, answer).await
    }

    /// One whose datagrams take a while.
    pub(super) async fn start_late(
        delay: Duration,
        answer: impl Fn(&Message, bool, usize) -> Vec<Message> + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::serve(delay, true, answer).await
    }

    /// One that can't be reached over TCP.
    pub(super) async fn start_without_tcp(
        answer: impl Fn(&Message, bool, usize) -> Vec<Message> + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::serve(Duration::ZERO, false, answer).await
    }

    pub(super) fn nobody_at(address: SocketAddr) -> Upstream {
        let asked = Arc::default();
        Upstream { address, asked }
    }

    async fn serve(
        delay: Duration,
        tcp: bool,
        answer: impl Fn(&Message, bool, usize) -> Vec<Message> + Send + Sync + 'static,
    ) -> Upstream {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        let elsewhere = "127.0.0.1:0".parse().unwrap();
        let listener = TcpListener::bind(if tcp { address } else { elsewhere });
        let listener = listener.await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            let mut mute = Vec::new();
            loop {
                let (replies, to) = tokio::select! {
                    received = socket.recv_from(&mut buffer) => {
                        let (length, from) = received.unwrap();
                        let query = Message::from_vec(&buffer[..length]).unwrap();
                        let count = count.fetch_add(1, Ordering::Relaxed);
                        (answer(&query, false, count), from)
                    }
                    accepted = listener.accept() => {
                        let (mut stream, _) = accepted.unwrap();
                        let length = stream.read_u16().await.unwrap();
                        stream.read_exact(&mut buffer[..length.into()]).await.unwrap();
                        let query = Message::from_vec(&buffer[..length.into()]).unwrap();
                        let count = count.fetch_add(1, Ordering::Relaxed);
                        let replies = answer(&query, true, count);
                        if replies.is_empty() {
                            // It says nothing, and does not close.
                            mute.push(stream);
                            continue;
                        }
                        for reply in replies {
                            let bytes = reply.to_vec().unwrap();
                            stream.write_u16(bytes.len() as u16).await.unwrap();
                            stream.write_all(&bytes).await.unwrap();
                        }
                        continue;
                    }
                };
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    for reply in replies {
                        socket.send_to(&reply.to_vec().unwrap(), to).await.unwrap();
                    }
                });
            }
        });
        Upstream { address, asked }
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

pub(super) fn to(upstreams: &[&Upstream]) -> Arc<Resolver> {
    let servers = upstreams.iter().map(|upstream| upstream.address);
    resolver_with(directory(), Upstreams::of_sockets(servers))
}

pub(super) fn answer_with(query: &Message, address: &str, ttl: u32) -> Message {
    let mut reply = message::reply(query);
    let IpAddr::V4(address) = ip(address) else {
        panic!("an IPv4 address")
    };
    let name = query.queries[0].name().clone();
    let record = Record::from_rdata(name, ttl, RData::A(A(address)));
    reply.answers.push(record);
    reply
}

pub(super) fn no_such_name(query: &Message, ttl: u32) -> Message {
    let mut reply = message::failure(query, ResponseCode::NXDomain);
    let zone = Name::from_ascii("org.").unwrap();
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, ttl);
    reply
        .authorities
        .push(Record::from_rdata(zone, 3600, RData::SOA(soa)));
    reply
}

// Feature: dns-forwarding
#[tokio::test]
async fn the_world_s_names_are_asked_once_and_remembered() {
    let upstream = Upstream::start(|query, _, _| match query.queries[0].name().to_ascii() {
        name if name.starts_with("gone") => vec![no_such_name(query, 60)],
        name if name.starts_with("now") => vec![answer_with(query, "192.0.2.8", 0)],
        _ => vec![answer_with(query, "192.0.2.7", 60)],
    })
    .await;
    let resolver = to(&[&upstream]);
    let lookups = (0..20).map(|_| ask(&resolver, 1, "example.org", RecordType::A));
    for reply in futures_util::future::join_all(lookups).await {
        assert_eq!(found(&reply), ["192.0.2.7"]);
        assert!(!reply.metadata.authoritative);
    }
    assert_eq!(upstream.asked(), 1, "twenty at once are one question");
    // Another's case, another's letters: the same name, and each is answered as he asked.
    let reply = ask(&resolver, 2, "EXAMPLE.org", RecordType::A).await;
    assert_eq!(reply.queries[0].name().to_ascii(), "EXAMPLE.org.");
    assert_eq!(upstream.asked(), 1);
    for _ in 0..3 {
        let reply = ask(&resolver, 1, "gone.example.org", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(reply.authorities.len(), 1);
    }
    assert_eq!(upstream.asked(), 2, "negative answers are remembered too");
    for _ in 0..3 {
        ask(&resolver, 1, "now.example.org", RecordType::A).await;
    }
    assert_eq!(upstream.asked(), 5, "a TTL of 0 is not");
    // Names of containers are nobody's business.
    ask(&resolver, 1, "web", RecordType::MX).await;
    ask(&resolver, 1, "gone", RecordType::A).await;
    ask(&resolver, 5, "other.example.org", RecordType::A).await;
    assert_eq!(upstream.asked(), 5, "nor does an internal network ask");
}

// Feature: dns-forwarding
#[tokio::test]
async fn answers_to_other_questions_are_passed_over() {
    let upstream = Upstream::start(|query, _, _| {
        let right = answer_with(query, "192.0.2.7", 60);
        let forged = answer_with(query, "192.0.2.66", 60);
        let mut other_id = forged.clone();
        other_id.metadata.id = other_id.metadata.id.wrapping_add(1);
        let mut other_name = forged.clone();
        other_name.queries[0].name = Name::from_ascii("example.com.").unwrap();
        let mut other_type = forged.clone();
        other_type.queries[0].query_type = RecordType::AAAA;
        let mut no_question = forged.clone();
        no_question.queries.clear();
        let mut no_answer = forged;
        no_answer.metadata.message_type = hickory_proto::op::MessageType::Query;
        vec![
            other_id,
            other_name,
            other_type,
            no_question,
            no_answer,
            right,
        ]
    })
    .await;
    let reply = ask(&to(&[&upstream]), 1, "example.org", RecordType::A).await;
    assert_eq!(found(&reply), ["192.0.2.7"]);
}

// Feature: dns-forwarding
#[tokio::test]
async fn long_answers_come_over_tcp_and_old_servers_are_asked_without_edns() {
    let long = Upstream::start(|query, tcp, _| {
        if !tcp {
            return vec![message::reply(query).truncate()];
        }
        let mut reply = answer_with(query, "192.0.2.0", 60);
        let first = reply.answers[0].clone();
        reply.answers = vec![first; 500];
        vec![reply]
    })
    .await;
    let reply = ask(&to(&[&long]), 1, "example.org", RecordType::A).await;
    assert_eq!(reply.answers.len(), 500);
    let old = Upstream::start(|query, _, _| {
        vec![match query.edns {
            Some(_) => Message::error_msg(query.metadata.id, OpCode::Query, ResponseCode::FormErr),
            None => answer_with(query, "192.0.2.7", 60),
        }]
    })
    .await;
    // An error without the question is no answer that counts, one with it is.
    let polite = Upstream::start(|query, _, _| {
        vec![match query.edns {
            Some(_) => {
                let mut reply = message::failure(query, ResponseCode::FormErr);
                reply.edns = None;
                reply
            }
            None => answer_with(query, "192.0.2.7", 60),
        }]
    })
    .await;
    let reply = ask(&to(&[&old, &polite]), 1, "example.org", RecordType::A).await;
    assert_eq!(found(&reply), ["192.0.2.7"]);
}

// Feature: dns-forwarding
#[tokio::test]
async fn one_asker_can_t_take_all_places() {
    let silent = Upstream::start(|_, _, _| Vec::new()).await;
    let resolver = to(&[&silent]);
    let greedy = (0..300).map(|n| {
        let resolver = Arc::clone(&resolver);
        async move { ask(&resolver, 1, &format!("n{n}.example.org"), RecordType::A).await }
    });
    let mut greedy: tokio::task::JoinSet<Message> = greedy.collect();
    let mut at_once = 0;
    while let Ok(Some(reply)) = timeout(Duration::from_secs(1), greedy.join_next()).await {
        let code = reply.unwrap().metadata.response_code;
        assert_eq!(code, ResponseCode::ServFail);
        at_once += 1;
    }
    assert_eq!(at_once, 300 - 256);
    let other = ask(&resolver, 2, "example.org", RecordType::A);
    assert!(
        timeout(Duration::from_millis(300), other).await.is_err(),
        "another one waits, and is not refused"
    );
}

// Feature: dns-forwarding
#[tokio::test]
async fn a_container_s_own_servers_are_asked_in_place_of_the_host_s() {
    let upstream = Upstream::start(|query, _, _| vec![answer_with(query, "192.0.2.7", 60)]).await;
    let mut own = container("own", 9, &[(0, &[], &["172.18.0.9"])]);
    // Nobody is there (RFC 5737).
    own.servers = vec![ip("127.0.0.99").into()];
    let directory = directory_of(vec![network("front", &["172.18.0.0/16"], false)], vec![own]);
    let servers = Upstreams::of_sockets([upstream.address]);
    let resolver = resolver_with(directory, servers);
    let reply = ask(&resolver, 9, "example.org", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(upstream.asked(), 0);
}

#[test]
fn a_cache_forgets_in_time_and_stays_small() {
    let start = Instant::now();
    let question = |n: usize| Question {
        servers: Arc::from([]),
        name: Name::from_ascii(format!("n{n}.example.org.")).unwrap(),
        record_type: RecordType::A,
        dnssec_ok: false,
        manner: Manner::default(),
        epoch: (0, 0),
        checking_disabled: false,
    };
    let query = query("example.org", RecordType::A);
    let positive = Arc::new(Answer::new(answer_with(&query, "192.0.2.7", 60)));
    let negative = Arc::new(Answer::new(no_such_name(&query, 100_000)));
    let mut cache = Cache::default();
    let asker = ip("172.18.0.2");
    cache.put(question(1), Arc::clone(&positive), asker, start);
    cache.put(question(2), negative, asker, start);
    cache.put(question(3), Arc::new(Answer::failure()), asker, start);
    let after = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(
        cache.get(&question(1), after(20)),
        Some((Arc::clone(&positive), 20))
    );
    let mut reply = message::reply(&query);
    positive.fill(&mut reply, 20);
    assert_eq!(reply.answers[0].ttl, 40);
    assert!(cache.get(&question(1), after(60)).is_none());
    assert!(cache.get(&question(2), after(299)).is_some());
    assert!(
        cache.get(&question(2), after(300)).is_none(),
        "five minutes at most"
    );
    assert!(cache.get(&question(3), after(0)).is_some(), "RFC 9520");
    assert!(cache.get(&question(3), after(1)).is_none());
    const MOST: usize = 8 << 20;
    for n in 0..40_000 {
        // One after the other: what runs out first goes first.
        let now = start + Duration::from_micros(n as u64);
        cache.put(question(n), Arc::clone(&positive), asker, now);
        assert!(cache.bytes() <= MOST);
    }
    assert!(cache.get(&question(39_999), start).is_some());
    assert!(cache.get(&question(0), start).is_none());

    // Another's stay, whoever asks for how much, and for how long it may be remembered.
    let mut cache = Cache::default();
    cache.put(question(0), Arc::clone(&positive), ip("172.18.0.3"), start);
    let lasting = Arc::new(Answer::new(answer_with(&query, "192.0.2.7", 86_400)));
    for n in 1..40_000 {
        cache.put(question(n), Arc::clone(&lasting), asker, start);
    }
    assert!(cache.get(&question(0), start).is_some());
}

/// A text of one-byte strings takes fifty times its bytes when it is taken apart.
#[test]
fn what_is_remembered_is_counted_in_bytes() {
    let query = query("example.org", RecordType::TXT);
    let text = |strings: usize| {
        let mut reply = message::reply(&query);
        let data = TXT::new(vec!["x".to_owned(); strings]);
        let name = query.queries[0].name().clone();
        reply
            .answers
            .push(Record::from_rdata(name, 86_400, RData::TXT(data)));
        Arc::new(Answer::new(reply))
    };
    let question = |n: usize| Question {
        servers: Arc::from([]),
        name: Name::from_ascii(format!("n{n}.example.org.")).unwrap(),
        record_type: RecordType::TXT,
        dnssec_ok: false,
        manner: Manner::default(),
        epoch: (0, 0),
        checking_disabled: false,
    };
    let start = Instant::now();
    let mut cache = Cache::default();
    cache.put(question(0), text(30_000), ip("172.18.0.2"), start);
    assert!(cache.get(&question(0), start).is_none(), "60 kB at once");
    let small = text(2000);
    for n in 0..5000 {
        cache.put(question(n), Arc::clone(&small), ip("172.18.0.2"), start);
        assert!(cache.bytes() <= 8 << 20);
    }
    let mut reply = message::reply(&query);
    cache
        .get(&question(4999), start)
        .unwrap()
        .0
        .fill(&mut reply, 0);
    assert_eq!(reply.answers.len(), 1);
}

// Feature: dns-forwarding
#[test]
fn the_host_s_resolv_conf_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    let upstreams = Upstreams::of_file(path.clone());
    let start = Instant::now();
    let later = |seconds| start + Duration::from_secs(seconds);
    let servers = |seconds| upstreams.now(later(seconds)).servers;
    let local: SocketAddr = "127.0.0.1:53".parse().unwrap();
    assert_eq!(*servers(0), [local], "without a file, as libc does");
    std::fs::write(&path, "nameserver 192.0.2.1\nsearch lan\noptions use-vc\n").unwrap();
    assert_eq!(*servers(0), [local], "not looked at twice a second");
    assert_eq!(*servers(2), ["192.0.2.1:53".parse().unwrap()]);
    let now = upstreams.now(later(2));
    assert!(now.manner.by_stream && *now.search == ["lan".to_owned()]);
    assert_eq!(upstreams.now(later(4)).version, now.version);
    // Replaced, as systemd-resolved and NetworkManager do.
    let new = directory.path().join("new");
    std::fs::write(&new, "nameserver 192.0.2.2\n").unwrap();
    std::fs::rename(&new, &path).unwrap();
    assert_eq!(*servers(6), ["192.0.2.2:53".parse().unwrap()]);
    // The same in another file: its writer has seen another network.
    std::fs::write(&new, "nameserver 192.0.2.2\n").unwrap();
    std::fs::rename(&new, &path).unwrap();
    assert!(
        upstreams.now(later(8)).version > upstreams.now(later(6)).version || {
            upstreams.now(later(8)).version > now.version + 1
        }
    );
    // A link-local server has the scope of its interface (RFC 4007 clause 11).
    std::fs::write(
        &path,
        "nameserver fe80::1%lo\nnameserver fe80::2%7\nnameserver fe80::3%none\n",
    )
    .unwrap();
    let zones: Vec<SocketAddr> = vec![
        "[fe80::1%1]:53".parse().unwrap(),
        "[fe80::2%7]:53".parse().unwrap(),
    ];
    assert_eq!(*servers(10), zones);
}

// Feature: dns-forwarding
#[tokio::test]
async fn a_slow_server_gets_its_time() {
    let slow = Upstream::start_late(Duration::from_millis(3300), |query, _, _| {
        vec![answer_with(query, "192.0.2.7", 60)]
    })
    .await;
    let silent = Upstream::start(|_, _, _| Vec::new()).await;
    let refusing =
        Upstream::start(|query, _, _| vec![message::failure(query, ResponseCode::Refused)]).await;
    let orders: [&[&Upstream]; 4] = [
        &[&slow],
        &[&slow, &silent],
        &[&refusing, &slow, &silent],
        &[&slow, &refusing],
    ];
    let asked = orders.map(|order| async move {
        let reply = ask(&to(order), 1, "example.org", RecordType::A).await;
        assert_eq!(found(&reply), ["192.0.2.7"]);
    });
    futures_util::future::join_all(asked).await;
}

// Feature: dns-forwarding
#[tokio::test]
async fn servers_that_know_no_edns_are_asked_without() {
    let silent = Upstream::start(|query, _, _| match query.edns {
        Some(_) => Vec::new(),
        None => vec![answer_with(query, "192.0.2.7", 0)],
    })
    .await;
    let failing = Upstream::start(|query, _, _| match query.edns {
        Some(_) => {
            let mut reply = message::failure(query, ResponseCode::ServFail);
            reply.edns = None;
            vec![reply]
        }
        None => vec![answer_with(query, "192.0.2.7", 0)],
    })
    .await;
    let bare = Upstream::start(|query, _, _| match query.edns {
        Some(_) => {
            let mut reply = message::failure(query, ResponseCode::FormErr);
            reply.edns = None;
            reply.queries.clear();
            vec![reply]
        }
        None => vec![answer_with(query, "192.0.2.7", 0)],
    })
    .await;
    for upstream in [&silent, &failing, &bare] {
        let resolver = to(&[upstream]);
        let reply = ask(&resolver, 1, "example.org", RecordType::A).await;
        assert_eq!(found(&reply), ["192.0.2.7"]);
        // It is remembered.
        let before = upstream.asked();
        let start = Instant::now();
        ask(&resolver, 1, "example.com", RecordType::A).await;
        assert_eq!(upstream.asked(), before + 1);
        assert!(start.elapsed() < Duration::from_millis(800));
    }
    // A header alone that tells of no failure is no answer.
    let wrong = Upstream::start(|query, _, _| {
        let mut reply = message::reply(query);
        reply.queries.clear();
        vec![reply, answer_with(query, "192.0.2.7", 0)]
    })
    .await;
    let reply = ask(&to(&[&wrong]), 1, "example.org", RecordType::A).await;
    assert_eq!(found(&reply), ["192.0.2.7"]);
}

// Feature: dns-forwarding
#[tokio::test]
async fn answers_of_another_network_are_forgotten() {
    let upstream = Upstream::start(|query, _, _| vec![answer_with(query, "192.0.2.7", 60)]).await;
    let resolver = to(&[&upstream]);
    for _ in 0..2 {
        ask(&resolver, 1, "example.org", RecordType::A).await;
    }
    assert_eq!(upstream.asked(), 1);
    resolver.forget();
    ask(&resolver, 1, "example.org", RecordType::A).await;
    assert_eq!(upstream.asked(), 2);
}

// Feature: dns-forwarding
#[tokio::test]
async fn a_short_name_is_looked_for_in_the_search_domains() {
    let upstream = Upstream::start(|query, _, _| {
        let name = query.queries[0].name().to_ascii();
        match name.as_str() {
            "host.corp.example." | "web.corp.example." => vec![answer_with(query, "192.0.2.7", 60)],
            _ => vec![no_such_name(query, 60)],
        }
    })
    .await;
    let mut own = container("own", 9, &[(0, &[], &["172.18.0.9"])]);
    own.search = Some(vec!["lan".to_owned(), "Corp.Example".to_owned()]);
    let web = container("web", 8, &[(0, &[], &["172.18.0.2"])]);
    let mut inner = container("inner", 7, &[(1, &[], &["172.19.0.7"])]);
    inner.search = own.search.clone();
    let directory = directory_of(
        vec![
            network("front", &["172.18.0.0/16"], false),
            network("vault", &["172.19.0.0/16"], true),
        ],
        vec![own, web, inner],
    );
    let resolver = resolver_with(directory, Upstreams::of_sockets([upstream.address]));
    let reply = ask(&resolver, 9, "HOST", RecordType::A).await;
    assert_eq!(reply.answers[0].record_type(), RecordType::CNAME);
    assert_eq!(found(&reply), ["192.0.2.7", "host.corp.example."]);
    let reply = ask(&resolver, 9, "nothing", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    // A container comes first.
    let reply = ask(&resolver, 9, "WEB", RecordType::A).await;
    assert_eq!(found(&reply), ["172.18.0.2"]);
}
