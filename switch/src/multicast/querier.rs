//! The gateway as querier: it asks everyone now and then who listens, because a network of
//! containers has no multicast router that would, and listeners speak up only when they are asked.
//!
//! In IPv4 it asks as the gateway, in IPv6 with the link-local address that follows from the
//! gateway's MAC, and only in networks that have IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nat::Time;

use super::wire;
use crate::config::PortId;
use crate::frame::Frame;
use crate::ipv6;
use crate::topology::{Segment, Topology};

/// Housekeeping of every network's groups: forgets who is silent, and asks when it is time.
pub(crate) fn tick(now: Time, topology: &Topology) {
    for segment in &topology.networks {
        segment.multicast.age(now);
        let snooping = segment.network.bridge.snooping.as_ref();
        if !snooping.is_some_and(|snooping| snooping.querier) {
            continue;
        }
        let network = &segment.network;
        for address in &network.gateway_addresses {
            if let IpAddr::V4(own) = *address {
                ask_as_v4(now, topology, segment, own);
                break;
            }
        }
        if network.gateway_addresses.iter().any(IpAddr::is_ipv6) {
            ask_as_v6(now, topology, segment);
        }
    }
}

fn ask_as_v4(now: Time, topology: &Topology, segment: &Segment, own: Ipv4Addr) {
    let from = (segment.network.gateway_mac, own);
    let mut frame = Frame::new();
    for (port, group) in segment.multicast.poll_questions(true) {
        if let IpAddr::V4(group) = group {
            wire::ask_v4(&mut frame, from, Some(group));
            send(topology, port, &frame);
        }
    }
    if segment.multicast.poll_query(now, own.into()) {
        wire::ask_v4(&mut frame, from, None);
        send_to_all(topology, segment, &frame);
    }
}

fn ask_as_v6(now: Time, topology: &Topology, segment: &Segment) {
    let mac = segment.network.gateway_mac;
    let own: Ipv6Addr = ipv6::link_local(mac);
    let mut frame = Frame::new();
    for (port, group) in segment.multicast.poll_questions(false) {
        if let IpAddr::V6(group) = group {
            wire::ask_v6(&mut frame, (mac, own), Some(group));
            send(topology, port, &frame);
        }
    }
    if segment.multicast.poll_query(now, own.into()) {
        wire::ask_v6(&mut frame, (mac, own), None);
        send_to_all(topology, segment, &frame);
    }
}

/// To every port but the host's, which gets everything unasked.
fn send_to_all(topology: &Topology, segment: &Segment, frame: &Frame) {
    let host = segment.network.host_port;
    let members = segment.members.iter().map(|member| member.port);
    for port in members.filter(|&port| Some(port) != host) {
        send(topology, port, frame);
    }
}

/// What is lost is asked again.
fn send(topology: &Topology, port: PortId, frame: &Frame) {
    if let Some(port) = topology.port(port) {
        port.queue(0).transmit(&[frame]);
    }
}
