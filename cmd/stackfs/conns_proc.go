package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A procRef is a process that holds a socket.
type procRef struct {
	PID     int
	Command string // the name of its first thread
}

// socketInodes returns the inodes of the sockets that a process has as
// descriptors; proc is where procfs is.
func socketInodes(proc string, pid int) (map[string]bool, error) {
	inodes := map[string]bool{}
	err := eachSocket(filepath.Join(proc, strconv.Itoa(pid), "fd"), func(inode string) { inodes[inode] = true })
	switch {
	case os.IsNotExist(err):
		return nil, fmt.Errorf("process %d: there is none of that number: %w", pid, reason(err))
	case os.IsPermission(err):
		return nil, fmt.Errorf("process %d: you may not look at its descriptors: %w", pid, reason(err))
	case err != nil:
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return inodes, nil
}

// eachSocket calls fn with the inode of each socket in a directory of
// descriptors. It opens nothing that they lead to.
func eachSocket(dir string, fn func(inode string)) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		link, err := os.Readlink(dir + "/" + name)
		if err != nil {
			continue // closed since
		}
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			fn(strings.TrimSuffix(inode, "]"))
		}
	}
	return nil
}

// holders finds the processes that hold the sockets of rows, by inode, as far
// as the caller may see them: one pass over all processes.
func holders(proc string, rows []connRow) map[string][]procRef {
	wanted := make(map[string]bool, len(rows))
	for i := range rows {
		wanted[rows[i].Inode] = true
	}
	delete(wanted, "0") // sockets without a file
	found := map[string][]procRef{}
	f, err := os.Open(proc)
	if err != nil {
		return found
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	for _, pid := range pids {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		holder := procRef{PID: pid}
		_ = eachSocket(dir+"/fd", func(inode string) {
			if !wanted[inode] {
				return
			}
			if holder.Command == "" {
				comm, _ := os.ReadFile(dir + "/comm") // empty once it has ended
				holder.Command = strings.TrimSuffix(string(comm), "\n")
			}
			if list := found[inode]; len(list) == 0 || list[len(list)-1].PID != pid {
				found[inode] = append(list, holder)
			}
		})
	}
	return found
}
