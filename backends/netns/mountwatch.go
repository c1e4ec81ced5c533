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
// change, see proc_pid_mounts(5). RawConn.Read forgets the events that came
// before it, and then calls the function: who looks when that sends misses
// none. Many events at once become one.
func (m *mountWatch) loop(rc syscall.RawConn) {
	defer close(m.done)
	for {
		armed := false
		err := rc.Read(func(uintptr) bool {
			if armed {
				return true // the poller has seen an event
			}
			armed = true
			select {
			case m.C <- struct{}{}:
			default:
			}
			return false
		})
		if err != nil {
			return // closed
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
