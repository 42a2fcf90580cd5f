"""The other half of replace.py: differs from it in names, lines and depth."""
import os
import sys

from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell


def second():
    tell(1)
    began, quota, before, x = clock(), jitter(200 * MS), clock(), 1
    while before - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
        now = clock()
        account[1] += now - before
        account[UNITS] += 1
        before = now


def between():
    second()


def main():
    between()
    other = os.path.join(os.path.dirname(os.path.abspath(__file__)), "replace.py")
    os.execv(sys.executable, [sys.executable, other])


main()
