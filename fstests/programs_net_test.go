package fstests

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A site is a mount whose stack "lab" is a namespace that a cable connects
// with another one, far, where other people's programs are.
type site struct {
	*runMount
	here, far *NS
	gonet     string
}

// newSite mounts; lab is added to the configuration of the stack lab.
func newSite(t *testing.T, lab string) *site {
	t.Helper()
	Require(t, Root, FUSE, NetAdmin, Compiler, Kernel("5.14", "SO_NETNS_COOKIE"))
	s := &site{gonet: GoBuild(t, "testdata/gonet")}
	s.here, s.far = Pair(t)
	m := &runMount{t: t, probe: cProgram(t, "run", "")}
	m.M = Mount(t, Config{TOML: fmt.Sprintf("[stack.lab]\nnetns = %q\nmode = \"0755\"\n%s\n[stack.other]\nmode = \"0755\"\n", s.here.Name, lab)})
	t.Cleanup(m.noRuns)
	m.lab = m.Status("lab")["netns_cookie"]
	s.runMount = m
	return s
}

// serve starts a server in a namespace or on a stack: TCP and UDP, of both
// families, on port 8080.
func (s *site) serve(cmd *exec.Cmd, text string) {
	s.t.Helper()
	cmd.Args = append(cmd.Args, s.gonet, "serve", ":8080", text)
	startServer(s.t, cmd)
}

func (s *site) farCommand(name string, args ...string) *exec.Cmd {
	return s.far.Command(runTime, name, args...)
}

// url returns the address of a server of both families.
func urls(n *NS, port int) []string {
	return []string{
		"http://" + netip.AddrPortFrom(n.IP4, uint16(port)).String() + "/",
		"http://" + netip.AddrPortFrom(n.IP6, uint16(port)).String() + "/",
	}
}

// wants runs a program that must print want.
func wants(t *testing.T, cmd *exec.Cmd, want string) {
	t.Helper()
	if got := strings.TrimSpace(RunCmd(t, cmd)); got != want {
		t.Errorf("%s: got %q, want %q", strings.Join(cmd.Args, " "), got, want)
	}
}

// Clients on the stack reach a server that only the stack has a way to.
func TestProgramsClients(t *testing.T) {
	Require(t, Program("curl"), Program("busybox"), Program("/usr/bin/python3"))
	s := newSite(t, "")
	s.serve(s.farCommand("env"), "far")
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			for _, url := range urls(s.far, 8080) {
				wants(t, as(s.run("./lab -- curl -sSg --max-time 20", url)), "far")
				wants(t, as(s.run("./lab --", s.gonet, "get", url)), "far")
				wants(t, as(s.run("./lab -- /usr/bin/python3 -c", "import sys,urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).read().decode())", url)), "far")
			}
			wants(t, as(s.run("./lab -- busybox wget -q -O -", urls(s.far, 8080)[0])), "far")
			for _, a := range []netip.Addr{s.far.IP4, s.far.IP6} {
				wants(t, as(s.run("./lab --", s.gonet, "udp", netip.AddrPortFrom(a, 8080).String())), "far")
			}
			// The host has no way to there.
			cmd := as(Command(t, runTime, "curl", "-sSg", "--max-time", "20", "--connect-timeout", "1", urls(s.far, 8080)[0]))
			if _, _, code := Output(t, cmd); code == 0 {
				t.Error("the host reaches the server too: the test shows nothing")
			}
		})
	}
}

// Servers on the stack are reached from outside, at the stack's address.
func TestProgramsServers(t *testing.T) {
	Require(t, Program("curl"), Program("/usr/bin/python3"))
	s := newSite(t, "")
	s.serve(s.run("./lab --"), "here")
	for _, url := range urls(s.here, 8080) {
		wants(t, s.farCommand("curl", "-sSg", "--max-time", "20", url), "here")
		wants(t, s.farCommand(s.gonet, "get", url), "here")
	}
	for _, a := range []netip.Addr{s.here.IP4, s.here.IP6} {
		wants(t, s.farCommand(s.gonet, "udp", netip.AddrPortFrom(a, 8080).String()), "here")
	}

	dir := TempDir(t)
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("python"), 0o644); err != nil {
		t.Fatal(err)
	}
	python := runUsers["user"](s.run("./lab -- /usr/bin/python3 -u -m http.server 8000 --bind :: --directory", dir))
	startBackground(t, python)
	s.reached(t, 8000, "python")
}

// startBackground starts a program for the test.
func startBackground(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
}

// reached waits until a server on the stack answers text on both families.
func (s *site) reached(t *testing.T, port int, text string) {
	t.Helper()
	for _, url := range urls(s.here, port) {
		WaitFor(t, 20*time.Second, url+" says "+text, func() bool {
			out, err := s.farCommand("curl", "-sSg", "--max-time", "5", url).Output()
			return err == nil && strings.TrimSpace(string(out)) == text
		})
	}
}

// nginx becomes a daemon, which run does not wait for; what it is told
// later, by a run or by a signal, stays on the stack, and so do its workers.
func TestProgramsNginx(t *testing.T) {
	Require(t, Program("nginx"), Program("curl"))
	s := newSite(t, "")
	dir := TempDir(t)
	conf := filepath.Join(dir, "nginx.conf")
	configure := func(port int, text string) {
		t.Helper()
		err := os.WriteFile(conf, []byte(fmt.Sprintf(`user nobody nogroup;
pid %[1]s/pid;
error_log %[1]s/error.log;
worker_processes 2;
events { worker_connections 64; }
http {
	access_log off;
	client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	server { listen %[2]d reuseport; listen [::]:%[2]d ipv6only=on; location / { return 200 "%[3]s\n"; } }
}
`, dir, port, text)), 0o644)
		if err != nil {
			t.Fatal(err)
		}
	}
	configure(8081, "first")
	nginx := func(more ...string) *exec.Cmd {
		return s.run("./lab --", append([]string{"nginx", "-c", conf, "-e", dir + "/error.log"}, more...)...)
	}
	RunCmd(t, nginx())
	t.Cleanup(func() {
		RunCmd(t, nginx("-s", "stop"))
		WaitFor(t, 20*time.Second, "nginx ends", func() bool { return !exists(dir + "/pid") })
	})
	s.reached(t, 8081, "first")
	configure(8082, "second")
	RunCmd(t, nginx("-s", "reload"))
	s.reached(t, 8082, "second")
	// Also when it is told from outside, and after the daemon came back.
	s.Kill()
	s.Start()
	configure(8083, "third")
	pid, err := os.ReadFile(dir + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	Run(t, runTime, "kill", "-HUP", strings.TrimSpace(string(pid)))
	s.reached(t, 8083, "third")
	// The listeners are the stack's alone.
	if out := s.here.Command(runTime, "ss", "-Hltn", "sport", "=", ":8083"); !strings.Contains(RunCmd(t, out), ":8083") {
		t.Error("no listener in the stack's namespace")
	}
	if out := Run(t, runTime, "ss", "-Hltn", "sport", "=", ":8083"); strings.TrimSpace(out) != "" {
		t.Errorf("a listener on the host: %s", out)
	}
}

// iperf3 measures over the stack, in both directions.
func TestProgramsIperf(t *testing.T) {
	Require(t, Program("iperf3"))
	s := newSite(t, "")
	measure := func(server, client *exec.Cmd) {
		t.Helper()
		startBackground(t, server)
		var out string
		WaitFor(t, 20*time.Second, "iperf3 measures", func() bool {
			b, _ := exec.Command(client.Path, client.Args[1:]...).CombinedOutput()
			out = string(b)
			// It exits with 0 when it cannot connect (3.12).
			return strings.Contains(out, `"bytes"`)
		})
		if strings.Contains(out, `"error"`) {
			t.Errorf("%s: got %s", strings.Join(client.Args, " "), out)
		}
	}
	for _, flag := range []string{"-i0", "-u"} {
		measure(s.farCommand("iperf3", "-s", "-1", "-p", "5201"),
			s.run("./lab -- iperf3 -J -t 1", flag, "-p", "5201", "--connect-timeout", "2000", "-c", s.far.IP4.String()))
		measure(s.run("./lab -- iperf3 -s -1 -p 5202"),
			s.farCommand("iperf3", "-J", "-t", "1", flag, "-p", "5202", "--connect-timeout", "2000", "-c", s.here.IP6.String()))
	}
}

// ip and ss see the stack; ping works for who may.
func TestProgramsTools(t *testing.T) {
	Require(t, Program("ss"), Program("ping"))
	s := newSite(t, "sysctl = { \"net.ipv4.ping_group_range\" = \"1 0\" }\n"+
		"[[stack.lab.grant]]\nusers = [12345]\nallow = [\"raw\"]\n")
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			out := RunCmd(t, as(s.run("./lab -- ip -brief address")))
			if !strings.Contains(out, s.here.IP4.String()+"/24") || !strings.Contains(out, s.here.IP6.String()+"/64") {
				t.Errorf("ip address: got %q", out)
			}
			out = RunCmd(t, as(s.run("./lab -- ip -j route get", s.far.IP4.String())))
			if !strings.Contains(out, `"eth0"`) {
				t.Errorf("ip route: got %q", out)
			}
		})
	}
	// Root may change the stack's links, a user may not.
	RunCmd(t, s.run("./lab -- ip link set eth0 alias stack"))
	if _, stderr, code := Output(t, runUsers["user"](s.run("./lab -- ip link set eth0 alias hacked"))); code == 0 || !strings.Contains(stderr, "not permitted") {
		t.Errorf("a user sets a link: exit code %d, %q", code, stderr)
	}
	if out := s.here.IP("-d", "link", "show", "eth0"); !strings.Contains(out, "alias stack") {
		t.Errorf("the alias of the link: %q", out)
	}
	s.serve(s.run("./lab --"), "here")
	if out := RunCmd(t, s.run("./lab -- ss -Hltn sport = :8080")); !strings.Contains(out, ":8080") {
		t.Errorf("ss: got %q", out)
	}

	ping := func(flag string, n *NS) *exec.Cmd {
		to := n.IP4
		if flag == "-6" {
			to = n.IP6
		}
		return s.run("./lab -- ping -n -c 1 -W 10", flag, to.String())
	}
	for _, flag := range []string{"-4", "-6"} {
		RunCmd(t, ping(flag, s.far))
		if _, stderr, code := Output(t, runUsers["user"](ping(flag, s.far))); code == 0 || !strings.Contains(stderr, "not permitted") {
			t.Errorf("ping %s without a grant: exit code %d, %q", flag, code, stderr)
		}
		RunCmd(t, AsUser(ping(flag, s.far), 12345, 12345))
	}
	Run(t, runTime, "ip", "netns", "exec", s.here.Name, "sysctl", "-qw", "net.ipv4.ping_group_range=65534 65534")
	for _, flag := range []string{"-4", "-6"} {
		RunCmd(t, runUsers["user"](ping(flag, s.far)))
	}
}

// One process talks on three stacks at once, which have the same addresses.
func TestProgramsThreeStacks(t *testing.T) {
	Require(t, Program("/usr/bin/python3"), Program("make"))
	Run(t, 2*time.Minute, "make", "-s", "-C", "../stacknode/shim", "all")
	gonet := GoBuild(t, "testdata/gonet")
	three := Compile(t, "testdata/three/three.c", "-I../stacknode/shim", "../build/libmsocket.so", "-Wl,-rpath,"+mustAbs(t, "../build"))
	var toml strings.Builder
	var names []string
	for i := range 3 {
		ns := NetNS(t)
		names = append(names, fmt.Sprint("stack", i))
		fmt.Fprintf(&toml, "[stack.%s]\nnetns = %q\nmode = \"0755\"\n", names[i], ns.Name)
		startServer(t, ns.Command(3*runTime, gonet, "serve", "127.0.0.1:8080", names[i]))
	}
	m := newRunMount(t, toml.String())
	var paths []string
	for _, name := range names {
		paths = append(paths, m.Path(name))
	}
	for user, as := range runUsers {
		t.Run(user, func(t *testing.T) {
			want := strings.Join(names, "\n")
			wants(t, as(Command(t, runTime, three, append([]string{"8080"}, paths...)...)), want)
			var twice []string
			for _, name := range names {
				twice = append(twice, name, name)
			}
			wants(t, as(Command(t, runTime, gonet, append([]string{"stacks", "127.0.0.1:8080"}, paths...)...)), strings.Join(twice, "\n"))
			wants(t, as(Command(t, runTime, "/usr/bin/python3", append([]string{"-B", "-c", pythonStacks, mustAbs(t, "testdata")}, paths...)...)), want)
			// On a stack by run, and on the others by their paths.
			wants(t, as(m.run("./lab --", append([]string{three, "8080"}, paths...)...)), want)
			wants(t, as(m.run("./stack1 --", gonet, "get", "http://127.0.0.1:8080/")), "stack1")
		})
	}
}

const pythonStacks = `
import sys
sys.path.insert(0, sys.argv[1])
from msocket import msocket
socks = [msocket(p) for p in sys.argv[2:]]
for s in socks:
    s.settimeout(20)
    s.connect(("127.0.0.1", 8080))
for s in socks:
    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
    print(s.makefile("rb").read().split(b"\r\n\r\n")[1].decode())
`

func mustAbs(t testing.TB, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}
