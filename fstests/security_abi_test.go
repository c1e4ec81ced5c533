package fstests

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Whatever a caller names as its reply socket, the daemon answers on nothing
// but an end of an unnamed pair, and goes on.
func TestForgedReplySockets(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	for name, code := range map[string]string{
		"not open": `
for n in (-1, -2, 999, 1 << 20, 2**31 - 1, -2**31): expect("EBADF", raw_msocket, fd, INET, STREAM, 0, n, 1)`,
		"a file": `
for path in "/etc/passwd", "/", "/dev/null", "/proc/self/mem", MOUNT + "/lab":
	f = os.open(path, os.O_RDONLY)
	expect("ENOTSOCK EBADF", raw_msocket, fd, INET, STREAM, 0, f, 1)
f = os.open("/etc/passwd", os.O_PATH)
expect("ENOTSOCK EBADF", raw_msocket, fd, INET, STREAM, 0, f, 1)
expect("ENOTSOCK EBADF", raw_msocket, fd, INET, STREAM, 0, fd, 1)`,
		"a pipe": `
r, w = os.pipe()
expect("ENOTSOCK", raw_msocket, fd, INET, STREAM, 0, w, 1)`,
		"other sockets": `
for domain, typ in ((INET, STREAM), (INET, DGRAM), (INET6, STREAM), (UNIX, STREAM), (UNIX, DGRAM), (NETLINK, RAW), (UNIX, SEQPACKET)):
	s = socket.socket(domain, typ)
	expect("EPROTOTYPE", raw_msocket, fd, INET, STREAM, 0, s.fileno(), cookie(s))
for typ in socket.SOCK_STREAM, socket.SOCK_DGRAM:
	a, b = socket.socketpair(UNIX, typ)
	expect("EPROTOTYPE", raw_msocket, fd, INET, STREAM, 0, b.fileno(), cookie(b))`,
		"a server": `
import tempfile
for name in "\0stackfs-attack-%d" % os.getpid(), os.path.join(tempfile.mkdtemp(), "server"), "":
	l = socket.socket(UNIX, SEQPACKET); l.bind(name); l.listen(5)
	c = socket.socket(UNIX, SEQPACKET); c.connect(l.getsockname())
	a, _ = l.accept()
	for s in l, c, a: expect("EPROTOTYPE", raw_msocket, fd, INET, STREAM, 0, s.fileno(), cookie(s))
	a.setblocking(False)
	expect("EAGAIN", a.recv, 100)
keep, end = pair()
end.bind("\0stackfs-bound-%d" % os.getpid())
expect("EPROTOTYPE", raw_msocket, fd, INET, STREAM, 0, end.fileno(), cookie(end))`,
		"another cookie": `
keep, end = pair(); other, _ = pair()
for c in 0, cookie(keep), cookie(other), cookie(end) ^ 1, 2**64 - 1:
	expect("EBADF", raw_msocket, fd, INET, STREAM, 0, end.fileno(), c)
keep.setblocking(False)
expect("EAGAIN", keep.recv, 100)`,
		"full": `
keep, end = pair()
end.setblocking(False)
try:
	while True: end.send(b"x" * 1000)
except BlockingIOError: pass
end.setblocking(True)
expect("EAGAIN", raw_msocket, fd, INET, STREAM, 0, end.fileno(), cookie(end))`,
		"dead peer": `
keep, end = pair(); keep.close()
expect("EPIPE ECONNRESET", raw_msocket, fd, INET, STREAM, 0, end.fileno(), cookie(end))
keep, end = pair(); end.shutdown(socket.SHUT_RDWR)
expect("EPIPE", raw_msocket, fd, INET, STREAM, 0, end.fileno(), cookie(end))
keep, end = pair(); keep.shutdown(socket.SHUT_RD)
expect("EPIPE", raw_msocket, fd, INET, STREAM, 0, end.fileno(), cookie(end))`,
		"both ends": `
a, b = pair()
for end in a, b, a, b: same(raw_msocket(fd, INET, STREAM, 0, end.fileno(), cookie(end)), SENT)
for end in a, b, a, b: same(len(receive(end)[3]), 2)`,
		"its options": `
for opt in socket.SO_PASSCRED, SO_PASSPIDFD, SO_PASSRIGHTS, socket.SO_PASSSEC:
	for value in 0, 1:
		keep, end = pair()
		for s in keep, end:
			try: s.setsockopt(socket.SOL_SOCKET, opt, value)
			except OSError: pass
		try: same(raw_msocket(fd, INET, STREAM, 0, end.fileno(), cookie(end)), SENT)
		except PermissionError: check(opt == SO_PASSRIGHTS and value == 0, "EPERM for %d" % opt)
keep, end = pair(); end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
raw_msocket(fd, INET, STREAM, 0, end.fileno(), cookie(end))`,
		"cycles": `
# Sockets that are sent over themselves are the kernel's to collect.
for i in range(50):
	_, chan = msocket(fd)
	try: socket.send_fds(chan, [b"x"], [chan.fileno()])
	except PermissionError: pass
	a, b = pair()
	socket.send_fds(a, [b"x"], [a.fileno(), b.fileno()])
	raw_msocket(fd, INET, STREAM, 0, b.fileno(), cookie(b))`,
	} {
		t.Run(name, func(t *testing.T) {
			m.attack(t, "fd = node('lab')\n"+code+"\nmsocket(fd)")
		})
	}
}

// Every request that the ABI does not define is refused.
func TestMalformedRequests(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	for name, code := range map[string]string{
		"sizes": `
for nr in range(0xc0, 0xd0):
	for size in (0, 1, 4, 16, 31, 32, 33, 39, 40, 41, 47, 48, 49, 64, 104, 105, 4096, 8192, 16383):
		for direction in (0, 1, 2, 3):
			cmd = direction << 30 | size << 16 | ord("S") << 8 | nr
			if cmd not in (VERSION, INFO, MSOCKET, RUN, 0xc03053c5): # LISTEN: on fast
				expect("ENOTTY", fcntl.ioctl, fd, cmd, bytearray(max(size, 16384)), True)
for cmd in (0x5401, 0x541b, 0x5411, 0, 0xffffffff):
	expect("ENOTTY EINVAL EFAULT EOPNOTSUPP", fcntl.ioctl, fd, cmd, bytearray(16384), True)`,
		"other files": `
for path in "/ctl", "/lab/type", "/lab/status", "":
	try: f = os.open(MOUNT + path, os.O_RDONLY)
	except PermissionError: continue
	for cmd, size in (VERSION, 32), (INFO, 104), (MSOCKET, 48), (RUN, 40):
		expect("ENOTTY", fcntl.ioctl, f, cmd, bytearray(size), True)`,
		"reserved": `
keep, end = pair()
for i in range(4):
	resv = [0] * 4; resv[i] = 1
	expect("EINVAL", raw_msocket, fd, INET, STREAM, 0, end.fileno(), cookie(end), MAKE, resv)
	expect("EINVAL", raw_run, fd, -1, 1 << INET, 0, resv)
	expect("EINVAL", fcntl.ioctl, fd, VERSION, bytearray(struct.pack("IIQ4I", 0, 0, 0, *resv)), True)
	expect("EINVAL", fcntl.ioctl, fd, INFO, bytearray(88) + bytearray(struct.pack("4I", *resv)), True)
for bit in range(1, 32):
	expect("EINVAL", raw_msocket, fd, INET, STREAM, 0, end.fileno(), cookie(end), 1 << bit)
	expect("EINVAL", raw_run, fd, -1, 1 << INET, 1 << bit)
keep.setblocking(False); expect("EAGAIN", keep.recv, 1)`,
		"sockets": `
for domain in (-1, 0, 3, 38, 40, 45, 46, 255, 2**31 - 1, -2**31, 0x73746b66):
	expect("EAFNOSUPPORT", msocket, fd, domain, STREAM)
for typ in (-2, 0, 6, 7, 9, 11, 15, 16, 0x10000, 2**31 - 1, -2**31):
	expect("EINVAL ESOCKTNOSUPPORT EPROTONOSUPPORT", msocket, fd, INET, typ)
for proto in (-1, 256, 1000, 2**31 - 1, -2**31):
	expect("EINVAL EPROTONOSUPPORT", msocket, fd, INET, STREAM, proto)
expect("EINVAL", msocket, fd, INET, -1)
expect("EAFNOSUPPORT", msocket, fd, 40, -1)`,
		"channel": `
def closed(message, *rights):
	_, chan = msocket(fd)
	try: chan.sendmsg([message], rights)
	except PermissionError: return
	chan.settimeout(10)
	same(chan.recv(100), b"", "after %d bytes" % len(message))
good = struct.pack("IIiiiI", 1, 0, INET, STREAM, 0, 0)
for n in (1, 4, 16, 23, 25, 48, 4096, 100000): closed((good * 5000)[:n])
closed(b"")
r, w = os.pipe()
closed(good, (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", r)))
_, chan = msocket(fd)
expect("EINVAL", ask, chan, seq=0)
for bit in range(32):
	expect("EINVAL", ask, chan, flags=1 << bit); expect("EINVAL", ask, chan, resv=1 << bit)
expect("ESTALE", ask, chan, UNIX); expect("ESTALE", ask, chan, INET, RAW, ICMP); expect("ESTALE", ask, chan, PACKET, RAW)
expect("ESTALE", ask, chan, NETLINK, RAW); expect("ESTALE", ask, chan, INET, DGRAM, ICMP); expect("ESTALE", ask, chan, INET, -1)
expect("ESTALE", ask, chan, -1, STREAM); expect("ESTALE", ask, chan, INET, STREAM | 0x10000)
for seq in (1, 2**32 - 1, 1): same(netns_cookie(ask(chan, seq=seq)), info(fd)[3])`,
		"run": `
expect("EBADF", raw_run, fd, 999)
r, w = os.pipe()
keep, end = pair()
null = os.open("/dev/null", os.O_RDONLY); me = os.pidfd_open(os.getpid())
for n in (r, w, null, me, fd, keep.fileno(), 0): expect("EINVAL EBADF", raw_run, fd, n)
expect("EINVAL", raw_run, fd, r, 0); expect("EINVAL", raw_run, fd, -1, 0); expect("EINVAL", raw_run, fd, -1, 1 << UNIX)
# A ticket is for who is under a run.
check(raw_run(fd, -1) != 0, "no ticket")
libc.socket.restype = ctypes.c_int
expect("EAFNOSUPPORT EINVAL", socket.socket, 0x73746b66, 1, 1)`,
	} {
		t.Run(name, func(t *testing.T) {
			m.attack(t, "fd = node('lab')\n"+code+"\nmsocket(fd)")
		})
	}
}

// A ticket is good once, for the process that got it, on any stack that this
// process may open.
func TestTicketsCannotBeForged(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab + "[stack.other]\nmode = \"0755\"\n[stack.secret]\n"})
	m.attack(t, `
def hand_in(ticket):
	fd = libc.socket(ctypes.c_int(0x73746b66), ctypes.c_int(ticket & 0xffffffff), ctypes.c_int(ticket >> 32))
	if fd < 0: raise OSError(ctypes.get_errno(), "ticket")
	return fd
expect("EACCES", node, "secret")
for guess in (0, 1, 2**63, 2**64 - 1, 0x1234): expect("ESRCH", hand_in, guess)
other = node("other")
# Another process' ticket.
t = raw_run(other, -1)
child(lambda: expect("ESRCH EPERM", hand_in, t))
# Its own, but it has the mount namespace of the outer run.
expect("EPERM ESRCH", hand_in, raw_run(other, -1))
# What was used, rightly or wrongly, is used up.
expect("ESRCH", hand_in, t)
same(netns_cookie(socket.socket()), info(node("lab"))[3], "the stack after all this")
# Thousands of tickets are refused or forgotten, and hold up nobody.
refused = 0
start = time.monotonic()
for i in range(2000):
	try: raw_run(other, -1)
	except OSError as e:
		check(e.errno in (errno.EAGAIN, errno.EMFILE), str(e)); refused += 1
check(refused > 0, "2000 tickets for one user")
`, Binary(t), "run", "--no-resolv", m.Path("lab"), "--")
}

// What a run remembers of those nested in it stays small, however many there
// have been: the keeper takes it as one message, and a keeper that is lost
// takes the mount with it.
func TestManyNestedRuns(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab + "[stack.other]\nmode = \"0755\"\n"})
	keeper := m.Keeper()
	m.asRoot(t, fmt.Sprintf(`
other = node("other")
cookies = [info(node("lab"))[3], info(other)[3]]
same(netns_cookie(socket.socket()), cookies[0])
for i in range(%d):
	unshare(0x20000)
	ticket = raw_run(other, -1)
	same(libc.socket(ctypes.c_int(0x73746b66), ctypes.c_int(ticket & 0xffffffff), ctypes.c_int(ticket >> 32)), 0, "ticket %%d" %% i)
	same(netns_cookie(socket.socket()), cookies[1])
`, Scale(1500)), Binary(t), "run", "--no-resolv", m.Path("lab"), "--")
	if now := children(m.PID()); len(now) != 1 || now[0] != keeper {
		t.Errorf("the keeper is %v now, %d before", now, keeper)
	}
	m.attack(t, `msocket("lab")`)
}

// The requests work from any namespace that a process can get into with an
// open node, except that kernel serves only its own network.
func TestRequestsFromOtherNamespaces(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	const works = `
s, chan = msocket("lab"); ask(chan)
same(netns_cookie(s), info(node("lab"))[3])
`
	const foreign = `
fd = node("kernel")
expect("EACCES", msocket, fd); expect("EACCES", msocket, fd, INET, STREAM, 0, 0); expect("EACCES", raw_run, fd, -1)
for domain, typ in ((INET, DGRAM), (INET6, STREAM), (NETLINK, RAW), (PACKET, RAW), (UNIX, STREAM)): expect("EACCES", msocket, fd, domain, typ)
same(info(fd)[1] & 1, 0, "STACKFS_INFO_SELF")
`
	for _, wrap := range [][]string{
		{"unshare", "-Ur"}, {"unshare", "-Um"}, {"unshare", "-Urpf", "--mount-proc"}, {"unshare", "-Urm"}, {"unshare", "-UrpfC"},
	} {
		m.attack(t, works, wrap...)
	}
	m.attack(t, works+foreign, "unshare", "-Urn")
	m.asRoot(t, works+foreign, "unshare", "-n")
	m.asRoot(t, works, "unshare", "-mpf", "--mount-proc")
	t.Run("kernel after unshare with everything open", func(t *testing.T) {
		const code = `
fd = node("kernel")
s, chan = msocket(fd)
same(owner(s), os.getuid())
s.close()
check(chan is None, "a channel of kernel")
keep, end = pair()
same(raw_msocket(fd, INET, STREAM, 0, end.fileno(), cookie(end), 0), SELF)
raw_msocket(fd, INET, STREAM, 0, end.fileno(), cookie(end))
_, _, flags, socks = receive(keep)
same((flags & CLOSED, len(socks)), (CLOSED, 1))
end.close()
unshare(FLAGS)
expect("EACCES", msocket, fd); expect("EACCES", msocket, fd, INET, STREAM, 0, 0)
expect("EACCES", msocket, node("kernel"))
try:
	keep.send(struct.pack("IIiiiI", 1, 0, INET, STREAM, 0, 0))
	keep.settimeout(10)
	same(keep.recv(100), b"", "an answer on the pair")
except (BrokenPipeError, ConnectionResetError): pass
# One thread alone is elsewhere: the others are not.
`
		m.attack(t, "FLAGS = CLONE_NEWUSER | CLONE_NEWNET\n"+code)
		m.asRoot(t, "FLAGS = CLONE_NEWNET\n"+code)
	})
	t.Run("one thread elsewhere", func(t *testing.T) {
		m.asRoot(t, `
fd = node("kernel")
gone = []
def elsewhere():
	unshare(CLONE_NEWNET)
	expect("EACCES", msocket, fd)
	gone.append(1)
x = threading.Thread(target=elsewhere); x.start(); x.join()
same(gone, [1]); msocket(fd)
`)
	})
	t.Run("another pid namespace's numbers", func(t *testing.T) {
		// From above a pid namespace the daemon sees its processes; not the
		// other way round.
		daemon := m.PID()
		m.asRoot(t, fmt.Sprintf(`
pid = os.getpid()
check(pid != %d, "not in a pid namespace")
msocket("lab")
`, daemon), "unshare", "-pf")
	})
}

// A thread may have a table of descriptors of its own, and the first thread
// of a process may have ended.
func TestRequestsOfThreads(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	m.attack(t, `
done = []
fd = node("lab")
def own_table():
	unshare(CLONE_FILES)
	for i in range(100): os.dup(fd)
	s, chan = msocket(fd); ask(chan)
	done.append(s)
x = threading.Thread(target=own_table); x.start(); x.join()
same(len(done), 1, "sockets for a thread with descriptors of its own")
`)
	m.attack(t, `
fd = node("lab")
r, w = os.pipe()
pid = os.fork()
if pid == 0:
	def after():
		time.sleep(0.3) # the first thread has ended
		try:
			s, chan = msocket(fd); ask(chan); os.write(w, b"ok")
		except BaseException as e: os.write(w, repr(e).encode())
		finally: os._exit(0)
	threading.Thread(target=after).start()
	libc.syscall(60, 0) # exit, of this thread alone
os.close(w)
same(os.read(r, 1000), b"ok", "a thread whose process has lost its first")
os.waitpid(pid, 0)
`)
}

// 32-bit programs use the same numbers and structures.
func Test32BitCallers(t *testing.T) {
	Require(t, Compiler32)
	m := newAttackMount(t, Config{TOML: attackLab})
	bin := Compile(t, filepath.Join("testdata", "attack", "abi.c"), "-m32", "-I../stacknode/uapi")
	for _, name := range []string{bin, Compile(t, filepath.Join("testdata", "attack", "abi.c"), "-I../stacknode/uapi")} {
		RunCmd(t, AsUser(Command(t, 20*time.Second, name, m.Path("lab"), m.Status("lab")["netns_cookie"]), Nobody, Nobody))
	}
}

// What the kernel keeps from users, by the modes of the tree.
func TestUsersCannotChangeTheTree(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab + "[stack.secret]\n[stack.mine]\nowner = 65534\nmode = \"0700\"\n"})
	m.attack(t, `
for mode in os.O_RDONLY, os.O_WRONLY, os.O_RDWR: expect("EACCES", os.open, MOUNT + "/ctl", mode)
expect("EACCES EPERM", os.mkdir, MOUNT + "/x"); expect("EACCES EPERM", os.rmdir, MOUNT + "/lab"); expect("EACCES EPERM", os.rmdir, MOUNT + "/mine")
expect("EACCES EPERM", os.rename, MOUNT + "/lab", MOUNT + "/y"); expect("EACCES EPERM EROFS", os.symlink, "/etc", MOUNT + "/z")
expect("EACCES EPERM", os.mknod, MOUNT + "/n"); expect("EACCES EPERM", os.unlink, MOUNT + "/ctl")
for name in "lab", "secret", "kernel", "null", "ctl", "":
	path = os.path.join(MOUNT, name)
	expect("EPERM", os.chmod, path, 0o777); expect("EPERM", os.chown, path, 65534, -1); expect("EPERM", os.chown, path, -1, 65534)
	expect("EPERM EACCES ENODATA EOPNOTSUPP", os.setxattr, path, "user.stackfs.type", b"kernel")
	expect("EPERM EACCES ENODATA EOPNOTSUPP", os.removexattr, path, "user.stackfs.type")
	expect("EPERM EACCES", os.utime, path, (0, 0))
for name in "trusted.overlay.opaque", "security.capability", "user.other", "system.posix_acl_access":
	expect("ENODATA EOPNOTSUPP EPERM", os.getxattr, MOUNT + "/lab", name)
	expect("ENODATA EOPNOTSUPP EPERM EINVAL EACCES", os.setxattr, MOUNT + "/lab", name, b"x")
same(os.getxattr(MOUNT + "/lab", "user.stackfs.type"), b"netns")
# The owner may say who else, but not give it away.
os.chmod(MOUNT + "/mine", 0o711)
expect("EPERM", os.chown, MOUNT + "/mine", 0, -1)
for path in "/lab/type", "/lab/status":
	expect("EACCES", os.open, MOUNT + path, os.O_WRONLY); expect("EPERM", os.chmod, MOUNT + path, 0o777)
expect("EACCES EPERM", open, MOUNT + "/lab/new", "w")
# No way to a node around its mode.
expect("EACCES", node, "secret")
p = os.open(MOUNT + "/secret", os.O_PATH)
for path in "/proc/self/fd/%d" % p, MOUNT + "/lab/../secret", MOUNT + "/./secret/.":
	expect("EACCES", os.open, path, os.O_RDONLY)
expect("EACCES", os.open, "type", os.O_RDONLY, dir_fd=p); expect("EBADF", msocket, p)
expect("EACCES", os.open, MOUNT + "/secret/status", os.O_RDONLY)
# Not what the daemon keeps.
expect("EACCES", os.listdir, "/run/stackfs")
`)
	// A descriptor that root opened with O_PATH and left open is no way in.
	held, err := os.Open(m.Dir)
	mustDo(t, err)
	defer held.Close()
	cmd := AsUser(m.python(t, `
expect("EACCES", os.open, "secret", os.O_RDONLY, dir_fd=3)
expect("EACCES", os.open, "lab/../secret", os.O_RDONLY, dir_fd=3)
`), Nobody, Nobody)
	cmd.ExtraFiles = []*os.File{held}
	RunCmd(t, cmd)
	for _, dir := range []string{"/run/stackfs", m.runDir} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: got %v, %v, want mode 0700", dir, st.Mode(), err)
		}
	}
}

// Sockets belong to who makes them, also when that changes.
func TestSocketsBelongToTheCaller(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	m.attack(t, `
s, chan = msocket("lab")
same((owner(s), owner(ask(chan)), owner(msocket("lab", INET, DGRAM)[0]), owner(msocket("lab", NETLINK, RAW)[0])), (65534,) * 4)
s.bind(("127.0.0.1", 4321)); s.listen(1)
`)
	m.asRoot(t, `
s, chan = msocket("lab")
same(owner(ask(chan)), 0)
def changed(fn, uid):
	def run():
		fn()
		expect("ESTALE", ask, chan)
		expect("ESTALE", ask, chan)
		s, own = msocket("lab"); same((owner(s), owner(ask(own))), (uid, uid), "owner")
	child(run)
changed(lambda: os.setresuid(1234, 1234, 1234), 1234)
changed(lambda: os.setresgid(1234, 1234, 1234), 0)
changed(lambda: os.setresuid(1234, 0, 0), 0)
def effective():
	os.seteuid(1234)
	same(owner(msocket("lab")[0]), 1234); same(owner(msocket("lab", INET, DGRAM)[0]), 1234)
	expect("EPERM", msocket, "lab", INET, RAW, ICMP)
	os.seteuid(0); same(owner(msocket("lab")[0]), 0); msocket("lab", INET, RAW, ICMP)
child(effective)
`)
	// What the kernel's tables show.
	m.attack(t, `
import subprocess
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(1)
out = subprocess.run(["ss", "-ltneH"], stdout=subprocess.PIPE, text=True).stdout
check("uid:65534" in out, "ss: %r" % out)
`, Binary(t), "run", "--no-resolv", m.Path("lab"), "--")
}
