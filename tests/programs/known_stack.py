"""Main sleeps below frames of every kind, one thread sleeps, one spins and so holds the GIL.

Prints one line of JSON that tells all of this, and lasts at most five minutes. Runs on 3.7 and later:

    python3 tests/programs/known_stack.py
"""
import json
import os
import sys
import threading
import time


def wait(asleep):
    asleep.set(); time.sleep(300)


def spin():
    others = {"été", "wait"}
    while not others <= {frame.f_code.co_name for frame in sys._current_frames().values()}:
        time.sleep(0.05)
    # Now they are on the line of their last call, if not in it.
    time.sleep(0.3)
    tell()
    while True:
        pass


class Server:
    def handle(self):
        # From C, through `sorted`, into the lambda.
        return [row for row in sorted([3], key=lambda key: self.rows(key))]

    def rows(self, key):
        # From C, through `sum`, into the generator.
        return sum(self.generate(key))

    def generate(self, key):
        yield far(lambda: été(key))


# A line far from its function's first, further than a line table says at once.
exec(compile("def far(call):\n" + "\n" * 300 + "    return call()\n", "/srv/füŕ.py", "exec"))


def été(key):
    asleep = threading.Event()
    threading.Thread(target=wait, args=(asleep,), daemon=True).start()
    asleep.wait()
    spinner = threading.Thread(target=spin, daemon=True)
    spinner.start(); time.sleep(300)


def told(frame):
    """Leaf first: name, file, line, first line, hash of the plain name."""
    frames = []
    while frame:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        frames.append([name, code.co_filename, frame.f_lineno, code.co_firstlineno, hash(code.co_name)])
        frame = frame.f_back
    return frames


def second_interpreter():
    """Makes another interpreter beside the main one, where that is easy; tells how many there are."""
    global second  # It is gone with its last reference.
    try:
        if sys.version_info >= (3, 13):
            import _interpreters as interpreters
        else:
            import _xxsubinterpreters as interpreters
        second = interpreters.create()
        return 2
    except ImportError:
        return 1


def tell():
    interpreters = second_interpreter()
    own = threading.get_ident()
    threads = [[ident, told(frame.f_back if ident == own else frame)]
               for ident, frame in sys._current_frames().items()]
    print(json.dumps({"threads": threads, "main": threading.main_thread().ident, "spinner": own,
                      "interpreters": interpreters, "version": sys.version_info[:3]}), flush=True)


Server().handle()
os._exit(0)
