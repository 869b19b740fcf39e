//! How servers of the world are asked: in which order, how often, for how long, and for what.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::A;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::forwarding::{Upstream, answer_with, no_such_name, to};
use super::*;
use crate::api;
use crate::dns::cache::{Answer, Cache, Manner, Question};

fn resolver_by(options: &str, upstreams: &[&Upstream]) -> (Arc<Resolver>, tempfile::TempDir) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("resolv.conf");
    std::fs::write(&path, format!("options {options}\n")).unwrap();
    let sockets = upstreams.iter().map(|upstream| upstream.address);
    let upstreams = Upstreams::of_sockets_and_file(sockets, path);
    (resolver_with(directory(), upstreams), place)
}

async fn good() -> Upstream {
    Upstream::start(|query, _, _| vec![answer_with(query, "192.0.2.7", 0)]).await
}

async fn saying(code: ResponseCode) -> Upstream {
    Upstream::start(move |query, _, _| vec![message::failure(query, code)]).await
}

async fn silent() -> Upstream {
    Upstream::start(|_, _, _| Vec::new()).await
}

/// Nobody listens there, and the kernel says so.
async fn absent() -> Upstream {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    Upstream::nobody_at(socket.local_addr().unwrap())
}

// Feature: dns-forwarding
#[tokio::test]
async fn the_next_server_is_asked_when_one_fails() {
    let (absent, good) = (absent().await, good().await);
    let failing = saying(ResponseCode::ServFail).await;
    let quick = to(&[&absent, &failing, &good]);
    let start = Instant::now();
    let reply = ask(&quick, 1, "example.org", RecordType::A).await;
    assert_eq!(found(&reply), ["192.0.2.7"]);
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!((failing.asked(), good.asked()), (1, 1));

    // One that is silent is asked without EDNS too before the next one is asked at all.
    let silent = silent().await;
    let slow = to(&[&silent, &good]);
    let reply = ask(&slow, 1, "a.example.org", RecordType::A).await;
    assert_eq!(found(&reply), ["192.0.2.7"]);
    assert_eq!((silent.asked(), good.asked()), (2, 2));
    // From now on it is suspected, and others are asked before it.
    let start = Instant::now();
    for at in 0..5 {
        let name = format!("b{at}.example.org");
        let reply = ask(&slow, 1, &name, RecordType::A).await;
        assert_eq!(found(&reply), ["192.0.2.7"]);
    }
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!((silent.asked(), good.asked()), (2, 7));

    // Nobody knows: told before the asker gives up. Three rounds, of which the third begins 3.6
    // seconds after the first one; in each it is asked with EDNS, and after 0.9 seconds without.
    let alone = to(&[&silent]);
    let start = Instant::now();
    let reply = ask(&alone, 1, "example.org", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let told_after = start.elapsed().as_millis();
    assert!((4700..5000).contains(&told_after), "{told_after} ms");
    assert_eq!(silent.asked() - 2, 6);
}

// Feature: dns-forwarding
#[tokio::test]
async fn a_server_that_can_t_say_is_not_the_last_word() {
    use ResponseCode::{FormErr, NXDomain, NoError, NotImp, Refused, ServFail};
    let good = good().await;
    for code in [FormErr, NotImp, Refused, ServFail, ResponseCode::YXDomain] {
        let other = saying(code).await;
        let reply = ask(&to(&[&other, &good]), 1, "example.org", RecordType::A).await;
        assert_eq!(found(&reply), ["192.0.2.7"], "{code}");
        // The only one: what it says is told.
        let reply = ask(&to(&[&other]), 1, "example.org", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, code);
    }
    // It does not ask others, and has no such zone: that says nothing of the name.
    let lame = Upstream::start(|query, _, _| {
        let mut reply = message::reply(query);
        reply.metadata.recursion_available = false;
        vec![reply]
    })
    .await;
    let reply = ask(&to(&[&lame, &good]), 1, "example.org", RecordType::A).await;
    assert_eq!(found(&reply), ["192.0.2.7"]);
    // The only one: to musl a failure for one family would be one for both.
    let reply = ask(&to(&[&lame]), 1, "example.org", RecordType::AAAA).await;
    assert_eq!(found(&reply), [""; 0]);
    // "No such name" and "nothing of that type" are answers, whatever others would say.
    let asked = good.asked();
    let missing = Upstream::start(|query, _, _| vec![no_such_name(query, 0)]).await;
    let reply = ask(&to(&[&missing, &good]), 1, "example.org", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, NXDomain);
    let empty = saying(NoError).await;
    let reply = ask(&to(&[&empty, &good]), 1, "example.org", RecordType::A).await;
    assert_eq!(found(&reply), [""; 0]);
    assert_eq!(good.asked(), asked);
    // A code that needs more bits than a header has is not told as another one.
    let strange =
        Upstream::start(|query, _, _| vec![message::failure(query, ResponseCode::BADCOOKIE)]).await;
    let reply = ask(&to(&[&strange]), 1, "example.org", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ServFail);
}

// Feature: dns-forwarding
#[tokio::test]
async fn servers_rotate_if_the_host_has_it_so() {
    let servers = [good().await, good().await, good().await];
    let all: Vec<&Upstream> = servers.iter().collect();
    let name = |number: usize| format!("n{number}.example.org");
    let (rotating, _place) = resolver_by("rotate", &all);
    for number in 0..9 {
        ask(&rotating, 1, &name(number), RecordType::A).await;
    }
    assert_eq!(servers.each_ref().map(Upstream::asked), [3, 3, 3]);
    // One that is gone is passed over, and does not make every third question slow.
    let silent = silent().await;
    let (rotating, _place) = resolver_by("rotate", &[&silent, &servers[0], &servers[1]]);
    let start = Instant::now();
    for number in 0..9 {
        ask(&rotating, 1, &name(number), RecordType::A).await;
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(silent.asked(), 2);
    // Without the option the first one is asked.
    let (fixed, _place) = resolver_by("timeout:5", &all);
    for number in 0..3 {
        ask(&fixed, 1, &name(number), RecordType::A).await;
    }
    assert_eq!(
        servers[0].asked() + servers[1].asked() + servers[2].asked(),
        21
    );
    assert_eq!(servers[2].asked(), 3);
}

// Feature: dns-forwarding
#[tokio::test]
async fn the_host_s_timeout_and_attempts_are_kept() {
    let late = |milliseconds| {
        Upstream::start_late(Duration::from_millis(milliseconds), |query, _, _| {
            vec![answer_with(query, "192.0.2.7", 0)]
        })
    };
    let cases = async {
        // A host with `timeout:8` waits for such a server.
        let slow = late(6000).await;
        let (resolver, _place) = resolver_by("timeout:8", &[&slow]);
        let reply = ask(&resolver, 1, "example.org", RecordType::A).await;
        assert_eq!(found(&reply), ["192.0.2.7"]);
    };
    let short = async {
        // One with less than a server needs asks again, and gets the answer then.
        let slow = late(2000).await;
        let (resolver, _place) = resolver_by("timeout:1", &[&slow]);
        let reply = ask(&resolver, 1, "example.org", RecordType::A).await;
        assert_eq!(found(&reply), ["192.0.2.7"]);
    };
    let often = async {
        let silent = silent().await;
        let (resolver, _place) = resolver_by("timeout:1 attempts:5", &[&silent]);
        ask(&resolver, 1, "example.org", RecordType::A).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        // Each second, with EDNS and, while there is time, without.
        assert_eq!(silent.asked(), 9);
    };
    let once = async {
        let silent = (silent().await, silent().await);
        let (resolver, _place) = resolver_by("attempts:1", &[&silent.0, &silent.1]);
        let start = Instant::now();
        let reply = ask(&resolver, 1, "example.org", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(start.elapsed() > Duration::from_millis(4700));
        assert_eq!((silent.0.asked(), silent.1.asked()), (2, 2));
    };
    let next = async {
        let (silent, good) = (silent().await, good().await);
        let (resolver, _place) = resolver_by("timeout:30", &[&silent, &good]);
        let start = Instant::now();
        let reply = ask(&resolver, 1, "example.org", RecordType::A).await;
        assert_eq!(found(&reply), ["192.0.2.7"]);
        assert!(start.elapsed() < Duration::from_secs(2));
    };
    tokio::join!(cases, short, often, once, next);
}

#[test]
fn options_are_numbers_within_libc_s_limits() {
    let manner = |options: &str| {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("resolv.conf");
        std::fs::write(&path, format!("options {options}\n")).unwrap();
        let manner = Upstreams::of_file(path).now(Instant::now()).manner;
        (manner.timeout, manner.attempts, manner.rotate)
    };
    assert_eq!(manner(""), (5, None, false));
    assert_eq!(manner("timeout:7 attempts:3 rotate"), (7, Some(3), true));
    assert_eq!(manner("timeout:0 attempts:0"), (1, Some(1), false));
    assert_eq!(manner("timeout:31 attempts:6"), (30, Some(5), false));
    assert_eq!(
        manner("timeout:99999999999 attempts:x"),
        (30, Some(1), false)
    );
    assert_eq!(manner("timeout:2x timeouts:9 no-rotate"), (2, None, false));
    // The last one counts, on whatever line.
    assert_eq!(manner("timeout:2\noptions timeout:3"), (3, None, false));
}

fn many(query: &Message, count: usize) -> Message {
    let mut reply = answer_with(query, "192.0.2.0", 60);
    let name = reply.answers[0].name.clone();
    let records = (0..count).map(|at| {
        let data = RData::A(A::new(192, 0, 2, at as u8));
        Record::from_rdata(name.clone(), 60, data)
    });
    reply.answers = records.collect();
    reply
}

/// As a server sends what does not fit a datagram.
fn some(query: &Message, count: usize) -> Message {
    let mut reply = many(query, count);
    reply.metadata.truncation = true;
    reply
}

// Feature: dns-forwarding
#[tokio::test]
async fn what_a_server_can_t_tell_over_tcp_is_told_as_far_as_it_is_known() {
    let refusing = Upstream::start_without_tcp(|query, _, _| vec![some(query, 3)]).await;
    let start = Instant::now();
    let reply = ask(&to(&[&refusing]), 1, "example.org", RecordType::A).await;
    assert!(reply.metadata.truncation);
    assert_eq!(reply.answers.len(), 3);
    assert!(start.elapsed() < Duration::from_millis(800));
    // It is no lasting answer.
    let resolver = to(&[&refusing]);
    let before = refusing.asked();
    for _ in 0..2 {
        ask(&resolver, 1, "example.org", RecordType::A).await;
    }
    assert_eq!(refusing.asked() - before, 2);
    // One that takes connections and says nothing, or something else, or breaks off.
    let mute = Upstream::start(|query, tcp, _| {
        if tcp {
            Vec::new()
        } else {
            vec![some(query, 3)]
        }
    });
    let mute = mute.await;
    let wrong = Upstream::start(|query, tcp, _| {
        let mut reply = some(query, 3);
        reply.metadata.id = reply.metadata.id.wrapping_add(u16::from(tcp));
        vec![reply]
    })
    .await;
    for upstream in [&mute, &wrong] {
        let reply = ask(&to(&[upstream]), 1, "example.org", RecordType::A).await;
        assert!(reply.metadata.truncation);
        assert_eq!(reply.answers.len(), 3);
    }
    // Another server may tell it all, and that is better; a refusal of its is not.
    let whole = Upstream::start(|query, tcp, _| {
        vec![if tcp {
            many(query, 200)
        } else {
            some(query, 3)
        }]
    })
    .await;
    let reply = ask(&to(&[&refusing, &whole]), 1, "example.org", RecordType::A).await;
    assert!(!reply.metadata.truncation);
    assert_eq!(reply.answers.len(), 200);
    assert_eq!(whole.asked(), 2, "by UDP, and by TCP at the same server");
    let failing = saying(ResponseCode::ServFail).await;
    for order in [[&refusing, &failing], [&failing, &refusing]] {
        let reply = ask(&to(&order), 1, "example.org", RecordType::A).await;
        assert!(reply.metadata.truncation);
        assert_eq!(reply.answers.len(), 3);
    }
}

// Feature: names dns-forwarding
#[tokio::test]
async fn a_datagram_has_as_many_answers_as_fit() {
    let upstream = Upstream::start(|query, tcp, _| {
        vec![if tcp {
            many(query, 200)
        } else {
            some(query, 3)
        }]
    })
    .await;
    let mut query = query("example.org", RecordType::A);
    for payload in [None, Some(600), Some(1232), Some(4096)] {
        query.edns = payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        let bytes = query.to_vec().unwrap();
        let resolver = to(&[&upstream]);
        let reply = resolver.respond(&bytes, FRONT, ip("172.18.0.2")).await;
        let reply = reply.unwrap();
        let limit = message::datagram_limit(&query);
        let sent = message::encode(&reply, limit);
        assert!(sent.len() <= usize::from(limit));
        assert!(
            sent.len() + 16 > usize::from(limit),
            "one more would not fit"
        );
        let short = Message::from_vec(&sent).unwrap();
        assert!(short.metadata.truncation);
        assert_eq!(short.queries, query.queries);
        assert_eq!(short.edns.is_some(), payload.is_some());
        assert_eq!(short.answers[..], reply.answers[..short.answers.len()]);
        let long = Message::from_vec(&message::encode(&reply, message::STREAM_MAX)).unwrap();
        assert!(!long.metadata.truncation);
        assert_eq!(long.answers.len(), 200);
    }
}

// Feature: names dns-forwarding
#[tokio::test]
async fn the_asker_s_case_is_kept() {
    let upstream = Upstream::start(|query, _, _| {
        assert_eq!(query.queries[0].name().to_ascii(), "example.org.");
        vec![answer_with(query, "192.0.2.7", 60)]
    })
    .await;
    let resolver = to(&[&upstream]);
    for (name, wanted, expected) in [
        ("wEb", RecordType::A, "172.18.0.2"),
        ("WWW.sHop", RecordType::A, "172.18.0.2"),
        ("weB.fRont", RecordType::AAAA, "fd00:1::2"),
        ("WEB2", RecordType::A, "172.18.0.3"),
        ("lOcalHost", RecordType::A, "127.0.0.1"),
        ("ExaMple.oRg", RecordType::A, "192.0.2.7"),
        ("eXaMple.orG", RecordType::A, "192.0.2.7"),
        ("2.0.18.172.iN-aDDr.aRPA", RecordType::PTR, "web.front."),
        (
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.D.F.Ip6.arpA",
            RecordType::PTR,
            "web.front.",
        ),
    ] {
        // What the wire has, not what the name is equal to.
        let query = query(name, wanted);
        let bytes = query.to_vec().unwrap();
        let source = ip("172.18.0.3");
        let reply = resolver.respond(&bytes, FRONT, source).await.unwrap();
        let sent = message::encode(&reply, u16::MAX);
        let question = &bytes[12..];
        assert_eq!(&sent[12..bytes.len()], question, "{name}");
        let reply = Message::from_vec(&sent).unwrap();
        let has = match &reply.answers[0].data {
            RData::A(address) if expected.contains('.') => address.to_string(),
            other => other.to_string(),
        };
        assert_eq!(has, expected, "{name}");
        let owner = reply.answers[0].name.to_ascii();
        assert_eq!(owner.trim_end_matches('.'), name);
    }
    assert_eq!(upstream.asked(), 1);
}

// Feature: names
#[tokio::test]
async fn what_is_ours_to_know_is_asked_of_nobody() {
    use RecordType::{A, AAAA, ANY, HTTPS, MX, NS, PTR, SOA, SRV, SVCB, TXT};
    let upstream = good().await;
    let resolver = to(&[&upstream]);
    // Containers have such names, without such records.
    for wanted in [AAAA, HTTPS, SVCB, MX, SRV, TXT, NS, SOA] {
        for name in ["web2", "WEB2", "web2.front"] {
            let reply = ask(&resolver, 1, name, wanted).await;
            assert_eq!(found(&reply), [""; 0], "{name} {wanted}");
        }
    }
    assert_eq!(found(&ask(&resolver, 1, "web2", ANY).await), ["172.18.0.3"]);
    // Browsers ask for HTTPS records along with addresses: the name of a container that is gone
    // stays here too.
    for wanted in [A, AAAA, ANY, HTTPS, SVCB, MX, SRV, TXT] {
        let reply = ask(&resolver, 1, "gone", wanted).await;
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::NXDomain,
            "{wanted}"
        );
    }
    // Addresses of networks, what service discovery looks for below them, and what is above.
    for (name, wanted, code) in [
        ("9.0.18.172.in-addr.arpa", PTR, ResponseCode::NXDomain),
        (
            "b._dns-sd._udp.0.0.18.172.in-addr.arpa",
            PTR,
            ResponseCode::NXDomain,
        ),
        (
            "lb._dns-sd._udp.0.18.172.in-addr.arpa",
            PTR,
            ResponseCode::NXDomain,
        ),
        ("x.2.0.18.172.in-addr.arpa", PTR, ResponseCode::NXDomain),
        ("0.18.172.in-addr.arpa", SOA, ResponseCode::NoError),
        ("18.172.in-addr.arpa", NS, ResponseCode::NoError),
        (
            "0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa",
            SOA,
            ResponseCode::NoError,
        ),
        // Which server to ask over an encrypted connection in place of this one.
        ("_dns.resolver.arpa", SVCB, ResponseCode::NoError),
        ("resolver.ARPA", SVCB, ResponseCode::NoError),
    ] {
        let reply = ask(&resolver, 1, name, wanted).await;
        assert_eq!(reply.metadata.response_code, code, "{name}");
        assert!(reply.answers.is_empty());
    }
    assert_eq!(upstream.asked(), 0);
    // What is nobody's here, and what has to be asked for.
    for (name, wanted) in [
        ("1.2.0.192.in-addr.arpa", PTR),
        ("172.in-addr.arpa", NS),
        ("b._dns-sd._udp.0.2.0.192.in-addr.arpa", PTR),
        ("ipv4only.arpa", AAAA),
        ("in-addr.arpa", SOA),
        ("org", NS),
        ("resolver.example.org", A),
        ("example.org", HTTPS),
    ] {
        let before = upstream.asked();
        ask(&resolver, 1, name, wanted).await;
        assert_eq!(upstream.asked(), before + 1, "{name}");
    }
}

// Feature: dns-forwarding
#[tokio::test]
async fn bits_of_dnssec_are_passed_on() {
    let upstream = Upstream::start(|query, _, _| {
        let mut reply = answer_with(query, "192.0.2.7", 60);
        // RFC 6840 clause 5.8.
        let edns = query.edns.as_ref();
        let dnssec_ok = edns.is_some_and(|edns| edns.flags().dnssec_ok);
        reply.metadata.authentic_data = dnssec_ok || query.metadata.authentic_data;
        vec![reply]
    })
    .await;
    let resolver = to(&[&upstream]);
    for (authentic, dnssec_ok, checking_disabled) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (true, true, true),
        (false, false, true),
    ] {
        let mut query = query("example.org", RecordType::A);
        query.metadata.authentic_data = authentic;
        query.metadata.checking_disabled = checking_disabled;
        let mut edns = Edns::new();
        edns.set_dnssec_ok(dnssec_ok);
        query.edns = Some(edns);
        let reply = ask_at(&resolver, FRONT, "172.18.0.2", &query)
            .await
            .unwrap();
        assert_eq!(found(&reply), ["192.0.2.7"]);
        assert_eq!(reply.metadata.authentic_data, authentic || dnssec_ok);
        assert_eq!(reply.metadata.checking_disabled, checking_disabled);
        assert_eq!(reply.edns.unwrap().flags().dnssec_ok, dnssec_ok);
    }
    // With and without DO, and with and without CD are four questions.
    assert_eq!(upstream.asked(), 4);
}

// Feature: dns-forwarding
#[tokio::test]
async fn a_short_name_is_missing_only_where_it_is() {
    // IPv4 alone, as most names of a company.
    let upstream = Upstream::start(|query, _, _| {
        let asked = &query.queries[0];
        let reply = match asked.name().to_ascii().as_str() {
            "host.corp.example." if asked.query_type() == RecordType::A => {
                answer_with(query, "192.0.2.7", 60)
            }
            "host.corp.example." => message::reply(query),
            "later.corp.example." => message::failure(query, ResponseCode::ServFail),
            _ => no_such_name(query, 60),
        };
        vec![reply]
    })
    .await;
    let mut own = container("own", 9, &[(0, &[], &["172.18.0.9"])]);
    own.search = Some(vec![
        "lan".to_owned(),
        "corp.example".to_owned(),
        "net.example".to_owned(),
    ]);
    let directory = directory_of(vec![network("front", &["172.18.0.0/16"], false)], vec![own]);
    let resolver = resolver_with(directory, Upstreams::of_sockets([upstream.address]));
    let reply = ask(&resolver, 9, "host", RecordType::A).await;
    assert_eq!(found(&reply), ["192.0.2.7", "host.corp.example."]);
    let reply = ask(&resolver, 9, "host", RecordType::AAAA).await;
    assert_eq!(
        found(&reply),
        [""; 0],
        "NODATA: to musl a missing name is missing altogether"
    );
    let reply = ask(&resolver, 9, "later", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let reply = ask(&resolver, 9, "gone", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);

    // However many domains there are, the asker hears of it before he gives up.
    let silent = silent().await;
    let mut own = container("own", 9, &[(0, &[], &["172.18.0.9"])]);
    own.search = Some((0..6).map(|at| format!("s{at}.example")).collect());
    let directory = directory_of(vec![network("front", &["172.18.0.0/16"], false)], vec![own]);
    let resolver = resolver_with(directory, Upstreams::of_sockets([silent.address]));
    let reply = ask(&resolver, 9, "host", RecordType::A);
    let reply = timeout(Duration::from_secs(5), reply).await.unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn a_server_of_a_link_is_asked_there() {
    let scope = |servers: &[&str]| {
        let mut own = container("own", 9, &[(0, &[], &["172.18.0.9"])]);
        own.servers = servers.iter().map(|it| it.parse().unwrap()).collect();
        let network = network("front", &["172.18.0.0/16"], false);
        let directory = directory_of(vec![network], vec![own]);
        let scope = directory.scope(FRONT, ip("172.18.0.9")).unwrap();
        let servers = scope.servers.unwrap();
        servers
            .iter()
            .map(SocketAddr::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        scope(&["fe80::1%lo", "192.0.2.1"]),
        ["[fe80::1%1]:53", "192.0.2.1:53"]
    );
    assert_eq!(scope(&["fe80::1%7"]), ["[fe80::1%7]:53"]);
    // The host's servers are not asked instead while there is no such interface.
    assert_eq!(scope(&["fe80::1%none"]), [""; 0]);
    let server: api::NameServer = "fe80::1%lo".parse().unwrap();
    let upstreams = Upstreams::fixed(&[server], "/nonexistent".into());
    let now = upstreams.now(Instant::now());
    assert_eq!(*now.servers, ["[fe80::1%1]:53".parse().unwrap()]);
}

#[test]
fn equals_go_in_the_order_in_which_they_came() {
    let start = Instant::now();
    let query = query("example.org", RecordType::A);
    let answer = Arc::new(Answer::new(answer_with(&query, "192.0.2.7", 60)));
    let question = |asker: usize, n: usize| Question {
        servers: Arc::from([]),
        name: Name::from_ascii(format!("a{asker}n{n}.example.org.")).unwrap(),
        record_type: RecordType::A,
        dnssec_ok: false,
        manner: Manner::default(),
        epoch: (0, 0),
        checking_disabled: false,
    };
    const EACH: usize = 12_000;
    // The keys of each map's hashes are others.
    let stays = || {
        let mut cache = Cache::default();
        for n in 0..EACH {
            for asker in 0..2 {
                let source = IpAddr::from([172, 18, 0, asker as u8]);
                cache.put(question(asker, n), Arc::clone(&answer), source, start);
            }
        }
        [0, 1].map(|asker| {
            let there = |n: usize| cache.get(&question(asker, n), start).is_some();
            (0..EACH).map(there).collect::<Vec<bool>>()
        })
    };
    let first = stays();
    for its in &first {
        let gone = its.iter().take_while(|there| !**there).count();
        assert!(gone > 0 && gone < EACH);
        assert!(its[gone..].iter().all(|there| *there), "the first ones go");
    }
    assert_eq!(stays(), first);
}

#[test]
fn strange_files_are_read_as_libc_does() {
    let servers = |text: &str| {
        let found = ResolvConf::parse(text);
        let servers = found.servers.iter().map(|it| it.address.to_string());
        servers.collect::<Vec<_>>().join(" ")
    };
    for (text, expected) in [
        ("nameserver 127.0.0.53", "127.0.0.53"),
        ("nameserver 127.0.0.11\noptions ndots:0\n", "127.0.0.11"),
        (
            "nameserver\t192.0.2.1\t\r\nnameserver 192.0.2.2\r\n",
            "192.0.2.1 192.0.2.2",
        ),
        (
            "; nameserver 192.0.2.9\n;nameserver 192.0.2.9\n#nameserver 192.0.2.9",
            "",
        ),
        (
            "nameserver 192.0.2.1 ; the first\nnameserver 192.0.2.2#53\n",
            "192.0.2.1",
        ),
        ("\u{feff}nameserver 192.0.2.9\nNameserver 192.0.2.9", ""),
        (
            "nameserver ::1\nnameserver ::ffff:192.0.2.1",
            "::1 ::ffff:192.0.2.1",
        ),
        (
            "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4",
            "192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4",
        ),
    ] {
        assert_eq!(servers(text), expected, "{text:?}");
    }
    let found =
        ResolvConf::parse("search\tlan\tcorp.example # the office\r\noptions rotate ; x\r\n");
    assert_eq!(found.search, ["lan", "corp.example"]);
    assert_eq!(found.options, ["rotate"]);
}

/// A record for the name that is asked for, in bytes.
fn raw(record_type: u16, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u16;
    let head = [
        &[0xc0, 12][..],
        &record_type.to_be_bytes(),
        &[0, 1, 0, 0, 0, 60],
    ]
    .concat();
    [&head[..], &length.to_be_bytes(), data].concat()
}

/// An OPT record with these options, of a server that takes 1232 bytes.
fn opt(options: &[u8]) -> Vec<u8> {
    let length = options.len() as u16;
    let head = [0, 0, 41, 4, 208, 0, 0, 0, 0];
    [&head[..], &length.to_be_bytes(), options].concat()
}

/// A server of strange messages: answers, authority and additional records, in bytes.
async fn strange(sections: [Vec<Vec<u8>>; 3]) -> Upstream {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::nobody_at(socket.local_addr().unwrap());
    let asked = Arc::clone(&upstream.asked);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut query = Message::from_vec(&buffer[..length]).unwrap();
            query.edns = None;
            let mut reply = message::reply(&query).to_vec().unwrap();
            for (at, section) in sections.iter().enumerate() {
                reply[7 + 2 * at] = section.len() as u8;
            }
            reply.extend(sections.concat().concat());
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    upstream
}

// Feature: dns-forwarding
#[tokio::test]
async fn what_can_t_be_read_fails_at_once_and_spoils_no_more_than_itself() {
    let address = || raw(1, &[192, 0, 2, 7]);
    // Service parameters must be in order (RFC 9460 clause 2.2).
    let parameters = [0, 1, 0, 0, 3, 0, 2, 1, 187, 0, 1, 0, 3, 2, b'h', b'2'];
    let unreadable = || raw(65, &parameters);
    let subnet = [0, 8, 0, 4, 0, 0, 0, 0];
    for sections in [
        [vec![address()], vec![], vec![unreadable()]],
        [vec![address()], vec![unreadable()], vec![opt(&[])]],
        // Options are for who asked, which was not the container: a subnet of no family, and one
        // that is too short.
        [vec![address()], vec![], vec![opt(&subnet)]],
        [vec![address()], vec![], vec![opt(&[0, 8, 0, 1, 5])]],
    ] {
        let upstream = strange(sections).await;
        let start = Instant::now();
        let reply = ask(&to(&[&upstream]), 1, "example.org", RecordType::A).await;
        assert_eq!(found(&reply), ["192.0.2.7"]);
        assert!(start.elapsed() < Duration::from_millis(800));
    }
    let upstream = strange([vec![unreadable()], vec![], vec![]]).await;
    let start = Instant::now();
    let reply = ask(&to(&[&upstream]), 1, "example.org", RecordType::HTTPS).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(
        start.elapsed() < Duration::from_millis(800),
        "who asks has not all day"
    );
    let good = good().await;
    let reply = ask(
        &to(&[&upstream, &good]),
        1,
        "example.org",
        RecordType::HTTPS,
    )
    .await;
    assert_eq!(
        found(&reply),
        ["192.0.2.7"],
        "another server may be clearer"
    );
}

// Feature: names
#[tokio::test]
async fn options_of_a_query_are_passed_over() {
    let resolver = resolver(directory());
    let plain = query("web", RecordType::A).to_vec().unwrap();
    for options in [
        // A cookie, padding, a subnet of no family (`dig +subnet=0`), and one of none at all.
        &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8][..],
        &[0, 12, 0, 4, 0, 0, 0, 0],
        &[0, 8, 0, 4, 0, 0, 0, 0],
        &[0, 8, 0, 4, 0, 1, 24, 0],
        &[0xff, 0xff, 0, 0],
    ] {
        let mut bytes = [&plain[..], &opt(options)].concat();
        bytes[11] = 1;
        let reply = resolver.respond(&bytes, FRONT, ip("172.18.0.3")).await;
        let reply = reply.unwrap();
        assert_eq!(found(&reply), ["172.18.0.2"], "{options:?}");
        assert!(
            reply
                .edns
                .is_some_and(|edns| edns.options().as_ref().is_empty())
        );
    }
}
