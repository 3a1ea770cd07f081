//! A broker whose stderr no process reads.

use crate::{Process, TIMEOUT, llmp};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};

/// Fills the pipe. It is blocking before and after.
fn fill(pipe: &PipeWriter) {
    let flags = fcntl_getfl(pipe).unwrap();
    assert!(!flags.contains(OFlags::NONBLOCK));
    fcntl_setfl(pipe, flags | OFlags::NONBLOCK).unwrap();
    while rustix::io::write(pipe, b"filling\n") != Err(Errno::AGAIN) {}
    fcntl_setfl(pipe, flags).unwrap();
}

/// A connection that is ended for its first packet.
fn fault(path: &str) {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::send(&socket, b"?", SendFlags::NOSIGNAL).unwrap();
    while !matches!(rustix::net::recv(&socket, &mut [0; 64], RecvFlags::empty()), Ok((_, 0))) {}
}

/// Starts a broker that writes to this pipe.
fn broker(path: &str, stderr: &PipeWriter) -> Process {
    let mut command = llmp(&["broker", path, "--ready-fd", "1"]);
    let mut broker = Process::start(command.stderr(stderr.try_clone().unwrap()));
    let mut ready = String::new();
    let stdout = broker.child().stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut ready).unwrap();
    assert!(ready.starts_with("ready "), "{ready}");
    broker
}

/// Reads lines up to one that contains `text`.
fn lines_until(reader: &mut BufReader<PipeReader>, text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "no '{text}' in {lines:?}");
        lines.push(line);
        if lines.last().is_some_and(|line| line.contains(text)) {
            return lines;
        }
    }
}

// P9, P12
#[test]
fn a_broker_with_an_unread_log_serves_its_clients_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    let (reader, writer) = std::io::pipe().unwrap();
    fill(&writer);
    let mut broker = broker(&path, &writer);
    let mut sender = llmp::Client::connect_sender(path.as_str()).unwrap();
    let mut receiver = llmp::Client::connect_receiver(path.as_str()).unwrap();
    let mut exchange = || {
        sender.send(1, b"goes on").unwrap();
        let message = receiver.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(message.expect("the bus stands still").payload, b"goes on");
    };
    for _ in 0..3000 {
        fault(&path);
        exchange();
    }
    // Others that have this pipe block on it as before.
    assert!(!fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
    // When the log is read again, the next line counts the lost lines.
    let mut reader = BufReader::new(reader);
    let mut filling = fill_len(&reader);
    while filling > 0 {
        let mut bytes = vec![0; filling];
        reader.read_exact(&mut bytes).unwrap();
        assert!(bytes.starts_with(b"filling\n") && bytes.ends_with(b"filling\n"));
        filling = fill_len(&reader);
    }
    // More lines may have been left out than a second may have.
    std::thread::sleep(std::time::Duration::from_millis(100));
    fault(&path);
    let lines = lines_until(&mut reader, "is disconnected before it has joined");
    let missing = lines[0].strip_prefix("llmp: warn: ").unwrap().split(' ').next().unwrap();
    assert!(
        missing.parse::<u32>().unwrap() >= 3000 && lines[0].contains("are missing"),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 2, "{lines:?}");
    exchange();
    fill(&writer);
    broker.signal(Signal::TERM);
    assert_eq!(broker.output().status.code(), Some(0));
}

/// Returns the number of bytes in the pipe.
fn fill_len(reader: &BufReader<PipeReader>) -> usize {
    rustix::io::ioctl_fionread(reader.get_ref()).unwrap() as usize
}

#[test]
fn an_unread_socket_as_stderr_delays_no_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    // As a supervisor's log has it.
    let flags = SocketFlags::CLOEXEC;
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let (theirs, ours): (OwnedFd, OwnedFd) = pair.unwrap();
    while rustix::net::send(&theirs, &[b'x'; 64], SendFlags::DONTWAIT) != Err(Errno::AGAIN) {}
    let mut command = llmp(&["broker", &path, "--ready-fd", "1"]);
    let mut broker = Process::start(command.stderr(theirs.as_fd().try_clone_to_owned().unwrap()));
    let stdout = broker.child().stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut String::new()).unwrap();
    (0..100).for_each(|_| fault(&path));
    drop(llmp::Client::connect(path.as_str()).unwrap());
    broker.signal(Signal::TERM);
    assert_eq!(broker.output().status.code(), Some(0));
    drop(ours);
}
