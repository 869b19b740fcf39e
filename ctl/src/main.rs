//! pontoon: container networking that floats above the kernel. One binary, both daemon and client.
//!
//! | module | what |
//! |---|---|
//! | `cli` | the command line, one file a subcommand |
//! | `client` | one request to the daemon over its Unix socket |
//! | `api` | the JSON that both sides speak |
//! | `spec` | what people type for it: `-p 8080:80`, `--net container:web` |
//! | `rate` | and how they write rates, sizes and chances: `100mbit`, `0.1%` |
//! | `daemon` | networks, containers, published ports, the store, the API's server |
//! | `ipam` | subnets, addresses, MAC addresses |
//! | `relay` | published ports on the host's own addresses |
//! | `host` | what the host's stack says of links, routes and neighbours |
//! | `signals` | which of them a container's command can be sent |
//! | `link`, `netns` | the kernel's interfaces and namespaces |
//!
//! Frames are the business of the crate `switch`, packets and connections that of `nat`.

#![forbid(unsafe_code)]

#[path = "../api/src/lib.rs"]
mod api;
mod cli;
mod daemon;
mod dns;
mod host;
mod ipam;
mod link;
mod netns;
mod relay;
mod signals;

#[path = "../api/src"]
mod library {
    pub(crate) mod client;
    pub(crate) mod rate;
    pub(crate) mod spec;
}
use library::{client, rate, spec};

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
