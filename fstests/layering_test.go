package fstests

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/stackfs/stackfs/"

// layers says what of ours each package may import, directly or through
// another; "x/..." is all below x. The arrows point down the package map;
// cmd and fstests may import everything and are not here.
var layers = []struct {
	pkg     string
	imports []string
}{
	{"fs", []string{"stacknode", "stacknode/..."}},
	{"stacknode", nil},
	{"stacknode/uapi", nil},
	{"stacknode/...", []string{"stacknode", "stacknode/..."}},
	{"backends", []string{"backends/...", "stacknode", "stacknode/...", "fastsocket/...", "soccr", "soccr/..."}},
	{"backends/keeper", []string{"backends/worker", "stacknode", "stacknode/..."}},
	{"backends/runs", []string{"backends/keeper", "backends/worker", "stacknode", "stacknode/..."}},
	{"backends/worker", []string{"stacknode", "stacknode/..."}},
	{"backends/guardian", []string{"stacknode", "stacknode/...", "soccr", "soccr/..."}},
	{"backends/conns", []string{"backends/guardian", "backends/worker", "stacknode", "stacknode/...", "soccr", "soccr/..."}},
	// A kind of stack: never another one.
	{"backends/...", []string{"backends/worker", "backends/conns", "backends/guardian", "stacknode", "stacknode/...", "fastsocket", "fastsocket/...", "soccr", "soccr/..."}},
	{"fastsocket", []string{"fastsocket/..."}},
	{"fastsocket/...", []string{"fastsocket", "fastsocket/..."}},
	{"nic", nil},
	{"soccr", []string{"soccr/..."}},
	{"soccr/...", []string{"soccr", "soccr/..."}},
	{"kmod/...", []string{"fastsocket/uapi"}},
}

// A goPackage is what go list tells of a package.
type goPackage struct {
	ImportPath                string
	Name                      string
	Dir                       string
	Deps                      []string
	Imports                   []string
	TestImports, XTestImports []string
	Incomplete                bool
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-e", "-deps=false", "-json=ImportPath,Name,Dir,Deps,Imports,TestImports,XTestImports,Incomplete", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// matches tells whether pkg is pattern, or below it for "x/...".
func matches(pattern, pkg string) bool {
	if below, ok := strings.CutSuffix(pattern, "/..."); ok {
		return strings.HasPrefix(pkg, below+"/")
	}
	return pattern == pkg
}

// ours returns the packages of this module in list, without its path.
func ours(list []string) (pkgs []string) {
	for _, p := range list {
		if rest, ok := strings.CutPrefix(p, modulePath); ok {
			pkgs = append(pkgs, rest)
		}
	}
	return pkgs
}

func TestArrowsPointDown(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, modulePath)
		if strings.HasPrefix(name, "cmd/") || matches("fstests/...", name) || name == "fstests" {
			continue
		}
		i := slices.IndexFunc(layers, func(l struct {
			pkg     string
			imports []string
		}) bool {
			return matches(l.pkg, name)
		})
		if i < 0 {
			t.Errorf("package %s is in no layer: say in this test what it may import", name)
			continue
		}
		for _, dep := range ours(p.Deps) {
			if !slices.ContainsFunc(layers[i].imports, func(pattern string) bool { return matches(pattern, dep) }) {
				t.Errorf("%s imports %s", name, dep)
			}
		}
	}
}

// TestTestsImportBelowThemselves: the unit tests of a package are in its
// layer too; only fstests sees everything.
func TestTestsImportBelowThemselves(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, modulePath)
		for _, dep := range ours(slices.Concat(p.TestImports, p.XTestImports)) {
			switch {
			case strings.HasPrefix(dep, "cmd/"):
				t.Errorf("the tests of %s import %s", name, dep)
			case dep == "fstests" && !slices.Contains([]string{"soccr", "fastsocket", "kmod", "cmd", "backends"}, strings.Split(name, "/")[0]):
				t.Errorf("the tests of %s, which are to need no privilege, import %s", name, dep)
			}
		}
	}
}

func TestHarnessIsImportedByTestsOnly(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, modulePath)
		if slices.Contains(p.Deps, modulePath+"fstests") && !strings.HasPrefix(name, "fstests") {
			t.Errorf("%s imports fstests outside of its tests", name)
		}
	}
}

// TestOnlyFsKnowsFUSE: go-fuse is named in fs and nowhere else.
func TestOnlyFsKnowsFUSE(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, modulePath)
		if name == "fs" {
			continue
		}
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, "github.com/hanwen/go-fuse/") {
				t.Errorf("%s imports %s", name, imp)
			}
		}
	}
}

// TestGoFoldersHoldNoC: the go tool refuses such a folder with cgo on and
// ignores the file with cgo off.
func TestGoFoldersHoldNoC(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, ext := range []string{"*.c", "*.S", "*.cc"} {
			if files, err := filepath.Glob(path.Join(p.Dir, ext)); err != nil || len(files) > 0 {
				t.Errorf("%s holds %v, %v", p.ImportPath, files, err)
			}
		}
	}
}
