//! The lock that tells which process holds a bus's place (P7).
//!
//! It is a record lock (fcntl(2), `F_SETLK`) of a file beside the socket. The kernel releases it
//! when its process dies, and a forked child does not inherit it. A flock(2), or a lock of an open
//! file description, would stay held by a child that outlives its broker.
//!
//! The cost: the kernel also releases the lock when the process closes *any* descriptor of the
//! file. So a process never opens a lock file that it holds a second time ([`OURS`]). If other code
//! of the process does so, the broker locks its file again ([`LockFile::keep`]).
//!
//! The path can name another file at any time. So a process holds a place only if it has locked a
//! file *and* has afterwards found the path to name that file. The holder removes the file while it
//! still holds the lock. A process that opened the file before then locks a file without a name,
//! and tries again. No step waits.

use super::fork::{Owner, PerProcess};
#[cfg(miri)]
use super::miri::libc;
use crate::core::failpoint::{effect, observation};
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The file is a multiple of this length, in bytes.
const LEN: usize = 4096;
/// The length of what the holder says of itself, in bytes. Its record follows.
const HEAD: usize = 64;
const MAGIC: [u8; 8] = *b"LLMPlock";
const VERSION: u32 = 2;
/// Other users must not open the file. A read lock of another user would keep a broker from
/// starting.
const MODE: u32 = 0o600;
/// How often another process may replace the file during an attempt to lock it.
const TRIES: u32 = 100;

/// The device and inode number of a file.
pub(crate) type Inode = (u64, u64);

/// A lock file that a process has locked.
struct Ours {
    inode: Inode,
    file: File,
    /// When it was locked.
    since: Instant,
}

/// The lock files of this process. A forked child inherits none of the locks. The table is locked
/// while a lock file is open that is not in it. So no thread closes a file that another thread has
/// just locked.
static OURS: PerProcess<Mutex<Vec<Ours>>> = PerProcess::new();

fn ours() -> MutexGuard<'static, Vec<Ours>> {
    OURS.get(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

fn find(ours: &[Ours], inode: Inode) -> Option<usize> {
    ours.iter().position(|held| held.inode == inode)
}

/// The place of a socket, held by this process. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct LockFile {
    socket: PathBuf,
    path: PathBuf,
    inode: Inode,
    /// The length of the holder's record in bytes.
    record_len: usize,
    /// Whether the file stays when this value is dropped, because its record is not used up.
    stays: bool,
    owner: Owner,
}

/// The result of one attempt to lock the file.
enum Attempt {
    Taken(Inode),
    /// Held by this process, if the kernel reports one.
    Held(Option<u32>),
    /// The path names another file now.
    Again,
}

/// Why a lock was not taken.
#[derive(Debug)]
pub(crate) enum NotLocked {
    /// Another process, or another broker of this process, has it. The kernel may name the process.
    Held(Option<u32>),
    /// The lock file can't be used.
    Unusable(LockError),
}

/// Why a lock file can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The path exists and is not a lock file.
    #[error("{what} lies there; remove it, or choose another path for the bus")]
    Occupied {
        /// What the path names, for example "a directory".
        what: &'static str,
    },
    /// The file belongs to another user, and that user could keep it locked.
    #[error(
        "it belongs to user {user}; let that user stop the broker or remove the file, or choose a path in a directory of your own"
    )]
    Stranger {
        /// The user's id.
        user: u32,
    },
    /// The file can't be made or opened.
    #[error("{0}; choose a path in a directory that exists and that this user may write to")]
    Open(#[source] io::Error),
    /// The disk has no room for it.
    #[error("there is no room for it: {0}; make room, or choose a path on another disk")]
    NoRoom(#[source] io::Error),
    /// The file system does not support record locks.
    #[error(
        "its file system does not lock files: {0}; choose a path on a local one, such as /run or /tmp"
    )]
    Unsupported(#[source] io::Error),
}

impl LockFile {
    /// Takes the place of a socket. The file has room for a record of `record_len` bytes, which
    /// outlives its holder. Never waits.
    pub fn take(socket: &Path, record_len: usize) -> Result<Self, NotLocked> {
        let path = beside(socket);
        let mut ours = ours();
        for _ in 0..TRIES {
            match attempt(&path, record_len, &mut ours) {
                Ok(Attempt::Taken(inode)) => {
                    let (socket, owner) = (socket.to_owned(), Owner::here());
                    let stays = false;
                    return Ok(LockFile { socket, path, inode, record_len, stays, owner });
                }
                Ok(Attempt::Held(process)) => return Err(NotLocked::Held(process)),
                Ok(Attempt::Again) => {}
                Err(error) => return Err(NotLocked::Unusable(error)),
            }
        }
        // Other processes take and release the place all the time.
        Err(NotLocked::Held(None))
    }

    /// Makes sure that this process still holds the place. Returns whether the file had to be made
    /// anew.
    ///
    /// # Errors
    ///
    /// [`NotLocked`]. It may be tried again.
    pub fn keep(&mut self) -> Result<bool, NotLocked> {
        {
            let ours = ours();
            if let Some(at) = find(&ours, self.inode)
                && names(&self.path, self.inode)
            {
                let file = &ours[at].file;
                return match lock(file) {
                    Ok(()) => Ok(false),
                    Err(Errno::AGAIN | Errno::ACCESS) => {
                        let process = match holder(file) {
                            Attempt::Held(process) => process,
                            _ => None,
                        };
                        Err(NotLocked::Held(process))
                    }
                    Err(error) => Err(NotLocked::Unusable(LockError::Unsupported(error.into()))),
                };
            }
        }
        *self = Self::take(&self.socket, self.record_len)?;
        Ok(true)
    }

    /// Returns whether this process locked the file. Returns false in a forked child.
    pub fn is_ours(&self) -> bool {
        self.owner.is_here()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the record of the last holder, which may be shorter or longer than ours, or zeros.
    pub fn read_record(&self) -> io::Result<Vec<u8>> {
        let ours = ours();
        let Some(at) = find(&ours, self.inode) else { return Ok(Vec::new()) };
        let file = &ours[at].file;
        observation("read the record", 0);
        let len = file.metadata()?.len().saturating_sub(HEAD as u64).min(LONGEST_RECORD);
        let mut record = vec![0; len as usize];
        file.read_exact_at(&mut record, HEAD as u64)?;
        Ok(record)
    }

    /// Returns whether the last holder has left a record.
    pub fn has_record(&self) -> bool {
        self.read_record().is_ok_and(|record| record.iter().any(|byte| *byte != 0))
    }

    /// Sets whether the file stays when this value is dropped. The next holder finds its record.
    pub fn stay(&mut self, stays: bool) {
        self.stays = stays;
    }

    /// Removes the record.
    pub fn clear_record(&self) -> io::Result<()> {
        let ours = ours();
        let Some(found) = find(&ours, self.inode) else { return Ok(()) };
        effect("clear the record");
        ours[found].file.set_len(HEAD as u64)
    }

    /// Writes a part of the record. The file has room for it.
    pub fn write_record(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let ours = ours();
        let Some(found) = find(&ours, self.inode) else { return Ok(()) };
        effect("write the record");
        ours[found].file.write_all_at(bytes, (HEAD + at) as u64)
    }
}

/// The longest record that is read, in bytes.
const LONGEST_RECORD: u64 = 1 << 26;

impl Drop for LockFile {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        let mut ours = ours();
        let Some(at) = find(&ours, self.inode) else { return };
        let held = ours.swap_remove(at);
        // Another process may have taken the place, see `keep`.
        let stays = self.stays || std::thread::panicking();
        if !stays && names(&self.path, self.inode) && lock(&held.file).is_ok() {
            effect("remove the lock file");
            let _ = std::fs::remove_file(&self.path);
        }
        effect("close the lock file");
        drop(held);
    }
}

/// A running process that holds the place of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// When this process has locked the file, if it is the holder. It may have locked it before, too.
    since: Option<Instant>,
    /// Its id, if the kernel reports it.
    pub process: Option<u32>,
}

/// Returns the process that holds the place of a socket, if one does.
pub(crate) fn holder_of(socket: &Path) -> Option<Holder> {
    let path = beside(socket);
    let ours = ours();
    let here = |at: usize| {
        let (process, since) = (Some(std::process::id()), Some(ours[at].since));
        Some(Holder { process, since })
    };
    observation("look at the lock file", 0);
    let found = std::fs::symlink_metadata(&path).ok()?;
    if let Some(at) = find(&ours, inode(&found)) {
        return here(at);
    }
    if !found.is_file() {
        return None;
    }
    observation("open a lock file", 0);
    let file = File::options().read(true).custom_flags(FLAGS).open(&path).ok()?;
    if let Some(at) = file.metadata().ok().and_then(|found| find(&ours, inode(&found))) {
        keep_open(file);
        return here(at);
    }
    match holder(&file) {
        Attempt::Held(process) => Some(Holder { process, since: None }),
        _ => None,
    }
}

/// Returns the lock file of a socket, without opening it. `None` if there is none.
pub(crate) fn inode_beside(socket: &Path) -> Option<Inode> {
    inode_of(&beside(socket))
}

/// Returns the file at a path.
pub(crate) fn inode_of(path: &Path) -> Option<Inode> {
    observation("look at a file", 0);
    std::fs::symlink_metadata(path).ok().map(|found| inode(&found))
}

/// Returns the path of a socket's lock file.
pub(crate) fn beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// With these flags the open cannot follow a link, block, or acquire a terminal.
const FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;

fn attempt(path: &Path, record_len: usize, ours: &mut Vec<Ours>) -> Result<Attempt, LockError> {
    let process = std::process::id();
    observation("look at the lock file", 0);
    match std::fs::symlink_metadata(path) {
        Ok(found) => {
            check(path, &found)?;
            if find(ours, inode(&found)).is_some() {
                return Ok(Attempt::Held(Some(process)));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(LockError::Open(error)),
    }
    let file = match open(path) {
        Ok(file) => file,
        // The path names a link now.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(Attempt::Again),
        Err(error) => return Err(no_room(error).unwrap_or_else(LockError::Open)),
    };
    observation("look at the open lock file", 0);
    let found = file.metadata().map_err(LockError::Open)?;
    let inode = inode(&found);
    if find(ours, inode).is_some() {
        keep_open(file);
        return Ok(Attempt::Held(Some(process)));
    }
    check(path, &found)?;
    match lock(&file) {
        Ok(()) => {}
        Err(Errno::AGAIN | Errno::ACCESS) => return Ok(holder(&file)),
        Err(error) => return Err(LockError::Unsupported(error.into())),
    }
    if !names(path, inode) {
        return Ok(Attempt::Again);
    }
    if !is_lock_file(&file).map_err(LockError::Open)? {
        return Err(LockError::Occupied { what: "a file that is not the lock of a bus" });
    }
    if let Err(error) = fill(&file, &found, record_len) {
        // Another one has the record of a dead holder.
        if found.len() == 0 {
            effect("remove the lock file");
            let _ = std::fs::remove_file(path);
        }
        return Err(no_room(error).unwrap_or_else(LockError::Open));
    }
    ours.push(Ours { inode, file, since: Instant::now() });
    Ok(Attempt::Taken(inode))
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    effect("open the lock file");
    options.mode(MODE).custom_flags(FLAGS).open(path)
}

fn inode(found: &Metadata) -> Inode {
    (found.dev(), found.ino())
}

fn names(path: &Path, file: Inode) -> bool {
    observation("look whether the lock file is there", 0);
    std::fs::symlink_metadata(path).is_ok_and(|found| inode(&found) == file)
}

/// Checks whether a file can be our lock file. Another user could keep their own file locked. A
/// second name may belong to another file of ours, which another user has linked here so that we
/// write into it.
fn check(path: &Path, found: &Metadata) -> Result<(), LockError> {
    let user = rustix::process::geteuid().as_raw();
    match () {
        () if !found.is_file() => {
            let what = obstacle(path).unwrap_or("a socket");
            Err(LockError::Occupied { what })
        }
        () if found.uid() != user => Err(LockError::Stranger { user: found.uid() }),
        () if found.nlink() > 1 => Err(LockError::Occupied { what: "a file with a second name" }),
        () => Ok(()),
    }
}

fn lock(file: &File) -> Result<(), Errno> {
    effect("lock the lock file");
    let lock = || rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive);
    rustix::io::retry_on_intr(lock)
}

/// Returns which process keeps us from locking the file, if one does.
fn holder(file: &File) -> Attempt {
    // rustix rejects the process of a lock of an open file description, which is -1.
    // SAFETY: zeros are a `flock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    observation("ask which process holds the lock", 0);
    // SAFETY: the kernel reads and writes a `flock`, which `lock` is, and keeps no pointer to it.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    match answer {
        0 if lock.l_type == libc::F_UNLCK as libc::c_short => Attempt::Again,
        // Zero or less means a process that we can't see, or no process.
        0 => Attempt::Held(u32::try_from(lock.l_pid).ok().filter(|&process| process > 0)),
        _ => Attempt::Held(None),
    }
}

/// Keeps the file open, because closing it would release our lock on it. The file was moved here
/// just now.
fn keep_open(file: File) {
    let _ = file.into_raw_fd();
}

/// Returns whether the file is empty, not yet written, or a lock file. Any other file of this user
/// is left untouched.
fn is_lock_file(file: &File) -> io::Result<bool> {
    let mut bytes = [0; 9];
    observation("read the lock file", 0);
    let len = file.read_at(&mut bytes, 0)?;
    Ok(len == 0 || (len > 8 && (bytes[..8] == MAGIC || bytes[..8] == [0; 8])))
}

/// Allocates the file, and writes its holder's process. A dead holder's record stays.
fn fill(file: &File, found: &Metadata, record_len: usize) -> io::Result<()> {
    let len = (HEAD + record_len).next_multiple_of(LEN) as u64;
    if found.mode() & 0o777 != MODE {
        effect("close the lock file to other users");
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    // Beyond this limit the kernel would end the process with SIGXFSZ.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    if limit.is_some_and(|limit| limit < len) {
        let text = "the limit on file sizes (`ulimit -f`) is below that; raise it";
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    effect("allocate the lock file");
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        // The write below then allocates the blocks, if the file system allocates in advance at
        // all.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    effect("write the lock file");
    file.write_all_at(&head(), 0)?;
    let allocated = file.metadata()?.len().max(HEAD as u64);
    match usize::try_from(len.saturating_sub(allocated)) {
        // A file system that does not allocate in advance.
        Ok(missing) if missing > 0 => file.write_all_at(&vec![0; missing], allocated),
        _ => Ok(()),
    }
}

/// Returns the first bytes: the holder's process and the time when it began, in clock ticks since
/// boot. They are for people. Only the lock decides.
fn head() -> [u8; HEAD] {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
    let began = fields.and_then(|fields| fields.split(' ').nth(19)?.parse::<u64>().ok());
    let mut bytes = [0; HEAD];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..20].copy_from_slice(&std::process::id().to_le_bytes());
    bytes[24..32].copy_from_slice(&began.unwrap_or(0).to_le_bytes());
    bytes
}

/// Converts an error of a full disk. Returns any other error unchanged.
fn no_room(error: io::Error) -> Result<LockError, io::Error> {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => Ok(LockError::NoRoom(error)),
        _ => Err(error),
    }
}

/// Returns what the path names, if it is not a socket.
pub(crate) fn obstacle(path: &Path) -> Option<&'static str> {
    let kind = std::fs::symlink_metadata(path).ok()?.file_type();
    match () {
        () if kind.is_socket() => None,
        () if kind.is_dir() => Some("a directory"),
        () if kind.is_symlink() && std::fs::metadata(path).is_err() => Some("a dangling link"),
        () if kind.is_symlink() => Some("a link"),
        () if kind.is_fifo() => Some("a named pipe"),
        () => Some("a file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_no_process_has_locked_has_no_holder() {
        // Miri opens no files.
        let file = match cfg!(miri) {
            true => File::from(std::os::fd::OwnedFd::from(std::io::pipe().unwrap().0)),
            false => tempfile::tempfile().unwrap(),
        };
        assert!(matches!(holder(&file), Attempt::Again));
    }
}
