package guardian

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/fstests"
	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// The test program under other names.
const (
	argvGuardian = "stackfs-guardian"
	argvDaemon   = "test-daemon"
)

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(roleEcho)); err == nil {
		echoMain(n)
	}
	switch os.Args[0] {
	case argvGuardian:
		syscall.CloseOnExec(3)
		if err := Main(os.NewFile(3, "control"), slog.New(slog.DiscardHandler)); err != nil {
			fmt.Fprintln(os.Stderr, "guardian:", err)
			os.Exit(1)
		}
		os.Exit(0)
	case argvDaemon:
		daemonMain()
	}
	os.Exit(m.Run())
}

// spawn starts the test program as guardian.
func spawn(control *os.File) (*os.Process, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{argvGuardian}
	cmd.ExtraFiles = []*os.File{control}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd.Process, nil
}

// A logBuffer keeps what a Client logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func startClient(t testing.TB) (*Client, *logBuffer) {
	t.Helper()
	fstests.Require(t, fstests.Root)
	log := &logBuffer{}
	c, err := Start(slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), spawn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(log)
		}
	})
	return c, log
}

// within fails the test if fn does not return in time.
func within(t testing.TB, limit time.Duration, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("not within %v: %s", limit, what)
	}
}

// wait waits until the condition holds.
func wait(t testing.TB, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// takeAll is a filter that keeps everything, so as to be told from none.
var takeAll = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
}

// requestOf is the request of root for a socket.
func requestOf(t testing.TB, fd int) (r Request) {
	t.Helper()
	var err error
	r.Tracer, err = peer.Self()
	must(t, err)
	r.Cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	r.Inode = st.Ino
	return r
}

// look calls fn with a duplicate of the only TCP socket of a process. While
// it lasts the test counts as a holder, and the guardian takes the test for
// the daemon.
func look(t testing.TB, pid int, fn func(fd int) error) error {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	defer unix.Close(pidfd)
	for n := range 64 {
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			continue
		}
		proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err == nil && proto == unix.IPPROTO_TCP {
			err = fn(fd)
			unix.Close(fd)
			return err
		}
		unix.Close(fd)
	}
	return fmt.Errorf("process %d has no TCP socket", pid)
}

// setUp gives a socket what must be put back.
func setUp(fd int) error {
	prog := unix.SockFprog{Len: uint16(len(takeAll)), Filter: &takeAll[0]}
	return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog))
}

// usable tells what setUp gave and the socket has not, and whether it is in
// repair mode.
func usable(fd int) error {
	repair, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR)
	if err != nil {
		return os.NewSyscallError("getsockopt TCP_REPAIR", err)
	}
	if repair != 0 {
		return errors.New("the socket is in repair mode")
	}
	prior, err := soccr.ReadPrior(fd)
	if err != nil {
		return err
	}
	if prior.ReuseAddr != 1 || !slices.Equal(prior.Filter, takeAll) {
		return fmt.Errorf("SO_REUSEADDR and filter: %v", prior)
	}
	return nil
}

// runs tells what keeps a process from running.
func runs(pid int) error {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			if key == "State" && (value[0] == 't' || value[0] == 'T') || key == "TracerPid" && value != "0" {
				return fmt.Errorf("%s: %s", file, strings.TrimSpace(line))
			}
		}
	}
	return nil
}

// unharmed waits until the owner runs with its socket as setUp made it, for a
// second at most.
func unharmed(t testing.TB, owner int) {
	t.Helper()
	var why error
	for end := time.Now().Add(time.Second); ; time.Sleep(2 * time.Millisecond) {
		if why = errors.Join(runs(owner), look(t, owner, usable)); why == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after a second: %v", why)
		}
	}
}

// A pair is a connection. One end is with a program that sends back what
// comes, the other here.
type pair struct {
	t       testing.TB
	peer    int // our end
	owner   *exec.Cmd
	words   *bufio.Scanner // what the owner has to say
	request Request        // for its end
}

// newPair makes a connection, whose owner is the test program in the role
// echo.
func newPair(t testing.TB) *pair { return newPairs(t, 1)[0] }

// newPairs makes connections of one owner.
func newPairs(t testing.TB, n int) []*pair {
	t.Helper()
	fstests.Require(t, fstests.Root)
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(listener)
	must(t, unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, unix.Listen(listener, n))
	owner := exec.Command("/proc/self/exe")
	owner.Env = append(os.Environ(), roleEcho+"="+strconv.Itoa(n))
	owner.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	owner.Stderr = os.Stderr
	out, err := owner.StdoutPipe()
	must(t, err)
	words := bufio.NewScanner(out)
	var pairs []*pair
	for range n {
		p, its := connectTo(t, listener)
		defer its.Close()
		p.owner, p.words = owner, words
		owner.ExtraFiles = append(owner.ExtraFiles, its)
		pairs = append(pairs, p)
	}
	must(t, owner.Start())
	t.Cleanup(func() {
		_ = owner.Process.Kill()
		_ = owner.Wait()
	})
	for _, p := range pairs {
		p.roundTrip("begin")
	}
	return pairs
}

// connectTo makes a pair without an owner; its is the owner's end.
func connectTo(t testing.TB, listener int) (p *pair, its *os.File) {
	t.Helper()
	sa, err := unix.Getsockname(listener)
	must(t, err)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	its = os.NewFile(uintptr(fd), "owner's end")
	must(t, unix.Connect(fd, sa))
	p = &pair{t: t}
	p.peer, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { unix.Close(p.peer) })
	limit := unix.Timeval{Sec: 5}
	must(t, unix.SetsockoptTimeval(p.peer, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	must(t, setUp(fd))
	p.request = requestOf(t, fd)
	return p, its
}

// roleEcho in the environment makes the test program an owner.
const roleEcho = "STACKFS_GUARDIAN_TEST_ECHO"

// echoMain is the owner of so many descriptors from 3 on.
func echoMain(n int) {
	for fd := 4; fd < 3+n; fd++ {
		go echo(fd)
	}
	echo(3)
}

// echo says every error, and goes on after those of a socket in repair mode.
func echo(fd int) {
	b := make([]byte, 64<<10)
	try := func(what func() (int, error)) int {
		for {
			n, err := what()
			if err == nil {
				return n
			}
			fmt.Println(unix.ErrnoName(err.(syscall.Errno)))
			if err != unix.EPERM && err != unix.EINVAL {
				fmt.Println("end")
				os.Exit(0)
			}
			time.Sleep(time.Millisecond)
		}
	}
	for {
		n := try(func() (int, error) { return unix.Read(fd, b) })
		if n == 0 {
			fmt.Println("end")
			os.Exit(0)
		}
		for done := 0; done < n; {
			done += try(func() (int, error) { return unix.Write(fd, b[done:n]) })
		}
	}
}

func (p *pair) pid() int { return p.owner.Process.Pid }

// roundTrip fails the test unless the owner sends the text back.
func (p *pair) roundTrip(text string) {
	p.t.Helper()
	p.send(text)
	p.expect(text)
}

func (p *pair) send(text string) {
	p.t.Helper()
	_, err := unix.Write(p.peer, []byte(text))
	must(p.t, err)
}

func (p *pair) expect(text string) {
	p.t.Helper()
	b := make([]byte, len(text))
	for got := 0; got < len(text); {
		n, err := unix.Read(p.peer, b[got:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			p.t.Fatalf("the peer has %q, %v, want %q", b[:got], err, text)
		}
		got += n
	}
	if string(b) != text {
		p.t.Fatalf("the peer has %q, want %q", b, text)
	}
}

// silent fails the test if anything comes to the peer.
func (p *pair) silent(d time.Duration) {
	p.t.Helper()
	fds := []unix.PollFd{{Fd: int32(p.peer), Events: unix.POLLIN | unix.POLLRDHUP}}
	for end := time.Now().Add(d); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(end).Milliseconds())))
		if err == unix.EINTR {
			continue
		}
		if n != 0 || err != nil {
			p.t.Fatalf("the peer sees %#x, %v", fds[0].Revents, err)
		}
		return
	}
}

// says fails the test unless the owner says the words next.
func (p *pair) says(words ...string) {
	p.t.Helper()
	for _, want := range words {
		within(p.t, 5*time.Second, "the owner says "+want, func() {
			if !p.words.Scan() || p.words.Text() != want {
				p.t.Errorf("the owner says %q, want %q", p.words.Text(), want)
			}
		})
	}
}

// A party is one side of an exchange, fstests/testdata/conns.
type party struct {
	t     testing.TB
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// A report is what it has seen.
type report struct {
	Sent, Received, Corrupt, Reads uint64
	EINTR                          int
	MaxGapUS                       int64 `json:"max_gap_us"`
	EOF                            bool
	Errors                         map[string]int
}

func startParty(t testing.TB, word string, argv ...string) *party {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := &party{t, cmd, in, bufio.NewScanner(out)}
	p.expect(word)
	return p
}

func (p *party) expect(word string) {
	p.t.Helper()
	within(p.t, 10*time.Second, "the program says "+word, func() {
		if !p.lines.Scan() || p.lines.Text() != word {
			p.t.Errorf("the program says %q, want %s", p.lines.Text(), word)
		}
	})
}

func (p *party) begin() {
	p.t.Helper()
	_, err := io.WriteString(p.in, "\n")
	must(p.t, err)
}

func (p *party) report() (r report) {
	p.t.Helper()
	within(p.t, 20*time.Second, "the program reports", func() {
		for p.lines.Scan() {
			if line := p.lines.Bytes(); len(line) > 0 && line[0] == '{' {
				if err := json.Unmarshal(line, &r); err != nil {
					p.t.Errorf("report %s: %v", line, err)
				}
				return
			}
		}
		p.t.Error("the program ended without a report")
	})
	return r
}

// An exchange is a pair of them, connected over the loopback.
type exchange struct {
	t              testing.TB
	server, client *party
	request        Request // for the client's end
}

const exchangeDir = "../../fstests/testdata/conns"

func exchanger(t testing.TB, name string) []string {
	t.Helper()
	switch name {
	case "go":
		return []string{fstests.GoBuild(t, filepath.Join(exchangeDir, "go"))}
	case "asyncio":
		fstests.Require(t, fstests.Program("/usr/bin/python3"))
		return []string{"/usr/bin/python3", "-B", filepath.Join(exchangeDir, "aio.py")}
	}
	fstests.Require(t, fstests.Compiler)
	return []string{fstests.Compile(t, filepath.Join(exchangeDir, "c", name+".c"), "-D_GNU_SOURCE", "-pthread")}
}

// connect starts an exchange.
func connect(t testing.TB, argv []string, opts ...string) *exchange {
	t.Helper()
	port := freePort(t)
	args := func(role string) []string {
		return append(append(append([]string{}, argv...), role, "127.0.0.1", port), opts...)
	}
	e := &exchange{t: t}
	e.server = startParty(t, "ready", args("server")...)
	e.client = startParty(t, "connected", args("client")...)
	e.server.expect("connected")
	must(t, look(t, e.owner(), func(fd int) error {
		e.request = requestOf(t, fd)
		return setUp(fd)
	}))
	return e
}

func (e *exchange) owner() int { return e.client.cmd.Process.Pid }

func freePort(t testing.TB) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	sa, err := unix.Getsockname(fd)
	must(t, err)
	return fmt.Sprint(sa.(*unix.SockaddrInet4).Port)
}

func (e *exchange) begin() {
	e.t.Helper()
	e.server.begin()
	e.client.begin()
}

// end lets the exchange end and fails the test for whatever its sides saw of
// the test.
func (e *exchange) end() (server, client report) {
	e.t.Helper()
	e.server.in.Close()
	e.client.in.Close()
	server, client = e.server.report(), e.client.report()
	for name, r := range map[string][2]report{"server": {server, client}, "client": {client, server}} {
		own, far := r[0], r[1]
		if len(own.Errors) > 0 || own.EINTR > 0 || own.Corrupt > 0 || !own.EOF {
			e.t.Errorf("%s: errors %v, %d EINTR, %d corrupt bytes, end %v", name, own.Errors, own.EINTR, own.Corrupt, own.EOF)
		}
		if own.Received != far.Sent || own.Received == 0 {
			e.t.Errorf("%s: received %d bytes of %d", name, own.Received, far.Sent)
		}
	}
	return server, client
}
