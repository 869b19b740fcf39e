//! Clamping of the TCP maximum segment size, for paths on which Packet Too Big gets lost.

use crate::checksum::{Checksum, Delta};
use crate::packet::{Packet, word};
use crate::tuple::Protocol;

/// Bytes of the headers without options, which the MSS leaves room for (RFC 6691).
const IPV4_AND_TCP: u32 = 20 + 20;
const IPV6_AND_TCP: u32 = 40 + 20;

/// Where things are in a TCP header.
const FLAGS: usize = 13;
const CHECKSUM: usize = 16;
const OPTIONS: usize = 20;
const SYN: u8 = 0x02;

/// Kinds of TCP options (RFC 9293 section 3.2).
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

impl Packet<'_> {
    /// Lowers the maximum segment size that a SYN or SYN-ACK announces to what fits packets of
    /// `mtu` bytes, with the checksum following. True when it changed something. A SYN without the
    /// option stays so: 536 bytes, or 1220 of IPv6, are then meant (RFC 9293 section 3.7.1), and
    /// those fit.
    pub fn clamp_mss(&mut self, mtu: u32) -> bool {
        if self.protocol() != Protocol::TCP || self.is_fragment() {
            return false;
        }
        let headers = if self.is_ipv4() {
            IPV4_AND_TCP
        } else {
            IPV6_AND_TCP
        };
        let partial = self.checksum() == Checksum::Partial;
        let segment = self.transport_mut();
        if segment[FLAGS] & SYN == 0 {
            return false;
        }
        let end = usize::from(segment[12] >> 4) * 4;
        let Some(at) = find_mss(&segment[..end]) else {
            return false;
        };
        let most = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
        let announced = word(segment, at);
        if announced <= most {
            return false;
        }
        segment[at..at + 2].copy_from_slice(&most.to_be_bytes());
        // A partial checksum covers the pseudo-header only.
        if !partial {
            let mut delta = Delta::default();
            if at % 2 == 0 {
                delta.word(announced, most);
            } else {
                // Its bytes lie in two words, each in the other's half.
                delta.word(announced.swap_bytes(), most.swap_bytes());
            }
            let sum = delta.apply(word(segment, CHECKSUM));
            segment[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        }
        true
    }
}

/// Where the value of the option is in a TCP header that is there in full.
fn find_mss(header: &[u8]) -> Option<usize> {
    let mut at = OPTIONS;
    loop {
        match *header.get(at)? {
            END_OF_OPTIONS => return None,
            NO_OPERATION => at += 1,
            kind => {
                let length = usize::from(*header.get(at + 1)?);
                if kind == MAXIMUM_SEGMENT_SIZE && length == 4 && at + 4 <= header.len() {
                    return Some(at + 2);
                }
                if length < 2 {
                    return None;
                }
                at += length;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{ACK, assert_valid, complete, make_partial, tcp, udp};

    use super::*;

    /// A SYN with these options, whose length is a multiple of 4.
    fn syn(src: &str, dst: &str, flags: u8, options: &[u8]) -> Vec<u8> {
        let mut bytes = tcp(src, dst, flags, options);
        let transport = if bytes[0] >> 4 == 4 { 20 } else { 40 };
        bytes[transport + 12] = ((20 + options.len()) as u8 / 4) << 4;
        complete(&mut bytes);
        bytes
    }

    fn clamped(bytes: &[u8], checksum: Checksum, mtu: u32) -> (bool, Vec<u8>) {
        let mut bytes = bytes.to_vec();
        let changed = Packet::parse(&mut bytes, checksum).unwrap().clamp_mss(mtu);
        assert_valid(&bytes, checksum);
        (changed, bytes)
    }

    // Conforms: RFC4787-13 SWITCH-mss-clamp
    #[test]
    fn a_syn_is_clamped_wherever_the_option_lies_and_nothing_else_is() {
        for (src, dst, headers) in [
            ("10.0.0.2:4242", "192.0.2.9:80", 40),
            ("[fd00::2]:4242", "[2001:db8::9]:80", 60),
        ] {
            for padding in 0..4 {
                let mut options = vec![NO_OPERATION; padding];
                options.extend([2, 4, 0x05, 0xb4]);
                options.resize(8, END_OF_OPTIONS);
                for flags in [SYN, SYN | ACK] {
                    let bytes = syn(src, dst, flags, &options);
                    let (changed, after) = clamped(&bytes, Checksum::Complete, 1400);
                    assert!(changed);
                    let at = bytes.len() - 8 + padding + 2;
                    assert_eq!(u32::from(word(&after, at)), 1400 - headers);
                    let (again, _) = clamped(&after, Checksum::Complete, 1400);
                    assert!(!again, "small enough stays");
                    let mut partial = bytes.clone();
                    make_partial(&mut partial);
                    assert!(clamped(&partial, Checksum::Partial, 1400).0);
                }
                let data = syn(src, dst, ACK, &options);
                assert!(!clamped(&data, Checksum::Complete, 1400).0);
            }
            for options in [
                &[][..],
                &[0, 2, 4, 5],
                &[2, 3, 5, 0],
                &[8, 0, 0, 0],
                &[8, 9, 2, 4],
                &[1, 1, 1, 2],
                &[1, 1, 2, 4],
            ] {
                let bytes = syn(src, dst, SYN, options);
                assert!(!clamped(&bytes, Checksum::Complete, 100).0, "{options:?}");
            }
        }
        assert!(
            !clamped(
                &udp("10.0.0.2:1", "192.0.2.9:53", b"q"),
                Checksum::Complete,
                68
            )
            .0
        );
    }
}
