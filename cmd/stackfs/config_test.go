package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/stackfs/stackfs/stacknode"
)

func TestEmptyConfigurationIsTheDefault(t *testing.T) {
	t.Parallel()
	got, err := parseConfig("f", nil, testUsers{})
	want := &config{
		Builtin: []stacknode.Spec{
			{Name: "kernel", Kind: stacknode.KindKernel, Mode: 0o755},
			{Name: "fast", Kind: stacknode.KindFast, Mode: 0o755, Fast: stacknode.FastSpec{Spawn: 2}},
			{Name: "null", Kind: stacknode.KindNull, Mode: 0o755},
		},
		Checkpoint: engineAuto,
		StateDir:   "/var/lib/stackfs",
		Discover:   true,
		DiscoverAs: access{Mode: 0o700},
	}
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestErrorOfAStackSaysWhereItIs(t *testing.T) {
	t.Parallel()
	cfg, err := parseConfig("f", []byte("\n[stack.lab]\nmode = \"0700\"\nnetns = \"gone\"\n"), testUsers{})
	if err != nil {
		t.Fatal(err)
	}
	err = cfg.locate(cfg.Stacks[0], syscall.ENOENT)
	if want := "f:4: stack.lab.netns: no such file or directory"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestConfigurationBecomesSpecs(t *testing.T) {
	t.Parallel()
	const text = `
discover = false
discover_mode = "0750"
discover_owner = "alice"
discover_group = 100
checkpoint = "repair"
state_dir = "/srv/stackfs"

[stack.zoo]                       # a namespace of its own, all defaults

[stack.lab]
mode = "0750"
owner = "1000"
group = "net"
addresses = ["10.9.0.2/24", "fd00::2/64"]
routes = ["default via 10.9.0.1", "default via fd00::1", "10.8.0.0/16 via 10.9.0.3 dev eth1", "fd01::/16 dev lo", "10.7.0.1"]
lo = false
mptcp = false
resolv_conf = """
nameserver 10.9.0.1
"""
sysctl = { net.ipv4.ip_forward = 1, "net/ipv4/ping_group_range" = "0 100" }
grant = [{ users = ["alice", 7], allow = ["raw"] }]
[[stack.other.grant]]
groups = ["wheel"]
allow = ["packet", "raw", "checkpoint"]
[stack.lab.uplink]
type = "veth"
name = "eth1"
peer = "lab0"
peer_addresses = ["10.9.0.1/24"]
mac = "02:00:00:00:00:01"
mtu = 9000

[stack.blue]
netns = "blue"
connections = "own"
restore_from = ["lab", "later"]
[stack.pid]
pid = 71
[stack.path]
path = "/proc/71/ns/net"
resolv_conf = "/etc/lab.conf"
[stack.mv]
create = true
uplink = { type = "macvlan", parent = "eth0" }
[stack.host]
backend = "kernel"
connections = "all"

[stack.fast]
spawn = 1
mptcp = true
tag_opened = true
migrate_sysctl = true

[stack.kernel]
foreign = true
connections = "off"
restore_from = ["lab"]
mode = "0711"
grant = [{ users = ["alice"], allow = ["packet"] }]
[stack.null]
group = "net"
`
	got, err := parseConfig("f", []byte(text), testUsers{})
	if err != nil {
		t.Fatal(err)
	}
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	want := &config{
		Checkpoint: engineRepair,
		StateDir:   "/srv/stackfs",
		DiscoverAs: access{Mode: 0o750, UID: 1000, GID: 100},
		Builtin: []stacknode.Spec{
			{Name: "kernel", Kind: "kernel", Mode: 0o711, Foreign: true, Grants: []stacknode.Grant{{UIDs: []uint32{1000}, Packet: true}},
				Conns: stacknode.ConnsSpec{Visible: stacknode.VisibleOff, RestoreFrom: []string{"lab"}}},
			{Name: "fast", Kind: "fast", Mode: 0o755, Fast: stacknode.FastSpec{Spawn: 1, MPTCP: true, TagOpened: true, MigrateSysctl: true}},
			{Name: "null", Kind: "null", Mode: 0o755, GID: 100},
		},
		Stacks: []stacknode.Spec{
			{Name: "blue", Kind: "netns", Mode: 0o700, Netns: stacknode.NetnsSpec{Name: "blue"},
				Conns: stacknode.ConnsSpec{Visible: stacknode.VisibleOwn, RestoreFrom: []string{"lab", "later"}}},
			{Name: "host", Kind: "kernel", Mode: 0o700},
			{
				Name: "lab", Kind: "netns", Mode: 0o750, UID: 1000, GID: 100,
				Grants: []stacknode.Grant{{UIDs: []uint32{1000, 7}, Raw: true}},
				Netns: stacknode.NetnsSpec{
					Addresses: []netip.Prefix{p("10.9.0.2/24"), p("fd00::2/64")},
					Routes: []stacknode.Route{
						{To: p("0.0.0.0/0"), Via: a("10.9.0.1")},
						{To: p("::/0"), Via: a("fd00::1")},
						{To: p("10.8.0.0/16"), Via: a("10.9.0.3"), Dev: "eth1"},
						{To: p("fd01::/16"), Dev: "lo"},
						{To: p("10.7.0.1/32")},
					},
					LoDown: true, NoMPTCP: true,
					ResolvConf: "nameserver 10.9.0.1\n",
					Sysctl:     map[string]string{"net.ipv4.ip_forward": "1", "net/ipv4/ping_group_range": "0 100"},
					Uplink: &stacknode.Uplink{
						Type: "veth", Name: "eth1", Peer: "lab0", MAC: "02:00:00:00:00:01", MTU: 9000,
						PeerAddresses: []netip.Prefix{p("10.9.0.1/24")},
					},
				},
			},
			{
				Name: "mv", Kind: "netns", Mode: 0o700,
				Netns: stacknode.NetnsSpec{Uplink: &stacknode.Uplink{Type: "macvlan", Name: "eth0", Parent: "eth0"}},
			},
			{Name: "other", Kind: "netns", Mode: 0o700, Grants: []stacknode.Grant{{GIDs: []uint32{10}, Packet: true, Raw: true, Checkpoint: true}}},
			{Name: "path", Kind: "netns", Mode: 0o700, Netns: stacknode.NetnsSpec{Path: "/proc/71/ns/net", ResolvConf: "/etc/lab.conf"}},
			{Name: "pid", Kind: "netns", Mode: 0o700, Netns: stacknode.NetnsSpec{PID: 71}},
			{Name: "zoo", Kind: "netns", Mode: 0o700},
		},
	}
	for i := range want.Stacks {
		if i >= len(got.Stacks) || !reflect.DeepEqual(got.Stacks[i], want.Stacks[i]) {
			t.Errorf("stack %s:\n got %+v\nwant %+v", want.Stacks[i].Name, got.Stacks[i], want.Stacks[i])
		}
	}
	got.Stacks, want.Stacks = nil, nil
	got.where = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestMistakesInAConfigurationAreNamed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ text, want string }{
		// Syntax, of which package toml knows the line.
		{"discover = \n", "f:1: "},
		{"[stack.a]\n\n[stack.a]\n", "f:3: Key 'stack.a' has already been defined."},
		{"[stack.a]\nlo = true\nlo = true\n", "f:3: Key 'stack.a.lo' has already been defined."},
		{"[stack.a]\nmode = 0750\n", "f:2: "},
		// Keys.
		{"discovery = true", `f:1: discovery: unknown key (did you mean "discover"?)`},
		{"Discover = true", `f:1: Discover: unknown key (did you mean "discover"?)`},
		{"[stack.lab]\n\nadresses = []", `f:3: stack.lab.adresses: unknown key (did you mean "addresses"?)`},
		{"[stack.lab]\nzzzzzzzz = []", `f:2: stack.lab.zzzzzzzz: unknown key (there are addresses, backend, `},
		{"stack.\"a b\".frob = 1", `f:1: stack."a b".frob: unknown key`},
		{"[stack.a]\nuplink = { type = \"veth\",\n  brige = 1 }", `f:3: stack.a.uplink.brige: unknown key (did you mean "bridge"?)`},
		{"[[stack.a.grant]]\nusers = [1]\nallow = [\"raw\"]\n[[stack.a.grant]]\nuser = [1]", `f:5: stack.a.grant[1].user: unknown key (did you mean "users"?)`},
		// Types.
		{"discover = \"yes\"", "f:1: discover: is a string, want a boolean"},
		{"stack = 1", "f:1: stack: is an integer, want a table"},
		{"[[stack]]", "f:1: stack: is an array, want a table"},
		{"[stack]\nlab = 3", "f:2: stack.lab: is an integer, want a table"},
		{"[stack.lab]\nmode = 750", "f:2: stack.lab.mode: is an integer, want a string"},
		{"[stack.lab]\naddresses = \"10.0.0.1/8\"", "f:2: stack.lab.addresses: is a string, want an array"},
		{"[stack.lab]\naddresses = [\n\"10.0.0.1/8\",\n 3 ]", "f:4: stack.lab.addresses[1]: is an integer, want a string"},
		{"[stack.lab]\nowner = true", "f:2: stack.lab.owner: is a boolean, want a name or a number"},
		{"[stack.lab]\nsysctl = 1", "f:2: stack.lab.sysctl: is an integer, want a table"},
		{"[stack.lab.sysctl]\nnet.ipv4.x = 1.5", `f:1: stack.lab.sysctl: "net.ipv4.x" is a float, want a string or an integer`},
		// Names and backends.
		{"[stack.ctl]", "f:1: stack.ctl: the name \"ctl\" has a meaning of its own"},
		{"[stack.'a/b']", `f:1: stack."a/b": the name "a/b" has a slash`},
		{"[stack.fast]\nlo = true", `f:2: stack.fast.lo: a stack of backend "fast" has no such key`},
		{"[stack.fast]\nspawn = 3", `f:2: stack.fast.spawn: 3 is no mode: 0 (off), 1 (workers that are bound to a CPU), 2 (workers are bound)`},
		{"[stack.fast]\nbackend = \"kernel\"", `f:2: stack.fast.backend: the stack fast is always of backend "fast"`},
		{"[stack.a]\nspawn = 1", `f:2: stack.a.spawn: a stack of backend "netns" has no such key`},
		{"[stack.a]\nbackend = \"nets\"", `f:2: stack.a.backend: unknown backend "nets" (did you mean "netns"?)`},
		{"[stack.null]\nbackend = \"netns\"", `f:2: stack.null.backend: the stack null is always of backend "null"`},
		{"[stack.kernel]\nlo = true", `f:2: stack.kernel.lo: a stack of backend "kernel" has no such key`},
		{"[stack.null]\nforeign = true", `f:2: stack.null.foreign: a stack of backend "null" has no such key`},
		{"[stack.a]\nforeign = true", `f:2: stack.a.foreign: a stack of backend "netns" has no such key`},
		// Access and grants.
		{"discover_mode = \"0888\"", `f:1: discover_mode: is "0888", want octal permission bits as "0750"`},
		{"[stack.a]\nmode = \"4755\"", `f:2: stack.a.mode: is "4755", want`},
		{"[stack.a]\nowner = \"bob\"", `f:2: stack.a.owner: no user "bob"`},
		{"[stack.a]\ngroup = -1", "f:2: stack.a.group: -1 is no number of a user or group"},
		{"[stack.a]\ngroup = 4294967295", `f:2: stack.a.group: no group "4294967295"`},
		{"[[stack.a.grant]]\nallow = [\"raw\"]", "f:1: stack.a.grant[0]: is for nobody"},
		{"[[stack.a.grant]]\nusers = [1]", "f:1: stack.a.grant[0]: gives nothing"},
		{"[[stack.a.grant]]\nusers = [1]\nallow = [\"rw\"]", `f:3: stack.a.grant[0].allow[0]: unknown right "rw"`},
		// Connections.
		{"checkpoint = \"bfp\"", `f:1: checkpoint: unknown value "bfp" (did you mean "bpf"?)`},
		{"checkpoint = \"\"", `f:1: checkpoint: unknown value "" (there are auto, bpf, off, repair)`},
		{"checkpoint = true", "f:1: checkpoint: is a boolean, want a string"},
		{"state_dir = \"state\"", `f:1: state_dir: "state" is not an absolute path`},
		{"[stack.a]\nconnections = \"none\"", `f:2: stack.a.connections: unknown value "none" (there are all, off, own)`},
		{"[stack.a]\nrestore_from = \"b\"", "f:2: stack.a.restore_from: is a string, want an array"},
		{"[stack.a]\nrestore_from = [\"b\",\n\"../c\"]", `f:3: stack.a.restore_from[1]: the name "../c" has a slash`},
		{"[stack.a]\nrestore_from = [\"tun\"]", `f:2: stack.a.restore_from[0]: the name "tun" has a meaning of its own`},
		{"[stack.a]\nrestore_from = [\"a\"]", "f:2: stack.a.restore_from[0]: is the stack itself"},
		{"[stack.a]\nrestore_from = [\"null\"]", "f:2: stack.a.restore_from[0]: the stack null has no connections"},
		{"[stack.a]\nrestore_from = [\"b\", \"b\"]", "f:2: stack.a.restore_from[1]: b is there twice"},
		{"[stack.null]\nconnections = \"all\"", `f:2: stack.null.connections: a stack of backend "null" has no such key`},
		{"[stack.null]\nrestore_from = [\"a\"]", `f:2: stack.null.restore_from: a stack of backend "null" has no such key`},
		// Namespaces.
		{"[stack.a]\nnetns = \"x\"\npid = 3", "f:3: stack.a.pid: conflicts with netns: a stack is one namespace"},
		{"[stack.a]\nnetns = \"x\"\ncreate = true", "f:3: stack.a.create: conflicts with netns"},
		{"[stack.a]\ncreate = false", "f:2: stack.a.create: is false, but none of netns, pid and path"},
		{"[stack.a]\nnetns = \"../x\"", `f:2: stack.a.netns: "../x" is no name of a namespace`},
		{"[stack.a]\npid = 0", "f:2: stack.a.pid: 0 is no process id"},
		{"[stack.a]\npath = \"x\"", `f:2: stack.a.path: "x" is not an absolute path`},
		{"[stack.a]\nresolv_conf = \"x\"", `f:2: stack.a.resolv_conf: "x" is neither the absolute path`},
		{"[stack.a]\nlo = false\naddresses = [\"10.0.0.1/8\"]", "f:3: stack.a.addresses: without an uplink they are set on lo"},
		{"[stack.a]\naddresses = [\"10.0.0.1\"]", `f:2: stack.a.addresses[0]: "10.0.0.1" has no prefix length (10.0.0.1/32`},
		{"[stack.a]\naddresses = [\"10.0.0.0.1/8\"]", `f:2: stack.a.addresses[0]: "10.0.0.0.1/8" is no address`},
		{"[stack.a]\naddresses = [\"::/8\"]", "f:2: stack.a.addresses[0]: :: cannot be the address"},
		{"[stack.a]\naddresses = [\"::1/8\", \"::1/8\"]", "f:2: stack.a.addresses[1]: ::1/8 is there twice"},
		{"[stack.a]\nroutes = [\"\"]", `f:2: stack.a.routes[0]: "": is empty`},
		{"[stack.a]\nroutes = [\"default via 10.0.0.1 metric 3\"]", `unexpected "metric"`},
		{"[stack.a]\nroutes = [\"default via\"]", "nothing follows via"},
		{"[stack.a]\nroutes = [\"default dev a dev b\"]", "dev is there twice"},
		{"[stack.a]\nroutes = [\"default\"]", "leads nowhere"},
		{"[stack.a]\nroutes = [\"10.0.0.1/8 dev lo\"]", "10.0.0.1/8 has bits beyond its prefix length (10.0.0.0/8 is the network)"},
		{"[stack.a]\nroutes = [\"fd00::/8 via 10.0.0.1\"]", "are of different families"},
		{"[stack.a]\nroutes = [\"x via 10.0.0.1\"]", `"x" is no destination`},
		{"[stack.a]\nroutes = [\"default via x\"]", `"x" is no address of a router`},
		{"[stack.a]\nroutes = [\"default dev 0123456789abcdef\"]", `"0123456789abcdef" is no name for a link`},
		{"[stack.a.sysctl]\nnet.ipv4.x = 1\nkernel.hostname = \"x\"", "f:3: stack.a.sysctl.kernel.hostname: is no setting of a network namespace"},
		{"[stack.a.sysctl]\n\"net/../kernel/x\" = 1", `f:2: stack.a.sysctl."net/../kernel/x": is no setting`},
		{"[stack.a.sysctl]\nnet.ipv4.x = \"1\\n2\"", "f:2: stack.a.sysctl.net.ipv4.x: has a value of more than one line"},
		{"[stack.a.sysctl]\n'net.ipv4.x' = 1\nnet.ipv4.x = 1", `f:1: stack.a.sysctl: "net.ipv4.x" is set twice`},
		{"[stack.a.sysctl]\n'net/ipv4/x' = 1\nnet.ipv4.x = 1", "is set already, by net.ipv4.x"},
		{"[stack.a]\nmptcp = false\nsysctl = { net.mptcp.enabled = 1 }", "f:3: stack.a.sysctl.net.mptcp.enabled: is set already, by mptcp = false"},
		// Uplinks.
		{"[stack.a.uplink]\nname = \"x\"", "f:1: stack.a.uplink: type is missing"},
		{"[stack.a.uplink]\ntype = \"ipvlan\"", `f:2: stack.a.uplink.type: unknown type "ipvlan"`},
		{"[stack.a.uplink]\ntype = \"macvlan\"", "f:1: stack.a.uplink: parent is missing"},
		{"[stack.a.uplink]\ntype = \"veth\"\nparent = \"x\"", "f:3: stack.a.uplink.parent: an uplink of type veth has no such key"},
		{"[stack.a.uplink]\ntype = \"veth\"\nname = \"lo\"", "f:3: stack.a.uplink.name: lo is the loopback"},
		{"[stack.a.uplink]\ntype = \"veth\"\npeer = \"a b\"", `f:3: stack.a.uplink.peer: "a b" is no name for a link`},
		{"[stack.a.uplink]\ntype = \"veth\"\nbridge = \"b\"\npeer_addresses = [\"10.0.0.1/8\"]", "f:4: stack.a.uplink.peer_addresses: conflicts with bridge"},
		{"[stack.a.uplink]\ntype = \"veth\"\nmac = \"01:00:00:00:00:01\"", "f:3: stack.a.uplink.mac: "},
		{"[stack.a.uplink]\ntype = \"veth\"\nmtu = 67", "f:3: stack.a.uplink.mtu: 67 is not between 68 and 65535 bytes"},
		{"[stack.a.uplink]\ntype = \"veth\"\nmtu = 9223372036854775807", "f:3: stack.a.uplink.mtu: "},
	} {
		_, err := parseConfig("f", []byte(test.text), testUsers{})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s\ngot %v\nwant %s", test.text, err, test.want)
			continue
		}
		if exitCode(err) != exitConfig {
			t.Errorf("%v: got exit code %d, want %d", err, exitCode(err), exitConfig)
		}
	}
}

func TestEveryMistakeIsReportedInTheOrderOfTheFile(t *testing.T) {
	t.Parallel()
	_, err := parseConfig("f", []byte("[stack.b]\nlo = 1\nmtu = 3\n[stack.a]\nx = 1\n"), testUsers{})
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "f:2:") || !strings.HasPrefix(lines[1], "f:3:") || !strings.HasPrefix(lines[2], "f:5:") {
		t.Errorf("got %q, want three lines in order", lines)
	}
}

func TestStackOfACommandLine(t *testing.T) {
	t.Parallel()
	for _, inline := range []string{`mode = "0750", uplink = {type = "veth"}`, ` {mode = "0750", uplink = {type = "veth"}} `} {
		got, err := parseStackTOML("lab", inline, testUsers{})
		want := stacknode.Spec{Name: "lab", Kind: "netns", Mode: 0o750, Netns: stacknode.NetnsSpec{Uplink: &stacknode.Uplink{Type: "veth", Name: "eth0"}}}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", inline, got, err, want)
		}
	}
	if got, err := parseStackTOML("lab", "", testUsers{}); err != nil || got.Kind != stacknode.KindNetns || got.Mode != 0o700 {
		t.Errorf("no options: got %+v, %v, want the defaults", got, err)
	}
	for inline, want := range map[string]string{
		"x = 1":                     "stack lab: x: unknown key",
		`mode = "x"`:                `stack lab: mode: is "x"`,
		"}\n[stack.b]":              "stack lab: the options must be one line",
		"lo = true} \r [x]":         "stack lab: the options must be one line",
		`uplink = {type = "x"}`:     "stack lab: uplink.type: unknown type",
		"lo = true}, other = {":     "stack lab: ",
		"{} # comment":              "",
		"lo = true # } comment":     "stack lab: ",
		`{lo = true} more = "here"`: "stack lab: ",
	} {
		if _, err := parseStackTOML("lab", inline, testUsers{}); want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", inline, err, want)
		}
	}
}

func TestConfigurationThatOthersCanChangeIsRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root refuses it")
	}
	dir := filepath.Join(t.TempDir(), "d")
	file := filepath.Join(dir, "stackfs.toml")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	load := func(want string) {
		t.Helper()
		_, err := loadConfig(file, testUsers{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	load("")
	must(os.Chmod(file, 0o664))
	load("has mode 0664: others than root can change it")
	must(os.Chmod(file, 0o602))
	load("has mode 0602")
	must(os.Chmod(file, 0o644))
	must(os.Chmod(dir, 0o777))
	load("is in a directory with mode 0777")
	must(os.Chmod(dir, os.ModeSticky|0o777))
	load("")
	if err := os.Chown(file, 1, 0); err == nil { // not in every user namespace
		load("belongs to user 1")
		must(os.Chown(file, 0, 0))
		must(os.Chown(dir, 1, 0))
		load("is in a directory of user 1")
		must(os.Chown(dir, 0, 0))
	}
	link := filepath.Join(t.TempDir(), "link")
	must(os.Symlink(file, link))
	must(os.Chmod(dir, 0o775))
	if _, err := loadConfig(link, testUsers{}); err == nil {
		t.Error("link: got nil, want an error")
	}
}

func TestConfigurationIsARegularFile(t *testing.T) {
	t.Parallel()
	for _, path := range []string{t.TempDir(), "/dev/null"} {
		if _, err := loadConfig(path, testUsers{}); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("%s: got %v, want that it is no regular file", path, err)
		}
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("#\n", maxConfig)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadConfig(big, testUsers{}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v, want that it is too large", err)
	}
}
