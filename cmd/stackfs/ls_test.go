package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stackfs/stackfs/stacknode"
)

const labStatus = `name: lab
kind: netns
state: up
origin: config
families: inet,inet6,netlink,packet
mode: 0700
owner: 0
namespace: name blue
netns: 4026532281
netns_cookie: 18446744073709551615
foreign: false
sockets: 12
netns: net:[4026532281]
later: 007
`

func TestLs(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	c.stack(dir, "lab", "netns", labStatus)
	c.stack(dir, "x", "null", "state: draining\n")
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o755); err != nil {
		t.Fatal(err) // a directory of the one mounted over
	}
	c.expect(exitOK, "", "stackfs", "ls", dir)
	lines := strings.Split(c.stdout.String(), "\n")
	owner := (&stackInfo{uid: uint32(os.Getuid()), gid: uint32(os.Getgid())})
	want := [][]string{
		{"NAME", "KIND", "STATE", "MODE", "OWNER", "GROUP", "NETNS", "SOCKETS"},
		{"lab", "netns", "up", "0750", owner.owner(), owner.group(), "blue", "12"},
		{"x", "null", "draining", "0750", owner.owner(), owner.group(), "-", "-"},
		nil,
	}
	for i, line := range lines {
		if got := strings.Fields(line); i >= len(want) || !(len(got) == 0 && want[i] == nil || reflect.DeepEqual(got, want[i])) {
			t.Errorf("line %d: got %q, want %q", i, got, want[min(i, len(want)-1)])
		}
	}
	if a, b := strings.Index(lines[0], "KIND"), strings.Index(lines[2], "null"); a != b {
		t.Errorf("columns are not aligned:\n%s", &c.stdout)
	}
}

func TestLsOfOneStack(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	c.stack(dir, "lab", "netns", labStatus)
	c.stack(dir, "x", "null", "")
	c.expect(exitOK, "lab ", "stackfs", "ls", dir+"/lab/")
	if got := strings.Count(c.stdout.String(), "\n"); got != 2 {
		t.Errorf("got %d lines, want 2:\n%s", got, &c.stdout)
	}
}

func TestLsOfSeveralMountsHasPaths(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	one, two := c.mount(), c.mount()
	c.stack(one, "lab", "netns", labStatus)
	c.stack(two, "lab", "netns", labStatus)
	c.expect(exitOK, one+"/lab", "stackfs", "ls")
	c.expect(exitOK, two+"/lab", "stackfs", "ls")
	c.expect(exitFailed, one+", "+two, "stackfs", "status", "lab")
	c.expect(exitOK, two+"/lab", "stackfs", "status", two+"/lab")
	c.expect(exitRunFailed, "there are several stackfs mounts", "stackfs", "run", "lab", "true")
}

func TestJSONHasStableTypes(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	c.stack(dir, "lab", "netns", labStatus)
	c.expect(exitOK, `"netns_cookie": 18446744073709551615`, "stackfs", "status", "--json", dir+"/lab")
	var got []map[string]any
	if err := json.Unmarshal(c.stdout.Bytes(), &got); err != nil || len(got) != 1 {
		t.Fatalf("got %v, %v, want one stack", got, err)
	}
	for key, want := range map[string]any{
		"name": "lab", "path": dir + "/lab", "mount": dir, "accessible": true, "mode": "0750",
		"families": []any{"inet", "inet6", "netlink", "packet"}, "namespace": "name blue",
		"netns": 4026532281.0, "sockets": 12.0, "foreign": false, "later": "007", "uid": float64(os.Getuid()),
	} {
		if !reflect.DeepEqual(got[0][key], want) {
			t.Errorf("%s: got %v, want %v", key, got[0][key], want)
		}
	}
	c.run("stackfs", "ls", "--json", dir)
	var list []map[string]any
	if err := json.Unmarshal(c.stdout.Bytes(), &list); err != nil || !reflect.DeepEqual(list, got) {
		t.Errorf("ls --json: got %v, %v, want what status gives", list, err)
	}
	empty := c.mount()
	c.expect(exitOK, "[]\n", "stackfs", "ls", "--json", empty)
}

func TestStatusShowsUnknownKeys(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	c.stack(dir, "lab", "netns", labStatus+"a b: c: d\n")
	c.expect(exitOK, dir+"/lab\n", "stackfs", "status", "lab")
	if got := c.stdout.String(); !strings.Contains(got, "  a b:           c: d\n") {
		t.Errorf("got %s, want the unknown key with its value in the column", got)
	}
}

func TestStackWithoutAccessIsListed(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	s := &stackInfo{dir: "/dev/net", name: "lab", mode: 0o700, uid: 4000000000, gid: 4000000001}
	var out strings.Builder
	if err := writeTable(&out, c.lsRows([]*stackInfo{s})); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Fields(strings.Split(out.String(), "\n")[1]), []string{"lab", "-", "-", "0700", "4000000000", "4000000001", "-"}; !reflect.DeepEqual(got, want) {
		t.Errorf("ls: got %q, want %q", got, want)
	}
	out.Reset()
	if err := c.writeStatus(&out, []*stackInfo{s}); err != nil || !strings.Contains(out.String(), "you may not enter this stack") {
		t.Errorf("status: got %q, %v, want a note", out.String(), err)
	}
	if got := jsonStack(s)["accessible"]; got != false {
		t.Errorf("accessible: got %v, want false", got)
	}
}

func TestColourOnlyOnATerminal(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.stack(c.mount(), "lab", "netns", labStatus)
	c.isTerminal = func(w io.Writer) bool { return w == c.env.stdout }
	for _, test := range []struct {
		name, value string
		want        bool
	}{{"TERM", "xterm", true}, {"NO_COLOR", "1", false}, {"TERM", "dumb", false}} {
		c.vars = map[string]string{test.name: test.value}
		c.run("stackfs", "ls")
		if got := strings.Contains(c.stdout.String(), "\x1b[32mup\x1b[0m"); got != test.want {
			t.Errorf("%s=%s: coloured %v, want %v: %q", test.name, test.value, got, test.want, c.stdout.String())
		}
	}
}

func TestMountsAreFoundThroughLinks(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if m, err := c.mountAt(link); err != nil || m.dir != dir {
		t.Errorf("got %v, %v, want %s", m, err, dir)
	}
	if m, name, err := c.stackIn(link + "/lab"); err != nil || m.dir != dir || name != "lab" {
		t.Errorf("got %v, %s, %v, want lab in %s", m, name, err, dir)
	}
}

func TestMountinfo(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	text := `22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:40 / /dev/net rw,nosuid shared:9 master:2 - fuse.stackfs stackfs rw
31 22 0:41 / /a\040b\134c rw - fuse.stackfs stackfs rw
32 22 0:40 /lab /srv/lab rw - fuse.stackfs stackfs rw
33 30 0:42 / /dev/net rw - fuse.stackfs stackfs rw
34 22 0:43 / /x rw - fuse.other other rw
garbage
35 22 0:44 / - fuse.stackfs
`
	if err := os.WriteFile(c.mountinfo, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := c.env.mounts()
	want := []mountPoint{{31, `/a b\c`}, {33, "/dev/net"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestParseStatus(t *testing.T) {
	t.Parallel()
	got := parseStatus("a: b\n\n c:\nnonsense\n")
	want := []stacknode.Line{{Key: "a", Value: "b"}, {Key: "c"}, {Value: "nonsense"}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
