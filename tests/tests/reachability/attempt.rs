//! One attempt of a cell, and what became of it.

use std::fmt;
use std::io::Read;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Duration;

use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::run;
use pontoon_tests::scene::{ANY, ANY6};
use pontoon_tests::traffic::bind_udp;

use super::scenery::Scenery;
use super::table::Means;

/// How long an answer may take before the next attempt, or silence is believed.
const WAIT: Duration = Duration::from_secs(3);
/// Datagrams of one attempt.
const DATAGRAMS: u32 = 3;

/// One attempt of a cell.
pub(crate) struct Probe<'a> {
    pub(crate) from: &'a Namespace,
    pub(crate) to: SocketAddr,
    pub(crate) means: Means,
    /// The name that is asked for.
    pub(crate) name: String,
    /// Those who count if they hear it; the one who should, if it is expected.
    pub(crate) hearers: Vec<String>,
    pub expected: bool,
}

/// What became of a probe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Nothing,
    /// It came, and no answer returned.
    Heard,
    Answered,
    /// Somebody else took the connection.
    AnsweredBy(String),
}

impl fmt::Display for Probe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected = if self.expected { "should" } else { "must not" };
        write!(f, "{:?} to {} {}", self.means, self.to, self.name)?;
        write!(f, " from {} {expected} reach", self.from.name())
    }
}

impl Scenery<'_> {
    pub(crate) fn try_once(&self, probe: &Probe) -> Outcome {
        match probe.means {
            Means::Ping => ping(probe),
            Means::Tcp => connect(probe),
            Means::Udp => self.send(probe),
            Means::Name => ask(probe),
        }
    }

    fn send(&self, probe: &Probe) -> Outcome {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let socket = socket_for(probe);
        let mut buffer = [0; 512];
        let mut is_answered = false;
        for _ in 0..DATAGRAMS {
            // That there is no route, or none any more, is an answer too.
            socket.send_to(&token.to_be_bytes(), probe.to).ok();
            while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                let server = String::from_utf8_lossy(&buffer[..length]);
                is_answered |= probe.hearers.iter().any(|it| *it == server);
                if is_answered {
                    return Outcome::Answered;
                }
            }
        }
        let heard = self.heard.lock().expect("no panic");
        let is_heard = |name: &String| heard.contains(&(name.clone(), token));
        match probe.hearers.iter().any(is_heard) {
            true => Outcome::Heard,
            false => Outcome::Nothing,
        }
    }
}

/// A socket from which datagrams of a probe are sent.
fn socket_for(probe: &Probe) -> UdpSocket {
    let any = if probe.to.is_ipv4() { ANY } else { ANY6 };
    let socket = bind_udp(probe.from, (any, 0));
    let timeout = Some(WAIT / DATAGRAMS);
    socket.set_read_timeout(timeout).expect("a timeout");
    if any.is_ipv4() {
        socket.set_broadcast(true).expect("it may broadcast");
        socket.set_multicast_ttl_v4(64).expect("a TTL");
    }
    socket
}

fn ping(probe: &Probe) -> Outcome {
    let to = match probe.to {
        SocketAddr::V6(to) if to.scope_id() != 0 => format!("{}%eth0", to.ip()),
        to => to.ip().to_string(),
    };
    let mut command = probe.from.command("ping");
    let output = run(command.args(["-n", "-c", "3", "-i", "0.3", "-W", "3", &to]));
    match output.stdout.contains(" bytes from ") {
        true => Outcome::Answered,
        false => Outcome::Nothing,
    }
}

fn connect(probe: &Probe) -> Outcome {
    let connect = || TcpStream::connect_timeout(&probe.to, WAIT);
    let Ok(mut stream) = probe.from.within(connect) else {
        return Outcome::Nothing;
    };
    stream.set_read_timeout(Some(WAIT)).expect("a timeout");
    let mut name = String::new();
    stream.read_to_string(&mut name).ok();
    match probe.expected && probe.hearers.contains(&name) {
        true => Outcome::Answered,
        false => Outcome::AnsweredBy(name),
    }
}

fn ask(probe: &Probe) -> Outcome {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in probe.name.split('.') {
        question.push(u8::try_from(label.len()).expect("a short label"));
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let socket = socket_for(probe);
    let mut buffer = [0; 512];
    for _ in 0..DATAGRAMS {
        socket.send_to(&question, probe.to).ok();
        if socket.recv_from(&mut buffer).is_ok() {
            break;
        }
    }
    let (code, answers) = (buffer[3] & 0x0f, buffer[7]);
    match code == 0 && answers > 0 {
        true => Outcome::Answered,
        false => Outcome::Nothing,
    }
}
