//! Real sockets on loopback; in a namespace of their own where the user may make one.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::process::Command;
use std::thread;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::*;
use crate::netns::Netns;

const TICK: Duration = Duration::from_millis(5);

/// Runs a test on a runtime of two threads, like the daemon's, inside a fresh namespace.
fn on_loopback(body: impl AsyncFnOnce() + Send) {
    let run = || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body());
    };
    match Netns::create() {
        Ok(netns) => netns.run(run).unwrap(),
        // Loopback and free ports are all that is needed.
        Err(_) => run(),
    }
}

/// Blocking sockets play client and container, so they run beside the runtime.
async fn aside<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(body).await.unwrap()
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn dial(address: SocketAddr) -> std::net::TcpStream {
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
}

fn anybody() -> Arc<Common> {
    Common::new(Sources::default())
}

fn only(networks: &[&str]) -> Sources {
    let networks: Vec<_> = networks.iter().map(|it| it.parse().unwrap()).collect();
    Sources::new(&networks)
}

async fn wait_for(what: &str, relay: &Relay, is: impl Fn(RelayCounters) -> bool) {
    let patience = Instant::now() + Duration::from_secs(5);
    while !is(relay.door.common.counters()) {
        assert!(
            Instant::now() < patience,
            "not seen: {what}; {:?}",
            relay.door.common.counters()
        );
        sleep(TICK).await;
    }
}

#[test]
fn a_half_closed_connection_still_answers() {
    on_loopback(async || {
        let ((published, address), (server, target)) = (listen(), listen());
        let relay = Relay::tcp(published, target, &anybody()).unwrap();
        aside(move || {
            // The answer comes only after the end of the question.
            let container = thread::spawn(move || {
                let mut stream = server.accept().unwrap().0;
                let mut question = String::new();
                stream.read_to_string(&mut question).unwrap();
                stream
                    .write_all(question.to_uppercase().as_bytes())
                    .unwrap();
            });
            let mut client = dial(address);
            client.write_all(b"a question").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "A QUESTION");
            container.join().unwrap();
        })
        .await;
        wait_for("the end", &relay, |counters| counters.active == 0).await;
        let expected = RelayCounters {
            total: 1,
            bytes_in: 10,
            bytes_out: 10,
            ..Default::default()
        };
        assert_eq!(relay.door.common.counters(), expected);
        relay.stop().await;
    });
}

#[test]
fn much_data_arrives_whole_both_ways_at_once() {
    const LENGTH: usize = 20_000_000;
    let pattern =
        |length: usize| -> Vec<u8> { (0..length).map(|n| ((n * n) >> 7) as u8).collect() };
    on_loopback(async || {
        let ((published, address), (server, target)) = (listen(), listen());
        let relay = Relay::tcp(published, target, &anybody()).unwrap();
        aside(move || {
            let both = move |stream: std::net::TcpStream| {
                let mut writer = stream.try_clone().unwrap();
                let writing = thread::spawn(move || {
                    writer.write_all(&pattern(LENGTH)).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut heard = Vec::new();
                (&stream).read_to_end(&mut heard).unwrap();
                writing.join().unwrap();
                assert!(heard == pattern(LENGTH), "{} bytes came", heard.len());
            };
            let container = thread::spawn(move || both(server.accept().unwrap().0));
            both(dial(address));
            container.join().unwrap();
        })
        .await;
        wait_for("the end", &relay, |counters| counters.active == 0).await;
        let counters = relay.door.common.counters();
        assert_eq!(
            (counters.bytes_in, counters.bytes_out),
            (LENGTH as u64, LENGTH as u64)
        );
    });
}

/// More transfers at once than there are pipes, whose receivers are slow to begin: some hold a pipe
/// meanwhile, the rest is copied.
#[test]
fn slow_receivers_of_bulk_get_all_of_it() {
    const LENGTH: usize = 3_000_000;
    const FLOWS: usize = 24;
    on_loopback(async || {
        let ((published, address), (server, target)) = (listen(), listen());
        let relay = Relay::tcp(published, target, &anybody()).unwrap();
        aside(move || {
            let senders: Vec<_> = (0..FLOWS)
                .map(|number| {
                    thread::spawn(move || {
                        let mut client = dial(address);
                        client.write_all(&vec![number as u8; LENGTH]).unwrap();
                    })
                })
                .collect();
            let served: Vec<_> = (0..FLOWS).map(|_| server.accept().unwrap().0).collect();
            thread::sleep(Duration::from_millis(200));
            let mut seen = Vec::new();
            for mut stream in served {
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).unwrap();
                assert_eq!(heard.len(), LENGTH);
                assert!(heard.iter().all(|byte| *byte == heard[0]));
                seen.push(heard[0]);
            }
            seen.sort();
            assert_eq!(seen, (0..FLOWS as u8).collect::<Vec<_>>());
            for sender in senders {
                sender.join().unwrap();
            }
        })
        .await;
        wait_for("the end", &relay, |counters| counters.active == 0).await;
        assert_eq!(
            relay.door.common.counters().bytes_in,
            (FLOWS * LENGTH) as u64
        );
    });
}

#[test]
fn stopping_cuts_the_flows_and_frees_the_port() {
    on_loopback(async || {
        let ((published, address), (server, target)) = (listen(), listen());
        let relay = Relay::tcp(published, target, &anybody()).unwrap();
        let (mut client, mut served) = aside(move || {
            let mut client = dial(address);
            let mut served = server.accept().unwrap().0;
            client.write_all(b"x").unwrap();
            served.read_exact(&mut [0]).unwrap();
            (client, served)
        })
        .await;
        assert_eq!(relay.door.common.counters().active, 1);
        relay.stop().await;
        // All closed when stop() returns: no waiting here.
        TcpListener::bind(address).unwrap();
        aside(move || {
            let cut = client.read(&mut [0]).unwrap_err();
            assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
            let cut = served.read(&mut [0]).unwrap_err();
            assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
            let refused = std::net::TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        })
        .await;
    });
}

#[test]
fn dropping_is_stopping() {
    on_loopback(async || {
        let ((published, address), (server, target)) = (listen(), listen());
        let relay = Relay::tcp(published, target, &anybody()).unwrap();
        let mut client = aside(move || dial(address)).await;
        wait_for("the client", &relay, |counters| counters.active == 1).await;
        drop(relay);
        aside(move || {
            assert_eq!(
                client.read(&mut [0]).unwrap_err().kind(),
                ErrorKind::ConnectionReset
            );
            drop(server);
        })
        .await;
    });
}

#[test]
fn what_the_container_refuses_is_reset_at_once() {
    on_loopback(async || {
        let ((published, address), (server, target)) = (listen(), listen());
        drop(server);
        let relay = Relay::tcp(published, target, &anybody()).unwrap();
        let started = Instant::now();
        aside(move || {
            let mut client = dial(address);
            assert_eq!(
                client.read(&mut [0]).unwrap_err().kind(),
                ErrorKind::ConnectionReset
            );
        })
        .await;
        assert!(started.elapsed() < Duration::from_secs(1));
        wait_for("the end", &relay, |counters| counters.active == 0).await;
        assert_eq!(
            relay.door.common.counters(),
            RelayCounters {
                total: 1,
                failed: 1,
                ..Default::default()
            }
        );
    });
}

#[test]
fn a_reset_on_one_side_is_a_reset_on_the_other() {
    on_loopback(async || {
        let ((published, address), (server, target)) = (listen(), listen());
        let _relay = Relay::tcp(published, target, &anybody()).unwrap();
        aside(move || {
            let mut client = dial(address);
            let served = server.accept().unwrap().0;
            socket2::SockRef::from(&served)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop(served);
            assert_eq!(
                client.read(&mut [0]).unwrap_err().kind(),
                ErrorKind::ConnectionReset
            );
        })
        .await;
    });
}

// Feature: moby-11185
#[test]
fn a_range_of_listeners_needs_no_thread_each() {
    on_loopback(async || {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let (server, target) = listen();
        let before = threads();
        let mut relays = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..300 {
            let (published, address) = listen();
            relays.push(Relay::tcp(published, target, &anybody()).unwrap());
            addresses.push(address);
        }
        sleep(TICK).await;
        // Other tests run at the same time and have threads of their own.
        assert!(threads() < before + 150, "{} threads", threads());
        aside(move || {
            for address in addresses {
                let mut client = dial(address);
                let mut served = server.accept().unwrap().0;
                client.write_all(b"x").unwrap();
                served.read_exact(&mut [0]).unwrap();
            }
        })
        .await;
        for relay in relays {
            relay.stop().await;
        }
    });
}

/// Runs itself once more with few descriptors, since the limit is the whole process's.
#[test]
fn out_of_descriptors_it_waits_without_spinning() {
    const NAME: &str = "relay::tests::out_of_descriptors_it_waits_without_spinning";
    if std::env::var_os("PONTOON_TEST_FEW_DESCRIPTORS").is_none() {
        let ran = Command::new("sh")
            .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env("PONTOON_TEST_FEW_DESCRIPTORS", "1")
            .output()
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
        return;
    }
    on_loopback(async || {
        let ((published, address), (server, target)) = (listen(), listen());
        let relay = Relay::tcp(published, target, &anybody()).unwrap();
        let echo = thread::spawn(move || {
            // It suffers from the same want of descriptors, and tries again.
            let mut served = loop {
                match server.accept() {
                    Ok((stream, _)) => break stream,
                    Err(_) => thread::sleep(TICK),
                }
            };
            let mut byte = [0];
            served.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"q");
        });
        // Take every descriptor but one, which the client gets: accept(2) then fails.
        let mut hoard = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        hoard.pop();
        let mut client = dial(address);
        let used = || {
            let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
            Duration::from_micros(
                (usage.user_time().tv_sec() + usage.system_time().tv_sec()) as u64 * 1_000_000
                    + (usage.user_time().tv_usec() + usage.system_time().tv_usec()) as u64,
            )
        };
        let before = used();
        sleep(Duration::from_millis(700)).await;
        assert!(
            used() - before < Duration::from_millis(200),
            "{:?}",
            used() - before
        );
        assert_eq!(relay.door.common.counters().total, 0);
        drop(hoard);
        client.write_all(b"q").unwrap();
        aside(move || echo.join().unwrap()).await;
        assert_eq!(relay.door.common.counters().total, 1);
    });
}

/// A UDP socket that answers `x` with `X`, as a container's; ends with the test's runtime.
async fn udp_echo() -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket
                .send_to(&buffer[..length].to_ascii_uppercase(), from)
                .await;
        }
    });
    address
}

async fn ask(client: &tokio::net::UdpSocket, question: &[u8]) -> Option<Vec<u8>> {
    client.send(question).await.ok()?;
    let mut buffer = vec![0; 65536];
    let length = timeout(Duration::from_secs(2), client.recv(&mut buffer))
        .await
        .ok()?
        .ok()?;
    buffer.truncate(length);
    Some(buffer)
}

async fn udp_client(address: (IpAddr, u16)) -> tokio::net::UdpSocket {
    let any = match address.0 {
        IpAddr::V4(_) => "0.0.0.0:0",
        IpAddr::V6(_) => "[::]:0",
    };
    let client = tokio::net::UdpSocket::bind(any).await.unwrap();
    client.connect(address).await.unwrap();
    client
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn datagrams_come_back_from_the_address_dialled() {
    on_loopback(async || {
        let published = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = published.local_addr().unwrap().port();
        let relay = Relay::udp(published, udp_echo().await, MINUTE, &anybody()).unwrap();
        // A connected client hears an answer from nowhere else than where it asked.
        for host in [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)] {
            let client = udp_client((host.into(), port)).await;
            assert_eq!(ask(&client, b"hello").await.unwrap(), b"HELLO");
            assert_eq!(
                ask(&client, b"").await.unwrap(),
                b"",
                "an empty datagram is one too"
            );
            let largest = vec![b'l'; 65507];
            assert_eq!(ask(&client, &largest).await.unwrap(), vec![b'L'; 65507]);
        }
        // The client hears an answer before the relay has counted it.
        let expected = RelayCounters {
            active: 2,
            total: 2,
            bytes_in: 2 * 65512,
            bytes_out: 2 * 65512,
            ..Default::default()
        };
        let whole = |counters| counters == expected;
        wait_for("both clients' datagrams", &relay, whole).await;
        relay.stop().await;
        UdpSocket::bind(("0.0.0.0", port)).unwrap();
    });
}

#[test]
fn a_dual_stack_socket_serves_both() {
    on_loopback(async || {
        let published = match UdpSocket::bind("[::]:0") {
            Ok(socket) => socket,
            Err(error) => {
                println!("a_dual_stack_socket_serves_both: skipped, no IPv6 here: {error}");
                return;
            }
        };
        let port = published.local_addr().unwrap().port();
        let _relay = Relay::udp(published, udp_echo().await, MINUTE, &anybody()).unwrap();
        for host in ["::1", "127.0.0.1", "127.0.0.3"] {
            let client = udp_client((host.parse().unwrap(), port)).await;
            assert_eq!(ask(&client, b"hello").await.unwrap(), b"HELLO", "{host}");
        }
    });
}

// Conforms: IPV6-publish-both-families
#[test]
fn each_family_reaches_the_containers_address_of_it() {
    on_loopback(async || {
        let Ok(ipv6) = tokio::net::TcpListener::bind("[::1]:0").await else {
            println!("each_family_reaches_the_containers_address_of_it: skipped, no IPv6 here");
            return;
        };
        let ipv4 = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let published = TcpListener::bind("[::]:0").unwrap();
        let port = published.local_addr().unwrap().port();
        let target = Target {
            ipv4: ipv4.local_addr().unwrap().into(),
            ipv6: ipv6.local_addr().unwrap().into(),
        };
        let _relay = Relay::tcp(published, target, &anybody()).unwrap();
        for (host, reached) in [("127.0.0.1", &ipv4), ("::1", &ipv6), ("127.0.0.3", &ipv4)] {
            let host: IpAddr = host.parse().unwrap();
            let _client = TcpStream::connect((host, port)).await.unwrap();
            let accepted = timeout(Duration::from_secs(5), reached.accept()).await;
            assert!(matches!(accepted, Ok(Ok(_))), "{host}: {accepted:?}");
        }
    });
}

#[test]
fn silent_clients_are_forgotten_and_the_oldest_makes_room() {
    on_loopback(async || {
        let published = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = published.local_addr().unwrap();
        let idle = Duration::from_millis(400);
        let relay = {
            let max_clients = 2;
            let terms = udp::Terms { idle, max_clients };
            Relay::udp_bounded(published, udp_echo().await.into(), terms, &anybody()).unwrap()
        };
        let mut clients = Vec::new();
        for _ in 0..3 {
            let client = udp_client((local.ip(), local.port())).await;
            assert_eq!(ask(&client, b"a").await.unwrap(), b"A");
            clients.push(client);
            sleep(TICK).await;
        }
        wait_for("eviction", &relay, |now| {
            (now.active, now.evicted) == (2, 1)
        })
        .await;
        // The one that was forgotten comes back as a new one.
        assert_eq!(ask(&clients[0], b"b").await.unwrap(), b"B");
        // One that talks stays; the others go.
        for _ in 0..6 {
            sleep(Duration::from_millis(100)).await;
            assert_eq!(ask(&clients[0], b"c").await.unwrap(), b"C");
        }
        assert_eq!(
            (
                relay.door.common.counters().active,
                relay.door.common.counters().total
            ),
            (1, 4)
        );
        wait_for("the end", &relay, |now| now.active == 0).await;
        assert_eq!(ask(&clients[0], b"d").await.unwrap(), b"D");
    });
}

#[test]
fn a_closed_udp_port_is_survived_and_stop_cuts_a_flow() {
    on_loopback(async || {
        let published = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = published.local_addr().unwrap();
        let container = UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = container.local_addr().unwrap();
        drop(container);
        let relay = Relay::udp(published, target, MINUTE, &anybody()).unwrap();
        let client = udp_client((local.ip(), local.port())).await;
        for _ in 0..5 {
            client.send(b"anybody?").await.unwrap();
            sleep(TICK * 4).await;
        }
        assert_eq!(relay.door.common.counters().total, 1);
        assert!(relay.door.common.counters().dropped > 0);

        let container = tokio::net::UdpSocket::bind(target).await.unwrap();
        client.send(b"now").await.unwrap();
        let mut buffer = [0; 16];
        let heard = timeout(Duration::from_secs(2), container.recv_from(&mut buffer)).await;
        let (_, upstream) = heard.unwrap().unwrap();
        container.send_to(b"yes", upstream).await.unwrap();
        assert_eq!(client.recv(&mut buffer).await.unwrap(), 3);

        relay.stop().await;
        // Both of its sockets are gone: the kernel tells both sides so.
        let _ = container.send_to(b"hello?", upstream).await;
        client.send(b"hello?").await.unwrap();
        let refused = timeout(Duration::from_secs(2), client.recv(&mut buffer))
            .await
            .unwrap();
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn who_is_not_on_the_list_is_cut_off_and_who_leaves_it_too() {
    on_loopback(async || {
        let ((published, address), (server, target)) = (listen(), listen());
        let common = Common::new(only(&["192.0.2.0/24"]));
        let relay = Relay::tcp(published, target, &common).unwrap();
        aside(move || {
            let mut refused = dial(address);
            let error = refused.read(&mut [0]).expect_err("it is not for 127.0.0.1");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            (server, address)
        })
        .await;
        wait_for("the refusal", &relay, |counters| counters.refused == 1).await;
        assert_eq!(relay.door.common.counters().total, 0);
        relay.stop().await;

        let ((published, address), (server, target)) = (listen(), listen());
        let common = Common::new(only(&["127.0.0.0/8"]));
        let relay = Relay::tcp(published, target, &common).unwrap();
        let (client, container) = aside(move || {
            let client = dial(address);
            (client, server.accept().unwrap().0)
        })
        .await;
        wait_for("the flow", &relay, |counters| counters.active == 1).await;
        common.set_allow(only(&["127.0.0.1/32", "::1/128"]));
        sleep(10 * TICK).await;
        assert_eq!(common.counters().active, 1, "it is still on the list");
        common.set_allow(only(&["::1/128"]));
        wait_for("the cut", &relay, |counters| counters.active == 0).await;
        for mut end in [client, container] {
            let error = end.read(&mut [0]).expect_err("it is cut");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        relay.stop().await;
    });
}

#[test]
fn datagrams_of_who_is_not_on_the_list_go_nowhere() {
    on_loopback(async || {
        let published = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = published.local_addr().unwrap();
        let common = Common::new(only(&["192.0.2.0/24"]));
        let relay = Relay::udp(published, udp_echo().await, MINUTE, &common).unwrap();
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(address).await.unwrap();
        client.send(b"one").await.unwrap();
        wait_for("the refusal", &relay, |counters| counters.refused == 1).await;
        common.set_allow(Sources::default());
        assert_eq!(ask(&client, b"two").await.as_deref(), Some(&b"TWO"[..]));
        common.set_allow(only(&["192.0.2.0/24"]));
        wait_for("its end", &relay, |counters| counters.active == 0).await;
        relay.stop().await;
    });
}
