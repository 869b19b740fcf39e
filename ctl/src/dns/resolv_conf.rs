//! resolv.conf(5): the host's, which is read and followed, and the containers', which are written.

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How old may be what is known of the file.
const FRESH: Duration = Duration::from_secs(1);
/// Most servers that are asked; glibc's limit is 3.
const SERVERS_MAX: usize = 8;
/// Port that DNS servers listen on.
const DNS_PORT: u16 = 53;

/// What such a file says, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Nothing in such a file is an error: what is not understood is passed over, as libc does.
    pub(crate) fn parse(text: &str) -> ResolvConf {
        let mut found = ResolvConf::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().map(str::parse::<IpAddr>);
                    // A link-local one (fe80::1%eth0) does not parse and is passed over.
                    found.servers.extend(address.and_then(Result::ok));
                }
                // The last one counts, of either keyword.
                Some("search" | "domain") => {
                    found.search = words.map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        found.servers.truncate(SERVERS_MAX);
        found
    }

    /// The file of a container: its one server, which knows all other ones, and no dots needed for
    /// a name to be tried as it is, because containers' names have none.
    pub(crate) fn write(&self) -> String {
        let mut text = "# Written by pontoon for this container alone.\n".to_owned();
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        text.push_str("options ndots:0\n");
        text
    }
}

/// The servers that are asked for names that are nobody's here.
pub(crate) enum Upstreams {
    /// Always these.
    Fixed(Arc<[SocketAddr]>),
    /// Those of a file, as it changes.
    Followed(PathBuf, Mutex<Option<Seen>>),
}

/// A file, as it was when it was read.
pub(crate) struct Seen {
    checked: Instant,
    /// Inode, time of change in nanoseconds, size: another file, or the same with other content.
    stamp: Option<(u64, i64, i64, u64)>,
    servers: Arc<[SocketAddr]>,
}

impl Upstreams {
    pub(crate) fn fixed(servers: &[IpAddr]) -> Upstreams {
        Upstreams::Fixed(sockets(servers))
    }

    pub(crate) fn of_file(path: PathBuf) -> Upstreams {
        Upstreams::Followed(path, Mutex::new(None))
    }

    /// Has the file read again by the next question.
    pub(super) fn forget(&self) {
        if let Upstreams::Followed(_, seen) = self {
            *seen.lock() = None;
        }
    }

    /// The servers at this moment. Looks at the file at most once a second, without waiting for
    /// anything but a file system's cache; none while there is no file.
    pub(super) fn servers(&self, now: Instant) -> Arc<[SocketAddr]> {
        let (path, seen) = match self {
            Upstreams::Fixed(servers) => return Arc::clone(servers),
            Upstreams::Followed(path, seen) => (path, seen),
        };
        let mut seen = seen.lock();
        if let Some(seen) = &mut *seen {
            if now.saturating_duration_since(seen.checked) < FRESH {
                return Arc::clone(&seen.servers);
            }
            seen.checked = now;
            if seen.stamp.is_some() && seen.stamp == stamp(path) {
                return Arc::clone(&seen.servers);
            }
        }
        let stamp = stamp(path);
        let text = fs::read(path).unwrap_or_default();
        let servers = sockets(&ResolvConf::parse(&String::from_utf8_lossy(&text)).servers);
        if seen.as_ref().is_none_or(|seen| seen.servers != servers) {
            tracing::info!(
                "names of others are asked of {servers:?} ({})",
                path.display()
            );
        }
        *seen = Some(Seen {
            checked: now,
            stamp,
            servers: Arc::clone(&servers),
        });
        servers
    }
}

fn sockets(servers: &[IpAddr]) -> Arc<[SocketAddr]> {
    let servers = servers.iter().map(|ip| SocketAddr::new(*ip, DNS_PORT));
    servers.collect()
}

fn stamp(path: &Path) -> Option<(u64, i64, i64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    Some((metadata.ino(), seconds, nanoseconds, metadata.len()))
}
