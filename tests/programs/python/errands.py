"""Truth: the request for /N works in a thread of a pool, in the function `work_N` alone: it burns 6 ms of CPU time in four pieces,
and sleeps some 5 ms behind each. What works is written down as task_app.py tells. /quick answers at once. Coroutines give the work
by whatever `give` they bring."""
import os
import random
import threading
import time

PIECES, PIECE_NS = 4, 1_500_000
log = os.open(
    os.path.join(os.path.dirname(os.environ["ORACLE"]), "requests"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
)
cpu = time.thread_time_ns
TEXT = """
def work_%d():
    burnt = 0
    for _ in range(PIECES):
        began, x = cpu(), 1
        while cpu() - began < PIECE_NS:
            for _ in range(50):
                x = x * 31 & 65535
        burnt += cpu() - began
        time.sleep(random.uniform(0.003, 0.007))
    return burnt
"""
for number in range(100):
    exec(TEXT % number)
WORK = {"/%d" % number: globals()["work_%d" % number] for number in range(100)}


def noted(path, number):
    """Works for `path`, written down under `number`: what is to be called by the pool. The body."""
    began, work = time.monotonic_ns(), WORK.get(path)
    burnt = work() if work else 0
    if number:
        line = "%s %d %d %d %d\n" % (number, threading.get_native_id(), began, time.monotonic_ns(), burnt)
        os.write(log, line.encode())
    return b"%d\n" % burnt
