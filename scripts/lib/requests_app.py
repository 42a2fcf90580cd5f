"""A small web application for scripts/try-requests: one thread per request, three paths.

usage: requests_app.py PORT

/quick answers at once, /report computes for a third of a second, /order waits for a lock that another
order holds. It tells nobody who asks: txprof reads the user from the request's own header.
"""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STOCK = threading.Lock()


def quick():
    return "hello\n"


def report():
    """Keeps a CPU busy."""
    until = time.thread_time() + 0.3
    rows = 0
    while time.thread_time() < until:
        rows += add_up(range(2000))
    return f"{rows}\n"


def add_up(rows):
    return sum(row * row for row in rows) % 7


def order():
    """Waits for whoever orders now."""
    with STOCK:
        take_from_stock()
    return "ordered\n"


def take_from_stock():
    time.sleep(0.4)


PATHS = {"/quick": quick, "/report": report, "/order": order}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        answer = PATHS.get(self.path.partition("?")[0])
        body = answer().encode() if answer else b"no such path\n"
        self.send_response(200 if answer else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
