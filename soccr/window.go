package soccr

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// windowFields is struct tcp_repair_window of <linux/tcp.h>, in its order.
func windowFields(d *Data) [5]*uint32 {
	return [5]*uint32{&d.SndWl1, &d.SndWnd, &d.MaxWindow, &d.RcvWnd, &d.RcvWup}
}

// readWindow sets the window fields of d. Kernels before 4.8 do not have
// them.
func readWindow(fd int, d *Data) error {
	var b [20]byte
	_, err := getsockoptBytes(fd, unix.SOL_TCP, unix.TCP_REPAIR_WINDOW, b[:])
	if notThere(err) {
		return nil
	}
	for i, f := range windowFields(d) {
		*f = binary.NativeEndian.Uint32(b[4*i:])
	}
	d.HasWindow = err == nil
	return os.NewSyscallError("getsockopt TCP_REPAIR_WINDOW", err)
}

// writeWindow gives a socket the window fields of d.
func writeWindow(fd int, d *Data) error {
	var b [20]byte
	for i, f := range windowFields(d) {
		binary.NativeEndian.PutUint32(b[4*i:], *f)
	}
	return os.NewSyscallError("setsockopt TCP_REPAIR_WINDOW", setsockoptBytes(fd, unix.SOL_TCP, unix.TCP_REPAIR_WINDOW, b[:]))
}
