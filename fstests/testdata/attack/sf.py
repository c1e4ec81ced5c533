"""What the attacks share: the node ABI of stackfs in plain Python.

An attack is a few lines of Python that run as an ordinary user. It ends with
an exception, and so with an exit code other than 0, when stackfs does
something else than the attack expects.
"""
import array
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

MOUNT = os.environ.get("SF_MOUNT", "")

VERSION, INFO, MSOCKET, RUN = 0xC02053C0, 0xC06853C1, 0xC03053C2, 0xC02853C3
MAKE = 1
CLOSED = 1
SENT, SELF = 0, 1

SO_COOKIE, SO_NETNS_COOKIE = 57, 71
SO_PASSRIGHTS = 83
SO_PASSPIDFD = 76
INET, INET6, NETLINK, PACKET, UNIX = 2, 10, 16, 17, 1
STREAM, DGRAM, RAW, SEQPACKET = 1, 2, 3, 5
ICMP = 1

libc = ctypes.CDLL(None, use_errno=True)


def check(ok, text):
    if not ok:
        raise AssertionError(text)


def same(got, want, what=""):
    if got != want:
        raise AssertionError("%s: got %r, want %r" % (what, got, want))


def expect(name, fn, *args, **kw):
    """fn must fail with that errno; name may list several."""
    try:
        got = fn(*args, **kw)
    except OSError as e:
        if errno.errorcode[e.errno] not in name.split():
            raise AssertionError("got %s, want %s" % (errno.errorcode[e.errno], name)) from e
        return e.errno
    raise AssertionError("got %r, want %s" % (got, name))


def node(name):
    return os.open(os.path.join(MOUNT, name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def cookie(fd):
    s = fd if isinstance(fd, socket.socket) else socket.socket(fileno=os.dup(fd))
    return struct.unpack("Q", s.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]


def netns_cookie(s):
    return struct.unpack("Q", s.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0]


def pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def raw_msocket(fd, domain, typ, proto, reply_fd, reply_cookie, flags=MAKE, resv=(0, 0, 0, 0)):
    """The ioctl as it is; returns the result field."""
    b = bytearray(struct.pack("iiiIQiI4I", domain, typ, proto, flags, reply_cookie, reply_fd, 0, *resv))
    fcntl.ioctl(fd, MSOCKET, b, True)
    return struct.unpack("iiiIQiI4I", b)[6]


def receive(conn):
    """One reply: seq, error, flags and the sockets in it."""
    msg, fds, _, _ = socket.recv_fds(conn, 64, 4)
    if not msg:
        raise EOFError("the channel is closed")
    seq, error, flags, _ = struct.unpack("IiII", msg)
    return seq, error, flags, [socket.socket(fileno=fd) for fd in fds]


def msocket(where, domain=INET, typ=STREAM, proto=0, flags=MAKE):
    """A socket and its channel. where: name or open node."""
    fd = node(where) if isinstance(where, str) else where
    keep, give = pair()
    try:
        with give:
            result = raw_msocket(fd, domain, typ, proto, give.fileno(), cookie(give), flags)
        same(result, SENT, "result")
        seq, error, replied, got = receive(keep)
        keep.close()
        same((seq, error), (0, 0), "first reply")
        same(len(got), 1 if replied & CLOSED else 2, "descriptors")
        return got if len(got) == 2 else (got[0], None)
    finally:
        if isinstance(where, str):
            os.close(fd)


def request(chan, domain=INET, typ=STREAM, proto=0, seq=1, flags=0, resv=0):
    chan.send(struct.pack("IIiiiI", seq, flags, domain, typ, proto, resv))


def ask(chan, domain=INET, typ=STREAM, proto=0, seq=1, flags=0, resv=0):
    """A further socket on a channel; raises OSError with the daemon's errno."""
    request(chan, domain, typ, proto, seq, flags, resv)
    got, error, _, socks = receive(chan)
    same(got, seq, "seq")
    if error:
        raise OSError(error, os.strerror(error))
    same(len(socks), 1, "descriptors")
    return socks[0]


def owner(s):
    return os.fstat(s.fileno()).st_uid


def info(fd):
    b = bytearray(104)
    fcntl.ioctl(fd, INFO, b, True)
    kind, flags, families, ns, name = struct.unpack("IIQQ64s16x", b)
    return kind, flags, families, ns, name.rstrip(b"\0").decode()


def raw_run(fd, listener, families=1 << INET, flags=0, resv=(0, 0, 0, 0)):
    b = bytearray(struct.pack("iIQQ4I", listener, flags, families, 0, *resv))
    fcntl.ioctl(fd, RUN, b, True)
    return struct.unpack("iIQQ4I", b)[3]


def unshare(flags):
    if libc.unshare(flags) != 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))


CLONE_FILES, CLONE_NEWUSER, CLONE_NEWNET = 0x400, 0x10000000, 0x40000000


def child(fn):
    """Runs fn in a forked process; its failure is ours."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fn()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    same(status, 0, "status of the child")


def attribute(kind, data):
    raw = struct.pack("HH", 4 + len(data), kind) + data
    return raw + b"\0" * (-len(raw) % 4)


def new_link(name, netns_pid=0):
    """An RTM_NEWLINK that adds a veth link, there or where netns_pid is."""
    kind = attribute(18, attribute(1, b"veth"))  # IFLA_LINKINFO, IFLA_INFO_KIND
    where = attribute(19, struct.pack("I", netns_pid)) if netns_pid else b""  # IFLA_NET_NS_PID
    body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + attribute(3, name.encode() + b"\0") + kind + where
    return struct.pack("IHHII", 16 + len(body), 16, 0x605, 1, 0) + body  # request, ack, create, exclusive


def netlink_ask(s, message):
    """Sends a request and returns the errno of the answer."""
    s.send(message)
    return netlink_answer(s)


def netlink_answer(s):
    s.settimeout(10)
    answer = s.recv(8192)
    return -struct.unpack_from("IHHIIi", answer)[5]
