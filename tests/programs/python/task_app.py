"""Truth: the request for /N works in the function `work_N` alone, for some 2 ms of CPU time in four pieces, between which it
sleeps while others work; each is written down as ../servers/request_app.py tells, with the CPU time that its own pieces
took. /quick answers at once. ASGI: `task_app:asynchronous`; see oracle.py for $ORACLE."""
import asyncio
import os
import random
import threading
import time

PIECES, PIECE_NS = 4, 500_000
log = os.open(
    os.path.join(os.path.dirname(os.environ["ORACLE"]), "requests"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
)
cpu = time.thread_time_ns
TEXT = """
def work_%d():
    began, x = cpu(), 1
    while cpu() - began < PIECE_NS:
        for _ in range(50):
            x = x * 31 & 65535
    return cpu() - began
"""
for number in range(100):
    exec(TEXT % number)
WORK = {"/%d" % number: globals()["work_%d" % number] for number in range(100)}


async def handle(work):
    burnt = 0
    for _ in range(PIECES):
        await asyncio.sleep(random.uniform(0.001, 0.02))
        burnt += work()
    return burnt


async def answer(path, number):
    """The body for `path`, written down under `number`."""
    began, burnt = time.monotonic_ns(), 0
    work = WORK.get(path)
    if work:
        burnt = await handle(work)
    if number:
        line = "%s %d %d %d %d\n" % (number, threading.get_native_id(), began, time.monotonic_ns(), burnt)
        os.write(log, line.encode())
    return b"%d\n" % burnt


async def asynchronous(scope, receive, send):
    if scope["type"] != "http":
        return
    number = dict(scope["headers"]).get(b"x-request-id", b"").decode()
    body = await answer(scope["path"], number)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
