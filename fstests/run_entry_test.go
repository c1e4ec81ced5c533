package fstests

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
)

// Every family goes to the stack or is refused; only AF_UNIX is local.
func TestRunTrapsEveryFamily(t *testing.T) {
	m := newRunMount(t, "")
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			lines := strings.Split(m.out(as(m.run("./lab --", m.probe, "families"))), "\n")
			if len(lines) != 48 {
				t.Fatalf("%d lines, want 48", len(lines))
			}
			for i, line := range lines {
				want := fmt.Sprintf("%d EAFNOSUPPORT", i)
				switch {
				case i == 1:
					want = "1 ok HOST"
				case i == 2 || i == 10 || i == 16, i == 17 && name == "root":
					want = fmt.Sprintf("%d ok LAB", i)
				case i == 17:
					want = "17 EPERM"
				}
				if line != want {
					t.Errorf("family %d: got %q, want %q", i, line, want)
				}
			}
		})
	}
	t.Run("null", func(t *testing.T) {
		for _, line := range strings.Split(m.out(m.run("./null --", m.probe, "families")), "\n") {
			if strings.Contains(line, " ok ") && !strings.HasSuffix(line, "ok HOST") || strings.HasPrefix(line, "2 ok") {
				t.Errorf("on null: %s", line)
			}
		}
	})
	t.Run("raw", func(t *testing.T) {
		m.check(m.run("./lab --", m.probe, "cookie", "2", "3", "1"), "ok LAB")
		m.check(runUsers["user"](m.run("./lab --", m.probe, "cookie", "2", "3", "1")), "EPERM")
	})
}

// -f leaves the families that are not named where they are.
func TestRunFamilies(t *testing.T) {
	m := newRunMount(t, "")
	for _, c := range [][3]string{
		{"ipv4", "ok LAB", "ok HOST"},
		{"ipv6", "ok HOST", "ok LAB"},
		{"inet,inet6", "ok LAB", "ok LAB"},
		{"netlink", "ok HOST", "ok HOST"},
	} {
		m.check(m.run("-f "+c[0]+" ./lab --", m.probe, "cookie", "2"), c[1])
		m.check(m.run("-f "+c[0]+" ./lab --", m.probe, "cookie", "10"), c[2])
	}
	m.fails(m.run("-f unix ./lab --", m.probe, "cookie"), 125, "always local")
	m.fails(m.run("-f nonsense ./lab --", m.probe, "cookie"), 125, "nonsense")
	m.check(m.run("-s ./lab"), "inet\ninet6\nnetlink\npacket")
	stdout, stderr, code := Output(t, m.run("-v -f ipv4 ./lab --", m.probe, "cookie"))
	if m.named(stdout) != "ok LAB\n" || !strings.Contains(stderr, "inet") || strings.Contains(stderr, "inet6") || code != 0 {
		t.Errorf("-v: got %q, %q, %d", stdout, stderr, code)
	}
}

// The abstract names of UNIX sockets are those of the caller's namespace.
func TestRunLeavesUnixSocketsAlone(t *testing.T) {
	m := newRunMount(t, "")
	name := fmt.Sprintf("stackfs-%s-%d", t.Name(), os.Getpid())
	l, err := net.Listen("unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			c.Close()
		}
	}()
	for _, as := range runUsers {
		m.check(as(m.run("./lab --", m.probe, "unix", name)), "hello HOST")
	}
}

// The ways past socket(2) are closed.
func TestRunOtherEntries(t *testing.T) {
	m := newRunMount(t, "")
	m.check(m.run("./lab --", m.probe, "x32"), "ENOSYS")
	m.check(m.run("./lab --", m.probe, "uring"), "ENOSYS")
	if got := Run(t, runTime, m.probe, "uring"); got == "ENOSYS\n" {
		t.Log("the kernel has no io_uring: the test of it shows nothing")
	}
	static := cProgram(t, "run", "static")
	m.check(m.run("./lab --", static, "cookie"), "ok LAB")
}

// A 32-bit program has its arguments in memory, which a thread changes.
func TestRunSocketcall(t *testing.T) {
	Require(t, Compiler32)
	m := newRunMount(t, "")
	probe := cProgram(t, "run", "32")
	m.check(m.run("./lab --", probe, "cookie"), "ok LAB")
	m.check(m.run("-f ipv6 ./lab --", probe, "cookie"), "ok HOST")
	want := "inet stack\nunix host\nbad pointer EFAULT\nhalf a pointer EFAULT\nunix some stack some wrong 0 other 0"
	for _, as := range runUsers {
		m.check(as(m.run("./lab --", probe, "socketcall", m.host, fmt.Sprint(Scale(4000)))), want)
	}
}

func TestRunSocketFlags(t *testing.T) {
	m := newRunMount(t, "")
	want := "ok\nok cloexec\nok nonblock\nok cloexec nonblock"
	m.check(m.run("./lab --", m.probe, "flags"), want+"\n"+want)
}

// The program's own limit of descriptors is the one that counts.
func TestRunDescriptorLimit(t *testing.T) {
	m := newRunMount(t, "")
	for _, as := range runUsers {
		m.check(as(m.run("./lab --", m.probe, "emfile")), "32 EMFILE ok")
	}
}

// A signal neither interrupts a call nor makes it be done twice.
func TestRunUnderSignals(t *testing.T) {
	m := newRunMount(t, "")
	n := Scale(5000)
	want := fmt.Sprintf("calls %d sockets %d alarms yes eintr 0 bad 0", n, n)
	if got := RunCmd(t, m.run("./lab --", m.probe, "alarms", fmt.Sprint(n))); got != want+"\n" {
		t.Errorf("got %q, want %q", got, want)
	}
	// Where the handler does not restart calls (no SA_RESTART), the kernel
	// lets a signal interrupt one that the daemon has not yet looked at.
	out := RunCmd(t, m.run("./lab --", m.probe, "alarms", fmt.Sprint(n), "norestart"))
	var calls, sockets, eintr, bad int
	if _, err := fmt.Sscanf(out, "calls %d sockets %d alarms yes eintr %d bad %d", &calls, &sockets, &eintr, &bad); err != nil {
		t.Fatalf("got %q: %v", out, err)
	}
	if bad != 0 || sockets+eintr != calls || eintr > calls/20 {
		t.Errorf("without SA_RESTART: got %q", out)
	}
}
