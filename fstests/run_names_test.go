package fstests

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inOwnHost runs the test once more, in a network and a mount namespace of
// its own, which are the host then. It returns true in there.
func inOwnHost(t *testing.T) bool {
	t.Helper()
	const env = "STACKFS_TEST_INSIDE"
	if os.Getenv(env) == t.Name() {
		return true
	}
	Require(t, Root, FUSE, NetAdmin, Program("unshare"))
	Binary(t) // build it out here
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := Command(t, 3*runTime, "unshare", "--net", "--mount", "--propagation", "private", "--",
		exe, "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), env+"="+t.Name())
	stdout, stderr, code := Output(t, cmd)
	switch {
	case code != 0 || !strings.Contains(stdout, "--- "):
		t.Errorf("in a namespace of its own: exit code %d\n%s%s", code, stdout, stderr)
	case strings.Contains(stdout, "--- SKIP: "+t.Name()):
		t.Skip(stdout)
	default:
		t.Log(stdout)
	}
	return false
}

// privateHost gives an isolated test a /run and an /etc of its own, with
// this resolv.conf, and a loopback with these addresses.
func privateHost(t *testing.T, resolvConf string, addresses ...string) {
	t.Helper()
	mount := func(source, dir, kind string, flags uintptr, data string) {
		t.Helper()
		if err := unix.Mount(source, dir, kind, flags, data); err != nil {
			t.Fatalf("mount %s: %v", dir, err)
		}
	}
	mount("stackfs-test", "/run", "tmpfs", 0, "mode=755")
	Run(t, runTime, "cp", "-a", "/etc", "/run/etc")
	mount("/run/etc", "/etc", "", unix.MS_BIND, "")
	for name, text := range map[string]string{
		"resolv.conf":   resolvConf,
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
		"hosts":         "127.0.0.1 localhost\n192.0.2.1 only-on-the-host.test\n",
	} {
		os.Remove("/etc/" + name)
		if err := os.WriteFile("/etc/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	Run(t, runTime, "ip", "link", "set", "lo", "up")
	for _, a := range addresses {
		Run(t, runTime, "ip", "addr", "add", a, "dev", "lo")
	}
}

// A nameServer is a DNS server that tells what it is asked for.
type nameServer struct {
	t testing.TB

	mu    sync.Mutex // guards names
	names []string
}

// startNameServer starts cmd, a "gonet dns", and waits until it is ready.
func startNameServer(t testing.TB, cmd *exec.Cmd) *nameServer {
	t.Helper()
	s := &nameServer{t: t}
	lines := startServer(t, cmd)
	go func() {
		for lines.Scan() {
			s.mu.Lock()
			s.names = append(s.names, strings.TrimSuffix(lines.Text(), "."))
			s.mu.Unlock()
		}
	}()
	return s
}

// startServer starts a program in the background, for the test, and waits
// until it says ready. The rest of its output is what is returned.
func startServer(t testing.TB, cmd *exec.Cmd) *bufio.Scanner {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	if err := Within(t, runTime, "start "+strings.Join(cmd.Args, " "), func() error {
		for lines.Scan() {
			if lines.Text() == "ready" {
				return nil
			}
		}
		return io.ErrUnexpectedEOF
	}); err != nil {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return lines
}

func (s *nameServer) asked(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.names, name)
}

func (s *nameServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.names)
}

// udpOut is how many datagrams have left the calling thread's namespace.
func udpOut(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var value string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[0] == "Udp:" {
			value = f[4] // OutDatagrams, of the second such line
		}
	}
	return value
}

// Names are resolved by the name server of the stack, over the stack, and
// the host's hears nothing: with each resolver, as root and as a user, and
// with nscd running, which asks in the host's network.
func TestRunResolvesNames(t *testing.T) {
	Require(t, Program("getent"), Program("nscd"), Program("/usr/bin/python3"))
	if !inOwnHost(t) {
		return
	}
	privateHost(t, "nameserver 198.51.100.53\noptions timeout:1 attempts:2\n", "198.51.100.53/32")
	gonet := GoBuild(t, "testdata/gonet")
	ns := NetNS(t, "192.0.2.53/32")
	etc := filepath.Join("/etc/netns", ns.Name)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(etc, "hosts"), []byte("192.0.2.2 only-on-the-stack.test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := newRunMount(t, fmt.Sprintf(`[stack.named]
netns = %q
mode = "0755"
resolv_conf = "nameserver 192.0.2.53\noptions timeout:5 attempts:2\n"
`, ns.Name))
	host := startNameServer(t, Command(t, 3*runTime, gonet, "dns", "198.51.100.53:53", "198.51.100.99"))
	stack := startNameServer(t, ns.Command(3*runTime, gonet, "dns", "192.0.2.53:53", "192.0.2.99"))

	clients := map[string][]string{
		"glibc":  {"getent", "ahostsv4"},
		"python": {"/usr/bin/python3", "-c", "import socket,sys; print(socket.gethostbyname(sys.argv[1]))"},
		"go":     {gonet, "resolve"},
	}
	n := 0
	resolve := func(t *testing.T, as func(*exec.Cmd) *exec.Cmd, words ...string) (address, name string) {
		t.Helper()
		n++
		name = fmt.Sprintf("name%d.test", n)
		out := RunCmd(t, as(Command(t, runTime, words[0], append(words[1:], name)...)))
		address, _, _ = strings.Cut(strings.TrimSpace(out), " ")
		return strings.TrimSpace(address), name
	}
	control := func(t *testing.T) {
		t.Helper()
		for client, words := range clients {
			if a, name := resolve(t, runUsers["user"], words...); a != "198.51.100.99" || !host.asked(name) {
				t.Fatalf("%s outside of run: got %s, want the host's answer", client, a)
			}
		}
	}
	all := func(t *testing.T) {
		for user, as := range runUsers {
			for client, words := range clients {
				t.Run(user+"/"+client, func(t *testing.T) {
					asked, sent := host.count(), udpOut(t)
					run := append([]string{m.bin, "run", m.Path("named"), "--"}, words...)
					a, name := resolve(t, as, run...)
					if a != "192.0.2.99" {
						t.Errorf("got %s, want the stack's answer", a)
					}
					if !stack.asked(name) {
						t.Error("the stack's name server was not asked")
					}
					if host.count() != asked || udpOut(t) != sent {
						t.Errorf("something went to the host's: %v", host.names[asked:])
					}
				})
			}
			t.Run(user+"/hosts", func(t *testing.T) {
				asked := host.count()
				hosts := func(name string) *exec.Cmd { return as(m.run("./named -- getent ahostsv4", name)) }
				if out := RunCmd(t, hosts("only-on-the-stack.test")); !strings.HasPrefix(out, "192.0.2.2 ") {
					t.Errorf("the stack's hosts: got %q", out)
				}
				if out := RunCmd(t, hosts("only-on-the-host.test")); !strings.HasPrefix(out, "192.0.2.99 ") {
					t.Errorf("the host's hosts: got %q", out)
				}
				if host.count() != asked {
					t.Error("the host's name server was asked")
				}
			})
			t.Run(user+"/no name server", func(t *testing.T) {
				// The host's file is seen, but the way is the stack's: none.
				asked, sent := host.count(), udpOut(t)
				for _, words := range clients {
					cmd := as(m.run("./other --", append(words, "none.test")...))
					if out, _, code := Output(t, cmd); code == 0 {
						t.Errorf("%s: got %q, want failure", words[0], out)
					}
				}
				if host.count() != asked || udpOut(t) != sent {
					t.Error("something went to the host's")
				}
			})
		}
	}
	t.Run("plain", func(t *testing.T) {
		control(t)
		all(t)
	})
	t.Run("nscd", func(t *testing.T) {
		startNSCD(t)
		control(t)
		// The daemon of the host is really used: it remembers answers.
		before := host.count()
		for range 2 {
			Run(t, runTime, "getent", "ahostsv4", "remembered.test")
		}
		if n := host.count() - before; n > 2 {
			t.Fatalf("nscd does not work: %d queries", n)
		}
		all(t)
		// And it would have answered, had it not been hidden.
		if a, _ := resolve(t, runUsers["root"], m.bin, "run", "--no-resolv", m.Path("named"), "--", "getent", "ahostsv4"); a != "198.51.100.99" {
			t.Errorf("--no-resolv: got %s, want the host's answer, by nscd", a)
		}
	})
}

// startNSCD starts the name service cache of the host.
func startNSCD(t *testing.T) {
	t.Helper()
	conf := filepath.Join(TempDir(t), "nscd.conf")
	text := "enable-cache hosts yes\npositive-time-to-live hosts 600\nsuggested-size hosts 211\npersistent hosts no\n" +
		"enable-cache passwd no\nenable-cache group no\nenable-cache services no\nenable-cache netgroup no\nparanoia no\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/nscd", 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := Command(t, 3*runTime, "nscd", "-F", "-f", conf)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	WaitFor(t, 20*time.Second, "nscd answers", func() bool {
		return exists("/run/nscd/socket") && exec.Command("nscd", "-f", conf, "-g").Run() == nil
	})
}
