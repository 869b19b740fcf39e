//! The options that `run` and `attach` share: what a new container is and gets.

use std::net::IpAddr;

use clap::Args;

use crate::api::{Attach, Mode, PortKind, PortMapping, Target};
use crate::spec::parse_mac;

#[derive(Args)]
pub(super) struct ContainerArgs {
    /// The container's name [default: made up]
    #[arg(long)]
    name: Option<String>,
    /// bridge, host, none, container:NAME or the name of a network
    #[arg(
        long,
        visible_alias = "network",
        value_name = "MODE",
        default_value = "bridge"
    )]
    pub(super) net: Mode,
    /// Publish a port or range: [hostip:]hostport[-end]:port[-end][/tcp|udp]
    #[arg(short, long, value_name = "SPEC")]
    publish: Vec<PortMapping>,
    /// An address of the container, IPv4 or IPv6; may be repeated [default: the next free ones]
    #[arg(long, visible_alias = "ip6")]
    ip: Vec<IpAddr>,
    /// The container's MAC address [default: made up]
    #[arg(long, visible_alias = "mac-address", value_parser = parse_mac)]
    mac: Option<String>,
    /// What carries the frames: tap or veth [default: the daemon's choice]
    #[arg(long, value_name = "KIND", hide_possible_values = true)]
    port_kind: Option<PortKind>,
    /// The interface's name in the container [default: eth0]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

impl ContainerArgs {
    pub(super) fn attach(
        self,
        target: Target,
        command: Vec<String>,
        remove_on_exit: bool,
    ) -> Attach {
        Attach {
            name: self.name,
            mode: self.net,
            target,
            port_kind: self.port_kind,
            ips: self.ip,
            mac: self.mac,
            interface: self.interface,
            publish: self.publish,
            command,
            remove_on_exit,
        }
    }
}
