//! The options of `network create` that set what the network's switch and names do.

use clap::Args;

use crate::api::{BridgeOptions, NameServer, NetworkOptions, StormOptions};
use crate::cli::etc::domain;

#[derive(Args)]
pub(super) struct SettingsArgs {
    /// Clamp the TCP maximum segment size to and from the outside to the MTU of the uplink, for
    /// paths that lose ICMP "packet too big"
    #[arg(long)]
    mss_clamp: bool,
    /// Broadcasts per second and container, or off [default: 2000]
    #[arg(long, value_name = "NUMBER", value_parser = frames)]
    storm_broadcast: Option<Frames>,
    /// Flooded multicast frames per second and container, or off [default: 10000]
    #[arg(long, value_name = "NUMBER", value_parser = frames)]
    storm_multicast: Option<Frames>,
    /// Frames to unknown MAC addresses per second and container, or off [default: 2000]
    #[arg(long, value_name = "NUMBER", value_parser = frames)]
    storm_unknown: Option<Frames>,
    /// Whether IP multicast goes to members of its group only (IGMP and MLD snooping)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    snooping: bool,
    /// Whether the gateway is an IGMP and MLD querier; without any querier all multicast is flooded
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    querier: bool,
    /// DNS server for names other than containers'; may be repeated [default: the daemon's]
    #[arg(long, value_name = "ADDRESS[%INTERFACE]")]
    dns: Vec<NameServer>,
    /// DNS search domain of the network's containers; may be repeated, and `.` means none [default:
    /// the host's]
    #[arg(long, value_name = "DOMAIN", value_parser = domain)]
    dns_search: Vec<String>,
}

/// So many frames a second, or as many as one likes.
#[derive(Clone, Copy)]
struct Frames(Option<u32>);

fn frames(text: &str) -> Result<Frames, String> {
    match text {
        "off" => Ok(Frames(None)),
        _ => text
            .parse()
            .map(|number| Frames(Some(number)))
            .map_err(|_| "not off or a number of frames a second".to_owned()),
    }
}

impl SettingsArgs {
    /// `options` with what these say.
    pub(super) fn complete(self, options: NetworkOptions) -> NetworkOptions {
        let usual = StormOptions::default();
        let limit = |asked: Option<Frames>, usual| asked.map_or(usual, |Frames(limit)| limit);
        NetworkOptions {
            mss_clamp: self.mss_clamp,
            bridge: BridgeOptions {
                snooping: self.snooping,
                querier: self.querier,
                storm: StormOptions {
                    broadcast: limit(self.storm_broadcast, usual.broadcast),
                    multicast: limit(self.storm_multicast, usual.multicast),
                    unknown_unicast: limit(self.storm_unknown, usual.unknown_unicast),
                },
            },
            dns: self.dns,
            dns_search: (!self.dns_search.is_empty()).then(|| {
                let domains = self.dns_search.into_iter().filter(|domain| domain != ".");
                domains.collect()
            }),
            ..options
        }
    }
}
