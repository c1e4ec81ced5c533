package fs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// cacheTime is how long the kernel may keep names and attributes.
const cacheTime = time.Second

// A Host does what the tree itself cannot.
type Host interface {
	// Control carries out one line written to ctl and returns the text
	// that the writer reads back.
	Control(ctx context.Context, line string) (string, error)
	// MakeStack makes the stack of a mkdir, with the default mode.
	MakeStack(name string) error
	// RemoveStack removes the stack of a rmdir.
	RemoveStack(name string) error
	// AccessChanged is told that the mode or owner of a stack changed.
	AccessChanged(s *stacknode.Stack)
	// Run takes over the seccomp listener of a process tree, which it
	// owns from then on, also when it fails.
	Run(caller *stacknode.Caller, s *stacknode.Stack, listener *os.File, families stacknode.FamilySet) error
	// RunTicket returns a ticket for a run within a run.
	RunTicket(caller *stacknode.Caller, s *stacknode.Stack, families stacknode.FamilySet) (uint64, error)
}

// Options of a mount.
type Options struct {
	Source   string // shown as the source of the mount
	Flags    uintptr
	Registry *stacknode.Registry
	Host     Host
	// Under is the directory mounted over, opened before; its entries stay
	// visible. Mount owns it.
	Under *os.File
	Log   *slog.Logger
	Debug bool
}

// A Server is a mounted tree.
type Server struct {
	srv  *fuse.Server
	root *rootNode
	dir  string
}

// Mount mounts the tree at dir and serves it. Needs CAP_SYS_ADMIN.
func Mount(dir string, o Options) (*Server, error) {
	root := &rootNode{tree: newTree(o), under: o.Under}
	options := nodeOptions(o)
	options.MountOptions = fuse.MountOptions{
		FsName:            o.Source,
		Name:              "stackfs",
		AllowOther:        true,
		Options:           []string{"default_permissions"},
		DirectMountStrict: true,
		DirectMountFlags:  o.Flags,
		// Else the kernel looks up every connection that it lists.
		DisableReadDirPlus: true,
		MaxBackground:      64,
		Debug:              o.Debug,
		Logger:             slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		PanicHandler: func(v any) fuse.Status {
			o.Log.Error("panic in a request", "panic", v, "stack", stackTrace())
			return fuse.EIO
		},
	}
	srv, err := fs.Mount(dir, root, options)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	s := &Server{srv: srv, root: root, dir: dir}
	o.Registry.OnRemove(s.forget)
	return s, nil
}

// nodeOptions are those that the nodes count on, mounted or not.
func nodeOptions(o Options) *fs.Options {
	timeout := cacheTime
	return &fs.Options{
		EntryTimeout: &timeout,
		AttrTimeout:  &timeout,
		// Else go-fuse makes 0755 of mode 0000.
		NullPermissions: true,
		Logger:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
}

// Wait returns when the tree is no longer mounted.
func (s *Server) Wait() { s.srv.Wait() }

// Unmount detaches the tree; requests in progress end.
func (s *Server) Unmount() error {
	if err := unix.Unmount(s.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return &os.PathError{Op: "umount", Path: s.dir, Err: err}
	}
	return nil
}

// forget makes the kernel drop what it knows of a stack.
func (s *Server) forget(name string) {
	s.root.tree.tell(func() {
		if ch := s.root.GetChild(name); ch != nil {
			s.root.RmChild(name)
		}
		// ENOENT: the kernel did not know it.
		_ = s.root.NotifyEntry(name)
	})
}

// Refresh makes the kernel look at the mode of a stack anew.
func (s *Server) Refresh(name string) {
	s.root.tree.tell(func() {
		if ch := s.root.GetChild(name); ch != nil {
			_ = ch.NotifyContent(-1, 0)
		}
	})
}
