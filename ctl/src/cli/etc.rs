//! What a container finds in /etc of itself and of whom to ask: its host name, resolv.conf, hosts
//! and hostname. They cover the host's files in the container's own mounts; the host's files stay
//! as they are, and nothing is left anywhere when the container ends.

use std::fmt::Write;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use clap::Args;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use crate::api::{Container, HostEntry, Mode, NameSettings};
use crate::client::Client;
use crate::dns::ResolvConf;

/// The host's, whose search domains are the container's too.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Longest host name that Linux takes, in bytes (HOST_NAME_MAX of gethostname(2)).
const HOSTNAME_MAX: usize = 64;

/// The options of `run` alone: whoever attaches a namespace writes such files himself.
#[derive(Args)]
pub(super) struct NameArgs {
    /// The container's host name [default: its name]
    #[arg(long, value_name = "NAME", value_parser = hostname)]
    hostname: Option<String>,
    /// A domain to try short names in; may be repeated, and `.` means none [default: the host's]
    #[arg(long, value_name = "DOMAIN", value_parser = domain)]
    dns_search: Vec<String>,
    /// A line of the container's /etc/hosts; the address `host-gateway` is where the host is
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = host_entry)]
    add_host: Vec<HostEntry>,
}

impl NameArgs {
    pub(super) fn complete(self, settings: &mut NameSettings) {
        settings.hostname = self.hostname;
        settings.hosts = self.add_host;
        if !self.dns_search.is_empty() {
            let domains = self.dns_search.into_iter().filter(|domain| domain != ".");
            settings.search = Some(domains.collect());
        }
    }
}

fn hostname(text: &str) -> Result<String, String> {
    if text.len() > HOSTNAME_MAX {
        return Err(format!("it is longer than {HOSTNAME_MAX} bytes"));
    }
    domain(text)
}

/// Every name here becomes a word of a file that libc reads.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if text.is_empty() || !text.chars().all(fits) {
        return Err("it may hold only letters, digits, '_', '.' and '-'".to_owned());
    }
    Ok(text.to_owned())
}

fn host_entry(text: &str) -> Result<HostEntry, String> {
    let (name, address) = text
        .split_once([':', '='])
        .ok_or("it must be NAME:ADDRESS")?;
    let address = match address {
        "host-gateway" => None,
        _ => {
            let bare = address
                .strip_prefix('[')
                .and_then(|it| it.strip_suffix(']'));
            let parsed = bare.unwrap_or(address).parse();
            Some(parsed.map_err(|_| format!("{address:?} is no address"))?)
        }
    };
    let name = domain(name)?;
    Ok(HostEntry { name, address })
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Etc {
    pub(super) hostname: String,
    hosts: String,
    /// The host's stays where names can't be asked anyway.
    resolv_conf: Option<String>,
}

impl Etc {
    /// For the processes of a container: none in the host's own namespace, and the other's where a
    /// namespace is shared, as Docker has it.
    pub(super) fn of(client: &Client, container: &Container) -> Option<Etc> {
        match &container.mode {
            Mode::Host => None,
            Mode::Network(_) | Mode::None => Some(Etc::new(container)),
            Mode::Container(other) => {
                // The other may be gone by now while this one lives on in its namespace.
                let other = client.container(other).unwrap_or_else(|_| Container {
                    name: other.clone(),
                    ..container.clone()
                });
                Some(Etc::new(&other))
            }
        }
    }

    fn new(container: &Container) -> Etc {
        let settings = &container.names;
        let hostname = settings.hostname.clone();
        let hostname = hostname.unwrap_or_else(|| container.name.clone());
        let resolv_conf = (!container.resolvers.is_empty()).then(|| {
            let search = settings.search.clone().unwrap_or_else(|| {
                let text = fs::read(RESOLV_CONF).unwrap_or_default();
                ResolvConf::parse(&String::from_utf8_lossy(&text)).search
            });
            let servers = container.resolvers.clone();
            ResolvConf { servers, search }.write()
        });
        Etc {
            hosts: hosts(container, &hostname),
            hostname,
            resolv_conf,
        }
    }

    /// Covers the files in /etc, in this process's own mount namespace.
    ///
    /// # Errors
    /// A mount is not permitted, or the kernel has no tmpfs. What is covered by then stays so.
    pub(super) fn cover(&self) -> io::Result<()> {
        const NOTHING: Option<&str> = None;
        // Only a place to write to: the files stay mounted where they belong when it is gone, and
        // go with the last process that sees them.
        const PLACE: &str = "/sys";
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("pontoon"),
            PLACE,
            Some("tmpfs"),
            flags,
            Some("mode=755,size=1m"),
        )?;
        let hostname = format!("{}\n", self.hostname);
        let files = [
            ("hostname", Some(&hostname)),
            ("hosts", Some(&self.hosts)),
            ("resolv.conf", self.resolv_conf.as_ref()),
        ];
        let covered = files.into_iter().try_for_each(|(name, text)| {
            let (file, target) = (Path::new(PLACE).join(name), Path::new("/etc").join(name));
            // There must be a file to cover.
            let (Some(text), true) = (text, target.exists()) else {
                return Ok(());
            };
            fs::write(&file, text)?;
            fs::set_permissions(&file, Permissions::from_mode(0o644))?;
            mount(Some(&file), &target, NOTHING, MsFlags::MS_BIND, NOTHING)?;
            io::Result::Ok(())
        });
        umount2(PLACE, MntFlags::MNT_DETACH)?;
        covered
    }
}

/// The files of a running container that say where it is, kept open to be written anew when its
/// networks change.
pub(super) struct Covered {
    hosts: File,
    resolv_conf: Option<File>,
}

impl Covered {
    /// Those of a process that was started with `etc`. None where it could not cover them: what it
    /// sees there is the host's, and nobody's to change.
    pub(super) fn of(pid: u32, etc: &Etc) -> Option<Covered> {
        let open = |name: &str, text: &str| {
            let own = fs::metadata(Path::new("/etc").join(name)).ok()?;
            let mut file = File::options()
                .read(true)
                .write(true)
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(format!("/proc/{pid}/root/etc/{name}"))
                .ok()?;
            let mut found = String::new();
            file.read_to_string(&mut found).ok()?;
            let covers = file.metadata().ok()?.dev() != own.dev() && found == text;
            covers.then_some(file)
        };
        let resolv_conf = etc.resolv_conf.as_ref();
        Some(Covered {
            hosts: open("hosts", &etc.hosts)?,
            resolv_conf: resolv_conf.and_then(|text| open("resolv.conf", text)),
        })
    }

    /// Writes what they say now.
    ///
    /// # Errors
    /// The memory that they are in is full.
    pub(super) fn write(&mut self, etc: &Etc) -> io::Result<()> {
        write_anew(&mut self.hosts, &etc.hosts)?;
        match (&mut self.resolv_conf, &etc.resolv_conf) {
            (Some(file), Some(text)) => write_anew(file, text),
            _ => Ok(()),
        }
    }
}

/// In place, since others have it mounted.
fn write_anew(file: &mut File, text: &str) -> io::Result<()> {
    file.rewind()?;
    io::Write::write_all(file, text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// hosts(5): loopback, the container itself, and what the user adds.
fn hosts(container: &Container, hostname: &str) -> String {
    let mut text = "127.0.0.1\tlocalhost\n".to_owned();
    let addresses = container.endpoints.iter().flat_map(|it| &it.addresses);
    let addresses: Vec<IpAddr> = addresses.map(|network| network.addr()).collect();
    if addresses.iter().any(IpAddr::is_ipv6) {
        text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    // Docker's order: what the user adds comes first in no case, so that it can't hide the rest.
    for address in &addresses {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    if addresses.is_empty() {
        // Without a network it is on its loopback alone.
        let _ = writeln!(text, "127.0.1.1\t{hostname}");
    }
    let gateways = || container.endpoints.iter().flat_map(|it| &it.gateways);
    for entry in &container.names.hosts {
        let name = &entry.name;
        match entry.address {
            Some(address) => {
                let _ = writeln!(text, "{address}\t{name}");
            }
            None => {
                for gateway in gateways() {
                    let _ = writeln!(text, "{gateway}\t{name}");
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_settings() {
        assert_eq!(
            host_entry("db:10.0.0.1"),
            Ok(HostEntry {
                name: "db".to_owned(),
                address: Some("10.0.0.1".parse().unwrap()),
            })
        );
        let v6 = "fd00::1".parse().unwrap();
        for text in ["db:fd00::1", "db:[fd00::1]", "db=fd00::1"] {
            assert_eq!(host_entry(text).unwrap().address, Some(v6), "{text}");
        }
        assert_eq!(host_entry("db:host-gateway").unwrap().address, None);
        for bad in [
            "db",
            "db:",
            "db:x",
            ":10.0.0.1",
            "a b:10.0.0.1",
            "a\n:10.0.0.1",
        ] {
            assert!(host_entry(bad).is_err(), "{bad:?}");
        }
        assert!(hostname("web.example.org").is_ok());
        for bad in ["", "a b", "a\nb", &"a".repeat(65)] {
            assert!(hostname(bad).is_err(), "{bad:?}");
        }
    }
}
