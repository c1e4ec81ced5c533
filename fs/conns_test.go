package fs

import (
	"encoding/json"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
)

const someUser = 1000

// someConns are one of each kind.
func someConns() []stacknode.Conn {
	return []stacknode.Conn{
		tcp(7, "established", "192.0.2.1:80", "192.0.2.2:4711", someUser),
		tcp(8, "time-wait", "[2001:db8::1]:80", "[2001:db8::2]:1", 0),
		tcp(9, "close-wait", "[::ffff:192.0.2.1]:80", "[fe80::1%eth0]:65535", 1001),
		tcp(10, stacknode.StateListen, "0.0.0.0:80", "", someUser),
		tcp(11, "close", "[::]:81", "", someUser),
		tcp(18446744073709551615, stacknode.StateListen, "[::]:82", "", 0),
	}
}

func TestTableOfConnections(t *testing.T) {
	conns := someConns()
	conns[0].RecvQ, conns[0].SendQ = 1, 4294967295
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": newFakeStack(conns...)})
	want := `# cookie state family recv-q send-q local remote uid inode
7 established inet 1 4294967295 192.0.2.1:80 192.0.2.2:4711 1000 1007
8 time-wait inet6 0 0 [2001:db8::1]:80 [2001:db8::2]:1 0 1008
9 close-wait inet6 0 0 [::ffff:192.0.2.1]:80 [fe80::1%eth0]:65535 1001 1009
10 listen inet 0 0 0.0.0.0:80 - 1000 1010
11 close inet6 0 0 [::]:81 - 1000 1011
18446744073709551615 listen inet6 0 0 [::]:82 - 0 999
`
	if got := r.readFile("lab/connections"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, a := range []string{"192.0.2.1:80", "[::ffff:192.0.2.1]:80", "[::1]:0", "[fe80::1%3]:9"} {
		addr := netip.MustParseAddrPort(a)
		if got := string(appendAddr(nil, addr)); got != addr.String() || got != a {
			t.Errorf("address %s: got %q", a, got)
		}
	}
}

// TestListIsOneDump: neither the list nor what the kernel does with it may
// ask for each entry.
func TestListIsOneDump(t *testing.T) {
	const many = 50000
	lab := newFakeStack()
	for i := range uint64(many) {
		lab.conns[i+1] = tcp(i+1, "established", "192.0.2.1:80", "192.0.2.2:4711", someUser)
	}
	for i := range uint64(300) {
		lab.conns[many+i+1] = tcp(many+i+1, stacknode.StateListen, "192.0.2.1:80", "", someUser)
	}
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	r.uid = someUser
	d, e := r.opendir(r.mustWalk("lab/conns").NodeId)
	if e != 0 {
		t.Fatal(e)
	}
	begin := time.Now()
	entries := d.all()
	t.Logf("%d entries in %v", len(entries), time.Since(begin))
	if len(entries) != many || lab.dumps != 1 || len(lab.asked) != 0 {
		t.Errorf("%d entries with %d dumps and %d look-ups, want %d with 1 and 0", len(entries), lab.dumps, len(lab.asked), many)
	}
	for i, entry := range entries {
		if entry.Name != strconv.Itoa(i+1) || entry.Mode != syscall.S_IFDIR || entry.Ino>>32 != 0 {
			t.Fatalf("entry %d: %v", i, &entry)
		}
	}
	if out := r.mustWalk("lab/conns/4097"); out.Ino != entries[4096].Ino {
		t.Errorf("inode number %d in the list, %d of the directory", entries[4096].Ino, out.Ino)
	}
	if used := usedMemory(r, someUser); used != 8*many {
		t.Errorf("an open list counts %d bytes, want %d", used, 8*many)
	}
	// rewinddir(3), then on in the middle as after seekdir(3).
	lab.set(func() { delete(lab.conns, 1) })
	d.off = 0
	if again, e := d.next(4096); e != 0 || again[0].Name != "2" || lab.dumps != 2 {
		t.Errorf("rewound: got %v, %v, %d dumps, want another dump", again, e, lab.dumps)
	}
	d.off = 40000
	if mid, e := d.next(4096); e != 0 || mid[0].Name != "40002" || lab.dumps != 2 {
		t.Errorf("position 40000: got %v, %v", mid, e)
	}
	d.off = many + 5
	if _, e := d.next(4096); e != syscall.EINVAL {
		t.Errorf("position behind the end: got %v, want EINVAL", e)
	}
	d.close()
	if used := usedMemory(r, someUser); used != 0 {
		t.Errorf("%d bytes count after the list was closed", used)
	}
	if got := len(r.list("lab/listeners")); got != 300 {
		t.Errorf("%d listeners, want 300", got)
	}
}

// usedMemory tells how many bytes count as held for uid.
func usedMemory(r *rig, uid uint32) int {
	lo, hi := 0, memoryPerUser+1 // AcquireN(lo) works, AcquireN(hi) does not
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		if release, err := r.tree.memory.AcquireN(uid, mid); err == nil {
			release()
			lo = mid
		} else {
			hi = mid
		}
	}
	return memoryPerUser - lo
}

func TestOpenListsAreCounted(t *testing.T) {
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": newFakeStack(someConns()...)})
	r.tree.memory = stacknode.NewQuota(30)
	node := r.mustWalk("lab/conns").NodeId
	r.uid = someUser
	first, _ := r.opendir(node)
	if _, e := first.next(4096); e != syscall.ENOBUFS {
		t.Errorf("32 of 30 bytes: got %v, want ENOBUFS", e)
	}
	if _, e := r.openNode(r.mustWalk("lab/connections").NodeId, os.O_RDONLY); e != syscall.ENOBUFS {
		t.Errorf("the table: got %v, want ENOBUFS", e)
	}
	r.uid = 0
	if got := len(r.list("lab/conns")); got != 4 {
		t.Errorf("root: %d entries, want 4", got)
	}
}

func TestFilesOfConnection(t *testing.T) {
	lab := newFakeStack(someConns()...)
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	if got, want := r.list("lab"), []string{"type", "status", "connections", "conns", "listeners", "restore"}; !slices.Equal(got, want) {
		t.Errorf("stack: got %q, want %q", got, want)
	}
	if got, want := r.list("lab/conns"), []string{"7", "8", "9", "11"}; !slices.Equal(got, want) {
		t.Errorf("conns: got %q, want %q", got, want)
	}
	if got, want := r.list("lab/listeners"), []string{"10", "18446744073709551615"}; !slices.Equal(got, want) {
		t.Errorf("listeners: got %q, want %q", got, want)
	}
	if got, want := r.list("lab/conns/7"), []string{"local", "remote", "status", "info", "checkpoint", "ctl"}; !slices.Equal(got, want) {
		t.Errorf("conns/7: got %q, want %q", got, want)
	}
	if got, want := r.list("lab/listeners/10"), []string{"local", "status", "info"}; !slices.Equal(got, want) {
		t.Errorf("listeners/10: got %q, want %q", got, want)
	}
	inodes := map[uint64]string{}
	for path, want := range map[string]uint32{
		"lab/conns": syscall.S_IFDIR | 0o555, "lab/listeners": syscall.S_IFDIR | 0o555, "lab/connections": syscall.S_IFREG | 0o444,
		"lab/conns/7": syscall.S_IFDIR | 0o555, "lab/conns/7/local": syscall.S_IFREG | 0o444, "lab/conns/7/remote": syscall.S_IFREG | 0o444,
		"lab/conns/7/status": syscall.S_IFREG | 0o444, "lab/conns/7/info": syscall.S_IFREG | 0o444,
		"lab/conns/7/checkpoint": syscall.S_IFREG | 0o400, "lab/conns/7/ctl": syscall.S_IFREG | 0o600,
		"lab/listeners/10": syscall.S_IFDIR | 0o555, "lab/listeners/10/local": syscall.S_IFREG | 0o444, "lab/listeners/10/status": syscall.S_IFREG | 0o444,
	} {
		out := r.mustWalk(path)
		if out.Mode != want {
			t.Errorf("%s: mode %o, want %o", path, out.Mode, want)
		}
		deep := strings.Count(path, "/") > 1
		if owner := out.Uid; deep && owner != someUser || !deep && owner != 0 {
			t.Errorf("%s belongs to %d", path, owner)
		}
		if deep && (out.EntryTimeout() > time.Microsecond || out.AttrTimeout() != cacheTime) {
			t.Errorf("%s may be remembered for %v and %v", path, out.EntryTimeout(), out.AttrTimeout())
		}
		if other, taken := inodes[out.Ino]; taken || out.Ino>>32 != 0 {
			t.Errorf("%s: inode number %d, taken by %q", path, out.Ino, other)
		}
		inodes[out.Ino] = path
		a, e := r.getattr(out.NodeId)
		if e != 0 || a.Attr != out.Attr {
			t.Errorf("%s: attributes %v, %v, of the look-up %v", path, &a.Attr, e, &out.Attr)
		}
	}
	for path, want := range map[string]string{
		"lab/conns/7/local": "192.0.2.1:80\n", "lab/conns/7/remote": "192.0.2.2:4711\n",
		"lab/conns/9/local": "[::ffff:192.0.2.1]:80\n", "lab/conns/11/remote": "-\n", "lab/listeners/10/local": "0.0.0.0:80\n",
		"lab/conns/7/status": "state: established\ncookie: 7\nrtt: 0.125\nnote: a b <c>\nprocess: 71 sshd\nprocess: 72 sshd\n",
	} {
		if got := r.readFile(path); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	for _, name := range []string{"10", "12", "0", "07", "+7", "-7", "7 ", "0x7", "", "18446744073709551616", "lab"} {
		if _, e := r.walk("lab/conns/" + name); e != syscall.ENOENT {
			t.Errorf("conns/%s: got %v, want ENOENT", name, e)
		}
	}
	for _, path := range []string{"lab/listeners/7", "lab/listeners/10/ctl", "lab/listeners/10/checkpoint", "lab/listeners/10/remote", "lab/conns/7/data"} {
		if _, e := r.walk(path); e != syscall.ENOENT {
			t.Errorf("%s: got %v, want ENOENT", path, e)
		}
	}
	for _, file := range []string{"local", "status", "checkpoint"} {
		node := r.mustWalk("lab/conns/7/" + file).NodeId
		if _, e := r.openNode(node, os.O_RDWR); e != syscall.EACCES {
			t.Errorf("%s opened for writing: got %v, want EACCES", file, e)
		}
		in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: r.header(node), Valid: fuse.FATTR_MODE, Mode: 0o777}}
		if st := r.raw.SetAttr(nil, &in, &fuse.AttrOut{}); st != fuse.EPERM {
			t.Errorf("chmod of %s: got %v, want EPERM", file, st)
		}
	}
}

func TestInfoIsJSON(t *testing.T) {
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": newFakeStack(someConns()...)})
	var got map[string]any
	if err := json.Unmarshal([]byte(r.readFile("lab/conns/7/info")), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"state": "established", "cookie": 7.0, "rtt": 0.125, "note": "a\nb <c>", "process": []any{"71 sshd", "72 sshd"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for value, want := range map[string]string{
		"1": "1", "-1.5": "-1.5", "18446744073709551615": "18446744073709551615", "true": "true",
		"": `""`, "01": `"01"`, "1.": `"1."`, "-": `"-"`, "1.2.3": `"1.2.3"`, "1e3": `"1e3"`, "12 ms": `"12 ms"`, "\"\x01": `"\"\u0001"`, "NaN": `"NaN"`, "null": `"null"`,
	} {
		if got, err := appendValue(nil, value); err != nil || string(got) != want {
			t.Errorf("value %q: got %s, %v, want %s", value, got, err, want)
		}
	}
	if got, err := appendObject(nil, nil); err != nil || !json.Valid(got) {
		t.Errorf("no lines: got %q, %v", got, err)
	}
}

// TestEndedConnectionIsGone: never another connection's data.
func TestEndedConnectionIsGone(t *testing.T) {
	lab := newFakeStack(someConns()...)
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	dir, local, ctl, image := r.mustWalk("lab/conns/7"), r.mustWalk("lab/conns/7/local"), r.mustWalk("lab/conns/7/ctl"), r.mustWalk("lab/conns/7/checkpoint")
	open := r.mustOpen("lab/conns/7/local", os.O_RDONLY)
	defer open.close()
	lab.set(func() {
		delete(lab.conns, 7)
		lab.conns[12] = tcp(12, "established", "192.0.2.1:80", "192.0.2.2:4711", someUser)
	})
	for _, path := range []string{"lab/conns/7", "lab/conns/7/local"} {
		if _, e := r.walk(path); e != syscall.ENOENT {
			t.Errorf("look up %s: got %v, want ENOENT", path, e)
		}
	}
	h := r.header(dir.NodeId)
	if st := r.raw.Lookup(nil, &h, "local", &fuse.EntryOut{}); st != fuse.ENOENT {
		t.Errorf("look up local in it: got %v, want ENOENT", st)
	}
	for what, node := range map[string]uint64{"the directory": dir.NodeId, "ctl": ctl.NodeId} {
		if _, e := r.getattr(node); e != syscall.ESTALE {
			t.Errorf("attributes of %s: got %v, want ESTALE", what, e)
		}
	}
	for what, node := range map[string]uint64{"local": local.NodeId, "ctl": ctl.NodeId, "checkpoint": image.NodeId} {
		if _, e := r.openNode(node, os.O_RDONLY); e != syscall.ESTALE {
			t.Errorf("open %s: got %v, want ESTALE", what, e)
		}
	}
	d, e := r.opendir(dir.NodeId)
	if e == 0 {
		_, e = d.next(4096)
		d.close()
	}
	if e != syscall.ESTALE {
		t.Errorf("list the directory: got %v, want ESTALE", e)
	}
	// What was opened before can be read, and looked at, until it is closed.
	if got := open.readAll(0); got != "192.0.2.1:80\n" {
		t.Errorf("read what was open: %q", got)
	}
	if a, e := r.getattr(local.NodeId); e != 0 || a.Uid != someUser {
		t.Errorf("attributes of what is open: %v, %v", &a, e)
	}
}

// TestSameCookieInTwoStacks: two stacks of one namespace have the same
// sockets, but not the same files.
func TestSameCookieInTwoStacks(t *testing.T) {
	a, b := newFakeStack(someConns()...), newFakeStack(someConns()...)
	b.conns[7] = tcp(7, "established", "192.0.2.9:9", "192.0.2.2:4711", 1001)
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"a": a, "b": b})
	one, other := r.mustWalk("a/conns/7"), r.mustWalk("b/conns/7")
	if one.NodeId == other.NodeId || one.Ino == other.Ino {
		t.Errorf("nodes %d and %d, inode numbers %d and %d: want others", one.NodeId, other.NodeId, one.Ino, other.Ino)
	}
	if got := r.readFile("a/conns/7/local") + r.readFile("b/conns/7/local"); got != "192.0.2.1:80\n192.0.2.9:9\n" {
		t.Errorf("got %q", got)
	}
	// The same number of an inode is not the same file: the cookies differ
	// by as many as there are numbers.
	a.conns[7+connSlots] = tcp(7+connSlots, "established", "192.0.2.8:8", "192.0.2.2:4711", 1001)
	if far := r.mustWalk("a/conns/" + strconv.Itoa(7+connSlots)); far.Ino != one.Ino || far.NodeId == one.NodeId {
		t.Errorf("nodes %d and %d, inode numbers %d and %d: want another node of the same number", one.NodeId, far.NodeId, one.Ino, far.Ino)
	}
	if again := r.mustWalk("a/conns/7"); again.NodeId != one.NodeId {
		t.Errorf("looked up again: node %d, was %d", again.NodeId, one.NodeId)
	}
}

func TestVisibility(t *testing.T) {
	own := newRig(t, stacknode.Spec{Conns: stacknode.ConnsSpec{Visible: stacknode.VisibleOwn}}, map[string]*fakeStack{"lab": newFakeStack(someConns()...)})
	node := own.mustWalk("lab/conns/9/local").NodeId // by root
	own.uid = someUser
	if got, want := own.list("lab/conns"), []string{"7", "11"}; !slices.Equal(got, want) {
		t.Errorf("own: conns: got %q, want %q", got, want)
	}
	if got, want := own.list("lab/listeners"), []string{"10"}; !slices.Equal(got, want) {
		t.Errorf("own: listeners: got %q, want %q", got, want)
	}
	if got := own.readFile("lab/connections"); strings.Count(got, "\n") != 4 || strings.Contains(got, " 1001 ") {
		t.Errorf("own: connections: got\n%s", got)
	}
	if _, e := own.walk("lab/conns/9"); e != syscall.ENOENT {
		t.Errorf("own: another's: got %v, want ENOENT", e)
	}
	if _, e := own.openNode(node, os.O_RDONLY); e != syscall.ESTALE {
		t.Errorf("own: another's that root looked up: got %v, want ESTALE", e)
	}
	if _, e := own.getattr(node); e != syscall.ESTALE {
		t.Errorf("own: its attributes: got %v, want ESTALE", e)
	}
	own.uid = 0
	if got := len(own.list("lab/conns")); got != 4 {
		t.Errorf("own: root sees %d, want 4", got)
	}

	off := newRig(t, stacknode.Spec{Conns: stacknode.ConnsSpec{Visible: stacknode.VisibleOff}}, map[string]*fakeStack{"lab": newFakeStack(someConns()...)})
	if got, want := off.list("lab"), []string{"type", "status", "restore"}; !slices.Equal(got, want) {
		t.Errorf("off: got %q, want %q", got, want)
	}
	for _, name := range []string{"connections", "conns", "listeners"} {
		if _, e := off.walk("lab/" + name); e != syscall.ENOENT {
			t.Errorf("off: %s: got %v, want ENOENT", name, e)
		}
	}
}

func TestHoldersAreForOwner(t *testing.T) {
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": newFakeStack(someConns()...)})
	for uid, want := range map[uint32]bool{0: true, someUser: true, 1001: false} {
		r.uid = uid
		for _, file := range []string{"status", "info"} {
			if got := strings.Contains(r.readFile("lab/conns/7/"+file), "process"); got != want {
				t.Errorf("%s for uid %d names processes: %v, want %v", file, uid, got, want)
			}
		}
	}
}

func TestNothingIsMadeInConns(t *testing.T) {
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": newFakeStack(someConns()...)})
	for _, path := range []string{"lab", "lab/conns", "lab/listeners", "lab/conns/7", "lab/listeners/10"} {
		node := r.mustWalk(path).NodeId
		h := r.header(node)
		for what, st := range map[string]fuse.Status{
			"mkdir":   r.raw.Mkdir(nil, &fuse.MkdirIn{InHeader: h}, "x", &fuse.EntryOut{}),
			"mknod":   r.raw.Mknod(nil, &fuse.MknodIn{InHeader: h}, "x", &fuse.EntryOut{}),
			"create":  r.raw.Create(nil, &fuse.CreateIn{InHeader: h}, "x", &fuse.CreateOut{}),
			"symlink": r.raw.Symlink(nil, &h, "x", "y", &fuse.EntryOut{}),
			"link":    r.raw.Link(nil, &fuse.LinkIn{InHeader: h, Oldnodeid: node}, "x", &fuse.EntryOut{}),
			"rename":  r.raw.Rename(nil, &fuse.RenameIn{InHeader: h, Newdir: node}, "7", "8"),
			"unlink":  r.raw.Unlink(nil, &h, "7"),
			"rmdir":   r.raw.Rmdir(nil, &h, "7"),
		} {
			if st != fuse.EPERM {
				t.Errorf("%s in %s: got %v, want EPERM", what, path, st)
			}
		}
	}
}

// TestEndedConnectionsAreForgotten: the kernel would remember each that was
// ever looked at, and the daemon with it.
func TestEndedConnectionsAreForgotten(t *testing.T) {
	lab := newFakeStack()
	const many = sweepFrom + 50
	for i := range uint64(many) {
		lab.conns[i+1] = tcp(i+1, "established", "192.0.2.1:80", "192.0.2.2:4711", someUser)
	}
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	nodes := map[string]uint64{}
	for i := range many {
		name := strconv.Itoa(i + 1)
		nodes[name] = r.mustWalk("lab/conns/" + name).NodeId
	}
	lab.set(func() {
		for i := range uint64(100) {
			delete(lab.conns, i+1)
		}
	})
	r.readFile("lab/connections")
	for range 100 {
		select {
		case name := <-r.notices:
			if n, err := strconv.Atoi(name); err != nil || n < 1 || n > 100 {
				t.Errorf("the kernel was told to forget %q", name)
			}
			r.raw.Forget(nodes[name], 1)
			delete(nodes, name)
		case <-time.After(10 * time.Second):
			t.Fatalf("told to forget %d, want 100", many-len(nodes))
		}
	}
	select {
	case name := <-r.notices:
		t.Errorf("told to forget %q, which is there", name)
	case <-time.After(50 * time.Millisecond):
	}
	for _, node := range nodes {
		r.raw.Forget(node, 1)
	}
	stack := r.root.GetChild("lab")
	if left := len(stack.GetChild("conns").Children()); left != 0 {
		t.Errorf("%d nodes are left of connections that were forgotten", left)
	}
}
