"""Truth: threads burn, each in a function of its own, under names that `threading` knows:

plain           "plain"                  a Thread
derived         "größer; 日本" TAB "x"    of a derived class, with a dict of many attributes
early           "early", from SIGUSR1 on "renamed while running"
born            "born late"              started by SIGUSR1
main            "MainThread"             the main thread

With `brief` as argv[1] the main thread starts one thread after the other instead, each for half a second, called
`even N` or `odd N`, burning in `even` or `odd`: the C library gives each the memory of the one before it.
"""
import signal
import sys
import threading
import time

from oracle import ROUNDS, account, clock


def burn(slot, seconds=1e9):
    before, end = clock(), time.monotonic() + seconds
    while time.monotonic() < end:
        x = 1
        for _ in ROUNDS:
            x = x * 31 & 65535
        now = clock()
        account[slot] += now - before
        before = now


def plain():
    burn(4)


def early():
    burn(5)


def born():
    burn(6)


def even():
    burn(1, 0.5)


def odd():
    burn(2, 0.5)


class Derived(threading.Thread):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        for number in range(60):
            setattr(self, "attribute_%d" % number, number)

    def run(self):
        self.derived()

    def derived(self):
        burn(7)


def main():
    threads = [
        threading.Thread(target=plain, name="plain", daemon=True),
        threading.Thread(target=early, name="early", daemon=True),
        Derived(name="größer; 日本\tx", daemon=True),
    ]

    def change(*_):
        threads[1].name = "renamed while running"
        threading.Thread(target=born, name="born late", daemon=True).start()

    signal.signal(signal.SIGUSR1, change)
    for thread in threads:
        thread.start()
    burn(0)


def brief():
    for number in range(1000):
        function = odd if number % 2 else even
        thread = threading.Thread(target=function, name="%s %d" % (function.__name__, number))
        thread.start()
        thread.join()


brief() if sys.argv[1:] == ["brief"] else main()
