//! The network stack that answers containers' questions for names: a namespace of its own with the
//! gateways' addresses, behind one port of the switch that serves every network.
//!
//! In the host's namespace a firewall could drop the questions, another program could hold the
//! port, a more specific route could take the answers away, and a strict `rp_filter` refuse the
//! askers. None of that is here, and a kernel answers all the same, so TCP needs no code of ours.
//!
//! It ends with the daemon: nobody else holds the namespace.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use switch::Switch;
use switch::config::Names;
use switch::frame::MacAddr;

use crate::api::PortKind;
use crate::daemon::interface::NewInterface;
use crate::daemon::store::NetworkRecord;
use crate::dns::{self, Sockets};
use crate::link::{self, ContainerLink};
use crate::netns::Netns;

/// The interface in the namespace, and what its counterpart on the host ends in.
const INTERFACE: &str = "names";

/// Nobody but the switch ever sees it.
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x35]);

/// The largest that a TAP can carry in a frame of 64 KiB; the routes name the networks' own.
const MTU: u32 = 65_521;

/// Where questions to 127.0.0.11 are answered.
const REDIRECTED: u16 = 14;

pub(in crate::daemon) struct Stack {
    netns: Netns,
    names: Names,
}

/// A network that the stack answers for.
pub(super) struct Served {
    gateways: Vec<(IpAddr, IpNet)>,
    mtu: u32,
}

impl Stack {
    pub(in crate::daemon) fn create(kind: PortKind, switch: &Switch) -> io::Result<Stack> {
        let netns = Netns::create()?;
        let link = ContainerLink {
            name: INTERFACE.to_owned(),
            mac: MAC,
            mtu: MTU,
            addresses: Vec::new(),
            gateways: Vec::new(),
            names: None,
        };
        let (mut interface, _) =
            NewInterface::create(kind, INTERFACE, switch.workers(), &netns, &link)?;
        netns.run(|| link::send_unasked(INTERFACE))??;
        let port = switch.add_port(interface.take_queues())?;
        interface.keep();
        Ok(Stack {
            netns,
            names: Names {
                port,
                mac: MAC,
                redirected: REDIRECTED,
            },
        })
    }

    /// For the switch.
    pub(super) fn names(&self) -> Names {
        self.names
    }

    /// Answers for a network from now on, at these sockets.
    pub(super) fn serve(&self, network: &NetworkRecord) -> io::Result<(Served, Sockets)> {
        let gateways = network.gateways.iter().copied();
        let subnets = network.subnets.iter().map(IpNet::trunc);
        let served = Served {
            gateways: gateways.zip(subnets).collect(),
            mtu: network.mtu,
        };
        let addresses = served.gateways.iter().flat_map(|&(gateway, _)| {
            let plain = SocketAddr::new(gateway, dns::PORT);
            let redirected = SocketAddr::new(gateway, REDIRECTED);
            let redirected = gateway.is_ipv4().then_some(redirected);
            [Some(plain), redirected].into_iter().flatten()
        });
        let addresses: Vec<SocketAddr> = addresses.collect();
        let sockets = self.netns.run(|| {
            link::answer_for(INTERFACE, &served.gateways, served.mtu, true)?;
            Sockets::open(&addresses).inspect_err(|_| {
                // Else an asker's packets would end here.
                let _ = link::answer_for(INTERFACE, &served.gateways, served.mtu, false);
            })
        })??;
        Ok((served, sockets))
    }

    /// Ends that, after its sockets.
    pub(super) fn leave(&self, served: &Served) -> io::Result<()> {
        let Served { gateways, mtu } = served;
        self.netns
            .run(|| link::answer_for(INTERFACE, gateways, *mtu, false))??;
        Ok(())
    }
}
