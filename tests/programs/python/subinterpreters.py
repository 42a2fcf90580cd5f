"""Truth: `leaf (<string>)` under `outer (<string>)` burns in an interpreter of its own (slot 1 is the time spent there, by
the main interpreter's clock), called by `by_interpreter`; `own_leaf` burns in the main interpreter (slot 0). With
argv[1] `thread` the other interpreter runs in a second thread. Ends with exit code 77 where this Python has none."""
import sys
import threading
import time

from oracle import MS, ROUNDS, UNITS, account, clock, tell

CODE = """
import time

def leaf():
    x = 1
    for _ in range(150000):
        x = x * 31 & 65535

def outer():
    leaf()

outer()
time.sleep(0.001)
"""


def runner():
    """A function that runs code in another interpreter, or None."""
    try:
        from concurrent import interpreters

        return interpreters.create().exec
    except ImportError:
        pass
    try:
        import _interpreters as raw

        new = raw.create()
        return lambda code: raw.run_string(new, code)
    except ImportError:
        pass
    try:
        import _xxsubinterpreters as raw

        new = raw.create()
        return lambda code: raw.run_string(new, code)
    except ImportError:
        return None


def own_leaf():
    tell(0)
    began, x = clock(), 1
    for _ in range(150000):
        x = x * 31 & 65535
    account[0] += clock() - began
    account[UNITS] += 1


def by_interpreter(run):
    began = clock()
    run(CODE)
    account[1] += clock() - began


def other_thread():
    run = runner()
    while True:
        by_interpreter(run)


def main():
    run = runner()
    if not run:
        sys.exit(77)
    if sys.argv[1:] == ["thread"]:
        threading.Thread(target=other_thread, name="other interpreter").start()
        while True:
            own_leaf()
            # From 3.9 to 3.11 interpreters do not ask one another for the GIL.
            time.sleep(0.001)
    while True:
        own_leaf()
        by_interpreter(run)


main()
