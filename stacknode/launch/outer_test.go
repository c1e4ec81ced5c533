package launch

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestJobOnTheWire(t *testing.T) {
	want := job{
		Program: Program{Stack: "/dev/net/\xff", Path: "/bin/\xfe", Families: 1 << 63, Argv: []string{"a", "\xff\x00", ""}, NoNames: true},
		Cover:   true, Node: 17, Files: map[string][]byte{"hosts": {0xff, '\n'}},
	}
	j := want
	j.Env = []string{"SECRET=1"}
	text, err := json.Marshal(wire(&j))
	if err != nil {
		t.Fatal(err)
	}
	var w wireJob
	if err := json.Unmarshal(text, &w); err != nil {
		t.Fatal(err)
	}
	if got := w.unwire(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
