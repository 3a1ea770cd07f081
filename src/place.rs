//! The places of sockets. Turns a bus's name into a path, and replaces a dead broker's socket (P7).

use crate::bus_addr::{BusAddr, quoted};
use crate::core::failpoint::{effect, observation};
use crate::error::{BindError, PathTooLong};
use crate::peer_filter::PeerFilter;
use crate::socket::Listener;
use crate::sys::activation::{leads_to_listener, listener_at};
use crate::sys::lock::{Inode, LockFile, beside, holder_of, obstacle};
use rustix::fs::inotify;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Returns the directory of named buses: `$XDG_RUNTIME_DIR/llmp`, or else `llmp-UID` in the
/// directory for temporary files. Only this user can use it.
pub(crate) fn directory() -> io::Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let directory = match runtime_directory(user) {
        Some(dir) => dir.join("llmp"),
        None => temporary_directory(user),
    };
    effect("make the directory");
    match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(&directory)?;
    let is_ours = found.is_dir() && found.uid() == user;
    if !is_ours || found.mode() & 0o077 != 0 {
        let path = quoted(&directory.display().to_string());
        let text = match is_ours {
            true => format!("{path} is open to other users; close it with: chmod 700 {path}"),
            false => format!("{path} is not a directory of this user"),
        };
        return Err(io::Error::other(text));
    }
    Ok(directory)
}

/// Returns `$XDG_RUNTIME_DIR` if it belongs to this user. `sudo` may have kept another user's.
fn runtime_directory(user: u32) -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    let found = std::fs::metadata(&dir).ok()?;
    (dir.is_absolute() && found.is_dir() && found.uid() == user).then_some(dir)
}

fn temporary_directory(user: u32) -> PathBuf {
    std::env::temp_dir().join(format!("llmp-{user}"))
}

/// Searches the other places where a bus of this name may listen. Another process of this user, or
/// the user whose `$XDG_RUNTIME_DIR` we inherited, may have started it.
pub(crate) fn elsewhere(name: &str, not: &Path) -> Option<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let left = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("llmp"));
    let directories = [
        left.filter(|dir| dir.is_absolute()),
        Some(PathBuf::from(format!("/run/user/{user}/llmp"))),
        Some(temporary_directory(user)),
        Some(PathBuf::from(format!("/tmp/llmp-{user}"))),
    ];
    let sockets = directories.into_iter().flatten().map(|dir| dir.join(format!("{name}.sock")));
    sockets.filter(|path| path != not).find(|path| is_socket(path) && holder_of(path).is_some())
}

/// A listener with its place in the file system. Dropping it removes the files.
#[derive(Debug)]
pub(crate) struct Bound {
    pub listener: Listener,
    path: PathBuf,
    inode: Inode,
    /// Whether a supervisor has made the socket, and removes it.
    is_passed: bool,
    /// Released last, when the socket is removed.
    lock: LockFile,
}

impl Bound {
    /// Listens at the place of a bus, and lets the users that `access` names reach it. Never waits.
    /// The lock file has room for a record of `record_len` bytes.
    pub fn at(bus: &BusAddr, access: &PeerFilter, record_len: usize) -> Result<Self, BindError> {
        let path = bus.socket_path()?;
        PathTooLong::check(&path)?;
        let mut lock = LockFile::take(&path, record_len)
            .map_err(|why| BindError::not_locked(why, &path, &beside(&path)))?;
        // Until this process serves the bus, the record belongs to the next broker.
        lock.stay(lock.has_record());
        let passed = passed(&path)?;
        let is_passed = passed.is_some();
        let (listener, inode) = match passed {
            Some(passed) => passed,
            None => listen(&path, access)?,
        };
        let bound = Bound { listener, path, inode, is_passed, lock };
        bound.warn_of_closed_doors(access);
        Ok(bound)
    }

    /// Lets the users that `access` names connect.
    pub fn open_to(&self, access: &PeerFilter) -> io::Result<()> {
        if self.is_passed { Ok(()) } else { open_to(&self.path, access) }
    }

    /// Warns about a directory that other users cannot search. Usually only root can pass it.
    fn warn_of_closed_doors(&self, access: &PeerFilter) {
        if access.is_shared()
            && let Some(directory) = closed_directory(&self.path)
        {
            log::warn!(
                "other users can't reach {}, since {} is closed to them; give the bus a path in an open directory, for example /tmp/NAME.sock",
                self.path.display(),
                directory.display()
            );
        }
    }

    /// Returns whether the path still names our socket.
    pub fn is_there(&self) -> bool {
        let found = std::fs::symlink_metadata(&self.path);
        found.is_ok_and(|found| (found.dev(), found.ino()) == self.inode)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the lock file.
    pub fn lock_path(&self) -> &Path {
        self.lock.path()
    }

    /// Returns the lock file.
    pub fn lock(&self) -> &LockFile {
        &self.lock
    }

    /// Sets whether the lock file stays when this value is dropped, see [`LockFile::stay`].
    pub fn stay(&mut self, stays: bool) {
        self.lock.stay(stays);
    }

    /// Makes sure that this process still holds the place, see [`LockFile::keep`].
    pub fn keep(&mut self) -> Result<bool, BindError> {
        self.lock.keep().map_err(|why| BindError::not_locked(why, &self.path, self.lock.path()))
    }

    /// Listens at the same path again, after the socket was removed.
    pub fn rebind(&mut self, access: &PeerFilter) -> Result<(), BindError> {
        // The old socket's path is not removed, because it may name another process's socket.
        (self.listener, self.inode) = listen(&self.path, access)?;
        self.is_passed = false;
        self.warn_of_closed_doors(access);
        Ok(())
    }
}

/// Listens with the socket that a supervisor has passed for this path, if there is one.
fn passed(path: &Path) -> Result<Option<(Listener, Inode)>, BindError> {
    let Some(socket) = listener_at(path) else { return Ok(None) };
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(None) };
    let listener = Listener::passed(socket)
        .map_err(|source| BindError::Socket { path: path.to_owned(), source })?;
    if !leads_to_listener(path) {
        log::warn!(
            "{} does not lead to the socket of LISTEN_FDS any more; this process makes its own",
            path.display()
        );
        return Ok(None);
    }
    Ok(Some((listener, (found.dev(), found.ino()))))
}

/// Listens at a path whose lock file this process has locked. A socket there belongs to a dead
/// process.
fn listen(path: &Path, access: &PeerFilter) -> Result<(Listener, Inode), BindError> {
    let occupied = |what| BindError::Occupied { path: path.to_owned(), what };
    let failed = |source| BindError::Socket { path: path.to_owned(), source };
    observation("look at the socket's path", 0);
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            // Our lock does not cover another user's socket.
            if found.uid() != rustix::process::geteuid().as_raw() {
                return Err(occupied("a socket of another user"));
            }
            effect("remove a stale socket");
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(_) => return Err(occupied(obstacle(path).unwrap_or("a socket"))),
        Err(_) => {}
    }
    let listener = Listener::bind(path).map_err(failed)?;
    let finish = || {
        effect("ask for our socket's inode");
        let found = std::fs::symlink_metadata(path)?;
        open_to(path, access)?;
        Ok((found.dev(), found.ino()))
    };
    match finish() {
        Ok(inode) => Ok((listener, inode)),
        Err(error) => {
            effect("remove our socket");
            let _ = std::fs::remove_file(path);
            Err(failed(error))
        }
    }
}

/// Lets the users that `access` names connect to a socket.
fn open_to(socket: &Path, access: &PeerFilter) -> io::Result<()> {
    if !access.is_shared() {
        return Ok(());
    }
    // Connecting requires write permission. The broker decides which users are admitted (P16).
    effect("open the socket to other users");
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))
}

/// Reports changes of a socket and its lock file (inotify(7)).
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    /// Watches a path. Returns `None` if this user has no inotify watches left.
    pub fn new(path: &Path) -> Option<Self> {
        effect("make an inotify");
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
        let watch = Watch(fd.ok()?);
        watch.add(path).then_some(watch)
    }

    /// Watches another path, too. Returns whether it succeeds.
    pub fn add(&self, path: &Path) -> bool {
        use inotify::WatchFlags;
        // A removed socket that is still bound has no link left, which changes its attributes. If
        // this process has closed a lock file, our lock on it is gone.
        let events = WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::CLOSE;
        effect("watch the socket");
        inotify::add_watch(&self.0, path, events).is_ok()
    }

    /// Reads and discards all events.
    pub fn drain(&self) {
        let mut events = [0u8; 4096];
        while rustix::io::read(&self.0, &mut events).is_ok_and(|len| len > 0) {}
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Removes the socket only if it is still ours. A forked child leaves its parent's socket in
        // place.
        if self.lock.is_ours() && !self.is_passed && self.is_there() {
            effect("remove our socket");
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Returns the topmost directory above the path that other users may not search.
fn closed_directory(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let is_closed = |dir: &&Path| std::fs::metadata(dir).is_ok_and(|f| f.mode() & 0o001 == 0);
    path.ancestors().skip(1).filter(is_closed).last().map(Path::to_owned)
}
