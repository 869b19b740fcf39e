//! What happens.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PortMapping;

/// Something that happened. Which of the optional fields are there depends on what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Event {
    /// Counts from 0 in each life of the daemon.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub time: u64,
    pub kind: EventKind,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortMapping>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many events this reader was too slow for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventKind {
    Network,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventAction {
    Created,
    /// A daemon has taken it over from the one before.
    Adopted,
    Removed,
    Ended,
    Connected,
    Disconnected,
    Published,
    Withdrawn,
    /// It can't be published now, and will be when it can.
    Pending,
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
