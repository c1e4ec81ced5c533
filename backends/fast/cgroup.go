package fast

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// onSockets are the programs of a cgroup that its sockets pass, those that
// they accept too.
var onSockets = []ebpf.AttachType{
	ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInetEgress,
	ebpf.AttachCGroupInetSockCreate, ebpf.AttachCgroupInetSockRelease, ebpf.AttachCGroupSockOps,
	ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind, ebpf.AttachCGroupInet4PostBind, ebpf.AttachCGroupInet6PostBind,
	ebpf.AttachCGroupGetsockopt, ebpf.AttachCGroupSetsockopt,
	ebpf.AttachCgroupInet4GetSockname, ebpf.AttachCgroupInet6GetSockname,
	ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
}

// checkCgroup returns an error if a socket of the thread tid passes other
// programs than one of the daemon's does. A clone is in the daemon's cgroup:
// what a service may be reached by (IPAddressDeny= of systemd) would not hold
// for it.
func checkCgroup(tid int) error {
	his, err := cgroupOf(fmt.Sprint(tid))
	if err != nil {
		return err
	}
	ours, err := cgroupOf("self")
	if err != nil || his == ours {
		return err
	}
	root, err := cgroupRoot()
	if err != nil {
		return err
	}
	for _, typ := range onSockets {
		a, aerr := programs(filepath.Join(root, his), typ)
		b, berr := programs(filepath.Join(root, ours), typ)
		if err := errors.Join(aerr, berr); err != nil {
			return fmt.Errorf("programs of cgroup %s: %v: %w", his, err, unix.EOPNOTSUPP)
		}
		if !slices.Equal(a, b) {
			return fmt.Errorf("cgroup %s has programs (%v) that clones of its listeners would not pass: %w", his, typ, unix.EOPNOTSUPP)
		}
	}
	return nil
}

// cgroupOf returns the path of a process in the hierarchy of version 2.
func cgroupOf(pid string) (string, error) {
	text, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if errors.Is(err, os.ErrNotExist) {
		return "", nil // a kernel without cgroups
	}
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path, nil
		}
	}
	return "", nil
}

// cgroupRoot returns where the hierarchy of version 2 is mounted.
func cgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		left, right, _ := strings.Cut(sc.Text(), " - ")
		if l := strings.Fields(left); len(l) > 4 && l[3] == "/" && strings.HasPrefix(right, "cgroup2 ") && !strings.Contains(l[4], `\`) {
			return l[4], nil
		}
	}
	return "", errors.Join(sc.Err(), fmt.Errorf("the caller is in another cgroup, and that is mounted nowhere, so it cannot be told what its programs are: %w", unix.EOPNOTSUPP))
}

// programs returns those that a socket of a cgroup passes, in their order.
func programs(cgroup string, typ ebpf.AttachType) (ids []ebpf.ProgramID, err error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	err = control(dir, func(fd int) {
		result, qerr := link.QueryPrograms(link.QueryOptions{Target: fd, Attach: typ, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE})
		if errors.Is(qerr, unix.EINVAL) || errors.Is(qerr, ebpf.ErrNotSupported) {
			return // a kernel without such programs
		}
		if err = qerr; err == nil {
			for _, p := range result.Programs {
				ids = append(ids, p.ID)
			}
		}
	})
	return ids, err
}
