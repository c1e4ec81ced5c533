package fstests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The inner run is the one that counts.
func TestRunNested(t *testing.T) {
	m := newRunMount(t, "[stack.third]\nmode = \"0755\"\n")
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			run := m.bin + " run "
			lab, other, third, cookie := m.Path("lab")+" -- ", m.Path("other")+" -- ", m.Path("third")+" -- ", m.probe+" cookie"
			m.check(as(m.run("./lab -- "+run+other+cookie)), "ok OTHER")
			m.check(as(m.run("./lab -- "+run+lab+cookie)), "ok LAB")
			m.check(as(m.run("./lab --", "sh", "-c", run+other+cookie+"; "+cookie)), "ok OTHER\nok LAB")
			m.check(as(m.run("./third --", "sh", "-c", run+other+"sh -c '"+run+lab+cookie+"; "+cookie+"'")), "ok LAB\nok OTHER")
			m.check(as(m.run("./other --", "sh", "-c", run+lab+"sh -c '"+run+third+"true; "+cookie+" & wait'; "+cookie)), "ok LAB\nok OTHER")
			m.check(as(m.run("./lab -- "+run+m.Path("null")+" -- "+cookie)), "EAFNOSUPPORT")
			// Sandboxes in between change nothing, as long as it can be told.
			m.check(as(m.run("./lab -- unshare -Urnm "+cookie)), "ok LAB")
			m.check(as(m.run("./lab --", "sh", "-c", run+other+"sh -c 'unshare -Urm "+cookie+"; unshare -Urmpf "+cookie+"; :'")), "ok OTHER\nok OTHER")
			m.check(as(m.run("./other -- "+run+lab+"unshare -Urm "+cookie)), "ok LAB")
			m.check(as(m.run("./kernel -- "+run+lab+"unshare -Urm "+cookie)), "ok LAB")
			// It cannot be told: neither stack, and not the host's.
			m.check(as(m.run("./other -- "+run+lab+"env -i unshare -Urm "+cookie)), "ENODEV")
			m.check(as(m.run("./null -- "+run+lab+cookie)), "ok LAB")
			m.check(as(m.run("./lab -- "+run+m.Path("kernel")+" -- "+cookie)), "ok HOST")
			m.check(as(m.run("./lab -- "+run+"-f ipv6 "+other+cookie)), "ok HOST")
			m.fails(as(m.run("./lab -- "+run+m.Path("nothing")+" -- "+cookie)), 125, "no such file")
			// Another user's stack stays closed, from within a run too.
			cmd := runUsers["user"](m.run("./lab -- " + run + m.Path("priv") + " -- " + cookie))
			m.fails(cmd, 125, "permission denied")
		})
	}
	if _, err := exec.LookPath("setpriv"); err == nil {
		m.fails(m.run("./lab -- setpriv --reuid 65534 --regid 65534 --clear-groups "+m.bin+" run "+m.Path("priv")+" -- "+m.probe+" cookie"),
			125, "permission denied")
	}
}

// A run within a run of another mount cannot be told from the outer one's
// children there, so it is refused.
func TestRunNestedInAnotherMount(t *testing.T) {
	m := newRunMount(t, "")
	other := Mount(t, Config{Stacks: []string{"far"}})
	m.fails(m.run("./lab -- "+m.bin+" run "+other.Path("far")+" -- "+m.probe+" cookie"), 125, "another mount")
}

// An asked is a daemon that tells what sockets it gets.
type asked struct {
	m    *runMount
	fifo *os.File
	out  string
}

// startAsked starts a daemon by cmd, a run of "probe daemon FILE", which
// ends while its daemon goes on.
func (m *runMount) startAsked(as func(*exec.Cmd) *exec.Cmd, line string, more ...string) *asked {
	m.t.Helper()
	dir := TempDir(m.t)
	if err := os.Chmod(dir, 0o777); err != nil {
		m.t.Fatal(err)
	}
	path := filepath.Join(dir, "ask")
	if err := syscall.Mkfifo(path, 0o666); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		m.t.Fatal(err)
	}
	fifo, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	RunCmd(m.t, as(m.run(line, append([]string{m.probe, "daemon", path}, more...)...)))
	a := &asked{m, fifo, path + ".out"}
	m.t.Cleanup(a.end)
	return a
}

// ask makes the daemon make a socket.
func (a *asked) ask() string {
	a.m.t.Helper()
	os.Remove(a.out)
	if _, err := a.fifo.WriteString("ask\n"); err != nil {
		a.m.t.Fatal(err)
	}
	WaitFor(a.m.t, 20*time.Second, "an answer of the daemon under run", func() bool { return exists(a.out) })
	b, err := os.ReadFile(a.out)
	if err != nil {
		a.m.t.Fatal(err)
	}
	return a.m.named(strings.TrimSpace(string(b)))
}

func (a *asked) is(want string) {
	a.m.t.Helper()
	if got := a.ask(); got != want {
		a.m.t.Errorf("the daemon under run got %q, want %q", got, want)
	}
}

// end makes the daemon end; it is harmless to say it twice.
func (a *asked) end() {
	_, _ = a.fifo.WriteString("end\n")
	time.Sleep(20 * time.Millisecond)
	a.fifo.Close()
}

// Programs outlive the run that started them, and the daemon of the mount.
func TestRunDaemons(t *testing.T) {
	m := newRunMount(t, "")
	inner := m.bin + " run " + m.Path("other") + " -- "
	var all []*asked
	var want []string
	add := func(a *asked, w string) { all, want = append(all, a), append(want, w) }
	for _, as := range runUsers {
		add(m.startAsked(as, "./lab --"), "ok LAB")
		add(m.startAsked(as, "./lab -- "+inner), "ok OTHER")
	}
	root := runUsers["root"]
	add(m.startAsked(root, "./lab --", "mount"), "ok LAB")
	// It has left the namespace by which it would be known, and its parent
	// is gone: its environment tells.
	add(m.startAsked(root, "./lab -- "+inner, "mount"), "ok OTHER")
	check := func() {
		t.Helper()
		for i, a := range all {
			a.is(want[i])
		}
	}
	check()
	if n := m.Status("lab")["runs"]; n != "6" {
		t.Errorf("runs: got %s, want 6", n)
	}
	m.Kill()
	for _, a := range all {
		a.is("ENODEV")
	}
	m.Start()
	check()
	if n := m.Status("lab")["runs"]; n != "6" {
		t.Errorf("runs after a restart: got %s, want 6", n)
	}
	// A stack that is another one by the same name is not theirs.
	for _, a := range all {
		a.end()
	}
	WaitFor(t, leakTime, "runs: 0", func() bool { return m.Status("lab")["runs"] == "0" })
}

// Programs go on when the same namespace is mounted again.
func TestRunAcrossUnmount(t *testing.T) {
	ns := NetNS(t)
	m := newRunMount(t, fmt.Sprintf("[stack.named]\nnetns = %q\nmode = \"0755\"\n", ns.Name), "stacks in use stay")
	cookie := m.Status("named")["netns_cookie"]
	for _, as := range runUsers {
		a := m.startAsked(as, "./named --")
		a.is("ok " + cookie)
		if code := m.Stop(); code != 0 {
			t.Errorf("the daemon ended with exit code %d", code)
		}
		a.is("ENODEV")
		m.Start()
		a.is("ok " + cookie)
		a.end()
	}
}
