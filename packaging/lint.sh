#!/bin/bash
# lint.sh: everything that is checked besides the tests. Every check runs;
# the exit code tells whether all passed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

failed=()
check() {
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then
		echo "ok   $name"
	else
		echo "FAIL $name"
		printf '%s\n' "$out" | sed 's/^/     /'
		failed+=("$name")
	fi
}

format() {
	local files
	files=$(gofmt -l .) || return
	if [ -n "$files" ]; then
		echo "not formatted: $files"
		return 1
	fi
}
tidy() { go mod tidy -diff; }
scripts() { shellcheck packaging/*.sh packaging/kernels/*.sh packaging/kernels/init kmod/test/run.sh .ci/run; }
# Unit tests only: the race detector needs cgo, and says nothing about
# processes that are started, which is what the tests left out are about.
race() {
	local packages
	mapfile -t packages < <(go list ./... | grep -vE '/fstests|/backends/guardian$|/soccr/freeze$')
	CGO_ENABLED=1 go test -race -count=1 -timeout 10m "${packages[@]}"
}
cross() { GOARCH=$1 go build -o /dev/null ./cmd/stackfs && GOARCH=$1 go vet ./cmd/... ./fs/... ./backends/... ./stacknode/...; }
manual() {
	local out
	out=$(mandoc -Tlint -Wwarning cmd/stackfs/stackfs.8 cmd/stackfs/stackfs.toml.5 stacknode/shim/msocket.3 stacknode/fsocket/libfsocket.3)
	[ -z "$out" ] || { echo "$out"; return 1; }
}
static() {
	if readelf -l build/stackfs | grep -q INTERP; then
		echo "build/stackfs is not static"
		return 1
	fi
}

check gofmt format
check vet go vet ./...
check staticcheck go tool staticcheck ./...
check "go mod tidy" tidy
check "clients for 386" env GOARCH=386 go vet ./stacknode/...
check "build for arm64" cross arm64
check "static binary" static
check layering go test -count=1 -run 'TestArrows|TestTests|TestHarness|TestOnlyFs|TestGoFolders' ./fstests
check "ABI layout" env STACKFS_STRICT=1 go test -count=1 ./stacknode/uapi
check "race detector" race
check shellcheck scripts
check "man pages" manual

if [ ${#failed[@]} -gt 0 ]; then
	echo "lint: ${#failed[@]} failed: ${failed[*]}"
	exit 1
fi
echo "lint: all passed"
