//! What passes through a port must come out as it went in.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use switch::frame::{Frame, MAX_FRAME, ethertype};
use switch::layers::Layers;

use crate::harness::*;

#[test]
fn super_frames_pass_whole_between_tap_and_veth() {
    needs_root!(tun);
    let (host, one, two) = (Namespace::new(), Namespace::new(), Namespace::new());
    let tap = tap_queue(&host, &one);
    let veth = host.packet_queue(host.veth("vhost", &two, "eth0"));
    two.ip("addr add 10.9.0.2/24 dev eth0");

    let seen = forward_while(&tap, &veth, || {
        let out = transfer(&one, &two, "10.9.0.2:5001", 200 << 20);
        let back = transfer(&two, &one, "10.9.0.1:5001", 200 << 20);
        eprintln!("TAP to veth {out:.1} Gbit/s, veth to TAP {back:.1} Gbit/s");
    });
    for seen in &seen {
        eprintln!("{seen:?}");
        assert!(
            seen.largest > 30_000 && seen.largest <= MAX_FRAME,
            "{seen:?}"
        );
        assert!(
            seen.super_frames > 100 && seen.partial >= seen.super_frames,
            "{seen:?}"
        );
        assert_eq!((seen.sent.rejected, seen.sent.down), (0, 0), "{seen:?}");
    }
}

#[test]
fn frames_that_gro_joined_arrive_with_their_header() {
    needs_root!(tun);
    if Command::new("ethtool").arg("--version").output().is_err() {
        eprintln!("skipped: the command ethtool is missing");
        return;
    }
    let (host, one, wire) = (Namespace::new(), Namespace::new(), Namespace::new());
    let tap = tap_queue(&host, &one);
    let uplink = host.packet_queue(host.veth("uplink", &wire, "far"));
    wire.ip("addr add 10.9.0.2/24 dev far");
    // Segments of the MTU's size with whole checksums on the wire, joined by GRO on arrival.
    wire.exec("ethtool -K far tso off gso off tx off");
    host.exec("ethtool -K uplink gro on");
    let [from_wire, _] = forward_while(&uplink, &tap, || {
        let speed = transfer(&wire, &one, "10.9.0.1:5001", 50 << 20);
        eprintln!("{speed:.1} Gbit/s");
    });
    eprintln!("from the uplink {from_wire:?}");
    assert!(
        from_wire.super_frames > 10 && from_wire.largest > 2900,
        "{from_wire:?}"
    );
    assert_eq!(from_wire.sent.rejected, 0);
}

/// UDP that the sender hands over in one piece to be cut into datagrams (UDP_SEGMENT, as QUIC does)
/// passes in one piece too, where the kernel has TUN_F_USO4 (6.2).
// Conforms: SWITCH-udp-super-frames
#[test]
fn datagrams_to_be_cut_pass_in_one_piece() {
    const SEGMENT: usize = 1200;
    const SEGMENTS: usize = 40;
    needs_root!(tun);
    let (host, one, two) = (Namespace::new(), Namespace::new(), Namespace::new());
    let tap = tap_queue(&host, &one);
    let veth = host.packet_queue(host.veth("vhost", &two, "eth0"));
    two.ip("addr add 10.9.0.2/24 dev eth0");
    for (from, to, [near, far]) in [
        (&one, &two, ["10.9.0.1:7000", "10.9.0.2:7000"]),
        (&two, &one, ["10.9.0.2:7001", "10.9.0.1:7001"]),
    ] {
        let bind = |namespace: &Namespace, address: &str| {
            let socket = namespace.run(|| UdpSocket::bind(address)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket
        };
        let (sender, receiver) = (bind(from, near), bind(to, far));
        if setsockopt(&sender, sockopt::UdpGsoSegment, &(SEGMENT as i32)).is_err() {
            eprintln!("skipped: this kernel does not cut datagrams (UDP_SEGMENT, 4.18)");
            return;
        }
        let payload: Vec<u8> = (0..SEGMENTS * SEGMENT).map(|at| (at / 7) as u8).collect();
        let seen = forward_while(&tap, &veth, || {
            sender.send_to(&payload, far).unwrap();
            let mut datagram = [0; 2048];
            for expected in payload.chunks(SEGMENT) {
                let length = receiver.recv(&mut datagram).unwrap();
                assert_eq!(&datagram[..length], expected);
            }
        });
        let count = |of: fn(&Seen) -> usize| seen.iter().map(of).sum::<usize>();
        let cut_before = count(|seen| seen.frames) >= SEGMENTS;
        assert!(
            count(|seen| seen.super_frames) == 1 || cut_before,
            "{seen:?}"
        );
        assert_eq!(count(|seen| seen.sent.rejected), 0, "{seen:?}");
    }
}

// Conforms: SWITCH-vlan-transparent
#[test]
fn vlan_tags_are_carried() {
    needs_root!(tun);
    let (host, one, two) = (Namespace::new(), Namespace::new(), Namespace::new());
    let tap = tap_queue(&host, &one);
    let veth = host.packet_queue(host.veth("vhost", &two, "eth0"));
    let inside = [&one, &two].map(|container| {
        let queue = container.packet_queue(container.ifindex("eth0").unwrap());
        while queue.receive(&mut frames()).unwrap() > 0 {}
        queue
    });
    // The kernel takes one tag off what it receives, so AF_PACKET tells of it beside the frame.
    let plain = udp_frame((HERE, 7), (THERE, 7), 100);
    let tagged = |tags: &[[u8; 4]]| {
        let mut bytes = plain.bytes().to_vec();
        bytes.splice(12..12, tags.concat());
        Frame::from_bytes(&bytes)
    };
    let frames = [
        tagged(&[[0x81, 0, 0x60, 7]]),
        tagged(&[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 7]]),
    ];
    for (port, inside) in [(&tap, &inside[0]), (&veth, &inside[1])] {
        for frame in &frames {
            for (from, to) in [(port, inside), (inside, port)] {
                assert_eq!(from.transmit(&[frame]).sent, 1);
                let got = receive_some(to, |frame| {
                    Layers::of(frame.bytes()).is_ok_and(|layers| {
                        layers.ethertype == ethertype::IPV4 && layers.at > 14 && frame.len() > 120
                    })
                });
                assert_eq!(got.len(), 1, "{frame:?}");
                assert_eq!(got[0].bytes(), frame.bytes());
            }
        }
    }
}
