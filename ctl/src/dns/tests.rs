//! What is answered to whom, and how others are asked, against upstream servers of the test's own.

mod forwarding;
mod upstream;

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use switch::NetworkId;
use tokio::sync::watch;

use super::directory::{Attachment, ContainerNames, Directory, NetworkNames};
use super::message;
use super::resolv_conf::{self, ResolvConf, Upstreams};
use super::server::Resolver;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(name: &str, subnets: &[&str], internal: bool) -> NetworkNames {
    NetworkNames {
        name: name.to_owned(),
        subnets: subnets.iter().map(|it| it.parse().unwrap()).collect(),
        gateways: Vec::new(),
        internal,
    }
}

fn container(name: &str, number: u64, attachments: &[(u32, &[&str], &[&str])]) -> ContainerNames {
    ContainerNames {
        id: format!("{number:064x}"),
        name: name.to_owned(),
        servers: Vec::new(),
        search: None,
        attachments: attachments
            .iter()
            .map(|(network, aliases, addresses)| Attachment {
                network: NetworkId(*network),
                aliases: aliases.iter().map(|it| it.to_string()).collect(),
                addresses: addresses.iter().map(|it| ip(it)).collect(),
            })
            .collect(),
    }
}

/// The networks get their positions as their ids.
fn directory_of(networks: Vec<NetworkNames>, containers: Vec<ContainerNames>) -> Directory {
    let mut directory = Directory::default();
    for (id, network) in (0..).map(NetworkId).zip(networks) {
        directory.put_network(id, network);
    }
    for container in containers {
        directory.put_container(container);
    }
    directory
}

const FRONT: NetworkId = NetworkId(0);
const BACK: NetworkId = NetworkId(1);
const VAULT: NetworkId = NetworkId(2);

/// Two networks that share `both`, and an internal one.
fn directory() -> Directory {
    directory_of(
        vec![
            network("front", &["172.18.0.0/16", "fd00:1::/64"], false),
            network("back", &["172.19.0.0/16"], false),
            network("vault", &["172.20.0.0/16"], true),
        ],
        vec![
            container(
                "web",
                1,
                &[(0, &["www", "www.shop", "web"], &["172.18.0.2", "fd00:1::2"])],
            ),
            container("Web2", 2, &[(0, &["www"], &["172.18.0.3"])]),
            container(
                "both",
                3,
                &[(0, &[], &["172.18.0.4"]), (1, &["b"], &["172.19.0.4"])],
            ),
            container("db", 4, &[(1, &[], &["172.19.0.5"])]),
            container("safe", 5, &[(2, &[], &["172.20.0.2"])]),
            container("a..b", 6, &[(0, &[], &["172.18.0.6"])]),
        ],
    )
}

/// A resolver with nobody to forward to.
fn resolver(directory: Directory) -> Arc<Resolver> {
    resolver_with(directory, Upstreams::of_sockets([]))
}

fn resolver_with(directory: Directory, upstreams: Upstreams) -> Arc<Resolver> {
    let (_, receiver) = watch::channel(Arc::new(directory));
    Resolver::new(receiver, upstreams)
}

fn query(name: &str, record_type: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    query.add_query(Query::query(name, record_type));
    query
}

async fn ask_at(
    resolver: &Resolver,
    network: NetworkId,
    source: &str,
    query: &Message,
) -> Option<Message> {
    let bytes = query.to_vec().unwrap();
    let reply = resolver.respond(&bytes, network, ip(source)).await?;
    assert_eq!(reply.metadata.id, query.metadata.id);
    // What is sent is what can be read.
    Some(Message::from_vec(&message::encode(&reply, u16::MAX)).unwrap())
}

/// Asks as a container of [`directory`].
async fn ask(resolver: &Resolver, number: u64, name: &str, wanted: RecordType) -> Message {
    let query = query(name, wanted);
    let (network, source) = match number {
        1 => (FRONT, "172.18.0.2"),
        2 => (FRONT, "172.18.0.3"),
        3 => (BACK, "172.19.0.4"),
        4 => (BACK, "172.19.0.5"),
        5 => (VAULT, "172.20.0.2"),
        6 => (FRONT, "172.18.0.6"),
        9 => (FRONT, "172.18.0.9"),
        _ => panic!("there is no container {number}"),
    };
    ask_at(resolver, network, source, &query).await.unwrap()
}

fn found(reply: &Message) -> Vec<String> {
    assert_eq!(
        reply.metadata.response_code,
        ResponseCode::NoError,
        "{reply}"
    );
    let mut found: Vec<String> = reply
        .answers
        .iter()
        .map(|record| match &record.data {
            RData::A(address) => address.to_string(),
            RData::AAAA(address) => address.to_string(),
            RData::PTR(name) => name.to_string(),
            RData::CNAME(name) => name.to_string(),
            other => panic!("{other}"),
        })
        .collect();
    found.sort();
    found
}

// Feature: names
#[tokio::test]
async fn names_aliases_and_short_ids_of_shared_networks_are_known() {
    use RecordType::{A, AAAA};
    let resolver = resolver(directory());
    let short_id = "000000000000";
    for (netns, name, wanted, expected) in [
        (2, "web", A, &["172.18.0.2"][..]),
        (2, "WEB", A, &["172.18.0.2"]),
        (2, "web.front", A, &["172.18.0.2"]),
        (2, "web", AAAA, &["fd00:1::2"]),
        (1, "web2", A, &["172.18.0.3"]),
        (1, "www", A, &["172.18.0.2", "172.18.0.3"]),
        (1, "www.shop", A, &["172.18.0.2"]),
        (1, "www.shop.front", A, &["172.18.0.2"]),
        (1, "both", A, &["172.18.0.4"]),
        (3, "both", A, &["172.18.0.4", "172.19.0.4"]),
        (3, "both.back", A, &["172.19.0.4"]),
        (3, "db", A, &["172.19.0.5"]),
        (3, "web", A, &["172.18.0.2"]),
        (4, "b", A, &["172.19.0.4"]),
        (4, short_id, A, &["172.19.0.4", "172.19.0.5"]),
        (1, "localhost", A, &["127.0.0.1"]),
        (1, "x.localhost", AAAA, &["::1"]),
    ] {
        let reply = ask(&resolver, netns, name, wanted).await;
        assert_eq!(found(&reply), expected, "{name} {wanted} from {netns}");
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
        assert!(reply.answers.iter().all(|record| record.ttl == 0));
    }
}

// Feature: names
// Conforms: CVE-2024-29018
#[tokio::test]
async fn no_data_is_no_missing_name_and_networks_see_not_each_other() {
    use RecordType::{A, AAAA, MX, TXT};
    let resolver = resolver(directory());
    for (netns, name, wanted) in [(1, "web2", AAAA), (1, "web", MX), (1, "web.front", TXT)] {
        let reply = ask(&resolver, netns, name, wanted).await;
        assert_eq!(found(&reply), [""; 0], "NODATA: {name} {wanted}");
    }
    for (netns, name) in [(1, "db"), (4, "web"), (5, "web"), (1, "b"), (1, "gone")] {
        let reply = ask(&resolver, netns, name, A).await;
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::NXDomain,
            "{name}"
        );
        assert!(reply.answers.is_empty());
    }
    // A name of the world, without anybody to ask for it.
    let reply = ask(&resolver, 1, "example.org", A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let reply = ask(&resolver, 5, "example.org", A).await;
    assert_eq!(
        reply.metadata.response_code,
        ResponseCode::NXDomain,
        "internal"
    );
}

// Feature: names
#[tokio::test]
async fn addresses_have_names() {
    let resolver = resolver(directory());
    let web6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa";
    for (netns, name, expected) in [
        (2, "2.0.18.172.in-addr.arpa", "web.front."),
        (2, "2.0.18.172.IN-ADDR.ARPA", "web.front."),
        (2, web6, "web.front."),
        (3, "5.0.19.172.in-addr.arpa", "db.back."),
    ] {
        let reply = ask(&resolver, netns, name, RecordType::PTR).await;
        assert_eq!(found(&reply), [expected]);
    }
    for name in [
        "9.0.18.172.in-addr.arpa",
        // An address of a network that the asker is not on.
        "5.0.19.172.in-addr.arpa",
    ] {
        let reply = ask(&resolver, 1, name, RecordType::PTR).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    }
    // A name that DNS can't say.
    let reply = ask(&resolver, 1, "6.0.18.172.in-addr.arpa", RecordType::PTR).await;
    assert_eq!(found(&reply), [""; 0]);
}

// Feature: names
#[tokio::test]
async fn a_gateway_answers_its_network_alone() {
    let resolver = resolver(directory());
    let front = FRONT;
    let web = query("web", RecordType::A);
    let db = query("db", RecordType::A);
    // By its address a container is known, with all its networks.
    let reply = ask_at(&resolver, front, "172.18.0.4", &db).await.unwrap();
    assert_eq!(found(&reply), ["172.19.0.5"]);
    // The host.
    let reply = ask_at(&resolver, front, "172.18.0.1", &web).await.unwrap();
    assert_eq!(found(&reply), ["172.18.0.2"]);
    let reply = ask_at(&resolver, front, "172.18.0.1", &db).await.unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    // From elsewhere: no resolver for the world.
    for source in ["172.19.0.4", "192.0.2.7", "127.0.0.1"] {
        assert!(ask_at(&resolver, front, source, &web).await.is_none());
    }
    let gone = ask_at(&resolver, NetworkId(9), "172.18.0.2", &web).await;
    assert!(gone.is_none());
}

// Feature: names
#[tokio::test]
async fn addresses_take_turns() {
    let resolver = resolver(directory());
    let mut first = Vec::new();
    for _ in 0..4 {
        let reply = ask(&resolver, 3, "www", RecordType::A).await;
        first.push(reply.answers[0].data.to_string());
    }
    assert_eq!(first[0], first[2]);
    assert_eq!(first[1], first[3]);
    assert_ne!(first[0], first[1]);
}

// Feature: names
#[tokio::test]
async fn who_goes_takes_its_own_names_along_and_no_others() {
    let mut directory = directory();
    let asked = async |directory: &Directory, name: &str| {
        let resolver = resolver(directory.clone());
        found(&ask(&resolver, 6, name, RecordType::A).await)
    };
    directory.remove_container(&format!("{:064x}", 1));
    let gone = ask(&resolver(directory.clone()), 6, "web", RecordType::A).await;
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(asked(&directory, "www").await, ["172.18.0.3"]);
    assert_eq!(asked(&directory, "both").await, ["172.18.0.4"]);
    // Another one takes over name and address.
    directory.put_container(container("web", 7, &[(0, &[], &["172.18.0.2"])]));
    assert_eq!(asked(&directory, "web").await, ["172.18.0.2"]);
    let pointer = ask(
        &resolver(directory),
        6,
        "2.0.18.172.in-addr.arpa",
        RecordType::PTR,
    )
    .await;
    assert_eq!(found(&pointer), ["web.front."]);
}

// Feature: names
#[tokio::test]
async fn what_does_not_fit_a_datagram_is_truncated() {
    let addresses: Vec<String> = (0..5000)
        .map(|n| format!("10.0.{}.{}", n / 250, n % 250 + 1))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let many = container("many", 1, &[(0, &[], &addresses)]);
    let resolver = resolver(directory_of(
        vec![network("n", &["10.0.0.0/16"], false)],
        vec![many],
    ));
    let mut query = query("many", RecordType::A);
    for (payload, limit) in [
        (None, 512),
        (Some(100), 512),
        (Some(1000), 1000),
        (Some(9000), 1232),
    ] {
        query.edns = payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        assert_eq!(message::datagram_limit(&query), limit);
        let bytes = query.to_vec().unwrap();
        let source = ip("10.0.0.1");
        let reply = resolver
            .respond(&bytes, NetworkId(0), source)
            .await
            .unwrap();
        let short = Message::from_vec(&message::encode(&reply, limit)).unwrap();
        assert!(short.metadata.truncation);
        assert!((1..1000).contains(&short.answers.len()));
        assert_eq!(short.edns.is_some(), payload.is_some());
        let long = Message::from_vec(&message::encode(&reply, u16::MAX)).unwrap();
        assert!(!long.metadata.truncation);
        assert_eq!(long.answers.len(), 1000);
    }
}

// Feature: names
#[tokio::test]
async fn hostile_queries_are_refused_or_ignored() {
    let resolver = resolver(directory());
    let good = query("web", RecordType::A).to_vec().unwrap();
    let respond = async |bytes: &[u8]| {
        let reply = resolver.respond(bytes, FRONT, ip("172.18.0.2")).await;
        let reply = reply.map(|reply| message::encode(&reply, u16::MAX));
        reply.map(|bytes| Message::from_vec(&bytes).unwrap().metadata.response_code)
    };
    let changed = |position: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[position] = byte;
        bytes
    };
    assert_eq!(respond(&good).await, Some(ResponseCode::NoError));
    assert_eq!(respond(&changed(2, 0x81)).await, None, "an answer");
    assert_eq!(respond(&changed(2, 0x28)).await, Some(ResponseCode::NotImp));
    assert_eq!(respond(&good[..11]).await, None);
    assert_eq!(respond(&good[..12]).await, Some(ResponseCode::FormErr));
    assert_eq!(
        respond(&good[..good.len() - 1]).await,
        Some(ResponseCode::FormErr)
    );
    // Numbers of records that are not there.
    for position in 4..12 {
        let reply = respond(&changed(position, 0xff)).await;
        assert_eq!(reply, Some(ResponseCode::FormErr), "byte {position}");
    }
    // Names that point to themselves and past the end.
    for pointer in [[0xc0, 12], [0xc0, 13], [0xff, 0xff]] {
        let mut bytes = good[..12].to_vec();
        bytes.extend(pointer);
        bytes.extend([0, 1, 0, 1]);
        assert_eq!(respond(&bytes).await, Some(ResponseCode::FormErr));
    }
    let mut chaos = query("version.bind", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(
        respond(&chaos.to_vec().unwrap()).await,
        Some(ResponseCode::Refused)
    );
    let transfer = query("front", RecordType::AXFR).to_vec().unwrap();
    assert_eq!(respond(&transfer).await, Some(ResponseCode::Refused));
    let mut newer = query("web", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    let code = respond(&newer.to_vec().unwrap()).await.map(u16::from);
    assert_eq!(code, Some(16), "BADVERS (RFC 6891 clause 9)");
    let mut update = query("web", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(
        respond(&update.to_vec().unwrap()).await,
        Some(ResponseCode::NotImp)
    );
    // Whatever comes, something comes of it: every byte of a query, changed to anything.
    for position in 0..good.len() {
        for byte in 0..=255 {
            respond(&changed(position, byte)).await;
        }
    }
}

#[test]
fn resolv_conf_is_read_as_libc_does() {
    let text = "# nameserver 192.0.2.9\n\
                nameserver 192.0.2.1\n\
                \tnameserver   2001:db8::1  # a comment\n\
                nameserver fe80::1%eth0\nnameserver\nnameserver x\n\
                domain ignored\nsearch lan  example.org\noptions edns0\n";
    let found = ResolvConf::parse(text);
    let addresses: Vec<IpAddr> = found.servers.iter().map(|it| it.address).collect();
    assert_eq!(
        addresses,
        [ip("192.0.2.1"), ip("2001:db8::1"), ip("fe80::1")]
    );
    assert_eq!(found.servers[2].zone.as_deref(), Some("eth0"));
    assert_eq!(found.search, ["lan", "example.org"]);
    assert_eq!(found.options, ["edns0"]);
    assert_eq!(ResolvConf::parse(""), ResolvConf::default());
}

#[test]
fn a_container_has_the_host_s_options() {
    let written = |options: &[&str]| {
        let options: Vec<String> = options.iter().map(|it| it.to_string()).collect();
        let text = resolv_conf::write(&[ip("127.0.0.11")], &["lan".to_owned()], &options);
        let found = ResolvConf::parse(&text);
        assert_eq!((found.servers.len(), found.search.len()), (1, 1), "{text}");
        found.options.join(" ")
    };
    assert_eq!(written(&[]), "ndots:0");
    assert_eq!(
        written(&["timeout:1", "use-vc"]),
        "ndots:0 timeout:1 use-vc"
    );
    assert_eq!(written(&["rotate", "ndots:2"]), "rotate ndots:2");
}
