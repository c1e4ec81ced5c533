package main

import (
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// becomeVar makes a process of this test the one that becomes a program: it
// has the address to connect to.
const becomeVar = "STACKFS_TEST_BECOME"

func TestBecomeHelper(t *testing.T) {
	address := os.Getenv(becomeVar)
	if address == "" {
		return // not this process
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	sock, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	program := os.Getenv(becomeVar + "_PROGRAM")
	t.Fatal(become(sock, os.Getenv(becomeVar+"_INETD") != "", "/bin/sh", []string{"sh", "-c", program}))
}

// becomes starts a process that has a connection to here and becomes a shell.
// It returns our end and what ends the process.
func becomes(t *testing.T, program string, environ ...string) (net.Conn, *exec.Cmd) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second))
	// HUP is ignored, as by nohup(1), and 9 is open: the program is to have
	// both, and of descriptors only these and its socket.
	cmd := exec.Command("/bin/sh", "-c", `trap "" HUP; exec 9</dev/null; FDS=$(ls /proc/self/fd)
		export FDS; exec "$0" -test.run='^TestBecomeHelper$'`, os.Args[0])
	cmd.Env = append(os.Environ(), becomeVar+"="+l.Addr().String(), becomeVar+"_PROGRAM="+program)
	cmd.Env = append(cmd.Env, environ...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn, cmd
}

func TestBecomePassesTheConnection(t *testing.T) {
	t.Parallel()
	const program = `
same() { test "$1" = "$2" && echo "$3" >&3 || echo "got $1, want $2" >&3; }
same "$(ls /proc/self/fd 3>&-)" "$FDS" "the same descriptors"
same "$LISTEN_PID" $$ "its number"
same "$LISTEN_FDS $LISTEN_FDNAMES $LISTEN_ADDR" "1 connection kept" "its variables"
same "$(sed -n 's/^SigBlk:[[:space:]]*//p' /proc/$$/status)" 0000000000000000 "no signal blocked"
kill -HUP $$; echo "HUP ignored" >&3
read line <&3; echo "got $line" >&3`
	talk(t, program, []string{"LISTEN_FDS=7", "LISTEN_FDNAMES=a:b", "LISTEN_PID=1", "LISTEN_ADDR=kept"}, `the same descriptors
its number
its variables
no signal blocked
HUP ignored
got hello
`)
}

func TestBecomeWithInetd(t *testing.T) {
	t.Parallel()
	const program = `
test -S /proc/$$/fd/0 && test -S /proc/$$/fd/1 && test ! -S /proc/$$/fd/2 && echo "input and output"
test ! -S /proc/$$/fd/3 && echo "nothing else"
echo "${LISTEN_FDS-no} ${LISTEN_PID-no} ${LISTEN_FDNAMES-no}"
read line; echo "got $line"`
	talk(t, program, []string{becomeVar + "_INETD=1", "LISTEN_FDS=7", "LISTEN_PID=1"}, `input and output
nothing else
no no no
got hello
`)
}

// talk sends the program a line and compares what it writes until its end.
func talk(t *testing.T, program string, environ []string, want string) {
	t.Helper()
	conn, cmd := becomes(t, program, environ...)
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != want {
		t.Errorf("got %v and\n%swant\n%s", err, got, want)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the program: %v", err)
	}
}
