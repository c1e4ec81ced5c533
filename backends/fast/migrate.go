package fast

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/conns"
)

// migrateSysctl lets the queues of all listeners of a namespace move.
const migrateSysctl = "/proc/sys/net/ipv4/tcp_migrate_req"

// skPass is SK_PASS of <linux/bpf.h>.
const skPass = 1

// A migrator lets the connections in the queue of a listener that is closed
// move to another one of its group, instead of being reset. Since 5.14.
type migrator struct {
	prog *ebpf.Program // nil: there is none
	how  string        // for status
}

// open loads the program. It picks no listener, so that the kernel does; that
// it is there, with its attach type, is what lets the queue move.
func (m *migrator) open(sysctl bool, do func(func() error) error, log *slog.Logger) {
	var err error
	m.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "stackfs_migrate", Type: ebpf.SkReuseport, AttachType: ebpf.AttachSkReuseportSelectOrMigrate, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, skPass), asm.Return()},
	})
	if err == nil {
		m.how = "bpf"
		return
	}
	m.how = fmt.Sprintf("no (bpf: %v)", err)
	if !sysctl {
		log.Warn("connections in the queue of a listener that is closed are lost: BPF does not work here (migrate_sysctl = true would set net.ipv4.tcp_migrate_req)", "err", err)
		return
	}
	if err := do(func() error { return os.WriteFile(migrateSysctl, []byte("1"), 0) }); err != nil {
		log.Warn("connections in the queue of a listener that is closed are lost", "err", err)
		return
	}
	m.how = "sysctl"
}

// attach makes the program that of the group of fd.
func (m *migrator) attach(fd int) error {
	if m.prog == nil {
		return nil
	}
	return os.NewSyscallError("setsockopt SO_ATTACH_REUSEPORT_EBPF",
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_EBPF, m.prog.FD()))
}

// keep makes tags stay as long as there are groups with the program.
func (m *migrator) keep(tags *conns.Tags) error {
	if m.prog == nil {
		return nil
	}
	return tags.Keep(m.prog)
}

// close forgets the program; groups that have it keep it.
func (m *migrator) close() error {
	if m.prog == nil {
		return nil
	}
	return m.prog.Close()
}
