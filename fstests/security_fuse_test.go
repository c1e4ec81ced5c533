package fstests

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// attackFUSE mounts a file system of the attacker's own, with one file whose
// FLUSH (close(2) sends it) is never answered.
const attackFUSE = `
import tempfile
dev = os.open(DEVICE, os.O_RDWR)
at = tempfile.mkdtemp()
if libc.mount(b"x", at.encode(), b"fuse", 6, b"fd=%d,rootmode=40000,user_id=0,group_id=0" % dev) != 0:
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
		elif op == 25: continue
		else: error = -errno.ENOSYS
		try: os.write(dev, struct.pack("IiQ", 16 + len(body), error, unique) + body)
		except OSError: pass
threading.Thread(target=serve, daemon=True).start()
trap = os.open(at + "/trap", os.O_RDWR)
`

// Closing a file may take as long as who serves it likes, and that may be a
// user. What the daemon fetched from a caller must hold up neither others
// nor the end of the daemon.
func TestFilesThatNeverCloseDoNotHoldTheDaemon(t *testing.T) {
	attackNeeds(t)
	// udev makes /dev/fuse 0666; not every machine has udev.
	device := filepath.Join(TempDir(t), "fuse")
	mustDo(t, unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))))
	mustDo(t, os.Chmod(device, 0o666))
	m := newAttackMount(t, Config{TOML: attackLab})
	leave := startAttack(t, AsUser(m.python(t, `
fd = node("lab")
DEVICE = "`+device+`"
`+attackFUSE+`
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
`, "unshare", "-Urm"), Nobody, Nobody))
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
