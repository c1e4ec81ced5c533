package fstests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mountAt tells what is mounted at a directory, without touching it.
func mountAt(t *testing.T, dir string) bool {
	t.Helper()
	for _, at := range mountsBelow(t, dir) {
		if at == dir {
			return true
		}
	}
	return false
}

// The data never passes through the daemon: connections of a stack go on
// when it is killed, and its heir takes over.
func TestConnectionsSurviveTheDaemon(t *testing.T) {
	Require(t, Program("iperf3"))
	m := newAttackMount(t, Config{TOML: attackLab})
	idle := Scale(1000)
	held := m.python(t, fmt.Sprintf(`
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
N = %d
s, chan = msocket("lab")
s.bind(("192.0.2.1", 4000)); s.listen(N)
ends = []
for i in range(N):
	c = ask(chan); c.connect(("192.0.2.1", 4000)); ends.append((c, s.accept()[0]))
print("sent", flush=True)
sys.stdin.read()
for c, a in ends:
	c.send(b"still"); same(a.recv(10), b"still"); a.send(b"there"); same(c.recv(10), b"there")
c = socket.socket(fileno=os.dup(s.fileno()))
try: ask(chan); raise AssertionError("a channel outlived its daemon")
except (EOFError, BrokenPipeError, ConnectionResetError): pass
`, idle))
	leave := startAttack(t, held)
	server := Command(t, time.Minute, m.bin, "run", "--no-resolv", m.Path("lab"), "--", "iperf3", "-s", "-1", "-p", "4001")
	mustDo(t, server.Start())
	t.Cleanup(func() { _ = syscall.Kill(-server.Process.Pid, syscall.SIGKILL); _ = server.Wait() })
	WaitFor(t, 10*time.Second, "iperf3 listens", func() bool {
		out, _ := exec.Command(m.bin, "run", "--no-resolv", m.Path("lab"), "--", "ss", "-ltnH").Output()
		return strings.Contains(string(out), ":4001")
	})
	client := Command(t, time.Minute, m.bin, "run", "--no-resolv", m.Path("lab"), "--", "iperf3", "-c", "192.0.2.1", "-p", "4001", "-t", "4", "-i", "0", "-J")
	var out strings.Builder
	client.Stdout = &out
	mustDo(t, client.Start())
	time.Sleep(time.Second) // traffic flows

	m.Kill()
	start := time.Now()
	WaitFor(t, 5*time.Second, "the dead mount is detached", func() bool { return !mountAt(t, m.Dir) })
	if d := time.Since(start); d > ScaleTime(2*time.Second) {
		t.Errorf("the dead mount stayed for %v", d)
	}
	m.Start()
	if err := client.Wait(); err != nil || strings.Contains(out.String(), `"error"`) {
		t.Errorf("iperf3: %v\n%s", err, out.String())
	}
	leave()
	_ = server.Wait()
	m.attack(t, `s, chan = msocket("lab"); ask(chan)`)
}

// A daemon that is killed and comes right back takes the dead mount over.
func TestRemountOverDeadMount(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	for range Scale(5) {
		inode := m.Status("lab")["netns"]
		m.Kill()
		m.Start()
		if now := m.Status("lab")["netns"]; now != inode {
			t.Errorf("lab has the namespace %s, %s before", now, inode)
		}
		if n := len(mountsBelow(t, m.Dir)); n != 1 {
			t.Errorf("%d mounts at %s", n, m.Dir)
		}
		m.attack(t, `msocket("lab")`)
	}
	time.Sleep(ScaleTime(600 * time.Millisecond)) // the grace of the first keeper
	m.attack(t, `msocket("lab")`)
}

// A caller that is killed at any moment leaves nothing in the daemon.
func TestCallersKilledInMidRequest(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	m.attack(t, `msocket("lab")`)
	m.attack(t, fmt.Sprintf(`
import random
fd = node("lab")
for i in range(%d):
	pid = os.fork()
	if pid == 0:
		keep = []
		def work():
			s, chan = msocket(fd)
			while True:
				request(chan); request(chan)
				keep.append(msocket(fd, INET, random.choice((STREAM, DGRAM)))); ask(chan)
		threading.Thread(target=work).start()
		work()
	time.sleep(random.random() * 0.006)
	os.kill(pid, signal.SIGKILL)
	os.waitpid(pid, 0)
`, Scale(200)))
	WaitFor(t, 10*time.Second, "no channel is left", func() bool { return m.Status("lab")["channels"] == "0" })
	m.checkFDs()
}

// Unmounting in all its ways while something is in use.
func TestUnmountWhileBusy(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab, AllowLog: []string{"stacks in use stay"}})
	id := m.Status("lab")["netns"]
	leave := startAttack(t, AsUser(m.python(t, `
fd = node("lab")
s, chan = msocket(fd)
print("sent", flush=True)
sys.stdin.read()
s.bind(("192.0.2.1", 5000)); s.listen(1)
`), Nobody, Nobody))
	t.Run("refused", func(t *testing.T) {
		if _, errs, code := Output(t, m.Command("umount", m.Dir)); code != 4 || !strings.Contains(errs, "lab") {
			t.Errorf("stackfs umount: exit code %d, want 4: %s", code, errs)
		}
		if err := unix.Unmount(m.Dir, 0); !errors.Is(err, unix.EBUSY) {
			t.Errorf("umount(2): got %v, want EBUSY", err)
		}
		if answer, err := m.Ctl("remove lab"); !errors.Is(err, unix.EBUSY) || !strings.Contains(answer, "1 socket") {
			t.Errorf("remove: %q, %v, want EBUSY", answer, err)
		}
		m.attack(t, `msocket("lab")`)
	})
	for _, order := range []string{"--keep", "--force"} {
		t.Run(order, func(t *testing.T) {
			Run(t, 20*time.Second, m.bin, "umount", order, m.Dir)
			m.Wait()
			if mountAt(t, m.Dir) {
				t.Errorf("%s is still mounted", m.Dir)
			}
			m.Start()
			// What is kept is adopted; what is forced ends with its sockets.
			if now := m.Status("lab")["netns"]; (now == id) != (order == "--keep") {
				t.Errorf("lab has the namespace %s, %s before", now, id)
			}
			m.attack(t, `msocket("lab")`)
		})
	}
	leave() // the old socket works to the end
}

// At its limit of descriptors the daemon refuses, and goes on when there is
// room again.
func TestDescriptorLimitOfChannels(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab, AllowLog: []string{"too many open files"}})
	m.attack(t, `msocket("lab")`)
	var old unix.Rlimit
	mustDo(t, unix.Prlimit(m.PID(), unix.RLIMIT_NOFILE, nil, &old))
	lim := unix.Rlimit{Cur: uint64(len(fdsOf(m.PID())) + 30), Max: old.Max}
	mustDo(t, unix.Prlimit(m.PID(), unix.RLIMIT_NOFILE, &lim, nil))
	m.attack(t, `
keep, errors = [], set()
fd = node("lab")
for i in range(200):
	try: keep.append(msocket(fd))
	except OSError as e: errors.add(errno.errorcode[e.errno])
	except EOFError: errors.add("EOF")
check(errors and errors <= {"EMFILE", "ENFILE", "EOF"}, "errors: %r" % errors)
check(len(keep) >= 10, "%d channels" % len(keep))
# Open channels need room for a socket only for a moment.
got = set()
for s, chan in keep:
	try: ask(chan).close(); got.add(0)
	except OSError as e: got.add(errno.errorcode[e.errno])
check(got <= {0, "EMFILE", "ENFILE"}, "on channels: %r" % got)
for s, chan in keep: s.close(); chan.close()
end = time.monotonic() + 10
while True:
	try: s, chan = msocket(fd); ask(chan); break
	except OSError as e:
		check(time.monotonic() < end, "does not recover: %s" % e); time.sleep(0.05)
`)
	mustDo(t, unix.Prlimit(m.PID(), unix.RLIMIT_NOFILE, &old, nil))
	m.MustCtl("add x {}")
	m.MustCtl("remove x")
}

func fdsOf(pid int) []os.DirEntry {
	list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return list
}

// Clients by the hundred, while stacks come and go: each gets a socket of
// the stack that it asked for or an error that is documented.
func TestClientsWhileStacksComeAndGo(t *testing.T) {
	Require(t, Compiler)
	m := newAttackMount(t, Config{TOML: attackLab + "[stack.solid]\nmode = \"0755\"\n"})
	m.attack(t, `msocket("lab"); msocket("solid")`)
	before := m.goroutines()
	clients := max(20, Scale(200))
	bin := Compile(t, filepath.Join("testdata", "attack", "hammer.c"), "-I../stacknode/uapi")
	cmd := AsUser(Command(t, attackTime, bin, m.Dir, fmt.Sprint(clients), "6"), Nobody, Nobody)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	mustDo(t, cmd.Start())
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		m.MustCtl("add come {mode = \"0755\"}")
		time.Sleep(20 * time.Millisecond)
		if answer, err := m.Ctl("remove come"); err != nil && !errors.Is(err, unix.EBUSY) {
			t.Fatalf("remove: %q, %v", answer, err)
		} else if err != nil {
			m.MustCtl("remove come force")
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	t.Log(strings.TrimSpace(out.String()))
	WaitFor(t, 20*time.Second, "no channel is left", func() bool {
		return m.Status("lab")["channels"] == "0" && m.Status("solid")["channels"] == "0"
	})
	m.checkFDs()
	// go-fuse keeps as many readers of the device as were busy at a time, up
	// to its limit; what belongs to clients would be there by the hundred.
	WaitFor(t, 20*time.Second, "no goroutine of a client is left", func() bool {
		return m.goroutines() <= before+16
	})
}

// A configuration that is broken changes nothing.
func TestBrokenReloadKeepsTheState(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab, AllowLog: []string{"level=ERROR msg=reload"}})
	id := m.Status("lab")["netns"]
	good, err := os.ReadFile(m.Config)
	mustDo(t, err)
	for text, want := range map[string]string{
		"[stack.lab": "", "[stack.lab]\nmode = \"0999\"\n": "mode", "[stack.lab]\nnonsense = 1\n": "nonsense",
		"[stack.lab]\naddresses = [\"nowhere\"]\n": "addresses", "\x00": "", "[stack.ctl]\n": "ctl",
	} {
		mustDo(t, os.WriteFile(m.Config, []byte(text), 0o644))
		answer, err := m.Ctl("reload")
		if err == nil || !strings.Contains(answer, want) || !strings.Contains(answer, filepath.Base(m.Config)) {
			t.Errorf("%q: got %q, %v", text, answer, err)
		}
		m.Signal(syscall.SIGHUP)
		if st := m.Status("lab"); st["netns"] != id || st["mode"] != "0755" {
			t.Errorf("%q: lab is now %v", text, st)
		}
		m.attack(t, `msocket("lab")`)
	}
	mustDo(t, os.Remove(m.Config))
	if answer, err := m.Ctl("reload"); err == nil {
		t.Errorf("no configuration: got %q", answer)
	}
	mustDo(t, os.WriteFile(m.Config, good, 0o644))
	m.MustCtl("reload")
	if now := m.Status("lab")["netns"]; now != id {
		t.Errorf("lab has the namespace %s, %s before", now, id)
	}
}
