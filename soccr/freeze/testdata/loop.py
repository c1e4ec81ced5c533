"""What an asyncio program waits in, for a second and a half. Prints what went
wrong, else how often it did each."""

import asyncio
import select
import socket
import threading
import time

END = time.monotonic() + 1.5
counts = {"echoes": 0, "ticks": 0, "selects": 0}


async def serve(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
    writer.close()


async def echo(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < END:
        writer.write(b"x" * 1000)
        await asyncio.wait_for(reader.readexactly(1000), 1)
        counts["echoes"] += 1
    writer.close()


async def tick():
    while time.monotonic() < END:
        await asyncio.sleep(0.003)
        counts["ticks"] += 1


def blocking():
    """Calls that Python itself restarts after EINTR, and a timeout."""
    a, b = socket.socketpair()
    a.settimeout(0.01)
    while time.monotonic() < END:
        select.select([a], [], [], 0.005)
        try:
            a.recv(1)
        except TimeoutError:
            counts["selects"] += 1
    b.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*(echo(port) for _ in range(3)), *(tick() for _ in range(3)))
    server.close()


thread = threading.Thread(target=blocking)
thread.start()
asyncio.run(main())
thread.join()
print("ok", *counts.values())
