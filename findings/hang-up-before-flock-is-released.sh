#!/usr/bin/env bash
# A process is killed. Its peer sees the hang-up of their socket and takes over: it tries the lock that the
# dead process held. With a record lock (fcntl F_SETLK) that always works. With flock(2) it depends on the
# numbers of the two descriptors: if the lock's is lower than the socket's, the hang-up comes first, by
# milliseconds when many descriptors lie between them.
#
# Versions: Linux 6.18.44 (x86-64); Python 3.9 or newer, standard library alone.
# Seen, 40 deaths each, with 5,000 descriptors between the lock's and the socket's:
#                                   at the hang-up, still locked      when the pidfd is readable, still locked
#   record lock, lower or higher    never                             never
#   flock, lock's number higher     never                             never
#   flock, lock's number lower      in 29 of 40, for up to 5 ms       never
# Why: a dying process closes its descriptors in ascending order. A record lock is released by that close
# (fs/file.c filp_close, fs/locks.c locks_remove_posix). A socket's hang-up and a flock belong to the file,
# whose last reference is dropped later, by task work that runs in the opposite order (fs/file_table.c fput).
# The pidfd becomes readable after all of that (kernel/exit.c do_exit, exit_files before exit_notify).
# What follows: a candidate that is woken by a hang-up may try a record lock once. With flock it must try
# again, or wait for the pidfd.
#
# Fails if a record lock outlives the hang-up, or any lock the pidfd; and if flock never outlives the hang-up.
# Needs python3 and a limit of 5,100 descriptors.
set -euo pipefail
python3 - <<'PYTHON'
import fcntl, os, resource, select, signal, socket, struct, tempfile

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
path = os.path.join(tempfile.mkdtemp(), "lock")
FLOCK = "hhqqi4x"  # struct flock

def record_locked(fd):
    question = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return struct.unpack(FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, question))[0] != fcntl.F_UNLCK

def flocked(fd):
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False

def holds(lock, theirs, lock_is_lower, ready):
    """The process that dies."""
    def take():
        lock(os.open(path, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX | fcntl.LOCK_NB)
    def between():
        return [os.open("/dev/null", os.O_RDONLY) for _ in range(5000)]
    if lock_is_lower:
        take()
        between()
        os.dup(theirs)
        os.close(theirs)
    else:
        between()
        take()
    os.write(ready, b"x")
    while True:
        signal.pause()

def still_locked(lock, is_locked, lock_is_lower, by_pidfd):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, ready = os.pipe()
    process = os.fork()
    if process == 0:
        ours.close()
        holds(lock, theirs.detach(), lock_is_lower, ready)
    theirs.close()
    os.read(reading, 1)
    fd, pidfd = os.open(path, os.O_RDWR), os.pidfd_open(process)
    assert is_locked(fd), "it lives"
    os.kill(process, signal.SIGKILL)
    select.select([pidfd if by_pidfd else ours], [], [])
    answer = is_locked(fd)
    os.waitpid(process, 0)
    for descriptor in reading, ready, fd, pidfd:
        os.close(descriptor)
    ours.close()
    return answer

for name, lock, is_locked in ("record lock", fcntl.lockf, record_locked), ("flock", fcntl.flock, flocked):
    for lower in False, True:
        for by_pidfd in False, True:
            found = sum(still_locked(lock, is_locked, lower, by_pidfd) for _ in range(40))
            number = "lower" if lower else "higher"
            print(f"{name}, number {number}, {'pidfd' if by_pidfd else 'hang-up'}: {found} of 40 still locked")
            assert (found > 0) == (name == "flock" and lower and not by_pidfd)
print("as described, Linux", os.uname().release)
PYTHON
