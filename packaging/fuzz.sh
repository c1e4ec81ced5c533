#!/bin/bash
# fuzz.sh [SECONDS]: fuzz every decoder for a while. Findings land in
# testdata/fuzz beside the test and are committed with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}
grep -rl --include='*_test.go' 'func Fuzz' . | while read -r file; do
	pkg=./$(dirname "$file")
	grep -oE 'func (Fuzz[A-Za-z0-9_]+)' "$file" | awk '{print $2}' | while read -r name; do
		go test -run '^$' -fuzz "^$name\$" -fuzztime "${seconds}s" "$pkg"
	done
done
