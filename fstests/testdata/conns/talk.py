"""talk.py: one end of a TCP connection, which does what it is told.

    talk.py listen ADDRESS PORT    says "ready", then "connected"
    talk.py connect ADDRESS PORT   says "connected"
    talk.py farm ADDRESS PORT N    makes N connections to itself, says "ready"

Then each line of its input is an order: "send TEXT", "urgent TEXT", "fill"
(sends until nothing more fits), "read" (prints a line of the peer, or what
happened instead).
"""
import socket
import sys

LIMIT = 30  # seconds


def listener(address, port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, port))
    s.listen(64)
    return s


def say(word):
    print(word, flush=True)


def main(role, address, port, count=0):
    if role == "farm":
        here, ends = listener(address, port), []
        for _ in range(count):
            ends.append(socket.create_connection((address, port)))
            ends.append(here.accept()[0])
        say("ready")
        sys.stdin.read()
        return
    if role == "listen":
        here = listener(address, port)
        say("ready")
        conn, _ = here.accept()
        here.close()
    else:
        conn = socket.create_connection((address, port))
    conn.settimeout(LIMIT)
    say("connected")
    lines = conn.makefile("rb", buffering=0)
    for order in sys.stdin:
        verb, _, text = order.rstrip("\n").partition(" ")
        try:
            if verb == "send":
                conn.sendall(text.encode() + b"\n")
            elif verb == "urgent":
                conn.send(text.encode(), socket.MSG_OOB)
            elif verb == "fill":
                conn.settimeout(0.2)
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                try:
                    while True:
                        conn.send(bytes(1 << 16))
                except TimeoutError:
                    conn.settimeout(LIMIT)
            elif verb == "read":
                say(lines.readline().decode().rstrip("\n") or "end")
        except OSError as e:
            say(type(e).__name__)


main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
