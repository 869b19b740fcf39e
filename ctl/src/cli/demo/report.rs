//! How the demo speaks: headings, commands, answers, ticks and crosses, and the picture of who
//! is connected to whom. Colours only where a person looks at a terminal.

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};

use super::answer::Timing;
use crate::api::{Connection, Container, FdbEntry, Flow};
use crate::cli::output::{self, Look};

/// Columns of a heading; nothing but a table of the CLI's goes beyond them.
const WIDTH: usize = 92;

pub(super) struct Report<'a> {
    out: &'a mut dyn Write,
    colour: bool,
}

#[derive(Clone, Copy)]
enum Style {
    Bold,
    Dim,
    Good,
    Bad,
    Command,
}

/// What the picture shows, each read back from the running daemon.
pub(super) struct Topology {
    pub(super) containers: Vec<(String, IpAddr)>,
    pub(super) port_kind: String,
    pub(super) wire: String,
    pub(super) gateway: IpAddr,
    pub(super) host_interface: String,
    pub(super) workers: usize,
    pub(super) uplink: String,
    pub(super) uplink_address: IpAddr,
    pub(super) outside_address: IpAddr,
}

/// Whether standard output takes colours (<https://no-color.org>).
pub(super) fn colour_wanted() -> bool {
    let unset_or_empty = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
    io::stdout().is_terminal()
        && unset_or_empty("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl<'a> Report<'a> {
    pub(super) fn new(out: &'a mut dyn Write, colour: bool) -> Report<'a> {
        Report { out, colour }
    }

    fn paint(&self, style: Style, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "1;32",
            Style::Bad => "1;31",
            Style::Command => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    fn mark(&self, good: bool) -> String {
        if good {
            self.paint(Style::Good, "✔")
        } else {
            self.paint(Style::Bad, "✘")
        }
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        // A person watches: each line when it is known.
        writeln!(self.out, "{}", text.trim_end())
            .and_then(|()| self.out.flush())
            .map_err(|error| io::Error::new(error.kind(), format!("print the report: {error}")))
    }

    pub(super) fn title(&mut self, text: &str, rest: &str) -> io::Result<()> {
        let text = format!(
            "{}  {}",
            self.paint(Style::Bold, text),
            self.paint(Style::Dim, rest)
        );
        self.line(&text)
    }

    pub(super) fn section(&mut self, title: &str) -> io::Result<()> {
        let rule = "─".repeat(WIDTH.saturating_sub(title.chars().count() + 4));
        let text = format!(
            "{} {} {}",
            self.paint(Style::Dim, "──"),
            self.paint(Style::Bold, title),
            self.paint(Style::Dim, &rule)
        );
        self.line("")?;
        self.line(&text)
    }

    /// Announces a table, and the command that tells it.
    pub(super) fn subject(&mut self, subject: &str, command: &str) -> io::Result<()> {
        let command = self.paint(Style::Dim, &format!("({command})"));
        let text = format!("   {} {command}", self.paint(Style::Bold, subject));
        self.line("")?;
        self.line(&text)
    }

    pub(super) fn containers(&mut self, containers: &[Container]) -> io::Result<()> {
        let rows = containers.iter().flat_map(|container| {
            container.endpoints.iter().map(|endpoint| {
                [
                    container.name.clone(),
                    output::joined(endpoint.addresses.iter().map(|address| address.addr())),
                    endpoint.mac.clone(),
                    endpoint.port_kind.to_string(),
                    output::joined(container.published.iter().map(output::published)),
                ]
            })
        });
        let mut table = Vec::new();
        let header = ["NAME", "ADDRESS", "MAC", "PORT", "PUBLISHED"];
        output::write_table(&mut table, Look::Plain, header, rows)?;
        self.output(&String::from_utf8_lossy(&table))
    }

    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        let text = format!("   {}", self.paint(Style::Dim, text));
        self.line(&text)
    }

    /// A command as it was typed, and where.
    pub(super) fn command(&mut self, place: &str, command: &str) -> io::Result<()> {
        let prompt = self.paint(Style::Dim, &format!("{place} $"));
        let text = format!("   {prompt} {}", self.paint(Style::Command, command));
        self.line(&text)
    }

    /// What a command printed, moved in.
    pub(super) fn output(&mut self, text: &str) -> io::Result<()> {
        for line in text.trim_end().lines() {
            self.line(&format!("   {line}"))?;
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, protocol: &str, said: &str, timing: Timing) -> io::Result<()> {
        let connect = timing
            .connect_us
            .map_or(String::new(), |us| format!("  handshake {us} µs"));
        let times = format!("{:>6} µs{connect}", timing.round_trip_us);
        let text = format!(
            "     {protocol:<5}{said:<56}{}",
            self.paint(Style::Dim, &times)
        );
        self.line(&text)
    }

    pub(super) fn no_answer(&mut self, protocol: &str, error: &str) -> io::Result<()> {
        let text = format!("     {protocol:<5}{}", self.paint(Style::Bad, error));
        self.line(&text)
    }

    pub(super) fn check(&mut self, good: bool, text: &str) -> io::Result<()> {
        let text = format!("   {} {text}", self.mark(good));
        self.line(&text)
    }

    /// Both tuples of a connection, one below the other.
    pub(super) fn connection(&mut self, connection: &Connection) -> io::Result<()> {
        let name = format!("{} {}", connection.protocol, connection.state);
        let flows = [&connection.original, &connection.reply];
        let flows = flows.map(|flow| ends(&connection.protocol, flow));
        // IPv4 ends fit in this, IPv6 ones need not.
        let width = flows.iter().map(|(source, _)| source.len()).max();
        let width = width.unwrap_or(0).max(21);
        for (direction, (source, destination)) in flows.iter().enumerate() {
            let name = if direction == 0 { &name } else { "and back" };
            let amount = format!(
                "{:>4} packets {:>9}",
                connection.packets[direction],
                output::bytes(connection.bytes[direction])
            );
            let text = format!(
                "     {name:<16} {source:<width$} → {destination:<21}{}",
                self.paint(Style::Dim, &amount)
            );
            self.line(&text)?;
        }
        Ok(())
    }

    pub(super) fn fdb_entry(&mut self, entry: &FdbEntry) -> io::Result<()> {
        let text = format!(
            "     {}  is behind port {}, {}",
            entry.mac, entry.port, entry.owner
        );
        self.line(&text)
    }

    /// ```text
    ///      client                web
    ///      172.17.0.3            172.17.0.2
    ///         │ tap                 │ tap
    ///   ┌─────┴─────────────────────┴──────────────────────────────┐
    ///   │ pontoon: switch, gateway, NAT                            │
    ///   │ pontoon0 172.17.0.1                       eth0 192.0.2.1 ├── veth ── outside 192.0.2.2
    ///   └──────────────────────────────────────────────────────────┘
    /// ```
    pub(super) fn picture(&mut self, topology: &Topology) -> io::Result<()> {
        const INSIDE: usize = 50;
        const COLUMN: usize = 22;
        let (mut names, mut addresses, mut cables, mut top) = (
            String::new(),
            String::new(),
            String::new(),
            String::from("┌──"),
        );
        for (index, (name, address)) in topology.containers.iter().enumerate() {
            let address = address.to_string();
            names += &format!("{name:<COLUMN$}");
            addresses += &format!("{address:<COLUMN$}");
            cables += &format!("  {:<1$}", format!("│ {}", topology.port_kind), COLUMN - 2);
            let used = 4 + index * COLUMN;
            top += &"─".repeat(used.saturating_sub(top.chars().count()));
            top.push('┴');
        }
        top += &"─".repeat((INSIDE + 3).saturating_sub(top.chars().count()));
        top.push('┐');

        let what = format!(
            "pontoon: switch, gateway, NAT; {} workers",
            topology.workers
        );
        let host = format!("{} {}", topology.host_interface, topology.gateway);
        let uplink = format!("{} {}", topology.uplink, topology.uplink_address);
        let gap = " ".repeat(INSIDE.saturating_sub(host.chars().count() + uplink.chars().count()));
        let bottom = "─".repeat(INSIDE + 2);
        self.line("")?;
        for line in [
            format!("   {}{names}", "  "),
            format!("   {}{addresses}", "  "),
            format!("   {}{cables}", "  "),
            format!("   {top}"),
            format!("   │ {what:<INSIDE$} │"),
            format!(
                "   │ {host}{gap}{uplink} ├── {} ── outside {}",
                topology.wire, topology.outside_address
            ),
            format!("   └{bottom}┘"),
        ] {
            self.line(&line)?;
        }
        Ok(())
    }

    pub(super) fn verdict(&mut self, good: bool, text: &str) -> io::Result<()> {
        let text = format!("{} {}", self.mark(good), self.paint(Style::Bold, text));
        self.line("")?;
        self.line(&text)
    }
}

/// Source and destination as people write them. An ICMP tuple has its identifier in place of one
/// of the ports, and nothing in the other.
fn ends(protocol: &str, flow: &Flow) -> (String, String) {
    if protocol.starts_with("icmp") {
        return (
            format!("{} id {}", flow.src, flow.src_port.max(flow.dst_port)),
            flow.dst.to_string(),
        );
    }
    let end = |ip, port| SocketAddr::new(ip, port).to_string();
    (end(flow.src, flow.src_port), end(flow.dst, flow.dst_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(colour: bool, print: impl FnOnce(&mut Report<'_>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut Report::new(&mut out, colour)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_picture_holds_together() {
        let topology = Topology {
            containers: vec![
                ("client".to_owned(), "172.17.0.3".parse().unwrap()),
                ("web".to_owned(), "172.17.0.2".parse().unwrap()),
            ],
            port_kind: "tap".to_owned(),
            wire: "veth".to_owned(),
            gateway: "172.17.0.1".parse().unwrap(),
            host_interface: "pontoon0".to_owned(),
            workers: 2,
            uplink: "eth0".to_owned(),
            uplink_address: "192.0.2.1".parse().unwrap(),
            outside_address: "192.0.2.2".parse().unwrap(),
        };
        assert_eq!(
            printed(false, |report| report.picture(&topology)),
            "
     client                web
     172.17.0.3            172.17.0.2
       │ tap                 │ tap
   ┌───┴─────────────────────┴──────────────────────────┐
   │ pontoon: switch, gateway, NAT; 2 workers           │
   │ pontoon0 172.17.0.1                 eth0 192.0.2.1 ├── veth ── outside 192.0.2.2
   └────────────────────────────────────────────────────┘
"
        );
    }

    #[test]
    fn a_connection_shows_both_tuples() {
        let flow = |src: &str, src_port, dst: &str, dst_port| Flow {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            src_port,
            dst_port,
        };
        let mut connection = Connection {
            protocol: "tcp".to_owned(),
            state: "established".to_owned(),
            original: flow("172.17.0.3", 40112, "192.0.2.2", 80),
            reply: flow("192.0.2.2", 80, "192.0.2.1", 61000),
            expires_seconds: 7440,
            packets: [53, 52],
            bytes: [3100, 41_250],
        };
        assert_eq!(
            printed(false, |report| report.connection(&connection)),
            "     tcp established  172.17.0.3:40112      → 192.0.2.2:80           53 packets     3.1kB
     and back         192.0.2.2:80          → 192.0.2.1:61000        52 packets    41.2kB
"
        );

        connection.protocol = "icmp".to_owned();
        let text = printed(false, |report| report.connection(&connection));
        assert!(
            text.contains("172.17.0.3 id 40112   → 192.0.2.2 "),
            "{text}"
        );
    }

    #[test]
    fn colours_come_only_when_asked_for() {
        let print = |report: &mut Report<'_>| {
            report.section("one")?;
            report.check(false, "two")
        };
        let plain = printed(false, print);
        assert!(!plain.contains('\x1b'), "{plain:?}");
        assert!(plain.ends_with("   ✘ two\n"));
        assert!(printed(true, print).contains("\x1b[1;31m✘\x1b[0m two\n"));
        let rule = plain.lines().nth(1).unwrap();
        assert_eq!(rule.chars().count(), WIDTH);
    }
}
