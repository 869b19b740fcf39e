//! What a network's switch does with frames for many.

use serde::{Deserialize, Serialize};
use switch::config::StormLimits;
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BridgeOptions {
    /// Whether IP multicast goes to those who asked for its group alone (IGMP, MLD).
    pub snooping: bool,
    /// Whether the gateway asks who listens. Without any querier all multicast goes to everyone.
    pub querier: bool,
    pub storm: StormOptions,
}

/// How many frames a second one container may have sent to many; null for as many as it likes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StormOptions {
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
    /// The switch's own.
    fn default() -> StormOptions {
        let StormLimits {
            broadcast,
            multicast,
            unknown_unicast,
        } = StormLimits::default();
        StormOptions {
            broadcast,
            multicast,
            unknown_unicast,
        }
    }
}
