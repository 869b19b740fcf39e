//! What a frame is: the one reader of everything between the MACs and the network header.
//!
//! The guard, the bridge, the resolver, the gateway and the translation all go by what is found
//! here (and in [`nat::Layout`], behind it), so that none can be shown another frame than the rest.
//! What cannot be seen through is dropped by name.
//!
//! | between the MACs and the packet | what receivers make of it | here |
//! |---|---|---|
//! | priority tags (VLAN id 0), any number, of 802.1Q or 802.1ad | Linux takes them all off (`skb_vlan_untag`, `check_vlan_id`) | taken off on the way in: the frame is untagged from then on |
//! | one tag of a VLAN, or two | a VLAN interface takes them off; a packet socket sees the inside without one | passed by the bridge; the guard looks behind them; never routed |
//! | a tag behind two others | the same, as deep as there are interfaces | `TooManyTags` |
//! | LLC/SNAP (802.2, RFC 1042) around IP, ARP or a tag | Linux ignores it, others take it (RFC 1122 section 2.3.3), as do bridges to 802.11 | `Encapsulated` |
//! | other LLC: spanning tree, IS-IS, CDP | not IP | passed |
//! | MPLS, PPPoE, MACsec, PBB, HSR, TRILL | nothing without an interface or a route made for it | passed |
//!
//! Tunnels in IP (IPIP, GRE, VXLAN, SIT and so on) are in the last class too: a kernel takes them
//! apart for a tunnel interface that somebody made there, and what comes out has come in by that.

use nat::Layout;
use nat::layout::Version;

use crate::drop::DropReason;
use crate::frame::{Frame, VLAN_TAG, ethertype, word_at};

/// Where the EtherType stands in an untagged frame, behind the MACs.
const ETHERTYPE: usize = 12;

/// Tags of VLANs that a frame may have: a service tag and a customer tag (802.1ad).
const MAX_TAGS: usize = 2;

/// EtherTypes begin here; what is less is the length of an 802.3 frame, with LLC behind it.
const FIRST_ETHERTYPE: u16 = 0x0600;

/// The network layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers {
    /// What it is, by its EtherType; below 0x600 the length of an 802.3 frame of no protocol that
    /// is looked at here.
    pub ethertype: u16,
    /// Offset of its first byte.
    pub at: usize,
}

impl Layers {
    /// Looks behind the tags of a frame.
    ///
    /// # Errors
    ///
    /// [`Malformed`](DropReason::Malformed) when it ends before its EtherType;
    /// [`TooManyTags`](DropReason::TooManyTags) and [`Encapsulated`](DropReason::Encapsulated) when
    /// there may be more to it than can be seen.
    #[inline]
    pub fn of(frame: &[u8]) -> Result<Layers, DropReason> {
        let mut at = ETHERTYPE;
        for _ in 0..=MAX_TAGS {
            let kind = word_at(frame, at).ok_or(DropReason::Malformed)?;
            if !is_tag(kind) {
                at += 2;
                if kind < FIRST_ETHERTYPE && is_encapsulated(&frame[at..]) {
                    return Err(DropReason::Encapsulated);
                }
                return Ok(Layers {
                    ethertype: kind,
                    at,
                });
            }
            at += VLAN_TAG;
        }
        Err(DropReason::TooManyTags)
    }
}

/// The IP packet of a frame that is `layers`, and where its parts lie; none in what is no IP.
///
/// # Errors
///
/// It contradicts itself, or its version is another than the EtherType says.
#[inline]
pub(crate) fn packet(frame: &[u8], layers: Layers) -> Result<Option<(Layout, &[u8])>, DropReason> {
    let version = match layers.ethertype {
        ethertype::IPV4 => Version::Four,
        ethertype::IPV6 => Version::Six,
        _ => return Ok(None),
    };
    let bytes = &frame[layers.at..];
    match Layout::of(bytes) {
        Ok(layout) if layout.version == version => Ok(Some((layout, bytes))),
        Ok(_) | Err(_) => Err(DropReason::Malformed),
    }
}

/// Takes the priority tags off a frame. It belongs to no VLAN with them, as without (802.1Q section
/// 6.9.1), and every stage behind would have to look for them.
#[inline]
pub(crate) fn drop_priority_tags(frame: &mut Frame) {
    let bytes = frame.bytes();
    let mut at = ETHERTYPE;
    while word_at(bytes, at).is_some_and(is_tag)
        && word_at(bytes, at + 2).is_some_and(|tci| tci & 0x0fff == 0)
    {
        at += VLAN_TAG;
    }
    if at > ETHERTYPE {
        frame.remove_tags(at - ETHERTYPE);
    }
}

fn is_tag(kind: u16) -> bool {
    matches!(kind, ethertype::VLAN | ethertype::SERVICE_VLAN)
}

/// Whether the LLC header of an 802.3 frame wraps what is looked at when it has an EtherType. Its
/// length field may lie: nobody goes by it.
fn is_encapsulated(llc: &[u8]) -> bool {
    const SNAP: u8 = 0xaa;
    const IP: u8 = 0x06;
    const ARP: u8 = 0x98;
    /// RFC 1042, and 802.1H for what a bridge translates.
    const OUIS: [[u8; 3]; 2] = [[0, 0, 0], [0, 0, 0xf8]];
    // The lowest bit of a service access point says group or command.
    let point = |at: usize| llc.get(at).map(|point| point & 0xfe);
    match point(0) {
        Some(IP | ARP) => true,
        Some(SNAP) if point(1) == Some(SNAP) => {
            let inside = word_at(llc, 6);
            llc.get(3..6)
                .is_some_and(|oui| OUIS.iter().any(|it| it == oui))
                && inside.is_some_and(|kind| {
                    is_tag(kind)
                        || matches!(
                            kind,
                            ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP | ethertype::RARP
                        )
                })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
