//! The options that `run` and `attach` share: what a new container is and gets.

use std::net::IpAddr;

use anyhow::bail;
use clap::Args;

use super::limit::LimitArgs;
use super::port_kinds;
use crate::api::{Attach, Connect, Mode, NameServer, NameSettings, PortKind, PortMapping, Target};
use crate::spec::{Net, parse_mac};

#[derive(Args)]
pub(super) struct ContainerArgs {
    /// Container name [default: generated]
    #[arg(long)]
    name: Option<String>,
    /// Network mode: bridge, host, none, container:NAME, or a network; networks may be repeated,
    /// each with settings: NETWORK[,ip=A][,ip6=A][,mac=M][,interface=I] [,alias=N][,gw-priority=N]
    #[arg(
        long,
        visible_alias = "network",
        value_name = "MODE",
        default_value = "bridge"
    )]
    net: Vec<Net>,
    /// Publish a port or range:
    /// [[hostip:][hostport[-end]]:]port[-end][/tcp|udp|sctp][,allow=NETWORK]…, restricted to source
    /// networks with allow; a free host port is chosen if none is given; may be repeated
    #[arg(short, long, value_name = "SPEC")]
    publish: Vec<PortMapping>,
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// DNS server for names other than containers'; may be repeated [default: the daemon's]
    #[arg(long, value_name = "ADDRESS[%INTERFACE]")]
    dns: Vec<NameServer>,
}

/// What a container has on a network; of several, on the first.
#[derive(Args)]
pub(super) struct EndpointArgs {
    /// IPv4 or IPv6 address of the container; may be repeated [default: the next free ones]
    #[arg(long, visible_alias = "ip6")]
    ip: Vec<IpAddr>,
    /// MAC address of the container [default: derived from its address]
    #[arg(long, visible_alias = "mac-address", value_parser = parse_mac)]
    mac: Option<String>,
    /// Kind of interface: tap or veth [default: the daemon's]
    #[arg(long, value_parser = port_kinds(), value_name = "KIND", hide_possible_values = true)]
    port_kind: Option<PortKind>,
    /// Name of the interface in the container [default: the first free one of eth0, eth1, …]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Alias of the container on the network; may be repeated
    #[arg(long, visible_alias = "network-alias", value_name = "NAME")]
    alias: Vec<String>,
    /// Gateway priority: the network with the highest one has the default route and receives
    /// published ports [default: 0]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    gw_priority: Option<i32>,
    #[command(flatten)]
    limits: LimitArgs,
}

impl EndpointArgs {
    /// These options, where `network` does not say otherwise.
    pub(super) fn complete(self, network: Connect) -> Connect {
        Connect {
            network: network.network,
            port_kind: self.port_kind.or(network.port_kind),
            ips: [network.ips, self.ip].concat(),
            mac: network.mac.or(self.mac),
            interface: network.interface.or(self.interface),
            aliases: [network.aliases, self.alias].concat(),
            gateway_priority: self.gw_priority.unwrap_or(network.gateway_priority),
            limits: self.limits.change(network.limits),
        }
    }
}

impl ContainerArgs {
    /// The mode asked for: several networks are one mode, that of the first.
    pub(super) fn mode(&self) -> anyhow::Result<Mode> {
        match &self.net[..] {
            [] => Ok(Mode::Network("bridge".to_owned())),
            [Net::Mode(mode)] => Ok(mode.clone()),
            [Net::Network(first), others @ ..] => {
                if let Some(Net::Mode(mode)) = others.iter().find(|it| matches!(it, Net::Mode(_))) {
                    bail!("--net {mode} can't go with other networks");
                }
                Ok(Mode::Network(first.network.clone()))
            }
            [Net::Mode(mode), ..] => bail!("--net {mode} can't go with other networks"),
        }
    }

    pub(super) fn attach(
        self,
        target: Target,
        command: Vec<String>,
        remove_on_exit: bool,
    ) -> anyhow::Result<Attach> {
        let mode = self.mode()?;
        let mut networks = self.net.into_iter().filter_map(|net| match net {
            Net::Network(connect) => Some(connect),
            Net::Mode(_) => None,
        });
        let first = self.endpoint.complete(networks.next().unwrap_or_default());
        Ok(Attach {
            name: self.name,
            mode,
            target,
            port_kind: first.port_kind,
            ips: first.ips,
            mac: first.mac,
            interface: first.interface,
            aliases: first.aliases,
            gateway_priority: first.gateway_priority,
            limits: first.limits,
            also: networks.collect(),
            publish: self.publish,
            names: NameSettings {
                servers: self.dns,
                ..NameSettings::default()
            },
            command,
            remove_on_exit,
            supervised: false,
            process: None,
        })
    }
}
