//! The socket behind a client's descriptor.

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The connection of a client of this process. Its descriptor watches that, and its peer's process.
pub fn connection_of(client: &impl AsFd) -> OwnedFd {
    let watched = client.as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{watched}")).unwrap();
    let numbers = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
    let mut numbers = numbers.map(|line| line.split_whitespace().next().unwrap().parse().unwrap());
    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let dup = |number| pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).unwrap();
    let is_socket = |fd: &OwnedFd| rustix::net::sockopt::socket_type(fd).is_ok();
    numbers.by_ref().map(dup).find(is_socket).expect("a socket")
}
