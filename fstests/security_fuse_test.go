package fstests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// attackFUSE mounts a file system of the attacker's own, with one file whose
// FLUSH (close(2) sends it) and POLL (epoll_ctl(2) does) are never answered.
// OWNER is whose it is, by the ids of the user namespace.
const attackFUSE = `
import tempfile
dev = os.open(DEVICE, os.O_RDWR)
at = tempfile.mkdtemp()
if libc.mount(b"x", at.encode(), b"fuse", 6, b"fd=%d,rootmode=40000,user_id=%d,group_id=%d" % (dev, OWNER, OWNER)) != 0:
	raise OSError(ctypes.get_errno(), "mount")
def attr(ino): return struct.pack("QQQQQQIIIIIIIIII", ino, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755 if ino == 1 else 0o100666, 1, 0, 0, 0, 4096, 0)
def serve():
	while True:
		try: b = os.read(dev, 1 << 20)
		except OSError: return
		_, op, unique, ino = struct.unpack_from("IIQQ", b)
		error, body = 0, b""
		if op in (2, 42): continue
		elif op == 26: body = struct.pack("IIIIHHIIHHI", 7, 31, 65536, 0, 16, 12, 65536, 1, 0, 0, 0) + bytes(28)
		elif op == 1: body = struct.pack("QQQQII", 2, 1, 60, 60, 0, 0) + attr(2)
		elif op == 3: body = struct.pack("QII", 60, 0, 0) + attr(ino)
		elif op in (14, 27): body = struct.pack("QII", 1, 0, 0)
		elif op in (25, 40): continue
		else: error = -errno.ENOSYS
		try: os.write(dev, struct.pack("IiQ", 16 + len(body), error, unique) + body)
		except OSError: pass
if os.getuid() != OWNER:
	os.setgroups([]); os.setgid(OWNER); os.setuid(OWNER)
threading.Thread(target=serve, daemon=True).start()
trap = os.open(at + "/trap", os.O_RDWR | os.O_NONBLOCK)
`

// Closing a file may take as long as who serves it likes, and polling it, and
// that may be a user. The daemon touches none that a caller names: neither
// others wait for it nor its own end.
func TestFilesThatNeverCloseDoNotHoldTheDaemon(t *testing.T) {
	attackNeeds(t)
	// A user's own namespace, and what the set-uid fusermount gives him.
	t.Run("user namespace", func(t *testing.T) {
		testHostileFUSE(t, "0", func(cmd *exec.Cmd) *exec.Cmd { return AsUser(cmd, Nobody, Nobody) }, "unshare", "-Urm")
	})
	t.Run("fusermount", func(t *testing.T) {
		testHostileFUSE(t, strconv.Itoa(Nobody), func(cmd *exec.Cmd) *exec.Cmd { return cmd }, "unshare", "-m")
	})
}

func testHostileFUSE(t *testing.T, owner string, as func(*exec.Cmd) *exec.Cmd, in ...string) {
	// udev makes /dev/fuse 0666; not every machine has udev.
	device := filepath.Join(TempDir(t), "fuse")
	mustDo(t, unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))))
	mustDo(t, os.Chmod(device, 0o666))
	m := newAttackMount(t, Config{TOML: attackLab})
	leave := startAttack(t, as(m.python(t, `
fd = node("lab")
OWNER = `+owner+`
DEVICE = "`+device+`"
`+attackFUSE+`
def refused(fn, want):
	start = time.monotonic()
	try: fn(); raise AssertionError("not refused")
	except OSError as e: same(e.errno, want)
	check(time.monotonic() - start < 5, "took long")
refused(lambda: raw_msocket(fd, INET, STREAM, 0, trap, 1), errno.ENOTSOCK)
refused(lambda: raw_run(fd, trap), errno.EINVAL)
def give(fn):
	pid = os.fork()
	if pid == 0:
		os.close(dev)
		try: fn()
		except OSError: pass
		os._exit(0)
for i in range(100):
	give(lambda: raw_msocket(fd, INET, STREAM, 0, trap, 1))
	give(lambda: raw_run(fd, trap))
time.sleep(0.5)
print("sent", flush=True)
sys.stdin.read()
os.close(dev) # ends the connection
os._exit(0)
`, in...)))
	RunCmd(t, AsUser(m.python(t, `
start = time.monotonic()
for i in range(50): s, chan = msocket("lab"); ask(chan)
check(time.monotonic() - start < 5, "%.1f s" % (time.monotonic() - start))
`), 1001, 1001))
	gone := make(chan struct{})
	go func() { m.Kill(); close(gone) }()
	if !waitFor(8*time.Second, func() bool { return !mountAt(t, m.Dir) }) {
		t.Error("the mount of the dead daemon stays")
	}
	leave()
	<-gone
}
