package uapi

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"unicode"
)

var update = flag.Bool("update", false, "write testdata/abi.golden as the C compiler sees the ABI")

const goldenFile = "testdata/abi.golden"

// mirrors are the structures of stackfs.h in Go, in the order of layout.c.
var mirrors = []struct {
	name string
	typ  reflect.Type
	size int // the constant of package uapi
}{
	{"stackfs_version", reflect.TypeFor[Version](), SizeVersion},
	{"stackfs_info", reflect.TypeFor[Info](), SizeInfo},
	{"stackfs_msocket", reflect.TypeFor[Msocket](), SizeMsocket},
	{"stackfs_run", reflect.TypeFor[Run](), SizeRun},
	{"stackfs_restore", reflect.TypeFor[Restore](), SizeRestore},
	{"stackfs_listen", reflect.TypeFor[Listen](), SizeListen},
	{"stackfs_clone", reflect.TypeFor[Clone](), SizeClone},
	{"stackfs_slot", reflect.TypeFor[Slot](), SizeSlot},
	{"stackfs_page", reflect.TypeFor[Page](), SizePage},
	{"stackfs_chan_req", reflect.TypeFor[ChanReq](), SizeChanReq},
	{"stackfs_chan_rep", reflect.TypeFor[ChanRep](), SizeChanRep},
}

// constants are those of stackfs.h, in the order of layout.c.
var constants = []struct {
	name  string
	value uint64
}{
	{"STACKFS_ABI_MAJOR", ABIMajor},
	{"STACKFS_ABI_MINOR", ABIMinor},
	{"STACKFS_FEATURE_CONNS", FeatureConns},
	{"STACKFS_FEATURE_FAST", FeatureFast},
	{"STACKFS_KIND_KERNEL", KindKernel},
	{"STACKFS_KIND_NETNS", KindNetns},
	{"STACKFS_KIND_NULL", KindNull},
	{"STACKFS_KIND_FAST", KindFast},
	{"STACKFS_INFO_SELF", InfoSelf},
	{"STACKFS_INFO_FOREIGN", InfoForeign},
	{"STACKFS_INFO_ETC", InfoEtc},
	{"STACKFS_MSOCKET_MAKE", MsocketMake},
	{"STACKFS_RESULT_SENT", ResultSent},
	{"STACKFS_RESULT_SELF", ResultSelf},
	{"STACKFS_CHAN_CLOSED", ChanClosed},
	{"STACKFS_BOX_MORE", BoxMore},
	{"STACKFS_PAGE_MAGIC", PageMagic},
	{"STACKFS_PAGE_VERSION", PageVersion},
	{"STACKFS_STEER_NONE", SteerNone},
	{"STACKFS_STEER_BALANCED", SteerBalanced},
	{"STACKFS_STEER_SKEWED", SteerSkewed},
	{"STACKFS_STEER_OFF", SteerOff},
	{"STACKFS_SLOT_TAGGED", SlotTagged},
	{"STACKFS_SLOT_PINNED", SlotPinned},
	{"STACKFS_RUN_DOMAIN", RunDomain},
	{"STACKFS_IOC_VERSION", IocVersion},
	{"STACKFS_IOC_INFO", IocInfo},
	{"STACKFS_IOC_MSOCKET", IocMsocket},
	{"STACKFS_IOC_RUN", IocRun},
	{"STACKFS_IOC_RESTORE", IocRestore},
	{"STACKFS_IOC_LISTEN", IocListen},
}

// goLayout is what layout.c prints, as the Go mirror has it.
func goLayout() string {
	var b strings.Builder
	for _, m := range mirrors {
		fmt.Fprintf(&b, "%s %d\n", m.name, m.typ.Size())
		for i := range m.typ.NumField() {
			if f := m.typ.Field(i); f.Name != "_" {
				fmt.Fprintf(&b, "%s.%s %d %d\n", m.name, cName(f.Name), f.Offset, f.Type.Size())
			}
		}
	}
	for _, c := range constants {
		// As C prints it: %#llx of 0 is 0.
		if c.value == 0 {
			fmt.Fprintf(&b, "%s 0\n", c.name)
		} else {
			fmt.Fprintf(&b, "%s %#x\n", c.name, c.value)
		}
	}
	return b.String()
}

// cName turns ReplyFD into reply_fd.
func cName(name string) string {
	var b strings.Builder
	lower := false
	for _, r := range name {
		if unicode.IsUpper(r) && lower {
			b.WriteByte('_')
		}
		lower = !unicode.IsUpper(r)
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// cLayout compiles layout.c with flags, runs it and returns what it prints.
func cLayout(t *testing.T, flags ...string) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		missing(t, "a C compiler: %v", err)
	}
	bin := filepath.Join(t.TempDir(), "layout")
	args := append([]string{"-Wall", "-Wextra", "-Werror", "-o", bin, "testdata/layout.c"}, flags...)
	if out, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
		if len(flags) > 0 && !compiles(t, cc, flags) {
			missing(t, "a C compiler for %v: %s", flags, out)
		}
		t.Fatalf("%s %v: %v\n%s", cc, args, err, out)
	}
	out, err := exec.Command(bin).Output()
	if err != nil {
		t.Fatalf("%s: %v", bin, err)
	}
	return string(out)
}

// compiles tells whether the compiler makes any program with flags.
func compiles(t *testing.T, cc string, flags []string) bool {
	t.Helper()
	cmd := exec.Command(cc, append([]string{"-x", "c", "-", "-o", filepath.Join(t.TempDir(), "empty")}, flags...)...)
	cmd.Stdin = strings.NewReader("#include <stdio.h>\nint main(void) { return puts(\"\") < 0; }\n")
	return cmd.Run() == nil
}

// missing skips the test, or ends it where nothing may be skipped.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("STACKFS_STRICT") == "1" {
		t.Fatalf("needs "+format, args...)
	}
	t.Skipf("needs "+format, args...)
}

func golden(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sameLines reports every line in which got differs from want.
func sameLines(t *testing.T, what, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var gl, wl string
		if i < len(g) {
			gl = g[i]
		}
		if i < len(w) {
			wl = w[i]
		}
		if gl != wl {
			t.Errorf("%s line %d: got %q, want %q", what, i+1, gl, wl)
		}
	}
}

func TestHeaderIsGolden(t *testing.T) {
	got := cLayout(t)
	if *update {
		if err := os.WriteFile(goldenFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sameLines(t, "stackfs.h", got, golden(t))
}

func TestHeaderIsGoldenOn32Bit(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "386" {
		t.Skip("-m32 is an option of x86 compilers")
	}
	sameLines(t, "stackfs.h with -m32", cLayout(t, "-m32"), golden(t))
}

func TestMirrorIsGolden(t *testing.T) {
	sameLines(t, "package uapi", goLayout(), golden(t))
	for _, m := range mirrors {
		if int(m.typ.Size()) != m.size {
			t.Errorf("%s: the constant of its size is %d, want %d", m.name, m.size, m.typ.Size())
		}
	}
}

// TestMirrorIsGoldenOn32Bit runs the test above as a 32-bit program.
func TestMirrorIsGoldenOn32Bit(t *testing.T) {
	if runtime.GOARCH != "amd64" || testing.Short() {
		t.Skip("needs amd64, and a moment to build")
	}
	cmd := exec.Command("go", "test", "-count=1", "-run=^TestMirrorIsGolden$", ".")
	cmd.Env = append(os.Environ(), "GOARCH=386", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("GOARCH=386: %v\n%s", err, out)
	}
}

// TestNothingIsHidden: a field follows right on the one before, so that
// neither compiler pads, and the last ends the structure.
func TestNothingIsHidden(t *testing.T) {
	for _, m := range mirrors {
		var end uintptr
		for i := range m.typ.NumField() {
			f := m.typ.Field(i)
			if f.Offset != end {
				t.Errorf("%s.%s begins at %d, want %d", m.name, f.Name, f.Offset, end)
			}
			end = f.Offset + f.Type.Size()
		}
		if end != m.typ.Size() {
			t.Errorf("%s ends at %d, want %d", m.name, m.typ.Size(), end)
		}
	}
}

// TestLayoutIsComplete finds what was added to stackfs.h and not to layout.c.
func TestLayoutIsComplete(t *testing.T) {
	header, err := os.ReadFile("stackfs.h")
	if err != nil {
		t.Fatal(err)
	}
	lines := golden(t)
	has := func(name string) {
		if !strings.Contains("\n"+lines, "\n"+name+" ") {
			t.Errorf("%s is not in %s", name, goldenFile)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^#define[ \t]+(STACKFS_\w+)`).FindAllSubmatch(header, -1) {
		has(string(m[1]))
	}
	structs := regexp.MustCompile(`(?ms)^struct (\w+) \{\n(.*?)^\};`).FindAllSubmatch(header, -1)
	if len(structs) != len(mirrors) {
		t.Errorf("stackfs.h has %d structures, the mirror %d", len(structs), len(mirrors))
	}
	comment := regexp.MustCompile(`(?s)/\*.*?\*/`)
	field := regexp.MustCompile(`(?m)^\t(?:__u32|__s32|__aligned_u64|char) (\w+)(?:\[\d+\])?;`)
	for _, s := range structs {
		has(string(s[1]))
		body := comment.ReplaceAll(s[2], nil)
		fields := field.FindAllSubmatch(body, -1)
		for _, f := range fields {
			has(string(s[1]) + "." + string(f[1]))
		}
		if n := strings.Count(string(body), ";"); n != len(fields) {
			t.Errorf("struct %s has a field of another type than the ABI allows", s[1])
		}
	}
}

// TestCommandsCarryTheirStructure: the size within a command is what FUSE
// copies in and out.
func TestCommandsCarryTheirStructure(t *testing.T) {
	const readWrite = 3
	for name, c := range map[string]struct{ cmd, nr, size uint32 }{
		"STACKFS_IOC_VERSION": {IocVersion, 0xc0, SizeVersion},
		"STACKFS_IOC_INFO":    {IocInfo, 0xc1, SizeInfo},
		"STACKFS_IOC_MSOCKET": {IocMsocket, 0xc2, SizeMsocket},
		"STACKFS_IOC_RUN":     {IocRun, 0xc3, SizeRun},
		"STACKFS_IOC_RESTORE": {IocRestore, 0xc4, SizeRestore},
		"STACKFS_IOC_LISTEN":  {IocListen, 0xc5, SizeListen},
	} {
		if want := uint32(readWrite)<<30 | c.size<<16 | 'S'<<8 | c.nr; c.cmd != want {
			t.Errorf("%s: got %#x, want %#x", name, c.cmd, want)
		}
	}
}
