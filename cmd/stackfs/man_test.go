package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func manPage(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section returns what a page has between a heading and the next one like it.
func section(t *testing.T, page, macro, title string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+macro+" "+title+"\n")
	if !ok {
		t.Fatalf("the page has no %q", macro+" "+title)
	}
	if end := regexp.MustCompile(`(?m)^\.S[hs] `).FindStringIndex(rest); end != nil && macro == ".Ss" {
		return rest[:end[0]]
	}
	if end := strings.Index(rest, "\n.Sh "); end >= 0 {
		return rest[:end]
	}
	return rest
}

// items returns the words after the macro in the tags of lists, all of those
// of a comma-separated tag.
func items(text, macro string) map[string]bool {
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\.It (.*)$`).FindAllStringSubmatch(text, -1) {
		for _, w := range regexp.MustCompile(macro+` (\S+)`).FindAllStringSubmatch(m[1], -1) {
			found[w[1]] = true
		}
	}
	return found
}

func compare(t *testing.T, what string, got, want map[string]bool) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

func TestManPageHasEveryFlag(t *testing.T) {
	t.Parallel()
	page := manPage(t, "stackfs.8")
	commands := section(t, page, ".Sh", "COMMANDS")
	var names []string
	for _, c := range newRoot(newCLI(t).env).Commands() {
		names = append(names, c.Name())
		want := map[string]bool{}
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			want["-"+f.Name] = true
			if f.Shorthand != "" {
				want[f.Shorthand] = true
			}
		})
		compare(t, c.Name(), items(section(t, commands, ".Ss", c.Name()), "Fl"), want)
		if !regexp.MustCompile(`(?m)^\.Nm\n\.Cm ` + c.Name() + `$`).MatchString(section(t, page, ".Sh", "SYNOPSIS")) {
			t.Errorf("the synopsis lacks %s", c.Name())
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\.Ss ([a-z].*)$`).FindAllStringSubmatch(commands, -1) {
		if !slices.Contains(names, m[1]) {
			t.Errorf("the page has the command %s, which there is not", m[1])
		}
	}
}

func TestManPageHasEveryMountOption(t *testing.T) {
	t.Parallel()
	text := section(t, section(t, manPage(t, "stackfs.8"), ".Sh", "COMMANDS"), ".Ss", "Mount options")
	for _, m := range regexp.MustCompile(`(?m)^\.It Cm (.*)$`).FindAllStringSubmatch(text, -1) {
		for _, word := range strings.Split(m[1], ",") {
			word = strings.Fields(word)[0]
			before := mountOptions{ReadOnly: word == "rw", NoDev: word == "dev", Optional: true}
			after := before
			option := word
			if word == "config" || word == "log" {
				option += "=/x"
			}
			if err := after.apply(option, false); err != nil || reflect.DeepEqual(before, after) {
				t.Errorf("option %s: got %+v, %v, want a change", option, after, err)
			}
		}
	}
	for _, word := range []string{"config", "log", "discover", "debug", "ro", "nodev"} {
		if !strings.Contains(text, "\n.It Cm "+word) || !strings.Contains(mountLong, "  "+word) {
			t.Errorf("option %s is missing in the page or in the help", word)
		}
	}
}

func TestManPageHasEveryExitCode(t *testing.T) {
	t.Parallel()
	want := map[string]bool{}
	for _, code := range []int{
		exitOK, exitFailed, exitUsage, exitConfig, exitBusy, exitNotFound, exitNotAllowed, exitNoDaemon,
		exitNotSaveable, exitPartly, exitNotWritten, exitRunFailed, exitNotRunnable, exitNoProgram,
	} {
		want[fmt.Sprint(code)] = true
	}
	got := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\.It (\d+)$`).FindAllStringSubmatch(section(t, manPage(t, "stackfs.8"), ".Sh", "EXIT STATUS"), -1) {
		got[m[1]] = true
	}
	compare(t, "exit codes", got, want)
}

func TestManPageHasEveryKey(t *testing.T) {
	t.Parallel()
	want := allKeys(reflect.TypeFor[fileConfig](), map[string]bool{})
	delete(want, "stack")
	compare(t, "keys", items(manPage(t, "stackfs.toml.5"), "Ic"), want)
}

func TestManPageConfigurationsLoad(t *testing.T) {
	t.Parallel()
	page := section(t, manPage(t, "stackfs.toml.5"), ".Sh", "EXAMPLES")
	examples := regexp.MustCompile(`(?s)\n\.Bd[^\n]*\n(.*?)\n\.Ed`).FindAllStringSubmatch(page, -1)
	if len(examples) == 0 {
		t.Fatal("the page has no examples")
	}
	for _, m := range examples {
		text := strings.NewReplacer(`\e`, `\`, "netdev", "net").Replace(m[1])
		if _, err := parseConfig("example", []byte(text), testUsers{}); err != nil {
			t.Error(err)
		}
	}
}

func TestManPagesHaveTheirSections(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"stackfs.8", "stackfs.toml.5"} {
		page := manPage(t, name)
		for _, title := range []string{"EXIT STATUS", "FILES", "ENVIRONMENT", "EXAMPLES", "BUGS"} {
			section(t, page, ".Sh", title)
		}
	}
}

// TestManPagesAreClean leaves out what depends on the pages installed.
func TestManPagesAreClean(t *testing.T) {
	t.Parallel()
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("mandoc is not installed")
	}
	for _, name := range []string{"stackfs.8", "stackfs.toml.5"} {
		cmd := exec.Command(mandoc, "-Tlint", name)
		out, _ := cmd.Output() // its exit code is the worst of the messages
		for line := range strings.Lines(string(out)) {
			if !strings.Contains(line, "referenced manual not found") {
				t.Error(filepath.Base(strings.TrimSpace(line)))
			}
		}
	}
}

func TestHelpExamplesParse(t *testing.T) {
	t.Parallel()
	root := newRoot(newCLI(t).env)
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		for _, line := range strings.Split(c.Example, "\n") {
			for _, end := range []string{" | ", " > ", " && ", " # "} {
				line, _, _ = strings.Cut(line, end) // the shell's
			}
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "stackfs" {
				t.Errorf("%s: the example %q is no command line", c.CommandPath(), line)
				continue
			}
			found, rest, err := root.Find(words[1:])
			if err != nil || found == root {
				t.Errorf("%s: %q: no such command (%v)", c.CommandPath(), line, err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%s: %q: %v", c.CommandPath(), line, err)
			}
		}
		for _, sub := range c.Commands() {
			check(sub)
		}
	}
	check(root)
}
