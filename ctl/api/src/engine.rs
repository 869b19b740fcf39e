//! What the daemon was started with, as it tells of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bounds of the connection table, and how long what is in it lives, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Engine {
    pub max_connections: usize,
    /// Of one address of a container.
    pub max_connections_per_address: usize,
    /// Ports of the host that one address of a container may hold for what it sends out.
    pub max_ports_per_address: usize,
    /// Whether a TCP segment without SYN may open a connection, as after a restart.
    pub pick_up_tcp: bool,
    pub tcp_established_timeout: f64,
    pub tcp_transitory_timeout: f64,
    pub udp_timeout: f64,
    pub udp_dns_timeout: f64,
    pub icmp_timeout: f64,
    pub other_timeout: f64,
}

impl Engine {
    pub(crate) fn of(limits: &nat::Limits) -> Engine {
        let seconds = |timeout: Duration| timeout.as_secs_f64();
        let timeouts = &limits.timeouts;
        Engine {
            max_connections: limits.max_connections,
            max_connections_per_address: limits.max_per_address,
            max_ports_per_address: limits.max_ports_per_address,
            pick_up_tcp: limits.pick_up_tcp,
            tcp_established_timeout: seconds(timeouts.tcp_established),
            tcp_transitory_timeout: seconds(timeouts.tcp_transitory),
            udp_timeout: seconds(timeouts.udp),
            udp_dns_timeout: seconds(timeouts.udp_dns),
            icmp_timeout: seconds(timeouts.icmp),
            other_timeout: seconds(timeouts.other),
        }
    }
}

/// The privileges that the daemon has kept, and what bounds them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Privileges {
    /// The effective capabilities of every thread, as capabilities(7) names them.
    pub capabilities: Vec<String>,
    /// Whether executing a program could add none (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
    /// Whether a seccomp filter refuses the system calls that it never makes.
    pub seccomp: bool,
}
