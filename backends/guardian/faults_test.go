package guardian

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/fstests"
	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// daemonMain is a daemon that is going to be killed: it does what its
// argument says to the connection in the other one.
func daemonMain() {
	var r Request
	err := json.Unmarshal([]byte(os.Args[2]), &r)
	if err == nil {
		// As the test's own it would name the test, which is not the one
		// that asks here.
		r.Tracer, err = peer.Self()
	}
	var c *Client
	if err == nil {
		c, err = Start(slog.New(slog.DiscardHandler), spawn)
	}
	if err == nil && os.Args[1] == "hold" {
		_, err = c.Hold(context.Background(), r, 0)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready", c.PID())
	for os.Args[1] == "save" {
		_, _ = c.Save(context.Background(), r)
	}
	time.Sleep(time.Minute)
}

// startDaemon starts one and waits until it is at work; guardian is the
// process of its own.
func startDaemon(t *testing.T, what string, r Request) (cmd *exec.Cmd, guardian int) {
	t.Helper()
	text, err := json.Marshal(r)
	must(t, err)
	cmd = exec.Command("/proc/self/exe")
	cmd.Args = []string{argvDaemon, what, string(text)}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var line string
	within(t, 10*time.Second, "the daemon gets ready", func() { line, _ = bufio.NewReader(out).ReadString('\n') })
	if _, err := fmt.Sscanf(line, "ready %d", &guardian); err != nil {
		t.Fatalf("the daemon says %q", line)
	}
	return cmd, guardian
}

func TestDaemonKilledWhileItHolds(t *testing.T) {
	p := newPair(t)
	for range 5 {
		daemon, guardian := startDaemon(t, "hold", p.request)
		if err := runs(p.pid()); err == nil {
			t.Fatal("the owner is not frozen")
		}
		if err := look(t, p.pid(), usable); err == nil {
			t.Fatal("the socket is not in repair mode")
		}
		must(t, daemon.Process.Kill())
		unharmed(t, p.pid())
		p.roundTrip("after the daemon was killed")
		wait(t, time.Second, "the guardian ends", func() bool {
			fields := statFields(guardian)
			return len(fields) == 0 || string(fields[0]) == "Z" // init has to notice
		})
	}
}

func TestDaemonKilledWhileItSaves(t *testing.T) {
	p := newPair(t)
	for i := range 20 {
		daemon, _ := startDaemon(t, "save", p.request)
		time.Sleep(time.Duration(i) * 700 * time.Microsecond)
		must(t, daemon.Process.Kill())
		unharmed(t, p.pid())
		p.roundTrip("after the daemon was killed")
	}
}

func TestGuardianKilledWhileItHolds(t *testing.T) {
	c, _ := startClient(t)
	p := newPair(t)
	const kills = 10
	for range kills {
		h, err := c.Hold(context.Background(), p.request, 0)
		must(t, err)
		must(t, unix.Kill(c.PID(), unix.SIGKILL))
		unharmed(t, p.pid())
		p.roundTrip("after the guardian was killed")
		within(t, time.Second, "Done", func() { <-h.Done() })
		if err := h.Err(); !errors.Is(err, ErrDied) {
			t.Errorf("Err: got %v, want %v", err, ErrDied)
		}
		if _, err := h.Save(context.Background()); !errors.Is(err, ErrDied) {
			t.Errorf("Save: got %v, want %v", err, ErrDied)
		}
		if err := h.Resume(); err != nil {
			t.Errorf("Resume: %v", err)
		}
		if err := h.Discard(); !errors.Is(err, ErrDied) {
			t.Errorf("Discard: got %v, want %v", err, ErrDied)
		}
	}
	if _, err := c.Save(context.Background(), p.request); err != nil {
		t.Errorf("by the next guardian: %v", err)
	}
	p.fewErrors(kills)
}

// fewErrors ends the owner, which should have seen nothing of the guardian's
// deaths. On a busy machine the client may get its turn later than the owner.
func (p *pair) fewErrors(kills int) {
	p.t.Helper()
	must(p.t, unix.Shutdown(p.peer, unix.SHUT_WR))
	errs := 0
	within(p.t, 5*time.Second, "the owner ends", func() {
		for p.words.Scan() && p.words.Text() != "end" {
			errs++
		}
	})
	p.t.Logf("%d errors in %d deaths", errs, kills)
	if float64(errs) > float64(kills)/2*fstests.SlowBy() {
		p.t.Errorf("the owner saw %d errors in %d deaths of the guardian", errs, kills)
	}
}

func TestGuardianKilledWhileItSaves(t *testing.T) {
	c, log := startClient(t)
	p := newPair(t)
	const kills = 40
	for i := range kills {
		result := make(chan error, 1)
		go func() {
			_, err := c.Save(context.Background(), p.request)
			result <- err
		}()
		wait(t, 5*time.Second, "there is a guardian", func() bool { return c.PID() != 0 })
		time.Sleep(time.Duration(i) * 400 * time.Microsecond)
		if pid := c.PID(); pid != 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		within(t, 5*time.Second, "Save returns", func() {
			// ErrDied: the one that the last kill had hit, too.
			if err := <-result; err != nil && !errors.Is(err, ErrDied) {
				t.Errorf("kill %d: %v", i, err)
			}
		})
		unharmed(t, p.pid())
	}
	p.roundTrip("after the guardian was killed")
	if died := strings.Count(log.String(), "connections=1"); died < 5 {
		t.Errorf("only %d of the saves were hit", died)
	}
	p.fewErrors(kills)
}

// A guardian that is stopped does not keep anybody.
func TestGuardianStoppedWhileItHolds(t *testing.T) {
	c, _ := startClient(t)
	p := newPair(t)
	h, err := c.Hold(context.Background(), p.request, 0)
	must(t, err)
	must(t, unix.Kill(c.PID(), unix.SIGSTOP))
	within(t, patience+time.Second, "Resume", func() {
		if err := h.Resume(); err != nil {
			t.Errorf("Resume: %v", err)
		}
	})
	unharmed(t, p.pid())
	p.roundTrip("after it was resumed")
}

func TestOwnerKilledWhileItIsHeld(t *testing.T) {
	c, _ := startClient(t)
	for _, how := range []string{"resume", "discard"} {
		t.Run(how, func(t *testing.T) {
			p := newPair(t)
			h, err := c.Hold(context.Background(), p.request, 0)
			must(t, err)
			if how == "resume" {
				p.send("not read by anybody")
			}
			must(t, p.owner.Process.Kill())
			within(t, time.Second, "the owner's parent learns of it", func() { _ = p.owner.Wait() })
			p.silent(100 * time.Millisecond)
			if conn, err := h.Save(context.Background()); err != nil || conn.State != soccr.Established {
				t.Errorf("Save: %v", err)
			}
			if how == "discard" {
				must(t, h.Discard())
				p.silent(300 * time.Millisecond)
				return
			}
			must(t, h.Resume())
			b := make([]byte, 1)
			// What the owner did not read makes it a reset.
			if n, err := unix.Read(p.peer, b); n != 0 && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the peer reads %d, %v, want the end", n, err)
			}
		})
	}
}

func TestOwnerKilledWhileItIsSaved(t *testing.T) {
	c, _ := startClient(t)
	for i := range 15 {
		p := newPair(t)
		result := make(chan error, 1)
		go func() {
			for {
				if _, err := c.Save(context.Background(), p.request); err != nil {
					result <- err
					return
				}
			}
		}()
		time.Sleep(time.Duration(i) * time.Millisecond)
		must(t, p.owner.Process.Kill())
		within(t, time.Second, "the owner's parent learns of it", func() { _ = p.owner.Wait() })
		select {
		case err := <-result:
			if !errors.Is(err, unix.ESTALE) && !errors.Is(err, unix.ESRCH) {
				t.Errorf("got %v, want ESTALE", err)
			}
		case <-time.After(2 * time.Second):
			t.Fatal("Save goes on")
		}
		b := make([]byte, 1)
		if n, err := unix.Read(p.peer, b); n != 0 {
			t.Errorf("the peer reads %d, %v, want the end", n, err)
		}
	}
}

func TestOwnerIsTraced(t *testing.T) {
	fstests.Require(t, fstests.Program("strace"))
	c, _ := startClient(t)
	p := newPair(t)
	strace := exec.Command("strace", "-f", "-qq", "-e", "trace=none", "-o", "/dev/null", "-p", fmt.Sprint(p.pid()))
	must(t, strace.Start())
	defer func() {
		_ = strace.Process.Signal(unix.SIGTERM)
		_ = strace.Wait()
		unharmed(t, p.pid())
	}()
	wait(t, 20*time.Second, "strace attaches", func() bool { return runs(p.pid()) != nil })
	want := fmt.Sprintf("process %d (exe) is being traced by process %d (strace)", p.pid(), strace.Process.Pid)
	for what, err := range map[string]error{
		"save": func() error { _, err := c.Save(context.Background(), p.request); return err }(),
		"hold": func() error { _, err := c.Hold(context.Background(), p.request, 0); return err }(),
	} {
		if !errors.Is(err, unix.EBUSY) || err.Error() != want {
			t.Errorf("%s: got %v, want EBUSY: %s", what, err, want)
		}
	}
}
