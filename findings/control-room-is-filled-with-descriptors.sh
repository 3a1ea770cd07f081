#!/usr/bin/env bash
# How many descriptors recvmsg(2) takes from a Unix socket is decided by the room that is left in the control
# buffer, and not by what the caller has reserved the room for. CMSG_SPACE of one descriptor takes two. Room
# that was reserved for a time is filled with descriptors as well. With SO_TIMESTAMP the kernel writes the
# time first: in a buffer for one descriptor the time takes the room, and all descriptors are dropped.
#
# Versions: Linux 6.18.44 (x86-64); Python 3.9 or newer, standard library alone.
# Seen, a packet with 30 descriptors, control buffer of CMSG_SPACE(4) and these bytes more:
#   +0: 2 descriptors; with SO_TIMESTAMP a cut time of 8 bytes and none
#   +32: 10 descriptors; with SO_TIMESTAMP the time and 2
#   +64: 18 descriptors; with SO_TIMESTAMP the time and 10
#   MSG_CTRUNC is set each time.
# Why: scm_detach_fds() divides what is left of msg_controllen by the size of an int (net/core/scm.c), and
# sock_recv_timestamp() runs before it.
# What follows: a process that bounds what a peer may place in its descriptor table counts the room of the
# whole buffer, padding included. A buffer with too much room by 32 bytes takes 8 descriptors more.
#
# Fails if that changes. Needs python3.
set -euo pipefail
python3 - <<'PYTHON'
import os, socket

SO_TIMESTAMP = 29
sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
null = os.open("/dev/null", os.O_RDONLY)

def received(more, stamped):
    """The lengths of the time and of the descriptors, in bytes, as a peek finds them."""
    receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, stamped)
    socket.send_fds(sender, [b"x"], [null] * 30)
    _, control, flags, _ = receiver.recvmsg(1, socket.CMSG_SPACE(4) + more, socket.MSG_PEEK)
    receiver.recv(1)
    assert flags & socket.MSG_CTRUNC
    lengths = {kind: len(data) for _, kind, data in control}
    return lengths.get(SO_TIMESTAMP, 0), lengths.get(socket.SCM_RIGHTS, 0) // 4

seen = {(more, stamped): received(more, stamped) for more in (0, 32, 64) for stamped in (0, 1)}
for (more, stamped), (time, descriptors) in seen.items():
    print(f"+{more:2} bytes, SO_TIMESTAMP {stamped}: {time} bytes of time, {descriptors} descriptors")
assert [seen[more, 0] for more in (0, 32, 64)] == [(0, 2), (0, 10), (0, 18)], seen
assert [seen[more, 1] for more in (0, 32, 64)] == [(8, 0), (16, 2), (16, 10)], seen
PYTHON
