//! `pontoon port`: where a container's published ports are on the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::bail;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::output::{at, show_json, show_lines};
use crate::api::{PortMapping, Protocol, PublishedPort};
use crate::spec::{SpecError, parse_port, parse_protocol, port_range};

#[derive(Args)]
pub(super) struct PortArgs {
    /// Name, id or id prefix
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Port of the container, TCP by default [default: all published ports]
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<ContainerPort>,
    /// Print JSON, with the traffic of each port
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: super::ClientArgs,
}

/// `80` or `80/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContainerPort {
    port: u16,
    protocol: Protocol,
}

impl FromStr for ContainerPort {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<ContainerPort, SpecError> {
        let (port, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((port, name)) => (port, parse_protocol(name)?),
        };
        Ok(ContainerPort {
            port: parse_port(port)?,
            protocol,
        })
    }
}

impl ContainerPort {
    fn is_of(self, mapping: &PortMapping) -> bool {
        self.offset(mapping).is_some()
    }

    /// How far into the range it is.
    fn offset(self, mapping: &PortMapping) -> Option<u16> {
        let offset = self.port.checked_sub(mapping.container_port)?;
        (self.protocol == mapping.protocol && offset < mapping.count).then_some(offset)
    }
}

pub(super) fn run(args: PortArgs) -> anyhow::Result<ExitCode> {
    let mut published = args.client.client()?.published(&args.name)?;
    if let Some(port) = args.port {
        published.retain(|it| port.is_of(&it.mapping));
        if published.is_empty() {
            bail!(
                "{} publishes no port {}/{}: `pontoon port {}` lists those that it does",
                args.name,
                port.port,
                port.protocol,
                args.name
            );
        }
    }
    if args.json {
        return show_json(&published);
    }
    let lines: Vec<String> = published
        .iter()
        .flat_map(|published| lines(published, args.port))
        .collect();
    show_lines(&lines)
}

/// As Docker tells it: `80/tcp -> 0.0.0.0:8080`, a line a family; of one port that was asked for
/// `0.0.0.0:8080` alone. A range is one line, `80-89/tcp -> 0.0.0.0:8080-8089`.
fn lines(published: &PublishedPort, asked: Option<ContainerPort>) -> Vec<String> {
    let mapping = &published.mapping;
    let hosts = match mapping.host_ip {
        Some(ip) => vec![ip],
        None => {
            let every = [
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ];
            let reached = |host: &IpAddr| {
                let mut to = published.to.iter();
                to.any(|to| to.is_ipv4() == host.is_ipv4())
            };
            every.into_iter().filter(reached).collect()
        }
    };
    let offset = asked.and_then(|port| port.offset(mapping));
    let line = |host: IpAddr| match offset {
        Some(offset) => at(Some(host), &(mapping.host_port + offset).to_string()),
        None => format!(
            "{}/{} -> {}",
            port_range(mapping.container_port, mapping.count),
            mapping.protocol,
            at(Some(host), &port_range(mapping.host_port, mapping.count))
        ),
    };
    hosts.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::PortTraffic;

    fn published(mapping: &str, to: &[&str]) -> PublishedPort {
        PublishedPort {
            mapping: mapping.parse().unwrap(),
            to: to.iter().map(|ip| ip.parse().unwrap()).collect(),
            traffic: PortTraffic::default(),
        }
    }

    #[test]
    fn ports_as_docker_tells_them() {
        let both = ["172.17.0.2", "fd00::2"];
        let web = published("8080:80", &both);
        assert_eq!(
            lines(&web, None),
            ["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080"]
        );
        assert_eq!(
            lines(&web, Some("80".parse().unwrap())),
            ["0.0.0.0:8080", "[::]:8080"]
        );
        let ipv4 = published("9000-9009:80-89/udp", &both[..1]);
        assert_eq!(lines(&ipv4, None), ["80-89/udp -> 0.0.0.0:9000-9009"]);
        assert_eq!(
            lines(&ipv4, Some("83/udp".parse().unwrap())),
            ["0.0.0.0:9003"]
        );
        let local = published("[::1]:53:53/udp", &both);
        assert_eq!(lines(&local, None), ["53/udp -> [::1]:53"]);
    }

    #[test]
    fn a_port_is_looked_for_in_ranges_of_its_protocol() {
        let range = published("9000-9009:80-89/udp", &[]).mapping;
        let port = |text: &str| text.parse::<ContainerPort>().unwrap();
        assert!(port("80/udp").is_of(&range) && port("89/UDP").is_of(&range));
        for outside in ["79/udp", "90/udp", "80", "80/tcp"] {
            assert!(!port(outside).is_of(&range), "{outside}");
        }
        for wrong in ["", "0", "80/", "80/icmp", "/tcp"] {
            assert!(wrong.parse::<ContainerPort>().is_err(), "{wrong}");
        }
    }
}
