package fstests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A user cannot get raw or packet sockets of a stack whose namespace is not
// his, whatever he is in a user namespace of his own.
func TestRawSocketsAreForWhoMayHaveThem(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab + `
[stack.kernel]
grant = [{ users = [1007], allow = ["raw", "packet"] }]
[stack.granted]
mode = "0755"
grant = [{ users = [1003], allow = ["raw"] }, { groups = [1004], allow = ["packet"] }]
`})
	const refused = `
for name in "lab", "kernel":
	fd = node(name)
	for domain, typ, proto in ((INET, RAW, ICMP), (INET6, RAW, 58), (INET, RAW, 255), (PACKET, RAW, 0), (PACKET, DGRAM, 0), (INET, 10, 0x300)):
		expect("EPERM EACCES" if name == "kernel" else "EPERM EINVAL", msocket, fd, domain, typ, proto)
	if name == "lab": msocket(fd)[0].bind(("127.0.0.1", 0))
`
	t.Run("user", func(t *testing.T) {
		stdin := func() string {
			name, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", m.PID()))
			return name
		}
		before := stdin()
		m.attack(t, refused)
		if now := stdin(); now != before {
			t.Errorf("descriptor 0 of the daemon is %q, %q before", now, before)
		}
	})
	t.Run("unshare -Ur", func(t *testing.T) { m.attack(t, refused, "unshare", "-Ur") })
	t.Run("unshare -Urn", func(t *testing.T) { m.attack(t, refused, "unshare", "-Urn") })
	t.Run("root without capabilities", func(t *testing.T) {
		m.asRoot(t, refused, "setpriv", "--bounding-set=-all", "--inh-caps=-all")
	})
	t.Run("root", func(t *testing.T) {
		m.asRoot(t, `
for name in "lab", "kernel":
	msocket(name, INET, RAW, ICMP); msocket(name, PACKET, RAW, 0); msocket(name, PACKET, DGRAM, 0)
`)
	})
	t.Run("root of a user namespace of root's", func(t *testing.T) { m.asRoot(t, refused, "unshare", "-Un") })

	user := func(uid, gid uint32, groups []uint32, code string) {
		t.Helper()
		RunCmd(t, AsUser(m.python(t, code), uid, gid, groups...))
	}
	t.Run("grants", func(t *testing.T) {
		user(1003, 1003, nil, `
same(owner(msocket("granted", INET, RAW, ICMP)[0]), 1003)
msocket("granted", INET6, RAW, 58)
expect("EPERM", msocket, "granted", PACKET, RAW, 0)
expect("EPERM", msocket, "lab", INET, RAW, ICMP)
expect("EPERM", msocket, "kernel", INET, RAW, ICMP)
`)
		user(1005, 1005, []uint32{1, 1004}, `
msocket("granted", PACKET, RAW, 0)
expect("EPERM", msocket, "granted", INET, RAW, ICMP)
expect("EPERM", msocket, "lab", PACKET, RAW, 0)
`)
		user(1006, 1006, []uint32{1003}, `
expect("EPERM", msocket, "granted", INET, RAW, ICMP)
expect("EPERM", msocket, "granted", PACKET, RAW, 0)
`)
	})
	t.Run("grants over kernel", func(t *testing.T) {
		user(1007, 1007, nil, `msocket("kernel", INET, RAW, ICMP); msocket("kernel", PACKET, RAW, 0); expect("EPERM", msocket, "lab", INET, RAW, ICMP)`)
	})
}

// ownNamespace makes user and network namespaces of uid and returns a
// process in them.
func ownNamespace(t *testing.T, uid uint32) int {
	t.Helper()
	holder := AsUser(Command(t, 2*time.Minute, "unshare", "-Urn", "sleep", "120"), uid, uid)
	mustDo(t, holder.Start())
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	pid := holder.Process.Pid
	WaitFor(t, 10*time.Second, "the namespace", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return string(comm) == "sleep\n"
	})
	return pid
}

// Over a namespace that belongs to a user namespace of his own a user has
// every right, from inside and from where that was made; no other user has.
func TestOwnNamespaceGivesItsOwnerHisRights(t *testing.T) {
	attackNeeds(t)
	pid := ownNamespace(t, Nobody)
	m := newAttackMount(t, Config{TOML: fmt.Sprintf("[stack.his]\npid = %d\nmode = \"0755\"\n[stack.path]\npath = \"/proc/%d/ns/net\"\nmode = \"0755\"\n", pid, pid)})
	const rights = `
for name in "his", "path":
	msocket(name, INET, RAW, ICMP); msocket(name, PACKET, RAW, 0)
`
	const none = `
for name in "his", "path":
	msocket(name)
	expect("EPERM", msocket, name, INET, RAW, ICMP); expect("EPERM", msocket, name, PACKET, RAW, 0)
`
	t.Run("outside", func(t *testing.T) { m.attack(t, rights) })
	t.Run("inside", func(t *testing.T) {
		m.attack(t, rights, "nsenter", "-t", fmt.Sprint(pid), "-U", "-n", "--preserve-credentials")
	})
	t.Run("sibling", func(t *testing.T) { m.attack(t, none, "unshare", "-Ur") })
	t.Run("another user", func(t *testing.T) { RunCmd(t, AsUser(m.python(t, none), 1001, 1001)) })
	t.Run("another user's namespace", func(t *testing.T) { RunCmd(t, AsUser(m.python(t, none, "unshare", "-Urn"), 1001, 1001)) })
}

// A set-uid program that writes what its caller wants has root's rights only
// over what its caller could have opened with them.
func TestSetUIDWriterChangesNothing(t *testing.T) {
	Require(t, Compiler)
	attackNeeds(t)
	writer := filepath.Join(TempDir(t), "writer")
	mustDo(t, os.Rename(Compile(t, filepath.Join("testdata", "attack", "writer.c")), writer))
	mustDo(t, os.Chmod(writer, 0o755|os.ModeSetuid))
	pid := ownNamespace(t, Nobody)
	victim := NetNS(t)
	inside := victim.Command(2*time.Minute, "sleep", "120")
	mustDo(t, inside.Start())
	t.Cleanup(func() { _ = inside.Process.Kill(); _ = inside.Wait() })
	WaitFor(t, 10*time.Second, "a process in the victim's namespace", func() bool {
		a, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", inside.Process.Pid))
		b, _ := os.Readlink("/proc/self/ns/net")
		return err == nil && a != b
	})
	m := newAttackMount(t, Config{TOML: attackLab + fmt.Sprintf("[stack.his]\npid = %d\nmode = \"0755\"\n[stack.victim]\nnetns = %q\nmode = \"0755\"\n", pid, victim.Name)})

	code := fmt.Sprintf(`
import subprocess
WRITER, VICTIM, CODES = %q, %d, (0, 1)
def by_writer(s, message):
	"""The writer does it, with root's rights; returns the errno."""
	code = subprocess.run([WRITER, message.hex()], stdout=s.fileno()).returncode
	check(code in CODES, "the writer is not set-uid: %%d" %% code)
	return netlink_answer(s) if code == 0 else errno.EPERM
`, writer, inside.Process.Pid)
	links := func(n string, args ...string) string {
		return Run(t, 10*time.Second, "ip", append(args, "-o", "link", "show")...)
	}
	t.Run("user", func(t *testing.T) {
		m.attack(t, code+`
for name in "lab", "victim":
	s, _ = msocket(name, NETLINK, RAW, 0)
	same(netlink_ask(s, new_link("sfevil0")), errno.EPERM, "his own write")
	same(by_writer(s, new_link("sfevil1")), errno.EPERM, "the writer's")
	same(by_writer(s, new_link("sfevil2", VICTIM)), errno.EPERM, "the writer's, elsewhere")
`)
	})
	t.Run("unshare -Ur", func(t *testing.T) {
		m.attack(t, code+`
s, _ = msocket("lab", NETLINK, RAW, 0)
same(netlink_ask(s, new_link("sfevil3")), errno.EPERM, "his own write")
`, "unshare", "-Ur")
	})
	t.Run("owner of another namespace", func(t *testing.T) {
		// Over his own he has rights, but not to put links elsewhere.
		m.attack(t, code+`
s, _ = msocket("his", NETLINK, RAW, 0)
same(netlink_ask(s, new_link("sfown0")), 0, "his own link")
same(netlink_ask(s, new_link("sfevil4", VICTIM)), errno.EPERM, "his own write")
same(by_writer(s, new_link("sfevil5", VICTIM)), errno.EPERM, "the writer's")
`)
	})
	t.Run("run", func(t *testing.T) {
		script := fmt.Sprintf(`exec(open(%q).read())`, writeFile(t, code+`
s = socket.socket(NETLINK, socket.SOCK_RAW, 0)
check(netns_cookie(s) == info(node("lab"))[3], "not a socket of lab")
same(netlink_ask(s, new_link("sfevil6")), errno.EPERM, "his own write")
CODES = (2,) # set-uid bits have no effect under a filter of a user's
by_writer(s, new_link("sfevil7"))
`))
		cmd := m.python(t, script, Binary(t), "run", "--no-resolv", m.Path("lab"), "--")
		RunCmd(t, AsUser(cmd, Nobody, Nobody))
	})
	t.Run("root", func(t *testing.T) {
		m.asRoot(t, code+`
s, _ = msocket("lab", NETLINK, RAW, 0)
same(netlink_ask(s, new_link("sfroot0")), 0, "root's write")
same(by_writer(s, new_link("sfroot1")), 0, "the writer's")
`)
		m.asRoot(t, `same(netlink_ask(socket.socket(NETLINK, socket.SOCK_RAW, 0), new_link("sfroot2")), 0)`, Binary(t), "run", m.Path("lab"), "--")
		if got := Run(t, 10*time.Second, Binary(t), "run", m.Path("lab"), "--", "ip", "-o", "link", "show"); !strings.Contains(got, ": sfroot0@") || !strings.Contains(got, ": sfroot1@") || !strings.Contains(got, ": sfroot2@") {
			t.Errorf("root's links are not all there:\n%s", got)
		}
	})
	for _, where := range []string{
		links("host"), links("victim", "-n", victim.Name),
		Run(t, 10*time.Second, Binary(t), "run", m.Path("lab"), "--", "ip", "-o", "link", "show"),
	} {
		if strings.Contains(where, "sfevil") {
			t.Errorf("a user added a link:\n%s", where)
		}
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(TempDir(t), "code.py")
	mustDo(t, os.WriteFile(name, []byte(text), 0o644))
	return name
}

// Ping sockets look at the groups of who makes them, in the namespace of the
// stack.
func TestPingSocketsFollowTheCallersGroups(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab + `
[stack.ping]
mode = "0755"
sysctl = { "net.ipv4.ping_group_range" = "1010 1019" }
[stack.none]
mode = "0755"
sysctl = { "net.ipv4.ping_group_range" = "1 0" }
`})
	for _, c := range []struct {
		gid    uint32
		groups []uint32
		want   string
	}{
		{1010, nil, ""}, {1019, nil, ""}, {1020, nil, "EACCES"}, {1009, nil, "EACCES"},
		{1, []uint32{5, 1015}, ""}, {1, []uint32{5, 1020}, "EACCES"}, {0, nil, "EACCES"},
	} {
		code := `msocket("ping", INET, DGRAM, ICMP); msocket("ping", INET6, DGRAM, 58); expect("EACCES", msocket, "none", INET, DGRAM, ICMP)`
		if c.want != "" {
			code = fmt.Sprintf(`expect(%q, msocket, "ping", INET, DGRAM, ICMP)`, c.want)
		}
		RunCmd(t, AsUser(m.python(t, code), 1000, c.gid, c.groups...))
		run := m.python(t, strings.ReplaceAll(`
try: socket.socket(INET, DGRAM, ICMP); got = ""
except OSError as e: got = errno.errorcode[e.errno]
same(got, WANT, "under run")
`, "WANT", fmt.Sprintf("%q", c.want)), Binary(t), "run", "--no-resolv", m.Path("ping"), "--")
		RunCmd(t, AsUser(run, 1000, c.gid, c.groups...))
	}
}

// Whoever can set the scheduling of a thread of the daemon can hold up
// everybody else.
func TestUserCannotSetTheSchedulingOfTheDaemon(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	out := m.attack(t, fmt.Sprintf(`
PID = %d
fd = node("lab")
s, chan = msocket(fd)
stop = threading.Event()
def load():
	s, chan = msocket(fd)
	while not stop.is_set():
		msocket(fd, NETLINK, RAW, 0); msocket(fd, INET, DGRAM, 17); ask(chan)
others = [threading.Thread(target=load) for i in range(3)]
for o in others: o.start()
got = set()
try:
	end = time.monotonic() + 2
	while time.monotonic() < end:
		for tid in os.listdir("/proc/%%d/task" %% PID):
			tid = int(tid)
			for name, fn in (("affinity", lambda: os.sched_setaffinity(tid, {0})),
					("nice", lambda: os.setpriority(os.PRIO_PROCESS, tid, 19)),
					("idle", lambda: os.sched_setscheduler(tid, os.SCHED_IDLE, os.sched_param(0))),
					("kill", lambda: os.kill(tid, 0))):
				try: fn(); got.add(name)
				except (PermissionError, ProcessLookupError): pass
finally:
	stop.set()
	for o in others: o.join()

print(PID, got, os.popen("grep Uid /proc/%%d/task/*/status" %% PID).read())
same(got, set(), "what a user may do to threads of the daemon")
`, m.PID()))
	t.Log(out)
	// What could be reached for a moment must not be what stays.
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", m.PID()))
	mustDo(t, err)
	for _, task := range tasks {
		out, err := exec.Command("chrt", "-p", task.Name()).Output()
		if err == nil && !strings.Contains(string(out), "SCHED_OTHER") {
			t.Errorf("thread %s: %s", task.Name(), out)
		}
	}
}
