//! What the daemon was started with, as it tells of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bounds of the connection table, and how long what is in it lives, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Engine {
    /// Entries of the connection table.
    pub max_connections: usize,
    /// Of one address of a container.
    pub max_connections_per_address: usize,
    /// Ports of the host that one address of a container may hold for what it sends out.
    pub max_ports_per_address: usize,
    /// Whether a TCP segment without SYN may open a connection, as after a restart.
    pub pick_up_tcp: bool,
    /// Of an established TCP connection.
    pub tcp_established_timeout: f64,
    /// Of a TCP connection that opens or closes.
    pub tcp_transitory_timeout: f64,
    /// Of a UDP flow.
    pub udp_timeout: f64,
    /// Of a UDP flow to port 53.
    pub udp_dns_timeout: f64,
    /// Of an ICMP query.
    pub icmp_timeout: f64,
    /// Of a flow of any other protocol.
    pub other_timeout: f64,
}

/// The privileges that the daemon has kept, and what bounds them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Privileges {
    /// The effective capabilities of every thread, as capabilities(7) names them.
    pub capabilities: Vec<String>,
    /// Whether executing a program could add none (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
    /// Whether a seccomp filter refuses the system calls that it never makes.
    pub seccomp: bool,
}
