#!/bin/bash
# test-kmod.sh CPUS SERIES...: builds the module for Debian's kernel of each
# series (6.1, 6.12), boots that and runs the module's tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
cpus=$1
shift
export STACKFS_SCALE=${STACKFS_SCALE:-50}

releases=$(packaging/kernels/fetch.sh "$@")
mkdir -p build/kmod
gcc -O2 -Wall -Wextra -Werror -static -pthread -o build/kmod/selftest kmod/test/selftest.c
gcc -O2 -Wall -Wextra -Werror -pthread -o build/kmod/server kmod/test/selftest.c
gcc -O2 -Wall -Wextra -Werror -o build/kmod/demo kmod/test/demo.c
gcc -O2 -Wall -Wextra -Werror -fPIC -shared -o build/kmod/newer.so kmod/test/original.c
gcc -O2 -Wall -Wextra -Werror -fPIC -shared -DAT_EPOLL -o build/kmod/older.so kmod/test/original.c
make -s -C stacknode/fsocket all
status=0
for rel in $releases; do
	make -s -C kmod KDIR="$PWD/build/kernels/$rel/headers" OUT="$PWD/build/kmod/$rel"
	root=$(mktemp -d)
	trap 'rm -rf "$root"' EXIT
	cp build/kmod/selftest build/kmod/server build/kmod/demo build/kmod/{newer,older}.so build/libfsocket.so kmod/test/run.sh "build/kmod/$rel/fastsocket.ko" "$root/"
	printf '#!/bin/sh\nexport STACKFS_SCALE=%s\nexec /run.sh /fastsocket.ko /selftest /server /libfsocket.so\n' "$STACKFS_SCALE" > "$root/test"
	for lib in $(ldd build/kmod/{server,demo} build/libfsocket.so | grep -oE '/[^ ]+[^: ]' | grep '\.so' | sort -u); do
		[ -e "$root$lib" ] || install -D "$lib" "$root$lib"
	done
	chmod 755 "$root/test"
	BOOT_TIME=${BOOT_TIME:-420} setpriv --pdeathsig TERM packaging/kernels/boot.sh "$rel" "$cpus" "$root" || status=1
	rm -rf "$root"
done
exit $status
