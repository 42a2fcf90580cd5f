"""Truth: children that live for some 20 ms, one at a time, without exec: those of multiprocessing burn under
`worked` (slot 0), those of os.fork under `forked` (slot 1); the parent waits."""
import multiprocessing
import os

from oracle import MS, ROUNDS, UNITS, account, clock, jitter, tell


def worked():
    burn(0)


def forked():
    burn(1)


def burn(slot):
    tell(slot)
    began, quota, x = clock(), jitter(20 * MS), 1
    while clock() - began < quota:
        for _ in ROUNDS:
            x = x * 31 & 65535
    account[slot] += clock() - began
    account[UNITS] += 1


def by_multiprocessing(context):
    process = context.Process(target=worked)
    process.start()
    process.join()


def by_fork():
    pid = os.fork()
    if pid == 0:
        try:
            forked()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def main():
    context = multiprocessing.get_context("fork")
    while True:
        by_multiprocessing(context)
        by_fork()


main()
