//! Where the parts of an IP packet lie: the one reader of IP headers.
//!
//! Everything that decides by what a packet is asks here: the translation, the fragments, and the
//! switch's guard, snooping and offload. Two readers that disagree about one header are a way past
//! one of them (RFC 7113).

use crate::tuple::Protocol;

/// IPv6 extension headers walked before giving up. RFC 8200 section 4.1 knows seven, each of which
/// should occur once; more than eight is an attempt to make us work.
const MAX_EXTENSION_HEADERS: usize = 8;

/// Bytes of a fixed header.
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
pub(crate) const FRAGMENT_HEADER: usize = 8;

/// Extension headers of IPv6, by number: all that RFC 7045 section 4 lists.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Why some bytes are not an IP packet that can be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// No byte at all.
    Empty,
    /// Neither IPv4 nor IPv6.
    Version,
    /// Shorter than the IP header.
    HeaderTruncated,
    /// The IPv4 header length field is below 20 bytes or beyond the total length.
    HeaderLength,
    /// An IPv4 option has no length, or one beyond the header.
    Options,
    /// The IP length field says more than there are bytes, or less than the header.
    Length,
    /// An IPv6 extension header is cut off, or there are too many.
    ExtensionHeaders,
    /// The transport header is cut off.
    TransportTruncated,
    /// The TCP data offset is below 20 bytes or beyond the segment.
    TcpHeaderLength,
}

impl Malformed {
    /// Every variant, in the order of `as usize`.
    pub const ALL: [Malformed; 9] = [
        Malformed::Empty,
        Malformed::Version,
        Malformed::HeaderTruncated,
        Malformed::HeaderLength,
        Malformed::Options,
        Malformed::Length,
        Malformed::ExtensionHeaders,
        Malformed::TransportTruncated,
        Malformed::TcpHeaderLength,
    ];
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Malformed::Empty => "the packet has no bytes",
            Malformed::Version => "the IP version is neither 4 nor 6",
            Malformed::HeaderTruncated => "the packet is shorter than its IP header",
            Malformed::HeaderLength => "the IPv4 header length is out of range",
            Malformed::Options => "an IPv4 option is cut off or has no length",
            Malformed::Length => "the IP length field does not fit the packet",
            Malformed::ExtensionHeaders => "the IPv6 extension headers are cut off or too many",
            Malformed::TransportTruncated => "the transport header is cut off",
            Malformed::TcpHeaderLength => "the TCP header length is out of range",
        })
    }
}

impl std::error::Error for Malformed {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Four,
    Six,
}

/// A header, by its protocol number, and its offset from the start of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub protocol: Protocol,
    pub at: usize,
}

/// Which part of a datagram a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    None,
    /// All of it, behind a fragment header of IPv6 (RFC 6946).
    Atomic,
    First,
    Later,
}

/// See the module's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub version: Version,
    /// Offset of the first byte after the packet: what follows is padding of the link.
    pub end: usize,
    pub fragment: Fragment,
    /// The upper-layer header. In a piece of a larger packet it is what follows the IPv4 header, or
    /// the fragment header of IPv6: perhaps another extension header, see [`head`](Self::head).
    pub upper: Header,
    /// The first IPv6 header that ties the packet to the addresses it has: it signs them, or the
    /// destination is not the final one, over which the pseudo-header goes (RFC 8200 section 8.1).
    /// Nothing behind it can be translated.
    pub binding: Option<Header>,
    /// The sender chose the route: by an IPv4 option (RFC 791), or a routing header of type 0 (RFC
    /// 5095).
    pub source_routed: bool,
}

impl Layout {
    /// Reads the headers of an IP packet, which may end with link padding.
    ///
    /// # Errors
    /// [`Malformed`] names the first thing that is wrong.
    #[inline]
    pub fn of(bytes: &[u8]) -> Result<Layout, Malformed> {
        match bytes.first().ok_or(Malformed::Empty)? >> 4 {
            4 => Layout::ipv4(bytes),
            6 => Layout::ipv6(bytes),
            _ => Err(Malformed::Version),
        }
    }

    #[inline]
    fn ipv4(bytes: &[u8]) -> Result<Layout, Malformed> {
        let header: &[u8; IPV4_HEADER] = bytes.first_chunk().ok_or(Malformed::HeaderTruncated)?;
        let upper = usize::from(header[0] & 0x0f) * 4;
        let end = usize::from(word(header, 2));
        if upper < IPV4_HEADER {
            return Err(Malformed::HeaderLength);
        }
        if end > bytes.len() || end < IPV4_HEADER {
            return Err(Malformed::Length);
        }
        if upper > end {
            return Err(Malformed::HeaderLength);
        }
        let source_routed = upper > IPV4_HEADER && is_source_routed(&bytes[IPV4_HEADER..upper])?;
        // The M flag is bit 13; the offset is below it.
        let fragment = match word(header, 6) & 0x3fff {
            0 => Fragment::None,
            0x2000 => Fragment::First,
            _ => Fragment::Later,
        };
        Ok(Layout {
            version: Version::Four,
            end,
            fragment,
            upper: Header {
                protocol: Protocol(header[9]),
                at: upper,
            },
            binding: None,
            source_routed,
        })
    }

    #[inline]
    fn ipv6(bytes: &[u8]) -> Result<Layout, Malformed> {
        let header: &[u8; IPV6_HEADER] = bytes.first_chunk().ok_or(Malformed::HeaderTruncated)?;
        let end = IPV6_HEADER + usize::from(word(header, 4));
        if end > bytes.len() {
            return Err(Malformed::Length);
        }
        let first = Header {
            protocol: Protocol(header[6]),
            at: IPV6_HEADER,
        };
        let walked = walk(&bytes[..end], first).ok_or(Malformed::ExtensionHeaders)?;
        Ok(Layout {
            version: Version::Six,
            end,
            fragment: walked.fragment,
            upper: walked.upper,
            binding: walked.binding,
            source_routed: walked.source_routed,
        })
    }

    /// Whether this is a piece of a larger packet.
    pub fn is_fragment(&self) -> bool {
        matches!(self.fragment, Fragment::First | Fragment::Later)
    }

    /// Of a first fragment: reads on behind the fragment header.
    ///
    /// # Errors
    /// The headers do not all lie in this fragment (RFC 7112), or it is a fragment of a fragment.
    pub fn head(self, bytes: &[u8]) -> Result<Layout, Malformed> {
        if self.version == Version::Four {
            return Ok(self);
        }
        let bytes = bytes.get(..self.end).ok_or(Malformed::Length)?;
        let walked = walk(bytes, self.upper).ok_or(Malformed::ExtensionHeaders)?;
        if !matches!(walked.fragment, Fragment::None | Fragment::Atomic) {
            return Err(Malformed::ExtensionHeaders);
        }
        Ok(Layout {
            upper: walked.upper,
            binding: self.binding.or(walked.binding),
            source_routed: self.source_routed || walked.source_routed,
            ..self
        })
    }
}

/// What the extension headers of an IPv6 packet lead to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walked {
    pub(crate) upper: Header,
    pub(crate) fragment: Fragment,
    pub(crate) binding: Option<Header>,
    source_routed: bool,
}

/// Walks the extension headers of the IPv6 packet that `bytes` begins with, from one of them on.
/// None when they are cut off or too many.
///
/// It goes through every header that RFC 7045 lists, whatever it says, so that nothing hides behind
/// one that a receiver may skip (RFC 7113 section 3).
#[inline]
pub(crate) fn walk(bytes: &[u8], mut upper: Header) -> Option<Walked> {
    let mut fragment = Fragment::None;
    let mut binding = None;
    let mut source_routed = false;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        if !is_extension(upper.protocol) {
            return (upper.at <= bytes.len()).then_some(Walked {
                upper,
                fragment,
                binding,
                source_routed,
            });
        }
        let header: &[u8; 8] = bytes.get(upper.at..)?.first_chunk()?;
        let length = match upper.protocol.0 {
            FRAGMENT => FRAGMENT_HEADER,
            // RFC 4302 section 2.2: in 4-byte units, less two.
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        let binds = match upper.protocol.0 {
            // Segments left.
            ROUTING => header[3] != 0,
            AUTHENTICATION | MOBILITY | HIP | SHIM6 => true,
            _ => false,
        };
        if binds && binding.is_none() {
            binding = Some(upper);
        }
        source_routed |= upper.protocol.0 == ROUTING && header[2] == 0 && header[3] != 0;
        let is_fragment_header = upper.protocol.0 == FRAGMENT;
        upper = Header {
            protocol: Protocol(header[0]),
            at: upper.at + length,
        };
        if is_fragment_header {
            // Offset in the upper 13 bits, two reserved bits, the M flag.
            fragment = match word(header, 2) & 0xfff9 {
                0 => Fragment::Atomic,
                1 => Fragment::First,
                _ => Fragment::Later,
            };
            if fragment != Fragment::Atomic {
                return Some(Walked {
                    upper,
                    fragment,
                    binding,
                    source_routed,
                });
            }
        }
    }
    None
}

/// The header right behind the fixed one of an IPv6 packet, which has all of that.
pub(crate) fn first_header(bytes: &[u8]) -> Option<Header> {
    let &protocol = bytes.get(..IPV6_HEADER)?.get(6)?;
    Some(Header {
        protocol: Protocol(protocol),
        at: IPV6_HEADER,
    })
}

/// Whether the number stands for an extension header of IPv6, so that another header follows.
pub(crate) const fn is_extension(protocol: Protocol) -> bool {
    matches!(
        protocol.0,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
    )
}

/// Whether the options of an IPv4 header choose the packet's route (RFC 791 section 3.1).
fn is_source_routed(mut options: &[u8]) -> Result<bool, Malformed> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    let mut found = false;
    loop {
        options = match options {
            [] | [END, ..] => return Ok(found),
            [NO_OPERATION, rest @ ..] => rest,
            [kind, length, ..] if *length >= 2 => {
                found |= matches!(*kind, LOOSE | STRICT);
                let length = usize::from(*length);
                options.get(length..).ok_or(Malformed::Options)?
            }
            _ => return Err(Malformed::Options),
        };
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests;
