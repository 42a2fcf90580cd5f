"""Asks the Tryton at 127.0.0.1:argv[1] for argv[2] different things from four threads, each with an ID of its own, over
connections that are kept, with bodies that are compressed or not, to be answered with a result or with an error inside of
status 200. Tells each as a line of its own: ID, RPC method, user, whether it failed, and who the user is that the server's
answer names, separated by tabs; `-` is none. With `held` as argv[3] it says `ready` when it has logged in, and goes on when it
gets a line."""
import base64
import gzip
import http.client
import json
import sys
import threading

port, count = map(int, sys.argv[1:3])
# From Tryton 8 on, and before.
PATHS = "/tryton/rpc/", "/tryton/"
ERROR = "UserError"
local = threading.local()
lock = threading.Lock()


def post(path, name, body, session, compressed):
    headers = {"Content-Type": "application/json", "X-Request-ID": name}
    if session:
        headers["Authorization"] = "Session " + base64.b64encode(session.encode()).decode()
    if compressed:
        headers.update({"Content-Encoding": "gzip", "Accept-Encoding": "gzip"})
        body = gzip.compress(body)
    if not hasattr(local, "connection"):
        local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    local.connection.request("POST", path, body, headers)
    response = local.connection.getresponse()
    text = response.read()
    if response.headers.get("Content-Encoding") == "gzip":
        text = gzip.decompress(text)
    return response.status, text


def call(name, method, *parameters, session=None, compressed=False):
    body = json.dumps({"id": 1, "method": method, "params": parameters}).encode()
    status, text = post(path, name, body, session, compressed)
    if status != 200:
        sys.exit("error: %s: %d %s" % (method, status, text[:200]))
    return json.loads(text)


def login(name):
    answer = call(name, "common.db.login", "admin", {"password": "admin"})
    user, token, *_ = answer["result"]
    return "admin:%d:%s" % (user, token)


def ask(session, numbers):
    for number in numbers:
        name, user, failed = "ask-%d" % number, "admin", False
        kind = number % 5
        if kind == 0:
            method = "model.ir.model.field.search_read"
            domain = [["name", "ilike", "%a%"]]
            answer = call(name, method, domain, 0, 200, [["name", "ASC"]], ["name"], {}, session=session, compressed=True)
        elif kind == 1:
            method = "model.res.user.get_preferences"
            answer = call(name, method, True, {}, session=session)
        elif kind == 2:
            method, failed = "model.res.group.create", True
            answer = call(name, method, [{}], {}, session=session, compressed=number % 2 == 0)
        elif kind == 3:
            method, user = "common.db.login", "-"
            answer = call(name, method, "admin", {"password": "admin"})
        else:
            method = "model.ir.model.search_count"
            answer = call(name, method, [["id", ">", 0]], {}, session=session)
        if ("error" in answer) != failed or (failed and ERROR not in str(answer["error"]) and "Validation" not in str(answer["error"])):
            sys.exit("error: %s: %s" % (method, str(answer)[:300]))
        with lock:
            print(name, method, user, "failed" if failed else "-", sep="\t")


body = json.dumps({"id": 0, "method": "common.db.login", "params": ["admin", {"password": "admin"}]}).encode()
path = next(path for path in PATHS if post(path, "probe", body, None, False)[0] == 200)
session = login("login")
if "held" in sys.argv[3:]:
    print("ready", flush=True)
    sys.stdin.readline()
workers = [threading.Thread(target=ask, args=(session, range(first, count, 4))) for first in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
