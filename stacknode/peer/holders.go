package peer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Holder is a descriptor by which a process holds a socket.
type Holder struct {
	PID int // thread group
	// TID is the thread in whose file table the descriptor is, where that
	// is not the table of the first thread; else 0.
	TID int
	FD  int
}

// FindHolders returns who holds the sockets with these inode numbers; nil
// means every socket. It makes one pass over the file tables of all
// processes, by names alone (FetchFD says why), the daemon's own too. The
// processes skip are left out.
//
// A socket that is under way in an SCM_RIGHTS message, or that io_uring holds
// for a process, is in no table. Nor is there anything of a process that the
// daemon may not look into, for all its capabilities: one outside of its user
// namespace or its sandbox. Such a process cannot be frozen or read by the
// daemon either, whoever asks for that.
func FindHolders(inodes map[uint64]bool, skip ...int) (map[uint64][]Holder, error) {
	proc, err := openPath(unix.AT_FDCWD, "/proc", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	s := holderScan{proc: proc, want: inodes, found: map[uint64][]Holder{}}
	pids, err := numbersIn(proc)
	if err != nil {
		return nil, fmt.Errorf("processes: %w", err)
	}
	for _, pid := range pids {
		if slices.Contains(skip, pid) {
			continue
		}
		if err := s.process(pid); err != nil && !unseen(err) {
			return nil, fmt.Errorf("descriptors of process %d: %w", pid, err)
		}
	}
	return s.found, nil
}

// unseen tells whether err means that a process ended while it was looked at,
// or that the daemon may not look.
func unseen(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}

// A holderScan is one pass over /proc.
type holderScan struct {
	proc   *os.File
	want   map[uint64]bool
	found  map[uint64][]Holder
	dirent [32 << 10]byte
	tables []int // threads of the process at hand, one for each file table
}

func (s *holderScan) process(pid int) error {
	name := strconv.Itoa(pid)
	if err := s.table(name+"/fd", Holder{PID: pid}); err != nil {
		return err
	}
	tasks, err := openAt(s.proc, name+"/task")
	if err != nil {
		return err
	}
	defer tasks.Close()
	// Two names, "." and "..", and one for each thread.
	if n, err := links(tasks); err == nil && n <= 3 {
		return nil
	}
	tids, err := numbersIn(tasks)
	if err != nil {
		return err
	}
	s.tables = append(s.tables[:0], pid)
	for _, tid := range tids {
		if tid == pid || slices.ContainsFunc(s.tables, func(t int) bool { return sameFiles(t, tid) }) {
			continue
		}
		err := s.table(name+"/task/"+strconv.Itoa(tid)+"/fd", Holder{PID: pid, TID: tid})
		if err != nil && !unseen(err) {
			return err
		}
		s.tables = append(s.tables, tid)
	}
	return nil
}

// table notes the sockets in one file table; h says whose it is.
func (s *holderScan) table(path string, h Holder) error {
	dir, err := openAt(s.proc, path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return eachSocket(dir, s.dirent[:], func(fd int, inode uint64) {
		if s.want == nil || s.want[inode] {
			h.FD = fd
			s.found[inode] = append(s.found[inode], h)
		}
	})
}

// numbersIn returns the names of dir that are numbers.
func numbersIn(dir *os.File) ([]int, error) {
	names, err := dir.Readdirnames(-1)
	numbers := make([]int, 0, len(names))
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			numbers = append(numbers, n)
		}
	}
	return numbers, err
}

// Command returns the name of a process, as ps(1) shows it and without what
// would upset a terminal. It is empty if there is no such process.
func Command(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return printable(strings.TrimSuffix(string(b), "\n"))
}

func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, name)
}
