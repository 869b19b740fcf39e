//! A thousand endpoints: attached, idle, adopted by the next daemon, and taken away again, in a time
//! that does not grow with how many there are. Bounds are several times what an idle machine of two
//! CPUs takes; the figures are part of the output.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use pontoon_tests::scene::Scene;
use serde_json::{Value, json};

const ENDPOINTS: usize = 1_000;
/// Endpoints whose time is taken together.
const BATCH: usize = 100;
/// Clients at a time, as an engine that starts containers side by side.
const CLIENTS: usize = 4;

/// One test at a time: they measure.
static TURN: Mutex<()> = Mutex::new(());

/// Network namespaces that nothing but this process holds.
struct Namespaces(Vec<File>);

impl Namespaces {
    fn new(count: usize) -> Namespaces {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make namespaces");
            File::open("/proc/thread-self/ns/net").expect("the namespace of this thread")
        };
        let made = (0..count).map(|_| thread::spawn(make).join().expect("it does not panic"));
        Namespaces(made.collect())
    }

    /// The request that attaches one of them as `c-NUMBER`.
    fn request(&self, number: usize) -> String {
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.0[number].as_raw_fd()
        );
        let name = format!("c-{number}");
        json!({"name": name, "mode": {"network": "bridge"}, "target": {"netns": path}, "remove_on_exit": true})
            .to_string()
    }
}

fn attach(scene: &Scene, namespaces: &Namespaces, number: usize) {
    let request = namespaces.request(number);
    let answer = scene.request("POST", "/v1/containers", Some(&request));
    let (status, body) = answer.expect("the daemon answers");
    assert!(status < 300, "attach {number}: {status} {body}");
}

fn detach(scene: &Scene, number: usize) {
    let answer = scene.request("DELETE", &format!("/v1/containers/c-{number}"), None);
    let (status, body) = answer.expect("the daemon answers");
    assert!(status < 300, "detach {number}: {status} {body}");
}

/// Does something with each endpoint, by so many clients; returns how long each batch took.
fn batches(clients: usize, work: impl Fn(usize) + Sync) -> Vec<Duration> {
    let batches = (0..ENDPOINTS).step_by(BATCH);
    let time = |first: usize| {
        let start = Instant::now();
        thread::scope(|scope| {
            for client in 0..clients {
                let work = &work;
                let mine = (first + client..first + BATCH).step_by(clients);
                scope.spawn(move || mine.for_each(work));
            }
        });
        start.elapsed()
    };
    batches.map(time).collect()
}

fn tell(port_kind: &str, what: &str, batches: &[Duration]) -> Duration {
    let sum: Duration = batches.iter().sum();
    let each: Vec<String> = batches
        .iter()
        .map(|batch| format!("{:.1}", batch.as_secs_f64() * 1e3 / BATCH as f64))
        .collect();
    eprintln!(
        "{port_kind}, {what}: {ENDPOINTS} in {:.2} s; ms each, by the hundred: {}",
        sum.as_secs_f64(),
        each.join(" ")
    );
    sum
}

/// A field of /proc/PID/status in kB.
fn status(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with(key)).expect("the field");
    let mut words = line.split_whitespace();
    words.nth(1).and_then(|it| it.parse().ok()).expect("kB")
}

/// CPU time that the daemon has used, in ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    // utime and stime are the 14th and 15th fields; the second one may hold blanks.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
    let parse = |index: usize| fields[index].parse::<u64>().expect("a number of ticks");
    parse(12) + parse(13)
}

/// What the daemon uses in the quietest of three times five seconds: a thousand new interfaces have
/// a few last words of their own, and ticks are charged to whoever runs when the clock strikes.
fn idle_ticks(pid: u32) -> u64 {
    let windows = (0..3).map(|_| {
        let before = ticks(pid);
        thread::sleep(Duration::from_secs(5));
        ticks(pid) - before
    });
    windows.min().expect("three of them")
}

fn containers(scene: &Scene) -> Vec<Value> {
    let (status, body) = scene
        .request("GET", "/v1/containers", None)
        .expect("it answers");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("a list of containers")
}

fn a_thousand_endpoints(port_kind: &'static str, dies: bool) {
    let _turn = TURN.lock().unwrap_or_else(|poison| poison.into_inner());
    let Some(mut scene) = Scene::with_port_kind(port_kind) else {
        return;
    };
    let start = Instant::now();
    let namespaces = Namespaces::new(ENDPOINTS);
    eprintln!(
        "{port_kind}: namespaces of the test's own in {:?}",
        start.elapsed()
    );
    let pid = scene.daemon_pid();
    let empty = status(pid, "VmRSS:");

    // One after the other.
    let attached = batches(1, |number| attach(&scene, &namespaces, number));
    let took = tell(port_kind, "attached", &attached);
    let memory = (status(pid, "VmRSS:") - empty) * 1024 / ENDPOINTS as u64;
    eprintln!("{port_kind}: {memory} B of the daemon's memory an endpoint");
    assert!(took < Duration::from_secs(60), "attached in {took:?}");
    // Part of the growth is the kernel's: the sysctl directories of all namespaces share one chain of
    // its name cache.
    let (first, last) = (attached[0], attached[attached.len() - 1]);
    assert!(
        last < first * 10,
        "the first hundred took {first:?}, the last one {last:?}"
    );
    assert!(memory < 64 << 10, "{memory} B an endpoint");

    let used = idle_ticks(pid);
    eprintln!("{port_kind}: {used} ticks of CPU in 5 idle seconds");
    assert!(used <= 5, "{used} ticks of CPU in 5 idle seconds");

    if dies {
        scene.end_daemon(Signal::SIGKILL);
        let start = Instant::now();
        scene.start_daemon();
        let took = start.elapsed();
        eprintln!("{port_kind}: adopted in {took:?}");
        assert!(took < Duration::from_secs(15), "adopted in {took:?}");
    }
    let adopted = containers(&scene);
    let running = adopted.iter().filter(|it| it["status"] == "running");
    assert_eq!(running.count(), ENDPOINTS);

    let detached = batches(CLIENTS, |number| detach(&scene, number));
    let took = tell(port_kind, "detached", &detached);
    assert!(took < Duration::from_secs(60), "detached in {took:?}");
    assert_eq!(containers(&scene).len(), 0);

    // And again, side by side, the half of them.
    let attached = batches(CLIENTS, |number| {
        if number % 2 == 0 {
            attach(&scene, &namespaces, number);
        }
    });
    tell(port_kind, "attached side by side, every second", &attached);

    // Their namespaces end all at once, which nobody tells the daemon.
    let start = Instant::now();
    drop(namespaces);
    while !containers(&scene).is_empty() {
        assert!(
            start.elapsed() < Duration::from_secs(90),
            "{} are left",
            containers(&scene).len()
        );
        thread::sleep(Duration::from_millis(100));
    }
    eprintln!("{port_kind}: ended all at once in {:?}", start.elapsed());
}

#[test]
fn a_thousand_taps() {
    a_thousand_endpoints("tap", true);
}

#[test]
#[ignore = "another minute, most of it the kernel's: it closes packet sockets one after the other"]
fn a_thousand_veths() {
    // The kernel takes half a minute to close a dead daemon's packet sockets, one after the other.
    a_thousand_endpoints("veth", false);
}
