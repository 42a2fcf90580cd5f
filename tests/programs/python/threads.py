"""Truth: threads called `burner with a long name 0` and so on burn in `burn` (slots 0, 1; argv[2], one, of them) beside
argv[1] (128) threads called `sleeper N` that wake for a moment once a second (slot 2: their start and their waking).
Units: the first burner's rounds."""
import sys
import threading
import time

from oracle import ROUNDS, UNITS, account, clock, tell

rested = threading.Lock()


def burn(slot):
    tell(slot)
    before = clock()
    while True:
        x = 1
        for _ in ROUNDS:
            x = x * 31 & 65535
        now = clock()
        account[slot] += now - before
        if slot == 0:
            account[UNITS] += 1
        before = now


def deeper(depth, slot):
    if depth > 1:
        deeper(depth - 1, slot)
    else:
        burn(slot)


def rest():
    before = 0
    while True:
        time.sleep(1)
        now = clock()
        with rested:
            account[2] += now - before
        before = now


def main():
    sleepers = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    burners = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    depth = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    threads = [threading.Thread(target=rest, name="sleeper %d" % n) for n in range(sleepers)]
    threads += [threading.Thread(target=deeper, args=(depth, n), name="burner with a long name %d" % n) for n in range(burners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
