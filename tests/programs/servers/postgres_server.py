"""Serves at 127.0.0.1:argv[1] what asks PostgreSQL by psycopg2, over connections that are there before any request: two to the
address argv[2] for paths that begin with `/unix/`, two to argv[3] for `/tcp/`. What is sent has the request's ID in a comment.
A request sends nothing but what its path says, not even the begin of a transaction."""
import logging
import os
import queue
import sys
import time

import psycopg2
from werkzeug.serving import run_simple

logging.disable(logging.CRITICAL)
port, *addresses = sys.argv[1:]
pools = {}


def connect(address):
    connection = psycopg2.connect(address)
    connection.autocommit = True
    return connection


for name, address in zip(("unix", "tcp"), addresses):
    pools[name] = queue.Queue()
    for _ in range(2):
        pools[name].put(connect(address))


class Connection:
    """One of a pool, for some time."""

    def __init__(self, name):
        self.pool = pools[name]

    def __enter__(self):
        self.connection = self.pool.get()
        return self.connection.cursor()

    def __exit__(self, *failure):
        self.pool.put(self.connection)


def count(cursor, number):
    """Waits for as long as somebody has locked the table."""
    cursor.execute("SELECT count(*) FROM held /* %s */" % number)


def sleep(cursor, number):
    """Takes long enough that its waiting is told."""
    cursor.execute("SELECT pg_sleep(0.2) /* %s */" % number)


def first(name, number):
    """Waits in the first thing that it asks for."""
    with Connection(name) as cursor:
        count(cursor, number)


def second(name, number):
    """Has an answer over the other kind of connection before."""
    with Connection("tcp" if name == "unix" else "unix") as cursor:
        sleep(cursor, number)
    first(name, number)


def after(name, number):
    """Has its answer, and waits for something else: a file beside the account."""
    with Connection(name) as cursor:
        sleep(cursor, number)
        while not os.path.exists("go"):
            time.sleep(0.02)


WORK = {"first": first, "second": second, "after": after}


def application(environ, start_response):
    _, name, *rest = environ["PATH_INFO"].split("/")
    if name != "quick":
        WORK[rest[0]](name, environ["HTTP_X_REQUEST_ID"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"done\n"]


run_simple("127.0.0.1", int(port), application, threaded=True)
