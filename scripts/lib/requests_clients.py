"""The users of the application of scripts/try-requests: each asks for one path after another.

usage: requests_clients.py PORT SECONDS
"""

import base64
import http.client
import sys
import threading
import time

USERS = {"alice": ["/quick", "/report"], "bob": ["/order"], "carol": ["/quick", "/order"]}


def use(port, user, paths, until):
    credentials = base64.b64encode(f"{user}:not-a-secret".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while time.monotonic() < until:
        for path in paths:
            connection.request("GET", path, headers={"Authorization": f"Basic {credentials}"})
            connection.getresponse().read()
        time.sleep(0.05)
    connection.close()


if __name__ == "__main__":
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=use, args=(port, *user, until)) for user in USERS.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
