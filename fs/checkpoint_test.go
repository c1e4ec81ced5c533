package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
)

func TestCheckpointIsReadFromMemory(t *testing.T) {
	lab := newFakeStack(someConns()...)
	lab.image = []byte(strings.Repeat("0123456789", 1000))
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	r.uid = someUser
	h := r.mustOpen("lab/conns/7/checkpoint", os.O_RDONLY)
	lab.set(func() { delete(lab.conns, 7) })
	for _, at := range []int64{5, 9990, 0} {
		if got, e := h.readAt(10, at); e != 0 || got != string(lab.image[at:at+10]) {
			t.Errorf("at %d: got %q, %v", at, got, e)
		}
	}
	if got, e := h.readAt(100, 9995); e != 0 || got != "56789" {
		t.Errorf("across the end: got %q, %v", got, e)
	}
	for _, at := range []int64{10000, 1 << 40} {
		if got, e := h.readAt(10, at); e != 0 || got != "" {
			t.Errorf("at %d: got %q, %v, want end of file", at, got, e)
		}
	}
	if got := h.readAll(0); got != string(lab.image) {
		t.Errorf("read %d bytes, want %d", len(got), len(lab.image))
	}
	if a, e := r.getattr(h.node); e != 0 || a.Mode != syscall.S_IFREG|0o400 || a.Uid != someUser {
		t.Errorf("fstat after the end of the connection: %v, %v", &a.Attr, e)
	}
	if got := lab.verbs(); got != "checkpoint 7" {
		t.Errorf("asked for %q, want one checkpoint", got)
	}
	if used := usedMemory(r, someUser); used != len(lab.image) {
		t.Errorf("%d bytes count, want %d", used, len(lab.image))
	}
	h.close()
	if used := usedMemory(r, someUser); used != 0 {
		t.Errorf("%d bytes count after close", used)
	}
}

func TestImagesAreCounted(t *testing.T) {
	conns := someConns()
	conns[0].RecvQ, conns[0].SendQ = 300, 300
	lab := newFakeStack(conns...)
	lab.image = make([]byte, 500)
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	r.tree.memory = stacknode.NewQuota(1000)
	r.uid = someUser
	node := r.mustWalk("lab/conns/7/checkpoint").NodeId
	first, e := r.openNode(node, os.O_RDONLY)
	if e != 0 {
		t.Fatal(e)
	}
	lab.verbs()
	if _, e := r.openNode(node, os.O_RDONLY); e != syscall.ENOBUFS || lab.verbs() != "" {
		t.Errorf("500 and at least 600 of 1000 bytes: got %v, want ENOBUFS and no checkpoint", e)
	}
	ctl := r.mustOpen("lab/conns/7/ctl", os.O_RDONLY)
	defer ctl.close()
	if got := ctl.readAll(0); !strings.Contains(got, "256 MiB") {
		t.Errorf("the reason: %q", got)
	}
	first.close()
	lab.set(func() { lab.image = make([]byte, 1001) })
	if _, e := r.openNode(node, os.O_RDONLY); e != syscall.ENOBUFS {
		t.Errorf("an image larger than its queues: got %v, want ENOBUFS", e)
	}
	lab.set(func() { lab.image = make([]byte, 1000) })
	last, e := r.openNode(node, os.O_RDONLY)
	if e != 0 {
		t.Fatalf("1000 of 1000 bytes: %v: something was not given back", e)
	}
	last.close()
}

func TestCheckpointIsInterrupted(t *testing.T) {
	lab := newFakeStack(someConns()...)
	lab.wait = true
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	node := r.mustWalk("lab/conns/7/checkpoint").NodeId
	cancel := make(chan struct{})
	time.AfterFunc(20*time.Millisecond, func() { close(cancel) })
	in := fuse.OpenIn{InHeader: r.header(node)}
	if st := r.raw.Open(cancel, &in, &fuse.OpenOut{}); st != fuse.EINTR {
		t.Errorf("got %v, want EINTR", st)
	}
	if used := usedMemory(r, 0); used > 1 {
		t.Errorf("%d bytes count after it", used)
	}
}

// TestReasonsCanBeRead: open(2) returns a number; the words are in ctl.
func TestReasonsCanBeRead(t *testing.T) {
	lab := newFakeStack(someConns()...)
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	node := r.mustWalk("lab/conns/7/checkpoint").NodeId
	reason := func(uid uint32, conn string) string {
		r.uid = uid
		h := r.mustOpen("lab/conns/"+conn+"/ctl", os.O_RDONLY)
		defer h.close()
		return h.readAll(0)
	}
	lab.set(func() { lab.fail = &stacknode.HolderError{PID: 71, Command: "sshd", Reason: "not\ndumpable"} })
	r.uid = someUser
	if _, e := r.openNode(node, os.O_RDONLY); e != syscall.EPERM {
		t.Fatalf("got %v, want EPERM", e)
	}
	want := "error: process 71 (sshd) holds the connection and you may not trace it: not; dumpable\n"
	if got := reason(someUser, "7"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := reason(1001, "7") + reason(0, "7") + reason(someUser, "9"); got != "" {
		t.Errorf("somebody else, or of another connection: %q", got)
	}
	lab.set(func() { lab.fail = nil })
	r.uid = someUser
	h, e := r.openNode(node, os.O_RDONLY)
	if e != 0 {
		t.Fatal(e)
	}
	h.close()
	if got := reason(someUser, "7"); got != "" {
		t.Errorf("after it went well: %q", got)
	}
}

func TestReasonsAreBounded(t *testing.T) {
	v := newVerdicts()
	key := func(i int) verdictKey { return verdictKey{uint32(i), connKey{1, uint64(i)}} }
	for i := range 3 * maxVerdicts {
		v.put(key(i), fmt.Errorf("reason %d", i))
	}
	if len(v.last) > maxVerdicts {
		t.Errorf("%d reasons are kept, want at most %d", len(v.last), maxVerdicts)
	}
	if got := v.get(key(3*maxVerdicts - 1)); got != fmt.Sprintf("error: reason %d\n", 3*maxVerdicts-1) {
		t.Errorf("the last one: %q", got)
	}
	old := v.last[key(3*maxVerdicts-1)]
	old.at = time.Now().Add(-2 * verdictTime)
	v.last[key(3*maxVerdicts-1)] = old
	if got := v.get(key(3*maxVerdicts - 1)); got != "" {
		t.Errorf("an old one: %q", got)
	}
	v.put(key(0), errors.New("new"))
	v.put(key(0), nil)
	if got := v.get(key(0)); got != "" {
		t.Errorf("one that was taken back: %q", got)
	}
}

func TestVerbs(t *testing.T) {
	lab := newFakeStack(someConns()...)
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	node := r.mustWalk("lab/conns/7/ctl").NodeId
	for _, tt := range []struct {
		text, answer, asked string
		errno               syscall.Errno
	}{
		{"pause\n", "ok\n", "pause 7 1m0s", 0},
		{"pause", "error: the connection is paused already: device or resource busy\n", "pause 7 1m0s", syscall.EBUSY},
		{"resume\n", "ok\n", "resume 7", 0},
		{" resume", "error: the connection is not paused: invalid argument\n", "resume 7", syscall.EINVAL},
		{"pause 5\nresume\n\n# over\npause 86400\nresume", "ok\nok\nok\nok\n", "pause 7 5s, resume 7, pause 7 24h0m0s, resume 7", 0},
		{"pause 2\nnonsense\nresume\n", "ok\nerror: unknown command \"nonsense\" (pause [SECONDS], hold, resume, abort, release): invalid argument\n", "pause 7 2s", syscall.EINVAL},
		{"release", "ok\n", "discard 7", 0},
		{"abort", "ok\n", "abort 7", 0},
		{"pause 0", "error: pause 0: not a number of seconds from 1 to 86400: invalid argument\n", "", syscall.EINVAL},
		{"pause 86401", "error: pause 86401: not a number of seconds from 1 to 86400: invalid argument\n", "", syscall.EINVAL},
		{"pause -1", "error: pause -1: not a number of seconds from 1 to 86400: invalid argument\n", "", syscall.EINVAL},
		{"pause 1 2", "error: \"pause 1 2\" has too many words (pause [SECONDS], hold, resume, abort, release): invalid argument\n", "", syscall.EINVAL},
		{"abort now", "error: \"abort now\" has too many words (pause [SECONDS], hold, resume, abort, release): invalid argument\n", "", syscall.EINVAL},
		{"", "", "", 0},
		{strings.Repeat("#", maxCtlLine+1), "", "", syscall.E2BIG},
	} {
		h, e := r.openNode(node, os.O_RDWR|os.O_TRUNC)
		if e != 0 {
			t.Fatal(e)
		}
		in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: r.header(node), Valid: fuse.FATTR_SIZE}}
		if st := r.raw.SetAttr(nil, &in, &fuse.AttrOut{}); st != fuse.OK {
			t.Errorf("O_TRUNC: %v", st)
		}
		e = h.writeAt(tt.text, 0)
		var answer string
		if e != syscall.E2BIG {
			answer = h.readAll(int64(len(tt.text)))
		}
		if asked := lab.verbs(); e != tt.errno || answer != tt.answer || asked != tt.asked {
			t.Errorf("%.20q: got %v, %q, asked %q; want %v, %q, %q", tt.text, e, answer, asked, tt.errno, tt.answer, tt.asked)
		}
		h.close()
	}
	// What failed can be read by the next command of a shell.
	if h := r.mustOpen("lab/conns/7/ctl", os.O_WRONLY); h.writeAt("bogus\n", 0) == 0 {
		t.Errorf("bogus: no error")
	}
	h := r.mustOpen("lab/conns/7/ctl", os.O_RDONLY)
	if got := h.readAll(0); !strings.Contains(got, `unknown command "bogus"`) {
		t.Errorf("cat ctl: %q", got)
	}
	lab.set(func() { delete(lab.conns, 7) })
	if e := h.writeAt("abort\n", 0); e != syscall.ESTALE {
		t.Errorf("abort of what has ended: got %v, want ESTALE", e)
	}
	in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: r.header(node), Valid: fuse.FATTR_UID}}
	if st := r.raw.SetAttr(nil, &in, &fuse.AttrOut{}); st != fuse.EPERM {
		t.Errorf("chown: got %v, want EPERM", st)
	}
}

// TestHoldEndsWithItsFile: whatever happens to who holds it.
func TestHoldEndsWithItsFile(t *testing.T) {
	lab := newFakeStack(someConns()...)
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	open := func() *handle { return r.mustOpen("lab/conns/7/ctl", os.O_RDWR) }
	write := func(h *handle, text string) {
		t.Helper()
		if e := h.writeAt(text, 0); e != 0 {
			t.Errorf("%s: %v", text, e)
		}
	}
	h := open()
	write(h, "hold\n")
	if got := lab.verbs(); got != "pause 7 0s" {
		t.Errorf("hold asked for %q", got)
	}
	// close(2) of one of several descriptors.
	if st := r.raw.Flush(nil, &fuse.FlushIn{InHeader: r.header(h.node), Fh: h.fh}); st != fuse.OK {
		t.Errorf("flush: %v", st)
	}
	other := open()
	other.close()
	if !lab.paused[7] {
		t.Fatalf("resumed before its file was closed")
	}
	h.close()
	if lab.paused[7] || lab.verbs() != "resume 7" {
		t.Errorf("not resumed when its file was closed")
	}

	// What was ended otherwise, and perhaps begun again by somebody else,
	// is left alone.
	for _, end := range []string{"resume", "release", "abort"} {
		h, other = open(), open()
		write(h, "hold\n")
		write(other, end)
		lab.set(func() { delete(lab.paused, 7) })
		write(other, "pause 5")
		lab.verbs()
		h.close()
		if got := lab.verbs(); got != "" || !lab.paused[7] {
			t.Errorf("%s, paused by another, closed: asked for %q", end, got)
		}
		write(other, "resume")
		other.close()
	}
	// A plain pause does not end so.
	h = open()
	write(h, "pause 5")
	h.close()
	if !lab.paused[7] {
		t.Errorf("a pause ended with its file")
	}
	if n := len(r.tree.holds); n != 0 {
		t.Errorf("%d holds are left", n)
	}
}

// TestWriterWithOtherRightsIsRefused: a file that somebody opened may be the
// standard output of a program that has more rights than he.
func TestWriterWithOtherRightsIsRefused(t *testing.T) {
	lab := newFakeStack(someConns()...)
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	r.mustWalk("lab/conns/7/ctl")
	node := r.root.GetChild("lab").GetChild("conns").GetChild("7").GetChild("ctl")
	ctl, ok := node.Operations().(*connCtlNode)
	if !ok {
		t.Fatal("no ctl")
	}
	ctx := &fuse.Context{Caller: fuse.Caller{Pid: uint32(os.Getpid())}}
	h, err := ctl.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, e := h.Write(ctx, []byte("pause"), 0); e != 0 {
		t.Fatalf("the same process: %v", e)
	}
	lab.verbs()
	for what, change := range map[string]func(h *connCtlHandle){
		"another user": func(h *connCtlHandle) { h.uid++ },
		"less rights":  func(h *connCtlHandle) { h.caps = 0 },
		// Whose capabilities are over another user namespace.
		"someone elsewhere": func(h *connCtlHandle) { h.userNS = stacknode.NSID{} },
	} {
		if what == "less rights" && h.caps == 0 {
			continue // the test has none itself
		}
		opened := &connCtlHandle{owned: h.owned, node: ctl, uid: h.uid, userNS: h.userNS, caps: h.caps}
		change(opened)
		if _, e := opened.Write(ctx, []byte("resume"), 0); e != syscall.EPERM || lab.verbs() != "" {
			t.Errorf("opened by %s: got %v, want EPERM", what, e)
		}
		if !bytes.Contains([]byte(opened.answer), []byte("other rights")) {
			t.Errorf("opened by %s: %q", what, opened.answer)
		}
	}
}
