package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends"
	"github.com/stackfs/stackfs/backends/conns"
	"github.com/stackfs/stackfs/backends/keeper"
	"github.com/stackfs/stackfs/backends/netns"
	"github.com/stackfs/stackfs/backends/runs"
	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/fs"
	"github.com/stackfs/stackfs/stacknode"
)

// runRoot holds a directory for each mount, with what outlives its daemon.
const runRoot = "/run/stackfs"

// lockName is the file in the directory of a mount that its daemon locks.
const lockName = "lock"

// lockPatience is how long a new daemon waits for an earlier one to leave.
const lockPatience = 3 * time.Second

// A server is the daemon of one mount.
type server struct {
	opts   mountOptions
	users  userLookup
	log    *slog.Logger
	runDir string
	lock   *os.File

	reg      *stacknode.Registry
	slots    *keeper.Slots
	keeper   *keeper.Client
	gone     *worker.Worker
	runs     *runs.Table
	conns    conns.Env
	tree     *fs.Server
	discover io.Closer
	stopping chan stopOrder

	mu     sync.Mutex // guards the fields below; held over changes of the set of stacks
	config *config
	state  state
}

// A stopOrder ends the daemon.
type stopOrder struct {
	keep  bool // leave everything that was made
	force bool // also end stacks that are in use
}

// serve mounts and serves until it is told to stop. ready is called when
// the tree can be used.
func serve(ctx context.Context, e env, opts mountOptions, ready func()) (err error) {
	s := &server{opts: opts, users: e.users, runDir: filepath.Join(runRoot, mountKey(opts.Dir)), stopping: make(chan stopOrder, 4)}
	var undo undoList
	defer func() {
		if err != nil {
			undo.run()
		}
	}()
	cfg, err := s.loadConfig()
	if err != nil {
		return err
	}
	if err := s.prepare(&undo, cfg, e.stderr); err != nil {
		return err
	}
	// Before the first request: its thread would have other rights than the
	// rest, and all threads must be the same for this.
	if err := becomeRoot(); err != nil {
		return err
	}
	if err := dropCapabilities(daemonCaps); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	s.conns.Engine.Start()
	if err := s.conns.Engine.Check(); err != nil {
		return err
	}
	if err := s.populate(&undo, cfg); err != nil {
		return err
	}
	if err := s.mount(&undo); err != nil {
		return err
	}
	if err := s.startDiscovery(); err != nil {
		return err
	}
	undo.add(func() { s.discover.Close() })
	s.adoptRuns()
	// Before anybody knows that there is something to end.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1)
	defer signal.Stop(signals)
	s.log.Info("mounted", "dir", opts.Dir, "stacks", len(s.reg.List()))
	ready()
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		s.log.Warn("sd_notify", "err", err)
	}
	return s.wait(ctx, signals)
}

// undoList takes back what was done, in reverse order.
type undoList []func()

func (u *undoList) add(f func()) { *u = append(*u, f) }

func (u *undoList) run() {
	for i := len(*u) - 1; i >= 0; i-- {
		(*u)[i]()
	}
}

// mountKey names the directory of a mount below runRoot.
func mountKey(dir string) string {
	h := fnv.New32a()
	io.WriteString(h, dir)
	base := strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, strings.Trim(dir, "/"))
	return fmt.Sprintf("%.40s-%08x", base, h.Sum32())
}

// loadConfig reads the configuration that the options name.
func (s *server) loadConfig() (*config, error) {
	cfg := defaultConfiguration()
	if s.opts.Config != "" {
		loaded, err := loadConfig(s.opts.Config, s.users)
		switch {
		case err == nil:
			cfg = loaded
		case !s.opts.Optional || !errors.Is(err, os.ErrNotExist):
			return nil, err
		}
	}
	if s.opts.Discover != nil {
		cfg.Discover = *s.opts.Discover
	}
	return cfg, nil
}

// prepare claims the mount point and starts what serves it.
func (s *server) prepare(undo *undoList, cfg *config, stderr io.Writer) (err error) {
	if s.lock, err = claimDir(s.runDir); errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("%s: another daemon serves it (stackfs umount %s ends that): %w", s.opts.Dir, s.opts.Dir, err)
	} else if err != nil {
		return err
	}
	if s.log, err = s.openLog(stderr); err != nil {
		return err
	}
	undo.add(func() { removeRunDir(s.runDir) })
	if s.state, err = loadState(s.runDir); err != nil {
		s.log.Warn("state of the earlier daemon is lost", "err", err)
	}
	if s.slots, err = keeper.NewSlots(); err != nil {
		return err
	}
	if s.keeper, err = keeper.Start(s.runDir, s.slots, s.log, spawnKeeper(s.runDir)); err != nil {
		return err
	}
	undo.add(s.keeper.Close)
	if s.gone, err = worker.New(worker.Config{Gone: true, Env: s.workerEnv()}); err != nil {
		return err
	}
	s.conns = s.connsEnv(cfg)
	undo.add(s.closeConns)
	s.reg = stacknode.NewRegistry(backends.Opener(backends.Env{
		Worker: s.workerEnv(),
		Netns:  s.netnsEnv(),
		Conns:  s.conns,
	}))
	s.runs = runs.New(s.reg, s.keeper, s.gone, s.log)
	undo.add(func() {
		s.runs.Close()
		_, _ = s.reg.Close(false, false)
	})
	return nil
}

func (s *server) workerEnv() worker.Env { return worker.Env{Log: s.log, Slots: s.slots} }

func (s *server) netnsEnv() netns.Env {
	return netns.Env{RunDir: s.runDir, Log: s.log, Worker: s.workerEnv(), Conns: s.conns, Gone: s.namespaceGone}
}

func (s *server) openLog(stderr io.Writer) (*slog.Logger, error) {
	level := slog.LevelInfo
	if s.opts.Verbose {
		level = slog.LevelDebug
	}
	w := stderr
	switch {
	case s.opts.Log != "":
		f, err := os.OpenFile(s.opts.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		w = f
	case !s.opts.Foreground:
		if sys, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "stackfs"); err == nil {
			w = sys
		} else if f, err := os.OpenFile(filepath.Join(s.runDir, "log"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err == nil {
			w = f
		}
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}

// mount cleans a dead mount away and mounts the tree.
func (s *server) mount(undo *undoList) error {
	if err := clearDeadMount(s.opts.Dir); err != nil {
		return err
	}
	under, err := os.OpenFile(s.opts.Dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NOEXEC)
	// A device node on a file system that is mounted nodev may be anybody's
	// work: it must not become usable by being passed on.
	var below unix.Statfs_t
	if err := unix.Fstatfs(int(under.Fd()), &below); err != nil {
		under.Close()
		return fmt.Errorf("statfs %s: %w", s.opts.Dir, err)
	}
	if s.opts.NoDev || below.Flags&unix.ST_NODEV != 0 {
		flags |= unix.MS_NODEV
	}
	if s.opts.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	source := s.opts.Config
	if source == "" || s.opts.Optional {
		source = "stackfs"
	}
	s.tree, err = fs.Mount(s.opts.Dir, fs.Options{
		Source: source, Flags: flags, Registry: s.reg, Host: s, Under: under, Log: s.log, Debug: false,
	})
	if err != nil {
		under.Close()
		return err
	}
	undo.add(func() { _ = s.tree.Unmount() })
	m, err := keeper.TopMount(s.opts.Dir)
	if err != nil {
		return err
	}
	return s.keeper.Mounted(s.opts.Dir, m.ID)
}

// clearDeadMount detaches what a daemon that died left at dir. Returns
// EBUSY if a stackfs that is alive is mounted there.
func clearDeadMount(dir string) error {
	for {
		m, err := keeper.TopMount(dir)
		if err != nil || m.Type != keeper.FSType {
			return nil
		}
		answer := make(chan error, 1)
		go func() {
			var st unix.Statfs_t
			answer <- unix.Statfs(dir, &st)
		}()
		select {
		case err = <-answer:
		case <-time.After(2 * time.Second):
			err = nil // it hangs, so somebody holds it
		}
		if !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
			// The keeper of a daemon that died may have been quicker.
			if now, merr := keeper.TopMount(dir); merr != nil || now != m {
				continue
			}
			return fmt.Errorf("%s: a stackfs is mounted there (stackfs umount %s ends it): %w", dir, dir, syscall.EBUSY)
		}
		// EINVAL: the keeper again.
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("detach the dead mount at %s: %w", dir, err)
		}
	}
}

// wait serves until a signal, an order or an unmount ends it. A second
// signal ends it at once.
func (s *server) wait(ctx context.Context, signals <-chan os.Signal) error {
	unmounted := make(chan struct{})
	go func() {
		s.tree.Wait()
		close(unmounted)
	}()
	for {
		select {
		case sig := <-signals:
			switch sig {
			case unix.SIGHUP:
				if _, err := s.reload(); err != nil {
					s.log.Error("reload", "err", err)
				}
			case unix.SIGUSR1:
				s.log.Info("self", "goroutines", runtime.NumGoroutine(), "stacks", len(s.reg.List()))
			default:
				signal.Reset(unix.SIGTERM, unix.SIGINT)
				return s.stop(stopOrder{}, unmounted)
			}
		case order := <-s.stopping:
			return s.stop(order, unmounted)
		case <-unmounted:
			return s.stop(stopOrder{}, unmounted)
		case <-ctx.Done():
			return s.stop(stopOrder{}, unmounted)
		}
	}
}

// stop unmounts and ends every stack. What is in use, and with keep
// everything that was made, stays for a later daemon to adopt.
func (s *server) stop(order stopOrder, unmounted <-chan struct{}) error {
	s.log.Info("stopping", "dir", s.opts.Dir, "keep", order.keep)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	if s.discover != nil {
		s.discover.Close()
	}
	s.runs.Close()
	if err := s.tree.Unmount(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		s.log.Warn("unmount", "err", err)
	}
	if err := s.keeper.Unmounted(); err != nil {
		s.log.Warn("keeper", "err", err)
	}
	// Who ordered the end has ctl open and reads the answer yet; with an
	// open file nobody holds us up for longer.
	select {
	case <-unmounted:
	case <-time.After(time.Second):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	busy, err := s.reg.Close(order.keep, order.force)
	if len(busy) > 0 {
		s.log.Warn("stacks in use stay, for the next mount to adopt", "stacks", strings.Join(busy, " "))
	}
	s.gone.Close()
	s.closeConns()
	s.keeper.Close()
	if !order.keep && len(busy) == 0 {
		removeRunDir(s.runDir)
	}
	return err
}

// removeRunDir removes the directory of the mount below runRoot, unless it
// holds pinned namespaces.
func removeRunDir(runDir string) {
	if pins, err := netns.Pinned(runDir); err == nil && len(pins) > 0 {
		return
	}
	for _, name := range []string{stateName, "log", lockName, "undo", "ns"} {
		_ = os.Remove(filepath.Join(runDir, name))
	}
	keeper.RemoveSockets(runDir)
	_ = os.Remove(runDir)
	_ = os.Remove(runRoot)
}

// claimDir makes the directory of a mount and locks it. The keeper of an earlier
// daemon may remove it in between, when it ends.
func claimDir(runDir string) (lock *os.File, err error) {
	for range 10 {
		for _, dir := range []string{runRoot, runDir} {
			err := os.Mkdir(dir, 0o700)
			if err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
		}
		if lock, err = lockDir(runDir); !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	return lock, err
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// A daemon that has just unmounted may still be cleaning up.
	for end := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			break
		}
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = syscall.EBUSY
	}
	return nil, err
}

// waitUnlocked waits until no daemon holds the lock of a mount's directory.
func waitUnlocked(runDir string) error {
	f, err := os.Open(filepath.Join(runDir, lockName))
	if err != nil {
		return nil // gone, or not for us to see
	}
	defer f.Close()
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}
