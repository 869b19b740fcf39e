//! Internet checksums: whole sums (RFC 1071) and incremental updates (RFC 1624).

use std::net::IpAddr;

use crate::tuple::Protocol;

/// What the layer 4 checksum field of a packet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum, as on the wire.
    Complete,
    /// The folded sum of the pseudo-header alone, not inverted: whoever sends the packet out adds
    /// the rest (`VIRTIO_NET_HDR_F_NEEDS_CSUM`, Linux's `CHECKSUM_PARTIAL`).
    Partial,
}

/// What a rewrite adds to the one's complement sum of the bytes it changes.
///
/// Equation 3 of RFC 1624, `HC' = ~(~HC + ~m + m')`; the older form of RFC 1141 can turn a good
/// checksum into the wrong one of the two zeros.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Delta(u64);

impl Delta {
    /// The 16-bit word `old` becomes `new`.
    pub(crate) fn word(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// The address `old` becomes `new`; both of one family.
    pub(crate) fn address(&mut self, old: IpAddr, new: IpAddr) {
        match (old, new) {
            (IpAddr::V4(old), IpAddr::V4(new)) => self.bytes(&old.octets(), &new.octets()),
            (IpAddr::V6(old), IpAddr::V6(new)) => self.bytes(&old.octets(), &new.octets()),
            _ => debug_assert!(false, "an address changed its family: {old} to {new}"),
        }
    }

    /// Two runs of bytes of the same even length.
    fn bytes(&mut self, old: &[u8], new: &[u8]) {
        for (old, new) in old.chunks_exact(2).zip(new.chunks_exact(2)) {
            self.word(
                u16::from_be_bytes([old[0], old[1]]),
                u16::from_be_bytes([new[0], new[1]]),
            );
        }
    }

    /// A complete checksum field (inverted sum) after the change.
    pub(crate) fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }

    /// A partial checksum field (plain sum of the pseudo-header) after the change.
    pub(crate) fn apply_partial(self, sum: u16) -> u16 {
        fold(u64::from(sum) + self.0)
    }
}

/// The one's complement sum of `bytes` as big-endian words, an odd last byte padded with zero,
/// unfolded. Exact for any packet: 64 bits hold the sum of 2^48 words.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let mut total: u64 = 0;
    for word in &mut words {
        total += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(*last) << 8;
    }
    total
}

/// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), unfolded. `length` is
/// the upper-layer length in bytes.
pub(crate) fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: Protocol, length: usize) -> u64 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    let length = length as u64;
    address(src) + address(dst) + u64::from(protocol.0) + (length >> 16) + (length & 0xffff)
}

/// Folds a sum to 16 bits with end-around carry. A sum that is not zero never folds to zero.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(fold(sum(&[0xab])), 0xab00);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // HC = 0xDD2F, m = 0x5555, m' = 0x3285: the sum becomes 0xFFFF and HC' is 0x0000, where
        // the equation of RFC 1141 gives 0xFFFF.
        let mut delta = Delta::default();
        delta.word(0x5555, 0x3285);
        assert_eq!(delta.apply(0xdd2f), 0x0000);
    }

    #[test]
    fn incremental_equals_whole() {
        let mut state = 7u64;
        for _ in 0..2000 {
            let mut bytes = [0u8; 24];
            for byte in &mut bytes {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                *byte = (state >> 56) as u8;
            }
            let before = !fold(sum(&bytes));
            let new = (state >> 20) as u16;
            let at = (state >> 8) as usize % 12 * 2;
            let mut delta = Delta::default();
            delta.word(u16::from_be_bytes([bytes[at], bytes[at + 1]]), new);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            assert_eq!(delta.apply(before), !fold(sum(&bytes)));
            assert_eq!(delta.apply_partial(!before), fold(sum(&bytes)));
        }
    }
}
