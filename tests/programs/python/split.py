"""Truth: leaf_60, leaf_30 and leaf_10 burn 60, 30 and 10 % of the CPU time (slots 0 to 2), each under
argv[1] (60 when absent) frames of `recurse` under `main`."""
import sys

from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell


def leaf_60():
    tell(0)
    began = before = clock()
    quota = jitter(12 * MS)
    while before - began < quota:
        x = 1
        for _ in ROUNDS:
            x = x * 31 & 65535
        now = clock()
        account[0] += now - before
        account[UNITS] += 1
        before = now


def leaf_30():
    tell(1)
    began = before = clock()
    quota = jitter(6 * MS)
    while before - began < quota:
        x = 1
        for _ in ROUNDS:
            x = x * 31 & 65535
        now = clock()
        account[1] += now - before
        account[UNITS] += 1
        before = now


def leaf_10():
    tell(2)
    began = before = clock()
    quota = jitter(2 * MS)
    while before - began < quota:
        x = 1
        for _ in ROUNDS:
            x = x * 31 & 65535
        now = clock()
        account[2] += now - before
        account[UNITS] += 1
        before = now


def recurse(depth, leaf):
    if depth > 1:
        recurse(depth - 1, leaf)
    else:
        leaf()


def main():
    depth = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    sys.setrecursionlimit(depth + 1000)
    while True:
        recurse(depth, leaf_60)
        recurse(depth, leaf_30)
        recurse(depth, leaf_10)


main()
