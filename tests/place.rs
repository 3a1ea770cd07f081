//! The process that holds a bus's place: forks, threads, and a kernel that refuses. `cli/place.rs`
//! tests the view of a user.

mod common;
#[allow(dead_code, reason = "a part of it is used")]
#[path = "common/kernel.rs"]
mod kernel;

use common::bus::{Bus, Place};
use common::child::ROLE;
use common::proc::wait_until;
use common::roles::{say, told};
use llmp::{BindError, Broker, Client, LockError, Receiver};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    let Ok(words) = std::env::var(ROLE) else { return };
    match words.lines().collect::<Vec<_>>()[..] {
        ["forking-broker", path, drops] => forking_broker(path, drops == "true"),
        ["attempt", path] => attempt(path),
        ["contender", path] => contender(path),
        _ => common::roles::play(),
    }
}

/// Binds a broker and forks. The forked process drops the broker or keeps it.
#[allow(unsafe_code)]
fn forking_broker(path: &str, drops: bool) {
    let broker = Broker::bind(path).unwrap();
    // SAFETY: the forked process calls nothing that needs another thread of this one.
    let forked = unsafe { libc::fork() };
    if forked == 0 {
        // SAFETY: has no preconditions. It outlives its test by a minute at most.
        unsafe { libc::alarm(60) };
        if drops {
            drop(broker);
            // SAFETY: has no preconditions.
            unsafe { libc::_exit(0) };
        }
        loop {
            // SAFETY: has no preconditions.
            unsafe { libc::pause() };
        }
    }
    if drops {
        let pid = Pid::from_raw(forked).unwrap();
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
    }
    say(format_args!("forked {forked}"));
    told();
    drop(broker);
    say("dropped");
    told();
}

/// Tries to become the broker.
fn attempt(path: &str) {
    match Broker::bind(path) {
        Ok(_) => say("holder none"),
        Err(BindError::InUse { process, .. }) => say(format_args!("holder {process:?}")),
        Err(error) => say(format_args!("error {error}")),
    }
}

/// Takes the place and leaves it, again and again, and marks while it holds it.
fn contender(path: &str) {
    let mark = format!("{path}.mark");
    let (mut taken, begin) = (0, Instant::now());
    while begin.elapsed() < Duration::from_secs(1) {
        match Receiver::listen(path) {
            Ok(listener) => {
                taken += 1;
                let marked = std::fs::File::create_new(&mark);
                if marked.is_err() {
                    return say("beside another one");
                }
                std::thread::yield_now();
                std::fs::remove_file(&mark).unwrap();
                drop(listener);
            }
            Err(BindError::InUse { .. }) => {}
            Err(error) => return say(format_args!("error {error}")),
        }
    }
    say(format_args!("taken {taken}"));
}

/// Returns the process that another process finds at the place.
fn holder(place: &Place) -> String {
    place.child("attempt", &[]).says("holder")
}

fn lock_of(place: &Place) -> PathBuf {
    place.path().with_extension("sock.lock")
}

/// Returns whether the kernel has a lock of this process on the file.
fn is_locked(file: &Path, process: i32) -> bool {
    let inode = format!(":{} ", std::fs::metadata(file).unwrap().ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks.lines().any(|line| line.contains(&inode) && line.contains(&format!(" {process} ")))
}

// P7
#[test]
fn a_killed_broker_is_replaced_at_once_though_its_fork_lives() {
    let place = Place::new();
    let mut broker = place.child("forking-broker", &[&false]);
    let forked = Pid::from_raw(broker.says("forked").parse().unwrap()).unwrap();
    broker.kill();
    let begin = Instant::now();
    let next = Broker::bind(place.path()).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    // It still holds the old listener.
    kill_process(forked, Signal::KILL).expect("the fork lives");
    serve(next, &place);
}

fn serve(broker: Broker, place: &Place) {
    let stop = broker.stop_handle();
    let thread = std::thread::spawn(move || broker.run());
    Client::connect(place.path()).unwrap();
    stop.stop();
    thread.join().unwrap().unwrap();
}

// P7
#[test]
fn a_fork_that_drops_the_broker_removes_nothing_of_its_parent() {
    let place = Place::new();
    let mut broker = place.child("forking-broker", &[&true]);
    broker.says("forked");
    assert!(place.path().exists() && lock_of(&place).exists());
    assert_eq!(holder(&place), format!("Some({})", broker.pid()));
    broker.tell("drop");
    broker.says("dropped");
    assert!(!place.path().exists() && !lock_of(&place).exists());
}

// P7
#[test]
fn a_second_broker_of_a_process_leaves_the_first_ones_lock() {
    let place = Place::new();
    let own = std::process::id();
    let first = Broker::bind(place.path()).unwrap();
    for _ in 0..3 {
        let second = Broker::bind(place.path()).err().unwrap();
        assert!(
            matches!(second, BindError::InUse { process: Some(process), .. } if process == own)
        );
        assert!(second.to_string().contains("(in this process)"), "{second}");
        assert!(matches!(Receiver::listen(place.path()), Err(BindError::InUse { .. })));
        assert_eq!(holder(&place), format!("{:?}", Some(own)));
    }
    // The file names it, too.
    let content = std::fs::read(lock_of(&place)).unwrap();
    assert_eq!((content.len() % 4096, &content[..8]), (0, &b"LLMPlock"[..]));
    assert_eq!(content[16..20], own.to_le_bytes());
    assert!(content[24..32] != [0; 8]);
    drop(first);
    assert!(!lock_of(&place).exists());
    assert_eq!(holder(&place), "none");
}

// P7
#[test]
fn a_lock_that_other_code_released_is_acquired_again() {
    let bus = Bus::new(Broker::builder());
    let lock = bus.path().with_extension("sock.lock");
    let own = std::process::id() as i32;
    for _ in 0..20 {
        // While the broker locks it once more, the kernel's list may lack it for a moment.
        wait_until("the file is locked", || is_locked(&lock, own));
        // It closes a descriptor of the file, and the kernel releases the lock.
        std::fs::read(&lock).unwrap();
        wait_until("the file is locked again", || is_locked(&lock, own));
    }
}

// The holder removes the file, and another process may have opened it before.
#[test]
fn a_contended_place_has_at_most_one_holder() {
    let place = Place::new();
    let mut contenders = [(); 4].map(|()| place.child("contender", &[]));
    for contender in &mut contenders {
        let said = contender.line().expect("a word");
        let taken = said.strip_prefix("taken ").and_then(|taken| taken.parse::<u32>().ok());
        assert!(taken.is_some_and(|taken| taken > 10), "{said}");
    }
}

// P7
#[test]
fn a_channels_listener_holds_its_place_like_a_broker() {
    let place = Place::new();
    let listener = Receiver::listen(place.path()).unwrap();
    assert_eq!(holder(&place), format!("{:?}", Some(std::process::id())));
    drop(listener);
    assert!(!place.path().exists() && !lock_of(&place).exists());
}

#[test]
fn a_file_system_without_locks_or_room_is_an_error_that_says_so() {
    let place = Place::new();
    for (call, errno, text) in [
        (libc::SYS_fcntl, libc::ENOLCK, "does not lock files"),
        (libc::SYS_fallocate, libc::ENOSPC, "make room"),
        (libc::SYS_fallocate, libc::EDQUOT, "make room"),
    ] {
        let error = kernel::refusing(call, errno, || Broker::bind(place.path()).err().unwrap());
        assert!(error.to_string().contains(text), "{error}");
        let is_lock = matches!(
            error,
            BindError::Lock { source: LockError::Unsupported(_) | LockError::NoRoom(_), .. }
        );
        assert!(is_lock && !place.path().exists());
    }
    // Without support for allocation in advance, the file is written.
    let broker = kernel::refusing(libc::SYS_fallocate, libc::EOPNOTSUPP, || {
        Receiver::listen(place.path()).map(drop)
    });
    broker.unwrap();
    serve(Broker::bind(place.path()).unwrap(), &place);
}
