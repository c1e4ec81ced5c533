package fs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
)

// A fakeStack is a backend whose connections are what a test says.
type fakeStack struct {
	mu      sync.Mutex // guards the fields below
	conns   map[uint64]stacknode.Conn
	dumps   int
	asked   []string // verbs with their arguments
	paused  map[uint64]bool
	fail    error
	image   []byte
	restore func(ctx context.Context, image []byte) (*os.File, error)
	wait    bool // Checkpoint waits for the end of its context
}

var _ stacknode.Checkpointer = (*fakeStack)(nil)

func newFakeStack(conns ...stacknode.Conn) *fakeStack {
	f := &fakeStack{conns: map[uint64]stacknode.Conn{}, paused: map[uint64]bool{}}
	for _, c := range conns {
		f.conns[c.Cookie] = c
	}
	return f
}

func (f *fakeStack) Socket(context.Context, *stacknode.Caller, int, int, int) (*os.File, error) {
	return nil, errors.ErrUnsupported
}
func (f *fakeStack) Families() stacknode.FamilySet { return stacknode.InternetFamilies }
func (f *fakeStack) Close() error                  { return nil }

func (f *fakeStack) Conns(context.Context) ([]stacknode.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dumps++
	list := make([]stacknode.Conn, 0, len(f.conns))
	for _, c := range f.conns {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b stacknode.Conn) int { return cmp.Compare(a.Cookie, b.Cookie) })
	return list, f.fail
}

func (f *fakeStack) Conn(_ context.Context, cookie uint64) (*stacknode.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, "conn")
	c, ok := f.conns[cookie]
	if !ok {
		return nil, stacknode.ErrNoConn
	}
	return &c, nil
}

func (f *fakeStack) ConnDetails(ctx context.Context, cookie uint64, owner bool) ([]stacknode.Line, error) {
	c, err := f.Conn(ctx, cookie)
	if err != nil {
		return nil, err
	}
	lines := []stacknode.Line{{Key: "state", Value: c.State}, {Key: "cookie", Value: fmt.Sprint(cookie)}, {Key: "rtt", Value: "0.125"}, {Key: "note", Value: "a\nb <c>"}}
	if owner {
		lines = append(lines, stacknode.Line{Key: stacknode.KeyProcess, Value: "71 sshd"}, stacknode.Line{Key: stacknode.KeyProcess, Value: "72 sshd"})
	}
	return lines, nil
}

// verb notes that one was asked for, with the real user who asks.
func (f *fakeStack) verb(caller *stacknode.Caller, cookie uint64, name string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, strings.TrimSpace(fmt.Sprintln(append([]any{name, cookie}, args...)...)))
	if caller.PID == 0 {
		return errors.New("nobody asks")
	}
	if _, ok := f.conns[cookie]; !ok {
		return stacknode.ErrNoConn
	}
	return f.fail
}

func (f *fakeStack) Checkpoint(ctx context.Context, caller *stacknode.Caller, cookie uint64) ([]byte, error) {
	if err := f.verb(caller, cookie, "checkpoint"); err != nil {
		return nil, err
	}
	if f.wait {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return slices.Clone(f.image), nil
}

func (f *fakeStack) Pause(_ context.Context, caller *stacknode.Caller, cookie uint64, limit time.Duration) error {
	if err := f.verb(caller, cookie, "pause", limit); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.paused[cookie] {
		return stacknode.ErrPaused
	}
	f.paused[cookie] = true
	return nil
}

func (f *fakeStack) Resume(_ context.Context, caller *stacknode.Caller, cookie uint64) error {
	if err := f.verb(caller, cookie, "resume"); err != nil {
		return err
	}
	return f.unpause(cookie)
}

func (f *fakeStack) unpause(cookie uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.paused[cookie] {
		return stacknode.ErrNotPaused
	}
	delete(f.paused, cookie)
	return nil
}

func (f *fakeStack) Discard(_ context.Context, caller *stacknode.Caller, cookie uint64) error {
	if err := f.verb(caller, cookie, "discard"); err != nil {
		return err
	}
	_ = f.unpause(cookie)
	return nil
}

func (f *fakeStack) Abort(_ context.Context, caller *stacknode.Caller, cookie uint64) error {
	return f.verb(caller, cookie, "abort")
}

func (f *fakeStack) Restore(ctx context.Context, caller *stacknode.Caller, image []byte) (*os.File, error) {
	if caller.PID == 0 {
		return nil, errors.New("nobody asks")
	}
	return f.restore(ctx, image)
}

// verbs returns what was asked for since the last call, without look-ups.
func (f *fakeStack) verbs() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for _, a := range f.asked {
		if a != "conn" {
			list = append(list, a)
		}
	}
	f.asked = nil
	return strings.Join(list, ", ")
}

func (f *fakeStack) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// A rig is a tree that is not mounted: the test is its kernel.
type rig struct {
	t       *testing.T
	tree    *tree
	raw     fuse.RawFileSystem
	uid     uint32
	ended   chan struct{} // cancels requests when closed
	root    *rootNode
	notices chan string // names that the kernel was told to forget
}

// rigs are made with stacks by name.
func newRig(t *testing.T, spec stacknode.Spec, stacks map[string]*fakeStack) *rig {
	t.Helper()
	list := map[string]stacknode.Backend{}
	for name, s := range stacks {
		list[name] = s
	}
	return newRigOf(t, spec, list)
}

// newRigOf is newRig for any backends.
func newRigOf(t *testing.T, spec stacknode.Spec, stacks map[string]stacknode.Backend) *rig {
	t.Helper()
	reg := stacknode.NewRegistry(func(s stacknode.Spec) (stacknode.Backend, error) { return stacks[s.Name], nil })
	names := []string{}
	for name := range stacks {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		spec.Name, spec.Kind = name, stacknode.KindNetns
		if spec.Mode == 0 {
			spec.Mode = 0o755
		}
		if _, err := reg.Add(spec, stacknode.OriginConfig); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{Registry: reg, Log: slog.New(slog.DiscardHandler)}
	r := &rig{t: t, tree: newTree(o), ended: make(chan struct{}), notices: make(chan string, 4096)}
	r.root = &rootNode{tree: r.tree}
	options := nodeOptions(o)
	options.ServerCallbacks = callbacks{r}
	r.raw = fs.NewNodeFS(r.root, options)
	return r
}

// callbacks are what the tree tells the kernel.
type callbacks struct{ r *rig }

func (c callbacks) EntryNotify(_ uint64, name string) fuse.Status {
	c.r.notices <- name
	return fuse.OK
}
func (callbacks) DeleteNotify(uint64, uint64, string) fuse.Status             { return fuse.ENOENT }
func (callbacks) InodeNotify(uint64, int64, int64) fuse.Status                { return fuse.ENOENT }
func (callbacks) InodeRetrieveCache(uint64, int64, []byte) (int, fuse.Status) { return 0, fuse.ENOENT }
func (callbacks) InodeNotifyStoreCache(uint64, int64, []byte) fuse.Status     { return fuse.ENOENT }

// header is that of a request of this process, with the uid of the rig.
func (r *rig) header(node uint64) fuse.InHeader {
	return fuse.InHeader{NodeId: node, Caller: fuse.Caller{Owner: fuse.Owner{Uid: r.uid}, Pid: uint32(os.Getpid())}}
}

// walk looks up a path from the root.
func (r *rig) walk(path string) (fuse.EntryOut, syscall.Errno) {
	r.t.Helper()
	out := fuse.EntryOut{NodeId: 1}
	for _, name := range strings.Split(path, "/") {
		h := r.header(out.NodeId)
		out = fuse.EntryOut{}
		if st := r.raw.Lookup(r.ended, &h, name, &out); st != fuse.OK {
			return out, syscall.Errno(st)
		}
	}
	return out, 0
}

func (r *rig) mustWalk(path string) fuse.EntryOut {
	r.t.Helper()
	out, e := r.walk(path)
	if e != 0 {
		r.t.Fatalf("lookup %s: %v", path, e)
	}
	return out
}

// A handle is an open file of a rig.
type handle struct {
	r        *rig
	node, fh uint64
}

func (r *rig) openNode(node uint64, flags int) (*handle, syscall.Errno) {
	in, out := fuse.OpenIn{InHeader: r.header(node), Flags: uint32(flags)}, fuse.OpenOut{}
	if st := r.raw.Open(r.ended, &in, &out); st != fuse.OK {
		return nil, syscall.Errno(st)
	}
	if out.OpenFlags&fuse.FOPEN_DIRECT_IO == 0 {
		r.t.Errorf("open without direct I/O: a size of 0 would be the end of the file")
	}
	return &handle{r, node, out.Fh}, 0
}

func (r *rig) mustOpen(path string, flags int) *handle {
	r.t.Helper()
	h, e := r.openNode(r.mustWalk(path).NodeId, flags)
	if e != 0 {
		r.t.Fatalf("open %s: %v", path, e)
	}
	return h
}

func (h *handle) readAt(size int, off int64) (string, syscall.Errno) {
	buf := make([]byte, size)
	res, st := h.r.raw.Read(h.r.ended, &fuse.ReadIn{InHeader: h.r.header(h.node), Fh: h.fh, Offset: uint64(off), Size: uint32(size)}, buf)
	if st != fuse.OK {
		return "", syscall.Errno(st)
	}
	b, st := res.Bytes(buf)
	return string(b), syscall.Errno(st)
}

// readAll reads in small pieces, at the position that read(2) would have.
func (h *handle) readAll(pos int64) string {
	h.r.t.Helper()
	var all strings.Builder
	for {
		s, e := h.readAt(100, pos+int64(all.Len()))
		if e != 0 {
			h.r.t.Fatalf("read: %v", e)
		}
		if s == "" {
			return all.String()
		}
		all.WriteString(s)
	}
}

func (h *handle) writeAt(text string, off int64) syscall.Errno {
	n, st := h.r.raw.Write(h.r.ended, &fuse.WriteIn{InHeader: h.r.header(h.node), Fh: h.fh, Offset: uint64(off), Size: uint32(len(text))}, []byte(text))
	if st == fuse.OK && int(n) != len(text) {
		h.r.t.Errorf("write of %d bytes: got %d", len(text), n)
	}
	return syscall.Errno(st)
}

func (h *handle) close() {
	h.r.raw.Release(h.r.ended, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: h.node}, Fh: h.fh})
}

func (r *rig) readFile(path string) string {
	r.t.Helper()
	h := r.mustOpen(path, os.O_RDONLY)
	defer h.close()
	return h.readAll(0)
}

func (r *rig) getattr(node uint64) (fuse.AttrOut, syscall.Errno) {
	var out fuse.AttrOut
	in := fuse.GetAttrIn{InHeader: r.header(node)}
	st := r.raw.GetAttr(r.ended, &in, &out)
	return out, syscall.Errno(st)
}

// A dirHandle is an open directory of a rig.
type dirHandle struct {
	handle
	off uint64
}

func (r *rig) opendir(node uint64) (*dirHandle, syscall.Errno) {
	in, out := fuse.OpenIn{InHeader: r.header(node)}, fuse.OpenOut{}
	if st := r.raw.OpenDir(r.ended, &in, &out); st != fuse.OK {
		return nil, syscall.Errno(st)
	}
	return &dirHandle{handle: handle{r, node, out.Fh}}, 0
}

// next reads a buffer full of entries.
func (d *dirHandle) next(size int) ([]fuse.DirEntry, syscall.Errno) {
	list := fuse.NewDirEntryList(make([]byte, size), d.off)
	st := d.r.raw.ReadDir(d.r.ended, &fuse.ReadIn{InHeader: d.r.header(d.node), Fh: d.fh, Offset: d.off}, list)
	if st != fuse.OK {
		return nil, syscall.Errno(st)
	}
	entries, err := fuse.ParseDirEntries(list.Bytes())
	if err != nil {
		d.r.t.Fatal(err)
	}
	if len(entries) > 0 {
		d.off = entries[len(entries)-1].Off
	}
	return entries, 0
}

func (d *dirHandle) all() (entries []fuse.DirEntry) {
	d.r.t.Helper()
	for {
		part, e := d.next(32 << 10)
		if e != 0 {
			d.r.t.Fatalf("readdir: %v", e)
		}
		if len(part) == 0 {
			return entries
		}
		entries = append(entries, part...)
	}
}

func (d *dirHandle) close() {
	d.r.raw.ReleaseDir(&fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: d.node}, Fh: d.fh})
}

// list returns the names in a directory.
func (r *rig) list(path string) (names []string) {
	r.t.Helper()
	d, e := r.opendir(r.mustWalk(path).NodeId)
	if e != 0 {
		r.t.Fatalf("opendir %s: %v", path, e)
	}
	defer d.close()
	for _, entry := range d.all() {
		names = append(names, entry.Name)
	}
	return names
}

func tcp(cookie uint64, state, local, remote string, uid uint32) stacknode.Conn {
	c := stacknode.Conn{Cookie: cookie, State: state, Family: stacknode.AFInet, UID: uid, Inode: cookie + 1000, Local: netip.MustParseAddrPort(local)}
	if remote != "" {
		c.Remote = netip.MustParseAddrPort(remote)
	}
	if c.Local.Addr().Is6() {
		c.Family = stacknode.AFInet6
	}
	return c
}
