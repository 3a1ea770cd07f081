//! What a broker leaves to its successor, in the lock file: the identity of the bus, and the clients
//! for which brokers wait.
//!
//! The roster says for each such client since which epoch brokers wait for it. It is written before
//! the client is told that it may begin, and struck when the broker does not wait for it any more.
//! `model/spec/succession` explores these rules.

use crate::core::limits::Limits;
use crate::core::message::ClientId;
use crate::core::wire::{RawLimits, Roles, Session};
use crate::sys::lock::LockFile;
use crate::sys::peer::{Birth, Peer};
use siphasher::sip::SipHasher24;
use std::collections::HashMap;
use std::hash::Hasher;
use std::io;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The number of client ids that are marked as given at once, so that not each one is a write.
const IDS_AT_ONCE: u32 = 1024;

/// The beginning of the record.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    /// Identity of the bus. Zero if there is no record.
    bus: U64,
    epoch: U32,
    /// No client has this id or a higher one.
    ids: U32,
    /// The key of the clients' tokens.
    secret: [u8; 16],
    page_len: U64,
    max_message_len: U64,
    budget: U64,
    /// The inode of the PID namespace in which the processes' ids are.
    namespace: U64,
}

/// A client for which brokers wait. All zeros if there is none here.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    client: U32,
    since: U32,
    user: U32,
    process: U32,
    /// When the process began. Zero if that is not known.
    began: U64,
    roles: U32,
    /// The epoch of the last broker that has sent it `Start`.
    joined: U32,
}

const HEAD: usize = size_of::<Head>();
const ENTRY: usize = size_of::<Entry>();

/// Clients of the last broker that are in one process.
#[derive(Debug)]
pub(super) struct Expected {
    pub clients: Vec<Known>,
    pub process: Peer,
}

/// A client of the last broker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub id: ClientId,
    /// Whether it could miss a message.
    pub receives: bool,
}

/// The most processes that are followed by a pidfd. If another one dies while the broker waits for
/// its clients, the broker waits for the whole grace period.
const MOST_FOLLOWED: usize = 256;

/// The most entries that are read.
const MOST_ENTRIES: usize = 100_000;

/// The record of a running broker.
#[derive(Debug)]
pub(super) struct Roster {
    head: Head,
    /// The place of each client in the table.
    places: HashMap<u32, usize>,
    free: Vec<usize>,
    entries: Vec<Entry>,
    /// Whether the record can't be written any more, or belongs to another broker.
    is_lost: bool,
}

/// Returns the length of the record for this many clients, in bytes.
pub(super) fn record_len(clients: usize) -> usize {
    HEAD + clients * ENTRY
}

impl Roster {
    /// Reads what the last broker has left, and begins the next epoch. Returns the clients of its
    /// roster, and the limits that it had if there are any.
    pub fn open(
        lock: &LockFile,
        limits: &Limits,
        max_clients: usize,
    ) -> io::Result<(Self, Vec<Expected>, Limits)> {
        let record = lock.read_record()?;
        let (mut head, entries) = match parse(&record) {
            Some(found) => found,
            None => (new_head()?, Vec::new()),
        };
        head.epoch = (head.epoch.get() + 1).into();
        let here = namespace();
        let is_here = head.namespace.get() == here && here != 0;
        // The whole file, so that no old entry stays.
        let capacity = max_clients.max(record.len().saturating_sub(HEAD) / ENTRY);
        let mut roster = Roster {
            head,
            places: HashMap::new(),
            free: Vec::new(),
            entries: vec![Entry::default(); capacity],
            is_lost: false,
        };
        let mut processes: HashMap<(u32, u64), Expected> = HashMap::new();
        // Each entry stays in its place: a death during the write below leaves it there.
        for (at, mut entry) in entries.into_iter().enumerate() {
            let (client, process, began) =
                (entry.client.get(), entry.process.get(), entry.began.get());
            if client == 0 || roster.places.contains_key(&client) {
                continue;
            }
            let is_full = processes.len() >= MOST_FOLLOWED;
            let key = if is_here { (process, began) } else { (0, 0) };
            let expected = processes.entry(key).or_insert_with(|| Expected {
                clients: Vec::new(),
                process: Peer::born_at(key.0 as i32, Birth(key.1)),
            });
            if expected.process.has_died() {
                continue;
            }
            if is_full {
                expected.process.forget();
            }
            if !is_here {
                (entry.process, entry.began) = Default::default();
            }
            let receives = Roles(entry.roles.get()).has(Roles::RECEIVE);
            expected.clients.push(Known { id: ClientId(client), receives });
            roster.places.insert(client, at);
            roster.entries[at] = entry;
        }
        roster.free = (0..capacity).rev().filter(|at| roster.entries[*at].client == 0).collect();
        let last = RawLimits {
            page_len: head.page_len.get(),
            max_message_len: head.max_message_len.get(),
            budget: head.budget.get(),
        };
        let limits = match last.check() {
            // Its clients have chains of these limits.
            Ok(last) if !roster.places.is_empty() => {
                if last != *limits {
                    log::warn!(
                        "clients of the last broker are there, so its limits stay: {last:?}"
                    );
                }
                last
            }
            _ => *limits,
        };
        let raw = RawLimits::from(&limits);
        let head = &mut roster.head;
        (head.page_len, head.max_message_len) = (raw.page_len.into(), raw.max_message_len.into());
        (head.budget, head.namespace) = (raw.budget.into(), here.into());
        roster.write_all(lock);
        let expected = processes.into_values().filter(|expected| !expected.clients.is_empty());
        Ok((roster, expected.collect(), limits))
    }

    /// Returns the first id that no client has had.
    pub fn first_id(&self) -> u32 {
        self.head.ids.get().max(1)
    }

    /// Marks an id as given, before a client has it.
    pub fn give_id(&mut self, lock: &LockFile, client: ClientId) {
        if client.0 >= self.head.ids.get() {
            self.head.ids = client.0.saturating_add(IDS_AT_ONCE).into();
            self.write(lock, 0, self.head.as_bytes().to_vec());
        }
    }

    /// Returns what a client is told that outlives its broker. Its last broker had the epoch `last`,
    /// if there was one.
    pub fn session(&self, client: ClientId, user: u32, last: Option<u32>) -> Session {
        let epoch = self.head.epoch.get();
        let entry = self.places.get(&client.0).map(|at| &self.entries[*at]);
        // A client that was sent `Start` by a later broker than it says has not read it. It may have
        // missed what that broker has published.
        let entry = entry.filter(|entry| last.is_none_or(|last| entry.joined.get() <= last));
        let since = entry.map_or(epoch, |entry| entry.since.get());
        Session { bus: self.head.bus.get(), epoch, since, token: self.token(client, user, epoch) }
    }

    /// Returns whether a client of an earlier broker is the one that it says.
    pub fn knows(&self, client: ClientId, user: u32, epoch: u32, token: u64) -> bool {
        token == self.token(client, user, epoch) && epoch < self.head.epoch.get()
    }

    fn token(&self, client: ClientId, user: u32, epoch: u32) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.head.secret);
        let words = [client.0, user, epoch].map(u32::to_le_bytes);
        hasher.write(words.as_flattened());
        hasher.finish()
    }

    /// Enters a client that joins, and for which brokers wait since the epoch `since`. It was not sent
    /// its `Start` yet.
    pub fn enter(
        &mut self,
        lock: &LockFile,
        client: ClientId,
        since: u32,
        user: u32,
        process: i32,
        roles: u32,
    ) {
        let at = match self.places.get(&client.0) {
            Some(at) => *at,
            None => match self.free.pop() {
                Some(at) => at,
                None => return,
            },
        };
        let joined = self.entries[at].joined;
        let entry = Entry {
            client: client.0.into(),
            since: since.into(),
            user: user.into(),
            process: (process.max(0) as u32).into(),
            began: Birth::of(process).map_or(0, |birth| birth.0).into(),
            roles: roles.into(),
            joined,
        };
        self.places.insert(client.0, at);
        self.entries[at] = entry;
        self.write(lock, HEAD + at * ENTRY, entry.as_bytes().to_vec());
    }

    /// Records that a client was sent its `Start`. Call this before anything is published that it could
    /// miss.
    pub fn has_joined(&mut self, lock: &LockFile, client: ClientId) {
        let Some(at) = self.places.get(&client.0).copied() else { return };
        self.entries[at].joined = self.head.epoch;
        let entry = self.entries[at];
        self.write(lock, HEAD + at * ENTRY, entry.as_bytes().to_vec());
    }

    /// Strikes a client. Brokers do not wait for it any more.
    pub fn strike(&mut self, lock: &LockFile, client: ClientId) {
        let Some(at) = self.places.remove(&client.0) else { return };
        self.entries[at] = Entry::default();
        self.free.push(at);
        self.write(lock, HEAD + at * ENTRY, Entry::default().as_bytes().to_vec());
    }

    /// Writes the whole record, into a new file or over that of the last broker.
    pub fn write_all(&mut self, lock: &LockFile) {
        self.is_lost = false;
        let bytes = [self.head.as_bytes(), self.entries.as_bytes()].concat();
        self.write(lock, 0, bytes);
    }

    /// Writes nothing until [`write_all`](Roster::write_all): another broker may have the file.
    pub fn suspend(&mut self) {
        self.is_lost = true;
    }

    fn write(&mut self, lock: &LockFile, at: usize, bytes: Vec<u8>) {
        if self.is_lost {
            return;
        }
        if let Err(error) = lock.write_record(at, &bytes) {
            // A record that is not true must not be found.
            self.is_lost = true;
            let cleared = lock.clear_record();
            let path = lock.path().display();
            log::error!(
                "{path} can't be written: {error}; no client will outlive this broker ({cleared:?})"
            );
        }
    }
}

/// Returns the record and its entries, if it is one.
fn parse(record: &[u8]) -> Option<(Head, Vec<Entry>)> {
    let (head, rest) = Head::read_from_prefix(record).ok()?;
    // The last epoch is never begun.
    if head.bus.get() == 0 || head.epoch.get() == u32::MAX {
        return None;
    }
    let entries = rest.chunks_exact(ENTRY).take(MOST_ENTRIES);
    let entries = entries.map(|bytes| Entry::read_from_bytes(bytes).unwrap_or_default());
    Some((head, entries.collect()))
}

fn new_head() -> io::Result<Head> {
    let mut random = [0; 24];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let (bus, secret) = random.split_at(8);
    let mut head = Head::read_from_bytes(&[0; HEAD]).map_err(|_| io::ErrorKind::InvalidData)?;
    head.bus = U64::read_from_bytes(bus).unwrap_or_default();
    // Zero means that there is no record.
    head.bus = head.bus.get().max(1).into();
    head.secret.copy_from_slice(secret);
    Ok(head)
}

/// Returns the inode of this process's PID namespace, or zero if it is not known.
fn namespace() -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::lock::LockFile;
    use std::path::PathBuf;

    const USER: u32 = 1000;

    struct Place {
        _dir: tempfile::TempDir,
        path: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("bus");
            Place { _dir: dir, path }
        }

        fn lock(&self, clients: usize) -> LockFile {
            LockFile::take(&self.path, record_len(clients)).unwrap()
        }

        /// Lets a broker of this process die: its lock file stays as it is.
        fn die(&self, lock: LockFile) {
            let file = lock.path().to_owned();
            let content = std::fs::read(&file).unwrap();
            drop(lock);
            std::fs::write(&file, content).unwrap();
        }

        fn open(&self, lock: &LockFile, limits: Limits) -> (Roster, Vec<u32>, Limits) {
            let (roster, expected, limits) = Roster::open(lock, &limits, 4).unwrap();
            (roster, ids(expected), limits)
        }
    }

    fn ids(expected: Vec<Expected>) -> Vec<u32> {
        let clients = expected.into_iter().flat_map(|expected| expected.clients);
        let mut ids: Vec<u32> = clients.map(|client| client.id.0).collect();
        ids.sort_unstable();
        ids
    }

    /// Enters a client as a broker does that it joins.
    fn enter(roster: &mut Roster, lock: &LockFile, id: u32, process: i32) {
        let since = roster.session(ClientId(id), USER, None).since;
        roster.enter(lock, ClientId(id), since, USER, process, 3);
        roster.has_joined(lock, ClientId(id));
    }

    fn limits(pages: usize) -> Limits {
        Limits::new(4096, 64, pages * 4096).unwrap()
    }

    fn me() -> i32 {
        std::process::id() as i32
    }

    #[test]
    fn the_next_broker_knows_the_clients_and_has_the_same_limits() {
        let place = Place::new();
        let lock = place.lock(4);
        let (mut roster, expected, _) = place.open(&lock, limits(4));
        assert_eq!((expected, roster.first_id()), (vec![], 1));
        for id in 1..=3 {
            roster.give_id(&lock, ClientId(id));
            enter(&mut roster, &lock, id, me());
        }
        roster.strike(&lock, ClientId(2));
        let first = roster.session(ClientId(3), USER, None);
        assert_eq!((first.epoch, first.since), (1, 1));
        place.die(lock);
        let lock = place.lock(4);
        let (mut roster, expected, found) = place.open(&lock, limits(8));
        assert_eq!((expected, found), (vec![1, 3], limits(4)));
        assert!(roster.first_id() > 3, "an id is given once");
        let second = roster.session(ClientId(3), USER, None);
        assert_eq!((second.bus, second.epoch, second.since), (first.bus, 2, 1));
        assert!(roster.knows(ClientId(3), USER, 1, first.token));
        // Those that brokers do not wait for are known, too.
        let struck = roster.session(ClientId(2), USER, None);
        assert_eq!(struck.since, 2);
        // One that came back is waited for since the same epoch.
        enter(&mut roster, &lock, 3, me());
        roster.strike(&lock, ClientId(1));
        place.die(lock);
        let lock = place.lock(4);
        let (roster, expected, _) = place.open(&lock, limits(4));
        assert_eq!(expected, [3]);
        assert_eq!(roster.session(ClientId(3), USER, Some(2)).since, 1);
        // It has joined the second broker and does not know it: it may have missed messages.
        assert_eq!(roster.session(ClientId(3), USER, Some(1)).since, 3);
    }

    // P12
    #[test]
    fn a_client_is_known_by_its_token_and_to_a_later_broker_only() {
        let place = Place::new();
        let lock = place.lock(4);
        let (roster, ..) = place.open(&lock, limits(4));
        let token = roster.session(ClientId(1), USER, None).token;
        assert!(!roster.knows(ClientId(1), USER, 1, token), "its broker lives");
        place.die(lock);
        let lock = place.lock(4);
        let (roster, ..) = place.open(&lock, limits(4));
        assert!(roster.knows(ClientId(1), USER, 1, token));
        assert!(!roster.knows(ClientId(1), USER, 0, token), "another epoch");
        assert!(!roster.knows(ClientId(1), USER, 1, token ^ 1));
        assert!(!roster.knows(ClientId(2), USER, 1, token), "another client");
        assert!(!roster.knows(ClientId(1), USER + 1, 1, token), "another user");
        let other = Place::new();
        let lock = other.lock(4);
        drop(other.open(&lock, limits(4)));
        other.die(lock);
        let lock = other.lock(4);
        let (stranger, ..) = other.open(&lock, limits(4));
        assert!(!stranger.knows(ClientId(1), USER, 1, token), "another bus");
    }

    // P7
    #[test]
    fn a_client_whose_process_has_ended_is_not_waited_for() {
        let place = Place::new();
        let lock = place.lock(4);
        let (mut roster, ..) = place.open(&lock, limits(4));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        enter(&mut roster, &lock, 1, child.id() as i32);
        // The process is unknown, for example in another PID namespace.
        enter(&mut roster, &lock, 2, 0);
        // The id belongs to another process now.
        enter(&mut roster, &lock, 3, me());
        let at = roster.places[&3];
        roster.entries[at].began = (roster.entries[at].began.get() - 1).into();
        roster.write_all(&lock);
        child.kill().unwrap();
        child.wait().unwrap();
        place.die(lock);
        let (_, expected, _) = place.open(&place.lock(4), limits(4));
        assert_eq!(expected, [2]);
    }

    // P12
    #[test]
    fn any_content_of_the_file_is_taken() {
        let place = Place::new();
        let lock = place.lock(4);
        let (mut roster, ..) = place.open(&lock, limits(4));
        (1..=3).for_each(|id| enter(&mut roster, &lock, id, 0));
        let file = lock.path().to_owned();
        place.die(lock);
        let good = std::fs::read(&file).unwrap();
        let mut random = 7u64;
        for len in (0..good.len()).step_by(37).chain([good.len()]) {
            let mut content = good[..len].to_vec();
            for byte in content.iter_mut().skip(64) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte ^= if random >> 60 == 0 { (random >> 32) as u8 } else { 0 };
            }
            std::fs::write(&file, &content).unwrap();
            let lock = place.lock(2);
            let (mut roster, expected, found) = place.open(&lock, limits(4));
            assert!(expected.len() <= 128 && found.budget() > 0, "{len}");
            enter(&mut roster, &lock, 9, 0);
            place.die(lock);
        }
    }

    #[test]
    fn a_full_table_takes_no_more_and_says_so_by_the_epoch() {
        let place = Place::new();
        let lock = place.lock(2);
        let (mut roster, ..) = Roster::open(&lock, &limits(4), 2).unwrap();
        let capacity = roster.free.len() as u32;
        for id in 1..=capacity + 1 {
            enter(&mut roster, &lock, id, me());
        }
        place.die(lock);
        let (roster, expected, _) = place.open(&place.lock(2), limits(4));
        assert_eq!(expected.len() as u32, capacity);
        assert_eq!(
            roster.session(ClientId(capacity + 1), USER, None).since,
            2,
            "it may miss messages"
        );
    }
}
