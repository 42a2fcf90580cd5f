"""Truth: the lines that end in `# slot N` burn the time that slot N tells, whichever frame is the innermost; no other
line of these functions burns anything to speak of. Where several lines have one slot, it is theirs together. Slot 3
holds the sum of slots 4 to 8.

`calls` waits in its callee on each of its lines; `loops` burns in its own bytecode, and at slot 8 in C. The lines of
frames of `main` are those of the two calls."""
import zlib

from oracle import MS, UNITS, account, clock, jitter

block = bytes(range(256)) * 4096


def inner(slot, quota):
    began = before = clock()
    while before - began < quota:
        x = 1
        while x < 2500: x += 1
        now = clock()
        account[slot] += now - before
        account[UNITS] += 1
        before = now
    return 1


def calls():
    inner(0, jitter(6 * MS))  # slot 0
    total = max(
        inner(1, jitter(9 * MS)),  # slot 1
        2,
    )
    if total: return [total, inner(2, jitter(3 * MS))]  # slot 2


def spent(slot, since):
    now = clock()
    account[slot] += now - since
    account[3] += now - since
    return clock()


def loops():
    before, x, rounds = clock(), 0, jitter(100000)
    while x < rounds: x += 1  # slot 4
    before, x = spent(4, before), 0
    for _ in range(rounds): x = x * 31 & 65535  # slot 5
    before, x = spent(5, before), 0
    while x < rounds: x = (  # slot 6
        x  # slot 6
        + 1)  # slot 6
    before, x, y = spent(6, before), 0, [0]
    while x < rounds: x += 1; y[0] = x  # slot 7
    before, x = spent(7, before), 0
    while x < 20: x += 1; zlib.crc32(block)  # slot 8
    spent(8, before)


def main():
    while True:
        calls()
        loops()


main()
