#!/bin/bash
# test-kernels.sh SERIES...: runs the unit tests of all packages on Debian's
# kernels (6.1, 6.12) in QEMU, where the whole of the machine is the guest.
# Those in fstests need servers and are not run there; tests that need a
# compiler or an interpreter are skipped, and counted. CPUS (2), TESTS (a
# pattern of packages), STACKFS_SCALE (20).
set -euo pipefail
cd "$(dirname "$0")/../.."
export CGO_ENABLED=0

# add ROOT PROGRAM...: with their libraries.
add() {
	local root=$1 program file
	shift
	for program; do
		for file in "$program" $(ldd "$program" 2>/dev/null | grep -oE '/[^ ]+'); do
			[ -e "$root$file" ] || install -D "$file" "$root$file"
		done
	done
}

# modules ROOT RELEASE: those that the tests need.
modules() {
	local dir=/lib/modules/$2 from=build/kernels/$2 m
	for m in fs/fuse net drivers/net/veth drivers/net/dummy drivers/net/macvlan drivers/net/tun crypto lib; do
		[ -e "$from$dir/kernel/$m" ] || m=$(cd "$from$dir/kernel" && ls -d "$m".ko* 2>/dev/null) || continue
		mkdir -p "$1$dir/kernel/$(dirname "$m")"
		cp -a "$from$dir/kernel/$m" "$1$dir/kernel/$(dirname "$m")/"
	done
	cp "$from$dir"/modules.* "$1$dir/"
	find "$1$dir" -name '*.ko.xz' -exec xz -d {} +
	depmod -b "$1" "$2"
}

packages=$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}' ./... | grep -v /fstests | grep -E "${TESTS:-.}")
releases=$(packaging/kernels/fetch.sh "$@")
status=0
for rel in $releases; do
	root=$(mktemp -d)
	trap 'rm -rf "$root"' EXIT
	modules "$root" "$rel"
	add "$root" /usr/sbin/ip /usr/bin/unshare /usr/bin/sleep /usr/bin/env /usr/sbin/modprobe
	mkdir -p "$root/etc" "$root/bin"
	printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' > "$root/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' > "$root/etc/group"
	# shellcheck disable=SC2016 # it is the guest's shell that expands
	{
		echo '#!/bin/sh'
		echo "export STACKFS_SCALE=${STACKFS_SCALE:-20} HOME=/tmp"
		echo 'for m in fuse veth dummy macvlan tun inet_diag tcp_diag udp_diag unix_diag nf_tables; do modprobe $m 2>/dev/null; done'
		echo 'mkdir -p /dev/pts /dev/shm /sys/fs/cgroup; mount -t devpts p /dev/pts; mount -t cgroup2 c /sys/fs/cgroup; mount -t bpf b /sys/fs/bpf'
		echo 'ulimit -n 65536; passed=0; failed=; skipped=0'
		while read -r name dir; do
			rel_dir=${dir#"$PWD"}
			mkdir -p "$root/src$rel_dir"
			(cd "$dir" && go test -c -o "$root/src$rel_dir/the.test" .)
			[ ! -d "$dir/testdata" ] || cp -a "$dir/testdata" "$root/src$rel_dir/"
			echo "cd /src$rel_dir; if timeout 900 ./the.test -test.v -test.timeout 890s > /tmp/log 2>&1; then passed=\$((passed + 1)); echo ok $name; else failed=\"\$failed $name\"; cat /tmp/log; fi; skipped=\$((skipped + \$(grep -c -e '--- SKIP' /tmp/log)))"
		done <<< "$packages"
		echo 'echo "guest: $passed packages passed, failed:${failed:- none}; $skipped tests skipped"; [ -z "$failed" ]'
	} > "$root/test"
	chmod 755 "$root/test"
	BOOT_TIME=${BOOT_TIME:-1800} packaging/kernels/boot.sh "$rel" "${CPUS:-2}" "$root" || status=1
	rm -rf "$root"
done
exit $status
