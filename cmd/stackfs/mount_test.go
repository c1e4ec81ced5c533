package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func TestMountFlags(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	e := env{config: "/etc/stackfs.toml"}
	for _, test := range []struct {
		flags mountFlags
		dir   string
		want  mountOptions
	}{
		{mountFlags{}, "/dev/net", mountOptions{Dir: "/dev/net", Config: "/etc/stackfs.toml", Optional: true}},
		{mountFlags{config: "none"}, "/dev/net", mountOptions{Dir: "/dev/net"}},
		{mountFlags{config: "x.toml"}, "net", mountOptions{Dir: filepath.Join(wd, "net"), Config: filepath.Join(wd, "x.toml")}},
		{
			mountFlags{config: "/a", lists: []string{"nodiscover,ro,nodev,debug", "config=/b,log=l"}}, "/x",
			mountOptions{Dir: "/x", Config: "/b", Log: filepath.Join(wd, "l"), Discover: &no, ReadOnly: true, NoDev: true, Verbose: true},
		},
		{
			mountFlags{lists: []string{`nodiscover,discover,ro,rw,nodev,dev,,comment="a,b",x-systemd.automount,_netdev,config=none`}}, "/x",
			mountOptions{Dir: "/x", Discover: &yes},
		},
	} {
		got, err := test.flags.resolve(e, test.dir)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%+v: got %+v, %v, want %+v", test.flags, got, err, test.want)
		}
	}
}

func TestMountHelper(t *testing.T) {
	t.Parallel()
	no := false
	for _, test := range []struct {
		line string
		want mountOptions
		fake bool
		fail string
	}{
		{line: "stackfs /dev/net -o rw", want: mountOptions{Dir: "/dev/net"}},
		{line: "none /dev/net", want: mountOptions{Dir: "/dev/net"}},
		{line: "/etc/lab.toml /dev/net -n -v -t fuse.stackfs", want: mountOptions{Dir: "/dev/net", Config: "/etc/lab.toml"}},
		{line: "none /x -o config=/c,nodiscover,nofail,noauto,user,noexec,nosuid,nodev", want: mountOptions{Dir: "/x", Config: "/c", Discover: &no, NoDev: true}},
		{line: "-sf none /x -o frob=1,ro", want: mountOptions{Dir: "/x", ReadOnly: true}, fake: true},
		{line: "none /x -o frob=1", fail: `unknown option "frob=1"`},
		{line: "none /x -o ro=1", fail: `unknown option "ro=1"`},
		{line: "none /x -o remount", fail: "stackfs reload"},
		{line: "none /x -o config=", fail: "option config: a file is missing"},
		{line: `none /x -o comment="a`, fail: "a quote is not closed"},
		{line: "none /x -N 17", fail: "nsenter"},
		{line: "none /x -t ext4", fail: "the type is stackfs"},
		{line: "none /x /y", fail: "SOURCE and DIR are needed"},
	} {
		got, fake, err := parseMountHelper(append([]string{"mount.stackfs"}, strings.Fields(test.line)...))
		if test.fail != "" {
			if err == nil || !strings.Contains(err.Error(), test.fail) {
				t.Errorf("%s: got error %v, want %q", test.line, err, test.fail)
			}
			continue
		}
		if err != nil || fake != test.fake || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, %v, %v, want %+v, %v", test.line, got, fake, err, test.want, test.fake)
		}
	}
}

func TestMountOnAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkMountPoint(file); !errors.Is(err, syscall.ENOTDIR) || !strings.Contains(err.Error(), "stackfs mount -c "+file+" DIR") {
		t.Errorf("got %v, want ENOTDIR and what -c is for", err)
	}
}
