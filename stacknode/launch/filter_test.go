package launch

import (
	"encoding/binary"
	"runtime"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// decide runs the filter on one call. The machine of package bpf reads big
// endian, as packets are; the kernel reads seccomp_data as the CPU does.
func decide(t *testing.T, vm *bpf.VM, arch, nr uint32, arg0 uint64) uint32 {
	t.Helper()
	var data [64]byte
	binary.BigEndian.PutUint32(data[offNR:], nr)
	binary.BigEndian.PutUint32(data[offArch:], arch)
	binary.BigEndian.PutUint32(data[offArg0:], uint32(arg0))
	binary.BigEndian.PutUint32(data[offArg0+4:], uint32(arg0>>32))
	n, err := vm.Run(data[:])
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func TestFilter(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the numbers below are amd64's")
	}
	raw, err := filter()
	if err != nil {
		t.Fatal(err)
	}
	prog, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program does not disassemble")
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	nosys := uint32(retErrno | uint32(unix.ENOSYS))
	for _, tt := range []struct {
		name string
		arch uint32
		nr   uint32
		arg0 uint64
		want uint32
	}{
		{"socket inet", archX86, 41, unix.AF_INET, retNotify},
		{"socket netlink", archX86, 41, unix.AF_NETLINK, retNotify},
		{"socket of an unknown family", archX86, 41, 0x73746b66, retNotify},
		{"socket unix", archX86, 41, unix.AF_UNIX, retAllow},
		{"socket unix with junk above", archX86, 41, 0xdead_0000_0001, retAllow},
		{"socket inet with junk above", archX86, 41, 0x1_0000_0002, retNotify},
		{"read", archX86, 0, 0, retAllow},
		{"connect", archX86, 42, 3, retAllow},
		{"io_uring_setup", archX86, nrIOUring, 8, nosys},
		{"x32 socket", archX86, x32Bit | 41, unix.AF_UNIX, nosys},
		{"x32 read", archX86, x32Bit, 0, nosys},
		{"i386 socket inet", archI386, 359, unix.AF_INET, retNotify},
		{"i386 socket unix", archI386, 359, unix.AF_UNIX, retAllow},
		{"i386 socketcall socket", archI386, 102, sysSocket, retNotify},
		{"i386 socketcall connect", archI386, 102, 3, retAllow},
		{"i386 41 is dup", archI386, 41, unix.AF_INET, retAllow},
		{"i386 io_uring_setup", archI386, nrIOUring, 8, nosys},
		{"another architecture", archARM, 41, unix.AF_INET, nosys},
	} {
		if got := decide(t, vm, tt.arch, tt.nr, tt.arg0); got != tt.want {
			t.Errorf("%s: got %#x, want %#x", tt.name, got, tt.want)
		}
	}
}

func TestFilterForOtherMachines(t *testing.T) {
	for name, list := range abis {
		for _, a := range list {
			if a.socket == 0 || a.arch == 0 || a.ioUring != nrIOUring {
				t.Errorf("%s: %+v", name, a)
			}
			if _, err := bpf.Assemble(a.filter()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
