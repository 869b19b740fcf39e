//! What is counted, as Prometheus reads it (text format 0.0.4).

use std::fmt::{Display, Write};
use std::net::IpAddr;

use switch::Switch;

use super::view::View;
use crate::api::PublishedPort;
use crate::spec::port_range;

/// Directions of a published port, as [`PortTraffic`](crate::api::PortTraffic) has them.
const DIRECTIONS: [&str; 2] = ["in", "out"];

/// The media type of what [`write`] makes.
pub(super) const TYPE: &str = "text/plain; version=0.0.4";

pub(super) fn write(view: &View, switch: &Switch) -> String {
    let mut page = Page::default();
    let stats = switch.nat().stats();
    page.family("pontoon_connections", "gauge", "Connections in the table.");
    page.sample(&[], stats.connections as u64);
    for (name, help, count) in [
        ("opened", "Connections opened.", stats.opened),
        ("ended", "Connections ended.", stats.ended),
        (
            "evicted",
            "Connections that gave way to others.",
            stats.evicted,
        ),
    ] {
        page.family(
            &format!("pontoon_connections_{name}_total"),
            "counter",
            help,
        );
        page.sample(&[], count);
    }

    let counted = switch.counters();
    page.family(
        "pontoon_dropped_frames_total",
        "counter",
        "Frames dropped, by reason.",
    );
    for (reason, frames) in counted.drops {
        page.sample(&[("reason", &reason.name())], frames);
    }
    let ports = counted.ports.into_iter().map(|(port, counters)| {
        let frames = [counters.rx_frames, counters.tx_frames];
        let bytes = [counters.rx_bytes, counters.tx_bytes];
        (port.0, view.owner(port.0), [frames, bytes])
    });
    let ports: Vec<_> = ports.collect();
    for (at, unit) in ["frames", "bytes"].into_iter().enumerate() {
        let help = format!("What the switch read from a port and wrote to it, in {unit}.");
        page.family(&format!("pontoon_port_{unit}_total"), "counter", &help);
        for (port, owner, counts) in &ports {
            for (direction, count) in ["rx", "tx"].into_iter().zip(counts[at]) {
                let labels: [(&str, &dyn Display); 3] =
                    [("port", port), ("owner", owner), ("direction", &direction)];
                page.sample(&labels, count);
            }
        }
    }

    let published: Vec<(&str, PublishedPort)> = view.published_ports(switch);
    page.published(&published);
    page.text
}

/// Families of metrics, each with its samples right behind it.
#[derive(Default)]
struct Page {
    text: String,
    /// The last family's name.
    name: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.name = name.to_owned();
        // Writing to a string can't fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// Of the last family.
    fn sample(&mut self, labels: &[(&str, &dyn Display)], value: u64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escape(&value.to_string())))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.text, "{}{labels} {value}", self.name);
    }

    /// One sample of a published port, which is one rule however many ports it has.
    fn published_sample(
        &mut self,
        (container, port): &(&str, PublishedPort),
        further: &[(&str, &dyn Display)],
        value: u64,
    ) {
        let mapping = &port.mapping;
        let host = mapping.host_ip.as_ref().map(IpAddr::to_string);
        let labels: [(&str, &dyn Display); 5] = [
            ("container", container),
            ("protocol", &mapping.protocol),
            ("host_ip", &host.as_deref().unwrap_or("*")),
            ("host_port", &port_range(mapping.host_port, mapping.count)),
            (
                "container_port",
                &port_range(mapping.container_port, mapping.count),
            ),
        ];
        self.sample(&[&labels, further].concat(), value);
    }

    fn published(&mut self, ports: &[(&str, PublishedPort)]) {
        for (name, kind, help) in [
            (
                "connections_total",
                "counter",
                "Connections to a published port: switched from the wire and from containers, \
                 relayed from the host itself.",
            ),
            (
                "connections_active",
                "gauge",
                "Those of them that are there now.",
            ),
        ] {
            self.family(&format!("pontoon_published_{name}"), kind, help);
            for port in ports {
                let traffic = &port.1.traffic;
                let counts = match kind {
                    "gauge" => [traffic.active, traffic.relayed.active],
                    _ => [traffic.connections, traffic.relayed.connections],
                };
                for (way, count) in ["switched", "relayed"].into_iter().zip(counts) {
                    self.published_sample(port, &[("path", &way)], count);
                }
            }
        }
        self.family(
            "pontoon_published_packets_total",
            "counter",
            "Packets of switched connections of a published port, to the container and from it.",
        );
        for port in ports {
            for (direction, count) in DIRECTIONS.into_iter().zip(port.1.traffic.packets) {
                self.published_sample(port, &[("direction", &direction)], count);
            }
        }
        self.family(
            "pontoon_published_bytes_total",
            "counter",
            "Bytes by a published port: of IP where switched, of payload where relayed.",
        );
        for port in ports {
            let traffic = &port.1.traffic;
            for (way, bytes) in [
                ("switched", traffic.bytes),
                ("relayed", traffic.relayed.bytes),
            ] {
                for (direction, count) in DIRECTIONS.into_iter().zip(bytes) {
                    let further: [(&str, &dyn Display); 2] =
                        [("path", &way), ("direction", &direction)];
                    self.published_sample(port, &further, count);
                }
            }
        }
        self.family(
            "pontoon_published_refused_total",
            "counter",
            "Connections and datagrams from the host itself that a published port is not for; others \
             are dropped as NotAllowed.",
        );
        for port in ports {
            self.published_sample(port, &[], port.1.traffic.relayed.refused);
        }
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{PortTraffic, RelayedTraffic};

    #[test]
    fn samples_follow_their_family_and_values_are_quoted() {
        let mut page = Page::default();
        page.family("a_total", "counter", "Of a.");
        page.sample(&[], 7);
        page.sample(&[("owner", &"an \"odd\"\\\n one")], 8);
        let expected = "# HELP a_total Of a.\n# TYPE a_total counter\na_total 7\n\
                        a_total{owner=\"an \\\"odd\\\"\\\\\\n one\"} 8\n";
        assert_eq!(page.text, expected);
    }

    #[test]
    fn a_range_is_one_row_each() {
        let mut page = Page::default();
        let port = PublishedPort {
            mapping: "127.0.0.1:9000-9009:80-89/udp".parse().unwrap(),
            to: Vec::new(),
            traffic: PortTraffic {
                connections: 3,
                packets: [5, 6],
                relayed: RelayedTraffic {
                    bytes: [70, 80],
                    ..RelayedTraffic::default()
                },
                ..PortTraffic::default()
            },
        };
        page.published(&[("web", port)]);
        let labels = "container=\"web\",protocol=\"udp\",host_ip=\"127.0.0.1\",\
                      host_port=\"9000-9009\",container_port=\"80-89\"";
        for (name, further, value) in [
            ("connections_total", ",path=\"switched\"", 3),
            ("packets_total", ",direction=\"out\"", 6),
            ("bytes_total", ",path=\"relayed\",direction=\"in\"", 70),
            ("refused_total", "", 0),
        ] {
            let line = format!("pontoon_published_{name}{{{labels}{further}}} {value}\n");
            assert!(page.text.contains(&line), "no {line} in\n{}", page.text);
        }
    }
}
