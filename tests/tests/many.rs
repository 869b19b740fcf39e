//! How it fares with a thousand networks and ten thousand names. What it prints are figures to be
//! compared on one machine, so it runs when it is asked for:
//!
//! `cargo test -p pontoon-tests --test many -- --ignored --nocapture`

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::pontoon;
use pontoon_tests::process::run_within;
use pontoon_tests::scene::{ANY, Scene};

const NETWORKS: usize = 1000;
/// Each with its own name, its short id and so many further ones.
const CONTAINERS: usize = 200;
const ALIASES: usize = 48;

/// Megabytes of the daemon in memory.
fn memory(scene: &Scene) -> f64 {
    let path = format!("/proc/{}/status", scene.daemon_pid());
    let status = std::fs::read_to_string(path).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: f64 = size.and_then(|it| it.parse().ok()).expect("a size");
    kilobytes / 1024.0
}

fn timed<T>(what: &str, action: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = action();
    println!(
        "{what:<48} {:>9.1} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    result
}

#[track_caller]
fn request(scene: &Scene, method: &str, path: &str, body: Option<&str>) -> String {
    let (status, answer) = scene.request(method, path, body).expect("an answer");
    assert_eq!(status, 200, "{method} {path}: {answer}");
    answer
}

/// The address that a name has.
fn resolve(socket: &UdpSocket, server: SocketAddr, name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.push(u8::try_from(name.len()).expect("a short name"));
    query.extend(name.as_bytes());
    query.extend([0, 0, 1, 0, 1]);
    socket.send_to(&query, server).expect("a route");
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).expect("an answer");
    assert_eq!((answer[3] & 15, answer[7]), (0, 1), "{name}");
    answer[length - 4..length].to_vec()
}

#[test]
#[ignore = "a minute's experiment, for its figures"]
fn a_thousand_networks_and_ten_thousand_names() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    println!("memory at the start {:>38.1} MB", memory(&scene));
    for block in 0..10 {
        let what = format!("networks {} to {}", block * 100, block * 100 + 99);
        timed(&what, || {
            for number in block * 100..(block + 1) * NETWORKS / 10 {
                let body = format!(r#"{{"name":"n{number}"}}"#);
                request(&scene, "POST", "/v1/networks", Some(&body));
            }
        });
    }
    println!("memory {:>51.1} MB", memory(&scene));
    timed("list them", || request(&scene, "GET", "/v1/networks", None));
    timed("inspect one", || {
        request(&scene, "GET", "/v1/networks/n999", None)
    });

    let namespaces: Vec<Namespace> = (0..CONTAINERS).map(|_| Namespace::new("many")).collect();
    for (block, several) in namespaces.chunks(CONTAINERS / 4).enumerate() {
        let what = format!("{} containers of {ALIASES} aliases, {block}", several.len());
        timed(&what, || {
            for (index, namespace) in several.iter().enumerate() {
                let number = block * several.len() + index;
                let aliases: Vec<String> = (0..ALIASES)
                    .map(|alias| format!(r#""c{number}-{alias}""#))
                    .collect();
                let body = format!(
                    r#"{{"name":"c{number}","mode":{{"network":"n7"}},"target":{{"netns":"{}"}},"aliases":[{}]}}"#,
                    namespace.path().display(),
                    aliases.join(",")
                );
                request(&scene, "POST", "/v1/containers", Some(&body));
            }
        });
    }
    println!("memory {:>51.1} MB", memory(&scene));
    let network = scene.json(&["network", "inspect", "n7"]);
    let network = network.get(0).unwrap_or(&network);
    let gateway: IpAddr = network["gateways"][0]
        .as_str()
        .and_then(|it| it.parse().ok())
        .expect("a gateway");
    let ask = |what: &str| {
        let socket = namespaces[0].within(|| UdpSocket::bind((ANY, 0)));
        let socket = socket.expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(5))).ok();
        timed(what, || {
            for number in 0..1000 {
                let name = format!("c{}-{}", number % CONTAINERS, number % ALIASES);
                resolve(&socket, SocketAddr::new(gateway, 53), &name);
            }
        });
    };
    ask("1,000 questions, one after the other");
    scene.end_daemon(Signal::SIGKILL);
    timed("a new daemon, until it answers", || scene.start_daemon());
    ask("1,000 questions to the new daemon");
    println!("memory {:>51.1} MB", memory(&scene));
    timed("prune the networks that nobody uses", || {
        let mut command = scene.host_command(pontoon());
        run_within(command.args(["network", "prune"]), Duration::from_secs(300)).success();
    });
}
