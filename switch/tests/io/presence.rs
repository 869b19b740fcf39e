//! Ports whose interface goes down, or away.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use switch::frame::Frame;
use switch::io::{PacketOptions, Poller, Queue, Sent, TapOptions, open_packet, open_tap};

use crate::harness::*;

/// Polls and receives as a worker would, until the port is gone.
fn assert_gone(queue: &Queue) {
    let poller = Poller::new().unwrap();
    poller.add(queue.fd(), 1).unwrap();
    let mut ready = Vec::new();
    let mut frames = frames();
    let start = Instant::now();
    let error = loop {
        poller
            .wait(&mut ready, Some(Duration::from_millis(100)))
            .unwrap();
        match queue.receive(&mut frames) {
            Ok(_) => assert!(start.elapsed() < Duration::from_secs(10), "not gone"),
            Err(error) => break error,
        }
    };
    eprintln!(
        "after {:?}, {} by poll: {error}",
        start.elapsed(),
        ready.len()
    );
    assert!(queue.is_gone());
    let frame = Frame::from_bytes(&[0xff; 60]);
    assert_eq!(
        queue.transmit(&[&frame, &frame]),
        Sent {
            down: 2,
            ..Sent::default()
        }
    );
}

#[test]
fn a_port_is_gone_when_its_namespace_dies() {
    needs_root!(tun);
    let (host, container) = (Namespace::new(), Namespace::new());
    let mut queues: Vec<Queue> = tap_container(&host, &container, 2)
        .into_iter()
        .map(Queue::Tap)
        .collect();
    let ifindex = host.veth("vhost", &container, "eth1");
    let sockets = host.open_packet(ifindex, 2, PacketOptions::default());
    queues.extend(sockets.into_iter().map(Queue::Packet));
    assert!(queues.iter().all(|queue| !queue.is_gone()));
    drop(container);
    for queue in &queues {
        assert_gone(queue);
    }
}

#[test]
fn a_tap_adopted_inside_holds_its_namespace_until_closed() {
    needs_root!(tun);
    let (host, container) = (Namespace::new(), Namespace::new());
    drop(tap_container(&host, &container, 1));
    // The far end tells whether the namespace lives: a veth pair dies as one.
    host.veth("vwitness", &container, "witness");
    let adopted = container
        .run(|| open_tap("eth0", 1, TapOptions::default()))
        .unwrap();
    let queue = Queue::Tap(adopted.into_iter().next().unwrap());
    drop(container);
    thread::sleep(Duration::from_millis(500));
    assert!(
        !queue.is_gone() && host.ifindex("vwitness").is_some(),
        "held"
    );
    drop(queue);
    assert!(eventually(|| host.ifindex("vwitness").is_none()), "let go");
}

#[test]
fn an_interface_that_is_down_comes_back() {
    needs_root!(tun);
    let (host, container) = (Namespace::new(), Namespace::new());
    let tap = tap_queue(&host, &container);
    let ifindex = host.veth("vhost", &container, "eth1");
    let veth = host.packet_queue(ifindex);
    container.ip("addr add 10.8.0.1/24 dev eth1");
    let mut buffers = frames();
    let frame = Frame::from_bytes(&[0xff; 60]);
    let ports = [
        (&tap, &container, "eth0", "10.9.0.77:9"),
        (&veth, &host, "vhost", "10.8.0.77:9"),
    ];
    for (queue, namespace, name, address) in ports {
        assert_eq!(queue.transmit(&[&frame]).sent, 1, "{name}");
        namespace.ip(&format!("link set {name} down"));
        while queue.receive(&mut buffers).unwrap() > 0 {}
        assert_eq!(queue.receive(&mut buffers).unwrap(), 0, "{name}");
        assert_eq!(queue.transmit(&[&frame, &frame]).down, 2, "{name}");
        assert!(!queue.is_gone());
        namespace.ip(&format!("link set {name} up"));
        assert_eq!(queue.transmit(&[&frame]).sent, 1, "{name}");
        container.send_udp(address);
        assert!(!receive_some(queue, is_arp).is_empty(), "{name}");
    }
    // Opened while down.
    host.ip("link set vhost down");
    let later = host.packet_queue(ifindex);
    assert_eq!(later.receive(&mut buffers).unwrap(), 0);
    assert!(!later.is_gone());
    let two = host.run(|| open_packet(ifindex, 2, PacketOptions::default()));
    if let Err(error) = &two {
        assert!(
            error.to_string().contains("bring the interface up first"),
            "{error}"
        );
    }
    host.ip("link set vhost up");
    container.send_udp("10.8.0.78:9");
    assert!(!receive_some(&later, is_arp).is_empty());
    let two = two.into_iter().flatten().map(Queue::Packet);
    let heard: Vec<usize> = two
        .map(|queue| receive_some(&queue, is_arp).len())
        .collect();
    assert!(heard.is_empty() || heard.iter().sum::<usize>() > 0);
}
