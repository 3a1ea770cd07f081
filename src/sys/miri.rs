//! The system calls that Miri lacks, for this process alone. They stand in for those of `libc`,
//! `rustix` and `memmap2`, and touch the same bytes. So Miri runs the code that calls them.
//!
//! A memfd is an eventfd whose counter is the number of a file in a table. Duplicates of the
//! descriptor have the same counter. All mappings of a file are one anonymous mapping, which is
//! unmapped with the last of them.

use ::memmap2::{MmapMut, MmapRaw};
use ::rustix::event::{EventfdFlags, eventfd};
use ::rustix::fs::SealFlags;
use ::rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub(super) mod libc;

/// A file of shared memory.
struct File {
    seals: SealFlags,
    len: u64,
    /// Its memory, until it is mapped.
    new: Option<Arc<MmapRaw>>,
    /// The same, as long as it is mapped.
    mapped: Weak<MmapRaw>,
}

static FILES: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Makes a file. Returns its descriptor.
fn create() -> Result<OwnedFd, Errno> {
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let (seals, new, mapped) = (SealFlags::empty(), None, Weak::new());
    files.push(File { seals, len: 0, new, mapped });
    // The numbers of the files count from 1, because a counter of zero can't be read.
    eventfd(files.len() as u32, EventfdFlags::NONBLOCK)
}

/// Calls `then` with the file of a descriptor.
fn with<T>(fd: impl AsFd, then: impl FnOnce(&mut File) -> Result<T, Errno>) -> Result<T, Errno> {
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut number = [0; 8];
    ::rustix::io::read(&fd, &mut number).map_err(|_| Errno::INVAL)?;
    // Reading has set the counter to zero.
    ::rustix::io::write(&fd, &number)?;
    let index = u64::from_ne_bytes(number) as usize - 1;
    then(files.get_mut(index).ok_or(Errno::INVAL)?)
}

pub(super) mod memmap2 {
    use super::*;
    pub use ::memmap2::Advice;
    use std::io;

    pub struct MmapOptions(usize);

    #[derive(Debug)]
    pub struct MmapRaw(Arc<::memmap2::MmapRaw>);

    impl MmapOptions {
        pub fn new() -> Self {
            MmapOptions(0)
        }

        pub fn len(&mut self, len: usize) -> &mut Self {
            self.0 = len;
            self
        }

        pub fn populate(&mut self) -> &mut Self {
            self
        }

        pub fn map_raw(&self, fd: impl AsFd) -> io::Result<MmapRaw> {
            let map = with(fd, |file| match file.seals.contains(SealFlags::FUTURE_WRITE) {
                true => Err(Errno::PERM),
                false => file.map(),
            })?;
            assert_eq!(map.len(), self.0, "the whole file is mapped");
            Ok(MmapRaw(map))
        }

        pub fn map_raw_read_only(&self, fd: impl AsFd) -> io::Result<MmapRaw> {
            Ok(MmapRaw(with(fd, File::map)?))
        }
    }

    impl MmapRaw {
        pub fn as_mut_ptr(&self) -> *mut u8 {
            self.0.as_mut_ptr()
        }

        pub fn len(&self) -> usize {
            self.0.len()
        }

        pub fn advise(&self, _: Advice) -> io::Result<()> {
            Ok(())
        }
    }
}

impl File {
    fn map(&mut self) -> Result<Arc<MmapRaw>, Errno> {
        let map = self.new.take().or_else(|| self.mapped.upgrade()).ok_or(Errno::NOMEM)?;
        self.mapped = Arc::downgrade(&map);
        Ok(map)
    }
}

pub(super) mod rustix {
    pub use ::rustix::*;

    pub mod fs {
        use crate::sys::miri::{Arc, AsFd, Errno, MmapMut, OwnedFd, create, with};
        pub use ::rustix::fs::*;

        pub fn memfd_create(_: &str, _: MemfdFlags) -> Result<OwnedFd, Errno> {
            create()
        }

        pub fn ftruncate(fd: impl AsFd, len: u64) -> Result<(), Errno> {
            with(fd, |file| {
                let map = MmapMut::map_anon(len as usize).map_err(|_| Errno::NOMEM)?;
                (file.len, file.new) = (len, Some(Arc::new(map.into())));
                Ok(())
            })
        }

        pub fn fallocate(_: impl AsFd, _: FallocateFlags, _: u64, _: u64) -> Result<(), Errno> {
            Ok(())
        }

        pub fn fcntl_add_seals(fd: impl AsFd, seals: SealFlags) -> Result<(), Errno> {
            with(fd, |file| {
                file.seals |= seals;
                Ok(())
            })
        }

        pub fn fcntl_get_seals(fd: impl AsFd) -> Result<SealFlags, Errno> {
            with(fd, |file| Ok(file.seals))
        }

        pub struct Found {
            pub st_size: i64,
        }

        pub fn fstat(fd: impl AsFd) -> Result<Found, Errno> {
            with(fd, |file| Ok(Found { st_size: file.len as i64 }))
        }
    }

    /// Sockets are those of the standard library, and hold no packets.
    pub mod net {
        use crate::sys::miri::{AsFd, Errno};
        pub use ::rustix::net::*;

        pub fn shutdown(_: impl AsFd, _: Shutdown) -> Result<(), Errno> {
            Ok(())
        }

        pub fn recvmsg(
            _: impl AsFd,
            _: &mut [std::io::IoSliceMut<'_>],
            _: &mut RecvAncillaryBuffer<'_>,
            _: RecvFlags,
        ) -> Result<RecvMsg, Errno> {
            Err(Errno::AGAIN)
        }
    }

    pub mod mm {
        use crate::sys::miri::Errno;
        pub use ::rustix::mm::*;

        pub unsafe fn madvise(_: *mut std::ffi::c_void, _: usize, _: Advice) -> Result<(), Errno> {
            Ok(())
        }
    }

    pub mod process {
        pub use ::rustix::process::*;

        pub fn getrlimit(_: Resource) -> Rlimit {
            Rlimit { current: None, maximum: None }
        }
    }
}
