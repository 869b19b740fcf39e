//! Interfaces, over rtnetlink: made, moved, named, addressed, routed.
//!
//! Every function here **blocks**, for well under a millisecond mostly (deleting an interface
//! waits for the kernel's grace period, some 20 ms), and works **in the network namespace of the
//! calling thread**. It may be called from anywhere, async code included: the netlink socket and
//! its little runtime live on a scratch thread, which is born in the caller's namespace. To work
//! elsewhere, call it inside [`Netns::run`].
//!
//! Nothing here needs sysfs, `ip`, or a kernel with IPv6. The kernel demands CAP_NET_ADMIN over
//! the namespace, which the owner of a user namespace has in the namespaces below it.
//!
//! Offloads need no setting, but for SCTP's: a veth carries partial checksums and super-frames from
//! the start, and the virtio header tells the switch about them.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netlink_packet_route::link::{
    InetDevConf, InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkInfo as LinkInfoAttribute,
    LinkLayerType, LinkMessage,
};
use nix::errno::Errno;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use switch::frame::MacAddr;

use crate::netns::{Netns, on_scratch_thread};

mod error;
pub(crate) mod ingress;
mod session;

pub(crate) use error::{LinkError, errno};
use session::{Session, block_on_session, in_session};

pub(crate) type Result<T> = std::result::Result<T, LinkError>;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// All zero for a link that has no Ethernet address (loopback, a layer 3 tunnel).
    pub(crate) mac: MacAddr,
    /// Bytes of a layer 3 packet.
    pub(crate) mtu: u32,
    /// The driver's word: `veth`, `tun` (for TAP too), `bridge`, …; empty for hardware.
    pub(crate) kind: String,
    /// Administratively up (IFF_UP); says nothing of a carrier.
    pub(crate) up: bool,
    /// Carries Ethernet frames (ARPHRD_ETHER).
    pub(crate) ethernet: bool,
    /// Carries IP packets without a header in front: WireGuard and other TUNs, PPP, IP tunnels.
    pub(crate) headerless: bool,
    pub(crate) loopback: bool,
    /// A number that the administrator gives (`ip link set group`); 0 if none was given.
    pub(crate) group: u32,
    /// For a veth, the index of the other end, in the namespace that the other end is in.
    pub(crate) peer_index: Option<u32>,
    /// The kernel's local number (`ip netns list-id`) of the namespace of the other end, if that
    /// is not this one.
    pub(crate) peer_netns: Option<i32>,
}

impl LinkInfo {
    /// `None` for a message without a name or index, which no kernel sends.
    pub(crate) fn from_message(message: &LinkMessage) -> Option<LinkInfo> {
        let mut info = LinkInfo {
            index: message.header.index,
            name: String::new(),
            mac: MacAddr([0; 6]),
            mtu: 0,
            kind: String::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            headerless: matches!(
                message.header.link_layer_type,
                LinkLayerType::None
                    | LinkLayerType::Ppp
                    | LinkLayerType::Rawip
                    | LinkLayerType::Tunnel
                    | LinkLayerType::Tunnel6
                    | LinkLayerType::Sit
                    | LinkLayerType::Ipgre
                    | LinkLayerType::Ip6gre
            ),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            group: 0,
            peer_index: None,
            peer_netns: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => info.name.clone_from(name),
                LinkAttribute::Address(bytes) => {
                    // Other media have addresses of other lengths (4 bytes for a tunnel).
                    if let Ok(mac) = <[u8; 6]>::try_from(bytes.as_slice()) {
                        info.mac = MacAddr(mac);
                    }
                }
                LinkAttribute::Mtu(mtu) => info.mtu = *mtu,
                LinkAttribute::Group(group) => info.group = *group,
                LinkAttribute::Link(index) => info.peer_index = Some(*index),
                LinkAttribute::LinkNetNsId(id) => info.peer_netns = Some(*id),
                LinkAttribute::LinkInfo(parts) => {
                    for part in parts {
                        if let LinkInfoAttribute::Kind(kind) = part {
                            info.kind = kind.to_string();
                        }
                    }
                }
                _ => {}
            }
        }
        (info.index != 0 && !info.name.is_empty()).then_some(info)
    }
}

/// What a container's interface shall be.
#[derive(Clone, Debug)]
pub(crate) struct ContainerLink {
    /// The name inside the container: `eth0`.
    pub(crate) name: String,
    pub(crate) mac: MacAddr,
    /// Bytes of a layer 3 packet.
    pub(crate) mtu: u32,
    /// Each with the prefix length of its network.
    pub(crate) addresses: Vec<IpNet>,
    /// At most one of each family; each becomes a default route.
    pub(crate) gateways: Vec<IpAddr>,
    /// The gateway that answers what is asked of 127.0.0.11.
    pub(crate) names: Option<Ipv4Addr>,
}

/// Whether there is an interface of this name.
pub(crate) fn exists(name: &str) -> Result<bool> {
    Ok(index_of(name)?.is_some())
}

/// The index of an interface, or `None` if there is none of this name.
pub(crate) fn index_of(name: &str) -> Result<Option<u32>> {
    match link_info(name) {
        Ok(info) => Ok(Some(info.index)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All there is to know about an interface.
pub(crate) fn link_info(name: &str) -> Result<LinkInfo> {
    in_session(async |session| session.info(name).await)
}

/// Makes a veth pair, both ends here and down.
pub(crate) fn create_veth(name: &str, peer: &str) -> Result<()> {
    create_veth_across(name, peer, None)
}

/// Makes a veth pair, both ends down: `name` here, and `peer` in another namespace if one is given.
pub(crate) fn create_veth_across(name: &str, peer: &str, netns: Option<&Netns>) -> Result<()> {
    in_session(async |session| {
        let action = || format!("create the veth pair {name} and {peer}");
        session.check_name(name, action)?;
        session.check_name(peer, action)?;
        let mut end = LinkMessageBuilder::<LinkUnspec>::new().name(peer);
        if let Some(netns) = netns {
            end = end.setns_by_fd(netns.as_fd().as_raw_fd());
        }
        let ends = InfoData::Veth(InfoVeth::Peer(end.build()));
        let message = LinkVeth::new(name, peer).set_info_data(ends).build();
        let outcome = session.handle.link().add(message).execute().await;
        outcome.map_err(|error| match errno(&error) {
            Some(Errno::EOPNOTSUPP) => session.failed(
                action(),
                Errno::EOPNOTSUPP.into(),
                ": this kernel has no veth (load the module veth, or use TAP interfaces)",
            ),
            Some(Errno::EEXIST) => session.failed(
                action(),
                Errno::EEXIST.into(),
                ": one of the two names is in use (ip link show)",
            ),
            _ => session.refused(action(), &error),
        })
    })
}

/// Deletes an interface; a veth takes its other end with it.
pub(crate) fn delete(name: &str) -> Result<()> {
    in_session(async |session| {
        let index = session.info(name).await?.index;
        let outcome = session.handle.link().del(index).execute().await;
        outcome.map_err(|error| session.refused(format!("delete {name}"), &error))
    })
}

/// Moves an interface into another namespace. It arrives down, without its addresses and routes;
/// its name must be free there.
pub(crate) fn move_to(name: &str, netns: &Netns) -> Result<()> {
    in_session(async |session| {
        let change =
            |link: LinkMessageBuilder<LinkUnspec>| link.setns_by_fd(netns.as_fd().as_raw_fd());
        session
            .change(name, format!("move {name} to {netns}"), change)
            .await
    })
}

/// Gives an interface another name. It is down for a moment: kernels before 6.2 rename only what
/// is down.
pub(crate) fn rename(name: &str, new_name: &str) -> Result<()> {
    in_session(async |session| session.rename(name, new_name).await)
}

/// Sets the Ethernet address.
pub(crate) fn set_mac(name: &str, mac: MacAddr) -> Result<()> {
    in_session(async |session| session.set_mac(name, mac).await)
}

/// Sets the largest layer 3 packet, in bytes.
pub(crate) fn set_mtu(name: &str, mtu: u32) -> Result<()> {
    in_session(async |session| session.set_mtu(name, mtu).await)
}

/// Takes the kernel's queues off a new TAP, which has not been up yet (qdisc noqueue).
pub(crate) fn unqueue(name: &str) -> Result<()> {
    in_session(async |session| session.unqueue(&session.info(name).await?).await)
}

/// Brings an interface up.
pub(crate) fn set_up(name: &str) -> Result<()> {
    in_session(async |session| session.set_up(name).await)
}

/// Adds an address with its prefix length; the kernel adds the route to the prefix itself. To add
/// what is there already is no error.
pub(crate) fn add_address(name: &str, address: IpNet) -> Result<()> {
    in_session(async |session| session.add_address(name, address).await)
}

/// Makes the default route of the gateway's family lead to it through this interface, in place of
/// the one that was there.
pub(crate) fn set_default_route(gateway: IpAddr, name: &str) -> Result<()> {
    in_session(async |session| {
        session
            .add_route(everything(gateway), Some(gateway), name, true)
            .await
    })
}

/// Leads what is sent to 127.0.0.11 to the gateway through this interface, and lets the interface
/// take what comes back from there.
///
/// Such a route is possible in the table `local` only, which is looked at first: there it is longer
/// than the one that makes 127.0.0.0/8 the namespace's own.
pub(crate) fn lead_names(gateway: Ipv4Addr, name: &str) -> Result<()> {
    in_session(async |session| session.lead_names(gateway, name).await)
}

/// Makes an interface one that asks for nobody's MAC and sends all to its own (IFF_NOARP), for a
/// switch that knows where what it sends has to go; with IPv6, if the kernel has it.
pub(crate) fn send_unasked(name: &str) -> Result<()> {
    in_session(async |session| {
        let info = session.info(name).await?;
        let action = format!("turn ARP off on {name}");
        let change = |link: LinkMessageBuilder<LinkUnspec>| link.arp(false);
        session.change_at(info.index, action, change).await?;
        session.quiet_ipv6(name, true)
    })
}

/// Lets the namespace answer for gateways, each to the hosts of a subnet, which are behind the
/// interface `name` and take packets of `mtu` bytes; or, without `add`, ends that.
pub(crate) fn answer_for(
    name: &str,
    gateways: &[(IpAddr, IpNet)],
    mtu: u32,
    add: bool,
) -> Result<()> {
    in_session(async |session| {
        let info = session.info(name).await?;
        for gateway in gateways {
            session.answer_for(&info, *gateway, mtu, add).await?;
        }
        Ok(())
    })
}

/// Keeps the kernel from making IPv6 addresses of its own on an interface: no router
/// advertisements (CVE-2020-13401), no autoconfiguration, and, unless `wanted`, no IPv6 at all
/// (CVE-2024-32473): no link-local address either. Does nothing on a kernel without IPv6. Call it
/// before the interface comes up.
pub(crate) fn quiet_ipv6(name: &str, wanted: bool) -> Result<()> {
    in_session(async |session| session.quiet_ipv6(name, wanted))
}

/// Leaves no super-frames of SCTP to the other end of a veth, where the switch reads: AF_PACKET has
/// no words for them and drops them (`virtio_net_hdr_from_skb`), so that what is larger than a
/// packet would come by retransmission alone. The kernel that sends cuts them then. A TAP is never
/// given any.
pub(crate) fn segment_sctp(name: &str) {
    if let Err(error) = switch::io::switch_feature_off(name, "tx-sctp-segmentation") {
        tracing::debug!("SCTP of {name} may be slow: {error}");
    }
}

/// Readies the host's end of a veth pair for the switch, which reads it: with an MTU, in bytes of a
/// layer 3 packet, up, and without ARP and IPv6 of the kernel's own. Linux answers ARP for any of its
/// addresses on any interface that is up, one without an address included; so it would claim the
/// gateway's address before the switch does. And it gives a broadcast datagram that comes in there
/// to its own sockets, whatever the switch decides; with `rp_filter` it takes no source but 0.0.0.0
/// on an interface that has no address (`fib_validate_source`).
pub(crate) fn ready_switch_end(name: &str, mtu: u32) -> Result<LinkInfo> {
    in_session(async |session| {
        let info = session.info(name).await?;
        let action = format!("set the MTU of {name} to {mtu}, and turn ARP off");
        let mut settings = InetDevConf::default();
        settings.rp_filter = 1;
        let settings = session::ipv4_settings(settings);
        let change = |link: LinkMessageBuilder<LinkUnspec>| {
            link.mtu(mtu).arp(false).append_extra_attribute(settings)
        };
        session.change_at(info.index, action, change).await?;
        if let Err(error) = session.quiet_ipv6(name, false) {
            tracing::debug!("{error}");
        }
        session.set_up_at(&info).await?;
        Ok(info)
    })
}

/// Makes the interface `current_name` of a container's namespace what its endpoint says: name,
/// MAC, MTU, addresses, up, default routes; and `lo` up. An interface that is so already stays
/// undisturbed, so a restarted daemon may call it again. If it fails the interface is left half
/// done: delete it.
pub(crate) fn configure_container(
    netns: &Netns,
    current_name: &str,
    link: &ContainerLink,
) -> Result<LinkInfo> {
    on_scratch_thread(|| {
        netns.enter()?;
        block_on_session(async |session| configure(session, current_name, link).await)
    })
}

/// The same for an interface that `make` makes, in the container's namespace and under
/// `current_name`; also hands back what `make` returns.
pub(crate) fn make_in_container<T: Send>(
    netns: &Netns,
    current_name: &str,
    link: &ContainerLink,
    make: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<(T, LinkInfo)> {
    // One thread for all of it: each hand-over to another one waits for a CPU.
    on_scratch_thread(|| {
        netns.enter()?;
        let made = make()?;
        let info = block_on_session(async |session| configure(session, current_name, link).await)?;
        Ok((made, info))
    })
}

async fn configure(
    session: &Session,
    current_name: &str,
    link: &ContainerLink,
) -> Result<LinkInfo> {
    session.set_up("lo").await?;
    let name = link.name.as_str();
    let mut info = session.info(current_name).await?;
    session.rename_at(&mut info, name).await?;
    session.set_mac_at(&mut info, link.mac).await?;
    session.set_mtu_at(&mut info, link.mtu).await?;
    let ipv6 = link
        .addresses
        .iter()
        .any(|address| address.addr().is_ipv6());
    // Some sandboxes mount /proc/sys read-only. An IPv6 address can't be added if IPv6
    // stays off, and then that says so.
    match session.quiet_ipv6(name, ipv6) {
        Ok(()) => {}
        Err(error) if ipv6 => tracing::debug!("{error}"),
        Err(error) => tracing::warn!("IPv6 is not off in the container: {error}"),
    }
    for &address in &link.addresses {
        session.add_address_at(&info, address).await?;
    }
    if info.kind == "tun" && !info.up {
        session.unqueue(&info).await?;
    }
    if info.kind == "veth" {
        segment_sctp(name);
    }
    session.set_up_at(&info).await?;
    info.up = true;
    for &gateway in &link.gateways {
        session
            .add_route_at(everything(gateway), Some(gateway), &info, true)
            .await?;
    }
    if let Some(gateway) = link.names {
        session.lead_names(gateway, name).await?;
    }
    Ok(info)
}

/// The default route's destination in the family of an address.
fn everything(like: IpAddr) -> IpNet {
    match like {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

#[cfg(test)]
mod tests;
