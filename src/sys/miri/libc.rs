//! The calls of the C library. They read and write what the kernel does.

pub use ::libc::*;
use rustix::event::{EventfdFlags, eventfd};
use std::cell::Cell;
use std::os::fd::IntoRawFd;

thread_local! {
    /// How many descriptors come with the packet that this thread receives next.
    static COMING: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The bytes of every packet.
pub const PACKET: &[u8] = b"packet";

/// Sends this thread a packet with descriptors.
#[cfg(test)]
pub fn send(descriptors: usize) {
    COMING.set(Some(descriptors));
}

/// Makes a descriptor.
fn descriptor() -> c_int {
    eventfd(1, EventfdFlags::NONBLOCK).expect("Miri has some").into_raw_fd()
}

fn ours() -> ucred {
    // SAFETY: the calls have no preconditions.
    let (pid, uid) = unsafe { (getpid(), geteuid()) };
    ucred { pid, uid, gid: 0 }
}

pub unsafe fn getsockopt(
    _: c_int,
    _: c_int,
    option: c_int,
    into: *mut c_void,
    len: &mut socklen_t,
) -> c_int {
    if option == SO_PEERCRED {
        assert_eq!(*len as usize, size_of::<ucred>());
        // SAFETY: the caller has room for one.
        unsafe { into.cast::<ucred>().write(ours()) };
    } else {
        assert_eq!(*len as usize, size_of::<c_int>());
        // SAFETY: the caller has room for one.
        unsafe { into.cast::<c_int>().write(descriptor()) };
    }
    0
}

pub unsafe fn setsockopt(
    _: c_int,
    _: c_int,
    _: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    assert_eq!(len as usize, size_of::<c_int>());
    // SAFETY: the caller has put one there.
    unsafe { value.cast::<c_int>().read() };
    0
}

pub unsafe fn ioctl(_: c_int, request: c_ulong, into: *mut c_int) -> c_int {
    assert_eq!(request, TIOCOUTQ);
    // SAFETY: the caller has room for one.
    unsafe { into.write(0) };
    0
}

pub unsafe fn fcntl(_: c_int, command: c_int, lock: *mut flock) -> c_int {
    assert_eq!(command, F_GETLK);
    // SAFETY: the caller has put one there, which is read and written.
    unsafe { (*lock).l_type = F_UNLCK as _ };
    0
}

pub unsafe fn sysconf(name: c_int) -> c_long {
    match name {
        _SC_CLK_TCK => 100,
        // SAFETY: the call has no preconditions.
        name => unsafe { ::libc::sysconf(name) },
    }
}

pub unsafe fn clock_gettime(_: clockid_t, into: *mut timespec) -> c_int {
    // SAFETY: the caller has room for one.
    unsafe { ::libc::clock_gettime(CLOCK_MONOTONIC, into) }
}

/// Receives the packet that was [sent](send). Its sender's credentials, its descriptors and a pidfd
/// come with it, as far as there is room, as in `put_cmsg` and `scm_detach_fds` of the kernel.
pub unsafe fn recvmsg(_: c_int, message: *mut msghdr, _: c_int) -> ssize_t {
    let descriptors = COMING.take().expect("a packet was sent");
    // SAFETY: the caller has put one there.
    let message = unsafe { &mut *message };
    // SAFETY: the caller has put one there, with room for the packet.
    unsafe {
        message.msg_iov.read().iov_base.cast::<u8>().copy_from(PACKET.as_ptr(), PACKET.len())
    };
    let ucred { pid, uid, gid } = ours();
    let mut control =
        Control { to: message.msg_control.cast(), left: message.msg_controllen, flags: 0 };
    control.put(SCM_CREDENTIALS, [pid, uid as c_int, gid as c_int].into_iter());
    control.put(SCM_RIGHTS, (0..descriptors).map(|_| descriptor()));
    control.put(4, std::iter::once_with(descriptor));
    message.msg_controllen -= control.left;
    message.msg_flags = control.flags;
    PACKET.len() as ssize_t
}

/// The place of the next ancillary message, and the bytes left from there on.
struct Control {
    to: *mut u8,
    left: usize,
    flags: c_int,
}

impl Control {
    /// Writes as many of these numbers as there is room for.
    fn put(&mut self, cmsg_type: c_int, numbers: impl ExactSizeIterator<Item = c_int>) {
        let size = size_of::<c_int>();
        if numbers.len() == 0 {
            return;
        }
        let room = self.left.saturating_sub(size_of::<cmsghdr>()) / size;
        let count = room.min(numbers.len());
        if count < numbers.len() {
            self.flags |= MSG_CTRUNC;
        }
        if count == 0 {
            return;
        }
        // SAFETY: these macros only compute.
        let (len, space) =
            unsafe { (CMSG_LEN((count * size) as u32), CMSG_SPACE((count * size) as u32)) };
        let header = cmsghdr { cmsg_len: len as usize, cmsg_level: SOL_SOCKET, cmsg_type };
        // SAFETY: there is room for the header and for `count` numbers.
        unsafe { self.to.cast::<cmsghdr>().write(header) };
        for (i, number) in numbers.take(count).enumerate() {
            let to = self.to.wrapping_add(size_of::<cmsghdr>() + i * size);
            // SAFETY: the same.
            unsafe { to.cast::<c_int>().write(number) };
        }
        let space = (space as usize).min(self.left);
        (self.to, self.left) = (self.to.wrapping_add(space), self.left - space);
    }
}
