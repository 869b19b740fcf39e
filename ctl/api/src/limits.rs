//! What an endpoint is held to: limits, which last, and faults, which go with the daemon.
//!
//! `in` is towards the container, `out` from it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Limits of an endpoint; a direction that is not named has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Towards the container.
    #[serde(rename = "in", skip_serializing_if = "Limit::is_none")]
    pub inward: Limit,
    /// From the container.
    #[serde(rename = "out", skip_serializing_if = "Limit::is_none")]
    pub outward: Limit,
}

/// What may pass in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    /// Of Ethernet frames, 8,000 at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<u64>,
    /// How much may pass at once after a pause; 10 ms' worth, and at least 10 full frames, when
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u64>,
    /// Frames; a super-frame counts as the packets in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<u64>,
}

/// What is asked of `POST /v1/containers/{name}/limits`: these limits instead of those there were.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLimits {
    /// Of which of its networks; all of them when absent.
    #[serde(default)]
    pub network: Option<String>,
    /// The new limits.
    #[serde(default)]
    pub limits: Limits,
}

/// What happens to an endpoint's frames on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Of frames towards the container.
    #[serde(rename = "in", skip_serializing_if = "Fault::is_none")]
    pub inward: Fault,
    /// Of frames from the container.
    #[serde(rename = "out", skip_serializing_if = "Fault::is_none")]
    pub outward: Fault,
    /// What chance comes from; drawn by the daemon when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// The faults of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    /// How much longer each frame takes, 10 seconds at most.
    pub latency_us: u64,
    /// By how much that varies, up and down; no frame overtakes another.
    pub jitter_us: u64,
    /// How many frames of a million are lost.
    pub loss_per_million: u32,
    /// How many of a million arrive twice.
    pub duplicate_per_million: u32,
}

/// What is asked of `POST /v1/containers/{name}/faults`: these faults instead of those there were.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetFaults {
    /// Of which of its networks; all of them when absent.
    #[serde(default)]
    pub network: Option<String>,
    /// The new faults.
    #[serde(default)]
    pub faults: Faults,
}

/// Whom a container is cut off from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Partition {
    /// Nothing reaches the container, and it reaches nothing.
    pub from_everything: bool,
    /// Names of containers.
    pub from: Vec<String>,
}

/// What is asked of `POST /v1/containers/{name}/partition`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPartition {
    /// Another container; everything when absent.
    #[serde(default)]
    pub from: Option<String>,
    /// Cut off, or reached again.
    pub parted: bool,
}

impl Limits {
    /// Whether both directions have none.
    pub fn is_none(&self) -> bool {
        *self == Limits::default()
    }
}

impl Limit {
    fn is_none(&self) -> bool {
        *self == Limit::default()
    }
}

impl Faults {
    /// A seed alone is none.
    pub fn is_none(&self) -> bool {
        self.inward.is_none() && self.outward.is_none()
    }
}

impl Fault {
    fn is_none(&self) -> bool {
        *self == Fault::default()
    }
}

impl Partition {
    /// Whether the container is cut off from nothing.
    pub fn is_none(&self) -> bool {
        *self == Partition::default()
    }
}
