//! The unit of work: one Ethernet frame in a buffer of its own, behind the header that lets it be
//! larger than any wire.
//!
//! A frame from a TAP or an AF_PACKET socket may be a *super-frame*: up to 64 KiB of one TCP or UDP
//! flow whose checksum is still partial. [`VnetHeader`] (the kernel's `struct virtio_net_hdr`) says
//! which. The header travels in the same buffer as the frame, so that a frame is read, rewritten in
//! place and written again without a copy.
//!
//! ```text
//!  start                 8-byte aligned
//!  │                     │
//!  ├─ vnet header 10 ─┬─ Ethernet 14 ─┬─ IP header … ─┤
//! ```

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::str::FromStr;

use crate::layers::Layers;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_HEADER: usize = 14;

/// Bytes of one 802.1Q tag.
pub const VLAN_TAG: usize = 4;

/// The largest frame a buffer holds, in bytes: an IP packet of 65,535 bytes, which is what a 16-bit
/// total length can say, behind an Ethernet header with two VLAN tags. "BIG TCP" frames, which have
/// no such length, are cut by the ports (`io/large.rs`).
pub const MAX_FRAME: usize = 65_536 + 18 + VLAN_TAG;

/// Bytes of the vnet header in front of every frame.
pub const VNET_HEADER: usize = 10;

/// EtherTypes that the switch looks at.
pub mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    /// Reverse ARP (RFC 903).
    pub const RARP: u16 = 0x8035;
    pub const IPV6: u16 = 0x86dd;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag, the outer one of two.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// The kernel's `struct virtio_net_hdr`, 10 bytes, in the byte order of the host (a TAP without
/// `TUNSETVNETLE` and an AF_PACKET socket both use the legacy layout of virtio 0.9.5).
///
/// Offsets and lengths count from the first byte of the Ethernet frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`](Self::NEEDS_CSUM) and [`DATA_VALID`](Self::DATA_VALID).
    pub flags: u8,
    /// One of the `GSO_` constants, possibly with [`GSO_ECN`](Self::GSO_ECN).
    pub gso_type: u8,
    /// Bytes of all headers, a hint; of no meaning unless the frame is a super-frame.
    pub hdr_len: u16,
    /// Payload bytes of each segment of a super-frame.
    pub gso_size: u16,
    /// Where the sum starts: the first byte of the TCP or UDP header.
    pub csum_start: u16,
    /// Where the sum goes, counted from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// The checksum field holds the pseudo-header's sum only; whoever puts the frame on a wire adds
    /// the rest.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum was verified by a device. Ports clear it: it describes the packet as received.
    pub const DATA_VALID: u8 = 2;

    pub const GSO_NONE: u8 = 0;
    pub const GSO_TCPV4: u8 = 1;
    /// UDP that is to be fragmented at the IP layer (UFO); Linux takes it and no longer sends it.
    pub const GSO_UDP: u8 = 3;
    pub const GSO_TCPV6: u8 = 4;
    /// UDP that is to be cut into datagrams (USO).
    pub const GSO_UDP_L4: u8 = 5;
    /// Bit: the TCP segments carry CWR, which only the first of them may keep (RFC 3168 §6.1.2).
    pub const GSO_ECN: u8 = 0x80;

    /// Reads the header from the first bytes of a buffer.
    pub fn decode(bytes: &[u8; VNET_HEADER]) -> VnetHeader {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        VnetHeader {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    /// The header's bytes, as the kernel takes them.
    pub fn encode(self) -> [u8; VNET_HEADER] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        bytes
    }

    /// Is the transport checksum partial?
    pub fn needs_csum(self) -> bool {
        self.flags & Self::NEEDS_CSUM != 0
    }

    /// Is this a super-frame, to be cut into segments before it reaches a wire?
    pub fn is_gso(self) -> bool {
        self.gso_kind() != Self::GSO_NONE
    }

    /// The `GSO_` constant without the ECN bit.
    pub fn gso_kind(self) -> u8 {
        self.gso_type & !Self::GSO_ECN
    }
}

/// Bytes kept free in front of a frame, so that two VLAN tags that the kernel stripped can be put
/// back by moving the MACs instead of the payload.
const HEADROOM: usize = 2 * VLAN_TAG;

/// A frame longer than this cannot be told from a truncated one by read(2), which cuts silently; so
/// the buffer has one byte more than the largest frame.
const SPACE: usize = VNET_HEADER + MAX_FRAME + 1;

/// One owned, reusable buffer with one frame. It is allocated once and only its contents change;
/// the pages that no frame ever reached are never touched.
///
/// The IP header of an untagged frame lies at an address divisible by 8.
pub struct Frame {
    buffer: Box<[u8]>,
    /// Where the vnet header starts when no tag was inserted.
    base: usize,
    /// Where the vnet header starts now; at most [`HEADROOM`] below `base`.
    start: usize,
    /// Bytes of the Ethernet frame.
    len: usize,
}

impl Frame {
    /// An empty frame; allocates.
    pub fn new() -> Frame {
        Frame::with_space(SPACE)
    }

    /// A frame with these bytes and an empty vnet header, in a buffer for ordinary frames: what is
    /// larger moves into one for all.
    pub(crate) fn small(bytes: &[u8]) -> Frame {
        /// Enough for an ICMP error in place of any frame (RFC 4443 section 2.4 c).
        const LEAST: usize = 2048;
        let mut frame = Frame::with_space(VNET_HEADER + bytes.len().max(LEAST));
        frame.set_bytes(bytes);
        frame
    }

    fn with_space(space: usize) -> Frame {
        const ALIGN: usize = 8;
        let buffer = vec![0; HEADROOM + ALIGN + space].into_boxed_slice();
        // A byte buffer promises no alignment of its own, so find the place inside it.
        let unaligned =
            (buffer.as_ptr() as usize + HEADROOM + VNET_HEADER + ETHERNET_HEADER) % ALIGN;
        let base = HEADROOM + (ALIGN - unaligned) % ALIGN;
        Frame {
            buffer,
            base,
            start: base,
            len: 0,
        }
    }

    /// A frame with these bytes and an empty vnet header. Bytes beyond [`MAX_FRAME`] are cut off.
    pub fn from_bytes(bytes: &[u8]) -> Frame {
        let mut frame = Frame::new();
        frame.set_bytes(bytes);
        frame
    }

    /// Bytes of the largest frame that the buffer holds.
    fn room(&self) -> usize {
        (self.buffer.len() - self.base - VNET_HEADER).min(MAX_FRAME)
    }

    /// Makes room for a frame of so many bytes; forgets the one it held if there was too little.
    fn reserve(&mut self, len: usize) {
        if self.room() < len.min(MAX_FRAME) {
            *self = Frame::new();
        }
    }

    /// Replaces the vnet header and the contents by what [`raw`](Self::raw) gave of another frame.
    pub(crate) fn set_raw(&mut self, raw: &[u8]) {
        let space = self.space_mut();
        let len = raw.len().min(space.len());
        space[..len].copy_from_slice(&raw[..len]);
        self.set_len(len.saturating_sub(VNET_HEADER));
    }

    /// Replaces the contents by these bytes and an empty vnet header. Bytes beyond [`MAX_FRAME`]
    /// are cut off.
    pub fn set_bytes(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.start = self.base;
        self.set_vnet(VnetHeader::default());
        self.set_len(bytes.len());
        let len = self.len;
        self.bytes_mut().copy_from_slice(&bytes[..len]);
    }

    /// Replaces the contents by an IP packet, of a version that its first byte tells, to and from
    /// these MACs.
    pub(crate) fn set_packet(&mut self, macs: (MacAddr, MacAddr), packet: &[u8]) {
        let ethertype = match packet.first().map(|first| first >> 4) {
            Some(6) => ethertype::IPV6,
            _ => ethertype::IPV4,
        };
        let header = [&macs.0.0[..], &macs.1.0, &ethertype.to_be_bytes()].concat();
        self.set_bytes(&[&header, packet].concat());
    }

    /// Bytes of the Ethernet frame.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The Ethernet frame.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start + VNET_HEADER..][..self.len]
    }

    /// The Ethernet frame, to be rewritten in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start + VNET_HEADER..][..self.len]
    }

    /// Sets the bytes of the Ethernet frame, at most [`MAX_FRAME`]. Growing shows what the buffer
    /// held before.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.room());
    }

    pub fn vnet(&self) -> VnetHeader {
        let mut header = [0; VNET_HEADER];
        header.copy_from_slice(&self.buffer[self.start..][..VNET_HEADER]);
        VnetHeader::decode(&header)
    }

    pub fn set_vnet(&mut self, header: VnetHeader) {
        self.buffer[self.start..][..VNET_HEADER].copy_from_slice(&header.encode());
    }

    /// The vnet header and the Ethernet frame: what a port writes.
    pub fn raw(&self) -> &[u8] {
        &self.buffer[self.start..][..VNET_HEADER + self.len]
    }

    /// The whole buffer, for a read of vnet header and frame. Forgets the frame it held; follow it
    /// by [`set_len`](Self::set_len) with the bytes read less [`VNET_HEADER`]. It has room for one
    /// byte more than the largest frame, so that a read that fills it was of a frame too large.
    pub fn space_mut(&mut self) -> &mut [u8] {
        self.reserve(MAX_FRAME);
        self.start = self.base;
        self.len = 0;
        &mut self.buffer[self.base..][..SPACE]
    }

    /// Makes this a copy of `other`, for a flood. Copies the frame's own bytes, no more.
    pub fn copy_from(&mut self, other: &Frame) {
        let raw = other.raw();
        self.reserve(other.len);
        self.start = self.base - (other.base - other.start);
        self.buffer[self.start..][..raw.len()].copy_from_slice(raw);
        self.len = other.len;
    }

    /// A copy in a buffer no larger than it needs.
    pub(crate) fn compact(&self) -> Frame {
        let mut copy = Frame::small(self.bytes());
        copy.copy_from(self);
        copy
    }

    /// Puts a VLAN tag between the MACs and the rest, as the frame had on the wire. Moves the 22
    /// bytes in front of the tag, not the payload, and keeps the vnet header's offsets right.
    ///
    /// A frame for whose tag there is no room (a runt, a third tag, a frame of the largest size) is
    /// left empty: without its tag it would be another frame.
    pub(crate) fn insert_vlan(&mut self, tpid: u16, tci: u16) {
        const MACS: usize = 12;
        if self.len < MACS || self.len + VLAN_TAG > MAX_FRAME || self.base - self.start >= HEADROOM
        {
            self.len = 0;
            return;
        }
        let old = self.start;
        self.start -= VLAN_TAG;
        self.buffer
            .copy_within(old..old + VNET_HEADER + MACS, self.start);
        self.len += VLAN_TAG;
        let tag = &mut self.bytes_mut()[MACS..MACS + VLAN_TAG];
        tag[..2].copy_from_slice(&tpid.to_be_bytes());
        tag[2..].copy_from_slice(&tci.to_be_bytes());
        let mut header = self.vnet();
        if header.needs_csum() {
            header.csum_start = header.csum_start.saturating_add(VLAN_TAG as u16);
        }
        if header.hdr_len != 0 {
            header.hdr_len = header.hdr_len.saturating_add(VLAN_TAG as u16);
        }
        self.set_vnet(header);
    }

    /// Takes so many bytes of tags from behind the MACs, and keeps the vnet header's offsets right.
    /// The frame has them.
    pub(crate) fn remove_tags(&mut self, bytes: usize) {
        const MACS: usize = 12;
        let mut header = self.vnet();
        if self.base - self.start >= bytes {
            // Inserted here: the payload lies where it belongs.
            let old = self.start;
            self.start += bytes;
            self.buffer
                .copy_within(old..old + VNET_HEADER + MACS, self.start);
        } else {
            self.bytes_mut().copy_within(MACS + bytes.., MACS);
        }
        self.len -= bytes;
        // Tags beyond what 16 bits count are in front of no checksum of this frame.
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        if header.needs_csum() {
            header.csum_start = header.csum_start.saturating_sub(bytes);
        }
        header.hdr_len = header.hdr_len.saturating_sub(bytes);
        self.set_vnet(header);
    }

    /// Gives an IP packet that was read without an Ethernet header, [`ETHERNET_HEADER`] bytes into
    /// the frame, one with MACs of zeros. The vnet header then counts from there.
    pub(crate) fn put_ethernet_header(&mut self) {
        let bytes = self.bytes_mut();
        let Some((header, packet)) = bytes.split_at_mut_checked(ETHERNET_HEADER) else {
            return;
        };
        let ethertype = match packet.first().map(|first| first >> 4) {
            Some(6) => ethertype::IPV6,
            _ => ethertype::IPV4,
        };
        header.fill(0);
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
        let mut vnet = self.vnet();
        if vnet.needs_csum() {
            vnet.csum_start = vnet.csum_start.saturating_add(ETHERNET_HEADER as u16);
        }
        if vnet.hdr_len != 0 {
            vnet.hdr_len = vnet.hdr_len.saturating_add(ETHERNET_HEADER as u16);
        }
        self.set_vnet(vnet);
    }

    /// The vnet header that counts from the IP packet, for an interface without Ethernet headers.
    pub(crate) fn packet_vnet(&self) -> VnetHeader {
        let mut vnet = self.vnet();
        if vnet.needs_csum() {
            vnet.csum_start = vnet.csum_start.saturating_sub(ETHERNET_HEADER as u16);
        }
        vnet.hdr_len = vnet.hdr_len.saturating_sub(ETHERNET_HEADER as u16);
        vnet
    }

    /// Clears [`VnetHeader::DATA_VALID`].
    ///
    /// The kernel sets it on receive for a checksum that a device has verified. It says nothing of
    /// a packet that has been rewritten since, and a virtio driver on the other side would believe
    /// it.
    pub(crate) fn clear_data_valid(&mut self) {
        self.buffer[self.start] &= !VnetHeader::DATA_VALID;
    }
}

impl Default for Frame {
    fn default() -> Frame {
        Frame::new()
    }
}

impl Clone for Frame {
    fn clone(&self) -> Frame {
        let mut frame = Frame::new();
        frame.copy_from(self);
        frame
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Frame")
            .field("len", &self.len)
            .field("destination", &destination(self.bytes()))
            .field("source", &source(self.bytes()))
            .field("ethertype", &ethertype_of(self.bytes()))
            .field("vnet", &self.vnet())
            .finish()
    }
}

/// A 48-bit Ethernet address, written `02:42:0a:00:00:01`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl Hash for MacAddr {
    /// As one number: hashing a slice costs several times as much.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f] = self.0;
        state.write_u64(u64::from_be_bytes([0, 0, a, b, c, d, e, f]));
    }
}

impl MacAddr {
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Is the group bit set? True of broadcast too.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// May a station have this address: neither a group nor all zero?
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self.0 != [0; 6]
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(bytes: [u8; 6]) -> MacAddr {
        MacAddr(bytes)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        formatter.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The text is not six pairs of hexadecimal digits with colons between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacAddrError(String);

impl fmt::Display for MacAddrError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "'{}' is not a MAC address; write it like 02:42:0a:00:00:01",
            self.0
        )
    }
}

impl std::error::Error for MacAddrError {}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<MacAddr, MacAddrError> {
        let error = || MacAddrError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(error)?;
            // from_str_radix alone would take a sign.
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        match parts.next() {
            None => Ok(MacAddr(bytes)),
            Some(_) => Err(error()),
        }
    }
}

fn mac_at(frame: &[u8], at: usize) -> Option<MacAddr> {
    frame.get(at..)?.first_chunk().map(|bytes| MacAddr(*bytes))
}

pub(crate) fn word_at(frame: &[u8], at: usize) -> Option<u16> {
    frame
        .get(at..)?
        .first_chunk()
        .map(|bytes| u16::from_be_bytes(*bytes))
}

/// The destination MAC of an Ethernet frame; none in a runt.
pub fn destination(frame: &[u8]) -> Option<MacAddr> {
    mac_at(frame, 0)
}

/// The source MAC of an Ethernet frame; none in a runt.
pub fn source(frame: &[u8]) -> Option<MacAddr> {
    mac_at(frame, 6)
}

/// Writes the destination MAC; leaves a runt as it is.
pub fn set_destination(frame: &mut [u8], mac: MacAddr) {
    if let Some(field) = frame.get_mut(0..6) {
        field.copy_from_slice(&mac.0);
    }
}

/// Writes the source MAC; leaves a runt as it is.
pub fn set_source(frame: &mut [u8], mac: MacAddr) {
    if let Some(field) = frame.get_mut(6..12) {
        field.copy_from_slice(&mac.0);
    }
}

/// The EtherType that follows the MACs, a tag's own when the frame is tagged; none in a runt.
pub fn ethertype_of(frame: &[u8]) -> Option<u16> {
    word_at(frame, 12)
}

/// The source address of an untagged frame's IP packet; none in other frames.
pub(crate) fn source_ip(frame: &[u8]) -> Option<IpAddr> {
    let packet = frame.get(ETHERNET_HEADER..)?;
    match ethertype_of(frame)? {
        ethertype::IPV4 => Some(IpAddr::from(*packet.get(12..)?.first_chunk::<4>()?)),
        ethertype::IPV6 => Some(IpAddr::from(*packet.get(8..)?.first_chunk::<16>()?)),
        _ => None,
    }
}

/// The address that a frame's IP packet is for, behind tags too; none in other frames.
pub(crate) fn destination_ip(frame: &[u8]) -> Option<IpAddr> {
    let Layers { ethertype, at } = Layers::of(frame).ok()?;
    let packet = frame.get(at..)?;
    match ethertype {
        ethertype::IPV4 => Some(IpAddr::from(*packet.get(16..)?.first_chunk::<4>()?)),
        ethertype::IPV6 => Some(IpAddr::from(*packet.get(24..)?.first_chunk::<16>()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Frame {
        let mut bytes = vec![0xff; 6];
        bytes.extend([2, 0, 0, 0, 0, 1, 0x08, 0x00]);
        bytes.extend((0..100).map(|byte| byte as u8));
        Frame::from_bytes(&bytes)
    }

    #[test]
    fn vnet_header_survives_encoding() {
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type: VnetHeader::GSO_TCPV4 | VnetHeader::GSO_ECN,
            hdr_len: 66,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
        };
        assert_eq!(VnetHeader::decode(&header.encode()), header);
        assert!(header.needs_csum() && header.is_gso());
        assert_eq!(header.gso_kind(), VnetHeader::GSO_TCPV4);
        assert!(
            !VnetHeader {
                gso_type: VnetHeader::GSO_ECN,
                ..Default::default()
            }
            .is_gso()
        );
    }

    #[test]
    fn ip_header_is_aligned() {
        for _ in 0..20 {
            let frame = sample();
            assert_eq!(frame.bytes()[ETHERNET_HEADER..].as_ptr() as usize % 8, 0);
        }
    }

    #[test]
    fn lengths_are_clamped() {
        let frame = Frame::from_bytes(&vec![7; MAX_FRAME + 100]);
        assert_eq!(frame.len(), MAX_FRAME);
        assert_eq!(frame.raw().len(), VNET_HEADER + MAX_FRAME);
        let mut frame = Frame::new();
        frame.set_len(usize::MAX);
        assert_eq!(frame.bytes().len(), MAX_FRAME);
        assert_eq!(frame.space_mut().len(), VNET_HEADER + MAX_FRAME + 1);
        assert!(frame.is_empty());
    }

    #[test]
    fn tags_are_put_back_in_front_of_an_unmoved_payload() {
        let mut frame = sample();
        let payload = frame.bytes()[14..].as_ptr();
        let before = frame.bytes().to_vec();
        frame.set_vnet(VnetHeader {
            flags: VnetHeader::NEEDS_CSUM | VnetHeader::DATA_VALID,
            csum_start: 34,
            hdr_len: 54,
            ..Default::default()
        });
        frame.clear_data_valid();
        frame.insert_vlan(ethertype::VLAN, 0x2007);
        assert_eq!(frame.bytes()[..12], before[..12]);
        assert_eq!(frame.bytes()[12..16], [0x81, 0x00, 0x20, 0x07]);
        assert_eq!(frame.bytes()[16..], before[12..]);
        assert_eq!(frame.bytes()[18..].as_ptr(), payload);
        assert_eq!((frame.vnet().csum_start, frame.vnet().hdr_len), (38, 58));
        assert_eq!(frame.vnet().flags, VnetHeader::NEEDS_CSUM);

        frame.insert_vlan(ethertype::SERVICE_VLAN, 5);
        assert_eq!(ethertype_of(frame.bytes()), Some(ethertype::SERVICE_VLAN));
        let mut copy = Frame::new();
        copy.copy_from(&frame);
        assert_eq!(copy.raw(), frame.raw());

        for tags in [1, 2] {
            let mut bare = frame.clone();
            bare.remove_tags(tags * VLAN_TAG);
            assert_eq!(bare.bytes()[..12], before[..12]);
            assert_eq!(bare.bytes()[12..], frame.bytes()[12 + tags * VLAN_TAG..]);
            let header = (bare.vnet().csum_start, bare.vnet().hdr_len);
            assert_eq!(header, (42 - 4 * tags as u16, 62 - 4 * tags as u16));
        }

        frame.insert_vlan(ethertype::VLAN, 6);
        assert!(frame.is_empty(), "no room for a third tag");
        frame.space_mut();
        frame.set_bytes(&before);
        assert_eq!(frame.bytes(), before);
    }

    #[test]
    fn fields_of_a_runt_are_none() {
        for len in 0..20 {
            let mut bytes = vec![0x81; len];
            assert_eq!(destination(&bytes).is_some(), len >= 6);
            assert_eq!(source(&bytes).is_some(), len >= 12);
            assert_eq!(ethertype_of(&bytes).is_some(), len >= 14);
            set_destination(&mut bytes, MacAddr::BROADCAST);
            set_source(&mut bytes, MacAddr::BROADCAST);
            let mut frame = Frame::from_bytes(&bytes);
            frame.insert_vlan(ethertype::VLAN, 1);
        }
    }

    #[test]
    fn mac_text() {
        let mac: MacAddr = "02:42:0a:FF:00:01".parse().unwrap();
        assert_eq!(mac, MacAddr([2, 0x42, 10, 255, 0, 1]));
        assert_eq!(mac.to_string(), "02:42:0a:ff:00:01");
        assert!(mac.is_unicast() && !mac.is_multicast());
        assert!(MacAddr::BROADCAST.is_multicast() && !MacAddr::default().is_unicast());
        for bad in [
            "",
            "02",
            "02:42:0a:00:00",
            "02:42:0a:00:00:01:02",
            "+2:42:0a:00:00:01",
            "é:42",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }
}
