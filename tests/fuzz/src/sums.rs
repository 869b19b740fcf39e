//! How wrong the checksums of a packet are.
//!
//! The data path changes checksums by what it changes in the packet. So a sum that was right stays
//! right, and one that was wrong stays wrong *by the same amount*: that amount is what is computed
//! here, and what a target compares. The computation is whole, and shares nothing with the engine's.

use std::net::IpAddr;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// By how much the sums of a packet are off; 0 is right. None where there is no sum to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Errors {
    pub(crate) header: Option<u16>,
    pub(crate) transport: Option<u16>,
}

/// The parts of a packet that matter here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    /// Where the transport header starts.
    pub(crate) transport: usize,
    /// A fragment's data is not summed on its own.
    pub(crate) fragment: bool,
    /// The packet without what follows its own length.
    pub(crate) bytes: &'a [u8],
}

/// None for what is no whole packet of IPv4 or IPv6.
pub(crate) fn parts(bytes: &[u8]) -> Option<Parts<'_>> {
    match bytes.first()? >> 4 {
        4 => parts4(bytes),
        6 => parts6(bytes),
        _ => None,
    }
}

fn parts4(bytes: &[u8]) -> Option<Parts<'_>> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    let transport = usize::from(header[0] & 15) * 4;
    let bytes = bytes.get(..usize::from(word(header, 2)))?;
    let fields = word(header, 6);
    let src: [u8; 4] = header[12..16].try_into().ok()?;
    let dst: [u8; 4] = header[16..20].try_into().ok()?;
    (transport >= 20 && transport <= bytes.len()).then_some(Parts {
        src: src.into(),
        dst: dst.into(),
        protocol: header[9],
        transport,
        fragment: fields & 0x3fff != 0,
        bytes,
    })
}

fn parts6(bytes: &[u8]) -> Option<Parts<'_>> {
    let header: &[u8; 40] = bytes.first_chunk()?;
    let bytes = bytes.get(..40 + usize::from(word(header, 4)))?;
    let src: [u8; 16] = header[8..24].try_into().ok()?;
    let dst: [u8; 16] = header[24..40].try_into().ok()?;
    let (mut next, mut at, mut fragment) = (header[6], 40, false);
    // Hop-by-hop options, routing, fragment, destination options.
    while matches!(next, 0 | 43 | 44 | 60) && !fragment {
        let extension = bytes.get(at..at + 8)?;
        if next == 43 && extension[3] != 0 {
            // The pseudo-header has another destination than the packet.
            break;
        }
        let length = match next {
            44 => {
                fragment = word(extension, 2) & 0xfff9 != 0;
                8
            }
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        next = extension[0];
        at += length;
    }
    (at <= bytes.len()).then_some(Parts {
        src: src.into(),
        dst: dst.into(),
        protocol: next,
        transport: at,
        fragment,
        bytes,
    })
}

/// `partial` if whoever sends the packet out is to complete the transport's sum.
pub(crate) fn errors(bytes: &[u8], partial: bool) -> Option<Errors> {
    let parts = parts(bytes)?;
    let is_ipv4 = parts.src.is_ipv4();
    let header = is_ipv4.then(|| normal(sum(&parts.bytes[..parts.transport])));
    let transport = &parts.bytes[parts.transport..];
    let (at, least) = match parts.protocol {
        TCP => (16, 20),
        UDP => (6, 8),
        ICMP if is_ipv4 => (2, 8),
        ICMPV6 if !is_ipv4 => (2, 8),
        _ => (0, usize::MAX),
    };
    let none = Errors {
        header,
        transport: None,
    };
    if parts.fragment || transport.len() < least {
        return Some(none);
    }
    let field = word(transport, at);
    // No sum was made: RFC 768, and for tunnels over IPv6 RFC 6936.
    if parts.protocol == UDP && field == 0 && !partial {
        return Some(none);
    }
    let pseudo = if parts.protocol == ICMP {
        0
    } else {
        pseudo_header(&parts, transport.len())
    };
    let transport = Some(if partial {
        // The field should be the pseudo-header's sum.
        normal(u64::from(field) + u64::from(!fold(pseudo)))
    } else {
        normal(sum(transport) + pseudo)
    });
    Some(Errors { header, transport })
}

/// Puts right sums into a whole packet.
pub(crate) fn complete(bytes: &mut [u8]) {
    let Some(parts) = parts(bytes) else { return };
    let (is_ipv4, transport, end) = (parts.src.is_ipv4(), parts.transport, parts.bytes.len());
    let at = match parts.protocol {
        TCP => 16,
        UDP => 6,
        ICMP | ICMPV6 => 2,
        _ => usize::MAX,
    };
    let pseudo = if parts.protocol == ICMP {
        0
    } else {
        pseudo_header(&parts, end - transport)
    };
    if let Some(at) = at.checked_add(transport).filter(|at| at + 2 <= end) {
        bytes[at..at + 2].fill(0);
        let checksum = match !fold(sum(&bytes[transport..end]) + pseudo) {
            0 => 0xffff,
            other => other,
        };
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    if is_ipv4 {
        bytes[10..12].fill(0);
        let checksum = header_checksum(&bytes[..transport]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// What the checksum of an IPv4 header should be whose field is zero.
pub(crate) fn header_checksum(header: &[u8]) -> u16 {
    !fold(sum(header))
}

/// What the transport's field of a partial checksum should hold.
pub(crate) fn partial(parts: &Parts<'_>) -> u16 {
    fold(pseudo_header(parts, parts.bytes.len() - parts.transport))
}

fn pseudo_header(parts: &Parts<'_>, length: usize) -> u64 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    address(parts.src) + address(parts.dst) + u64::from(parts.protocol) + length as u64
}

/// The one's complement of a sum that should be all ones, with one zero for both.
fn normal(sum: u64) -> u16 {
    match !fold(sum) {
        0xffff => 0,
        other => other,
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
