//! The daemon's interfaces: what carries a container's or the host's frames to the switch.
//!
//! An interface of a container outlives the daemon only while a record names it, so that a death at
//! any moment leaves none that is nobody's. A TAP is made persistent after the record is written, and
//! stops to be before the record goes: the kernel takes it away with the daemon. A veth pair is made
//! before the record; one that no record claims is removed at start. What a record names and a start
//! does not find is made anew.

use std::io;

use nix::errno::Errno;
use switch::frame::MacAddr;
use switch::io::{PacketOptions, Queue, TapOptions, open_packet, open_tap};

use crate::api::PortKind;
use crate::link::{self, ContainerLink, LinkInfo};
use crate::netns::Netns;

/// Which kinds of interface this kernel has, and why not.
pub(super) struct PortKinds {
    tap: Result<(), String>,
    veth: Result<(), String>,
}

impl PortKinds {
    /// Tries both.
    pub(super) fn probe() -> PortKinds {
        let name = "pt-probe";
        let peer = "pe-probe";
        let tap = open_tap(name, 1, TapOptions { persist: false });
        // Dropped at once: the device goes with its descriptor.
        let tap = tap.map(drop).map_err(|error| error.to_string());
        let veth = link::create_veth(name, peer)
            .and_then(|()| link::delete(name))
            .map_err(|error| error.to_string());
        PortKinds { tap, veth }
    }

    /// Both, until they are tried.
    pub(super) fn assumed() -> PortKinds {
        PortKinds {
            tap: Ok(()),
            veth: Ok(()),
        }
    }

    /// The kind for those who name none.
    ///
    /// # Errors
    /// Neither works; the text tells of both.
    pub(super) fn preferred(&self) -> Result<PortKind, String> {
        match (&self.tap, &self.veth) {
            (Ok(()), _) => Ok(PortKind::Tap),
            (Err(_), Ok(())) => Ok(PortKind::Veth),
            (Err(tap), Err(veth)) => Err(format!("neither tun nor veth works here: {tap}; {veth}")),
        }
    }

    /// # Errors
    /// Why this kernel can't make such interfaces.
    pub(super) fn check(&self, kind: PortKind) -> Result<(), String> {
        match kind {
            PortKind::Tap => self.tap.clone(),
            PortKind::Veth => self.veth.clone(),
        }
    }
}

/// Whether an interface of the host is of pontoon's making, by its name.
pub(super) fn is_ours(name: &str) -> bool {
    if name.starts_with("pt-") || name.starts_with("pe-") {
        return true;
    }
    let Some(number) = name.strip_prefix("pontoon") else {
        return false;
    };
    let number = number.strip_suffix("-sw").unwrap_or(number);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// A container's interface before the switch has it.
pub(super) struct NewInterface {
    /// The end that stays on the host; a TAP has none.
    pub host_interface: Option<String>,
    queues: Vec<Queue>,
}

impl NewInterface {
    /// Makes it inside the container, as `link` says. `stem`, which nobody else may have, becomes
    /// part of names: eleven bytes at most.
    ///
    /// To move an interface from one namespace to another, the kernel holds its lock on all
    /// interfaces (rtnl) for some 20 ms (`rcu_barrier` in `__dev_change_net_namespace`): so none is.
    pub(super) fn create(
        kind: PortKind,
        stem: &str,
        workers: usize,
        netns: &Netns,
        link: &ContainerLink,
    ) -> io::Result<(NewInterface, LinkInfo)> {
        let host_end = format!("pt-{stem}");
        match kind {
            PortKind::Tap => {
                let open = || tap_queues(&host_end, workers, false);
                let (queues, info) = link::make_in_container(netns, &host_end, link, open)?;
                let new = NewInterface {
                    host_interface: None,
                    queues,
                };
                Ok((new, info))
            }
            PortKind::Veth => {
                let container_end = format!("pe-{stem}");
                link::create_veth_across(&host_end, &container_end, Some(netns))?;
                // From here on it goes with the value.
                let mut new = NewInterface {
                    host_interface: Some(host_end.clone()),
                    queues: Vec::new(),
                };
                new.queues = packet_queues(&host_end, link.mtu, workers)?;
                let info = link::configure_container(netns, &container_end, link)?;
                Ok((new, info))
            }
        }
    }

    /// For the switch to serve; given once.
    pub(super) fn take_queues(&mut self) -> Vec<Queue> {
        std::mem::take(&mut self.queues)
    }

    /// It is not given up any more.
    pub(super) fn keep(mut self) {
        self.host_interface = None;
    }
}

impl Drop for NewInterface {
    /// Given up: a TAP goes with its last descriptor, a veth with its host end.
    fn drop(&mut self) {
        if let Some(name) = &self.host_interface
            && let Err(error) = link::delete(name)
        {
            tracing::warn!("an interface is left over: {error}");
        }
    }
}

/// An interface of a container that was there already.
pub(super) struct Adopted {
    pub queues: Vec<Queue>,
    /// Its index in the container's namespace.
    pub ifindex: u32,
    /// The index of the end that stays on the host; a TAP has none.
    pub host_ifindex: Option<u32>,
}

/// Takes up an interface that a daemon before this one made and that is inside `netns` as
/// `interface`, its other end in `home`, the host's namespace, as `host_interface`. Whether it is still
/// as it should be is not looked at, so that this takes no longer than the system calls. The
/// calling thread is in either namespace afterwards.
///
/// # Errors
/// It is not there (`NotFound`), or is another's by now.
pub(super) fn adopt(
    (home, netns): (&Netns, &Netns),
    interface: &str,
    host_interface: Option<&str>,
    workers: usize,
    mtu: u32,
) -> io::Result<Adopted> {
    netns.enter()?;
    // open_tap would make a new device where there is none.
    let ifindex = index(interface)?;
    let Some(host_end) = host_interface else {
        return Ok(Adopted {
            queues: tap_queues(interface, workers, true)?,
            ifindex,
            host_ifindex: None,
        });
    };
    home.enter()?;
    Ok(Adopted {
        host_ifindex: Some(index(host_end)?),
        queues: packet_queues(host_end, mtu, workers)?,
        ifindex,
    })
}

/// The index of an interface of the calling thread's namespace.
fn index(name: &str) -> io::Result<u32> {
    nix::net::if_::if_nametoindex(name).map_err(|errno| match errno {
        Errno::ENODEV => io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no interface {name}"),
        ),
        errno => io::Error::other(format!("find interface {name}: {}", errno.desc())),
    })
}

/// Makes or adopts the interface by which host processes reach a network, without an address yet:
/// a persistent TAP, or a veth pair whose other end the switch reads. Without `ipv6` that is off on
/// it.
pub(super) fn host_interface(
    kind: PortKind,
    name: &str,
    mac: MacAddr,
    mtu: u32,
    workers: usize,
    ipv6: bool,
) -> io::Result<Vec<Queue>> {
    // What a daemon before this one made stays what it is: containers' neighbours know it.
    let existing = match link::link_info(name) {
        Ok(info) => Some(info.kind),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let tap = match existing.as_deref() {
        Some("tun") => true,
        Some("veth") => false,
        Some(other) => {
            return Err(io::Error::other(format!(
                "there is an interface {name} of kind {other:?} that pontoon did not make: remove \
                 or rename it"
            )));
        }
        None => kind == PortKind::Tap,
    };
    let queues = if tap {
        let queues = tap_queues(name, workers, true)?;
        if existing.is_none() {
            link::unqueue(name)?;
        }
        queues
    } else {
        let switch_end = format!("{name}-sw");
        if existing.is_none() {
            link::create_veth(name, &switch_end)?;
        }
        link::segment_sctp(name);
        packet_queues(&switch_end, mtu, workers)?
    };
    link::set_mac(name, mac)?;
    link::set_mtu(name, mtu)?;
    if let Err(error) = link::quiet_ipv6(name, ipv6) {
        tracing::debug!("{error}");
    }
    link::set_up(name)?;
    Ok(queues)
}

fn tap_queues(name: &str, workers: usize, persist: bool) -> io::Result<Vec<Queue>> {
    let queues = open_tap(name, workers, TapOptions { persist })?;
    Ok(queues.into_iter().map(Queue::Tap).collect())
}

/// The end of a veth pair that the switch reads.
fn packet_queues(name: &str, mtu: u32, workers: usize) -> io::Result<Vec<Queue>> {
    let index = link::ready_switch_end(name, mtu)?.index;
    let queues = open_packet(index, workers, PacketOptions::default())?;
    Ok(queues.into_iter().map(Queue::Packet).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_ours_by_name() {
        for ours in [
            "pontoon0",
            "pontoon12",
            "pontoon0-sw",
            "pt-0123abcd",
            "pe-0123abcd",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for foreign in [
            "pontoon",
            "pontoons",
            "pontoon-up",
            "eth0",
            "ptp0",
            "pontoon0-x",
            "",
        ] {
            assert!(!is_ours(foreign), "{foreign}");
        }
    }
}
