"""The account and the truth that Python targets keep, as ../oracle.h tells for those in C.

account[slot] is the thread CPU time burnt in that leaf, in nanoseconds; UNITS counts units of work.
Slots 0 to 3 add up to all that is burnt; a program with more leaves keeps their sum in one of these
and each leaf's own from slot 4 on. A slot has one writer at a time: nothing is atomic here.

Beside the account, in $ORACLE.chains, stands the truth about frames, told by the interpreter itself:
a line `slot<TAB>frame;frame;...` for each leaf, root first, a frame being `qualified.name (file)`, before
3.11 `name (file)`; `{libz}` says that here a native frame of a module of this name must be seen.

Runs on 3.8 to 3.14 with the standard library alone.
"""
import mmap
import os
import random
import signal
import sys
import time

UNITS = 15
MS = 1000000
# About 100 us of `for _ in ROUNDS: x = x * 31 & 65535`: reading the clock is 0.5 % of it.
ROUNDS = range(2500)

clock = time.thread_time_ns
chains_path = os.environ.get("ORACLE", os.devnull + "/") + ".chains"
told = set()


def open_account():
    path = os.environ.get("ORACLE")
    if path:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(fd, 128)
    else:
        fd = -1
    seconds = int(os.environ.get("ORACLE_SECONDS", "300"))
    # What is left from before an exec stays.
    signal.alarm(signal.alarm(seconds) or seconds)
    return memoryview(mmap.mmap(fd, 128)).cast("Q")


account = open_account()


def jitter(quota_ns):
    """quota_ns, give or take a quarter, lest the work beat with the sampling."""
    return quota_ns * 3 // 4 + random.randrange(quota_ns // 2)


def tell(slot, *native, skip=0):
    """Writes down how the caller was called, once per slot, or how its skip-th caller was. Each of `native` is (the
    function, its native modules in order, each a name or None where there is no such file)."""
    if slot in told:
        return
    told.add(slot)
    words, frame = [], sys._getframe(1 + skip)
    while frame:
        code = frame.f_code
        own = ["{%s}" % name for caller, names in native if caller == code.co_name for name in names if name]
        name = getattr(code, "co_qualname", code.co_name)
        words[:0] = ["%s (%s)" % (name, os.path.basename(code.co_filename)), *own]
        frame = frame.f_back
    # Children tell it again; once is enough.
    written = os.path.getsize(chains_path) if os.path.exists(chains_path) else 0
    if written < 1 << 16 and os.path.isdir(os.path.dirname(chains_path)):
        line = "%d\t%s\n" % (slot, ";".join(words))
        fd = os.open(chains_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(fd, line.encode())
        os.close(fd)


def file_of(module):
    """The module's name if it is a file of its own, None if it is part of the interpreter."""
    return module.__name__ if getattr(module, "__file__", "").endswith(".so") else None
