package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

const exampleFile = "../../config.toml.example"

// allKeys returns every key that the configuration has, at any depth.
func allKeys(t reflect.Type, keys map[string]bool) map[string]bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return allKeys(t.Elem(), keys)
	case reflect.Struct:
		for i, name := range tomlKeys(t) {
			keys[name] = true
			allKeys(t.Field(i).Type, keys)
		}
	}
	return keys
}

func TestExampleIsTheDefault(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	// Through a file of our own: the working tree may be anybody's.
	file := filepath.Join(t.TempDir(), "stackfs.toml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := loadConfig(file, testUsers{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Stacks) != 1 || got.Stacks[0].Name != "lab" {
		t.Fatalf("got stacks %+v, want lab alone", got.Stacks)
	}
	lab, err := parseStackTOML("lab", "", testUsers{})
	got.where = nil
	if err != nil || !reflect.DeepEqual(got.Stacks[0], lab) {
		t.Errorf("lab: got %+v, want the default %+v (%v)", got.Stacks[0], lab, err)
	}
	got.Stacks = nil
	if want := defaultConfiguration(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want the default %+v", got, want)
	}
}

func TestExampleHasEveryKeyAndNoOther(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	known := allKeys(reflect.TypeFor[fileConfig](), map[string]bool{})
	delete(known, "stack")
	there := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(?:# )?(?:([a-z_]+) = |\[+stack\.\w+\.(\w+)\])`).FindAllStringSubmatch(string(text), -1) {
		there[m[1]+m[2]] = true
	}
	for key := range known {
		if !there[key] {
			t.Errorf("the example lacks the key %s", key)
		}
	}
	for key := range there {
		if !known[key] {
			t.Errorf("the example has the key %s, which there is not", key)
		}
	}
}

// TestExampleWithEveryKeySetLoads sets every key of the example but those
// that conflict.
func TestExampleWithEveryKeySetLoads(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^# (\w+ = |\[)`).ReplaceAllString(string(text), "$1")
	for name, test := range map[string]struct {
		without string // keys that stay comments
		host    string // of the example's users and groups
	}{
		"made, veth":        {without: "netns pid path parent"},
		"named, veth":       {without: "create pid path parent"},
		"process, macvlan":  {without: "create netns path peer bridge peer_addresses"},
		"file, bridge":      {without: "create netns pid peer_addresses parent"},
		"made, bridge":      {without: "netns pid path peer_addresses parent"},
		"made, no macvlan ": {without: "netns pid path parent bridge"},
	} {
		doc := all
		without := " " + test.without + " "
		if !strings.Contains(without, " bridge ") && !strings.Contains(without, " peer_addresses ") {
			without += "bridge "
		}
		for _, key := range strings.Fields(without) {
			doc = regexp.MustCompile(`(?m)^`+key+` = `).ReplaceAllString(doc, "# "+key+" = ")
		}
		if strings.Contains(name, "macvlan") && strings.HasPrefix(name, "process") {
			doc = strings.Replace(doc, `type = "veth"`, `type = "macvlan"`, 1)
		}
		doc = strings.NewReplacer(`"root"`, "0", `"wireshark"`, `"wheel"`).Replace(doc)
		doc = strings.Replace(doc, "\ngrant = []", "\n# grant = []", 1)
		cfg, err := parseConfig("f", []byte(doc), testUsers{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		lab := cfg.Stacks[0]
		if len(lab.Grants) != 1 || !lab.Grants[0].Checkpoint || len(lab.Conns.RestoreFrom) != 1 || lab.Netns.Uplink == nil || len(lab.Netns.Routes) != 3 || len(lab.Netns.Sysctl) != 2 {
			t.Errorf("%s: got %+v, want everything set", name, lab)
		}
	}
}
