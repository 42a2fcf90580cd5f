"""Truth: three greenlets switch to one another all the time, from different depths: `first` burns in `leaf` (slot 0),
`second` in a key function that `sorted` calls (slot 1), and the thread's own stack in `between` (slot 2); see
../python/oracle.py, which must be on the path."""
import greenlet

from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell


def leaf():
    tell(0)
    began, quota, x = clock(), jitter(MS), 1
    while clock() - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
    account[0] += clock() - began
    account[UNITS] += 1


def first():
    while True:
        leaf()
        two.switch()


def key(value):
    tell(1)
    began, quota, x = clock(), jitter(MS), 1
    while clock() - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
    account[1] += clock() - began
    return value


def second():
    while True:
        sorted([1], key=key)
        main.switch()


def between():
    tell(2)
    began, quota, x = clock(), jitter(MS), 1
    while clock() - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
    account[2] += clock() - began


def turns():
    while True:
        between()
        one.switch()


def deeper(depth):
    deeper(depth - 1) if depth else turns()


main = greenlet.getcurrent()
one, two = greenlet.greenlet(first), greenlet.greenlet(second)
deeper(3)
