//! The kernel's own NAT, in a namespace: routes, nftables, and raw sockets where the hosts would be.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};
use nix::unistd::Pid;

use pontoon_tests::namespace::{Namespace, join};
use pontoon_tests::process::run;
use pontoon_tests::wire::{RawPort, ethernet, ipv4, udp};

use crate::net::{GATEWAY_MAC, PUBLISHED, SERVED, Side, UPLINK_MAC, Who, gateway, host};

/// A packet that follows each one of the test, and passes untracked: when it has come, so has
/// whatever became of the other.
const SENTINEL: ([u8; 4], [u8; 4]) = ([10, 88, 0, 99], [192, 0, 2, 99]);

pub(crate) struct Kernel {
    // Before the namespaces, whose end wants to find them as they were.
    _rules: RuleSet,
    inside: RawPort,
    outside: RawPort,
    netlink: OwnedFd,
    _router: Namespace,
    _hosts: Namespace,
    sentinels: u16,
}

/// Takes away what no other test's namespace has.
struct RuleSet(String);

impl Drop for RuleSet {
    fn drop(&mut self) {
        let undo = "nft flush ruleset; sysctl -qw net.ipv4.ip_forward=0; \
                    sysctl -qw net.ipv6.conf.all.forwarding=0";
        run(Command::new("ip").args(["netns", "exec", &self.0, "sh", "-c", undo]));
    }
}

impl Kernel {
    /// None, and why, where the kernel has no nf_tables.
    pub(crate) fn new() -> Result<Kernel, String> {
        let router = Namespace::new("nat");
        let probe = "nft add table inet probe && nft 'add chain inet probe c { type nat hook \
                     prerouting priority -100; }' && nft flush ruleset";
        let probed = run(router.command("sh").args(["-c", probe]));
        if !probed.status.success() {
            return Err("no NAT by nf_tables in this kernel, or no nft".to_owned());
        }
        let hosts = Namespace::new("hosts");
        for namespace in [&router, &hosts] {
            namespace.sh("sysctl -qw net.ipv6.conf.default.accept_dad=0 \
                          net.ipv6.conf.all.accept_dad=0");
        }
        hosts.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        join((&router, "inside"), (&hosts, "inside"));
        join((&router, "outside"), (&hosts, "outside"));
        let rules = RuleSet(router.name().to_owned());
        configure(&router, &hosts);
        let netlink = router.within(|| {
            let socket = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkNetFilter,
            )
            .expect("root may open netlink");
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).expect("netlink binds");
            socket
        });
        stay_on_one_cpu();
        Ok(Kernel {
            _rules: rules,
            inside: RawPort::open(&hosts, "inside"),
            outside: RawPort::open(&hosts, "outside"),
            netlink,
            _router: router,
            _hosts: hosts,
            sentinels: 0,
        })
    }

    /// Forgets all connections.
    pub(crate) fn flush(&mut self) {
        const CTNETLINK_DELETE: u16 = 1 << 8 | 2;
        const REQUEST_ACK: u16 = 1 | 4;
        // struct nlmsghdr, and a struct nfgenmsg of no family: all.
        let mut message = 20u32.to_ne_bytes().to_vec();
        message.extend(CTNETLINK_DELETE.to_ne_bytes());
        message.extend(REQUEST_ACK.to_ne_bytes());
        message.extend([0; 12]);
        let socket = self.netlink.as_raw_fd();
        send(socket, &message, MsgFlags::empty()).expect("netlink takes a message");
        let mut answer = [0; 64];
        let length = recv(socket, &mut answer, MsgFlags::empty()).expect("netlink answers");
        let error = i32::from_ne_bytes(answer[16..20].try_into().expect("four"));
        assert!(
            length >= 20 && error == 0,
            "flushing connections: error {error}"
        );
    }

    /// Sends a packet in as `from`; what comes out, by side. What goes to the host is not told.
    pub(crate) fn send(&mut self, from: Who, packet: &[u8]) -> Vec<(Side, Vec<u8>)> {
        let (port, to) = match from.side() {
            Side::Outside => (&self.outside, UPLINK_MAC),
            Side::A | Side::B => (&self.inside, GATEWAY_MAC),
        };
        let ethertype = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        port.send(&ethernet(to, from.mac(), ethertype, packet))
            .expect("the frame fits the interface");
        self.sentinels = self.sentinels.wrapping_add(1);
        let number = self.sentinels.to_be_bytes();
        let sentinel = ipv4(
            SENTINEL.0.into(),
            SENTINEL.1.into(),
            17,
            &udp(9, 9, &number),
        );
        self.inside
            .send(&ethernet(GATEWAY_MAC, Who::A.mac(), 0x0800, &sentinel))
            .expect("the sentinel fits the interface");
        let mut out = Vec::new();
        loop {
            let frame = self.outside.receive().expect("the sentinel comes");
            if frame.ends_with(&number) && frame.get(30..34) == Some(&SENTINEL.1) {
                break;
            }
            out.extend(told(&frame).map(|packet| (Side::Outside, packet)));
        }
        while let Some(frame) = self.inside.receive_now() {
            let side = match &frame[..6] {
                mac if mac == Who::A.mac() => Side::A,
                mac if mac == Who::B.mac() => Side::B,
                _ => continue,
            };
            out.extend(told(&frame).map(|packet| (side, packet)));
        }
        out.sort_by_key(|(side, _)| *side);
        out
    }
}

/// The packet in a frame from the router, unless it is discovery of neighbours or the like.
fn told(frame: &[u8]) -> Option<Vec<u8>> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let from_router = frame[6..12] == GATEWAY_MAC || frame[6..12] == UPLINK_MAC;
    let discovery = packet.get(6) == Some(&58) && matches!(packet.get(40), Some(133..=137));
    let noise = frame[0] & 1 == 1 || (kind == [0x86, 0xdd] && discovery);
    let is_ip = kind == [0x08, 0x00] || kind == [0x86, 0xdd];
    (from_router && is_ip && !noise).then(|| packet.to_vec())
}

fn configure(router: &Namespace, hosts: &Namespace) {
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    for (interface, own, ipv6) in [
        ("inside", GATEWAY_MAC, false),
        ("outside", UPLINK_MAC, true),
    ] {
        let address = if ipv6 { host } else { gateway };
        let lengths = if ipv6 { [24, 64] } else { [16, 64] };
        router.ip(&format!("link set {interface} address {}", mac(own)));
        for (family, length) in [false, true].into_iter().zip(lengths) {
            router.ip(&format!(
                "addr add {}/{length} dev {interface} nodad",
                address(family)
            ));
        }
        hosts.ip(&format!("link set {interface} arp off"));
        hosts.sh(&format!("ip addr flush dev {interface}"));
    }
    for who in Who::ALL {
        let interface = match who.side() {
            Side::Outside => "outside",
            Side::A | Side::B => "inside",
        };
        for ipv6 in [false, true] {
            let (address, mac) = (who.address(ipv6), mac(who.mac()));
            router.ip(&format!(
                "neigh replace {address} lladdr {mac} dev {interface}"
            ));
        }
    }
    let beyond = SENTINEL.1.map(|octet| octet.to_string()).join(".");
    let nobody = mac([2, 0, 0, 0, 1, 0x99]);
    router.ip(&format!(
        "neigh replace {beyond} lladdr {nobody} dev outside"
    ));
    // Reverse path filters and limits of ICMP are the host's choice, and not what is compared.
    router.sh(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
         net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.inside.rp_filter=0 \
         net.ipv4.conf.outside.rp_filter=0 net.ipv4.conf.all.send_redirects=0 \
         net.ipv4.conf.inside.send_redirects=0 net.ipv4.icmp_ratelimit=0 \
         net.ipv6.icmp.ratelimit=0 net.netfilter.nf_conntrack_tcp_be_liberal=1",
    );
    let (b4, b6) = (Who::B.address(false), Who::B.address(true));
    let (h4, h6) = (host(false), host(true));
    let (sentinel, port, served) = ("10.88.0.99", PUBLISHED, SERVED);
    let rules = format!(
        "table inet compared {{
            chain early {{
                type filter hook prerouting priority raw
                ip saddr {sentinel} notrack
            }}
            chain prerouting {{
                type nat hook prerouting priority dstnat
                ip daddr {h4} tcp dport {port} dnat ip to {b4}:{served}
                ip daddr {h4} udp dport {port} dnat ip to {b4}:{served}
                ip6 daddr {h6} tcp dport {port} dnat ip6 to [{b6}]:{served}
                ip6 daddr {h6} udp dport {port} dnat ip6 to [{b6}]:{served}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat
                oifname outside ip saddr 10.88.0.0/16 masquerade
                oifname outside ip6 saddr fd88::/64 masquerade
                iifname inside oifname inside ct status dnat snat ip to {h4}
                iifname inside oifname inside ct status dnat snat ip6 to {h6}
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop
                ip saddr {sentinel} accept
                ct state invalid drop
                ct state established,related accept
                ct status dnat accept
                iifname inside oifname outside accept
            }}
            chain input {{
                type filter hook input priority filter; policy drop
            }}
        }}"
    );
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), rules).expect("a temporary file can be written");
    router.sh(&format!("nft -f {}", file.path().display()));
}

/// Frames from one CPU are handled there in the order they were sent (the backlog of softnet is one
/// queue a CPU), which is what a sentinel relies on.
fn stay_on_one_cpu() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs can be asked for");
    let cpu = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu) == Ok(true));
    let mut one = CpuSet::new();
    one.set(cpu.expect("there is a CPU")).expect("it is one");
    sched_setaffinity(Pid::from_raw(0), &one).expect("a thread may keep to one CPU");
}
