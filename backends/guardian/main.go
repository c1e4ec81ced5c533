package guardian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr/freeze"
)

// A guard is the state of the guardian process.
type guard struct {
	log     *slog.Logger
	control *os.File
	daemon  int // the process that started this one
	freezer *freeze.Freezer
	end     context.CancelFunc // of everything

	wg sync.WaitGroup // the tasks

	mu     sync.Mutex // guards the fields below
	tasks  map[uint64]*task
	claims map[uint64]*claim // by the cookie of the connection
}

// A task is an operation on the guardian's side.
type task struct {
	message
	cancel context.CancelFunc
	orders chan string // opAgain, opResume, opDiscard
}

// Main is the guardian process; control is what the daemon gave it. It
// returns when the daemon is gone, or a signal asked for it, and everything
// is put back.
func Main(control *os.File, log *slog.Logger) error {
	ctx, end := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer end()
	g := &guard{
		log: log, control: control, daemon: os.Getppid(), end: end,
		tasks: map[uint64]*task{}, claims: map[uint64]*claim{},
	}
	g.freezer = freeze.New(g.refuse, g.announce)
	ended := make(chan error, 1)
	go func() { ended <- g.read(ctx) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	end()
	// No task begins any more: each is added under the lock, and then looks
	// at ctx.
	g.mu.Lock()
	g.tasks = nil
	g.mu.Unlock()
	g.wg.Wait()
	g.freezer.Close()
	return err
}

// read handles what the daemon says until it is gone.
func (g *guard) read(ctx context.Context) error {
	for {
		m, f, err := receive(g.control)
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return err
		}
		if f != nil {
			f.Close()
		}
		g.handle(ctx, m)
	}
}

func (g *guard) handle(ctx context.Context, m message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tasks == nil {
		return
	}
	t := g.tasks[m.ID]
	switch m.Op {
	case opSave, opHold:
		if t != nil || m.Request == nil {
			return
		}
		t = &task{message: m, orders: make(chan string, 4)}
		ctx, t.cancel = context.WithCancel(ctx)
		g.tasks[m.ID] = t
		g.wg.Go(func() { g.run(ctx, t) })
	case opCancel:
		if t != nil {
			t.cancel()
		}
	default:
		if t != nil {
			select {
			case t.orders <- m.Op:
			default: // nobody sends so many
			}
		}
	}
}

// tell sends a message to the daemon. If that is gone, so is the task.
func (g *guard) tell(m message, f *os.File) { _ = send(g.control, m, f, 0) }

// announce gives the daemon the lifeline of a thread that traces.
func (g *guard) announce(end *os.File) error {
	return send(g.control, message{Op: opLife}, end, 0)
}

// refuse is about processes that must not be frozen for anybody: the daemon
// and its keeper.
func (g *guard) refuse(pid int) error {
	if pid == g.daemon || parentOf(pid) == g.daemon && strings.HasPrefix(nameOf(pid), ourPrefix) {
		return fmt.Errorf("process %d: %w", pid, errOurs)
	}
	return nil
}

// ourPrefix begins the names by which the daemon starts its processes.
const ourPrefix = "stackfs-"

// nameOf returns the name by which a process was started.
func nameOf(pid int) string {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return ""
	}
	name, _, _ := bytes.Cut(b, []byte{0})
	return string(name)
}

func parentOf(pid int) int {
	fields := statFields(pid)
	if len(fields) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(string(fields[1]))
	return n
}

// orphaned tells whether the daemon is dead. Another of its threads can be
// stuck in the kernel, so that its descriptors are still open.
func (g *guard) orphaned() bool {
	fields := statFields(g.daemon)
	return os.Getppid() != g.daemon || len(fields) == 0 || string(fields[0]) == "Z"
}

// statFields returns the fields of /proc/PID/stat from the state on, nil if
// there is no such process.
func statFields(pid int) [][]byte {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil
	}
	return bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
}
