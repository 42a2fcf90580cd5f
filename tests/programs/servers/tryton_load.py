"""Logs in to the Tryton at 127.0.0.1:argv[1] and asks it for the same records again and again, from argv[2] threads, for
argv[3] seconds. Counts the requests that were answered; see ../python/oracle.py, which must be on the path."""
import base64
import http.client
import json
import sys
import threading
import time

from oracle import UNITS, account

port, threads, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
# From Tryton 8 on, and before.
PATHS = "/tryton/rpc/", "/tryton/"


def call(method, *parameters, session=None):
    headers = {"Content-Type": "application/json"}
    if session:
        headers["Authorization"] = "Session " + base64.b64encode(session.encode()).decode()
    for path in PATHS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", path, json.dumps({"id": 1, "method": method, "params": parameters}), headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status == 200:
            break
    answer = json.loads(text)
    if "result" not in answer:
        sys.exit("error: %s: %s" % (method, answer))
    return answer["result"]


def ask(session, until):
    while time.monotonic() < until:
        call("model.ir.model.field.search_read", [["name", "ilike", "%a%"]], 0, 20, [["name", "ASC"]], ["name"], {}, session=session)
        account[UNITS] += 1


user, token, *_ = call("common.db.login", "admin", {"password": "admin"})
session = "admin:%d:%s" % (user, token)
workers = [threading.Thread(target=ask, args=(session, time.monotonic() + seconds)) for _ in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
