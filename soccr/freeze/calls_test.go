package freeze

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/fstests"
)

// storm freezes the process every 5 ms for a moment, until stop.
func storm(t *testing.T, f *Freezer, p *program) (stop func() int) {
	quit, done := make(chan struct{}), make(chan struct{})
	n := 0
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-time.After(5 * time.Millisecond):
			}
			z, err := f.Freeze(context.Background(), p.pid)
			if err != nil {
				if p.running() {
					time.Sleep(20 * time.Millisecond) // it may just end
				}
				if p.running() {
					t.Errorf("freeze %d: %v", n, err)
				}
				return
			}
			n++
			z.Thaw()
		}
	}()
	return sync.OnceValue(func() int {
		close(quit)
		<-done
		return n
	})
}

// attempts calls fn until it returns nil: on a busy machine a program may
// wake late without anybody's fault. A call that begins anew is late each time.
func attempts(t *testing.T, fn func() error) {
	t.Helper()
	var err error
	for range 4 {
		if err = fn(); err == nil {
			return
		}
	}
	t.Error(err)
}

// asUsual checks the output of the mode once: the result of the call is that
// of its timeout, after that many milliseconds.
func asUsual(out string, timeout float64) error {
	var result, errno, judgement string
	var took float64
	if _, err := fmt.Sscan(out, &result, &errno, &took, &judgement); err != nil {
		return fmt.Errorf("%q: %w", out, err)
	}
	if judgement != "as-usual" || took < timeout-0.5 || took > timeout+50*fstests.SlowBy() {
		return fmt.Errorf("got %s, want as usual after %.0f ms", out, timeout)
	}
	return nil
}

// What a call returns and how long it takes is as without us, however often
// the process is frozen.
func TestTimeoutUnderStorm(t *testing.T) {
	const timeout = 300 // ms
	kinds := []string{
		"epoll_wait", "epoll_pwait", "epoll_pwait2", "nanosleep", "poll", "ppoll", "select", "io_getevents",
		"semtimedop", "sigtimedwait", "recv", "read", "send", "accept", "futex",
	}
	f := New(nil, nil)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			attempts(t, func() error {
				p := start(t, "once", kind, fmt.Sprint(timeout))
				stop := storm(t, f, p)
				out := p.output(5 * time.Second)
				if n := stop(); n < 10 {
					return fmt.Errorf("it was frozen %d times only", n)
				}
				return asUsual(out, timeout)
			})
		})
	}
}

// A single freeze in the middle: epoll_wait gets what is left of its timeout.
func TestRemainingTimeout(t *testing.T) {
	f := New(nil, nil)
	const timeout, before = 300, 200 * time.Millisecond
	for _, kind := range []string{"epoll_wait", "epoll_pwait"} {
		for _, held := range []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond} {
			t.Run(fmt.Sprint(kind, " ", held), func(t *testing.T) {
				attempts(t, func() error {
					p := start(t, "once", kind, fmt.Sprint(timeout))
					p.waitAsleep()
					time.Sleep(before)
					z, err := f.Freeze(context.Background(), p.pid)
					if err != nil {
						return err
					}
					time.Sleep(held)
					z.Thaw()
					return asUsual(p.output(5*time.Second), max(timeout, float64((before+held).Milliseconds())))
				})
			})
		}
	}
}

// A program in every one of the calls at a time sees no EINTR.
func TestNoEINTR(t *testing.T) {
	f := New(nil, nil)
	p := start(t, "all")
	wait(t, "all threads", func() bool { return load(&p.count.ready) >= 11 })
	var longest, total time.Duration
	const times = 2000
	for range times {
		z := mustFreeze(t, f, p.pid)
		z.Thaw()
		d := z.tracer.stood
		total += d
		longest = max(longest, d)
		time.Sleep(200 * time.Microsecond)
	}
	if n := load(&p.count.eintr); n != 0 {
		t.Errorf("EINTR %d times in %d freezes", n, times)
	}
	if load(&p.count.turns) < 100 {
		t.Errorf("only %d calls", load(&p.count.turns))
	}
	t.Logf("%d calls returned; 12 threads stood still for %v on average, %v at most", load(&p.count.turns), total/times, longest)
}

// A signal that comes while the process is frozen interrupts its call if a
// handler runs, and only then.
func TestSignalWhileFrozen(t *testing.T) {
	f := New(nil, nil)
	waits(t)
	for _, kind := range []string{"epoll_wait", "epoll_pwait", "epoll_pwait2", "io_getevents", "semtimedop", "sigtimedwait"} {
		t.Run(kind, func(t *testing.T) {
			p := start(t, "signals", kind)
			for i := range 100 {
				p.waitAsleep()
				ready := load(&p.count.ready)
				// No signal, one that is ignored, and one without a handler.
				z := mustFreeze(t, f, p.pid)
				if i%3 > 0 {
					_ = unix.Kill(p.pid, []unix.Signal{0, unix.SIGUSR1, unix.SIGCHLD}[i%3])
				}
				z.Thaw()
				p.waitAsleep()
				if now := load(&p.count.ready); now != ready {
					t.Fatalf("turn %d: the call returned without a handler", i)
				}
				z = mustFreeze(t, f, p.pid)
				sigqueue(t, p.pid, sigrtmin, int32(i))
				z.Thaw()
				wait(t, "the handler", func() bool { return load(&p.count.ready) == ready+1 })
			}
			c := *p.count
			if c.handled != 100 || c.eintr != 100 || c.wrong != 0 || c.disorder != 0 {
				t.Errorf("got %+v, want 100 handled and 100 EINTR", c)
			}
		})
	}
}

// Every signal of a storm is handled once and in order.
func TestSignalStorm(t *testing.T) {
	f := New(nil, nil)
	p := start(t, "queue", "3000")
	n := 0
	for p.running() {
		z, err := f.Freeze(context.Background(), p.pid)
		if err != nil {
			break
		}
		n++
		z.Thaw()
		time.Sleep(time.Duration(n%5) * 100 * time.Microsecond)
	}
	if got := p.output(10 * time.Second); got != "3000" {
		t.Errorf("%s handlers ran, want 3000", got)
	}
	c := *p.count
	if c.disorder != 0 || c.wrong != 0 || c.eintr == 0 || c.eintr > 3000 {
		t.Errorf("got %+v", c)
	}
	if n < 200 {
		t.Errorf("only %d freezes", n)
	}
	t.Logf("%d freezes, EINTR for %d of 3000 signals", n, c.eintr)
}

// A timer expires as often as ever, and the wait for its signal is not
// interrupted.
func TestTimerUnderStorm(t *testing.T) {
	f := New(nil, nil)
	p := start(t, "alarms")
	stop := storm(t, f, p)
	out := p.output(5 * time.Second)
	if n := stop(); n < 50 {
		t.Errorf("it was frozen %d times only", n)
	}
	var share float64
	if _, err := fmt.Sscan(out, &share); err != nil || share < 0.98 || share > 1.01 {
		t.Errorf("the timer expired %q of the times that it should", out)
	}
	if n := load(&p.count.eintr); n != 0 {
		t.Errorf("EINTR %d times", n)
	}
}
