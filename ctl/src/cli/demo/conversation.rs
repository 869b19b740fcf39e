//! The conversations of the demo: who asks whom, what should come of it, and whether it did.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;

use super::answer::{Answer, Echo, Timing};
use super::interrupt;
use super::report::Report;
use super::stage::{Place, Stage, typed};
use crate::api::{Connection, FdbEntry, Flow};

/// Where the servers listen, in the container and outside.
pub(super) const SERVER_PORT: u16 = 80;
/// What the container's server is published on.
const PUBLISHED_PORT: u16 = 8080;

/// Who plays, by their addresses of one family; those of pontoon's as the daemon tells.
pub(super) struct Cast {
    pub(super) client: IpAddr,
    pub(super) web: IpAddr,
    pub(super) gateway: IpAddr,
    pub(super) uplink: IpAddr,
    pub(super) outside: IpAddr,
    pub(super) loopback: IpAddr,
}

/// One conversation, and what is right about it.
pub(super) struct Path {
    title: &'static str,
    story: &'static str,
    place: Place,
    /// The container that asks, if it isn't the place itself.
    container: Option<&'static str>,
    ask: SocketAddr,
    /// Whether ICMP goes the same way: a published port publishes none.
    ping: Option<Ipv4Addr>,
    server: &'static str,
    /// Where the server is.
    me: SocketAddr,
    /// Whom it should see, and why.
    you: IpAddr,
    whose: &'static str,
    /// Source of the connection as the client made it, where pontoon translates.
    translated_from: Option<IpAddr>,
    /// Why there is no connection entry, where there is none.
    untranslated: &'static str,
}

pub(super) fn paths(cast: &Cast) -> [Path; 4] {
    let web = SocketAddr::new(cast.web, SERVER_PORT);
    let outside = SocketAddr::new(cast.outside, SERVER_PORT);
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    };
    [
        Path {
            title: "container → container",
            story: "one network: the switch forwards by MAC address and translates nothing",
            place: Place::Host,
            container: Some("client"),
            ask: web,
            ping: v4(cast.web),
            server: "web",
            me: web,
            you: cast.client,
            whose: "the client's own address",
            translated_from: None,
            untranslated: "no connection entry: nothing is translated, the forwarding table suffices",
        },
        Path {
            title: "container → outside",
            story: "the gateway routes, NAT masquerades; the outside knows no container addresses",
            place: Place::Host,
            container: Some("client"),
            ask: outside,
            ping: v4(cast.outside),
            server: "outside",
            me: outside,
            you: cast.uplink,
            whose: "the host's uplink address",
            translated_from: Some(cast.client),
            untranslated: "no connection entry",
        },
        Path {
            title: "outside → published port",
            story: "NAT sends port 8080 of the host to port 80 of web, and leaves the source alone",
            place: Place::Outside,
            container: None,
            ask: SocketAddr::new(cast.uplink, PUBLISHED_PORT),
            ping: None,
            server: "web",
            me: web,
            you: cast.outside,
            whose: "the outside client's own address",
            translated_from: Some(cast.outside),
            untranslated: "no connection entry",
        },
        Path {
            title: "127.0.0.1 → published port",
            story: "loopback never reaches a wire: a relay accepts, and asks web for the caller",
            place: Place::Host,
            container: None,
            ask: SocketAddr::new(cast.loopback, PUBLISHED_PORT),
            ping: None,
            server: "web",
            me: web,
            you: cast.gateway,
            whose: "the gateway, for which the relay speaks",
            translated_from: None,
            untranslated: "no connection entry: the relay's own socket talks to web, over the bridge",
        },
    ]
}

/// What came of asking over one protocol.
struct Asked {
    protocol: &'static str,
    /// The answer's first line.
    said: String,
    timing: Timing,
    /// Whom the server saw, and who it is; ICMP does not tell.
    seen: Option<(SocketAddr, SocketAddr)>,
    /// The entry of the conversation while it lasted.
    connection: Option<Connection>,
}

/// Has one conversation over every protocol, prints it, and tells whether all of it was right.
pub(super) fn walk(
    stage: &mut Stage,
    report: &mut Report<'_>,
    number: usize,
    path: &Path,
) -> Result<bool> {
    report.section(&format!("{number}. {}", path.title))?;
    report.note(path.story)?;
    let ask = path.ask.to_string();
    let ping = path.ping.map(|address| address.to_string());
    let mut questions = vec![
        ("tcp", vec!["--ask", &ask]),
        ("udp", vec!["--ask", &ask, "--udp"]),
    ];
    if let Some(address) = &ping {
        questions.push(("icmp", vec!["--ping", address]));
    }

    let mut good = true;
    let mut asked = Vec::new();
    for (protocol, question) in &questions {
        match put(stage, report, path, protocol, question)? {
            Some(outcome) => asked.push(outcome),
            None => good = false,
        }
    }
    for (right, text) in judge(path, &asked) {
        report.check(right, &text)?;
        good &= right;
    }
    let connections: Vec<&Connection> = asked
        .iter()
        .filter_map(|asked| asked.connection.as_ref())
        .collect();
    for connection in &connections {
        report.connection(connection)?;
    }
    if connections.is_empty() {
        report.note(path.untranslated)?;
        let fdb: Vec<FdbEntry> = stage.json(&["fdb", "--json"])?;
        let between = [path.container.unwrap_or("host"), path.server];
        for entry in fdb
            .iter()
            .filter(|entry| between.contains(&entry.owner.as_str()))
        {
            report.fdb_entry(entry)?;
        }
    }
    Ok(good)
}

/// Has conversations over TCP alone, prints who was seen, and tells whether all was right.
pub(super) fn walk_briefly(
    stage: &mut Stage,
    report: &mut Report<'_>,
    title: &str,
    story: &str,
    paths: &[Path],
) -> Result<bool> {
    report.section(title)?;
    report.note(story)?;
    let mut good = true;
    for path in paths {
        let ask = path.ask.to_string();
        let asked = put(stage, report, path, "tcp", &["--ask", &ask])?;
        good &= asked.is_some();
        for (right, text) in judge(path, asked.as_slice()) {
            report.check(right, &text)?;
            good &= right;
        }
    }
    Ok(good)
}

/// Puts a question, and prints it and its answer. None when there was no answer.
fn put(
    stage: &mut Stage,
    report: &mut Report<'_>,
    path: &Path,
    protocol: &'static str,
    question: &[&str],
) -> Result<Option<Asked>> {
    let mut command = Vec::new();
    if let Some(container) = path.container {
        command.extend(["exec", container, "--", "pontoon"]);
    }
    command.push("demo");
    command.extend(question);
    report.command(path.place.name(), &typed(&command))?;
    match converse(stage, path, protocol, &command) {
        Ok(outcome) => {
            report.answer(protocol, &outcome.said, outcome.timing)?;
            Ok(Some(outcome))
        }
        Err(error) => {
            interrupt::check()?;
            report.no_answer(protocol, &format!("{error:#}"))?;
            Ok(None)
        }
    }
}

/// Asks, and looks the connection up before the client closes it.
fn converse(
    stage: &mut Stage,
    path: &Path,
    protocol: &'static str,
    command: &[&str],
) -> Result<Asked> {
    let mut client = stage.spawn(path.place, command)?;
    // The answer and its timing, a line each.
    let heard = client.first_lines(2)?;
    let (said, timing, seen) = if protocol == "icmp" {
        let echo: Echo = heard.parse()?;
        (echo.to_string(), echo.timing, None)
    } else {
        let answer: Answer = heard.parse()?;
        (
            answer.to_string(),
            answer.timing,
            Some((answer.you, answer.me)),
        )
    };
    let connections: Vec<Connection> = stage.json(&["conntrack", "--json"])?;
    client.finish()?;
    Ok(Asked {
        protocol,
        said: said.lines().next().unwrap_or_default().to_owned(),
        timing,
        seen,
        connection: connections
            .into_iter()
            .find(|connection| is_entry_of(connection, protocol, seen, path)),
    })
}

/// The server sees the connection's reply tuple from its own end: what it calls itself is the
/// source there, its caller the destination. An ICMP echo goes to where it was sent.
fn is_entry_of(
    connection: &Connection,
    protocol: &str,
    seen: Option<(SocketAddr, SocketAddr)>,
    path: &Path,
) -> bool {
    let Flow {
        src,
        dst,
        src_port,
        dst_port,
    } = connection.reply;
    connection.protocol.eq_ignore_ascii_case(protocol)
        && match seen {
            Some((you, me)) => {
                SocketAddr::new(src, src_port) == me && SocketAddr::new(dst, dst_port) == you
            }
            None => src == path.me.ip() && dst == path.you,
        }
}

/// What is right or wrong about a conversation, a sentence each.
fn judge(path: &Path, asked: &[Asked]) -> Vec<(bool, String)> {
    let mut verdicts = Vec::new();
    let mut add = |right: bool, text: String| {
        if !verdicts.contains(&(right, text.clone())) {
            verdicts.push((right, text));
        }
    };
    for Asked {
        protocol,
        seen,
        connection,
        ..
    } in asked
    {
        if let &Some((you, me)) = seen {
            if me != path.me {
                add(
                    false,
                    format!("{me} answered over {protocol} instead of {}", path.me),
                );
            } else if you.ip() != path.you {
                let (server, whose, expected) = (path.server, path.whose, path.you);
                add(
                    false,
                    format!("{server} saw {}, not {expected}, {whose}", you.ip()),
                );
            } else {
                add(
                    true,
                    format!("{} saw {}: {}", path.server, you.ip(), path.whose),
                );
            }
        }
        let Some(from) = path.translated_from else {
            continue;
        };
        match connection {
            None => add(
                false,
                format!("the {protocol} conversation has no connection entry"),
            ),
            Some(Connection { original, .. }) => {
                let (to, to_port) = (path.ask.ip(), path.ask.port());
                let port_right = *protocol == "icmp" || original.dst_port == to_port;
                if (original.src, original.dst) != (from, to) || !port_right {
                    let (src, dst) = (original.src, original.dst);
                    add(
                        false,
                        format!("the {protocol} entry tells of {src} → {dst}"),
                    );
                }
            }
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::super::stage::{OUTSIDE, UPLINK};
    use super::*;

    fn cast() -> Cast {
        Cast {
            client: "172.17.0.3".parse().unwrap(),
            web: "172.17.0.2".parse().unwrap(),
            gateway: "172.17.0.1".parse().unwrap(),
            uplink: UPLINK.into(),
            outside: OUTSIDE.into(),
            loopback: Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// The conversation of a container with the outside, as it should be.
    fn masqueraded() -> (Path, Asked) {
        let [_, path, _, _] = paths(&cast());
        let (you, me) = ("192.0.2.1:61000".parse().unwrap(), path.me);
        let connection = Connection {
            protocol: "tcp".to_owned(),
            state: "established".to_owned(),
            original: Flow {
                src: cast().client,
                dst: OUTSIDE.into(),
                src_port: 40112,
                dst_port: 80,
            },
            reply: Flow {
                src: OUTSIDE.into(),
                dst: UPLINK.into(),
                src_port: 80,
                dst_port: 61000,
            },
            expires_seconds: 7440,
            packets: [4, 4],
            bytes: [300, 300],
        };
        assert!(is_entry_of(&connection, "tcp", Some((you, me)), &path));
        let asked = Asked {
            protocol: "tcp",
            said: format!("you are {you}, I am {me}"),
            timing: Timing {
                connect_us: None,
                round_trip_us: 40,
                rounds: 50,
            },
            seen: Some((you, me)),
            connection: Some(connection),
        };
        (path, asked)
    }

    #[test]
    fn what_is_right_is_said_once() {
        let (path, asked) = masqueraded();
        let (_, again) = masqueraded();
        assert_eq!(
            judge(&path, &[asked, again]),
            [(
                true,
                "outside saw 192.0.2.1: the host's uplink address".to_owned()
            )]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |asked: Asked, path: &Path| -> String {
            let verdicts = judge(path, &[asked]);
            let wrong: Vec<String> = verdicts
                .into_iter()
                .filter(|(right, _)| !right)
                .map(|(_, text)| text)
                .collect();
            wrong.join("; ")
        };
        let (path, mut asked) = masqueraded();
        asked.seen = Some(("172.17.0.3:40112".parse().unwrap(), path.me));
        assert_eq!(
            wrong(asked, &path),
            "outside saw 172.17.0.3, not 192.0.2.1, the host's uplink address"
        );

        let (path, mut asked) = masqueraded();
        asked.seen = Some((
            "192.0.2.1:61000".parse().unwrap(),
            "192.0.2.9:80".parse().unwrap(),
        ));
        assert_eq!(
            wrong(asked, &path),
            "192.0.2.9:80 answered over tcp instead of 192.0.2.2:80"
        );

        let (path, mut asked) = masqueraded();
        asked.connection = None;
        assert_eq!(
            wrong(asked, &path),
            "the tcp conversation has no connection entry"
        );

        let (path, mut asked) = masqueraded();
        if let Some(connection) = &mut asked.connection {
            connection.original.src = cast().web;
        }
        assert_eq!(
            wrong(asked, &path),
            "the tcp entry tells of 172.17.0.2 → 192.0.2.2"
        );
    }
}
