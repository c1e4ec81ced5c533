#!/bin/bash
# demo.sh: the main job, shown: a real server and a real client on two
# stacks of one machine. Everything is below a temporary directory, on
# namespaces of its own, and is removed at the end.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
[ "$(id -u)" -eq 0 ] || { echo "demo.sh: mounting needs root (sudo make demo)" >&2; exit 1; }

work=$(mktemp -d /tmp/stackfs-demo.XXXXXX)
net=$work/net
# An ordinary user takes part: what he needs must not be in root's home.
chmod 755 "$work"
mkdir -p "$net" "$work/www" "$work/bin"
cp "$top/build/stackfs" "$work/bin/"
export PATH="$work/bin:$PATH"
server=
counter=
client=
cleanup() {
	for pid in $server $counter $client; do kill "$pid" 2>/dev/null || true; done
	timeout 20 stackfs umount --force "$net" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

say() { printf '\n# %s\n' "$*"; }
run() { printf '$ %s\n' "$*" | sed "s#$work#DEMO#g"; timeout 30 "$@"; }

echo "hello from a stack of its own" > "$work/www/index.html"
cat > "$work/demo.toml" <<TOML
discover = false
state_dir = "$work/state"

[stack.shop]
addresses = ["10.9.0.1/24", "fd09::1/64"]
uplink = { type = "veth", peer_addresses = ["10.9.0.2/24", "fd09::2/64"] }

[stack.visitor]
addresses = ["10.9.1.1/24"]
routes = ["default via 10.9.1.2"]
uplink = { type = "veth", peer_addresses = ["10.9.1.2/24"] }
mode = "0755"
TOML

say "A configuration: two stacks, each a network of its own, and a mount."
sed 's/^/    /' "$work/demo.toml"
run stackfs mount -c "$work/demo.toml" "$net"
run ls -l "$net"
run stackfs ls "$net"

say "A real server, unmodified, on the stack \"shop\"."
printf '$ stackfs run DEMO/net/shop -- python3 -m http.server 80 --bind :: &\n'
stackfs run "$net/shop" -- python3 -m http.server 80 --bind :: --directory "$work/www" >/dev/null 2>&1 &
server=$!
for _ in $(seq 100); do
	timeout 5 stackfs run "$net/shop" -- curl -s -o /dev/null http://127.0.0.1/ && break
	sleep 0.1
done

say "A client on the same stack reaches it at 127.0.0.1; the host does not."
run stackfs run "$net/shop" -- curl -s http://127.0.0.1/
printf '$ curl -s http://127.0.0.1:80/\n'
if timeout 10 curl -s -o "$work/out" --connect-timeout 2 http://127.0.0.1:80/ && grep -q 'of its own' "$work/out"; then
	echo "the host reached the server on its own loopback: that must not be" >&2
	exit 1
fi
echo "(not our server: it is in another stack)"

say "The host reaches it by its address, over IPv4 and IPv6."
run curl -s http://10.9.0.1/
run curl -s 'http://[fd09::1]/'

say "Another stack has its own addresses; an ordinary user may use it (0755)."
run stackfs run "$net/visitor" -- ip -brief -4 address
run setpriv --reuid 65534 --regid 65534 --clear-groups stackfs run "$net/visitor" -- ip -brief -4 address

say "... but not the one whose mode says no (0700)."
printf '$ setpriv --reuid 65534 ... stackfs run DEMO/net/shop -- true\n'
if timeout 10 setpriv --reuid 65534 --regid 65534 --clear-groups stackfs run "$net/shop" -- true; then
	echo "that must not be" >&2
	exit 1
fi

say "No networking at all: the stack \"null\"."
printf '$ stackfs run DEMO/net/null -- curl -s http://10.9.0.1/\n'
timeout 10 stackfs run "$net/null" -- curl -sS http://10.9.0.1/ || true

say "A stack is made and removed like a directory."
run mkdir "$net/scratch"
run cat "$net/scratch/status"
run rmdir "$net/scratch"

say "Every TCP connection is a directory. A server that counts, and a client that has asked it twice:"
cat > "$work/count.py" <<'PY'
import socket
s = socket.create_server(("10.9.0.1", 7000))
conn, peer = s.accept()
for n, line in enumerate(conn.makefile("rb"), 1):
    conn.sendall(b"%d lines from %s port %d\n" % (n, peer[0].encode(), peer[1]))
PY
cat > "$work/ask.py" <<'PY'
import socket, time
s = socket.create_connection(("10.9.0.1", 7000))
for _ in range(2):
    s.sendall(b"hello\n")
    print(s.recv(100).decode(), end="", flush=True)
time.sleep(60)
PY
stackfs run "$net/shop" -- python3 "$work/count.py" &
counter=$!
for _ in $(seq 100); do
	stackfs conns -l --no-header --sport 7000 "$net/shop" | grep -q . && break
	sleep 0.1
done
stackfs run "$net/shop" -- python3 "$work/ask.py" > "$work/asked" &
client=$!
for _ in $(seq 100); do
	[ "$(wc -l < "$work/asked")" -eq 2 ] && break
	sleep 0.1
done
cat "$work/asked"
run stackfs conns --dport 7000 "$net/shop"
conn=$(stackfs conns --no-header --dport 7000 "$net/shop" | awk '{ print $NF }')
run cat "$net/shop/conns/$conn/remote"

say "Its checkpoint is a file; reading it disturbs nobody. With --move it ends here, without a packet ..."
run stackfs checkpoint --move -o "$work/conn.img" "$net/shop/conns/$conn"
run stackfs inspect "$work/conn.img"
kill "$client"
wait "$client" 2>/dev/null || true
client=

say "... and another program goes on with it. For the server it is the same client."
run stackfs restore "$work/conn.img" "$net/shop" -- sh -c 'echo hello >&3; head -1 <&3'
wait "$counter"
counter=

say "The end: everything that was made is removed."
kill "$server"
wait "$server" 2>/dev/null || true
server=
run stackfs umount "$net"
echo
echo "demo: done"
