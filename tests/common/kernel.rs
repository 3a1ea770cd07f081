//! A kernel that refuses.

use std::time::{Duration, Instant};

/// Runs `body` in a thread of its own, for which this system call ends with this error.
pub fn refusing<T: Send>(call: i64, errno: i32, body: impl FnOnce() -> T + Send) -> T {
    let refuse = || {
        refuse(call, errno);
        body()
    };
    std::thread::scope(|scope| scope.spawn(refuse).join()).unwrap()
}

/// Has the kernel refuse this system call in the calling thread.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn refuse(call: i64, errno: i32) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let rules = [(call, Vec::new())].into_iter().collect();
    let (otherwise, then) = (SeccompAction::Allow, SeccompAction::Errno(errno as u32));
    let here = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, otherwise, then, here).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

/// `seccompiler` has no filters for other machines, so that such a test fails there.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
fn refuse(call: i64, errno: i32) {
    panic!("no filter for system call {call} and error {errno} on {}", std::env::consts::ARCH);
}

/// Runs what has to wait, in this thread: it uses no more than a fourth of that time of a processor.
pub fn idling<T>(body: impl FnOnce() -> T) -> T {
    let (begin, used) = (Instant::now(), thread_time());
    let result = body();
    let (waited, used) = (begin.elapsed(), thread_time() - used);
    assert!(used < waited / 4, "{used:?} of processor time in {waited:?} of waiting");
    result
}

/// The processor time that the calling thread has used.
fn thread_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}
