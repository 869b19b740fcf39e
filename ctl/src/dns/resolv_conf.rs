//! resolv.conf(5): the host's, which is read and followed, and the containers', which are written.

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use parking_lot::Mutex;

use super::cache::Manner;
use crate::api::NameServer;

/// How old may be what is known of the file.
const FRESH: Duration = Duration::from_secs(1);
/// Most servers that are asked; glibc's limit is 3.
const SERVERS_MAX: usize = 8;
/// libc's limits of the time it waits for an answer, in seconds, and of attempts.
const TIMEOUT_MAX: u32 = 30;
const ATTEMPTS_MAX: u32 = 5;
/// Port that DNS servers listen on.
const DNS_PORT: u16 = 53;

/// A server as such a file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub address: IpAddr,
    /// The interface of a link-local address, by name or number (RFC 4007 clause 11).
    pub zone: Option<String>,
    pub port: u16,
}

impl Server {
    fn parse(text: &str) -> Option<Server> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone.to_owned())),
            None => (text, None),
        };
        let address = address.parse().ok()?;
        let port = DNS_PORT;
        Some(Server {
            address,
            zone,
            port,
        })
    }

    /// None while there is no such interface.
    pub(super) fn socket(&self) -> Option<SocketAddr> {
        match (self.address, &self.zone) {
            (IpAddr::V6(address), Some(zone)) => {
                let number = zone.parse().ok();
                let scope = number.or_else(|| if_nametoindex(zone.as_str()).ok())?;
                Some(SocketAddrV6::new(address, self.port, 0, scope).into())
            }
            (address, _) => Some(SocketAddr::new(address, self.port)),
        }
    }
}

impl From<&NameServer> for Server {
    fn from(server: &NameServer) -> Server {
        Server {
            address: server.address,
            zone: server.zone.clone(),
            port: DNS_PORT,
        }
    }
}

/// What such a file says, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    pub servers: Vec<Server>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Nothing in such a file is an error: what is not understood is passed over, as libc does.
    pub(crate) fn parse(text: &str) -> ResolvConf {
        let mut found = ResolvConf::default();
        for line in text.lines() {
            let words = line.split_ascii_whitespace();
            let mut words = words.take_while(|word| !word.starts_with(['#', ';']));
            match words.next() {
                Some("nameserver") => {
                    found.servers.extend(words.next().and_then(Server::parse));
                }
                // The last one counts, of either keyword.
                Some("search" | "domain") => {
                    found.search = words.map(str::to_owned).collect();
                }
                Some("options") => {
                    let plain = |word: &&str| {
                        let fits = |c: char| c.is_ascii_alphanumeric() || "-_:.".contains(c);
                        word.chars().all(fits)
                    };
                    found.options.extend(words.filter(plain).map(str::to_owned));
                }
                _ => {}
            }
        }
        found.servers.truncate(SERVERS_MAX);
        found
    }
}

/// The file of a container: its own servers, which know all other ones, and the host's options. No
/// dots are needed for a name to be tried as it is, because containers' names have none, unless the
/// host's file says how many are. musl leaves it at that one try; so the server looks in the search
/// domains itself.
pub(crate) fn write(servers: &[IpAddr], search: &[String], options: &[String]) -> String {
    let mut text = "# Written by pontoon for this container alone.\n".to_owned();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    let dots = options.iter().any(|option| option.starts_with("ndots:"));
    let own = (!dots).then_some("ndots:0");
    let options = own.into_iter().chain(options.iter().map(String::as_str));
    let _ = writeln!(text, "options {}", options.collect::<Vec<_>>().join(" "));
    text
}

/// Whom to ask for names that are nobody's here, and how, as the host does.
pub(crate) struct Upstreams {
    /// Asked instead of the file's servers.
    fixed: Option<Vec<Server>>,
    /// Followed as it changes.
    path: PathBuf,
    seen: Mutex<Option<Seen>>,
}

/// A file, as it was when it was read.
struct Seen {
    checked: Instant,
    /// Inode, time of change in nanoseconds, size: another file, or the same with other content.
    stamp: Option<(u64, i64, i64, u64)>,
    conf: ResolvConf,
    now: Upstream,
}

/// What is known of the host's servers at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) servers: Arc<[SocketAddr]>,
    /// Where names of one label are looked for.
    pub(super) search: Arc<[String]>,
    pub(super) manner: Manner,
    /// Another number when the file has changed: what was answered before counts no more.
    pub(super) version: u64,
}

impl Upstreams {
    /// Always these servers; the file says the rest.
    pub(crate) fn fixed(servers: &[NameServer], path: PathBuf) -> Upstreams {
        let servers = servers.iter().map(Server::from);
        Upstreams::new(Some(servers.collect()), path)
    }

    pub(crate) fn of_file(path: PathBuf) -> Upstreams {
        Upstreams::new(None, path)
    }

    #[cfg(test)]
    pub(super) fn of_sockets(sockets: impl IntoIterator<Item = SocketAddr>) -> Upstreams {
        Upstreams::of_sockets_and_file(sockets, PathBuf::new())
    }

    #[cfg(test)]
    pub(super) fn of_sockets_and_file(
        sockets: impl IntoIterator<Item = SocketAddr>,
        path: PathBuf,
    ) -> Upstreams {
        let servers = sockets.into_iter().map(|socket| Server {
            address: socket.ip(),
            zone: None,
            port: socket.port(),
        });
        Upstreams::new(Some(servers.collect()), path)
    }

    fn new(fixed: Option<Vec<Server>>, path: PathBuf) -> Upstreams {
        Upstreams {
            fixed,
            path,
            seen: Mutex::new(None),
        }
    }

    /// Has the file read again by the next question.
    pub(super) fn forget(&self) {
        if let Some(seen) = &mut *self.seen.lock() {
            seen.stamp = None;
            seen.checked = seen.checked.checked_sub(FRESH).unwrap_or(seen.checked);
        }
    }

    /// The servers at this moment. Looks at the file at most once a second, without waiting for
    /// anything but a file system's cache; the local machine's while there is no file.
    pub(super) fn now(&self, now: Instant) -> Upstream {
        let mut seen = self.seen.lock();
        if let Some(seen) = &mut *seen {
            if now.saturating_duration_since(seen.checked) < FRESH {
                return seen.now.clone();
            }
            seen.checked = now;
            if seen.stamp.is_some() && seen.stamp == stamp(&self.path) {
                // The interface of a zone may have come, or come back with another number.
                seen.now = self.describe(&seen.conf, seen.now.version);
                return seen.now.clone();
            }
        }
        let stamp = stamp(&self.path);
        let text = fs::read(&self.path).unwrap_or_default();
        let conf = ResolvConf::parse(&String::from_utf8_lossy(&text));
        let version = match &*seen {
            Some(seen) if seen.conf == conf && seen.stamp == stamp => seen.now.version,
            Some(seen) => seen.now.version + 1,
            None => 0,
        };
        let found = self.describe(&conf, version);
        let before = seen.as_ref().map(|seen| &seen.now.servers);
        if before != Some(&found.servers) {
            tracing::info!(
                "names of others are asked of {:?} ({})",
                found.servers,
                self.path.display()
            );
        }
        *seen = Some(Seen {
            checked: now,
            stamp,
            conf,
            now: found.clone(),
        });
        found
    }

    fn describe(&self, conf: &ResolvConf, version: u64) -> Upstream {
        let named = self.fixed.as_ref().unwrap_or(&conf.servers);
        let mut servers: Vec<SocketAddr> = named.iter().filter_map(Server::socket).collect();
        if self.fixed.is_none() && conf.servers.is_empty() {
            // resolv.conf(5): without any, the one on the local machine is asked.
            servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT));
        }
        Upstream {
            servers: servers.into(),
            search: conf.search.clone().into(),
            manner: manner(&conf.options),
            version,
        }
    }
}

/// What the file's options say of how servers are asked; the last one of a kind counts, and what is
/// no number counts as 0, as in libc.
fn manner(options: &[String]) -> Manner {
    let has = |name: &str| options.iter().any(|option| option == name);
    let number = |name: &str, most: u32| {
        let mut texts = options
            .iter()
            .filter_map(|option| option.strip_prefix(name));
        let digits =
            |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        texts.next_back().map(|text| {
            let text = &text[..digits(text)];
            // More than fits is more than `most`.
            let number = if text.is_empty() {
                0
            } else {
                text.parse().unwrap_or(most)
            };
            number.clamp(1, most)
        })
    };
    Manner {
        by_stream: has("use-vc"),
        rotate: has("rotate"),
        timeout: number("timeout:", TIMEOUT_MAX).unwrap_or(Manner::default().timeout),
        attempts: number("attempts:", ATTEMPTS_MAX),
    }
}

fn stamp(path: &Path) -> Option<(u64, i64, i64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    Some((metadata.ino(), seconds, nanoseconds, metadata.len()))
}
