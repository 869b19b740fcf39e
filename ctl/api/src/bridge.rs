//! What a network's switch does with frames for many.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Settings of a network's switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeOptions {
    /// Whether IP multicast goes to those who asked for its group alone (IGMP, MLD).
    pub snooping: bool,
    /// Whether the gateway asks who listens. Without any querier all multicast goes to everyone.
    pub querier: bool,
    /// Limits of what goes to every container.
    pub storm: StormOptions,
}

/// How many frames a second one container may have sent to many; null for as many as it likes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StormOptions {
    /// Broadcast frames.
    pub broadcast: Option<u32>,
    /// Multicast that goes to everyone.
    pub multicast: Option<u32>,
    /// Frames to a MAC address that nobody is known to have.
    pub unknown_unicast: Option<u32>,
}

impl Default for BridgeOptions {
    fn default() -> BridgeOptions {
        BridgeOptions {
            snooping: true,
            querier: true,
            storm: StormOptions::default(),
        }
    }
}

impl Default for StormOptions {
    /// As the switch has them by default.
    fn default() -> StormOptions {
        StormOptions {
            broadcast: Some(2_000),
            multicast: Some(10_000),
            unknown_unicast: Some(2_000),
        }
    }
}
