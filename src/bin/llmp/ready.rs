//! Reports that the broker is ready: to a script through a descriptor, to a supervisor through its
//! socket.

use crate::failure::Failure;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// Writes `ready PATH` to a descriptor that this process has inherited.
pub fn write_line(fd: u32, path: &Path) -> Result<(), Failure> {
    let line = format!("ready {}\n", path.display());
    let written = match fd {
        0 => Err(io::Error::other("this is standard input")),
        1 => io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush()),
        2 => io::stderr().write_all(line.as_bytes()),
        // Opened anew, which needs no unsafe code.
        _ => OpenOptions::new()
            .append(true)
            .open(format!("/proc/self/fd/{fd}"))
            .and_then(|mut file| file.write_all(line.as_bytes())),
    };
    written.map_err(|error| Failure::usage(format!("cannot write to --ready-fd {fd}: {error}")))
}

/// Returns whether systemd or another supervisor has started this process and listens.
pub fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Notifies systemd or another supervisor, if one listens (sd_notify(3)).
pub fn tell_supervisor(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let name = name.as_encoded_bytes();
    let send = || -> io::Result<()> {
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(Path::new(std::str::from_utf8(name).unwrap_or("")))?,
        };
        let socket = UnixDatagram::unbound()?;
        // A supervisor that does not read must not hold up the broker.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    };
    if let Err(error) = send() {
        log::warn!("cannot send {state} to the supervisor at NOTIFY_SOCKET: {error}");
    }
}
