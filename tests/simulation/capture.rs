//! What passed the ports of a simulation, as pcapng that tcpdump and Wireshark read.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use switch::PortId;

use super::Seen;

/// Writes frames in the order given, each on the interface of its port, named by `name`; what the
/// switch sent is outbound, what it received inbound.
///
/// # Errors
///
/// `to` can't be written.
pub fn write_pcapng(
    to: impl Write,
    seen: &[Seen],
    name: impl Fn(PortId) -> String,
) -> io::Result<()> {
    write(to, seen, name).map_err(|error| match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    })
}

fn write(to: impl Write, seen: &[Seen], name: impl Fn(PortId) -> String) -> Result<(), PcapError> {
    /// Timestamps in nanoseconds: the resolution is ten to the minus ninth.
    const NANOSECONDS: u8 = 9;
    /// The lowest two bits of the flags of a packet say where it went.
    const INBOUND: u32 = 1;
    const OUTBOUND: u32 = 2;

    let mut writer = PcapNgWriter::new(to)?;
    let mut interfaces: HashMap<PortId, u32> = HashMap::new();
    for frame in seen {
        let next = interfaces.len() as u32;
        let interface_id = match interfaces.get(&frame.port) {
            Some(&known) => known,
            None => {
                writer.write_pcapng_block(InterfaceDescriptionBlock {
                    linktype: DataLink::ETHERNET,
                    snaplen: 0,
                    options: vec![
                        InterfaceDescriptionOption::IfName(Cow::Owned(name(frame.port))),
                        InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                    ],
                })?;
                interfaces.insert(frame.port, next);
                next
            }
        };
        let direction = if frame.sent { OUTBOUND } else { INBOUND };
        writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id,
            timestamp: frame.at,
            original_len: frame.bytes.len() as u32,
            data: Cow::Borrowed(&frame.bytes),
            options: vec![EnhancedPacketOption::Flags(direction)],
        })?;
    }
    Ok(())
}
