package kernel

import (
	"errors"
	"net"
	"testing"

	"github.com/stackfs/stackfs/backends/conns"
	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
)

// Who is in another network namespace must not get at the host's connections,
// whatever rights he has there.
func TestConnectionsAreForCallersOfTheSameNamespace(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, foreign := range []bool{false, true} {
		k, err := New(stacknode.Spec{Name: "kernel", Foreign: foreign}, worker.Env{}, conns.Env{})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		list, err := k.Conns(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var cookie uint64
		for _, c := range list {
			if c.Local.String() == l.Addr().String() {
				cookie = c.Cookie
			}
		}
		if cookie == 0 {
			t.Fatalf("%v is not in %+v", l.Addr(), list)
		}
		outside := &stacknode.Caller{Look: func() (*stacknode.Details, error) {
			return &stacknode.Details{NetNS: stacknode.NSID{Dev: 1, Ino: 1}}, nil
		}}
		err = k.Resume(t.Context(), outside, cookie)
		if errors.Is(err, stacknode.ErrForeign) == foreign || err == nil {
			t.Errorf("foreign = %v: got %v", foreign, err)
		}
	}
}
