"""Truth: as many threads as the first argument says want the interpreter's lock all the time, each computing in a
function of its own, `hold_0` and so on, in a thread of that name; nothing else waits for anything."""
import sys
import threading

from oracle import MS, ROUNDS, UNITS, account, clock

SOURCE = """
def hold_{0}():
    while True:
        began, x = clock(), 1
        while clock() - began < 10 * MS:
            for _ in ROUNDS:
                x = x * 31 & 65535
        account[{0}] += clock() - began
        account[UNITS] += 1
"""


def main():
    names = dict(MS=MS, ROUNDS=ROUNDS, UNITS=UNITS, account=account, clock=clock)
    for number in range(int(sys.argv[1])):
        exec(compile(SOURCE.format(number), "holders.py", "exec"), names)
        name = "hold_%d" % number
        threading.Thread(target=names[name], name=name, daemon=True).start()
    threading.Event().wait()


main()
