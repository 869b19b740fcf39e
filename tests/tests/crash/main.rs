//! The daemon is killed at random moments of a long random sequence of operations, and its disk is
//! full at others. What it tells then, what the next one tells, and what the kernel holds, is a state
//! that was asked for: the operation under way is there whole or not at all.
//!
//! `PONTOON_CRASH_SEED` repeats a sequence (its moments are the machine's), `PONTOON_CRASH_SECONDS`
//! makes it longer: hours, if one likes.

mod kernel;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use pontoon_tests::eventually;
use pontoon_tests::process::{run, signal_process};
use pontoon_tests::scene::Scene;
use serde_json::{Value, json};

use kernel::{Process, list, listening, text};
use model::{Attached, BRIDGE, CONTAINERS, Model, Operation, Port, Random};

const SECONDS: u64 = 25;

/// How long news of a process's end or of an interface may take.
const PATIENCE: Duration = Duration::from_secs(6);

struct World {
    scene: Scene,
    disk: Disk,
    random: Random,
    model: Model,
    /// One for each name that a container may have, attached or not.
    processes: BTreeMap<String, Process>,
    /// What the last operation of a kind took.
    durations: BTreeMap<&'static str, Duration>,
    /// The last operations, for who reads of a failure.
    history: Vec<String>,
}

impl World {
    /// Carries an operation out. None if the daemon went away meanwhile.
    fn perform(&mut self, operation: &Operation) -> Option<(u16, String)> {
        let mapping = |(protocol, port): &Port| json!({"protocol": protocol, "host_port": port, "container_port": 80, "count": 1});
        let (method, path, body) = match operation {
            Operation::CreateNetwork(name) => {
                // Few addresses: those that nobody gives back are missed soon.
                let number = &name[1..];
                let subnet = format!("10.66.{number}.0/28");
                let body = json!({ "name": name, "subnets": [subnet] });
                ("POST", "/v1/networks".to_owned(), Some(body))
            }
            Operation::RemoveNetwork(name) => ("DELETE", format!("/v1/networks/{name}"), None),
            Operation::Attach {
                name,
                networks,
                kind,
                ports,
            } => {
                let process = self.processes.get(name).expect("started before");
                let mut networks = networks.iter();
                let first = networks.next().expect("one at least");
                let also = networks.map(|it| json!({"network": it, "port_kind": kind}));
                let body = json!({
                    "name": name,
                    "mode": {"network": first},
                    "also": also.collect::<Vec<_>>(),
                    "target": {"pid": process.pid()},
                    "port_kind": kind,
                    "publish": ports.iter().map(mapping).collect::<Vec<_>>(),
                    "remove_on_exit": true,
                });
                ("POST", "/v1/containers".to_owned(), Some(body))
            }
            Operation::Detach(name) => ("DELETE", format!("/v1/containers/{name}"), None),
            Operation::Connect {
                name,
                network,
                kind,
            } => {
                let body = json!({"network": network, "port_kind": kind});
                let path = format!("/v1/containers/{name}/endpoints");
                ("POST", path, Some(body))
            }
            Operation::Disconnect { name, network } => {
                let path = format!("/v1/containers/{name}/endpoints/{network}");
                ("DELETE", path, None)
            }
            Operation::Publish(name, port) | Operation::Unpublish(name, port) => {
                let method = match operation {
                    Operation::Publish(..) => "POST",
                    _ => "DELETE",
                };
                let path = format!("/v1/containers/{name}/ports");
                (method, path, Some(json!([mapping(port)])))
            }
            Operation::Kill(name) => {
                self.processes.remove(name);
                return Some((200, String::new()));
            }
        };
        let body = body.map(|body| body.to_string());
        self.scene.request(method, &path, body.as_deref()).ok()
    }

    /// What the daemon tells of networks and containers.
    fn told(&self) -> (Value, Value) {
        let get = |path| {
            let (status, body) = self.scene.request("GET", path, None).expect("it answers");
            assert_eq!(status, 200, "{body}");
            serde_json::from_str::<Value>(&body).expect("JSON")
        };
        (get("/v1/networks"), get("/v1/containers"))
    }

    fn told_model(&self) -> Model {
        let (networks, containers) = self.told();
        let names = list(&networks).iter().map(|it| text(&it["name"]));
        let port = |port: &Value| {
            let number = port["host_port"].as_u64().expect("a port");
            let protocol = match text(&port["protocol"]) {
                "tcp" => "tcp",
                _ => "udp",
            };
            (protocol, u16::try_from(number).expect("a port"))
        };
        let attached = |container: &Value| {
            let endpoints = list(&container["endpoints"]).iter();
            Attached {
                networks: endpoints
                    .map(|it| text(&it["network"]).to_owned())
                    .collect(),
                ports: list(&container["published"]).iter().map(port).collect(),
            }
        };
        Model {
            networks: names
                .filter(|name| *name != BRIDGE)
                .map(str::to_owned)
                .collect(),
            containers: list(&containers)
                .iter()
                .map(|it| (text(&it["name"]).to_owned(), attached(it)))
                .collect(),
        }
    }

    /// Waits until the daemon tells one of these states, and takes it for true.
    fn settle(&mut self, states: &[Model]) {
        let model = eventually("a state that was asked for", PATIENCE, || {
            let told = self.told_model();
            if states.contains(&told) {
                return Ok(told);
            }
            Err(format!(
                "told: {told:#?}\nasked for: {states:#?}\n{:#?}",
                self.history
            ))
        });
        self.model = model;
    }

    /// Compares what the kernel holds with what the daemon tells.
    fn check_kernel(&self) {
        eventually("the kernel holds what is told", PATIENCE, || {
            self.compare_kernel()
                .map_err(|difference| format!("{difference}\n{:#?}", self.history))
        });
    }

    fn compare_kernel(&self) -> Result<(), String> {
        fn same<T: PartialEq + Debug>(what: &str, there: T, told: T) -> Result<(), String> {
            if there == told {
                return Ok(());
            }
            Err(format!("{what}: there are {there:?}, told {told:?}"))
        }
        let (networks, containers) = self.told();
        let mut interfaces: BTreeSet<String> = ["lo", "eth0"].map(str::to_owned).into();
        let mut given = BTreeSet::new();
        let name = |value: &Value| value.as_str().map(str::to_owned);
        for network in list(&networks) {
            interfaces.extend(name(&network["host_interface"]));
        }
        for container in list(&containers) {
            for endpoint in list(&container["endpoints"]) {
                interfaces.extend(name(&endpoint["host_interface"]));
                for address in list(&endpoint["addresses"]) {
                    if !given.insert(address.to_string()) {
                        return Err(format!("{address} is given twice: {containers:#}"));
                    }
                }
            }
        }
        let there = self.scene.host_interfaces().into_iter().collect();
        same("interfaces of the host", there, interfaces)?;
        for (name, process) in &self.processes {
            let container = list(&containers).iter().find(|it| it["name"] == **name);
            let endpoints = container.map_or(&[][..], |it| list(&it["endpoints"]));
            let told = endpoints.iter().map(|endpoint| {
                let addresses = list(&endpoint["addresses"]).iter();
                let addresses = addresses.map(|it| text(it).to_owned()).collect();
                (text(&endpoint["interface"]).to_owned(), addresses)
            });
            same(
                &format!("interfaces of {name}"),
                process.addresses(),
                told.collect(),
            )?;
            let mut routes = endpoints.iter().flat_map(|it| list(&it["default_routes"]));
            let told = routes.find_map(|it| text(it).parse().ok());
            let what = format!("default route of {name}");
            same(&what, process.default_route(), told)?;
        }
        same("ports", listening(&self.scene), self.model.served())?;
        self.compare_names(&containers)
    }

    /// One container of each network asks for all names.
    fn compare_names(&self, containers: &Value) -> Result<(), String> {
        let mut asked = BTreeSet::new();
        for container in list(containers) {
            let process = &self.processes[text(&container["name"])];
            let mine = list(&container["endpoints"]);
            for endpoint in mine {
                let gateways = list(&endpoint["gateways"]).iter();
                let mut gateway = gateways.filter_map(|it| text(it).parse::<Ipv4Addr>().ok());
                let Some(gateway) = gateway.next_back().filter(|it| asked.insert(*it)) else {
                    continue;
                };
                for number in 0..CONTAINERS {
                    let name = format!("c{number}");
                    let named = list(containers).iter().find(|it| it["name"] == *name);
                    let theirs = named.map_or(&[][..], |it| list(&it["endpoints"]));
                    let shared = theirs
                        .iter()
                        .filter(|it| mine.iter().any(|my| my["network"] == it["network"]));
                    let told: BTreeSet<Ipv4Addr> = shared
                        .flat_map(|it| list(&it["addresses"]))
                        .filter_map(|it| text(it).split('/').next()?.parse().ok())
                        .collect();
                    let there = process.ask(gateway, &name);
                    if there != told {
                        return Err(format!(
                            "{gateway} tells {} of {name}: {there:?}, not {told:?}",
                            container["name"]
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// One operation while the daemon lives.
    fn step(&mut self) {
        let (operation, next) = self.choose();
        let start = Instant::now();
        let answer = self.perform(&operation);
        self.durations.insert(operation.kind(), start.elapsed());
        let (status, body) = answer.expect("the daemon lives");
        assert!(
            (200..300).contains(&status),
            "{operation:?}: {status} {body}\n{:#?}",
            self.history
        );
        self.settle(&[next]);
    }

    /// One operation, and the daemon's death somewhere in it or shortly after.
    fn crash(&mut self) {
        let (operation, next) = self.choose();
        let usual = self.durations.get(operation.kind()).copied();
        let usual = usual.unwrap_or(Duration::from_millis(30));
        let limit = u64::try_from(usual.as_micros() * 5 / 4 + 100).expect("short");
        let moment = Duration::from_micros(self.random.below(limit));
        self.history
            .push(format!("killed after {moment:?} of the last"));
        let pid = self.scene.daemon_pid();
        let killer = thread::spawn(move || {
            thread::sleep(moment);
            signal_process(pid, Signal::SIGKILL);
        });
        let answer = self.perform(&operation);
        killer.join().expect("it only sleeps and kills");
        self.scene.end_daemon(Signal::SIGKILL);
        let states = match (&operation, answer) {
            (Operation::Kill(_), _) | (_, Some((200..300, _))) => vec![next],
            (_, None) => vec![self.model.clone(), next],
            (_, Some(refused)) => panic!("{operation:?}: {refused:?}\n{:#?}", self.history),
        };
        self.scene.start_daemon();
        self.settle(&states);
        self.check_kernel();
    }

    /// Operations while the store's disk is full: each done whole, or refused with the reason.
    fn fill_disk(&mut self) {
        self.history.push("the disk is full".to_owned());
        self.disk.fill();
        for _ in 0..3 {
            let (operation, next) = self.choose();
            let (status, body) = self.perform(&operation).expect("the daemon lives");
            let state = match status {
                200..300 => next,
                _ => {
                    assert!(
                        status == 500 && body.contains("disk"),
                        "{operation:?}: {status} {body}"
                    );
                    self.history.push("refused".to_owned());
                    self.model.clone()
                }
            };
            self.settle(&[state]);
        }
        self.check_kernel();
        self.disk.empty();
        self.history.push("the disk has room again".to_owned());
    }

    /// The next operation, and what it leads to.
    fn choose(&mut self) -> (Operation, Model) {
        let operation = self.model.choose(&mut self.random);
        if let Operation::Attach { name, .. } = &operation
            && !self.processes.contains_key(name)
        {
            self.processes
                .insert(name.clone(), Process::start(&self.scene));
        }
        if self.history.len() >= 30 {
            self.history.remove(0);
        }
        self.history.push(format!("{operation:?}"));
        let mut next = self.model.clone();
        operation.apply(&mut next);
        (operation, next)
    }
}

/// A small disk that can be filled; it goes with the value.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path) -> Disk {
        fs::create_dir_all(path).expect("a directory for the mount");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "pontoon-test"]);
        run(mount.arg(path)).success();
        Disk(path.to_owned())
    }

    fn fill(&self) {
        fs::write(self.0.join("filler"), vec![0; 9 << 20]).expect_err("the disk is full");
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).expect("the filler can go");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, as the daemon may still be there.
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|error| panic!("{name}={value}: {error}")),
    )
}

// Feature: restart moby-36591 plugins-752
#[test]
fn a_crash_leaves_a_state_that_was_asked_for() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let seed = setting("PONTOON_CRASH_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::from(now.expect("after 1970").subsec_nanos())
    });
    let seconds = setting("PONTOON_CRASH_SECONDS").unwrap_or(SECONDS);
    println!("PONTOON_CRASH_SEED={seed}");
    let directory = scene.directory().join("disk");
    let disk = Disk::mount(&directory);
    scene.set_state_dir(directory.join("state"));
    scene.start_daemon();
    let mut world = World {
        scene,
        disk,
        random: Random(seed),
        model: Model::default(),
        processes: BTreeMap::new(),
        durations: BTreeMap::new(),
        history: Vec::new(),
    };
    let start = Instant::now();
    let (mut steps, mut crashes) = (0, 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..world.random.below(8) {
            world.step();
            steps += 1;
        }
        if world.random.below(8) == 0 {
            world.fill_disk();
        }
        world.crash();
        crashes += 1;
    }
    println!("{crashes} crashes among {steps} operations");
}
