package msocket

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

// defaults are the default stacks of this process.
var defaults struct {
	mu   sync.Mutex // guards the fields below; taken before stacks.mu
	read bool       // the environment was
	off  bool       // by STACKFS_SHIM
	of   map[int]*stack
}

// goneStack is the default of every family where STACKFS_DEFAULT cannot be
// read: some stack was meant, so rather none than the wrong one.
var goneStack = newStack("")

// readDefaults fills defaults from the environment at the first use. It is
// called with defaults.mu held.
func readDefaults() {
	if defaults.read {
		return
	}
	defaults.read, defaults.of = true, map[int]*stack{}
	// A program with rights does not let its caller choose.
	if secureExecution() {
		return
	}
	if defaults.off = os.Getenv(envShim) == "off"; defaults.off {
		return
	}
	paths, err := parseDefaults(os.Getenv(envDefault))
	if err != nil {
		for family := range families {
			if family != unix.AF_UNSPEC && family != unix.AF_UNIX {
				defaults.of[family] = goneStack
			}
		}
	}
	for family, path := range paths {
		// It fails for relative paths only, of which there are none.
		if s, err := findStack(path); err == nil {
			s.expect()
			defaults.of[family] = s
		}
	}
}

// SetDefault makes the stack at path the one that [SocketDefault] uses for
// domain or, if that is 0, for every family that the stack has. The stack
// null, which has none, can be the default of any family, and denies it. A
// relative path is made absolute.
//
// Programs that this one starts inherit the defaults in the environment
// (STACKFS_DEFAULT) if they use this package or libmsocket; "stackfs run"
// is the way for all others. SetDefault changes nothing for package net.
//
// Returns EAFNOSUPPORT if the stack does not have the family, ENOTSUP if
// path is no stack or STACKFS_SHIM is off.
func SetDefault(path string, domain int) error {
	if err := setDefault(path, domain); err != nil {
		return &OpError{Op: "default", Stack: path, Err: err}
	}
	return nil
}

func setDefault(path string, domain int) error {
	defaults.mu.Lock()
	defer defaults.mu.Unlock()
	readDefaults()
	if defaults.off {
		return errOff
	}
	s, err := findStack(path)
	if err != nil {
		return err
	}
	info, err := pathInfo(s.path)
	if err != nil {
		return s.lost(err)
	}
	has := info.Families
	if info.Kind == uapi.KindNull {
		has = ^uint64(0)
	}
	has &^= 1<<unix.AF_UNSPEC | 1<<unix.AF_UNIX
	if domain != 0 {
		if domain < 0 || domain >= families || has>>domain&1 == 0 {
			return errNoFamily
		}
		has = 1 << domain
	}
	s.learned()
	return storeDefaults(has, s)
}

// ClearDefault takes the default of domain, or with 0 of all families,
// back: SocketDefault is on the kernel's own stack again.
func ClearDefault(domain int) error {
	defaults.mu.Lock()
	defer defaults.mu.Unlock()
	readDefaults()
	err := errOff
	switch {
	case defaults.off:
	case domain < 0 || domain >= families:
		err = errNoFamily
	case domain == 0:
		err = storeDefaults(^uint64(0), nil)
	default:
		err = storeDefaults(1<<domain, nil)
	}
	if err != nil {
		return &OpError{Op: "default", Err: err}
	}
	return nil
}

var errOff error = &os.SyscallError{Syscall: envShim + "=off", Err: unix.ENOTSUP}

// storeDefaults sets s, or none for nil, for each family in the set. It is
// called with defaults.mu held.
func storeDefaults(set uint64, s *stack) error {
	of, paths := map[int]*stack{}, map[int]string{}
	for family := range families {
		was := defaults.of[family]
		if set>>family&1 != 0 {
			was = s
		}
		if was != nil {
			of[family], paths[family] = was, was.path
		}
	}
	var err error
	if len(paths) == 0 {
		err = os.Unsetenv(envDefault)
	} else {
		err = os.Setenv(envDefault, renderDefaults(paths))
	}
	if err == nil {
		defaults.of = of
	}
	return err
}

// Default returns the path of the default stack of domain, and whether one
// is set.
func Default(domain int) (path string, ok bool) {
	s := defaultStack(domain)
	if s == nil {
		return "", false
	}
	return s.path, true
}

func defaultStack(domain int) *stack {
	defaults.mu.Lock()
	defer defaults.mu.Unlock()
	readDefaults()
	return defaults.of[domain]
}

// SocketDefault is [Socket] in the default stack of domain, and socket(2)
// if none is set. With one set it gives a socket of that stack or fails,
// with ENODEV when the stack or its daemon is gone: it never falls back to
// the kernel's own. Defaults are set by [SetDefault] or inherited in
// STACKFS_DEFAULT, see msocket(3).
func SocketDefault(domain, typ, proto int) (*os.File, error) {
	s := defaultStack(domain)
	var f *os.File
	var err error
	op := &OpError{Op: "socket"}
	switch {
	case s == nil:
		f, err = socket("socket", domain, typ, proto)
	case s == goneStack:
		err = errGone
	default:
		op.Stack = s.path
		f, err = s.socket(ask{domain, typ, proto})
	}
	if err != nil {
		op.Err = err
		return nil, op
	}
	return f, nil
}
