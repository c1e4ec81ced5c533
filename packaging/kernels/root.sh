#!/bin/bash
# root.sh: a Debian with the packages that the tests need (need.sh), unpacked
# into build/kernels/.root: the guests' disk. It is made once, and again when
# the packages are others.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=build/kernels/.root
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
packages=$(packaging/need.sh --list build test)
if [ "$(cat $root/.packages 2>/dev/null)" != "$suite $packages" ]; then
	rm -rf "$root"
	mkdir -p "$root"
	mmdebstrap --quiet --variant=essential --include="${packages// /,}" "$suite" "$root"
	echo "$suite $packages" > $root/.packages
fi
