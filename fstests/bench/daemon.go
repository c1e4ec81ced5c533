package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Configurations of daemons.
const (
	// configOwn has the kernel's stack as it is by default, for callers of
	// the bench's own namespace.
	configOwn = "discover = false\n[stack." + labName + "]\nnetns = \"" + labName + "\"\n"
	// configForeign lets callers of other namespaces use the kernel's stack.
	configForeign = configOwn + "[stack.kernel]\nforeign = true\n"
	// configMany has every namespace of ip-netns(8).
	configMany = "discover = true\n"
)

const daemonLimit = 30 * time.Second // to start or to end

// A daemon serves one mount, in the network namespace of the bench.
type daemon struct {
	dir     string
	log     string // path of its log
	process *os.Process
	ended   chan struct{} // closed when the daemon is gone
}

// daemon returns the running daemon with that configuration, started if
// need be.
func (s *site) daemon(ctx context.Context, config string) (*daemon, error) {
	if d := s.daemons[config]; d != nil {
		return d, nil
	}
	d, err := s.startDaemon(ctx, config)
	if err == nil {
		s.daemons[config] = d
	}
	return d, err
}

// startDaemon mounts and waits until the mount can be used. The daemon then
// is a child of ours, as we are the first process of the namespace.
func (s *site) startDaemon(ctx context.Context, config string) (*daemon, error) {
	base, err := os.MkdirTemp("/run/bench", "mount-")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(base, "stackfs.toml")
	d := &daemon{dir: filepath.Join(base, "net"), log: filepath.Join(base, "log"), ended: make(chan struct{})}
	if err := errors.Join(os.Mkdir(d.dir, 0o755), os.WriteFile(file, []byte(config), 0o600)); err != nil {
		return nil, err
	}
	mount := command{argv: []string{s.stackfs(), "mount", "-c", file, "--log", d.log, d.dir}}
	if _, err := mount.output(ctx); err != nil {
		return nil, err
	}
	pid, err := servingPID(d.dir)
	if err != nil {
		return nil, err
	}
	if d.process, err = os.FindProcess(pid); err != nil {
		return nil, err
	}
	go func() {
		_, _ = d.process.Wait()
		close(d.ended)
	}()
	return d, nil
}

// alive returns why daemons of the site are gone, and forgets those.
func (s *site) alive() error {
	var errs []error
	for config, d := range s.daemons {
		if err := d.alive(); err != nil {
			errs = append(errs, err)
			d.stop()
			delete(s.daemons, config)
		}
	}
	return errors.Join(errs...)
}

func (d *daemon) alive() error {
	select {
	case <-d.ended:
		text, err := os.ReadFile(d.log)
		return errors.Join(fmt.Errorf("the daemon has ended; its log: %s", text), err)
	default:
		return nil
	}
}

// node returns the path of a stack.
func (d *daemon) node(stack string) string { return filepath.Join(d.dir, stack) }

func (d *daemon) pid() int { return d.process.Pid }

// stop ends the daemon, whatever it is doing.
func (d *daemon) stop() {
	_ = d.process.Signal(unix.SIGTERM)
	timer := time.AfterFunc(5*time.Second, func() { _ = d.process.Kill() })
	<-d.ended
	timer.Stop()
	_ = unix.Unmount(d.dir, unix.MNT_DETACH) // of a daemon that did not get to it
}

// servingPID returns the process that serves dir.
func servingPID(dir string) (int, error) {
	return findProcess(func(argv []string) bool {
		return argv[0] == "stackfs-serve" && strings.Contains(argv[1], dir)
	})
}

// waitFor waits until cond holds.
func waitFor(ctx context.Context, limit time.Duration, cond func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
