package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// labConns is a table as the daemon writes it.
const labConns = `# cookie state family recv-q send-q local remote uid inode
4097 established inet 0 3 192.0.2.1:80 192.0.2.2:4711 4000000000 12345
4098 syn-sent inet6 0 0 [2001:db8::1]:4000 [2001:db8::2]:80 0 12346
- time-wait inet6 0 0 [::ffff:192.0.2.1]:80 [::ffff:192.0.3.9]:5000 0 0
4100 close-wait inet6 1 22 [::ffff:192.0.2.1]:8080 [::ffff:192.0.3.9]:80 7 12348
4101 fin-wait-2 inet6 0 0 [fe80::1%eth0]:81 [fe80::2%eth0]:82 0 0
4102 new-syn-recv inet 0 0 192.0.2.1:80 192.0.2.3:4712 0 0
77 listen inet6 0 128 [::]:80 - 0 12350
78 bound-inactive inet 0 0 0.0.0.0:9 - 0 12351 later
`

// conns makes a stack with the files of two of its sockets.
func (c *cli) conns(dir, name, table string) string {
	c.t.Helper()
	c.stack(dir, name, "netns", "state: up\n")
	node := filepath.Join(dir, name)
	for file, text := range map[string]string{
		"connections":         table,
		"conns/4097/status":   "state: established\nowner: 71 server\nrtt: 42us\n",
		"conns/4097/info":     `{"cookie": 4097, "state": "established"}`,
		"conns/4097/local":    "192.0.2.1:80\n",
		"listeners/77/status": "local: [::]:80\nbacklog: 128\n",
		"listeners/77/info":   `{"local": "[::]:80", "backlog": 128}`,
	} {
		path := filepath.Join(node, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
	return node
}

// process makes a process that holds sockets.
func (c *cli) process(pid int, command string, inodes ...int) {
	c.t.Helper()
	dir := filepath.Join(c.proc, fmt.Sprint(pid))
	if err := os.MkdirAll(dir+"/fd", 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/comm", []byte(command+"\n"), 0o644); err != nil {
		c.t.Fatal(err)
	}
	links := []string{"/dev/null", "pipe:[12345]"}
	for _, inode := range inodes {
		links = append(links, fmt.Sprintf("socket:[%d]", inode))
	}
	for i, link := range links {
		if err := os.Symlink(link, fmt.Sprintf("%s/fd/%d", dir, i)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func TestConnsTable(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.conns(c.mount(), "lab", labConns)
	c.process(71, "server", 12345, 12345, 12348)
	c.process(9, "dup \x1b[2J", 12348)
	c.expect(exitOK, "", "stackfs", "conns", "-p", "lab")
	const want = `STATE        RECV-Q  SEND-Q  LOCAL                    REMOTE                  USER        COOKIE  PROCESSES
established  0       3       192.0.2.1:80             192.0.2.2:4711          4000000000  4097    71/server
syn-sent     0       0       [2001:db8::1]:4000       [2001:db8::2]:80        root        4098    -
close-wait   1       22      [::ffff:192.0.2.1]:8080  [::ffff:192.0.3.9]:80   daemon      4100    9/dup ?[2J,71/server
fin-wait-2   0       0       [fe80::1%eth0]:81        [fe80::2%eth0]:82       root        4101    -
bound-inactive  0    0       0.0.0.0:9                -                       root        78      -
`
	got := c.stdout.String()
	for i, line := range strings.Split(want, "\n") {
		lines := strings.Split(got, "\n")
		if i >= len(lines) || !slices.Equal(strings.Fields(lines[i]), strings.Fields(strings.ReplaceAll(line, "daemon", (&stackInfo{uid: 7}).owner()))) {
			t.Fatalf("line %d is not as wanted:\n%s", i, got)
		}
	}
	header, first, _ := strings.Cut(got, "\n")
	if a, b := strings.Index(header, "PROCESSES"), strings.Index(first, "71/server"); a != b {
		t.Errorf("columns are not aligned:\n%s", got)
	}
	c.expect(exitOK, "", "stackfs", "conns", "--no-header", "--state", "listen", "-n", "lab")
	if got, want := c.stdout.String(), "listen  0  128  [::]:80  -  0  77\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestConnsFilters(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.conns(c.mount(), "lab", labConns)
	c.process(71, "server", 12345, 12350)
	for args, want := range map[string]string{
		"":                                 "4097 4098 4100 4101 78",
		"-l":                               "77",
		"-a":                               "4097 4098 - 4100 4101 4102 77 78",
		"-l --state established":           "4097",
		"--state ESTAB,fin-wait2":          "4097 4101",
		"--state estab --state close-wait": "4097 4100",
		"--state bucket":                   "- 4102",
		"--state synchronized -6":          "- 4100 4101",
		"--state big -4":                   "4097 78",
		"-a -4 -6":                         "4097 4098 - 4100 4101 4102 77 78",
		"--state all --port 80":            "4097 4098 - 4100 4102 77",
		"-a --sport 80":                    "4097 - 4102 77",
		"-a --dport 80":                    "4098 4100",
		"-a --local 192.0.2.1":             "4097 - 4100 4102",
		"-a --local 192.0.2.1:80":          "4097 - 4102",
		"-a --local ::ffff:192.0.2.1":      "4097 - 4100 4102",
		"-a --local :80":                   "4097 - 4102 77",
		"-a --local *:80":                  "4097 - 4102 77",
		"-a --remote 192.0.2.0/24":         "4097 4102",
		"-a --remote 192.0.2.0/23:5000":    "-",
		"-a --remote [2001:db8::]/32":      "4098",
		"-a --remote [2001:db8::/32]:80":   "4098",
		"-a --remote [2001:db8::2]:80":     "4098",
		"-a --remote [2001:db8::2]:81":     "",
		"-a --remote fe80::/10":            "4101",
		"-a --local fe80::1%lo":            "4101",
		"--user 4000000000":                "4097",
		"--user alice":                     "",
		"-a --pid 71":                      "4097 77",
	} {
		c.expect(exitOK, "", append([]string{"stackfs", "conns", "--no-header"}, append(strings.Fields(args), "lab")...)...)
		var got []string
		for line := range strings.Lines(c.stdout.String()) {
			got = append(got, strings.Fields(line)[connColumns-1])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: got %q, want %q", args, strings.Join(got, " "), want)
		}
	}
}

func TestConnsMistakes(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	node := c.conns(dir, "lab", labConns)
	c.stack(dir, "null", "null", "")
	c.conns(dir, "bad", "# cookie\n4097 established inet\n")
	for _, test := range []struct {
		line string
		code int
		text string
	}{
		{"stackfs conns", exitUsage, "STACK is missing (stackfs conns --help shows how)"},
		{"stackfs conns --state up lab", exitUsage, `--state: unknown state "up" (there are all, big`},
		{"stackfs conns --state establishd lab", exitUsage, `(did you mean "established"?)`},
		{"stackfs conns --local 192.0.2 lab", exitUsage, `--local: "192.0.2" is no address, prefix or :port`},
		{"stackfs conns --local= lab", exitUsage, "--local: is empty"},
		{"stackfs conns --remote 192.0.2.1:x lab", exitUsage, `--remote: "192.0.2.1:x": "x" is no port`},
		{"stackfs conns --remote 192.0.2.1:0 lab", exitUsage, `"0" is no port`},
		{"stackfs conns --port 0 lab", exitUsage, "--port: 0 is no port"},
		{"stackfs conns --port http lab", exitUsage, "invalid argument"},
		{"stackfs conns --user bob lab", exitUsage, `--user: no user "bob"`},
		{"stackfs conns --pid -1 lab", exitUsage, "--pid: -1 is no process id"},
		{"stackfs conns --pid 12 lab", exitNotFound, "process 12: there is none of that number"},
		{"stackfs conns lab x", exitFailed, `"x" is no number of a connection (the column COOKIE`},
		{"stackfs conns lab 007", exitFailed, `"007" is no number`},
		{"stackfs conns lab 5", exitNotFound, "conn 5: no such connection (stackfs conns -a " + node + " shows"},
		{"stackfs conns -j lab 5", exitNotFound, "conn 5: no such connection"},
		{"stackfs conns " + node + "/conns/5", exitNotFound, "conn 5: no such connection"},
		{"stackfs conns " + dir + "/null", exitFailed, "the stack has no files of its connections"},
		{"stackfs conns null 5", exitFailed, "the stack has no files of its connections"},
		{"stackfs conns nope", exitNotFound, dir + "/nope: no such stack (stackfs ls " + dir},
		{"stackfs conns bad", exitFailed, `connections: line 2 is "4097 established inet", which is no connection`},
	} {
		c.expect(test.code, test.text, strings.Fields(test.line)...)
	}
}

func TestConnDetails(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	node := c.conns(c.mount(), "lab", labConns)
	const want = "/conns/4097\n  state:  established\n  owner:  71 server\n  rtt:    42us\n"
	c.expect(exitOK, node+want, "stackfs", "conns", "lab", "4097")
	c.expect(exitOK, node+want, "stackfs", "conns", node+"/conns/4097/")
	c.expect(exitOK, node+want+"\n"+node+"/listeners/77\n  local:    [::]:80\n", "stackfs", "conns", "lab", "4097", "77")
	c.expect(exitOK, node+"/listeners/77\n", "stackfs", "conns", node+"/listeners/77")
	c.expect(exitOK, "", "stackfs", "conns", "-j", "lab", "4097", "77")
	var got []map[string]any
	err := json.Unmarshal(c.stdout.Bytes(), &got)
	if err != nil || len(got) != 2 || got[0]["cookie"] != 4097.0 || got[1]["backlog"] != 128.0 {
		t.Errorf("got %v, %v, want what the files info have", got, err)
	}
}

func TestConnsJSON(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	c.conns(dir, "lab", labConns)
	c.conns(dir, "none", "# cookie\n")
	c.process(71, `a"b`, 12345)
	c.expect(exitOK, "", "stackfs", "conns", "-apj", "lab")
	var got []map[string]any
	if err := json.Unmarshal(c.stdout.Bytes(), &got); err != nil || len(got) != 8 {
		t.Fatalf("got %v, %v, want eight objects", got, err)
	}
	if want := (map[string]any{
		"cookie": 4097.0, "state": "established", "family": "inet", "recv_q": 0.0, "send_q": 3.0, "local": "192.0.2.1:80",
		"remote": "192.0.2.2:4711", "uid": 4e9, "user": "4000000000", "inode": 12345.0,
		"processes": []any{map[string]any{"pid": 71.0, "command": `a"b`}},
	}); !reflect.DeepEqual(got[0], want) {
		t.Errorf("got %v, want %v", got[0], want)
	}
	if got[2]["cookie"] != nil || got[6]["remote"] != nil || len(got[6]["processes"].([]any)) != 0 {
		t.Errorf("got %v and %v, want null for what there is not", got[2], got[6])
	}
	c.expect(exitOK, "[]\n", "stackfs", "conns", "--json", "none")
}

func TestConnsOnATerminalAreColoured(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.conns(c.mount(), "lab", labConns)
	c.isTerminal = func(io.Writer) bool { return true }
	c.vars = map[string]string{"TERM": "xterm"}
	c.expect(exitOK, "\x1b[32mestablished\x1b[0m     0 ", "stackfs", "conns", "-a", "lab")
	c.expect(exitOK, "\x1b[33mclose-wait\x1b[0m      1 ", "stackfs", "conns", "-a", "lab")
	c.expect(exitOK, "\ntime-wait       0 ", "stackfs", "conns", "-a", "lab")
}

func TestConnectionsAreCompleted(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.conns(c.mount(), "lab", labConns)
	const (
		first = "4097\t192.0.2.1:80 192.0.2.2:4711 established\n"
		rest  = "4098\t[2001:db8::1]:4000 [2001:db8::2]:80 syn-sent\n" +
			"4100\t[::ffff:192.0.2.1]:8080 [::ffff:192.0.3.9]:80 close-wait\n" +
			"4101\t[fe80::1%eth0]:81 [fe80::2%eth0]:82 fin-wait-2\n" +
			"4102\t192.0.2.1:80 192.0.2.3:4712 new-syn-recv\n"
	)
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{"conns", "la"}, "lab\n:4\n"},
		{[]string{"conns", "lab", "4"}, first + rest + ":4\n"},
		{[]string{"conns", "lab", "4097", "4"}, rest + ":4\n"},
		{[]string{"conns", "lab", "77"}, ":4\n"},
		{[]string{"conns", "nope", "4"}, ":4\n"},
		{[]string{"conns", "--state", ""}, strings.Join(stateNames(), "\n") + "\n:4\n"},
	} {
		c.run(append([]string{"stackfs", "__complete"}, test.words...)...)
		if got := c.stdout.String(); got != test.want {
			t.Errorf("%q: got %q, want %q", test.words, got, test.want)
		}
	}
}

// BenchmarkConnsTable lists 50,000 connections.
func BenchmarkConnsTable(b *testing.B) {
	var text strings.Builder
	for i := range 50000 {
		fmt.Fprintf(&text, "%d established inet 0 0 10.0.%d.%d:%d 192.0.2.1:80 0 %d\n", 4097+i, i>>8, i&255, 1024+i%60000, 100000+i)
	}
	for b.Loop() {
		rows, err := parseConns(text.String())
		if err != nil {
			b.Fatal(err)
		}
		if err := newConnPrinter(io.Discard, painter{}).table((&connFilter{states: stConns}).apply(rows)); err != nil {
			b.Fatal(err)
		}
	}
}
