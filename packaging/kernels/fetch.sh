#!/bin/bash
# fetch.sh SERIES...: Debian's newest cloud kernel of each series (6.1, 6.12)
# and its headers, unpacked into build/kernels/RELEASE. Nothing is installed and
# no boot loader is touched. Prints the releases.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=$PWD/build/kernels
mkdir -p "$cache"

die() { echo "fetch.sh: $*" >&2; exit 1; }

# depends PACKAGE PATTERN: the first package of that form that PACKAGE needs.
depends() {
	apt-cache depends "$1" | sed -n 's/^[ |]*Depends: //p' | grep -m1 -E "$2" ||
		die "$1 depends on no package like $2: is the package list up to date (apt-get update)?"
}

# release SERIES: its newest release. The meta package without a number is of
# the series that the distribution came with.
release() {
	local meta
	for meta in "linux-headers-$1-cloud-amd64" linux-headers-cloud-amd64; do
		if apt-cache show "$meta" >/dev/null 2>&1; then
			depends "$meta" "^linux-headers-${1//./\\.}[.0-9].*-cloud-amd64$" | sed s/^linux-headers-//
			return
		fi
	done
	die "no Debian kernel of series $1"
}

# unpack DIR PACKAGE...: their files, below DIR.
unpack() {
	local dir=$1
	shift
	mkdir "$dir/debs"
	(cd "$dir/debs" && timeout 600 apt-get download -qq "$@") >&2 || die "cannot download $*"
	for deb in "$dir"/debs/*.deb; do
		dpkg-deb -x "$deb" "$dir"
	done
	rm -r "$dir/debs"
}

for series; do
	rel=$(release "$series")
	dir=$cache/$rel
	echo "$rel"
	[ -e "$dir/done" ] && continue
	rm -rf "$dir"
	mkdir "$dir"
	headers=linux-headers-$rel
	unpack "$dir" "linux-image-$rel-unsigned" "$headers" \
		"$(depends "$headers" '^linux-headers-.*-common$')" "$(depends "$headers" '^linux-kbuild-')"
	# The headers find the common ones and the tools by absolute paths.
	grep -rlE '/usr/(src|lib)/linux-' "$dir/usr/src" --include=Makefile --include=.kernelvariables |
		xargs -r sed -i -E "s#/usr/(src|lib)/linux-#$dir/usr/\1/linux-#g"
	for link in "$dir"/usr/src/*/scripts "$dir"/usr/src/*/tools; do
		[ -L "$link" ] || continue
		ln -sfn "$dir/usr/lib/$(basename "$(dirname "$(readlink "$link")")")/$(basename "$link")" "$link"
	done
	ln -s "usr/src/linux-headers-$rel" "$dir/headers"
	touch "$dir/done"
done
