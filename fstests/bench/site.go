package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The network namespaces of a site. The stack lab is one of ip-netns(8) and
// has a cable to peer; caller is where clients of other stacks live.
const (
	labName    = "lab"
	labPath    = "/run/netns/" + labName
	peerPath   = "/run/bench/peer"
	callerPath = "/run/bench/caller"

	labAddr  = "10.9.0.1"
	peerAddr = "10.9.0.2"
)

// A site is the place of the measurements: the programs, the namespaces,
// and the daemons as far as they were needed.
type site struct {
	opts    options
	build   string // directory of stackfs and libmsocket.so
	bin     string // directory of the C programs
	daemons map[string]*daemon

	farms  []*tended // programs that hold connections
	farmed int       // how many sockets they have
}

func newSite(ctx context.Context, opts options) (*site, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	s := &site{opts: opts, build: filepath.Join(root, "build"), bin: "/run/bench/bin", daemons: map[string]*daemon{}}
	if err := setUpMounts(); err != nil {
		return nil, err
	}
	for _, dir := range []string{s.bin, "/run/bench/tmp", "/run/netns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := s.compile(ctx, filepath.Join(root, "fstests", "bench", "c"), filepath.Join(root, "stacknode")); err != nil {
		return nil, err
	}
	return s, s.makeNetworks(ctx)
}

// close ends the farms and the daemons. The namespaces go with the process.
func (s *site) close() {
	for _, p := range s.farms {
		p.end()
	}
	for _, d := range s.daemons {
		d.stop()
	}
}

// moduleRoot returns the directory of go.mod, here or above.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", fmt.Errorf("run it below the directory of go.mod: %w", os.ErrNotExist)
		}
		dir = filepath.Dir(dir)
	}
}

// compile builds the C programs of dir.
func (s *site) compile(ctx context.Context, dir, stacknode string) error {
	sources, err := filepath.Glob(filepath.Join(dir, "*.c"))
	if err != nil {
		return err
	}
	for _, src := range sources {
		name := strings.TrimSuffix(filepath.Base(src), ".c")
		args := []string{"-std=gnu11", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE",
			"-I" + filepath.Join(stacknode, "uapi"), "-I" + filepath.Join(stacknode, "shim"),
			"-o", s.tool(name), src}
		if strings.HasSuffix(name, "_msocket") {
			args = append(args, "-L"+s.build, "-lmsocket", "-Wl,-rpath,"+s.build)
		}
		cc := command{argv: append([]string{"cc"}, args...), env: []string{"TMPDIR=/run/bench/tmp"}}
		if _, err := cc.output(ctx); err != nil {
			return err
		}
	}
	return nil
}

// count returns how often a C program is to do a thing, as its argument.
func (s *site) count(n int) string {
	if s.opts.quick {
		n /= 5
	}
	return strconv.Itoa(n)
}

// seconds returns how long traffic is to flow.
func (s *site) seconds(n int) int {
	if s.opts.quick {
		return 1
	}
	return n
}

// tool returns the path of a C program.
func (s *site) tool(name string) string { return filepath.Join(s.bin, name) }

// stackfs returns the path of the program that is measured.
func (s *site) stackfs() string { return filepath.Join(s.build, "stackfs") }

// makeNetworks makes the namespaces, the loopbacks and the cable.
func (s *site) makeNetworks(ctx context.Context) error {
	for _, path := range []string{labPath, peerPath, callerPath} {
		if err := makeNetNS(path); err != nil {
			return err
		}
	}
	for _, step := range []struct{ ns, args string }{
		{"", "link set lo up"},
		{labPath, "link set lo up"},
		{peerPath, "link set lo up"},
		{callerPath, "link set lo up"},
		{labPath, "link add cable type veth peer name cable netns " + peerPath},
		{labPath, "addr add " + labAddr + "/24 dev cable"},
		{peerPath, "addr add " + peerAddr + "/24 dev cable"},
		{labPath, "link set cable up"},
		{peerPath, "link set cable up"},
	} {
		ip := command{argv: append([]string{"ip"}, strings.Fields(step.args)...), netns: step.ns}
		if _, err := ip.output(ctx); err != nil {
			return err
		}
	}
	return nil
}
