#!/bin/bash
# boot.sh RELEASE CPUS DIR [PARAMETER...]: boots a kernel that fetch.sh has
# fetched in QEMU, with DIR as its root, runs DIR/test there and ends with its
# status. A warning or an oops of the kernel, and no end in time, are failures.
# The parameters are the kernel's. Seconds: BOOT_TIME (300).
set -euo pipefail

die() { echo "boot.sh: $*" >&2; exit 1; }

[ $# -ge 3 ] || die "usage: boot.sh RELEASE CPUS DIR [PARAMETER...]"
cd "$(dirname "$0")/../.."
rel=$1 cpus=$2 dir=$3
shift 3
kernel=build/kernels/$rel/boot/vmlinuz-$rel
[ -e "$kernel" ] || die "no kernel $rel: run packaging/kernels/fetch.sh first"
[ -x "$dir/test" ] || die "$dir/test is no program"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/tree/bin"
cp -a "$dir/." "$work/tree/"
chmod 755 "$work/tree"
cp /bin/busybox "$work/tree/bin/busybox"
cp packaging/kernels/init "$work/tree/init"
(cd "$work/tree" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/initrd"

# There is no KVM where this has to run. slub_debug finds uses of memory that
# was freed; a warning ends the guest.
log=$work/log
# It does not outlive this script.
setpriv --pdeathsig TERM timeout "${BOOT_TIME:-300}" qemu-system-x86_64 -M q35 -cpu max -accel tcg,thread=multi -smp "$cpus" -m 1536 \
	-nographic -no-reboot -nodefaults -serial stdio -kernel "$kernel" -initrd "$work/initrd" \
	-append "console=ttyS0 quiet rdinit=/init panic=-1 oops=panic panic_on_warn=1 slub_debug=FZPU $*" \
	</dev/null 2>&1 | tee "$log" || die "$rel with $cpus CPUs did not end in ${BOOT_TIME:-300} s"

if grep -aE 'BUG[: ]|WARNING:|Oops|refcount_t:|rcu:.*stall|blocked for more than|Kernel panic|Poison overwritten|possible recursive' "$log" >/dev/null; then
	die "$rel with $cpus CPUs: the kernel complained"
fi
status=$(tr -d '\r' < "$log" | sed -n 's/^guest: status //p' | tail -1)
echo "kernel $rel, $cpus CPUs: status ${status:-unknown: the test did not end}"
exit "${status:-1}"
