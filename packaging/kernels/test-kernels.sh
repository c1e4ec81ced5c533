#!/bin/bash
# test-kernels.sh SERIES...: runs the tests of all packages on Debian's kernels
# (6.1, 6.12) in QEMU: fstests with its real servers too. The guest is a Debian
# with the packages that the tests need (root.sh); the test programs are built
# here. CPUS (2), TESTS (a pattern of packages), RUN (of tests),
# STACKFS_SCALE (10), LIMIT of a package (5400 s), BOOT_TIME (10800 s).
set -euo pipefail
cd "$(dirname "$0")/../.."
export CGO_ENABLED=0
src=$PWD
goroot=$(go env GOROOT) modules=$(go env GOMODCACHE)

packaging/kernels/root.sh
mapfile -t releases <<< "$(packaging/kernels/fetch.sh "$@")"
mkdir -p build/kernels
work=$(mktemp -d -p build/kernels .guest.XXXXXX) # of no name that Go looks into
trap 'rm -rf "$work"' EXIT
root=$work/root
cp -al build/kernels/.root "$root"
cp packaging/kernels/init "$root/init"

# The sources, and Go with what it has built of them, at the paths they have
# here: some tests build programs.
export GOCACHE=$PWD/build/kernels/.gocache
mkdir -p "$root$src" "$root$goroot" "$root$modules"
git ls-files -z | xargs -0 cp --parents -t "$root$src"
cp -a "$goroot"/{bin,pkg,src,VERSION} "$root$goroot/"
cp -a "$modules/." "$root$modules/"
make -s build
mkdir -p "$root$src/build"
cp -a build/stackfs build/lib* "$root$src/build/"
tests=()
while read -r dir; do
	tests+=("${dir#"$src"/}")
	go test -c -o "$root$dir/the.test" "$dir"
done <<< "$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./... | grep -E "${TESTS:-.}")"
# shellcheck disable=SC2046 # a list of directories
go build -o /dev/null $(git ls-files '*/main.go' | sed 's#^#./#; s#/main.go$##')
GOARCH=386 go test -c -o /dev/null ./stacknode/uapi
cp -a "$GOCACHE" "$root/gocache"

for rel in "${releases[@]}"; do
	mkdir -p "$root/lib/modules"
	cp -a "build/kernels/$rel/lib/modules/$rel" "$root/lib/modules/"
	depmod -b "$root" "$rel"
done

# shellcheck disable=SC2016 # it is the guest's shell that expands
{
	echo '#!/bin/bash'
	echo "export STACKFS_STRICT=1 STACKFS_OLD_KERNEL=1 STACKFS_SCALE=${STACKFS_SCALE:-10} STACKFS_BIN='$src/build/stackfs' HOME=/tmp/home CGO_ENABLED=0"
	echo "export PATH='$goroot/bin':\$PATH GOCACHE=/gocache GOMODCACHE='$modules' GOPROXY=off GOTOOLCHAIN=local GOFLAGS=-mod=mod"
	echo 'for m in fuse veth dummy macvlan tun inet_diag tcp_diag udp_diag unix_diag nf_tables; do modprobe $m; done'
	echo 'mkdir -p /dev/pts /dev/shm $HOME; mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t tmpfs run /run'
	echo 'mount -t cgroup2 cgroup /sys/fs/cgroup; mount -t bpf bpf /sys/fs/bpf; hostname guest; ulimit -n 65536; chmod 1777 /tmp'
	echo 'passed=0; failed=; skipped=0'
	for dir in "${tests[@]}"; do
		echo "cd '$src/$dir'; timeout -k 10 ${LIMIT:-5400} ./the.test -test.v -test.timeout $((${LIMIT:-5400} - 60))s -test.run '${RUN:-.}' 2>&1 | tee /tmp/log | grep -aE --line-buffered '^ *--- '; status=\${PIPESTATUS[0]}"
		echo "if [ \$status = 0 ]; then passed=\$((passed + 1)); else failed=\"\$failed $dir\"; grep -avE '^(=== |--- PASS)' /tmp/log; fi"
		echo "skipped=\$((skipped + \$(grep -ac -e '--- SKIP' /tmp/log))); echo \"guest: $dir \$status \${SECONDS}s\""
	done
	echo 'echo "guest: scale $STACKFS_SCALE, $passed packages passed, failed:${failed:- none}; $skipped tests skipped"; [ -z "$failed" ]'
} > "$root/test"
chmod 755 "$root/test"

mkfs.ext4 -q -d "$root" "$work/disk" 6G
rm -rf "$root"
status=0
for rel in "${releases[@]}"; do
	BOOT_MEMORY=4096 BOOT_TIME=${BOOT_TIME:-10800} setpriv --pdeathsig TERM packaging/kernels/boot.sh "$rel" "${CPUS:-2}" "$work/disk" || status=1
done
exit $status
