package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzConfig checks that no text makes the loader panic, that what it
// refuses it refuses with a *configError that names the file, and that what
// it accepts stands on its own.
func FuzzConfig(f *testing.F) {
	seeds, err := filepath.Glob("testdata/config/*.toml")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, name := range append(seeds, "../../config.toml.example") {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := parseConfig("f", text, testUsers{})
		if err != nil {
			var ce *configError
			if !errors.As(err, &ce) || !strings.HasPrefix(err.Error(), "f:") {
				t.Fatalf("got %v (%T), want a configError", err, err)
			}
			if max := strings.Count(string(text), "\n") + 1; ce.Line < 0 || ce.Line > max {
				t.Fatalf("line %d of a text of %d: %v", ce.Line, max, err)
			}
			return
		}
		if len(cfg.Builtin) != 3 {
			t.Fatalf("got %d builtin stacks, want 3", len(cfg.Builtin))
		}
		for _, s := range cfg.Stacks {
			if s.Kind == "" || s.Mode&^0o777 != 0 {
				t.Fatalf("got %+v, want a kind and permission bits only", s)
			}
		}
	})
}

// FuzzStackTOML does the same for the options of "stackfs add", and checks
// that they cannot leave their table.
func FuzzStackTOML(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `mode = "0750"`, `{ netns = "blue" }`, "}", "lo = true}\n[stack.b]", "lo = true, lo = true",
		`addresses = ["10.9.0.2/24"], uplink = {type = "veth", bridge = "br0"}`, `sysctl = {net.ipv4.x = 1}`, "# x", `a = "`, `"""`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, inline string) {
		s, err := parseStackTOML("lab", inline, testUsers{})
		if err != nil {
			if !strings.HasPrefix(err.Error(), "stack lab: ") {
				t.Fatalf("got %v, want the stack's name", err)
			}
			return
		}
		if s.Name != "lab" || s.Kind == "" {
			t.Fatalf("got %+v, want the stack lab", s)
		}
	})
}
