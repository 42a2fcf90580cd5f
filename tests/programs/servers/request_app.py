"""Truth: each request that has an `X-Request-ID` is written down when its handler is done, as a line of `requests` beside the
account: id, native thread, CLOCK_MONOTONIC at the handler's begin and end, and the thread CPU time in between, nanoseconds.
Each path burns, sleeps or copies in a function of its own, `work_PATH`. WSGI: `request_app:application`, ASGI:
`request_app:asynchronous`; see ../python/oracle.py for $ORACLE. What the server itself does is in socket_log.py."""
import asyncio
import logging
import os
import threading
import time

import socket_log  # it watches from when it is imported

MS = 1000000
PAUSE = 0.03
log = os.open(
    os.path.join(os.path.dirname(os.environ["ORACLE"]), "requests"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
)
# It tells of each request that waits for a thread.
logging.getLogger("waitress.queue").disabled = True
mono, cpu = time.monotonic_ns, time.thread_time_ns


class Noted:
    """One request: written down when it is told to be done, once."""

    def __init__(self, number):
        self.number, self.began, self.burnt = number, mono(), cpu()

    def done(self):
        end, burnt = mono(), cpu() - self.burnt
        if self.number:
            line = "%s %d %d %d %d\n" % (self.number, threading.get_native_id(), self.began, end, burnt)
            os.write(log, line.encode())


def work_quick(body):
    return "200 OK", [b"quick\n"]


def work_sleep(body):
    time.sleep(PAUSE)
    return "200 OK", [b"slept\n"]


def work_long(body):
    time.sleep(2)
    return "200 OK", [b"slept long\n"]


def work_burn(body):
    began, x = cpu(), 1
    while cpu() - began < 30 * MS:
        for _ in range(500):
            x = x * 31 & 65535
    return "200 OK", [b"%d\n" % x]


def help_burn():
    work_burn(())


def help_sleep():
    time.sleep(3 * PAUSE)


def work_threads(body):
    helpers = [threading.Thread(target=help_burn), threading.Thread(target=help_sleep)]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    return "200 OK", [b"helped\n"]


def work_error(body):
    return "500 Internal Server Error", [b"failed\n"]


def work_stream(body):
    return "200 OK", (b"part %d of the stream\n" % n * 20 for n in range(5))


def work_upload(body):
    return "200 OK", [b"%d\n" % sum(len(part) for part in body)]


def work_download(body):
    return "200 OK", [b"0123456789abcdef" * 19200]


WORK = {"/" + name[5:]: value for name, value in list(globals().items()) if name.startswith("work_")}


def pieces(noted, parts):
    """The last part leaves when the request is done: what follows it is the server's."""
    last = None
    for part in parts:
        if last is not None:
            yield last
        last = part
    noted.done()
    yield last


def body_of(environ):
    left = int(environ.get("CONTENT_LENGTH") or 0)
    while left:
        part = environ["wsgi.input"].read(min(left, 16384))
        if not part:
            break
        left -= len(part)
        yield part


def application(environ, start_response):
    noted = Noted(environ.get("HTTP_X_REQUEST_ID"))
    path = environ["PATH_INFO"]
    status, parts = WORK[path](body_of(environ))
    headers = [("Content-Type", "text/plain")]
    if isinstance(parts, list):
        headers.append(("Content-Length", str(sum(map(len, parts)))))
    start_response(status, headers)
    return pieces(noted, parts)


async def asynchronous(scope, receive, send):
    if scope["type"] != "http":
        return
    headers = dict(scope["headers"])
    noted, body, more = Noted(headers.get(b"x-request-id", b"").decode()), [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body.append(message.get("body", b""))
        more = message.get("more_body", False)
    if scope["path"] == "/sleep":
        await asyncio.sleep(PAUSE)
        status, parts = "200 OK", [b"slept\n"]
    elif scope["path"] == "/long":
        await asyncio.sleep(2)
        status, parts = "200 OK", [b"slept long\n"]
    else:
        status, parts = WORK[scope["path"]](body)
    told = [(b"content-type", b"text/plain")]
    if isinstance(parts, list):
        told.append((b"content-length", b"%d" % sum(map(len, parts))))
    await send({"type": "http.response.start", "status": int(status[:3]), "headers": told})
    for part in pieces(noted, parts):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
