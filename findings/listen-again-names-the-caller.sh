#!/usr/bin/env bash
# A listening Unix socket is inherited, as by socket activation. Which process does the kernel name as the peer
# of a client (SO_PEERCRED, SO_PEERPIDFD): the one that made the socket, the one that accepts, or the one that
# listens? It is the last one that has called listen(2), at the moment of the client's connect.
#
# Versions: Linux 6.18.44 (x86-64); Python 3.9 or newer, standard library alone.
# Seen, with SOCK_SEQPACKET and with SOCK_STREAM:
#   connection                                       SO_PEERCRED        SO_PEERPIDFD
#   queued before the child calls listen again       the parent         a pidfd of the parent
#   made after it                                    the child          a pidfd of the child
#   made when the child has died and was reaped      the dead child     a pidfd of no process (fdinfo: Pid: -1)
# The number of the dead child may name another process by then; the pidfd never does. accept(2) changes nothing.
# Why: listen copies the caller's credentials into the socket (net/unix/af_unix.c unix_listen), and connect
# copies them from there (unix_stream_connect).
# What follows: a service that was started on demand calls listen again, and a client that connected before must
# find its peer by the sender of the first packet (SCM_CREDENTIALS, SCM_PIDFD).
#
# Fails if a connection names another process, or if the pidfd of a reaped process is refused.
# Needs python3, and Linux 6.16 or newer for the last row.
set -euo pipefail
python3 - <<'PYTHON'
import os, socket, struct, tempfile

SO_PEERPIDFD = 77

def named(client):
    return struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]

def held(client):
    fd = client.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    lines = dict(line.split(":", 1) for line in open(f"/proc/self/fdinfo/{fd}"))
    os.close(fd)
    return int(lines["Pid"])

for kind in (socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
    path = os.path.join(tempfile.mkdtemp(), "socket")
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(path)
    listener.listen(8)

    def connect():
        client = socket.socket(socket.AF_UNIX, kind)
        client.connect(path)
        return client

    queued = connect()
    (told, tells), (ends, end) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        listener.listen(8)
        os.write(tells, b"x")
        os.read(ends, 1)
        os._exit(0)
    os.read(told, 1)
    after = connect()
    me = os.getpid()
    assert (named(queued), held(queued)) == (me, me)
    assert (named(after), held(after)) == (child, child)
    os.write(end, b"x")
    os.waitpid(child, 0)
    late = connect()
    assert (named(late), held(late)) == (child, -1), (named(late), held(late), child)
    for _ in range(3):
        listener.accept()
    assert (named(queued), named(after)) == (me, child)
print("as described")
PYTHON
