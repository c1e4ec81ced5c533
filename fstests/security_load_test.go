package fstests

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// capabilityTable reads the table of capabilities in caps_linux.go, or in
// README.md, as a set of bits.
func capabilityTable(t *testing.T, file, from, to string) (set uint64) {
	t.Helper()
	root, err := moduleRoot()
	mustDo(t, err)
	text, err := os.ReadFile(filepath.Join(root, file))
	mustDo(t, err)
	_, part, ok := strings.Cut(string(text), from)
	part, _, ok2 := strings.Cut(part, to)
	if !ok || !ok2 {
		t.Fatalf("%s: no table between %q and %q", file, from, to)
	}
	numbers := map[string]int{
		"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_DAC_READ_SEARCH": 2, "CAP_FOWNER": 3, "CAP_FSETID": 4,
		"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SETPCAP": 8, "CAP_NET_BIND_SERVICE": 10,
		"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_CHROOT": 18, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21,
		"CAP_SYS_NICE": 23, "CAP_SYS_RESOURCE": 24, "CAP_MKNOD": 27,
	}
	for _, name := range regexp.MustCompile(`CAP_[A-Z_]+`).FindAllString(part, -1) {
		n, ok := numbers[name]
		if !ok {
			t.Fatalf("%s: %s is not known to this test", file, name)
		}
		set |= 1 << n
	}
	return set
}

// checkCapabilities compares every thread of a process with a table.
func checkCapabilities(t *testing.T, pid int, want uint64) {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if len(files) == 0 {
		t.Errorf("process %d has no threads", pid)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread ended
		}
		sets := map[string]uint64{}
		var name string
		sc := bufio.NewScanner(bytes.NewReader(text))
		for sc.Scan() {
			key, value, _ := strings.Cut(sc.Text(), ":")
			if strings.HasPrefix(key, "Cap") {
				sets[key], err = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
				mustDo(t, err)
			}
			if key == "Name" {
				name = strings.TrimSpace(value)
			}
		}
		if sets["CapPrm"] != want || sets["CapEff"]&^want != 0 || sets["CapInh"] != 0 || sets["CapAmb"] != 0 || sets["CapBnd"]&^want != 0 {
			t.Errorf("%s (%s): got %x, want permitted %x and nothing beyond", file, name, sets, want)
		}
	}
}

// The daemon and the keeper keep the capabilities that README.md lists, in
// all threads, whatever they have done.
func TestCapabilitiesAreThoseDocumented(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	daemon := capabilityTable(t, "cmd/stackfs/caps_linux.go", "var daemonCaps", "\n}")
	if readme := capabilityTable(t, "README.md", "| capability | for |", "\n\n"); readme != daemon {
		t.Errorf("README.md says %x, caps_linux.go %x", readme, daemon)
	}
	keeper := capabilityTable(t, "cmd/stackfs/caps_linux.go", "var keeperCaps", "\n}")
	check := func(when string) {
		t.Helper()
		checkCapabilities(t, m.PID(), daemon)
		checkCapabilities(t, m.Keeper(), keeper)
		if t.Failed() {
			t.Fatal(when)
		}
	}
	// The keeper starts beside the daemon, which does not wait for it.
	WaitFor(t, leakTime, "the keeper has given up capabilities", func() bool {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", m.Keeper()))
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err == nil && !strings.Contains(string(text), fmt.Sprintf("CapPrm:\t%016x", keeper)) {
				return false
			}
		}
		return len(files) > 0
	})
	check("at first")
	const load = `
fd = node("lab")
def work():
	s, chan = msocket(fd)
	for i in range(60):
		msocket(fd); msocket(fd, INET, DGRAM, 17); msocket(fd, NETLINK, RAW); ask(chan)
		try: msocket(fd, INET, RAW, ICMP)
		except PermissionError: pass
threads = [threading.Thread(target=work) for i in range(4)]
for x in threads: x.start()
for x in threads: x.join()
print("sent", flush=True)
sys.stdin.read()
`
	user := AsUser(m.python(t, load), 1001, 1001, 5, 6)
	leaveUser := startAttack(t, user)
	check("while a user has channels")
	leaveRoot := startAttack(t, m.python(t, load))
	check("while root has channels")
	m.attack(t, load, Binary(t), "run", "--no-resolv", m.Path("lab"), "--")
	m.MustCtl("add x {addresses = [\"192.0.2.9/24\"]}")
	check("after a stack was added")
	m.MustCtl("remove x")
	leaveUser()
	leaveRoot()
	check("after load")
}

// A user who takes all that he can get is refused more, and another user
// does not notice.
func TestGreedyUserDoesNotHoldUpAnother(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	const victim = `
def median(n):
	times = []
	fd = node("lab")
	s, chan = msocket(fd)
	for i in range(n):
		start = time.monotonic()
		ask(chan).close(); msocket(fd)
		times.append(time.monotonic() - start)
		time.sleep(0.002)
	times.sort()
	return times[len(times) // 2], times[len(times) * 99 // 100]
print("%f %f" % median(COUNT))
`
	measure := func() (mid, p99 float64) {
		t.Helper()
		out := RunCmd(t, AsUser(m.python(t, strings.ReplaceAll(victim, "COUNT", fmt.Sprint(max(100, Scale(300))))), 1001, 1001))
		if _, err := fmt.Sscan(out, &mid, &p99); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		return mid, p99
	}
	quietMid, quiet := measure()
	for name, code := range map[string]string{
		"channels": `
refused = 0
while refused < 20:
	try: keep.append(msocket(fd))
	except OSError as e:
		check(e.errno in (errno.EMFILE, errno.EAGAIN), str(e)); refused += 1
check(200 < len(keep) < 5000, "%d channels" % len(keep))
`,
		"unreceived sockets": `
for i in range(400):
	s, chan = msocket(fd)
	chan.setblocking(False)
	try:
		for j in range(50): request(chan)
	except (BlockingIOError, BrokenPipeError, ConnectionResetError): pass
	keep.append(chan)
`,
		"answers on the pair that nobody takes": `
refused = 0
for i in range(3000):
	a, b = pair()
	try: raw_msocket(fd, INET, STREAM, 0, b.fileno(), cookie(b)); keep.append(a)
	except OSError as e:
		check(e.errno in (errno.EMFILE, errno.EAGAIN), str(e)); refused += 1
check(refused > 0, "3000 answers wait")
`,
		"half-made requests": `
for i in range(500):
	s, chan = msocket(fd)
	try: chan.send(b"half")
	except OSError: pass
	keep.append(chan)
`,
		"ioctls without end": `
stop = time.monotonic() + 2
def spin():
	while time.monotonic() < stop:
		for f in (lambda: raw_msocket(fd, INET, STREAM, 0, 1, 1), lambda: raw_run(fd, 0), lambda: raw_run(fd, -1), lambda: info(fd)):
			try: f()
			except OSError: pass
for i in range(3): threading.Thread(target=spin).start()
`,
		"runs": `
SET_MODE_FILTER, NEW_LISTENER = 1, 8
def listener():
	# Notify of socket(2), nr 41 on x86-64; allow the rest.
	code = struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x15, 0, 1, 41) + struct.pack("HBBI", 0x06, 0, 0, 0x7fc00000) + struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000)
	buf = ctypes.create_string_buffer(code, len(code))
	prog = struct.pack("HxxxxxxQ", 4, ctypes.addressof(buf))
	same(libc.prctl(38, 1, 0, 0, 0), 0)
	n = libc.syscall(317, SET_MODE_FILTER, NEW_LISTENER, ctypes.create_string_buffer(prog, len(prog)))
	if n < 0: raise OSError(ctypes.get_errno(), "seccomp")
	return n
me = []
def child_with_run():
	a, b = socket.socketpair()
	pid = os.fork()
	if pid == 0:
		a.close()
		try:
			n = listener()
			raw_run(fd, n); os.close(n); b.send(b"\0")
		except OSError as e: b.send(bytes([e.errno & 255]))
		signal.pause(); os._exit(0)
	b.close(); me.append(pid)
	return a.recv(1)[0]
got = [child_with_run() for i in range(270)]
same(got.count(0), 256, "runs"); same(set(got), {0, errno.EMFILE}, "errors")
keep.extend(me)
`,
	} {
		t.Run(name, func(t *testing.T) {
			cmd := AsUser(m.python(t, `
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
keep = []
fd = node("lab")
`+code+`
print("sent", flush=True)
sys.stdin.read()
for x in keep:
	if isinstance(x, int): os.kill(x, signal.SIGKILL)
os._exit(0)
`), Nobody, Nobody)
			leave := startAttack(t, cmd)
			mid, p99 := measure()
			t.Logf("median %.3f ms, p99 %.3f ms; alone %.3f, %.3f", mid*1e3, p99*1e3, quietMid*1e3, quiet*1e3)
			if limit := max(0.05, 10*quiet) * SlowBy(); p99 > limit {
				t.Errorf("another user waits for %.1f ms, %.1f ms when alone", p99*1e3, quiet*1e3)
			}
			leave()
		})
	}
	WaitFor(t, 10*time.Second, "the channels and runs of the attacker are gone", func() bool {
		st := m.Status("lab")
		return st["channels"] == "0" && st["runs"] == "0"
	})
}

// Signals neither interrupt a request half-way nor leave anything behind.
func TestSignalStorms(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	m.attack(t, `
fd = node("lab")
signal.signal(signal.SIGURG, lambda *a: None)
me = os.getpid()
pid = os.fork()
if pid == 0:
	try:
		while True: os.kill(me, signal.SIGURG)
	finally: os._exit(0)
try:
	interrupted = 0
	for i in range(300):
		try:
			s, chan = msocket(fd); ask(chan)
			same(netns_cookie(s), info(fd)[3])
		except OSError as e:
			same(errno.errorcode[e.errno], "EINTR"); interrupted += 1
	check(interrupted < 30, "%d of 300 interrupted" % interrupted)
finally:
	os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
`)
	WaitFor(t, 10*time.Second, "no channel is left", func() bool { return m.Status("lab")["channels"] == "0" })
}

// A configuration that others can change is not obeyed.
func TestConfigOfOthersIsRefused(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	for what, spoil := range map[string]func() func(){
		"writable": func() func() {
			mustDo(t, os.Chmod(m.Config, 0o666))
			return func() { mustDo(t, os.Chmod(m.Config, 0o644)) }
		},
		"of a user": func() func() {
			mustDo(t, os.Chown(m.Config, Nobody, 0))
			return func() { mustDo(t, os.Chown(m.Config, 0, 0)) }
		},
		"in a directory of a user": func() func() {
			dir := filepath.Dir(m.Config)
			mustDo(t, os.Chown(dir, Nobody, 0))
			return func() { mustDo(t, os.Chown(dir, 0, 0)) }
		},
	} {
		undo := spoil()
		if answer, err := m.Ctl("reload"); err == nil || !strings.Contains(answer, "others than root can change it") {
			t.Errorf("%s: got %q, %v", what, answer, err)
		}
		undo()
	}
	m.MustCtl("reload")
	names, err := os.ReadDir(m.Dir)
	mustDo(t, err)
	if !slices.ContainsFunc(names, func(e os.DirEntry) bool { return e.Name() == "lab" }) {
		t.Error("lab is gone")
	}
}
