#!/usr/bin/env bash
# How a sender learns whether a Unix socket's peer has taken the descriptors that were sent to it. The kernel
# counts those that wait, for one user over all sockets, and refuses more than RLIMIT_NOFILE with
# ETOOMANYREFS; it tells nobody which peer keeps them. SIOCOUTQ says it to the sender: it falls to exactly
# 0 when everything is read, as it counts the packets' memory, not their bytes. MSG_PEEK gives the reader
# copies and frees nothing. In /proc/PID/fdinfo the *receiver's* socket has the count, `scm_fds`.
#
# Versions: Linux 6.18.44 (x86-64); Python 3.9 or newer, standard library alone.
# Seen: three packets of one byte with a descriptor each: SIOCOUTQ 2304, scm_fds 3 at the receiver and 0 at
# the sender; after MSG_PEEK the same; with each packet read 768 and 1 less; at the end 0 and 0.
# Why: unix_outq_len() is sk_wmem_alloc, which each packet holds until its reader frees it
# (net/unix/af_unix.c); unix_show_fdinfo() looks through the receive queue.
# What follows: a broker can bound the descriptors in flight of each peer, without a message of the peer's.
#
# Fails if that changes. Needs python3.
set -euo pipefail
python3 - <<'PYTHON'
import array, fcntl, os, socket, struct, termios

sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
null = os.open("/dev/null", os.O_RDONLY)
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null]))]

def unread():
    return struct.unpack("i", fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4)))[0]  # SIOCOUTQ

def waiting(end):
    with open(f"/proc/self/fdinfo/{end.fileno()}") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("scm_fds"))

assert unread() == 0
for _ in range(3):
    sender.sendmsg([b"x"], rights)
one = unread() // 3
assert one > 1, "memory of packets, not their bytes"
assert (unread(), waiting(sender), waiting(receiver)) == (3 * one, 0, 3)
copies = receiver.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_PEEK)[1]
assert len(copies) == 1 and (unread(), waiting(receiver)) == (3 * one, 3), "a peek frees nothing"
for left in 2, 1, 0:
    receiver.recv(1)
    assert (unread(), waiting(receiver)) == (left * one, left)
print("as described, Linux", os.uname().release)
PYTHON
