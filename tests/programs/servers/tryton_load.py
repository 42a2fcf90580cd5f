"""Logs in to the Tryton at 127.0.0.1:argv[1] and asks it for the same records again and again, from argv[2] threads, for
argv[3] seconds. Prints the number of requests."""
import base64
import http.client
import json
import sys
import threading
import time

port, threads, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
served = []


def call(method, *parameters, session=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json"}
    if session:
        headers["Authorization"] = "Session " + base64.b64encode(session.encode()).decode()
    connection.request("POST", "/tryton/rpc/", json.dumps({"id": 1, "method": method, "params": parameters}), headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    if "result" not in answer:
        sys.exit("error: %s: %s" % (method, answer))
    return answer["result"]


def ask(session, until):
    while time.monotonic() < until:
        call("model.ir.model.search_read", [["name", "ilike", "%a%"]], 0, 200, None, ["name", "module"], {}, session=session)
        served.append(1)


user, token, *_ = call("common.db.login", "admin", {"password": "admin"})
session = "admin:%d:%s" % (user, token)
workers = [threading.Thread(target=ask, args=(session, time.monotonic() + seconds)) for _ in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(len(served))
