//! What is really there: processes in namespaces of their own, interfaces, addresses, listeners,
//! names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use pontoon_tests::eventually;
use pontoon_tests::process::run;
use pontoon_tests::scene::Scene;
use serde_json::Value;

use crate::model::{PORTS, Port};

/// A process in a namespace of its own, to be attached; killed with the value.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(scene: &Scene) -> Process {
        let mut command = scene.host_command("unshare");
        command
            .args(["--net", "sleep", "100000"])
            .stdin(Stdio::null());
        let process = Process(command.spawn().expect("unshare starts"));
        let comm = format!("/proc/{}/comm", process.pid());
        eventually(
            "it is in its namespace",
            Duration::from_secs(10),
            || match fs::read_to_string(&comm) {
                Ok(comm) if comm.trim() == "sleep" => Ok(()),
                other => Err(format!("{other:?}")),
            },
        );
        process
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The addresses of each interface but `lo`, of global scope.
    pub(crate) fn addresses(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-n", "ip", "-j", "addr"]);
        let table = run(&mut command).success();
        let table: Value = serde_json::from_str(&table).expect("JSON");
        let mut all = BTreeMap::new();
        for link in list(&table) {
            let name = text(&link["ifname"]);
            if name == "lo" {
                continue;
            }
            let addresses = list(&link["addr_info"]).iter();
            let global = addresses.filter(|it| it["scope"] == "global");
            let addresses = global
                .map(|it| format!("{}/{}", text(&it["local"]), it["prefixlen"]))
                .collect();
            all.insert(name.to_owned(), addresses);
        }
        all
    }

    /// The gateway of its default route, of IPv4.
    pub(crate) fn default_route(&self) -> Option<Ipv4Addr> {
        let table = fs::read_to_string(format!("/proc/{}/net/route", self.pid()));
        let table = table.expect("the process lives");
        let mut rows = table.lines().skip(1).map(str::split_whitespace);
        let gateway = rows.find_map(|mut fields| {
            let (to, gateway) = (fields.nth(1)?, fields.next()?);
            (to == "00000000").then(|| gateway.to_owned())
        })?;
        // As the kernel holds it, in the order of the network on a machine of either order.
        let bytes = u32::from_str_radix(&gateway, 16).expect("hexadecimal digits");
        Some(Ipv4Addr::from(bytes.to_ne_bytes()))
    }

    /// What the server at `gateway` answers to a question for the IPv4 addresses of `name`.
    pub(crate) fn ask(&self, gateway: Ipv4Addr, name: &str) -> BTreeSet<Ipv4Addr> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).expect("it lives");
        let question = question(name);
        let answer = thread::scope(|scope| {
            let asked = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET).expect("root may enter");
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                let limit = Some(Duration::from_millis(500));
                socket.set_read_timeout(limit).expect("a timeout");
                let mut answer = [0; 1500];
                // Several times: the way there may be new.
                (0..10).find_map(|_| {
                    socket.send_to(&question, (gateway, 53)).ok()?;
                    let length = socket.recv(&mut answer).ok()?;
                    Some(answer[..length].to_vec())
                })
            });
            asked.join().expect("it asks and no more")
        });
        let answer = answer.unwrap_or_else(|| panic!("{gateway} is silent on {name}"));
        addresses_in(&answer, question.len())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// RFC 1035 clause 4.1: for the A records of a name of one label.
fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.push(u8::try_from(name.len()).expect("a short name"));
    bytes.extend(name.as_bytes());
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// The data of the records behind a question that ends at `from`; each has a compressed name.
fn addresses_in(answer: &[u8], mut from: usize) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    while let Some(record) = answer.get(from..) {
        let Ok([_, _, 0, 1, _, _, _, _, _, _, 0, 4, a, b, c, d]) =
            <[u8; 16]>::try_from(record.get(..16).unwrap_or_default())
        else {
            break;
        };
        found.insert(Ipv4Addr::new(a, b, c, d));
        from += 16;
    }
    found
}

/// The ports of the test's range that somebody on the host listens on.
pub(crate) fn listening(scene: &Scene) -> BTreeSet<Port> {
    let table = run(scene.host_command("ss").args(["-Hlntu"])).success();
    let ports = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port: u16 = fields.get(4)?.rsplit_once(':')?.1.parse().ok()?;
        let protocol = if *fields.first()? == "tcp" {
            "tcp"
        } else {
            "udp"
        };
        PORTS.contains(&port).then_some((protocol, port))
    });
    ports.collect()
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
