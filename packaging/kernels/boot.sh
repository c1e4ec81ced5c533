#!/bin/bash
# boot.sh RELEASE CPUS ROOT [PARAMETER...]: boots a kernel that fetch.sh has
# fetched in QEMU, runs /test there and ends with its status. ROOT is a
# directory, or the image of an ext4 file system, which is left as it was. A
# warning or an oops of the kernel, and no end in time, are failures. The
# parameters are the kernel's, and BOOT_APPEND. Seconds: BOOT_TIME (300); MB:
# BOOT_MEMORY (1536).
set -euo pipefail

die() { echo "boot.sh: $*" >&2; exit 1; }

[ $# -ge 3 ] || die "usage: boot.sh RELEASE CPUS ROOT [PARAMETER...]"
cd "$(dirname "$0")/../.."
rel=$1 cpus=$2 root=$3
shift 3
kernel=build/kernels/$rel/boot/vmlinuz-$rel
[ -e "$kernel" ] || die "no kernel $rel: run packaging/kernels/fetch.sh first"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/tree/bin"
disk=()
if [ -d "$root" ]; then
	[ -x "$root/test" ] || die "$root/test is no program"
	cp -a "$root/." "$work/tree/"
else
	mkdir "$work/tree/disk"
	find "build/kernels/$rel/lib/modules/$rel/kernel/drivers" -name 'virtio*.ko*' -exec cp {} "$work/tree/disk/" \;
	find "$work/tree/disk" -name '*.xz' -exec xz -d {} +
	disk=(-drive "file=$root,format=raw,if=virtio,snapshot=on")
fi
chmod 755 "$work/tree"
cp /bin/busybox "$work/tree/bin/busybox"
cp packaging/kernels/init "$work/tree/init"
(cd "$work/tree" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/initrd"

# There is no KVM where this has to run. slub_debug finds uses of memory that
# was freed; a warning ends the guest.
log=$work/log
# It does not outlive this script.
setpriv --pdeathsig TERM timeout "${BOOT_TIME:-300}" qemu-system-x86_64 -M q35 -cpu max -accel tcg,thread=multi -smp "$cpus" \
	-m "${BOOT_MEMORY:-1536}" -nographic -no-reboot -nodefaults -serial stdio "${disk[@]}" \
	-kernel "$kernel" -initrd "$work/initrd" \
	-append "console=ttyS0 quiet rdinit=/init panic=-1 oops=panic panic_on_warn=1 slub_debug=FZPU ${BOOT_APPEND:-} $*" \
	</dev/null 2>&1 | tee "$log" || die "$rel with $cpus CPUs did not end in ${BOOT_TIME:-300} s"

if grep -aE 'BUG[: ]|WARNING:|Oops|refcount_t:|rcu:.*stall|blocked for more than|Kernel panic|Poison overwritten|possible recursive' "$log" >/dev/null; then
	die "$rel with $cpus CPUs: the kernel complained"
fi
status=$(tr -d '\r' < "$log" | sed -n 's/^guest: status //p' | tail -1)
echo "kernel $rel, $cpus CPUs: status ${status:-unknown: the test did not end}"
exit "${status:-1}"
