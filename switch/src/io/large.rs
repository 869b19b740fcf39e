//! Frames larger than any buffer, and than the length field of their IP header says ("BIG TCP").
//!
//! Whoever has CAP_NET_ADMIN in a container raises `gso_ipv4_max_size` or `gso_max_size` of its
//! interface (`gro_ipv4_max_size` and `gro_max_size` of an uplink) up to 512 KiB, and then
//! AF_PACKET hands over TCP super-frames of that size. They are cut here, as they are read, into
//! super-frames of 64 KiB at the most, so that all that is behind knows no others: a port that
//! sends them out need not have been raised too, and a TAP can't be.
//!
//! | the length of such a packet | |
//! |---|---|
//! | IPv4 | total length 0 (Linux: `iph_set_totlen`); it reaches to the end of the frame |
//! | IPv6 | payload length 0, and a jumbo payload option (RFC 2675), which goes; or without one |

use nat::Protocol;
use nat::layout::Version;

use crate::frame::{Frame, MAX_FRAME, VNET_HEADER, VnetHeader, ethertype, word_at};
use crate::layers::{self, Layers};
use crate::segment;

/// The largest super-frame of Linux (`GSO_MAX_SIZE`, `GRO_MAX_SIZE`), and its link's header.
const LARGEST: usize = 8 * 65_536 + 64;

/// Bytes that the length field of IPv4 can say.
pub(super) const LARGEST_PACKET: usize = 65_535;

/// What a frame is cut into at the most: one whose segments are so large that two don't fit.
pub(super) const MOST_PIECES: usize = LARGEST / (LARGEST_PACKET / 2);

/// Bytes of headers that are looked at.
const HEADERS: usize = 512;
const IPV6_HEADER: usize = 40;
const TCP_CHECKSUM: u16 = 16;

/// Room for one such frame.
#[derive(Debug)]
pub(super) struct Large {
    space: Vec<u8>,
}

impl Large {
    pub(super) fn new() -> Large {
        // Pages that no frame reaches are never touched.
        Large {
            space: vec![0; VNET_HEADER + LARGEST],
        }
    }

    /// For a read of vnet header and frame.
    pub(super) fn space_mut(&mut self) -> &mut [u8] {
        &mut self.space
    }

    /// Makes frames of the one that was read, of so many bytes with its vnet header; how many they
    /// are. What is too large and can't be cut becomes an empty one. Of what finds no room in
    /// `frames` the rest is lost: [`MOST_PIECES`] are enough.
    pub(super) fn divide(&self, bytes: usize, frames: &mut [Frame]) -> usize {
        let Some(first) = frames.first_mut() else {
            return 0;
        };
        let Some(raw) = self.space.get(..bytes).filter(|it| it.len() >= VNET_HEADER) else {
            first.space_mut();
            return 1;
        };
        let frame = &raw[VNET_HEADER..];
        let network = Layers::of(frame).map_or(0, |layers| layers.at);
        if frame.len() <= network + LARGEST_PACKET {
            first.set_raw(raw);
            return 1;
        }
        match Cut::of(raw) {
            Some(cut) => cut.write(frames),
            None if frame.len() <= MAX_FRAME => {
                first.set_raw(raw);
                1
            }
            None => {
                first.space_mut();
                1
            }
        }
    }
}

/// How a super-frame of TCP is cut.
struct Cut<'a> {
    vnet: VnetHeader,
    /// Up to the end of TCP's, without a jumbo payload option.
    headers: Vec<u8>,
    /// Where the IP header is, and TCP's.
    network: usize,
    transport: usize,
    layout: nat::Layout,
    payload: &'a [u8],
}

impl<'a> Cut<'a> {
    /// None if the frame contradicts itself, or is of another kind.
    fn of(raw: &'a [u8]) -> Option<Cut<'a>> {
        let (vnet, bytes) = raw.split_first_chunk::<VNET_HEADER>()?;
        let vnet = VnetHeader::decode(vnet);
        let layers = Layers::of(bytes).ok()?;
        let network = layers.at;
        let mut headers = bytes[..bytes.len().min(network + HEADERS)].to_vec();
        let (end, removed) = shorten(&mut headers, layers, bytes.len())?;
        let (layout, _) = layers::packet(&headers, layers).ok()??;
        let kind = match layout.version {
            Version::Four => VnetHeader::GSO_TCPV4,
            Version::Six => VnetHeader::GSO_TCPV6,
        };
        let transport = network + layout.upper.at;
        let is_outermost =
            !vnet.needs_csum() || usize::from(vnet.csum_start) == transport + removed;
        if vnet.gso_kind() != kind
            || layout.upper.protocol != Protocol::TCP
            || layout.is_fragment()
            || !is_outermost
        {
            return None;
        }
        let header = usize::from(*headers.get(transport + 12)? >> 4) * 4;
        if header < 20 || transport + header > headers.len() {
            return None;
        }
        headers.truncate(transport + header);
        let payload = bytes.get(headers.len() + removed..end)?;
        let cut = Cut {
            vnet,
            headers,
            network,
            transport,
            layout,
            payload,
        };
        (cut.piece_len() > 0).then_some(cut)
    }

    /// Bytes of payload of each piece but the last: whole segments.
    fn piece_len(&self) -> usize {
        let room = LARGEST_PACKET - (self.headers.len() - self.network);
        let size = usize::from(self.vnet.gso_size);
        room.checked_div(size).unwrap_or(0) * size
    }

    fn write(&self, frames: &mut [Frame]) -> usize {
        let pieces = self.payload.chunks(self.piece_len());
        let count = pieces.len();
        let mut written = 0;
        for (frame, (index, piece)) in frames.iter_mut().zip(pieces.enumerate()) {
            self.write_piece(frame, index * self.piece_len(), piece, index + 1 == count);
            written += 1;
        }
        written
    }

    /// Writes the piece that begins `offset` bytes into the payload. Its checksum is partial.
    fn write_piece(&self, frame: &mut Frame, offset: usize, piece: &[u8], is_last: bool) {
        let space = &mut frame.space_mut()[VNET_HEADER..];
        let (headers, payload) = space.split_at_mut(self.headers.len());
        headers.copy_from_slice(&self.headers);
        payload[..piece.len()].copy_from_slice(piece);
        frame.set_len(self.headers.len() + piece.len());
        let bytes = frame.bytes_mut();
        let segments = offset / usize::from(self.vnet.gso_size);
        segment::mark_segment(
            &mut bytes[self.transport..],
            offset as u32,
            offset == 0,
            is_last,
        );
        let packet = &mut bytes[self.network..];
        segment::set_length(packet, &self.layout, segments as u16);
        let sum = segment::fold(segment::pseudo_header(packet, &self.layout));
        let checksum = self.transport + usize::from(TCP_CHECKSUM);
        bytes[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
        let (gso_type, gso_size) = match (piece.len() > usize::from(self.vnet.gso_size), offset) {
            (false, _) => (VnetHeader::GSO_NONE, 0),
            (true, 0) => (self.vnet.gso_type, self.vnet.gso_size),
            // Only the first says that the congestion window was reduced.
            (true, _) => (self.vnet.gso_kind(), self.vnet.gso_size),
        };
        frame.set_vnet(VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type,
            hdr_len: self.headers.len() as u16,
            gso_size,
            csum_start: self.transport as u16,
            csum_offset: TCP_CHECKSUM,
        });
    }
}

/// Makes the IP header at the front of a frame of `len` bytes one of no more than `headers`.
/// Returns where the packet ends in the frame, and how many bytes were taken out of the headers.
fn shorten(headers: &mut Vec<u8>, layers: Layers, len: usize) -> Option<(usize, usize)> {
    let Layers { ethertype, at } = layers;
    let (end, removed, field, fixed) = match ethertype {
        ethertype::IPV4 => {
            let end = match word_at(headers, at + 2)? {
                0 => len,
                total => at + usize::from(total),
            };
            (end, 0, at + 2, 0)
        }
        ethertype::IPV6 => {
            let behind = at + IPV6_HEADER;
            // One header of hop-by-hop options, with that option and none else.
            let jumbo = match (word_at(headers, at + 4)?, headers.get(at + 6)?) {
                (0, 0) => headers
                    .get(behind..behind + 8)
                    .filter(|options| options[1..4] == [0, 0xc2, 4])
                    .map(|options| [options[4], options[5], options[6], options[7]]),
                _ => None,
            };
            let (end, removed) = match (jumbo, word_at(headers, at + 4)?) {
                (Some(length), _) => (behind + u32::from_be_bytes(length) as usize, 8),
                (None, 0) => (len, 0),
                (None, length) => (behind + usize::from(length), 0),
            };
            if removed > 0 {
                headers[at + 6] = headers[behind];
                headers.drain(behind..behind + removed);
            }
            (end, removed, at + 4, IPV6_HEADER)
        }
        _ => return None,
    };
    let length = u16::try_from(headers.len().checked_sub(at + fixed)?).ok()?;
    headers
        .get_mut(field..field + 2)?
        .copy_from_slice(&length.to_be_bytes());
    Some((end, removed))
}

#[cfg(test)]
mod tests;
