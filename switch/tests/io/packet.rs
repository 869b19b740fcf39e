//! Packet sockets: fanout, filters, and what the kernel refuses.

use std::path::Path;
use std::process::Command;

use switch::frame::{Frame, VnetHeader};
use switch::io::filter::{Part, UplinkFilter, drop_all_filter, uplink_filter};
use switch::io::{PacketOptions, Queue, Sent};

use crate::harness::*;

#[test]
fn fanout_keeps_both_directions_of_a_flow_on_one_queue() {
    needs_root!();
    let (host, wire) = (Namespace::new(), Namespace::new());
    let ifindex = host.veth("uplink", &wire, "far");
    // The second group on the same interface gets an id, and frames, of its own.
    let groups = [2, 3].map(|queues| host.open_packet(ifindex, queues, PacketOptions::default()));
    let sender = wire.packet_queue(wire.ifindex("far").unwrap());
    for port in 1000..1200 {
        let out = udp_frame((HERE, port), (THERE, 53), 10);
        let back = udp_frame((THERE, 53), (HERE, port), 10);
        assert_eq!(sender.transmit(&[&out, &back]).sent, 2);
    }
    for group in groups {
        let mut total = 0;
        for socket in group {
            let got = receive_some(&Queue::Packet(socket), is_ipv4);
            let mut ports: Vec<u16> = got
                .iter()
                .map(|frame| word(frame, 34).max(word(frame, 36)))
                .collect();
            ports.sort_unstable();
            assert!(ports.len() > 60, "spread: {}", ports.len());
            assert!(
                ports.chunks(2).all(|pair| pair[0] == pair[1]),
                "both directions"
            );
            total += ports.len();
        }
        assert_eq!(total, 400, "each frame once");
    }
}

/// Neither what its own sockets send, nor what others of this process or of the host do.
#[test]
fn a_group_hears_nothing_that_leaves() {
    needs_root!();
    let (host, wire) = (Namespace::new(), Namespace::new());
    let ifindex = host.veth("uplink", &wire, "far");
    let [mut first, second] =
        [2, 2].map(|queues| host.open_packet(ifindex, queues, PacketOptions::default()));
    let sender = Queue::Packet(first.remove(0));
    for port in 1000..1040 {
        let out = udp_frame((HERE, port), (THERE, 53), 10);
        assert_eq!(sender.transmit(&[&out]).sent, 1);
    }
    let queues = second.into_iter().chain(first).map(Queue::Packet);
    for queue in queues.chain([sender]) {
        assert!(receive_some(&queue, is_ipv4).is_empty());
    }
}

#[test]
fn uplink_filter_works_in_the_kernel() {
    needs_root!();
    let (host, wire) = (Namespace::new(), Namespace::new());
    let ifindex = host.veth("uplink", &wire, "far");
    let filter = UplinkFilter {
        tcp: vec![],
        udp: vec![100..=110, 61000..=65535],
        addresses: vec![HERE.into()],
        routed: vec![],
        published: Default::default(),
    };
    let options = PacketOptions {
        filter: Some(uplink_filter(&filter, Part::All)),
        ..PacketOptions::default()
    };
    let queue = Queue::Packet(host.open_packet(ifindex, 1, options).remove(0));
    let sender = wire.packet_queue(wire.ifindex("far").unwrap());
    let ports_passed = || -> Vec<u16> {
        for port in [99, 100, 105, 110, 111, 60999, 61000, 65535] {
            for address in [HERE, THERE] {
                let frame = udp_frame(([10, 0, 0, 9], 7), (address, port), 10);
                assert_eq!(sender.transmit(&[&frame]).sent, 1);
            }
        }
        let got = receive_some(&queue, is_ipv4);
        assert!(got.iter().all(|frame| frame.bytes()[30..34] == HERE));
        got.iter().map(|frame| word(frame, 36)).collect()
    };
    assert_eq!(ports_passed(), [100, 105, 110, 61000, 65535]);

    // The largest program fits twice, the old and the new, into what Linux gave before 6.8; there
    // no namespace has a setting of its own.
    let sysctl = "sysctl -qw net.core.optmem_max=20480";
    let sysctl = ["netns", "exec", &host.name]
        .into_iter()
        .chain(sysctl.split(' '));
    Command::new("ip").args(sysctl).output().unwrap();
    let every_other: Vec<_> = (0..=u16::MAX).step_by(2).map(|port| port..=port).collect();
    let largest = UplinkFilter {
        tcp: every_other.clone(),
        udp: every_other,
        addresses: vec![HERE.into()],
        routed: vec![],
        published: Default::default(),
    };
    let largest = uplink_filter(&largest, Part::All);
    let Queue::Packet(socket) = &queue else {
        unreachable!()
    };
    for _ in 0..3 {
        socket.set_filter(&largest).unwrap();
    }
    eprintln!(
        "{} instructions fit twice into an optmem_max of 20480",
        largest.len()
    );
    // Merged into one but for the highest: the narrowest gaps close first, from below.
    assert_eq!(ports_passed(), [99, 100, 105, 110, 111, 60999, 61000]);
    socket.set_filter(&drop_all_filter()).unwrap();
    assert!(ports_passed().is_empty());
    assert_eq!(
        socket.kernel_drops(),
        0,
        "a filtered frame is not a lost one"
    );
}

#[test]
fn own_frames_are_not_heard_and_drops_are_counted() {
    needs_root!();
    let (host, wire) = (Namespace::new(), Namespace::new());
    let ifindex = host.veth("uplink", &wire, "far");
    let options = PacketOptions {
        buffer: 50_000,
        ..PacketOptions::default()
    };
    let small = host.open_packet(ifindex, 1, options).remove(0);
    let sender = wire.packet_queue(wire.ifindex("far").unwrap());
    let frame = udp_frame((THERE, 7), (HERE, 7), 1000);
    let many: Vec<&Frame> = (0..1000).map(|_| &frame).collect();
    assert_eq!(sender.transmit(&many).sent, 1000);
    assert!(receive_some(&sender, is_ipv4).is_empty());
    let drops = small.kernel_drops();
    assert_eq!(small.kernel_drops(), drops, "accumulates");
    let got = receive_some(&Queue::Packet(small), is_ipv4).len() as u64;
    eprintln!("{got} received, {drops} dropped");
    assert!(drops > 0 && got > 0);
    // The kernel's own frames (IPv6 router solicitations) may be among the dropped.
    assert!((1000..1020).contains(&(got + drops)));
}

#[test]
fn bad_frames_are_rejected() {
    needs_root!(tun);
    let (host, container) = (Namespace::new(), Namespace::new());
    let tap = tap_queue(&host, &container);
    let veth = host.packet_queue(host.veth("vhost", &container, "eth1"));
    let good = udp_frame(([10, 9, 0, 9], 7), ([10, 9, 0, 1], 7), 100);
    let with = |header: VnetHeader| {
        let mut frame = good.clone();
        frame.set_vnet(header);
        frame
    };
    let runt = Frame::from_bytes(&[1; 13]);
    let beyond = with(VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        csum_start: 60_000,
        csum_offset: 16,
        ..VnetHeader::default()
    });
    let unknown = with(VnetHeader {
        gso_type: 0x55,
        gso_size: 9,
        ..VnetHeader::default()
    });
    for (name, queue) in [("tap", &tap), ("veth", &veth)] {
        let sent = queue.transmit(&[&runt, &beyond, &good, &unknown, &Frame::new(), &good]);
        assert_eq!(
            sent,
            Sent {
                sent: 2,
                rejected: 4,
                ..Sent::default()
            },
            "{name}"
        );
    }
    let oversized = Frame::from_bytes(&[0xfe; 3000]);
    let sent = veth.transmit(&[&oversized, &good]);
    assert_eq!(
        sent,
        Sent {
            sent: 1,
            rejected: 1,
            ..Sent::default()
        }
    );
    // A TAP takes frames beyond its MTU; its stack decides.
    assert_eq!(tap.transmit(&[&oversized]).sent, 1);
}
