//! Connections outlive the daemon: a file in the run directory has a record of each, which the next
//! daemon restores, however this one ends.
//!
//! ```text
//!   connections    header (128 bytes)  version, size of a record, boot, network namespace, checksum
//!                  records             each at a place of its own, overwritten as its slot changes
//! ```
//!
//! The run directory is on a tmpfs, so a write is a copy in memory and needs no fsync: what dies
//! with the machine is of no use after it. Twice a second, and never on the way of a packet, a
//! thread asks the engine for what has been established or has ended ([`nat::Nat::store`]) and
//! writes it in place; within 16 seconds each record is refreshed, for its timeout. At SIGTERM
//! everything is written while the workers still forward. So of a daemon that is killed the
//! connections of its last half second are lost, and of one that is stopped none.
//!
//! The file is a hint and may be removed at any time. One of another version, boot or namespace,
//! one that another user could have written, and each record that was not written whole, is passed
//! over, with one line in the log. A new daemon writes its own file beside it and renames it over
//! the old one, so a death in between costs nothing.
//!
//! Relayed connections (loopback to a published port) have two ends in the daemon itself and end
//! with it. To hand them over, both sockets of each, with what is in the pipe between them, would
//! have to pass through a third process that outlives a kill; a client on the host itself connects
//! again at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender};
use hashbrown::HashMap;
use nat::{RECORD, Record, StoredAt};
use nix::fcntl::OFlag;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use switch::Switch;

use super::container::Container;
use super::life;

/// The file in the run directory.
const NAME: &str = "connections";

/// How often what has changed is written.
const INTERVAL: Duration = Duration::from_millis(500);

/// Calls until each connection has been looked at.
const ROUND: usize = 32;

const MAGIC: [u8; 8] = *b"PTNCONNS";

/// Raised when a record or the header changes.
const VERSION: u32 = 1;

/// More than this is no file of ours: a record for each of eight million connections.
const LARGEST: u64 = 1 << 30;

/// Who has which inside address: a number of the container, by address.
pub(super) type Owners = HashMap<IpAddr, u64>;

/// Shared by the daemon, which knows who has which address, and the thread that writes.
#[derive(Clone, Default)]
pub(super) struct OwnerBook(Arc<Mutex<Arc<Owners>>>);

impl OwnerBook {
    pub(super) fn follow(&self, containers: &[Container]) {
        let owners = containers.iter().flat_map(|container| {
            let owner = number(&container.record.id);
            let endpoints = container.record.endpoints.iter();
            let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
            addresses.map(move |net| (net.addr(), owner))
        });
        *self.0.lock() = Arc::new(owners.collect());
    }

    pub(super) fn read(&self) -> Arc<Owners> {
        Arc::clone(&self.0.lock())
    }
}

/// A number for a container's id, which is random itself (FNV-1a).
fn number(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What the machine's clock showed when the switch's showed zero. It counts on from process to
/// process until the machine is started anew.
pub(super) fn epoch(switch: &Switch) -> u64 {
    let clock = clock_gettime(ClockId::Monotonic);
    let nanos = clock.tv_sec as u64 * 1_000_000_000 + clock.tv_nsec as u64;
    nanos.saturating_sub(switch.now().as_nanos())
}

/// The first 128 bytes of the file, by which it is known as one of this boot and namespace.
fn header(netns: u64) -> io::Result<Record> {
    let mut header = [0; RECORD];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(RECORD as u32).to_le_bytes());
    header[16..24].copy_from_slice(&netns.to_le_bytes());
    let boot = life::boot_id()?.as_bytes();
    let length = boot.len().min(64);
    header[24..24 + length].copy_from_slice(&boot[..length]);
    Ok(header)
}

/// What an earlier daemon has written, in no order; empty places too. None if there is nothing of
/// use.
pub(super) fn load(run_dir: &Path, netns: u64) -> Option<Vec<Record>> {
    let path = run_dir.join(NAME);
    match read(&path, netns) {
        Ok(records) => Some(records),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let path = path.display();
            tracing::warn!("connections of before are not restored: {path}: {error}");
            None
        }
    }
}

fn read(path: &Path, netns: u64) -> io::Result<Vec<Record>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let metadata = file.metadata()?;
    let own = metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o022 == 0;
    if !metadata.is_file() || !own || metadata.len() > LARGEST {
        return Err(io::Error::other("it is no file that a daemon wrote"));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    (&mut file).take(LARGEST).read_to_end(&mut bytes)?;
    let (records, _) = bytes.as_chunks::<RECORD>();
    match records.split_first() {
        Some((first, records)) if *first == header(netns)? => Ok(records.to_vec()),
        _ => Err(io::Error::other(
            "it is of another version, boot or network namespace",
        )),
    }
}

/// The file, and what it is written from.
struct Writer {
    file: File,
    switch: Arc<Switch>,
    owners: OwnerBook,
    epoch: u64,
    changes: Vec<StoredAt>,
    failed: bool,
}

impl Writer {
    /// A file with all connections there are, in place of the one that is there.
    fn create(
        run_dir: &Path,
        netns: u64,
        switch: Arc<Switch>,
        owners: OwnerBook,
    ) -> io::Result<Writer> {
        let (path, new) = (run_dir.join(NAME), run_dir.join("connections.new"));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all_at(&header(netns)?, 0)?;
        let mut writer = Writer {
            epoch: epoch(&switch),
            file,
            switch,
            owners,
            changes: Vec::new(),
            failed: false,
        };
        writer.write(1)?;
        fs::rename(&new, &path)?;
        Ok(writer)
    }

    /// Writes what has changed, and a `part`th of all the rest.
    fn write(&mut self, part: usize) -> io::Result<()> {
        let owners = self.owners.read();
        let owner = |address: IpAddr| owners.get(&address).copied();
        let nat = self.switch.nat();
        nat.store(
            self.switch.now(),
            self.epoch,
            part,
            owner,
            &mut self.changes,
        );
        self.changes.sort_by_key(|change| change.place);
        let mut changes = std::mem::take(&mut self.changes);
        let mut outcome = Ok(());
        // What lies side by side is written at once.
        for run in changes.chunk_by(|one, next| next.place == one.place + 1) {
            let bytes: Vec<u8> = run.iter().flat_map(|change| change.record).collect();
            let at = (run[0].place + 1) * RECORD as u64;
            outcome = outcome.and(self.file.write_all_at(&bytes, at));
        }
        changes.clear();
        // A burst's worth of memory is not kept.
        changes.shrink_to(1024);
        self.changes = changes;
        outcome
    }

    fn write_or_tell(&mut self, part: usize) {
        match self.write(part) {
            Ok(()) => self.failed = false,
            // Told once.
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!("connections may not outlive a restart: {error}");
            }
            Err(_) => {}
        }
    }
}

/// Keeps the file up to date until it is closed.
pub(super) struct Journal {
    /// Dropped to end the thread.
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<Writer>>,
}

impl Journal {
    /// # Errors
    /// No file can be made in the run directory, or no thread.
    pub(super) fn start(
        run_dir: &Path,
        netns: u64,
        switch: Arc<Switch>,
        owners: OwnerBook,
    ) -> io::Result<Journal> {
        fs::create_dir_all(run_dir)?;
        let mut writer = Writer::create(run_dir, netns, switch, owners)?;
        let (alive, sleep) = crossbeam_channel::bounded::<()>(0);
        let thread = thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                while sleep.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    writer.write_or_tell(ROUND);
                }
                writer
            })?;
        Ok(Journal {
            alive: Some(alive),
            thread: Some(thread),
        })
    }

    /// Writes everything a last time.
    pub(super) fn close(&mut self) {
        self.alive = None;
        let thread = self.thread.take();
        if let Some(mut writer) = thread.and_then(|thread| thread.join().ok()) {
            writer.write_or_tell(1);
        }
    }
}

#[cfg(test)]
mod tests;
