//! The connections that the NAT engine tracks: listed, and ended.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use ipnet::IpNet;
use nat::{ConnectionInfo, Protocol, Tuple};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::containers::find_container;
use super::exchange::{Asked, Refusal, Refused, listed};
use super::{Answer, Api};
use crate::api::{Connection, ConnectionFilter, Flow, Flushed};
use crate::daemon::failure::Failure;
use crate::daemon::view::View;
use crate::spec::parse_network;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(connections, flush))
}

/// The connections that are tracked.
#[utoipa::path(get, path = "/v1/connections", params(ConnectionFilter), responses(
    (status = 200, description = "What was asked for", body = Vec<Connection>),
    Refused
))]
async fn connections(
    State(api): State<Api>,
    Asked(filter): Asked<ConnectionFilter>,
) -> Result<Response, Refusal> {
    let meant = Meant::new(&filter, &api.view())?;
    let switch = Arc::clone(&api.switch);
    let shards = 0..switch.nat().shards();
    let all = shards.flat_map(move |shard| switch.nat().connections_of(switch.now(), shard));
    let meant = all.filter(move |connection| meant.includes(connection));
    Ok(listed(meant.map(tell)))
}

/// Ends connections: what comes of them next is new, or nothing.
#[utoipa::path(delete, path = "/v1/connections", params(ConnectionFilter), responses(
    (status = 200, description = "How many there were", body = Flushed),
    Refused
))]
async fn flush(State(api): State<Api>, Asked(filter): Asked<ConnectionFilter>) -> Answer<Flushed> {
    let meant = Meant::new(&filter, &api.view())?;
    let keep = |connection: &ConnectionInfo| !meant.includes(connection);
    let connections = api.switch.nat().flush(api.switch.now(), keep);
    tracing::info!("{connections} connections ended on request");
    Ok(Json(Flushed { connections }))
}

fn tell(connection: ConnectionInfo) -> Connection {
    let flow = |tuple: &Tuple| Flow {
        src: tuple.src,
        dst: tuple.dst,
        src_port: tuple.src_port,
        dst_port: tuple.dst_port,
    };
    Connection {
        protocol: connection.original.protocol.to_string(),
        state: connection.state.to_owned(),
        original: flow(&connection.original),
        reply: flow(&connection.reply),
        expires_seconds: connection.expires_in.as_secs(),
        packets: connection.packets,
        bytes: connection.bytes,
    }
}

/// A [`ConnectionFilter`] that has been understood.
struct Meant {
    /// The container's.
    addresses: Option<Vec<IpAddr>>,
    protocol: Option<Protocol>,
    network: Option<IpNet>,
    port: Option<u16>,
}

impl Meant {
    fn new(filter: &ConnectionFilter, view: &View) -> Result<Meant, Refusal> {
        let invalid = |error: &dyn ToString| Failure::Invalid(error.to_string());
        let addresses = |name: &String| -> Result<Vec<IpAddr>, Refusal> {
            let container = find_container(view, name)?;
            let endpoints = container.endpoints.iter();
            let addresses = endpoints.flat_map(|it| it.addresses.iter().map(IpNet::addr));
            Ok(addresses.collect())
        };
        let protocol = filter.protocol.as_ref().map(|name| name.parse());
        let network = filter.address.as_ref().map(|text| parse_network(text));
        Ok(Meant {
            addresses: filter.container.as_ref().map(addresses).transpose()?,
            protocol: protocol.transpose().map_err(|error| invalid(&error))?,
            network: network.transpose().map_err(|error| invalid(&error))?,
            port: filter.port,
        })
    }

    fn includes(&self, connection: &ConnectionInfo) -> bool {
        let (original, reply) = (&connection.original, &connection.reply);
        let addresses = [original.src, original.dst, reply.src, reply.dst];
        let ports = [original, reply].map(|tuple| [tuple.src_port, tuple.dst_port]);
        let of_container = |its: &Vec<IpAddr>| addresses.iter().any(|it| its.contains(it));
        let in_network = |network: &IpNet| addresses.iter().any(|it| network.contains(it));
        self.addresses.as_ref().is_none_or(of_container)
            && self.network.as_ref().is_none_or(in_network)
            && self.protocol.is_none_or(|it| it == original.protocol)
            && self
                .port
                .is_none_or(|port| ports.as_flattened().contains(&port))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nat::Kind;

    use super::*;

    fn web() -> ConnectionInfo {
        let tuple = |src: (&str, u16), dst: (&str, u16)| Tuple {
            src: src.0.parse().unwrap(),
            dst: dst.0.parse().unwrap(),
            src_port: src.1,
            dst_port: dst.1,
            protocol: Protocol::TCP,
        };
        ConnectionInfo {
            original: tuple(("192.0.2.9", 40000), ("198.51.100.1", 8080)),
            reply: tuple(("172.17.0.2", 80), ("192.0.2.9", 40000)),
            kind: Kind::Publish(1),
            state: "established",
            out_of_window: false,
            expires_in: Duration::from_secs(1),
            packets: [1; 2],
            bytes: [1; 2],
            inside: "172.17.0.2".parse().unwrap(),
        }
    }

    fn includes(filter: ConnectionFilter) -> bool {
        let meant = Meant::new(&filter, &View::default());
        let Ok(meant) = meant else {
            panic!("{filter:?} is not understood");
        };
        meant.includes(&web())
    }

    #[test]
    fn all_that_is_said_must_hold() {
        assert!(includes(ConnectionFilter::default()));
        let of = |protocol: &str, address: &str, port| ConnectionFilter {
            container: None,
            protocol: Some(protocol.to_owned()),
            address: Some(address.to_owned()),
            port: Some(port),
        };
        // What it was before translation, and what after.
        for (address, port) in [
            ("192.0.2.9", 40000),
            ("198.51.100.0/24", 8080),
            ("172.17.0.2", 80),
        ] {
            assert!(includes(of("tcp", address, port)), "{address} {port}");
        }
        assert!(includes(of("6", "0.0.0.0/0", 80)));
        assert!(!includes(of("udp", "172.17.0.2", 80)));
        assert!(!includes(of("tcp", "172.17.0.3", 80)));
        assert!(!includes(of("tcp", "::/0", 80)));
        assert!(!includes(of("tcp", "172.17.0.2", 81)));
    }

    #[test]
    fn a_container_is_at_either_end() {
        let meant = |address: &str| Meant {
            addresses: Some(vec![address.parse().unwrap()]),
            protocol: None,
            network: None,
            port: None,
        };
        let hairpin = ConnectionInfo {
            original: Tuple {
                src: "172.17.0.3".parse().unwrap(),
                ..web().original
            },
            ..web()
        };
        for (address, expected) in [
            ("172.17.0.2", true),
            ("172.17.0.3", true),
            ("172.17.0.4", false),
        ] {
            assert_eq!(meant(address).includes(&hairpin), expected, "{address}");
        }
    }

    #[test]
    fn what_is_not_understood_is_no_filter() {
        for (protocol, address, container) in [
            (Some("quic"), None, None),
            (None, Some("172.17.0.0/33"), None),
            (None, None, Some("nobody")),
        ] {
            let filter = ConnectionFilter {
                container: container.map(str::to_owned),
                protocol: protocol.map(str::to_owned),
                address: address.map(str::to_owned),
                port: None,
            };
            assert!(Meant::new(&filter, &View::default()).is_err(), "{filter:?}");
        }
    }
}
