//! Where the sockets lie: a bus's name becomes a path; a dead broker's socket is no obstacle (P7).

use super::lifeline::acts;
use super::socket::{Listener, Socket};
use crate::bus::Bus;
use crate::error::BindError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The directory of buses that have a name and no path: `$XDG_RUNTIME_DIR/llmp`, or else
/// `llmp-UID` in the directory for temporary files. It is this user's own.
pub(crate) fn directory() -> io::Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let directory = match runtime.filter(|dir| dir.is_absolute() && dir.is_dir()) {
        Some(dir) => dir.join("llmp"),
        None => std::env::temp_dir().join(format!("llmp-{user}")),
    };
    acts("make the directory");
    match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(&directory)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        let text = format!(
            "{} is not a directory of this user alone; remove it, or give the bus a path",
            directory.display()
        );
        return Err(io::Error::other(text));
    }
    Ok(directory)
}

/// A listener with its place in the file system, which is cleaned up with it.
#[derive(Debug)]
pub(crate) struct Bound {
    pub listener: Listener,
    path: PathBuf,
    inode: (u64, u64),
}

impl Bound {
    /// Listens at the place of a bus.
    pub fn at(bus: &Bus) -> Result<Self, BindError> {
        let path = bus.socket_path()?;
        Self::bind(&path).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { path },
            _ => BindError::Socket { path, source },
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Listens at `path`. The socket of a process that has died is replaced.
    fn bind(path: &Path) -> io::Result<Self> {
        // Two brokers that start at the same time must not take each other's socket for stale.
        let _lock = lock_directory(path)?;
        let listener = match Listener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                acts("remove a stale socket");
                std::fs::remove_file(path)?;
                Listener::bind(path)?
            }
            other => other?,
        };
        acts("ask for our socket's inode");
        let found = std::fs::symlink_metadata(path)?;
        Ok(Bound { listener, path: path.to_owned(), inode: (found.dev(), found.ino()) })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Only if it is still ours.
        let found = std::fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.inode) {
            acts("remove our socket");
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether there is a socket to which nobody listens.
fn is_stale(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|f| f.file_type().is_socket());
    let refused = |e: io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && Socket::connect(path).err().is_some_and(refused)
}

/// Locks the directory of `path` until the descriptor is closed.
fn lock_directory(path: &Path) -> io::Result<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    acts("open the directory");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(directory, flags, Mode::empty())?;
    acts("lock the directory");
    // Whoever else holds it is done in a moment, unless he means harm.
    for _ in 0..200 {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(std::time::Duration::from_millis(5)),
            other => return other.map(|()| fd).map_err(io::Error::from),
        }
    }
    Err(io::Error::other(format!("{} stays locked by another process", directory.display())))
}
