//! pontoon: container networking that floats above the kernel. One binary, both daemon and client.
//!
//! | module | what |
//! |---|---|
//! | `cli` | the command line, one file a subcommand |
//! | `daemon` | networks, containers, published ports, the store, the API's server |
//! | `ipam` | subnets, addresses, MAC addresses |
//! | `relay` | published ports on the host's own addresses |
//! | `host` | what the host's stack says of links, routes and neighbours |
//! | `signals` | which of them a container's command can be sent |
//! | `link`, `netns` | the kernel's interfaces and namespaces |
//!
//! The API's types, grammar and client are the crate `pontoon_api`.
//! Frames are the business of the crate `switch`, packets and connections that of `nat`.

#![forbid(unsafe_code)]

mod cli;
mod daemon;
mod dns;
mod host;
mod ipam;
mod link;
mod netns;
mod relay;
mod signals;

use std::process::ExitCode;

use pontoon_api::{self as api, client, rate, spec};

fn main() -> ExitCode {
    cli::main()
}
