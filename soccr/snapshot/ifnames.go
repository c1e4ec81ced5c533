package snapshot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ifnames returns the names of the interfaces that sockets are bound to.
func ifnames(ns NetNS, slots []bpfSlot) (map[int32]string, error) {
	names := make(map[int32]string)
	for i := range slots {
		if o := &slots[i]; o.Status == bpfStatusTAKEN && o.BoundDevIf != 0 {
			names[o.BoundDevIf] = ""
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	return names, ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		for index := range names {
			ifr, err := unix.NewIfreq("")
			if err == nil {
				ifr.SetUint32(uint32(index))
				err = unix.IoctlIfreq(fd, unix.SIOCGIFNAME, ifr)
			}
			switch {
			case err == nil:
				names[index] = ifr.Name()
			case !errors.Is(err, unix.ENODEV): // deleted meanwhile
				return fmt.Errorf("ioctl SIOCGIFNAME %d: %w", index, err)
			}
		}
		return nil
	})
}
