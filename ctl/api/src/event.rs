//! What happens.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PortMapping;

/// Something that happened. Which of the optional fields are there depends on what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts from 0 in each life of the daemon.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub time: u64,
    /// What kind of thing it happened to.
    pub kind: EventKind,
    /// What happened to it.
    pub action: EventAction,
    /// Of the container, network or host interface.
    #[serde(default)]
    pub name: String,
    /// Of the container or network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// That an endpoint is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Of an endpoint; the gateways of a network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The published port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortMapping>,
    /// As `exit_code` of a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many events this reader was too slow for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

/// What kind of thing an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A network.
    Network,
    /// A container.
    Container,
    /// A container on a network.
    Endpoint,
    /// A published port.
    Port,
    /// An interface of the host that pontoon uses.
    Interface,
    /// The stream of events itself.
    Stream,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventAction {
    /// A network or container is new.
    Created,
    /// A daemon has taken it over from the one before.
    Adopted,
    /// A network or container is gone.
    Removed,
    /// A container's process has ended.
    Ended,
    /// A container has an endpoint on a network.
    Connected,
    /// A container has no endpoint on a network any more.
    Disconnected,
    /// A port is published.
    Published,
    /// A port is not published any more.
    Withdrawn,
    /// It can't be published now, and will be when it can.
    Pending,
    /// What is known of it is different.
    Changed,
    /// Somebody had removed it; it is made anew.
    Restored,
    /// A daemon could not take it over; of the stream, events that a reader was too slow for.
    Lost,
}

impl std::fmt::Display for EventKind {
    /// As in JSON.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

impl std::fmt::Display for EventAction {
    /// As in JSON.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}
