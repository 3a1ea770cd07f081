#!/usr/bin/env bash
# SO_PASSRIGHTS (Linux 6.16): a receiver that turns it off still gets the descriptors that were queued
# before. Only later ones are refused, and it is the sender that hears of it: EPERM, and the bytes of that
# packet are not sent either. The option works for one end; the other end goes on receiving descriptors.
#
# Versions: Linux 6.18.44 (x86-64); Python 3.9 or newer, standard library alone.
# Seen, the same for SOCK_SEQPACKET, SOCK_STREAM and SOCK_DGRAM:
#   sent before the option was turned off: received, with its descriptor, no MSG_CTRUNC
#   sent afterwards: EPERM at the sender, nothing at the receiver; a packet without descriptor passes
# Why: the check is made when a packet is sent (net/unix/af_unix.c), against the receiver's flag.
# What follows: a server that turns it off right after accept() may have got descriptors already. It must
# still be able to close them. And a protocol that turns it off after a handshake must expect those that
# came during it.
#
# Fails if that changes, or if the kernel is older. Needs python3.
set -euo pipefail
python3 - <<'PYTHON'
import array, errno, os, socket

SO_PASSRIGHTS = 83  # asm-generic; not in Python's socket module
null = os.open("/dev/null", os.O_RDONLY)
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null]))]

def received(end):
    data, control, flags, _ = end.recvmsg(64, socket.CMSG_SPACE(4), socket.MSG_DONTWAIT)
    return data, len(control), flags & socket.MSG_CTRUNC

for kind in socket.SOCK_SEQPACKET, socket.SOCK_STREAM, socket.SOCK_DGRAM:
    sender, receiver = socket.socketpair(socket.AF_UNIX, kind)
    assert receiver.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS) == 1, "on by default"
    sender.sendmsg([b"before"], rights)
    receiver.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    assert received(receiver) == (b"before", 1, 0), "what was queued before arrives"
    try:
        sender.sendmsg([b"after"], rights)
        raise SystemExit("a descriptor was sent to an end that refuses them")
    except OSError as error:
        assert error.errno == errno.EPERM, error
    sender.send(b"plain")
    assert received(receiver) == (b"plain", 0, 0), "nothing of the refused packet was sent"
    receiver.sendmsg([b"back"], rights)
    assert received(sender) == (b"back", 1, 0), "the other end still takes them"
print("as described, Linux", os.uname().release)
PYTHON
