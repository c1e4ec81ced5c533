package stacknode

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
)

// fakeBackend is a stack of the namespace ns.
type fakeBackend struct {
	ns        NSID
	foreign   bool
	busy      []string
	drained   bool
	closed    bool
	destroyed bool
}

func (f *fakeBackend) Socket(context.Context, *Caller, int, int, int) (*os.File, error) {
	return os.Open(os.DevNull)
}
func (f *fakeBackend) Families() FamilySet     { return InternetFamilies }
func (f *fakeBackend) Close() error            { f.closed = true; return nil }
func (f *fakeBackend) Busy() ([]string, error) { return f.busy, nil }
func (f *fakeBackend) Drain(on bool)           { f.drained = on }
func (f *fakeBackend) Destroy() error          { f.destroyed = true; return nil }

// ownBackend is a fakeBackend whose callers may be in its namespace.
type ownBackend struct{ *fakeBackend }

func (o ownBackend) NetNS() (NSID, uint64) { return o.ns, 7 }
func (o ownBackend) Foreign() bool         { return o.foreign }

func newTestRegistry(b Backend) *Registry {
	return NewRegistry(func(Spec) (Backend, error) { return b, nil })
}

func TestRemoveOfBusyStackChangesNothing(t *testing.T) {
	b := &fakeBackend{busy: []string{"1 socket"}}
	r := newTestRegistry(b)
	if _, err := r.Add(Spec{Name: "a"}, OriginRuntime); err != nil {
		t.Fatal(err)
	}
	err := r.Remove("a", false)
	var busy *BusyError
	if !errors.As(err, &busy) || !errors.Is(err, syscall.EBUSY) {
		t.Fatalf("Remove of a busy stack: got %v, want a BusyError", err)
	}
	if b.closed || b.destroyed || b.drained {
		t.Errorf("the backend was touched: %+v", b)
	}
	s, err := r.Get("a")
	if err != nil || s.State() != Up {
		t.Fatalf("after a refused Remove: %v, state %v, want up", err, s.State())
	}
	if err := r.Remove("a", true); err != nil {
		t.Fatalf("Remove with force: %v", err)
	}
	if !b.closed || !b.destroyed {
		t.Errorf("Remove with force left the backend: %+v", b)
	}
	if _, err := r.Get("a"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("Get after Remove: got %v, want ENOENT", err)
	}
	if err := s.Admit(&Caller{}); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("Admit to a removed stack: got %v, want ENODEV", err)
	}
}

func TestDropDestroysNothing(t *testing.T) {
	b := &fakeBackend{}
	r := newTestRegistry(b)
	var gone []string
	r.OnRemove(func(name string) { gone = append(gone, name) })
	if _, err := r.Add(Spec{Name: "a"}, OriginDiscover); err != nil {
		t.Fatal(err)
	}
	if err := r.Drop("a"); err != nil {
		t.Fatal(err)
	}
	if !b.closed || b.destroyed || len(gone) != 1 {
		t.Errorf("after Drop: %+v, told of %v", b, gone)
	}
}

func TestBuiltinStacksStay(t *testing.T) {
	r := newTestRegistry(&fakeBackend{})
	if _, err := r.Add(Spec{Name: NameKernel}, OriginBuiltin); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(NameKernel, true); !errors.Is(err, syscall.EPERM) {
		t.Errorf("Remove of a built-in stack: got %v, want EPERM", err)
	}
}

func TestAddOfATakenName(t *testing.T) {
	r := newTestRegistry(&fakeBackend{})
	first, err := r.Add(Spec{Name: "a"}, OriginRuntime)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Add(Spec{Name: "a"}, OriginRuntime); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("second Add: got %v, want EEXIST", err)
	}
	if err := r.Remove("a", false); err != nil {
		t.Fatal(err)
	}
	again, err := r.Add(Spec{Name: "a"}, OriginRuntime)
	if err != nil {
		t.Fatal(err)
	}
	if again.ID() == first.ID() {
		t.Error("a number was given twice")
	}
}

func TestNamesThatCannotBe(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "a b", "a\nb", "ctl", "tun", "-", "-x", "--", string(make([]byte, 64))} {
		if CheckName(name) == nil {
			t.Errorf("CheckName(%q): no error", name)
		}
	}
	if err := CheckName("vpn-1.de"); err != nil {
		t.Error(err)
	}
}

func TestAdmit(t *testing.T) {
	here, there := NSID{1, 1}, NSID{1, 2}
	for _, tt := range []struct {
		name    string
		foreign bool
		caller  NSID
		want    error
		self    bool
	}{
		{"own namespace", false, here, nil, true},
		{"another namespace", false, there, ErrForeign, false},
		{"another namespace, foreign", true, there, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := ownBackend{&fakeBackend{ns: here, foreign: tt.foreign}}
			s, err := newTestRegistry(b).Add(Spec{Name: "k"}, OriginBuiltin)
			if err != nil {
				t.Fatal(err)
			}
			c := &Caller{Look: func() (*Details, error) { return &Details{NetNS: tt.caller}, nil }}
			if err := s.Admit(c); !errors.Is(err, tt.want) {
				t.Errorf("Admit: got %v, want %v", err, tt.want)
			}
			if s.Self(c) != tt.self {
				t.Errorf("Self: got %v, want %v", s.Self(c), tt.self)
			}
		})
	}
}

func TestSocketErrors(t *testing.T) {
	s, err := newTestRegistry(&fakeBackend{}).Add(Spec{Name: "a"}, OriginRuntime)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name        string
		domain, typ int
		want        error
	}{
		{"family that is not there", 9, 1, syscall.EAFNOSUPPORT},
		{"negative family", -1, 1, syscall.EAFNOSUPPORT},
		{"probe", AFInet, -1, syscall.EINVAL},
		{"probe of a family that is not there", 9, -1, syscall.EAFNOSUPPORT},
	} {
		if _, err := s.Socket(t.Context(), &Caller{}, tt.domain, tt.typ, 0); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestQuota(t *testing.T) {
	q := NewQuota(2)
	a, err := q.Acquire(1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Acquire(1000); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Acquire(1000); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("third unit: got %v, want EMFILE", err)
	}
	if _, err := q.Acquire(1001); err != nil {
		t.Errorf("another user: %v", err)
	}
	a()
	a() // twice does nothing more
	if _, err := q.Acquire(1000); err != nil {
		t.Errorf("after a release: %v", err)
	}
	if _, err := q.Acquire(1000); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("released once, acquired twice: got %v, want EMFILE", err)
	}
	for range 10 {
		if _, err := q.Acquire(0); err != nil {
			t.Errorf("root: %v", err)
		}
	}
	bytes := NewQuota(100)
	b, err := bytes.AcquireN(1000, 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bytes.AcquireN(1000, 41); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("60 and 41 of 100: got %v, want EMFILE", err)
	}
	if _, err := bytes.AcquireN(1000, 40); err != nil {
		t.Errorf("60 and 40 of 100: %v", err)
	}
	b()
	if _, err := bytes.AcquireN(1000, 60); err != nil {
		t.Errorf("60 given back and taken again: %v", err)
	}
	if _, err := bytes.AcquireN(1001, 101); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("101 of 100: got %v, want EMFILE", err)
	}
}
