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
    // An unchanged word adds 0xffff, which is a zero of one's complement arithmetic.
    let mut addresses = Delta::default();
    addresses.address(from.src, to.src);
    addresses.address(from.dst, to.dst);
    let mut all = addresses;
    all.word(from.src_port, to.src_port);
    all.word(from.dst_port, to.dst_port);

    let field = match from.protocol {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        _ => 2,
    };
    match from.protocol {
        Protocol::TCP | Protocol::UDP => {
            set_word(bytes, 0, to.src_port);
            set_word(bytes, 2, to.dst_port);
        }
        _ => {
            let asks = icmp::kind(from.protocol, bytes[0]) == IcmpKind::EchoRequest;
            set_word(bytes, 4, if asks { to.src_port } else { to.dst_port });
        }
    }
    if bytes.len() < field + 2 {
        // A quoted TCP header ends before its checksum, as RFC 792 allows.
        return;
    }
    let old = word(bytes, field);
    let new = match (checksum, from.protocol) {
        // No checksum was computed (RFC 768), so none is to be corrected.
        (Checksum::Complete, Protocol::UDP) if old == 0 => 0,
        // And a computed zero is sent as its other form.
        (Checksum::Complete, Protocol::UDP) => match all.apply(old) {
            0 => 0xffff,
            sum => sum,
        },
        (Checksum::Complete, Protocol::ICMP) => {
            // The checksum of ICMP has no pseudo-header (RFC 792), that of ICMPv6 has (RFC 4443
            // section 2.3).
            let mut identifier = Delta::default();
            identifier.word(from.src_port, to.src_port);
            identifier.word(from.dst_port, to.dst_port);
            identifier.apply(old)
        }
        (Checksum::Complete, _) => all.apply(old),
        (Checksum::Partial, Protocol::ICMP) => old,
        (Checksum::Partial, _) => addresses.apply_partial(old),
    };
    set_word(bytes, field, new);
}

#[cfg(test)]
mod tests;
