//! TAPs: their queues, their move into a container, and whose they are.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use switch::frame::VnetHeader;
use switch::io::{PacketOptions, Queue, TapOptions, open_packet, open_tap};

use crate::harness::*;

#[test]
fn queues_of_a_tap_survive_the_move_and_are_adopted_again() {
    needs_root!(tun);
    let (host, container) = (Namespace::new(), Namespace::new());
    let taps = tap_container(&host, &container, 2);
    assert_eq!(taps[0].interface_name().unwrap(), "eth0");
    container.ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev eth0");
    let flows_seen = |queues: &[Queue]| -> Vec<usize> {
        container.run(|| {
            for _ in 0..64 {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(b"flow", "10.9.0.2:9").unwrap();
            }
        });
        queues
            .iter()
            .map(|queue| receive_some(queue, is_ipv4).len())
            .collect()
    };
    let queues: Vec<Queue> = taps.into_iter().map(Queue::Tap).collect();
    let counts = flows_seen(&queues);
    assert!(counts.iter().all(|&count| count > 5), "{counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 64);

    // The daemon dies: the interface stays with its address, without a carrier.
    drop(queues);
    assert!(
        container.ifindex("eth0").is_some(),
        "a persistent TAP outlives its descriptors"
    );

    let adopted = container
        .run(|| open_tap("eth0", 2, TapOptions { persist: true }))
        .unwrap();
    let queues: Vec<Queue> = adopted.into_iter().map(Queue::Tap).collect();
    // Carrier and route are back without anyone's help.
    assert!(eventually(|| flows_seen(&queues)
        .iter()
        .all(|&count| count > 5)));

    let Queue::Tap(tap) = &queues[0] else {
        unreachable!()
    };
    tap.set_persist(false).unwrap();
    drop(queues);
    assert!(container.ifindex("eth0").is_none());
}

#[test]
fn an_interface_of_another_kind_is_refused() {
    needs_root!(tun);
    let host = Namespace::new();
    host.ip("tuntap add plain mode tap");
    host.ip("link add near type veth peer name far");
    for name in ["plain", "near", "lo"] {
        let error = host
            .run(|| open_tap(name, 1, TapOptions::default()))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("remove it or choose another name"),
            "{error}"
        );
    }
    let error = host
        .run(|| open_packet(4_000, 1, PacketOptions::default()))
        .unwrap_err();
    assert!(error.to_string().contains("interface 4000"), "{error}");
    assert!(
        host.run(|| open_packet(0, 1, PacketOptions::default()))
            .is_err()
    );
}

/// The wire of an uplink may be any interface, one that a foreign program serves too (a virtual
/// machine, a VPN): here a plain TAP without vnet headers, opened as such a program opens it.
#[test]
fn a_foreign_programs_plain_tap_serves_as_a_wire() {
    needs_root!(tun);
    let host = Namespace::new();
    let program = host.run(|| tun_tap::Iface::without_packet_info("wire0", tun_tap::Mode::Tap));
    let program = program.unwrap();
    host.ip("link set wire0 up");
    let queue = host.packet_queue(host.ifindex("wire0").unwrap());

    let sent = udp_frame((THERE, 7), (HERE, 7), 100);
    program.send(sent.bytes()).unwrap();
    let received = receive_some(&queue, is_ipv4);
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].bytes(), sent.bytes());
    assert_eq!(received[0].vnet(), VnetHeader::default());

    let answer = udp_frame((HERE, 7), (THERE, 7), 200);
    assert_eq!(queue.transmit(&[&answer]).sent, 1);
    let mut heard = vec![0; 2048];
    // The kernel's own multicast may come first.
    let found = (0..20).any(|_| {
        let len = program.recv(&mut heard).unwrap();
        heard[..len] == *answer.bytes()
    });
    assert!(found, "the program never saw the frame");
}
