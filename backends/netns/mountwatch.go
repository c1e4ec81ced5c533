package netns

import (
	"os"
	"syscall"
	"time"
)

// A mountWatch sends on C when something was mounted or unmounted in the
// daemon's mount namespace; at least once after the last change.
type mountWatch struct {
	C    chan struct{}
	f    *os.File // /proc/self/mountinfo
	done chan struct{}
}

// watchMounts starts a mountWatch.
func watchMounts() (*mountWatch, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	m := &mountWatch{C: make(chan struct{}, 1), f: f, done: make(chan struct{})}
	go m.loop(rc)
	return m, nil
}

// loop waits by the runtime's poller: mountinfo has an event for each
// change, see proc_pid_mounts(5). Many at once become one.
func (m *mountWatch) loop(rc syscall.RawConn) {
	defer close(m.done)
	for {
		first := true
		err := rc.Read(func(uintptr) bool {
			first = !first
			return first // the second time: the poller has seen an event
		})
		if err != nil {
			return // closed
		}
		select {
		case m.C <- struct{}{}:
		default:
		}
		time.Sleep(mountPause)
	}
}

// mountPause is how long changes of mounts are gathered.
const mountPause = 10 * time.Millisecond

// Close stops the watch and waits for its goroutine.
func (m *mountWatch) Close() error {
	err := m.f.Close()
	<-m.done
	return err
}
