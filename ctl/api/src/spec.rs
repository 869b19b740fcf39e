//! What people type for the shapes of the API: port mappings, network modes, MAC addresses.
//!
//! Parsing is strict and says which piece is wrong; the caller (clap, mostly) quotes the whole.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::{Connect, Mode, PortKind, PortMapping, Protocol};

/// What is wrong with a text, in a sentence that names the wrong piece.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(String);

fn wrong<T>(problem: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError(problem.into()))
}

/// An inclusive range of L4 ports.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// How many ports it holds. At most 65535, as port 0 is none.
    fn count(self) -> u16 {
        self.last - self.first + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A TCP, UDP or SCTP port in decimal digits; 0 is none.
///
/// # Errors
/// It is not a number from 1 to 65535.
pub fn parse_port(text: &str) -> Result<u16, SpecError> {
    // `u16::from_str` takes a sign; a port has none.
    match text.parse() {
        Ok(port) if port != 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => wrong(format!("`{text}` is not a port (1 to 65535)")),
    }
}

fn parse_range(text: &str) -> Result<PortRange, SpecError> {
    let range = match text.split_once('-') {
        None => {
            let port = parse_port(text)?;
            PortRange {
                first: port,
                last: port,
            }
        }
        Some((first, last)) => PortRange {
            first: parse_port(first)?,
            last: parse_port(last)?,
        },
    };
    if range.first > range.last {
        return wrong(format!("the range `{text}` ends before it begins"));
    }
    Ok(range)
}

/// `[[hostip:][hostport[-end]]:]port[-end]` cut at its colons, IPv6 addresses being in brackets.
struct MappingParts<'a> {
    host_ip: Option<IpAddr>,
    /// Empty for ports that pontoon chooses.
    host: &'a str,
    container: &'a str,
}

fn cut_mapping(text: &str) -> Result<MappingParts<'_>, SpecError> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let Some((address, rest)) = bracketed.split_once(']') else {
            return wrong("the bracket `[` is not closed");
        };
        let Ok(address) = address.parse::<Ipv6Addr>() else {
            return wrong(format!("`[{address}]` is not an IPv6 address"));
        };
        let Some(ports) = rest.strip_prefix(':') else {
            return wrong(format!("`[{address}]` is not followed by `:HOSTPORT:PORT`"));
        };
        return match ports.split(':').collect::<Vec<_>>()[..] {
            [_] => wrong(format!("`[{address}]` is not followed by `:HOSTPORT:PORT`")),
            [host, container] => Ok(MappingParts {
                host_ip: Some(address.into()),
                host,
                container,
            }),
            _ => wrong("too many colons after the address"),
        };
    }
    match text.split(':').collect::<Vec<_>>()[..] {
        [container] => Ok(MappingParts {
            host_ip: None,
            host: "",
            container,
        }),
        [host, container] => Ok(MappingParts {
            host_ip: None,
            host,
            container,
        }),
        [address, host, container] => match address.parse::<IpAddr>() {
            Ok(address) => Ok(MappingParts {
                host_ip: Some(address),
                host,
                container,
            }),
            Err(_) => wrong(format!("`{address}` is not an IP address of the host")),
        },
        _ => wrong("too many colons (an IPv6 address goes in brackets: [::1]:8080:80)"),
    }
}

/// `tcp`, `udp` or `sctp`, in either case.
///
/// # Errors
/// It is another name.
pub fn parse_protocol(name: &str) -> Result<Protocol, SpecError> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let mut named = all.into_iter();
    match named.find(|it| name.eq_ignore_ascii_case(&it.to_string())) {
        Some(protocol) => Ok(protocol),
        None => wrong(format!(
            "`{name}` is not a protocol that is published (tcp, udp or sctp)"
        )),
    }
}

/// A network, or one address as a network.
///
/// # Errors
/// It is neither.
pub fn parse_network(text: &str) -> Result<IpNet, SpecError> {
    let network = text.parse().ok();
    match network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
        Some(network) => Ok(network),
        None => wrong(format!(
            "`{text}` is not a network (10.0.0.0/8, fd00::/8) or an address"
        )),
    }
}

/// `[[hostip:][hostport[-end]]:]port[-end][/tcp|udp|sctp][,allow=NETWORK]…`; ranges must be of one length.
impl FromStr for PortMapping {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<PortMapping, SpecError> {
        let mut pieces = text.split(',');
        let ports = pieces.next().unwrap_or_default();
        let mut allow = Vec::new();
        for piece in pieces {
            match piece.split_once('=') {
                Some(("allow", source)) => allow.push(parse_network(source)?),
                _ => {
                    return wrong(format!(
                        "`{piece}` is not a property of a published port (allow=NETWORK)"
                    ));
                }
            }
        }
        let (addresses, protocol) = match ports.rsplit_once('/') {
            None => (ports, Protocol::Tcp),
            Some((rest, name)) => (rest, parse_protocol(name)?),
        };
        let parts = cut_mapping(addresses)?;
        let container = parse_range(parts.container)?;
        let host = match parts.host {
            "" => None,
            text => Some(parse_range(text)?),
        };
        if let Some(host) = host
            && host.count() != container.count()
        {
            return wrong(format!(
                "the host's side `{host}` has {} and the container's side `{container}` has {}: \
                 they must be equal",
                counted(host.count()),
                counted(container.count()),
            ));
        }
        Ok(PortMapping {
            protocol,
            host_ip: parts.host_ip,
            host_port: host.map_or(0, |host| host.first),
            container_port: container.first,
            count: container.count(),
            allow,
        })
    }
}

fn counted(count: u16) -> String {
    if count == 1 {
        "1 port".to_owned()
    } else {
        format!("{count} ports")
    }
}

/// The `count` ports from `first`, as `80` or `80-89`.
///
/// Bytes of an API client are no checked mapping, so a range past 65535 is written as it stands.
pub fn port_range(first: u16, count: u16) -> String {
    match count {
        0 | 1 => first.to_string(),
        _ => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// As it is typed, with the protocol always told: `127.0.0.1:8080:80/tcp`.
impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            None => {}
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
        }
        match (self.host_port, self.host_ip) {
            (0, None) => {}
            (0, Some(_)) => f.write_str(":")?,
            (first, _) => write!(f, "{}:", port_range(first, self.count))?,
        }
        write!(
            f,
            "{}/{}",
            port_range(self.container_port, self.count),
            self.protocol
        )?;
        self.allow
            .iter()
            .try_for_each(|network| write!(f, ",allow={network}"))
    }
}

/// `bridge|host|none|container:NAME|NETWORK`.
impl FromStr for Mode {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Mode, SpecError> {
        match text {
            "host" => Ok(Mode::Host),
            "none" => Ok(Mode::None),
            "" => wrong("a mode is bridge, host, none, container:NAME or the name of a network"),
            _ => match text.split_once(':') {
                None => Ok(Mode::Network(text.to_owned())),
                Some(("container", "")) => wrong("the container's name is missing: container:NAME"),
                Some(("container", name)) => Ok(Mode::Container(name.to_owned())),
                Some((kind, _)) => wrong(format!(
                    "`{kind}:` is not a mode (bridge, host, none, container:NAME or a network's name)"
                )),
            },
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Network(name) => f.write_str(name),
            Mode::Host => f.write_str("host"),
            Mode::None => f.write_str("none"),
            Mode::Container(name) => write!(f, "container:{name}"),
        }
    }
}

/// `tap|veth`.
impl FromStr for PortKind {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<PortKind, SpecError> {
        match PortKind::ALL.into_iter().find(|kind| kind.name() == text) {
            Some(kind) => Ok(kind),
            None => wrong(format!("`{text}` is not a kind of interface (tap or veth)")),
        }
    }
}

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A network with what the container has there: `NETWORK[,KEY=VALUE]…`, or Docker's
/// `name=NETWORK,…`. Keys: `ip` and `ip6` (repeatable), `mac`, `interface`, `alias` (repeatable),
/// `gw-priority`.
impl FromStr for Connect {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Connect, SpecError> {
        let mut pieces = text.split(',');
        let first = pieces.next().unwrap_or_default();
        let network = first.strip_prefix("name=").unwrap_or(first);
        if network.is_empty() || network.contains('=') {
            return wrong("the network's name comes first: NETWORK[,ip=A][,alias=N]…");
        }
        let mut connect = Connect {
            network: network.to_owned(),
            ..Connect::default()
        };
        for piece in pieces {
            let Some((key, value)) = piece.split_once('=') else {
                return wrong(format!("`{piece}` is not KEY=VALUE"));
            };
            match key {
                "ip" | "ip6" => match value.parse() {
                    Ok(ip) => connect.ips.push(ip),
                    Err(_) => return wrong(format!("`{value}` is not an IP address")),
                },
                "mac" | "mac-address" => connect.mac = Some(parse_mac(value)?),
                "interface" => connect.interface = Some(value.to_owned()),
                "alias" => connect.aliases.push(value.to_owned()),
                "gw-priority" => match value.parse() {
                    Ok(priority) => connect.gateway_priority = priority,
                    Err(_) => return wrong(format!("`{value}` is not a whole number")),
                },
                _ => {
                    return wrong(format!(
                        "`{key}` is not a property of an endpoint (ip, ip6, mac, interface, alias or \
                         gw-priority)"
                    ));
                }
            }
        }
        Ok(connect)
    }
}

/// What `--net` takes: a mode, or a network with what the container has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// What is no network: `host`, `none` or `container:NAME`.
    Mode(Mode),
    /// A network.
    Network(Connect),
}

impl FromStr for Net {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Net, SpecError> {
        if text.contains(',') || text.starts_with("name=") {
            return text.parse().map(Net::Network);
        }
        Ok(match text.parse()? {
            Mode::Network(_) => Net::Network(text.parse()?),
            mode => Net::Mode(mode),
        })
    }
}

/// A MAC address of one interface (not multicast, not all zero), in the form `02:42:ac:11:00:02`.
///
/// # Errors
/// It is not six pairs of hex digits, or no address that an interface can have.
pub fn parse_mac(text: &str) -> Result<String, SpecError> {
    let mut octets = [0u8; 6];
    let mut pieces = text.split([':', '-']);
    for octet in &mut octets {
        let piece = pieces.next().unwrap_or_default();
        if piece.len() != 2 || !piece.bytes().all(|b| b.is_ascii_hexdigit()) {
            return wrong("a MAC address is six pairs of hex digits: 02:42:ac:11:00:02");
        }
        *octet = u8::from_str_radix(piece, 16).unwrap_or_default();
    }
    if pieces.next().is_some() {
        return wrong("a MAC address is six pairs of hex digits: 02:42:ac:11:00:02");
    }
    // IEEE 802: the lowest bit of the first octet marks a group.
    if octets[0] & 1 == 1 {
        return wrong("it is a multicast address: the first octet must be even");
    }
    if octets == [0; 6] {
        return wrong("it is the all-zero address");
    }
    Ok(octets.map(|octet| format!("{octet:02x}")).join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(text: &str) -> PortMapping {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn problem(text: &str) -> String {
        match text.parse::<PortMapping>() {
            Ok(mapping) => panic!("{text} was taken as {mapping:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn plain_mapping() {
        assert_eq!(
            mapping("8080:80"),
            PortMapping {
                protocol: Protocol::Tcp,
                host_ip: None,
                host_port: 8080,
                container_port: 80,
                count: 1,
                allow: Vec::new(),
            }
        );
    }

    #[test]
    fn protocols() {
        assert_eq!(mapping("53:53/udp").protocol, Protocol::Udp);
        assert_eq!(mapping("53:53/UDP").protocol, Protocol::Udp);
        assert_eq!(mapping("53:53/tcp").protocol, Protocol::Tcp);
        assert_eq!(mapping("3868:3868/sctp").protocol, Protocol::Sctp);
        assert!(problem("53:53/icmp").contains("`icmp`"));
        assert!(problem("53:53/").contains("tcp, udp or sctp"));
        assert!(problem("53:53/tcp/udp").contains("`53/tcp` is not a port"));
    }

    #[test]
    fn host_addresses() {
        assert_eq!(
            mapping("127.0.0.1:8080:80").host_ip,
            Some("127.0.0.1".parse().unwrap())
        );
        assert_eq!(
            mapping("0.0.0.0:8080:80").host_ip,
            Some("0.0.0.0".parse().unwrap())
        );
        assert_eq!(
            mapping("[::1]:8080:80").host_ip,
            Some("::1".parse().unwrap())
        );
        assert_eq!(
            mapping("[::]:53:53/udp").host_ip,
            Some("::".parse().unwrap())
        );
        assert!(problem("localhost:8080:80").contains("`localhost` is not an IP address"));
        assert!(problem("1.2.3:8080:80").contains("`1.2.3` is not an IP address"));
        assert!(problem("::1:8080:80").contains("brackets"));
        assert!(problem("[::1:8080:80").contains("not closed"));
        assert!(problem("[1.2.3.4]:8080:80").contains("not an IPv6 address"));
        assert!(problem("[::1]8080:80").contains("not followed"));
        assert!(problem("[::1]:1:2:3").contains("too many colons"));
        assert!(problem("[fe80::1%eth0]:80:80").contains("not an IPv6 address"));
    }

    #[test]
    fn a_list_of_those_who_may() {
        let listed = mapping("[::1]:8080:80/udp,allow=10.0.0.0/8,allow=fd00::1");
        assert_eq!(listed.protocol, Protocol::Udp);
        let networks: Vec<String> = listed.allow.iter().map(IpNet::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "fd00::1/128"]);
        assert!(problem("80:80,allow=10.0.0.0/33").contains("`10.0.0.0/33` is not a network"));
        assert!(problem("80:80,allow=").contains("`` is not a network"));
        assert!(problem("80:80,deny=10.0.0.0/8").contains("`deny=10.0.0.0/8` is not a property"));
        assert!(problem("80:80,").contains("`` is not a property"));
        assert!(problem("80:80,allow=::/0/tcp").contains("`::/0/tcp` is not a network"));
    }

    #[test]
    fn ranges_are_one_mapping() {
        let range = mapping("9000-9099:80-179/udp");
        assert_eq!(
            (range.host_port, range.container_port, range.count),
            (9000, 80, 100)
        );
        assert_eq!(mapping("1-65535:1-65535").count, 65535);
        assert_eq!(mapping("80-80:81").count, 1);
        assert!(
            problem("9000-9010:80-89").contains("has 11 ports and the container's side `80-89`")
        );
        assert!(problem("9000-9010:80").contains("has 1 port:"));
        assert!(problem("8010-8000:10-20").contains("ends before it begins"));
        assert!(problem("80-:80").contains("`` is not a port"));
        assert!(problem("1-2-3:1-3").contains("`2-3` is not a port"));
    }

    #[test]
    fn ports_are_ports() {
        for text in [
            "0:80", "80:0", "65536:80", "80:x", "+80:80", "80: 80", "-1:80", "80:８0",
        ] {
            let problem = problem(text);
            assert!(
                problem.contains("is not a port (1 to 65535)"),
                "{text}: {problem}"
            );
        }
    }

    #[test]
    fn host_ports_that_pontoon_chooses() {
        for (text, shown) in [
            ("80", "80/tcp"),
            (":80", "80/tcp"),
            ("80-89/udp", "80-89/udp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
            ("[::1]::80/udp", "[::1]::80/udp"),
        ] {
            let mapping = mapping(text);
            assert_eq!(mapping.host_port, 0, "{text}");
            assert_eq!(mapping.container_port, 80, "{text}");
            assert_eq!(mapping.to_string(), shown);
        }
        assert!(problem("[::1]:80").contains("not followed by `:HOSTPORT:PORT`"));
        assert!(problem("").contains("`` is not a port"));
    }

    #[test]
    fn junk_is_refused() {
        for text in [
            ":", "::", ":::", "[", "]", "[]", "[]:", "[]:1:2", "-", "/", "80:", "a:b:c:d", "€",
        ] {
            problem(text);
        }
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        for text in [
            "8080:80/tcp",
            "127.0.0.1:53:53/udp",
            "[::1]:9000-9099:80-179/tcp",
            "1-65535:1-65535/udp",
            "53:53/udp,allow=10.0.0.0/8,allow=fd00::/8",
        ] {
            assert_eq!(mapping(text).to_string(), text);
        }
        assert_eq!(
            port_range(65535, 65535),
            "65535-131069",
            "no overflow on junk"
        );
        assert_eq!(port_range(1, 0), "1");
    }

    #[test]
    fn modes() {
        let mode = |text: &str| text.parse::<Mode>();
        assert_eq!(mode("host"), Ok(Mode::Host));
        assert_eq!(mode("none"), Ok(Mode::None));
        assert_eq!(mode("bridge"), Ok(Mode::Network("bridge".into())));
        assert_eq!(mode("backend"), Ok(Mode::Network("backend".into())));
        assert_eq!(mode("container:web"), Ok(Mode::Container("web".into())));
        for text in ["", "container:", "service:web", ":web"] {
            assert!(mode(text).is_err(), "{text}");
        }
        for text in ["host", "none", "bridge", "container:web"] {
            assert_eq!(mode(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn kinds_are_named_as_in_json() {
        for kind in PortKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
        }
        assert!("TAP".parse::<PortKind>().is_err());
    }

    #[test]
    fn networks_with_properties() {
        let net = |text: &str| text.parse::<Net>().map_err(|error| error.to_string());
        let plain = |name: &str| Connect {
            network: name.to_owned(),
            ..Connect::default()
        };
        assert_eq!(net("host"), Ok(Net::Mode(Mode::Host)));
        assert_eq!(net("back"), Ok(Net::Network(plain("back"))));
        assert_eq!(net("name=back"), Ok(Net::Network(plain("back"))));
        let all = "back,ip=10.1.0.9,ip6=fd00::9,mac=02:42:AC:11:00:02,interface=data0,alias=db,\
                   alias=sql,gw-priority=-3";
        let whole = Connect {
            ips: vec!["10.1.0.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            mac: Some("02:42:ac:11:00:02".to_owned()),
            interface: Some("data0".to_owned()),
            aliases: vec!["db".to_owned(), "sql".to_owned()],
            gateway_priority: -3,
            ..plain("back")
        };
        assert_eq!(net(all), Ok(Net::Network(whole)));
        for (text, problem) in [
            ("", "bridge, host, none"),
            (",ip=10.0.0.1", "name comes first"),
            ("ip=10.0.0.1,alias=x", "name comes first"),
            ("back,10.0.0.1", "not KEY=VALUE"),
            ("back,ip=10.0.0", "not an IP address"),
            ("back,mtu=9000", "not a property"),
            ("back,gw-priority=high", "not a whole number"),
        ] {
            let error = net(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn macs() {
        assert_eq!(
            parse_mac("02:42:AC:11:00:02"),
            Ok("02:42:ac:11:00:02".into())
        );
        assert_eq!(
            parse_mac("02-42-ac-11-00-02"),
            Ok("02:42:ac:11:00:02".into())
        );
        for text in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:0:2",
            "+2:42:ac:11:00:02",
        ] {
            assert!(
                parse_mac(text)
                    .unwrap_err()
                    .to_string()
                    .contains("six pairs"),
                "{text}"
            );
        }
        assert!(
            parse_mac("01:00:5e:00:00:01")
                .unwrap_err()
                .to_string()
                .contains("multicast")
        );
        assert!(
            parse_mac("00:00:00:00:00:00")
                .unwrap_err()
                .to_string()
                .contains("all-zero")
        );
    }
}
