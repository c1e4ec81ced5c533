package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The load of the trials of the fast stack; c/load.c.
const (
	loadConns  = 32
	loadMillis = 1500

	// fastRounds bounds the rounds: each takes some seconds.
	fastRounds = 11
)

// A webServer is a program as it is compared: plain, with its own best
// setting, and on the fast stack as it is when plain.
type webServer struct {
	name      string
	overPlain ratioAtLeast // goal, balanced
	best      string       // what its own best setting is; empty: it has none
	overBest  ratioAtLeast
	// config returns the files to be written into dir and the command that
	// serves port in the foreground.
	config func(dir string, port int, best bool) (files map[string]string, argv []string)
}

var webServers = []webServer{
	{"nginx", 1.15, "reuseport", 1.0, nginxConfig},
	{"haproxy", 1.20, "by-thread", 0.95, haproxyConfig},
	{"lighttpd", 1.03, "", 0, lighttpdConfig},
}

func nginxConfig(dir string, port int, best bool) (map[string]string, []string) {
	listen, affinity := "", ""
	if best {
		listen, affinity = " reuseport", "worker_cpu_affinity auto;"
	}
	conf := filepath.Join(dir, "nginx.conf")
	return map[string]string{conf: fmt.Sprintf(`daemon off; worker_processes %d; %s pid %s/pid; error_log %s/error.log;
events { worker_connections 1024; }
http {
	access_log off; keepalive_timeout 0;
	client_body_temp_path %[3]s/body; proxy_temp_path %[3]s/proxy; fastcgi_temp_path %[3]s/f; uwsgi_temp_path %[3]s/u; scgi_temp_path %[3]s/s;
	server { listen 127.0.0.1:%[5]d%[6]s; location / { return 200 "hello\n"; } }
}
`, runtime.NumCPU(), affinity, dir, dir, port, listen)}, []string{"nginx", "-c", conf}
}

func haproxyConfig(dir string, port int, best bool) (map[string]string, []string) {
	bind, global := "", ""
	if best {
		bind, global = " shards by-thread", fmt.Sprintf("cpu-map auto:1/1-%d 0-%d", runtime.NumCPU(), runtime.NumCPU()-1)
	}
	conf := filepath.Join(dir, "haproxy.cfg")
	return map[string]string{conf: fmt.Sprintf(`global
	nbthread %d
	maxconn 1000
	%s
defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s
	option httpclose
frontend web
	bind 127.0.0.1:%d%s
	http-request return status 200 content-type text/plain string "hello"
`, runtime.NumCPU(), global, port, bind)}, []string{"haproxy", "-q", "-db", "-f", conf}
}

func lighttpdConfig(dir string, port int, _ bool) (map[string]string, []string) {
	conf := filepath.Join(dir, "lighttpd.conf")
	return map[string]string{
		conf: fmt.Sprintf(`server.document-root = "%s"
server.bind = "127.0.0.1"
server.port = %d
server.max-worker = %d
server.max-keep-alive-requests = 0
index-file.names = ("index.html")
mimetype.assign = (".html" => "text/html")
`, dir, port, runtime.NumCPU()),
		filepath.Join(dir, "index.html"): "hello\n",
	}, []string{"lighttpd", "-D", "-f", conf}
}

func fastTrials() []trial {
	var all []trial
	for _, w := range webServers {
		all = append(all,
			trial{"fast-" + w.name, func(ctx context.Context, s *site, r *report) error { return balancedTrial(ctx, s, r, w) }},
			trial{"fast-" + w.name + "-skewed", func(ctx context.Context, s *site, r *report) error { return skewedTrial(ctx, s, r, w) }})
	}
	return all
}

// A served is a web server that runs.
type served struct {
	port int
	stop func()
}

// serveWeb starts a web server in the namespace of the bench and waits until it
// answers. before comes before its command.
func (s *site) serveWeb(ctx context.Context, w webServer, port int, best bool, before ...string) (*served, error) {
	dir, err := os.MkdirTemp("/run/bench", w.name+"-")
	if err != nil {
		return nil, err
	}
	files, argv := w.config(dir, port, best)
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	// Workers as other users look for their files.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	sctx, cancel := context.WithCancel(ctx)
	cmd, err := command{argv: append(before, argv...)}.start(sctx, log, log)
	if err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	sv := &served{port: port, stop: func() {
		// A master that is killed would leave its workers.
		_ = cmd.Process.Signal(unix.SIGTERM)
		timer := time.AfterFunc(5*time.Second, cancel)
		<-ended
		timer.Stop()
		cancel()
		os.RemoveAll(dir)
	}}
	err = waitFor(ctx, 10*time.Second, func() bool {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		sv.stop()
		return nil, fmt.Errorf("%s does not answer: %w: %s", w.name, err, text)
	}
	return sv, nil
}

// fastPorts of a server: plain, best, fast.
const fastPort = 7800

// A load is what c/load.c measured once.
type load struct {
	rate   float64 // connections per second
	p99    float64 // microseconds
	cpu    float64 // of the whole machine, microseconds for each connection
	failed float64
}

// loads measures a side again and again.
type loads struct {
	all []load
}

// side returns the side whose measure is one load on port from cpus.
func (l *loads) side(s *site, name string, port int, cpus string) side {
	return side{name, func(ctx context.Context) (float64, error) {
		busy, err := busyMicros()
		if err != nil {
			return 0, err
		}
		millis := loadMillis
		if s.opts.quick {
			millis /= 3
		}
		out, err := command{argv: []string{s.tool("load"), cpus, strconv.Itoa(loadConns), strconv.Itoa(millis), strconv.Itoa(port)}}.output(ctx)
		if err != nil {
			return 0, err
		}
		after, err := busyMicros()
		if err != nil {
			return 0, err
		}
		var m load
		var p50 float64
		if _, err := fmt.Sscan(out, &m.rate, &p50, &m.p99, &m.failed); err != nil {
			return 0, fmt.Errorf("load says %q: %w", out, err)
		}
		if m.failed > 0 {
			return 0, fmt.Errorf("%.0f connections to %s failed", m.failed, name)
		}
		m.cpu = (after - busy) / (m.rate * float64(millis) / 1000)
		l.all = append(l.all, m)
		return m.rate, nil
	}}
}

// of returns one value of each load.
func (l *loads) of(value func(load) float64) []float64 {
	var v []float64
	for _, m := range l.all {
		v = append(v, value(m))
	}
	return v
}

// busyMicros returns for how long the processors have worked, by proc_stat(5).
func busyMicros() (float64, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var sum float64
	for i, f := range strings.Fields(line) {
		v, err := strconv.ParseFloat(f, 64)
		if i == 0 || i == 4 || i == 5 || i >= 8 {
			continue // "cpu", idle, iowait, and what is not ours
		}
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum * 1e4, nil // ticks of 10 ms
}

// everyCPU is the list of processors, as c/load.c takes it.
func everyCPU() string {
	var list []string
	for cpu := range runtime.NumCPU() {
		list = append(list, strconv.Itoa(cpu))
	}
	return strings.Join(list, ",")
}

// startSides starts the server plain, on the fast stack and, if it has such a
// setting, at its best.
func startSides(ctx context.Context, s *site, w webServer) (stop func(), err error) {
	d, err := s.daemon(ctx, configOwn)
	if err != nil {
		return nil, err
	}
	var running []*served
	stop = func() {
		for _, sv := range running {
			sv.stop()
		}
	}
	run := []string{s.stackfs(), "run", d.node("fast"), "--"}
	for i, c := range []struct {
		best   bool
		before []string
	}{{false, nil}, {true, nil}, {false, run}} {
		if c.best && w.best == "" {
			continue
		}
		sv, err := s.serveWeb(ctx, w, fastPort+i, c.best, c.before...)
		if err != nil {
			stop()
			return nil, err
		}
		running = append(running, sv)
	}
	return stop, nil
}

// balancedTrial compares short connections from every CPU.
func balancedTrial(ctx context.Context, s *site, r *report, w webServer) error {
	stop, err := startSides(ctx, s, w)
	if err != nil {
		return err
	}
	defer stop()
	var plain, best, fast loads
	sides := []side{
		plain.side(s, "plain", fastPort, everyCPU()),
		fast.side(s, "fast", fastPort+2, everyCPU()),
	}
	if w.best != "" {
		sides = append(sides, best.side(s, w.best, fastPort+1, everyCPU()))
	}
	before, err := s.acceptShare(ctx)
	if err != nil {
		return err
	}
	got, err := interleave(ctx, min(s.opts.rounds, fastRounds), sides...)
	if err != nil {
		return err
	}
	name := "fast-" + w.name
	r.add(figure{name: name, unit: "conn/s", ours: got[1], peer: "plain", theirs: got[0], goal: w.overPlain})
	if w.best != "" {
		r.add(figure{name: name + "-best", unit: "conn/s", ours: got[1], peer: w.best, theirs: got[2], goal: w.overBest})
	}
	p99 := func(l load) float64 { return l.p99 }
	cpu := func(l load) float64 { return l.cpu }
	r.add(figure{name: name + "-p99", unit: "us", ours: fast.of(p99), peer: "plain", theirs: plain.of(p99), goal: ratioAtMost(1)})
	r.add(figure{name: name + "-cpu", unit: "us/conn", ours: fast.of(cpu), peer: "plain", theirs: plain.of(cpu)})
	after, err := s.acceptShare(ctx)
	if err != nil {
		return err
	}
	r.add(figure{name: name + "-local", unit: "%", ours: []float64{after.since(before)}, goal: valueAtLeast(99)})
	return nil
}

// skewedTrial compares short connections that all come from one CPU.
func skewedTrial(ctx context.Context, s *site, r *report, w webServer) error {
	stop, err := startSides(ctx, s, w)
	if err != nil {
		return err
	}
	defer stop()
	var plain, fast loads
	got, err := interleave(ctx, min(s.opts.rounds, fastRounds),
		plain.side(s, "plain", fastPort, "0"), fast.side(s, "fast", fastPort+2, "0"))
	if err != nil {
		return err
	}
	p99 := func(l load) float64 { return l.p99 }
	r.add(figure{name: "fast-" + w.name + "-skewed", unit: "conn/s", ours: got[1], peer: "plain", theirs: got[0], goal: ratioAtLeast(0.95)})
	r.add(figure{name: "fast-" + w.name + "-skewed-p99", unit: "us", ours: fast.of(p99), peer: "plain", theirs: plain.of(p99)})
	return nil
}

// accepts are the accepted connections that the fast stack has counted.
type accepts struct{ local, all float64 }

// since returns the percentage of local ones after an earlier count.
func (a accepts) since(b accepts) float64 { return 100 * (a.local - b.local) / (a.all - b.all) }

// acceptShare reads the counts of the one listener of the fast stack.
func (s *site) acceptShare(ctx context.Context) (a accepts, err error) {
	d, err := s.daemon(ctx, configOwn)
	if err != nil {
		return a, err
	}
	text, err := os.ReadFile(filepath.Join(d.node("fast"), "status"))
	if err != nil {
		return a, err
	}
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, "listener: ")
		if !ok {
			continue
		}
		for _, field := range strings.Fields(rest) {
			key, value, _ := strings.Cut(field, "=")
			n, err := strconv.ParseFloat(value, 64)
			switch {
			case err != nil:
			case key == "local":
				a.local += n
				a.all += n
			case key == "remote" || key == "shared":
				a.all += n
			}
		}
	}
	return a, nil
}
