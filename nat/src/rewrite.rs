//! Rewriting a packet's addresses and ports in place, its checksums following incrementally.
//!
//! A super-frame is just a big packet: its one header is copied to every segment when it is cut.

use crate::checksum::{Checksum, Delta};
use crate::icmp::{self, IcmpKind};
use crate::packet::{Packet, set_word, word};
use crate::tuple::{Protocol, Tuple};

/// Turns a packet of the tuple `from`, which it has, into one of `to`, of the same protocol and
/// family.
pub(crate) fn rewrite(packet: &mut Packet<'_>, from: &Tuple, to: &Tuple) {
    if from == to {
        return;
    }
    packet.set_addresses(to.src, to.dst);
    let checksum = packet.checksum();
    rewrite_transport(packet.transport_mut(), from, to, checksum);
}

/// Rewrites ports (or the ICMP identifier) and the transport checksum. `bytes` begins at the
/// transport header and may end early, as in a quoted packet, but not before the eighth byte.
pub(crate) fn rewrite_transport(bytes: &mut [u8], from: &Tuple, to: &Tuple, checksum: Checksum) {
    if !from.protocol.has_translated_ports() {
        // No port changes, and no sum of theirs has the addresses.
        return;
    }
    let asks = icmp::kind(from.protocol, bytes[0]) == IcmpKind::EchoRequest;
    let mut ports = Delta::default();
    let mut set = |at: usize, new: u16| {
        ports.word(word(bytes, at), new);
        set_word(bytes, at, new);
    };
    let field = match from.protocol {
        Protocol::TCP | Protocol::UDP => {
            set(0, to.src_port);
            set(2, to.dst_port);
            if from.protocol == Protocol::TCP {
                16
            } else {
                6
            }
        }
        // The message says whose identifier it has; in a tuple an identifier of 0 does not.
        _ => {
            set(4, if asks { to.src_port } else { to.dst_port });
            2
        }
    };
    let with_addresses = |mut delta: Delta| {
        delta.address(from.src, to.src);
        delta.address(from.dst, to.dst);
        delta
    };
    if bytes.len() < field + 2 {
        // A quoted TCP header ends before its checksum, as RFC 792 allows.
        return;
    }
    let old = word(bytes, field);
    let new = match (checksum, from.protocol) {
        // No checksum was computed (RFC 768), so none is to be corrected.
        (Checksum::Complete, Protocol::UDP) if old == 0 => 0,
        // And a computed zero is sent as its other form.
        (Checksum::Complete, Protocol::UDP) => match with_addresses(ports).apply(old) {
            0 => 0xffff,
            sum => sum,
        },
        // The checksum of ICMP has no pseudo-header (RFC 792), that of ICMPv6 has (RFC 4443
        // section 2.3).
        (Checksum::Complete, Protocol::ICMP) => ports.apply(old),
        (Checksum::Complete, _) => with_addresses(ports).apply(old),
        (Checksum::Partial, Protocol::ICMP) => old,
        (Checksum::Partial, _) => with_addresses(Delta::default()).apply_partial(old),
    };
    set_word(bytes, field, new);
}

#[cfg(test)]
mod tests;
