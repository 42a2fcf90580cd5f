"""Serves request_app.py at 127.0.0.1:argv[2] by the server argv[1], one that has no program of its own: `werkzeug`, `runserver`
(Django's), or `http.server`, whose handler calls the functions of the paths itself."""
import logging
import sys

import request_app

logging.disable(logging.CRITICAL)


def serve_werkzeug(port):
    from werkzeug.serving import run_simple

    run_simple("127.0.0.1", port, request_app.application, threaded=True)


def serve_runserver(port):
    from django.conf import settings
    from django.core.management import execute_from_command_line

    settings.configure(
        SECRET_KEY="not secret", DEBUG=False, ALLOWED_HOSTS=["*"], WSGI_APPLICATION="request_app.application"
    )
    execute_from_command_line(["manage.py", "runserver", "--noreload", "127.0.0.1:%d" % port])


def serve_plain(port):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            environ = {
                "PATH_INFO": self.path,
                "HTTP_X_REQUEST_ID": self.headers.get("X-Request-ID"),
                "CONTENT_LENGTH": self.headers.get("Content-Length"),
                "wsgi.input": self.rfile,
            }
            parts = request_app.application(environ, self.begin)
            for part in parts:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if self.chunked else part)
            if self.chunked:
                self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = handle_any

        def begin(self, status, headers):
            self.send_response(int(status[:3]))
            self.chunked = "Content-Length" not in dict(headers)
            for name, value in headers + [("Transfer-Encoding", "chunked")] * self.chunked:
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *words):
            pass

    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


SERVERS = {"werkzeug": serve_werkzeug, "runserver": serve_runserver, "http.server": serve_plain}
SERVERS[sys.argv[1]](int(sys.argv[2]))
