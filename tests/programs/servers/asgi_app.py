"""Truth: the application awaits `handle`, which awaits `answer`, which burns in `totals` (slot 0), under the chain of calls
that the interpreter tells; see ../python/oracle.py, which must be on the path. For uvicorn: `asgi_app:application`."""
import asyncio

from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell


def totals():
    tell(0)
    began, quota, x = clock(), jitter(3 * MS), 1
    while clock() - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
    account[0] += clock() - began
    account[UNITS] += 1
    return x


async def answer():
    return b"%d\n" % totals()


async def handle():
    # As a server that waits for a database: others run in between.
    await asyncio.sleep(0.001)
    return await answer()


async def application(scope, receive, send):
    if scope["type"] == "http":
        body = await handle()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
