//! What of the traffic outlives a daemon: stopped and started again, killed, and replaced by
//! another program, while a conversation goes on by every path.
//!
//! Two things are measured and printed as a table: which TCP connections live, and for how long the
//! switch and the NAT were silent, by datagrams that are sent every other millisecond. A TCP
//! connection may seem to be silent for longer: it repeats what was lost after 200 ms, then after
//! 400 ms.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::scene::{
    ANY, ANY6, BEYOND, BEYOND6, Container, HOST, HOST6, LOOPBACK, LOOPBACK6, Scene,
};
use pontoon_tests::traffic::{accept, bind_udp, dial, listen};
use pontoon_tests::{eventually, has_ipv6};
use serde_json::json;

/// Between two questions of a conversation.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two datagrams.
const BEAT: Duration = Duration::from_millis(2);
/// A connection that has no answer for so long is dead.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a conversation was like.
struct Report {
    path: &'static str,
    /// The longest time without an answer.
    silence: Duration,
    answers: usize,
    error: Option<String>,
}

/// A conversation that goes on until it is ended.
struct Talk {
    path: &'static str,
    over: Arc<AtomicBool>,
    answers: Arc<std::sync::atomic::AtomicUsize>,
    thread: JoinHandle<Report>,
}

impl Talk {
    /// `ask` sends one question and takes its answer; true if there was one.
    fn start(
        path: &'static str,
        pause: Duration,
        mut ask: impl FnMut() -> std::io::Result<bool> + Send + 'static,
    ) -> Talk {
        let over = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (ends, count) = (Arc::clone(&over), Arc::clone(&answers));
        let thread = thread::spawn(move || {
            let mut last = Instant::now();
            let mut report = Report {
                path,
                silence: Duration::ZERO,
                answers: 0,
                error: None,
            };
            while !ends.load(Ordering::Relaxed) {
                match ask() {
                    Ok(true) => {
                        report.answers += 1;
                        count.fetch_add(1, Ordering::Relaxed);
                        report.silence = report.silence.max(last.elapsed());
                        last = Instant::now();
                    }
                    Ok(false) => {}
                    Err(error) => {
                        report.error = Some(error.to_string());
                        break;
                    }
                }
                thread::sleep(pause);
            }
            report
        });
        Talk {
            path,
            over,
            answers,
            thread,
        }
    }

    /// Whether it has had further answers since `before`, or has ended.
    fn goes_on(&self, before: usize) -> bool {
        self.thread.is_finished() || self.answers.load(Ordering::Relaxed) > before + 3
    }

    fn end(self) -> Report {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("a conversation does not panic")
    }
}

/// A TCP conversation: the client asks, the server echoes.
fn tcp(path: &'static str, from: &Namespace, to: (IpAddr, u16), listener: &TcpListener) -> Talk {
    let mut client = dial(from, to).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut server = accept(listener).unwrap_or_else(|error| panic!("{path}: {error}"));
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
    }
    thread::spawn(move || {
        let mut bytes = [0; 8];
        while server.read_exact(&mut bytes).is_ok() && server.write_all(&bytes).is_ok() {}
    });
    let mut number = 0u64;
    Talk::start(path, PAUSE, move || {
        number += 1;
        let mut bytes = [0; 8];
        client.write_all(&number.to_be_bytes())?;
        client.read_exact(&mut bytes)?;
        assert_eq!(bytes, number.to_be_bytes(), "{path}: another's answer");
        Ok(true)
    })
}

/// Datagrams at a steady beat, echoed: the silence of a path itself.
fn udp(path: &'static str, from: &Namespace, to: (IpAddr, u16), server: UdpSocket) -> Talk {
    let any = if to.0.is_ipv4() { ANY } else { ANY6 };
    let client = bind_udp(from, (any, 0));
    from.within(|| client.connect(to)).expect("a route");
    client.set_nonblocking(true).expect("non-blocking");
    let timeout = server.set_read_timeout(Some(Duration::from_millis(50)));
    timeout.expect("a timeout");
    let mut number = 0u64;
    let talk = Talk::start(path, BEAT, move || {
        number += 1;
        // What is refused meanwhile is silence, and no end.
        let _ = client.send(&number.to_be_bytes());
        let mut bytes = [0; 8];
        let mut answered = false;
        while client.recv(&mut bytes).is_ok() {
            answered = true;
        }
        Ok(answered)
    });
    let over = Arc::clone(&talk.over);
    thread::spawn(move || {
        let mut bytes = [0; 8];
        while !over.load(Ordering::Relaxed) {
            if let Ok((8, source)) = server.recv_from(&mut bytes) {
                let _ = server.send_to(&bytes, source);
            }
        }
    });
    talk
}

/// A daemon, containers, and conversations by every path.
struct Stage {
    scene: Scene,
    a: Container,
    b: Container,
    talks: Vec<Talk>,
    _idle: Vec<File>,
}

impl Stage {
    fn new(idle: usize) -> Option<Stage> {
        let mut scene = Scene::without_daemon("tap")?;
        scene.start_daemon();
        let a = scene.container("a", &["-p", "8080:80", "-p", "5353:53/udp"]);
        let b = scene.container("b", &[]);
        let idle = (0..idle)
            .map(|number| attach_idle(&scene, number))
            .collect();
        let mut stage = Stage {
            scene,
            a,
            b,
            talks: Vec::new(),
            _idle: idle,
        };
        stage.talk();
        Some(stage)
    }

    /// Begins a conversation by every path.
    fn talk(&mut self) {
        let Stage { scene, a, b, .. } = &*self;
        let mut talks = Vec::new();
        let families: &[bool] = if has_ipv6() { &[false, true] } else { &[false] };
        for &v6 in families {
            let pick = |four: IpAddr, six: IpAddr| if v6 { six } else { four };
            let label = |four: &'static str, six: &'static str| if v6 { six } else { four };
            let a_address = if v6 { a.ipv6() } else { a.address };
            let any = pick(ANY, ANY6);
            let inside = listen(&a.namespace, (any, 80));
            let beyond = pick(BEYOND, BEYOND6);
            let outside = listen(&scene.outside, (beyond, 80));
            let host = (pick(HOST, HOST6), 8080);
            talks.extend([
                tcp(
                    label("switched", "switched, IPv6"),
                    &b.namespace,
                    (a_address, 80),
                    &inside,
                ),
                tcp(
                    label("masqueraded", "masqueraded, IPv6"),
                    &a.namespace,
                    (beyond, 80),
                    &outside,
                ),
                tcp(
                    label("published", "published, IPv6"),
                    &scene.outside,
                    host,
                    &inside,
                ),
                tcp(
                    label("hairpin", "hairpin, IPv6"),
                    &b.namespace,
                    host,
                    &inside,
                ),
                tcp(
                    label("relayed", "relayed, IPv6"),
                    &scene.host,
                    (pick(LOOPBACK, LOOPBACK6), 8080),
                    &inside,
                ),
            ]);
        }
        let at = |namespace: &Namespace, port| bind_udp(namespace, (ANY, port));
        talks.extend([
            udp(
                "switched, datagrams",
                &b.namespace,
                (a.address, 54),
                at(&a.namespace, 54),
            ),
            udp(
                "masqueraded, datagrams",
                &a.namespace,
                (BEYOND, 4500),
                bind_udp(&scene.outside, (BEYOND, 4500)),
            ),
            udp(
                "published, datagrams",
                &scene.outside,
                (HOST, 5353),
                at(&a.namespace, 53),
            ),
        ]);
        self.talks = talks;
        self.wait("before");
    }

    /// Waits until every conversation goes on or has ended.
    fn wait(&self, when: &str) {
        let before: Vec<usize> = self
            .talks
            .iter()
            .map(|talk| talk.answers.load(Ordering::Relaxed))
            .collect();
        for (talk, before) in self.talks.iter().zip(before) {
            let what = format!("{when}: {} goes on or ends", talk.path);
            eventually(&what, PATIENCE + Duration::from_secs(5), || {
                talk.goes_on(before).then_some(()).ok_or_else(String::new)
            });
        }
    }

    fn end(&mut self) -> Vec<Report> {
        self.talks.drain(..).map(Talk::end).collect()
    }
}

/// A namespace that nothing but this process holds, attached and quiet.
fn attach_idle(scene: &Scene, number: usize) -> File {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make namespaces");
        File::open("/proc/thread-self/ns/net").expect("the namespace of this thread")
    };
    let namespace = thread::spawn(make).join().expect("it does not panic");
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let request = json!({
        "name": format!("idle-{number}"),
        "mode": {"network": "bridge"},
        "target": {"netns": path},
        "remove_on_exit": true,
    });
    let answer = scene.request("POST", "/v1/containers", Some(&request.to_string()));
    let (status, body) = answer.expect("the daemon answers");
    assert!(status < 300, "attach {number}: {status} {body}");
    namespace
}

/// How a daemon makes way for the next one.
#[derive(Clone, Copy, Debug)]
enum Change {
    Stop,
    Kill,
    /// The next one is another file, and waits for the end of the first one.
    Upgrade,
}

/// Returns how long the end of the first daemon took.
fn change(stage: &mut Stage, how: Change) -> Duration {
    let start = Instant::now();
    match how {
        Change::Stop => {
            stage.scene.end_daemon(Signal::SIGTERM);
        }
        Change::Kill => {
            stage.scene.end_daemon(Signal::SIGKILL);
        }
        Change::Upgrade => {
            let copy = stage.scene.directory().join("pontoon-next");
            std::fs::copy(pontoon_tests::pontoon(), &copy).expect("a copy of the program");
            stage.scene.end_daemon(Signal::SIGTERM);
            stage.scene.set_program(copy);
        }
    }
    let ended = start.elapsed();
    stage.scene.start_daemon();
    ended
}

/// Changes the daemon under traffic, prints what became of it, and returns that.
fn under_traffic(stage: &mut Stage, how: Change, containers: usize) -> Vec<Report> {
    // A connection is stored within half a second, for the daemon that is killed.
    thread::sleep(Duration::from_millis(1200));
    let start = Instant::now();
    let ended = change(stage, how);
    let answers = start.elapsed();
    stage.wait("after");
    let reports = stage.end();
    println!(
        "{how:?} with {containers} containers: ended after {} ms, the next one answers after {} ms",
        ended.as_millis(),
        answers.as_millis()
    );
    for report in &reports {
        println!(
            "  {:<24} {:<6} {:>7.0} ms  {} answers  {}",
            report.path,
            if report.error.is_none() {
                "lives"
            } else {
                "ended"
            },
            report.silence.as_secs_f64() * 1e3,
            report.answers,
            report.error.as_deref().unwrap_or("")
        );
    }
    reports
}

/// All but the relayed ones go on, and the silence is short.
///
/// Where sockets keep the host's kernel silent they die with the daemon, and what comes from the
/// wire until the next one is answered with a RST; a classifier stays.
#[track_caller]
fn check(scene: &Scene, reports: &[Report], limit: Duration) {
    let stays_silent = scene.json(&["info"])["host_silence"] == "tc";
    for report in reports {
        let relayed = report.path.starts_with("relayed");
        let by_wire = ["published", "masqueraded"]
            .iter()
            .any(|path| report.path.starts_with(path));
        assert!(
            report.error.is_none() || relayed || (by_wire && !stays_silent),
            "{}: {:?}",
            report.path,
            report.error
        );
        if report.path.ends_with("datagrams") {
            assert!(
                report.silence < limit,
                "{}: silent for {:?}",
                report.path,
                report.silence
            );
        }
    }
    let log = scene.log();
    assert!(log.contains("8 connections go on"), "{log}");
}

// Feature: restart
#[test]
fn connections_by_every_path_outlive_the_daemon() {
    let Some(mut stage) = Stage::new(1) else {
        return;
    };
    for how in [Change::Stop, Change::Kill, Change::Upgrade] {
        let reports = under_traffic(&mut stage, how, 3);
        check(&stage.scene, &reports, Duration::from_secs(2));
        stage.talk();
    }
}

fn with_many(containers: usize) {
    let Some(mut stage) = Stage::new(containers - 2) else {
        return;
    };
    for how in [Change::Stop, Change::Kill] {
        let reports = under_traffic(&mut stage, how, containers);
        check(&stage.scene, &reports, Duration::from_secs(5));
        stage.talk();
    }
}

// Feature: restart
#[test]
fn connections_outlive_a_daemon_of_five_hundred_containers() {
    with_many(500);
}

#[test]
#[ignore = "for its figures: a thousand containers, twice"]
fn connections_outlive_a_daemon_of_a_thousand_containers() {
    with_many(1000);
}
