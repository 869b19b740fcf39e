//! Ports on a real kernel: TAPs, veth pairs and sockets in namespaces that each test makes for
//! itself and removes. They need root and iproute2, and say so when they lack them.

#[macro_use]
mod harness;

mod ipv6;
mod packet;
mod presence;
mod reserve;
mod super_frames;
mod tap;
