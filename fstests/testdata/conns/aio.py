"""aio.py: an exchange with asyncio. Usage and report: c/exchange.h."""
import asyncio
import errno
import json
import socket
import struct
import sys
import time

PERIOD = 262139
SEEDS = {"client": 0x9E3779B9, "server": 0x7F4A7C15}
MAX_ERRORS = 1000


def table(seed):
    x, words = seed, []
    for _ in range(PERIOD // 4 + 1):
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        words.append(x)
    b = struct.pack("<%dI" % len(words), *words)[:PERIOD]
    return b + b


class Report:
    def __init__(self):
        self.sent = self.received = self.corrupt = self.reads = 0
        self.errors, self.eof = {}, False
        self.last = self.gap = 0

    def failed(self, e):
        name = errno.errorcode.get(getattr(e, "errno", None), type(e).__name__)
        self.errors[name] = self.errors.get(name, 0) + 1
        return sum(self.errors.values()) >= MAX_ERRORS

    def got(self, want, data):
        at, now = self.received % PERIOD, time.monotonic_ns()
        want = want[at:at + len(data)]
        if data != want:
            self.corrupt += sum(a != b for a, b in zip(data, want))
        if self.last:
            self.gap = max(self.gap, now - self.last)
        self.last = now
        self.received += len(data)
        self.reads += 1

    def json(self):
        return json.dumps({
            "sent": self.sent, "received": self.received, "corrupt": self.corrupt, "reads": self.reads,
            "eintr": self.errors.pop("EINTR", 0), "max_gap_us": self.gap // 1000, "eof": self.eof,
            "errors": self.errors})


async def receive(report, reader, want):
    while True:
        try:
            data = await reader.read(65536)
        except OSError as e:
            if report.failed(e):
                return
            continue
        if not data:
            report.eof = True
            return
        report.got(want, data)


async def send(report, writer, stream, opts, stop):
    start = time.monotonic()
    while not stop.is_set():
        if opts["rate"]:
            early = start + report.sent / opts["rate"] - time.monotonic()
            if early > 0.001:
                await asyncio.sleep(early)
        at, n = report.sent % PERIOD, 1 + (report.sent * 2654435761 >> 7) % 2**32 % opts["size"]
        try:
            writer.write(stream[at:at + n])
            report.sent += n
            await writer.drain()
        except OSError as e:
            if report.failed(e):
                return
        await asyncio.sleep(0)  # read in between
    try:
        writer.write_eof()
        await writer.drain()
    except OSError as e:
        report.failed(e)


async def connection(role, address, port, opts):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if opts["buf"]:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, opts["buf"])
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, opts["buf"])
    s.setblocking(False)
    loop = asyncio.get_running_loop()
    if role == "client":
        await loop.sock_connect(s, (address, port))
    else:
        s.bind((address, port))
        s.listen(1)
        print("ready", flush=True)
        listener = s
        s, _ = await loop.sock_accept(listener)
        listener.close()
    print("connected", flush=True)
    return await asyncio.open_connection(sock=s)


async def main(role, address, port, *settings):
    opts = {"size": 16384, "rate": 0, "buf": 0}
    opts.update((k, int(v)) for k, v in (x.split("=") for x in settings))
    reader, writer = await connection(role, address, int(port), opts)
    report, stop = Report(), asyncio.Event()
    receiver = asyncio.create_task(receive(report, reader, table(SEEDS["server" if role == "client" else "client"])))
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    await commands.readexactly(1)
    sender = asyncio.create_task(send(report, writer, table(SEEDS[role]), opts, stop))
    await commands.read()
    stop.set()
    await asyncio.gather(sender, receiver)
    print(report.json())


asyncio.run(main(*sys.argv[1:]))
