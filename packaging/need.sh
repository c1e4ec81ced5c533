#!/bin/sh
# need.sh [--list] WHAT...: install the Debian packages that a job of the
# Makefile needs and that are missing. Elsewhere, or not as root, it says what
# they are. --list: say what is needed, installed or not.
set -eu

packages_build="gcc libc6-dev make"
packages_demo="iproute2 curl python3-minimal"
packages_test="iproute2 mount curl python3 gcc-multilib libc6-dev-i386 iperf3 nginx-light busybox-static
	nscd iputils-ping procps util-linux attr pkg-config kmod netbase mandoc criu
	wrk redis-server redis-tools strace haproxy lighttpd"
packages_kernels="qemu-system-x86 busybox-static cpio xz-utils gcc libc6-dev make bc kmod libelf1"
packages_guest="mmdebstrap e2fsprogs iproute2"
packages_lint="gcc-multilib libc6-dev-i386 shellcheck mandoc"
packages_bench="iproute2 iperf3 util-linux procps nginx-light haproxy lighttpd"

list=""
if [ "${1:-}" = --list ]; then
	list=1
	shift
fi
want=""
for what in "$@"; do
	case $what in
	build) want="$want $packages_build" ;;
	demo) want="$want $packages_demo" ;;
	test) want="$want $packages_test" ;;
	kernels) want="$want $packages_kernels" ;;
	guest) want="$want $packages_guest" ;;
	lint) want="$want $packages_lint" ;;
	bench) want="$want $packages_bench" ;;
	*) echo "need.sh: unknown job $what" >&2; exit 2 ;;
	esac
done
if [ -n "$list" ]; then
	# shellcheck disable=SC2086
	echo $want
	exit 0
fi

if ! command -v go >/dev/null; then
	echo "need.sh: Go 1.26 or newer is needed: https://go.dev/dl/" >&2
	exit 1
fi

missing=""
if command -v dpkg-query >/dev/null; then
	for p in $want; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
	done
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "need.sh: these packages are missing:$missing" >&2
	exit 1
fi
echo "installing:$missing"
# A policy-rc.d that says no: a server that comes with a package is not to
# be started on this machine.
policy=/usr/sbin/policy-rc.d
made=""
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' > $policy
	chmod 755 $policy
	made=1
fi
trap '[ -z "$made" ] || rm -f $policy' EXIT
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
apt-get install -y --no-install-recommends $missing >/dev/null 2>&1 ||
	{ apt-get update >/dev/null && apt-get install -y --no-install-recommends $missing >/dev/null; }
