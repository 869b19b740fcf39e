//! A host with a pontoon daemon, and an outside host at the other end of its uplink.
//!
//! ```text
//!   container ── switch ── host ─ eth0 ════════════ eth0 ─ outside
//!   172.17.0.x          192.0.2.1, .9               192.0.2.2
//!                       203.0.113.5 (lo)            198.51.100.7 (lo)
//!   fd…::x              2001:db8:1::1, ::9          2001:db8:1::2, fe80::2
//!                       2001:db8:5::5 (lo)          2001:db8:7::7 (lo)
//! ```
//!
//! The outside knows nothing of the containers' addresses: what is not translated gets no answer.
//! On a kernel without IPv6 there is none in the scene.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::namespace::{Namespace, join};
use crate::process::{Background, Output, kill_marked, run, run_within};
use crate::{eventually, has_ipv6, is_root_or_skip, pontoon};

/// The host's first address on its uplink, which masqueraded flows leave with.
pub const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// A second address of the host on its uplink.
pub const HOST_SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
/// An address of the host that is on no wire.
pub const HOST_INNER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5));
/// The outside host, a neighbour on the uplink.
pub const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// An address of the outside host that is reached by the host's default route.
pub const BEYOND: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The host's IPv6 address on its uplink, which masqueraded flows leave with.
pub const HOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
/// A second one there that no flow should begin from: deprecated.
pub const HOST6_SECOND: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9));
/// An IPv6 address of the host that is on no wire.
pub const HOST6_INNER: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 5));
/// The outside host, a neighbour on the uplink.
pub const OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2));
/// The outside host's link-local address, by which the host's default route leads.
pub const ROUTER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2));
/// An address of the outside host that is reached by the host's default route.
pub const BEYOND6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7));
pub const LOOPBACK6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
pub const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Both kinds of port a container can have.
pub const PORT_KINDS: [&str; 2] = ["tap", "veth"];

/// See the module's description.
pub struct Scene {
    daemon: Option<Background>,
    pub host: Namespace,
    pub outside: Namespace,
    port_kind: &'static str,
    daemon_options: Vec<String>,
    state_dir: PathBuf,
    /// The daemon's; that of the tests when absent.
    program: Option<PathBuf>,
    directory: tempfile::TempDir,
    /// In the environment of every process the scene starts: `NAME=VALUE`.
    mark: String,
}

impl Scene {
    /// A scene whose containers get TAPs, with the daemon running; `None`, and the calling test is
    /// skipped, without the rights for it.
    pub fn new() -> Option<Scene> {
        Scene::with_port_kind("tap")
    }

    /// A scene whose containers get ports of a kind.
    pub fn with_port_kind(port_kind: &'static str) -> Option<Scene> {
        let mut scene = Scene::without_daemon(port_kind)?;
        scene.start_daemon();
        Some(scene)
    }

    /// A scene before the daemon was ever started.
    pub fn without_daemon(port_kind: &'static str) -> Option<Scene> {
        if !is_root_or_skip() {
            return None;
        }
        let host = Namespace::new("host");
        let outside = Namespace::new("outside");
        join((&host, "eth0"), (&outside, "eth0"));
        host.ip(&format!("addr add {HOST}/24 dev eth0"));
        host.ip(&format!("addr add {HOST_SECOND}/24 dev eth0"));
        host.ip(&format!("addr add {HOST_INNER}/32 dev lo"));
        host.ip(&format!("route add default via {OUTSIDE}"));
        outside.ip(&format!("addr add {OUTSIDE}/24 dev eth0"));
        outside.ip(&format!("addr add {BEYOND}/32 dev lo"));
        if has_ipv6() {
            host.ip(&format!("addr add {HOST6}/64 dev eth0 nodad"));
            host.ip(&format!(
                "addr add {HOST6_SECOND}/64 dev eth0 nodad preferred_lft 0"
            ));
            host.ip(&format!("addr add {HOST6_INNER}/128 dev lo nodad"));
            outside.ip(&format!("addr add {OUTSIDE6}/64 dev eth0 nodad"));
            outside.ip(&format!("addr add {ROUTER6}/64 dev eth0 nodad"));
            outside.ip(&format!("addr add {BEYOND6}/128 dev lo nodad"));
            host.ip(&format!("route add default via {ROUTER6} dev eth0"));
        }
        let directory = tempfile::Builder::new()
            .prefix("pontoon-test-")
            .tempdir()
            .expect("a temporary directory");
        Some(Scene {
            daemon: None,
            mark: format!("PONTOON_TEST_SCENE={}", host.name()),
            host,
            outside,
            port_kind,
            daemon_options: vec!["--workers".to_owned(), "2".to_owned()],
            state_dir: directory.path().join("state"),
            program: None,
            directory,
        })
    }

    /// A scene whose daemon is started with these options, instead of `--workers 2`.
    pub fn with_daemon_options(options: &[&str]) -> Option<Scene> {
        let mut scene = Scene::without_daemon("tap")?;
        scene.set_daemon_options(options);
        scene.start_daemon();
        Some(scene)
    }

    /// Options of daemons that are started from now on, instead of `--workers 2`.
    pub fn set_daemon_options(&mut self, options: &[&str]) {
        self.daemon_options = options.iter().map(|&option| option.to_owned()).collect();
    }

    /// A directory that goes with the scene.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn run_dir(&self) -> PathBuf {
        self.directory().join("run")
    }

    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Puts the daemon's state elsewhere; for before it is started.
    pub fn set_state_dir(&mut self, path: PathBuf) {
        self.state_dir = path;
    }

    /// Daemons that are started from now on are of this program.
    pub fn set_program(&mut self, path: PathBuf) {
        self.program = Some(path);
    }

    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("pontoon.sock")
    }

    /// `pontoon daemon` on the host, with the scene's directories.
    pub fn daemon_command(&self) -> Command {
        let program = self.program.clone().unwrap_or_else(pontoon);
        let mut command = self.host_command(program);
        command
            .arg("daemon")
            .arg("--state-dir")
            .arg(&self.state_dir);
        command.arg("--run-dir").arg(self.run_dir());
        command.args(["--port-kind", self.port_kind]);
        command.args(&self.daemon_options);
        command
    }

    /// Starts the daemon, and waits until it answers.
    ///
    /// # Panics
    ///
    /// It ends, or does not answer within 15 seconds.
    #[track_caller]
    pub fn start_daemon(&mut self) {
        let log = self.directory().join("daemon.log");
        let mut daemon = Background::start_logging(&mut self.daemon_command(), &log);
        eventually("the daemon answers", Duration::from_secs(15), || {
            if let Some(status) = daemon.has_ended() {
                panic!("the daemon ended ({status}):\n{}", daemon.output());
            }
            self.request("GET", "/v1/info", None)
                .map_err(|error| error.to_string())
        });
        self.daemon = Some(daemon);
    }

    /// Ends the daemon by a signal, and waits for its end.
    #[track_caller]
    pub fn end_daemon(&mut self, signal: Signal) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.end(signal)
    }

    /// Has the daemon ended by itself?
    pub fn daemon_has_ended(&mut self) -> bool {
        self.daemon
            .as_mut()
            .is_none_or(|daemon| daemon.has_ended().is_some())
    }

    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").pid()
    }

    /// What the daemon has logged, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory().join("daemon.log")).unwrap_or_default()
    }

    /// A program on the host.
    pub fn host_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.mark(self.host.command(program))
    }

    /// Lets a program be found when the scene is over, and find the daemon.
    fn mark(&self, mut command: Command) -> Command {
        let (name, value) = self.mark.split_once('=').expect("NAME=VALUE");
        command.env(name, value);
        command.env("PONTOON_SOCKET", self.socket());
        command
    }

    /// `pontoon` with these arguments, on the host.
    #[track_caller]
    pub fn pontoon(&self, arguments: &[&str]) -> Output {
        run(self.host_command(pontoon()).args(arguments))
    }

    /// The answer of a `pontoon` command to `--json`.
    ///
    /// # Panics
    ///
    /// The command fails, or what it says is not JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.pontoon(&[arguments, &["--json"]].concat()).success();
        serde_json::from_str(&output)
            .unwrap_or_else(|error| panic!("pontoon {arguments:?} --json: {error}: {output}"))
    }

    /// Attaches a new namespace as a container.
    #[track_caller]
    pub fn container(&self, name: &str, options: &[&str]) -> Container {
        let namespace = Namespace::new(name);
        self.attach(namespace, name, options)
    }

    /// Attaches a namespace as a container.
    #[track_caller]
    pub fn attach(&self, namespace: Namespace, name: &str, options: &[&str]) -> Container {
        let path = namespace.path();
        let path = path.to_str().expect("an ASCII path");
        let arguments = [&["attach", "--netns", path, "--name", name], options].concat();
        self.pontoon(&arguments).success();
        let container = self.json(&["inspect", name]);
        Container {
            namespace,
            address: address_of(&container),
            addresses: addresses_of(&container),
        }
    }

    /// A redis server in the container `redis`, published on port 6379 and writing nothing.
    #[track_caller]
    pub fn run_redis(&self) {
        let directory = self.directory().to_str().expect("an ASCII path");
        let quiet = ["--save", "", "--appendonly", "no", "--protected-mode", "no"];
        let command = [&["redis-server"], &quiet[..], &["--dir", directory]].concat();
        self.run_detached("redis", &["-p", "6379:6379"], &command);
    }

    /// `pontoon run -d`: returns the container's address.
    #[track_caller]
    pub fn run_detached(&self, name: &str, options: &[&str], command: &[&str]) -> IpAddr {
        let arguments = [&["run", "-d", "--name", name], options, &["--"], command].concat();
        self.pontoon(&arguments).success();
        address_of(&self.json(&["inspect", name]))
    }

    /// One request to the daemon's API, past the CLI: status and body.
    ///
    /// # Errors
    ///
    /// No daemon answers, or its answer is not HTTP.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> io::Result<(u16, String)> {
        let body = body.unwrap_or("");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: pontoon\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.converse(head.as_bytes())?;
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = answer.split_once("\r\n\r\n");
        match (status, body) {
            (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
            _ => Err(io::Error::other(format!("no HTTP answer: {answer:?}"))),
        }
    }

    /// Writes bytes to the daemon's socket and reads until it closes, five seconds at the most.
    ///
    /// # Errors
    ///
    /// Nobody answers there.
    pub fn converse(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        // The daemon may have answered and hung up before it was told everything.
        stream.write_all(bytes).ok();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if answer.is_empty() => Err(error),
            _ => Ok(answer),
        }
    }

    /// Frames dropped so far for a reason, by its name.
    #[track_caller]
    pub fn drops(&self, reason: &str) -> u64 {
        let (status, body) = self
            .request("GET", "/v1/counters", None)
            .expect("the daemon answers");
        assert_eq!(status, 200, "{body}");
        let counters: Value = serde_json::from_str(&body).expect("JSON");
        let rows = counters["drops"].as_array().expect("a list of drops");
        let row = rows.iter().find(|row| row["reason"] == reason);
        row.unwrap_or_else(|| panic!("no reason {reason} in {body}"))["frames"]
            .as_u64()
            .expect("a number of frames")
    }

    /// A second interface of the host, `lan0`, into a LAN of its own: 10.9.0.2 and, there,
    /// 10.9.0.5.
    pub fn second_interface(&self) -> Namespace {
        let lan = Namespace::new("lan");
        join((&self.host, "lan0"), (&lan, "eth0"));
        self.host.ip("addr add 10.9.0.2/24 dev lan0");
        lan.ip("addr add 10.9.0.5/24 dev eth0");
        lan
    }

    /// A layer 3 tunnel between the host (10.8.0.2) and the outside (10.8.0.1): TUN devices `tun0`
    /// on both ends, as a VPN without encryption.
    pub fn tunnel(&self) -> Background {
        const PROGRAM: &str = r#"
import ctypes, fcntl, os, select, struct, sys
def tun(name):
    f = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(f, 0x400454ca, struct.pack("16sH22x", name, 0x1001))
    return f
here = tun(b"tun0")
there = os.open(sys.argv[1], os.O_RDONLY)
assert ctypes.CDLL(None, use_errno=True).setns(there, 0) == 0
ends = [here, tun(b"tun0")]
print("ready", flush=True)
while True:
    for f in select.select(ends, [], [])[0]:
        try: os.write(ends[1 - ends.index(f)], os.read(f, 65536))
        except OSError: pass
"#;
        let outside = self.outside.path();
        let mut command = self.host_command("python3");
        let mut program = Background::start(command.args(["-c", PROGRAM]).arg(outside));
        program.wait_for_output("ready");
        for (namespace, address) in [(&self.host, "10.8.0.2"), (&self.outside, "10.8.0.1")] {
            namespace.ip(&format!("addr add {address}/24 dev tun0"));
            namespace.ip("link set tun0 up mtu 1400");
        }
        program
    }

    /// The interfaces of the host, by name, but for the one behind which names are answered: it
    /// ends with the daemon.
    pub fn host_interfaces(&self) -> Vec<String> {
        let mut interfaces = interfaces(&self.host);
        interfaces.retain(|name| name != "pt-names");
        interfaces
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let log = self.log();
        if thread::panicking() {
            let skipped = log.lines().count().saturating_sub(60);
            let tail: Vec<&str> = log.lines().skip(skipped).collect();
            eprintln!("--- the daemon's log ends:\n{}\n---", tail.join("\n"));
        }
        let died = self.daemon.is_some() && self.daemon_has_ended();
        kill_marked(&self.mark);
        if !thread::panicking() {
            assert!(!log.contains("panicked at"), "the daemon panicked:\n{log}");
            assert!(!died, "the daemon ended by itself:\n{log}");
        }
    }
}

/// A namespace that is attached to the switch. Dropping it kills the namespace, as an engine that
/// says nothing would.
pub struct Container {
    pub namespace: Namespace,
    /// The first one: of IPv4, if there is one.
    pub address: IpAddr,
    pub addresses: Vec<IpAddr>,
}

impl Container {
    /// Its IPv6 address.
    ///
    /// # Panics
    ///
    /// It has none.
    #[track_caller]
    pub fn ipv6(&self) -> IpAddr {
        let mut addresses = self.addresses.iter();
        *addresses.find(|ip| ip.is_ipv6()).unwrap_or_else(|| {
            panic!("no IPv6 among {:?}", self.addresses);
        })
    }
}

/// The first address of a container, as the API tells it.
///
/// # Panics
///
/// It has none.
#[track_caller]
pub fn address_of(container: &Value) -> IpAddr {
    let addresses = addresses_of(container);
    *addresses
        .first()
        .unwrap_or_else(|| panic!("no address in {container}"))
}

/// The addresses of a container, as the API tells them.
pub fn addresses_of(container: &Value) -> Vec<IpAddr> {
    // `inspect` of one name may tell of it alone or in a list of one, as `docker inspect` does.
    let container = container.get(0).unwrap_or(container);
    let addresses = container["endpoints"][0]["addresses"].as_array();
    let networks = addresses.into_iter().flatten().filter_map(Value::as_str);
    networks
        .filter_map(|network| network.parse::<ipnet::IpNet>().ok())
        .map(|network| network.addr())
        .collect()
}

/// The interfaces of a namespace, by name.
pub fn interfaces(namespace: &Namespace) -> Vec<String> {
    let links = namespace.ip("-j link show");
    let links: Value = serde_json::from_str(&links).expect("ip -j speaks JSON");
    let names = links.as_array().expect("a list of links").iter();
    names
        .filter_map(|link| link["ifname"].as_str().map(str::to_owned))
        .collect()
}

/// The seconds in which a large thing may happen on a busy machine.
#[track_caller]
pub fn run_long(command: &mut Command) -> Output {
    run_within(command, Duration::from_secs(90))
}
