//! Bytes that nobody chose, against everything that reads bytes from outside.
//!
//! | target | what is fed with them | what must hold |
//! |---|---|---|
//! | [`frame`] | a whole data path on ports in memory: frames, vnet headers, time, odd networks | checksums stay as good as they came, lengths too; and of each frame as its kernel would send it: no inside address on the uplink, none of one network in another, nothing out of an internal network or between isolated containers |
//! | [`nat`] | the NAT engine: packets, ICMP errors about them, rules, time | a refused packet is untouched; an answer finds its way back; no connection and no port is left over |
//! | [`fragments`] | the engine again: datagrams in pieces | all of a datagram passes or nothing; no overlap passes; what is held back is untouched |
//! | [`api`] | what people and programs say to the daemon: port mappings, modes, JSON | what was understood is written as it is read |
//!
//! Each target is an ordinary function. `tests/corpus.rs` calls it with every input that was kept
//! in `corpus/TARGET.txt`, on any compiler; `targets/` hands it to libFuzzer. To look for more:
//!
//! ```text
//! cargo install cargo-fuzz && rustup toolchain install nightly
//! tests/fuzz/run frame 1800      # seconds; what is new and what crashed joins the corpus
//! ```

#![forbid(unsafe_code)]

pub mod corpus;

mod fragments;
mod frame;
mod mapping;
mod packet;
mod requests;
mod sums;
mod world;

pub use fragments::fragments;
pub use frame::frame;
pub use mapping::nat;
pub use requests::api;
