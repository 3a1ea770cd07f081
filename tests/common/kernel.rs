//! A kernel that refuses.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Runs `body` in a thread of its own, for which this system call ends with this error.
pub fn refusing<T: Send>(call: i64, errno: i32, body: impl FnOnce() -> T + Send) -> T {
    let refuse = || {
        let rules = [(call, Vec::new())].into_iter().collect();
        let (otherwise, then) = (SeccompAction::Allow, SeccompAction::Errno(errno as u32));
        let here = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, otherwise, then, here).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        body()
    };
    std::thread::scope(|scope| scope.spawn(refuse).join()).unwrap()
}
