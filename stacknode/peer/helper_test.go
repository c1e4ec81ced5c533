package peer

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helperEnv makes this program a helper: a process that holds a socket and
// tries to take descriptors of others.
const helperEnv = "STACKFS_PEER_HELPER"

func TestMain(m *testing.M) {
	if mode, ok := os.LookupEnv(helperEnv); ok {
		helperMain(mode)
		return
	}
	os.Exit(m.Run())
}

// A helper is such a process.
type helper struct {
	cmd *exec.Cmd
	in  *bufio.Writer
	out *bufio.Reader

	pid, fd int
	inode   uint64
}

// requireRoot skips the test where there is no root.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("STACKFS_STRICT") == "1" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// startHelper starts a helper that is what mode says, see helperMain.
func startHelper(t *testing.T, mode string, attr syscall.SysProcAttr) *helper {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = []string{helperEnv + "=" + mode}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &attr
	cmd.WaitDelay = 5 * time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // ends it
		_ = cmd.Wait()
	})
	h := &helper{cmd: cmd, in: bufio.NewWriter(in), out: bufio.NewReader(out)}
	if _, err := fmt.Fscan(h.out, &h.pid, &h.fd, &h.inode); err != nil {
		t.Fatalf("helper %q: %v", mode, err)
	}
	_, _ = h.out.ReadString('\n')
	return h
}

// take asks h to take a descriptor of another by pidfd_getfd(2).
func (h *helper) take(t *testing.T, other *helper) error {
	t.Helper()
	fmt.Fprintln(h.in, other.pid, other.fd)
	h.in.Flush()
	line, err := h.out.ReadString('\n')
	if err != nil {
		t.Fatalf("helper: %v", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("helper: %v", err)
	}
	if n != 0 {
		return syscall.Errno(n)
	}
	return nil
}

// helperMain makes itself what the words of mode say:
//
//	undumpable     PR_SET_DUMPABLE
//	setuid=UID     give up root without exec
//	seteuid=UID    the same, with root as the saved uid
//	userns         another program in a user namespace of its own
//	thread         the socket is in the table of a thread, by unshare(2)
func helperMain(mode string) {
	runtime.LockOSThread()
	sock := make(chan int, 1)
	for _, word := range strings.Fields(mode) {
		key, value, _ := strings.Cut(word, "=")
		n, _ := strconv.Atoi(value)
		var err error
		switch key {
		case "undumpable":
			err = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
		case "setuid":
			err = syscall.Setresuid(n, n, n)
		case "seteuid":
			err = syscall.Setresuid(n, n, 0)
		case "userns":
			err = inUserNS()
		case "thread":
			go threadWithTable(sock)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, word, err)
			os.Exit(1)
		}
	}
	if !strings.Contains(mode, "thread") {
		sock <- openSocket()
	}
	fd := <-sock
	var st unix.Stat_t
	if !strings.Contains(mode, "thread") {
		_ = unix.Fstat(fd, &st)
	} else {
		st.Ino = uint64(<-sock)
	}
	fmt.Println(os.Getpid(), fd, st.Ino)
	for {
		var pid, theirs int
		if _, err := fmt.Scanln(&pid, &theirs); err != nil {
			return
		}
		fmt.Println(int(takeFD(pid, theirs)))
	}
}

func openSocket() int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		os.Exit(1)
	}
	return fd
}

func takeFD(pid, fd int) syscall.Errno {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err.(syscall.Errno)
	}
	defer unix.Close(pidfd)
	if fd, err = unix.PidfdGetfd(pidfd, fd, 0); err != nil {
		return err.(syscall.Errno)
	}
	unix.Close(fd)
	return 0
}

// threadWithTable opens a socket that only its own thread has. It sends the
// descriptor and the number of the inode.
func threadWithTable(sock chan<- int) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		os.Exit(1)
	}
	fd := openSocket()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		os.Exit(1)
	}
	sock <- fd
	sock <- int(st.Ino)
	select {}
}

// inUserNS runs the helper again in a new user namespace and ends with it.
func inUserNS() error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{helperEnv + "="}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   unix.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		return err
	}
	os.Exit(0)
	return nil
}
