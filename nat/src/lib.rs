//! The NAT engine of pontoon: layers 3 and 4, and nothing else.
//!
//! It has no sockets, no threads and no clock. The caller hands it a packet, says where the packet
//! comes from and where it is going, and what time it is; the engine finds or opens the packet's
//! connection, rewrites the packet in place, and says what it did, or refuses by name.
//!
//! ```text
//!   bytes ──► Packet ──► Nat::translate ──────────────────────────────► rewritten bytes
//!             layout.rs    │ nat.rs, nat/translate.rs                   rewrite.rs, checksum.rs
//!             packet.rs    │
//!             tuple.rs     ├─ a fragment?   nat/fragments.rs, fragment.rs: its datagram
//!                          ├─ known flow?   conntrack.rs, conntrack/tcp.rs
//!                          ├─ new flow?     rule.rs, sources.rs: masquerade, publish, hairpin
//!                          │                nat/admission.rs: its place, or whose
//!                          │                ports.rs: the external port
//!                          │                limits.rs: how many, for how long
//!                          ├─ ICMP error?   icmp.rs: the packet it quotes
//!                          └─ neither       refused.rs: why not
//! ```
//!
//! What it does, in the words of RFC 4787: endpoint-independent mapping, address-and-port-dependent
//! filtering. Every timeout is at or above the floor of its RFC, and cites it.
//!
//! ```
//! use nat::{Checksum, Limits, Masquerade, Nat, Packet, Path, Protocol, Rules, Time};
//!
//! let nat = Nat::new(Limits::default(), 0x5eed);
//! nat.add_external_ports(Protocol::UDP, 61000..=61999);
//! let source = "10.0.0.0/24".parse().unwrap();
//! let masquerade = vec![Masquerade { source, to: None }];
//! nat.set_rules(Time::ZERO, Rules { masquerade, ..Rules::default() });
//!
//! // 10.0.0.2:4242 sends four bytes to 192.0.2.9:53, without a UDP checksum.
//! let mut bytes = [
//!     0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0xb0, 0xb6, 10, 0, 0, 2, 192, 0, 2, 9, // IPv4
//!     0x10, 0x92, 0, 53, 0, 12, 0, 0, b'p', b'i', b'n', b'g', // UDP
//! ];
//! let mut packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
//! let path = Path::Outbound { external: "198.51.100.1".parse().unwrap() };
//! let translated = nat.translate(Time::ZERO, path, &mut packet).unwrap();
//!
//! assert!(translated.new);
//! assert_eq!(translated.connection.to_string(), "10.0.0.2:4242 > 192.0.2.9:53/udp");
//! let outside = packet.tuple().unwrap();
//! assert_eq!(outside.src.to_string(), "198.51.100.1");
//! assert!((61000..=61999).contains(&outside.src_port));
//! ```

#![forbid(unsafe_code)]

mod checksum;
mod conntrack;
mod fragment;
mod icmp;
pub mod layout;
mod limits;
mod mss;
mod nat;
mod packet;
mod ports;
mod refused;
mod rewrite;
mod rule;
mod sources;
#[cfg(test)]
mod testing;
mod time;
mod tuple;

pub use checksum::Checksum;
pub use conntrack::{ConnectionInfo, Direction, Kind, RECORD, Record, Traffic};
pub use layout::{Layout, Malformed};
pub use limits::{Limits, Timeouts};
pub use nat::{Answered, Nat, Origin, Path, Restored, Stats, StoredAt, Translated, external_ports};
pub use packet::Packet;
pub use refused::Refused;
pub use rule::{InvalidPublish, Masquerade, Publish, Rules};
pub use sources::Sources;
pub use time::Time;
pub use tuple::{Protocol, Tuple, UnknownProtocol};
