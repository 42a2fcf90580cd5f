"""Truth: no stack ever mixes a1, a2, a3 with b1, b2, b3, and none has a3 without a2 or a2 without a1, though the
two chains alternate some five million times a second. Slot 0: all that is burnt; units: rounds of both."""
from oracle import UNITS, account, clock


def a3():
    pass


def a2():
    a3()


def a1():
    a2()


def b3():
    pass


def b2():
    b3()


def b1():
    b2()


def main():
    before = clock()
    while True:
        for _ in range(200):
            a1()
            b1()
        now = clock()
        account[0] += now - before
        account[UNITS] += 200
        before = now


main()
