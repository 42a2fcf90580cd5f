"""Truth: `leaf` (slot 0) runs under argv[1] (900) frames of `down` under `main`; with argv[2] `mixed`, each call goes
through C (`map`), which makes an evaluation loop of its own for each frame."""
import sys

from oracle import MS, ROUNDS, UNITS, account, clock, tell


def leaf():
    tell(0)
    began = before = clock()
    while before - began < 20 * MS:
        x = 1
        for _ in ROUNDS:
            x = x * 31 & 65535
        now = clock()
        account[0] += now - before
        account[UNITS] += 1
        before = now


def down(depth):
    if depth > 1:
        down(depth - 1)
    else:
        leaf()


def down_mixed(depth):
    if depth > 1:
        for _ in map(down_mixed, (depth - 1,)):
            pass
    else:
        leaf()


def main():
    depth = int(sys.argv[1]) if len(sys.argv) > 1 else 900
    sys.setrecursionlimit(max(1000, depth + 50))
    while True:
        if sys.argv[2:] == ["mixed"]:
            down_mixed(depth)
        else:
            down(depth)


main()
