package main

import (
	"reflect"
	"testing"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/launch"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

func TestRunOptions(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	all := stacknode.AllFamilies
	for _, test := range []struct {
		args, families []string
		given          runOptions
		want           runOptions
	}{
		{args: []string{"/s/lab", "--", "ip", "-4"}, want: runOptions{Stack: "/s/lab", Families: all, Argv: []string{"ip", "-4"}}},
		{args: []string{"lab", "ip", "--", "x"}, want: runOptions{Stack: dir + "/lab", Families: all, Argv: []string{"ip", "--", "x"}}},
		{args: []string{"lab"}, given: runOptions{Supported: true}, want: runOptions{Stack: dir + "/lab", Supported: true, Families: all, Argv: []string{}}},
		{
			args: []string{"/s/lab", "x"}, families: []string{"ipv4,unix", "17"},
			want: runOptions{Stack: "/s/lab", FamiliesGiven: true, Families: 1<<2 | 1<<17, Argv: []string{"x"}},
		},
	} {
		got := test.given
		err := got.parse(newRunCmd(c.env), c.env, test.args, test.families)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%q %q: got %+v, %v, want %+v", test.families, test.args, got, err, test.want)
		}
	}
}

func TestFlagsBehindTheStackAreTheProgramsOwn(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	cmd := newRunCmd(c.env)
	if err := cmd.ParseFlags([]string{"-v", "--families", "ip", "lab", "-s", "--", "--preload"}); err != nil {
		t.Fatal(err)
	}
	if got, want := cmd.Flags().Args(), []string{"lab", "-s", "--", "--preload"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFamiliesOfAStack(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.mount()
	for families, want := range map[uint64]string{0: "", 1<<2 | 1<<10: "inet\ninet6\n"} {
		c.openNode = func(string) (*launch.Node, error) {
			return &launch.Node{Info: uapi.Info{Families: families}}, nil
		}
		c.expect(exitOK, want, "stackfs", "run", "-s", "lab")
		if got := c.stdout.String(); got != want {
			t.Errorf("families %#x: got %q, want %q", families, got, want)
		}
	}
}
