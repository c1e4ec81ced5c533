package keeper

import (
	"bytes"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A process is the daemon as its child sees it.
type process struct {
	pid  int
	dead *os.File // readable when the first thread has ended
}

// watchParent watches the parent process. Its end cannot be told by a
// pidfd as long as one of its threads is left.
func watchParent() (*process, error) {
	pid := os.Getppid()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	// The signal comes when the thread ends that started us; it is of the
	// calling thread, which must stay.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGUSR1), 0, 0, 0); err != nil {
		r.Close()
		w.Close()
		return nil, os.NewSyscallError("prctl", err)
	}
	p := &process{pid, r}
	go func() {
		for range signals {
			// A process that just ends takes a moment, too.
			for range 40 {
				time.Sleep(50 * time.Millisecond)
				if p.stuck() {
					w.Close()
					return
				}
			}
		}
	}()
	return p, nil
}

// stuck tells whether the process has ended but for a thread that cannot:
// its first thread is a zombie and others are left.
func (p *process) stuck() bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/stat")
	if err != nil {
		return false
	}
	// "pid (name) state ppid ..."; the name may have parentheses.
	rest := b[bytes.LastIndexByte(b, ')')+1:]
	if fields := bytes.Fields(rest); len(fields) == 0 || string(fields[0]) != "Z" {
		return false
	}
	threads, err := os.ReadDir("/proc/" + strconv.Itoa(p.pid) + "/task")
	return err == nil && len(threads) > 1
}
