package launch

import (
	"fmt"
	"runtime"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data of <linux/seccomp.h>; the low half of an
// argument on little-endian machines.
const (
	offNR   = 0
	offArch = 4
	offArg0 = 16
)

// Actions of seccomp(2).
const (
	retAllow  = 0x7fff0000
	retNotify = 0x7fc00000
	retErrno  = 0x00050000
)

// An abi is one way to make system calls on this machine.
type abi struct {
	arch       uint32 // AUDIT_ARCH_*
	socket     uint32 // number of socket(2)
	ioUring    uint32 // of io_uring_setup(2), everywhere 425
	socketcall uint32 // of socketcall(2), 0 where there is none
	limit      uint32 // numbers from here on are another ABI's and refused
}

const (
	x32Bit    = 0x40000000
	sysSocket = 1 // the first argument of socketcall for socket(2)
	nrIOUring = 425
	archX86   = 0xc000003e
	archI386  = 0x40000003
	archARM64 = 0xc00000b7
	archARM   = 0x40000028
)

var abis = map[string][]abi{
	"amd64": {
		{arch: archX86, socket: 41, ioUring: nrIOUring, limit: x32Bit},
		{arch: archI386, socket: 359, ioUring: nrIOUring, socketcall: 102},
	},
	"386":   {{arch: archI386, socket: 359, ioUring: nrIOUring, socketcall: 102}},
	"arm64": {{arch: archARM64, socket: 198, ioUring: nrIOUring}, {arch: archARM, socket: 281, ioUring: nrIOUring}},
}

// filter assembles the program for this machine. Calls that it does not
// look at depend on nothing but their number, so the kernel remembers that
// they are allowed (since 5.11) and does not run it for them.
func filter() ([]bpf.RawInstruction, error) {
	list, ok := abis[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("no filter for %s: %w", runtime.GOARCH, unix.EOPNOTSUPP)
	}
	prog := []bpf.Instruction{bpf.LoadAbsolute{Off: offArch, Size: 4}}
	for _, a := range list {
		body := a.filter()
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: a.arch, SkipTrue: uint8(len(body))})
		prog = append(prog, body...)
	}
	// Another architecture: there is none that could get here.
	prog = append(prog, bpf.RetConstant{Val: retErrno | uint32(unix.ENOSYS)})
	return bpf.Assemble(prog)
}

func (a abi) filter() []bpf.Instruction {
	var (
		allow  = bpf.RetConstant{Val: retAllow}
		notify = bpf.RetConstant{Val: retNotify}
		nosys  = bpf.RetConstant{Val: retErrno | uint32(unix.ENOSYS)}
	)
	prog := []bpf.Instruction{bpf.LoadAbsolute{Off: offNR, Size: 4}}
	on := func(nr uint32, then ...bpf.Instruction) {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: uint8(len(then))})
		prog = append(prog, then...)
	}
	if a.limit != 0 {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: a.limit, SkipTrue: 1}, nosys)
	}
	on(a.socket,
		bpf.LoadAbsolute{Off: offArg0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_UNIX, SkipTrue: 1},
		notify,
		allow)
	if a.socketcall != 0 {
		on(a.socketcall,
			bpf.LoadAbsolute{Off: offArg0, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: sysSocket, SkipTrue: 1},
			notify,
			allow)
	}
	on(a.ioUring, nosys)
	return append(prog, allow)
}
