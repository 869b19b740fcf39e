//! A conversation with the kernel about the interfaces of one namespace: what the functions of
//! [`super`] are made of.

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::{AfSpecInet, AfSpecUnspec, InetDevConf, LinkAttribute};
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteMetric, RouteScope, RouteType,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use switch::frame::MacAddr;

use super::error::{LinkError, errno};
use super::{LinkInfo, Result};
use crate::netns::{Netns, on_scratch_thread};

/// Longest interface name, in bytes: IFNAMSIZ less its terminator.
const MAX_NAME: usize = 15;

/// Where containers ask for names, as Docker's do.
const NAMES: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// RT_TABLE_LOCAL of linux/rtnetlink.h.
const LOCAL_TABLE: u32 = 255;

/// Of `lo` in every namespace (LOOPBACK_IFINDEX of net/flow.h).
const LOOPBACK_INDEX: u32 = 1;

/// A netlink conversation in one namespace.
pub(super) struct Session {
    pub(super) handle: Handle,
    /// For errors.
    namespace: String,
}

/// Runs `work` with a session in the namespace of the calling thread.
pub(super) fn in_session<T: Send>(
    work: impl AsyncFnOnce(&Session) -> Result<T> + Send,
) -> Result<T> {
    on_scratch_thread(|| block_on_session(work))
}

/// Runs `work` with a session on this thread, which must not be one of an async runtime.
pub(super) fn block_on_session<T>(work: impl AsyncFnOnce(&Session) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let session = Session {
            handle,
            namespace: Netns::current()?.to_string(),
        };
        work(&session).await
    })
}

impl Session {
    pub(super) async fn info(&self, name: &str) -> Result<LinkInfo> {
        let action = || format!("find interface {name}");
        self.check_name(name, action)?;
        let mut answers = self.handle.link().get().match_name(name).execute();
        let message = answers
            .try_next()
            .await
            .map_err(|error| self.refused(action(), &error))?;
        message
            .and_then(|message| LinkInfo::from_message(&message))
            .ok_or_else(|| self.failed(action(), Errno::ENODEV.into(), ""))
    }

    /// Changes one thing about an interface.
    pub(super) async fn change(
        &self,
        name: &str,
        action: String,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<()> {
        let index = self.info(name).await?.index;
        self.change_at(index, action, change).await
    }

    /// The same, for who knows the interface's index.
    pub(super) async fn change_at(
        &self,
        index: u32,
        action: String,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<()> {
        let message = change(LinkUnspec::new_with_index(index)).build();
        let outcome = self.handle.link().set(message).execute().await;
        outcome.map_err(|error| self.refused(action, &error))
    }

    pub(super) async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        let mut info = self.info(name).await?;
        self.rename_at(&mut info, new_name).await
    }

    pub(super) async fn rename_at(&self, info: &mut LinkInfo, new_name: &str) -> Result<()> {
        let name = info.name.clone();
        if name == new_name {
            return Ok(());
        }
        let action = format!("rename {name} to {new_name}");
        self.check_name(new_name, || action.clone())?;
        if info.up {
            let down = format!("take {name} down");
            self.change_at(info.index, down, |link| link.down()).await?;
        }
        self.change_at(info.index, action, |link| link.name(new_name))
            .await?;
        new_name.clone_into(&mut info.name);
        if info.up {
            self.set_up_at(info).await?;
        }
        Ok(())
    }

    pub(super) async fn set_mac(&self, name: &str, mac: MacAddr) -> Result<()> {
        let mut info = self.info(name).await?;
        self.set_mac_at(&mut info, mac).await
    }

    pub(super) async fn set_mac_at(&self, info: &mut LinkInfo, mac: MacAddr) -> Result<()> {
        if info.mac == mac {
            return Ok(());
        }
        let action = format!("set the MAC address of {} to {mac}", info.name);
        self.change_at(info.index, action, |link| link.address(mac.0.to_vec()))
            .await?;
        info.mac = mac;
        Ok(())
    }

    pub(super) async fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        let mut info = self.info(name).await?;
        self.set_mtu_at(&mut info, mtu).await
    }

    pub(super) async fn set_mtu_at(&self, info: &mut LinkInfo, mtu: u32) -> Result<()> {
        if info.mtu == mtu {
            return Ok(());
        }
        let action = format!("set the MTU of {} to {mtu}", info.name);
        self.change_at(info.index, action, |link| link.mtu(mtu))
            .await?;
        info.mtu = mtu;
        Ok(())
    }

    pub(super) async fn set_up(&self, name: &str) -> Result<()> {
        let info = self.info(name).await?;
        self.set_up_at(&info).await
    }

    pub(super) async fn set_up_at(&self, info: &LinkInfo) -> Result<()> {
        let action = format!("bring {} up", info.name);
        self.change_at(info.index, action, |link| link.up()).await
    }

    /// Has a TAP's frames go to its reader without a queue in between (qdisc noqueue), unless
    /// somebody chose another. The kernel would make a queue for each of the 256 that a multi-queue
    /// TAP could have: 6 MiB and 25 ms an interface, measured on Linux 6.18, and the TAP's own ring
    /// is the queue anyway. To be done while the interface is down, before it has any.
    pub(super) async fn unqueue(&self, info: &LinkInfo) -> Result<()> {
        let action = || format!("take the queues off {}", info.name);
        let mut message = TcMessage::with_index(info.index.cast_signed());
        message.header.parent = TcHandle::ROOT;
        message
            .attributes
            .push(TcAttribute::Kind("noqueue".to_owned()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut answers = self
            .handle
            .clone()
            .request(request)
            .map_err(|error| self.refused(action(), &error))?;
        while let Some(answer) = answers.next().await {
            let NetlinkPayload::Error(error) = answer.payload else {
                continue;
            };
            match Errno::from_raw(error.raw_code().saturating_abs()) {
                _ if error.code.is_none() => {}
                // Chosen by somebody. A kernel without traffic control, or without this kind.
                Errno::EEXIST | Errno::EOPNOTSUPP | Errno::ENOENT => {}
                _ => return Err(self.failed(action(), error.to_io(), "")),
            }
        }
        Ok(())
    }

    pub(super) async fn add_address(&self, name: &str, address: IpNet) -> Result<()> {
        let info = self.info(name).await?;
        self.add_address_at(&info, address).await
    }

    pub(super) async fn add_address_at(&self, info: &LinkInfo, address: IpNet) -> Result<()> {
        let name = &info.name;
        let add = self
            .handle
            .address()
            .add(info.index, address.addr(), address.prefix_len());
        let mut add = add.replace();
        // IPAM gave the address, so nobody else has it: usable at once, without the second of
        // duplicate address detection (RFC 4862 clause 5.4). IPv4 ignores the flag.
        add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        let action = || format!("add address {address} to {name}");
        add.execute().await.map_err(|error| match errno(&error) {
            Some(cause @ (Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => {
                self.failed(action(), cause.into(), ": this kernel has no IPv6")
            }
            Some(cause @ Errno::EACCES) => self.failed(
                action(),
                cause.into(),
                ": IPv6 is off on it (sysctl disable_ipv6)",
            ),
            _ => self.refused(action(), &error),
        })
    }

    pub(super) async fn add_route(
        &self,
        destination: IpNet,
        via: Option<IpAddr>,
        name: &str,
        replace: bool,
    ) -> Result<()> {
        let info = self.info(name).await?;
        self.add_route_at(destination, via, &info, replace).await
    }

    pub(super) async fn add_route_at(
        &self,
        destination: IpNet,
        via: Option<IpAddr>,
        info: &LinkInfo,
        replace: bool,
    ) -> Result<()> {
        let name = &info.name;
        let action = || match via {
            Some(via) => format!("add a route to {destination} via {via} through {name}"),
            None => format!("add a route to {destination} through {name}"),
        };
        let message = route_message(destination, via, info.index).ok_or_else(|| {
            let cause = io::Error::new(
                io::ErrorKind::InvalidInput,
                "destination and gateway are of different IP versions",
            );
            self.failed(action(), cause, "")
        })?;
        let mut add = self.handle.route().add(message);
        if replace {
            add = add.replace();
        }
        add.execute().await.map_err(|error| match errno(&error) {
            Some(cause @ (Errno::ENETUNREACH | Errno::EHOSTUNREACH)) => self.failed(
                action(),
                cause.into(),
                ": the gateway is in no subnet of the interface, or the interface is down",
            ),
            Some(cause @ (Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => {
                self.failed(action(), cause.into(), ": this kernel has no IPv6")
            }
            _ => self.refused(action(), &error),
        })
    }

    pub(super) async fn lead_names(&self, gateway: Ipv4Addr, name: &str) -> Result<()> {
        let action = || format!("lead names to {gateway} through {name}");
        let index = self.info(name).await?.index;
        let mut settings = InetDevConf::default();
        settings.route_localnet = 1;
        self.change_at(index, action(), |link| {
            link.append_extra_attribute(ipv4_settings(settings))
        })
        .await?;
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(NAMES, 32)
            .gateway(gateway)
            .output_interface(index)
            .table_id(LOCAL_TABLE)
            .build();
        let add = self.handle.route().add(message).replace();
        add.execute()
            .await
            .map_err(|error| self.refused(action(), &error))
    }

    /// Adds or takes away what lets the namespace answer for `gateway`, which no interface of it
    /// has: the address as one of its own (RTN_LOCAL, of its loopback), and the way to the hosts of
    /// `subnet`, which take packets of `mtu` bytes.
    pub(super) async fn answer_for(
        &self,
        info: &LinkInfo,
        (gateway, subnet): (IpAddr, IpNet),
        mtu: u32,
        add: bool,
    ) -> Result<()> {
        let action = || format!("answer for {gateway} in {subnet}");
        let route = |to: IpNet| {
            RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .map_err(|error| self.failed(action(), io::Error::other(error.to_string()), ""))
        };
        let own = route(gateway.into())?
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .table_id(LOCAL_TABLE)
            .output_interface(LOOPBACK_INDEX)
            .build();
        let mut hosts = route(subnet)?.output_interface(info.index);
        if subnet.addr().is_ipv4() {
            hosts = hosts.scope(RouteScope::Link);
        }
        let mut hosts = hosts.build();
        let narrow = RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]);
        hosts.attributes.push(narrow);
        for message in [own, hosts] {
            match add {
                true => self.handle.route().add(message).replace().execute().await,
                false => self.handle.route().del(message).execute().await,
            }
            .map_err(|error| self.refused(action(), &error))?;
        }
        Ok(())
    }

    /// Not netlink: router advertisements are governed by sysctls alone. `/proc/sys/net` shows
    /// the namespace of the thread that opens it.
    pub(super) fn quiet_ipv6(&self, name: &str, wanted: bool) -> Result<()> {
        let action = || format!("settle IPv6 on {name}");
        self.check_name(name, action)?;
        let path = Path::new("/proc/sys/net/ipv6/conf").join(name);
        // Looked up once: every namespace's directory of this name is in one chain of the kernel's
        // cache of names, which a thousand of them make long.
        let settings = match open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(settings) => settings,
            Err(Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(self.failed(action(), error.into(), "")),
        };
        let off = if wanted { "0" } else { "1" };
        // Of addresses that IPAM gives out there are no duplicates to detect, and none of the
        // link-local one that the kernel derives from IPAM's MAC: it is usable at once.
        for (file, value) in [
            ("accept_ra", "0"),
            ("autoconf", "0"),
            ("accept_dad", "0"),
            ("disable_ipv6", off),
        ] {
            let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            openat(&settings, file, flags, Mode::empty())
                .map_err(io::Error::from)
                .and_then(|setting| File::from(setting).write_all(value.as_bytes()))
                .map_err(|error| self.failed(format!("{} (sysctl {file})", action()), error, ""))?;
        }
        Ok(())
    }

    /// The kernel's own rules for names (`dev_valid_name`): they become parts of paths too.
    pub(super) fn check_name(&self, name: &str, action: impl FnOnce() -> String) -> Result<()> {
        let why = if name.is_empty() || name == "." || name == ".." {
            "that is no name for an interface"
        } else if name.len() > MAX_NAME {
            "an interface name has at most 15 bytes"
        } else if name.bytes().any(|byte| {
            matches!(byte, b'/' | b':') || byte.is_ascii_whitespace() || byte.is_ascii_control()
        }) {
            "an interface name has no slash, colon, space or control character"
        } else {
            return Ok(());
        };
        Err(self.failed(
            action(),
            io::Error::new(io::ErrorKind::InvalidInput, why),
            "",
        ))
    }

    pub(super) fn failed(
        &self,
        action: String,
        cause: io::Error,
        advice: &'static str,
    ) -> LinkError {
        LinkError {
            action,
            namespace: self.namespace.clone(),
            cause,
            advice,
        }
    }

    /// An error of the kernel, with the advice that goes with it everywhere.
    pub(super) fn refused(&self, action: String, error: &rtnetlink::Error) -> LinkError {
        let Some(errno) = errno(error) else {
            return self.failed(action, io::Error::other(error.to_string()), "");
        };
        let advice = match errno {
            Errno::EPERM | Errno::EACCES => {
                ": it needs CAP_NET_ADMIN over the namespace (root, or the user namespace that \
                 owns it)"
            }
            Errno::ENODEV => ": there is no such interface (ip link show)",
            Errno::EEXIST => ": that exists already",
            Errno::EBUSY => ": the interface is in use",
            _ => "",
        };
        self.failed(action, errno.into(), advice)
    }
}

/// A unicast route for the main table, or `None` if the families differ.
fn route_message(destination: IpNet, via: Option<IpAddr>, index: u32) -> Option<RouteMessage> {
    match (destination, via) {
        (IpNet::V4(to), None) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .scope(RouteScope::Link);
            Some(route.output_interface(index).build())
        }
        (IpNet::V4(to), Some(IpAddr::V4(via))) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .gateway(via);
            Some(route.output_interface(index).build())
        }
        (IpNet::V6(to), None) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to.network(), to.prefix_len());
            Some(route.output_interface(index).build())
        }
        (IpNet::V6(to), Some(IpAddr::V6(via))) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .gateway(via);
            Some(route.output_interface(index).build())
        }
        (IpNet::V4(_), Some(IpAddr::V6(_))) | (IpNet::V6(_), Some(IpAddr::V4(_))) => None,
    }
}

/// IPv4's settings of an interface, those that are not zero. Not by their sysctls: every
/// namespace's directory of IPv4 is in one chain of the kernel's cache of names.
pub(super) fn ipv4_settings(settings: InetDevConf) -> LinkAttribute {
    let settings = AfSpecInet::DevConfRequest(settings);
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![settings])])
}
