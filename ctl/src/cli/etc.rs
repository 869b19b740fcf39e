//! What a container finds in /etc of itself and of whom to ask: its host name, resolv.conf, hosts,
//! hostname and nsswitch.conf, in a directory of its own over the host's. The host's files stay as
//! they are, and nothing but an empty /run/nscd is left anywhere when the container ends.

use std::fmt::Write;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use clap::Args;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use super::services;
use crate::api::{Container, HostEntry, Mode, NameSettings};
use crate::client::Client;
use crate::dns::{ResolvConf, resolv_conf};

/// The host's, whose search domains are the container's too.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Longest host name that Linux takes, in bytes (HOST_NAME_MAX of gethostname(2)).
const HOSTNAME_MAX: usize = 64;

/// The options of `run` alone: whoever attaches a namespace writes such files himself.
#[derive(Args)]
pub(super) struct NameArgs {
    /// Host name of the container [default: its name]
    #[arg(long, value_name = "NAME", value_parser = hostname)]
    hostname: Option<String>,
    /// DNS search domain; may be repeated, and `.` means none [default: the host's]
    #[arg(long, value_name = "DOMAIN", value_parser = domain)]
    dns_search: Vec<String>,
    /// Line of the container's /etc/hosts; the address `host-gateway` stands for the host
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
            let text = fs::read(RESOLV_CONF).unwrap_or_default();
            let host = ResolvConf::parse(&String::from_utf8_lossy(&text));
            let search = settings.search.clone().unwrap_or(host.search);
            resolv_conf::write(&container.resolvers, &search, &host.options)
        });
        Etc {
            hosts: hosts(container, &hostname),
            hostname,
            resolv_conf,
        }
    }

    /// Gives the calling process an /etc of its own, in its own mount namespace, and hides from it
    /// where the host's programs answer questions for names.
    ///
    /// The directory is the container's, and what the host has in its own is in there: directories
    /// are mounted, so that what is written below them is the host's, and files are links to the
    /// host's, so that they are followed when the host replaces them. Mounts over single files
    /// would go when the host replaces the file (rename(2) unmounts what is mounted over its target
    /// in other namespaces), and there must be a file to cover.
    ///
    /// # Errors
    /// A mount is not permitted, or the kernel has no tmpfs.
    pub(super) fn cover(&self) -> io::Result<()> {
        let place = Path::new(PLACE);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let options = Some("mode=755,size=16m");
        mount(Some("pontoon"), place, Some("tmpfs"), flags, options)?;
        let covered = self.furnish(place).and_then(|()| {
            let moved = mount(Some(place), ETC, NOTHING, MsFlags::MS_MOVE, NOTHING);
            Ok(moved?)
        });
        if covered.is_err() {
            umount2(place, MntFlags::MNT_DETACH)?;
        }
        covered
    }

    /// Makes the directory at `place`.
    fn furnish(&self, place: &Path) -> io::Result<()> {
        let resolv_conf = self.resolv_conf.as_ref();
        let hostname = format!("{}\n", self.hostname);
        let own = [
            ("hostname", Some(&hostname)),
            ("hosts", Some(&self.hosts)),
            ("nsswitch.conf", Some(&nsswitch())),
            ("resolv.conf", resolv_conf),
        ];
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        fs::create_dir(place.join(HOST))?;
        mount(Some(ETC), &place.join(HOST), NOTHING, bind, NOTHING)?;
        for (name, text) in own {
            if let Some(text) = text {
                let file = place.join(name);
                fs::write(&file, text)?;
                fs::set_permissions(&file, Permissions::from_mode(0o644))?;
            }
        }
        for entry in fs::read_dir(ETC)?.flatten() {
            // One that can't be had is no reason to be without the others.
            let _ = take_over(place, &entry);
        }
        fs::create_dir(place.join(EMPTY))?;
        services::expect();
        services::cover(&place.join(EMPTY))?;
        Ok(())
    }
}

const NOTHING: Option<&str> = None;

const ETC: &str = "/etc";

/// A directory to make the new /etc in, until it is moved.
const PLACE: &str = "/sys";

/// The host's own, inside the container's.
const HOST: &str = ".host";

/// A directory with nothing in it.
const EMPTY: &str = ".empty";

/// It, where the container has it.
pub(super) const EMPTY_PATH: &str = "/etc/.empty";

/// Puts what the host has in /etc into the one at `place`, unless that has its own.
fn take_over(place: &Path, entry: &fs::DirEntry) -> io::Result<()> {
    let (name, host) = (entry.file_name(), place.join(HOST).join(entry.file_name()));
    let there = place.join(&name);
    if there.symlink_metadata().is_ok() {
        return Ok(());
    }
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        return symlink(fs::read_link(entry.path())?, there);
    }
    if kind.is_dir() {
        fs::create_dir(&there)?;
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        if mount(Some(&host), &there, NOTHING, bind, NOTHING).is_ok() {
            return Ok(());
        }
        fs::remove_dir(&there)?;
    }
    symlink(Path::new(HOST).join(name), there)
}

/// The host's nsswitch.conf(5), in which hosts are looked for in /etc/hosts and by DNS alone: its
/// other modules ask programs of the host.
fn nsswitch() -> String {
    let paths = ["/etc/nsswitch.conf", "/usr/etc/nsswitch.conf"];
    let text = paths.iter().find_map(|path| fs::read(path).ok());
    let text = text.unwrap_or_default();
    own_hosts(&String::from_utf8_lossy(&text))
}

fn own_hosts(text: &str) -> String {
    let database = |line: &str| {
        line.split('#')
            .next()?
            .split_once(':')
            .map(|it| it.0.trim().to_owned())
    };
    let mut own = String::new();
    for line in text
        .lines()
        .filter(|line| database(line).as_deref() != Some("hosts"))
    {
        own.push_str(line);
        own.push('\n');
    }
    own.push_str("hosts: files dns\n");
    own
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
        let host = fs::metadata(ETC).ok()?;
        let open = |name: &str, text: &str| {
            let same = fs::metadata(Path::new(ETC).join(name));
            let devices = [host.dev(), same.map_or(host.dev(), |it| it.dev())];
            let mut file = File::options()
                .read(true)
                .write(true)
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(format!("/proc/{pid}/root/etc/{name}"))
                .ok()?;
            let mut found = String::new();
            file.read_to_string(&mut found).ok()?;
            let covers = !devices.contains(&file.metadata().ok()?.dev()) && found == text;
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
    fn hosts_are_looked_for_in_files_and_dns_alone() {
        let text = "passwd: files sss\n hosts : files resolve [!UNAVAIL=return] dns # x\n#hosts: a\n\
                    networks:\tfiles";
        let own = "passwd: files sss\n#hosts: a\nnetworks:\tfiles\nhosts: files dns\n";
        assert_eq!(own_hosts(text), own);
        assert_eq!(own_hosts(""), "hosts: files dns\n");
    }

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
