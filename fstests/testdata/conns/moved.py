"""moved.py: a client of redis that ends in the middle of everything, and its heir.

    moved.py begin ADDRESS        makes the connection and fills its queues
    moved.py go SENT RECEIVED ID  goes on with it as descriptor 3

Requests are ECHO commands with known bytes, so that both directions are one
known stream; where a process has come to in it is all that its heir has to
know. The connection is still the same one if redis calls it by the same ID.
"""
import array
import errno
import fcntl
import json
import os
import socket
import sys
import termios
import threading

COMMANDS, EARLY, SIZE = 200, 4, 8192
LIMIT = 30  # seconds


def payload(i):
    return bytes((i * 131 + k * k // 7 + k) & 0xFF for k in range(SIZE))


def request(i):
    return b"*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n" % (SIZE, payload(i))


def reply(i):
    return b"$%d\r\n%s\r\n" % (SIZE, payload(i))


REQUESTS = b"".join(map(request, range(COMMANDS)))
REPLIES = b"".join(map(reply, range(COMMANDS)))


def ask_id(s):
    s.sendall(b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n")
    answer = b""
    while not answer.endswith(b"\r\n"):
        answer += s.recv(1)
    return int(answer[1:])


def waiting(s):
    n = array.array("i", [0])
    fcntl.ioctl(s, termios.FIONREAD, n)
    return n[0]


def begin(address):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    s.connect((address, 6379))
    s.settimeout(LIMIT)
    number = ask_id(s)
    sent = sum(len(request(i)) for i in range(EARLY))
    early = sum(len(reply(i)) for i in range(EARLY))
    s.sendall(REQUESTS[:sent])
    while waiting(s) < early:
        pass
    received = 10000
    if s.recv(received, socket.MSG_WAITALL) != REPLIES[:received]:
        raise AssertionError("the first replies are wrong")
    print("stop redis", flush=True)
    sys.stdin.readline()
    s.setblocking(False)
    try:
        while True:
            sent += s.send(REQUESTS[sent:sent + 5000])
    except BlockingIOError:
        pass
    print(json.dumps({"sent": sent, "received": received, "id": number, "address": s.getsockname()[0],
                      "requests": len(REQUESTS), "replies": early}), flush=True)
    sys.stdin.readline()
    try:
        s.recv(1)
        end = "data"
    except OSError as e:
        end = errno.errorcode[e.errno]
    print(json.dumps({"end": end}), flush=True)


def go(sent, received, number):
    if os.environ["LISTEN_FDS"] != "1" or os.environ["LISTEN_PID"] != str(os.getpid()):
        raise AssertionError("LISTEN_FDS and LISTEN_PID are not for us")
    s = socket.socket(fileno=3)
    s.settimeout(LIMIT)
    print("restored", flush=True)
    sender = threading.Thread(target=s.sendall, args=(REQUESTS[sent:],))
    sender.start()
    while received < len(REPLIES):
        b = s.recv(65536)
        if not b or b != REPLIES[received:received + len(b)]:
            raise AssertionError("the replies differ after byte %d (%d more)" % (received, len(b)))
        received += len(b)
    sender.join()
    if ask_id(s) != number:
        raise AssertionError("it is another connection")
    print("all bytes", flush=True)


if sys.argv[1] == "begin":
    begin(sys.argv[2])
else:
    go(*map(int, sys.argv[2:]))
