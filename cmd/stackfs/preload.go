package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/launch"
)

// Libraries that are preloaded: libmsocket in front of the filter, libfsocket
// on stacks of kind fast.
const (
	libmsocket = "libmsocket.so.0"
	libfsocket = "libfsocket.so"
)

// libraryDirs are searched after the directories that belong to the
// program itself.
var libraryDirs = []string{
	"/usr/local/lib", "/usr/lib", "/usr/lib64",
	"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib/i386-linux-gnu",
}

// preload sets the environment by which libmsocket gives the program the
// stack's sockets. The code is for an error.
func preload(p *launch.Program, opts runOptions, has stacknode.FamilySet) (code int, err error) {
	lib, err := findLibrary(libmsocket)
	if err != nil {
		return exitRunFailed, fmt.Errorf("%w (without --preload it is not needed)", err)
	}
	if opts.NoSeccomp {
		if err := preloadable(p.Path, lib); err != nil {
			return exitNotRunnable, fmt.Errorf("%s: %w (without --no-seccomp it can run)", p.Path, err)
		}
	}
	set := has & opts.Families
	if opts.NoSeccomp {
		// What the stack lacks is to fail, not to be the host's.
		set = opts.Families & stacknode.InternetFamilies
	}
	var defaults []string
	for family := range 64 {
		if set.Has(family) {
			defaults = append(defaults, fmt.Sprintf("%d=%s", family, escapePath(opts.Stack)))
		}
	}
	p.Env = setEnv(p.Env, "STACKFS_DEFAULT", strings.Join(defaults, ","))
	addPreload(p, lib)
	return 0, nil
}

// preloadFast sets the environment by which libfsocket gives the program's
// listeners clones. A program that takes no library goes on without.
func preloadFast(p *launch.Program, opts runOptions) error {
	if preloaded := getEnv(p.Env, "LD_PRELOAD"); strings.Contains(preloaded, libfsocket) {
		return nil
	}
	lib, err := findLibrary(libfsocket)
	if err != nil {
		return err
	}
	if preloadable(p.Path, lib) != nil {
		return nil
	}
	stack, err := filepath.Abs(opts.Stack)
	if err != nil {
		return err
	}
	p.Env = setEnv(p.Env, "STACKFS_FAST", stack)
	addPreload(p, lib)
	return nil
}

// addPreload puts lib in front of what is preloaded already.
func addPreload(p *launch.Program, lib string) {
	if old := getEnv(p.Env, "LD_PRELOAD"); old != "" {
		lib += ":" + old
	}
	p.Env = setEnv(p.Env, "LD_PRELOAD", lib)
}

// preloadable returns an error for a program that the dynamic linker will
// not load lib into: its sockets would be the host's.
func preloadable(path, lib string) error {
	for range maxInterpreters {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		if st.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			return fmt.Errorf("a set-id program takes no preloaded library: %w", syscall.EACCES)
		}
		next, err := interpreter(path)
		if err != nil {
			return err
		}
		if next == "" {
			return loads(path, lib)
		}
		path = next
	}
	return syscall.ELOOP
}

// maxInterpreters is how often execve(2) goes on to an interpreter that is a
// script itself.
const maxInterpreters = 5

// interpreter returns the program behind #! in a script; without such a
// line it is the shell, which is no script.
func interpreter(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 256)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	line, found := strings.CutPrefix(string(head[:n]), "#!")
	if !found {
		return "", nil
	}
	line, _, _ = strings.Cut(line, "\n")
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", syscall.ENOEXEC
	}
	return words[0], nil
}

// loads tells by an error why the dynamic linker does not load lib into the
// program at path.
func loads(path, lib string) error {
	program, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("what is no ELF program takes no preloaded library: %w", syscall.ENOEXEC)
	}
	defer program.Close()
	library, err := elf.Open(lib)
	if err != nil {
		return fmt.Errorf("%s: %w", lib, err)
	}
	defer library.Close()
	if !slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return fmt.Errorf("a static program takes no preloaded library: %w", syscall.EACCES)
	}
	if program.Class != library.Class || program.Machine != library.Machine {
		return fmt.Errorf("%v %v takes no preloaded library of %v %v: %w",
			program.Class, program.Machine, library.Class, library.Machine, syscall.ELIBBAD)
	}
	return nil
}

func findLibrary(name string) (string, error) {
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		dir := filepath.Dir(exe)
		dirs = append(dirs, dir, filepath.Join(dir, "..", "lib"))
	}
	for _, dir := range append(dirs, libraryDirs...) {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: %w", name, syscall.ENOENT)
}

// escapePath writes a path as STACKFS_DEFAULT has it; msocket(3).
func escapePath(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if c := path[i]; c <= ' ' || c == ',' || c == '%' || c == 0x7f {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func getEnv(env []string, key string) string {
	value := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, key+"="); ok {
			value = v
		}
	}
	return value
}

func setEnv(env []string, key, value string) []string {
	out := make([]string, 0, len(env)+1)
	for _, e := range env {
		if !strings.HasPrefix(e, key+"=") {
			out = append(out, e)
		}
	}
	return append(out, key+"="+value)
}
