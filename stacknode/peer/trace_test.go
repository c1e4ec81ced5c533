package peer

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// The kernel itself says who may take a descriptor of whom. May must never
// say yes where that says no, and say no alone only where its comment says
// so.
func TestMayIsThePtraceRule(t *testing.T) {
	requireRoot(t)
	as := func(uid, gid uint32) *syscall.Credential { return &syscall.Credential{Uid: uid, Gid: gid} }
	kinds := []struct {
		name, mode string
		attr       syscall.SysProcAttr
		strict     bool // as a target: May asks for CAP_SYS_PTRACE over the daemon's user namespace
	}{
		{"root", "", syscall.SysProcAttr{}, false},
		{"user", "", syscall.SysProcAttr{Credential: as(1000, 1000)}, false},
		{"same user", "", syscall.SysProcAttr{Credential: as(1000, 1000)}, false},
		{"another group", "", syscall.SysProcAttr{Credential: as(1000, 1001)}, false},
		{"another user", "", syscall.SysProcAttr{Credential: as(1001, 1001)}, false},
		{"undumpable", "undumpable", syscall.SysProcAttr{Credential: as(1000, 1000)}, true},
		{"setuid", "setuid=1000", syscall.SysProcAttr{Credential: &syscall.Credential{Gid: 1000}}, true},
		{"seteuid", "seteuid=1000", syscall.SysProcAttr{Credential: &syscall.Credential{Gid: 1000}}, true},
		{"more capabilities", "", syscall.SysProcAttr{Credential: as(1000, 1000), AmbientCaps: []uintptr{unix.CAP_NET_RAW}}, false},
		{"ptrace", "", syscall.SysProcAttr{Credential: as(1000, 1000), AmbientCaps: []uintptr{unix.CAP_SYS_PTRACE}}, false},
		{"user namespace", "userns", syscall.SysProcAttr{Credential: as(1000, 1000)}, false},
		{"another's user namespace", "userns", syscall.SysProcAttr{Credential: as(1001, 1001)}, false},
		{"root's user namespace", "userns", syscall.SysProcAttr{}, false},
	}
	helpers := make([]*helper, len(kinds))
	for i, k := range kinds {
		helpers[i] = startHelper(t, k.mode, k.attr)
	}
	yes := 0
	for i, who := range kinds {
		tracer := tracerOf(t, helpers[i].pid)
		for j, whom := range kinds {
			kernel := helpers[i].take(t, helpers[j])
			if kernel == nil {
				yes++
			}
			err := tracer.May(helpers[j].pid)
			var refused *stacknode.HolderError
			switch {
			case err != nil && !errors.As(err, &refused), kernel != nil && !errors.Is(kernel, unix.EPERM):
				t.Errorf("%s traces %s: got %v, the kernel says %v", who.name, whom.name, err, kernel)
			case kernel != nil && err == nil:
				t.Errorf("%s traces %s: got no error, the kernel says %v", who.name, whom.name, kernel)
			case kernel == nil && err != nil && (!whom.strict || tracer.All()):
				t.Errorf("%s traces %s: got %v, the kernel lets it", who.name, whom.name, err)
			case err != nil && (refused.PID != helpers[j].pid || refused.Command == "" || refused.Reason == ""):
				t.Errorf("%s traces %s: the error does not say whom or why: %#v", who.name, whom.name, refused)
			}
		}
	}
	if yes <= len(kinds) || yes == len(kinds)*len(kinds) {
		t.Errorf("the kernel let %d of %d: the test shows nothing", yes, len(kinds)*len(kinds))
	}
}

func tracerOf(t *testing.T, pid int) Tracer {
	t.Helper()
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := p.Caller()
	if err != nil {
		t.Fatal(err)
	}
	tracer, err := TracerOf(c)
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

// Kernels without Yama cannot show what it does.
func TestYamaRefuses(t *testing.T) {
	tracer := Tracer{PID: 1, UID: 7, GID: 7}
	same := Status{RealUID: 7, UID: 7, SavedUID: 7, RealGID: 7, GID: 7, SavedGID: 7}
	for _, tt := range []struct {
		scope  yamaScope
		ptrace bool
		ok     bool
	}{{yamaOff, false, true}, {yamaRelated, false, false}, {yamaRelated, true, true}, {2, false, false}, {yamaNobody, true, false}} {
		why := tracer.refusal(traced{Status: same, sameUserNS: true, dumpable: true, ptrace: tt.ptrace, scope: tt.scope})
		if (why == "") != tt.ok {
			t.Errorf("scope %d, CAP_SYS_PTRACE %v: got %q", tt.scope, tt.ptrace, why)
		}
	}
}

func TestMayOfNoThread(t *testing.T) {
	if err := (Tracer{}).May(1 << 22); !errors.Is(err, unix.ESRCH) {
		t.Errorf("got %v, want ESRCH", err)
	}
	if err := tracerOf(t, os.Getpid()).May(os.Getpid()); err != nil {
		t.Errorf("oneself: got %v", err)
	}
}

// Kernels before 6.16 tell it by the owner of the files in /proc.
func TestDumpable(t *testing.T) {
	requireRoot(t)
	user := &syscall.Credential{Uid: 1000, Gid: 1000}
	for _, tt := range []struct {
		name, mode string
		cred       *syscall.Credential
		want       bool // as these kernels tell
	}{{"user", "", user, true}, {"undumpable", "undumpable", user, false}, {"setuid", "setuid=1000", nil, false}, {"root", "", nil, false}} {
		h := startHelper(t, tt.mode, syscall.SysProcAttr{Credential: tt.cred})
		p, err := Open(h.pid)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		st, err := p.Status()
		if err != nil {
			t.Fatal(err)
		}
		old := &Proc{tid: p.tid, dir: p.dir}
		if got, err := old.dumpable(st); got != tt.want || err != nil {
			t.Errorf("%s, before 6.16: got %v, %v, want %v", tt.name, got, err, tt.want)
		}
		if got, err := p.dumpable(st); got != (tt.want || tt.name == "root") && p.pidfd != nil || err != nil {
			t.Errorf("%s: got %v, %v", tt.name, got, err)
		}
	}
}
