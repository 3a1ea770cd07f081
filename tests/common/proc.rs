//! The kernel's view of a process.

use super::TIMEOUT;
use std::fs;
use std::time::Instant;

/// The bus's resources in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    pub sockets: usize,
    /// Descriptors of shared memory.
    pub memfds: usize,
    /// Its own shared memory: regions, and their length in bytes.
    pub own: (usize, usize),
    /// Other processes' shared memory that it has mapped.
    pub foreign: (usize, usize),
}

pub fn holdings(pid: i32) -> Holdings {
    let links: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    let count = |beginning: &str| links.iter().filter(|link| link.starts_with(beginning)).count();
    let mut found = Holdings {
        sockets: count("socket:"),
        memfds: count("/memfd:llmp"),
        own: (0, 0),
        foreign: (0, 0),
    };
    for line in maps(pid).lines().filter(|line| line.contains("memfd:llmp")) {
        let (range, rest) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let at = |hex| usize::from_str_radix(hex, 16).unwrap();
        let sum = if rest.starts_with("rw-s") { &mut found.own } else { &mut found.foreign };
        sum.0 += 1;
        sum.1 += at(to) - at(from);
    }
    found
}

pub fn maps(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/maps")).unwrap()
}

/// Returns the name of each thread of a process, its state, and its current system call.
pub fn threads(pid: i32) -> String {
    let read =
        |task: &std::path::Path, file| fs::read_to_string(task.join(file)).unwrap_or_default();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().filter_map(Result::ok);
    tasks
        .map(|task| {
            let (name, status) = (read(&task.path(), "comm"), read(&task.path(), "status"));
            let state = status.lines().find(|line| line.starts_with("State")).unwrap_or_default();
            let call = read(&task.path(), "syscall");
            format!("{}: {state}; system call {}\n", name.trim(), call.trim())
        })
        .collect()
}

/// Returns the number of threads of a process.
pub fn thread_count(pid: i32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap();
    count.trim().parse().unwrap()
}

/// Returns the number of descriptors of a process.
pub fn descriptor_count(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Returns the number of descriptors beside the standard streams that a child of this process
/// inherits.
pub fn inherited_count() -> usize {
    let is_inherited = |entry: &fs::DirEntry| {
        let number = entry.file_name().to_string_lossy().parse::<i32>().unwrap();
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("0");
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        number > 2 && flags & rustix::fs::OFlags::CLOEXEC.bits() == 0
    };
    fs::read_dir("/proc/self/fdinfo").unwrap().flatten().filter(is_inherited).count()
}

/// Returns the fields of `/proc/PID/stat` after the name. The first is the state.
fn stat(pid: i32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').map(str::to_owned).collect()
}

pub fn is_asleep(pid: i32) -> bool {
    stat(pid)[0] == "S"
}

/// Waits until the process sleeps and nothing wakes it at once. The kernel reports no event for
/// that, so the process must appear asleep many times in a row.
#[track_caller]
pub fn wait_asleep(pid: i32) {
    let mut last = activity(pid);
    let mut same = 0;
    wait_until("it sleeps", || {
        let now = activity(pid);
        same = if is_asleep(pid) && now == last { same + 1 } else { 0 };
        last = now;
        same == 100
    });
}

/// Waits for something in `/proc`, of which there are no events.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out before {what}");
        std::thread::yield_now();
    }
}

/// Processor time of all threads in clock ticks, and how often they were woken.
pub fn activity(pid: i32) -> (u64, u64) {
    let stat = stat(pid);
    let ticks = stat[11].parse::<u64>().unwrap() + stat[12].parse::<u64>().unwrap();
    let mut switches = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        // A thread that has ended meanwhile does nothing any more.
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        for line in status.lines().filter(|line| line.contains("ctxt_switches")) {
            switches += line.rsplit('\t').next().unwrap().parse::<u64>().unwrap();
        }
    }
    (ticks, switches)
}

/// Returns the System V segments that one of these processes has made. Nothing else could be left
/// over, because all other shared memory is in memfds.
pub fn left_behind(pids: &[i32]) -> Vec<String> {
    let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let creator = |line: &&str| line.split_whitespace().nth(4).and_then(|pid| pid.parse().ok());
    let ours = segments.lines().filter(|line| creator(line).is_some_and(|p| pids.contains(&p)));
    ours.map(str::to_owned).collect()
}
