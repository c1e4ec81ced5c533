package guardian

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/freeze"
	"github.com/stackfs/stackfs/stacknode"
)

// An error is the same on the other side.
func TestErrorsInMessages(t *testing.T) {
	pass := func(err error) error {
		b, jerr := json.Marshal(message{Error: packError(err)})
		must(t, jerr)
		var m message
		must(t, json.Unmarshal(b, &m))
		return m.Error.unpack()
	}
	if err := pass(nil); err != nil {
		t.Errorf("nil: got %v", err)
	}
	for _, sentinel := range sentinels {
		wrapped := fmt.Errorf("in the middle: %w", sentinel)
		got := pass(wrapped)
		if !errors.Is(got, sentinel) || got.Error() != wrapped.Error() {
			t.Errorf("got %v, want %v", got, wrapped)
		}
	}
	got := pass(errors.Join(errMoved, &stacknode.HolderError{PID: 71, Command: "nginx", Reason: "none"}))
	var holder *stacknode.HolderError
	if !errors.As(got, &holder) || holder.PID != 71 || !errors.Is(got, unix.EPERM) || !errors.Is(got, errMoved) {
		t.Errorf("got %#v", got)
	}
	got = pass(&soccr.UnsaveableError{Reason: "kTLS"})
	var why *soccr.UnsaveableError
	if !errors.As(got, &why) || why.Reason != "kTLS" || !errors.Is(got, unix.EOPNOTSUPP) {
		t.Errorf("got %#v", got)
	}
	traced := &freeze.TracedError{PID: 71, Command: "nginx", Tracer: 99, TracerCommand: "gdb"}
	if got = pass(traced); got.Error() != traced.Error() || !errors.Is(got, unix.EBUSY) {
		t.Errorf("got %v, want %v", got, traced)
	}
}
