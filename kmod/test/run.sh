#!/bin/sh
# run.sh MODULE SELFTEST SERVER LIBRARY: loads the module, tests it, alone and
# for servers that know nothing of it, by our libfsocket and by libraries that
# behave as Fastsocket's two do (original.c), and unloads it. For a guest.
set -u
status=0
fail() { echo "not ok - $*"; status=1; }

insmod "$1" enable_listen_spawn=7 2>/dev/null && fail "a spawn mode that there is not"
insmod "$1" enable_fast_epoll=1 || exit 1
[ "$(stat -c %a /dev/fastsocket)" = 444 ] || fail "mode of /dev/fastsocket"
"$2" || status=1
cat /proc/net/fsocket_stats
FSOCKET_DEBUG=1 LD_PRELOAD=$4 setsid "$3" serve 7200 &
server=$!
sleep 1
if "$2" check 7200; then echo "ok - libfsocket"; else fail "libfsocket"; fi
kill -9 -$server
wait $server
cat /proc/net/fsocket_stats
# The servers of demo.c: one, one behind a proxy.
for library in /newer.so /older.so; do
	LD_PRELOAD=$library setsid /demo 7300 &
	server=$!
	LD_PRELOAD=$library setsid /demo 7301 7300 &
	proxy=$!
	sleep 1
	if /demo get 7300 60 server; then echo "ok - $library, server"; else fail "$library, server"; fi
	if /demo get 7301 60 proxy; then echo "ok - $library, proxy"; else fail "$library, proxy"; fi
	kill -9 -$server -$proxy
	wait $server $proxy
done
cat /proc/net/fsocket_stats
(exec 3< /dev/fastsocket; exec sleep 3) &
sleep 1
rmmod fastsocket 2>/dev/null && fail "unloaded while it is in use"
wait
i=0
until rmmod fastsocket 2>/dev/null; do
	i=$((i + 1))
	[ $i -lt 50 ] || { fail "does not unload"; break; }
	sleep 0.1
done
[ -e /dev/fastsocket ] && fail "/dev/fastsocket is left"
[ -e /proc/net/fsocket_stats ] && fail "fsocket_stats is left"
if ! insmod "$1" enable_listen_spawn=0 || ! rmmod fastsocket; then fail "a second time"; fi
exit $status
