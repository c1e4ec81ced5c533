package fast

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// A service whose sockets pass a program, as by IPAddressDeny= of systemd, must
// not get sockets that do not.
func TestServiceWithProgramsGetsNoClones(t *testing.T) {
	f := newFast(t)
	root, err := cgroupRoot()
	if err != nil {
		t.Skip(err)
	}
	own, err := cgroupOf("self")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(filepath.Join(root, own), "stackfs-test-")
	if err != nil {
		t.Skip(err)
	}
	service := exec.CommandContext(t.Context(), "/bin/sleep", "60")
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = service.Process.Kill()
		_ = service.Wait()
		waitFor(t, "the cgroup to go", func() bool { return os.Remove(dir) == nil })
	})
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(service.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	caller := me(0)
	caller.PID, caller.TID = service.Process.Pid, service.Process.Pid
	if s, err := f.Spawn(t.Context(), caller, listener(t)); err != nil {
		t.Errorf("a cgroup without programs: %v", err)
	} else {
		s.Close()
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetIngress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Skip(err)
	}
	defer prog.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInetIngress, Program: prog})
	if err != nil {
		t.Skip(err)
	}
	if _, err := f.Spawn(t.Context(), caller, listener(t)); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("a cgroup with a program: got %v, want EOPNOTSUPP", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the program to go", func() bool { return checkCgroup(caller.TID) == nil })
}
