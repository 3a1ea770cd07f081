//! Shared memory of the kernel: sealed memfds and their mappings.

#[cfg(miri)]
use super::miri::{memmap2, rustix};
use super::system::os_page;
use crate::core::failpoint::{AtDrop, effect, observation};
use crate::core::fault::InvalidMemfd;
use crate::core::memory::Region;
use crate::sys::fork::Hole;
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::any::Any;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// The seals of every region. With them only its owner can write it, and its length never changes
/// (P13).
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// Why a region of our own could not be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {len} bytes of shared memory: {source}")]
#[non_exhaustive]
pub struct RegionError {
    /// The step that failed.
    pub step: &'static str,
    /// The region's length in bytes.
    pub len: usize,
    /// The kernel's error.
    pub source: io::Error,
}

/// A descriptor that a peer sent and that is not validated yet.
#[derive(Debug)]
pub struct ReceivedFd(Option<OwnedFd>);

/// Length in bytes above which freeing takes long: 0.1 ms for each MiB.
const LONG: u64 = 1 << 26;

impl Drop for ReceivedFd {
    fn drop(&mut self) {
        let closes_at_once = self.is_memory();
        if let Some(fd) = self.0.take() {
            effect("close a descriptor that came");
            if !closes_at_once {
                crate::sys::closer::close_elsewhere(fd);
            }
        }
    }
}

impl ReceivedFd {
    /// Wraps a descriptor of unknown type.
    pub fn new(fd: OwnedFd) -> Self {
        ReceivedFd(Some(fd))
    }

    /// Validates the descriptor's type, seals and length, and maps it read-only.
    ///
    /// All facts come from the kernel and none from the peer. The descriptor itself is closed.
    ///
    /// # Errors
    ///
    /// [`InvalidMemfd`] says what is invalid.
    pub fn map(mut self, min_len: usize, max_len: usize) -> Result<Region, InvalidMemfd> {
        self.try_map(min_len, max_len)
    }

    /// Like [`map`](ReceivedFd::map), but keeps the descriptor for another try if mapping fails.
    pub(crate) fn try_map(
        &mut self,
        min_len: usize,
        max_len: usize,
    ) -> Result<Region, InvalidMemfd> {
        let map = self.checked(min_len, max_len)?;
        effect("close a descriptor that came");
        // The mapping keeps the memory alive, so this close does not free it.
        drop(self.0.take());
        Ok(read_only(map, None))
    }

    /// Like [`try_map`](ReceivedFd::try_map), for a region that can be
    /// [shared](Region::descriptor): the descriptor stays open as long as the region.
    pub(crate) fn try_map_to_share(
        &mut self,
        min_len: usize,
        max_len: usize,
    ) -> Result<Region, InvalidMemfd> {
        let map = self.checked(min_len, max_len)?;
        Ok(read_only(map, self.0.take().map(Arc::new)))
    }

    /// Returns whether closing the descriptor is fast: it is memory that can't grow and is not
    /// long.
    pub(crate) fn is_memory(&self) -> bool {
        let Some(fd) = &self.0 else { return false };
        observation("is it memory", fd.as_raw_fd() as usize);
        let is_sealed = |seals: SealFlags| seals.contains(SealFlags::GROW);
        rustix::fs::fcntl_get_seals(fd).is_ok_and(is_sealed)
            && rustix::fs::fstat(fd).is_ok_and(|found| found.st_size as u64 <= LONG)
    }

    fn checked(&self, min_len: usize, max_len: usize) -> Result<MmapRaw, InvalidMemfd> {
        let fd = self.0.as_ref().ok_or(InvalidMemfd::NoMemfd)?;
        effect("ask for seals");
        // Only memfds (and files of tmpfs, which lack the seals) answer this question. So later
        // calls can't block on a remote or user-made file system.
        let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| InvalidMemfd::NoMemfd)?;
        if !seals.contains(SEALS) {
            return Err(InvalidMemfd::Seals { missing: names(SEALS.difference(seals)) });
        }
        effect("ask for the length");
        let found = rustix::fs::fstat(fd).map_err(|_| InvalidMemfd::NoMemfd)?.st_size as u64;
        let len = usize::try_from(found)
            .ok()
            .filter(|len| (min_len..=max_len).contains(len))
            .filter(|len| len.is_multiple_of(crate::core::layout::OS_PAGE));
        let len = len.ok_or(InvalidMemfd::Length { found, min: min_len, max: max_len })?;
        effect("map what came");
        let map = MmapOptions::new().len(len).map_raw_read_only(fd);
        map.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOMEM | Errno::AGAIN | Errno::NFILE | Errno::MFILE) => {
                InvalidMemfd::Lack(error.to_string())
            }
            _ => InvalidMemfd::Map(error.to_string()),
        })
    }
}

/// Returns the region of a received and sealed memfd.
#[allow(unsafe_code)]
fn read_only(map: MmapRaw, descriptor: Option<Arc<OwnedFd>>) -> Region {
    let (start, len) = (map.as_mut_ptr(), map.len());
    // A forked child inherits it, so that what it has borrowed there stays valid.
    let owner = Arc::new((AtDrop::new("unmap"), map));
    // SAFETY: the mapping is shared with this `Region` alone, is readable, page-aligned, and can't
    // shrink since it is sealed.
    unsafe { region(start, len, false, owner, descriptor) }
}

fn names(seals: SealFlags) -> String {
    seals.iter_names().map(|(name, _)| format!("F_SEAL_{name}")).collect::<Vec<_>>().join(", ")
}

impl Region {
    /// Returns the descriptor that shares the region with other processes. `None` for regions of
    /// other processes and for the heap.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.attached::<OwnedFd>().map(AsFd::as_fd)
    }

    /// Returns a new zeroed region of shared memory. Only this process can write it, now and later.
    ///
    /// `len` is rounded up to a multiple of the kernel's page size, 4096 bytes or more. The memory
    /// is allocated when this returns, so a later write can't run out of it.
    ///
    /// In a child of `fork`, the region is private memory of the child. It is zero at first, and no
    /// other process sees what the child writes there. In a child of a bare `clone`, nothing is
    /// mapped: do not use the region there.
    ///
    /// # Safety
    ///
    /// As for [`new_heap`](Region::new_heap): one owner writes the region, and every handle in this
    /// process follows the protocol. Other processes can only read, so the contract does not cover
    /// them.
    ///
    /// # Errors
    ///
    /// [`RegionError`] when the kernel has no memory, no descriptor or no `memfd_create`.
    #[allow(unsafe_code)]
    pub unsafe fn new_shared(name: &str, len: usize) -> Result<Region, RegionError> {
        Region::shared(name, len)
    }

    /// Like [`new_shared`](Region::new_shared), for this crate, which keeps that contract.
    ///
    /// # Errors
    ///
    /// As there.
    #[allow(unsafe_code)]
    pub(crate) fn shared(name: &str, len: usize) -> Result<Region, RegionError> {
        let len = len.next_multiple_of(os_page());
        let failed = |step| move |source: io::Error| RegionError { step, len, source };
        // Above this limit the kernel would end the process with SIGXFSZ.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        if limit.is_some_and(|limit| limit < len as u64) {
            let text = "the limit on file sizes (`ulimit -f`) is below that; raise it";
            return Err(failed("reserve")(io::Error::new(io::ErrorKind::FileTooLarge, text)));
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        effect("create a memfd");
        // Newer kernels warn once when neither this flag nor its opposite is given. Older ones
        // don't know it.
        let memfd = rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| rustix::fs::memfd_create(name, flags))
            .map_err(|e| failed("create")(e.into()))?;
        effect("set its length");
        rustix::fs::ftruncate(&memfd, len as u64).map_err(|e| failed("reserve")(e.into()))?;
        effect("allocate it");
        rustix::fs::fallocate(&memfd, rustix::fs::FallocateFlags::empty(), 0, len as u64)
            .map_err(|e| failed("reserve")(e.into()))?;
        effect("map it");
        // Populated, so that the first message does not pay for page faults.
        let map = MmapOptions::new().len(len).populate().map_raw(&memfd).map_err(failed("map"))?;
        effect("keep it from forks");
        // A forked child must not inherit the writable mapping.
        map.advise(Advice::DontFork).map_err(failed("map"))?;
        let (start, map_len) = (map.as_mut_ptr(), map.len());
        let map = Writable { hole: Hole::at(start, map_len), map: Some(map) };
        effect("seal it");
        // Sealed after the mapping exists: F_SEAL_FUTURE_WRITE allows existing mappings.
        rustix::fs::fcntl_add_seals(memfd.as_fd(), SEALS).map_err(|e| failed("seal")(e.into()))?;
        let descriptor = Some(Arc::new(memfd));
        // SAFETY: the mapping is shared with this `Region` alone, is writable and page-aligned,
        // and can't shrink since it is sealed.
        Ok(unsafe { region(start, map_len, true, Arc::new(map), descriptor) })
    }
}

/// A writable mapping, which a forked child does not have.
#[derive(Debug)]
struct Writable {
    map: Option<MmapRaw>,
    hole: Hole,
}

impl Drop for Writable {
    fn drop(&mut self) {
        if self.hole.is_here() {
            effect("unmap");
        } else {
            // In a child another mapping may be at this address, so it must not be unmapped.
            std::mem::forget(self.map.take());
        }
    }
}

/// # Safety
///
/// `len` bytes from `start` are a mapping that only `owner` holds, for as long as `owner` lives. It
/// is readable, and writable if `writable`.
#[allow(unsafe_code)]
unsafe fn region(
    start: *mut u8,
    len: usize,
    writable: bool,
    owner: Arc<dyn Any + Send + Sync>,
    descriptor: Option<Arc<OwnedFd>>,
) -> Region {
    let start = NonNull::new(start).expect("the kernel maps nothing at address zero");
    // SAFETY: the caller's promise; mappings are page-aligned and their lengths whole pages.
    unsafe {
        Region::new(
            start,
            len,
            writable,
            owner,
            descriptor.map(|fd| fd as Arc<dyn Any + Send + Sync>),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::tests::bound;
    use crate::core::memory::Memory;
    use crate::core::order::Site;

    fn duplicate(region: &Region) -> ReceivedFd {
        ReceivedFd::new(region.descriptor().unwrap().try_clone_to_owned().unwrap())
    }

    #[test]
    fn a_region_takes_whole_pages_of_the_kernel() {
        for (len, pages) in [(1, 1), (os_page(), 1), (os_page() + 1, 2)] {
            let ours = Region::shared("llmp-test", len).unwrap();
            duplicate(&ours).map(pages * os_page(), pages * os_page()).unwrap();
        }
    }

    #[test]
    fn the_reader_sees_what_the_owner_writes() {
        let ours = Region::shared("llmp-test", os_page()).unwrap();
        let theirs = duplicate(&ours).map(os_page(), os_page()).unwrap();
        let payload: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        ours.write_bytes(64, &payload);
        ours.store(8, 7, Site::CommitPublish);
        assert_eq!(theirs.load(8, Site::CommitRead), 7);
        let mut copy = vec![0; 1000];
        theirs.read_bytes(64, &mut copy);
        assert_eq!(copy, payload);
        // The last word is mapped, too.
        assert_eq!(theirs.load(theirs.region_len() - 8, Site::CommitRead), 0);
    }

    #[test]
    fn only_the_owner_can_write_reopen_or_truncate_a_sealed_region() {
        let ours = Region::shared("llmp-test", 4096).unwrap();
        let fd = ours.descriptor().unwrap();
        assert!(MmapOptions::new().len(4096).map_raw(&fd).is_err());
        assert!(rustix::fs::ftruncate(fd, 0).is_err());
        assert!(rustix::fs::ftruncate(fd, 8192).is_err());
        assert!(rustix::io::write(fd, b"x").is_err());
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        assert!(rustix::fs::fallocate(fd, punch, 0, 4096).is_err());
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        let again = std::fs::OpenOptions::new().read(true).write(true).open(path);
        if let Ok(file) = again {
            assert!(rustix::io::write(&file, b"x").is_err());
            assert!(MmapOptions::new().len(4096).map_raw(&file).is_err());
        }
        ours.store(0, 1, Site::CommitPublish);
    }

    #[test]
    fn a_descriptor_other_than_a_sealed_memfd_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        // On a tmpfs the file answers like a memfd without seals.
        let error = ReceivedFd::new(file.into()).map(4096, 4096).unwrap_err();
        assert!(matches!(error, InvalidMemfd::NoMemfd | InvalidMemfd::Seals { .. }), "{error}");

        let bare = rustix::fs::memfd_create("bare", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&bare, 4096).unwrap();
        rustix::fs::fcntl_add_seals(&bare, SEALS.difference(SealFlags::SHRINK | SealFlags::SEAL))
            .unwrap();
        let error = ReceivedFd::new(bare).map(4096, 4096).unwrap_err();
        assert_eq!(error.to_string(), "the memfd lacks the seals F_SEAL_SEAL, F_SEAL_SHRINK");

        let (found, min, max) = (os_page(), 2 * os_page(), 4 * os_page());
        let small = Region::shared("llmp-test", found).unwrap();
        let error = duplicate(&small).map(min, max).unwrap_err();
        assert_eq!(error, InvalidMemfd::Length { found: found as u64, min, max });
    }

    #[test]
    fn only_short_memory_that_can_not_grow_is_closed_at_once() {
        let memfd = |len: u64, seals: SealFlags| {
            let fd = rustix::fs::memfd_create("llmp-test", MemfdFlags::ALLOW_SEALING).unwrap();
            rustix::fs::ftruncate(&fd, len).unwrap();
            rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
            ReceivedFd::new(fd)
        };
        assert_eq!(bound("time of the broker's thread for a close"), "memory of 64 MiB");
        assert_eq!(LONG, 64 << 20);
        assert!(memfd(LONG, SEALS).is_memory());
        assert!(!memfd(LONG + 1, SEALS).is_memory());
        assert!(!memfd(4096, SEALS.difference(SealFlags::GROW)).is_memory());
        assert!(!ReceivedFd::new(tempfile::tempfile().unwrap().into()).is_memory());
        assert!(!ReceivedFd::new(std::io::pipe().unwrap().0.into()).is_memory());
    }

    #[test]
    fn a_region_outlives_the_handle_that_made_it() {
        let theirs = {
            let ours = Region::shared("llmp-test", 4096).unwrap();
            ours.store(0, 42, Site::CommitPublish);
            duplicate(&ours).map(os_page(), os_page()).unwrap()
        };
        assert_eq!(theirs.load(0, Site::CommitRead), 42);
    }
}
