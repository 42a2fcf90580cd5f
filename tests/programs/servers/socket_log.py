"""Truth: of each request whose `X-Request-ID` begins with `one`, when the server received its first byte and sent the last of its
answer, by the server's own clock. Each call that sent some of an answer adds a line to `sockets` beside the account: id,
CLOCK_MONOTONIC before and after the call that received the first byte, and before and after the one that sent, nanoseconds;
of an id the last line counts. The methods of `socket.socket` are wrapped when this is imported: what is done in C, as by
uvloop and uwsgi, is not seen. Requests of one connection must follow one another: a receive behind a send begins the next."""
import os
import re
import socket
import time
import weakref

mono = time.monotonic_ns
log = os.open(
    os.path.join(os.path.dirname(os.environ["ORACLE"]), "sockets"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
)
HEAD_BYTES = 4096
NUMBER = re.compile(rb"\r\nX-Request-ID: (one-[0-9]{1,20})\r\n", re.IGNORECASE)
# The last request of each socket that received something.
requests = weakref.WeakKeyDictionary()


class Request:
    """One request: its head as far as it has come, until its number is asked for."""

    __slots__ = "before", "after", "head", "number", "is_answered"

    def __init__(self, before, after):
        self.before, self.after = before, after
        self.head, self.number, self.is_answered = b"", None, False

    def receive(self, data):
        if len(self.head) < HEAD_BYTES:
            self.head += bytes(data[: HEAD_BYTES - len(self.head)])

    def sent(self, before, after):
        if self.number is None:
            found = NUMBER.search(self.head)
            self.number, self.head = found.group(1).decode() if found else "", b""
        if self.number:
            line = "%s %d %d %d %d\n" % (self.number, self.before, self.after, before, after)
            os.write(log, line.encode())


def note_receive(sock, before, after, data):
    request = requests.get(sock)
    if request is None or request.is_answered:
        request = requests[sock] = Request(before, after)
    request.receive(data)


def wrap_receive(plain, data_of, flags_at):
    """`data_of` is what was received, by the call's result and its arguments; flags are the argument `flags_at`."""

    def call(self, *args, **named):
        before = mono()
        result = plain(self, *args, **named)
        after = mono()
        flags = args[flags_at] if len(args) > flags_at else named.get("flags", 0)
        data = data_of(result, *args, **named)
        if len(data) and not flags & socket.MSG_PEEK:
            note_receive(self, before, after, data)
        return result

    return call


def wrap_send(plain, is_any):
    """`is_any` tells whether a byte was sent, by the call's result and its first argument."""

    def call(self, *args):
        request = requests.get(self)
        if request is None:
            return plain(self, *args)
        # The next request may be received by another thread before this one comes back.
        request.is_answered = True
        before = mono()
        result = plain(self, *args)
        after = mono()
        if is_any(result, args[0]):
            request.sent(before, after)
        return result

    return call


def filled(length, buffer):
    return memoryview(buffer).cast("B")[:length]


def filled_all(length, buffers):
    return b"".join(map(bytes, buffers))[:length]


RECEIVES = {
    "recv": (lambda result, *_: result, 1),
    "recvfrom": (lambda result, *_: result[0], 1),
    "recvmsg": (lambda result, *_: result[0], 2),
    "recv_into": (lambda result, buffer, *_, **named: filled(result, buffer), 2),
    "recvfrom_into": (lambda result, buffer, *_, **named: filled(result[0], buffer), 2),
    "recvmsg_into": (lambda result, buffers, *_: filled_all(result[0], buffers), 2),
}
SENDS = {
    "send": lambda result, _: result > 0,
    "sendto": lambda result, _: result > 0,
    "sendmsg": lambda result, _: result > 0,
    "sendall": lambda _, data: memoryview(data).nbytes > 0,
}
for name, (data_of, flags_at) in RECEIVES.items():
    setattr(socket.socket, name, wrap_receive(getattr(socket.socket, name), data_of, flags_at))
for name, is_any in SENDS.items():
    setattr(socket.socket, name, wrap_send(getattr(socket.socket, name), is_any))
